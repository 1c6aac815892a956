"""Writes plain values as TOML, the format of every file people read; the standard library only reads it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence


def to_toml(values: Mapping[str, object]) -> str:
    """TOML of a mapping of strings, numbers, booleans, lists and mappings; None must have been left out.

    Raises
    ------
    TypeError
        If a value has no form in TOML.
    """
    return "\n".join(_table(values, ())).lstrip("\n") + "\n"


def _table(values: Mapping[str, object], path: tuple[str, ...]) -> list[str]:
    """Lines of one table: its own values first, then its tables, as TOML demands."""
    lines = [f"{key} = {_value(value)}" for key, value in values.items() if not _is_table(value)]
    for key, value in values.items():
        name = (*path, key)
        if isinstance(value, Mapping):
            lines += ["", f"[{'.'.join(name)}]", *_table(value, name)]
        elif _is_table(value):
            assert isinstance(value, Sequence)
            for item in value:
                lines += ["", f"[[{'.'.join(name)}]]", *_table(item, name)]
    return lines


def _is_table(value: object) -> bool:
    if isinstance(value, Mapping):
        return True
    return isinstance(value, (list, tuple)) and bool(value) and all(isinstance(item, Mapping) for item in value)


def _value(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, str):  # a JSON string is a TOML basic string, save for DEL, which nobody types
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_value(item) for item in value)}]"
    raise TypeError(f"{type(value).__name__} has no form in TOML")

"""Reads a bundle's configuration (JSON or YAML) lazily: only what is asked for is resolved, the rest never looked at.

Called by `training.importing.monai`. Real bundles carry expressions that list files, choose devices and drive the
evaluation; they do not concern the import and are not read. What is asked for resolves to plain values and to
`Component`s, which say what should be made; making it is for `training.importing.network` and `preprocessing`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from training.importing.bundle import ImportRefused
from training.importing.expressions import Component, evaluated

_SEPARATOR = re.compile(r"::|#")
_MAX_DEPTH = 60
_MAX_ENTRIES = 50_000  # a YAML file can name one list in itself again and again
_KEPT = ("_target_", "_disabled_", "_desc_", "_requires_", "_mode_")


def read_config(name: str, data: bytes) -> Config:
    """The configuration in a JSON or YAML file.

    Raises
    ------
    ImportRefused
        If it is neither, or not a table.
    """
    try:
        text = data.decode("utf-8")
        raw = json.loads(text) if name.endswith(".json") else _yaml(text)
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise ImportRefused(f"{name}: cannot be read: {error}") from error
    if not isinstance(raw, dict):
        raise ImportRefused(f"{name}: holds no table")
    return Config(name, raw)


def _yaml(text: str) -> object:
    import yaml  # type: ignore[import-untyped]

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


class Config:
    """The entries of a configuration, resolved when asked for.

    Parameters
    ----------
    name : str
        Of the file, for refusals.
    raw : mapping
        As the file has it.
    """

    def __init__(self, name: str, raw: Mapping[str, object]) -> None:
        self._name = name
        self._raw = raw
        self._under_way: list[str] = []
        self._entries = 0

    def __contains__(self, key: str) -> bool:
        return key in self._raw

    def value(self, reference: str) -> object:
        """What an entry resolves to: plain values, lists, tables and `Component`s.

        Parameters
        ----------
        reference : str
            Keys and positions joined by ``::`` (or ``#``, as older bundles have it).

        Raises
        ------
        ImportRefused
            If there is no such entry, it refers to itself, or holds an expression that is not read.
        """
        path = _SEPARATOR.sub("::", reference)
        if path in self._under_way or len(self._under_way) > _MAX_DEPTH:
            raise ImportRefused(
                f"{self._name}: {' -> '.join([*self._under_way, path])} refer to each other in a circle"
            )
        self._under_way.append(path)
        try:
            return self._resolved(self._entry(path), f"{self._name}: {path}")
        finally:
            self._under_way.pop()

    def _entry(self, path: str) -> object:
        found: object = self._raw
        for part in path.split("::"):
            if isinstance(found, Mapping) and part in found:
                found = found[part]
            elif isinstance(found, list) and part.isdecimal() and int(part) < len(found):
                found = found[int(part)]
            else:
                raise ImportRefused(f"{self._name}: there is no {path}")
        return found

    def _resolved(self, raw: object, place: str, depth: int = 0) -> object:
        self._entries += 1
        if depth > _MAX_DEPTH or self._entries > _MAX_ENTRIES:
            raise ImportRefused(f"{place}: nested too deeply, or too long")
        if isinstance(raw, str):
            return self._text(raw, place)
        if isinstance(raw, list):
            return [self._resolved(item, f"{place}::{index}", depth + 1) for index, item in enumerate(raw)]
        if isinstance(raw, Mapping):
            return self._table(raw, place, depth)
        return raw

    def _text(self, raw: str, place: str) -> object:
        if raw.startswith("$"):
            return evaluated(raw[1:], place, self.value)
        if raw.startswith("@"):
            return self.value(raw[1:])
        if raw.startswith("%"):
            raise ImportRefused(
                f"{place}: {raw!r} takes text from another place or file, which is not read: copy it there"
            )
        return raw

    def _table(self, raw: Mapping[object, object], place: str, depth: int) -> object:
        if "_target_" not in raw:
            return {str(key): self._resolved(value, f"{place}::{key}", depth + 1) for key, value in raw.items()}
        if raw.get("_mode_", "default") != "default":
            raise ImportRefused(f"{place}: _mode_ {raw['_mode_']!r} is not read")
        target = raw["_target_"]
        if not isinstance(target, str) or not re.fullmatch(r"[A-Za-z_][A-Za-z_0-9.]*", target):
            raise ImportRefused(f"{place}: _target_ {target!r} is no name")
        disabled = self._resolved(raw.get("_disabled_", False), f"{place}::_disabled_", depth + 1)
        if disabled is True or str(disabled).lower() == "true":
            return None
        arguments = {
            str(key): self._resolved(value, f"{place}::{key}", depth + 1)
            for key, value in raw.items()
            if key not in _KEPT
        }
        return Component(target=target, arguments=arguments, place=place)

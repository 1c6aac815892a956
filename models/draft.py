"""Drafts of cards for models that others made: what is known is filled in, what a person must say is left blank.

Used by `radnode models inspect` and `radnode models import`. A blank is an empty string, which `read_card` refuses with
the name of the field: a draft is no card until somebody has said what the model finds, for whom, at which threshold.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence

UNKNOWN_DIGEST = "0" * 64

_HINTS = {
    "identity.title": "the name that people see",
    "identity.description": "what it is, in a sentence",
    "identity.manufacturer": "who answers for the model",
    "identity.licence": "of the weights",
    "labels.title": "the finding as the report names it",
    "labels.finding": "SNOMED CT code of the finding",
    "labels.site": "SNOMED CT code of the anatomical site",
    "labels.lesion": "how the threshold was chosen, and on what data; set it before you trust it",
    "labels.picture": "how the threshold was chosen, and on what data; set it before you trust it",
    "intended_use.modalities": 'for example ["DX", "CR"]',
    "intended_use.statement": "for which studies and patients it was made",
    "training.description": "what it was trained on",
    "training.licence": "of the training data",
    "training.citation": "where it is described",
    "training.manifest_sha256": "digest of the list of training files; zeros where nobody has one",
    "evaluation.method": "how and on whom it was evaluated, or that it was not",
    "evaluation.command": "the command that repeats the evaluation",
    "limits": "what it cannot do; printed where people decide",
}
_NEVER_EMPTY = frozenset({"intended_use.modalities", "labels", "limits"})
_HEAD = """# Draft of a model card. Every empty "" is for you to fill in; `radnode check` names those that are left.
# All keys are described in docs/schemas/card.schema.json.
"""
_BARE = re.compile(r"[A-Za-z0-9_-]+")


def draft_card(
    *,
    name: str,
    version: str,
    weights: Mapping[str, object],
    model_input: Mapping[str, object],
    output: Mapping[str, object],
    labels: Sequence[tuple[str, int | None]],
    marks: bool,
    known: Mapping[str, object] | None = None,
) -> dict[str, object]:
    """A card with blanks.

    Parameters
    ----------
    weights : mapping
        runtime, file and sha256.
    labels : sequence of (key, index)
        What the network tells apart, with its class or channel; None for the place in the list.
    marks : bool
        Whether the network marks places (lesions) or speaks of pictures only.
    known : mapping, optional
        Parts of a card that are laid over the draft; labels are matched by their keys.
    """
    point = "lesion" if marks else "picture"
    draft: dict[str, object] = {
        "limits": [_text()],
        "identity": {
            "name": name, "version": version, "title": _text(), "description": _text(), "manufacturer": "",
            "licence": "", "use": "demonstration",
        },
        "weights": [dict(weights)],
        "input": dict(model_input),
        "output": dict(output),
        "labels": [_label(key, index, point) for key, index in labels],
        "intended_use": {
            "modalities": [], "body_parts": [], "accept_unknown_body_part": False, "accept_unknown_view": False,
            "statement": _text(),
        },
        "training": {
            "description": "", "licence": "", "citation": "", "films": 0, "patients": 0,
            "manifest_sha256": UNKNOWN_DIGEST,
        },
        "evaluation": {"method": "", "command": ""},
    }  # fmt: skip
    return laid_over(draft, known or {})


def laid_over(card: Mapping[str, object], known: Mapping[str, object]) -> dict[str, object]:
    """`card` with what `known` says; tables are merged, labels by their keys, all else replaced."""
    made = dict(card)
    for key, value in known.items():
        there = made.get(key)
        if isinstance(there, Mapping) and isinstance(value, Mapping):
            made[key] = laid_over(there, value)
        elif key == "labels" and isinstance(there, list) and isinstance(value, list):
            made[key] = _labels_laid_over(there, value)
        else:
            made[key] = value
    return made


def blanks(card: Mapping[str, object]) -> tuple[str, ...]:
    """Names of what is left to fill in, in the order of the card."""
    return tuple(_blanks(card, ""))


def to_card_toml(card: Mapping[str, object]) -> str:
    """The draft as a card file, with a hint beside each blank."""
    lines = [_HEAD.rstrip()]
    for key, value in card.items():
        if isinstance(value, Mapping):
            lines += ["", f"[{key}]", *_lines(value, key)]
        elif isinstance(value, list) and value and isinstance(value[0], Mapping) and key != "limits":
            for item in value:
                lines += ["", f"[[{key}]]", *_lines(item, key)]
        else:
            lines += ["", _line(key, value, key)]
    return "\n".join(lines) + "\n"


def _text() -> dict[str, str]:
    return {"en": "", "ru": ""}


def _label(key: str, index: int | None, point: str) -> dict[str, object]:
    code = {"value": "", "scheme": "SCT", "meaning": ""}
    label: dict[str, object] = {"key": key, "title": _text(), "finding": code, "site": dict(code)}
    if index is not None:
        label["index"] = index
    return label | {point: {"threshold": 0.5, "chosen_by": ""}}


def _labels_laid_over(labels: list[object], known: list[object]) -> list[object]:
    """Labels in the order of `known`, where it names them; a label that it does not name stays as it is."""
    by_key = {label["key"]: label for label in labels if isinstance(label, Mapping)}
    made: list[object] = []
    for label in known:
        key = label.get("key") if isinstance(label, Mapping) else None
        made.append(laid_over(by_key.pop(key), label) if isinstance(label, Mapping) and key in by_key else label)
    return made + list(by_key.values())


def _blanks(value: object, path: str) -> Iterator[str]:
    if value == "" or (value == [] and path in _NEVER_EMPTY):
        yield path
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _blanks(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _blanks(item, f"{path}.{index}")


def _lines(table: Mapping[str, object], path: str) -> list[str]:
    return [_line(key, value, f"{path}.{key}") for key, value in table.items()]


def _line(key: str, value: object, path: str) -> str:
    line = f"{_key(key)} = {as_toml(value)}"
    left = value == UNKNOWN_DIGEST or any(True for _ in _blanks(value, path))
    return f"{line} # {_HINTS[path]}" if left and path in _HINTS else line


def _key(key: str) -> str:
    return key if _BARE.fullmatch(key) else json.dumps(key, ensure_ascii=False)


def as_toml(value: object) -> str:
    """A value of a card as TOML; None, which TOML has not, is `false`."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_key(str(key))} = {as_toml(item)}" for key, item in value.items()) + " }"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(as_toml(item) for item in value) + "]"
    if value is None:
        return "false"
    return json.dumps(value, ensure_ascii=False, default=str).replace("\x7f", "\\u007f")

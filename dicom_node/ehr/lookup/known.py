"""Pieces of the context as they are found here and there, and how they become one context of a document.

A piece is a tree of names of `dicom_node.ehr.context`: ``{"patient": {"snils": "..."}}``, or in a table the column
``patient.snils``. Used by the sources of this package and by whoever asks them. Values never stand in an error.
"""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from typing import Any, Final, TypeAlias, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError

from dicom_node.ehr import snils
from dicom_node.ehr.context import Employee, Encounter, Order, Organisation, Patient

Known: TypeAlias = Mapping[str, object]
Part = TypeVar("Part")

_SECTIONS: Final[Mapping[str, type]] = {
    "patient": Patient,
    "order": Order,
    "encounter": Encounter,
    "performer": Organisation,
    "author": Employee,
    "legal_authenticator": Employee,
}


class KnownError(ValueError):
    """A piece of context has names that no context has, or values that cannot be read.

    Attributes
    ----------
    faults : tuple of str
        Field and fault, never the value.
    """

    def __init__(self, faults: tuple[str, ...]) -> None:
        super().__init__("; ".join(faults))
        self.faults = faults


@dataclass(frozen=True, kw_only=True, slots=True)
class LookupKey:
    """By what a study's context is looked for."""

    study_uid: str
    patient_id: str
    accession_number: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class DocumentContext:
    """The part of a `DocumentRequest` that is neither findings nor source; a section nobody knew is None."""

    patient: Patient
    order: Order
    encounter: Encounter | None
    performer: Organisation | None
    author: Employee | None
    legal_authenticator: Employee | None


def from_columns(row: Mapping[str, str]) -> Known:
    """A row of a table as a tree; blank cells say nothing."""
    tree: dict[str, object] = {}
    for column, text in row.items():
        if not text.strip():
            continue
        place, *names = tree, *column.split(".")
        for name in names[:-1]:
            deeper = place.setdefault(name, {})
            if not isinstance(deeper, dict):
                raise KnownError((f"{column}: also a column of its own above",))
            place = deeper
        place[names[-1]] = text.strip()
    return tree


def read_known(tree: Mapping[str, object]) -> Known:
    """Check names and read values (dates, times, codes of sex, SNILS); what is None or blank is left out.

    Raises
    ------
    KnownError
        With every fault.
    """
    faults: list[str] = []
    read: dict[str, object] = {}
    for section, value in tree.items():
        if section not in _SECTIONS:
            faults.append(f"{section}: the context has no such part")
        elif isinstance(value, Mapping):
            read[section] = _read(_SECTIONS[section], value, section, faults)
        elif value is not None:
            faults.append(f"{section}: must be a table of fields")
    if faults:
        raise KnownError(tuple(faults))
    return read


def _read(part: type, tree: Mapping[str, object], path: str, faults: list[str]) -> Known:
    hints = _hints(part)
    read: dict[str, object] = {}
    for name, value in tree.items():
        where = f"{path}.{name}"
        if name not in hints:
            faults.append(f"{where}: the context has no such field")
            continue
        inner = _without_none(hints[name])
        if value is None or (isinstance(value, str) and not value.strip()):
            continue
        if is_dataclass(inner) and isinstance(inner, type):
            if isinstance(value, Mapping):
                read[name] = _read(inner, value, where, faults)
            else:
                faults.append(f"{where}: must be a table of fields")
            continue
        try:
            read[name] = _leaf(name, value, inner)
        except snils.SnilsError as error:
            faults.append(f"{where}: {error}")
        except ValidationError as error:
            faults.append(f"{where}: {_expected(error)}")
    return read


def _leaf(name: str, value: object, kind: Any) -> object:
    """One value; a SNILS in whatever form becomes eleven digits."""
    read = _adapter(kind).validate_python(value)
    return snils.parse(read) if name == "snils" and isinstance(read, str) else read


# Both are asked for every document, and making them anew took a fifth of the time of writing one.
@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


@cache
def _hints(part: type) -> Mapping[str, Any]:
    return get_type_hints(part)


def _expected(error: ValidationError) -> str:
    """The kind of the fault alone: pydantic's message may repeat the value."""
    return f"cannot be read ({error.errors(include_input=False, include_url=False)[0]['type']})"


def _without_none(hint: Any) -> Any:
    """``X`` of ``X | None``."""
    if get_origin(hint) in (Union, types.UnionType):
        return next(one for one in get_args(hint) if one is not type(None))
    return hint


def assemble(*layers: Known) -> DocumentContext:
    """One context of pieces that `read_known` gave, each of which overrides the ones before it, field by field.

    The usual order is configuration, lookups, header of the study: what the header says of a patient is not replaced
    by what a lookup says, which is for the reconciliation of the two to judge. A field that an object cannot be
    without and nobody knew is blank, so that the writer of a document names it.
    """
    tree = merged(*layers)
    built = {name: _build(part, tree[name]) if name in tree else None for name, part in _SECTIONS.items()}
    patient = built["patient"] or _build(Patient, {})
    order = built["order"] or Order()
    context: DocumentContext = _adapter(DocumentContext).validate_python({**built, "patient": patient, "order": order})
    return context


def merged(*layers: Known) -> dict[str, Any]:
    """One piece of several, each of which overrides the ones before it, field by field."""
    tree: dict[str, Any] = {}
    for layer in layers:
        _merge(tree, layer)
    return tree


def _merge(tree: dict[str, Any], layer: Known) -> None:
    for name, value in layer.items():
        if isinstance(value, Mapping):
            deeper = tree.setdefault(name, {})
            _merge(deeper, value)
        else:
            tree[name] = value


def _build(part: type[Part], tree: Mapping[str, Any]) -> Part:
    return part(**dict(_arguments(part, tree)))


def _arguments(part: type, tree: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    hints = _hints(part)
    for one in fields(part):
        inner = _without_none(hints[one.name])
        nested = inner if is_dataclass(inner) and isinstance(inner, type) else None
        if one.name in tree:
            yield one.name, _build(nested, tree[one.name]) if nested is not None else tree[one.name]
        elif one.default is MISSING and one.default_factory is MISSING:
            yield one.name, _build(nested, {}) if nested is not None else ""

"""Whether images, order and record speak of the same person: what decides between filing a document and parking it.

Pure: called before each document is written with what the header (`ehr.header`) and the sources of context
(`ehr.lookup`) said. The rules are told to people in `docs/howto/reconciliation.md`. Values never stand in a reason.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from itertools import combinations
from typing import Final

from dicom_node.ehr import snils
from dicom_node.ehr.context import Identifier, PersonName, Sex
from dicom_node.ehr.lookup.known import Known, merged
from dicom_node.ehr.transliteration import (
    NameMatch,
    compare_names,
    in_parts,
    is_cyrillic,
    is_damaged,
    is_whole,
    without_placeholders,
)

HEADER: Final = "DICOM header"
OTHER_STUDY: Final = "header of another study under the accession number"

NAME: Final = "patient.name"
BIRTH_DATE: Final = "patient.birth_date"
SEX: Final = "patient.sex"
SNILS: Final = "patient.snils"
PATIENT_ID: Final = "patient.identifier"
ACCESSION: Final = "order.accession_number"
_NOBODY: Final = PersonName(family="", given="")
FIELDS: Final = (NAME, BIRTH_DATE, SEX, SNILS, PATIENT_ID, ACCESSION)


class Kind(StrEnum):
    """In what way a field stands against filing the document."""

    DIFFERENT = "different"  # two sources say different things
    FAMILY_DIFFERS = "family_differs"
    GIVEN_DIFFERS = "given_differs"
    PATRONYMIC_DIFFERS = "patronymic_differs"
    DAY_AND_MONTH_SWAPPED = "day_and_month_swapped"  # the same date but for the order of day and month
    WRONG_SUM = "wrong_sum"  # a SNILS that cannot be one
    CONTRADICTS_ITSELF = "contradicts_itself"  # the files of one study say different things
    TWO_PATIENTS = "two_patients"  # two studies under one accession number are of different people
    MISSING = "missing"  # without it nobody can be identified
    NOT_CONFIRMED = "not_confirmed"  # the sources that answered agree on too little
    GUESSED = "guessed"  # read in a character set that the file does not declare, and nobody else said the same


_SAID: Final = {
    Kind.DIFFERENT: "different values",
    Kind.FAMILY_DIFFERS: "different family names",
    Kind.GIVEN_DIFFERS: "different given names",
    Kind.PATRONYMIC_DIFFERS: "different patronymics",
    Kind.DAY_AND_MONTH_SWAPPED: "day and month are swapped",
    Kind.WRONG_SUM: "not a SNILS with a right check sum",
    Kind.CONTRADICTS_ITSELF: "the files of the study say different things",
    Kind.TWO_PATIENTS: "two patients under one accession number",
    Kind.MISSING: "not said in whole",
    Kind.NOT_CONFIRMED: "not confirmed by any source that answered",
    Kind.GUESSED: "in an undeclared character set, and no source says the same name",
}
_IN_IMAGES: Final = "correct the images in the archive and send them again"
_IN_ONE: Final = "correct whichever is wrong: archive, order or record"
_REMEDIES: Final = {
    Kind.WRONG_SUM: "correct the SNILS where it was written",
    Kind.CONTRADICTS_ITSELF: _IN_IMAGES,
    Kind.TWO_PATIENTS: "give each study its own accession number, or correct the patient of one",
    Kind.MISSING: f"{_IN_IMAGES}, or have the lookup say who the patient is",
    Kind.NOT_CONFIRMED: "have the lookup say name, birth date and patient identifier, or correct the images",
    Kind.GUESSED: "have the lookup say the name, or set the character set of the sending machine",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Disagreement:
    """One field that stands against filing the document.

    Attributes
    ----------
    field : str
        One of `FIELDS`, or another that `ehr.header` found contradictory.
    sources : tuple of str
        Who said it, sorted; two where two differ.
    """

    field: str
    sources: tuple[str, ...]
    kind: Kind


@dataclass(frozen=True, kw_only=True, slots=True)
class Reconciliation:
    """Whether a document may be filed under the patient of the header.

    Attributes
    ----------
    disagreements : tuple of Disagreement
        Everything that stands against it.
    compared : tuple of str
        Those of `FIELDS` that header and a source, or two sources, both said.
    unsaid : tuple of str
        The other ones.
    """

    disagreements: tuple[Disagreement, ...]
    compared: tuple[str, ...]
    unsaid: tuple[str, ...]

    @property
    def agrees(self) -> bool:
        """Whether nothing stands against it."""
        return not self.disagreements

    @property
    def reason(self) -> str:
        """One line for people: fields, who said them, and what to do; empty when all agrees."""
        if self.agrees:
            return ""
        faults = [f"{one.field} ({' and '.join(one.sources)}): {_SAID[one.kind]}" for one in self.disagreements]
        remedies = dict.fromkeys(map(_remedy, self.disagreements))
        return f"{'; '.join(faults)}. To do: {'; '.join(remedies)}; then radnode retry"


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class _Person:
    """What one source said of the patient."""

    source: str
    name: PersonName | None  # as it was written; None where that names nobody
    name_is_placeholder: bool  # something was written that names nobody
    birth_date: date | None
    sex: Sex | None
    snils: str | None  # eleven digits, or None where none was said or its sum is wrong
    snils_is_wrong: bool
    patient_id: Identifier | None
    accession: str | None

    def said(self) -> dict[str, object]:
        """The fields that say something."""
        all_of_it = (self.name, self.birth_date, self.sex, self.snils, self.patient_id, self.accession)
        return {name: value for name, value in zip(FIELDS, all_of_it, strict=True) if value is not None}


def reconcile(
    header: Known,
    said: Sequence[tuple[str, Known]],
    *,
    guessed_character_set: bool,
    others: Sequence[Known] = (),
    contradictions: Sequence[str] = (),
) -> Reconciliation:
    """Hold what header, order and record say of the patient against each other.

    Parameters
    ----------
    header : Known
        ``HeaderContext.known``.
    said : sequence of (str, Known)
        Each source's name and its answer, in any order: ``LookedUp.named_layers``.
    guessed_character_set : bool
        ``HeaderContext.guessed_character_set``.
    others : sequence of Known
        Headers of the other studies under the same accession number.
    contradictions : sequence of str
        ``HeaderContext.contradictions``.
    """
    head = _person(HEADER, header)
    sources = sorted((_person(name, known) for name, known in said), key=lambda one: one.source)
    found = {Disagreement(field=one, sources=(HEADER,), kind=Kind.CONTRADICTS_ITSELF) for one in contradictions}
    found.update(_wrong_sums([head, *sources]))
    pairs = list(combinations([head, *sources], 2))
    found.update(disagreement for one, other in pairs for disagreement in _between(one, other))
    found.update(_other_patients(head, others))
    found.update(_too_little(head, sources, guessed=guessed_character_set))
    compared = {name for one, other in pairs for name in one.said().keys() & other.said().keys()}
    return Reconciliation(
        disagreements=tuple(sorted(found, key=lambda one: (_rank(one.field), one.kind, one.sources))),
        compared=tuple(name for name in FIELDS if name in compared),
        unsaid=tuple(name for name in FIELDS if name not in compared),
    )


def settled(header: Known, said: Sequence[tuple[str, Known]]) -> Known:
    """The header as it should go into a document once it agrees with the sources.

    `assemble` lets the header override what sources say. Of one and the same person, though, the record knows better
    how the name is written: a machine's Latin letters, initials and missing patronymic give way to it, as does a sex
    that the header calls other.
    """
    people = [_person(HEADER, header), *(_person(name, known) for name, known in said)]
    named = [person for person in people if person.name is not None]
    best = max(named, key=_fullness).name if named else None
    sexes = [person.sex for person in people if person.sex is not None]
    changes: dict[str, object] = {"sex": sexes[0]} if sexes else {}
    if best is not None:
        best = without_placeholders(best)
        changes["name"] = {"family": best.family, "given": best.given, "patronymic": best.patronymic}
    return merged(header, {"patient": changes}) if changes else header


def _remedy(fault: Disagreement) -> str:
    if fault.kind is Kind.MISSING and fault.field == PATIENT_ID:
        return _IN_IMAGES  # it is by this number that everybody else would be asked
    return _REMEDIES.get(fault.kind, _IN_ONE)


def _person(source: str, known: Known) -> _Person:
    patient, order = _part(known, "patient"), _part(known, "order")
    name, number = _part(patient, "name"), _part(patient, "identifier")
    parts = {part: _text(name, part) for part in ("family", "given", "patronymic")}
    written_name = PersonName(**parts)
    names_somebody = without_placeholders(in_parts(written_name)) != _NOBODY
    born, sex, written = patient.get("birth_date"), patient.get("sex"), _text(patient, "snils")
    return _Person(
        source=source,
        name=written_name if names_somebody else None,
        name_is_placeholder=any(parts.values()) and not names_somebody,
        birth_date=born if isinstance(born, date) else None,
        sex=sex if isinstance(sex, Sex) and sex is not Sex.OTHER else None,
        snils=_snils(written),
        snils_is_wrong=bool(written) and _snils(written) is None,
        patient_id=Identifier(value=_text(number, "value"), system=_text(number, "system"))
        if _text(number, "value")
        else None,
        accession=_text(order, "accession_number") or None,
    )


def _part(known: Known, name: str) -> Known:
    value = known.get(name)
    return value if isinstance(value, Mapping) else {}


def _text(known: Known, name: str) -> str:
    value = known.get(name)
    return unicodedata.normalize("NFC", value).strip() if isinstance(value, str) else ""


def _snils(written: str) -> str | None:
    try:
        return snils.parse(written)
    except snils.SnilsError:
        return None


def _wrong_sums(people: Iterable[_Person]) -> Iterator[Disagreement]:
    for one in people:
        if one.snils_is_wrong:
            yield Disagreement(field=SNILS, sources=(one.source,), kind=Kind.WRONG_SUM)


def _between(one: _Person, other: _Person) -> Iterator[Disagreement]:
    """Where two sources say different things."""
    said, beside = one.said(), other.said()
    for name in said.keys() & beside.keys():
        kind = _COMPARE[name](said[name], beside[name])
        if kind is not None:
            yield Disagreement(field=name, sources=(one.source, other.source), kind=kind)


def _other_patients(head: _Person, others: Sequence[Known]) -> Iterator[Disagreement]:
    for known in others:
        other = _person(OTHER_STUDY, known)
        if head.accession and other.accession and head.accession != other.accession:
            continue
        for fault in _between(head, other):
            yield Disagreement(field=fault.field, sources=fault.sources, kind=Kind.TWO_PATIENTS)


def _too_little(head: _Person, sources: Sequence[_Person], *, guessed: bool) -> Iterator[Disagreement]:
    """What lacks for the patient to be known by at least two of name, birth date and number."""
    if head.patient_id is None:
        yield Disagreement(field=PATIENT_ID, sources=(HEADER,), kind=Kind.MISSING)
    witnesses = [one for one in sources if one.name is not None or one.birth_date is not None]
    confirmed = {name for one in witnesses for name in _agreed(head, one)}
    if _is_nameless([head, *sources]):
        yield Disagreement(field=NAME, sources=(HEADER,), kind=Kind.MISSING)
    if guessed and NAME not in confirmed:
        yield Disagreement(field=NAME, sources=(HEADER,), kind=Kind.GUESSED)
    if not witnesses:
        yield from _lacking_of_whole(head)
        return
    lacking = [name for name in (NAME, BIRTH_DATE) if name not in confirmed]
    lacking += [] if {PATIENT_ID, SNILS} & confirmed else [PATIENT_ID]
    if len(lacking) > 1:
        asked = tuple(sorted({HEADER, *(one.source for one in witnesses)}, key=lambda name: (name != HEADER, name)))
        yield from (Disagreement(field=name, sources=asked, kind=Kind.NOT_CONFIRMED) for name in lacking)


def _is_nameless(people: Sequence[_Person]) -> bool:
    """Whether names were written, but none under which a document may go out."""
    names = [one.name for one in people if one.name is not None]
    written = bool(names) or any(one.name_is_placeholder for one in people)
    return written and all(map(is_damaged, names))


def _agreed(head: _Person, other: _Person) -> Iterator[str]:
    """The fields in which a source says the same as the header, in whole."""
    said, beside = head.said(), other.said()
    for name in said.keys() & beside.keys():
        if name == NAME and head.name and other.name:
            if compare_names(head.name, other.name) is NameMatch.SAME:
                yield name
        elif _COMPARE[name](said[name], beside[name]) is None and _is_same_system(said[name], beside[name]):
            yield name


def _lacking_of_whole(head: _Person) -> Iterator[Disagreement]:
    """A header with which nobody was compared has to identify the patient by itself."""
    if head.name is None or not is_whole(head.name):
        yield Disagreement(field=NAME, sources=(HEADER,), kind=Kind.MISSING)
    if head.birth_date is None:
        yield Disagreement(field=BIRTH_DATE, sources=(HEADER,), kind=Kind.MISSING)


def _names(one: object, other: object) -> Kind | None:
    assert isinstance(one, PersonName) and isinstance(other, PersonName)
    return {
        NameMatch.FAMILY_DIFFERS: Kind.FAMILY_DIFFERS,
        NameMatch.GIVEN_DIFFERS: Kind.GIVEN_DIFFERS,
        NameMatch.PATRONYMIC_DIFFERS: Kind.PATRONYMIC_DIFFERS,
    }.get(compare_names(one, other))


def _dates(one: object, other: object) -> Kind | None:
    assert isinstance(one, date) and isinstance(other, date)
    if one == other:
        return None
    swapped = (one.year, one.month, one.day) == (other.year, other.day, other.month)
    return Kind.DAY_AND_MONTH_SWAPPED if swapped else Kind.DIFFERENT


def _numbers(one: object, other: object) -> Kind | None:
    """Numbers of two systems that are both named cannot be compared."""
    assert isinstance(one, Identifier) and isinstance(other, Identifier)
    return None if one.value == other.value or not _is_same_system(one, other) else Kind.DIFFERENT


def _is_same_system(one: object, other: object) -> bool:
    """Whether two identifiers may be of one system; of anything else, true."""
    if not (isinstance(one, Identifier) and isinstance(other, Identifier)):
        return True
    return not (one.system and other.system) or _oid(one.system) == _oid(other.system)


def _oid(system: str) -> str:
    return system.casefold().removeprefix("urn:oid:")


def _equal(one: object, other: object) -> Kind | None:
    return None if one == other else Kind.DIFFERENT


_COMPARE: Final[Mapping[str, Callable[[object, object], Kind | None]]] = {
    NAME: _names,
    BIRTH_DATE: _dates,
    SEX: _equal,
    SNILS: _equal,
    PATIENT_ID: _numbers,
    ACCESSION: _equal,
}


def _rank(name: str) -> int:
    return FIELDS.index(name) if name in FIELDS else len(FIELDS)


def _fullness(person: _Person) -> tuple[object, ...]:
    """Sorts who said a name: whole after partial, Cyrillic after Latin, with patronymic after without, record last."""
    name = person.name or PersonName(family="", given="")
    text = f"{name.family} {name.given} {name.patronymic}"
    return (is_whole(name), is_cyrillic(text), bool(name.patronymic), person.source != HEADER, not text.isupper(), text)

"""What the DICOM header of a study says of patient, order and images, for the documents of the record.

Called by whoever prepares documents, with the stored files of one study. Text in a character set that its sender does
not declare is noticed, and read only where it can be nothing but Cyrillic. Whether the patient is the one of order and
record is `ehr.reconciliation`; headers for results are `dicom_node.results.header`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone, tzinfo
from pathlib import Path
from typing import Any, Final, TypeVar, cast

from pydicom import Dataset
from pydicom.datadict import tag_for_keyword

from dicom_node.ehr import snils
from dicom_node.ehr.context import Identifier, PersonName, Sex, SourceSeries, SourceStudy
from dicom_node.ehr.lookup.known import Known, LookupKey
from dicom_node.ehr.transliteration import NameMatch, compare_names, in_parts, is_cyrillic, is_whole
from dicom_node.results.header import declared_sets, is_trustworthy, raw_bytes, to_utf_8
from inference.findings import SeriesUid, SopUid, StudyUid
from inference.images import LoadLimits
from inference.loading.reading import read_data_set, refusing
from inference.refusals import Reason, Refused

Value = TypeVar("Value")

_KEYWORDS: Final = """
SpecificCharacterSet SOPClassUID SOPInstanceUID StudyInstanceUID SeriesInstanceUID StudyDate StudyTime SeriesDate
SeriesTime AcquisitionDate AcquisitionTime AcquisitionDateTime ContentDate ContentTime TimezoneOffsetFromUTC
AccessionNumber Modality Manufacturer ManufacturerModelName DeviceSerialNumber InstitutionName StudyDescription
BodyPartExamined PatientName PatientID IssuerOfPatientID IssuerOfPatientIDQualifiersSequence OtherPatientIDsSequence
PatientBirthDate PatientSex RequestAttributesSequence ReferencedRequestSequence PlacerOrderNumberImagingServiceRequest
FillerOrderNumberImagingServiceRequest
"""
_TAGS: Final = tuple(cast(int, tag_for_keyword(word)) for word in _KEYWORDS.split())
_UIDS: Final = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
_UID: Final = re.compile(r"[0-9.]{1,64}", re.ASCII)
_OID: Final = re.compile(r"(?:urn:oid:)?([0-2](?:\.(?:0|[1-9][0-9]*))+)", re.ASCII)
_DATE: Final = re.compile(r"([0-9]{4})(\.?)([0-9]{2})\2([0-9]{2})", re.ASCII)  # with full stops before 1993, PS3.5 6.2
_TIME: Final = re.compile(r"([0-9]{2})(?::?([0-9]{2})(?::?([0-9]{2})(?:\.[0-9]{1,6})?)?)?", re.ASCII)
_OFFSET: Final = re.compile(r"([+-])(0[0-9]|1[0-4])([0-5][0-9])", re.ASCII)
_SNILS_ISSUERS: Final = frozenset({snils.OID, f"urn:oid:{snils.OID}", "snils", "снилс"})
_NO_PICTURES: Final = frozenset({"SR", "PR", "KO", "SEG", "DOC", "REG", "RTSTRUCT", "AU", "OT", "SC"})
_PLACEHOLDER: Final = date(1900, 1, 1)  # what programs write that cannot leave a date empty
_OLDEST_YEARS: Final = 130
_LATIN_SETS: Final = frozenset({"ISO_IR 100", "ISO_IR 101", "ISO_IR 109", "ISO_IR 110", "ISO_IR 148", "ISO_IR 203"})
_ASCII_LIMIT: Final = 0x80
_CYRILLIC_WORD: Final = re.compile(
    r"[А-ЯЁ](?:[а-яё]*|[А-ЯЁ]*)"
)  # as names are written; KOI8-R read so is cased otherwise
_WORDS: Final = re.compile(r"[\s^=.,()'\-\\]+")


class HeaderUnreadable(Exception):
    """A stored file is no DICOM object that a document could speak of. The message holds no value of it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HeaderContext:
    """The header of one study.

    Attributes
    ----------
    known : Known
        ``patient`` and ``order``, as `ehr.lookup.read_known` gives them, save that a SNILS may have a wrong sum: the
        reconciliation tells. A performer is never in it, for no header has the organisation's OID.
    source : SourceStudy
    key : LookupKey
    guessed_character_set : bool
        The patient's name or number is in no character set that the file declares, and was read as the Cyrillic that
        it can be: somebody else has to say the same.
    contradictions : tuple of str
        Fields of which the files of the study say different things; `known` has one of them.
    notes : tuple of str
        Attributes that could not be used, and why; no values.
    institution_name : str
        Institution Name (0008,0080), as a machine's installer typed it.
    """

    known: Known
    source: SourceStudy
    key: LookupKey
    guessed_character_set: bool
    contradictions: tuple[str, ...]
    notes: tuple[str, ...]
    institution_name: str


@dataclass(frozen=True, kw_only=True, slots=True)
class _Text:
    value: str
    guessed: bool = False


def read_header(files: Sequence[Path], *, zone: tzinfo | None = None) -> HeaderContext:
    """Read what the files of one study say; the order of the files does not matter.

    Parameters
    ----------
    files : sequence of pathlib.Path
        Stored part-10 files of one study, at least one.
    zone : datetime.tzinfo, optional
        Where the machines' clocks are, for files without Timezone Offset From UTC (0008,0201). Without it the time of
        such a study stays unknown: a guess would be hours wrong in most of the country, and nobody could see it.

    Raises
    ------
    HeaderUnreadable
        If a file is no DICOM object, lacks a UID, or belongs to another study than the first.
    OSError
        If a file is gone or the disk fails.
    """
    if not files:
        raise HeaderUnreadable("there is no file of the study to read its header from")
    headers = sorted((_FileHeader(path, at, len(files)) for at, path in enumerate(files, 1)), key=lambda one: one.place)
    studies = {header.uid("StudyInstanceUID") for header in headers}
    if len(studies) > 1:
        raise HeaderUnreadable(f"the {len(files)} files are of {len(studies)} studies (StudyInstanceUID)")
    try:
        return _Study(headers, zone).context()
    except Refused as refused:  # of a sequence, which is parsed when it is looked into
        raise HeaderUnreadable(f"one of the {len(files)} files: {refused}") from None


class _FileHeader:
    """One file, its attributes as text; what could not be read is noted."""

    def __init__(self, path: Path, number: int, count: int) -> None:
        try:
            self._data_set, _ = read_data_set(path, limits=LoadLimits(), pixels=False, more_tags=_TAGS)
        except Refused as refused:
            raise HeaderUnreadable(f"file {number} of {count}: {refused}") from None
        self.notes: set[str] = set()
        self._declared = declared_sets(self._data_set)
        missing = [keyword for keyword in _UIDS if not _UID.fullmatch(self.uid(keyword))]
        if missing:
            raise HeaderUnreadable(f"file {number} of {count}: no usable {', '.join(missing)}")
        self.place = (self.uid("SeriesInstanceUID"), self.uid("SOPInstanceUID"))

    def uid(self, keyword: str) -> str:
        return self.code(keyword)

    def code(self, keyword: str, item: Dataset | None = None) -> str:
        """An attribute that is ASCII whatever the character set."""
        raw = raw_bytes(self._data_set if item is None else item, keyword)
        return raw.decode("ascii", "replace").strip(" \0")

    def text(self, keyword: str, item: Dataset | None = None) -> _Text:
        """An attribute in the file's character set; empty when it cannot be read."""
        holder = self._data_set if item is None else item
        declared = (declared_sets(holder) or self._declared) if item is not None else self._declared
        read = _decoded(raw_bytes(holder, keyword), declared)
        if read is None:
            self.notes.add(f"{keyword}: not in the character set that the file declares")
            return _Text(value="")
        if read.guessed:
            self.notes.add(f"{keyword}: not in the character set that the file declares; read as Cyrillic")
        return read

    def items(self, keyword: str, item: Dataset | None = None) -> list[Dataset]:
        """The items of a sequence, none where it is missing or no sequence."""
        with refusing(Reason.UNREADABLE):
            value: Any = (self._data_set if item is None else item).get(keyword)
            return [one for one in value if isinstance(one, Dataset)] if isinstance(value, Sequence) else []

    def name(self) -> tuple[PersonName, bool] | None:
        """Patient's Name in its parts: of the group in Cyrillic, else of the first that says something."""
        read = self.text("PatientName")
        groups = [group for group in read.value.split("=") if group.strip("^ ")]
        if not groups:
            return None
        group = next((group for group in groups if is_cyrillic(group)), groups[0])
        family, given, middle = (" ".join(part.split()) for part in [*group.split("^"), "", "", ""][:3])
        return in_parts(PersonName(family=family, given=given, patronymic=middle)), read.guessed

    def patient_id(self) -> tuple[Identifier, bool] | None:
        """Patient ID with the system that gave it, where the header has an OID or URI of it."""
        read = self.text("PatientID")
        if not read.value:
            return None
        return Identifier(value=read.value, system=self._issuer_oid(None)), read.guessed

    def _issuer_oid(self, item: Dataset | None) -> str:
        for qualifier in self.items("IssuerOfPatientIDQualifiersSequence", item):
            kind, entity = self.code("UniversalEntityIDType", qualifier), self.code("UniversalEntityID", qualifier)
            found = _OID.fullmatch(entity)
            if kind == "ISO" and found:
                return found[1]
            if kind == "URI" and entity:
                return entity
        found = _OID.fullmatch(self.code("IssuerOfPatientID", item))
        return found[1] if found else ""

    def snils(self) -> str:
        """The SNILS where the header declares a number to be one: eleven digits, or as written if the sum is wrong."""
        for item in (None, *self.items("OtherPatientIDsSequence")):
            issuer = self._issuer_oid(item) or self.text("IssuerOfPatientID", item).value
            written = self.text("PatientID", item).value
            if written and issuer.casefold() in _SNILS_ISSUERS:
                try:
                    return snils.parse(written)
                except snils.SnilsError as error:
                    self.notes.add(f"patient.snils: {error}")
                    return written
        return ""

    def birth_date(self) -> date | None:
        """Patient's Birth Date, unless it is in part, no date, in the future of the study, or a placeholder."""
        written = self.code("PatientBirthDate")
        if not written:
            return None
        born, studied = _date(written), _date(self.code("StudyDate"))
        if born is None:
            self.notes.add("PatientBirthDate: not a whole date")
        elif born <= _PLACEHOLDER or (studied and not born <= studied <= _years_after(born, _OLDEST_YEARS)):
            self.notes.add("PatientBirthDate: not the birth date of a person of this study")
            born = None
        return born

    def sex(self) -> Sex | None:
        written = self.code("PatientSex")
        if written and written not in set(Sex):
            self.notes.add("PatientSex: none of M, F, O")
        return Sex(written) if written in set(Sex) else None

    def order_number(self, keyword: str) -> str:
        """A number of the order: of the study itself, else of its one request; several requests have no one number."""
        own = self.text(keyword).value
        requests = [*self.items("RequestAttributesSequence"), *self.items("ReferencedRequestSequence")]
        asked = {self.text(keyword, item).value for item in requests} - {""}
        if not own and len(asked) > 1:
            self.notes.add(f"{keyword}: several requests")
        return own or (asked.pop() if len(asked) == 1 else "")

    def performed_at(self, zone: tzinfo | None) -> datetime | None:
        """When the study, else its series, was begun; needs date and time of day, and a zone."""
        written = self.code("TimezoneOffsetFromUTC")
        there = _offset(written) or zone
        if written and _offset(written) is None:
            self.notes.add("TimezoneOffsetFromUTC: no offset")
        for what in ("Study", "Series", "Acquisition", "Content"):
            moment = _moment(self.code(f"{what}Date"), self.code(f"{what}Time"))
            if moment is not None and there is not None:
                return moment.replace(tzinfo=there)
            if moment is not None:
                self.notes.add("StudyTime: no time zone, neither TimezoneOffsetFromUTC nor in the settings")
                return None
        self.notes.add("StudyTime: no date with time of day")
        return None


class _Study:
    """The files of one study together."""

    def __init__(self, headers: Sequence[_FileHeader], zone: tzinfo | None) -> None:
        self._headers = headers
        self._zone = zone
        self._contradictions: list[str] = []

    def context(self) -> HeaderContext:
        names = [found for header in self._headers if (found := header.name())]
        name, name_guessed = min(names, key=_plainness, default=(None, False))
        if any(compare_names(name, other) not in (NameMatch.SAME, NameMatch.PARTIAL) for other, _ in names if name):
            self._contradictions.append("patient.name")
        numbers = [issued for header in self._headers if (issued := header.patient_id())]
        number = self._number([value for value, _ in numbers])
        patient = {
            "identifier": _identifier(number),
            "name": _name(name),
            "birth_date": self._one("patient.birth_date", [header.birth_date() for header in self._headers]),
            "sex": self._one("patient.sex", [header.sex() for header in self._headers]),
            "snils": self._one("patient.snils", [header.snils() for header in self._headers]),
        }
        order = self._order()
        source = self._source()
        return HeaderContext(
            known=_said({"patient": _said(patient), "order": _said(order)}),
            source=source,
            key=LookupKey(
                study_uid=source.study_uid,
                patient_id=number.value if number else "",
                accession_number=str(order["accession_number"] or ""),
            ),
            guessed_character_set=name_guessed or any(guessed for _, guessed in numbers),
            contradictions=tuple(self._contradictions),
            institution_name=self._most("InstitutionName", self._headers),
            notes=tuple(sorted({note for header in self._headers for note in header.notes})),
        )

    def _number(self, said: Sequence[Identifier]) -> Identifier | None:
        value = self._one("patient.identifier", [number.value for number in said])
        system = self._one("patient.identifier", [number.system for number in said if number.value == value])
        return Identifier(value=value, system=system or "") if value else None

    def _order(self) -> dict[str, object]:
        def number(field: str, keyword: str) -> str | None:
            return self._one(field, [header.order_number(keyword) for header in self._headers])

        placer = number("order.placer", "PlacerOrderNumberImagingServiceRequest")
        filler = number("order.filler", "FillerOrderNumberImagingServiceRequest")
        return {
            "placer": {"value": placer} if placer else None,
            "filler": {"value": filler} if filler else None,
            "accession_number": number("order.accession_number", "AccessionNumber"),
        }

    def _one(self, field: str, said: Iterable[Value | None]) -> Value | None:
        """What the files agree on; where they do not, what most say."""
        counted = Counter(value for value in said if value)
        if len(counted) > 1 and field not in self._contradictions:
            self._contradictions.append(field)
        return min(counted, key=lambda value: (-counted[value], repr(value)), default=None)

    def _source(self) -> SourceStudy:
        modality = self._modality()
        of_it = [header for header in self._headers if header.code("Modality") == modality]
        moments = [moment for header in of_it if (moment := header.performed_at(self._zone))]
        return SourceStudy(
            study_uid=StudyUid(self._headers[0].uid("StudyInstanceUID")),
            modality=modality,
            performed_at=min(moments, default=None),
            series=tuple(self._series()),
            description=self._most("StudyDescription", of_it),
            body_part=self._most("BodyPartExamined", of_it),
            manufacturer=self._most("Manufacturer", of_it),
            device_model=self._most("ManufacturerModelName", of_it),
            device_serial=self._most("DeviceSerialNumber", of_it),
        )

    def _modality(self) -> str:
        """That of most files, pictures first: a report among the files does not make the study one."""
        counted = Counter(header.code("Modality") for header in self._headers)
        return min(counted, key=lambda one: (one in _NO_PICTURES or not one, -counted[one], one))

    def _series(self) -> Iterator[SourceSeries]:
        by_uid: dict[str, list[_FileHeader]] = {}
        for header in self._headers:
            by_uid.setdefault(header.uid("SeriesInstanceUID"), []).append(header)
        for uid, headers in by_uid.items():
            yield SourceSeries(
                series_uid=SeriesUid(uid),
                modality=self._most("Modality", headers),
                images={SopUid(header.uid("SOPInstanceUID")): header.uid("SOPClassUID") for header in headers},
            )

    def _most(self, keyword: str, headers: Sequence[_FileHeader]) -> str:
        counted = Counter(text for header in headers if (text := header.text(keyword).value))
        return min(counted, key=lambda text: (-counted[text], text), default="")


def _decoded(raw: bytes, declared: tuple[str, ...]) -> _Text | None:
    """Bytes as text: as declared where that can be, as the Cyrillic they plainly are where not, else None.

    ISO 8859-5 is tried only where the file declares it too, as among the code extensions whose escape sequences many
    senders forget.
    """
    raw = raw.rstrip(b" \0")
    for codec in _plainly_cyrillic(raw, declared):
        return _Text(value=raw.decode(codec).strip(), guessed=True)
    if not is_trustworthy(raw, declared):
        return None
    return _Text(value=to_utf_8(raw, declared).decode("utf_8", "replace").strip())


def _plainly_cyrillic(raw: bytes, declared: tuple[str, ...]) -> Iterator[str]:
    if all(byte < _ASCII_LIMIT for byte in raw) or 0x1B in raw:  # noqa: PLR2004 - ESC: code extensions are at work
        return
    single = declared[0] if len(declared) == 1 else ""
    if (
        is_trustworthy(raw, declared)
        and single not in _LATIN_SETS
        and not (single == "ISO_IR 144" and not _reads_as(raw, "iso8859_5"))
    ):
        return
    if single != "ISO_IR 192" and _reads_as(raw, "utf_8"):
        yield "utf_8"
    if any("144" in one for one in declared) and _reads_as(raw, "iso8859_5"):
        yield "iso8859_5"
    if _reads_as(raw, "cp1251"):
        yield "cp1251"


def _reads_as(raw: bytes, codec: str) -> bool:
    """Whether every word that is not ASCII is a Russian word as names are written."""
    try:
        words = [word for word in _WORDS.split(raw.decode(codec)) if not word.isascii()]
    except UnicodeDecodeError:
        return False
    return bool(words) and all(map(_CYRILLIC_WORD.fullmatch, words))


def _date(text: str) -> date | None:
    found = _DATE.fullmatch(text)
    try:
        return date(int(found[1]), int(found[3]), int(found[4])) if found else None
    except ValueError:
        return None


def _years_after(day: date, years: int) -> date:
    return day.replace(year=day.year + years, day=min(day.day, 28))  # any day of the month will do


def _moment(day: str, time: str) -> datetime | None:
    found, on = _TIME.fullmatch(time), _date(day)
    if found is None or on is None:
        return None
    hour, minute, second = (int(part or 0) for part in found.groups())
    try:
        return datetime(on.year, on.month, on.day, hour, minute, second)
    except ValueError:
        return None


def _offset(text: str) -> timezone | None:
    found = _OFFSET.fullmatch(text)
    if not found:
        return None
    offset = timedelta(hours=int(found[2]), minutes=int(found[3]))
    return timezone(-offset if found[1] == "-" else offset)


def _plainness(found: tuple[PersonName, bool]) -> tuple[object, ...]:
    """Sorts names: declared before guessed, whole before partial, Cyrillic before Latin, longer before shorter."""
    name, guessed = found
    text = f"{name.family} {name.given} {name.patronymic}"
    return (guessed, not is_whole(name), not is_cyrillic(text), -len(text), text)


def _name(name: PersonName | None) -> Known:
    return _said({"family": name.family, "given": name.given, "patronymic": name.patronymic}) if name else {}


def _identifier(number: Identifier | None) -> Known:
    return _said({"value": number.value, "system": number.system}) if number else {}


def _said(fields: Known) -> dict[str, object]:
    """The fields that say something."""
    return {name: value for name, value in fields.items() if value}

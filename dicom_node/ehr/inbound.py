"""The way back: a radiologist's report as HL7 v2 ORU^R01 or FHIR DiagnosticReport, read into one small value.

Pure: called by whatever takes messages in; linking reports to studies and judging agreement is done elsewhere. Input
comes from outside and may be anything: every reader gives a value or raises `InboundError`, which names the field and
never its content. CSV is read with the truth of monitoring.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone, tzinfo
from enum import StrEnum
from typing import Any, Final

from dicom_node.ehr.fhir.elements import DICOM_UID_SYSTEM
from dicom_node.ehr.hl7v2.encoding import Hl7Error, Segment, read_segments
from inference.findings import StudyUid

MAX_BYTES: Final = 8 << 20
CONCLUSION_CODES: Final = frozenset({"19005-8"})  # LOINC: Radiology Imaging study [Impression]
_STUDY_UID_CODE: Final = "110180"  # DCM: Study Instance UID
_UID: Final = re.compile(r"^[0-2](\.(0|[1-9][0-9]*))+$")
_MAX_UID: Final = 64
_TEXT_TYPES: Final = frozenset({"TX", "FT", "ST"})
_CODED_TYPES: Final = frozenset({"CE", "CNE", "CWE"})
_MOMENT: Final = re.compile(r"^(\d{8})(\d{4})?(\d{2})?(?:\.\d{1,4})?([+-]\d{4})?$")
# HL7 table 0211 and names met in its place
_CHARSETS: Final = {
    "UNICODE UTF-8": "utf-8",
    "UTF-8": "utf-8",
    "ASCII": "ascii",
    "8859/1": "latin-1",
    "8859/5": "iso8859-5",
    "WINDOWS-1251": "cp1251",
    "CP1251": "cp1251",
}


class ReportStatus(StrEnum):
    """How far the radiologist has come."""

    PRELIMINARY = "preliminary"  # not signed: no truth yet
    FINAL = "final"  # signed
    CORRECTED = "corrected"  # signed again: this one holds
    WITHDRAWN = "withdrawn"  # taken back: no truth any more


_OBR_STATUSES: Final = dict.fromkeys("OSIAPR", ReportStatus.PRELIMINARY) | {
    "F": ReportStatus.FINAL,
    "C": ReportStatus.CORRECTED,
    "X": ReportStatus.WITHDRAWN,
}
_FHIR_STATUSES: Final = {
    "registered": ReportStatus.PRELIMINARY,
    "partial": ReportStatus.PRELIMINARY,
    "preliminary": ReportStatus.PRELIMINARY,
    "final": ReportStatus.FINAL,
    "amended": ReportStatus.CORRECTED,
    "corrected": ReportStatus.CORRECTED,
    "appended": ReportStatus.CORRECTED,
    "cancelled": ReportStatus.WITHDRAWN,
    "entered-in-error": ReportStatus.WITHDRAWN,
}
_SIGNED: Final = frozenset({ReportStatus.FINAL, ReportStatus.CORRECTED})


class InboundError(Exception):
    """A report that cannot be taken in; permanent. `field` is where, as the standard names it: ``OBR-25``."""

    def __init__(self, field: str, told: str) -> None:
        super().__init__(f"{field}: {told}")
        self.field = field


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportCode:
    """A code that stands beside the words of a conclusion.

    Attributes
    ----------
    system : str
        As the sender names it: an address (FHIR) or a name of HL7 table 0396; empty for a flag.
    value : str
    is_flag : bool
        Whether it is an abnormal flag (OBX-8, HL7 table 0078).
    """

    system: str
    value: str
    is_flag: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class RadiologistReport:
    """What a radiologist said of a study. Holds patient data: never logged.

    Attributes
    ----------
    report_id : str
        The sender's name for it (OBR-3, or the first identifier or id of the resource); may be empty.
    study_uid, accession_number
        At least one of them is known.
    patient_id : str
        Number of the patient at the sender, to be compared before anything is linked; may be empty.
    status : ReportStatus
    conclusion : str
        Lines separated by line feeds; empty when signed only where codes say what was concluded.
    signed_at : datetime or None
        Aware; when the report got its status.
    codes : tuple of ReportCode
        Codes of the conclusion, and flags of what it was said in.
    """

    report_id: str
    study_uid: StudyUid | None
    accession_number: str | None
    patient_id: str
    status: ReportStatus
    conclusion: str
    signed_at: datetime | None
    codes: tuple[ReportCode, ...] = ()


def _checked(report: RadiologistReport, *, link_field: str, conclusion_field: str) -> RadiologistReport:
    if report.study_uid is None and report.accession_number is None:
        raise InboundError(link_field, "neither a Study Instance UID nor an accession number")
    if report.status in _SIGNED and not report.conclusion and not report.codes:
        raise InboundError(conclusion_field, "a signed report without a conclusion")
    return report


def _study_uid(value: str, field: str) -> StudyUid:
    uid = value.strip().removeprefix("urn:oid:")
    if len(uid) > _MAX_UID or not _UID.match(uid):
        raise InboundError(field, "not a UID")
    return StudyUid(uid)


def _only_study(uids: Sequence[StudyUid], field: str) -> StudyUid | None:
    different = set(uids)
    if len(different) > 1:
        raise InboundError(field, "one report of several studies")
    return next(iter(different), None)


# --- HL7 v2 -----------------------------------------------------------------------------------------------------


def read_oru(
    message: bytes, *, zone: tzinfo, charset: str = "utf-8", conclusion_codes: frozenset[str] = CONCLUSION_CODES
) -> tuple[RadiologistReport, ...]:
    """Read the reports of an ORU^R01 (HL7 v2.3 to v2.8), one for each OBR.

    Parameters
    ----------
    message : bytes
        Without the MLLP frame.
    zone : datetime.tzinfo
        Of moments that carry no offset.
    charset : str
        Of a message whose MSH-18 is empty.
    conclusion_codes : frozenset of str
        OBX-3 identifiers of the conclusion; the suffix ``&IMP`` is understood too. Where no observation has one, all
        text of the report is the conclusion.

    Raises
    ------
    InboundError
        When a field is wrong or what is needed is missing.
    """
    segments = _decoded(message, charset)
    if (segments[0].value(9, 1), segments[0].value(9, 2)) != ("ORU", "R01"):
        raise InboundError("MSH-9", "not an ORU^R01")
    patient_id = next((one.value(3) for one in segments if one.name == "PID"), "")
    outside = [one for one in segments if one.name == "ZDS"]
    reports = tuple(_oru_report(group, outside, patient_id, zone, conclusion_codes) for group in _groups(segments))
    if not reports:
        raise InboundError("OBR", "the message has none")
    return reports


def _decoded(message: bytes, charset: str) -> tuple[Segment, ...]:
    if len(message) > MAX_BYTES:
        raise InboundError("message", f"larger than {MAX_BYTES} bytes")
    try:
        named = read_segments(message.split(b"\r", 1)[0].decode("latin-1"))[0].value(18).strip().upper()
        codec = _CHARSETS[named] if named else charset
        return read_segments(message.decode(codec))
    except Hl7Error:
        raise InboundError("MSH", "not the beginning of a message") from None
    except KeyError:
        raise InboundError("MSH-18", "a character set that is not known here") from None
    except UnicodeDecodeError as error:
        raise InboundError("MSH-18", f"byte {error.start} is not in this character set") from None


def _groups(segments: Sequence[Segment]) -> Iterator[list[Segment]]:
    """Each OBR with what follows it."""
    starts = [index for index, one in enumerate(segments) if one.name == "OBR"]
    for start, end in zip(starts, [*starts[1:], len(segments)], strict=False):
        yield list(segments[start:end])


def _oru_report(
    group: list[Segment], outside: list[Segment], patient_id: str, zone: tzinfo, codes: frozenset[str]
) -> RadiologistReport:
    obr, observations = group[0], [one for one in group if one.name == "OBX"]
    standing = [one for one in observations if one.value(11) not in {"D", "W", "X"}]
    status = _OBR_STATUSES.get(obr.value(25))
    if status is None:
        raise InboundError("OBR-25", "empty or not a status of HL7 table 0123")
    if observations and not standing:
        status = ReportStatus.WITHDRAWN
    uids = [_study_uid(one.value(5), "OBX-5") for one in observations if one.value(3) == _STUDY_UID_CODE]
    uids += [_study_uid(one.value(1), "ZDS-1") for one in ([one for one in group if one.name == "ZDS"] or outside)]
    report = RadiologistReport(
        report_id=obr.value(3),
        study_uid=_only_study(uids, "OBX-5"),
        accession_number=obr.value(18) or obr.value(3) or None,
        patient_id=patient_id,
        status=status,
        conclusion=_oru_conclusion(standing, codes),
        signed_at=_hl7_moment(obr.value(22), zone),
        codes=tuple(_oru_codes(standing, codes)),
    )
    return _checked(report, link_field="OBR-18", conclusion_field="OBX-5")


def _oru_conclusion(observations: Sequence[Segment], codes: frozenset[str]) -> str:
    texts = [one for one in observations if one.value(2) in _TEXT_TYPES and one.value(3) != _STUDY_UID_CODE]
    concluding = [one for one in texts if _is_conclusion(one, codes)]
    return "\n".join(one.text(5) for one in concluding or texts).strip()


def _oru_codes(observations: Sequence[Segment], codes: frozenset[str]) -> Iterator[ReportCode]:
    """Coded values of the conclusion (types CE, CNE and CWE), and flags of it or, where none is marked, of all text."""
    concluding = [one for one in observations if _is_conclusion(one, codes)]
    for one in concluding:
        for repetition in range(1, one.field(5).count(one.separators[2]) + 2 if one.value(2) in _CODED_TYPES else 1):
            for code, system in ((1, 3), (4, 6)):
                if value := one.value(5, code, repetition=repetition):
                    yield ReportCode(system=one.value(5, system, repetition=repetition), value=value)
    for one in concluding or [one for one in observations if one.value(2) in _TEXT_TYPES]:
        if flag := one.value(8):
            yield ReportCode(system="", value=flag, is_flag=True)


def _is_conclusion(observation: Segment, codes: frozenset[str]) -> bool:
    identifier, *suffixes = observation.field(3).split(observation.separators[1])[0].split(observation.separators[4])
    return identifier in codes or "IMP" in suffixes


def _hl7_moment(value: str, zone: tzinfo) -> datetime | None:
    if not value:
        return None
    found = _MOMENT.match(value)
    try:
        if found is None:
            raise ValueError
        at = datetime.strptime(f"{found[1]}{found[2] or '0000'}{found[3] or '00'}", "%Y%m%d%H%M%S")
        return at.replace(tzinfo=_offset(found[4]) if found[4] else zone)
    except ValueError:
        raise InboundError("OBR-22", "not a moment") from None


def _offset(text: str) -> timezone:
    minutes = int(text[1:3]) * 60 + int(text[3:5])
    return timezone(timedelta(minutes=-minutes if text[0] == "-" else minutes))


# --- FHIR -------------------------------------------------------------------------------------------------------

Json = Mapping[str, Any]


def read_diagnostic_report(body: bytes) -> RadiologistReport:
    """Read a FHIR R4 DiagnosticReport, alone or in a Bundle with what it refers to.

    Raises
    ------
    InboundError
        When an element is wrong or what is needed is missing.
    """
    whole = _json(body)
    resources = {"DiagnosticReport": [whole]} if whole.get("resourceType") != "Bundle" else _by_kind(whole)
    reports = resources.get("DiagnosticReport", [])
    if len(reports) != 1:
        raise InboundError("Bundle.entry", f"{len(reports)} DiagnosticReports; one is taken at a time")
    report = reports[0]
    if report.get("resourceType") != "DiagnosticReport":
        raise InboundError("resourceType", "not a DiagnosticReport")
    return _fhir_report(report, _References.of(whole, report))


def _json(body: bytes) -> Json:
    if len(body) > MAX_BYTES:
        raise InboundError("resource", f"larger than {MAX_BYTES} bytes")
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        raise InboundError("resource", "not JSON") from None
    if not isinstance(content, dict):
        raise InboundError("resource", "not a JSON object")
    return content


def _objects(value: object) -> list[Json]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _text(value: object) -> str:
    return value.strip() if isinstance(value, str) else ""


def _by_kind(bundle: Json) -> dict[str, list[Json]]:
    found: dict[str, list[Json]] = {}
    for entry in _objects(bundle.get("entry")):
        resource = entry.get("resource")
        if isinstance(resource, dict):
            found.setdefault(_text(resource.get("resourceType")), []).append(resource)
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class _References:
    """What a report may refer to: resources of its bundle and those it contains, by the names used for them."""

    known: Mapping[str, Json]

    @staticmethod
    def of(whole: Json, report: Json) -> _References:
        known: dict[str, Json] = {}
        for entry in _objects(whole.get("entry")):
            resource = entry.get("resource")
            if isinstance(resource, dict):
                known[_text(entry.get("fullUrl"))] = resource
                known[f"{_text(resource.get('resourceType'))}/{_text(resource.get('id'))}"] = resource
        known |= {f"#{_text(one.get('id'))}": one for one in _objects(report.get("contained"))}
        return _References(known=known)

    def identifiers(self, reference: Json) -> list[Json]:
        """Identifiers of what is referred to: those of the reference and those of the resource, if it is here."""
        logical = reference.get("identifier")
        target = self.known.get(_text(reference.get("reference")), {})
        return [*([logical] if isinstance(logical, dict) else []), *_objects(target.get("identifier"))]


def _fhir_report(report: Json, references: _References) -> RadiologistReport:
    status = _FHIR_STATUSES.get(_text(report.get("status")))
    if status is None:
        raise InboundError("DiagnosticReport.status", "empty or not a status of R4")
    own = _objects(report.get("identifier"))
    studies = [one for found in _objects(report.get("imagingStudy")) for one in references.identifiers(found)]
    orders = [one for found in _objects(report.get("basedOn")) for one in references.identifiers(found)]
    subject = report.get("subject")
    patients = references.identifiers(subject) if isinstance(subject, dict) else []
    read = RadiologistReport(
        report_id=next((_text(one.get("value")) for one in own), _text(report.get("id"))),
        study_uid=_only_study(list(_study_uids([*studies, *own])), "DiagnosticReport.imagingStudy"),
        accession_number=_accession([*own, *orders, *studies]),
        patient_id=next((_text(one.get("value")) for one in patients), ""),
        status=status,
        conclusion=_fhir_conclusion(report),
        signed_at=_instant(_text(report.get("issued"))),
        codes=tuple(
            ReportCode(system=_text(coding.get("system")), value=value)
            for concept in _objects(report.get("conclusionCode"))
            for coding in _objects(concept.get("coding"))
            if (value := _text(coding.get("code")))
        ),
    )
    return _checked(read, link_field="DiagnosticReport.imagingStudy", conclusion_field="DiagnosticReport.conclusion")


def _study_uids(identifiers: Sequence[Json]) -> Iterator[StudyUid]:
    for one in identifiers:
        if one.get("system") == DICOM_UID_SYSTEM:
            yield _study_uid(_text(one.get("value")), "DiagnosticReport.imagingStudy")


def _accession(identifiers: Sequence[Json]) -> str | None:
    """The value of the first identifier of type ACSN (HL7 table 0203)."""
    for one in identifiers:
        kind = one.get("type")
        codings = _objects(kind.get("coding")) if isinstance(kind, dict) else []
        if any(coding.get("code") == "ACSN" for coding in codings) and _text(one.get("value")):
            return _text(one.get("value"))
    return None


def _fhir_conclusion(report: Json) -> str:
    """`conclusion`, else the first form of it in plain text."""
    if said := _text(report.get("conclusion")):
        return said
    for form in _objects(report.get("presentedForm")):
        if _text(form.get("contentType")).split(";")[0] == "text/plain" and isinstance(form.get("data"), str):
            try:
                return base64.b64decode(form["data"], validate=True).decode("utf-8").strip()
            except (binascii.Error, ValueError):
                raise InboundError("DiagnosticReport.presentedForm.data", "not base64 of UTF-8") from None
    return ""


def _instant(value: str) -> datetime | None:
    if not value:
        return None
    try:
        at = datetime.fromisoformat(value)
    except ValueError:
        raise InboundError("DiagnosticReport.issued", "not an instant") from None
    if at.tzinfo is None:
        raise InboundError("DiagnosticReport.issued", "without an offset")
    return at

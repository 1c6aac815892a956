"""`write_oru`: a document of the record as one ORU^R01 message of HL7 v2.5.1.

Called by the outbox; pure, so a retry sends equal bytes under an equal control id. Sending is `client`. Observations
are told apart by OBX-3 and OBX-4: sub-id 0 is the study, 0.1 and so on the labels of the card, 1 and so on the lesions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from dicom_node.ehr.context import ContextMissing, DocumentRequest, Identifier, PersonName, Sex
from dicom_node.ehr.hl7v2.encoding import (
    SEGMENT_END,
    Encoded,
    components,
    formatted,
    header,
    hierarchic,
    moment,
    number,
    repetitions,
    segment,
    text,
)
from dicom_node.ehr.hl7v2.profile import CodedElement, OruProfile
from dicom_node.ehr.statements import (
    LATERALITY,
    PERCENT,
    PRESENCE,
    StudyStatement,
    place_text,
    score_code,
    score_percent,
    study_statements,
)
from inference.findings import Lesion
from models.codes import Code

_SNILS_OID: Final = "1.2.643.100.3"
_CONTROL_ID_LENGTH: Final = 20  # MSH-10, ST of at most 20 in v2.5.1
_SEXES: Final = {Sex.MALE: "M", Sex.FEMALE: "F", Sex.OTHER: "O"}
_FINDING: Final = Code(value="121071", scheme="DCM", meaning="Finding")
_SITE: Final = Code(value="363698007", scheme="SCT", meaning="Finding Site")
_STUDY_UID: Final = Code(value="110180", scheme="DCM", meaning="Study Instance UID")
_TRACKING_UID: Final = Code(value="112040", scheme="DCM", meaning="Tracking Unique Identifier")
_IMAGE_REGION: Final = Code(value="111030", scheme="DCM", meaning="Image Region")
# DICOM's designators and those of HL7 table 0396
_SYSTEMS: Final = {"SRT": "SCT", "RADLEX": "RADLEX", "UMLS": "UML"}
_EMPTY: Final = Encoded("")
_PRELIMINARY: Final = "P"
_CORRECTED: Final = "C"
_DELETED: Final = "D"  # of OBX-11 (table 0085); OBR-25 (table 0123) knows no such word


def control_id(document_id: str) -> str:
    """MSH-10 of a document: equal for every attempt, 80 bits of a digest in upper-case hexadecimal."""
    return hashlib.sha256(document_id.encode()).hexdigest()[:_CONTROL_ID_LENGTH].upper()


def write_oru(request: DocumentRequest, profile: OruProfile, *, replaced: DocumentRequest | None = None) -> bytes:
    """Write one document.

    Parameters
    ----------
    request : DocumentRequest
    profile : OruProfile
    replaced : DocumentRequest, optional
        The document that this one corrects, as it was sent: lesions that it had beyond ours are deleted. Without it
        they stay at the receiver.

    Returns
    -------
    bytes
        Segments in UTF-8, each ended by a carriage return, without the MLLP frame.

    Raises
    ------
    ContextMissing
        Without an accession number where the profile requires one.
    ValueError
        When `replaced` is not the document that ``request.revision.replaces_id`` names.
    """
    if profile.accession_number_required and not request.order.accession_number:
        raise ContextMissing(["order.accession_number"])
    if replaced is not None and replaced.document_id != request.revision.replaces_id:
        raise ValueError("the document given as replaced is not the one that the revision replaces")
    segments = [_msh(request, profile), _pid(request, profile), *_visit(request, profile)]
    segments += [_orc(request), _obr(request, profile)]
    for index, observation in enumerate(_observations(request, profile, replaced), start=1):
        segments.append(_obx(index, observation, request))
    return "".join(one + SEGMENT_END for one in segments).encode()


def _msh(request: DocumentRequest, profile: OruProfile) -> Encoded:
    facility = profile.sending_facility or (request.performer.oid if request.performer else "")
    return header(
        {
            3: text(profile.sending_application),
            4: _authority(facility),
            5: text(profile.receiving_application),
            6: _authority(profile.receiving_facility),
            7: moment(request.created_at),
            9: components("ORU", "R01", "ORU_R01"),
            10: text(control_id(request.document_id)),
            11: text(profile.processing_id),
            12: text("2.5.1"),
            17: text(profile.country),
            18: text("UNICODE UTF-8"),
            19: components(request.text.language, "", "ISO639"),
        }
    )


def _authority(name: str) -> Encoded:
    """An HD as a whole field, where its parts are components."""
    return components("", name, "ISO") if name[:1].isdigit() else text(name)


def _pid(request: DocumentRequest, profile: OruProfile) -> Encoded:
    who = request.patient
    authority = hierarchic(who.identifier.system or profile.patient_authority)
    own = _numbered(who.identifier.value, authority, "MR")
    snils = _numbered(who.snils or "", hierarchic(_SNILS_OID), profile.national_id_type)
    return segment(
        "PID",
        {
            1: text("1"),
            3: repetitions(own, snils if who.snils and profile.national_id_type else Encoded("")),
            5: _name(who.name),
            7: text(who.birth_date.strftime("%Y%m%d") if who.birth_date else ""),
            8: text(_SEXES[who.sex] if who.sex else "U"),
            11: components(who.address.text, "", "", "", who.address.postal_code) if who.address else Encoded(""),
            13: text(who.telephone or ""),
        },
    )


def _numbered(value: str, authority: Encoded, kind: str) -> Encoded:
    """A CX: number, authority that gave it, type."""
    return components(value, "", "", authority, kind, encoded=frozenset({3}))


def _name(name: PersonName | None) -> Encoded:
    """An XPN; PID-5 is required, so an unknown name is one of type U (unspecified)."""
    if name is None:
        return components("", "", "", "", "", "", "U")
    return components(name.family, name.given, name.patronymic, "", "", "", "L")


def _visit(request: DocumentRequest, profile: OruProfile) -> list[Encoded]:
    if request.encounter is None:
        return []
    known = request.encounter.identifier
    visit = _numbered(known.value, hierarchic(known.system), "VN")
    return [segment("PV1", {1: text("1"), 2: text(profile.patient_class), 19: visit})]


def _entity(known: Identifier | None) -> Encoded:
    """An EI."""
    if known is None:
        return Encoded("")
    is_oid = known.system[:1].isdigit()
    return components(known.value, "" if is_oid else known.system, known.system if is_oid else "", "ISO" * is_oid)


def _filler(request: DocumentRequest) -> Encoded:
    accession = request.order.accession_number
    return text(accession) if accession else _entity(request.order.filler)


def _orc(request: DocumentRequest) -> Encoded:
    return segment("ORC", {1: text("RE"), 2: _entity(request.order.placer), 3: _filler(request)})


def _obr(request: DocumentRequest, profile: OruProfile) -> Encoded:
    first = request.revision.version == 1 and not request.revision.withdrawn
    return segment(
        "OBR",
        {
            1: text("1"),
            2: _entity(request.order.placer),
            3: _filler(request),
            4: _element(profile.service),
            7: moment(request.source.performed_at),
            18: text(request.order.accession_number or ""),
            22: moment(request.created_at),
            24: text(profile.diagnostic_section),
            25: text(_PRELIMINARY if first else _CORRECTED),
        },
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Observation:
    """What one OBX says: data type, code, sub-id, value, unit."""

    kind: str
    code: Encoded
    sub_id: str
    value: Encoded
    unit: Encoded = _EMPTY
    status: str


def _obx(index: int, said: _Observation, request: DocumentRequest) -> Encoded:
    model = request.findings.model
    return segment(
        "OBX",
        {
            1: text(str(index)),
            2: text(said.kind),
            3: said.code,
            4: text(said.sub_id),
            5: said.value,
            6: said.unit,
            11: text(said.status),
            14: moment(request.source.performed_at),
            18: components(model.reference, "", model.device_uid, "ISO"),
        },
    )


def _element(code: CodedElement) -> Encoded:
    return components(code.code, code.text, code.system)


def _concept(code: Code) -> Encoded:
    return components(code.value, code.meaning, _SYSTEMS.get(code.scheme, code.scheme))


def _status(request: DocumentRequest) -> str:
    if request.revision.withdrawn:
        return _DELETED
    return _PRELIMINARY if request.revision.version == 1 else _CORRECTED


def _observations(
    request: DocumentRequest, profile: OruProfile, replaced: DocumentRequest | None
) -> Iterator[_Observation]:
    status = _status(request)
    uid = text(request.source.study_uid)
    # The link to the images outlives a withdrawal: it says which study the rest is taken back from.
    kept = _CORRECTED if status == _DELETED else status
    yield _Observation(kind="ST", code=_concept(_STUDY_UID), sub_id="0", value=uid, status=kept)
    yield from _texts(request, profile, status)
    for index, said in enumerate(study_statements(request.findings, request.card), start=1):
        yield from _of_study(said, f"0.{index}", status)
    for index, lesion in enumerate(request.findings.lesions, start=1):
        yield from _of_lesion(request, lesion, str(index), status)
    if replaced is not None:
        ours = len(request.findings.lesions)
        for index, lesion in enumerate(replaced.findings.lesions[ours:], start=ours + 1):
            yield from _of_lesion(replaced, lesion, str(index), _DELETED)


def _texts(request: DocumentRequest, profile: OruProfile, status: str) -> Iterator[_Observation]:
    """The report in words; warnings stand under the conclusion, which is what receivers show."""
    said = request.text
    parts = (
        (profile.description, said.description),
        (profile.conclusion, "\n".join(part for part in (said.conclusion, *said.warnings) if part)),
        (profile.recommendation, said.recommendation),
    )
    for code, words in parts:
        if words.strip():
            yield _Observation(kind="FT", code=_element(code), sub_id="0", value=formatted(words), status=status)


def _of_study(said: StudyStatement, sub_id: str, status: str) -> Iterator[_Observation]:
    label = said.label
    yield _coded(label.finding, PRESENCE[said.presence], sub_id, status)
    if said.score is not None:
        yield _score(score_code(label), said.score, sub_id, status)


def _of_lesion(request: DocumentRequest, lesion: Lesion, sub_id: str, status: str) -> Iterator[_Observation]:
    yield _coded(_FINDING, lesion.code, sub_id, status)
    yield _coded(_SITE, lesion.site, sub_id, status)
    if lesion.laterality is not None:
        yield _coded(LATERALITY, lesion.laterality, sub_id, status)
    yield _score(score_code(request.card.label(lesion.label)), lesion.score, sub_id, status)
    for one in lesion.measurements:
        quantity, unit = _concept(one.quantity), _concept(one.unit)
        value = number(one.value)
        yield _Observation(kind="NM", code=quantity, sub_id=sub_id, value=value, unit=unit, status=status)
    place = text(place_text(lesion.region.key_plane))
    yield _Observation(kind="ST", code=_concept(_IMAGE_REGION), sub_id=sub_id, value=place, status=status)
    tracking = text(lesion.tracking_uid)
    yield _Observation(kind="ST", code=_concept(_TRACKING_UID), sub_id=sub_id, value=tracking, status=status)


def _coded(question: Code, answer: Code, sub_id: str, status: str) -> _Observation:
    return _Observation(kind="CWE", code=_concept(question), sub_id=sub_id, value=_concept(answer), status=status)


def _score(code: Code, score: float, sub_id: str, status: str) -> _Observation:
    value, unit = number(score_percent(score)), _concept(PERCENT)
    return _Observation(kind="NM", code=_concept(code), sub_id=sub_id, value=value, unit=unit, status=status)

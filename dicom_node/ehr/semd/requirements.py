"""What a SEMD cannot do without, asked before anything is written: all that lacks and all that is wrong, at once.

Used by the writer. Names fields as people find them in the configuration and never their values.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from datetime import datetime
from typing import Final

from dicom_node.ehr import snils
from dicom_node.ehr.context import DocumentRequest, Employee, Organisation, Patient, PersonName
from dicom_node.ehr.semd.profile import SemdProfile

_OID: Final = re.compile(r"[0-2](\.(0|[1-9][0-9]*))+", re.ASCII)
_TOKEN: Final = re.compile(r"\S+")
_URL: Final = re.compile(r"https?://[A-Za-z0-9.\-]+(:[0-9]+)?(/[A-Za-z0-9._~\-/]*)?", re.ASCII)
_MEDIA: Final = ("image/jpeg", "image/png")
_LARGEST_IMAGE_BYTES: Final = 7_000_000  # as Base64 it stays below what a parser of XML takes as one text
_EARLIEST_YEAR: Final = 1000  # the rules' patterns know years from 1000 to 2999
_LATEST_YEAR: Final = 2999


class ContextInvalid(Exception):
    """A document cannot be written because values of its context are wrong. Permanent until somebody corrects them.

    Attributes
    ----------
    faults : tuple of str
        Field and fault, never the value: ``patient.snils: not a SNILS: its check sum is wrong``.
    """

    def __init__(self, faults: tuple[str, ...]) -> None:
        super().__init__("wrong for the document: " + "; ".join(faults))
        self.faults = faults


def missing(request: DocumentRequest, profile: SemdProfile) -> tuple[str, ...]:
    """Every field without which the document cannot be written, in the order of the document."""
    return tuple(_missing(request, profile))


def _missing(request: DocumentRequest, profile: SemdProfile) -> Iterator[str]:
    if not request.patient.identifier.value.strip():
        yield "patient.identifier"
    yield from _missing_name("patient.name", request.patient.name)
    yield from _missing_of_organisation(request.performer, profile)
    yield from _missing_of_employee("author", request.author)
    yield from _missing_of_employee("legal_authenticator", request.legal_authenticator)
    if request.source.performed_at is None:
        yield "source.performed_at"
    if visit_code(request, profile) is None:
        yield "encounter.kind_code"
    if profile.site.place is None:
        yield "profile.site.place"
    if profile.study_code(request.source) is None:
        yield "profile.studies (no rule fits modality and body part)"
    if not request.revision.withdrawn:
        yield from _missing_of_result(request, profile)


def _missing_name(field: str, name: PersonName | None) -> Iterator[str]:
    if name is None:
        yield field
    else:
        yield from (f"{field}.{part}" for part in ("family", "given") if not getattr(name, part).strip())


def _missing_of_organisation(performer: Organisation | None, profile: SemdProfile) -> Iterator[str]:
    if performer is None:
        yield from ("performer.oid", "performer.name", "performer.address")
        return
    if not performer.oid.strip():
        yield "performer.oid"
    if not performer.name.strip():
        yield "performer.name"
    address = performer.address
    if address is None:
        yield "performer.address"
        return
    if not address.text.strip():
        yield "performer.address.text"
    if not address.region_code:
        yield "performer.address.region_code"
    elif profile.name_of("regions", address.region_code) is None:
        yield "profile.site.codes.regions (the name of performer.address.region_code)"


def _missing_of_employee(field: str, person: Employee | None) -> Iterator[str]:
    if person is None:
        yield field
        return
    if not person.identifier.value.strip():
        yield f"{field}.identifier"
    yield from _missing_name(f"{field}.name", person.name)
    if not person.snils:
        yield f"{field}.snils"
    if not person.position_code.strip():
        yield f"{field}.position_code"
    if not person.position_name.strip():
        yield f"{field}.position_name"


def _missing_of_result(request: DocumentRequest, profile: SemdProfile) -> Iterator[str]:
    if not request.text.description.strip():
        yield "text.description"
    if not request.text.conclusion.strip():
        yield "text.conclusion"
    sites = {lesion.site.value: lesion.site for lesion in request.findings.lesions}
    for site in sites.values():
        if profile.mapped("locations", site) is None:
            yield f"profile.map.locations ({site.scheme}:{site.value})"


def visit_code(request: DocumentRequest, profile: SemdProfile) -> str | None:
    """Kind of the visit: that of the encounter, else the site's own."""
    kind = request.encounter.kind_code if request.encounter is not None else None
    return kind or profile.site.visit


def unknown(request: DocumentRequest, profile: SemdProfile) -> tuple[str, ...]:
    """Every field that the document does without: it goes out as ``nullFlavor`` or not at all.

    A block of which the rules want several parts together goes out whole or not at all; its missing part is named.
    """
    source, order, encounter = request.source, request.order, request.encounter
    kept = {
        "patient.snils": request.patient.snils,
        "patient.birth_date": request.patient.birth_date,
        "patient.sex": request.patient.sex,
        "encounter": encounter,
        "encounter.begun": encounter.begun if encounter is not None else True,
        "order.placer": order.placer,
        "order.diagnosis_code": order.diagnosis_code,
        "order.diagnosis_text": order.diagnosis_text,
        "profile.site.service_form": profile.site.service_form,
        "profile.site.service_condition": profile.site.service_condition,
        "source.dose_msv": source.dose_msv is not None,
        "source.device_model": source.device_model.strip(),
        "source.device_serial": source.device_serial.strip(),
        "key_image": request.key_image,
    }
    return (*(field for field, value in kept.items() if not value), *_unknown_of_patient(request.patient, profile))


def _unknown_of_patient(patient: Patient, profile: SemdProfile) -> Iterator[str]:
    document, policy, address = patient.document, patient.policy, patient.address
    if document is None:
        yield "patient.document"
    else:
        if profile.name_of("identity_documents", document.kind) is None:
            yield "profile.site.codes.identity_documents (the name of patient.document.kind)"
        if document.issued_on is None:
            yield "patient.document.issued_on"
    if policy is None:
        yield "patient.policy"
    elif profile.name_of("policies", policy.kind) is None:
        yield "profile.site.codes.policies (the name of patient.policy.kind)"
    if address is None:
        yield "patient.address"
    elif profile.name_of("regions", address.region_code) is None:
        yield "profile.site.codes.regions (the name of patient.address.region_code)"


def wrong(request: DocumentRequest, profile: SemdProfile) -> tuple[str, ...]:
    """Every field whose value cannot stand in the document, with the reason."""
    return tuple(_wrong(request, profile))


def _wrong(request: DocumentRequest, profile: SemdProfile) -> Iterator[str]:
    if request.text.language != "ru":
        yield "text.language: the document is written in Russian"
    if request.findings.study_uid != request.source.study_uid:
        yield "findings.study_uid: of another study than the source"
    if request.card.model_digest != request.findings.model.model_digest:
        yield "card: not of the model that made the findings"
    yield from _wrong_identifiers(request)
    yield from _wrong_snils(request)
    yield from _wrong_codes(request, profile)
    yield from _wrong_times(request)
    yield from _wrong_media(request)


def _wrong_identifiers(request: DocumentRequest) -> Iterator[str]:
    if request.performer is not None and request.performer.oid.strip() and not _OID.fullmatch(request.performer.oid):
        yield "performer.oid: not an OID"
    for field, person in (("author", request.author), ("legal_authenticator", request.legal_authenticator)):
        employer = person.organisation if person is not None else None
        if employer is not None and not _OID.fullmatch(employer.oid):
            yield f"{field}.organisation.oid: not an OID"
        if employer is not None and not employer.name.strip():
            yield f"{field}.organisation.name: empty"
    if not request.document_id.strip():
        yield "document_id: empty"
    if not request.revision.set_id.strip():
        yield "revision.set_id: empty"
    if request.revision.version < 1:
        yield "revision.version: versions count from 1"
    if request.encounter is not None and not request.encounter.identifier.value.strip():
        yield "encounter.identifier: empty"


def _wrong_snils(request: DocumentRequest) -> Iterator[str]:
    people = {
        "patient.snils": request.patient.snils,
        "author.snils": request.author.snils if request.author else None,
        "legal_authenticator.snils": request.legal_authenticator.snils if request.legal_authenticator else None,
    }
    for field, text in people.items():
        try:
            if text:
                snils.parse(text)
        except snils.SnilsError as error:
            yield f"{field}: {error}"


def _wrong_codes(request: DocumentRequest, profile: SemdProfile) -> Iterator[str]:
    for field, person in (("author", request.author), ("legal_authenticator", request.legal_authenticator)):
        if person is None:
            continue
        if person.position_code and not _TOKEN.fullmatch(person.position_code):
            yield f"{field}.position_code: a code has no spaces"
        known = profile.name_of("positions", person.position_code)
        if known is not None and known != person.position_name:
            yield f"{field}.position_name: not the name of {field}.position_code in the dictionary"
    visit = visit_code(request, profile)
    if visit is not None and profile.name_of("visits", visit) is None:
        yield "encounter.kind_code: no such code in the dictionary"
    if request.order.diagnosis_code and not _TOKEN.fullmatch(request.order.diagnosis_code):
        yield "order.diagnosis_code: a code has no spaces"


def _wrong_times(request: DocumentRequest) -> Iterator[str]:
    encounter, policy = request.encounter, request.patient.document
    times = {
        "created_at": request.created_at,
        "source.performed_at": request.source.performed_at,
        "encounter.begun": encounter.begun if encounter else None,
        "encounter.ended": encounter.ended if encounter else None,
        "patient.birth_date": request.patient.birth_date,
        "patient.document.issued_on": policy.issued_on if policy else None,
    }
    for field, moment in times.items():
        if moment is None:
            continue
        if isinstance(moment, datetime) and moment.tzinfo is None:
            yield f"{field}: needs a time zone"
        if not _EARLIEST_YEAR < moment.year < _LATEST_YEAR:
            yield f"{field}: no plausible year"


def _wrong_media(request: DocumentRequest) -> Iterator[str]:
    if request.key_image is not None and request.key_image.media_type not in _MEDIA:
        yield f"key_image.media_type: none of {', '.join(_MEDIA)}"
    if request.key_image is not None and not 0 < len(request.key_image.data) <= _LARGEST_IMAGE_BYTES:
        yield f"key_image.data: empty, or larger than {_LARGEST_IMAGE_BYTES} bytes"
    if request.base_url and not _URL.fullmatch(request.base_url):
        yield "base_url: not a plain http or https address"
    dose = request.source.dose_msv
    if dose is not None and not (math.isfinite(dose) and dose >= 0):
        yield "source.dose_msv: not a dose"

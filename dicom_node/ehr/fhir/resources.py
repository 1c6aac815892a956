"""Device, Patient and ImagingStudy: the resources that a document shares with others, as FHIR R4.

Called by `bundle`. Each is created only where the receiver has none with the same identifier, so what another system
has written of the same patient or study stays as it is.
"""

from __future__ import annotations

from typing import Final

from dicom_node.ehr.context import DocumentRequest, Identifier, Patient, Sex, SourceSeries
from dicom_node.ehr.fhir.elements import (
    DICOM_ONTOLOGY,
    SNILS_SYSTEM,
    SNOMED,
    TERMINOLOGY,
    URI_SYSTEM,
    Json,
    Resource,
    coded,
    day,
    human_name,
    identifier,
    instant,
    reference,
    uid_identifier,
)
from models.card import Use

_GENDERS: Final = {Sex.MALE: "male", Sex.FEMALE: "female", Sex.OTHER: "other"}
_USES: Final = {
    Use.DEMONSTRATION: "demonstration; accuracy unknown, not a medical device",
    Use.RESEARCH: "research only; not a medical device",
    Use.REGISTERED: "registered medical device",
}


def device(request: DocumentRequest) -> Resource:
    """The model as a Device: name, version and digests; its identifier is the Device UID, which the digest gives."""
    card, spoke = request.card, request.findings.model
    registered = Identifier(value=card.identity.registration_number or "")
    return {
        "resourceType": "Device",
        "identifier": [
            uid_identifier(spoke.device_uid),
            identifier(registered) if registered.value else None,
        ],
        "status": "active",
        "manufacturer": card.identity.manufacturer,
        "deviceName": [
            {"name": card.identity.title.in_language(request.language), "type": "user-friendly-name"},
            {"name": spoke.name, "type": "model-name"},
        ],
        "type": coded(SNOMED, "706689003", "Application program software"),
        "version": [
            _version("software", spoke.version),
            _version("model digest, SHA-256", spoke.model_digest),
            _version("weights digest, SHA-256", spoke.weights_digest),
        ],
        "note": [{"text": _USES[card.identity.use]}],
    }


def _version(kind: str, value: str) -> Resource:
    return {"type": {"text": kind}, "value": value}


def patient_identifier(patient: Patient, default_system: str) -> Resource:
    """The identifier by which the receiver knows whether it has the patient."""
    return identifier(patient.identifier, kind="MR", default_system=default_system)


def patient(request: DocumentRequest, default_system: str) -> Resource:
    """The patient, with what is known and nothing else."""
    who = request.patient
    snils: Json = {"system": SNILS_SYSTEM, "value": who.snils} if who.snils else None
    address: Json = {"text": who.address.text, "postalCode": who.address.postal_code} if who.address else None
    return {
        "resourceType": "Patient",
        "identifier": [patient_identifier(who, default_system), snils],
        "name": [human_name(who.name) if who.name else None],
        "telecom": [{"system": "phone", "value": who.telephone} if who.telephone else None],
        "gender": _GENDERS[who.sex] if who.sex else "unknown",
        "birthDate": day(who.birth_date),
        "address": [address],
    }


def imaging_study(request: DocumentRequest, subject: str) -> Resource:
    """The study as it was received, with its series and images; `subject` is the URN of the patient."""
    source, accession = request.source, request.order.accession_number
    number: Json = identifier(Identifier(value=accession), kind="ACSN") if accession else None
    return {
        "resourceType": "ImagingStudy",
        "contained": [_endpoint(request.base_url)],
        "identifier": [uid_identifier(source.study_uid), number],
        "status": "available",
        "modality": [_modality(source.modality)],
        "subject": reference(subject),
        "started": instant(source.performed_at) if source.performed_at else None,
        "endpoint": [{"reference": "#dicomweb"} if request.base_url else None],
        "numberOfSeries": len(source.series),
        "numberOfInstances": sum(len(series.images) for series in source.series),
        "description": source.description,
        "series": [_series(series) for series in source.series],
    }


def _endpoint(base_url: str) -> Json:
    if not base_url:
        return None
    return {
        "resourceType": "Endpoint",
        "id": "dicomweb",
        "status": "active",
        "connectionType": {"system": f"{TERMINOLOGY}/endpoint-connection-type", "code": "dicom-wado-rs"},
        "payloadType": [coded(f"{TERMINOLOGY}/endpoint-payload-type", "any")],
        "address": base_url,
    }


def _modality(code: str) -> Resource:
    return {"system": DICOM_ONTOLOGY, "code": code}


def _series(series: SourceSeries) -> Resource:
    return {
        "uid": series.series_uid,
        "modality": _modality(series.modality),
        "numberOfInstances": len(series.images),
        "instance": [
            {"uid": uid, "sopClass": {"system": URI_SYSTEM, "code": f"urn:oid:{sop_class}"}}
            for uid, sop_class in series.images.items()
        ],
    }

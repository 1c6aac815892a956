"""A region's exchange of instrumental studies: what the AI adds to the Task that ordered the description.

Called by `bundle`. Task, partial DiagnosticReport, an Observation of the description and one of the conclusion, and a
Binary for each attachment; their codes and words are the profile's. The region knows the original Task by the order's
placer number, patients and organisations by identifiers: nothing of them is created here.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from dicom_node.ehr.context import ContextMissing, DocumentRequest, Identifier
from dicom_node.ehr.fhir.elements import (
    Json,
    Resource,
    clean,
    coded,
    identifier,
    instant,
    own_identifier,
    reference,
    search_token,
    uid_identifier,
    urn_of,
)
from dicom_node.ehr.fhir.entries import Attachment, attachment, created, put
from dicom_node.ehr.fhir.profile import Coded, RegionalProfile

_RESOURCE_ID: Final = re.compile(r"^[A-Za-z0-9\-.]{1,64}$")  # FHIR R4, datatypes: id
_SLOTS: Final = ("task", "report", "description", "conclusion")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Names:
    """URNs of the bundle's resources: the same through all revisions of a document, but for the Binaries."""

    task: str
    report: str
    description: str
    conclusion: str
    binaries: tuple[str, ...]


def bundle(request: DocumentRequest, profile: RegionalProfile, attachments: Sequence[Attachment]) -> Resource:
    """Write the transaction.

    Raises
    ------
    ContextMissing
        Without the number of the original Task (``order.placer``) or the organisation (``performer``).
    """
    _check(request)
    forms = () if request.revision.withdrawn else tuple(attachments)
    separate = forms if profile.documents == "binary" else ()
    names = _names(request, len(separate))
    text = request.text
    conclusion = "\n\n".join(part for part in (text.conclusion, text.recommendation, *text.warnings) if clean(part))
    named = {
        names.task: _task(request, profile, names),
        names.report: _report(request, profile, names, forms),
        names.description: _observation(request, profile, profile.description_code, text.description),
        names.conclusion: _observation(request, profile, profile.conclusion_code, conclusion),
    }
    entries = [_entry(request, profile, urn, resource) for urn, resource in named.items()]
    entries += [_binary(urn, form) for urn, form in zip(names.binaries, separate, strict=True)]
    return {
        "resourceType": "Bundle",
        "identifier": own_identifier(urn_of(request.document_id, "bundle")),
        "type": "transaction",
        "timestamp": instant(request.created_at),
        "entry": entries,
    }


def _check(request: DocumentRequest) -> None:
    needed = {"order.placer": request.order.placer, "performer": request.performer}
    missing = [name for name, value in needed.items() if value is None]
    if missing:
        raise ContextMissing(missing)


def _names(request: DocumentRequest, binaries: int) -> _Names:
    task, report, description, conclusion = (urn_of(request.revision.set_id, f"regional/{slot}") for slot in _SLOTS)
    return _Names(
        task=task,
        report=report,
        description=description,
        conclusion=conclusion,
        binaries=tuple(urn_of(request.document_id, f"regional/binary/{number}") for number in range(binaries)),
    )


def _entry(request: DocumentRequest, profile: RegionalProfile, urn: str, resource: Resource) -> Resource:
    """A first version never overwrites: it may be an old attempt that arrives after its correction."""
    claimed = profile.meta_profiles.get(str(resource["resourceType"]))
    whole = {**resource, "identifier": [own_identifier(urn)], "meta": {"profile": [claimed]} if claimed else None}
    first = request.revision.version == 1 and not request.revision.withdrawn
    return (created if first else put)(urn, whole, search_token(own_identifier(urn)))


def _status(request: DocumentRequest, usual: str) -> str:
    return "entered-in-error" if request.revision.withdrawn else usual


def _subject(request: DocumentRequest, profile: RegionalProfile) -> Resource:
    who = request.patient.identifier
    return {"type": "Patient", "identifier": identifier(who, default_system=profile.patient_system)}


def _organisation(request: DocumentRequest, profile: RegionalProfile) -> Resource:
    assert request.performer is not None, "checked before anything is written"
    known = identifier(Identifier(value=request.performer.oid), default_system=profile.organisation_system)
    return {"type": "Organization", "identifier": known, "display": request.performer.name}


def _ordered(request: DocumentRequest) -> Resource:
    """The Task that ordered: by the receiver's own id where the placer number can be one."""
    placer = request.order.placer
    assert placer is not None, "checked before anything is written"
    if _RESOURCE_ID.match(placer.value):
        return {"reference": f"Task/{placer.value}"}
    return {"type": "Task", "identifier": identifier(placer)}


def _task(request: DocumentRequest, profile: RegionalProfile, names: _Names) -> Resource:
    organisation, code = _organisation(request, profile), profile.task_code
    return {
        "resourceType": "Task",
        "basedOn": [_ordered(request)],
        "status": _status(request, profile.task_status),
        "intent": profile.task_intent,
        "code": _coded(code) if code else None,
        "focus": reference(names.report),
        "for": _subject(request, profile),
        "authoredOn": instant(request.created_at),
        "lastModified": instant(request.created_at),
        "requester": organisation,
        "owner": organisation,
    }


def _report(request: DocumentRequest, profile: RegionalProfile, names: _Names, forms: Sequence[Attachment]) -> Resource:
    performed = request.source.performed_at
    links: list[Json] = [
        {"contentType": form.media_type, "title": form.title, "url": urn}
        for urn, form in zip(names.binaries, forms, strict=False)
    ]
    shown = links or [attachment(form) for form in forms]
    return {
        "resourceType": "DiagnosticReport",
        "basedOn": [_ordered(request)],
        "status": _status(request, profile.report_status),
        "code": _coded(profile.report_code),
        "subject": _subject(request, profile),
        "effectiveDateTime": instant(performed) if performed else None,
        "issued": instant(request.created_at),
        "performer": [_organisation(request, profile)],
        "result": [reference(names.description), reference(names.conclusion)],
        "imagingStudy": [{"type": "ImagingStudy", "identifier": uid_identifier(request.source.study_uid)}],
        "presentedForm": shown,
    }


def _observation(request: DocumentRequest, profile: RegionalProfile, code: Coded, text: str) -> Resource:
    performed = request.source.performed_at
    return {
        "resourceType": "Observation",
        "status": _status(request, profile.observation_status),
        "code": _coded(code),
        "subject": _subject(request, profile),
        "effectiveDateTime": instant(performed) if performed else None,
        "issued": instant(request.created_at),
        "performer": [_organisation(request, profile)],
        "device": {"type": "Device", "identifier": uid_identifier(request.findings.model.device_uid)},
        "valueString": "" if request.revision.withdrawn else text,
        "note": [{"text": warning} for warning in request.text.warnings],
    }


def _binary(urn: str, form: Attachment) -> Resource:
    """A Binary under an id of ours: it has no identifier, and servers that search it are rare."""
    own_id = urn.removeprefix("urn:uuid:")
    resource: Resource = {
        "resourceType": "Binary",
        "id": own_id,
        "contentType": form.media_type,
        "data": base64.b64encode(form.data).decode("ascii"),
    }
    return {"fullUrl": urn, "resource": resource, "request": {"method": "PUT", "url": f"Binary/{own_id}"}}


def _coded(code: Coded) -> Resource:
    return coded(code.system, code.code, code.display)

"""`write_bundle`: a document of the record as one FHIR R4 transaction.

Called by the outbox; pure, so a retry sends equal bytes. The plain profile is written here, a region's in `regional`.
Everything is named by what the document is about, and created only where the receiver has nothing of that name, or put
in the place of what it has: ten sends leave one of each. Sending is `client`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from dicom_node.ehr.context import DocumentRequest, Identifier
from dicom_node.ehr.fhir import regional, resources
from dicom_node.ehr.fhir.elements import (
    TERMINOLOGY,
    URI_SYSTEM,
    Json,
    Resource,
    clean,
    coded,
    document_identifier,
    identifier,
    instant,
    own_identifier,
    own_tag,
    reference,
    report_urn,
    search_tag,
    search_token,
    serialised,
    uid_identifier,
    urn_of,
)
from dicom_node.ehr.fhir.entries import Attachment, attachment, created, put
from dicom_node.ehr.fhir.observations import Links, Named, observations
from dicom_node.ehr.fhir.profile import PlainProfile, RegionalProfile
from models.codes import Text

_WITHDRAWN: Final = Text(
    en="The result of the software was withdrawn. Nothing of it holds any more.",
    ru="Результат программы отозван и больше не действует.",
)
_HEADINGS: Final = {
    "ru": ("Описание", "Заключение", "Рекомендации"),
    "en": ("Findings", "Impression", "Recommendation"),
}


def write_bundle(
    request: DocumentRequest,
    profile: PlainProfile | RegionalProfile,
    *,
    attachments: Sequence[Attachment] = (),
    replaced: DocumentRequest | None = None,
) -> bytes:
    """Write one document as a transaction bundle.

    Parameters
    ----------
    request : DocumentRequest
    profile : PlainProfile or RegionalProfile
    attachments : sequence of Attachment
        The document in other forms, for ``presentedForm``: the SEMD draft or a PDF.
    replaced : DocumentRequest, optional
        The document that this one corrects or withdraws, as it was sent: its observations are marked
        ``entered-in-error``. Without it the report is corrected, and observations of the earlier version stay behind
        unreferenced.

    Returns
    -------
    bytes
        JSON in UTF-8, equal for equal arguments.

    Raises
    ------
    ContextMissing
        When the profile needs what is not known.
    ValueError
        When `replaced` is not the document that ``request.revision.replaces_id`` names.
    """
    if replaced is not None and replaced.document_id != request.revision.replaces_id:
        raise ValueError("the document given as replaced is not the one that the revision replaces")
    if isinstance(profile, RegionalProfile):
        return serialised(regional.bundle(request, profile, attachments))
    return serialised(_transaction(request, profile, attachments, replaced))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Names:
    """URNs of everything in the bundle, derived from what each resource is about."""

    device: str
    patient: str
    study: str
    report: str
    provenance: str


def _names(request: DocumentRequest) -> _Names:
    who = request.patient.identifier
    return _Names(
        device=urn_of(request.findings.model.device_uid, "device"),
        patient=urn_of(f"{who.system}|{who.value}", "patient"),
        study=urn_of(request.source.study_uid, "imaging-study"),
        report=report_urn(request.revision.set_id),
        provenance=urn_of(request.document_id, "provenance"),
    )


def _observation_names(request: DocumentRequest) -> list[str]:
    labels = [f"study/{label.key}" for label in request.card.labels]
    lesions = [f"lesion/{number}" for number in range(1, len(request.findings.lesions) + 1)]
    return [urn_of(request.document_id, slot) for slot in labels + lesions]


def _transaction(
    request: DocumentRequest,
    profile: PlainProfile,
    attachments: Sequence[Attachment],
    replaced: DocumentRequest | None,
) -> Resource:
    names = _names(request)
    known = resources.patient_identifier(request.patient, profile.patient_system)
    said = () if request.revision.withdrawn else _said(request, names, "preliminary")
    withdrawn = _said(replaced, names, "entered-in-error") if replaced else ()
    report = _report(request, profile, names, said or withdrawn, attachments)
    provenance = _provenance(request, names, (*said, *withdrawn))
    entries: list[Json] = [
        created(
            names.device, resources.device(request), search_token(uid_identifier(request.findings.model.device_uid))
        ),
        created(names.patient, resources.patient(request, profile.patient_system), search_token(known)),
        created(
            names.study,
            resources.imaging_study(request, names.patient),
            search_token(uid_identifier(request.source.study_uid)),
        ),
        *(created(one.urn, one.resource, search_token(own_identifier(one.urn))) for one in said),
        *(put(one.urn, one.resource, search_token(own_identifier(one.urn))) for one in withdrawn),
        _report_entry(request, names.report, report),
        created(names.provenance, provenance, search_tag(names.provenance)),
    ]
    return {
        "resourceType": "Bundle",
        "identifier": own_identifier(urn_of(request.document_id, "bundle")),
        "type": "transaction",
        "timestamp": instant(request.created_at),
        "entry": entries,
    }


def _said(request: DocumentRequest, names: _Names, status: str) -> tuple[Named, ...]:
    links = Links(patient=names.patient, device=names.device, study=names.study, status=status)
    return observations(request, _observation_names(request), links)


def _report_entry(request: DocumentRequest, urn: str, report: Resource) -> Resource:
    """A first version never overwrites: it may be an old attempt that arrives after its correction."""
    first = request.revision.version == 1 and not request.revision.withdrawn
    return (created if first else put)(urn, report, search_token(own_identifier(urn)))


def _report(
    request: DocumentRequest,
    profile: PlainProfile,
    names: _Names,
    results: Sequence[Named],
    attachments: Sequence[Attachment],
) -> Resource:
    code, performed = profile.report_code, request.source.performed_at
    withdrawn = request.revision.withdrawn
    return {
        "resourceType": "DiagnosticReport",
        "language": request.text.language,
        "text": _narrative(request),
        "identifier": [own_identifier(names.report), document_identifier(request.document_id)],
        "basedOn": [_order(request)],
        "status": _report_status(request),
        "category": [coded(f"{TERMINOLOGY}/v2-0074", "RAD", "Radiology")],
        "code": coded(code.system, code.code, code.display),
        "subject": reference(names.patient),
        "effectiveDateTime": instant(performed) if performed else None,
        "issued": instant(request.created_at),
        "performer": [_performer(request)],
        "result": [reference(one.urn) for one in results],
        "imagingStudy": [reference(names.study)],
        "conclusion": _withdrawal(request) if withdrawn else _conclusion(request),
        "presentedForm": [] if withdrawn else [attachment(one) for one in attachments],
    }


def _report_status(request: DocumentRequest) -> str:
    if request.revision.withdrawn:
        return "entered-in-error"
    return "preliminary" if request.revision.version == 1 else "amended"


def _withdrawal(request: DocumentRequest) -> str:
    return _WITHDRAWN.in_language(request.text.language)


def _conclusion(request: DocumentRequest) -> str:
    text = request.text
    return "\n\n".join(clean(part) for part in (text.conclusion, text.recommendation, *text.warnings) if part)


def _narrative(request: DocumentRequest) -> Resource:
    """The report for a reader without our codes; XHTML in which nothing of the text can become markup."""
    text = request.text
    if request.revision.withdrawn:
        body = f"<p>{escape(_withdrawal(request))}</p>"
    else:
        parts = zip(_HEADINGS[text.language], (text.description, text.conclusion, text.recommendation), strict=True)
        titled = [f"<p><b>{title}</b></p>{_paragraphs(part)}" for title, part in parts if clean(part)]
        body = "".join([*titled, *(_paragraphs(warning) for warning in text.warnings)])
    return {"status": "additional", "div": f'<div xmlns="http://www.w3.org/1999/xhtml">{body}</div>'}


def _paragraphs(text: str) -> str:
    return "".join(f"<p>{escape(line)}</p>" for line in clean(text).splitlines() if line.strip())


def _order(request: DocumentRequest) -> Json:
    order = request.order
    if order.placer:
        return {"type": "ServiceRequest", "identifier": identifier(order.placer, kind="PLAC")}
    if order.accession_number:
        number = identifier(Identifier(value=order.accession_number), kind="ACSN")
        return {"type": "ServiceRequest", "identifier": number}
    return None


def _performer(request: DocumentRequest) -> Json:
    if request.performer is None:
        return None
    known = {"system": URI_SYSTEM, "value": f"urn:oid:{request.performer.oid}"}
    return {"type": "Organization", "identifier": known, "display": request.performer.name}


def _provenance(request: DocumentRequest, names: _Names, results: Sequence[Named]) -> Resource:
    """Who made it from what: the Device assembled it, nobody has signed it."""
    activity = "NULLIFY" if request.revision.withdrawn else "CREATE" if request.revision.version == 1 else "UPDATE"
    earlier = request.revision.replaces_id
    revised: Json = {"role": "revision", "what": {"identifier": document_identifier(earlier)}} if earlier else None
    return {
        "resourceType": "Provenance",
        # Provenance has no identifier in R4; a tag is what a conditional create can ask for.
        "meta": {"tag": [own_tag(names.provenance)]},
        "target": [reference(names.report), *(reference(one.urn) for one in results)],
        "recorded": instant(request.created_at),
        "activity": coded(f"{TERMINOLOGY}/v3-DataOperation", activity),
        "agent": [
            {
                "type": coded(f"{TERMINOLOGY}/provenance-participant-type", "assembler", "Assembler"),
                "who": reference(names.device),
            }
        ],
        "entity": [{"role": "source", "what": reference(names.study)}, revised],
    }

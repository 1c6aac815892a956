"""What the model said as Observations: one per lesion, and one per label with the probability for the whole study.

Called by `bundle`. Codes of findings and sites are the card's; scores are those of the SR (TID 1500), under the same
DICOM codes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from dicom_node.ehr.context import DocumentRequest
from dicom_node.ehr.fhir.elements import (
    TERMINOLOGY,
    Json,
    Resource,
    coded,
    concept,
    instant,
    own_identifier,
    quantity,
    reference,
    uid_identifier,
)
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
from inference.findings import Lesion, Presence
from models.card import Label

_NO_SCORE: Final = coded(f"{TERMINOLOGY}/data-absent-reason", "not-performed")


@dataclass(frozen=True, kw_only=True, slots=True)
class Links:
    """URNs of the bundle's shared resources, and the status that all observations of a document have."""

    patient: str
    device: str
    study: str
    status: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Named:
    """A resource under its URN."""

    urn: str
    resource: Resource


def observations(request: DocumentRequest, names: Sequence[str], links: Links) -> tuple[Named, ...]:
    """All observations of a document: first those of the study, each with the lesions of its label, then the lesions.

    Parameters
    ----------
    request : DocumentRequest
    names : sequence of str
        URNs, one for each label of the card and then one for each lesion.
    links : Links
    """
    labels = len(request.card.labels)
    lesions = tuple(
        Named(urn=urn, resource=_of_lesion(request, lesion, urn, links))
        for lesion, urn in zip(request.findings.lesions, names[labels:], strict=True)
    )
    statements = study_statements(request.findings, request.card)
    whole = tuple(
        Named(urn=urn, resource=_of_study(request, said, urn, links) | _members(said, request, lesions))
        for said, urn in zip(statements, names[:labels], strict=True)
    )
    return whole + lesions


def _members(said: StudyStatement, request: DocumentRequest, lesions: Sequence[Named]) -> Resource:
    ours = [
        reference(named.urn)
        for lesion, named in zip(request.findings.lesions, lesions, strict=True)
        if lesion.label == said.label.key
    ]
    return {"hasMember": ours}


def _of_study(request: DocumentRequest, said: StudyStatement, urn: str, links: Links) -> Resource:
    return _common(request, said.label, links) | {
        "identifier": [own_identifier(urn)],
        "code": concept(said.label.finding, said.label.title.in_language(request.language)),
        "valueCodeableConcept": concept(PRESENCE[said.presence]),
        "bodySite": concept(said.label.site),
        "component": [_score(said.label, said.score)],
    }


def _of_lesion(request: DocumentRequest, lesion: Lesion, urn: str, links: Links) -> Resource:
    label = request.card.label(lesion.label)
    sizes: list[Json] = [
        {"code": concept(one.quantity), "valueQuantity": quantity(one.value, one.unit)} for one in lesion.measurements
    ]
    return _common(request, label, links) | {
        "identifier": [own_identifier(urn), uid_identifier(lesion.tracking_uid)],
        "code": concept(lesion.code, label.title.in_language(request.language)),
        "valueCodeableConcept": concept(PRESENCE[Presence.PRESENT]),
        "bodySite": concept(lesion.site),
        "component": [_score(label, lesion.score), _laterality(lesion), *sizes, _place(lesion)],
    }


def _common(request: DocumentRequest, label: Label, links: Links) -> Resource:
    performed = request.source.performed_at
    point = label.operating_point
    return {
        "resourceType": "Observation",
        "status": links.status,
        "category": [coded(f"{TERMINOLOGY}/observation-category", "imaging", "Imaging")],
        "subject": reference(links.patient),
        "effectiveDateTime": instant(performed) if performed else None,
        "issued": instant(request.created_at),
        "device": reference(links.device),
        "derivedFrom": [reference(links.study)],
        # Somebody may read an observation without its report.
        "note": [{"text": warning} for warning in request.text.warnings],
        "method": {"text": f"{request.findings.model.reference}, positive at a score of {point.threshold:g} or more"},
    }


def _score(label: Label, score: float | None) -> Resource:
    code = concept(score_code(label))
    if score is None:
        return {"code": code, "dataAbsentReason": _NO_SCORE}
    return {"code": code, "valueQuantity": quantity(score_percent(score), PERCENT)}


def _laterality(lesion: Lesion) -> Json:
    if lesion.laterality is None:
        return None
    return {"code": concept(LATERALITY), "valueCodeableConcept": concept(lesion.laterality)}


def _place(lesion: Lesion) -> Json:
    return {"code": {"text": "Place on the image"}, "valueString": place_text(lesion.region.key_plane)}

"""Documents and refusals for the exchange of Moscow: all modalities, any number of lesions, cards of several kinds."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from dicom_node.ehr.context import DocumentRequest, ProcessingTimes, RefusalNotice
from dicom_node.ehr.moscow.profile import MoscowProfile, read_profile
from inference.findings import Finding, Lesion, Measurement, Presence
from inference.refusals import Reason, Refusal
from models.card import Label, ModelCard
from models.codes import Code
from models.wording import Category, CategorySystem
from tests.results_cases import BREAST, LONG_AXIS, LUNG, MASS, MILLIMETRE, PIXEL, SHORT_AXIS, make_card
from tests.semd_cases import STUDY, findings, make_document

LEFT = Code(value="7771000", scheme="SCT", meaning="Left")
NODULE = Code(value="27925004", scheme="SCT", meaning="Nodule")
CALCIFICATION = Code(value="129769006", scheme="SCT", meaning="Calcification Cluster")
VOLUME = Code(value="118565006", scheme="SCT", meaning="Volume")
CUBIC_MILLIMETRE = Code(value="mm3", scheme="UCUM", meaning="cubic millimeter")
COME = datetime(2026, 11, 20, 6, 58, 1, tzinfo=UTC)
TIMES = ProcessingTimes(
    received_from=COME,
    received_until=COME + timedelta(seconds=40),
    begun=COME + timedelta(seconds=61),
    ended=COME + timedelta(seconds=75, microseconds=700_000),
)


def moscow_profile(**changed: Any) -> MoscowProfile:
    """The shipped profile with numbers for the models of the tests."""
    ids = {"test-mass": 7, "test-opacity": 8, "test-opacity@2.0.0": "eight-2"}
    return MoscowProfile.model_validate(read_profile("moscow").model_dump() | {"model_ids": ids} | changed)


def labelled(card: ModelCard, *labels: Label) -> ModelCard:
    """The same card with other labels."""
    return card.model_copy(update={"labels": labels})


def nodule_card() -> ModelCard:
    """A detector of nodules."""
    card = make_card()
    return labelled(card, card.labels[0].model_copy(update={"key": "nodule", "finding": NODULE, "site": LUNG}))


def breast_card(*, supported: tuple[CategorySystem, ...] = ()) -> ModelCard:
    """Masses that may be called cancer, calcifications, and BI-RADS 2 and 4 where it is supported."""
    card = make_card(cancer=True)
    mass = card.labels[0]
    others = [mass.model_copy(update={"key": "calcification", "finding": CALCIFICATION, "cancer": False})]
    for value in ("2", "4"):
        category = Category(system=CategorySystem.BI_RADS, value=value)
        others.append(mass.model_copy(update={"key": f"birads_{value}", "category": category, "cancer": False}))
    kept = others if supported else others[:1]
    return labelled(card, mass, *kept).model_copy(update={"supported_categories": supported})


def with_card(request: DocumentRequest, card: ModelCard, *, lesions: int) -> DocumentRequest:
    """The request with findings of another card."""
    return replace(request, card=card, findings=findings(card, lesions))


def moscow_document(study: str = "chest film", *, lesions: int = 2, whole: bool = True) -> DocumentRequest:
    """A request as the exchange needs it; `whole` says whether context is there that it does not need."""
    request = make_document(study, lesions=lesions, whole=whole)
    key_image = request.key_image or make_document(study).key_image
    request = replace(request, times=TIMES, key_image=key_image, document_id="d" * 64)
    return with_card(request, nodule_card(), lesions=lesions) if "CT" in study else request


def measured(lesion: Lesion, long_mm: float, short_mm: float, volume_mm3: float | None = None) -> Lesion:
    """The lesion with sizes in the patient."""
    sizes = [
        Measurement(quantity=LONG_AXIS, value=long_mm, unit=MILLIMETRE),
        Measurement(quantity=SHORT_AXIS, value=short_mm, unit=MILLIMETRE),
    ]
    if volume_mm3 is not None:
        sizes.append(Measurement(quantity=VOLUME, value=volume_mm3, unit=CUBIC_MILLIMETRE))
    return replace(lesion, measurements=tuple(sizes))


def in_pixels(lesion: Lesion) -> Lesion:
    """The lesion with a size on the picture only."""
    return replace(lesion, measurements=(Measurement(quantity=LONG_AXIS, value=40.0, unit=PIXEL),))


def of_breast(label: str, side: Code, score: float, *, present: bool = True) -> Finding:
    """What is said of one breast."""
    return Finding(
        label=label,
        code=MASS,
        site=BREAST,
        presence=Presence.PRESENT if present else Presence.ABSENT,
        score=score,
        raw_score=0.5,
        threshold=0.3,
        laterality=side,
    )


def refusal_notice(reason: Reason = Reason.INCOMPLETE, *, detail: str = "", **changed: Any) -> RefusalNotice:
    """That a model could not speak."""
    notice = RefusalNotice(
        document_id="e" * 64,
        created_at=TIMES.ended,
        study_uid=STUDY,
        model_name="test-mass",
        model_version="1.2.0",
        refusal=Refusal(reason=reason, detail=detail),
        times=TIMES,
    )
    return replace(notice, **changed)

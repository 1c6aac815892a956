"""Cards, findings and images for the tests of the text of reports; the figures in them are made up by the tests."""

from __future__ import annotations

import math
from collections.abc import Sequence

from dicom_node.wording import ShownImage
from inference.findings import (
    AnalysedImage,
    Box,
    Finding,
    Findings,
    Flag,
    Lesion,
    Measurement,
    ModelIdentity,
    PlanarRegion,
    Presence,
    Region,
    SeriesUid,
    SopUid,
    StudyUid,
)
from inference.postprocess import LONG_AXIS, MILLIMETER, SHORT_AXIS, SIDES
from inference.volumes.measure import CUBIC_MILLIMETER, VOLUME
from models.card import ModelCard

CALIBRATION = {"slope": 1.5, "intercept": -0.2}
OPACITY = {
    "key": "opacity",
    "title": {"en": "Lung opacity", "ru": "Затемнение лёгочной ткани"},
    "finding": {"value": "128305008", "scheme": "SCT", "meaning": "Abnormally opaque structure"},
    "site": {"value": "39607008", "scheme": "SCT", "meaning": "Lung"},
}
NODULE = OPACITY | {
    "key": "nodule",
    "title": {"en": "Lung nodule", "ru": "Очаг в лёгком"},
    "finding": {"value": "27925004", "scheme": "SCT", "meaning": "Nodule"},
}
LESION = {
    "key": "lesion",
    "title": {"en": "Breast lesion", "ru": "Изменение в молочной железе"},
    "finding": {"value": "52988006", "scheme": "SCT", "meaning": "Lesion"},
    "site": {"value": "76752008", "scheme": "SCT", "meaning": "Breast"},
}
STRANGE = {  # neither its code nor its site has words here
    "key": "strange",
    "title": {"en": "Odd thing", "ru": "Странность"},
    "finding": {"value": "1234567", "scheme": "SCT", "meaning": "Odd thing"},
    "site": {"value": "7654321", "scheme": "SCT", "meaning": "Odd place"},
}
KINDS = {"DX": OPACITY, "MG": LESION, "CT": NODULE, "US": STRANGE}


def card_of(
    *labels: dict[str, object],
    modality: str = "DX",
    use: str = "research",
    calibrated: bool = True,
    **more: object,
) -> ModelCard:
    """A card with these labels, each with an operating point of 0.3 for lesions and 0.2 for pictures."""
    points = {
        "lesion": {"threshold": 0.3, "chosen_by": "the tests"},
        "picture": {"threshold": 0.2, "chosen_by": "the tests"},
    }
    if calibrated:
        points |= {"lesion_calibration": CALIBRATION, "picture_calibration": CALIBRATION}
    identity = {
        "name": "test-model",
        "version": "1.2.0",
        "title": {"en": "Test detector", "ru": "Проверочный детектор"},
        "description": {"en": "For tests", "ru": "Для проверок"},
        "manufacturer": "radnode tests",
        "licence": "Apache-2.0",
        "use": use,
        "registration_number": "РЗН 2026/1" if use == "registered" else None,
    }
    return ModelCard.model_validate(
        {
            "identity": identity,
            "weights": [{"runtime": "onnx", "file": "model.onnx", "sha256": "a" * 64}],
            "input": {"kind": "projection", "height": 384, "width": 384},
            "output": {"kind": "center_heatmap", "stride": 8},
            "labels": [points | label for label in labels or (KINDS[modality],)],
            "intended_use": {
                "modalities": [modality],
                "statement": {"en": "For the tests.", "ru": "Для проверок."},
            },
            "training": {
                "description": "none",
                "licence": "none",
                "citation": "none",
                "films": 0,
                "patients": 0,
                "manifest_sha256": "b" * 64,
            },
            "evaluation": {"method": "none", "command": "none"},
            "limits": [{"en": "Not tested on children.", "ru": "Не испытана на детях."}],
        }
        | more
    )


def findings_of(
    card: ModelCard,
    *,
    lesions: int = 0,
    images: int = 1,
    planes: int = 1,
    side: str = "",
    in_mm: bool = True,
    flags: tuple[Flag, ...] = (),
    said: Sequence[Finding] | None = None,
    score: float = 0.874,
    center: tuple[float, float] = (0.2, 0.2),
    long_mm: float = 34.2,
) -> Findings:
    """Findings with `lesions` lesions of the card's labels in turn, and one statement a label on the study."""
    pictures = tuple(
        AnalysedImage(
            sop_instance_uid=SopUid(f"1.2.3.{number}"),
            sop_class_uid="1.2.840.10008.5.1.4.1.1.1",
            series_uid=SeriesUid("1.2.3"),
            rows=1000,
            columns=1000,
        )
        for number in range(images)
    )
    made = tuple(
        _lesion(
            number, card, pictures, planes=planes, side=side, in_mm=in_mm, score=score, center=center, long_mm=long_mm
        )
        for number in range(lesions)
    )
    with_lesions = {lesion.label for lesion in made}
    return Findings(
        model=ModelIdentity(
            name=card.identity.name,
            version=card.identity.version,
            weights_digest=card.weights_digest,
            model_digest=card.model_digest,
            device_uid=card.device_uid,
        ),
        study_uid=StudyUid("1.2"),
        inputs_digest="c" * 64,
        images=pictures,
        findings=tuple(of_study(card, label.key, label.key in with_lesions, score) for label in card.labels)
        if said is None
        else tuple(said),
        lesions=made,
        flags=flags,
    )


def of_study(
    card: ModelCard, key: str, present: bool, score: float = 0.874, image: str | None = None, side: str = ""
) -> Finding:
    """A statement on the study, on an image or on a side."""
    label = card.label(key)
    point = label.picture or label.lesion
    assert point is not None
    return Finding(
        label=key,
        code=label.finding,
        site=label.site,
        presence=Presence.PRESENT if present else Presence.ABSENT,
        score=score if present else 0.04,
        raw_score=0.5,
        threshold=point.threshold,
        sop_instance_uid=SopUid(image) if image else None,
        laterality=SIDES[side] if side else None,
    )


def shown_on(
    findings: Findings,
    modality: str,
    *,
    views: Sequence[str] = ("",),
    side: str = "",
    orientation: tuple[str, str] = ("", ""),
) -> dict[SopUid, ShownImage]:
    """What the images' headers say; views in turn."""
    return {
        image.sop_instance_uid: ShownImage(
            modality=modality,
            view=views[number % len(views)],
            laterality=side,
            row_direction=orientation[0],
            column_direction=orientation[1],
        )
        for number, image in enumerate(findings.images)
    }


def _lesion(
    number: int,
    card: ModelCard,
    pictures: tuple[AnalysedImage, ...],
    *,
    planes: int,
    side: str,
    in_mm: bool,
    score: float,
    center: tuple[float, float],
    long_mm: float,
) -> Lesion:
    label = card.labels[number % len(card.labels)]
    assert label.lesion is not None
    x, y = center[0] * 1000, center[1] * 1000
    box = Box(x_min=x - 20, y_min=y - 20, x_max=x + 20, y_max=y + 20)
    start = number % max(1, len(pictures) - planes + 1)
    long_axis = long_mm * (1 - 0.07 * number)
    short_axis = 0.8 * long_axis
    ellipsoid_mm3 = math.pi / 6 * long_axis * short_axis**2
    sizes = [
        Measurement(quantity=LONG_AXIS, value=long_axis, unit=MILLIMETER),
        Measurement(quantity=SHORT_AXIS, value=short_axis, unit=MILLIMETER),
        Measurement(quantity=VOLUME, value=ellipsoid_mm3, unit=CUBIC_MILLIMETER),
    ]
    return Lesion(
        label=label.key,
        code=label.finding,
        site=label.site,
        laterality=SIDES[side] if side else None,
        score=max(score - 0.04 * number, 0.3),
        raw_score=0.8,
        threshold=label.lesion.threshold,
        region=Region(
            planes=tuple(
                PlanarRegion(sop_instance_uid=one.sop_instance_uid, box=box) for one in pictures[start : start + planes]
            ),
            key=planes // 2,
            lps_min_mm=(0.0, 0.0, -130.0) if planes > 1 else None,
            lps_max_mm=(10.0, 10.0, -120.0) if planes > 1 else None,
        ),
        measurements=tuple(sizes[: 3 if planes > 1 else 2]) if in_mm else (),
        tracking_id=f"{label.key}-{number + 1}",
        tracking_uid=f"2.25.{number + 1}",
    )

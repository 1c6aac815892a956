"""Cards, findings and requests for the tests of result writers; the figures in them are made up by the tests."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from pydicom import Dataset, dcmread

from dicom_node.results.profile import Profile
from dicom_node.results.request import EncodeRequest, ObjectRef
from dicom_node.results.uids import uid_of
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
from inference.refusals import Refusal
from models.card import ModelCard
from models.codes import Code

NOON = datetime(2026, 3, 2, 12, 0, 5, tzinfo=UTC)
LUNG = Code(value="39607008", scheme="SCT", meaning="Lung")
BREAST = Code(value="76752008", scheme="SCT", meaning="Breast")
RIGHT = Code(value="24028007", scheme="SCT", meaning="Right")
OPACITY = Code(value="128480000", scheme="SCT", meaning="Lung opacity")
MASS = Code(value="4147007", scheme="SCT", meaning="Mass")
LONG_AXIS = Code(value="103339001", scheme="SCT", meaning="Long Axis")
SHORT_AXIS = Code(value="103340004", scheme="SCT", meaning="Short Axis")
MILLIMETRE = Code(value="mm", scheme="UCUM", meaning="millimeter")
PIXEL = Code(value="{pixels}", scheme="UCUM", meaning="pixels")


def make_card(*, cancer: bool = False, version: str = "1.2.0") -> ModelCard:
    """A card with one label: a mass of the breast (`cancer`) or an opacity of the lung."""
    title = (
        {"en": "Breast mass", "ru": "Образование молочной железы"}
        if cancer
        else {"en": "Lung opacity", "ru": "Затемнение в лёгком"}
    )
    return ModelCard.model_validate(
        {
            "identity": {
                "name": "test-mass" if cancer else "test-opacity",
                "version": version,
                "title": {"en": "Test detector", "ru": "Проверочный детектор"},
                "description": {"en": "For tests", "ru": "Для проверок"},
                "manufacturer": "radnode tests",
                "licence": "Apache-2.0",
            },
            "weights": [{"runtime": "onnx", "file": "model.onnx", "sha256": "a" * 64}],
            "input": {"kind": "projection", "height": 384, "width": 384},
            "output": {"kind": "center_heatmap", "stride": 8},
            "labels": [
                {
                    "key": "mass" if cancer else "opacity",
                    "title": title,
                    "finding": (MASS if cancer else OPACITY).model_dump(),
                    "site": (BREAST if cancer else LUNG).model_dump(),
                    "cancer": cancer,
                    "lesion": {"threshold": 0.35, "chosen_by": "the tests"},
                }
            ],
            "intended_use": {
                "modalities": ["CR", "DX", "MG", "CT"],
                "statement": {"en": "For the tests of this project.", "ru": "Для проверок этого проекта."},
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
            "limits": [
                {
                    "en": "Does not see pneumothorax, fractures or nodules under 10 mm.",
                    "ru": "Не распознаёт пневмоторакс, переломы и узелки менее 10 мм.",
                },
                {"en": "Not tested on children.", "ru": "Не испытана на детях."},
            ],
        }
    )


def headers_of(paths: Sequence[Path]) -> dict[SopUid, tuple[Path, Dataset]]:
    """Source files by SOP Instance UID, with their headers, in the order given."""
    found = {}
    for path in paths:
        header = dcmread(path, stop_before_pixels=True)
        found[SopUid(str(header.SOPInstanceUID))] = (path, header)
    return found


def make_findings(
    paths: Sequence[Path],
    card: ModelCard,
    *,
    lesions: int = 2,
    flags: tuple[Flag, ...] = (),
    planes: int = 1,
    present_without_place: bool = False,
) -> Findings:
    """Findings with `lesions` lesions spread over the images (or frames), `planes` neighbouring slices each."""
    sources = headers_of(paths)
    images = tuple(
        AnalysedImage(
            sop_instance_uid=uid,
            sop_class_uid=str(header.SOPClassUID),
            series_uid=SeriesUid(str(header.SeriesInstanceUID)),
            rows=int(header.Rows),
            columns=int(header.Columns),
        )
        for uid, (_, header) in sources.items()
    )
    first = next(iter(sources.values()))[1]
    label = card.labels[0]
    inputs_digest = hashlib.sha256("".join(sources).encode()).hexdigest()
    made = tuple(_lesion(number, images, sources, card, planes, inputs_digest) for number in range(lesions))
    statement = Finding(
        label=label.key,
        code=label.finding,
        site=label.site,
        presence=Presence.PRESENT if lesions or present_without_place else Presence.ABSENT,
        score=0.874 if lesions or present_without_place else 0.12,
        raw_score=0.5,
        threshold=label.lesion.threshold,
        sop_instance_uid=images[0].sop_instance_uid,
    )
    return Findings(
        model=ModelIdentity(
            name=card.identity.name,
            version=card.identity.version,
            weights_digest=card.weights_digest,
            model_digest=card.model_digest,
            device_uid=card.device_uid,
        ),
        study_uid=StudyUid(str(first.StudyInstanceUID)),
        inputs_digest=inputs_digest,
        images=images,
        findings=(statement,),
        lesions=made,
        flags=flags,
    )


def _lesion(
    number: int,
    images: tuple[AnalysedImage, ...],
    sources: dict[SopUid, tuple[Path, Dataset]],
    card: ModelCard,
    planes: int,
    inputs_digest: str,
) -> Lesion:
    label = card.labels[0]
    start = (number * 3) % max(1, len(images) - planes + 1)
    chosen = images[start : start + planes]
    regions = tuple(_plane(number, image, sources[image.sop_instance_uid][1]) for image in chosen)
    return Lesion(
        label=label.key,
        code=label.finding,
        site=label.site,
        laterality=RIGHT if number % 2 == 0 else None,
        score=0.874 - 0.13 * number,
        raw_score=0.8,
        threshold=label.lesion.threshold,
        region=Region(planes=regions, key=len(regions) // 2),
        measurements=(
            Measurement(quantity=LONG_AXIS, value=34.25 + number, unit=MILLIMETRE),
            Measurement(quantity=SHORT_AXIS, value=27.5, unit=MILLIMETRE),
        ),
        tracking_id=f"{label.key} {number + 1}",
        tracking_uid=uid_of(inputs_digest, str(number)),
    )


def _plane(number: int, image: AnalysedImage, header: Dataset) -> PlanarRegion:
    width, height = image.columns / 5, image.rows / 6
    left = image.columns * (0.12 + 0.31 * (number % 3))
    top = image.rows * (0.22 + 0.17 * (number % 4))
    frames = int(header.get("NumberOfFrames") or 1)
    box = Box(x_min=left, y_min=top, x_max=left + width, y_max=top + height)
    outline = ()
    if number % 2 == 1:  # every other lesion has an outline, a hexagon within its box
        outline = (
            (left, top + height / 2),
            (left + width / 4, top),
            (left + 3 * width / 4, top),
            (left + width, top + height / 2),
            (left + 3 * width / 4, top + height),
            (left + width / 4, top + height),
        )
    frame = 1 + number % frames if frames > 1 else None
    return PlanarRegion(sop_instance_uid=image.sop_instance_uid, frame_number=frame, box=box, outline=outline)


def make_request(
    paths: Sequence[Path],
    *,
    card: ModelCard | None = None,
    findings: Findings | None = None,
    refusal: Refusal | None = None,
    profile: Profile | None = None,
    predecessors: tuple[ObjectRef, ...] = (),
) -> EncodeRequest:
    """A request over source files, at noon of a fixed day."""
    sources = headers_of(paths)
    study = next(iter(sources.values()))[1].StudyInstanceUID
    return EncodeRequest(
        study_uid=StudyUid(str(study)),
        sources={uid: path for uid, (path, _) in sources.items()},
        card=card,
        findings=findings,
        refusal=refusal,
        profile=profile or Profile(),
        content_time=NOON,
        predecessors=predecessors,
    )

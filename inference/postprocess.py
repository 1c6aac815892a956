"""From a network's arrays to what is said: peaks, boxes, suppression, calibration, sizes, and the study's verdict.

Called by `inference.engine` with one picture at a time, and by `training` and `eval`, which use `decode` with a
threshold of their own. Pure NumPy; codes, thresholds and calibration come from the card. Figures are rounded to
steps far below what matters, so that batch size and runtime do not make another result of the same picture.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from inference.findings import Box, Finding, Lesion, Measurement, PlanarRegion, Presence, Region
from inference.images import ImageHeader
from inference.preprocess import Transform
from inference.refusals import Reason, Refused
from models.card import Calibration, CenterHeatmapOutput, Label, ModelCard
from models.codes import Code

LONG_AXIS = Code(value="103339001", scheme="SCT", meaning="Long axis")
SHORT_AXIS = Code(value="103340004", scheme="SCT", meaning="Short axis")
AREA = Code(value="42798000", scheme="SCT", meaning="Area")
MILLIMETER = Code(value="mm", scheme="UCUM", meaning="millimeter")
SQUARE_MILLIMETER = Code(value="mm2", scheme="UCUM", meaning="square millimeter")

_SCORE_DECIMALS = 4
_BOX_DECIMALS = 2  # of a source pixel
_SIZE_DECIMALS = 1
_LEFT, _RIGHT = (
    Code(value="7771000", scheme="SCT", meaning="Left"),
    Code(value="24028007", scheme="SCT", meaning="Right"),
)
_SIDES = {"L": _LEFT, "R": _RIGHT}
_OUTPUT_AXES = 4
_CANDIDATES_PER_MARK = 20  # beyond these, peaks are noise of a flat map


@dataclass(frozen=True, kw_only=True, slots=True)
class Mark:
    """One place a network marks: channel of the label, box in source pixels, logit of its peak."""

    label_index: int
    box: Box
    logit: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """Which picture the arrays are of; its pixels are no longer needed here."""

    header: ImageHeader
    frame_number: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class PictureResult:
    """What is said of one picture; the ordinals of tracking UIDs are given when the study is put together."""

    findings: tuple[Finding, ...]
    lesions: tuple[Lesion, ...]


def sigmoid(logit: float) -> float:
    """Logistic function without overflow."""
    return float(0.5 * (1.0 + np.tanh(0.5 * logit)))


def calibrated(logit: float, calibration: Calibration) -> float:
    """Platt scaling of a logit, rounded: what a threshold compares."""
    return round(sigmoid(calibration.slope * logit + calibration.intercept), _SCORE_DECIMALS)


def decode(
    heatmap: NDArray[np.float32], ltrb: NDArray[np.float32], output: CenterHeatmapOutput, transform: Transform
) -> tuple[Mark, ...]:
    """Marks of one picture, strongest first, overlapping ones of one label suppressed.

    Parameters
    ----------
    heatmap : float32 (labels, h, w)
        Logits of a lesion's centre.
    ltrb : float32 (4, h, w)
        Distances in input pixels from the cell's centre to the left, top, right and bottom edges.
    output : CenterHeatmapOutput
        Stride, number of marks, overlap.
    transform : Transform
        The way back to source pixels.
    """
    marks: list[Mark] = []
    labels, rows, columns = np.nonzero(_peaks(heatmap))
    order = np.argsort(-heatmap[labels, rows, columns], kind="stable")[: output.max_lesions * _CANDIDATES_PER_MARK]
    for label, row, column in zip(labels[order], rows[order], columns[order], strict=True):
        box = _box(ltrb[:, row, column], int(row), int(column), output.stride, transform)
        if box is None or any(mark.label_index == label and iou(mark.box, box) > output.nms_iou for mark in marks):
            continue
        marks.append(Mark(label_index=int(label), box=box, logit=float(heatmap[label, row, column])))
        if len(marks) == output.max_lesions:
            break
    return tuple(marks)


def iou(one: Box, other: Box) -> float:
    """Intersection over union of two boxes."""
    width = min(one.x_max, other.x_max) - max(one.x_min, other.x_min)
    height = min(one.y_max, other.y_max) - max(one.y_min, other.y_min)
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    return shared / (one.area + other.area - shared)


def _peaks(heatmap: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Cells not below any of their eight neighbours."""
    framed = np.pad(heatmap, ((0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    neighbours = np.lib.stride_tricks.sliding_window_view(framed, (3, 3), axis=(1, 2))
    return np.asarray(heatmap >= neighbours.max(axis=(-2, -1)))


def _box(distances: NDArray[np.float32], row: int, column: int, stride: int, transform: Transform) -> Box | None:
    x, y = (column + 0.5) * stride, (row + 0.5) * stride
    left, top, right, bottom = (float(value) for value in distances)
    box = transform.box_to_source(x - left, y - top, x + right, y + bottom)
    if box is None:
        return None
    x_min, y_min, x_max, y_max = (round(value, _BOX_DECIMALS) for value in (box.x_min, box.y_min, box.x_max, box.y_max))
    return Box(x_min=x_min, y_min=y_min, x_max=x_max, y_max=y_max) if x_min < x_max and y_min < y_max else None


def say(
    outputs: Mapping[str, NDArray[np.float32]], picture: Picture, transform: Transform, card: ModelCard
) -> PictureResult:
    """Findings and lesions of one picture.

    Parameters
    ----------
    outputs : mapping of name to float32 array
        The network's outputs for this picture alone, without the batch axis.

    Raises
    ------
    Refused
        MODEL_FAILED when outputs are missing, have another shape than the card says, or are not finite.
    """
    heatmap, ltrb, logits = _checked(outputs, card)
    marks = decode(heatmap, ltrb, card.output, transform)
    lesions = tuple(
        lesion for mark in marks if (lesion := _lesion(mark, card.labels[mark.label_index], picture)) is not None
    )
    findings = tuple(
        _picture_finding(label, picture, None if logits is None else float(logits[index]), heatmap[index])
        for index, label in enumerate(card.labels)
    )
    return PictureResult(findings=findings, lesions=lesions)


def _checked(
    outputs: Mapping[str, NDArray[np.float32]], card: ModelCard
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32] | None]:
    names = [name for name in (card.output.heatmap, card.output.ltrb, card.output.picture) if name]
    missing = [name for name in names if name not in outputs]
    if missing:
        raise Refused(Reason.MODEL_FAILED, f"no output {', '.join(missing)}")
    if not all(np.isfinite(outputs[name]).all() for name in names):
        raise Refused(Reason.MODEL_FAILED, "the network gave values that are not numbers")
    grid = (card.input.height // card.output.stride, card.input.width // card.output.stride)
    heatmap, ltrb = outputs[card.output.heatmap], outputs[card.output.ltrb]
    picture = outputs[card.output.picture] if card.output.picture else None
    labels = len(card.labels)
    if heatmap.shape != (labels, *grid) or ltrb.shape != (_OUTPUT_AXES, *grid):
        raise Refused(Reason.MODEL_FAILED, f"outputs of shape {heatmap.shape} and {ltrb.shape}, grid {grid}")
    if picture is not None and picture.shape != (labels,):
        raise Refused(Reason.MODEL_FAILED, f"picture output of shape {picture.shape}, {labels} label(s)")
    return heatmap, ltrb, picture


def _lesion(mark: Mark, label: Label, picture: Picture) -> Lesion | None:
    score = calibrated(mark.logit, label.lesion_calibration)
    if score < label.lesion.threshold:
        return None
    header = picture.header
    plane = PlanarRegion(sop_instance_uid=header.sop_instance_uid, frame_number=picture.frame_number, box=mark.box)
    return Lesion(
        label=label.key,
        code=label.finding,
        site=label.site,
        laterality=_SIDES.get(header.laterality),
        score=score,
        raw_score=round(sigmoid(mark.logit), _SCORE_DECIMALS),
        threshold=label.lesion.threshold,
        region=Region(planes=(plane,)),
        measurements=measurements(mark.box, header.spacing_mm),
        tracking_id="",
        tracking_uid="",
    )


def measurements(box: Box, spacing_mm: tuple[float, float] | None) -> tuple[Measurement, ...]:
    """Long and short side and area of the box in mm; nothing without trustworthy spacing."""
    if spacing_mm is None:
        return ()
    height = (box.y_max - box.y_min) * spacing_mm[0]
    width = (box.x_max - box.x_min) * spacing_mm[1]
    sizes = ((LONG_AXIS, max(width, height), MILLIMETER), (SHORT_AXIS, min(width, height), MILLIMETER))
    found = (*sizes, (AREA, width * height, SQUARE_MILLIMETER))
    return tuple(
        Measurement(quantity=quantity, value=round(value, _SIZE_DECIMALS), unit=unit) for quantity, value, unit in found
    )


def _picture_finding(label: Label, picture: Picture, logit: float | None, heatmap: NDArray[np.float32]) -> Finding:
    """The picture's own logit where the network gives one and the card judges it, else the strongest mark."""
    if logit is not None and label.picture is not None:
        calibration, threshold = label.picture_calibration, label.picture.threshold
    else:
        logit, calibration, threshold = float(heatmap.max()), label.lesion_calibration, label.lesion.threshold
    score = calibrated(logit, calibration)
    return Finding(
        label=label.key,
        code=label.finding,
        site=label.site,
        presence=Presence.PRESENT if score >= threshold else Presence.ABSENT,
        score=score,
        raw_score=round(sigmoid(logit), _SCORE_DECIMALS),
        threshold=threshold,
        sop_instance_uid=picture.header.sop_instance_uid,
    )


def study_findings(pictures: Sequence[PictureResult]) -> tuple[Finding, ...]:
    """Findings of all pictures and, for each label, one of the whole study: that of its most suspicious picture."""
    of_images = tuple(finding for picture in pictures for finding in picture.findings)
    strongest: dict[str, Finding] = {}
    for finding in of_images:
        best = strongest.get(finding.label)
        if best is None or finding.score > best.score:
            strongest[finding.label] = finding
    return tuple(replace(finding, sop_instance_uid=None) for finding in strongest.values()) + of_images


def study_lesions(
    pictures: Sequence[PictureResult], *, study_uid: str, model_digest: str, inputs_digest: str
) -> tuple[Lesion, ...]:
    """All lesions, most suspicious first, each with its tracking identifier.

    The UID is derived from study, model, inputs and ordinal: a repeated analysis names the same lesion the same.
    """
    lesions = [lesion for picture in pictures for lesion in picture.lesions]
    lesions.sort(key=lambda lesion: (-lesion.score, lesion.region.key_plane.sop_instance_uid, _place(lesion)))
    return tuple(
        replace(lesion, tracking_id=f"{lesion.label}-{ordinal}", tracking_uid=uid)
        for ordinal, lesion in enumerate(lesions, start=1)
        for uid in (_derived_uid(study_uid, model_digest, inputs_digest, str(ordinal)),)
    )


def _place(lesion: Lesion) -> tuple[float, float]:
    box = lesion.region.key_plane.box
    return box.y_min, box.x_min


def _derived_uid(*parts: str) -> str:
    """``2.25.`` and 128 bits of a digest, PS3.5 B.2."""
    return f"2.25.{int(hashlib.sha256(chr(10).join(parts).encode()).hexdigest()[:32], 16)}"

"""From what a network marks to what is said: calibration, thresholds, sizes, and the study's verdict.

Called by `inference.engine` with one picture at a time. Arrays are read by `inference.outputs`, whose `decode` and
`Mark` training and eval take from here with thresholds of their own. Pure NumPy; codes, thresholds and calibration come
from the card. Figures are rounded to steps far below what matters, so that batch size and runtime do not make another
result of the same picture.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from inference.findings import Box, Finding, Lesion, Measurement, PlanarRegion, Presence, Region, SopUid
from inference.images import ImageHeader
from inference.outputs import decode_outputs
from inference.outputs.center_heatmap import decode
from inference.outputs.seen import Mark, Seen, iou, sigmoid
from inference.preprocess import Transform
from models.card import Calibration, Label, ModelCard
from models.codes import Code

__all__ = [
    "Mark",
    "Picture",
    "PictureResult",
    "ScoredMark",
    "calibrated",
    "decode",
    "iou",
    "measurements",
    "say",
    "sigmoid",
    "study_findings",
    "study_lesions",
]

LONG_AXIS = Code(value="103339001", scheme="SCT", meaning="Long axis")
SHORT_AXIS = Code(value="103340004", scheme="SCT", meaning="Short axis")
AREA = Code(value="42798000", scheme="SCT", meaning="Area")
MILLIMETER = Code(value="mm", scheme="UCUM", meaning="millimeter")
SQUARE_MILLIMETER = Code(value="mm2", scheme="UCUM", meaning="square millimeter")

_SCORE_DECIMALS = 4
_SIZE_DECIMALS = 1
_LEFT, _RIGHT = (
    Code(value="7771000", scheme="SCT", meaning="Left"),
    Code(value="24028007", scheme="SCT", meaning="Right"),
)
SIDES = {"L": _LEFT, "R": _RIGHT}


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """Which picture the arrays are of; its pixels are no longer needed here."""

    header: ImageHeader
    frame_number: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredMark:
    """A place that the network marks, whatever its score: what an evaluation draws curves from and no result shows.

    Attributes
    ----------
    label : str
    score : float
        Calibrated, 0 to 1.
    logit : float
        Before calibration.
    sop_instance_uid : SopUid or None
        Of the picture; None in volumes.
    box : Box or None
        In source pixels of the picture; None in volumes.
    center_mm, size_mm : (x, y, z) or None
        In volumes, in the patient (LPS): centre and sides of the box along the axes.
    """

    label: str
    score: float
    logit: float
    sop_instance_uid: SopUid | None = None
    box: Box | None = None
    center_mm: tuple[float, float, float] | None = None
    size_mm: tuple[float, float, float] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class PictureResult:
    """What is said of one picture; the ordinals of tracking UIDs are given when the study is put together.

    `marks` are all places that the network marks, those below the threshold too; nothing is written of them.
    """

    findings: tuple[Finding, ...]
    lesions: tuple[Lesion, ...]
    marks: tuple[ScoredMark, ...] = ()


def calibrated(logit: float, calibration: Calibration) -> float:
    """Platt scaling of a logit, rounded: what a threshold compares."""
    return round(sigmoid(calibration.slope * logit + calibration.intercept), _SCORE_DECIMALS)


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
    seen = decode_outputs(outputs, card, transform)
    lesions = tuple(
        lesion for mark in seen.marks if (lesion := _lesion(mark, card.labels[mark.label_index], picture)) is not None
    )
    findings = tuple(_picture_finding(label, picture, seen, index) for index, label in enumerate(card.labels))
    marks = tuple(_scored(mark, card.labels[mark.label_index], picture) for mark in seen.marks)
    return PictureResult(findings=findings, lesions=lesions, marks=marks)


def _scored(mark: Mark, label: Label, picture: Picture) -> ScoredMark:
    return ScoredMark(
        label=label.key,
        score=calibrated(mark.logit, label.lesion_calibration),
        logit=mark.logit,
        sop_instance_uid=picture.header.sop_instance_uid,
        box=mark.box,
    )


def _lesion(mark: Mark, label: Label, picture: Picture) -> Lesion | None:
    assert label.lesion is not None, "the card's validator sees to it: the output marks places"
    score = calibrated(mark.logit, label.lesion_calibration)
    if score < label.lesion.threshold:
        return None
    header = picture.header
    plane = PlanarRegion(
        sop_instance_uid=header.sop_instance_uid,
        frame_number=picture.frame_number,
        box=mark.box,
        outline=mark.outline,
    )
    return Lesion(
        label=label.key,
        code=label.finding,
        site=label.site,
        laterality=SIDES.get(header.laterality),
        score=score,
        raw_score=round(sigmoid(mark.logit), _SCORE_DECIMALS),
        threshold=label.lesion.threshold,
        region=Region(planes=(plane,)),
        measurements=measurements(mark.box, header.spacing_mm, mark.outline),
        tracking_id="",
        tracking_uid="",
    )


def measurements(
    box: Box, spacing_mm: tuple[float, float] | None, outline: tuple[tuple[float, float], ...] = ()
) -> tuple[Measurement, ...]:
    """Long and short axis in mm and area in mm2; nothing without trustworthy spacing.

    Of a box its sides. Of an outline the largest distance of two of its points, its extent across that line, and the
    area of the polygon.
    """
    if spacing_mm is None:
        return ()
    if outline:
        long, short, area = _polygon_sizes(np.asarray(outline) * (spacing_mm[1], spacing_mm[0]))
    else:
        sides = (box.x_max - box.x_min) * spacing_mm[1], (box.y_max - box.y_min) * spacing_mm[0]
        long, short, area = max(sides), min(sides), sides[0] * sides[1]
    found = ((LONG_AXIS, long, MILLIMETER), (SHORT_AXIS, short, MILLIMETER), (AREA, area, SQUARE_MILLIMETER))
    return tuple(
        Measurement(quantity=quantity, value=round(value, _SIZE_DECIMALS), unit=unit) for quantity, value, unit in found
    )


def _polygon_sizes(points: NDArray[np.float64]) -> tuple[float, float, float]:
    """Long axis, extent across it, and area (shoelace formula) of a polygon (K, 2)."""
    farthest, axis = 0.0, np.asarray([1.0, 0.0])
    for point in points:  # one point against all at a time: an outline of a large map has thousands
        away = points - point
        lengths = np.hypot(away[:, 0], away[:, 1])
        if lengths.max() > farthest:
            farthest = float(lengths.max())
            axis = away[int(lengths.argmax())] / farthest
    across = points @ np.asarray([-axis[1], axis[0]])
    x, y = points[:, 0], points[:, 1]
    area = abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2
    return farthest, float(across.max() - across.min()), area


def _picture_finding(label: Label, picture: Picture, seen: Seen, index: int) -> Finding:
    """The picture's own logit where the network gives one and the card judges it, else the strongest mark."""
    if seen.picture and label.picture is not None:
        logit, calibration, threshold = seen.picture[index], label.picture_calibration, label.picture.threshold
    else:
        assert label.lesion is not None, "the card's validator sees to it: the output marks places"
        logit, calibration, threshold = seen.strongest[index], label.lesion_calibration, label.lesion.threshold
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

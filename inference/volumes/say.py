"""From places on the grid to `Findings` of a volume: scores, regions on slices, sizes in the patient.

Called by `volumes.run`. Codes, thresholds and calibration come from the card, as for pictures; two marks whose voxels
are mostly the same are one lesion, the stronger.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inference.findings import (
    AnalysedImage,
    Box,
    Finding,
    Findings,
    Flag,
    Lesion,
    Measurement,
    PlanarRegion,
    Presence,
    Region,
    StudyUid,
)
from inference.images import Volume
from inference.outputs.components import outline
from inference.outputs.seen import logit, sigmoid
from inference.postprocess import PictureResult, ScoredMark, calibrated, study_lesions
from inference.postprocess import measurements as box_measurements
from inference.study_run import identity
from inference.volumes import measure
from inference.volumes.grid import Grid, Triple
from inference.volumes.masks import components
from inference.volumes.merge import Place
from inference.volumes.segment import LesionVoxels, segment
from models.card import Label, ModelCard

_SCORE_DECIMALS = 4
_MM_DECIMALS = 2
_SAME = 0.5  # of the smaller lesion's voxels shared: they are one


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Spoken:
    label: Label
    place: Place
    score: float
    voxels: LesionVoxels | None


def say(
    places: Sequence[Place],
    volume: Volume,
    grid: Grid,
    card: ModelCard,
    *,
    study_uid: str,
    inputs_digest: str,
    whole: tuple[float, ...] = (),
    flags: tuple[Flag, ...] = (),
) -> Findings:
    """Findings of a volume.

    Parameters
    ----------
    places : sequence of Place
        Strongest first.
    whole : tuple of float
        For each label the logit of the whole, where the network gives one: the highest of all tiles.
    """
    said = say_all(
        places, volume, grid, card, study_uid=study_uid, inputs_digest=inputs_digest, whole=whole, flags=flags
    )
    return said[0]


def say_all(
    places: Sequence[Place],
    volume: Volume,
    grid: Grid,
    card: ModelCard,
    *,
    study_uid: str,
    inputs_digest: str,
    whole: tuple[float, ...] = (),
    flags: tuple[Flag, ...] = (),
) -> tuple[Findings, tuple[ScoredMark, ...]]:
    """`say`, and all places with their scores, those below the threshold too: evaluations draw curves from them."""
    spoken = _spoken(places, volume, grid, card)
    lesions = [_lesion(one, volume, grid) for one in spoken]
    findings = Findings(
        model=identity(card),
        study_uid=StudyUid(study_uid),
        inputs_digest=inputs_digest,
        images=_images(volume),
        findings=tuple(_finding(label, index, places, whole) for index, label in enumerate(card.labels)),
        lesions=study_lesions(
            [PictureResult(findings=(), lesions=tuple(lesions))],
            study_uid=study_uid,
            model_digest=card.model_digest,
            inputs_digest=inputs_digest,
        ),
        flags=flags,
    )
    said = {id(one.place) for one in spoken}
    scored = [(place, _scored(place, volume, grid, card)) for place in places]
    return findings, tuple(
        mark for place, mark in scored if id(place) in said or mark.score < _threshold(card, place)
    )  # a place that only repeats a stronger one is not marked again


def _threshold(card: ModelCard, place: Place) -> float:
    point = card.labels[place.label_index].lesion
    assert point is not None, "the card's validator sees to it: the output marks places"
    return point.threshold


def _scored(place: Place, volume: Volume, grid: Grid, card: ModelCard) -> ScoredMark:
    """The place with its calibrated score, in the patient; a grid's edges lie half a voxel from centres."""
    label = card.labels[place.label_index]
    low, high = grid.to_source(place.low) - 0.5, grid.to_source(place.high) - 0.5
    corners = np.asarray([volume.to_lps_mm(*corner) for corner in itertools.product(*zip(low, high, strict=True))])
    return ScoredMark(
        label=label.key,
        score=calibrated(place.logit, label.lesion_calibration),
        logit=place.logit,
        center_mm=_rounded(corners.mean(axis=0)),
        size_mm=_rounded(corners.max(axis=0) - corners.min(axis=0)),
    )


def _images(volume: Volume) -> tuple[AnalysedImage, ...]:
    return tuple(
        AnalysedImage(
            sop_instance_uid=header.sop_instance_uid,
            sop_class_uid=header.sop_class_uid,
            series_uid=header.series_uid,
            rows=header.rows,
            columns=header.columns,
        )
        for header in volume.headers
    )


def _spoken(places: Sequence[Place], volume: Volume, grid: Grid, card: ModelCard) -> list[_Spoken]:
    """Places at or above the operating point, with their voxels; those that repeat a stronger one left out."""
    spoken: list[_Spoken] = []
    for place in places:
        label = card.labels[place.label_index]
        assert label.lesion is not None, "the card's validator sees to it: the output marks places"
        score = calibrated(place.logit, label.lesion_calibration)
        if score < label.lesion.threshold:
            continue
        voxels = segment(volume, place, grid)
        if voxels is not None and any(
            other.label is label and other.voxels is not None and _shared(voxels, other.voxels) > _SAME
            for other in spoken
        ):
            continue
        spoken.append(_Spoken(label=label, place=place, score=score, voxels=voxels))
    return spoken


def _shared(one: LesionVoxels, other: LesionVoxels) -> float:
    """Voxels of both, as a part of those of the smaller."""
    low = np.maximum(one.start, other.start)
    high = np.minimum(np.add(one.start, one.mask.shape), np.add(other.start, other.mask.shape))
    if (low >= high).any():
        return 0.0
    cuts = [
        tuple(slice(int(begin), int(end)) for begin, end in zip(low - each.start, high - each.start, strict=True))
        for each in (one, other)
    ]
    both = int((one.mask[cuts[0]] & other.mask[cuts[1]]).sum())
    return both / min(int(one.mask.sum()), int(other.mask.sum()))


def _finding(label: Label, index: int, places: Sequence[Place], whole: tuple[float, ...]) -> Finding:
    """The study's own logit where the network gives one and the card judges it, else the strongest place."""
    if whole and label.picture is not None:
        value, calibration, threshold = whole[index], label.picture_calibration, label.picture.threshold
    else:
        assert label.lesion is not None, "the card's validator sees to it: the output marks places"
        nothing = float(logit(np.asarray(0.0)))
        value = max((place.logit for place in places if place.label_index == index), default=nothing)
        calibration, threshold = label.lesion_calibration, label.lesion.threshold
    score = calibrated(value, calibration)
    return Finding(
        label=label.key,
        code=label.finding,
        site=label.site,
        presence=Presence.PRESENT if score >= threshold else Presence.ABSENT,
        score=score,
        raw_score=round(sigmoid(value), _SCORE_DECIMALS),
        threshold=threshold,
    )


def _lesion(spoken: _Spoken, volume: Volume, grid: Grid) -> Lesion:
    label, place = spoken.label, spoken.place
    assert label.lesion is not None, "the card's validator sees to it: the output marks places"
    if spoken.voxels is None:
        region, sizes = _box_region(place, volume, grid)
    else:
        region = _mask_region(spoken.voxels, volume)
        sizes = measure.measurements(measure.sizes(spoken.voxels, volume), volume, region.key_plane)
    return Lesion(
        label=label.key,
        code=label.finding,
        site=label.site,
        score=spoken.score,
        raw_score=round(sigmoid(place.logit), _SCORE_DECIMALS),
        threshold=label.lesion.threshold,
        region=region,
        measurements=sizes,
        tracking_id="",
        tracking_uid="",
    )


def _mask_region(voxels: LesionVoxels, volume: Volume) -> Region:
    """The mask slice by slice; the slice with most of it is shown first."""
    planes: list[PlanarRegion] = []
    areas: list[int] = []
    for index, plane in enumerate(voxels.mask, start=voxels.start[0]):
        for low, _, part in components(plane[np.newaxis]):
            corner = low[2] + voxels.start[2], low[1] + voxels.start[1]
            planes.append(_outlined(part[0], corner, volume, index))
            areas.append(int(part.sum()))
    lps_min, lps_max = _bounds_mm(np.argwhere(voxels.mask) + voxels.start, volume)
    return Region(planes=tuple(planes), key=int(np.argmax(areas)), lps_min_mm=lps_min, lps_max_mm=lps_max)


def _outlined(part: NDArray[np.bool_], corner: tuple[int, int], volume: Volume, index: int) -> PlanarRegion:
    left, top = corner
    rows, columns = part.shape
    return PlanarRegion(
        sop_instance_uid=volume.headers[index].sop_instance_uid,
        box=Box(x_min=float(left), y_min=float(top), x_max=float(left + columns), y_max=float(top + rows)),
        outline=tuple((float(left + x), float(top + y)) for x, y in outline(part)),
    )


def _bounds_mm(voxels: NDArray[np.int_], volume: Volume) -> tuple[Triple, Triple]:
    """Lowest and highest LPS coordinates of the corners of voxels (K, 3)."""
    axes = np.asarray(volume.direction) * np.asarray(volume.spacing_mm)[:, np.newaxis]
    centers = voxels @ axes + np.asarray(volume.origin_mm)
    reach = np.abs(axes).sum(axis=0) / 2  # a voxel's own
    low, high = centers.min(axis=0) - reach, centers.max(axis=0) + reach
    return _rounded(low), _rounded(high)


def _rounded(point: NDArray[np.float64]) -> Triple:
    x, y, z = (round(float(value), _MM_DECIMALS) for value in point)
    return x, y, z


def _box_region(place: Place, volume: Volume, grid: Grid) -> tuple[Region, tuple[Measurement, ...]]:
    """Where no voxels stand out: the box on every slice it touches, and its sides."""
    limits = np.asarray(volume.voxels.shape)
    low = np.clip(grid.to_source(place.low), 0, limits - 1)
    high = np.clip(grid.to_source(place.high), low + 1, limits)
    first, last = int(low[0]), int(np.ceil(high[0]))
    box = Box(x_min=float(low[2]), y_min=float(low[1]), x_max=float(high[2]), y_max=float(high[1]))
    planes = tuple(
        PlanarRegion(sop_instance_uid=volume.headers[index].sop_instance_uid, box=box) for index in range(first, last)
    )
    ends = np.floor(low).astype(int), np.ceil(high).astype(int) - 1
    corners = np.asarray(list(itertools.product(*zip(*ends, strict=True))))
    lps_min, lps_max = _bounds_mm(corners, volume)
    spacing = volume.spacing_mm[1], volume.spacing_mm[2]
    return (
        Region(planes=planes, key=len(planes) // 2, lps_min_mm=lps_min, lps_max_mm=lps_max),
        box_measurements(box, spacing),
    )

"""Average precision of boxes, flat or in volumes: overlap, matching by score, precision over recall, resampling.

Pure functions used by ``radnode eval boxes``. The unit of analysis is the box within its class; images (patients,
where they are known) are resampled. The rules of COCO for flat boxes come from `eval.coco`, which lets pycocotools
match; volumes and the rules of VOC are matched here. Reading files is `eval.coco_files`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eval.intervals import Estimate

COCO_IOUS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))  # 0.50 to 0.95
VOLUME_IOUS = tuple(round(0.1 + 0.05 * step, 2) for step in range(9))  # 0.10 to 0.50: nnDetection (Baumgartner 2021)
VOC_IOU = 0.4  # of chest films: the VinDr-CXR challenge; overlap must be more
MOST_PREDICTIONS = 100  # of an image and class, by the rules of COCO
RECALL_POINTS = np.linspace(0.0, 1.0, 101)
RESAMPLES = 1000
_CELLS = 2_000_000  # weights held at a time


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TrueBoxes:
    """Boxes of the reference standard.

    Attributes
    ----------
    image, category : intp (boxes,)
        Index of the image and of the class.
    box : float64 (boxes, 4 or 6)
        Corner nearest the origin, then extents: x, y, width, height, or x, y, z, width, height, depth.
    area : float64 (boxes,)
        Area by which COCO sorts boxes into small, medium and large; volume in volumes.
    ignored : bool (boxes,)
        Crowds of COCO, difficult boxes of VOC: need not be found, and a prediction on one is not false.
    """

    image: NDArray[np.intp]
    category: NDArray[np.intp]
    box: NDArray[np.float64]
    area: NDArray[np.float64]
    ignored: NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PredictedBoxes:
    """Boxes of a detector: image, category and box as in `TrueBoxes`, score float64 (boxes,), any real number."""

    image: NDArray[np.intp]
    category: NDArray[np.intp]
    box: NDArray[np.float64]
    score: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class JudgedClass:
    """Predictions of one class by falling score, and what each is at each threshold of overlap.

    Attributes
    ----------
    image : intp (predictions,)
        Index of the image of each.
    true : bool (thresholds, predictions)
        It found a box that no better prediction had found.
    ignored : bool (thresholds, predictions)
        It lies on an ignored box and counts neither way.
    to_find : int64 (images,)
        Boxes to be found on each image.
    """

    image: NDArray[np.intp]
    true: NDArray[np.bool_]
    ignored: NDArray[np.bool_]
    to_find: NDArray[np.int64]


Pairing = Callable[[NDArray[np.float64], NDArray[np.bool_], float], tuple[NDArray[np.bool_], NDArray[np.bool_]]]


def overlaps(ones: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """Intersection over union of boxes given by corner and extents; float64 (ones, others).

    Edges are continuous: a box of width 10 is 10 wide, and nothing is added for the last pixel.
    """
    axes = ones.shape[1] // 2
    low = np.maximum(ones[:, None, :axes], others[None, :, :axes])
    high = np.minimum((ones[:, :axes] + ones[:, axes:])[:, None], (others[:, :axes] + others[:, axes:])[None])
    shared = np.clip(high - low, 0, None).prod(axis=2)
    total = ones[:, axes:].prod(axis=1)[:, None] + others[:, axes:].prod(axis=1)[None] - shared
    return np.asarray(np.divide(shared, total, out=np.zeros_like(shared), where=total > 0))


def pair_by_coco(
    iou: NDArray[np.float64], ignored: NDArray[np.bool_], least: float
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Each prediction takes the free box that it overlaps most, by `least` or more; an ignored box only if no other.

    Parameters
    ----------
    iou : float64 (predictions, boxes)
        By falling score.
    ignored : bool (boxes,)
    least : float

    Returns
    -------
    true, ignored : bool (predictions,)
        Of equal overlaps the last box is taken, as pycocotools and MONAI do.
    """
    true, aside = np.zeros(len(iou), dtype=np.bool_), np.zeros(len(iou), dtype=np.bool_)
    free = ~ignored
    for row in np.flatnonzero((iou >= least).any(axis=1)):
        fitting = np.where(free, iou[row], -1.0)
        best = fitting.size - 1 - int(fitting[::-1].argmax())
        if fitting[best] >= least:
            true[row], free[best] = True, False
        else:
            aside[row] = bool((iou[row][ignored] >= least).any())
    return true, aside


def pair_by_voc(
    iou: NDArray[np.float64], ignored: NDArray[np.bool_], least: float
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Each prediction stands for the box that it overlaps most, by strictly more than `least` (Everingham 2010).

    A box that was found before makes it false, an ignored (difficult) one leaves it out. Parameters and results as in
    `pair_by_coco`; of equal overlaps the first box is taken.
    """
    true, aside = np.zeros(len(iou), dtype=np.bool_), np.zeros(len(iou), dtype=np.bool_)
    found = np.zeros(ignored.size, dtype=np.bool_)
    for row in np.flatnonzero((iou > least).any(axis=1)):
        best = int(iou[row].argmax())
        aside[row] = ignored[best]
        true[row] = not ignored[best] and not found[best]
        found[best] = True
    return true, aside


def judge(
    truth: TrueBoxes,
    predictions: PredictedBoxes,
    category: int,
    *,
    images: int,
    ious: Sequence[float],
    pairing: Pairing,
    most: int | None,
) -> JudgedClass:
    """Match the predictions of one class, image by image, those with the highest score first.

    Parameters
    ----------
    truth, predictions : TrueBoxes, PredictedBoxes
    category : int
        Index of the class.
    images : int
        Number of images; those without boxes count.
    ious : sequence of float
        Thresholds of overlap.
    pairing : callable
        `pair_by_coco` or `pair_by_voc`.
    most : int or None
        Predictions kept of an image, the best; None keeps all. Equal scores stay in the order of images, then of the
        file, as pycocotools has them.
    """
    wanted = np.flatnonzero(truth.category == category)
    given = np.flatnonzero(predictions.category == category)
    given = given[np.lexsort((predictions.image[given], -predictions.score[given]))]
    true = np.zeros((len(ious), given.size), dtype=np.bool_)
    ignored = np.zeros_like(true)
    kept = np.ones(given.size, dtype=np.bool_)
    for rows in _groups(predictions.image[given]):
        kept[rows[most:]] = most is None
        rows = rows[:most]
        boxes = wanted[truth.image[wanted] == predictions.image[given[rows[0]]]]
        if not boxes.size:
            continue
        iou = overlaps(predictions.box[given[rows]], truth.box[boxes])
        for number, least in enumerate(ious):
            true[number, rows], ignored[number, rows] = pairing(iou, truth.ignored[boxes], least)
    return JudgedClass(
        image=predictions.image[given[kept]],
        true=true[:, kept],
        ignored=ignored[:, kept],
        to_find=np.bincount(truth.image[wanted[~truth.ignored[wanted]]], minlength=images),
    )


def _groups(image: NDArray[np.intp]) -> Iterator[NDArray[np.intp]]:
    """Rows of each image, in their order."""
    order = np.argsort(image, kind="stable")
    yield from (rows for rows in np.split(order, np.flatnonzero(np.diff(image[order])) + 1) if rows.size)


def average_precisions(
    judged: JudgedClass, times: NDArray[np.int64] | None = None, *, points: NDArray[np.float64] | None = RECALL_POINTS
) -> NDArray[np.float64]:
    """Average precision of a class at each threshold, of the set or of resamples of its images.

    Precision at a recall is the highest at this or any higher recall, 0 beyond the highest recall reached. It is
    averaged over `points` (COCO: 101), or over every recall there is (None; VOC from 2010 on).

    Parameters
    ----------
    judged : JudgedClass
    times : int64 (resamples, images), optional
        How often each image is there; by default once.
    points : float64 (points,) or None

    Returns
    -------
    float64 (resamples, thresholds)
        NaN where there is no box to be found.
    """
    counts = np.ones((1, judged.to_find.size), dtype=np.int64) if times is None else times
    to_find = counts @ judged.to_find
    drawn = counts[:, judged.image]
    running = np.cumsum(drawn, axis=1)
    found = np.full((len(counts), len(judged.true)), np.nan)
    some = to_find > 0
    for number, (true, ignored) in enumerate(zip(judged.true, judged.ignored, strict=True)):
        seen = np.cumsum(drawn * ~ignored, axis=1) if ignored.any() else running
        rows = np.flatnonzero(true)
        found[some, number] = _under_curve(drawn[some][:, rows], seen[some][:, rows], to_find[some], points)
    return found


def _under_curve(
    drawn: NDArray[np.int64], seen: NDArray[np.int64], to_find: NDArray[np.int64], points: NDArray[np.float64] | None
) -> NDArray[np.float64]:
    """Area under precision over recall; precision can only peak at a true prediction, so only those are given."""
    if not drawn.shape[1]:
        return np.zeros(len(drawn))
    found = np.cumsum(drawn, axis=1)
    precision = np.divide(found, seen, out=np.zeros(found.shape), where=seen > 0)
    best_beyond = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    recall = found / to_find[:, None]
    reached = recall if points is None else np.searchsorted(points, recall, side="right") / points.size
    return np.asarray((np.diff(reached, axis=1, prepend=0.0) * best_beyond).sum(axis=1))


def resampled(
    classes: Sequence[JudgedClass],
    clusters: NDArray[np.intp],
    *,
    points: NDArray[np.float64] | None = RECALL_POINTS,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Average precisions of resamples of clusters of images, drawn with replacement.

    Parameters
    ----------
    classes : sequence of JudgedClass
        All with the same thresholds.
    clusters : intp (images,)
        Images of the same number (of one patient) are drawn together.
    points, resamples, seed
        As in `average_precisions`; how many; the seed of the draws.

    Returns
    -------
    float64 (resamples, classes, thresholds)
        NaN where a resample has no box of the class.
    """
    number = int(clusters.max()) + 1
    random = np.random.default_rng(seed)
    widest = max((one.image.size for one in classes), default=1)
    block = max(1, _CELLS // max(1, widest, clusters.size))
    blocks = [np.zeros((0, len(classes), len(classes[0].true) if classes else 0))]
    for begin in range(0, resamples, block):
        times = np.stack([
            np.bincount(random.integers(0, number, number), minlength=number)[clusters]
            for _ in range(min(block, resamples - begin))
        ])  # fmt: skip
        blocks.append(np.stack([average_precisions(one, times, points=points) for one in classes], axis=1))
    return np.concatenate(blocks)


def mean_of_known(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over all axes but the first, of what is not NaN; NaN where nothing is; float64 (rows,)."""
    flat = values.reshape(len(values), int(np.prod(values.shape[1:])))
    known = ~np.isnan(flat)
    counted = known.sum(axis=1)
    total = np.where(known, flat, 0.0).sum(axis=1)
    return np.asarray(np.divide(total, counted, out=np.full(len(flat), np.nan), where=counted > 0))


def with_interval(value: float, drawn: NDArray[np.float64], *, undefined: str) -> Estimate:
    """A figure with the 2.5th and 97.5th percentile of its resamples; those in which it is NaN are left out."""
    if np.isnan(value):
        return Estimate.undefined(undefined)
    known = drawn[~np.isnan(drawn)]
    if not known.size:
        reason = "it is undefined in every resample" if drawn.size else "no resamples were asked for"
        return Estimate(value=value, low=np.nan, high=np.nan, reason=reason)
    low, high = np.percentile(known, [2.5, 97.5]).tolist()
    return Estimate(value=value, low=low, high=high)

"""One place for each lesion out of what overlapping tiles say of it.

Called by `volumes.run` when all tiles have been looked at. A box that its tile sees whole counts; one that ends at an
inner face of its tile yields to a neighbour's that agrees with it in what both see. A lesion larger than the overlap
is seen whole by no tile: its parts become one box.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inference.outputs.seen import logit
from inference.volumes.decode import StitchedMap, TileMark
from inference.volumes.masks import components
from models.card import ModelCard
from models.outputs import HeatmapOutput

_IOU = 0.3  # of boxes of neighbouring tiles, where the graph suppresses its own and the card names no overlap
# So much of a box that its tile cuts shared with a neighbour's, and both are of one lesion. A part's box is a guess,
# and whatever is smaller than the overlap is seen whole by some tile: nothing is lost when parts yield readily.
_PART = 0.25
_MOST_PARTS = 400  # strongest parts that are joined: far more than any scan has lesions


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Place:
    """Where a lesion is on the grid.

    Attributes
    ----------
    label_index : int
    low, high : float64 (3,)
        Edge coordinates (slice, row, column).
    logit : float
        Before calibration.
    soft : float32 (slices, rows, columns) or None
        The network's own probabilities from `soft_start` on, where its map has the grid's resolution.
    soft_start : (slice, row, column)
    level : float
        Probability at the lesion's border in `soft`.
    """

    label_index: int
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    logit: float
    soft: NDArray[np.float32] | None = None
    soft_start: tuple[int, int, int] = (0, 0, 0)
    level: float = 0.5


def merged(marks: Sequence[TileMark], *, nms_iou: float | None, max_lesions: int) -> tuple[Place, ...]:
    """Places of lesions, strongest first.

    Parameters
    ----------
    marks : sequence of TileMark
        Of all tiles, in any order.
    nms_iou : float or None
        Boxes that overlap more are one; None: the graph has suppressed its own, only tiles are reconciled.
    max_lesions : int
    """
    places: list[Place] = []
    for label in sorted({mark.label_index for mark in marks}):
        own = sorted((mark for mark in marks if mark.label_index == label), key=lambda mark: (-mark.logit, *mark.low))
        whole = _suppressed([mark for mark in own if mark.whole], nms_iou, max_lesions)
        floor = whole[-1].logit if len(whole) == max_lesions else -np.inf  # what is weaker would not be kept
        rivals = _Kept(whole)
        parts = [mark for mark in own if not mark.whole and mark.logit >= floor and not rivals.repeat(mark, nms_iou)]
        places += [_place(mark, [mark]) for mark in whole]
        places += [_place(group[0], group) for group in _groups(parts[:_MOST_PARTS], nms_iou)]
    places.sort(key=lambda place: (-place.logit, *place.low))
    return tuple(places[:max_lesions])


def _suppressed(whole: Sequence[TileMark], nms_iou: float | None, most: int) -> list[TileMark]:
    """The strongest boxes seen whole, each that repeats a stronger one of another tile left out."""
    kept: list[TileMark] = []
    for mark in whole:
        if not _Kept(kept).repeat(mark, nms_iou):
            kept.append(mark)
            if len(kept) == most:
                break
    return kept


class _Kept:
    """Boxes seen whole, to be held against another box; each as far as that one's tile sees it."""

    def __init__(self, marks: Sequence[TileMark]) -> None:
        self._low = np.asarray([mark.low for mark in marks]).reshape(-1, 3)
        self._high = np.asarray([mark.high for mark in marks]).reshape(-1, 3)
        self._tiles = [mark.tile for mark in marks]

    def repeat(self, mark: TileMark, nms_iou: float | None) -> bool:
        """Whether `mark` is of a lesion that is kept already; a tile's own boxes were told apart when it was read."""
        if not self._tiles:
            return False
        start, end = np.asarray(mark.tile.start), np.asarray(mark.tile.start) + mark.tile.size
        low, high = np.clip(self._low, start, end), np.clip(self._high, start, end)
        shared = np.clip(np.minimum(high, mark.high) - np.maximum(low, mark.low), 0, None).prod(axis=1)
        own, others = float(np.prod(mark.high - mark.low)), (high - low).prod(axis=1)
        alike = shared > (_IOU if nms_iou is None else nms_iou) * (own + others - shared)
        if not mark.whole:
            alike |= shared > _PART * np.minimum(own, np.where(others > 0, others, np.inf))
        elsewhere = np.asarray([tile != mark.tile for tile in self._tiles])
        return bool((alike & (elsewhere | (not mark.whole))).any())


def _groups(parts: Sequence[TileMark], nms_iou: float | None) -> list[list[TileMark]]:
    """Parts that agree where both their tiles look, joined; strongest first, also within a group."""
    if not parts:
        return []
    agree = _agreeing(parts, _IOU if nms_iou is None else nms_iou)
    group = np.arange(len(parts))
    while True:  # each takes the lowest number among those it agrees with, until nothing changes
        lowest = np.where(agree, group[np.newaxis], len(parts)).min(axis=1)
        joined = np.minimum(group, lowest)
        if (joined == group).all():
            break
        group = joined
    return [[parts[int(index)] for index in np.flatnonzero(group == number)] for number in np.unique(group)]


def _agreeing(parts: Sequence[TileMark], least_iou: float) -> NDArray[np.bool_]:
    """Which parts (N, N) of different tiles are of one lesion, by what both tiles see."""
    low, high = np.asarray([mark.low for mark in parts]), np.asarray([mark.high for mark in parts])
    start = np.asarray([mark.tile.start for mark in parts], dtype=np.float64)
    end = start + [mark.tile.size for mark in parts]
    seen_low = np.clip(low[:, np.newaxis], start, end)  # of the first as the second's tile sees it
    seen_high = np.clip(high[:, np.newaxis], start, end)
    other_low, other_high = seen_low.swapaxes(0, 1), seen_high.swapaxes(0, 1)
    shared = np.clip(np.minimum(seen_high, other_high) - np.maximum(seen_low, other_low), 0, None).prod(axis=2)
    size = (seen_high - seen_low).prod(axis=2)
    alike = shared > least_iou * (size + size.T - shared)
    smaller = np.minimum(size, size.T)
    alike |= (shared > _PART * smaller) & (smaller > 0)
    elsewhere = (start[:, np.newaxis] != start).any(axis=2)
    return np.asarray(alike & elsewhere)


def _place(strongest: TileMark, group: Sequence[TileMark]) -> Place:
    low = np.min([mark.low for mark in group], axis=0)
    high = np.max([mark.high for mark in group], axis=0)
    return Place(label_index=strongest.label_index, low=low, high=high, logit=strongest.logit)


def regions(stitched: StitchedMap, card: ModelCard) -> tuple[Place, ...]:
    """Connected regions of the whole map above the card's threshold, strongest first.

    A map of the grid's own resolution is a segmentation, and its values go along; a coarser one says where to look.
    """
    spec = card.output
    assert isinstance(spec, HeatmapOutput)
    smallest = spec.min_pixels * int(np.prod(stitched.cell))
    places = []
    for index, probability in enumerate(stitched.probabilities()):
        for low, high, part in components(probability >= spec.region_threshold, smallest=smallest):
            z, y, x = (slice(start, end) for start, end in zip(low, high, strict=True))
            highest = float(probability[z, y, x][part].max())
            soft, soft_start = _soft(probability, low, high, part) if stitched.cell == (1, 1, 1) else (None, (0, 0, 0))
            places.append(
                Place(
                    label_index=index,
                    low=np.asarray(low, dtype=np.float64),
                    high=np.asarray(high, dtype=np.float64),
                    logit=float(logit(np.asarray(highest))),
                    soft=soft,
                    soft_start=soft_start,
                    level=spec.region_threshold,
                )
            )
    places.sort(key=lambda place: (-place.logit, *place.low))
    return tuple(places[: spec.max_lesions])


def _soft(
    probability: NDArray[np.float32], low: tuple[int, ...], high: tuple[int, ...], part: NDArray[np.bool_]
) -> tuple[NDArray[np.float32], tuple[int, int, int]]:
    """The region's probabilities with one voxel around it, where neighbouring regions are left out."""
    z, y, x = (max(start - 1, 0) for start in low)
    ends = [min(end + 1, count) for end, count in zip(high, probability.shape, strict=True)]
    crop = probability[z : ends[0], y : ends[1], x : ends[2]].copy()
    own = np.zeros(crop.shape, dtype=np.bool_)
    inner = tuple(slice(start - first, end - first) for start, end, first in zip(low, high, (z, y, x), strict=True))
    own[inner] = part
    near = own.copy()
    for axis in range(own.ndim):  # the border's fall belongs to the region, another region's values do not
        near |= np.roll(near, 1, axis) | np.roll(near, -1, axis)
    crop[~near] = 0.0
    return crop, (z, y, x)

"""Finds the breast on a mammogram: its outline, the rectangle around it, and the side of the chest wall.

Called by `inference.preprocess` for cards with a `BreastInput`, at serving and in training alike. Works on digitised
film, where labels, stickers, scanner bands and the film's bright edge have to go, and on digital pictures, where
there is nothing but the breast. Only grey values are used: the header's laterality may be missing or wrong. What is
made of the breast (stretching, resizing) is `preprocess`; finding lesions is the model's.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from inference.refusals import Reason, Refused

_Mask = NDArray[np.bool_]

_CELLS = 320  # of the longer side of the reduced picture in which the breast is looked for: 0.6 to 0.9 mm each
_LETTERING = 4  # cells: half the width of what is eroded away; strokes of letters, bands and seams are thinner
_SKIN = 2  # cells by which the outline is widened: skin and subcutaneous fat fade into the background
_ABOVE_BACKGROUND = 0.35  # where the outline lies between the grey of the background (0) and the split of both (1)
_FILM = 1e-3  # greys nearer to the darkest one, as a share of the dark range, are padding around the film
_LEAST_FILM = 0.05  # of all pixels; with less film in the dark part, the padding is the background
_LEAST_AREA, _LEAST_SIDE = 0.02, 8  # of the picture, and in cells: less is a label, not a breast
_BINS = 128


class Side(StrEnum):
    """A side of the picture as stored, seen by who looks at it."""

    LEFT = "left"  # column 0
    RIGHT = "right"  # the last column


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Breast:
    """Where the breast is on its picture.

    Attributes
    ----------
    cells : bool (h, w)
        True inside the breast, on a coarse grid that covers the whole picture evenly.
    left, top, right, bottom : int
        The rectangle around the breast in source pixels; right and bottom are exclusive.
    chest_wall : Side
        The side of the picture at which the breast is cut off by the chest wall.
    """

    cells: _Mask
    left: int
    top: int
    right: int
    bottom: int
    chest_wall: Side

    @property
    def area_share(self) -> float:
        """Share of the picture that is breast."""
        return float(self.cells.mean())

    def contains(self, x: float, y: float, *, rows: int, columns: int) -> bool:
        """Whether a point in source pixels of a picture (rows, columns) lies in the breast."""
        height, width = self.cells.shape
        row, column = int(y * height / rows), int(x * width / columns)
        return 0 <= row < height and 0 <= column < width and bool(self.cells[row, column])

    def mask(self, *, rows: int, columns: int, height: int, width: int) -> _Mask:
        """The breast within its rectangle, on a grid (height, width) laid over it.

        Parameters
        ----------
        rows, columns : int
            Size of the source picture.
        """
        scale_y, scale_x = self.cells.shape[0] / rows, self.cells.shape[1] / columns
        box = (self.left * scale_x, self.top * scale_y, self.right * scale_x, self.bottom * scale_y)
        levels = PIL.Image.fromarray(self.cells.astype(np.uint8) * 255)
        resized = levels.resize((width, height), PIL.Image.Resampling.BILINEAR, box=box)
        return np.asarray(resized) > 127  # noqa: PLR2004 - the middle between out and in


def find_breast(pixels: NDArray[np.float32]) -> Breast:
    """Segment the breast of a mammogram.

    The picture is reduced, split into dark and bright (Otsu 1979), and the outline set between the background's grey
    and that split, so that the fading skin line stays inside. Eroding away what is as thin as lettering separates
    labels and film edges from the breast, which is the largest region left; it is then grown back, its holes filled.

    Parameters
    ----------
    pixels : float32 (rows, columns)
        The picture as displayed, air dark; padding 0.

    Raises
    ------
    Refused
        OUT_OF_RANGE when the picture is blank or nothing on it is large enough for a breast.
    """
    reduced = _reduced(pixels)
    if not float(reduced.min()) < float(reduced.max()):
        raise Refused(Reason.OUT_OF_RANGE, "the picture is blank: all its pixels are alike")
    bright = reduced > _outline_level(reduced)
    core = _largest(_eroded(bright, _LETTERING))
    grown = _largest(bright & _dilated(core, _LETTERING + 1))
    cells = _dilated(_filled(grown), _SKIN)
    if grown.mean() < _LEAST_AREA or min(np.ptp(axis) for axis in np.nonzero(cells)) < _LEAST_SIDE:
        raise Refused(Reason.OUT_OF_RANGE, "no breast found: nothing on the picture is large enough")
    left, top, right, bottom = _rectangle(cells, rows=pixels.shape[0], columns=pixels.shape[1])
    return Breast(cells=cells, left=left, top=top, right=right, bottom=bottom, chest_wall=_chest_wall(grown))


def _reduced(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """The picture with at most `_CELLS` on its longer side; each cell is the mean of what it covers."""
    rows, columns = pixels.shape
    share = _CELLS / max(rows, columns)
    if share >= 1:
        return pixels
    size = max(1, round(columns * share)), max(1, round(rows * share))
    return np.asarray(PIL.Image.fromarray(pixels).resize(size, PIL.Image.Resampling.BOX), dtype=np.float32)


def _outline_level(greys: NDArray[np.float32]) -> float:
    split = _otsu(greys)
    dark = greys[greys <= split]
    film = dark[dark > dark.min() + _FILM * (split - float(dark.min()))]
    background = float(np.median(film if film.size >= _LEAST_FILM * greys.size else dark))
    return background + _ABOVE_BACKGROUND * (split - background)


def _otsu(greys: NDArray[np.float32]) -> float:
    """The grey that splits the histogram into two classes as far apart as can be (N. Otsu, IEEE SMC 1979)."""
    counts, edges = np.histogram(greys, bins=_BINS)
    middles = (edges[:-1] + edges[1:]) / 2
    below, sums = np.cumsum(counts), np.cumsum(counts * middles)
    total = below[-1]
    both = (below > 0) & (below < total)
    apart = np.zeros(_BINS)
    apart[both] = (sums[-1] * below[both] / total - sums[both]) ** 2 / (below[both] * (total - below[both]))
    return float(middles[int(np.argmax(apart))])


def _windows(mask: _Mask, reach: int, axis: int) -> _Mask:
    """Each cell's neighbours up to `reach` along one axis, as a last axis; what is outside repeats the edge."""
    around = [(0, 0), (0, 0)]
    around[axis] = (reach, reach)
    return np.lib.stride_tricks.sliding_window_view(np.pad(mask, around, mode="edge"), 2 * reach + 1, axis=axis)


def _eroded(mask: _Mask, reach: int) -> _Mask:
    by_column = np.asarray(_windows(mask, reach, 0).all(axis=-1))
    return np.asarray(_windows(by_column, reach, 1).all(axis=-1))


def _dilated(mask: _Mask, reach: int) -> _Mask:
    return ~_eroded(~mask, reach)


def _largest(mask: _Mask) -> _Mask:
    """The largest connected region; an empty mask stays empty."""
    regions = _regions(mask)
    sizes = np.bincount(regions.ravel())
    sizes[0] = 0
    return np.asarray((regions == int(np.argmax(sizes))) & mask)


def _filled(mask: _Mask) -> _Mask:
    """The mask with what it surrounds: background that does not reach the picture's edge."""
    regions = _regions(~mask)
    outside = np.unique(np.concatenate((regions[0], regions[-1], regions[:, 0], regions[:, -1])))
    return np.asarray(mask | ~np.isin(regions, outside))


def _regions(mask: _Mask) -> NDArray[np.intp]:
    """Numbers of the regions connected over edges, 0 outside: runs of each row, joined with those they touch above."""
    numbers = np.zeros(mask.shape, dtype=np.intp)
    parents = [0]
    above: list[tuple[int, int, int]] = []
    for row, cells in enumerate(mask):
        steps = np.flatnonzero(np.diff(np.concatenate(([False], cells, [False])))).tolist()
        runs = []
        for start, stop in zip(steps[::2], steps[1::2], strict=True):
            number = _joined([run[2] for run in above if run[0] < stop and start < run[1]], parents)
            numbers[row, start:stop] = number
            runs.append((start, stop, number))
        above = runs
    roots = np.asarray([_root(number, parents) for number in range(len(parents))])
    return np.asarray(roots[numbers])


def _joined(touched: list[int], parents: list[int]) -> int:
    """The number of a run that touches these regions, which become one; a new number when it touches none."""
    if not touched:
        parents.append(len(parents))
        return len(parents) - 1
    roots = [_root(number, parents) for number in touched]
    for root in roots:
        parents[root] = min(roots)
    return min(roots)


def _root(number: int, parents: list[int]) -> int:
    while parents[number] != number:
        parents[number] = parents[parents[number]]
        number = parents[number]
    return number


def _rectangle(cells: _Mask, *, rows: int, columns: int) -> tuple[int, int, int, int]:
    """Left, top, right, bottom in whole source pixels, all of the marked cells inside."""
    height, width = cells.shape
    marked_rows, marked_columns = np.flatnonzero(cells.any(1)), np.flatnonzero(cells.any(0))
    left, right = int(marked_columns[0]) * columns // width, -(-(int(marked_columns[-1]) + 1) * columns // width)
    top, bottom = int(marked_rows[0]) * rows // height, -(-(int(marked_rows[-1]) + 1) * rows // height)
    return left, top, right, bottom


def _chest_wall(cells: _Mask) -> Side:
    """The side where the breast is tallest: it narrows towards the nipple."""
    heights = cells.sum(0)
    heights = heights[np.flatnonzero(heights)[0] : np.flatnonzero(heights)[-1] + 1]
    third = max(1, len(heights) // 3)
    return Side.LEFT if heights[:third].sum() >= heights[-third:].sum() else Side.RIGHT

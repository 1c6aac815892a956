"""What a picture looks like, in numbers that do not depend on its size, its window or the network that will see it.

Called by `inference.guard` before the network and by `training.guard` when a guard is fitted; both must get the same
numbers, so every change here is a new method name in `inference.guard`. numpy and PIL only; nothing is learnt here.
"""

from __future__ import annotations

import enum

import numpy as np
import PIL.Image
import PIL.ImageFilter
from numpy.typing import NDArray

SIDE = 256  # pixels of the square every picture is brought to
_LAYOUT_SIDE = 16
_EDGE_SIDE = 64
_EDGE_CELLS = 8
_DIRECTIONS = 8
_BANDS = 5
_GREYS = 16
_LOW_PERCENTILE, _HIGH_PERCENTILE = 0.5, 99.5
_EMPTY = 1e-6  # range of greys below which a picture is blank
_SMALL = 1e-4  # keeps the logarithm of nothing finite
_EDGE_FLOOR = 0.16  # gradients of an area much weaker than this are noise and are not blown up
_LETTERING = 9  # cells of a picture of SIDE: labels, bands and film edges are narrower
_MOST_AROUND = 100.0  # times the part itself: more says no more
_RANK_STEPS = 1024  # greys closer than this share of the range are one rank


class Part(enum.StrEnum):
    """A group of features that says one thing about a picture."""

    LAYOUT = "layout"  # where it is lighter and where darker than elsewhere
    EDGES = "edges"  # which way things turn from dark to light, area by area
    TEXTURE = "texture"  # how coarse and how strong its detail is, and how its greys are spread
    SURROUNDINGS = "surroundings"  # what is bright beside the part of the picture that is looked at


LENGTHS = {
    Part.LAYOUT: _LAYOUT_SIDE**2,
    Part.EDGES: _EDGE_CELLS**2 * _DIRECTIONS,
    Part.TEXTURE: 3 * _BANDS + 5,
    Part.SURROUNDINGS: 3,
}


def thumbnail(pixels: NDArray[np.float32], padded: NDArray[np.bool_] | None = None) -> NDArray[np.float32]:
    """The picture as a square, its greys stretched between two percentiles; proportions are not kept.

    Parameters
    ----------
    pixels : float32 (rows, columns)
        Grey as displayed, any range.
    padded : bool (rows, columns), optional
        Padding; where it surrounds the picture it is cut off.

    Returns
    -------
    float32 (SIDE, SIDE)
        0..1; all zero for a blank picture.
    """
    inside = _without_margins(pixels, padded)
    square = PIL.Image.fromarray(np.ascontiguousarray(inside, dtype=np.float32)).resize(
        (SIDE, SIDE), PIL.Image.Resampling.BILINEAR, reducing_gap=2.0
    )
    grey = np.asarray(square, dtype=np.float32)
    low, high = (float(value) for value in np.percentile(grey, (_LOW_PERCENTILE, _HIGH_PERCENTILE)))
    if high - low < _EMPTY:
        low, high = float(grey.min()), float(grey.max())
    if high - low < _EMPTY:
        return np.zeros_like(grey)
    return np.asarray(np.clip((grey - low) / (high - low), 0.0, 1.0), dtype=np.float32)


def describe(grey: NDArray[np.float32]) -> dict[Part, NDArray[np.float64]]:
    """The features of a thumbnail but those of its surroundings, one vector of `LENGTHS` each; always finite."""
    return {Part.LAYOUT: _layout(grey), Part.EDGES: _edges(grey), Part.TEXTURE: _texture(grey)}


def surroundings(pixels: NDArray[np.float32], inside: NDArray[np.bool_]) -> NDArray[np.float64]:
    """How much beside the part that is looked at is as bright as that part.

    Parameters
    ----------
    pixels : float32 (rows, columns)
        The whole picture, grey as displayed.
    inside : bool (rows, columns)
        The part that is looked at; not empty.

    Returns
    -------
    float64 (3,)
        How much is brighter than a quarter, half and three quarters of the median inside, and no narrower than
        lettering: roots of its area as a share of the inside.
    """
    step = -(-max(pixels.shape) // SIDE)
    coarse, inside = pixels[::step, ::step], inside[::step, ::step]
    low = float(np.percentile(coarse, _LOW_PERCENTILE))
    middle = max(float(np.median(coarse[inside])) - low, _SMALL)
    wide = [_wide((coarse - low > share * middle) & ~inside) / inside.sum() for share in (0.25, 0.5, 0.75)]
    return np.asarray(np.sqrt(np.minimum(wide, _MOST_AROUND)))


def _wide(mask: NDArray[np.bool_]) -> float:
    """Cells of a mask that are left after eroding what is narrower than `_LETTERING`."""
    levels = PIL.Image.fromarray(mask.astype(np.uint8) * 255)
    return float(np.count_nonzero(np.asarray(levels.filter(PIL.ImageFilter.MinFilter(_LETTERING)))))


def _without_margins(pixels: NDArray[np.float32], padded: NDArray[np.bool_] | None) -> NDArray[np.float32]:
    if padded is None:
        return pixels
    rows, columns = (np.flatnonzero(~padded.all(axis=axis)) for axis in (1, 0))
    if not (rows.size and columns.size):
        return pixels
    return pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _layout(grey: NDArray[np.float32]) -> NDArray[np.float64]:
    """Rank of each area's mean among all, -0.5 to 0.5: no window and no gamma changes it, inversion negates it."""
    steps = np.round(_means(grey, _LAYOUT_SIDE).ravel() * _RANK_STEPS)
    _, place, counts = np.unique(steps, return_inverse=True, return_counts=True)
    middle = np.cumsum(counts) - (counts + 1) / 2
    return np.asarray((middle / max(steps.size - 1, 1) - 0.5)[place])


def _edges(grey: NDArray[np.float32]) -> NDArray[np.float64]:
    """Histograms of signed gradient directions in cells, evened out over neighbouring cells (Dalal and Triggs 2005).

    Directions are taken over the full circle, so an inverted picture has each of them turned by half of it.
    """
    down, right = np.gradient(_means(grey, _EDGE_SIDE))
    strength = np.hypot(right, down)
    turn = np.arctan2(down, right) / (2 * np.pi) * _DIRECTIONS
    first = np.floor(turn)
    share = turn - first
    size = _EDGE_SIDE // _EDGE_CELLS
    row, column = np.indices(strength.shape) // size
    cell = (row * _EDGE_CELLS + column) * _DIRECTIONS
    length = _EDGE_CELLS**2 * _DIRECTIONS
    low, high = (cell + (first + step).astype(int) % _DIRECTIONS for step in (0, 1))
    histogram = np.bincount(low.ravel(), (strength * (1 - share)).ravel(), length)
    histogram += np.bincount(high.ravel(), (strength * share).ravel(), length)
    cells = histogram.reshape(_EDGE_CELLS, _EDGE_CELLS, _DIRECTIONS)
    padded = np.pad(np.sqrt((cells**2).sum(axis=2)), 1, mode="edge")
    near = [padded[y : y + _EDGE_CELLS, x : x + _EDGE_CELLS] for y in range(3) for x in range(3)]
    around = np.mean(near, axis=0)
    return np.asarray(np.sqrt(cells / (around[..., np.newaxis] + _EDGE_FLOOR)).ravel())


def _texture(grey: NDArray[np.float32]) -> NDArray[np.float64]:
    """Strength, peakedness and direction of detail in octaves, and the spread of greys."""
    found: list[float] = []
    rest = grey.astype(np.float64)
    for _ in range(_BANDS):
        a, b, c, d = rest[::2, ::2], rest[::2, 1::2], rest[1::2, ::2], rest[1::2, 1::2]
        across, along, cross = (a - b + c - d) / 4, (a + b - c - d) / 4, (a - b - c + d) / 4
        squares = np.stack((across, along, cross))
        squares *= squares
        energy = float(squares.mean())
        found.append(float(0.5 * np.log(energy + _SMALL**2)))
        found.append(float(np.log(np.vdot(squares, squares) / squares.size / (energy**2 + _SMALL**4) + 1)))
        found.append(float(np.log((np.abs(across).mean() + _SMALL) / (np.abs(along).mean() + _SMALL))))
        rest = (a + b + c + d) / 4
    shares = np.histogram(grey, bins=_GREYS, range=(0.0, 1.0))[0] / grey.size
    found += [
        float(grey.mean(dtype=np.float64)),
        float(grey.std(dtype=np.float64)),
        float(np.sqrt(np.mean(grey < 0.02))),  # noqa: PLR2004 - black
        float(np.sqrt(np.mean(grey > 0.98))),  # noqa: PLR2004 - white
        float(-(shares * np.log(shares + _EMPTY)).sum()),
    ]
    return np.asarray(found)


def _means(grey: NDArray[np.float32], side: int) -> NDArray[np.float64]:
    step = SIDE // side
    return np.asarray(grey.reshape(side, step, side, step).mean(axis=(1, 3), dtype=np.float64))

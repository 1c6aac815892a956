"""Overlapping tiles that cover every voxel of a grid, and what a tile is cut like.

Called by `volumes.run`. A grid smaller than a tile is one tile, filled up with the lowest value of the window at its
far end.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inference.volumes.grid import Shape


@dataclass(frozen=True, kw_only=True, slots=True)
class Tile:
    """A tile's place: its first voxel, and which of its faces lie within the grid, so that a lesion may be cut there.

    Attributes
    ----------
    start : (slice, row, column)
        First voxel.
    size : (slice, row, column)
        Voxels of the tile that the network sees.
    inner_low, inner_high : three bools
        Whether the grid goes on beyond the lower and the upper face along each axis.
    """

    start: Shape
    size: Shape
    inner_low: tuple[bool, bool, bool]
    inner_high: tuple[bool, bool, bool]


def plan(shape: Shape, tile: Shape, overlap: float) -> tuple[Tile, ...]:
    """Tiles that cover a grid of `shape`, evenly spread, neighbours sharing at least `overlap` of their side."""
    starts = [_starts(count, side, overlap) for count, side in zip(shape, tile, strict=True)]
    return tuple(_tile(start, tile, shape) for start in itertools.product(*starts))


def cut(voxels: NDArray[np.float32], tile: Tile) -> NDArray[np.float32]:
    """The tile's voxels, float32 of `tile.size`; what is outside the grid is 0, the window's lowest value."""
    z, y, x = (slice(start, start + side) for start, side in zip(tile.start, tile.size, strict=True))
    inside = voxels[z, y, x]
    if inside.shape == tile.size:
        return inside
    whole = np.zeros(tile.size, dtype=np.float32)
    whole[tuple(slice(0, side) for side in inside.shape)] = inside
    return whole


def _starts(count: int, side: int, overlap: float) -> list[int]:
    if count <= side:
        return [0]
    step = max(math.floor(side * (1.0 - overlap)), 1)
    last = count - side
    return [round(place) for place in np.linspace(0, last, math.ceil(last / step) + 1)]


def _tile(start: tuple[int, ...], size: Shape, shape: Shape) -> Tile:
    z, y, x = start
    low = (z > 0, y > 0, x > 0)
    ends = [first + side < count for first, side, count in zip(start, size, shape, strict=True)]
    return Tile(start=(z, y, x), size=size, inner_low=low, inner_high=(ends[0], ends[1], ends[2]))

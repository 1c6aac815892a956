"""Operations on masks of voxels: connected parts, distances in millimetres, holes of slices.

Used by `volumes.merge` and `volumes.segment`. Plain NumPy: masks are small, a lesion and its surroundings, so that
serving needs no imaging library for them.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from inference.outputs.components import labelled
from inference.volumes.grid import Triple

Bools = NDArray[np.bool_]
Corner = tuple[int, int, int]
_FAR = 1e12  # mm2: farther than anything in a volume


def components(mask: Bools, *, smallest: int = 1) -> Iterator[tuple[Corner, Corner, Bools]]:
    """Parts of a mask that touch by a face, an edge or a corner, largest first.

    Parameters
    ----------
    mask : bool (slices, rows, columns)
    smallest : int
        Parts of fewer voxels are left out.

    Yields
    ------
    low, high : (slice, row, column)
        First voxel of the part and one past its last.
    part : bool
        The part's voxels in between.
    """
    start, end = _bounds(mask)
    labels, count = labelled(mask[start[0] : end[0], start[1] : end[1], start[2] : end[2]])
    places = np.argwhere(labels)
    numbers = labels[tuple(places.T)]
    sizes = np.bincount(numbers, minlength=count + 1)
    order = np.argsort(numbers, kind="stable")
    groups = np.split(places[order], np.cumsum(sizes[1:])[:-1]) if count else []
    for index in sorted(range(count), key=lambda number: -sizes[number + 1]):
        if sizes[index + 1] < smallest:
            return
        low, high = groups[index].min(axis=0), groups[index].max(axis=0) + 1
        z, y, x = (slice(int(first), int(last)) for first, last in zip(low, high, strict=True))
        yield _corner(low + start), _corner(high + start), np.asarray(labels[z, y, x] == index + 1)


def largest(mask: Bools) -> Bools:
    """The largest connected part of a mask, alone."""
    for low, high, part in components(mask):
        return placed(part, low, high, mask.shape)
    return mask


def placed(part: Bools, low: Corner, high: Corner, shape: tuple[int, ...]) -> Bools:
    """A part from `components` as a mask of the whole."""
    whole = np.zeros(shape, dtype=np.bool_)
    whole[tuple(slice(start, end) for start, end in zip(low, high, strict=True))] = part
    return whole


def distance_mm(mask: Bools, spacing_mm: Triple) -> NDArray[np.float32]:
    """Distance of each voxel's centre to the nearest centre of a voxel of `mask`; 0 within it.

    Exact, one axis after the other (P. F. Felzenszwalb, D. P. Huttenlocher, Theory of Computing 8, 2012, without their
    envelope). For an empty mask far beyond any volume's size.
    """
    squared = np.where(mask, 0.0, _FAR)
    for axis, step in enumerate(spacing_mm):
        line = np.moveaxis(squared, axis, 0)
        nearest = line.copy()
        for apart in range(1, len(line)):
            away = (apart * step) ** 2
            np.minimum(nearest[apart:], line[:-apart] + away, out=nearest[apart:])
            np.minimum(nearest[:-apart], line[apart:] + away, out=nearest[:-apart])
        squared = np.moveaxis(nearest, 0, axis)
    return np.sqrt(squared).astype(np.float32)


def filled(mask: Bools) -> Bools:
    """The mask with what it surrounds in a slice: voxels from which no way through faces leads out of the slice."""
    free = ~mask
    seeds = np.zeros_like(mask)
    for axis in (1, 2):  # first all that lies in sight of the slice's border: little is left to walk to
        line = np.moveaxis(free, axis, 0)
        seen = np.logical_and.accumulate(line, axis=0) | np.logical_and.accumulate(line[::-1], axis=0)[::-1]
        seeds |= np.moveaxis(seen, 0, axis)
    return ~_reach(seeds, free)


def _reach(seeds: Bools, free: Bools) -> Bools:
    """All of `free` that can be reached from `seeds` through faces within the slices."""
    while True:
        framed = np.pad(seeds, ((0, 0), (1, 1), (1, 1)))
        near = framed[:, 2:, 1:-1] | framed[:, :-2, 1:-1] | framed[:, 1:-1, 2:] | framed[:, 1:-1, :-2]
        grown = seeds | (near & free)
        if grown.sum() == seeds.sum():
            return seeds
        seeds = grown


def _bounds(mask: Bools) -> tuple[Corner, Corner]:
    low, high = [0, 0, 0], [0, 0, 0]
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        found = np.flatnonzero(mask.any(axis=others))
        if found.size:
            low[axis], high[axis] = int(found[0]), int(found[-1]) + 1
    return _corner(low), _corner(high)


def _corner(numbers: NDArray[np.int_] | list[int]) -> Corner:
    z, y, x = (int(number) for number in numbers)
    return z, y, x

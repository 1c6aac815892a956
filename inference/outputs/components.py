"""Connected regions of a mask and their outlines, without scipy: serving needs it nowhere else.

Called by `inference.outputs.heatmap`; `labelled` takes volumes as well. Cells that touch at a corner belong together.
"""

from __future__ import annotations

from itertools import product

import numpy as np
from numpy.typing import NDArray

_Point = tuple[int, int]
# Directions of the walk around a region as (row, column), each the next one to the right of the one before.
_TURNS: tuple[_Point, ...] = ((0, 1), (1, 0), (0, -1), (-1, 0))


def labelled(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int32], int]:
    """Number the connected regions of a mask of any number of axes, in the order of their first cells.

    Neighbours are all cells that share a face, an edge or a corner (26 in a volume, 8 in a picture), as with
    `scipy.ndimage.label` and a structure of ones. Runs of cells along the last axis are joined, not single cells.

    Returns
    -------
    labels : int32, shape of the mask
        0 outside, 1 to the number of regions inside.
    count : int
    """
    lines = mask.reshape(-1, mask.shape[-1]) if mask.size else np.zeros((0, 1), dtype=np.bool_)
    line, start, end = _runs(lines)
    parents = _joined(len(line), *_touching(mask.shape[:-1], mask.shape[-1], line, start, end))
    _, numbers = np.unique(parents, return_inverse=True)
    steps = np.zeros((len(lines), mask.shape[-1] + 1), dtype=np.int32)
    steps[line, start] = numbers + 1
    steps[line, end] -= (numbers + 1).astype(np.int32)
    labels = np.cumsum(steps, axis=1, dtype=np.int32)[:, :-1]
    return labels.reshape(mask.shape), int(numbers.max(initial=-1)) + 1


def outline(region: NDArray[np.bool_]) -> tuple[_Point, ...]:
    """The outer edge of one connected region as a closed polygon (x, y) along the edges of its cells, clockwise.

    Points are corners of cells: (0, 0) is the top-left corner of the first cell. Only corners where the edge turns are
    given, the first is not repeated; holes are not told. Where cells touch at a corner only, the polygon passes it
    twice.
    """
    framed = np.pad(region, 1)
    row, column = np.argwhere(framed)[0]  # the first cell of the first row: its top edge is on the outside
    first = (int(row), int(column))
    position, heading = first, 0
    points: list[_Point] = []
    while True:
        before, heading = heading, _next_heading(framed, position, heading)
        if heading != before or not points:
            points.append((position[1] - 1, position[0] - 1))
        position = (position[0] + _TURNS[heading][0], position[1] + _TURNS[heading][1])
        if position == first and _next_heading(framed, position, heading) == 0:
            return tuple(points)


def _next_heading(framed: NDArray[np.bool_], corner: _Point, heading: int) -> int:
    """Where the walk goes on from a corner with the region at its right: left first, so that diagonals belong to it."""
    for turn in (-1, 0, 1):
        candidate = (heading + turn) % 4
        left, right = _beside(corner, candidate)
        if framed[right] and not framed[left]:
            return candidate
    raise AssertionError("a region's edge goes on")


def _beside(corner: _Point, heading: int) -> tuple[_Point, _Point]:
    """The cells at the left and at the right of the edge that leaves a corner."""
    row, column = corner
    return (
        ((row - 1, column), (row, column)),
        ((row, column), (row, column - 1)),
        ((row, column - 1), (row - 1, column - 1)),
        ((row - 1, column - 1), (row - 1, column)),
    )[heading]


def _runs(lines: NDArray[np.bool_]) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """Line, first and one past the last cell of every run, in the order of lines."""
    framed = np.pad(lines, ((0, 0), (1, 1)))
    changed = framed[:, 1:] != framed[:, :-1]
    line, edge = np.nonzero(changed)
    return line[::2], edge[::2], edge[1::2]


def _touching(
    shape: tuple[int, ...], length: int, line: NDArray[np.intp], start: NDArray[np.intp], end: NDArray[np.intp]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Pairs of runs of neighbouring lines that touch, corners included."""
    stride = length + 2
    starts, ends = line * stride + start, line * stride + end
    place = np.stack(np.unravel_index(line, shape)) if shape else np.zeros((0, len(line)), dtype=np.intp)
    ones: list[NDArray[np.intp]] = []
    others: list[NDArray[np.intp]] = []
    for step in product((-1, 0, 1), repeat=len(shape)):
        if step <= (0,) * len(shape):
            continue  # each pair is met once
        near = place + np.reshape(step, (-1, 1))
        valid = np.all((near >= 0) & (near < np.reshape(shape, (-1, 1))), axis=0)
        runs = np.flatnonzero(valid)
        base = np.ravel_multi_index(tuple(near[:, runs]), shape) * stride
        low = np.searchsorted(ends, base + start[runs], side="left")
        high = np.searchsorted(starts, base + end[runs], side="right")
        counts = np.maximum(high - low, 0)
        ones.append(np.repeat(runs, counts))
        others.append(np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + np.repeat(low, counts))
    if not ones:
        return np.zeros(0, dtype=np.intp), np.zeros(0, dtype=np.intp)
    return np.concatenate(ones), np.concatenate(others)


def _joined(count: int, ones: NDArray[np.intp], others: NDArray[np.intp]) -> NDArray[np.intp]:
    """For each run the first run of its region: hooking to the lower number and jumping over parents, until settled."""
    parents = np.arange(count)
    while True:
        one, other = parents[ones], parents[others]
        apart = one != other
        if not apart.any():
            return parents
        np.minimum.at(parents, np.maximum(one, other)[apart], np.minimum(one, other)[apart])
        while not np.array_equal(above := parents[parents], parents):
            parents = above

"""Decoder of probability maps and segmentations: connected regions with their outlines.

Called by `inference.outputs`. Regions of volumes are `inference.volumes`'; both use `inference.outputs.components`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from inference.findings import Box
from inference.outputs.components import labelled, outline
from inference.outputs.seen import (
    Mark,
    Outputs,
    Seen,
    failed,
    logit,
    logits,
    of_labels,
    picture_logits,
    rounded,
    strongest,
    taken,
)
from inference.preprocess import Transform
from models.card import ModelCard
from models.inputs import VolumeInput
from models.outputs import HeatmapOutput

_AXES = 3
_POINT_DECIMALS = 2
_Cells = tuple[slice, slice]


def read(outputs: Outputs, output: HeatmapOutput, card: ModelCard, transform: Transform) -> Seen:
    """Marks of one picture; see `inference.outputs.decode_outputs`."""
    assert not isinstance(card.input, VolumeInput), "volumes are decoded by inference.volumes"
    values = taken(outputs, output.heatmap)
    if values.ndim != _AXES or 0 in values.shape:
        raise failed(f"output {output.heatmap} of shape {values.shape}, wanted a map for each class")
    maps = of_labels(logits(values, output.activation, axis=0, name=output.heatmap), card, name=output.heatmap)
    grid = _Grid(card.input.width / maps.shape[2], card.input.height / maps.shape[1], transform)
    inside = grid.inside(maps.shape[1], maps.shape[2])
    least = float(logit(np.asarray(0.0)))
    found = [mark for index, of_label in enumerate(maps) for mark in _marks(of_label, index, inside, output, grid)]
    return Seen(
        marks=strongest(found, output.max_lesions),
        strongest=tuple(float(of_label[inside].max(initial=least)) for of_label in maps),
        picture=picture_logits(outputs, output.picture, output.activation, card),
    )


class _Grid:
    """Where the cells of a map lie: `cell_x` by `cell_y` input pixels each, from the input's top-left corner."""

    def __init__(self, cell_x: float, cell_y: float, transform: Transform) -> None:
        self._cell_x, self._cell_y, self._transform = cell_x, cell_y, transform

    def inside(self, rows: int, columns: int) -> NDArray[np.bool_]:
        """Cells whose centre lies in the picture: what a network says of padding is of no picture."""
        way = self._transform
        x = (np.arange(columns) + 0.5) * self._cell_x
        y = (np.arange(rows) + 0.5) * self._cell_y
        source = [way.to_source(float(at), 0.0)[0] for at in x], [way.to_source(0.0, float(at))[1] for at in y]
        across = np.asarray([0 <= at <= way.source_columns for at in source[0]])
        down = np.asarray([0 <= at <= way.source_rows for at in source[1]])
        return np.asarray(down[:, np.newaxis] & across[np.newaxis])

    def point(self, column: int, row: int) -> tuple[float, float]:
        """Source point of a cell's corner, held within the picture."""
        x, y = self._transform.to_source(column * self._cell_x, row * self._cell_y)
        x, y = min(max(x, 0.0), self._transform.source_columns), min(max(y, 0.0), self._transform.source_rows)
        return round(float(x), _POINT_DECIMALS), round(float(y), _POINT_DECIMALS)


def _marks(
    values: NDArray[np.float64], label_index: int, inside: NDArray[np.bool_], output: HeatmapOutput, grid: _Grid
) -> list[Mark]:
    regions, count = labelled((values >= float(logit(np.asarray(output.region_threshold)))) & inside)
    sizes = np.bincount(regions.ravel(), minlength=count + 1)
    peaks = np.full(count + 1, -np.inf)
    np.maximum.at(peaks, regions.ravel(), values.ravel())
    large = np.flatnonzero(sizes >= output.min_pixels)
    large = large[large > 0]
    kept = large[np.argsort(-peaks[large], kind="stable")][: output.max_lesions]
    bounds = _bounds(regions, count)
    marks = [_mark(regions[bounds[number]] == number, bounds[number], grid) for number in kept]
    return [
        Mark(label_index=label_index, box=box, logit=float(peaks[number]), outline=polygon)
        for number, placed in zip(kept, marks, strict=True)
        if placed is not None
        for box, polygon in (placed,)
    ]


def _bounds(regions: NDArray[np.int32], count: int) -> list[_Cells]:
    """The rectangle of cells around each region, by number; that of 0 is never used."""
    rows, columns = np.nonzero(regions)
    numbers = regions[rows, columns]
    edges = np.empty((4, count + 1), dtype=np.intp)
    edges[:2], edges[2:] = max(regions.shape), 0
    for edge, at in ((0, rows), (1, columns)):
        np.minimum.at(edges[edge], numbers, at)
        np.maximum.at(edges[edge + 2], numbers, at + 1)
    top, left, bottom, right = edges
    return [(slice(top[i], bottom[i]), slice(left[i], right[i])) for i in range(count + 1)]


def _mark(region: NDArray[np.bool_], cells: _Cells, grid: _Grid) -> tuple[Box, tuple[tuple[float, float], ...]] | None:
    top, left = int(cells[0].start), int(cells[1].start)
    points = tuple(grid.point(left + x, top + y) for x, y in outline(region))
    x, y = [point[0] for point in points], [point[1] for point in points]
    if not (min(x) < max(x) and min(y) < max(y)):
        return None
    box = rounded(Box(x_min=min(x), y_min=min(y), x_max=max(x), y_max=max(y)))
    return None if box is None else (box, points)

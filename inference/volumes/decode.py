"""What a network says of one tile: boxes of six numbers, or a map that is stitched with those of other tiles.

Called by `volumes.run` with one tile's arrays at a time, without the batch axis. Names, layouts and activations are
the card's; whatever differs from the card fails the model, never the process.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inference.outputs.boxes import listed, suppressed
from inference.outputs.seen import failed, logit, logits, of_labels, taken
from inference.volumes.grid import Shape, along_axis
from inference.volumes.tiles import Tile
from models.card import ModelCard
from models.outputs import BoxesOutput, HeatmapOutput

Floats = NDArray[np.float32]

_BORDER = 2.0  # grid voxels: a box that ends so near a tile's inner face may go on beyond it
_AXES = 3


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TileMark:
    """One box of one tile, on the grid.

    Attributes
    ----------
    label_index : int
        Place of the label in the card's list.
    low, high : float64 (3,)
        Edge coordinates on the grid (slice, row, column), clipped to the tile.
    logit : float
        Of its score, before calibration.
    tile : Tile
        Who says it.
    whole : bool
        Whether the tile sees all of it: no face of the box is at an inner face of the tile.
    """

    label_index: int
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    logit: float
    tile: Tile
    whole: bool


def tile_marks(outputs: Mapping[str, Floats], tile: Tile, card: ModelCard) -> tuple[TileMark, ...]:
    """Boxes of one tile, strongest first; those that overlap a stronger one of their tile are left out.

    Raises
    ------
    Refused
        MODEL_FAILED when outputs are missing, have another shape than the card says, or are not finite.
    """
    spec = card.output
    assert isinstance(spec, BoxesOutput)
    corners, values = listed(outputs, spec, card, tile.size[::-1])  # x, y, z; grids count slices first
    start, end = np.asarray(tile.start), np.asarray(tile.start) + tile.size
    low = np.clip(corners[:, _AXES - 1 :: -1] + start, start, end)
    high = np.clip(corners[:, : _AXES - 1 : -1] + start, start, end)
    least = float(logit(np.asarray(spec.min_score)))
    marks = []
    for label_index, of_label in enumerate(values):
        looked_at = np.flatnonzero((of_label >= least) & (low < high).all(axis=1))
        kept = suppressed(np.concatenate((low, high), axis=1)[looked_at], of_label[looked_at], spec)
        for place in looked_at[kept]:
            whole = _is_whole(low[place], high[place], tile)
            strength = float(of_label[place])
            marks.append(
                TileMark(
                    label_index=label_index, low=low[place], high=high[place], logit=strength, tile=tile, whole=whole
                )
            )
    return tuple(sorted(marks, key=lambda mark: -mark.logit))


def _is_whole(low: NDArray[np.float64], high: NDArray[np.float64], tile: Tile) -> bool:
    start, end = np.asarray(tile.start), np.asarray(tile.start) + tile.size
    cut_low = np.asarray(tile.inner_low) & (low - start < _BORDER)
    cut_high = np.asarray(tile.inner_high) & (end - high < _BORDER)
    return not bool(cut_low.any() or cut_high.any())


class StitchedMap:
    """Maps of all tiles put together on the grid, where tiles overlap weighted by the distance from their faces.

    A place near a tile's face so yields to the neighbour that sees its surroundings. Memory: four bytes a voxel for
    each label, and four more.

    Parameters
    ----------
    shape : (slices, rows, columns)
        Of the grid.
    """

    def __init__(self, shape: Shape, card: ModelCard) -> None:
        assert isinstance(card.output, HeatmapOutput)
        self._spec = card.output
        self._card = card
        self._sum = np.zeros((len(card.labels), *shape), dtype=np.float32)
        self._weight = np.zeros(shape, dtype=np.float32)
        self.cell: Shape = (1, 1, 1)  # grid voxels of one cell of the network's map

    def add(self, outputs: Mapping[str, Floats], tile: Tile) -> None:
        """Put one tile's map in its place.

        Raises
        ------
        Refused
            MODEL_FAILED when the map is missing, has another shape than the card says, or is not finite.
        """
        name = self._spec.heatmap
        values = taken(outputs, name)
        if values.ndim != 1 + _AXES or 0 in values.shape:
            raise failed(f"output {name} of shape {values.shape}, wanted a map of the volume for each class")
        odds = of_labels(logits(values, self._spec.activation, axis=0, name=name), self._card, name=name)
        probability = (0.5 * (1.0 + np.tanh(0.5 * odds))).astype(np.float32)
        depth, height, width = (
            max(round(side / cells), 1) for side, cells in zip(tile.size, values.shape[1:], strict=True)
        )
        self.cell = (depth, height, width)
        for axis, side in enumerate(tile.size, start=1):
            probability = along_axis(probability, axis, side)
        weight = _tent(tile.size)
        z, y, x = (
            slice(start, min(start + side, end))
            for start, side, end in zip(tile.start, tile.size, self._weight.shape, strict=True)
        )
        inside = tuple(slice(0, part.stop - part.start) for part in (z, y, x))
        self._sum[:, z, y, x] += (probability * weight)[(slice(None), *inside)]
        self._weight[z, y, x] += weight[inside]

    def probabilities(self) -> Floats:
        """The whole map, float32 (labels, slices, rows, columns)."""
        return np.asarray(np.divide(self._sum, self._weight, out=self._sum), dtype=np.float32)


def _tent(size: Shape) -> Floats:
    z, y, x = (np.minimum(np.arange(side) + 0.5, side - 0.5 - np.arange(side)) for side in size)
    return np.asarray(z[:, None, None] * y[:, None] * x, dtype=np.float32)

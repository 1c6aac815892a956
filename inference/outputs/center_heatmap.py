"""Decoder of anchor-free detectors: peaks of a heatmap of centres, and the distances to their edges.

Called by `inference.outputs`, and by `training` and `eval`, which use `decode` with a threshold of their own.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from inference.findings import Box
from inference.outputs.seen import Mark, Outputs, Seen, failed, iou, of_labels, picture_logits, rounded, taken
from inference.preprocess import Transform
from models.card import ModelCard
from models.inputs import VolumeInput
from models.outputs import Activation, CenterHeatmapOutput

_EDGES = 4
_AXES = 3
_CANDIDATES_PER_MARK = 20  # beyond these, peaks are noise of a flat map


def read(outputs: Outputs, output: CenterHeatmapOutput, card: ModelCard, transform: Transform) -> Seen:
    """Marks of one picture; see `inference.outputs.decode_outputs`."""
    heatmap, ltrb = taken(outputs, output.heatmap), taken(outputs, output.ltrb)
    assert not isinstance(card.input, VolumeInput), "the card's validator sees to it"
    grid = (card.input.height // output.stride, card.input.width // output.stride)
    if heatmap.ndim != _AXES or heatmap.shape[1:] != grid or ltrb.shape != (_EDGES, *grid):
        raise failed(f"outputs of shape {heatmap.shape} and {ltrb.shape}, grid {grid}")
    own = of_labels(heatmap.astype(np.float64), card, name=output.heatmap)
    return Seen(
        marks=decode(own.astype(np.float32), ltrb, output, transform),
        strongest=tuple(float(value) for value in own.max(axis=(1, 2))),
        picture=picture_logits(outputs, output.picture, Activation.SIGMOID, card),
    )


def decode(
    heatmap: NDArray[np.float32], ltrb: NDArray[np.float32], output: CenterHeatmapOutput, transform: Transform
) -> tuple[Mark, ...]:
    """Marks of one picture, strongest first, overlapping ones of one label suppressed.

    Parameters
    ----------
    heatmap : float32 (labels, h, w)
        Logits of a lesion's centre.
    ltrb : float32 (4, h, w)
        Distances in input pixels from the cell's centre to the left, top, right and bottom edges.
    output : CenterHeatmapOutput
        Stride, number of marks, overlap.
    transform : Transform
        The way back to source pixels.
    """
    marks: list[Mark] = []
    labels, rows, columns = np.nonzero(_peaks(heatmap))
    order = np.argsort(-heatmap[labels, rows, columns], kind="stable")[: output.max_lesions * _CANDIDATES_PER_MARK]
    for label, row, column in zip(labels[order], rows[order], columns[order], strict=True):
        box = _box(ltrb[:, row, column], int(row), int(column), output.stride, transform)
        if box is None or any(mark.label_index == label and iou(mark.box, box) > output.nms_iou for mark in marks):
            continue
        marks.append(Mark(label_index=int(label), box=box, logit=float(heatmap[label, row, column])))
        if len(marks) == output.max_lesions:
            break
    return tuple(marks)


def _peaks(heatmap: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Cells not below any of their eight neighbours."""
    framed = np.pad(heatmap, ((0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    neighbours = np.lib.stride_tricks.sliding_window_view(framed, (3, 3), axis=(1, 2))
    return np.asarray(heatmap >= neighbours.max(axis=(-2, -1)))


def _box(distances: NDArray[np.float32], row: int, column: int, stride: int, transform: Transform) -> Box | None:
    x, y = (column + 0.5) * stride, (row + 0.5) * stride
    left, top, right, bottom = (float(value) for value in distances)
    box = transform.box_to_source(x - left, y - top, x + right, y + bottom)
    return None if box is None else rounded(box)

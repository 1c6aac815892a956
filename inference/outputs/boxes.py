"""Decoder of detectors that list boxes: any declared encoding, suppressed by the graph or here.

Called by `inference.outputs` for pictures; `listed` and `suppressed` serve volumes as well, whose boxes have six
numbers. Pure NumPy; coordinates are those of the network's input until `read` takes them back to the source.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

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
from models.outputs import Activation, BoxesOutput, BoxLayout, BoxUnit

_MATRIX = 2


def read(outputs: Outputs, output: BoxesOutput, card: ModelCard, transform: Transform) -> Seen:
    """Marks of one picture; see `inference.outputs.decode_outputs`."""
    assert not isinstance(card.input, VolumeInput), "volumes are decoded by inference.volumes"
    corners, values = listed(outputs, output, card, (card.input.width, card.input.height))
    marks: list[Mark] = []
    least = float(logit(np.asarray(output.min_score)))
    for label_index, of_label in enumerate(values):
        looked_at = np.flatnonzero(of_label >= least)
        inside = looked_at[_inside(corners[looked_at], transform)]
        for index in inside[suppressed(corners[inside], of_label[inside], output)]:
            box = transform.box_to_source(*(float(edge) for edge in corners[index]))
            box = None if box is None else rounded(box)
            if box is not None:
                marks.append(Mark(label_index=label_index, box=box, logit=float(of_label[index])))
    none = float(logit(np.asarray(0.0)))
    return Seen(
        marks=strongest(marks, output.max_lesions),
        strongest=tuple(float(of_label.max(initial=none)) for of_label in values),
        picture=picture_logits(outputs, output.picture, output.activation, card, first_class=output.first_class),
    )


def listed(
    outputs: Outputs, output: BoxesOutput, card: ModelCard, extent: tuple[int, ...]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """All boxes of one picture or tile, whatever their encoding.

    Parameters
    ----------
    outputs : mapping of name to float32 array
        Without the batch axis.
    extent : tuple of int
        Size of the network's input along x, y (and z), in pixels or voxels.

    Returns
    -------
    corners : float64 (K, 2 * axes)
        Lowest x, y (, z), then highest x, y (, z), in input pixels; a corner lies on the edge of a pixel.
    values : float64 (labels, K)
        Logit of each label's probability; minus infinity where a box is of another class.

    Raises
    ------
    Refused
        MODEL_FAILED when outputs are missing, not finite, or of another shape than the card says.
    """
    boxes = taken(outputs, output.boxes)
    if boxes.ndim != _MATRIX:
        raise failed(f"output {output.boxes} of shape {boxes.shape}, wanted one row of numbers for each box")
    boxes = boxes.T if output.transposed else boxes
    numbers = 2 * len(extent)
    if output.scores is None:
        if boxes.shape[1] <= numbers:
            raise failed(f"output {output.boxes} has {boxes.shape[1]} numbers a box: no room for scores")
        values = _packed_values(boxes[:, numbers:], output, card)
    else:
        if boxes.shape[1] != numbers:
            raise failed(f"output {output.boxes} of shape {boxes.shape}, wanted {numbers} numbers for each box")
        values = _values(outputs, output, card, len(boxes))
    return _corners(boxes[:, :numbers].astype(np.float64), output, extent), values


def suppressed(corners: NDArray[np.float64], values: NDArray[np.float64], output: BoxesOutput) -> NDArray[np.intp]:
    """Indices of the boxes of one label that are kept, strongest first.

    Greedy non-maximum suppression: a box goes when it overlaps a stronger one by more than `nms_iou` (intersection
    over union). Equals keep their order, as in torchvision. Where the graph has suppressed them all are kept.

    Parameters
    ----------
    corners : float64 (K, 2 * axes)
    values : float64 (K,)
    """
    order = np.argsort(-values, kind="stable")
    if output.nms_iou is None:
        return order[: output.max_lesions]
    kept: list[np.intp] = []
    while order.size and len(kept) < output.max_lesions:
        best, order = order[0], order[1:]
        kept.append(best)
        order = order[~(overlaps(corners[best], corners[order]) > output.nms_iou)]
    return np.asarray(kept, dtype=np.intp)


def overlaps(box: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """Intersection over union of a box (2 * axes,) with others (K, 2 * axes); of empty boxes 0."""
    axes = len(box) // 2
    low, high = np.maximum(box[:axes], others[:, :axes]), np.minimum(box[axes:], others[:, axes:])
    shared = np.clip(high - low, 0, None).prod(axis=1)
    union = (box[axes:] - box[:axes]).prod() + (others[:, axes:] - others[:, :axes]).prod(axis=1) - shared
    return np.asarray(np.divide(shared, union, out=np.zeros_like(shared), where=union > 0))


def _inside(corners: NDArray[np.float64], transform: Transform) -> NDArray[np.bool_]:
    """Boxes that are not empty, and of which something lies in the picture and not only in its padding."""
    one, other = transform.to_input(0.0, 0.0), transform.to_input(transform.source_columns, transform.source_rows)
    low, high = np.minimum(one, other), np.maximum(one, other)
    first, last = np.maximum(corners[:, :2], low), np.minimum(corners[:, 2:], high)
    return np.asarray((first < last).all(axis=1))


def _corners(boxes: NDArray[np.float64], output: BoxesOutput, extent: tuple[int, ...]) -> NDArray[np.float64]:
    first, second = np.split(boxes, 2, axis=1)
    if output.unit is BoxUnit.FRACTION:
        first, second = first * extent, second * extent
    if output.layout is BoxLayout.CENTER_SIZE:
        first, second = first - second / 2, first + second / 2
    elif output.layout is BoxLayout.CORNER_SIZE:
        second = first + second
    return np.concatenate((first, second), axis=1)


def _packed_values(rest: NDArray[np.float32], output: BoxesOutput, card: ModelCard) -> NDArray[np.float64]:
    """Of the numbers after a box's place: objectness, then one for each class; a lone objectness is the score."""
    if not output.objectness:
        return _of_classes(rest, output, card)
    alike = Activation.NONE if output.activation is Activation.NONE else Activation.SIGMOID
    objectness = logits(rest[:, :1], alike, axis=1, name=output.boxes)
    if rest.shape[1] == 1:
        return of_labels(objectness.T, card, name=output.boxes)
    return logit(_probability(objectness.T) * _probability(_of_classes(rest[:, 1:], output, card)))


def _values(outputs: Outputs, output: BoxesOutput, card: ModelCard, count: int) -> NDArray[np.float64]:
    assert output.scores is not None, "packed outputs are read elsewhere"
    scores = taken(outputs, output.scores)
    scores = scores.T if output.transposed and scores.ndim == _MATRIX else scores
    if scores.shape[:1] != (count,):
        raise failed(f"{count} boxes, and output {output.scores} of shape {scores.shape}")
    if output.classes is not None:
        return _of_named_classes(scores, outputs, output, card)
    return _of_classes(scores if scores.ndim == _MATRIX else scores[:, np.newaxis], output, card)


def _of_classes(scores: NDArray[np.float32], output: BoxesOutput, card: ModelCard) -> NDArray[np.float64]:
    """Values (labels, K) from scores (K, classes)."""
    name = output.scores or output.boxes
    values = logits(scores, output.activation, axis=1, name=name)
    first = 0 if scores.shape[1] == 1 else output.first_class
    return of_labels(values.T, card, first_class=first, name=name)


def _of_named_classes(
    scores: NDArray[np.float32], outputs: Outputs, output: BoxesOutput, card: ModelCard
) -> NDArray[np.float64]:
    """Values (labels, K) from scores (K,) and the class of each box (K,)."""
    assert output.scores is not None and output.classes is not None, "asked for only where both are named"
    scores = scores[:, 0] if scores.shape[1:] == (1,) else scores
    classes = taken(outputs, output.classes)
    classes = classes.reshape(-1) if classes.size == len(scores) else classes
    if scores.ndim != 1 or classes.shape != scores.shape:
        raise failed(f"outputs {output.scores} of shape {scores.shape} and {output.classes} of shape {classes.shape}")
    values = logits(scores, output.activation, axis=0, name=output.scores)
    wanted = np.asarray([card.class_index(label) + output.first_class for label in card.labels])
    return np.where(classes[np.newaxis] == wanted[:, np.newaxis], values[np.newaxis], -np.inf)


def _probability(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * values)))

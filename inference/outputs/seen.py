"""What a network's arrays say of one picture before anything is judged, and the arithmetic all decoders share.

Made by the decoders beside this module, read by `inference.postprocess`, `training` and `eval`. Thresholds, codes and
calibration are not known here, except the card's own cut below which a network's boxes or regions are noise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inference.findings import Box
from inference.refusals import Reason, Refused
from models.card import ModelCard
from models.outputs import Activation

Outputs = Mapping[str, NDArray[np.float32]]

BOX_DECIMALS = 2  # of a source pixel
_LEAST = 1e-7  # a probability of 0 or 1 has no logit: it counts as this far from it, a logit of 16.1
_TOLERANCE = 1e-3  # by which arithmetic in float16 may carry a probability over 0 or 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Mark:
    """One place a network marks.

    Attributes
    ----------
    label_index : int
        Place of the label in the card's list.
    box : Box
        Source pixels.
    logit : float
        Of the mark's probability.
    outline : tuple of (x, y)
        Closed polygon in source pixels without repeating the first point; empty when only the box is known.
    """

    label_index: int
    box: Box
    logit: float
    outline: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """All that a network says of one picture.

    Attributes
    ----------
    marks : tuple of Mark
        Strongest first, suppressed, of all labels together no more than the card keeps.
    strongest : tuple of float
        For each label the logit of the strongest place, also where no mark was kept; empty for a classifier.
    picture : tuple of float
        For each label the logit of the whole picture; empty where the network says nothing of it.
    """

    marks: tuple[Mark, ...] = ()
    strongest: tuple[float, ...] = ()
    picture: tuple[float, ...] = ()


def failed(detail: str) -> Refused:
    """The refusal for outputs that are not what the card says."""
    return Refused(Reason.MODEL_FAILED, detail)


def taken(outputs: Outputs, name: str) -> NDArray[np.float32]:
    """The output called `name`.

    Raises
    ------
    Refused
        MODEL_FAILED when it is missing or holds values that are not finite.
    """
    if name not in outputs:
        raise failed(f"no output {name}: the network gave {', '.join(sorted(outputs)) or 'nothing'}")
    if not np.isfinite(outputs[name]).all():
        raise failed(f"output {name} holds values that are not numbers")
    return outputs[name]


def sigmoid(logit: float) -> float:
    """Logistic function without overflow."""
    return float(0.5 * (1.0 + np.tanh(0.5 * logit)))


def logits(values: NDArray[np.float32], activation: Activation, *, axis: int, name: str) -> NDArray[np.float64]:
    """Logits of each class's probability, so that Platt scaling means the same for every kind of output.

    Parameters
    ----------
    values : float32 array
        As the network gave them; with SOFTMAX the classes lie along `axis`.
    name : str
        Of the output, for the error.

    Raises
    ------
    Refused
        MODEL_FAILED when values that should be probabilities lie outside 0..1.
    """
    if activation is Activation.SIGMOID:
        return values.astype(np.float64)
    if activation is Activation.SOFTMAX:
        shifted = values.astype(np.float64) - values.max(axis=axis, keepdims=True)
        powers = np.exp(shifted)
        return logit(powers / powers.sum(axis=axis, keepdims=True))
    if values.size and not (values.min() >= -_TOLERANCE and values.max() <= 1 + _TOLERANCE):
        raise failed(f"output {name} holds values outside 0..1, no probabilities: the card needs an activation")
    return logit(values.astype(np.float64))


def logit(probability: NDArray[np.float64]) -> NDArray[np.float64]:
    """``log(p / (1 - p))``, of 0 and 1 of the nearest value that has one."""
    bounded = np.clip(probability, _LEAST, 1 - _LEAST)
    return np.asarray(np.log(bounded) - np.log1p(-bounded))


def of_labels(values: NDArray[np.float64], card: ModelCard, *, first_class: int = 0, name: str) -> NDArray[np.float64]:
    """Of values (classes, ...) those of the card's labels, in the card's order.

    Raises
    ------
    Refused
        MODEL_FAILED when there are fewer classes than a label's index, or others than the card's labels though no
        label names an index.
    """
    indices = [card.class_index(label) + first_class for label in card.labels]
    wanted = max(indices) + 1
    fits = len(values) >= wanted if any(label.index is not None for label in card.labels) else len(values) == wanted
    if not fits:
        raise failed(f"output {name} has {len(values)} class(es), the card's labels take {wanted}")
    return values[indices]


def picture_logits(
    outputs: Outputs, name: str | None, activation: Activation, card: ModelCard, *, first_class: int = 0
) -> tuple[float, ...]:
    """Logits of the whole picture for each label, from an output (classes,); empty where there is none.

    Raises
    ------
    Refused
        MODEL_FAILED when the output is missing or does not fit the card.
    """
    if name is None:
        return ()
    values = taken(outputs, name)
    if values.ndim != 1:
        raise failed(f"picture output {name} of shape {values.shape}, wanted one value for each class")
    found = of_labels(logits(values, activation, axis=0, name=name), card, first_class=first_class, name=name)
    return tuple(float(value) for value in found)


def strongest(marks: Sequence[Mark], most: int) -> tuple[Mark, ...]:
    """The `most` strongest marks; equals keep their order."""
    return tuple(sorted(marks, key=lambda mark: -mark.logit)[:most])


def rounded(box: Box) -> Box | None:
    """The box to a hundredth of a source pixel; None when nothing of it is left."""
    edges = (box.x_min, box.y_min, box.x_max, box.y_max)
    x_min, y_min, x_max, y_max = (round(value, BOX_DECIMALS) for value in edges)
    return Box(x_min=x_min, y_min=y_min, x_max=x_max, y_max=y_max) if x_min < x_max and y_min < y_max else None


def iou(one: Box, other: Box) -> float:
    """Intersection over union of two boxes."""
    width = min(one.x_max, other.x_max) - max(one.x_min, other.x_min)
    height = min(one.y_max, other.y_max) - max(one.y_min, other.y_min)
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    return shared / (one.area + other.area - shared)

"""How a card could describe a graph: proposals from names, types and shapes, and from one run on noise.

Called by `radnode models inspect`. A proposal is a guess that fits the shapes; which of two that fit is right, and what
the numbers mean, is for whoever made the model to say. A form that no card describes is named as such.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inference.runtimes.signature import FLOATS, Dimension, Port, Signature

_MOST_NUMBERS = 512  # an axis of boxes is longer, one of coordinates and classes is not
_BOX_NUMBERS = (4, 6)
_MOST_CHANNELS = 3
_VOLUME_AXES, _PICTURE_AXES = 5, 4
FORMS = (
    "lists of boxes (N, K, 4) with scores (N, K) or (N, K, classes), all in one tensor (N, K, 4 + classes) or with its "
    "axes the other way round, maps (N, classes, h, w), and one value for each class (N, classes)"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Proposal:
    """One way to describe a graph.

    Attributes
    ----------
    output : mapping
        A card's [output].
    classes : int or None
        Number of classes, None where the graph leaves it open.
    marks : bool
        Whether it marks places.
    why : str
        What speaks for it.
    questions : tuple of str
        What only the maker of the model knows.
    """

    output: Mapping[str, object]
    classes: int | None
    marks: bool
    why: str
    questions: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Proposals:
    """What can be said of a graph: a card's [input], ways to describe the output, and why not more."""

    input: Mapping[str, object] | None
    outputs: tuple[Proposal, ...] = ()
    obstacles: tuple[str, ...] = ()


def proposed_input(signature: Signature) -> tuple[dict[str, object] | None, tuple[str, ...]]:
    """A card's [input] for a graph, and what stands in the way of one."""
    if len(signature.inputs) != 1:
        return None, (f"the graph has {len(signature.inputs)} inputs; a model takes one, the picture",)
    port = signature.inputs[0]
    if port.dtype not in FLOATS:
        return None, (f"input {port.name} takes {port.dtype}; the node feeds float32 or float16",)
    shape = port.shape
    if len(shape) == _VOLUME_AXES and shape[1] in (1, None):
        return _volume_input(port), ()
    own = shape[1:] if len(shape) == _PICTURE_AXES else shape
    if len(own) != _PICTURE_AXES - 1:
        return None, (f"input {port.name} has {len(shape)} axes; a picture has (N, channels, height, width)",)
    last = own[-1] in (1, _MOST_CHANNELS) and own[0] not in (1, _MOST_CHANNELS)
    channels, height, width = (own[2], own[0], own[1]) if last else own
    if isinstance(channels, int) and channels not in (1, _MOST_CHANNELS):
        return None, (f"input {port.name} takes {channels} channels; a card's picture has 1 or 3",)
    count = channels if isinstance(channels, int) else 1
    made: dict[str, object] = {
        "kind": "projection", "tensor": port.name, "height": _side(height), "width": _side(width), "channels": count,
        "fit": "pad_end", "mean": [0.0] * count, "std": [1.0] * count,
    }  # fmt: skip
    if last:
        made["layout"] = "channels_last"
    return made, ()


def _volume_input(port: Port) -> dict[str, object]:
    return {
        "kind": "volume", "tensor": port.name, "spacing_mm": [1.0, 1.0, 1.0],
        "tile": [_side(size, 96) for size in port.shape[2:]],
    }  # fmt: skip


def _side(size: Dimension, otherwise: int = 512) -> int:
    return size if isinstance(size, int) else otherwise


def propose(signature: Signature, outputs: Mapping[str, NDArray[np.generic]], sizes: tuple[int, ...]) -> Proposals:
    """Ways to describe a graph.

    Parameters
    ----------
    outputs : mapping of name to array
        What the graph gave for one picture of noise; empty where it could not be run.
    sizes : tuple of int
        Sides of that picture.
    """
    model_input, obstacles = proposed_input(signature)
    if model_input is None:
        return Proposals(input=None, obstacles=obstacles)
    ports = [_seen(port, outputs) for port in signature.outputs]
    found = tuple(_of_lists(ports, outputs, sizes))
    if not found:
        fixed = {port.name: port.shape for port in signature.outputs}
        each = [_of_one(port, fixed[port.name], outputs, model_input) for port in ports]
        found = tuple(proposal for proposal in each if proposal is not None)
    if not found:
        obstacles = (
            f"no card describes what this graph gives ({', '.join(map(str, ports))}); cards describe {FORMS}. Export "
            "the model with one of these outputs, for instance without the steps after its head",
        )
    return Proposals(input=model_input, outputs=found, obstacles=obstacles)


def _seen(port: Port, outputs: Mapping[str, NDArray[np.generic]]) -> Port:
    """The port with the sizes that a run showed, where the graph leaves them open."""
    if port.name not in outputs:
        return port
    shape = outputs[port.name].shape
    if len(port.shape) != len(shape):
        return Port(name=port.name, dtype=port.dtype, shape=shape)
    kept = tuple(size if isinstance(size, int) else seen for size, seen in zip(port.shape, shape, strict=True))
    return Port(name=port.name, dtype=port.dtype, shape=kept)


# lists of boxes ----------------------------------------------------------------------------------------------------


def _of_lists(ports: list[Port], outputs: Mapping[str, NDArray[np.generic]], sizes: tuple[int, ...]) -> list[Proposal]:
    """Boxes and scores in outputs of their own."""
    boxes = [
        port for port in ports if port.dtype in FLOATS and len(port.shape) in (2, 3) and port.shape[-1] in _BOX_NUMBERS
    ]
    if len(boxes) != 1 or len(ports) == 1:
        return []
    rank = len(boxes[0].shape)
    others = [port for port in ports if port is not boxes[0]]
    scores = [port for port in others if port.dtype in FLOATS and len(port.shape) in (rank - 1, rank)]
    classes = [port for port in others if port.dtype not in FLOATS and len(port.shape) == rank - 1]
    if not scores:
        return []
    output: dict[str, object] = {"kind": "boxes", "boxes": boxes[0].name, "scores": scores[0].name}
    each = len(scores[0].shape) == rank
    if classes and not each:
        output["classes"] = classes[0].name
    output |= _box_words(boxes[0], outputs, sizes, slice(None))
    output["activation"] = _activation(outputs.get(scores[0].name))
    count = scores[0].shape[-1] if each else None
    return [
        Proposal(
            output=output,
            classes=count if isinstance(count, int) else None,
            marks=True,
            why=f"{boxes[0].name} holds {boxes[0].shape[-1]} numbers for each box, {scores[0].name} its score",
            questions=(*_BOX_QUESTIONS, "has the graph suppressed overlapping boxes (nms_iou = false)?"),
        )
    ]


_BOX_QUESTIONS = (
    "are the numbers of a box corners, centre and size, or corner and size (layout)?",
    "do they count pixels of the input or fractions of it (unit)?",
    "is class 0 the background (first_class = 1)?",
)


def _box_words(
    port: Port, outputs: Mapping[str, NDArray[np.generic]], sizes: tuple[int, ...], numbers: slice
) -> dict[str, object]:
    """layout and unit, as far as the numbers of a run tell."""
    given = outputs.get(port.name)
    if given is None or given.size == 0:
        return {"layout": "corners", "unit": "pixels"}
    rows = np.asarray(given, dtype=np.float64).reshape(-1, given.shape[-1])[:, numbers]
    half = rows.shape[1] // 2
    ordered = float(np.mean(np.all(rows[:, half:] >= rows[:, :half], axis=1)))
    unit = "fraction" if np.abs(rows).max() <= 2 and max(sizes) > 2 else "pixels"  # noqa: PLR2004
    return {"layout": "corners" if ordered > 0.99 else "center_size", "unit": unit}  # noqa: PLR2004


# single outputs ----------------------------------------------------------------------------------------------------


def _of_one(
    port: Port,
    declared: tuple[Dimension, ...],
    outputs: Mapping[str, NDArray[np.generic]],
    model_input: Mapping[str, object],
) -> Proposal | None:
    volume = model_input["kind"] == "volume"
    if port.dtype not in FLOATS:
        return None
    if len(port.shape) == (_VOLUME_AXES if volume else _PICTURE_AXES):
        return _map(port, outputs)
    if len(port.shape) == 3:  # noqa: PLR2004  (pictures, boxes, numbers)
        return _packed(port, declared, outputs, numbers=6 if volume else 4)
    if len(port.shape) == 2:  # noqa: PLR2004  (pictures, classes)
        return _classifier(port, outputs)
    return None


def _map(port: Port, outputs: Mapping[str, NDArray[np.generic]]) -> Proposal:
    classes = port.shape[1] if isinstance(port.shape[1], int) else None
    activation = _activation(outputs.get(port.name), axis=1)
    return Proposal(
        output={"kind": "heatmap", "heatmap": port.name, "activation": activation, "region_threshold": 0.5},
        classes=classes,
        marks=True,
        why=f"{port.name} is a map for each of {classes or 'some'} class(es)",
        questions=("is one of the classes the background (softmax; give labels their index)?",),
    )


def _packed(
    port: Port, declared: tuple[Dimension, ...], outputs: Mapping[str, NDArray[np.generic]], *, numbers: int
) -> Proposal | None:
    """One list of boxes: the graph itself fixes how many numbers a box has, though not how many boxes there are."""
    axes = [axis for axis in (1, 2) if len(declared) == len(port.shape) and _counts_numbers(declared[axis], numbers)]
    if not axes:
        return None
    axis = min(axes, key=lambda one: int(str(declared[one])))
    transposed, size = axis == 1, int(str(declared[axis]))
    given = outputs.get(port.name)
    rows = None if given is None else (given.transpose(0, 2, 1) if transposed else given)
    turned = {} if rows is None else {port.name: rows}
    classes = size - numbers
    questions = [*_BOX_QUESTIONS, f"are the {classes} numbers after the place classes, or an objectness and classes?"]
    if classes == 2:  # noqa: PLR2004  (a score and a class: the form of graphs that suppress by themselves)
        questions.append("if they are a score and the number of a class, no card describes it: export them apart")
    return Proposal(
        output={
            "kind": "boxes", "boxes": port.name, "scores": False, "transposed": transposed,
            **_box_words(port, turned, (_MOST_NUMBERS,), slice(0, numbers)),
            "activation": _activation(None if rows is None else rows[..., numbers:]),
        },
        classes=classes,
        marks=True,
        why=f"{port.name} lists boxes of {size} numbers: {numbers} for the place, {classes} for classes",
        questions=tuple(questions),
    )  # fmt: skip


def _counts_numbers(size: Dimension, numbers: int) -> bool:
    return isinstance(size, int) and numbers < size <= _MOST_NUMBERS


def _classifier(port: Port, outputs: Mapping[str, NDArray[np.generic]]) -> Proposal:
    classes = port.shape[1] if isinstance(port.shape[1], int) else None
    activation = _activation(outputs.get(port.name), axis=1)
    return Proposal(
        output={"kind": "probability", "probability": port.name, "activation": activation},
        classes=classes,
        marks=False,
        why=f"{port.name} holds a value for each of {classes or 'some'} class(es)",
        questions=("do the classes exclude each other (softmax) or not (sigmoid)?",),
    )


def _activation(values: NDArray[np.generic] | None, axis: int | None = None) -> str:
    """What the numbers of a run look like: probabilities already, or logits."""
    if values is None or values.size == 0:
        return "none"
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.min() >= 0 and numbers.max() <= 1:
        return "none"
    return "softmax" if axis is not None and numbers.shape[axis] > 1 else "sigmoid"

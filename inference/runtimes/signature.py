"""Does a graph take and give what the card says? Answered when it is loaded, with the graph's own names in the answer.

`wire` compares a graph's inputs and outputs with the card and says how the runtime has to feed and read it: under
which name, with or without a batch axis, how many pictures at a time. Called by `inference.runtimes.onnx`, whose graphs
tell their shapes; `radnode models inspect` prints `Signature`. Whether the numbers make sense is for
`inference.outputs` to say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inference.outputs import output_names
from inference.runtimes.base import NetworkFailed
from models.card import ModelCard
from models.inputs import Layout, VolumeInput
from models.outputs import Activation, BoxesOutput, CenterHeatmapOutput, ProbabilityOutput

Dimension = int | str | None
FLOATS = ("float32", "float16")
_WHOLE = ("int64", "int32")
_OTHER_WAY = "; if the axes are the other way round change transposed"


class SignatureDiffers(NetworkFailed):
    """The graph's inputs or outputs are not those of the card. Permanent until card or weights are replaced."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Port:
    """One input or output of a graph.

    Attributes
    ----------
    name : str
    dtype : str
        NumPy's name, or what the library calls it where NumPy has none ("seq(tensor(float))").
    shape : tuple of int, str or None
        A number is fixed, a word is the name of a free dimension, None is free and nameless.
    """

    name: str
    dtype: str
    shape: tuple[Dimension, ...]

    def __str__(self) -> str:
        return f"{self.name} {self.dtype}({', '.join('?' if size is None else str(size) for size in self.shape)})"


@dataclass(frozen=True, kw_only=True, slots=True)
class Signature:
    """All inputs and outputs of a graph."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]

    def __str__(self) -> str:
        taken, given = (", ".join(map(str, ports)) or "nothing" for ports in (self.inputs, self.outputs))
        return f"the graph takes {taken} and gives {given}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Wiring:
    """How a graph is fed and read.

    Attributes
    ----------
    input_name, input_dtype : str
    input_batched : bool
        Whether the input has a batch axis; without one pictures are fed one by one.
    max_batch : int or None
        Most pictures at a time; None for any number.
    outputs : tuple of str
        Names of the outputs that the card uses; others are not computed.
    outputs_batched : bool
        Whether the outputs have a batch axis.
    """

    input_name: str
    input_dtype: str
    input_batched: bool
    max_batch: int | None
    outputs: tuple[str, ...]
    outputs_batched: bool


def wire(signature: Signature, card: ModelCard) -> Wiring:
    """Compare a graph with its card.

    Raises
    ------
    SignatureDiffers
        If they do not fit; the message says what the graph has, what the card says, and what to change.
    """
    try:
        return _wire(signature, card)
    except SignatureDiffers as fault:
        raise SignatureDiffers(f"{fault}; {signature}") from None


def _wire(signature: Signature, card: ModelCard) -> Wiring:
    port = _input_port(signature, card)
    input_batched = _input_batched(port, card)
    fixed = port.shape[0] if input_batched else 1
    max_batch = fixed if isinstance(fixed, int) else None
    if max_batch not in (None, 1):
        raise SignatureDiffers(
            f"input {port.name} takes exactly {max_batch} pictures at a time: export it with a free batch axis, or of 1"
        )
    found = {output.name: output for output in signature.outputs}
    names = output_names(card.output)
    if missing := [name for name in names if name not in found]:
        raise SignatureDiffers(
            f"the card's [output] names {', '.join(missing)}, which the graph does not give: name one of its outputs"
        )
    outputs_batched = _outputs_batched(found[names[0]], card)
    for name in names:
        _check_output(found[name], card, batched=outputs_batched)
    if outputs_batched is False and max_batch is None:
        max_batch = 1  # a free batch axis that the outputs do not have: only of one picture are they its own
    return Wiring(
        input_name=port.name,
        input_dtype=port.dtype,
        input_batched=input_batched,
        max_batch=max_batch,
        outputs=names,
        outputs_batched=outputs_batched is not False,
    )


def check_outputs(outputs: Mapping[str, NDArray[np.float32]], card: ModelCard) -> None:
    """Compare what a network gave for one picture, batch axis first, with the card: of some graphs only this tells.

    Raises
    ------
    SignatureDiffers
        If they do not fit.
    """
    given = tuple(Port(name=name, dtype="float32", shape=array.shape) for name, array in outputs.items())
    try:
        for name in output_names(card.output):
            port = next((port for port in given if port.name == name), None)
            if port is None:
                raise SignatureDiffers(f"the card's [output] names {name}, which the network does not give")
            _check_output(port, card, batched=True)
    except SignatureDiffers as fault:
        raise SignatureDiffers(f"{fault}; the network gave {', '.join(map(str, given))}") from None


# the input ---------------------------------------------------------------------------------------------------------


def _input_port(signature: Signature, card: ModelCard) -> Port:
    name = card.input.tensor
    if name is None and len(signature.inputs) != 1:
        raise SignatureDiffers(
            f"the graph has {len(signature.inputs)} inputs, a model takes one, the picture: export it with the others "
            "as constants"
        )
    port = next((port for port in signature.inputs if name in (None, port.name)), None)
    if port is None:
        raise SignatureDiffers(f"the card's [input] tensor is {name}, which the graph does not take: name its input")
    if others := [other.name for other in signature.inputs if other is not port]:
        raise SignatureDiffers(
            f"besides {port.name} the graph wants {', '.join(others)}, which nothing gives: export it with "
            "the others as constants"
        )
    if port.dtype not in FLOATS:
        raise SignatureDiffers(
            f"input {port.name} takes {port.dtype}, the node feeds float32 (or float16), normalised as the card says: "
            "export it with a float input"
        )
    return port


def _input_batched(port: Port, card: ModelCard) -> bool:
    wanted = _picture_shape(card)
    if len(port.shape) not in (len(wanted), len(wanted) + 1):
        raise SignatureDiffers(
            f"input {port.name} has {len(port.shape)} axes, the card's [input] makes {_words(wanted)} for each picture"
        )
    batched = len(port.shape) == len(wanted) + 1
    own = port.shape[1:] if batched else port.shape
    if any(isinstance(has, int) and has != wants for has, (_, wants) in zip(own, wanted, strict=True)):
        raise SignatureDiffers(
            f"input {port.name} takes pictures of {_sizes(own)}, the card's [input] makes {_words(wanted)}: change "
            "height, width, channels, tile or layout of the card"
        )
    return batched


def _picture_shape(card: ModelCard) -> tuple[tuple[str, int], ...]:
    spec = card.input
    if isinstance(spec, VolumeInput):
        return (("channels", 1), *zip(("slices", "rows", "columns"), spec.tile, strict=True))
    sides = (("height", spec.height), ("width", spec.width))
    channels = ("channels", spec.channels)
    return (*sides, channels) if spec.layout is Layout.CHANNELS_LAST else (channels, *sides)


def picture_shape(card: ModelCard) -> tuple[int, ...]:
    """Shape of one picture's (or tile's) tensor, in the card's layout."""
    return tuple(size for _, size in _picture_shape(card))


def _words(shape: tuple[tuple[str, int], ...]) -> str:
    return "(" + ", ".join(f"{name} {size}" for name, size in shape) + ")"


def _sizes(shape: tuple[Dimension, ...]) -> str:
    return "(" + ", ".join("?" if size is None else str(size) for size in shape) + ")"


# outputs -----------------------------------------------------------------------------------------------------------


def _outputs_batched(port: Port, card: ModelCard) -> bool | None:
    """Whether the outputs have a batch axis, as the first of them tells; None where the graph gives no shape."""
    _check_dtype(port, card)
    own = _ranks(card, port.name)
    if not port.shape:
        return None
    rank = len(port.shape)
    if rank not in own and rank - 1 not in own:
        wanted = " or ".join(str(number + 1) for number in sorted(own))
        raise SignatureDiffers(
            f"output {port.name} has {rank} axes, as {card.output.kind} of the card it must have {wanted} "
            "(one less for a model that takes one picture at a time)"
        )
    return rank - 1 in own


def _check_output(port: Port, card: ModelCard, *, batched: bool | None) -> None:
    _check_dtype(port, card)
    if batched is None or not port.shape:
        return
    own = port.shape[1:] if batched else port.shape
    if len(own) not in _ranks(card, port.name):
        raise SignatureDiffers(
            f"output {port.name} has {len(port.shape)} axes, which does not go with {output_names(card.output)[0]}: "
            f"either all of the card's outputs have a batch axis or none"
        )
    _check_sizes(port.name, own, card)


def _check_dtype(port: Port, card: ModelCard) -> None:
    output = card.output
    of_classes = isinstance(output, BoxesOutput) and port.name == output.classes
    wanted = (*FLOATS, *_WHOLE) if of_classes else FLOATS
    if port.dtype not in wanted:
        raise SignatureDiffers(
            f"output {port.name} gives {port.dtype}, as {output.kind} of the card it must give {' or '.join(wanted)}: "
            "the card may mean another output"
        )


def _ranks(card: ModelCard, name: str) -> tuple[int, ...]:
    """Numbers of axes, without the batch axis, that an output may have."""
    output = card.output
    if isinstance(output, ProbabilityOutput) or name == output.picture:
        return (1,)
    if isinstance(output, BoxesOutput):
        return (2,) if name == output.boxes else (1, 2)
    return (4,) if isinstance(card.input, VolumeInput) else (3,)


def _check_sizes(name: str, own: tuple[Dimension, ...], card: ModelCard) -> None:
    """What fixed sizes tell: numbers of a box, and classes for every label."""
    output = card.output
    if isinstance(output, BoxesOutput):
        _check_list(name, own, output, card)
    elif not isinstance(output, CenterHeatmapOutput):
        if output.activation is Activation.SOFTMAX and own[0] == 1:
            raise SignatureDiffers(f"softmax of one class is always 1, and output {name} has one: change activation")
        _check_classes(name, own[0], card)
    elif name != output.ltrb:
        _check_classes(name, own[0], card)


def _check_classes(name: str, size: Dimension, card: ModelCard, first_class: int = 0, otherwise: str = "") -> None:
    wanted = max(card.class_index(label) for label in card.labels) + 1 + first_class
    chosen = any(label.index is not None for label in card.labels)
    if isinstance(size, int) and (size < wanted or (size > wanted and not chosen)):
        raise SignatureDiffers(
            f"output {name} has {size} class(es), the card's labels take {wanted}: give each label the index of its "
            f"class{otherwise}"
        )


def _check_list(name: str, own: tuple[Dimension, ...], output: BoxesOutput, card: ModelCard) -> None:
    if name == output.boxes:
        _check_boxes(name, own[0 if output.transposed else 1], output, card)
    elif name == output.picture:
        _check_classes(name, own[0], card, output.first_class)
    elif name == output.scores:
        _check_scores(name, own, output, card)


def _check_scores(name: str, own: tuple[Dimension, ...], output: BoxesOutput, card: ModelCard) -> None:
    each = len(own) == 1 or own[0 if output.transposed else 1] == 1
    if each and output.activation is Activation.SOFTMAX:
        raise SignatureDiffers(f"softmax needs a score for each class, output {name} has one for each box")
    if each and output.classes is None and len(card.labels) > 1:
        raise SignatureDiffers(
            f"output {name} has one score for each box and the card {len(card.labels)} labels: name the output that "
            "holds the class of each box as classes"
        )
    if not each and output.classes is not None:
        raise SignatureDiffers(f"output {name} has a score for each class: leave classes out")
    if not each:
        _check_classes(name, own[0 if output.transposed else 1], card, output.first_class)


def _check_boxes(name: str, size: Dimension, output: BoxesOutput, card: ModelCard) -> None:
    numbers = 6 if isinstance(card.input, VolumeInput) else 4
    if not isinstance(size, int):
        return
    if output.scores is not None:
        if size != numbers:
            raise SignatureDiffers(
                f"output {name} has {size} numbers for each box, not {numbers}: if the scores are among them set "
                f"scores to false{_OTHER_WAY}"
            )
        return
    classes = size - numbers - (1 if output.objectness else 0)
    if classes < 0 or (classes == 0 and not (output.objectness and len(card.labels) == 1)):
        raise SignatureDiffers(
            f"output {name} has {size} numbers for each box, {numbers} of them its place: none for scores{_OTHER_WAY}"
        )
    if classes:
        _check_classes(name, classes, card, output.first_class if classes > 1 else 0, _OTHER_WAY)

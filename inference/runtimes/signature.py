"""Does a graph take and give what the card says? Answered when it is loaded, with the graph's own names in the answer.

`wire` compares a graph's inputs and outputs with the card and says how the runtime has to feed and read it: under
which name, with or without a batch axis, how many pictures at a time. Called by `inference.runtimes.onnx`, whose graphs
tell their shapes; `radnode models inspect` prints `Signature`. Whether the numbers make sense is for
`inference.outputs` to say.
"""

from __future__ import annotations

from dataclasses import dataclass

from inference.outputs import output_names
from inference.runtimes.base import NetworkFailed
from models.card import (
    Activation,
    BoxesOutput,
    CenterHeatmapOutput,
    HeatmapOutput,
    Layout,
    ModelCard,
    Output,
    VolumeInput,
)

Dimension = int | str | None
FLOATS = ("float32", "float16")
_NUMBERS = (*FLOATS, "float64", "int64", "int32")


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
    batched = {name: _output_batched(found[name], card) for name in names}
    known = {value for value in batched.values() if value is not None}
    if len(known) > 1:
        raise SignatureDiffers("some of the card's outputs have a batch axis and others have not")
    outputs_batched = known.pop() if known else True
    if not outputs_batched and input_batched and max_batch is None:
        max_batch = 1  # a free batch axis that the outputs do not have: only of one picture are they its own
    return Wiring(
        input_name=port.name,
        input_dtype=port.dtype,
        input_batched=input_batched,
        max_batch=max_batch,
        outputs=names,
        outputs_batched=outputs_batched,
    )


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


def _output_batched(port: Port, card: ModelCard) -> bool | None:
    """Whether an output has a batch axis; None where its rank cannot tell.

    Ranks with a batch axis are those of the card's documentation; one less is without.
    """
    ranks = _ranks(card.output, port.name, isinstance(card.input, VolumeInput))
    wanted = FLOATS if port.name != _classes(card.output) else _NUMBERS
    if port.dtype not in wanted:
        raise SignatureDiffers(
            f"output {port.name} gives {port.dtype}, as {card.output.kind} of the card it must give "
            f"{' or '.join(wanted)}: it may be another output that you mean"
        )
    rank = len(port.shape)
    if not port.shape and 0 not in ranks:
        return None  # the graph does not tell; the first picture will
    if rank not in ranks | {rank - 1 for rank in ranks}:
        raise SignatureDiffers(
            f"output {port.name} has {rank} axes, as {card.output.kind} of the card it must have "
            f"{' or '.join(map(str, sorted(ranks)))} (one less for a model that takes one picture at a time)"
        )
    _check_sizes(port, card)
    if rank in ranks and rank + 1 in ranks:
        return None
    return rank in ranks


def _ranks(output: Output, name: str, volume: bool) -> set[int]:
    """Numbers of axes, with the batch axis, that an output may have."""
    if isinstance(output, CenterHeatmapOutput):
        return {2} if name == output.picture else {4}
    if isinstance(output, HeatmapOutput):
        return {2} if name == output.picture else {5 if volume else 4}
    if isinstance(output, BoxesOutput):
        if name == output.boxes:
            return {3}
        return {2, 3} if name in (output.scores, output.classes) else {2}
    return {2}


def _classes(output: Output) -> str | None:
    return output.classes if isinstance(output, BoxesOutput) else None


def _check_sizes(port: Port, card: ModelCard) -> None:
    """What can be told from fixed sizes: numbers of a box, and classes for every label."""
    output = card.output
    if isinstance(output, BoxesOutput) and port.name == output.boxes:
        _check_boxes(port, output, 6 if isinstance(card.input, VolumeInput) else 4, card)
    if isinstance(output, BoxesOutput) and output.classes and output.activation is Activation.SOFTMAX:
        raise SignatureDiffers("softmax needs a score for each class, the card's [output] names classes instead")


def _check_boxes(port: Port, output: BoxesOutput, numbers: int, card: ModelCard) -> None:
    size = port.shape[-2] if output.transposed else port.shape[-1]
    if not isinstance(size, int):
        return
    if output.scores is not None:
        if size != numbers:
            raise SignatureDiffers(
                f"output {port.name} has {size} numbers for each box, not {numbers}: if the scores are among them set "
                "scores to null; if the axes are the other way round set transposed"
            )
        return
    before = numbers + (1 if output.objectness else 0)
    classes = max(card.class_index(label) for label in card.labels) + 1 + output.first_class
    if size < before + classes and not (output.objectness and size == before and classes == 1):
        raise SignatureDiffers(
            f"output {port.name} has {size} numbers for each box, the card takes {before} and {classes} class(es): if "
            "the axes are the other way round change transposed"
        )

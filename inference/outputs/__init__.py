"""Decoders: from a network's arrays to marks and logits, one module for each output that a card can describe.

`decode_outputs` chooses by the card. Called by `inference.postprocess`; what is said of marks is decided there. Which
names and shapes a graph must have is checked when it is loaded, by `inference.runtimes.signature`.
"""

from __future__ import annotations

from inference.outputs import boxes, center_heatmap, heatmap, probability
from inference.outputs.seen import Mark, Outputs, Seen
from inference.preprocess import Transform
from models.card import ModelCard
from models.outputs import BoxesOutput, CenterHeatmapOutput, HeatmapOutput, Output, ProbabilityOutput

__all__ = ["Mark", "Outputs", "Seen", "decode_outputs", "output_names"]


def decode_outputs(outputs: Outputs, card: ModelCard, transform: Transform) -> Seen:
    """What the network says of one picture.

    Parameters
    ----------
    outputs : mapping of name to float32 array
        The network's outputs for this picture alone, without the batch axis.
    transform : Transform
        The way from the network's input back to source pixels.

    Raises
    ------
    Refused
        MODEL_FAILED when outputs are missing, have another shape than the card says, or are not finite.
    """
    output = card.output
    if isinstance(output, CenterHeatmapOutput):
        return center_heatmap.read(outputs, output, card, transform)
    if isinstance(output, BoxesOutput):
        return boxes.read(outputs, output, card, transform)
    if isinstance(output, HeatmapOutput):
        return heatmap.read(outputs, output, card, transform)
    return probability.read(outputs, output, card)


def output_names(output: Output) -> tuple[str, ...]:
    """Names of the graph's outputs that the card uses, in the card's order."""
    names: tuple[str | None, ...]
    if isinstance(output, CenterHeatmapOutput):
        names = (output.heatmap, output.ltrb, output.picture)
    elif isinstance(output, BoxesOutput):
        names = (output.boxes, output.scores, output.classes, output.picture)
    elif isinstance(output, HeatmapOutput):
        names = (output.heatmap, output.picture)
    elif isinstance(output, ProbabilityOutput):
        names = (output.probability,)
    return tuple(name for name in names if name)

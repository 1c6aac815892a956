"""Decoder of classifiers: one value for each class, about the whole picture, and no place.

Called by `inference.outputs`.
"""

from __future__ import annotations

from inference.outputs.seen import Outputs, Seen, picture_logits
from models.card import ModelCard
from models.outputs import ProbabilityOutput


def read(outputs: Outputs, output: ProbabilityOutput, card: ModelCard) -> Seen:
    """The picture's logits for each label; see `inference.outputs.decode_outputs`."""
    return Seen(picture=picture_logits(outputs, output.probability, output.activation, card))

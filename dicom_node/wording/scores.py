"""A score in words and per cent: a probability only where the card has calibrated it, and never certainty.

Called by `statements` and `report`. The words stand for fixed ranges, whatever the model; they are in
docs/howto/report-wording.md.
"""

from __future__ import annotations

from typing import Final

from dicom_node.wording.grammar import percentage
from dicom_node.wording.phrases import Phrases
from dicom_node.wording.scene import Scene
from inference.findings import Finding, Lesion, Presence
from models.card import Calibration, Label

_UP_TO: Final = ((0.05, "very_low"), (0.25, "low"), (0.6, "moderate"), (0.9, "high"))  # from the last on, very high
_IDENTITY: Final = Calibration()


def score_text(said: Finding | Lesion, scene: Scene) -> str:
    """``вероятность находки высокая (87 %)``, or that the model's score is no probability."""
    label = scene.card.label(said.label)
    phrases = scene.phrases
    percent = percentage(said.score)
    if not _is_calibrated(said, label):
        return phrases.score.format(percent=percent)
    template = phrases.cancer_probability if label.cancer else phrases.probability
    return template.format(word=_word(said.score, phrases), percent=percent)


def score_of_absent(said: Finding, scene: Scene) -> str:
    """The same, with the threshold that was not reached."""
    words = score_text(said, scene)
    if said.score >= said.threshold:
        return words
    return scene.phrases.below.format(score=words, percent=percentage(said.threshold))


def _word(score: float, phrases: Phrases) -> str:
    words = {
        "very_low": phrases.very_low,
        "low": phrases.low,
        "moderate": phrases.moderate,
        "high": phrases.high,
    }
    return next((words[name] for limit, name in _UP_TO if score < limit), phrases.very_high)


def _is_calibrated(said: Finding | Lesion, label: Label) -> bool:
    """Whether the card maps the logit to a probability; one that is left as the network gave it is no probability."""
    if isinstance(said, Lesion):
        return label.lesion_calibration != _IDENTITY
    if said.laterality is not None and label.breast is not None and said.threshold == label.breast.point.threshold:
        return label.breast.calibration != _IDENTITY
    if label.picture is not None and said.threshold == label.picture.threshold:
        return label.picture_calibration != _IDENTITY
    return label.lesion_calibration != _IDENTITY


def is_present(said: Finding) -> bool:
    """Whether a finding is reported."""
    return said.presence is Presence.PRESENT

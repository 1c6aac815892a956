"""What a document says of the study as a whole, label by label, and the codes under which scores are written.

Shared by the writers of FHIR and HL7 v2, which say the same as the SR (`results.sr`) without its library.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from inference.findings import Finding, Findings, PlanarRegion, Presence
from models.card import Label, ModelCard
from models.codes import Code

PERCENT: Final = Code(value="%", scheme="UCUM", meaning="Percent")
PROBABILITY_OF_CANCER: Final = Code(value="111047", scheme="DCM", meaning="Probability of cancer")
CERTAINTY_OF_FINDING: Final = Code(value="111012", scheme="DCM", meaning="Certainty of Finding")
LATERALITY: Final = Code(value="272741003", scheme="SCT", meaning="Laterality")
PRESENCE: Final = {
    Presence.PRESENT: Code(value="52101004", scheme="SCT", meaning="Present"),
    Presence.ABSENT: Code(value="2667000", scheme="SCT", meaning="Absent"),
    Presence.UNDETERMINED: Code(value="373068000", scheme="SCT", meaning="Undetermined"),
}
_SCORE_DECIMALS: Final = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyStatement:
    """One label of the card and what is said of it for the whole study.

    Attributes
    ----------
    label : Label
    presence : Presence
    score : float or None
        Calibrated, 0 to 1; None where the model gave no score for the whole and marked nothing.
    """

    label: Label
    presence: Presence
    score: float | None


def study_statements(findings: Findings, card: ModelCard) -> tuple[StudyStatement, ...]:
    """One statement for each label of the card, in its order.

    The statement about the study, else that about its most suspicious picture, else the highest lesion of the label. A
    label on which the findings are silent is absent without a score, as in the SR.
    """
    said = {one.label: one for one in findings.of_study()}
    return tuple(_statement(label, said.get(label.key), findings) for label in card.labels)


def _statement(label: Label, said: Finding | None, findings: Findings) -> StudyStatement:
    scores = [lesion.score for lesion in findings.lesions if lesion.label == label.key]
    if said is None:
        silent = Presence.PRESENT if scores else Presence.ABSENT
        return StudyStatement(label=label, presence=silent, score=max(scores, default=None))
    # A lesion that is reported is present, whatever was said of the picture as a whole.
    presence = Presence.PRESENT if scores else said.presence
    score = None if said.presence is Presence.UNDETERMINED else said.score
    return StudyStatement(
        label=label, presence=presence, score=score if score is not None else max(scores, default=None)
    )


def score_code(label: Label) -> Code:
    """Under which concept a score of this label is written: never a probability of cancer unless the card allows it."""
    return PROBABILITY_OF_CANCER if label.cancer else CERTAINTY_OF_FINDING


def score_percent(score: float) -> float:
    """Write a score of 0 to 1 in percent, as the SR does."""
    return round(score * 100, _SCORE_DECIMALS)


def place_text(plane: PlanarRegion) -> str:
    """Where a lesion is, for a reader who has the images: SOP Instance UID, frame, box in source pixels."""
    frame = f", frame {plane.frame_number}" if plane.frame_number is not None else ""
    box = plane.box
    corners = f"columns {box.x_min:.1f} to {box.x_max:.1f}, rows {box.y_min:.1f} to {box.y_max:.1f}"
    return f"image {plane.sop_instance_uid}{frame}, {corners}"

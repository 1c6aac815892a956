"""What is said of each breast: one finding for each label and side, made of the findings of its views.

Called by `inference.study_run` for models with a `BreastInput`, and by `training.breasts`, which fits what the card
says of comparing breasts. Pure; the study's own finding and those of the pictures are made in `inference.postprocess`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from inference.findings import Finding, Presence, SopUid
from inference.postprocess import SIDES, calibrated, sigmoid
from models.card import BreastComparison, Label

_OPPOSITE = {"L": "R", "R": "L"}
_DECIMALS = 4  # of a raw score; nearer to 0 or 1 a logit cannot be told from it


@dataclass(frozen=True, kw_only=True, slots=True)
class BreastView:
    """Which breast a picture shows, from which direction: "L" or "R", and "MLO", "CC" or another view."""

    side: str
    view: str


def breast_findings(
    findings: Sequence[Finding], views: Mapping[SopUid, BreastView], labels: Sequence[Label] = ()
) -> tuple[Finding, ...]:
    """For each label and breast the finding of its most suspicious view, with the side in place of the view.

    A lesion is often seen in one of two views only, so a breast is as suspicious as its most suspicious view: a mean
    would dilute the one that shows it. With several views a breast errs on the suspicious side, for each adds its
    chance of a false alarm. Where the card says so and the same view of the other breast is there, a view is judged
    against it: what both breasts show alike is most often the woman's tissue, not a lesion. Views whose side is not
    known speak of no breast; views that have no name are not held against each other.

    Parameters
    ----------
    findings : sequence of Finding
        Findings of pictures; those of the whole study are passed over.
    views : mapping of SOP Instance UID to BreastView
        What each picture's header names.
    labels : sequence of Label
        The card's; a label that is not among them, or has no `breast`, is judged for each breast alone.

    Returns
    -------
    tuple of Finding
        Right before left, as mammograms are hung; of each breast in the order of `findings`.
    """
    comparisons = {label.key: label.breast for label in labels}
    of_views = _by_view(findings, views)
    strongest: dict[tuple[str, str], Finding] = {}
    for (label, shown), finding in of_views.items():
        other = of_views.get((label, BreastView(side=_OPPOSITE[shown.side], view=shown.view))) if shown.view else None
        judged = _compared(finding, other, comparisons.get(label))
        best = strongest.get((shown.side, label))
        if best is None or _suspicion(judged) > _suspicion(best):
            strongest[shown.side, label] = judged
    return tuple(
        replace(finding, sop_instance_uid=None, laterality=SIDES[side])
        for wanted in ("R", "L")
        for (side, _), finding in strongest.items()
        if side == wanted
    )


def compared_logit(own: float, other: float, comparison: BreastComparison) -> float:
    """The logit of a view less the card's share of that of the other breast's view."""
    return own - comparison.contralateral * other


def _by_view(findings: Sequence[Finding], views: Mapping[SopUid, BreastView]) -> dict[tuple[str, BreastView], Finding]:
    """The most suspicious picture of each label, breast and view: a view may have been taken twice."""
    found: dict[tuple[str, BreastView], Finding] = {}
    for finding in findings:
        shown = views.get(finding.sop_instance_uid) if finding.sop_instance_uid else None
        if shown is None or shown.side not in SIDES:
            continue
        best = found.get((finding.label, shown))
        if best is None or finding.score > best.score:
            found[finding.label, shown] = finding
    return found


def _compared(own: Finding, other: Finding | None, comparison: BreastComparison | None) -> Finding:
    if other is None or comparison is None:
        return own
    logit = compared_logit(_logit(own.raw_score), _logit(other.raw_score), comparison)
    score, threshold = calibrated(logit, comparison.calibration), comparison.point.threshold
    return replace(
        own,
        presence=Presence.PRESENT if score >= threshold else Presence.ABSENT,
        score=score,
        raw_score=round(sigmoid(logit), _DECIMALS),
        threshold=threshold,
    )


def _suspicion(finding: Finding) -> tuple[bool, float]:
    """Views judged with and without the other breast have thresholds of their own; present goes before absent."""
    return finding.presence is Presence.PRESENT, finding.score


def _logit(raw_score: float) -> float:
    least = 0.5 * 10**-_DECIMALS
    share = min(max(raw_score, least), 1 - least)
    return math.log(share / (1 - share))

"""What is said of each breast: one finding for each label and side, made of the findings of its views.

Called by `inference.study_run` for models with a `BreastInput`. Pure; scores and thresholds come from the card by way
of the views' findings. The study's own finding and those of the pictures are made in `inference.postprocess`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from inference.findings import Finding, SopUid
from inference.postprocess import SIDES


def breast_findings(findings: Sequence[Finding], side_of: Mapping[SopUid, str]) -> tuple[Finding, ...]:
    """For each label and breast the finding of its most suspicious view, with the side in place of the view.

    A lesion is often seen in one of two views only, so a breast is as suspicious as its most suspicious view: a mean
    would dilute the one that shows it. With one view the probability is that of the view, as it was calibrated; with
    several it is the highest of theirs and so errs on the suspicious side, for each further view adds its chance of
    a false alarm. Views whose side is not known speak of no breast.

    Parameters
    ----------
    findings : sequence of Finding
        Findings of pictures; those of the whole study are passed over.
    side_of : mapping of SOP Instance UID to "L", "R" or anything else
        The side that each picture's header names.

    Returns
    -------
    tuple of Finding
        Right before left, as mammograms are hung; of each breast in the order of `findings`.
    """
    strongest: dict[tuple[str, str], Finding] = {}
    for finding in findings:
        side = side_of.get(finding.sop_instance_uid, "") if finding.sop_instance_uid else ""
        if side not in SIDES:
            continue
        best = strongest.get((side, finding.label))
        if best is None or finding.score > best.score:
            strongest[side, finding.label] = finding
    return tuple(
        replace(finding, sop_instance_uid=None, laterality=SIDES[side])
        for wanted in ("R", "L")
        for (side, _), finding in strongest.items()
        if side == wanted
    )

"""Shares of judged cases with their intervals, and the area under the curve, as every section gives them.

Used by the modules of this package that count. The statistics are `eval.proportions`, `eval.delong` and
`eval.clustered`; the patient is the unit wherever patients have several cases.
"""

from __future__ import annotations

from dataclasses import replace

from eval.clustered import clustered_areas
from eval.delong import delong
from eval.intervals import Estimate
from eval.proportions import Proportion
from eval.ranking import Bools
from eval.report.judged import Judged
from eval.report.values import Value


def area(judged: Judged) -> Value:
    """AUROC of the analysed cases, by DeLong, or by Obuchowski (1997) where patients have several cases."""
    kept = judged.among(judged.analysed)
    if kept.clustered:
        areas, method = clustered_areas([kept.scores], kept.diseased, kept.patients), "obuchowski_1997"
    else:
        areas, method = delong([kept.scores], kept.diseased), "delong"
    return Value.made(areas.estimate(), method)


def share(hits: Bools, among: Bools, judged: Judged) -> tuple[Value, ...]:
    """Share of some cases: Clopper-Pearson decides, Wilson and Wald beside it."""
    owners = judged.patients[among] if judged.clustered else None
    return shares(Proportion.of(hits[among], owners))


def shares(found: Proportion) -> tuple[Value, ...]:
    """A proportion as values, one for each kind of interval, the deciding one first."""
    kinds = {"clopper_pearson": found.exact, "wilson": found.wilson, "wald": found.wald}
    return tuple(
        Value.made(_exactly(estimate, found), kind, count=found.successes, of=found.trials)
        for kind, estimate in kinds.items()
    )


def _exactly(estimate: Estimate, found: Proportion) -> Estimate:
    """The estimate with the very quotient of the counts, which effective numbers reach only to rounding."""
    return replace(estimate, value=found.successes / found.trials) if found.trials else estimate


def sensitivity(judged: Judged) -> Value:
    """Diseased cases called positive; those not analysed are missed."""
    return share(judged.called, judged.diseased, judged)[0]


def specificity(judged: Judged) -> Value:
    """Other cases called negative; those not analysed are false positives."""
    return share(~judged.called, ~judged.diseased, judged)[0]

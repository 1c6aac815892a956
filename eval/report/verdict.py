"""The verdict: the hypotheses that were fixed before the evaluation, each held against its figure's lower end.

Called by `eval.report.build`. Hypotheses written when figures were known give no verdict.
"""

from __future__ import annotations

from collections.abc import Mapping

from eval.datasets import Plan
from eval.report.outcomes import Results
from eval.report.twin import BarResult, Verdict
from eval.report.values import Value


def verdict(plan: Plan, results: Results) -> Verdict | None:
    """Every bar that has a figure and a limit; None where none was fixed beforehand."""
    if not plan.fixed_before:
        return None
    known = _figures(results)
    declared = f"dataset.toml, {plan.fixed_on.isoformat()}" if plan.fixed_on else "dataset.toml"
    bars = [
        _bar(one.figure, one.at_least, known.get(one.figure), declared)
        for one in plan.hypotheses
        if one.figure is not None and one.at_least is not None
    ]
    return Verdict(passed=all(bar.passed for bar in bars), bars=tuple(bars)) if bars else None


def _figures(results: Results) -> Mapping[str, Value]:
    found = {}
    if results.cases is not None:
        found["auroc"] = results.cases.auroc
        for name in ("sensitivity", "specificity"):
            found[name] = results.cases.operating.figures[name][0]
    if results.lesions is not None:
        found["froc"] = results.lesions.cpm
    return found


def _bar(figure: str, at_least: float, value: Value | None, declared: str) -> BarResult:
    """A figure without a lower end reaches no bar."""
    low = None if value is None else value.ci[0]
    return BarResult(
        name=figure,
        passed=low is not None and low >= at_least,
        value=None if value is None else value.value,
        ci=(None, None) if value is None else value.ci,
        limit=at_least,
        wanted=f"lower end of the 95 % interval >= {at_least:g}",
        declared=declared,
    )


def unknown_figures(plan: Plan) -> list[str]:
    """Figures of hypotheses that no report has."""
    known = {"auroc", "sensitivity", "specificity", "froc"}
    return sorted({one.figure for one in plan.hypotheses if one.figure is not None} - known)

"""Results of marks and lesions: FROC with its band, CPM, and what is found at the served threshold.

Called by `eval.report.build`. Matching is `eval.report.marks`, the curve and its resamples are `eval.froc` and
`eval.luna16`; a patient's cases are drawn together.
"""

from __future__ import annotations

import numpy as np

from eval.datasets import Rules
from eval.froc import SensitivityAtRates, on_normal_images
from eval.luna16 import performance
from eval.proportions import Proportion
from eval.ranking import Bools, Floats, ratio
from eval.report.breakdown import by_size
from eval.report.case_results import Counted
from eval.report.marks import Matched
from eval.report.outcomes import FrocPoint, LesionResults, Point
from eval.report.shares import shares
from eval.report.values import BOOTSTRAP, Value
from eval.runs import CaseRecord, Run

_RATES_SHOWN = np.geomspace(2**-4, 2**3.5, 61)  # eight steps an octave: 1/8, 1/4, … lie on them


def lesion_results(counted: Counted, matched: Matched, run: Run) -> LesionResults | None:
    """Everything about lesions; None where there is none to find."""
    if not matched.detections.found.size:
        return None
    cases, rules = counted.judged.records, counted.rules
    asked = matched.detections
    if rules.false_marks_per == "negative_case":
        asked = on_normal_images(asked)
    whole = performance(asked, rates=rules.rates, resamples=rules.resamples, seed=rules.seed)
    normal = np.asarray([not case.lesions for case in cases], dtype=np.bool_)
    wrong = false_marks_per_case(counted, matched, run)
    return LesionResults(
        lesions=len(matched.lesions),
        cases=len(cases),
        normal_cases=int(normal.sum()),
        marks=matched.marks,
        cpm=Value.made(whole.cpm, BOOTSTRAP),
        points=tuple(
            FrocPoint(
                false_per_case=one.false_per_unit,
                sensitivity=Value.made(one.sensitivity, BOOTSTRAP),
                threshold=one.threshold if np.isfinite(one.threshold) else None,
            )
            for one in whole.points
        ),
        found=found_share(counted, matched, run),
        false_per_case=counted.figure(lambda weights: np.asarray(weights @ wrong / weights.sum(axis=1))),
        false_per_normal_case=_per_normal(counted, wrong, normal),
        by_size=by_size(matched, found_at_threshold(matched, run, counted), cases),
        froc=_curve(matched, rules),
    )


def found_at_threshold(matched: Matched, run: Run, counted: Counted) -> Bools:
    """(lesions,) whether each lesion is found by a mark at or above the served threshold of its case."""
    cases = counted.judged.records
    thresholds = [_threshold(run, cases[row]) for row, _ in matched.lesions]
    return np.asarray(matched.detections.found >= np.asarray(thresholds))


def false_marks_per_case(counted: Counted, matched: Matched, run: Run) -> Floats:
    """(cases,) false marks at or above the served threshold."""
    cases = counted.judged.records
    detections = matched.detections
    thresholds = np.asarray([_threshold(run, case) for case in cases])
    counts = detections.false_marks >= thresholds[detections.false_in]
    return np.asarray(np.bincount(detections.false_in, weights=counts, minlength=len(cases)), dtype=np.float64)


def found_share(counted: Counted, matched: Matched, run: Run) -> Value:
    """Share of lesions found at the served threshold, patients being the unit of its interval."""
    found = found_at_threshold(matched, run, counted)
    owners = np.asarray([counted.judged.records[row].patient for row, _ in matched.lesions], dtype=np.str_)
    return shares(Proportion.of(found, owners))[0]


def _threshold(run: Run, case: CaseRecord) -> float:
    threshold = run.mark_threshold(case)
    return float("inf") if threshold is None else threshold


def _per_normal(counted: Counted, wrong: Floats, normal: Bools) -> Value:
    def mean(weights: Floats) -> Floats:
        below = np.asarray(weights @ normal.astype(np.float64))
        return ratio(np.asarray(weights @ (wrong * normal)), below)

    return counted.figure(mean)


def _curve(matched: Matched, rules: Rules) -> tuple[Point, ...]:
    detections = (
        on_normal_images(matched.detections) if rules.false_marks_per == "negative_case" else matched.detections
    )
    rates = SensitivityAtRates(detections, _RATES_SHOWN.tolist())
    heights, drawn = rates.of_all(), rates.resampled(rules.resamples, rules.seed)
    if np.isnan(heights).any():
        return ()
    low, high = np.nanpercentile(drawn, [2.5, 97.5], axis=0)
    rows = zip(_RATES_SHOWN.tolist(), heights.tolist(), low.tolist(), high.tolist(), strict=True)
    return tuple(Point(x=a, y=b, low=c, high=d) for a, b, c, d in rows)

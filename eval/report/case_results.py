"""Results of whole cases: areas, calls at the served threshold, predictive values, rule-out, curves, calibration.

Called by `eval.report.build`. The statistics are `eval.delong`, `eval.clustered`, `eval.proportions`,
`eval.calibration` and `eval.utility`; here they are asked with the report's conventions for failures and patients.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from eval import calibration, utility
from eval.datasets import Rules
from eval.intervals import Estimate
from eval.proportions import Rates, rates, rule_out
from eval.ranking import Floats, Ranking, Steps
from eval.report.breakdown import against_groups
from eval.report.judged import Judged
from eval.report.outcomes import AtPrevalence, Benefit, Bin, Calibration, CaseResults, Fixed, Operating, Point, RuleOut
from eval.report.shares import area, shares
from eval.report.values import BOOTSTRAP, Value
from eval.resampling import percentile_estimate, resampled

STATED_PREVALENCES = (0.01, 0.05, 0.10, 0.30)
HELD = (0.95, 0.90, 0.80)
THRESHOLD_PROBABILITIES = tuple(round(0.02 * step, 2) for step in range(1, 31))
_GRID = 51
_CURVE_POINTS = 400


@dataclass(frozen=True, kw_only=True)
class Counted:
    """Judged cases with the rules by which patients are drawn."""

    judged: Judged
    rules: Rules

    @property
    def analysed(self) -> Counted:
        """Only the cases that have a score."""
        return replace(self, judged=self.judged.among(self.judged.analysed))

    @property
    def owners(self) -> NDArray[np.str_] | None:
        """Whose case each is, where a patient has several; None where every case is its own unit."""
        return self.judged.patients if self.judged.clustered else None

    def bootstrap(self, statistic: Callable[[Floats], Floats]) -> Floats:
        """(resamples, ...) `statistic` of weights (draws, cases), patients drawn together."""
        judged = self.judged
        strata = judged.diseased if self.rules.prevalence_by_design else np.zeros(len(judged), np.bool_)
        return resampled(statistic, judged.patients, strata, resamples=self.rules.resamples, seed=self.rules.seed)

    def figure(self, statistic: Callable[[Floats], Floats]) -> Value:
        """One figure over the cases with its bootstrap interval."""
        value = float(statistic(np.ones((1, len(self.judged))))[0])
        estimate = percentile_estimate(value, self.bootstrap(statistic) if not math.isnan(value) else np.empty(0))
        return Value.made(estimate, BOOTSTRAP)


def case_results(counted: Counted, served: Judged | None) -> CaseResults | None:
    """Everything about whole cases; None where no case has a score.

    Parameters
    ----------
    counted : Counted
        Cases with the thresholds that decide.
    served : Judged or None
        The same cases with the card's threshold, where folds had thresholds of their own.
    """
    known = counted.analysed
    if not len(known.judged):
        return None
    ranking = Ranking.of(known.judged.scores)

    def steps(weights: Floats) -> Steps:
        return Steps.of(ranking, known.judged.diseased, weights)

    curve, band = _roc(known, steps)
    return CaseResults(
        auroc=area(counted.judged),
        average_precision=_average_precision(known, steps),
        prevalence=float(known.judged.diseased.mean()),
        against=against_groups(counted.judged),
        operating=operating(counted),
        at_served=operating(replace(counted, judged=served)) if served is not None else None,
        predictive=tuple(_predictive(_rates(counted))),
        fixed=tuple(_fixed(known, steps)),
        rule_out=tuple(_rule_out(counted)),
        roc=curve,
        roc_band=band,
        calibration=_calibration(known),
        decision=_decision(known),
    )


def _average_precision(known: Counted, steps: Callable[[Floats], Steps]) -> Value:
    """By the step rule; of diseased cases alone it would be 1 whatever the scores are."""
    if known.judged.diseased.all():
        return Value.made(Estimate.undefined("there are no cases of one class"), BOOTSTRAP)
    return known.figure(lambda weights: steps(weights).average_precision())


def _rates(counted: Counted) -> Rates:
    judged = counted.judged
    return rates(judged.called, judged.diseased, counted.owners, STATED_PREVALENCES)


def operating(counted: Counted) -> Operating:
    """Counts and figures at the served threshold, failures held against the model but where it says otherwise."""
    judged, whole, known = counted.judged, _rates(counted), _rates(counted.analysed)
    called, ill, analysed = judged.called, judged.diseased, judged.analysed
    return Operating(
        true_positive=int((called & ill).sum()),
        false_negative=int((~called & ill).sum()),
        true_negative=int((~called & ~ill).sum()),
        false_positive=int((called & ~ill).sum()),
        failed_positive=int((~analysed & ill).sum()),
        failed_negative=int((~analysed & ~ill).sum()),
        figures={
            "sensitivity": shares(whole.sensitivity),
            "specificity": shares(whole.specificity),
            "specificity_without_failures": shares(known.specificity),
            "ppv": shares(known.ppv),
            "npv": shares(known.npv),
            "balanced_accuracy": (Value.made(whole.balanced_accuracy, "zou_donner_2008"),),
            "lr_positive": (Value.made(whole.lr_positive, "simel_1991"),),
            "lr_negative": (Value.made(whole.lr_negative, "simel_1991"),),
        },
    )


def _predictive(whole: Rates) -> Iterator[AtPrevalence]:
    for one in whole.at_prevalence:
        ppv, npv = (Value.made(estimate, "mercaldo_2007") for estimate in (one.ppv, one.npv))
        yield AtPrevalence(prevalence=one.prevalence, ppv=ppv, npv=npv)


def _fixed(known: Counted, steps: Callable[[Floats], Steps]) -> Iterator[Fixed]:
    yield from (_specificity_at(known, steps, at) for at in HELD)
    yield from (_sensitivity_at(known, steps, at) for at in HELD)


def _specificity_at(known: Counted, steps: Callable[[Floats], Steps], at: float) -> Fixed:
    value = known.figure(lambda weights: steps(weights).specificity_at(at))
    return Fixed(held="sensitivity", at=at, figure="specificity", value=value)


def _sensitivity_at(known: Counted, steps: Callable[[Floats], Steps], at: float) -> Fixed:
    value = known.figure(lambda weights: steps(weights).sensitivity_at(at))
    return Fixed(held="specificity", at=at, figure="sensitivity", value=value)


def _rule_out(counted: Counted) -> Iterator[RuleOut]:
    """Cases that were not analysed stay to be read: as if they scored highest."""
    judged = counted.judged
    scores = np.where(judged.analysed, judged.scores, np.inf)
    for one in rule_out(scores, judged.diseased, counted.owners):
        yield RuleOut(
            sensitivity=one.target,
            threshold=one.threshold if math.isfinite(one.threshold) else None,
            reached=shares(one.sensitivity)[0],
            removable=shares(one.removable)[0],
            npv=shares(one.npv)[0],
            missed=tuple(judged.records[row].case for row in one.missed),
        )


def _roc(known: Counted, steps: Callable[[Floats], Steps]) -> tuple[tuple[Point, ...], tuple[Point, ...]]:
    """The curve, and its height at evenly spaced rates with a pointwise 95 % band."""
    judged = known.judged
    if judged.diseased.all() or not judged.diseased.any():
        return (), ()
    whole = steps(np.ones((1, len(judged))))
    x = np.append(0.0, whole.false[0] / whole.others[0])
    y = np.append(0.0, whole.true[0] / whole.diseased[0])
    shown = np.unique(np.linspace(0, len(x) - 1, min(len(x), _CURVE_POINTS)).round().astype(np.intp))
    rates_shown = np.linspace(0.0, 1.0, _GRID)
    drawn = known.bootstrap(lambda weights: steps(weights).sensitivities(rates_shown))
    low, high = np.nanpercentile(drawn, [2.5, 97.5], axis=0)
    heights = whole.sensitivities(rates_shown)[0]
    band = zip(rates_shown.tolist(), heights.tolist(), low.tolist(), high.tolist(), strict=True)
    return (
        tuple(Point(x=float(x[index]), y=float(y[index])) for index in shown),
        tuple(Point(x=a, y=b, low=c, high=d) for a, b, c, d in band),
    )


def _calibration(known: Counted) -> Calibration:
    judged = known.judged
    scores, ill = judged.scores, judged.diseased
    fit = calibration.recalibration(scores, ill)
    test = calibration.spiegelhalter(scores, ill)
    wide, even = (bins(scores, ill) for bins in (calibration.equal_width_bins, calibration.adaptive_bins))
    brier = (scores - ill) ** 2
    return Calibration(
        figures={
            "brier": known.figure(lambda weights: _mean(weights, brier)),
            "log_loss": _log_loss(known),
            "mean_difference": known.figure(lambda weights: _mean(weights, scores - ill)),
            "slope": Value.made(fit.slope, "wald"),
            "intercept": Value.made(fit.intercept, "wald"),
            "in_the_large": Value.made(fit.in_the_large, "wald"),
        },
        plain={
            "ece_equal_width": _finite(calibration.expected_calibration_error(wide)),
            "ece_adaptive": _finite(calibration.expected_calibration_error(even)),
            "spiegelhalter_z": _finite(test.z),
            "spiegelhalter_p": _finite(test.p),
        },
        bins=tuple(_bin(one) for one in even),
    )


def _log_loss(known: Counted) -> Value:
    """Mean of each case's part of `calibration.log_loss`, so that patients can be drawn."""
    scores, ill = known.judged.scores, known.judged.diseased
    parts = np.asarray([calibration.log_loss(scores[row : row + 1], ill[row : row + 1]) for row in range(len(ill))])
    if not np.isfinite(parts).all():
        infinite = Estimate.undefined("infinite: a probability of exactly 0 or 1 was wrong")
        return Value.made(infinite, BOOTSTRAP)
    return known.figure(lambda weights: _mean(weights, parts))


def _mean(weights: Floats, values: Floats) -> Floats:
    return np.asarray(weights @ values / weights.sum(axis=1))


def _bin(one: calibration.ReliabilityBin) -> Bin:
    observed = Value.made(one.observed, "wilson", count=one.diseased, of=one.cases)
    return Bin(low=one.low, high=one.high, cases=one.cases, mean_score=one.mean_probability, share=observed)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _decision(known: Counted) -> tuple[Benefit, ...]:
    judged = known.judged
    if judged.diseased.all() or not judged.diseased.any():
        return ()
    curve = utility.decision_curve(
        judged.scores, judged.diseased, thresholds=THRESHOLD_PROBABILITIES, patients=known.owners
    )
    return tuple(_benefit(point) for point in curve.points)


def _benefit(point: utility.DecisionPoint) -> Benefit:
    estimate = point.net_benefit
    return Benefit(
        threshold=point.threshold,
        model=estimate.value,
        low=_finite(estimate.low),
        high=_finite(estimate.high),
        all_positive=point.treat_all,
    )

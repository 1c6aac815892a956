"""Sensitivity, specificity and what follows from a table of calls against truth, each with its intervals.

Clopper-Pearson is the interval that decides; Wilson stands beside it, and Wald only because published tables print
it. Called by ``radnode eval proportions`` and ``radnode eval roc``, and by reports. Two proportions against each
other are `eval.paired` and `eval.two_groups`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eval.clustered import EffectiveCounts, effective_counts, error_correlation
from eval.delong import Z_95
from eval.intervals import Estimate, clopper_pearson
from eval.ranking import Bools, Floats
from eval.roc import threshold_at_sensitivity

NOTHING = "0 of 0: there are no cases of this kind"
_NO_ERROR = "all cases were called alike: the estimated variance is 0"


@dataclass(frozen=True, kw_only=True, slots=True)
class Proportion:
    """A share of rows with three 95 % intervals.

    With several rows a patient the intervals count the effective number of rows (`eval.clustered`).
    """

    successes: int
    trials: int
    exact: Estimate
    wilson: Estimate
    wald: Estimate
    design_effect: float = 1.0

    @classmethod
    def counted(cls, successes: int, trials: int) -> Proportion:
        """Of independent rows."""
        counts = EffectiveCounts(successes=successes, trials=trials, design_effect=1.0)
        return cls._of(successes, trials, counts)

    @classmethod
    def of(cls, called: Bools, patients: NDArray[np.str_] | None = None) -> Proportion:
        """Share of true in `called` (rows,); `patients` (rows,) where rows are not independent."""
        successes, trials = int(called.sum()), len(called)
        if patients is None or not trials:
            return cls.counted(successes, trials)
        return cls._of(successes, trials, effective_counts(called, patients))

    @classmethod
    def _of(cls, successes: int, trials: int, counts: EffectiveCounts) -> Proportion:
        return cls(
            successes=successes,
            trials=trials,
            exact=clopper_pearson(counts.successes, counts.trials),
            wilson=wilson(counts.successes, counts.trials),
            wald=wald(counts.successes, counts.trials),
            design_effect=counts.design_effect,
        )


def wilson(successes: float, trials: float) -> Estimate:
    """Score interval of Wilson (1927), without continuity correction: 95 % coverage on average."""
    if not trials:
        return Estimate.undefined(NOTHING)
    share, square = successes / trials, Z_95**2
    center = (share + square / (2 * trials)) / (1 + square / trials)
    half = Z_95 / (1 + square / trials) * math.sqrt(share * (1 - share) / trials + square / (4 * trials**2))
    low = 0.0 if successes == 0 else max(center - half, 0.0)
    high = 1.0 if successes == trials else min(center + half, 1.0)
    return Estimate(value=share, low=low, high=high)


def wald(successes: float, trials: float) -> Estimate:
    """p ± z·sqrt(p(1 - p)/n), cut at 0 and 1: for comparison with published tables, it covers too little near 0 and 1.

    Of no or of only successes it has no width, which is said as no interval.
    """
    if not trials:
        return Estimate.undefined(NOTHING)
    share = successes / trials
    half = Z_95 * math.sqrt(share * (1 - share) / trials)
    if half == 0:
        reason = "Wald's interval has no width where all or none are successes"
        return Estimate(value=share, low=math.nan, high=math.nan, reason=reason)
    return Estimate(value=share, low=max(share - half, 0.0), high=min(share + half, 1.0))


@dataclass(frozen=True, kw_only=True, slots=True)
class AtPrevalence:
    """Predictive values as they would be at a stated prevalence (Bayes; interval of Mercaldo and others 2007)."""

    prevalence: float
    ppv: Estimate
    npv: Estimate


@dataclass(frozen=True, kw_only=True, slots=True)
class Rates:
    """Everything that a table of calls against truth gives.

    Likelihood ratios have the logarithmic interval of Simel and others (1991); balanced accuracy has that of a sum
    of a sum of two proportions recovered from their Wilson limits (Zou and Donner 2008). With patients who have rows
    of both kinds the errors of sensitivity and specificity are correlated, and these intervals take that in.
    """

    sensitivity: Proportion
    specificity: Proportion
    ppv: Proportion
    npv: Proportion
    accuracy: Proportion
    lr_positive: Estimate
    lr_negative: Estimate
    balanced_accuracy: Estimate
    at_prevalence: tuple[AtPrevalence, ...] = ()


def rates(
    called: Bools,
    diseased: Bools,
    patients: NDArray[np.str_] | None = None,
    prevalences: Sequence[float] = (),
) -> Rates:
    """Judge calls against truth.

    Parameters
    ----------
    called, diseased : bool (rows,)
        What was called positive, and the truth.
    patients : str (rows,), optional
        Whose row it is, where a patient may have several: the unit of analysis. By default every row is its own.
    prevalences : sequence of float, optional
        Prevalences between 0 and 1 at which predictive values are wanted beside those of the sample.
    """

    def share(successes: Bools, among: Bools) -> Proportion:
        return Proportion.of(successes[among], None if patients is None else patients[among])

    everyone = np.ones(len(called), dtype=np.bool_)
    return _rates(
        share(called, diseased),
        share(~called, ~diseased),
        share(diseased, called),
        share(~diseased, ~called),
        share(called == diseased, everyone),
        prevalences,
        0.0 if patients is None else error_correlation(called, diseased, patients),
    )


def rates_of_counts(
    true_positive: int, false_positive: int, false_negative: int, true_negative: int, prevalences: Sequence[float] = ()
) -> Rates:
    """`rates` of four counts of independent cases."""
    correct, total = true_positive + true_negative, true_positive + false_positive + false_negative + true_negative
    return _rates(
        Proportion.counted(true_positive, true_positive + false_negative),
        Proportion.counted(true_negative, true_negative + false_positive),
        Proportion.counted(true_positive, true_positive + false_positive),
        Proportion.counted(true_negative, true_negative + false_negative),
        Proportion.counted(correct, total),
        prevalences,
    )


def _rates(
    sensitivity: Proportion,
    specificity: Proportion,
    ppv: Proportion,
    npv: Proportion,
    accuracy: Proportion,
    prevalences: Sequence[float],
    correlation: float = 0.0,
) -> Rates:
    """`correlation`: between the errors of sensitivity and false positive rate."""
    missed, alarms = _complement(sensitivity), _complement(specificity)
    return Rates(
        sensitivity=sensitivity,
        specificity=specificity,
        ppv=ppv,
        npv=npv,
        accuracy=accuracy,
        lr_positive=_likelihood_ratio(sensitivity, alarms, correlation, "no false positive: LR+ divides by 0"),
        lr_negative=_likelihood_ratio(missed, specificity, correlation, "no true negative: LR- divides by 0"),
        balanced_accuracy=_balanced(sensitivity, specificity, correlation),
        at_prevalence=tuple(_at_prevalence(sensitivity, specificity, one, correlation) for one in prevalences),
    )


def _complement(share: Proportion) -> Proportion:
    left = share.trials - share.successes
    trials = share.trials / share.design_effect
    return Proportion._of(left, share.trials, EffectiveCounts(
        successes=left / share.design_effect, trials=trials, design_effect=share.design_effect
    ))  # fmt: skip


def _likelihood_ratio(over: Proportion, under: Proportion, correlation: float, infinite: str) -> Estimate:
    """Ratio of a share among the diseased to one among the others, with the interval of its logarithm."""
    if not over.trials or not under.trials:
        return Estimate.undefined("there are no cases of one class")
    if not under.successes:
        return Estimate.undefined(infinite)
    value = over.exact.value / under.exact.value
    if not over.successes:
        return Estimate(value=0.0, low=math.nan, high=math.nan, reason="a ratio of 0 has no logarithm, no interval")
    error = _log_ratio_error(over, under, correlation)
    if error == 0:
        return Estimate(value=value, low=math.nan, high=math.nan, reason=_NO_ERROR)
    return Estimate(value=value, low=value * math.exp(-Z_95 * error), high=value * math.exp(Z_95 * error))


def _log_ratio_error(over: Proportion, under: Proportion, correlation: float) -> float:
    """Standard error of the logarithm of a ratio of two shares whose errors are correlated."""
    one, other = (math.sqrt((1 - p.exact.value) / p.successes * p.design_effect) for p in (over, under))
    return math.sqrt(max(one**2 + other**2 - 2 * correlation * one * other, 0.0))


def _balanced(sensitivity: Proportion, specificity: Proportion, correlation: float) -> Estimate:
    one, other = sensitivity.wilson, specificity.wilson
    if not one.defined or not other.defined:
        return Estimate.undefined("there are no cases of one class")
    value = (one.value + other.value) / 2
    below = _joined(one.value - one.low, other.value - other.low, -correlation)
    above = _joined(one.high - one.value, other.high - other.value, -correlation)
    return Estimate(value=value, low=value - below, high=value + above)


def _joined(one: float, other: float, correlation: float) -> float:
    """Half of the distance that two correlated distances make together."""
    return math.sqrt(max(one**2 + other**2 + 2 * correlation * one * other, 0.0)) / 2


def _at_prevalence(
    sensitivity: Proportion, specificity: Proportion, prevalence: float, correlation: float
) -> AtPrevalence:
    if not 0 < prevalence < 1:
        raise ValueError(f"a prevalence lies between 0 and 1, not at {prevalence}")
    alarms, missed = _complement(specificity), _complement(sensitivity)
    return AtPrevalence(
        prevalence=prevalence,
        ppv=_predictive(sensitivity, alarms, prevalence, correlation),
        npv=_predictive(specificity, missed, 1 - prevalence, correlation),
    )


def _predictive(right: Proportion, wrong: Proportion, share: float, correlation: float) -> Estimate:
    """Right / (right + wrong) at a share of the class called for, with the interval of its log odds."""
    if not right.trials or not wrong.trials:
        return Estimate.undefined("there are no cases of one class")
    true, false = right.exact.value * share, wrong.exact.value * (1 - share)
    if true + false == 0:
        return Estimate.undefined("nothing would be called so: 0 of 0")
    value = true / (true + false)
    if true == 0 or false == 0:
        return Estimate(value=value, low=math.nan, high=math.nan, reason="log odds of 0 or 1 have no interval")
    error = _log_ratio_error(right, wrong, correlation)
    if error == 0:
        return Estimate(value=value, low=math.nan, high=math.nan, reason=_NO_ERROR)
    center = math.log(true / false)
    low, high = (1 / (1 + math.exp(-edge)) for edge in (center - Z_95 * error, center + Z_95 * error))
    return Estimate(value=value, low=low, high=high)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RuleOut:
    """What could be left unread while a sensitivity is kept.

    Attributes
    ----------
    target : float
        Sensitivity asked for.
    threshold : float
        Highest one that keeps it; rows with a lower score are removed. NaN without diseased rows.
    sensitivity : Proportion
        What it is at that threshold.
    removable : Proportion
        Share of all rows that score below.
    missed : intp (missed,)
        Diseased rows among them, by descending score.
    npv : Proportion
        Share of the removed that are not diseased.
    """

    target: float
    threshold: float
    sensitivity: Proportion
    removable: Proportion
    npv: Proportion
    missed: NDArray[np.intp]


RULE_OUT_SENSITIVITIES = (1.0, 0.99, 0.95)


def rule_out(
    scores: Floats,
    diseased: Bools,
    patients: NDArray[np.str_] | None = None,
    sensitivities: Sequence[float] = RULE_OUT_SENSITIVITIES,
) -> tuple[RuleOut, ...]:
    """Share of rows removable at each of `sensitivities`, with every missed row.

    The threshold is chosen on these rows, so the table says what they would have allowed, not what new ones will.
    """
    return tuple(_rule_out(scores, diseased, patients, target) for target in sensitivities)


def _rule_out(scores: Floats, diseased: Bools, patients: NDArray[np.str_] | None, target: float) -> RuleOut:
    threshold = threshold_at_sensitivity(scores[diseased], target) if diseased.any() else math.nan
    removed = scores < threshold
    missed = np.flatnonzero(removed & diseased)

    def share(successes: Bools, among: Bools) -> Proportion:
        return Proportion.of(successes[among], None if patients is None else patients[among])

    everyone = np.full(len(scores), diseased.any())
    return RuleOut(
        target=target,
        threshold=threshold,
        sensitivity=share(~removed, diseased),
        removable=share(removed, everyone),
        npv=share(~diseased, removed),
        missed=missed[np.argsort(-scores[missed], kind="stable")],
    )

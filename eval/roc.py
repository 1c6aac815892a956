"""Case-level separation: the ROC curve, areas under it with midranks, fixed points on it, counts at a threshold.

Pure functions over arrays, used by training, by reports and by ``radnode eval roc``. Variances of areas are
`eval.delong` (the row is the unit) and `eval.clustered` (the patient is); intervals here are of resampled patients.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eval.intervals import RESAMPLES, Estimate, clopper_pearson
from eval.ranking import Bools, Floats, Ranking, Steps
from eval.resampling import percentile_estimate, resampled


def auroc(scores: NDArray[np.float64], diseased: NDArray[np.bool_]) -> float:
    """Probability that a diseased case scores higher than another, ties counting half (Mann-Whitney, midranks).

    Parameters
    ----------
    scores : float64 (cases,)
        Higher is more suspicious.
    diseased : bool (cases,)
        Truth.

    Returns
    -------
    float
        NaN when one of the two groups is empty.
    """
    ill, well = scores[diseased], np.sort(scores[~diseased])
    if not ill.size or not well.size:
        return math.nan
    below = np.searchsorted(well, ill, side="left")
    tied = np.searchsorted(well, ill, side="right") - below
    return float((below + 0.5 * tied).sum() / (ill.size * well.size))


def auroc_by_patient(
    scores: NDArray[np.float64],
    diseased: NDArray[np.bool_],
    patients: NDArray[np.str_],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """`auroc` with its interval from resampled patients: what `patient_bootstrap` gives, in a fraction of the time."""
    ranking = Ranking.of(scores)
    draws = resampled(
        lambda weights: Steps.of(ranking, diseased, weights).auroc(),
        patients,
        diseased,
        resamples=resamples,
        seed=seed,
    )
    return percentile_estimate(auroc(scores, diseased), draws)


def average_precision(scores: Floats, diseased: Bools) -> float:
    """Area under precision and recall by the step rule: precision at each threshold times the recall it gains.

    Depends on prevalence, which is why it is never printed without it. Cases with equal scores enter together. NaN
    without diseased cases.

    Parameters
    ----------
    scores : float64 (cases,)
        Higher is more suspicious.
    diseased : bool (cases,)
        Truth; the case is the unit.
    """
    if not diseased.any():
        return math.nan
    return float(Steps.of(Ranking.of(scores), diseased).average_precision())


def partial_auroc(scores: Floats, diseased: Bools, low: float, high: float) -> PartialArea:
    """Area under the ROC curve between two false positive rates (McClish 1989).

    Parameters
    ----------
    scores, diseased : (cases,)
        As for `auroc`.
    low, high : float
        False positive rates, 0 <= low < high <= 1; between points the curve is straight.

    Raises
    ------
    ValueError
        If the rates do not enclose anything.
    """
    if not 0 <= low < high <= 1:
        raise ValueError(f"false positive rates from {low} to {high} enclose no part of the curve")
    if diseased.all() or not diseased.any():
        return PartialArea(low=low, high=high, area=math.nan)
    return PartialArea(low=low, high=high, area=float(Steps.of(Ranking.of(scores), diseased).partial_area(low, high)))


@dataclass(frozen=True, kw_only=True, slots=True)
class PartialArea:
    """Part of the area under a ROC curve, between two false positive rates; NaN without a class."""

    low: float
    high: float
    area: float

    @property
    def standardised(self) -> float:
        """McClish's scale: 0.5 for a score that says nothing, 1 for one that separates."""
        chance = (self.high**2 - self.low**2) / 2
        return (1 + (self.area - chance) / (self.high - self.low - chance)) / 2


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RocCurve:
    """The curve for drawing: its start (nothing positive, threshold infinite) and one point a distinct score.

    All float64 (points,), from the highest threshold to the lowest; a case is positive if score >= threshold.
    """

    thresholds: Floats
    false_positive_rates: Floats
    sensitivities: Floats


def roc_curve(scores: Floats, diseased: Bools) -> RocCurve:
    """Points of the empirical ROC curve; rates are NaN for an empty class."""
    ranking = Ranking.of(scores)
    steps = Steps.of(ranking, diseased)
    return RocCurve(
        thresholds=np.append(math.inf, ranking.thresholds),
        false_positive_rates=np.append(0.0, steps.false) / (int((~diseased).sum()) or math.nan),
        sensitivities=np.append(0.0, steps.true) / (int(diseased.sum()) or math.nan),
    )


def roc_band(
    scores: Floats,
    diseased: Bools,
    patients: NDArray[np.str_],
    false_positive_rates: Floats,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[Floats, Floats]:
    """Pointwise 95 % band of the ROC curve from resampled patients: lower and upper sensitivity at each rate.

    NaN everywhere without a class.
    """
    if diseased.all() or not diseased.any():
        return np.full(len(false_positive_rates), math.nan), np.full(len(false_positive_rates), math.nan)
    ranking = Ranking.of(scores)
    draws = resampled(
        lambda weights: Steps.of(ranking, diseased, weights).sensitivities(false_positive_rates),
        patients,
        diseased,
        resamples=resamples,
        seed=seed,
    )
    low, high = np.nanpercentile(draws, [2.5, 97.5], axis=0)
    return low, high


def specificity_at_sensitivity(
    scores: Floats,
    diseased: Bools,
    patients: NDArray[np.str_],
    sensitivity: float,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    stratified: bool = True,
) -> FixedPoint:
    """Specificity of the highest threshold that keeps at least `sensitivity`; no point between scores is invented.

    Its interval comes from resampled patients, with the threshold found anew in each: it holds for "the specificity
    at this sensitivity", not for the threshold printed beside it. Patients with a diseased case and the others are
    drawn apart, or with `stratified` False all together; resamples without a class are then left out.
    """
    if diseased.all() or not diseased.any():
        return FixedPoint(threshold=math.nan, estimate=Estimate.undefined(_one_class(diseased)))
    ranking = Ranking.of(scores)
    draws = resampled(
        lambda weights: Steps.of(ranking, diseased, weights).specificity_at(sensitivity),
        patients,
        diseased,
        resamples=resamples,
        seed=seed,
        stratified=stratified,
    )
    value = float(Steps.of(ranking, diseased).specificity_at(sensitivity))
    threshold = threshold_at_sensitivity(scores[diseased], sensitivity)
    return FixedPoint(threshold=threshold, estimate=percentile_estimate(value, draws))


def sensitivity_at_specificity(
    scores: Floats,
    diseased: Bools,
    patients: NDArray[np.str_],
    specificity: float,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    stratified: bool = True,
) -> FixedPoint:
    """Sensitivity of the lowest threshold that keeps at least `specificity`, as `specificity_at_sensitivity`.

    The threshold is infinite (no case is positive) where no score keeps the specificity.
    """
    if diseased.all() or not diseased.any():
        return FixedPoint(threshold=math.nan, estimate=Estimate.undefined(_one_class(diseased)))
    ranking = Ranking.of(scores)
    draws = resampled(
        lambda weights: Steps.of(ranking, diseased, weights).sensitivity_at(specificity),
        patients,
        diseased,
        resamples=resamples,
        seed=seed,
        stratified=stratified,
    )
    steps = Steps.of(ranking, diseased)
    value = float(steps.sensitivity_at(specificity))
    kept = int((steps.false <= (1 - specificity) * steps.others + 1e-9).sum())
    threshold = float(ranking.thresholds[kept - 1]) if kept else math.inf
    return FixedPoint(threshold=threshold, estimate=percentile_estimate(value, draws))


@dataclass(frozen=True, kw_only=True, slots=True)
class FixedPoint:
    """One of sensitivity and specificity where the other is fixed, and the threshold at which these cases have it."""

    threshold: float
    estimate: Estimate


def _one_class(diseased: Bools) -> str:
    return "there is no non-diseased case" if diseased.any() else "there is no diseased case"


@dataclass(frozen=True, kw_only=True, slots=True)
class Confusion:
    """Counts of cases at a threshold."""

    true_positive: int
    false_negative: int
    true_negative: int
    false_positive: int

    @property
    def sensitivity(self) -> Estimate:
        """Share of the diseased called positive, with its exact interval."""
        return clopper_pearson(self.true_positive, self.true_positive + self.false_negative)

    @property
    def specificity(self) -> Estimate:
        """Share of the others called negative, with its exact interval."""
        return clopper_pearson(self.true_negative, self.true_negative + self.false_positive)


def confusion(called_positive: NDArray[np.bool_], diseased: NDArray[np.bool_]) -> Confusion:
    """Count what was called positive against the truth; both bool (cases,)."""
    return Confusion(
        true_positive=int((called_positive & diseased).sum()),
        false_negative=int((~called_positive & diseased).sum()),
        true_negative=int((~called_positive & ~diseased).sum()),
        false_positive=int((called_positive & ~diseased).sum()),
    )


def threshold_at_sensitivity(scores: NDArray[np.float64], sensitivity: float) -> float:
    """The highest score of the diseased `scores` at which at least `sensitivity` of them is still positive.

    Raises
    ------
    ValueError
        If there are no scores.
    """
    if not scores.size:
        raise ValueError("a threshold cannot be chosen without diseased cases")
    needed = math.ceil(sensitivity * scores.size - 1e-9)
    return float(np.sort(scores)[::-1][max(needed, 1) - 1])

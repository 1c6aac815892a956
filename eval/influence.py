"""Variance from influence: how much a figure moves when one patient weighs a little more (infinitesimal jackknife).

It is what thousands of resamples of patients tend to, in one pass (Efron 1982), so it serves figures without a formula
of their own on any number of cases. Called by `eval.case_analysis`. Areas under ROC curves have `eval.delong` and
`eval.clustered`, whose variances are of the same kind.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from eval.delong import Z_95
from eval.intervals import Estimate
from eval.ranking import Bools, Floats, Ranking, Steps

_ROUNDING = 1e-20  # share of the squares that rounding leaves where all patients have the same influence
_NO_VARIANCE = "the estimated variance is 0, or needs more patients"


def influence_variance(
    influence: Floats, patients: NDArray[np.str_] | None, diseased: Bools, *, stratified: bool = True
) -> float:
    """Variance of a figure from the derivative of it by the weight of each row.

    Parameters
    ----------
    influence : float64 (rows,)
        Derivative of the figure by the weight of the row, at equal weights of 1.
    patients : str (rows,) or None
        Whose row it is: the unit; None where every row is its own patient.
    diseased : bool (rows,)
        Truth of the row. A patient with a diseased row belongs to the diseased.
    stratified : bool, optional
        Whether the numbers of diseased and other patients are taken as given (prevalence by design).

    Returns
    -------
    float
        Sum over patients of squared distances from the mean of their stratum, times n / (n - 1); NaN where a stratum
        has one patient only.
    """
    owner = np.arange(len(influence)) if patients is None else np.unique(patients, return_inverse=True)[1]
    sums = np.bincount(owner, weights=influence)
    ill = np.bincount(owner, weights=diseased) > 0
    strata = [sums[ill], sums[~ill]] if stratified else [sums]
    variance = math.fsum(
        float(((part - part.mean()) ** 2).sum()) * len(part) / (len(part) - 1) if len(part) > 1 else math.nan
        for part in strata
        if len(part)
    )
    return variance if not variance <= _ROUNDING * float(sums @ sums) else 0.0


def average_precision_estimate(
    scores: Floats, diseased: Bools, patients: NDArray[np.str_] | None = None, *, stratified: bool = True
) -> Estimate:
    """`eval.roc.average_precision` with its 95 % interval on the scale of log odds (Boyd, Eng and Page 2013).

    Undefined without diseased cases; without interval where all precisions are 1.
    """
    if not diseased.any():
        return Estimate.undefined("there is no diseased case")
    ranking = Ranking.of(scores)
    steps = Steps.of(ranking, diseased)
    value = float(steps.average_precision())
    influence = precision_influence(ranking, steps, diseased, value)
    variance = influence_variance(influence, patients, diseased, stratified=stratified)
    return logit_interval(value, variance)


def precision_influence(ranking: Ranking, steps: Steps, diseased: Bools, value: float) -> Floats:
    """(cases,) derivative of average precision: through recall at its own step, through precision at all lower ones."""
    total = float(steps.diseased)
    positive = steps.true + steps.false
    gained = np.diff(steps.true, prepend=0.0) / total
    later_ill = np.cumsum((gained * steps.false / positive**2)[::-1])[::-1]
    later_well = np.cumsum((gained * steps.true / positive**2)[::-1])[::-1]
    of_ill = (steps.true / positive - value) / total + later_ill
    return np.where(diseased, ranking.spread(of_ill), ranking.spread(-later_well))


def mean_estimate(
    values: Floats, patients: NDArray[np.str_] | None, diseased: Bools, *, stratified: bool = True
) -> Estimate:
    """Mean of `values` (rows,) with its 95 % interval of normal theory over patients."""
    if not len(values):
        return Estimate.undefined("there are no cases")
    mean = float(values.mean())
    variance = influence_variance((values - mean) / len(values), patients, diseased, stratified=stratified)
    if not variance > 0:
        return Estimate(value=mean, low=math.nan, high=math.nan, reason=_NO_VARIANCE)
    half = Z_95 * math.sqrt(variance)
    return Estimate(value=mean, low=mean - half, high=mean + half)


def logit_interval(value: float, variance: float) -> Estimate:
    """A share with the interval of its log odds, for a variance of the share itself."""
    if not variance > 0 or not 0 < value < 1:
        return Estimate(value=value, low=math.nan, high=math.nan, reason=_NO_VARIANCE)
    center, half = math.log(value / (1 - value)), Z_95 * math.sqrt(variance) / (value * (1 - value))
    low, high = (1 / (1 + math.exp(-edge)) for edge in (center - half, center + half))
    return Estimate(value=value, low=low, high=high)

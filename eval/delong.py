"""Variance of areas under ROC curves by DeLong, DeLong and Clarke-Pearson (1988), in O(n log n), and its tests.

The unit of analysis is the row, so it is right only where no patient has two; otherwise `eval.clustered`. Called by
``radnode eval roc``, by reports and, for its covariance between readers, by the reader studies.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from scipy.stats import norm

from eval.intervals import Estimate
from eval.ranking import Bools, Floats, Ranking

Z_95 = float(norm.ppf(0.975))
_ROUNDING = 1e-12  # share of two variances that may be left of their difference where scores rank cases alike


class Scale(StrEnum):
    """On which scale an interval of an area is symmetric."""

    PLAIN = "plain"  # area ± z·se, cut at 0 and 1: what pROC and most papers print
    LOGIT = "logit"  # of log(a / (1 - a)), never beyond 0 and 1: better with few cases or areas near 1 (Pepe 2003)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Placements:
    """How each case of one class is placed among the other class, for each of several scores.

    Attributes
    ----------
    diseased : float64 (scores, diseased cases)
        Share of the others that score lower, ties half: DeLong's V10. Its mean is the area.
    others : float64 (scores, other cases)
        Share of the diseased that score higher, ties half: V01.
    """

    diseased: Floats
    others: Floats

    @classmethod
    def of(cls, scores: Sequence[Floats], diseased: Bools) -> Placements:
        """Placements of each of `scores`, all (cases,), under the truth `diseased`, bool (cases,)."""
        pairs = [_placed(score, diseased) for score in scores]
        return cls(diseased=np.stack([pair[0] for pair in pairs]), others=np.stack([pair[1] for pair in pairs]))

    @property
    def areas(self) -> Floats:
        """(scores,) areas under the curves; NaN when a class is empty."""
        if not self.diseased.shape[1] or not self.others.shape[1]:
            return np.full(len(self.diseased), math.nan)
        return np.asarray(self.diseased.mean(axis=1))


def _placed(scores: Floats, diseased: Bools) -> tuple[Floats, Floats]:
    """V10 of the diseased and V01 of the others, from one sort: counts above and below come from running sums."""
    ranking = Ranking.of(scores)
    ill, well = ranking.totals(diseased.astype(np.float64)), ranking.totals((~diseased).astype(np.float64))
    above = np.cumsum(ill) - ill / 2
    below = well.sum() - np.cumsum(well) + well / 2
    v10 = ranking.spread(below)[diseased] / max(well.sum(), 1)
    v01 = ranking.spread(above)[~diseased] / max(ill.sum(), 1)
    return v10, v01


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Areas:
    """Areas of several scores over the same cases, and the covariance between them.

    Attributes
    ----------
    values : float64 (scores,)
        NaN without a class.
    covariance : float64 (scores, scores)
        NaN where it cannot be estimated.
    reason : str
        Why an area or the covariance is undefined; empty where both are known.
    """

    values: Floats
    covariance: Floats
    reason: str = ""

    def estimate(self, index: int = 0, scale: Scale = Scale.PLAIN) -> Estimate:
        """One area with its 95 % interval.

        A variance of 0 (the classes do not overlap, or no score differs) gives no interval: an interval of width 0
        would claim certainty.
        """
        area = float(self.values[index])
        variance = float(self.covariance[index, index])
        if math.isnan(area):
            return Estimate.undefined(self.reason)
        if not variance > 0:
            reason = self.reason or "the estimated variance is 0: the scores do not overlap, or are all equal"
            return Estimate(value=area, low=math.nan, high=math.nan, reason=reason)
        low, high = _interval(area, math.sqrt(variance), scale)
        return Estimate(value=area, low=low, high=high)

    def difference(self, first: int = 0, second: int = 1) -> Difference:
        """Area `first` minus area `second`, on the same cases."""
        pair = self.covariance[np.ix_([first, second], [first, second])]
        apart = float(pair[0, 0] + pair[1, 1])
        variance = apart - 2 * float(pair[0, 1])
        known = variance if not variance <= _ROUNDING * apart else 0.0
        return Difference.of(float(self.values[first] - self.values[second]), known, self.reason)


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """A difference of two areas with its 95 % interval and the two-sided test of none."""

    estimate: Estimate
    z: float
    p: float

    @classmethod
    def of(cls, value: float, variance: float, reason: str = "") -> Difference:
        """Normal theory; without a positive variance there is neither interval nor test, with a reason."""
        if math.isnan(value):
            return cls(estimate=Estimate.undefined(reason), z=math.nan, p=math.nan)
        if not variance > 0:
            alike = ": both rank the cases in the same way" if value == 0 else ""
            why = reason or f"the estimated variance of the difference is 0{alike}"
            return cls(estimate=Estimate(value=value, low=math.nan, high=math.nan, reason=why), z=math.nan, p=math.nan)
        error = math.sqrt(variance)
        interval = Estimate(value=value, low=max(value - Z_95 * error, -1.0), high=min(value + Z_95 * error, 1.0))
        return cls(estimate=interval, z=value / error, p=float(2 * norm.sf(abs(value / error))))


def delong(scores: Sequence[Floats], diseased: Bools) -> Areas:
    """Areas of one or more scores over the same cases with DeLong's covariance.

    Parameters
    ----------
    scores : sequence of float64 (cases,)
        Higher is more suspicious; ties count half (midranks). Infinite scores are allowed, NaN is not.
    diseased : bool (cases,)
        Truth; every case is its own unit of analysis.

    Returns
    -------
    Areas
        S10 / m + S01 / n with denominators m - 1 and n - 1, as in the paper and in pROC. Undefined areas without a
        class; undefined covariance with one case of a class.
    """
    placed = Placements.of(scores, diseased)
    ill, well = placed.diseased.shape[1], placed.others.shape[1]
    if reason := missing_class(ill, well):
        unknown = np.full((len(scores), len(scores)), math.nan)
        return Areas(values=placed.areas, covariance=unknown, reason=reason)
    covariance = np.atleast_2d(np.cov(placed.diseased)) / ill + np.atleast_2d(np.cov(placed.others)) / well
    return Areas(values=placed.areas, covariance=covariance)


def missing_class(ill: int, well: int, unit: str = "case") -> str:
    """Why there is no area or no variance with so many diseased and other cases; empty where there is."""
    for count, kind in ((ill, "diseased"), (well, "non-diseased")):
        if count == 0:
            return f"there is no {kind} {unit}"
    for count, kind in ((ill, "diseased"), (well, "non-diseased")):
        if count == 1:
            return f"there is only one {kind} {unit}: a variance needs two"
    return ""


def unpaired_difference(first: Areas, second: Areas) -> Difference:
    """The area of `first` minus that of `second`, which were measured on different patients.

    Normal theory as in DeLong 1988; pROC uses a t distribution here, which differs only with few cases.
    """
    reason = first.reason or second.reason
    variance = float(first.covariance[0, 0] + second.covariance[0, 0])
    return Difference.of(float(first.values[0] - second.values[0]), variance, reason)


def _interval(area: float, error: float, scale: Scale) -> tuple[float, float]:
    if scale is Scale.PLAIN:
        return max(area - Z_95 * error, 0.0), min(area + Z_95 * error, 1.0)
    if area in {0.0, 1.0}:
        return math.nan, math.nan
    center, half = math.log(area / (1 - area)), Z_95 * error / (area * (1 - area))
    low, high = (1 / (1 + math.exp(-edge)) for edge in (center - half, center + half))
    return low, high

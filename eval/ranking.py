"""Cases sorted once by score, equal scores together: what every curve over thresholds is made of.

Used by `eval.roc`, `eval.delong`, `eval.clustered` and `eval.utility`. Weights stand for repeated cases, so that a
thousand resamples are one matrix and nothing is sorted twice. Which cases are drawn is `eval.resampling`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Ranking:
    """Distinct scores from the highest to the lowest, and the cases that have them.

    Attributes
    ----------
    order : intp (cases,)
        Cases from the highest score to the lowest.
    starts : intp (groups,)
        Place in `order` at which each group of equal scores begins.
    thresholds : float64 (groups,)
        Score of each group, descending; cases of this and earlier groups are positive at it (score >= threshold).
    """

    order: NDArray[np.intp]
    starts: NDArray[np.intp]
    thresholds: Floats

    @classmethod
    def of(cls, scores: Floats) -> Ranking:
        """Sort `scores` (cases,); infinite ones are allowed.

        Raises
        ------
        ValueError
            If a score is NaN, which has no rank.
        """
        if np.isnan(scores).any():
            raise ValueError("a score that is NaN has no rank")
        order = np.argsort(-scores)
        ranked = scores[order]
        begins = np.ones(len(ranked), dtype=np.bool_)
        np.not_equal(ranked[1:], ranked[:-1], out=begins[1:])
        starts = np.flatnonzero(begins)
        return cls(order=order, starts=starts, thresholds=ranked[starts])

    def totals(self, weights: Floats) -> Floats:
        """Sum of `weights` (..., cases) over each group of equal scores: (..., groups)."""
        ranked = weights[..., self.order]
        if len(self.starts) == len(self.order):
            return ranked
        return np.asarray(np.add.reduceat(ranked, self.starts, axis=-1))

    def spread(self, values: Floats) -> Floats:
        """Give each case the value of its group: (groups,) to (cases,)."""
        sizes = np.diff(np.append(self.starts, len(self.order)))
        spread = np.empty(len(self.order))
        spread[self.order] = np.repeat(values, sizes)
        return spread


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Steps:
    """Weight called positive at each threshold, from the highest, the start (nothing positive) left out.

    Attributes
    ----------
    true : float64 (..., groups)
        Diseased at or above the threshold.
    false : float64 (..., groups)
        Others at or above the threshold.
    """

    true: Floats
    false: Floats

    @classmethod
    def of(cls, ranking: Ranking, diseased: Bools, weights: Floats | None = None) -> Steps:
        """Cumulative counts; with `weights` (..., cases), one curve for each of their rows."""
        held = np.ones(len(diseased)) if weights is None else weights
        return cls(
            true=np.cumsum(ranking.totals(held * diseased), axis=-1),
            false=np.cumsum(ranking.totals(held * ~diseased), axis=-1),
        )

    @property
    def diseased(self) -> Floats:
        """(...) weight of all diseased cases."""
        return np.asarray(self.true[..., -1])

    @property
    def others(self) -> Floats:
        """(...) weight of all other cases."""
        return np.asarray(self.false[..., -1])

    def auroc(self) -> Floats:
        """(...) area under the curve by trapezoids, which is Mann-Whitney's with ties half; NaN without a class."""
        width = np.diff(self.false, axis=-1, prepend=0.0)
        height = self.true - np.diff(self.true, axis=-1, prepend=0.0) / 2
        return ratio((width * height).sum(axis=-1), self.diseased * self.others)

    def average_precision(self) -> Floats:
        """(...) precision at each threshold, weighted by the gain in recall (step rule); NaN without diseased."""
        precision = np.nan_to_num(ratio(self.true, self.true + self.false))
        gained = np.diff(self.true, axis=-1, prepend=0.0)
        return ratio((precision * gained).sum(axis=-1), self.diseased)

    def specificity_at(self, sensitivity: float) -> Floats:
        """(...) specificity of the highest threshold whose sensitivity is at least `sensitivity`."""
        first = np.argmax(self.true >= sensitivity * self.diseased[..., None] - 1e-9, axis=-1)
        false = np.take_along_axis(self.false, first[..., None], axis=-1)[..., 0]
        return np.where(self.diseased > 0, 1 - ratio(false, self.others), math.nan)

    def sensitivity_at(self, specificity: float) -> Floats:
        """(...) sensitivity of the lowest threshold whose specificity is at least `specificity`, 0 where none is."""
        allowed = (self.false <= (1 - specificity) * self.others[..., None] + 1e-9).sum(axis=-1)
        start = np.zeros((*self.true.shape[:-1], 1))
        true = np.take_along_axis(np.concatenate([start, self.true], axis=-1), allowed[..., None], axis=-1)[..., 0]
        return np.where(self.others > 0, ratio(true, self.diseased), math.nan)

    def partial_area(self, low: float, high: float) -> Floats:
        """(...) area under the curve between the false positive rates `low` and `high`, straight between points."""
        x = np.pad(ratio(self.false, self.others[..., None]), [(0, 0)] * (self.false.ndim - 1) + [(1, 0)])
        y = np.pad(ratio(self.true, self.diseased[..., None]), [(0, 0)] * (self.true.ndim - 1) + [(1, 0)])
        x0, x1, y0, y1 = x[..., :-1], x[..., 1:], y[..., :-1], y[..., 1:]
        begin, end = np.clip(x0, low, high), np.clip(x1, low, high)
        slope = np.nan_to_num(ratio(y1 - y0, x1 - x0))
        mean = y0 + slope * ((begin + end) / 2 - x0)
        known = (self.diseased > 0) & (self.others > 0)
        return np.where(known, (np.nan_to_num(mean) * np.nan_to_num(end - begin)).sum(axis=-1), math.nan)

    def sensitivities(self, false_positive_rates: Floats) -> Floats:
        """(..., rates) height of the curve at each rate, straight between points, the upper value at a step."""
        flat_true = self.true.reshape(-1, self.true.shape[-1])
        flat_false = self.false.reshape(-1, self.false.shape[-1])
        heights = [
            np.interp(
                false_positive_rates,
                np.append(0.0, false) / (false[-1] or math.nan),
                np.append(0.0, true) / (true[-1] or math.nan),
            )
            for true, false in zip(flat_true, flat_false, strict=True)
        ]
        return np.asarray(heights).reshape(*self.true.shape[:-1], len(false_positive_rates))


def ratio(over: Floats, under: Floats) -> Floats:
    """Quotient, NaN where it is something divided by nothing."""
    nothing = np.full(np.broadcast_shapes(np.shape(over), np.shape(under)), np.nan)
    return np.asarray(np.divide(over, under, out=nothing, where=np.asarray(under) > 0))

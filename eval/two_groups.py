"""Proportions of two independent groups: the interval of Miettinen and Nurminen, the test of Farrington and Manning.

Called by ``radnode eval paired`` (independent groups) and `eval.drift`, sizes of studies by `eval.sample_size`. Written
here because the score interval with a margin of statsmodels is wrong (its issue 10269). The same cases judged twice
are `eval.paired`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from scipy.optimize import brentq
from scipy.stats import norm

from eval.delong import Z_95
from eval.intervals import Estimate

_EDGE = 1e-12  # how near to a difference of ±1 limits are looked for


@dataclass(frozen=True, kw_only=True, slots=True)
class TwoGroups:
    """Successes of independent cases in two groups; differences are first minus second.

    Counts need not be whole: an effective number stands for cases that are not independent.
    """

    first: float
    first_cases: float
    second: float
    second_cases: float

    @property
    def difference(self) -> float:
        """Of the two shares; NaN where a group is empty."""
        if not self.first_cases or not self.second_cases:
            return math.nan
        return self.first / self.first_cases - self.second / self.second_cases


def restricted_shares(first: float, second: float, ratio: float, difference: float) -> tuple[float, float]:
    """Maximum likelihood shares under a given difference (Farrington and Manning 1990, closed form of the cubic).

    Parameters
    ----------
    first, second : float
        Observed or expected shares.
    ratio : float
        Cases of the second group for each case of the first.
    difference : float
        First minus second, strictly between -1 and 1.
    """
    a = 1 + ratio
    b = -(1 + ratio + first + ratio * second + difference * (ratio + 2))
    c = difference**2 + difference * (2 * first + ratio + 1) + first + ratio * second
    d = -first * difference * (1 + difference)
    v = (b / (3 * a)) ** 3 - b * c / (6 * a**2) + d / (2 * a)
    u = math.copysign(math.sqrt(max((b / (3 * a)) ** 2 - c / (3 * a), 0.0)), v)
    angle = (math.pi + math.acos(min(max(v / u**3, -1.0), 1.0))) / 3 if u else math.pi / 2
    low, high = max(0.0, difference), min(1.0, 1 + difference)
    share = min(max(2 * u * math.cos(angle) - b / (3 * a), low), high)
    return share, min(max(share - difference, 0.0), 1.0)


def score(groups: TwoGroups, difference: float, *, corrected: bool) -> float:
    """Score statistic of the hypothesis that the difference is `difference`.

    `corrected` multiplies the variance by N / (N - 1): Miettinen and Nurminen (1985); without it Farrington and
    Manning (1990), as Mee (1984). Infinite where the restricted variance is 0 and the difference is another.
    """
    share, other = groups.first / groups.first_cases, groups.second / groups.second_cases
    one, two = restricted_shares(share, other, groups.second_cases / groups.first_cases, difference)
    variance = one * (1 - one) / groups.first_cases + two * (1 - two) / groups.second_cases
    if corrected:
        total = groups.first_cases + groups.second_cases
        variance *= total / (total - 1)
    excess = share - other - difference
    if variance <= 0:
        return math.copysign(math.inf, excess) if excess else 0.0
    return excess / math.sqrt(variance)


def miettinen_nurminen(groups: TwoGroups) -> Estimate:
    """95 % score interval of the difference (Miettinen and Nurminen 1985); undefined where a group is empty."""
    if math.isnan(groups.difference):
        return Estimate.undefined("one of the groups is empty")
    return score_interval(groups.difference, lambda difference: score(groups, difference, corrected=True))


def score_interval(value: float, statistic: Callable[[float], float]) -> Estimate:
    """Differences at which a falling score `statistic` lies within ±1.96, looked for on both sides of `value`."""

    def limit(target: float, low: float, high: float, edge: float) -> float:
        if (statistic(low) - target) * (statistic(high) - target) > 0:
            return edge
        return float(brentq(lambda difference: statistic(difference) - target, low, high, xtol=1e-12))

    low = -1.0 if value <= -1 + _EDGE else limit(Z_95, -1 + _EDGE, value, -1.0)
    high = 1.0 if value >= 1 - _EDGE else limit(-Z_95, value, 1 - _EDGE, 1.0)
    return Estimate(value=value, low=low, high=high)


@dataclass(frozen=True, kw_only=True, slots=True)
class NonInferiority:
    """Whether the first is worse than the second by less than a margin; `p` is one-sided.

    `shown` holds where p is below half of 5 %, which is where the lower limit of the 95 % interval of the same
    statistic lies above the margin.
    """

    margin: float
    z: float
    p: float

    @classmethod
    def of(cls, margin: float, z: float) -> NonInferiority:
        """From the score statistic at a difference of minus `margin`."""
        return cls(margin=margin, z=z, p=float(norm.sf(z)))

    @property
    def shown(self) -> bool:
        """Whether non-inferiority is shown at one-sided 2.5 %."""
        return self.z > Z_95


def non_inferiority(groups: TwoGroups, margin: float) -> NonInferiority:
    """Test of Farrington and Manning (1990) that first minus second is not -margin or less.

    Raises
    ------
    ValueError
        If the margin does not lie between 0 and 1, or a group is empty.
    """
    check_margin(margin)
    if math.isnan(groups.difference):
        raise ValueError("one of the groups is empty")
    return NonInferiority.of(margin, score(groups, -margin, corrected=False))


def check_margin(margin: float) -> None:
    """Refuse a margin that is none: what may be lost, as a share between 0 and 1."""
    if not 0 < margin < 1:
        raise ValueError(f"a margin lies between 0 and 1, not at {margin}")

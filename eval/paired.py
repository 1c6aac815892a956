"""Two methods judged on the same cases: exact McNemar, Tango's interval, non-inferiority, Holm over a family.

Called by ``radnode eval paired`` and by comparisons of runs. Differences are first minus second. Several rows of a
patient need `clustered_difference`; independent groups are `eval.two_groups`, areas under curves `eval.delong`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from eval.delong import Difference
from eval.intervals import Estimate
from eval.ranking import Bools
from eval.two_groups import NonInferiority, check_margin, score_interval

NO_DISCORDANT = "the two never differ: there is nothing to test"


@dataclass(frozen=True, kw_only=True, slots=True)
class PairedCounts:
    """Cases by which of two methods was right on them (or positive: whatever is compared)."""

    both: int
    first_only: int
    second_only: int
    neither: int

    @classmethod
    def of(cls, first: Bools, second: Bools) -> PairedCounts:
        """Count two columns (cases,)."""
        return cls(
            both=int((first & second).sum()),
            first_only=int((first & ~second).sum()),
            second_only=int((~first & second).sum()),
            neither=int((~first & ~second).sum()),
        )

    @property
    def cases(self) -> int:
        """All of them."""
        return self.both + self.first_only + self.second_only + self.neither

    @property
    def difference(self) -> float:
        """Share of the first minus share of the second; NaN without cases."""
        return (self.first_only - self.second_only) / self.cases if self.cases else math.nan


@dataclass(frozen=True, kw_only=True, slots=True)
class McNemar:
    """Two-sided p of McNemar's test; NaN where the two never differ."""

    exact: float
    mid: float  # exact less half the probability of what was seen: less conservative (Fagerland and others 2013)


def mcnemar(counts: PairedCounts) -> McNemar:
    """Exact test (McNemar 1947) that of the cases on which two methods differ each has half."""
    discordant = counts.first_only + counts.second_only
    if not discordant:
        return McNemar(exact=math.nan, mid=math.nan)
    fewer = min(counts.first_only, counts.second_only)
    exact = min(1.0, 2 * float(binom.cdf(fewer, discordant, 0.5)))
    seen = float(binom.pmf(fewer, discordant, 0.5))
    mid = 1.0 - seen if 2 * fewer == discordant else 2 * float(binom.cdf(fewer, discordant, 0.5)) - seen
    return McNemar(exact=exact, mid=mid)


def tango_score(counts: PairedCounts, difference: float) -> float:
    """Score statistic of Tango (1998) of the hypothesis that the paired difference is `difference`."""
    n, b, c = counts.cases, counts.first_only, counts.second_only
    linear = -b - c + (2 * n - b + c) * difference
    root = math.sqrt(max(linear**2 + 8 * n * c * difference * (1 - difference), 0.0))
    share = (root - linear) / (4 * n)
    variance = n * (2 * share + difference * (1 - difference))
    excess = b - c - n * difference
    if variance <= 0:
        return math.copysign(math.inf, excess) if excess else 0.0
    return excess / math.sqrt(variance)


def tango(counts: PairedCounts) -> Estimate:
    """95 % score interval of the paired difference (Tango 1998); undefined without cases.

    Defined also where the two never differ: 0 with limits that narrow with the number of cases.
    """
    if not counts.cases:
        return Estimate.undefined("there are no cases of this kind")
    return score_interval(counts.difference, lambda difference: tango_score(counts, difference))


def paired_non_inferiority(counts: PairedCounts, margin: float) -> NonInferiority:
    """Tango's score test that first minus second is not -margin or less.

    Raises
    ------
    ValueError
        If the margin does not lie between 0 and 1, or there are no cases.
    """
    check_margin(margin)
    if not counts.cases:
        raise ValueError("there are no cases of this kind")
    return NonInferiority.of(margin, tango_score(counts, -margin))


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusteredDifference:
    """A paired difference with the patient as unit."""

    tested: Difference  # interval around the difference, test of none
    standard_error: float  # of the difference; NaN where it cannot be estimated

    def non_inferiority(self, margin: float) -> NonInferiority:
        """Normal theory: distance from -margin in standard errors."""
        check_margin(margin)
        return NonInferiority.of(margin, (self.tested.estimate.value + margin) / self.standard_error)


def clustered_difference(first: Bools, second: Bools, patients: NDArray[np.str_]) -> ClusteredDifference:
    """Paired difference over rows with several rows of a patient.

    Parameters
    ----------
    first, second : bool (rows,)
        What is compared.
    patients : str (rows,)
        Whose row it is: the unit of analysis.

    Returns
    -------
    ClusteredDifference
        Interval by the variance of a ratio of sums over patients; test with the variance under no difference
        (Obuchowski 1998), which is McNemar's with one row a patient but for the factor patients / (patients - 1).
    """
    if not len(first):
        nothing = Difference.of(math.nan, math.nan, "there are no cases of this kind")
        return ClusteredDifference(tested=nothing, standard_error=math.nan)
    owner = np.unique(patients, return_inverse=True)[1]
    sums = np.bincount(owner, weights=first.astype(np.float64) - second)
    sizes = np.bincount(owner)
    value, rows, count = float(sums.sum()) / len(first), len(first), len(sums)
    if count == 1 or not np.any(sums):
        why = "there is only one patient: a variance needs two" if count == 1 else NO_DISCORDANT
        return ClusteredDifference(tested=Difference.of(value, math.nan, why), standard_error=math.nan)
    factor = count / (count - 1) / rows**2
    variance = factor * float(((sums - sizes * value) ** 2).sum())
    under_none = Difference.of(value, factor * float((sums**2).sum()))
    tested = Difference(estimate=Difference.of(value, variance).estimate, z=under_none.z, p=under_none.p)
    return ClusteredDifference(tested=tested, standard_error=math.sqrt(variance) or math.nan)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Adjusted p of a family that was listed beforehand (Holm 1979), in the order given.

    One that is NaN cannot be rejected: it stays NaN and counts in the family, as if it were the largest.
    """
    names = sorted(p_values, key=lambda name: (math.isnan(p_values[name]), p_values[name]))
    adjusted, highest = {}, 0.0
    for rank, name in enumerate(names):
        if math.isnan(p_values[name]):
            adjusted[name] = math.nan
            continue
        highest = max(highest, min(1.0, (len(names) - rank) * p_values[name]))
        adjusted[name] = highest
    return {name: adjusted[name] for name in p_values}

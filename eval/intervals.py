"""Intervals around a figure: by resampling patients, and exactly for a proportion.

Used by every report. The patient is the unit: films of one patient are drawn together, and where prevalence was
chosen by design patients with and without the finding are drawn apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A figure with its 95 % interval; all three are NaN where the figure is undefined.

    `reason` says why there is no figure, or no interval around one; empty where both are known.
    """

    value: float
    low: float
    high: float
    reason: str = ""

    @classmethod
    def undefined(cls, reason: str) -> Estimate:
        """No figure, and why."""
        return cls(value=math.nan, low=math.nan, high=math.nan, reason=reason)

    @property
    def defined(self) -> bool:
        """Whether there was anything to count."""
        return not math.isnan(self.value)


def patient_bootstrap(
    statistic: Callable[[NDArray[np.intp]], float],
    patients: NDArray[np.str_],
    diseased: NDArray[np.bool_],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """Percentile interval of `statistic` over resampled patients, stratified by truth.

    Parameters
    ----------
    statistic : callable
        Figure of the rows whose indices it is given; rows may repeat. May return NaN.
    patients : str (rows,)
        Whose row it is.
    diseased : bool (rows,)
        Truth of the row. A patient with any diseased row is drawn among the diseased.
    resamples : int, optional
        How many times to draw.
    seed : int, optional
        Seed of the draws, to be named in the report.

    Returns
    -------
    Estimate
        The figure of all rows, and the 2.5th and 97.5th percentile of the resampled ones. Resamples in which the
        figure is undefined are left out.
    """
    owner = np.unique(patients, return_inverse=True)[1]
    rows_of = np.split(np.argsort(owner, kind="stable"), np.cumsum(np.bincount(owner))[:-1])
    with_disease = [rows for rows in rows_of if diseased[rows].any()]
    without = [rows for rows in rows_of if not diseased[rows].any()]
    random = np.random.default_rng(seed)
    drawn = [statistic(np.concatenate(_draw(with_disease, random) + _draw(without, random))) for _ in range(resamples)]
    known = np.asarray(drawn)[~np.isnan(drawn)]
    value = statistic(np.arange(len(patients)))
    if math.isnan(value):
        return Estimate.undefined("the figure cannot be computed from these rows")
    if not known.size:
        return Estimate.undefined("it is undefined in every resample")
    low, high = np.percentile(known, [2.5, 97.5]).tolist()
    return Estimate(value=value, low=low, high=high)


def _draw(groups: list[NDArray[np.intp]], random: np.random.Generator) -> list[NDArray[np.intp]]:
    return [groups[index] for index in random.integers(0, len(groups), len(groups))] if groups else []


def clopper_pearson(successes: float, trials: float) -> Estimate:
    """Proportion with its exact 95 % interval (Clopper and Pearson 1934); undefined for no trials.

    Counts need not be whole: an effective number of rows stands for rows that are not independent (Korn and Graubard
    1998). Of independent rows it covers at least 95 %.
    """
    from scipy.stats import beta

    if not trials:
        return Estimate.undefined("0 of 0: there are no cases of this kind")
    low = float(beta.ppf(0.025, successes, trials - successes + 1)) if successes > 0 else 0.0
    high = float(beta.ppf(0.975, successes + 1, trials - successes)) if successes < trials else 1.0
    return Estimate(value=successes / trials, low=low, high=high)

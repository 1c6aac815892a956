"""The patient bootstrap as a matrix of weights: thousands of resamples of a curve without sorting any of them again.

Draws exactly the patients that `eval.intervals.patient_bootstrap` draws with the same seed; that one takes any
statistic of rows, this one statistics of weighted rows. Used by `eval.roc` and the command ``radnode eval roc``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from eval.intervals import RESAMPLES, Estimate
from eval.ranking import Bools, Floats

_CELLS = 2_000_000  # weights held at a time: 16 MB for each array of a statistic


def patient_weights(
    patients: NDArray[np.str_], diseased: Bools, *, resamples: int = RESAMPLES, seed: int = 0, stratified: bool = True
) -> Iterator[Floats]:
    """Blocks (resamples of the block, rows) of how often each row is drawn.

    Parameters
    ----------
    patients : str (rows,)
        Whose row it is: the unit that is drawn, with replacement.
    diseased : bool (rows,)
        Truth. Patients with a diseased row, and patients without, are drawn apart, each as many as there are.
    resamples, seed : int
        How many, and the seed of the draws.
    stratified : bool
        False draws all patients together: for figures that move with prevalence, where it was not chosen by design.
    """
    names, owner = np.unique(patients, return_inverse=True)
    ill = np.bincount(owner, weights=diseased, minlength=len(names)) > 0
    strata = [np.flatnonzero(ill), np.flatnonzero(~ill)] if stratified else [np.arange(len(names))]
    random = np.random.default_rng(seed)
    block = max(1, _CELLS // max(1, len(patients)))
    for begin in range(0, resamples, block):
        drawn = np.empty((min(block, resamples - begin), len(names)))
        for row in drawn:
            for stratum in strata:
                if len(stratum):
                    chosen = random.integers(0, len(stratum), len(stratum))
                    row[stratum] = np.bincount(chosen, minlength=len(stratum))
        yield drawn[:, owner]


def resampled(
    statistic: Callable[[Floats], Floats],
    patients: NDArray[np.str_],
    diseased: Bools,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    stratified: bool = True,
) -> Floats:
    """(resamples, ...) `statistic` of every resample; it is given weights (block, rows) and returns (block, ...)."""
    draws = patient_weights(patients, diseased, resamples=resamples, seed=seed, stratified=stratified)
    found = [statistic(weights) for weights in draws]
    return np.concatenate(found) if found else statistic(np.ones((1, len(patients))))[:0]


def percentile_estimate(value: float, draws: Floats) -> Estimate:
    """`value` with the 2.5th and 97.5th percentile of `draws` (resamples,), undefined draws left out."""
    if np.isnan(value):
        return Estimate.undefined("the figure cannot be computed from these rows")
    known = draws[~np.isnan(draws)]
    if not known.size:
        reason = "it is undefined in every resample" if draws.size else "no resamples were asked for"
        return Estimate(value=float(value), low=np.nan, high=np.nan, reason=reason)
    low, high = np.percentile(known, [2.5, 97.5]).tolist()
    return Estimate(value=float(value), low=low, high=high)

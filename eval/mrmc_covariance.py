"""Areas under the ROC curve of several readers under several treatments, and how their errors covary.

Called by `radnode eval mrmc`; the analysis itself is `eval.mrmc`. The unit is the case: all readers see the same cases
under all treatments, so that leaving a case out, or drawing it twice, touches every figure at once. Figures of merit
of readers who mark places, and their jackknife, are in `eval.jafroc`.
"""

from __future__ import annotations

import math
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

_BLOCK = 5_000_000  # times that cases were drawn, held in memory at once


class CovarianceMethod(StrEnum):
    """How the covariance of the figures over cases is estimated."""

    JACKKNIFE = "jackknife"  # leave one case out; exact for any figure of merit
    DELONG = "delong"  # DeLong, DeLong and Clarke-Pearson 1988; areas under the ROC curve only
    BOOTSTRAP = "bootstrap"  # cases drawn with replacement, diseased and others apart


def areas(ratings: NDArray[np.float64], diseased: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Empirical area under the ROC curve (Mann-Whitney, ties counting half) of each row of ratings.

    Parameters
    ----------
    ratings : float64 (..., cases)
        Higher is more suspicious.
    diseased : bool (cases,)
        Truth, the same for all rows.

    Returns
    -------
    float64 (...)
        NaN where one of the two groups is empty.
    """
    if diseased.all() or not diseased.any():
        return np.full(ratings.shape[:-1], math.nan)
    return np.asarray(_placements(ratings, diseased)[0].mean(axis=-1))


def leave_one_out_areas(ratings: NDArray[np.float64], diseased: NDArray[np.bool_]) -> NDArray[np.float64]:
    """`areas` with each case left out in turn, without computing them again.

    Parameters
    ----------
    ratings : float64 (..., cases)
    diseased : bool (cases,)

    Returns
    -------
    float64 (..., cases)
        NaN where leaving the case out leaves one group empty.
    """
    ill, well = int(diseased.sum()), int((~diseased).sum())
    found = np.full(ratings.shape, math.nan)
    if not ill or not well:
        return found
    of_ill, of_well = _placements(ratings, diseased)
    area = of_ill.mean(axis=-1, keepdims=True)
    if ill > 1:
        found[..., diseased] = (ill * area - of_ill) / (ill - 1)
    if well > 1:
        found[..., ~diseased] = (well * area - of_well) / (well - 1)
    return found


def jackknife_covariance(leave_one_out: NDArray[np.float64]) -> NDArray[np.float64]:
    """Covariance of figures from their values with each case left out (Efron and Stein 1981).

    Parameters
    ----------
    leave_one_out : float64 (treatments, readers, cases)
        Figures of merit without the case.

    Returns
    -------
    float64 (treatments, readers, treatments, readers)
        (K - 1) / K times the sum over the K cases of the products of deviations from their mean.
    """
    treatments, readers, cases = leave_one_out.shape
    deviations = (leave_one_out - leave_one_out.mean(axis=-1, keepdims=True)).reshape(treatments * readers, cases)
    covariance = deviations @ deviations.T * ((cases - 1) / cases)
    return np.asarray(covariance).reshape(treatments, readers, treatments, readers)


def delong_covariance(ratings: NDArray[np.float64], diseased: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Covariance of `areas` over the same cases by structural components (DeLong and others 1988).

    Parameters
    ----------
    ratings : float64 (treatments, readers, cases)
    diseased : bool (cases,)

    Returns
    -------
    float64 (treatments, readers, treatments, readers)
        NaN with fewer than two diseased or fewer than two other cases.
    """
    treatments, readers, cases = ratings.shape
    shape = (treatments, readers, treatments, readers)
    ill, well = int(diseased.sum()), int((~diseased).sum())
    if min(ill, well) <= 1:
        return np.full(shape, math.nan)
    of_ill, of_well = _placements(ratings.reshape(-1, cases), diseased)
    return (_covariance(of_ill) / ill + _covariance(of_well) / well).reshape(shape)


def bootstrap_covariance(
    ratings: NDArray[np.float64], diseased: NDArray[np.bool_], *, resamples: int, seed: int
) -> NDArray[np.float64]:
    """Covariance of `areas` over resampled cases, the diseased and the others drawn apart.

    Parameters
    ----------
    ratings : float64 (treatments, readers, cases)
    diseased : bool (cases,)
    resamples : int
        At least 2.
    seed : int
        Seed of the draws, to be named in the report.

    Returns
    -------
    float64 (treatments, readers, treatments, readers)
        NaN where one of the two groups is empty.
    """
    treatments, readers, cases = ratings.shape
    shape = (treatments, readers, treatments, readers)
    if diseased.all() or not diseased.any():
        return np.full(shape, math.nan)
    random = np.random.default_rng(seed)
    rows = ratings.reshape(-1, cases)
    drawn = [_resampled_areas(rows, diseased, some, random) for some in _parts(resamples, cases)]
    return _covariance(np.concatenate(drawn, axis=1)).reshape(shape)


def _parts(resamples: int, cases: int) -> list[int]:
    """Resamples in parts that fit into memory."""
    step = max(1, _BLOCK // cases)
    return [min(step, resamples - begin) for begin in range(0, resamples, step)]


def _resampled_areas(
    rows: NDArray[np.float64], diseased: NDArray[np.bool_], resamples: int, random: np.random.Generator
) -> NDArray[np.float64]:
    """(rows, resamples) areas when each case counts as often as it was drawn."""
    ill, well = int(diseased.sum()), int((~diseased).sum())
    times_ill = random.multinomial(ill, np.full(ill, 1 / ill), size=resamples)
    times_well = random.multinomial(well, np.full(well, 1 / well), size=resamples)
    found = np.empty((len(rows), resamples))
    for index, row in enumerate(rows):
        order = np.argsort(row[~diseased])
        others = row[~diseased][order]
        below = np.zeros((resamples, well + 1))
        np.cumsum(times_well[:, order], axis=1, out=below[:, 1:])
        lower, upper = (np.searchsorted(others, row[diseased], side=side) for side in ("left", "right"))
        found[index] = (times_ill * (below[:, lower] + below[:, upper])).sum(axis=1) / (2 * ill * well)
    return found


def _placements(
    ratings: NDArray[np.float64], diseased: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(..., diseased) share of the others below each diseased case, and (..., others) share of diseased above each."""
    ill, well = ratings[..., diseased], ratings[..., ~diseased]
    among_all = rankdata(ratings, axis=-1)
    of_ill = (among_all[..., diseased] - rankdata(ill, axis=-1)) / well.shape[-1]
    of_well = 1 - (among_all[..., ~diseased] - rankdata(well, axis=-1)) / ill.shape[-1]
    return of_ill, of_well


def _covariance(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """(rows, rows) covariance, divided by the columns less one."""
    deviations = rows - rows.mean(axis=1, keepdims=True)
    return np.asarray(deviations @ deviations.T / (rows.shape[1] - 1))

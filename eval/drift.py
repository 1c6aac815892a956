"""Whether what a model sees, or says, has moved since the reference.

Called by ``radnode eval drift`` and by monitoring in service. Distances of distributions tell that something moved,
never that the model became worse; that is what `sensitivity_cusum` watches, when truth comes back.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2, ks_2samp

from eval.ranking import Bools, Floats

PSI_BINS = 10
PSI_FLOOR = 1e-4
_EXACT_KS = 1000  # cases up to which p is computed exactly
_HIGHEST_LIMIT = 20.0  # of a CUSUM: run lengths there are beyond any service
PSI_MODERATE, PSI_LARGE = 0.1, 0.25  # conventional bounds of credit scoring (Siddiqi 2006)


@dataclass(frozen=True, kw_only=True, slots=True)
class PsiBin:
    """One bin or category: its shares before and now, unfloored."""

    label: str
    reference: float
    current: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Psi:
    """Population stability index with the bins it is summed over; NaN where one side is empty.

    `unmoved_95` is what it stays below in 95 of 100 samples of these sizes when nothing has moved (chi-square
    approximation of Yurdakul 2018): with few cases the conventional bounds are crossed by chance.
    """

    value: float
    bins: tuple[PsiBin, ...]
    unmoved_95: float = math.nan


def psi(reference: Floats, current: Floats, *, bins: int = PSI_BINS, floor: float = PSI_FLOOR) -> Psi:
    """Population stability index over quantile bins of the reference.

    Parameters
    ----------
    reference, current : float64 (cases,)
        Scores, or any number of a case; no NaN.
    bins : int, optional
        Edges are the quantiles 1/bins, 2/bins … of the reference (linear interpolation); equal edges are one, and a
        value at an edge belongs above it. The outer bins are open.
    floor : float, optional
        Shares below it are taken as it, so that an empty bin counts and is not infinite.

    Returns
    -------
    Psi
        Sum of (current - reference) · ln(current / reference).

    Raises
    ------
    ValueError
        If fewer than two bins are asked for.
    """
    if bins < 2:  # noqa: PLR2004 - one bin holds everything
        raise ValueError(f"an index needs at least two bins, not {bins}")
    if not len(reference) or not len(current):
        return Psi(value=math.nan, bins=())
    edges = np.unique(np.quantile(reference, np.arange(1, bins) / bins))
    before, now = (
        np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1) / len(values)
        for values in (reference, current)
    )
    names = [f"{edge:.6g}" for edge in edges]
    labels = [f"below {names[0]}", *(f"{a} to {b}" for a, b in pairwise(names)), f"{names[-1]} up"]
    return _summed(labels, before, now, floor, 1 / len(reference) + 1 / len(current))


def categorical_psi(reference: NDArray[np.str_], current: NDArray[np.str_], *, floor: float = PSI_FLOOR) -> Psi:
    """Population stability index over categories of a header feature: vendor, view, site, kernel."""
    if not len(reference) or not len(current):
        return Psi(value=math.nan, bins=())
    labels = np.unique(np.concatenate([reference, current]))
    before, now = ((values[:, None] == labels).mean(axis=0) for values in (reference, current))
    return _summed(labels.tolist(), before, now, floor, 1 / len(reference) + 1 / len(current))


def _summed(labels: Sequence[str], before: Floats, now: Floats, floor: float, noise: float) -> Psi:
    a, b = np.maximum(before, floor), np.maximum(now, floor)
    bins = tuple(
        PsiBin(label=label, reference=float(one), current=float(two))
        for label, one, two in zip(labels, before, now, strict=True)
    )
    unmoved = float(chi2.ppf(0.95, len(bins) - 1)) * noise if len(bins) > 1 else 0.0
    return Psi(value=float(((b - a) * np.log(b / a)).sum()), bins=bins, unmoved_95=unmoved)


@dataclass(frozen=True, kw_only=True, slots=True)
class KolmogorovSmirnov:
    """Largest distance of two distribution functions, and its two-sided p; NaN where one side is empty."""

    distance: float
    p: float


def kolmogorov_smirnov(reference: Floats, current: Floats) -> KolmogorovSmirnov:
    """Two-sample test; with ties p is conservative. Exact for small samples, else asymptotic (scipy's choice)."""
    if not len(reference) or not len(current):
        return KolmogorovSmirnov(distance=math.nan, p=math.nan)
    method = "asymp" if max(len(reference), len(current)) > _EXACT_KS else "auto"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # scipy says when the exact p fails and it takes the other
        found = ks_2samp(reference, current, method=method)
    return KolmogorovSmirnov(distance=float(found.statistic), p=float(found.pvalue))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Cusum:
    """A cumulative sum over the diseased cases in the order in which their truth came back.

    Attributes
    ----------
    path : float64 (diseased cases,)
        The sum after each; never below 0.
    limit : float
        At which it signals.
    signals : tuple of int
        Diseased cases (counted from 0) at which it reached the limit; it starts again from 0 after each.
    """

    path: Floats
    limit: float
    signals: tuple[int, ...]


def sensitivity_cusum(found: Bools, *, expected: float, unacceptable: float, limit: float) -> Cusum:
    """Watch sensitivity: log-likelihood ratio CUSUM (Page 1954; Steiner and others 2000).

    Parameters
    ----------
    found : bool (diseased cases,)
        Whether the model was positive, in order of time.
    expected, unacceptable : float
        Sensitivity of the report, and the lower one that must be noticed.
    limit : float
        Signals at or above it; `cusum_limit` finds it.

    Raises
    ------
    ValueError
        If the sensitivities are not 0 < unacceptable < expected < 1, or the limit is not positive.
    """
    _check(expected, unacceptable)
    if limit <= 0:
        raise ValueError(f"a limit is more than 0, not {limit}")
    hit, miss = _steps(expected, unacceptable)
    path, signals, total = np.empty(len(found)), [], 0.0
    for case, was_found in enumerate(found):
        total = max(0.0, total + (hit if was_found else miss))
        path[case] = total
        if total >= limit:
            signals.append(case)
            total = 0.0
    return Cusum(path=path, limit=limit, signals=tuple(signals))


def cusum_run_length(*, sensitivity: float, expected: float, unacceptable: float, limit: float) -> float:
    """Mean number of diseased cases until the CUSUM signals at a true `sensitivity` (Brook and Evans 1972).

    A Markov chain over 400 steps of the sum; between them the sum is rounded, so lengths are near, not exact.
    """
    _check(expected, unacceptable)
    states = 400
    width = limit / states
    hit, miss = (round(step / width) for step in _steps(expected, unacceptable))
    moves = np.zeros((states, states))
    for state in range(states):
        for step, chance in ((hit, sensitivity), (miss, 1 - sensitivity)):
            if (target := max(0, state + step)) < states:
                moves[state, target] += chance
    return float(np.linalg.solve(np.eye(states) - moves, np.ones(states))[0])


def cusum_limit(*, expected: float, unacceptable: float, run_length: float) -> float:
    """Limit at which a false alarm comes once in `run_length` diseased cases on average, to a hundredth.

    Raises
    ------
    ValueError
        If the sensitivities are not 0 < unacceptable < expected < 1.
    """
    _check(expected, unacceptable)
    low, high = 0.01, _HIGHEST_LIMIT
    while high - low > 0.01:  # noqa: PLR2004 - finer than the chain's rounding it means nothing
        middle = (low + high) / 2
        length = cusum_run_length(sensitivity=expected, expected=expected, unacceptable=unacceptable, limit=middle)
        low, high = (low, middle) if length >= run_length else (middle, high)
    return round(high, 2)


def _steps(expected: float, unacceptable: float) -> tuple[float, float]:
    """Log-likelihood ratio of a found and of a missed case."""
    return math.log(unacceptable / expected), math.log((1 - unacceptable) / (1 - expected))


def _check(expected: float, unacceptable: float) -> None:
    if not 0 < unacceptable < expected < 1:
        raise ValueError("the unacceptable sensitivity lies between 0 and the expected one, that below 1")

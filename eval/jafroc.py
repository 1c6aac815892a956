"""Figures of merit of readers who mark and rate places: AFROC, wAFROC, their variants 1, HrAUC and LROC.

Called by `radnode eval jafroc`; the significance tests are `eval.mrmc`, the tables `eval.jafroc_tables`. A place that a
reader did not mark has the rating minus infinity. With psi(x, y) = 1 if x < y, 1/2 if x = y, else 0, each figure but
the partial ones of the LROC curve is a weighted mean of psi over pairs of a false mark and a lesion; a case's false
mark is its highest one. The unit of analysis is the case.

References: Chakraborty and Berbaum 2004 (Med Phys 31:2313); Chakraborty and Zhai 2016 (Med Phys 43:2548) for the
weighted figure; Chakraborty 2017 (Observer Performance Methods for Diagnostic Imaging) for the variants;
Swensson 1996 (Med Phys 23:1709) for the LROC curve.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

UNMARKED = -math.inf


class Figure(StrEnum):
    """A figure of merit of one reader under one treatment."""

    WAFROC = "wafroc"  # false marks of normal cases against lesions, each diseased case weighing the same
    AFROC = "afroc"  # false marks of normal cases against lesions, each lesion weighing the same
    WAFROC1 = "wafroc1"  # as wafroc, with the false marks of all cases
    AFROC1 = "afroc1"  # as afroc, with the false marks of all cases
    HRAUC = "hrauc"  # area under the ROC curve of each case's highest mark, wherever it is
    LROC = "lroc"  # area under the LROC curve
    ALROC = "alroc"  # area under the LROC curve up to a false positive fraction, not divided by it
    PCL = "pcl"  # share of diseased cases localised correctly at a false positive fraction


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Truth:
    """What is there.

    Attributes
    ----------
    diseased : bool (cases,)
    lesion_case : intp (lesions,)
        Which case the lesion is in.
    weight : float64 (lesions,)
        Share of the lesion in its case; those of a case add to 1.
    """

    diseased: NDArray[np.bool_]
    lesion_case: NDArray[np.intp]
    weight: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Reading:
    """What one reader marked under one treatment.

    Attributes
    ----------
    false_mark : float64 (cases,)
        Rating of the case's highest mark that is on no lesion; `UNMARKED` where there is none. A wrong localisation of
        an LROC study (LL_IL) is such a mark.
    lesion : float64 (lesions,)
        Rating of the highest mark on the lesion; `UNMARKED` where there is none.
    """

    false_mark: NDArray[np.float64]
    lesion: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Pairs:
    """Which false marks are held against which signals.

    Attributes
    ----------
    noise, noise_case : (noises,)
        Ratings, and the case of each; one a case.
    signal, signal_case : (signals,)
        Ratings, and the case of each.
    credit, weight : float64 (signals,)
        What a signal above the noise earns, and what it counts in the denominator.
    """

    noise: NDArray[np.float64]
    noise_case: NDArray[np.intp]
    signal: NDArray[np.float64]
    signal_case: NDArray[np.intp]
    credit: NDArray[np.float64]
    weight: NDArray[np.float64]


def figure_of_merit(figure: Figure, truth: Truth, reading: Reading, *, fpf: float = 1.0) -> float:
    """A figure of merit of one reader under one treatment.

    Parameters
    ----------
    figure : Figure
    truth : Truth
    reading : Reading
    fpf : float, optional
        False positive fraction, in (0, 1], at which `Figure.PCL` is read and up to which `Figure.ALROC` is taken; the
        other figures do not use it.

    Returns
    -------
    float
        NaN without normal cases (but for the variants 1, which need none) or without diseased ones.

    Notes
    -----
    Two unmarked places are a tie, so that a reader who marks nothing has 1/2, except in the LROC figures: there a
    diseased case counts only when its highest mark is on a lesion (a tie with a mark beside it does not count), and a
    reader who marks nothing has 0. The LROC curve joins its points by straight lines, tied ratings making a sloped
    one, from (0, 0), and is level beyond the last; at a vertical step the upper value counts.
    """
    if figure in (Figure.ALROC, Figure.PCL):
        located, normal = _located(truth, reading), ~truth.diseased
        return _lroc_value(figure, reading.false_mark[normal], located[truth.diseased], fpf)
    pairs = _pairs(figure, truth, reading)
    whole = pairs.noise.size * pairs.weight.sum()
    return float(_beaten_by(pairs).sum() / whole) if whole else math.nan


def leave_one_out(figure: Figure, truth: Truth, reading: Reading, *, fpf: float = 1.0) -> NDArray[np.float64]:
    """The figure with each case left out in turn; parameters as `figure_of_merit`.

    Returns
    -------
    float64 (cases,)
        NaN where leaving the case out leaves nothing to compare.
    """
    if figure in (Figure.ALROC, Figure.PCL):
        return _lroc_leave_one_out(figure, truth, reading, fpf)
    pairs, cases = _pairs(figure, truth, reading), truth.diseased.size
    won_by_noise_case = np.bincount(pairs.noise_case, weights=_beaten_by(pairs), minlength=cases)
    won_by_signal_case = np.bincount(pairs.signal_case, weights=_wins(pairs), minlength=cases)
    won = won_by_noise_case.sum() - won_by_noise_case - won_by_signal_case + _own_wins(pairs, cases)
    noises = pairs.noise.size - np.bincount(pairs.noise_case, minlength=cases)
    weight = pairs.weight.sum() - np.bincount(pairs.signal_case, weights=pairs.weight, minlength=cases)
    whole = noises * np.where(weight > _rounding(pairs), weight, 0.0)
    return np.asarray(np.divide(won, whole, out=np.full(cases, math.nan), where=whole > 0))


def lroc_curve(normal: NDArray[np.float64], located: NDArray[np.float64]) -> NDArray[np.float64]:
    """Points of the LROC curve.

    Parameters
    ----------
    normal : float64 (normal cases,)
        Highest mark of each; minus infinity where there is none.
    located : float64 (diseased cases,)
        Rating of the mark that localises the case correctly; minus infinity where there is none.

    Returns
    -------
    float64 (points, 2)
        False positive fraction and share localised correctly, from (0, 0) on, one point for all marks of a rating.
    """
    marks = np.concatenate([normal, located])
    thresholds = np.unique(marks[np.isfinite(marks)])[::-1]
    points = np.zeros((thresholds.size + 1, 2))
    points[1:, 0] = (normal.size - np.searchsorted(np.sort(normal), thresholds)) / normal.size
    points[1:, 1] = (located.size - np.searchsorted(np.sort(located), thresholds)) / located.size
    return points


def _located(truth: Truth, reading: Reading) -> NDArray[np.float64]:
    """(cases,) rating of a correct localisation: the case's highest mark, where it is on a lesion and no other is."""
    best = np.full(truth.diseased.size, UNMARKED)
    np.maximum.at(best, truth.lesion_case, reading.lesion)
    return np.where(best > reading.false_mark, best, UNMARKED)


def _pairs(figure: Figure, truth: Truth, reading: Reading) -> _Pairs:
    cases = np.arange(truth.diseased.size)
    normal, diseased = cases[~truth.diseased], cases[truth.diseased]
    if figure in (Figure.WAFROC, Figure.WAFROC1, Figure.AFROC, Figure.AFROC1):
        from_all = figure in (Figure.WAFROC1, Figure.AFROC1)
        noise_case = cases if from_all else normal
        weighted = figure in (Figure.WAFROC, Figure.WAFROC1)
        weight = truth.weight if weighted else np.ones(truth.lesion_case.size)
        return _Pairs(
            noise=reading.false_mark[noise_case],
            noise_case=noise_case,
            signal=reading.lesion,
            signal_case=truth.lesion_case,
            credit=weight,
            weight=weight,
        )
    highest = reading.false_mark.copy()
    np.maximum.at(highest, truth.lesion_case, reading.lesion)
    signal = (_located(truth, reading) if figure is Figure.LROC else highest)[diseased]
    ones = np.ones(diseased.size)
    return _Pairs(
        noise=reading.false_mark[normal],
        noise_case=normal,
        signal=signal,
        signal_case=diseased,
        credit=np.where(np.isneginf(signal), 0.0, ones) if figure is Figure.LROC else ones,
        weight=ones,
    )


def _beaten_by(pairs: _Pairs) -> NDArray[np.float64]:
    """(noises,) credit of the signals above each noise, ties counting half."""
    order = np.argsort(pairs.signal, kind="stable")
    signal = pairs.signal[order]
    below = np.concatenate([[0.0], np.cumsum(pairs.credit[order])])
    lower = below[np.searchsorted(signal, pairs.noise, side="left")]
    upper = below[np.searchsorted(signal, pairs.noise, side="right")]
    return np.asarray(below[-1] - 0.5 * (lower + upper))


def _wins(pairs: _Pairs) -> NDArray[np.float64]:
    """(signals,) credit times the noises below each signal, ties counting half."""
    noise = np.sort(pairs.noise)
    lower = np.searchsorted(noise, pairs.signal, side="left")
    upper = np.searchsorted(noise, pairs.signal, side="right")
    return np.asarray(pairs.credit * 0.5 * (lower + upper))


def _own_wins(pairs: _Pairs, cases: int) -> NDArray[np.float64]:
    """(cases,) credit that a case's signals win against its own noise; pairs counted in both sums."""
    noise = np.full(cases, math.nan)
    noise[pairs.noise_case] = pairs.noise
    own = noise[pairs.signal_case]
    won = pairs.credit * ((own < pairs.signal) + 0.5 * (own == pairs.signal))
    return np.bincount(pairs.signal_case, weights=won, minlength=cases).astype(np.float64)


def _rounding(pairs: _Pairs) -> float:
    return 1e-9 * float(pairs.weight.sum())


def _lroc_value(figure: Figure, normal: NDArray[np.float64], located: NDArray[np.float64], fpf: float) -> float:
    if not normal.size or not located.size:
        return math.nan
    fractions, shares = lroc_curve(normal, located).T
    at_fpf = float(np.interp(fpf, fractions, shares))
    if figure is Figure.PCL:
        return at_fpf
    inside = fractions <= fpf
    return float(np.trapezoid([*shares[inside], at_fpf], [*fractions[inside], fpf]))


def _lroc_leave_one_out(figure: Figure, truth: Truth, reading: Reading, fpf: float) -> NDArray[np.float64]:
    located = _located(truth, reading)
    found = np.empty(truth.diseased.size)
    for case in range(truth.diseased.size):
        kept = np.arange(truth.diseased.size) != case
        normal, ill = kept & ~truth.diseased, kept & truth.diseased
        found[case] = _lroc_value(figure, reading.false_mark[normal], located[ill], fpf)
    return found

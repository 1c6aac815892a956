"""Whether a score between 0 and 1 is the probability that it claims to be.

Called by ``radnode eval roc`` and by reports. Nothing here fits a model that is used afterwards: slope and intercept
are measured, calibrating is training's. The unit of analysis is the row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit
from scipy.stats import norm

from eval.delong import Z_95
from eval.intervals import Estimate
from eval.proportions import wilson
from eval.ranking import Bools, Floats

BINS = 10
_MANY = 20_000  # cases above which the sum over a bin is as good as normal
_STEPS, _CONVERGED, _SMALLEST_STEP = 100, 1e-10, 1e-9  # of Newton's method


def brier(probabilities: Floats, diseased: Bools) -> float:
    """Mean squared distance of probability and truth (Brier 1950); NaN for no rows."""
    return float(np.mean((probabilities - diseased) ** 2)) if len(diseased) else math.nan


def log_loss(probabilities: Floats, diseased: Bools) -> float:
    """Mean of -log of the probability given to what is true, natural logarithm; NaN for no rows.

    Infinite where a certain probability (0 or 1) was wrong: nothing is clipped.
    """
    return float(log_losses(probabilities, diseased).mean()) if len(diseased) else math.nan


def log_losses(probabilities: Floats, diseased: Bools) -> Floats:
    """(cases,) -log of the probability given to what is true; infinite where a certain one was wrong."""
    given = np.where(diseased, probabilities, 1 - probabilities)
    with np.errstate(divide="ignore"):
        return np.asarray(-np.log(given))


@dataclass(frozen=True, kw_only=True, slots=True)
class Spiegelhalter:
    """Test that probabilities are calibrated, from the Brier score (Spiegelhalter 1986); two-sided p."""

    z: float
    p: float


def spiegelhalter(probabilities: Floats, diseased: Bools) -> Spiegelhalter:
    """Sum of (y - p)(1 - 2p) over the root of its variance under calibration; NaN where all p are 0, ½ or 1."""
    tilt = 1 - 2 * probabilities
    variance = float((tilt**2 * probabilities * (1 - probabilities)).sum())
    if variance <= 0:
        return Spiegelhalter(z=math.nan, p=math.nan)
    z = float(((diseased - probabilities) * tilt).sum()) / math.sqrt(variance)
    return Spiegelhalter(z=z, p=float(2 * norm.sf(abs(z))))


@dataclass(frozen=True, kw_only=True, slots=True)
class Recalibration:
    """Logistic regression of truth on the logit of the probability (Cox 1958), Wald intervals.

    Attributes
    ----------
    slope : Estimate
        1 is calibrated; below 1 the probabilities are too extreme.
    intercept : Estimate
        Of the same fit; 0 is calibrated.
    in_the_large : Estimate
        Intercept with the slope held at 1: above 0 risk is underestimated as a whole.
    """

    slope: Estimate
    intercept: Estimate
    in_the_large: Estimate

    @classmethod
    def undefined(cls, reason: str) -> Recalibration:
        """All three, for one reason."""
        nothing = Estimate.undefined(reason)
        return cls(slope=nothing, intercept=nothing, in_the_large=nothing)


def recalibration(probabilities: Floats, diseased: Bools, patients: NDArray[np.str_] | None = None) -> Recalibration:
    """Fit slope and intercept by maximum likelihood (Newton's method).

    With `patients` (cases,) intervals take the patient as the unit: the sandwich variance of sums over patients (Liang
    and Zeger 1986), with the factor patients / (patients - 1).
    Probabilities of exactly 0 or 1 have no logit, separated classes no maximum: undefined with the reason.
    """
    if diseased.all() or not diseased.any():
        return Recalibration.undefined("cases of one class only: the fit has no maximum")
    if ((probabilities <= 0) | (probabilities >= 1)).any():
        return Recalibration.undefined("a probability of exactly 0 or 1 has no logit")
    try:
        return _recalibration(logit(probabilities), diseased, patients)
    except np.linalg.LinAlgError:
        return Recalibration.undefined("the probabilities are so extreme that the fit has no information")


def _recalibration(x: Floats, diseased: Bools, patients: NDArray[np.str_] | None) -> Recalibration:
    ones = np.ones((len(x), 1))
    large = _logistic(ones, x, diseased, patients)[0]
    if np.ptp(x) == 0:
        nothing = Estimate.undefined("all probabilities are equal: no slope can be fitted")
        return Recalibration(slope=nothing, intercept=nothing, in_the_large=large)
    if _separated(x, diseased):
        nothing = Estimate.undefined("the probabilities separate the classes: the slope has no maximum")
        return Recalibration(slope=nothing, intercept=nothing, in_the_large=large)
    intercept, slope = _logistic(np.hstack([ones, x[:, None]]), np.zeros(len(x)), diseased, patients)
    return Recalibration(slope=slope, intercept=intercept, in_the_large=large)


def _separated(x: Floats, diseased: Bools) -> bool:
    ill, well = x[diseased], x[~diseased]
    return bool(ill.min() >= well.max() or ill.max() <= well.min())


def _logistic(design: Floats, offset: Floats, diseased: Bools, patients: NDArray[np.str_] | None) -> list[Estimate]:
    """Maximum likelihood coefficients (columns of `design`), Wald intervals; steps are halved until they gain."""
    held = np.zeros(design.shape[1])

    def likelihood(coefficients: Floats) -> float:
        line = design @ coefficients + offset
        return float((diseased * line - np.logaddexp(0, line)).sum())

    best = likelihood(held)
    information = np.eye(len(held))
    for _ in range(_STEPS):
        mean = expit(design @ held + offset)
        information = design.T @ (design * (mean * (1 - mean))[:, None])
        step = np.linalg.solve(information, design.T @ (diseased - mean))
        size = 1.0
        while (gained := likelihood(held + size * step)) < best - 1e-12 * abs(best) and size > _SMALLEST_STEP:
            size /= 2
        held, best = held + size * step, gained
        if float(np.abs(step).max()) < _CONVERGED:
            break
    residuals = diseased.astype(np.float64) - expit(design @ held + offset)
    errors = np.sqrt(
        np.diag(_covariance(np.asarray(np.linalg.inv(information)), design * residuals[:, None], patients))
    )
    return [_fitted(float(value), float(error)) for value, error in zip(held, errors, strict=True)]


def _fitted(value: float, error: float) -> Estimate:
    if not error > 0:
        reason = "the estimated variance is 0, or needs more patients"
        return Estimate(value=value, low=math.nan, high=math.nan, reason=reason)
    return Estimate(value=value, low=value - Z_95 * error, high=value + Z_95 * error)


def _covariance(inverse: Floats, gradients: Floats, patients: NDArray[np.str_] | None) -> Floats:
    """Of coefficients: the inverse information, or the sandwich around sums of gradients (cases, k) over patients."""
    if patients is None:
        return inverse
    owner = np.unique(patients, return_inverse=True)[1]
    sums = np.stack([np.bincount(owner, weights=column) for column in gradients.T])
    count = sums.shape[1]
    if count == 1:
        return np.full_like(inverse, math.nan)
    return np.asarray(count / (count - 1) * inverse @ (sums @ sums.T) @ inverse)


@dataclass(frozen=True, kw_only=True, slots=True)
class ReliabilityBin:
    """Cases whose probability lies in a bin, and how many of them are diseased.

    `observed` has Wilson's interval; a bin without cases is not listed.
    """

    low: float
    high: float
    cases: int
    diseased: int
    mean_probability: float
    observed: Estimate


def equal_width_bins(probabilities: Floats, diseased: Bools, bins: int = BINS) -> tuple[ReliabilityBin, ...]:
    """Bins of equal width over 0 to 1; each holds its lower edge, the last one 1 too."""
    edges = np.linspace(0, 1, bins + 1)
    return _filled(
        probabilities, diseased, _equal_width(probabilities, bins), [(float(a), float(b)) for a, b in pairwise(edges)]
    )


def adaptive_bins(probabilities: Floats, diseased: Bools, bins: int = BINS) -> tuple[ReliabilityBin, ...]:
    """Bins of as equal counts as ties allow (Nguyen and O'Connor 2015): equal probabilities stay together."""
    inside = _equal_counts(probabilities, bins)
    limits = [
        (float(held.min()), float(held.max())) if len(held := probabilities[inside == b]) else (0.0, 0.0)
        for b in range(bins)
    ]
    return _filled(probabilities, diseased, inside, limits)


def _equal_width(probabilities: Floats, bins: int) -> NDArray[np.intp]:
    edges = np.linspace(0, 1, bins + 1)
    return np.clip(np.searchsorted(edges, probabilities, side="right") - 1, 0, bins - 1)


def _equal_counts(probabilities: Floats, bins: int) -> NDArray[np.intp]:
    """(cases,) bin of each: a group of equal probabilities belongs where its middle case belongs."""
    if not len(probabilities):
        return np.zeros(0, dtype=np.intp)
    _, level, counts = np.unique(probabilities, return_inverse=True, return_counts=True)
    middle = np.cumsum(counts) - counts / 2
    return np.minimum((middle * bins / len(probabilities)).astype(np.intp), bins - 1)[level]


def _filled(
    probabilities: Floats, diseased: Bools, inside: NDArray[np.intp], limits: list[tuple[float, float]]
) -> tuple[ReliabilityBin, ...]:
    cases = np.bincount(inside, minlength=len(limits))
    ill = np.bincount(inside, weights=diseased, minlength=len(limits))
    sums = np.bincount(inside, weights=probabilities, minlength=len(limits))
    return tuple(
        ReliabilityBin(
            low=low,
            high=high,
            cases=int(cases[b]),
            diseased=int(ill[b]),
            mean_probability=float(sums[b] / cases[b]),
            observed=wilson(int(ill[b]), int(cases[b])),
        )
        for b, (low, high) in enumerate(limits)
        if cases[b]
    )


def expected_calibration_error(bins: tuple[ReliabilityBin, ...]) -> float:
    """Mean distance of observed share and mean probability over bins, weighted by cases; NaN without cases."""
    total = sum(one.cases for one in bins)
    if not total:
        return math.nan
    return sum(one.cases * abs(one.observed.value - one.mean_probability) for one in bins) / total


def errors_if_calibrated(
    probabilities: Floats, *, resamples: int, seed: int, bins: int = BINS
) -> tuple[Estimate, Estimate]:
    """What both calibration errors would be of these probabilities if they were true (Bröcker and Smith 2007).

    Truth is drawn from the probabilities `resamples` times, every case its own; mean, 2.5th and 97.5th percentile for
    equal width and for equal counts. An error above the range says that the probabilities are not calibrated.
    """
    if not resamples or not len(probabilities):
        nothing = Estimate.undefined("no resamples were asked for")
        return nothing, nothing
    random = np.random.default_rng(seed)
    drawn = [
        _drawn_errors(random, probabilities, inside, resamples)
        for inside in (_equal_width(probabilities, bins), _equal_counts(probabilities, bins))
    ]
    equal, adaptive = (
        Estimate(value=float(one.mean()), low=float(np.percentile(one, 2.5)), high=float(np.percentile(one, 97.5)))
        for one in drawn
    )
    return equal, adaptive


def _drawn_errors(
    random: np.random.Generator, probabilities: Floats, inside: NDArray[np.intp], resamples: int
) -> Floats:
    """(resamples,) errors of drawn truth; the excess of a bin is drawn as normal where cases are many."""
    if len(probabilities) > _MANY:
        spread = np.sqrt(np.bincount(inside, weights=probabilities * (1 - probabilities)))
        excess = np.abs(random.normal(size=(resamples, len(spread))) * spread)
        return np.asarray(excess.sum(axis=1) / len(probabilities))
    errors = np.empty(resamples)
    for number in range(resamples):
        drawn = (random.random(len(probabilities)) < probabilities) - probabilities
        errors[number] = np.abs(np.bincount(inside, weights=drawn)).sum() / len(probabilities)
    return errors

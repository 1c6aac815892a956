"""Decision curves: what acting on a score is worth against acting on everybody and on nobody (Vickers and Elkin 2006).

Called by ``radnode eval roc`` and by reports. Where prevalence was chosen by design the curve is given at a stated
one (Vickers and others 2008). The score must be a probability, since thresholds weigh harms by it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eval.delong import Z_95
from eval.intervals import Estimate
from eval.ranking import Bools, Floats

THRESHOLDS = tuple(round(step / 100, 2) for step in range(1, 100))


@dataclass(frozen=True, kw_only=True, slots=True)
class DecisionPoint:
    """Net benefit at one threshold probability, in true positives per case; acting on nobody is worth 0.

    `net_benefit` has the interval of normal theory over patients, cut nowhere.
    """

    threshold: float
    net_benefit: Estimate
    treat_all: float
    true_positives_per_case: float
    false_positives_per_case: float


@dataclass(frozen=True, kw_only=True, slots=True)
class DecisionCurve:
    """Points at ascending thresholds, for the prevalence they hold for."""

    prevalence: float
    stated: bool  # the prevalence was given, not that of the sample
    points: tuple[DecisionPoint, ...]


def decision_curve(
    probabilities: Floats,
    diseased: Bools,
    *,
    thresholds: Sequence[float] = THRESHOLDS,
    prevalence: float | None = None,
    patients: NDArray[np.str_] | None = None,
) -> DecisionCurve:
    """Net benefit: prevalence · sensitivity - (1 - prevalence) · false positive rate · t / (1 - t), positive if p >= t.

    Parameters
    ----------
    probabilities : float64 (cases,)
        Between 0 and 1.
    diseased : bool (cases,)
        Truth, both kinds present.
    thresholds : sequence of float
        Threshold probabilities strictly between 0 and 1.
    prevalence : float, optional
        For which the curve is wanted; by default that of the sample.
    patients : str (cases,), optional
        Whose case it is: the unit of the intervals. By default every case is its own.

    Raises
    ------
    ValueError
        If a class is empty, or a threshold or the prevalence does not lie between 0 and 1.
    """
    if diseased.all() or not diseased.any():
        raise ValueError("a decision curve needs diseased and other cases")
    for number in (*thresholds, 0.5 if prevalence is None else prevalence):
        if not 0 < number < 1:
            raise ValueError(f"thresholds and prevalence lie between 0 and 1, not at {number}")
    sample = float(diseased.mean())
    held = sample if prevalence is None else prevalence
    owner = np.arange(len(diseased)) if patients is None else np.unique(patients, return_inverse=True)[1]
    weights = np.where(diseased, held / sample, (1 - held) / (1 - sample))
    points = [_point(probabilities >= t, diseased, weights, owner, t, held, prevalence is not None) for t in thresholds]
    return DecisionCurve(prevalence=held, stated=prevalence is not None, points=tuple(points))


def _point(
    called: Bools,
    diseased: Bools,
    weights: Floats,
    owner: NDArray[np.intp],
    threshold: float,
    prevalence: float,
    stated: bool,
) -> DecisionPoint:
    harm = threshold / (1 - threshold)
    gains = weights * called * np.where(diseased, 1.0, -harm)
    value = float(gains.mean())
    true = float((weights * (called & diseased)).mean())
    influence = gains - (_class_means(gains, diseased) if stated else value)
    sums = np.bincount(owner, weights=influence)
    variance = float(sums @ sums) * len(sums) / max(len(sums) - 1, 1) / len(gains) ** 2
    half = Z_95 * math.sqrt(variance) if variance > 0 else math.nan
    reason = "" if variance > 0 else "the estimated variance is 0"
    return DecisionPoint(
        threshold=threshold,
        net_benefit=Estimate(value=value, low=value - half, high=value + half, reason=reason),
        treat_all=prevalence - (1 - prevalence) * harm,
        true_positives_per_case=true,
        false_positives_per_case=float((weights * (called & ~diseased)).mean()),
    )


def _class_means(gains: Floats, diseased: Bools) -> Floats:
    """(cases,) mean gain of the case's own class: with a stated prevalence the sizes of the classes are no chance."""
    return np.asarray(np.where(diseased, gains[diseased].mean(), gains[~diseased].mean()))

"""Calibration and thresholds from out-of-fold scores: for each fold from the others, for the card from all.

Called by `training.figures` and `training.release`. The rules by which thresholds are chosen are constants here and
are named in the card; only their numbers are fitted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eval.froc import froc, hits, match
from eval.roc import threshold_at_sensitivity
from inference.postprocess import calibrated
from models.card import Calibration
from training.data import Film
from training.score import ScoredFilm

PICTURE_SENSITIVITY = 0.90
FALSE_MARKS_PER_FILM = 0.25
PICTURE_RULE = f"the highest threshold at which at least {PICTURE_SENSITIVITY:.0%} of the opacity films are positive"
LESION_RULE = f"the lowest threshold with at most {FALSE_MARKS_PER_FILM} false marks per film read by radiologists"
_STEPS = 10_000  # thresholds are rounded to steps of this, to the side on which the rule still holds


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """A film with its labels and what was said of it."""

    film: Film
    scored: ScoredFilm


@dataclass(frozen=True, kw_only=True, slots=True)
class Operating:
    """How raw logits become scores, and from which score on something is reported."""

    picture_calibration: Calibration
    picture_threshold: float
    lesion_calibration: Calibration
    lesion_threshold: float

    def picture_score(self, logit: float) -> float:
        """Calibrated score of a picture, 0..1."""
        return calibrated(logit, self.picture_calibration)

    def lesion_score(self, logit: float) -> float:
        """Calibrated score of a mark, 0..1."""
        return calibrated(logit, self.lesion_calibration)


def fit_operating(pairs: Sequence[Pair]) -> Operating:
    """Fit calibration and thresholds on adult films read by radiologists.

    Raises
    ------
    ValueError
        If no film shows an opacity, or none is without.
    """
    opacity = np.asarray([pair.film.positive for pair in pairs])
    logits = np.asarray([pair.scored.picture_logit for pair in pairs])
    picture = platt(logits, opacity)
    marks = [
        (mark.score, any(hits(mark.box, box) for box in pair.film.boxes))
        for pair in pairs
        for mark in pair.scored.marks
    ]
    lesion = platt(np.asarray([score for score, _ in marks]), np.asarray([hit for _, hit in marks]))
    curve = froc([match(pair.scored.marks, pair.film.boxes) for pair in pairs])
    return Operating(
        picture_calibration=picture,
        picture_threshold=_down(calibrated(threshold_at_sensitivity(logits[opacity], PICTURE_SENSITIVITY), picture)),
        lesion_calibration=lesion,
        lesion_threshold=_up(calibrated(curve.threshold_at(FALSE_MARKS_PER_FILM), lesion)),
    )


def platt(logits: NDArray[np.float64], truth: NDArray[np.bool_]) -> Calibration:
    """Platt scaling by maximum likelihood, targets pulled in by one count as Platt (1999) proposed.

    Raises
    ------
    ValueError
        If only one class is there, or a higher logit does not mean more probable.
    """
    if truth.all() or not truth.any():
        raise ValueError("calibration needs both classes")
    positives, negatives = int(truth.sum()), int((~truth).sum())
    target = np.where(truth, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    design = np.stack([logits, np.ones_like(logits)], axis=1)
    weights = np.zeros(2)
    for _ in range(100):
        said = 1 / (1 + np.exp(-design @ weights))
        curvature = design.T @ (design * (said * (1 - said))[:, None]) + 1e-9 * np.eye(2)
        step = np.linalg.solve(curvature, design.T @ (target - said))
        weights = weights + np.clip(step, -1, 1)
        if np.abs(step).max() < 1e-9:  # noqa: PLR2004 - converged to the last digits that are kept
            break
    if weights[0] <= 0:
        raise ValueError("a higher logit does not mean more probable: the network has learnt nothing")
    return Calibration(slope=round(float(weights[0]), 6), intercept=round(float(weights[1]), 6))


def _down(score: float) -> float:
    return math.floor(score * _STEPS) / _STEPS


def _up(score: float) -> float:
    return min(1.0, math.ceil(score * _STEPS) / _STEPS)

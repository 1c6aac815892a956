"""Calibration and thresholds from out-of-fold scores: for each fold from the others, for the card from all.

Called by `training.figures` and `training.release`. The rules by which thresholds are chosen are the recipe's and are
named in the card; only their numbers are fitted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eval.froc import froc
from eval.roc import threshold_at_sensitivity
from inference.postprocess import calibrated
from models.card import Calibration
from training.data import Film
from training.errors import DataError
from training.hits import deciding
from training.recipe import Judging
from training.score import ScoredFilm

_STEPS = 10_000  # thresholds are rounded to steps of this, to the side on which the rule still holds


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """A film with its labels and what was said of it."""

    film: Film
    scored: ScoredFilm


@dataclass(frozen=True, kw_only=True, slots=True)
class Operating:
    """How raw logits become scores, and from which on something is reported; `notes` say what could not be fitted."""

    picture_calibration: Calibration
    picture_threshold: float
    lesion_calibration: Calibration
    lesion_threshold: float
    notes: tuple[str, ...] = ()

    def picture_score(self, logit: float) -> float:
        """Calibrated score of a picture, 0..1."""
        return calibrated(logit, self.picture_calibration)

    def lesion_score(self, logit: float) -> float:
        """Calibrated score of a mark, 0..1."""
        return calibrated(logit, self.lesion_calibration)


def picture_rule(judging: Judging) -> str:
    """In words, how the threshold of a whole film is chosen."""
    share = f"{judging.picture_sensitivity:.0%}"
    return f"the highest threshold at which at least {share} of the films with lesions are positive"


def lesion_rule(judging: Judging) -> str:
    """In words, how the threshold of marks is chosen."""
    return f"the lowest threshold with at most {judging.false_marks_per_film:g} false marks per judged film"


def fit_operating(pairs: Sequence[Pair], judging: Judging) -> Operating:
    """Fit calibration and thresholds on films of known truth.

    Raises
    ------
    DataError
        If no film shows a lesion, or none is without.
    """
    if len({pair.film.positive for pair in pairs}) < 2:  # noqa: PLR2004 - films with and films without
        raise DataError(
            "calibration needs films with lesions and films without in every fold: use fewer folds or more films"
        )
    positive = np.asarray([pair.film.positive for pair in pairs])
    logits = np.asarray([pair.scored.picture_logit for pair in pairs])
    picture, notes = fitted("film scores", logits, positive)
    rule = deciding(judging)
    marks = [
        (mark.score, any(rule.hits(mark.box, box) for box in pair.film.boxes))
        for pair in pairs
        for mark in pair.scored.marks
    ]
    lesion, more = fitted(
        "mark scores", np.asarray([score for score, _ in marks]), np.asarray([hit for _, hit in marks])
    )
    curve = froc([rule.match(pair.scored.marks, pair.film.boxes) for pair in pairs])
    lowest = threshold_at_sensitivity(logits[positive], judging.picture_sensitivity)
    return Operating(
        picture_calibration=picture,
        picture_threshold=rounded_down(calibrated(lowest, picture)),
        lesion_calibration=lesion,
        lesion_threshold=_up(calibrated(curve.threshold_at(judging.false_marks_per_film), lesion)),
        notes=notes + more,
    )


def fitted(what: str, logits: NDArray[np.float64], truth: NDArray[np.bool_]) -> tuple[Calibration, tuple[str, ...]]:
    """Platt scaling; where a network that has learnt nothing cannot be calibrated its raw scores, and a note."""
    try:
        return platt(logits, truth), ()
    except ValueError as error:
        return Calibration(), (f"{what} are not calibrated: {error}",)


def platt(logits: NDArray[np.float64], truth: NDArray[np.bool_]) -> Calibration:
    """Platt scaling by maximum likelihood, targets pulled in by one count as Platt (1999) proposed.

    Raises
    ------
    ValueError
        If only one class is there, or a higher logit does not mean more probable.
    """
    if not truth.size or truth.all() or not truth.any():
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


def rounded_down(score: float) -> float:
    """A threshold rounded so that what was positive stays positive."""
    return math.floor(score * _STEPS) / _STEPS


def _up(score: float) -> float:
    return min(1.0, math.ceil(score * _STEPS) / _STEPS)

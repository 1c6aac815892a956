"""Lesion-level detection: marks against readers' boxes, and the FROC curve.

Pure functions used by `training.figures` and by reports. The hit rule, unless another is given, is *centre in box*: a
mark finds a lesion when the centre of the mark lies in the reader's box, edges included. The denominator of false marks
is all films given. Every figure printed from here names both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inference.findings import Box

HIT_RULE = "centre of the mark inside the reader's box"
UNMARKED = -np.inf  # score of a lesion that no mark lies in


@dataclass(frozen=True, kw_only=True, slots=True)
class Mark:
    """A place that a model points at, in source pixels, with its score."""

    box: Box
    score: float


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class MatchedFilm:
    """One film after matching.

    Attributes
    ----------
    lesions : float64 (lesions,)
        For each lesion the highest score of the marks that lie in it, `UNMARKED` where there is none.
    false_marks : float64 (marks,)
        Scores of the marks that lie in no lesion.
    """

    lesions: NDArray[np.float64]
    false_marks: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FrocCurve:
    """Points of the curve from (0, 0) on, thresholds falling; one point for all marks of the same score.

    Attributes
    ----------
    thresholds : float64 (points,)
        A mark counts when its score is at least this; infinity at the first point.
    false_per_film : float64 (points,)
    sensitivity : float64 (points,)
        Share of all lesions found; NaN when there are no lesions.
    """

    thresholds: NDArray[np.float64]
    false_per_film: NDArray[np.float64]
    sensitivity: NDArray[np.float64]

    def sensitivity_at(self, false_per_film: float) -> float:
        """Interpolated sensitivity at a rate of false marks; flat beyond the last point, upper value at a step."""
        return float(np.interp(false_per_film, self.false_per_film, self.sensitivity))

    def threshold_at(self, false_per_film: float) -> float:
        """The lowest threshold of the curve that keeps at most this many false marks per film."""
        return float(self.thresholds[np.flatnonzero(self.false_per_film <= false_per_film)[-1]])


def hits(mark: Box, lesion: Box) -> bool:
    """Whether the centre of `mark` lies in `lesion`, edges included."""
    x, y = mark.center
    return lesion.x_min <= x <= lesion.x_max and lesion.y_min <= y <= lesion.y_max


def match(marks: Iterable[Mark], lesions: Sequence[Box], *, hit: Callable[[Box, Box], bool] = hits) -> MatchedFilm:
    """Match one film: one mark may find two overlapping lesions, several marks in one lesion are one finding.

    Parameters
    ----------
    marks : iterable of Mark
        What a model points at.
    lesions : sequence of Box
        What readers drew.
    hit : callable, optional
        Whether a mark (first) finds a lesion (second); the centre of the mark inside the box if not given.
    """
    found = np.full(len(lesions), UNMARKED)
    false_marks = []
    for mark in marks:
        inside = [index for index, lesion in enumerate(lesions) if hit(mark.box, lesion)]
        found[inside] = np.maximum(found[inside], mark.score)
        if not inside:
            false_marks.append(mark.score)
    return MatchedFilm(lesions=found, false_marks=np.asarray(false_marks, dtype=np.float64))


def froc(films: Sequence[MatchedFilm]) -> FrocCurve:
    """The curve over all films, those without marks or lesions included.

    Raises
    ------
    ValueError
        If there are no films.
    """
    if not films:
        raise ValueError("a FROC curve needs at least one film")
    lesions = np.sort(np.concatenate([film.lesions for film in films]))
    false_marks = np.sort(np.concatenate([film.false_marks for film in films]))
    scores = np.unique(np.concatenate([lesions[np.isfinite(lesions)], false_marks]))[::-1]
    thresholds = np.concatenate([[np.inf], scores])
    found = lesions.size - np.searchsorted(lesions, thresholds, side="left")
    wrong = false_marks.size - np.searchsorted(false_marks, thresholds, side="left")
    share = found / lesions.size if lesions.size else np.full(found.shape, np.nan)
    return FrocCurve(thresholds=thresholds, false_per_film=wrong / len(films), sensitivity=share)

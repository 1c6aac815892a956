"""Lesion-level detection: marks against readers' boxes, the FROC curve, and intervals around it.

Pure functions used by `training.figures`, `eval.luna16` and reports. The hit rule, unless another is given, is *centre
in box*: a mark finds a lesion when the centre of the mark lies in the reader's box, edges included; other rules are
`eval.hits`. The denominator of false marks is all films given, unless `Denominator` says otherwise. Every figure
printed from here names both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from inference.findings import Box

HIT_RULE = "centre of the mark inside the reader's box"
UNMARKED = -np.inf  # score of a lesion that no mark lies in
_ROUNDING = 1e-12  # a rate times a count this near to a whole number is that number


class Denominator(StrEnum):
    """By what the number of false marks is divided."""

    IMAGE = "image"  # every image, those with lesions included
    NORMAL_IMAGE = "normal-image"  # images without a lesion; false marks on the others are not counted
    BREAST = "breast"  # every breast; false marks of all its views add up
    SCAN = "scan"  # every scan of the list: LUNA16
    NORMAL_SCAN = "normal-scan"  # scans without a lesion; false marks on the others are not counted


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


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Detections:
    """What marks found in a whole set of images (films, views, scans), those without marks and lesions included.

    Attributes
    ----------
    found : float64 (lesions,)
        For each lesion the highest score of its hits, `UNMARKED` where there is none.
    found_in : intp (lesions,)
        Index of the image on which the lesion is.
    false_marks : float64 (marks,)
        Scores of the false marks.
    false_in : intp (marks,)
        Index of the image of each.
    counted : float64 (images,)
        What each image adds to the denominator of false marks: 1 a scan; of the views of a breast 1 and else 0.
    clusters : intp (images,)
        Images with the same number are resampled together: those of one patient.
    """

    found: NDArray[np.float64]
    found_in: NDArray[np.intp]
    false_marks: NDArray[np.float64]
    false_in: NDArray[np.intp]
    counted: NDArray[np.float64]
    clusters: NDArray[np.intp]


def detections(films: Sequence[MatchedFilm], clusters: Sequence[str] | None = None) -> Detections:
    """The films of `match` in flat arrays; `clusters` names the patient of each film, by default each its own."""
    own = np.arange(len(films), dtype=np.intp)
    grouped = own if clusters is None else np.unique(np.asarray(clusters), return_inverse=True)[1].astype(np.intp)
    empty = np.zeros(0)
    return Detections(
        found=np.concatenate([empty, *(film.lesions for film in films)]),
        found_in=np.repeat(own, [film.lesions.size for film in films]),
        false_marks=np.concatenate([empty, *(film.false_marks for film in films)]),
        false_in=np.repeat(own, [film.false_marks.size for film in films]),
        counted=np.ones(len(films)),
        clusters=grouped,
    )


def on_normal_images(matched: Detections) -> Detections:
    """False marks of images without a lesion only, per such image; lesions as before."""
    normal = np.ones(matched.counted.size, dtype=np.bool_)
    normal[matched.found_in] = False
    kept = normal[matched.false_in]
    return replace(
        matched,
        false_marks=matched.false_marks[kept],
        false_in=matched.false_in[kept],
        counted=matched.counted * normal,
    )


def per_group(matched: Detections, groups: NDArray[np.intp]) -> Detections:
    """The denominator is groups of images, such as breasts; `groups` intp (images,) numbers that of each image."""
    counted = np.zeros(groups.size)
    counted[np.unique(groups, return_index=True)[1]] = 1
    return replace(matched, counted=counted)


def in_either_view(matched: Detections, lesions: NDArray[np.intp]) -> Detections:
    """Case-based: one lesion seen on several views counts once and is found if hit in any, with the highest score.

    It stays on one image only, so that `on_normal_images` must come before.

    Parameters
    ----------
    matched : Detections
        One entry for each lesion and view.
    lesions : intp (lesions and views,)
        Number of the lesion of each entry.
    """
    _, first, inverse = np.unique(lesions, return_index=True, return_inverse=True)
    found = np.full(first.size, UNMARKED)
    np.maximum.at(found, inverse, matched.found)
    return replace(matched, found=found, found_in=matched.found_in[first])


class SensitivityAtRates:
    """Sensitivities at rates of false marks, of a set and of its resamples; the set is sorted once.

    All marks of one score make one sloped segment, the curve starts at (0, 0), is flat past its end, and the upper
    value counts at a vertical step; a resample is a count for each image.
    """

    def __init__(self, matched: Detections, rates: Sequence[float]) -> None:
        self._matched, self._rates = matched, np.asarray(rates, dtype=np.float64)
        self._lesions = np.bincount(matched.found_in, minlength=matched.counted.size)
        marked = np.flatnonzero(matched.found > UNMARKED)
        marked = marked[np.argsort(-matched.found[marked], kind="stable")]
        wrong = np.argsort(-matched.false_marks, kind="stable")
        self._found_in, self._false_in = matched.found_in[marked], matched.false_in[wrong]
        found, false = -matched.found[marked], -matched.false_marks[wrong]
        scores = np.unique(np.concatenate([found, false]))
        self.thresholds = np.concatenate([[np.inf], -scores])
        self._found_to = np.concatenate([[0], np.searchsorted(found, scores, side="right")])
        self._false_to = np.concatenate([[0], np.searchsorted(false, scores, side="right")])

    def of_all(self) -> NDArray[np.float64]:
        """Sensitivity of the set itself at each rate; float64 (rates,), NaN without lesions or images to divide by."""
        return self.of(np.ones(self._matched.counted.size, dtype=np.int64))

    def of(self, times: NDArray[np.int64]) -> NDArray[np.float64]:
        """Sensitivity at each rate when image i is there `times[i]` times; float64 (rates,)."""
        lesions, units = float(times @ self._lesions), float(times @ self._matched.counted)
        if not lesions or not units:
            return np.full(self._rates.shape, np.nan)
        false, found = _running(times[self._false_in]), _running(times[self._found_in])
        allowed = _whole(self._rates * units)
        group = self._last_group(false, allowed)
        after = np.minimum(group + 1, self._false_to.size - 1)
        left, right = false[self._false_to[group]], false[self._false_to[after]]
        lower, upper = found[self._found_to[group]], found[self._found_to[after]]
        share = np.divide(allowed - left, right - left, out=np.zeros_like(allowed), where=after > group)
        return np.asarray((lower + (upper - lower) * share) / lesions)

    def thresholds_at(self) -> NDArray[np.float64]:
        """The lowest threshold that keeps the false marks of the set within each rate; float64 (rates,)."""
        false = _running(np.ones(self._false_in.size, dtype=np.int64))
        return self.thresholds[self._last_group(false, _whole(self._rates * float(self._matched.counted.sum())))]

    def resampled(self, resamples: int, seed: int) -> NDArray[np.float64]:
        """Sensitivities of resamples of clusters, drawn with replacement; float64 (resamples, rates)."""
        clusters = self._matched.clusters
        number = int(clusters.max()) + 1
        random = np.random.default_rng(seed)
        drawn = np.full((resamples, self._rates.size), np.nan)
        for row in range(resamples):
            drawn[row] = self.of(np.bincount(random.integers(0, number, number), minlength=number)[clusters])
        return drawn

    def _last_group(self, false: NDArray[np.int64], allowed: NDArray[np.float64]) -> NDArray[np.intp]:
        """The last group of tied scores whose false marks all fit in what is allowed."""
        fitting = np.searchsorted(false, allowed, side="right") - 1
        return np.searchsorted(self._false_to, fitting, side="right") - 1


def _running(weights: NDArray[np.int64]) -> NDArray[np.int64]:
    total = np.zeros(weights.size + 1, dtype=np.int64)
    np.cumsum(weights, out=total[1:])
    return total


def _whole(allowed: NDArray[np.float64]) -> NDArray[np.float64]:
    """Undo the rounding of a product, lest 29 marks of 100 films be above 0.29 a film."""
    nearest = np.rint(allowed)
    return np.where(np.abs(allowed - nearest) <= _ROUNDING * np.abs(nearest), nearest, allowed)

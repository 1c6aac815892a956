"""FROC and CPM by the rules of LUNA16 (Setio 2017), for any hit rule and denominator.

Called by ``radnode eval froc`` and by reports. A list of scans is given; every scan of it counts. The unit of analysis
is the lesion for sensitivity and the scan for false marks and resampling, unless `Detections` says otherwise. Reading
tables is `eval.commands.froc`, when a mark hits is `eval.hits`, the curve is `eval.froc`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eval.froc import UNMARKED, Detections, SensitivityAtRates
from eval.hits import Compare, Places
from eval.intervals import Estimate

FALSE_MARKS_PER_SCAN = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
MOST_MARKS = 100  # of a scan
UNKNOWN_DIAMETER_MM = 10.0  # a lesion whose diameter is below 0 is taken to be this large
RESAMPLES = 1000


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Marks:
    """Marks of all scans.

    Attributes
    ----------
    scan : intp (marks,)
        Index of the scan in the list.
    places : Places
        Where, one frame with the lesions.
    score : float64 (marks,)
        Any real number; a higher one is more suspicious.
    """

    scan: NDArray[np.intp]
    places: Places
    score: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Lesions:
    """Lesions of all scans.

    Attributes
    ----------
    scan : intp (lesions,)
        Index of the scan in the list.
    places : Places
    excluded : bool (lesions,)
        Irrelevant findings: neither to be found, nor is a mark on one false.
    """

    scan: NDArray[np.intp]
    places: Places
    excluded: NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Matching:
    """Marks held against lesions.

    Attributes
    ----------
    detections : Detections
        Included lesions in their order, and false marks.
    considered : int
        Marks left after the limit of marks a scan.
    hitting : int
        Marks that hit at least one included lesion.
    on_excluded : int
        Marks on excluded lesions only: removed.
    """

    detections: Detections
    considered: int
    hitting: int
    on_excluded: int


@dataclass(frozen=True, kw_only=True, slots=True)
class OperatingPoint:
    """Sensitivity at a rate of false marks, and the lowest threshold that keeps it; infinity: before any mark."""

    false_per_unit: float
    sensitivity: Estimate
    threshold: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Performance:
    """The competition performance metric (Niemeijer 2011): mean sensitivity at seven rates, and its parts.

    `left_out` counts the resamples in which there was no lesion or nothing to divide by.
    """

    cpm: Estimate
    points: tuple[OperatingPoint, ...]
    left_out: int


def diameters(diameter_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    """Diameters with 10 mm where one is below 0, which LUNA16 writes for an unknown one; float64 (lesions,)."""
    return np.where(diameter_mm < 0, UNKNOWN_DIAMETER_MM, diameter_mm)


def strongest(scan: NDArray[np.intp], score: NDArray[np.float64], most: int = MOST_MARKS) -> NDArray[np.bool_]:
    """Which marks are kept: of a scan with more than `most` those strictly above its next best score.

    Ties at the cut are all dropped, so that fewer than `most`, even none, may stay. Returns bool (marks,).
    """
    order = np.lexsort((-score, scan))
    ordered = scan[order]
    starts = np.searchsorted(ordered, ordered, side="left")
    cut_at = starts + most
    crowded = (cut_at < scan.size) & (ordered[np.minimum(cut_at, scan.size - 1)] == ordered)
    cut = np.where(crowded, score[order][np.minimum(cut_at, scan.size - 1)], -np.inf)
    kept = np.zeros(scan.size, dtype=np.bool_)
    kept[order] = score[order] > cut
    return kept


def match(scans: int, marks: Marks, lesions: Lesions, hit: Compare, *, most: int | None = MOST_MARKS) -> Matching:
    """Hold marks against lesions, scan by scan.

    A lesion with hits is found once, with the highest score of its hits; all of them leave the pool of false marks,
    and one mark may find several lesions. A mark on an excluded lesion and on no included one is removed.

    Parameters
    ----------
    scans : int
        Length of the list; scans without marks or lesions count.
    marks, lesions : Marks, Lesions
        Of listed scans only.
    hit : callable
        Marks and lesions of one scan to bool (marks, lesions).
    most : int, optional
        Marks kept of a scan, the strongest (`strongest`); None keeps all.
    """
    kept = np.ones(marks.score.size, dtype=np.bool_) if most is None else strongest(marks.scan, marks.score, most)
    found = np.full(lesions.scan.size, UNMARKED)
    hitting, on_excluded = np.zeros(kept.size, dtype=np.bool_), np.zeros(kept.size, dtype=np.bool_)
    for here, there in _scan_by_scan(np.flatnonzero(kept), marks.scan, lesions.scan):
        touching = hit(marks.places.take(here), lesions.places.take(there))
        found[there] = np.where(touching, marks.score[here][:, None], UNMARKED).max(axis=0)
        hitting[here] = touching[:, ~lesions.excluded[there]].any(axis=1)
        on_excluded[here] = touching[:, lesions.excluded[there]].any(axis=1)
    false = kept & ~hitting & ~on_excluded
    return Matching(
        detections=Detections(
            found=found[~lesions.excluded],
            found_in=lesions.scan[~lesions.excluded],
            false_marks=marks.score[false],
            false_in=marks.scan[false],
            counted=np.ones(scans),
            clusters=np.arange(scans, dtype=np.intp),
        ),
        considered=int(kept.sum()),
        hitting=int(hitting.sum()),
        on_excluded=int((on_excluded & ~hitting).sum()),
    )


def _scan_by_scan(
    kept: NDArray[np.intp], mark_scan: NDArray[np.intp], lesion_scan: NDArray[np.intp]
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Indices of kept marks and of lesions, for every scan that has both."""
    marks = kept[np.argsort(mark_scan[kept], kind="stable")]
    lesions = np.argsort(lesion_scan, kind="stable")
    both = np.intersect1d(mark_scan[marks], lesion_scan)
    marks_at, lesions_at = mark_scan[marks], lesion_scan[lesions]
    for scan in both:
        yield (
            marks[np.searchsorted(marks_at, scan, "left") : np.searchsorted(marks_at, scan, "right")],
            lesions[np.searchsorted(lesions_at, scan, "left") : np.searchsorted(lesions_at, scan, "right")],
        )


def performance(
    matched: Detections,
    *,
    rates: Sequence[float] = FALSE_MARKS_PER_SCAN,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Performance:
    """CPM and its operating points, with 95 % percentile intervals over resampled clusters (scans).

    Without any false mark every point has the final sensitivity, and so has CPM; without any lesion found all are 0;
    without lesions all are undefined. `resamples` 0 gives no intervals.

    Parameters
    ----------
    matched : Detections
        Of `match`.
    rates : sequence of float, optional
        False marks per unit of the denominator; seven by LUNA16, 1/8 to 8.
    resamples, seed : int, optional
        Of the bootstrap; the same seed and the same order of scans give the same interval.
    """
    at_rates = SensitivityAtRates(matched, rates)
    values = at_rates.of_all()
    if np.isnan(values).any():
        nothing = Estimate.undefined(_nothing(matched))
        points = tuple(OperatingPoint(false_per_unit=rate, sensitivity=nothing, threshold=np.inf) for rate in rates)
        return Performance(cpm=nothing, points=points, left_out=0)
    drawn = at_rates.resampled(resamples, seed)
    known = drawn[~np.isnan(drawn).any(axis=1)]
    return Performance(
        cpm=_percentiles(float(values.mean()), known.mean(axis=1), resamples),
        points=tuple(
            OperatingPoint(
                false_per_unit=rate,
                sensitivity=_percentiles(float(value), column, resamples),
                threshold=float(threshold),
            )
            for rate, value, column, threshold in zip(rates, values, known.T, at_rates.thresholds_at(), strict=True)
        ),
        left_out=resamples - len(known),
    )


def _nothing(matched: Detections) -> str:
    if not matched.found.size:
        return "there are no lesions to be found on the listed scans"
    return "no scan counts in the denominator of false marks"


def _percentiles(value: float, drawn: NDArray[np.float64], resamples: int) -> Estimate:
    if not drawn.size:
        reason = "no resamples were asked for" if not resamples else "it is undefined in every resample"
        return Estimate(value=value, low=np.nan, high=np.nan, reason=reason)
    low, high = np.percentile(drawn, [2.5, 97.5]).tolist()
    return Estimate(value=value, low=low, high=high)

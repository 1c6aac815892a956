"""The rules of LUNA16 once more, mark by mark and without haste: what `eval.luna16` is held against.

Used by the tests and by `benchmarks.froc`. The curve comes from scikit-learn's `roc_curve`, matching from loops.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import roc_curve

RATES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)


@dataclass(frozen=True)
class PlainMark:
    scan: str
    at: tuple[float, float, float]
    score: float


@dataclass(frozen=True)
class PlainLesion:
    scan: str
    at: tuple[float, float, float]
    diameter: float


@dataclass(frozen=True)
class Judged:
    """One line of the list from which the curve is made: a found lesion, a missed one, or a false mark."""

    scan: str
    lesion: bool
    score: float | None  # None: missed


def judge(
    scans: Sequence[str], marks: Sequence[PlainMark], lesions: Sequence[PlainLesion], excluded: Sequence[PlainLesion]
) -> list[Judged]:
    found: list[Judged] = []
    for scan in scans:
        pool = {number: mark for number, mark in enumerate(marks) if mark.scan == scan}
        if len(pool) > 100:
            cut = sorted((mark.score for mark in pool.values()), reverse=True)[100]
            pool = {number: mark for number, mark in pool.items() if mark.score > cut}
        left = dict(pool)
        for lesion in [one for one in lesions if one.scan == scan]:
            hits = [number for number, mark in pool.items() if _near(mark, lesion)]
            best = max((pool[number].score for number in hits), default=None)
            found.append(Judged(scan=scan, lesion=True, score=best))
            for number in hits:
                left.pop(number, None)
        for lesion in [one for one in excluded if one.scan == scan]:
            for number in [number for number, mark in pool.items() if _near(mark, lesion)]:
                left.pop(number, None)
        found += [Judged(scan=scan, lesion=False, score=mark.score) for mark in left.values()]
    return found


def sensitivities(judged: Sequence[Judged], scans: int) -> list[float]:
    """Sensitivity at the seven rates; the list must hold a lesion."""
    lesions = sum(one.lesion for one in judged)
    seen = [one for one in judged if one.score is not None]
    truth, score = [one.lesion for one in seen], [float(one.score or 0) for one in seen]
    false = len(seen) - sum(truth)
    if not sum(truth):
        return [0.0] * len(RATES)
    if not false:
        return [sum(truth) / lesions] * len(RATES)
    false_share, found_share, _ = roc_curve(truth, score)
    per_scan = np.rint(false_share * false) / scans
    return [float(np.interp(rate, per_scan, found_share * sum(truth) / lesions)) for rate in RATES]


def bootstrap(judged: Sequence[Judged], scans: Sequence[str], draws: Sequence[Sequence[int]]) -> list[list[float]]:
    """Sensitivities of resampled scans, each resample a list of indices."""
    of_scan: dict[str, list[Judged]] = {scan: [] for scan in scans}
    for one in judged:
        of_scan[one.scan].append(one)
    drawn = [[one for index in draw for one in of_scan[scans[index]]] for draw in draws]
    return [sensitivities(one, len(scans)) for one in drawn if any(line.lesion for line in one)]


def _near(mark: PlainMark, lesion: PlainLesion) -> bool:
    radius = (10.0 if lesion.diameter < 0 else lesion.diameter) / 2
    return math.dist(mark.at, lesion.at) < radius

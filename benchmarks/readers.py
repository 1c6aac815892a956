"""Measures studies of readers: the jackknife behind Obuchowski and Rockette, and that of wAFROC.

Against whom: a plain jackknife that computes every figure again with one case left out, with `roc_auc_score` of
scikit-learn for areas and a double loop for wAFROC. Run ``python -m benchmarks.readers [--json]`` from the project's
folder. Both must give the same covariance; the ratio of their times is what to compare.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from eval.jafroc import UNMARKED, Figure, Reading, Truth, leave_one_out
from eval.mrmc import Study, fixed_cases, fixed_readers, random_readers_random_cases
from eval.mrmc_covariance import areas, jackknife_covariance, leave_one_out_areas

READERS, TREATMENTS, CASES = 5, 2, 200
REPEATS = 20

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """One analysis, ours and the plain one."""

    what: str
    ours_s: float
    plain_s: float

    @property
    def ratio(self) -> float:
        """How many times faster ours is."""
        return self.plain_s / self.ours_s


def areas_study(random: np.random.Generator) -> tuple[Floats, NDArray[np.bool_]]:
    """Ratings of correlated readings, half of the cases diseased."""
    diseased = np.arange(CASES) % 2 == 0
    shared = random.normal(size=CASES) + 1.5 * diseased
    return shared + random.normal(size=(TREATMENTS, READERS, CASES)), diseased


def ours(ratings: Floats, diseased: NDArray[np.bool_]) -> Study:
    """The whole analysis as the command does it."""
    study = Study(
        figures=areas(ratings, diseased), covariance=jackknife_covariance(leave_one_out_areas(ratings, diseased))
    )
    for analysis in (random_readers_random_cases, fixed_readers, fixed_cases):
        analysis(study)
    return study


def plain_areas(ratings: Floats, diseased: NDArray[np.bool_]) -> Floats:
    """Areas with each case left out, computed again each time."""
    return np.asarray([
        [[roc_auc_score(np.delete(diseased, case), np.delete(row, case)) for case in range(CASES)] for row in rows]
        for rows in ratings
    ])  # fmt: skip


def marks_study(random: np.random.Generator) -> tuple[Truth, Reading]:
    """Marks of one reader; two lesions in each diseased case."""
    diseased = np.arange(CASES) % 2 == 0
    lesion_case = np.repeat(np.flatnonzero(diseased), 2)
    false_mark = np.where(random.random(CASES) < 0.5, random.normal(size=CASES), UNMARKED)
    return (
        Truth(diseased=diseased, lesion_case=lesion_case, weight=np.full(lesion_case.size, 0.5)),
        Reading(false_mark=false_mark, lesion=random.normal(size=lesion_case.size) + 1),
    )


def plain_wafroc(truth: Truth, reading: Reading) -> Floats:
    """The weighted figure with each case left out, one comparison at a time."""
    normal, found = np.flatnonzero(~truth.diseased), np.zeros(CASES)
    for case in range(CASES):
        won = 0.0
        for other in normal[normal != case]:
            for lesion in np.flatnonzero(truth.lesion_case != case):
                noise, signal = reading.false_mark[other], reading.lesion[lesion]
                won += truth.weight[lesion] * (1.0 if noise < signal else 0.5 if noise == signal else 0.0)
        found[case] = won / (normal != case).sum() / (truth.diseased.sum() - truth.diseased[case])
    return found


def seconds(work: Callable[[], object], repeats: int) -> float:
    """Median time of one call."""
    taken = []
    for _ in range(repeats):
        begin = time.perf_counter()
        work()
        taken.append(time.perf_counter() - begin)
    return float(np.median(taken))


def measure() -> tuple[Measured, ...]:
    """Both analyses; fails when ours and the plain one differ."""
    random = np.random.default_rng(0)
    ratings, diseased = areas_study(random)
    truth, reading = marks_study(random)
    judged = jackknife_covariance(plain_areas(ratings, diseased))
    np.testing.assert_allclose(ours(ratings, diseased).covariance, judged, atol=1e-12)
    np.testing.assert_allclose(leave_one_out(Figure.WAFROC, truth, reading), plain_wafroc(truth, reading), atol=1e-12)
    return (
        Measured(
            what=f"Obuchowski-Rockette, {READERS} readers x {TREATMENTS} treatments x {CASES} cases",
            ours_s=seconds(lambda: ours(ratings, diseased), REPEATS),
            plain_s=seconds(lambda: plain_areas(ratings, diseased), 1),
        ),
        Measured(
            what=f"jackknife of wAFROC, one reader, {CASES} cases, {truth.lesion_case.size} lesions",
            ours_s=seconds(lambda: leave_one_out(Figure.WAFROC, truth, reading), REPEATS),
            plain_s=seconds(lambda: plain_wafroc(truth, reading), 1),
        ),
    )


def main() -> None:
    """Print times and their ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    as_json = parser.parse_args().json
    found = measure()
    if as_json:
        print(json.dumps([{**asdict(one), "ratio": one.ratio} for one in found], indent=2))
        return
    for one in found:
        print(f"{one.what}: {one.ours_s * 1000:.2f} ms, plain {one.plain_s:.2f} s, {one.ratio:.0f} times faster")


if __name__ == "__main__":
    main()

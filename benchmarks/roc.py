"""Measures areas under ROC curves and their intervals on many cases, beside scikit-learn and a plain bootstrap.

Against whom: scikit-learn's `roc_auc_score`, which gives the area alone, on the same cases in the same run; for the
bootstrap of patients `eval.intervals.patient_bootstrap`, which calls a function for each resample. Run
``python -m benchmarks.roc [--cases N] [--repeats N] [--json]`` from the project's folder. Prints the median seconds of
DeLong, of DeLong for two scores with their paired test, of Obuchowski 1997 with two rows a patient, and ratios; all
areas are compared with scikit-learn's.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from sklearn.metrics import roc_auc_score

from eval.clustered import clustered_areas
from eval.delong import delong
from eval.intervals import patient_bootstrap
from eval.roc import auroc, auroc_by_patient

BOOTSTRAP_CASES, RESAMPLES = 10_000, 2000


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """Seconds of each, and ratios to the peer."""

    cases: int
    processor: str
    scikit_learn_area_s: float
    delong_s: float
    delong_ratio: float
    delong_paired_s: float
    obuchowski_s: float
    largest_difference: float  # of an area from scikit-learn's
    bootstrap_cases: int
    bootstrap_resamples: int
    bootstrap_s: float
    plain_bootstrap_s: float  # scaled from the share that was run
    bootstrap_ratio: float


def median_seconds(run: Callable[[], object], repeats: int) -> float:
    """Median of several runs."""
    seconds = []
    for _ in range(repeats):
        begin = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds)


def drawn(cases: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Two correlated scores, the truth, and patients of two rows each."""
    random = np.random.default_rng(seed)
    diseased = random.random(cases) < 0.2
    common = random.normal(size=cases) + diseased
    owner = (np.arange(cases) // 2).astype(str)
    return common + 0.5 * random.normal(size=cases), common + random.normal(size=cases), diseased, owner


def measure(cases: int, repeats: int, plain_share: int) -> Measured:
    """Run all of them on the same cases."""
    first, second, diseased, patients = drawn(cases, 1)
    area = median_seconds(lambda: roc_auc_score(diseased, first), repeats)
    alone = median_seconds(lambda: delong([first], diseased).estimate(), repeats)
    both = delong([first, second], diseased).values
    by_patient = clustered_areas([first], diseased, patients).values
    expected = [roc_auc_score(diseased, first), roc_auc_score(diseased, second), roc_auc_score(diseased, first)]
    few, _, few_diseased, few_patients = drawn(BOOTSTRAP_CASES, 2)
    fast = median_seconds(lambda: auroc_by_patient(few, few_diseased, few_patients, resamples=RESAMPLES), 1)
    plain = median_seconds(
        lambda: patient_bootstrap(
            lambda rows: auroc(few[rows], few_diseased[rows]), few_patients, few_diseased, resamples=plain_share
        ),
        1,
    ) * (RESAMPLES / plain_share)
    return Measured(
        cases=cases,
        processor=platform.processor() or platform.machine(),
        scikit_learn_area_s=area,
        delong_s=alone,
        delong_ratio=area / alone,
        delong_paired_s=median_seconds(lambda: delong([first, second], diseased).difference(), repeats),
        obuchowski_s=median_seconds(lambda: clustered_areas([first], diseased, patients), 1),
        largest_difference=float(np.abs(np.append(both, by_patient) - expected).max()),
        bootstrap_cases=BOOTSTRAP_CASES,
        bootstrap_resamples=RESAMPLES,
        bootstrap_s=fast,
        plain_bootstrap_s=plain,
        bootstrap_ratio=plain / fast,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--plain-resamples", type=int, default=100)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    found = measure(options.cases, options.repeats, options.plain_resamples)
    if options.json:
        print(json.dumps(asdict(found), indent=2))
        return
    print(f"{found.cases} cases: scikit-learn's area alone {found.scikit_learn_area_s:.3f} s")
    print(f"DeLong with interval {found.delong_s:.3f} s, {found.delong_ratio:.2f} times as fast")
    print(f"DeLong, two scores with paired test {found.delong_paired_s:.3f} s; Obuchowski {found.obuchowski_s:.3f} s")
    print(f"largest difference of an area from scikit-learn's {found.largest_difference:.1e}")
    print(
        f"{found.bootstrap_resamples} resamples of patients, {found.bootstrap_cases} rows: {found.bootstrap_s:.2f} s, "
        f"one call a resample {found.plain_bootstrap_s:.1f} s, {found.bootstrap_ratio:.1f} times"
    )


if __name__ == "__main__":
    main()

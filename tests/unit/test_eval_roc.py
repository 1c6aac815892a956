"""Case-level statistics, judged by scikit-learn and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from eval.intervals import clopper_pearson, patient_bootstrap
from eval.roc import auroc, auroc_by_patient, confusion, threshold_at_sensitivity

CASES = st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=60).filter(
    lambda cases: len({diseased for _, diseased in cases}) == 2
)


@given(CASES)
@settings(max_examples=100, deadline=None)
def test_auroc_with_many_ties_is_that_of_scikit_learn(cases: list[tuple[int, bool]]) -> None:
    scores = np.asarray([score for score, _ in cases], dtype=float)
    diseased = np.asarray([truth for _, truth in cases])
    assert auroc(scores, diseased) == pytest.approx(roc_auc_score(diseased, scores))


def test_auroc_without_diseased_cases_is_undefined() -> None:
    assert math.isnan(auroc(np.asarray([0.1, 0.9]), np.asarray([False, False])))


def test_the_interval_covers_the_value_and_narrows_with_more_patients() -> None:
    random = np.random.default_rng(5)

    def width(patients: int) -> float:
        diseased = np.arange(patients) % 2 == 0
        scores = random.normal(size=patients) + diseased
        estimate = auroc_by_patient(scores, diseased, np.arange(patients).astype(str), resamples=300)
        assert estimate.low <= estimate.value <= estimate.high
        return estimate.high - estimate.low

    assert width(400) < width(40)


def test_films_of_one_patient_are_drawn_together() -> None:
    patients = np.asarray(["a"] * 10 + ["b"] * 10)
    values = np.asarray([0.0] * 10 + [1.0] * 10)
    seen: set[float] = set()

    def mean(rows: np.ndarray[tuple[int, ...], np.dtype[np.intp]]) -> float:
        seen.add(float(values[rows].mean()))
        return float(values[rows].mean())

    patient_bootstrap(mean, patients, np.zeros(20, dtype=bool), resamples=100)
    assert seen == {0.0, 0.5, 1.0}  # never a part of a patient


def test_patients_with_disease_are_drawn_apart_from_the_others() -> None:
    diseased = np.asarray([True] * 3 + [False] * 17)
    patients = np.arange(20).astype(str)
    counts: set[int] = set()

    def count(rows: np.ndarray[tuple[int, ...], np.dtype[np.intp]]) -> float:
        counts.add(int(diseased[rows].sum()))
        return 0.0

    patient_bootstrap(count, patients, diseased, resamples=50)
    assert counts == {3}


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"), [(0, 10, 0.0, 0.3085), (10, 10, 0.6915, 1.0), (7, 20, 0.1539, 0.5922)]
)
def test_clopper_pearson_gives_the_tabled_limits(successes: int, trials: int, low: float, high: float) -> None:
    estimate = clopper_pearson(successes, trials)
    assert (estimate.low, estimate.high) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))


def test_a_proportion_of_nothing_is_undefined() -> None:
    assert not clopper_pearson(0, 0).defined


def test_the_threshold_at_a_sensitivity_keeps_it_and_no_higher_one_does() -> None:
    scores = np.asarray([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
    threshold = threshold_at_sensitivity(scores, 0.9)
    assert (scores >= threshold).mean() == pytest.approx(0.9)
    assert (scores > threshold).mean() < 0.9


def test_counts_at_a_threshold_add_up() -> None:
    called, diseased = np.asarray([True, True, False, False, False]), np.asarray([True, False, True, False, False])
    counts = confusion(called, diseased)
    assert (counts.true_positive, counts.false_positive, counts.false_negative, counts.true_negative) == (1, 1, 1, 2)
    assert counts.sensitivity.value == pytest.approx(0.5)
    assert counts.specificity.value == pytest.approx(2 / 3)

"""Case-level statistics, judged by scikit-learn, by R's pROC and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.metrics import roc_curve as roc_curve_of_scikit_learn

from eval.intervals import clopper_pearson, patient_bootstrap
from eval.ranking import Ranking, Steps
from eval.roc import (
    auroc,
    auroc_by_patient,
    average_precision,
    confusion,
    partial_auroc,
    roc_band,
    roc_curve,
    sensitivity_at_specificity,
    specificity_at_sensitivity,
    threshold_at_sensitivity,
)

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


def columns(cases: list[tuple[int, bool]]) -> tuple[np.ndarray, np.ndarray]:
    return np.asarray([score for score, _ in cases], dtype=float), np.asarray([truth for _, truth in cases])


@given(CASES)
@settings(max_examples=100, deadline=None)
def test_average_precision_and_the_curve_are_those_of_scikit_learn(cases: list[tuple[int, bool]]) -> None:
    scores, diseased = columns(cases)
    assert average_precision(scores, diseased) == pytest.approx(average_precision_score(diseased, scores))
    curve = roc_curve(scores, diseased)
    expected = roc_curve_of_scikit_learn(diseased, scores, drop_intermediate=False)
    for found, wanted in zip(
        (curve.false_positive_rates, curve.sensitivities, curve.thresholds), expected, strict=True
    ):
        assert list(found) == pytest.approx(list(wanted))


@given(CASES, st.floats(0.05, 1.0))
@settings(max_examples=100, deadline=None)
def test_the_partial_area_on_mcclishs_scale_is_that_of_scikit_learn(cases: list[tuple[int, bool]], most: float) -> None:
    scores, diseased = columns(cases)
    expected = roc_auc_score(diseased, scores, max_fpr=most)
    assert partial_auroc(scores, diseased, 0.0, most).standardised == pytest.approx(expected)


@given(CASES, st.floats(0.1, 0.9))
@settings(max_examples=60, deadline=None)
def test_parts_of_the_area_add_up_to_it(cases: list[tuple[int, bool]], cut: float) -> None:
    scores, diseased = columns(cases)
    parts = partial_auroc(scores, diseased, 0, cut).area + partial_auroc(scores, diseased, cut, 1).area
    assert parts == pytest.approx(auroc(scores, diseased))


@given(CASES, st.sampled_from([0.5, 0.8, 0.9, 0.95, 1.0]))
@settings(max_examples=100, deadline=None)
def test_fixed_points_are_the_best_of_all_thresholds_that_keep_the_other_rate(
    cases: list[tuple[int, bool]], kept: float
) -> None:
    scores, diseased = columns(cases)
    patients = np.arange(len(cases)).astype(str)
    rates = [
        (float((scores[diseased] >= t).mean()), float((scores[~diseased] < t).mean())) for t in [*set(scores), 1e9]
    ]
    specificity = specificity_at_sensitivity(scores, diseased, patients, kept, resamples=5)
    sensitivity = sensitivity_at_specificity(scores, diseased, patients, kept, resamples=5)
    assert specificity.estimate.value == pytest.approx(max(spec for sens, spec in rates if sens >= kept - 1e-9))
    assert sensitivity.estimate.value == pytest.approx(max(sens for sens, spec in rates if spec >= kept - 1e-9))
    assert (scores[diseased] >= sensitivity.threshold).mean() == pytest.approx(sensitivity.estimate.value)
    assert (scores[~diseased] < specificity.threshold).mean() == pytest.approx(specificity.estimate.value)


@given(CASES, st.lists(st.integers(0, 3), min_size=60, max_size=60))
@settings(max_examples=60, deadline=None)
def test_weighted_curves_are_those_of_repeated_cases(cases: list[tuple[int, bool]], times: list[int]) -> None:
    scores, diseased = columns(cases)
    weights = np.asarray(times[: len(cases)], dtype=float)
    rows = np.repeat(np.arange(len(cases)), times[: len(cases)])
    steps = Steps.of(Ranking.of(scores), diseased, weights[None, :])
    truth = diseased[rows]
    if not truth.any() or truth.all():
        assert math.isnan(steps.auroc()[0])
        return
    assert steps.auroc()[0] == pytest.approx(roc_auc_score(truth, scores[rows]))
    assert steps.average_precision()[0] == pytest.approx(average_precision_score(truth, scores[rows]))
    expected = specificity_at_sensitivity(scores[rows], truth, rows.astype(str), 0.8, resamples=2)
    assert steps.specificity_at(0.8)[0] == pytest.approx(expected.estimate.value)
    expected = sensitivity_at_specificity(scores[rows], truth, rows.astype(str), 0.8, resamples=2)
    assert steps.sensitivity_at(0.8)[0] == pytest.approx(expected.estimate.value)
    assert steps.partial_area(0.1, 0.6)[0] == pytest.approx(partial_auroc(scores[rows], truth, 0.1, 0.6).area)


@given(CASES)
@settings(max_examples=60, deadline=None)
def test_doubling_all_cases_and_rising_transforms_change_no_figure(cases: list[tuple[int, bool]]) -> None:
    scores, diseased = columns(cases)
    for other, truth in ((np.tile(scores, 2), np.tile(diseased, 2)), (np.exp(scores) * 3 - 1, diseased)):
        assert auroc(other, truth) == pytest.approx(auroc(scores, diseased))
        assert average_precision(other, truth) == pytest.approx(average_precision(scores, diseased))
        found, expected = (partial_auroc(*pair, 0.1, 0.4).area for pair in ((other, truth), (scores, diseased)))
        assert found == pytest.approx(expected)


def test_the_band_of_the_curve_lies_around_it_and_rises() -> None:
    random = np.random.default_rng(2)
    diseased = np.arange(200) < 80
    scores = random.normal(size=200) + diseased
    grid = np.linspace(0, 1, 21)
    low, high = roc_band(scores, diseased, np.arange(200).astype(str), grid, resamples=200, seed=1)
    curve = roc_curve(scores, diseased)
    height = np.interp(grid, curve.false_positive_rates, curve.sensitivities)
    assert (low[1:-1] <= height[1:-1]).all()
    assert (height <= high + 1e-12).all()
    assert (np.diff(low) >= 0).all()


def test_figures_of_one_class_are_undefined_and_say_why() -> None:
    scores, well = np.asarray([0.1, 0.9]), np.asarray([False, False])
    patients = np.asarray(["a", "b"])
    assert math.isnan(average_precision(scores, well))
    assert math.isnan(partial_auroc(scores, well, 0, 0.2).area)
    assert np.isnan(roc_band(scores, well, patients, np.asarray([0.0, 0.5]), resamples=3)).all()
    for point in (
        specificity_at_sensitivity(scores, well, patients, 0.9),
        sensitivity_at_specificity(scores, well, patients, 0.9),
    ):
        assert math.isnan(point.threshold)
        assert point.estimate.reason == "there is no diseased case"


@pytest.mark.parametrize(("low", "high"), [(0.2, 0.2), (0.5, 0.1), (-0.1, 0.5), (0.5, 1.1)])
def test_rates_that_enclose_nothing_are_refused(low: float, high: float) -> None:
    with pytest.raises(ValueError, match="enclose no part"):
        partial_auroc(np.asarray([0.1, 0.2]), np.asarray([True, False]), low, high)

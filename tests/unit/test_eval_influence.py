"""Variance from influence: numerical derivatives, resampled patients, DeLong, coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.delong import Placements, delong
from eval.influence import average_precision_estimate, influence_variance, mean_estimate, precision_influence
from eval.ranking import Ranking, Steps
from eval.resampling import resampled
from eval.roc import average_precision

CASES = st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=3, max_size=30).filter(
    lambda cases: any(ill for _, ill in cases)
)


@given(CASES)
@settings(max_examples=60, deadline=None)
def test_the_influence_on_average_precision_is_its_derivative_by_the_weight_of_a_case(
    cases: list[tuple[int, bool]],
) -> None:
    scores, diseased = np.asarray([case[0] for case in cases], float), np.asarray([case[1] for case in cases])
    ranking = Ranking.of(scores)
    steps = Steps.of(ranking, diseased)
    nudged = 1 + 1e-6 * np.eye(len(cases))
    moved = (Steps.of(ranking, diseased, nudged).average_precision() - average_precision(scores, diseased)) / 1e-6
    found = precision_influence(ranking, steps, diseased, average_precision(scores, diseased))
    assert list(found) == pytest.approx(list(moved), abs=1e-4)


def test_of_an_area_it_is_the_variance_of_delong() -> None:
    random = np.random.default_rng(1)
    diseased = np.arange(90) < 35
    scores = np.round(random.normal(size=90) + diseased, 1)
    placed, areas = Placements.of([scores], diseased), delong([scores], diseased)
    influence = np.empty(90)
    influence[diseased] = (placed.diseased[0] - areas.values[0]) / 35
    influence[~diseased] = (placed.others[0] - areas.values[0]) / 55
    assert influence_variance(influence, None, diseased) == pytest.approx(areas.covariance[0, 0])


@pytest.mark.parametrize("stratified", [True, False])
def test_with_patients_it_is_the_variance_of_resampled_patients(stratified: bool) -> None:
    random = np.random.default_rng(4)
    owner = np.repeat(np.arange(150), 2)
    diseased = (np.arange(150) % 4 == 0)[owner]
    scores, patients = random.normal(size=150)[owner] + 0.4 * random.normal(size=300) + diseased, owner.astype(str)
    ranking = Ranking.of(scores)
    draws = resampled(
        lambda weights: Steps.of(ranking, diseased, weights).average_precision(),
        patients,
        diseased,
        resamples=2000,
        seed=1,
        stratified=stratified,
    )
    influence = precision_influence(ranking, Steps.of(ranking, diseased), diseased, average_precision(scores, diseased))
    variance = influence_variance(influence, patients, diseased, stratified=stratified)
    assert math.sqrt(variance) == pytest.approx(draws.std(), rel=0.1)


def test_the_interval_of_average_precision_covers_93_to_97_of_100_samples() -> None:
    random = np.random.default_rng(6)
    many = np.arange(400_000) < 80_000
    truth = average_precision(random.normal(size=400_000) + 1.2 * many, many)
    diseased = np.arange(400) < 80
    covered = []
    for _ in range(1000):
        estimate = average_precision_estimate(random.normal(size=400) + 1.2 * diseased, diseased)
        covered.append(estimate.low <= truth <= estimate.high)
    assert 0.93 <= np.mean(covered) <= 0.97


def test_a_mean_of_independent_cases_drawn_together_has_the_interval_of_its_standard_error() -> None:
    values, diseased = np.random.default_rng(2).random(50), np.arange(50) < 20
    estimate = mean_estimate(values, None, diseased, stratified=False)
    error = values.std(ddof=1) / math.sqrt(50)
    assert (estimate.high - estimate.low) / 2 == pytest.approx(1.959963985 * error)


def test_what_has_no_variance_has_no_interval_and_a_reason() -> None:
    alone = average_precision_estimate(np.asarray([0.9, 0.1]), np.asarray([True, False]))
    assert alone.value == 1
    assert math.isnan(alone.low)
    assert "needs more patients" in alone.reason
    assert "no diseased case" in average_precision_estimate(np.asarray([0.1]), np.asarray([False])).reason
    assert "no cases" in mean_estimate(np.zeros(0), None, np.zeros(0, dtype=bool)).reason

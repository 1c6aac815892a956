"""Areas with several rows of a patient: DeLong where there is one, brute force, resampled patients, coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.clustered import clustered_areas
from eval.delong import delong
from eval.intervals import patient_bootstrap
from eval.resampling import patient_weights, percentile_estimate, resampled
from eval.roc import auroc, auroc_by_patient

ROWS = st.lists(
    st.tuples(st.integers(-3, 3), st.integers(-3, 3), st.booleans(), st.integers(0, 6)), min_size=4, max_size=40
).filter(lambda rows: all(len({row[3] for row in rows if row[2] is ill}) >= 2 for ill in (True, False)))


def columns(rows: list[tuple[int, int, bool, int]]) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    scores = [np.asarray([row[place] for row in rows], dtype=float) for place in (0, 1)]
    return scores, np.asarray([row[2] for row in rows]), np.asarray([str(row[3]) for row in rows])


def several_films(random: np.random.Generator, patients: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Three films of each patient; those of one patient look alike, and some patients have films of both kinds."""
    owner = np.repeat(np.arange(patients), 3)
    ill = (np.arange(patients) % 2 == 0)[owner] & (random.random(len(owner)) < 0.8)
    scores = random.normal(size=patients)[owner] + 0.6 * random.normal(size=len(owner)) + ill
    return scores, ill, owner.astype(str)


@given(ROWS)
@settings(max_examples=60, deadline=None)
def test_with_one_row_a_patient_it_is_delong(rows: list[tuple[int, int, bool, int]]) -> None:
    scores, diseased, _ = columns(rows)
    if min(diseased.sum(), (~diseased).sum()) < 2:
        return
    alone = clustered_areas(scores, diseased, np.arange(len(rows)).astype(str))
    assert alone.values == pytest.approx(delong(scores, diseased).values)
    assert alone.covariance == pytest.approx(delong(scores, diseased).covariance, abs=1e-12)


@given(ROWS)
@settings(max_examples=60, deadline=None)
def test_the_variance_is_the_formula_of_obuchowski_written_out(rows: list[tuple[int, int, bool, int]]) -> None:
    scores, diseased, patients = columns(rows)
    x = scores[0]
    psi = lambda one, other: float(one > other) + 0.5 * float(one == other)  # noqa: E731
    ill, well = np.flatnonzero(diseased), np.flatnonzero(~diseased)
    v10 = {i: np.mean([psi(x[i], x[j]) for j in well]) for i in ill}
    v01 = {j: np.mean([psi(x[i], x[j]) for i in ill]) for j in well}
    area = np.mean(list(v10.values()))
    names = sorted(set(patients))
    sums_ill = {p: sum(v10[i] - area for i in ill if patients[i] == p) for p in names}
    sums_well = {p: sum(v01[j] - area for j in well if patients[j] == p) for p in names}
    i10, i01, count = len(set(patients[ill])), len(set(patients[well])), len(names)
    s10 = i10 / ((i10 - 1) * len(ill)) * sum(s**2 for s in sums_ill.values())
    s01 = i01 / ((i01 - 1) * len(well)) * sum(s**2 for s in sums_well.values())
    s11 = count / (count - 1) * sum(sums_ill[p] * sums_well[p] for p in names)
    expected = s10 / len(ill) + s01 / len(well) + 2 * s11 / (len(ill) * len(well))
    found = clustered_areas(scores, diseased, patients)
    assert found.values[0] == pytest.approx(area)
    assert found.covariance[0, 0] == pytest.approx(expected, abs=1e-12)
    assert found.covariance == pytest.approx(found.covariance.T)


def test_the_standard_error_is_that_of_patients_left_out_one_at_a_time() -> None:
    scores, diseased, patients = several_films(np.random.default_rng(3), 120)
    names = np.unique(patients)
    left = np.asarray([auroc(scores[patients != name], diseased[patients != name]) for name in names])
    jackknife = (len(names) - 1) / len(names) * ((left - left.mean()) ** 2).sum()
    found = clustered_areas([scores], diseased, patients).covariance[0, 0]
    assert math.sqrt(found) == pytest.approx(math.sqrt(jackknife), rel=0.02)


def test_repeating_every_row_within_its_patient_adds_no_certainty_where_delong_believes_it_does() -> None:
    random = np.random.default_rng(1)
    diseased = np.arange(80) < 30
    scores, patients = random.normal(size=80) + diseased, np.arange(80).astype(str)
    once = clustered_areas([scores], diseased, patients)
    twice = clustered_areas([np.repeat(scores, 2)], np.repeat(diseased, 2), np.repeat(patients, 2))
    assert twice.values == pytest.approx(once.values)
    assert twice.covariance == pytest.approx(once.covariance)
    assert delong([np.repeat(scores, 2)], np.repeat(diseased, 2)).covariance[0, 0] < 0.6 * once.covariance[0, 0]


def test_the_interval_by_patient_covers_93_to_97_of_100_samples_and_that_by_film_too_few() -> None:
    random = np.random.default_rng(12)
    # every film of a patient has his state, so the area over films is that of one film: N(1, 1.36) against N(0, 1.36)
    truth = 0.5 * (1 + math.erf(1 / math.sqrt(2 * 1.36) / math.sqrt(2)))
    owner = np.repeat(np.arange(100), 3)
    diseased = (np.arange(100) < 45)[owner]
    patient, film = [], []
    for _ in range(800):
        scores = random.normal(size=100)[owner] + 0.6 * random.normal(size=300) + diseased
        by_patient = clustered_areas([scores], diseased, owner.astype(str)).estimate()
        by_film = delong([scores], diseased).estimate()
        patient.append(by_patient.low <= truth <= by_patient.high)
        film.append(by_film.low <= truth <= by_film.high)
    assert 0.93 <= np.mean(patient) <= 0.97
    assert np.mean(film) < 0.88


def test_the_paired_test_by_patient_rejects_five_in_a_hundred_under_no_difference() -> None:
    random = np.random.default_rng(14)
    owner = np.repeat(np.arange(90), 2)
    diseased = (np.arange(90) < 40)[owner]
    rejected = []
    for _ in range(800):
        common = random.normal(size=90)[owner] + diseased
        pair = [common + random.normal(size=90)[owner] + 0.5 * random.normal(size=180) for _ in range(2)]
        rejected.append(clustered_areas(pair, diseased, owner.astype(str)).difference().p < 0.05)
    assert 0.03 <= np.mean(rejected) <= 0.07


def test_one_patient_of_a_kind_has_an_area_but_no_interval() -> None:
    found = clustered_areas(
        [np.asarray([0.1, 0.2, 0.8, 0.9])], np.asarray([False, False, True, True]), np.asarray(["a", "b", "c", "c"])
    ).estimate()
    assert found.value == 1
    assert "only one diseased patient" in found.reason


# resampled patients --------------------------------------------------------------------------------------------------


@given(ROWS, st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_the_fast_bootstrap_draws_what_the_plain_one_draws(rows: list[tuple[int, int, bool, int]], seed: int) -> None:
    scores, diseased, patients = columns(rows)
    fast = auroc_by_patient(scores[0], diseased, patients, resamples=40, seed=seed)
    plain = patient_bootstrap(
        lambda drawn: auroc(scores[0][drawn], diseased[drawn]), patients, diseased, resamples=40, seed=seed
    )
    assert (fast.value, fast.low, fast.high) == pytest.approx((plain.value, plain.low, plain.high))


def test_rows_of_a_patient_are_drawn_together_and_patients_with_disease_apart() -> None:
    patients = np.asarray(["a", "a", "b", "c", "c", "c", "d"])
    diseased = np.asarray([True, False, True, False, False, False, False])
    weights = np.concatenate(list(patient_weights(patients, diseased, resamples=50, seed=1)))
    assert (weights[:, 0] == weights[:, 1]).all()
    assert (weights[:, 3] == weights[:, 5]).all()
    assert (weights[:, 0] + weights[:, 2] == 2).all()
    together = np.concatenate(list(patient_weights(patients, diseased, resamples=50, seed=1, stratified=False)))
    assert set(together[:, 0] + together[:, 2]) != {2.0}
    assert (together[:, 0] + together[:, 2] + together[:, 3] + together[:, 6] == 4).all()


def test_blocks_do_not_change_what_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, diseased, patients = several_films(np.random.default_rng(8), 30)
    whole = auroc_by_patient(scores, diseased, patients, resamples=60, seed=2)
    monkeypatch.setattr("eval.resampling._CELLS", 700)
    assert auroc_by_patient(scores, diseased, patients, resamples=60, seed=2) == whole


def test_an_interval_needs_resamples_and_says_so() -> None:
    patients, diseased = np.asarray(["a", "b"]), np.asarray([True, False])
    draws = resampled(lambda weights: weights.sum(axis=1), patients, diseased, resamples=0)
    assert "no resamples" in percentile_estimate(2.0, draws).reason
    assert "undefined in every resample" in percentile_estimate(2.0, np.asarray([math.nan])).reason


def test_resampled_patients_and_obuchowski_give_about_the_same_interval() -> None:
    scores, diseased, patients = several_films(np.random.default_rng(21), 150)
    formula = clustered_areas([scores], diseased, patients).estimate()
    resampling = auroc_by_patient(scores, diseased, patients, resamples=1500, seed=1)
    assert (resampling.low, resampling.high) == (
        pytest.approx(formula.low, abs=0.01),
        pytest.approx(formula.high, abs=0.01),
    )

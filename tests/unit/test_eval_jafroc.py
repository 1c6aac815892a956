"""Figures of merit of marked places: against double loops, scikit-learn, and worked cases."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from eval.jafroc import UNMARKED, Figure, Reading, Truth, figure_of_merit, leave_one_out, lroc_curve
from eval.mrmc import Study, fixed_readers
from eval.mrmc_covariance import jackknife_covariance

Floats = NDArray[np.float64]
PAIRED = tuple(figure for figure in Figure if figure not in (Figure.ALROC, Figure.PCL))


def drawn(seed: int, cases: int = 14, lesions_a_case: int = 3) -> tuple[Truth, Reading]:
    """Small studies with ties, unmarked places, marks beside lesions and unequal weights."""
    random = np.random.default_rng(seed)
    diseased = np.arange(cases) % 2 == 0
    lesion_case = np.repeat(np.flatnonzero(diseased), random.integers(1, lesions_a_case + 1, size=diseased.sum()))
    weight = random.uniform(0.1, 1, size=lesion_case.size)
    weight /= np.bincount(lesion_case, weights=weight, minlength=cases)[lesion_case]
    false_mark = np.where(random.random(cases) < 0.4, UNMARKED, random.integers(1, 5, cases).astype(float))
    lesion = np.where(random.random(lesion_case.size) < 0.3, UNMARKED, random.integers(1, 6, lesion_case.size))
    return (
        Truth(diseased=diseased, lesion_case=lesion_case, weight=weight),
        Reading(false_mark=false_mark, lesion=lesion.astype(float)),
    )


def psi(noise: float, signal: float) -> float:
    return 1.0 if noise < signal else 0.5 if noise == signal else 0.0


def by_double_loop(figure: Figure, truth: Truth, reading: Reading) -> float:
    """Each figure spelt out from its definition, one comparison at a time."""
    normal = [case for case, ill in enumerate(truth.diseased) if not ill]
    ill = [case for case, ill in enumerate(truth.diseased) if ill]
    of = {case: np.flatnonzero(truth.lesion_case == case) for case in ill}
    everyone = [*normal, *ill]
    false = reading.false_mark
    highest = {case: max([false[case], *(reading.lesion[one] for one in of.get(case, []))]) for case in everyone}
    if figure in (Figure.AFROC, Figure.AFROC1):
        noise = normal if figure is Figure.AFROC else everyone
        pairs = [psi(false[k], reading.lesion[one]) for k in noise for case in ill for one in of[case]]
        return float(np.mean(pairs))
    if figure in (Figure.WAFROC, Figure.WAFROC1):
        noise = normal if figure is Figure.WAFROC else everyone
        total = sum(
            truth.weight[one] * psi(false[k], reading.lesion[one]) for k in noise for case in ill for one in of[case]
        )
        return float(total / len(noise) / len(ill))
    if figure is Figure.HRAUC:
        return float(np.mean([psi(highest[k], highest[case]) for k in normal for case in ill]))
    won = []
    for case in ill:
        best = max(reading.lesion[one] for one in of[case])
        right = best > false[case]
        won += [psi(false[k], best) if right else 0.0 for k in normal]
    return float(np.mean(won))


def without(case: int, truth: Truth, reading: Reading) -> tuple[Truth, Reading]:
    """The study without one case, by hand."""
    kept, lesions = np.arange(truth.diseased.size) != case, truth.lesion_case != case
    place = np.cumsum(kept) - 1
    return (
        Truth(
            diseased=truth.diseased[kept],
            lesion_case=place[truth.lesion_case[lesions]],
            weight=truth.weight[lesions],
        ),
        Reading(false_mark=reading.false_mark[kept], lesion=reading.lesion[lesions]),
    )


@pytest.mark.parametrize("figure", PAIRED)
@pytest.mark.parametrize("seed", range(12))
def test_every_figure_is_that_of_its_double_loop(figure: Figure, seed: int) -> None:
    study = drawn(seed)
    assert figure_of_merit(figure, *study) == pytest.approx(by_double_loop(figure, *study), abs=1e-12)


@pytest.mark.parametrize("figure", Figure)
@pytest.mark.parametrize("seed", range(4))
def test_leaving_a_case_out_is_computing_the_figure_without_it(figure: Figure, seed: int) -> None:
    truth, reading = drawn(seed)
    judged = [figure_of_merit(figure, *without(case, truth, reading), fpf=0.3) for case in range(truth.diseased.size)]
    assert leave_one_out(figure, truth, reading, fpf=0.3) == pytest.approx(np.asarray(judged), abs=1e-12)


def test_a_worked_study_of_two_normal_and_two_diseased_cases() -> None:
    """Normal cases: highest false marks 2 and none. Diseased: lesions 3 and unmarked (0.75, 0.25); lesion 1, mark 4."""
    truth = Truth(
        diseased=np.asarray([False, False, True, True]),
        lesion_case=np.asarray([2, 2, 3]),
        weight=np.asarray([0.75, 0.25, 1.0]),
    )
    reading = Reading(false_mark=np.asarray([2.0, UNMARKED, UNMARKED, 4.0]), lesion=np.asarray([3.0, UNMARKED, 1.0]))
    # against 2: lesions win 1, 0, 0; against none: 1, 1/2, 1
    assert figure_of_merit(Figure.AFROC, truth, reading) == pytest.approx((1 + 2.5) / 6)
    assert figure_of_merit(Figure.WAFROC, truth, reading) == pytest.approx((0.75 + 0.75 + 0.125 + 1) / 4)
    # with the diseased cases' false marks: none (1, 1/2, 1) and 4 (0, 0, 0)
    assert figure_of_merit(Figure.AFROC1, truth, reading) == pytest.approx((1 + 2.5 + 2.5 + 0) / 12)
    assert figure_of_merit(Figure.WAFROC1, truth, reading) == pytest.approx((0.75 + 1.875 + 1.875 + 0) / 8)
    # highest marks: 2 and none against 3 and 4
    assert figure_of_merit(Figure.HRAUC, truth, reading) == 1
    # localised: 3 in the first; the second's highest mark is beside its lesion
    assert figure_of_merit(Figure.LROC, truth, reading) == 0.5


def test_the_printed_worked_study_of_four_normal_and_five_diseased_cases_is_reproduced() -> None:
    """Chakraborty, RJafrocFrocBook, chapter "Empirical plots from FROC data": 0.8472222 and 0.7425."""
    truth = Truth(
        diseased=np.arange(9) >= 4,
        lesion_case=np.asarray([4, 5, 6, 6, 7, 7, 8, 8, 8]),
        weight=np.asarray([1, 1, 0.1, 0.9, 0.9, 0.1, 0.3, 0.4, 0.3]),
    )
    reading = Reading(
        false_mark=np.asarray([UNMARKED, 0.5, 0.7, -0.3, 1.5, *[UNMARKED] * 4]),
        lesion=np.asarray([0.9, -0.2, 1.6, UNMARKED, 3, 2, 1, 2.5, 1]),
    )
    assert figure_of_merit(Figure.AFROC, truth, reading) == pytest.approx(0.8472222, abs=5e-8)
    assert figure_of_merit(Figure.WAFROC, truth, reading) == pytest.approx(0.7425, abs=5e-8)
    for figure in PAIRED:
        assert figure_of_merit(figure, truth, reading) == pytest.approx(by_double_loop(figure, truth, reading))


def test_the_lroc_curve_of_five_and_five_cases_worked_by_hand() -> None:
    """Ratings of the worked case of RJafroc's ChkLrocFoms: normals 0, 0, 0, 0, 1.42; correct 0.55, 1.20, 3.46, 2.73."""
    normal = np.asarray([0, 0, 0, 0, 1.424443])
    located = np.asarray([0.5542791, 1.2046176, UNMARKED, 3.4596787, 2.732657])
    points = [(0, 0), (0, 0.2), (0, 0.4), (0.2, 0.4), (0.2, 0.6), (0.2, 0.8), (1, 0.8)]
    assert lroc_curve(normal, located) == pytest.approx(np.asarray(points))
    truth = Truth(diseased=np.arange(10) >= 5, lesion_case=np.arange(5, 10), weight=np.ones(5))
    reading = Reading(false_mark=np.concatenate([normal, np.full(5, UNMARKED)]), lesion=located)
    at = {fpf: figure_of_merit(Figure.PCL, truth, reading, fpf=fpf) for fpf in (0.05, 0.1, 0.2, 0.6, 1.0)}
    assert at == pytest.approx({0.05: 0.4, 0.1: 0.4, 0.2: 0.8, 0.6: 0.8, 1.0: 0.8})
    area = {fpf: figure_of_merit(Figure.ALROC, truth, reading, fpf=fpf) for fpf in (0.05, 0.2, 1.0)}
    assert area == pytest.approx({0.05: 0.02, 0.2: 0.08, 1.0: 0.08 + 0.8 * 0.8})
    assert figure_of_merit(Figure.LROC, truth, reading) == pytest.approx(area[1.0])


@pytest.mark.parametrize("seed", range(10))
def test_the_whole_area_under_the_lroc_curve_is_its_mean_over_pairs(seed: int) -> None:
    study = drawn(seed)
    whole = figure_of_merit(Figure.ALROC, *study, fpf=1.0)
    assert whole == pytest.approx(figure_of_merit(Figure.LROC, *study), abs=1e-12)


def test_a_sloped_segment_of_tied_ratings_is_interpolated() -> None:
    truth = Truth(diseased=np.asarray([False, False, True, True]), lesion_case=np.asarray([2, 3]), weight=np.ones(2))
    reading = Reading(false_mark=np.asarray([1.0, 1, UNMARKED, UNMARKED]), lesion=np.asarray([1.0, 1]))
    assert figure_of_merit(Figure.PCL, truth, reading, fpf=0.25) == pytest.approx(0.25)
    assert figure_of_merit(Figure.ALROC, truth, reading, fpf=0.5) == pytest.approx(0.125)


@pytest.mark.parametrize("seed", range(6))
def test_hrauc_is_the_area_of_scikit_learn_of_the_highest_marks(seed: int) -> None:
    truth, reading = drawn(seed)
    highest = reading.false_mark.copy()
    np.maximum.at(highest, truth.lesion_case, reading.lesion)
    finite = np.where(np.isneginf(highest), -1e6, highest)
    judged = roc_auc_score(truth.diseased, finite)
    assert figure_of_merit(Figure.HRAUC, truth, reading) == pytest.approx(judged)


@pytest.mark.parametrize("seed", range(6))
def test_one_lesion_a_case_and_no_mark_beside_it_make_all_figures_the_area_under_the_roc_curve(seed: int) -> None:
    random = np.random.default_rng(seed)
    diseased = np.arange(30) < 12
    rating = random.integers(1, 6, 30).astype(float)
    truth = Truth(diseased=diseased, lesion_case=np.flatnonzero(diseased), weight=np.ones(12))
    reading = Reading(false_mark=np.where(diseased, UNMARKED, rating), lesion=rating[diseased])
    judged = roc_auc_score(diseased, rating)
    for figure in (Figure.AFROC, Figure.WAFROC, Figure.HRAUC, Figure.LROC):
        assert figure_of_merit(figure, truth, reading) == pytest.approx(judged)


@pytest.mark.parametrize(("weighted", "plain"), [(Figure.WAFROC, Figure.AFROC), (Figure.WAFROC1, Figure.AFROC1)])
def test_with_as_many_lesions_in_each_case_equal_weights_change_nothing(weighted: Figure, plain: Figure) -> None:
    truth, reading = drawn(3, lesions_a_case=1)
    assert figure_of_merit(weighted, truth, reading) == pytest.approx(figure_of_merit(plain, truth, reading))


@pytest.mark.parametrize("figure", [Figure.AFROC, Figure.WAFROC, Figure.AFROC1, Figure.WAFROC1, Figure.HRAUC])
def test_a_reader_who_marks_nothing_guesses(figure: Figure) -> None:
    truth, _ = drawn(1)
    nothing = Reading(
        false_mark=np.full(truth.diseased.size, UNMARKED), lesion=np.full(truth.lesion_case.size, UNMARKED)
    )
    assert figure_of_merit(figure, truth, nothing) == 0.5


@pytest.mark.parametrize("figure", [Figure.LROC, Figure.ALROC, Figure.PCL])
def test_a_reader_who_marks_nothing_localises_nothing(figure: Figure) -> None:
    truth, _ = drawn(1)
    nothing = Reading(
        false_mark=np.full(truth.diseased.size, UNMARKED), lesion=np.full(truth.lesion_case.size, UNMARKED)
    )
    assert figure_of_merit(figure, truth, nothing) == 0


@pytest.mark.parametrize("figure", Figure)
def test_without_normal_cases_only_the_variants_1_are_defined(figure: Figure) -> None:
    truth, reading = drawn(2)
    for case in np.flatnonzero(~truth.diseased)[::-1]:
        truth, reading = without(int(case), truth, reading)
    found = figure_of_merit(figure, truth, reading)
    assert math.isnan(found) == (figure not in (Figure.AFROC1, Figure.WAFROC1))


@pytest.mark.parametrize("figure", Figure)
def test_without_lesions_every_figure_is_undefined(figure: Figure) -> None:
    truth, reading = drawn(2)
    for case in np.flatnonzero(truth.diseased)[::-1]:
        truth, reading = without(int(case), truth, reading)
    assert math.isnan(figure_of_merit(figure, truth, reading))
    assert np.isnan(leave_one_out(figure, truth, reading)).all()


@pytest.mark.parametrize("figure", Figure)
def test_leaving_out_the_only_diseased_case_is_undefined(figure: Figure) -> None:
    truth, reading = drawn(4)
    for case in np.flatnonzero(truth.diseased)[:0:-1]:
        truth, reading = without(int(case), truth, reading)
    left_out = leave_one_out(figure, truth, reading)
    assert np.isnan(left_out[truth.diseased]).all()
    assert np.isfinite(left_out[~truth.diseased]).all()


@given(seed=st.integers(0, 10_000), figure=st.sampled_from(list(Figure)))
@settings(max_examples=60, deadline=None)
def test_monotone_transforms_of_ratings_change_nothing(seed: int, figure: Figure) -> None:
    truth, reading = drawn(seed)
    bent = Reading(
        false_mark=_bent(reading.false_mark),
        lesion=_bent(reading.lesion),
    )
    judged = figure_of_merit(figure, truth, reading, fpf=0.4)
    assert figure_of_merit(figure, truth, bent, fpf=0.4) == pytest.approx(judged)


@given(seed=st.integers(0, 10_000), figure=st.sampled_from(list(Figure)))
@settings(max_examples=60, deadline=None)
def test_the_order_of_cases_and_cases_given_twice_change_nothing(seed: int, figure: Figure) -> None:
    truth, reading = drawn(seed)
    cases = truth.diseased.size
    place = np.random.default_rng(seed).permutation(cases)  # where each case goes
    mixed = np.argsort(place)
    moved = (
        Truth(diseased=truth.diseased[mixed], lesion_case=place[truth.lesion_case], weight=truth.weight),
        Reading(false_mark=reading.false_mark[mixed], lesion=reading.lesion),
    )
    twice = (
        Truth(
            diseased=np.tile(truth.diseased, 2),
            lesion_case=np.concatenate([truth.lesion_case, truth.lesion_case + cases]),
            weight=np.tile(truth.weight, 2),
        ),
        Reading(false_mark=np.tile(reading.false_mark, 2), lesion=np.tile(reading.lesion, 2)),
    )
    judged = figure_of_merit(figure, truth, reading, fpf=0.4)
    assert figure_of_merit(figure, *moved, fpf=0.4) == pytest.approx(judged)
    assert figure_of_merit(figure, *twice, fpf=0.4) == pytest.approx(judged)


def marked(random: np.random.Generator, truth: Truth, hidden: Floats) -> Reading:
    """Marks of a reader of average skill; `hidden` is what all readers see of the lesions."""
    cases, lesions = truth.diseased.size, truth.lesion_case.size
    false_mark = np.where(random.random(cases) < 0.5, random.standard_normal(cases), UNMARKED)
    lesion = 1 + 0.6 * hidden + 0.8 * random.standard_normal(lesions)
    return Reading(false_mark=false_mark, lesion=np.where(random.random(lesions) < 0.8, lesion, UNMARKED))


def test_ninety_five_percent_intervals_of_a_difference_of_wafroc_cover_as_often_as_they_say() -> None:
    random = np.random.default_rng(22)
    diseased = np.arange(140) < 70
    lesion_case = np.concatenate([np.arange(70), np.arange(35)])  # half of the diseased have two lesions
    weight = 1 / np.bincount(lesion_case)[lesion_case]
    truth = Truth(diseased=diseased, lesion_case=lesion_case, weight=weight)
    trials, covered = 1500, 0
    for _ in range(trials):
        hidden = random.standard_normal(lesion_case.size)
        both = [marked(random, truth, hidden) for _ in range(2)]
        study = Study(
            figures=np.asarray([[figure_of_merit(Figure.WAFROC, truth, one)] for one in both]),
            covariance=jackknife_covariance(np.asarray([[leave_one_out(Figure.WAFROC, truth, one)] for one in both])),
        )
        estimate = fixed_readers(study).contrasts[0].estimate
        covered += estimate.low <= 0 <= estimate.high
    assert 0.93 <= covered / trials <= 0.97


def _bent(ratings: Floats) -> Floats:
    return np.where(np.isneginf(ratings), ratings, np.exp(ratings / 2) - 30)

"""Obuchowski and Rockette against scipy, statsmodels, scikit-learn, pROC and simulated readers."""

from __future__ import annotations

import math
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats
from sklearn.metrics import roc_auc_score
from statsmodels.formula.api import ols
from statsmodels.stats.multitest import multipletests

from eval.mrmc import (
    NO_COVARIANCE,
    NO_FIGURE,
    NO_VARIANCE,
    ONE_READER,
    ONE_TREATMENT,
    Study,
    against_panel,
    fixed_cases,
    fixed_readers,
    mean_squares,
    random_readers_random_cases,
)
from eval.mrmc_covariance import (
    areas,
    bootstrap_covariance,
    delong_covariance,
    jackknife_covariance,
    leave_one_out_areas,
)
from eval.mrmc_document import holm
from tests.conftest import require_tool

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def drawn(seed: int, treatments: int = 2, readers: int = 4, cases: int = 40) -> tuple[Floats, Bools]:
    """Correlated readings with ties, half of the cases diseased."""
    random = np.random.default_rng(seed)
    diseased = np.arange(cases) % 2 == 0
    shared = random.normal(size=cases) + 1.2 * diseased
    return np.round(2 * (shared + random.normal(size=(treatments, readers, cases)))), diseased


def jackknifed(ratings: Floats, diseased: Bools) -> Study:
    return Study(
        figures=areas(ratings, diseased),
        covariance=jackknife_covariance(leave_one_out_areas(ratings, diseased)),
    )


def test_mean_squares_are_those_of_statsmodels() -> None:
    figures = np.random.default_rng(3).normal(size=(3, 4))
    table = pd.DataFrame(
        [(t, r, figures[t, r]) for t in range(3) for r in range(4)], columns=["treatment", "reader", "figure"]
    )
    anova = sm.stats.anova_lm(ols("figure ~ C(treatment) + C(reader)", table).fit())
    found = mean_squares(figures)
    judged = anova["mean_sq"]
    assert found.treatment == pytest.approx(judged["C(treatment)"])
    assert found.reader == pytest.approx(judged["C(reader)"])
    assert found.treatment_reader == pytest.approx(judged["Residual"])


def test_areas_and_those_without_a_case_are_those_of_scikit_learn() -> None:
    ratings, diseased = drawn(1)
    left_out = leave_one_out_areas(ratings, diseased)
    for index in np.ndindex(2, 4):
        assert areas(ratings, diseased)[index] == pytest.approx(roc_auc_score(diseased, ratings[index]))
        for case in range(diseased.size):
            kept = np.arange(diseased.size) != case
            judged = roc_auc_score(diseased[kept], ratings[index][kept])
            assert left_out[index][case] == pytest.approx(judged)


def test_the_jackknife_covariance_is_the_scaled_sample_covariance() -> None:
    left_out = leave_one_out_areas(*drawn(2))
    cases = left_out.shape[-1]
    judged = np.cov(left_out.reshape(8, cases)) * (cases - 1) ** 2 / cases
    assert jackknife_covariance(left_out).reshape(8, 8) == pytest.approx(judged)


def test_the_delong_covariance_is_that_of_proc(tmp_path: Path) -> None:
    rscript = require_tool("Rscript", hint="apt-get install r-cran-proc")
    ratings, diseased = drawn(4, readers=2, cases=60)
    path = tmp_path / "ratings.csv"
    np.savetxt(path, np.column_stack([diseased, ratings.reshape(4, -1).T]), delimiter=",")
    script = f"""
    suppressMessages(library(pROC)); d <- read.csv("{path}", header = FALSE)
    r <- lapply(2:5, function(i) roc(d[[1]], d[[i]], direction = "<", quiet = TRUE))
    v <- function(i, j) if (i == j) var(r[[i]], method = "delong") else cov(r[[i]], r[[j]], method = "delong")
    for (i in 1:4) for (j in 1:4) cat(format(v(i, j), digits = 15), "")
    """
    said = subprocess.run([rscript, "-e", script], capture_output=True, text=True, check=True).stdout
    judged = np.asarray([float(word) for word in said.split()]).reshape(4, 4)
    assert delong_covariance(ratings, diseased).reshape(4, 4) == pytest.approx(judged, rel=1e-9)


def test_the_bootstrap_covariance_is_that_of_weighted_areas_of_scikit_learn() -> None:
    ratings, diseased = drawn(5, treatments=1, readers=2, cases=20)
    random = np.random.default_rng(9)
    weights = np.zeros((30, 20))
    weights[:, diseased] = random.multinomial(10, np.full(10, 0.1), size=30)
    weights[:, ~diseased] = random.multinomial(10, np.full(10, 0.1), size=30)
    judged = np.cov([[roc_auc_score(diseased, row, sample_weight=one) for one in weights] for row in ratings[0]])
    found = bootstrap_covariance(ratings, diseased, resamples=30, seed=9)
    assert found[0, :, 0, :] == pytest.approx(judged)


def test_the_three_covariances_agree_when_cases_are_many() -> None:
    ratings, diseased = drawn(6, cases=400)
    jackknife = jackknife_covariance(leave_one_out_areas(ratings, diseased))
    scale = float(np.einsum("ijij->", jackknife)) / 8
    assert np.abs(delong_covariance(ratings, diseased) - jackknife).max() < 0.02 * scale
    bootstrap = bootstrap_covariance(ratings, diseased, resamples=4000, seed=1)
    assert np.abs(bootstrap - jackknife).max() < 0.1 * scale


def test_two_treatments_with_cases_fixed_are_the_paired_t_test_of_scipy() -> None:
    study = jackknifed(*drawn(7))
    judged = stats.ttest_rel(study.figures[0], study.figures[1])
    found = fixed_cases(study)
    assert found.contrasts[0].statistic == pytest.approx(judged.statistic)
    assert found.p == pytest.approx(judged.pvalue)
    assert found.f == pytest.approx(judged.statistic**2)
    interval = judged.confidence_interval()
    estimate = found.contrasts[0].estimate
    assert (estimate.low, estimate.high) == pytest.approx((interval.low, interval.high))


def test_one_reader_with_cases_random_is_the_paired_test_of_proc(tmp_path: Path) -> None:
    rscript = require_tool("Rscript", hint="apt-get install r-cran-proc")
    ratings, diseased = drawn(8, readers=1, cases=80)
    path = tmp_path / "ratings.csv"
    np.savetxt(path, np.column_stack([diseased, ratings[:, 0].T]), delimiter=",")
    script = f"""
    suppressMessages(library(pROC)); d <- read.csv("{path}", header = FALSE)
    a <- roc(d[[1]], d[[2]], direction = "<", quiet = TRUE); b <- roc(d[[1]], d[[3]], direction = "<", quiet = TRUE)
    t <- roc.test(a, b, method = "delong", paired = TRUE); cat(format(c(t$statistic, t$p.value), digits = 15))
    """
    said = subprocess.run([rscript, "-e", script], capture_output=True, text=True, check=True).stdout.split()
    found = fixed_readers(Study(figures=areas(ratings, diseased), covariance=delong_covariance(ratings, diseased)))
    assert found.contrasts[0].statistic == pytest.approx(float(said[0]))
    assert found.p == pytest.approx(float(said[1]))


def test_all_pairs_of_three_treatments_are_compared_and_adjusted_by_holm() -> None:
    study = jackknifed(*drawn(9, treatments=3))
    found = random_readers_random_cases(study)
    assert [(one.first, one.second) for one in found.contrasts] == [(0, 1), (0, 2), (1, 2)]
    means = study.figures.mean(axis=1)
    assert found.contrasts[1].estimate.value == pytest.approx(means[0] - means[2])
    assert found.numerator_df == 2
    raw = [one.p for one in found.contrasts]
    assert holm(raw) == pytest.approx(multipletests(raw, method="holm")[1])


@pytest.mark.parametrize("seed", range(3))
def test_a_machine_against_a_panel_is_the_machine_repeated_as_a_second_treatment(seed: int) -> None:
    """Kooi and others 2016: copies of the machine make a treatment, and the same F, degrees of freedom and p."""
    study = jackknifed(*drawn(seed, treatments=1, readers=6, cases=60))
    found = against_panel(study, 2).random_readers_random_cases
    panel = [0, 1, 3, 4, 5]
    order = [*panel, *[2] * 5]
    twice = Study(
        figures=study.figures[0][order].reshape(2, 5),
        covariance=study.covariance[0, :, 0, :][np.ix_(order, order)].reshape(2, 5, 2, 5),
    )
    judged = random_readers_random_cases(twice)
    assert (found.f, found.ddf, found.p) == pytest.approx((judged.f, judged.ddf, judged.p))
    estimate, other = found.contrasts[0].estimate, judged.contrasts[0].estimate
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx((other.value, other.low, other.high))


def test_a_machine_against_a_panel_with_cases_fixed_is_the_one_sample_t_test_of_scipy() -> None:
    study = jackknifed(*drawn(11, treatments=1, readers=5))
    judged = stats.ttest_1samp(study.figures[0, 1:] - study.figures[0, 0], 0)
    found = against_panel(study, 0).fixed_cases
    assert found.contrasts[0].statistic == pytest.approx(judged.statistic)
    assert found.p == pytest.approx(judged.pvalue)


RATED = st.integers(0, 10_000)


@given(seed=RATED)
@settings(max_examples=25, deadline=None)
def test_monotone_transforms_of_ratings_change_nothing(seed: int) -> None:
    ratings, diseased = drawn(seed)
    plain, bent = jackknifed(ratings, diseased), jackknifed(np.exp(ratings / 3) + 7, diseased)
    assert bent.figures == pytest.approx(plain.figures)
    assert bent.covariance == pytest.approx(plain.covariance, abs=1e-12)


@given(seed=RATED)
@settings(max_examples=25, deadline=None)
def test_the_order_of_cases_and_readers_changes_nothing(seed: int) -> None:
    ratings, diseased = drawn(seed)
    random = np.random.default_rng(seed)
    cases, readers = random.permutation(diseased.size), random.permutation(4)
    plain = random_readers_random_cases(jackknifed(ratings, diseased))
    mixed = random_readers_random_cases(jackknifed(ratings[:, readers][..., cases], diseased[cases]))
    assert (mixed.f, mixed.ddf, mixed.p) == pytest.approx((plain.f, plain.ddf, plain.p))


@given(seed=RATED)
@settings(max_examples=25, deadline=None)
def test_exchanging_two_treatments_turns_the_difference_round(seed: int) -> None:
    ratings, diseased = drawn(seed)
    there = random_readers_random_cases(jackknifed(ratings, diseased)).contrasts[0]
    back = random_readers_random_cases(jackknifed(ratings[::-1], diseased)).contrasts[0]
    assert back.estimate.value == pytest.approx(-there.estimate.value)
    assert back.p == pytest.approx(there.p)


def test_cases_given_twice_keep_the_areas_and_halve_the_delong_covariance() -> None:
    ratings, diseased = drawn(12, cases=60)
    once, twice = (
        delong_covariance(*study) for study in ((ratings, diseased), (np.tile(ratings, 2), np.tile(diseased, 2)))
    )
    assert areas(np.tile(ratings, 2), np.tile(diseased, 2)) == pytest.approx(areas(ratings, diseased))
    assert twice == pytest.approx(once * 29 / 59, abs=1e-12)  # each class has 30 cases: divided by 59, not 29, and half


def test_one_reader_has_no_random_readers_and_still_random_cases() -> None:
    study = jackknifed(*drawn(13, readers=1))
    for found in (random_readers_random_cases(study), fixed_cases(study)):
        assert (math.isnan(found.f), found.reason) == (True, ONE_READER)
        assert found.contrasts[0].estimate.defined
        assert math.isnan(found.contrasts[0].estimate.low)
    assert fixed_readers(study).p > 0


def test_one_treatment_has_means_and_no_test() -> None:
    found = random_readers_random_cases(jackknifed(*drawn(14, treatments=1)))
    assert (math.isnan(found.p), found.reason, found.contrasts) == (True, ONE_TREATMENT, ())
    assert found.means[0].low < found.means[0].value < found.means[0].high


def test_identical_treatments_have_no_variance_to_test_against() -> None:
    ratings, diseased = drawn(15, treatments=1)
    study = jackknifed(np.concatenate([ratings, ratings]), diseased)
    for analysis in (random_readers_random_cases, fixed_readers, fixed_cases):
        found = analysis(study)
        assert (math.isnan(found.f), math.isnan(found.p), found.reason) == (True, True, NO_VARIANCE)
        assert found.contrasts[0].estimate.value == pytest.approx(0)
        assert found.contrasts[0].estimate.reason == NO_VARIANCE


def test_equal_means_with_readers_who_differ_have_f_zero_and_p_one() -> None:
    figures = np.asarray([[0.8, 0.9], [0.9, 0.8]])
    found = fixed_cases(Study(figures=figures, covariance=np.zeros((2, 2, 2, 2))))
    assert (found.f, found.p) == pytest.approx((0, 1))


def test_readers_who_all_gain_the_same_have_infinite_degrees_of_freedom() -> None:
    covariance = np.zeros((2, 2, 2, 2))
    covariance[0, :, 0, :] = covariance[1, :, 1, :] = 1e-4
    found = random_readers_random_cases(
        Study(figures=np.asarray([[0.75, 0.875], [0.8125, 0.9375]]), covariance=covariance)
    )
    assert math.isinf(found.ddf)
    assert found.p == pytest.approx(2 * stats.norm.sf(0.0625 / math.sqrt(2e-4)), rel=1e-6)


def test_one_class_only_leaves_everything_undefined() -> None:
    ratings, diseased = drawn(16)
    study = jackknifed(ratings[..., diseased], diseased[diseased])
    assert np.isnan(study.figures).all()
    assert random_readers_random_cases(study).reason == NO_FIGURE
    assert not fixed_cases(study).means[0].defined


def test_one_diseased_case_leaves_only_the_readers_to_generalise_to() -> None:
    ratings, diseased = drawn(17)
    kept = ~diseased | (np.arange(diseased.size) == 0)
    study = jackknifed(ratings[..., kept], diseased[kept])
    assert random_readers_random_cases(study).reason == NO_COVARIANCE
    assert fixed_readers(study).reason == NO_COVARIANCE
    assert 0 < fixed_cases(study).p <= 1
    assert np.isnan(delong_covariance(ratings[..., kept], diseased[kept])).all()


def roe_metz(random: np.random.Generator, cases: int = 100, readers: int = 5) -> tuple[Floats, Bools]:
    """Two equal treatments under the model of Roe and Metz 1997: components of variance of readers and of cases."""
    diseased = np.arange(cases) < cases // 2

    def part(variance: float, *shape: int) -> Floats:
        return np.sqrt(variance) * random.standard_normal(shape)

    of_reader = part(0.011, 1, readers, 2) + part(0.011, 2, readers, 2)
    of_case = part(0.3, 1, 1, cases) + part(0.3, 2, 1, cases) + part(0.2, 1, readers, cases)
    return of_case + part(0.2, 2, readers, cases) + 1.5 * diseased + of_reader[..., diseased.astype(int)], diseased


def test_ninety_five_percent_intervals_cover_and_five_percent_tests_reject_as_often_as_they_say() -> None:
    random = np.random.default_rng(20)
    trials, covered, rejected = 1500, 0, 0
    for _ in range(trials):
        found = random_readers_random_cases(jackknifed(*roe_metz(random)))
        estimate = found.contrasts[0].estimate
        covered += estimate.low <= 0 <= estimate.high
        rejected += found.p < 0.05
    assert 0.93 <= covered / trials <= 0.97
    assert rejected == trials - covered


def test_intervals_of_a_panel_less_a_machine_of_the_same_skill_cover_as_often_as_they_say() -> None:
    random = np.random.default_rng(21)
    trials, covered = 1500, 0
    for _ in range(trials):
        ratings, diseased = roe_metz(random, readers=7)
        machine = random.standard_normal(diseased.size) + 1.5 * diseased
        ratings[0, 0] = machine
        found = against_panel(jackknifed(ratings[:1], diseased), 0).random_readers_random_cases
        estimate = found.contrasts[0].estimate
        covered += estimate.low <= 0 <= estimate.high
    assert 0.93 <= covered / trials <= 0.97

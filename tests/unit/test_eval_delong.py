"""Variance of areas by DeLong, judged by R's pROC, by the definition written out, and by simulation."""

from __future__ import annotations

import math
import subprocess

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.delong import Scale, delong, unpaired_difference
from eval.roc import partial_auroc
from tests.conftest import missing, require_tool

CASES = st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3), st.booleans()), min_size=4, max_size=40).filter(
    lambda cases: min(sum(case[2] for case in cases), sum(not case[2] for case in cases)) >= 2
)

PROC = """
suppressMessages(library(pROC))
d <- read.csv(commandArgs(TRUE)[1])
a <- roc(d$truth, d$a, levels=c(0,1), direction="<", quiet=TRUE)
b <- roc(d$truth, d$b, levels=c(0,1), direction="<", quiet=TRUE)
ci <- as.numeric(ci.auc(a, method="delong"))
paired <- roc.test(a, b, method="delong", paired=TRUE)
first <- seq_len(nrow(d)) %% 2 == 0
half <- function(rows) roc(d$truth[rows], d$a[rows], levels=c(0,1), direction="<", quiet=TRUE)
unpaired <- roc.test(half(first), half(!first), method="delong", paired=FALSE)
partial <- as.numeric(auc(a, partial.auc=c(1, 0.8), partial.auc.correct=TRUE))
cat(sprintf("%.12f", c(ci, var(a), var(b), cov(a, b), paired$statistic, paired$p.value, unpaired$statistic, partial)))
"""


def drawn(seed: int, cases: int = 80) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two correlated scores with many ties, and the truth."""
    random = np.random.default_rng(seed)
    diseased = random.random(cases) < 0.4
    common = random.normal(size=cases)
    first = np.round(common + diseased + random.normal(size=cases), 1)
    return first, np.round(common + 0.5 * diseased, 1), diseased


SAH = """
suppressMessages(library(pROC)); data(aSAH)
poor <- as.integer(aSAH$outcome == "Poor")
write.csv(data.frame(poor, aSAH$s100b, as.integer(aSAH$wfns)), row.names=FALSE)
"""


def test_the_published_figures_of_the_haemorrhage_study_come_out() -> None:
    # Turck and others 2010, as Robin and others 2011 (BMC Bioinformatics 12:77) print them
    done = subprocess.run([require_tool("Rscript"), "-e", SAH], capture_output=True, text=True, check=False)
    if "no package called" in done.stderr:
        missing("R has no pROC")
    rows = np.asarray([[float(cell) for cell in line.split(",")] for line in done.stdout.splitlines()[1:]])
    diseased, s100b, wfns = rows[:, 0] == 1, rows[:, 1], rows[:, 2]
    assert (diseased.sum(), (~diseased).sum()) == (41, 72)
    areas = delong([wfns, s100b], diseased)
    estimate = areas.estimate(1)
    assert estimate.value == pytest.approx(0.7313686, abs=5e-8)
    assert (estimate.low, estimate.high) == (pytest.approx(0.6301182, abs=5e-8), pytest.approx(0.8326189, abs=5e-8))
    assert areas.values[0] == pytest.approx(0.8236789, abs=5e-8)
    difference = areas.difference()
    assert (difference.z, difference.p) == (pytest.approx(2.209, abs=5e-4), pytest.approx(0.02718, abs=5e-6))


@pytest.fixture(scope="module")
def proc(tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """What pROC says of `drawn(3)`."""
    folder = tmp_path_factory.mktemp("proc")
    table, script = folder / "cases.csv", folder / "roc.R"
    first, second, diseased = drawn(3)
    rows = [f"{int(y)},{a},{b}" for y, a, b in zip(diseased, first, second, strict=True)]
    table.write_text("truth,a,b\n" + "\n".join(rows) + "\n", encoding="utf-8")
    script.write_text(PROC, encoding="utf-8")
    done = subprocess.run(
        [require_tool("Rscript"), str(script), str(table)], capture_output=True, text=True, check=False
    )
    if "no package called" in done.stderr:
        missing("R has no pROC")
    assert done.returncode == 0, done.stderr
    return [float(number) for number in done.stdout.split()]


def test_area_interval_and_covariance_are_those_of_proc(proc: list[float]) -> None:
    first, second, diseased = drawn(3)
    areas = delong([first, second], diseased)
    estimate = areas.estimate()
    assert [estimate.low, estimate.value, estimate.high] == pytest.approx(proc[:3], abs=1e-9)
    assert np.diag(areas.covariance) == pytest.approx(proc[3:5], abs=1e-10)
    assert areas.covariance[0, 1] == pytest.approx(proc[5], abs=1e-10)


def test_the_paired_test_is_that_of_proc(proc: list[float]) -> None:
    first, second, diseased = drawn(3)
    difference = delong([first, second], diseased).difference()
    assert (difference.z, difference.p) == (pytest.approx(proc[6], abs=1e-8), pytest.approx(proc[7], abs=1e-8))
    assert difference.estimate.low < difference.estimate.value < difference.estimate.high


def test_the_unpaired_statistic_is_that_of_proc(proc: list[float]) -> None:
    first, _, diseased = drawn(3)
    even = np.arange(1, len(first) + 1) % 2 == 0
    halves = [delong([first[rows]], diseased[rows]) for rows in (even, ~even)]
    assert unpaired_difference(*halves).z == pytest.approx(proc[8], abs=1e-8)


def test_the_partial_area_is_that_of_proc(proc: list[float]) -> None:
    first, _, diseased = drawn(3)
    assert partial_auroc(first, diseased, 0.0, 0.2).standardised == pytest.approx(proc[9], abs=1e-9)


@given(CASES)
@settings(max_examples=60, deadline=None)
def test_the_covariance_is_that_of_placements_counted_pair_by_pair(cases: list[tuple[int, int, bool]]) -> None:
    scores = np.asarray([case[:2] for case in cases], dtype=float).T
    diseased = np.asarray([case[2] for case in cases])
    ill, well = scores[:, diseased], scores[:, ~diseased]
    psi = (ill[:, :, None] > well[:, None, :]) + 0.5 * (ill[:, :, None] == well[:, None, :])
    expected = np.cov(psi.mean(axis=2)) / ill.shape[1] + np.cov(psi.mean(axis=1)) / well.shape[1]
    areas = delong(list(scores), diseased)
    assert areas.values == pytest.approx(psi.mean(axis=(1, 2)))
    assert areas.covariance == pytest.approx(expected, abs=1e-12)


@given(CASES, st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_order_of_cases_and_rising_transforms_change_nothing(cases: list[tuple[int, int, bool]], random) -> None:  # type: ignore[no-untyped-def]
    scores = np.asarray([case[0] for case in cases], dtype=float)
    diseased = np.asarray([case[2] for case in cases])
    shuffled = np.asarray(random.sample(range(len(cases)), len(cases)))
    expected = delong([scores], diseased)
    for other in (delong([np.exp(scores) - 7], diseased), delong([scores[shuffled]], diseased[shuffled])):
        assert other.values == pytest.approx(expected.values)
        assert other.covariance == pytest.approx(expected.covariance, abs=1e-14)


@given(CASES)
@settings(max_examples=40, deadline=None)
def test_doubling_every_case_keeps_the_area_and_lowers_the_variance(cases: list[tuple[int, int, bool]]) -> None:
    scores = np.asarray([case[0] for case in cases], dtype=float)
    diseased = np.asarray([case[2] for case in cases])
    once, twice = delong([scores], diseased), delong([np.tile(scores, 2)], np.tile(diseased, 2))
    assert twice.values == pytest.approx(once.values)
    assert twice.covariance[0, 0] <= once.covariance[0, 0] + 1e-15


def test_calling_the_well_ill_and_the_reverse_gives_one_minus_the_area_with_the_same_variance() -> None:
    first, _, diseased = drawn(9)
    one, other = delong([first], diseased), delong([first], ~diseased)
    assert other.values == pytest.approx(1 - one.values)
    assert other.covariance == pytest.approx(one.covariance)


@pytest.mark.parametrize("truth", [[True] * 3, [False] * 3])
def test_one_class_only_has_no_area_and_says_which_is_missing(truth: list[bool]) -> None:
    estimate = delong([np.asarray([0.1, 0.2, 0.3])], np.asarray(truth)).estimate()
    assert math.isnan(estimate.value)
    assert ("non-diseased" in estimate.reason) is truth[0]


def test_one_diseased_case_has_an_area_but_no_interval() -> None:
    estimate = delong([np.asarray([0.1, 0.2, 0.3])], np.asarray([False, True, False])).estimate()
    assert estimate.value == 0.5
    assert math.isnan(estimate.low)
    assert "only one diseased" in estimate.reason


@pytest.mark.parametrize("scale", list(Scale))
def test_classes_that_do_not_overlap_get_no_interval_of_width_zero(scale: Scale) -> None:
    estimate = delong([np.arange(6.0)], np.arange(6) >= 3).estimate(scale=scale)
    assert estimate.value == 1
    assert math.isnan(estimate.low)
    assert "variance is 0" in estimate.reason


def test_two_scores_that_rank_alike_have_a_difference_of_zero_and_no_test() -> None:
    first, _, diseased = drawn(4)
    difference = delong([first, np.exp(first)], diseased).difference()
    assert difference.estimate.value == 0
    assert math.isnan(difference.p)
    assert "same way" in difference.estimate.reason


def test_a_score_that_is_nan_is_refused() -> None:
    with pytest.raises(ValueError, match="NaN"):
        delong([np.asarray([0.1, math.nan])], np.asarray([True, False]))


@pytest.mark.parametrize(("scale", "shift"), [(Scale.PLAIN, 1.0), (Scale.LOGIT, 1.0), (Scale.LOGIT, 2.0)])
def test_the_interval_covers_the_area_of_two_normals_in_93_to_97_of_100_samples(scale: Scale, shift: float) -> None:
    random = np.random.default_rng(17)
    truth = 0.5 * (1 + math.erf(shift / 2))  # P(N(shift, 1) > N(0, 1))
    diseased = np.arange(160) < 60
    covered = []
    for _ in range(1500):
        estimate = delong([random.normal(size=160) + shift * diseased], diseased).estimate(scale=scale)
        covered.append(estimate.low <= truth <= estimate.high)
    assert 0.93 <= np.mean(covered) <= 0.97


def test_the_paired_test_rejects_five_in_a_hundred_under_no_difference() -> None:
    random = np.random.default_rng(8)
    diseased = np.arange(120) < 50
    rejected = []
    for _ in range(1500):
        common = random.normal(size=120) + diseased
        pair = [common + random.normal(size=120) for _ in range(2)]
        rejected.append(delong(pair, diseased).difference().p < 0.05)
    assert 0.03 <= np.mean(rejected) <= 0.07


def test_a_difference_without_variance_that_is_not_zero_is_not_called_alike() -> None:
    diseased = np.arange(8) >= 4
    difference = delong([np.arange(8.0), -np.arange(8.0)], diseased).difference()
    assert difference.estimate.value == 1
    assert difference.estimate.reason == "the estimated variance of the difference is 0"

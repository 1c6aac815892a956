"""Sizes of studies: published tables, R's pROC, and whether studies of these sizes reach their power."""

from __future__ import annotations

import math
import subprocess
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm

from eval import sample_size
from eval.delong import delong
from eval.paired import PairedCounts, mcnemar
from eval.proportions import wald
from eval.sample_size import AreaVariance, PilotComponents, Sides
from eval.two_groups import TwoGroups, non_inferiority
from tests.conftest import missing, require_tool

# Van Dyke's study of spin echo and cine MRI, components by jackknife as Hillis, Obuchowski and Berbaum 2011 use them
VAN_DYKE = PilotComponents(
    treatment_reader=0.00020040, error=0.00080229, cov1=0.00034661, cov2=0.00034407, cov3=0.00023903, cases=114
)


def test_buderer_gives_the_numbers_of_her_formula() -> None:
    size = sample_size.buderer(sensitivity=0.9, specificity=0.85, half_width=0.1, prevalence=0.2)
    assert (size.diseased, size.others) == (35, 49)  # 34.6 and 48.98
    assert size.total == 173  # 34.6 / 0.2
    only = sample_size.buderer(sensitivity=None, specificity=0.85, half_width=0.1, prevalence=0.2)
    assert (only.diseased, only.others, only.total) == (0, 49, 62)


def test_the_table_of_hajian_tilaki_for_sensitivity_comes_out() -> None:
    # Hajian-Tilaki 2014, J Biomed Inform 48:193: sensitivity 0.70, half width 0.10, prevalence 0.10
    size = sample_size.buderer(sensitivity=0.7, specificity=None, half_width=0.1, prevalence=0.1)
    assert size.total == 807


def test_with_so_many_diseased_the_interval_is_as_wide_as_asked() -> None:
    size = sample_size.buderer(sensitivity=0.8, specificity=None, half_width=0.05, prevalence=0.5)
    interval = wald(round(0.8 * size.diseased), size.diseased)
    assert (interval.high - interval.low) / 2 == pytest.approx(0.05, abs=5e-4)


@pytest.mark.parametrize(
    ("first", "second", "power", "published"),
    [(0.70, 0.75, 0.80, 652), (0.70, 0.75, 0.90, 897), (0.70, 0.75, 0.95, 1131)],
)
def test_table_iii_of_hanley_and_mcneil_comes_out(first: float, second: float, power: float, published: int) -> None:
    size = sample_size.area_difference(
        AreaVariance.HANLEY_MCNEIL, first=first, second=second, power=power, sides=Sides.ONE
    )
    assert size.diseased == pytest.approx(published, rel=0.003)  # the table was made with quantiles of two digits
    assert size.others == size.diseased


def test_the_standard_error_of_hanley_and_mcneils_example_comes_out() -> None:
    # their CT images: area 0.893 of 51 abnormal and 58 normal, standard error 0.032
    assert sample_size.hanley_mcneil_standard_error(0.893, 51, 58) == pytest.approx(0.032, abs=1e-3)


def test_for_many_cases_the_standard_error_and_the_variance_agree() -> None:
    error = sample_size.hanley_mcneil_standard_error(0.8, 100_000, 300_000)
    variance = sample_size.area_variance(AreaVariance.HANLEY_MCNEIL, 0.8, 3.0)
    assert error**2 * 100_000 == pytest.approx(variance, rel=1e-4)


@pytest.fixture(scope="module")
def of_proc(tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """Diseased cases that pROC wants for areas of 0.65, 0.8 and 0.9 against 0.5, others 1 and 3 for each."""
    script: Path = tmp_path_factory.mktemp("proc") / "size.R"
    script.write_text(
        "suppressMessages(library(pROC)); for (a in c(0.65, 0.8, 0.9)) for (k in c(1, 3)) "
        "cat(power.roc.test(auc=a, power=0.9, sig.level=0.05, kappa=k)$ncases, '')",
        encoding="utf-8",
    )
    done = subprocess.run([require_tool("Rscript"), str(script)], capture_output=True, text=True, check=False)
    if "no package called" in done.stderr:
        missing("R has no pROC")
    assert done.returncode == 0, done.stderr
    return [float(number) for number in done.stdout.split()]


def test_obuchowskis_number_against_chance_is_that_of_proc(of_proc: list[float]) -> None:
    found = [
        sample_size.area_against(
            AreaVariance.OBUCHOWSKI, auc=auc, null=0.5, power=0.9, sides=Sides.TWO, ratio=ratio
        ).diseased
        for auc in (0.65, 0.8, 0.9)
        for ratio in (1.0, 3.0)
    ]
    assert found == [math.ceil(number) for number in of_proc]


def test_a_study_of_obuchowskis_size_is_no_less_precise_and_no_weaker_than_was_asked_for() -> None:
    # the formula is for ratings in five categories, so scores of two normals do better than it promises
    random = np.random.default_rng(2)
    shift = math.sqrt(2) * float(norm.ppf(0.85))
    size = sample_size.area_precision(AreaVariance.OBUCHOWSKI, auc=0.85, half_width=0.05, ratio=2)
    assert size.others == pytest.approx(2 * size.diseased, abs=2)
    diseased = np.arange(size.total) < size.diseased
    halves, shown = [], []
    against = sample_size.area_against(AreaVariance.OBUCHOWSKI, auc=0.85, null=0.75, power=0.8)
    ill = np.arange(against.total) < against.diseased
    for _ in range(400):
        estimate = delong([random.normal(size=size.total) + shift * diseased], diseased).estimate()
        halves.append((estimate.high - estimate.low) / 2)
        tested = delong([random.normal(size=against.total) + shift * ill], ill).estimate()
        shown.append(tested.low > 0.75)
    assert 0.035 < np.mean(halves) <= 0.05
    assert 0.8 <= np.mean(shown) < 0.97


@pytest.mark.parametrize("auc", [0.7, 0.85, 0.95])
def test_a_study_of_hanley_and_mcneils_size_has_the_interval_that_was_asked_for_on_their_distributions(
    auc: float,
) -> None:
    random = np.random.default_rng(7)
    size = sample_size.area_precision(AreaVariance.HANLEY_MCNEIL, auc=auc, half_width=0.04)
    diseased = np.arange(size.total) < size.diseased
    scale = np.where(diseased, auc / (1 - auc), 1.0)  # of two exponential distributions with this area
    variances = [delong([random.exponential(scale)], diseased).covariance[0, 0] for _ in range(200)]
    assert 1.96 * math.sqrt(np.mean(variances)) == pytest.approx(0.04, rel=0.03)


def test_correlation_between_two_areas_saves_cases() -> None:
    apart, together = (
        sample_size.area_difference(AreaVariance.OBUCHOWSKI, first=0.8, second=0.85, correlation=r).diseased
        for r in (0.0, 0.5)
    )
    assert together == pytest.approx(apart / 2, rel=0.02)


def test_connor_gives_the_worked_number_and_mcnemars_test_then_has_the_power() -> None:
    # discordant shares 0.45 and 0.05, two-sided 5 %, power 80 %: 23 pairs
    assert sample_size.connor(first_only=0.45, second_only=0.05) == 23
    random = np.random.default_rng(1)
    pairs = sample_size.connor(first_only=0.15, second_only=0.05, power=0.9)
    drawn = random.multinomial(pairs, [0.15, 0.05, 0.8], size=1500)
    shown = [mcnemar(PairedCounts(both=c, first_only=a, second_only=b, neither=0)).mid < 0.05 for a, b, c in drawn]
    assert np.mean(shown) == pytest.approx(0.9, abs=0.03)


def test_farrington_and_mannings_study_shows_non_inferiority_with_its_power() -> None:
    random = np.random.default_rng(3)
    sizes = sample_size.farrington_manning(first=0.85, second=0.85, margin=0.1, ratio=0.5, power=0.8)
    assert sizes.second == pytest.approx(sizes.first / 2, abs=1)
    shown = [
        non_inferiority(
            TwoGroups(first=int(a), first_cases=sizes.first, second=int(b), second_cases=sizes.second), 0.1
        ).shown
        for a, b in zip(
            random.binomial(sizes.first, 0.85, 3000), random.binomial(sizes.second, 0.85, 3000), strict=True
        )
    ]
    assert np.mean(shown) == pytest.approx(0.8, abs=0.03)


def test_on_the_margin_itself_no_more_than_the_error_of_the_first_kind_is_shown() -> None:
    random = np.random.default_rng(5)
    shown = [
        non_inferiority(TwoGroups(first=int(a), first_cases=200, second=int(b), second_cases=200), 0.1).shown
        for a, b in zip(random.binomial(200, 0.75, 4000), random.binomial(200, 0.85, 4000), strict=True)
    ]
    assert np.mean(shown) == pytest.approx(0.025, abs=0.01)


def test_van_dykes_pilot_asks_for_the_published_numbers_of_cases() -> None:
    # RJafroc, sample sizes by the method of Obuchowski and Rockette: 6 readers 251 cases, 10 readers 163
    assert sample_size.mrmc_cases(VAN_DYKE, difference=0.0438003, readers=6) == 251
    assert sample_size.mrmc_cases(VAN_DYKE, difference=0.0438003, readers=10) == 163


def test_power_grows_with_cases_and_readers_and_stays_the_error_without_a_difference() -> None:
    def power(readers: int, cases: int, difference: float = 0.04) -> float:
        return sample_size.mrmc_power(VAN_DYKE, difference=difference, readers=readers, cases=cases).power

    assert power(5, 100) < power(5, 200) < power(10, 200)
    assert power(5, 100, difference=1e-9) == pytest.approx(0.05, abs=1e-6)


def test_too_few_readers_never_reach_the_power_and_it_is_said() -> None:
    with pytest.raises(ValueError, match="take more"):
        sample_size.mrmc_cases(VAN_DYKE, difference=0.02, readers=3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sample_size.buderer(sensitivity=None, specificity=None, half_width=0.1, prevalence=0.2), "name the"),
        (lambda: sample_size.buderer(sensitivity=1.0, specificity=None, half_width=0.1, prevalence=0.2), "between 0"),
        (lambda: sample_size.connor(first_only=0.1, second_only=0.1), "must differ"),
        (lambda: sample_size.connor(first_only=0.7, second_only=0.5), "together at most 1"),
        (lambda: sample_size.farrington_manning(first=0.7, second=0.8, margin=0.1), "margin or worse"),
        (lambda: sample_size.area_against(AreaVariance.OBUCHOWSKI, auc=0.8, null=0.8), "must differ"),
        (lambda: sample_size.area_variance(AreaVariance.OBUCHOWSKI, 0.8, 0.0), "more than 0"),
        (
            lambda: sample_size.area_difference(AreaVariance.OBUCHOWSKI, first=0.8, second=0.9, correlation=1.0),
            "correlation lies",
        ),
        (lambda: sample_size.mrmc_power(VAN_DYKE, difference=0.1, readers=1, cases=50), "at least 2 readers"),
    ],
)
def test_what_cannot_be_planned_is_refused_with_the_reason(call, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        call()

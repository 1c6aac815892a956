"""Proportions and what follows from them: statsmodels, published tables, coverage counted exactly."""

from __future__ import annotations

import math
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from eval.clustered import clustered_proportion, effective_counts
from eval.intervals import clopper_pearson
from eval.proportions import Proportion, rates, rates_of_counts, rule_out, wald, wilson

COUNTS = st.integers(1, 60).flatmap(lambda trials: st.tuples(st.integers(0, trials), st.just(trials)))


@given(COUNTS)
@settings(max_examples=80, deadline=None)
def test_clopper_pearson_and_wilson_are_those_of_statsmodels(counts: tuple[int, int]) -> None:
    from statsmodels.stats.proportion import proportion_confint

    exact, score = clopper_pearson(*counts), wilson(*counts)
    assert (exact.low, exact.high) == pytest.approx(proportion_confint(*counts, method="beta"), abs=1e-9)
    assert (score.low, score.high) == pytest.approx(proportion_confint(*counts, method="wilson"), abs=1e-9)


def test_wald_is_that_of_statsmodels_and_has_no_interval_of_width_zero() -> None:
    from statsmodels.stats.proportion import proportion_confint

    estimate = wald(7, 20)
    assert (estimate.low, estimate.high) == pytest.approx(proportion_confint(7, 20, method="normal"))
    assert math.isnan(wald(20, 20).low)
    assert "no width" in wald(20, 20).reason


def test_clopper_pearson_covers_at_least_95_of_100_and_wilson_95_on_average() -> None:
    for trials in (10, 40):
        found = [clopper_pearson(x, trials) for x in range(trials + 1)]
        scored = [wilson(x, trials) for x in range(trials + 1)]
        shares = np.linspace(0.02, 0.98, 97)
        chance = binom.pmf(np.arange(trials + 1)[None, :], trials, shares[:, None])

        def coverage(intervals: list, shares=shares, chance=chance) -> np.ndarray:  # type: ignore[no-untyped-def,type-arg]
            inside = np.asarray([[one.low <= share <= one.high for one in intervals] for share in shares])
            return np.asarray((chance * inside).sum(axis=1))

        assert coverage(found).min() >= 0.95
        assert 0.93 <= coverage(scored).mean() <= 0.97


def test_nothing_of_nothing_is_undefined_with_the_reason() -> None:
    share = Proportion.counted(0, 0)
    for estimate in (share.exact, share.wilson, share.wald):
        assert not estimate.defined
        assert estimate.reason.startswith("0 of 0")


def test_the_figures_of_a_published_table_come_out() -> None:
    # Altman and Bland 1994, BMJ 308:1552 and 309:102: liver scans, 231 true positive of 258, 54 true negative of 86
    found = rates_of_counts(231, 32, 27, 54)
    assert found.sensitivity.exact.value == pytest.approx(0.90, abs=5e-3)
    assert found.specificity.exact.value == pytest.approx(0.63, abs=5e-3)
    assert found.ppv.exact.value == pytest.approx(0.88, abs=5e-3)
    assert found.npv.exact.value == pytest.approx(0.67, abs=5e-3)
    (at,) = rates_of_counts(231, 32, 27, 54, [0.25]).at_prevalence
    assert at.ppv.value == pytest.approx(0.45, abs=5e-3)
    assert at.npv.value == pytest.approx(0.95, abs=5e-3)


def test_likelihood_ratios_have_the_interval_of_a_ratio_of_proportions() -> None:
    from statsmodels.stats.proportion import confint_proportions_2indep

    found = rates_of_counts(90, 20, 10, 180)
    positive = confint_proportions_2indep(90, 100, 20, 200, compare="ratio", method="log")
    negative = confint_proportions_2indep(10, 100, 180, 200, compare="ratio", method="log")
    assert (found.lr_positive.low, found.lr_positive.high) == pytest.approx(positive)
    assert (found.lr_negative.low, found.lr_negative.high) == pytest.approx(negative)


def test_balanced_accuracy_has_newcombes_interval_of_youdens_index_halved() -> None:
    from statsmodels.stats.proportion import confint_proportions_2indep

    found = rates_of_counts(90, 20, 10, 180).balanced_accuracy
    youden = confint_proportions_2indep(90, 100, 20, 200, compare="diff", method="newcomb")
    assert (found.low, found.high) == pytest.approx([(1 + limit) / 2 for limit in youden])


def test_at_the_prevalence_of_the_sample_predictive_values_are_those_of_the_sample() -> None:
    found = rates_of_counts(90, 20, 10, 180, [1 / 3])
    assert found.at_prevalence[0].ppv.value == pytest.approx(found.ppv.exact.value)
    assert found.at_prevalence[0].npv.value == pytest.approx(found.npv.exact.value)


def test_predictive_values_at_a_prevalence_cover_93_to_97_of_100_samples() -> None:
    random = np.random.default_rng(4)
    truth = 0.85 * 0.05 / (0.85 * 0.05 + 0.2 * 0.95)
    covered = []
    for true, false in zip(random.binomial(120, 0.85, 1000), random.binomial(200, 0.2, 1000), strict=True):
        (at,) = rates_of_counts(int(true), int(false), int(120 - true), int(200 - false), [0.05]).at_prevalence
        covered.append(at.ppv.low <= truth <= at.ppv.high)
    assert 0.93 <= np.mean(covered) <= 0.97


@pytest.mark.parametrize(
    ("counts", "name", "reason"),
    [
        ((0, 0, 0, 5), "sensitivity", "0 of 0"),
        ((3, 0, 2, 0), "specificity", "0 of 0"),
        ((0, 0, 3, 5), "ppv", "0 of 0"),
        ((3, 5, 0, 0), "npv", "0 of 0"),
        ((3, 0, 2, 5), "lr_positive", "no false positive"),
        ((3, 5, 2, 0), "lr_negative", "no true negative"),
        ((0, 0, 0, 5), "balanced_accuracy", "no cases of one class"),
        ((0, 0, 0, 5), "lr_positive", "no cases of one class"),
    ],
)
def test_what_divides_by_nothing_is_undefined(counts: tuple[int, int, int, int], name: str, reason: str) -> None:
    found = getattr(rates_of_counts(*counts), name)
    estimate = getattr(found, "exact", found)
    assert not estimate.defined
    assert reason in estimate.reason


def test_ratios_of_calls_that_are_all_alike_have_no_interval_of_width_zero() -> None:
    found = rates_of_counts(10, 20, 0, 0, [0.1])
    for estimate in (found.lr_positive, found.at_prevalence[0].ppv):
        assert math.isnan(estimate.low)
        assert "called alike" in estimate.reason
    assert found.lr_positive.value == 1


def test_a_prevalence_of_0_or_1_is_refused() -> None:
    with pytest.raises(ValueError, match="prevalence lies between"):
        rates_of_counts(1, 1, 1, 1, [1.0])


def test_rates_of_columns_are_those_of_their_counts() -> None:
    random = np.random.default_rng(3)
    called, diseased = random.random(200) < 0.4, random.random(200) < 0.3
    counts = [int((a & b).sum()) for a, b in (
        (called, diseased), (called, ~diseased), (~called, diseased), (~called, ~diseased)
    )]  # fmt: skip
    by_columns, by_counts = rates(called, diseased), rates_of_counts(*counts)
    for name in (one.name for one in fields(by_columns)):
        assert getattr(by_columns, name) == getattr(by_counts, name)


# several rows of a patient -------------------------------------------------------------------------------------------


def test_one_row_a_patient_is_clopper_and_pearson() -> None:
    calls = np.arange(30) < 21
    assert clustered_proportion(calls, np.arange(30).astype(str)) == clopper_pearson(21, 30)


def test_repeating_rows_within_patients_adds_no_certainty() -> None:
    calls, patients = np.arange(30) < 21, np.arange(30).astype(str)
    once = clopper_pearson(21, 30)
    thrice = clustered_proportion(np.repeat(calls, 3), np.repeat(patients, 3))
    assert (thrice.low, thrice.high) == (pytest.approx(once.low, abs=0.005), pytest.approx(once.high, abs=0.005))
    assert effective_counts(np.repeat(calls, 3), np.repeat(patients, 3)).trials == pytest.approx(30, rel=0.04)


@pytest.mark.parametrize("called", [True, False])
def test_where_all_rows_are_alike_each_patient_counts_once(called: bool) -> None:
    found = clustered_proportion(np.full(40, called), np.repeat(np.arange(10), 4).astype(str))
    expected = clopper_pearson(10 if called else 0, 10)
    assert (found.value, found.low, found.high) == (expected.value, expected.low, expected.high)


def test_the_clustered_variance_is_that_of_a_regression_with_clustered_errors() -> None:
    import statsmodels.api as sm

    random = np.random.default_rng(9)
    owner = np.repeat(np.arange(40), random.integers(1, 6, 40))
    calls = random.normal(size=40)[owner] + random.normal(size=len(owner)) > 0
    fit = sm.OLS(calls.astype(float), np.ones(len(owner))).fit(
        cov_type="cluster", cov_kwds={"groups": owner, "use_correction": False}
    )
    share = calls.mean()
    effect = fit.bse[0] ** 2 * 40 / 39 / (share * (1 - share) / len(owner))
    assert effective_counts(calls, owner.astype(str)).design_effect == pytest.approx(effect)


def test_the_clustered_interval_covers_at_least_93_of_100_samples_where_rows_agree() -> None:
    random = np.random.default_rng(5)
    patients = np.repeat(np.arange(60), 4).astype(str)
    covered, naive = [], []
    for _ in range(800):
        calls = np.repeat(random.normal(size=60), 4) + 0.5 * random.normal(size=240) > 0
        estimate = clustered_proportion(calls, patients)
        covered.append(estimate.low <= 0.5 <= estimate.high)
        rows = clopper_pearson(int(calls.sum()), 240)
        naive.append(rows.low <= 0.5 <= rows.high)
    assert 0.93 <= np.mean(covered) <= 0.98
    assert np.mean(naive) < 0.85  # what is wrong with counting rows


def test_with_rows_of_both_kinds_the_ratios_have_the_error_of_patients_left_out_one_at_a_time() -> None:
    random = np.random.default_rng(8)
    owner = np.repeat(np.arange(150), 4)
    diseased = np.tile([True, False, False, True], 150)  # both breasts of a patient, one of them ill
    called = random.normal(size=150)[owner] + 0.7 * random.normal(size=600) + diseased > 0.6
    found = rates(called, diseased, owner.astype(str), [0.1])

    def figures(rows: np.ndarray) -> list[float]:
        one = rates(called[rows], diseased[rows], prevalences=[0.1])
        ppv = one.at_prevalence[0].ppv.value
        return [
            math.log(one.lr_positive.value),
            math.log(one.lr_negative.value),
            one.balanced_accuracy.value,
            math.log(ppv / (1 - ppv)),
        ]

    left = np.asarray([figures(owner != name) for name in range(150)])
    errors = np.sqrt(149 / 150 * ((left - left.mean(axis=0)) ** 2).sum(axis=0))
    ppv = found.at_prevalence[0].ppv
    widths = [
        math.log(found.lr_positive.high / found.lr_positive.low),
        math.log(found.lr_negative.high / found.lr_negative.low),
        found.balanced_accuracy.high - found.balanced_accuracy.low,
        math.log(ppv.high / (1 - ppv.high)) - math.log(ppv.low / (1 - ppv.low)),
    ]
    assert [width / (2 * 1.959963985) for width in widths] == pytest.approx(list(errors), rel=0.05)


# rule-out ------------------------------------------------------------------------------------------------------------


def test_the_rule_out_table_removes_what_it_may_and_lists_the_missed_by_score() -> None:
    scores = np.asarray([0.1, 0.2, 0.3, 0.35, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9])
    diseased = np.asarray([False, False, True, False, True, False, True, True, True, True])
    all_found, most = rule_out(scores, diseased, sensitivities=(1.0, 0.6))
    assert (all_found.threshold, all_found.removable.successes, list(all_found.missed)) == (0.3, 2, [])
    assert most.threshold == 0.6  # four of six are at or above 0.6
    assert list(most.missed) == [4, 2]
    assert most.sensitivity.exact.value == pytest.approx(4 / 6)
    assert (most.npv.successes, most.npv.trials) == (4, 6)


def test_without_diseased_cases_nothing_can_be_promised() -> None:
    (row,) = rule_out(np.asarray([0.1, 0.2]), np.asarray([False, False]), sensitivities=(1.0,))
    assert math.isnan(row.threshold)
    assert not row.removable.exact.defined


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), min_size=2, max_size=40).filter(
    lambda rows: any(ill for _, ill in rows)
), st.sampled_from([1.0, 0.99, 0.95, 0.5]))  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_the_sensitivity_is_kept_and_no_higher_threshold_keeps_it(rows: list[tuple[int, bool]], target: float) -> None:
    scores, diseased = np.asarray([row[0] for row in rows], float), np.asarray([row[1] for row in rows])
    (row,) = rule_out(scores, diseased, sensitivities=(target,))
    assert row.sensitivity.exact.value >= target - 1e-9
    assert (scores[diseased] > row.threshold).mean() < target

"""Two proportions: published intervals, the likelihood maximised by brute force, statsmodels, exact coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import xlog1py, xlogy
from scipy.stats import binom
from statsmodels.stats.multitest import multipletests

from eval.paired import (
    PairedCounts,
    clustered_difference,
    holm,
    mcnemar,
    paired_non_inferiority,
    tango,
    tango_score,
)
from eval.two_groups import (
    TwoGroups,
    miettinen_nurminen,
    non_inferiority,
    restricted_shares,
    score,
    score_interval,
)

NEWCOMBE = TwoGroups(first=56, first_cases=70, second=48, second_cases=80)  # Newcombe 1998, example (a)
AIRWAY = PairedCounts(both=1, first_only=1, second_only=7, neither=12)  # Fagerland, Lydersen and Laake 2014
SPUTUM = PairedCounts(both=20, first_only=12, second_only=2, neither=16)  # Armitage and Berry 1994

COUNTS = st.tuples(st.integers(1, 30), st.integers(1, 30)).flatmap(
    lambda sizes: st.tuples(st.integers(0, sizes[0]), st.just(sizes[0]), st.integers(0, sizes[1]), st.just(sizes[1]))
)


def test_miettinen_and_nurminen_give_the_interval_of_newcombes_table() -> None:
    estimate = miettinen_nurminen(NEWCOMBE)
    assert (estimate.low, estimate.high) == (pytest.approx(0.0528, abs=5e-5), pytest.approx(0.3382, abs=5e-5))


def test_without_the_correction_it_is_the_interval_of_mee() -> None:
    estimate = score_interval(NEWCOMBE.difference, lambda d: score(NEWCOMBE, d, corrected=False))
    assert (estimate.low, estimate.high) == (pytest.approx(0.0533, abs=5e-5), pytest.approx(0.3377, abs=5e-5))


def test_at_no_difference_the_statistic_is_that_of_statsmodels_whose_margins_are_wrong() -> None:
    from statsmodels.stats.proportion import test_proportions_2indep as of_statsmodels

    for counts in ((56, 70, 48, 80), (9, 10, 3, 10), (1, 12, 4, 15)):
        groups = TwoGroups(first=counts[0], first_cases=counts[1], second=counts[2], second_cases=counts[3])
        expected = of_statsmodels(*counts, value=0, compare="diff", method="score", correction=True)
        assert score(groups, 0.0, corrected=True) == pytest.approx(expected.statistic)


@given(COUNTS, st.floats(-0.95, 0.95))
@settings(max_examples=60, deadline=None)
def test_restricted_shares_maximise_the_likelihood(counts: tuple[int, int, int, int], difference: float) -> None:
    x1, n1, x2, n2 = counts

    def loss(share: float) -> float:
        other = share - difference
        return -float(xlogy(x1, share) + xlog1py(n1 - x1, -share) + xlogy(x2, other) + xlog1py(n2 - x2, -other))

    low, high = max(0.0, difference), min(1.0, 1 + difference)
    found = minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-12})
    share, other = restricted_shares(x1 / n1, x2 / n2, n2 / n1, difference)
    assert share - other == pytest.approx(difference)
    inside = min(max(share, low + 1e-12), high - 1e-12)
    assert loss(inside) <= found.fun + 1e-6


def test_the_test_of_farrington_and_manning_at_a_margin_is_the_published_statistic() -> None:
    assert score(NEWCOMBE, 0.1, corrected=False) == pytest.approx(1.348, abs=5e-4)  # Mee's, p 0.0889
    tested = non_inferiority(NEWCOMBE, 0.1)
    assert tested.shown
    assert tested.z == pytest.approx(score(NEWCOMBE, -0.1, corrected=False))


@given(COUNTS)
@settings(max_examples=60, deadline=None)
def test_exchanging_the_groups_turns_the_interval_around(counts: tuple[int, int, int, int]) -> None:
    one = miettinen_nurminen(
        TwoGroups(first=counts[0], first_cases=counts[1], second=counts[2], second_cases=counts[3])
    )
    other = miettinen_nurminen(
        TwoGroups(first=counts[2], first_cases=counts[3], second=counts[0], second_cases=counts[1])
    )
    assert (one.low, one.high) == (pytest.approx(-other.high, abs=1e-6), pytest.approx(-other.low, abs=1e-6))
    assert one.low <= one.value <= one.high


def test_miettinen_and_nurminen_cover_93_to_97_of_100_on_average() -> None:
    cases = 25
    low, high = np.empty((cases + 1, cases + 1)), np.empty((cases + 1, cases + 1))
    for x1 in range(cases + 1):
        for x2 in range(cases + 1):
            estimate = miettinen_nurminen(TwoGroups(first=x1, first_cases=cases, second=x2, second_cases=cases))
            low[x1, x2], high[x1, x2] = estimate.low, estimate.high
    covered = []
    for p1 in np.linspace(0.1, 0.9, 9):
        for p2 in np.linspace(0.1, 0.9, 9):
            chance = np.outer(binom.pmf(range(cases + 1), cases, p1), binom.pmf(range(cases + 1), cases, p2))
            covered.append(chance[(low <= p1 - p2) & (p1 - p2 <= high)].sum())
    assert 0.93 <= np.mean(covered) <= 0.97
    assert min(covered) > 0.92


def test_an_empty_group_has_no_difference() -> None:
    groups = TwoGroups(first=0, first_cases=0, second=3, second_cases=8)
    assert "empty" in miettinen_nurminen(groups).reason
    with pytest.raises(ValueError, match="empty"):
        non_inferiority(groups, 0.1)


@pytest.mark.parametrize("margin", [0.0, -0.1, 1.0])
def test_a_margin_that_is_none_is_refused(margin: float) -> None:
    with pytest.raises(ValueError, match="margin lies between 0 and 1"):
        non_inferiority(NEWCOMBE, margin)


# the same cases ------------------------------------------------------------------------------------------------------


def test_tango_gives_the_published_interval_of_the_airway_study() -> None:
    estimate = tango(AIRWAY)
    assert estimate.value == pytest.approx(-0.286, abs=5e-4)
    assert (estimate.low, estimate.high) == (pytest.approx(-0.517, abs=5e-4), pytest.approx(-0.026, abs=5e-4))


def test_exact_mcnemar_gives_the_published_p_values() -> None:
    assert mcnemar(SPUTUM).exact == pytest.approx(0.0129, abs=5e-5)
    assert mcnemar(AIRWAY).exact == pytest.approx(0.0703, abs=5e-5)
    assert mcnemar(AIRWAY).mid == pytest.approx(0.0391, abs=5e-5)


@given(st.integers(0, 30), st.integers(0, 30))
@settings(max_examples=80, deadline=None)
def test_exact_mcnemar_is_that_of_statsmodels(first: int, second: int) -> None:
    from statsmodels.stats.contingency_tables import mcnemar as of_statsmodels

    found = mcnemar(PairedCounts(both=3, first_only=first, second_only=second, neither=2))
    if first + second == 0:
        assert math.isnan(found.exact)
        return
    assert found.exact == pytest.approx(of_statsmodels([[3, first], [second, 2]], exact=True).pvalue)
    assert found.mid <= found.exact + 1e-12


@given(st.integers(0, 15), st.integers(0, 15), st.integers(0, 30), st.floats(-0.9, 0.9))
@settings(max_examples=60, deadline=None)
def test_tangos_statistic_restricts_the_likelihood_by_brute_force(b: int, c: int, same: int, difference: float) -> None:
    n = b + c + same
    if n == 0 or abs(difference) < 1e-3:
        return

    def loss(share: float) -> float:  # share of pairs that only the second has
        other = share + difference
        return -float(xlogy(b, other) + xlogy(c, share) + xlogy(same, 1 - share - other))

    low, high = max(0.0, -difference), (1 - difference) / 2
    found = minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-13})
    edges = [edge for edge in (low, high) if loss(edge) <= found.fun]
    share = edges[0] if edges else found.x
    variance = n * (2 * share + difference - difference**2)
    if variance < 1e-3:
        return
    counts = PairedCounts(both=same, first_only=b, second_only=c, neither=0)
    assert tango_score(counts, difference) == pytest.approx((b - c - n * difference) / math.sqrt(variance), abs=2e-3)


def test_at_no_difference_tangos_test_is_mcnemars_without_correction() -> None:
    assert tango_score(SPUTUM, 0.0) == pytest.approx((12 - 2) / math.sqrt(14))


def test_two_that_never_differ_have_an_interval_around_zero_that_narrows() -> None:
    wide, narrow = (tango(PairedCounts(both=n, first_only=0, second_only=0, neither=0)) for n in (20, 200))
    assert wide.value == narrow.value == 0
    square = 1.959963984540054**2
    assert (wide.low, wide.high) == (pytest.approx(-square / (20 + square)), pytest.approx(square / (20 + square)))
    assert narrow.high < wide.high


def test_tango_covers_93_to_97_of_100_on_average() -> None:
    cases = 30
    rows = [(b, c) for b in range(cases + 1) for c in range(cases + 1 - b)]
    found = [tango(PairedCounts(both=cases - b - c, first_only=b, second_only=c, neither=0)) for b, c in rows]
    low, high = np.asarray([one.low for one in found]), np.asarray([one.high for one in found])
    b, c = np.asarray(rows).T
    covered = []
    for first_only in (0.05, 0.1, 0.2, 0.3):
        for second_only in (0.05, 0.1, 0.2, 0.3):
            chance = binom.pmf(b, cases, first_only) * binom.pmf(c, cases - b, second_only / (1 - first_only))
            difference = first_only - second_only
            covered.append(chance[(low <= difference) & (difference <= high)].sum())
    assert 0.93 <= np.mean(covered) <= 0.97


def test_non_inferiority_holds_exactly_where_the_interval_lies_above_the_margin() -> None:
    counts = PairedCounts(both=80, first_only=6, second_only=9, neither=5)
    limit = tango(counts).low
    assert paired_non_inferiority(counts, -limit + 1e-6).shown
    assert not paired_non_inferiority(counts, -limit - 1e-6).shown


# several rows of a patient -------------------------------------------------------------------------------------------


def test_with_one_row_a_patient_the_clustered_test_is_mcnemars_but_for_its_factor() -> None:
    first = np.asarray([True] * 32 + [False] * 18)
    second = np.asarray([True] * 20 + [False] * 12 + [True] * 2 + [False] * 16)
    found = clustered_difference(first, second, np.arange(50).astype(str))
    assert found.tested.z == pytest.approx((12 - 2) / math.sqrt(14) * math.sqrt(49 / 50))
    assert found.tested.estimate.value == pytest.approx(0.2)


def test_repeating_every_row_within_its_patient_adds_no_certainty() -> None:
    random = np.random.default_rng(2)
    first, second = random.random(60) < 0.7, random.random(60) < 0.5
    once = clustered_difference(first, second, np.arange(60).astype(str))
    thrice = clustered_difference(np.repeat(first, 3), np.repeat(second, 3), np.repeat(np.arange(60), 3).astype(str))
    assert thrice.tested.estimate == once.tested.estimate
    assert thrice.tested.p == pytest.approx(once.tested.p)
    assert thrice.non_inferiority(0.1).z == pytest.approx(once.non_inferiority(0.1).z)


def test_the_clustered_interval_covers_93_to_97_of_100_samples() -> None:
    random = np.random.default_rng(6)
    patients = np.repeat(np.arange(80), 3).astype(str)
    covered = []
    for _ in range(1500):
        level = np.repeat(random.normal(size=80), 3)  # what the rows of a patient share
        first = level + random.normal(size=240) > -0.5
        second = level * 0.5 + random.normal(size=240) > -0.2
        estimate = clustered_difference(first, second, patients).tested.estimate
        covered.append((estimate.low, estimate.high))
    from scipy.stats import norm

    truth = norm.cdf(0.5 / math.sqrt(2)) - norm.cdf(0.2 / math.sqrt(1.25))
    assert 0.93 <= np.mean([low <= truth <= high for low, high in covered]) <= 0.97


@pytest.mark.parametrize(("patients", "reason"), [(["a"] * 3, "one patient"), (["a", "b", "c"], "never differ")])
def test_no_variance_between_patients_gives_no_test(patients: list[str], reason: str) -> None:
    calls = np.asarray([True, False, True])
    found = clustered_difference(calls, calls, np.asarray(patients))
    assert math.isnan(found.tested.p)
    assert reason in found.tested.estimate.reason


# families ------------------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
@settings(max_examples=10, deadline=None)  # statsmodels collects garbage of the whole process in each call
def test_holm_is_that_of_statsmodels(p_values: list[float]) -> None:
    found = holm({str(number): p for number, p in enumerate(p_values)})
    assert list(found.values()) == pytest.approx(multipletests(p_values, method="holm")[1])


def test_a_member_of_the_family_without_p_still_counts() -> None:
    found = holm({"a": 0.02, "b": math.nan, "c": 0.03})
    assert found["a"] == pytest.approx(0.06)
    assert math.isnan(found["b"])
    assert found["c"] == pytest.approx(0.06)
    assert list(found) == ["a", "b", "c"]

"""Calibration and utility: scikit-learn, statsmodels, written-out definitions, simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss
from sklearn.metrics import log_loss as log_loss_of_scikit_learn

from eval import calibration as cal
from eval.utility import decision_curve


def drawn(seed: int, cases: int = 300, slope: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities, and a truth whose logit is `slope` times theirs."""
    random = np.random.default_rng(seed)
    logits = random.normal(-0.5, 1.5, cases)
    return expit(logits), random.random(cases) < expit(slope * logits)


CASES = st.lists(st.tuples(st.floats(0.01, 0.99), st.booleans()), min_size=3, max_size=50).filter(
    lambda rows: len({ill for _, ill in rows}) == 2
)


@given(CASES)
@settings(max_examples=60, deadline=None)
def test_brier_and_log_loss_are_those_of_scikit_learn(rows: list[tuple[float, bool]]) -> None:
    p, y = np.asarray([row[0] for row in rows]), np.asarray([row[1] for row in rows])
    assert cal.brier(p, y) == pytest.approx(brier_score_loss(y, p))
    assert cal.log_loss(p, y) == pytest.approx(log_loss_of_scikit_learn(y, p))


def test_a_certain_probability_that_was_wrong_costs_infinitely_much_and_a_right_one_nothing() -> None:
    assert cal.log_loss(np.asarray([1.0, 0.0]), np.asarray([True, False])) == 0
    assert math.isinf(cal.log_loss(np.asarray([1.0, 0.0]), np.asarray([True, True])))


def test_slope_intercept_and_their_intervals_are_those_of_statsmodels() -> None:
    import statsmodels.api as sm

    p, y = drawn(1, slope=0.6)
    x = np.log(p / (1 - p))
    fit = sm.GLM(y.astype(float), sm.add_constant(x), family=sm.families.Binomial()).fit(tol=1e-14)
    large = sm.GLM(y.astype(float), np.ones(len(x)), family=sm.families.Binomial(), offset=x).fit(tol=1e-14)
    found = cal.recalibration(p, y)
    for estimate, expected, limits in (
        (found.intercept, fit.params[0], fit.conf_int()[0]),
        (found.slope, fit.params[1], fit.conf_int()[1]),
        (found.in_the_large, large.params[0], large.conf_int()[0]),
    ):
        assert estimate.value == pytest.approx(expected, abs=1e-7)
        assert (estimate.low, estimate.high) == pytest.approx(tuple(limits), abs=1e-6)


def test_with_patients_the_intervals_are_those_of_clustered_errors() -> None:
    import statsmodels.api as sm

    p, y = drawn(2)
    owner = np.arange(300) // 3
    x = sm.add_constant(np.log(p / (1 - p)))
    fit = sm.GLM(y.astype(float), x, family=sm.families.Binomial()).fit(
        cov_type="cluster", cov_kwds={"groups": owner, "use_correction": False}
    )
    found = cal.recalibration(p, y, owner.astype(str))
    half = (found.slope.high - found.slope.low) / 2
    assert half == pytest.approx(1.959963985 * fit.bse[1] * math.sqrt(100 / 99), rel=1e-6)


def test_the_slope_covers_one_in_93_to_97_of_100_samples_of_true_probabilities() -> None:
    covered = []
    for seed in range(600):
        slope = cal.recalibration(*drawn(seed)).slope
        covered.append(slope.low <= 1 <= slope.high)
    assert 0.93 <= np.mean(covered) <= 0.97


@pytest.mark.parametrize(
    ("p", "y", "reason"),
    [
        ([0.1, 0.2, 0.3], [True] * 3, "one class"),
        ([0.0, 0.2, 0.3], [True, False, True], "exactly 0 or 1"),
        ([0.1, 0.2, 0.3], [False, False, True], "separate the classes"),
        ([0.2, 0.2, 0.2], [False, False, True], "all probabilities are equal"),
    ],
)
def test_a_fit_without_a_maximum_is_undefined_with_the_reason(p: list[float], y: list[bool], reason: str) -> None:
    slope = cal.recalibration(np.asarray(p), np.asarray(y)).slope
    assert not slope.defined
    assert reason in slope.reason


def test_spiegelhalters_z_is_the_formula_and_rejects_five_in_a_hundred_of_true_probabilities() -> None:
    p, y = drawn(5, cases=4)
    over = sum((truth - one) * (1 - 2 * one) for one, truth in zip(p, y, strict=True))
    under = math.sqrt(sum((1 - 2 * one) ** 2 * one * (1 - one) for one in p))
    assert cal.spiegelhalter(p, y).z == pytest.approx(over / under)
    rejected = [cal.spiegelhalter(*drawn(seed)).p < 0.05 for seed in range(1500)]
    assert 0.03 <= np.mean(rejected) <= 0.07


def test_spiegelhalters_z_is_undefined_where_all_probabilities_are_certain() -> None:
    assert math.isnan(cal.spiegelhalter(np.asarray([0.0, 1.0, 0.5]), np.asarray([False, True, True])).z)


@pytest.mark.parametrize("strategy", ["uniform", "quantile"])
def test_reliability_bins_are_those_of_scikit_learn(strategy: str) -> None:
    p, y = drawn(7, cases=400)
    observed, mean = calibration_curve(y, p, n_bins=10, strategy=strategy)
    bins = cal.equal_width_bins(p, y) if strategy == "uniform" else cal.adaptive_bins(p, y)
    assert sum(one.cases for one in bins) == 400
    assert sum(one.diseased for one in bins) == y.sum()
    assert [one.observed.value for one in bins] == pytest.approx(list(observed), abs=0.03)
    assert [one.mean_probability for one in bins] == pytest.approx(list(mean), abs=0.01)


def test_bins_of_equal_width_hold_their_lower_edge_and_the_last_one_1() -> None:
    bins = cal.equal_width_bins(np.asarray([0.0, 0.5, 0.5, 1.0]), np.asarray([False, True, False, True]), bins=2)
    assert [(one.low, one.high, one.cases) for one in bins] == [(0.0, 0.5, 1), (0.5, 1.0, 3)]


def test_equal_probabilities_stay_in_one_adaptive_bin() -> None:
    p = np.asarray([0.1] * 15 + [0.9] * 5)
    bins = cal.adaptive_bins(p, p > 0.5, bins=10)
    assert [one.cases for one in bins] == [15, 5]


@given(CASES)
@settings(max_examples=40, deadline=None)
def test_the_calibration_error_is_a_weighted_distance_and_no_order_of_cases_changes_it(
    rows: list[tuple[float, bool]],
) -> None:
    p, y = np.asarray([row[0] for row in rows]), np.asarray([row[1] for row in rows])
    expected = sum(
        abs(y[inside].sum() - p[inside].sum()) / len(p)
        for step in range(10)
        if (inside := (np.minimum((p * 10).astype(int), 9) == step)).any()
    )
    found = cal.expected_calibration_error(cal.equal_width_bins(p, y))
    if not np.isclose(p * 10, np.round(p * 10)).any():  # beside an edge both roundings are right
        assert found == pytest.approx(expected)
    turned = cal.expected_calibration_error(cal.equal_width_bins(p[::-1], y[::-1]))
    assert turned == pytest.approx(found)


def test_the_error_of_calibrated_scores_lies_where_it_is_said_to_lie_and_that_of_others_above() -> None:
    inside, above = [], []
    for seed in range(200):
        p, y = drawn(seed)
        reference, _ = cal.errors_if_calibrated(p, resamples=200, seed=1)
        inside.append(reference.low <= cal.expected_calibration_error(cal.equal_width_bins(p, y)) <= reference.high)
        wrong = drawn(seed, slope=0.3)[1]
        above.append(cal.expected_calibration_error(cal.equal_width_bins(p, wrong)) > reference.high)
    assert 0.9 <= np.mean(inside) <= 0.99
    assert np.mean(above) > 0.95


def test_with_many_cases_the_range_of_calibrated_scores_is_what_it_is_with_fewer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    p, _ = drawn(3, cases=4000)
    drawn_truth = cal.errors_if_calibrated(p, resamples=800, seed=1)
    monkeypatch.setattr(cal, "_MANY", 1000)
    normal = cal.errors_if_calibrated(p, resamples=800, seed=1)
    for one, other in zip(drawn_truth, normal, strict=True):
        assert (one.value, one.high) == (pytest.approx(other.value, rel=0.05), pytest.approx(other.high, rel=0.08))


# utility -------------------------------------------------------------------------------------------------------------


def test_net_benefit_is_the_definition_of_vickers_and_elkin() -> None:
    p, y = drawn(4)
    for point in decision_curve(p, y, thresholds=(0.05, 0.2, 0.5)).points:
        called = p >= point.threshold
        odds = point.threshold / (1 - point.threshold)
        assert point.net_benefit.value == pytest.approx(((called & y).sum() - (called & ~y).sum() * odds) / len(y))
        assert point.treat_all == pytest.approx(y.mean() - (1 - y.mean()) * odds)
        assert point.net_benefit.low < point.net_benefit.value < point.net_benefit.high


def test_a_threshold_below_every_score_is_acting_on_everybody() -> None:
    p, y = drawn(4)
    (point,) = decision_curve(p, y, thresholds=(float(p.min()) / 2,)).points
    assert point.net_benefit.value == pytest.approx(point.treat_all)


def test_a_stated_prevalence_gives_what_thinning_the_diseased_gives() -> None:
    p, y = drawn(6, cases=4000)
    curve = decision_curve(p, y, thresholds=(0.1, 0.3), prevalence=0.05)
    called = [p >= 0.1, p >= 0.3]
    for point, positive in zip(curve.points, called, strict=True):
        odds = point.threshold / (1 - point.threshold)
        expected = 0.05 * positive[y].mean() - 0.95 * positive[~y].mean() * odds
        assert point.net_benefit.value == pytest.approx(expected)
    assert (curve.prevalence, curve.stated) == (0.05, True)
    same = decision_curve(p, y, thresholds=(0.1,), prevalence=float(y.mean())).points[0]
    assert same.net_benefit.value == pytest.approx(decision_curve(p, y, thresholds=(0.1,)).points[0].net_benefit.value)


@pytest.mark.parametrize("by_patient", [False, True])
def test_the_interval_of_net_benefit_covers_93_to_97_of_100_samples(by_patient: bool) -> None:
    random = np.random.default_rng(3)
    p, y = drawn(0, cases=400_000)
    truth = decision_curve(p, y, thresholds=(0.3,)).points[0].net_benefit.value
    covered = []
    for _ in range(800):
        rows = random.integers(0, len(p), 300)
        patients = None
        if by_patient:  # every row twice: only the patient tells how much is known
            rows, patients = np.repeat(rows, 2), np.repeat(np.arange(300), 2).astype(str)
        estimate = decision_curve(p[rows], y[rows], thresholds=(0.3,), patients=patients).points[0].net_benefit
        covered.append(estimate.low <= truth <= estimate.high)
    assert 0.93 <= np.mean(covered) <= 0.97


def test_at_a_stated_prevalence_the_interval_covers_93_to_97_of_100_samples() -> None:
    random = np.random.default_rng(9)
    p, y = drawn(0, cases=400_000)
    truth = decision_curve(p, y, thresholds=(0.3,), prevalence=0.1).points[0].net_benefit.value
    ill, well = np.flatnonzero(y), np.flatnonzero(~y)
    covered = []
    for _ in range(800):
        rows = np.concatenate([random.choice(ill, 150), random.choice(well, 150)])
        estimate = decision_curve(p[rows], y[rows], thresholds=(0.3,), prevalence=0.1).points[0].net_benefit
        covered.append(estimate.low <= truth <= estimate.high)
    assert 0.93 <= np.mean(covered) <= 0.97


@pytest.mark.parametrize(
    ("y", "more", "message"),
    [([True, True], {}, "diseased and other"), ([True, False], {"thresholds": (1.0,)}, "lie between 0 and 1")],
)
def test_a_curve_that_means_nothing_is_refused(y: list[bool], more: dict[str, tuple[float, ...]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decision_curve(np.asarray([0.2, 0.4]), np.asarray(y), **more)  # type: ignore[arg-type]

"""Drift: written-out sums, scipy, statsmodels-free simulation of run lengths, and the command."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2_contingency, ks_2samp

from eval import drift
from eval.commands.drift import command

VALUES = st.lists(st.floats(-5, 5), min_size=5, max_size=60)


@given(VALUES, VALUES)
@settings(max_examples=60, deadline=None)
def test_psi_is_the_sum_over_quantile_bins_of_the_reference_with_a_floor(one: list[float], other: list[float]) -> None:
    reference, current = np.asarray(one), np.asarray(other)
    edges = [-math.inf, *sorted(set(np.quantile(reference, np.arange(1, 10) / 10).tolist())), math.inf]
    expected = 0.0
    for low, high in pairwise(edges):
        before = max(float(((reference >= low) & (reference < high)).mean()), 1e-4)
        now = max(float(((current >= low) & (current < high)).mean()), 1e-4)
        expected += (now - before) * math.log(now / before)
    assert drift.psi(reference, current).value == pytest.approx(expected)


def test_psi_of_the_same_cases_is_zero_and_shares_add_up() -> None:
    scores = np.random.default_rng(1).random(500)
    found = drift.psi(scores, scores)
    assert found.value == 0
    assert len(found.bins) == 10
    assert sum(one.reference for one in found.bins) == pytest.approx(1)


def test_psi_is_unchanged_by_a_rising_transform_and_by_order() -> None:
    random = np.random.default_rng(2)
    a, b = random.normal(size=401), random.normal(0.3, 1, 300)  # an odd count: quantiles need no interpolation
    value = drift.psi(a, b).value
    assert drift.psi(np.exp(a), np.exp(b)).value == pytest.approx(value)
    assert drift.psi(a[::-1], b[::-1]).value == pytest.approx(value)


def test_psi_stays_below_what_it_says_in_95_of_100_samples_where_nothing_moved() -> None:
    random = np.random.default_rng(3)
    below = []
    for _ in range(600):
        found = drift.psi(random.random(2000), random.random(400))
        below.append(found.value < found.unmoved_95)
    assert 0.92 <= np.mean(below) <= 0.98


def test_psi_of_categories_is_about_the_chi_square_of_their_table_over_its_sizes() -> None:
    random = np.random.default_rng(4)
    before, now = random.choice(["A", "B", "C"], 900), random.choice(["A", "B", "C"], 700, p=[0.4, 0.3, 0.3])
    table = [[(values == name).sum() for name in "ABC"] for values in (before, now)]
    expected = chi2_contingency(table).statistic * (1 / 900 + 1 / 700)
    assert drift.categorical_psi(before, now).value == pytest.approx(expected, rel=0.1)


def test_a_category_that_was_never_seen_counts_through_the_floor() -> None:
    found = drift.categorical_psi(np.asarray(["A"] * 10), np.asarray(["A"] * 5 + ["new"] * 5))
    expected = (0.5 - 1) * math.log(0.5) + (0.5 - 1e-4) * math.log(0.5 / 1e-4)
    assert found.value == pytest.approx(expected)


def test_an_empty_side_has_no_psi_and_no_distance() -> None:
    nothing, something = np.zeros(0), np.ones(3)
    assert math.isnan(drift.psi(nothing, something).value)
    assert math.isnan(drift.kolmogorov_smirnov(something, nothing).p)
    assert math.isnan(drift.categorical_psi(np.asarray(["A"]), np.zeros(0, dtype=str)).value)


def test_the_distance_of_kolmogorov_and_smirnov_is_the_largest_of_the_two_distribution_functions() -> None:
    random = np.random.default_rng(5)
    a, b = np.round(random.normal(size=80), 1), np.round(random.normal(0.5, 1, 60), 1)
    found = drift.kolmogorov_smirnov(a, b)
    largest = max(abs((a <= x).mean() - (b <= x).mean()) for x in np.concatenate([a, b]))
    assert found.distance == pytest.approx(largest)
    assert found.p == pytest.approx(ks_2samp(a, b).pvalue)


def test_an_index_of_one_bin_is_refused_and_a_constant_reference_is_not() -> None:
    with pytest.raises(ValueError, match="two bins"):
        drift.psi(np.ones(5), np.ones(5), bins=1)
    found = drift.psi(np.ones(50), np.asarray([0.0, 1.0] * 25))
    assert [one.current for one in found.bins] == [0.5, 0.5]


# CUSUM ---------------------------------------------------------------------------------------------------------------


def test_the_cusum_adds_log_likelihood_ratios_never_falls_below_zero_and_starts_again() -> None:
    found = np.asarray([True, True, False, False, False, True, False, True])
    watched = drift.sensitivity_cusum(found, expected=0.9, unacceptable=0.7, limit=3.0)
    hit, miss = math.log(0.7 / 0.9), math.log(0.3 / 0.1)
    expected = [0, 0, miss, 2 * miss, 3 * miss, 0, miss, miss + hit]  # the third miss reaches 3.0
    assert list(watched.path) == pytest.approx(expected)
    assert watched.signals == (4,)


def test_run_lengths_of_the_markov_chain_are_those_of_simulated_sums() -> None:
    random = np.random.default_rng(6)
    limit = drift.cusum_limit(expected=0.9, unacceptable=0.75, run_length=200)
    for sensitivity, most in ((0.9, 4000), (0.75, 1500)):
        lengths = []
        for _ in range(300):
            watched = drift.sensitivity_cusum(
                random.random(most) < sensitivity, expected=0.9, unacceptable=0.75, limit=limit
            )
            lengths.append(watched.signals[0] + 1 if watched.signals else most)
        expected = drift.cusum_run_length(sensitivity=sensitivity, expected=0.9, unacceptable=0.75, limit=limit)
        assert np.mean(lengths) == pytest.approx(expected, rel=0.2)


def test_a_longer_run_needs_a_higher_limit() -> None:
    low, high = (drift.cusum_limit(expected=0.9, unacceptable=0.8, run_length=length) for length in (100, 1000))
    assert low < high


@pytest.mark.parametrize(("expected", "unacceptable"), [(0.8, 0.9), (1.0, 0.9), (0.9, 0.0)])
def test_sensitivities_in_the_wrong_order_are_refused(expected: float, unacceptable: float) -> None:
    with pytest.raises(ValueError, match="unacceptable sensitivity"):
        drift.sensitivity_cusum(np.asarray([True]), expected=expected, unacceptable=unacceptable, limit=3)


# the command ---------------------------------------------------------------------------------------------------------


def table(path: Path, seed: int, *, shift: float = 0.0, vendor: str = "B", cases: int = 300) -> Path:
    random = np.random.default_rng(seed)
    ill = random.random(cases) < 0.3
    scores = 1 / (1 + np.exp(-(random.normal(-1 + shift, 1, cases) + 2 * ill)))
    rows = [
        f"{path.stem}{row},{score:.4f},{int(truth)},{'A' if row % 3 else vendor},{40 + row % 30}"
        for row, (score, truth) in enumerate(zip(scores, ill, strict=True))
    ]
    path.write_text("case,score,truth,vendor,age\n" + "\n".join(rows) + "\n", encoding="utf-8")
    return path


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def of(*arguments: str | Path) -> dict[str, Any]:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    document: dict[str, Any] = json.loads(result.stdout)
    return document


def test_two_tables_are_enough_and_the_same_table_has_not_moved(tmp_path: Path) -> None:
    reference = table(tmp_path / "a.csv", 1)
    document = of("--reference", reference, "--current", reference)
    assert (document["score"]["psi"], document["score"]["moved"], document["score"]["ks"]) == (0, "no", 0)
    assert document["flag_rate"] is None
    assert "--threshold" in document["undefined"]["flag_rate"]
    assert [source["name"] for source in document["sources"]] == ["a.csv", "a.csv"]


def test_moved_scores_a_new_vendor_and_lost_sensitivity_are_seen(tmp_path: Path) -> None:
    reference, current = table(tmp_path / "a.csv", 1), table(tmp_path / "b.csv", 2, shift=-1.5, vendor="C")
    document = of(
        *("--reference", reference, "--current", current, "--threshold", "0.5", "--truth", "truth"),
        *("--feature", "vendor", "--number", "age", "--run-length", "100"),
    )
    assert document["score"]["moved"] == "large"
    assert document["score"]["psi"] > document["score"]["psi_unmoved_95"]
    assert document["score"]["ks_p"] < 0.001
    vendor, age = document["features"]
    assert (vendor["new_values"], vendor["moved"]) == (["C"], "large")
    assert age["moved"] == "no"
    assert document["flag_rate"]["ci"][1] < 0
    assert document["sensitivity"]["difference"] < 0
    assert document["cusum"]["signals"][0].startswith("b")
    assert document["cusum"]["expected"] == document["sensitivity"]["reference"]


def test_a_category_has_no_distance_and_the_reason_is_told(tmp_path: Path) -> None:
    reference = table(tmp_path / "a.csv", 1)
    options = ("--reference", reference, "--current", reference, "--feature", "vendor")
    document = of(*options)
    assert (document["features"][0]["ks"], document["features"][0]["ks_p"]) == (None, None)
    for key in ("features.vendor.ks", "features.vendor.ks_p"):
        assert "categories have no order" in document["undefined"][key]
    assert "no order" not in run(*options).stdout  # the table leaves these cells blank


def test_a_cusum_without_diseased_cases_has_no_sum_and_the_reason_is_told(tmp_path: Path) -> None:
    reference, current = table(tmp_path / "a.csv", 1), table(tmp_path / "b.csv", 2)
    header, *rows = current.read_text(encoding="utf-8").splitlines()
    waiting = [",".join([*row.split(",")[:2], "", *row.split(",")[3:]]) for row in rows]
    current.write_text("\n".join([header, *waiting]) + "\n", encoding="utf-8")
    document = of("--reference", reference, "--current", current, "--threshold", "0.5", "--truth", "truth")
    assert document["cusum"]["last"] is None
    assert "no diseased case" in document["undefined"]["cusum.last"]


def test_truth_that_has_not_come_back_is_left_out(tmp_path: Path) -> None:
    reference, current = table(tmp_path / "a.csv", 1), table(tmp_path / "b.csv", 2)
    lines = current.read_text(encoding="utf-8").splitlines()
    known = lines[:101] + [",".join([*line.split(",")[:2], "", *line.split(",")[3:]]) for line in lines[101:]]
    current.write_text("\n".join(known) + "\n", encoding="utf-8")
    document = of("--reference", reference, "--current", current, "--threshold", "0.5", "--truth", "truth")
    assert document["cusum"]["cases"] == sum(line.split(",")[2] == "1" for line in lines[1:101])


def test_a_missing_column_a_wrong_truth_and_truth_without_threshold_are_told(tmp_path: Path) -> None:
    reference, bad = table(tmp_path / "a.csv", 1), tmp_path / "b.csv"
    bad.write_text("points\n1\n", encoding="utf-8")
    missing_column = run("--reference", reference, "--current", bad)
    assert missing_column.exit_code == 1
    assert "b.csv: line 1: no column 'score'; found 'points'" in missing_column.stderr
    bad.write_text("score,truth\n0.5,maybe\n", encoding="utf-8")
    wrong = run("--reference", reference, "--current", bad, "--truth", "truth", "--threshold", "0.5")
    assert "b.csv: line 2: truth 'maybe'" in wrong.stderr
    bad.write_text("score,truth\n0.5,3\n", encoding="utf-8")
    wrong = run("--reference", reference, "--current", bad, "--truth", "truth", "--threshold", "0.5")
    assert "b.csv: line 2: truth '3' is neither 1 nor 0" in wrong.stderr
    misused = run("--reference", reference, "--current", reference, "--truth", "truth")
    assert misused.exit_code == 2
    assert "--threshold" in misused.stderr


def test_without_json_a_table_is_printed(tmp_path: Path) -> None:
    reference = table(tmp_path / "a.csv", 1)
    result = run("--reference", reference, "--current", reference, "--threshold", "0.5", "--truth", "truth")
    assert "PSI" in result.stdout
    assert "CUSUM of sensitivity" in result.stdout

"""`radnode eval proportions`, `paired` and `sample-size` as a person runs them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result

from eval.commands.paired import PairedDocument
from eval.commands.paired import command as paired
from eval.commands.proportions import command as proportions
from eval.commands.sample_size import SampleSizeDocument
from eval.commands.sample_size import command as sample_size
from eval.intervals import clopper_pearson
from eval.paired import PairedCounts, clustered_difference, mcnemar, tango


def run(command: click.Command, *arguments: str | Path) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def of(command: click.Command, *arguments: str | Path) -> dict[str, Any]:
    result = run(command, *arguments, "--json")
    assert result.exit_code == 0, result.output
    document: dict[str, Any] = json.loads(result.stdout)
    return document


@pytest.fixture
def cases(tmp_path: Path) -> Path:
    """120 cases of 60 patients, two scores and the call of a reader."""
    random = np.random.default_rng(13)
    ill = random.random(120) < 0.4
    path = tmp_path / "cases.csv"
    rows = []
    for row, truth in enumerate(ill):
        score, other = (1 / (1 + np.exp(-(random.normal() * noise + 2 * truth - 1))) for noise in (0.8, 1.5))
        rows.append(
            f"c{row},p{row // 2},{int(truth)},{score:.4f},{other:.4f},{int(random.random() < 0.2 + 0.6 * truth)}"
        )
    path.write_text("case,patient,truth,score,other,reader\n" + "\n".join(rows) + "\n", encoding="utf-8")
    return path


def columns(path: Path) -> dict[str, np.ndarray]:
    header, *rows = [line.split(",") for line in path.read_text(encoding="utf-8").splitlines()]
    return {name: np.asarray([row[place] for row in rows]) for place, name in enumerate(header)}


# proportions ---------------------------------------------------------------------------------------------------------


def test_counts_and_a_table_of_calls_give_the_same_figures(cases: Path) -> None:
    held = columns(cases)
    ill, called = held["truth"] == "1", held["reader"] == "1"
    counts = [str(int((a & b).sum())) for a, b in ((called, ill), (called, ~ill), (~called, ill), (~called, ~ill))]
    by_table = of(proportions, "--cases", cases, "--truth", "truth", "--call", "reader")
    by_counts = of(proportions, "--counts", *counts)
    assert by_table["rates"] == by_counts["rates"]
    expected = clopper_pearson(int(counts[0]), int(ill.sum()))
    assert by_table["rates"]["sensitivity_ci"] == [expected.low, expected.high]
    assert by_table["undefined"]["rule_out"] == "calls were given, not scores"


def test_a_score_gives_the_rule_out_table_with_the_missed_by_name(cases: Path) -> None:
    document = of(proportions, "--cases", cases, "--truth", "truth", "--score", "score", "--threshold", "0.5")
    held = columns(cases)
    last = document["rule_out"][-1]
    below = (held["score"].astype(float) < last["threshold"]) & (held["truth"] == "1")
    assert sorted(last["missed"]) == sorted(held["case"][below])
    assert document["threshold"] == 0.5
    printed = run(proportions, "--cases", cases, "--truth", "truth", "--score", "score", "--threshold", "0.5").stdout
    assert "could be left unread; missed: none" in printed


def test_with_patients_intervals_are_wider_and_the_unit_is_named(cases: Path) -> None:
    plain = of(proportions, "--cases", cases, "--truth", "truth", "--call", "reader")
    by_patient = of(proportions, "--cases", cases, "--truth", "truth", "--call", "reader", "--patient", "patient")
    assert by_patient["rates"]["accuracy"] == plain["rates"]["accuracy"]
    assert by_patient["settings"]["unit"] == "patient (column patient)"
    assert by_patient["counts"]["patients"] == 60
    low, high = by_patient["rates"]["specificity_ci"]
    assert high - low >= plain["rates"]["specificity_ci"][1] - plain["rates"]["specificity_ci"][0] - 1e-12


def test_zero_of_zero_is_null_with_its_reason_in_print_and_json() -> None:
    document = of(proportions, "--counts", "0", "0", "0", "7")
    assert document["rates"]["sensitivity"] is None
    assert document["rates"]["sensitivity_ci"] == [None, None]
    assert document["undefined"]["rates.sensitivity"].startswith("0 of 0")
    assert "rates.ppv" in run(proportions, "--counts", "0", "0", "0", "7").stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give --cases and --truth"),
        (("--cases", "a.csv", "--truth", "t"), "either --call or --score"),
        (("--cases", "a.csv", "--truth", "t", "--score", "s"), "needs --threshold"),
        (("--cases", "a.csv", "--counts", "1", "2", "3", "4"), "not both"),
    ],
)
def test_proportions_say_what_they_need_as_errors_of_usage(arguments: tuple[str, ...], message: str) -> None:
    result = run(proportions, *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "--help" in result.stderr


def test_proportions_name_a_file_that_cannot_be_read() -> None:
    result = run(proportions, "--cases", "nowhere.csv", "--truth", "t", "--call", "c")
    assert result.exit_code == 1
    assert "nowhere.csv: cannot be read" in result.stderr


def test_without_scores_there_is_no_threshold_and_no_rule_out_table_and_the_reason_is_told(cases: Path) -> None:
    calls = of(proportions, "--cases", cases, "--truth", "truth", "--call", "reader")
    counts = of(proportions, "--counts", "8", "1", "2", "9")
    for found, given in ((calls, "calls"), (counts, "counts")):
        assert (found["threshold"], found["rule_out"]) == (None, [])
        for key in ("threshold", "rule_out"):
            assert found["undefined"][key] == f"{given} were given, not scores"


def test_each_interval_of_proportions_stands_beside_the_method_it_has(cases: Path) -> None:
    by_call = ("--cases", cases, "--truth", "truth", "--call", "reader", "--prevalence", "0.1")
    printed = run(proportions, *by_call).stdout
    exact, others = printed.split("Clopper-Pearson")[1].split("balanced accuracy")
    assert all(name in exact for name in ("sensitivity", "specificity", "ppv", "npv", "accuracy"))
    for name in ("lr positive", "lr negative", "ppv at 0.1", "npv at 0.1"):
        assert name not in exact
    lines = ["balanced accuracy" + others.splitlines()[0], *others.splitlines()[1:]]
    methods = {"balanced accuracy": "Zou and Donner", "lr ": "logarithm", "ppv at": "log odds", "npv at": "log odds"}
    for start, method in methods.items():
        told = [line for line in lines if line.strip().startswith(start)]
        assert told
        assert all(line.rstrip().endswith(method) for line in told)
    settings = of(proportions, *by_call)["settings"]
    assert settings["interval"] == "Clopper-Pearson"
    assert settings["balanced_accuracy_interval"].startswith("Zou and Donner")
    assert settings["likelihood_ratio_interval"] == "logarithm"
    assert settings["interval_at_prevalence"] == "log odds"
    assert of(proportions, "--counts", "8", "1", "2", "9")["settings"]["likelihood_ratio_interval"] == "logarithm"


# paired --------------------------------------------------------------------------------------------------------------


def test_two_columns_of_a_table_are_compared_by_endpoint(cases: Path) -> None:
    document = of(
        *(paired, "--cases", cases, "--truth", "truth", "--first", "score", "--first-threshold", "0.5"),
        *("--second", "reader", "--margin", "0.1"),
    )
    held = columns(cases)
    ill = held["truth"] == "1"
    first, second = held["score"].astype(float) >= 0.5, held["reader"] == "1"
    counts = PairedCounts.of(first[ill], second[ill])
    one = document["comparisons"][0]
    assert (one["endpoint"], one["cases"], one["first_only"]) == ("sensitivity", int(ill.sum()), counts.first_only)
    assert one["ci"] == [tango(counts).low, tango(counts).high]
    assert one["p"] == pytest.approx(mcnemar(counts).exact)
    assert one["non_inferiority"]["shown"] == (tango(counts).low > -0.1)
    family = [block["p"] for block in document["comparisons"][:2]]
    assert [block["holm_p"] for block in document["comparisons"][:2]] == pytest.approx(
        [min(1.0, max(p, min(family) * 2)) if p == max(family) else min(1.0, 2 * p) for p in family]
    )
    assert document["comparisons"][2]["holm_p"] is None
    assert PairedDocument.model_validate(document).settings["holm_family"] == "sensitivity, specificity"


def test_with_patients_the_comparison_is_by_patient_and_never_mcnemars(cases: Path) -> None:
    options = ("--first", "score", "--first-threshold", "0.5", "--second", "other", "--second-threshold", "0.5")
    document = of(paired, "--cases", cases, "--truth", "truth", *options, "--patient", "patient", "--margin", "0.2")
    held = columns(cases)
    ill = held["truth"] == "1"
    first, second = held["score"].astype(float) >= 0.5, held["other"].astype(float) >= 0.5
    expected = clustered_difference(first[ill], second[ill], held["patient"][ill])
    one = document["comparisons"][0]
    assert one["p"] == pytest.approx(expected.tested.p)
    assert one["ci"] == pytest.approx([expected.tested.estimate.low, expected.tested.estimate.high])
    assert one["mcnemar_mid_p"] is None
    assert "by patient" in document["undefined"]["comparisons.sensitivity.mcnemar_mid_p"]
    assert one["non_inferiority"]["z"] == pytest.approx(expected.non_inferiority(0.2).z)


def test_counts_and_independent_groups_need_no_table() -> None:
    one = of(paired, "--counts", "1", "1", "7", "12")["comparisons"][0]
    assert one["ci"] == pytest.approx([-0.5172, -0.0260], abs=1e-4)
    groups = of(paired, "--independent", "56", "70", "48", "80", "--margin", "0.1")["independent"]
    assert groups["ci"] == pytest.approx([0.0528, 0.3382], abs=1e-4)
    assert groups["non_inferiority"]["shown"]
    assert "shown at 0.1" in run(paired, "--independent", "56", "70", "48", "80", "--margin", "0.1").stdout


def test_two_that_never_differ_have_no_p_and_a_reason() -> None:
    document = of(paired, "--counts", "30", "0", "0", "10")
    assert document["comparisons"][0]["p"] is None
    assert "never differ" in document["undefined"]["comparisons.counts.p"]
    assert document["comparisons"][0]["ci"][0] < 0 < document["comparisons"][0]["ci"][1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give one of --cases, --counts and --independent"),
        (("--cases", "a.csv"), "--cases needs --truth, --first and --second"),
        (("--independent", "9", "8", "1", "2"), "more successes than cases"),
    ],
)
def test_paired_says_what_it_needs_as_errors_of_usage(arguments: tuple[str, ...], message: str) -> None:
    result = run(paired, *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "--help" in result.stderr


def test_paired_names_a_file_that_cannot_be_read() -> None:
    result = run(paired, "--cases", "nowhere.csv", "--truth", "t", "--first", "a", "--second", "b")
    assert result.exit_code == 1
    assert "cannot be read" in result.stderr


def test_a_margin_outside_0_to_1_is_refused_by_its_option() -> None:
    result = run(paired, "--counts", "1", "1", "7", "12", "--margin", "1.5")
    assert result.exit_code == 2
    assert "--margin" in result.stderr


# sample-size ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "needed"),
    [
        (("buderer", "--sensitivity", "0.7", "--half-width", "0.1", "--prevalence", "0.1"), {"total": 807}),
        (("hanley-mcneil", "--auc", "0.7", "--other", "0.75", "--sides", "one"), {"diseased": 653}),
        (("obuchowski", "--auc", "0.8", "--null", "0.5", "--power", "0.9"), {"diseased": 17}),
        (("obuchowski", "--auc", "0.85", "--half-width", "0.05"), {"diseased": 151}),
        (("connor", "--first-only", "0.45", "--second-only", "0.05"), {"pairs": 23}),
        (("farrington-manning", "--first", "0.85", "--second", "0.85", "--margin", "0.1"), {"first": 207}),
    ],
)
def test_each_paper_has_a_subcommand(arguments: tuple[str, ...], needed: dict[str, int]) -> None:
    document = of(sample_size, *arguments)
    assert document["needed"] | needed == document["needed"], document["needed"]
    assert document["power"] is None
    assert SampleSizeDocument.model_validate(document).settings


@pytest.mark.parametrize(
    ("expected", "told"),
    [
        (("--sensitivity", "0.9"), "692 are recruited: about 139 diseased and 553 not diseased"),
        (("--specificity", "0.9"), "173 are recruited: about 34 diseased and 139 not diseased"),
    ],
)
def test_buderer_says_how_many_of_both_kinds_the_recruited_are(expected: tuple[str, ...], told: str) -> None:
    arguments = ("buderer", *expected, "--half-width", "0.05", "--prevalence", "0.2")
    document = of(sample_size, *arguments)
    assert told in document["notes"][0]
    assert document["needed"]["diseased"] + document["needed"]["not_diseased"] == 139
    assert told in " ".join(run(sample_size, *arguments).stdout.split())


def test_a_reader_study_is_planned_by_cases_or_by_power() -> None:
    pilot = ("--treatment-reader", "0.0002004", "--error", "0.00080229", "--cov1", "0.00034661", "--cov2", "0.00034407")
    pilot += ("--cov3", "0.00023903", "--pilot-cases", "114", "--difference", "0.0438", "--readers", "6")
    document = of(sample_size, "mrmc", *pilot)
    assert document["needed"] == {"readers": 6, "cases": 251}
    assert document["power"] == pytest.approx(0.8005, abs=1e-3)
    assert of(sample_size, "mrmc", *pilot, "--cases", "114")["power"] < document["power"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("buderer", "--half-width", "0.1", "--prevalence", "0.2"), "name the expected"),
        (("connor", "--first-only", "0.1", "--second-only", "0.1"), "must differ"),
        (("farrington-manning", "--first", "0.7", "--second", "0.9", "--margin", "0.1"), "margin or worse"),
    ],
)
def test_what_cannot_be_planned_ends_with_one_line(arguments: tuple[str, ...], message: str) -> None:
    result = run(sample_size, *arguments)
    assert result.exit_code == 1
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("more", [(), ("--null", "0.5", "--other", "0.7")])
def test_a_size_for_areas_that_does_not_say_what_for_is_an_error_of_usage(more: tuple[str, ...]) -> None:
    result = run(sample_size, "obuchowski", "--auc", "0.8", *more)
    assert result.exit_code == 2
    assert "give one of --half-width, --null and --other" in result.stderr


def test_without_json_the_numbers_are_one_line() -> None:
    assert (
        run(sample_size, "connor", "--first-only", "0.45", "--second-only", "0.05").stdout == "pairs 23 (Connor 1987)\n"
    )

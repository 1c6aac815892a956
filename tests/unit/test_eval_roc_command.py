"""`radnode eval roc` as a person runs it: files in, JSON and a table out, faults in one line."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from sklearn.metrics import average_precision_score, roc_auc_score

from eval.clustered import clustered_areas
from eval.commands.roc import command
from eval.delong import delong, unpaired_difference
from eval.roc import sensitivity_at_specificity, specificity_at_sensitivity


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def of(*arguments: str | Path) -> dict[str, Any]:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    document: dict[str, Any] = json.loads(result.stdout)  # nothing but JSON
    return document


def cases(folder: Path, *, count: int = 200, lift: float = 0.0) -> Path:
    """A table of `count` cases of `count` / 2 patients with two scores and two traits."""
    random = np.random.default_rng(11)
    diseased = random.random(count) < 0.3
    latent = random.normal(size=count) + 1.2 * diseased
    first, second = (1 / (1 + np.exp(-(latent + random.normal(size=count) * noise - 1))) for noise in (0, 1))
    path = folder / "cases.csv"
    rows = [
        f"c{row},p{row // 2},{int(diseased[row])},{first[row] + lift:.4f},{second[row]:.4f},{'FM'[row % 2]},"
        + ("rare" if row % 20 == 0 else "common")
        for row in range(count)
    ]
    path.write_text("case,patient,truth,score,other,sex,vendor\n" + "\n".join(rows) + "\n", encoding="utf-8")
    return path


def columns(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rows = [line.split(",") for line in path.read_text(encoding="utf-8").splitlines()[1:]]
    truth = np.asarray([row[2] == "1" for row in rows])
    score, other = (np.asarray([float(row[place]) for row in rows]) for place in (3, 4))
    return truth, score, other, np.asarray([row[1] for row in rows])


def asked(path: Path, *more: str) -> tuple[str | Path, ...]:
    return ("--cases", path, "--truth", "truth", "--score", "score", *more)


def test_the_keys_of_the_result_hold_what_scikit_learn_and_delong_say(tmp_path: Path) -> None:
    path = cases(tmp_path)
    document = of(*asked(path, "--compare", "other", "--threshold", "0.4", "--bootstrap", "100"))
    truth, score, other, _ = columns(path)
    areas = delong([score, other], truth)
    assert document["auroc"] == pytest.approx(roc_auc_score(truth, score))
    assert document["auroc_ci"] == pytest.approx([areas.estimate().low, areas.estimate().high])
    assert document["average_precision"] == pytest.approx(average_precision_score(truth, score))
    assert document["prevalence"] == pytest.approx(truth.mean())
    assert document["paired"]["difference"] == pytest.approx(roc_auc_score(truth, score) - roc_auc_score(truth, other))
    assert document["paired"]["p"] == pytest.approx(areas.difference().p)
    point = document["operating_point"]
    assert (point["tp"], point["fp"]) == (int((truth & (score >= 0.4)).sum()), int((~truth & (score >= 0.4)).sum()))
    assert point["sensitivity"] == pytest.approx(point["tp"] / truth.sum())
    assert document["settings"]["auroc_interval"] == "DeLong 1988"
    assert document["sources"][0]["rows"] == 200


def test_with_a_patient_column_the_interval_is_obuchowskis(tmp_path: Path) -> None:
    path = cases(tmp_path)
    truth, score, _, patients = columns(path)
    document = of(*asked(path, "--patient", "patient", "--bootstrap", "50"))
    expected = clustered_areas([score], truth, patients).estimate()
    assert document["auroc_ci"] == pytest.approx([expected.low, expected.high])
    assert document["auroc_ci"] != pytest.approx([delong([score], truth).estimate().low, expected.high], abs=1e-6)
    assert document["counts"]["patients"] == 100
    assert document["settings"]["unit"] == "patient (column patient)"


def test_resampled_intervals_depend_on_the_seed_that_is_named(tmp_path: Path) -> None:
    path = cases(tmp_path)
    one, same, other = (
        of(*asked(path, "--interval", "bootstrap", "--bootstrap", "100", "--seed", seed))["auroc_ci"]
        for seed in ("1", "1", "2")
    )
    assert one == same != other


def test_rows_of_one_patient_without_a_patient_column_are_noted(tmp_path: Path) -> None:
    notes = of(*asked(cases(tmp_path), "--bootstrap", "0"))["notes"]
    assert any("200 rows of 100 patients" in note and "--patient" in note for note in notes)


def test_scores_that_are_no_probabilities_have_no_calibration_and_no_decision_curve(tmp_path: Path) -> None:
    document = of(*asked(cases(tmp_path, lift=3.0), "--bootstrap", "10"))
    assert document["calibration"] is None
    assert document["decision_curve"] is None
    assert "line 2 has score" in document["undefined"]["calibration"]
    assert "outside 0 to 1" in document["undefined"]["decision_curve"]
    assert document["auroc"] is not None


def test_subgroups_add_up_and_small_ones_are_too_few(tmp_path: Path) -> None:
    document = of(*asked(cases(tmp_path), "--subgroup", "sex", "--subgroup", "vendor", "--bootstrap", "10"))
    for column in ("sex", "vendor"):
        groups = [group for group in document["subgroups"] if group["column"] == column]
        assert sum(group["cases"] for group in groups) == 200
        assert sum(group["diseased"] for group in groups) == document["counts"]["diseased"]
    rare = next(group for group in document["subgroups"] if group["value"] == "rare")
    assert rare["too_few"]
    assert rare["auroc"] is None
    assert "too few" in document["undefined"]["subgroups.vendor=rare.auroc"]
    known = [group["auroc"] for group in document["subgroups"] if group["auroc"] is not None]
    assert document["lowest_subgroup"]["auroc"] == min(known)


def test_fixed_points_and_the_partial_area_have_intervals(tmp_path: Path) -> None:
    path = cases(tmp_path)
    options = ("--sensitivity", "0.9", "--specificity", "0.8", "--fpr", "0", "0.2", "--bootstrap", "200")
    document = of(*asked(path, *options))
    at_sensitivity, at_specificity = document["fixed_points"]
    assert at_sensitivity["sensitivity"] >= 0.9
    assert at_specificity["specificity"] >= 0.8
    for point, free in ((at_sensitivity, "specificity"), (at_specificity, "sensitivity")):
        assert point["ci"][0] <= point[free] <= point["ci"][1]
    truth, score, _, _ = columns(path)
    assert document["partial_auroc"]["standardised"] == pytest.approx(roc_auc_score(truth, score, max_fpr=0.2))


def test_every_point_of_the_decision_curve_without_an_interval_has_its_reason(tmp_path: Path) -> None:
    path = cases(tmp_path)
    _, score, _, _ = columns(path)
    document = of(*asked(path, "--bootstrap", "20"))
    points = document["decision_curve"]["points"]
    without = [point["threshold"] for point in points if point["ci"] == [None, None]]
    assert without == [point["threshold"] for point in points if point["threshold"] > score.max()]
    assert without  # above the highest score nobody is called positive: nothing varies
    reasons = {key: why for key, why in document["undefined"].items() if key.startswith("decision_curve")}
    assert reasons == {
        f"decision_curve.points.threshold={threshold:g}.ci": "the estimated variance is 0" for threshold in without
    }
    assert "decision_curve" not in run(*asked(path, "--bootstrap", "20")).stdout  # the screen does not show it


@pytest.mark.parametrize("fixed", ["sensitivity", "specificity"])
def test_intervals_of_fixed_points_are_those_of_patients_drawn_as_the_settings_say(tmp_path: Path, fixed: str) -> None:
    path = cases(tmp_path)
    options = (f"--{fixed}", "0.9", "--patient", "patient", "--bootstrap", "200", "--seed", "3")
    apart, together = of(*asked(path, *options)), of(*asked(path, *options, "--together"))
    assert together["settings"]["resampled"] == "patients, all together"
    truth, score, _, patients = columns(path)
    point_at = specificity_at_sensitivity if fixed == "sensitivity" else sensitivity_at_specificity
    for found, stratified in ((apart, True), (together, False)):
        direct = point_at(score, truth, patients, 0.9, resamples=200, seed=3, stratified=stratified).estimate
        assert found["fixed_points"][0]["ci"] == [direct.low, direct.high]
    assert apart["fixed_points"][0]["ci"] != together["fixed_points"][0]["ci"]


def test_every_missed_case_of_the_rule_out_table_is_named(tmp_path: Path) -> None:
    path = cases(tmp_path)
    truth, score, _, _ = columns(path)
    rows = of(*asked(path, "--bootstrap", "0"))["rule_out"]
    assert [row["sensitivity_target"] for row in rows] == [1.0, 0.99, 0.95]
    assert rows[0]["missed"] == []
    assert rows[2]["removed"] == int((score < rows[2]["threshold"]).sum())
    missed = {f"c{row}" for row in np.flatnonzero(truth & (score < rows[2]["threshold"]))}
    assert set(rows[2]["missed"]) == missed
    assert len(missed) <= 0.05 * truth.sum()


def test_stated_prevalences_change_predictive_values_and_correct_the_decision_curve(tmp_path: Path) -> None:
    document = of(*asked(cases(tmp_path), "--threshold", "0.4", "--prevalence", "0.01", "--bootstrap", "0"))
    point = document["operating_point"]
    (at,) = point["at_prevalence"]
    right = point["sensitivity"] * 0.01
    assert at["ppv"] == pytest.approx(right / (right + (1 - point["specificity"]) * 0.99))
    assert at["ppv_ci"][0] < at["ppv"] < at["ppv_ci"][1]
    curve = document["decision_curve"]
    assert (curve["prevalence"], curve["stated"]) == (0.01, True)


@pytest.mark.parametrize(("truth", "reason"), [("1", "no non-diseased case"), ("0", "no diseased case")])
def test_one_class_only_is_undefined_with_the_reason_and_no_error(tmp_path: Path, truth: str, reason: str) -> None:
    path = tmp_path / "cases.csv"
    path.write_text("truth,score\n" + "".join(f"{truth},0.{digit}\n" for digit in range(1, 9)), encoding="utf-8")
    document = of(*asked(path, "--compare", "score", "--threshold", "0.5", "--sensitivity", "0.9", "--fpr", "0", "0.2"))
    assert document["auroc"] is None
    assert document["auroc_ci"] == [None, None]
    assert reason in document["undefined"]["auroc"]
    assert document["decision_curve"] is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("truth,score\n1,0.5\n0,\n", "cases.csv: line 3: score '' is no number"),
        ("truth,score\n1,nan\n0,0.1\n", "cases.csv: line 2: score 'nan' is no finite number"),
        ("truth,score\n1,0.3\n2,0.1\n", "cases.csv: line 3: truth '2' is neither 1 nor 0"),
        ("truth,score\n1,high\n", "cases.csv: line 2: score 'high' is no number"),
        ("truth,points\n1,0.5\n", "cases.csv: line 1: no column 'score'; found 'truth', 'points'"),
        ("case,truth,score\na,1,0.5\nb,0,0.1\na,0,0.3\n", "cases.csv: lines 2 and 4 both say case a; keep one row"),
        ("truth,score\n", "cases.csv: there are no rows below the header"),
        ("truth;score\n1;0,5\n0,0,1\n", "cases.csv: line 3: 1 cells where the header has 2; this line seems to be"),
    ],
)
def test_a_fault_of_the_table_is_one_line_with_file_line_and_remedy(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "cases.csv"
    path.write_text(text, encoding="utf-8")
    result = run(*asked(path), "--json")
    assert result.exit_code == 1
    assert message in result.stderr
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1


def test_a_semicolon_table_in_windows_1251_gives_the_same_figures_and_says_so(tmp_path: Path) -> None:
    plain = cases(tmp_path)
    other = tmp_path / "russian.csv"
    text = plain.read_text(encoding="utf-8").replace(",common", ",обычный").replace(".", ",", 0)
    rows = [line.replace(",", ";").replace("0.", "0,") for line in text.splitlines()]
    other.write_bytes(("\r\n".join(rows) + "\r\n").encode("cp1251"))
    one, same = of(*asked(plain, "--bootstrap", "0")), of(*asked(other, "--bootstrap", "0"))
    assert same["auroc_ci"] == one["auroc_ci"]
    assert any("Windows-1251" in note for note in same["notes"])
    assert any("semicolon" in note for note in same["notes"])


def test_without_json_a_table_is_printed_with_reasons(tmp_path: Path) -> None:
    result = run(*asked(cases(tmp_path, lift=2.0), "--bootstrap", "0"))
    assert result.exit_code == 0
    assert "AUROC" in result.stdout
    assert "calibration, decision_curve: undefined, scores" in " ".join(result.stdout.split())


def test_json_to_a_file_leaves_the_table_on_the_screen(tmp_path: Path) -> None:
    target = tmp_path / "roc.json"
    result = run(*asked(cases(tmp_path), "--bootstrap", "0"), "--json", target)
    assert "AUROC" in result.stdout
    written = json.loads(target.read_text(encoding="utf-8"))
    assert math.isfinite(written["auroc"])


def test_classes_that_do_not_overlap_are_told_with_an_area_of_1_and_no_interval(tmp_path: Path) -> None:
    path = tmp_path / "cases.csv"
    path.write_text(
        "truth,score\n" + "".join(f"{int(row > 9)},{(row + 1) / 22}\n" for row in range(20)), encoding="utf-8"
    )
    document = of(*asked(path, "--bootstrap", "20"))
    assert (document["auroc"], document["auroc_ci"]) == (1.0, [None, None])
    assert "variance is 0" in document["undefined"]["auroc_ci"]
    assert "separate the classes" in document["undefined"]["calibration.slope"]


def test_a_subgroup_is_tested_against_all_other_cases_unless_they_share_patients(tmp_path: Path) -> None:
    path = cases(tmp_path)
    truth, score, _, _ = columns(path)
    women = np.arange(200) % 2 == 0
    document = of(*asked(path, "--subgroup", "sex", "--bootstrap", "0"))
    group = next(one for one in document["subgroups"] if one["value"] == "F")
    expected = unpaired_difference(delong([score[women]], truth[women]), delong([score[~women]], truth[~women]))
    assert group["difference_from_rest"] == pytest.approx(expected.estimate.value)
    assert group["difference_from_rest_p"] == pytest.approx(expected.p)
    shared = of(*asked(path, "--subgroup", "sex", "--patient", "patient", "--bootstrap", "0"))
    assert shared["subgroups"][0]["difference_from_rest"] is None
    assert "some patients" in shared["undefined"]["subgroups.sex=F.difference_from_rest"]


def test_the_rows_of_a_patient_named_by_id_are_no_doubled_cases(tmp_path: Path) -> None:
    path = tmp_path / "cases.csv"
    path.write_text(
        "id,truth,score\n" + "".join(f"p{row // 2},{row % 2},0.{row}\n" for row in range(1, 9)), encoding="utf-8"
    )
    refused = run(*asked(path))
    assert refused.exit_code == 1
    assert "cases.csv: lines 3 and 4 both say id p1" in refused.stderr
    assert "name with --patient" in refused.stderr
    assert of(*asked(path, "--patient", "id", "--bootstrap", "0"))["counts"]["patients"] == 5


@pytest.mark.parametrize(
    "option",
    [
        ("--threshold", "nan"),
        ("--threshold", "inf"),
        ("--prevalence", "nan"),
        ("--prevalence", "1"),
        ("--sensitivity", "0"),
    ],
)
def test_an_option_that_is_no_number_is_refused_by_its_name(tmp_path: Path, option: tuple[str, str]) -> None:
    result = run(*asked(cases(tmp_path), *option))
    assert result.exit_code == 2
    assert option[0] in result.stderr


def test_rates_of_a_partial_area_in_the_wrong_order_are_refused(tmp_path: Path) -> None:
    result = run(*asked(cases(tmp_path), "--fpr", "0.4", "0.2"))
    assert result.exit_code == 2
    assert "--fpr" in result.stderr


def test_resampling_cases_that_do_not_overlap_gives_no_interval_of_width_zero(tmp_path: Path) -> None:
    path = tmp_path / "cases.csv"
    path.write_text("truth,score\n" + "".join(f"{int(row > 9)},{row}\n" for row in range(20)), encoding="utf-8")
    document = of(*asked(path, "--interval", "bootstrap", "--bootstrap", "50", "--sensitivity", "0.9"))
    assert document["auroc_ci"] == [None, None]
    assert "same figure" in document["undefined"]["auroc_ci"]
    assert document["fixed_points"][0]["ci"] == [None, None]


def test_names_of_groups_are_printed_as_they_are(tmp_path: Path) -> None:
    path = cases(tmp_path)
    path.write_text(path.read_text(encoding="utf-8").replace(",common", ",[/red] [b]x"), encoding="utf-8")
    assert "[/red] [b]x" in run(*asked(path, "--subgroup", "vendor", "--bootstrap", "0")).stdout


def test_probabilities_too_extreme_for_a_fit_have_no_slope_and_a_reason(tmp_path: Path) -> None:
    path = tmp_path / "cases.csv"
    rows = [f"{row % 2},{'1e-300' if row % 3 else '1e-299'}" for row in range(12)]
    path.write_text("truth,score\n" + "\n".join(rows) + "\n", encoding="utf-8")
    document = of(*asked(path, "--bootstrap", "10"))
    assert document["calibration"]["in_the_large"] is None
    assert "extreme" in document["undefined"]["calibration.in_the_large"]

"""`radnode eval mrmc` over files: keys, reasons, and what it says of tables that cannot be used."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from sklearn.metrics import roc_auc_score

from dicom_node.cli import main

HEADER = "reader,treatment,case,truth,rating"


@pytest.fixture
def ratings(tmp_path: Path) -> Path:
    """Three readers, two treatments, 30 cases, 12 of them diseased."""
    random = np.random.default_rng(1)
    rows = [
        f"R{reader},{treatment},c{case},{int(case < 12)},{random.normal() + (case < 12) * (1 + (treatment == 'B')):.3f}"
        for reader in range(1, 4)
        for treatment in "AB"
        for case in range(30)
    ]
    path = tmp_path / "ratings.csv"
    path.write_text("\n".join([HEADER, *rows]) + "\n")
    return path


def run(path: Path, *more: str) -> Result:
    return CliRunner().invoke(main, ["eval", "mrmc", "--ratings", str(path), *more])


def document(path: Path, *more: str) -> dict[str, object]:
    result = run(path, *more, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def changed(path: Path, change: Callable[[list[str]], list[str]]) -> Path:
    """The table with other lines."""
    path.write_text("\n".join(change(path.read_text().splitlines())) + "\n")
    return path


def with_cell(line: int, column: int, cell: str) -> Callable[[list[str]], list[str]]:
    def change(lines: list[str]) -> list[str]:
        cells = lines[line - 1].split(",")
        cells[column] = cell
        return [*lines[: line - 1], ",".join(cells), *lines[line:]]

    return change


def test_the_keys_are_those_of_the_interface(ratings: Path) -> None:
    found = document(ratings)
    for key in ("random_readers_random_cases", "fixed_readers", "fixed_cases"):
        block = found[key]
        assert {"f", "ddf", "p", "difference", "ci"} <= set(block)
        assert block["ci"][0] < block["difference"] < block["ci"][1]
        assert (block["first"], block["second"]) == ("A", "B")
    assert found["fixed_readers"]["ddf"] is None
    assert "infinitely many" in found["undefined"]["fixed_readers.ddf"]
    table = np.genfromtxt(ratings, delimiter=",", names=True, dtype=None, encoding="utf-8")
    for one in found["auc"]:
        own = table[(table["reader"] == one["reader"]) & (table["treatment"] == one["treatment"])]
        assert one["auc"] == pytest.approx(roc_auc_score(own["truth"], own["rating"]))
    assert found["sources"][0]["rows"] == 180
    assert found["settings"]["covariance"] == "jackknife"


def test_the_readable_form_names_readers_treatments_and_the_interval(ratings: Path) -> None:
    result = run(ratings)
    assert result.exit_code == 0
    assert "30 cases, 12 diseased" in " ".join(result.stdout.split())
    for word in ("R1", "A", "readers and cases", "degrees of freedom"):
        assert word in result.stdout


def test_json_goes_to_a_file_beside_the_readable_form(ratings: Path, tmp_path: Path) -> None:
    result = run(ratings, "--json", str(tmp_path / "out.json"))
    assert "R1" in result.stdout
    assert json.loads((tmp_path / "out.json").read_text())["command"] == "mrmc"


@pytest.mark.parametrize("covariance", ["delong", "bootstrap"])
def test_other_covariances_are_close_to_the_jackknife(ratings: Path, covariance: str) -> None:
    jackknife, other = document(ratings), document(ratings, "--covariance", covariance, "--seed", "3")
    key = "random_readers_random_cases"
    assert other[key]["difference"] == jackknife[key]["difference"]
    assert other["components"]["var_error"] == pytest.approx(jackknife["components"]["var_error"], rel=0.15)
    assert other["settings"]["seed"] == (3 if covariance == "bootstrap" else None)


def test_the_same_seed_gives_the_same_bytes(ratings: Path) -> None:
    options = ("--covariance", "bootstrap", "--bootstrap", "200", "--seed", "5", "--json")
    assert run(ratings, *options).stdout == run(ratings, *options).stdout


def test_the_order_of_rows_changes_nothing(ratings: Path) -> None:
    before = document(ratings)
    after = document(changed(ratings, lambda lines: [lines[0], *reversed(lines[1:])]))
    assert after["auc"] == before["auc"]
    assert after["fixed_readers"]["p"] == pytest.approx(before["fixed_readers"]["p"])


def test_a_machine_is_compared_with_the_others_and_left_out_of_their_means(ratings: Path) -> None:
    found = document(ratings, "--cad", "R2")
    assert [one["treatment"] for one in found["cad"]] == ["A", "B"]
    area = {(one["treatment"], one["reader"]): one["auc"] for one in found["auc"]}
    first = found["cad"][0]
    assert first["figure"] == pytest.approx(area["A", "R2"])
    assert first["panel_mean"] == pytest.approx((area["A", "R1"] + area["A", "R3"]) / 2)
    block = first["random_readers_random_cases"]
    assert (block["first"], block["second"]) == ("panel", "R2")
    assert block["difference"] == pytest.approx(first["panel_mean"] - first["figure"])
    assert found["random_readers_random_cases"]["means"][0]["mean"] == pytest.approx(first["panel_mean"])
    assert "R2" in run(ratings, "--cad", "R2").stdout


def test_with_one_treatment_the_blocks_are_those_of_the_machine_and_the_panel(ratings: Path) -> None:
    found = document(changed(ratings, lambda lines: [line for line in lines if ",B," not in line]), "--cad", "R1")
    assert found["random_readers_random_cases"] == found["cad"][0]["random_readers_random_cases"]


def test_one_treatment_has_a_reason_for_every_null(ratings: Path) -> None:
    found = document(changed(ratings, lambda lines: [line for line in lines if ",B," not in line]))
    block = found["random_readers_random_cases"]
    assert (block["f"], block["p"], block["difference"], block["ci"]) == (None, None, None, [None, None])
    assert "one treatment" in found["undefined"]["random_readers_random_cases.f"]
    assert block["means"][0]["ci"][0] < block["means"][0]["mean"]


def test_three_treatments_have_all_their_differences(ratings: Path) -> None:
    def third(lines: list[str]) -> list[str]:
        return [*lines, *(line.replace(",A,", ",C,") + "1" for line in lines if ",A," in line)]

    found = document(changed(ratings, third))
    block = found["random_readers_random_cases"]
    assert [(one["first"], one["second"]) for one in block["differences"]] == [("A", "B"), ("A", "C"), ("B", "C")]
    assert block["difference"] is None
    assert "see differences" in found["undefined"]["random_readers_random_cases.difference"]
    assert block["numerator_df"] == 2


def test_one_class_only_is_undefined_and_says_so(ratings: Path) -> None:
    found = document(changed(ratings, lambda lines: [line for line in lines if ",1," not in line]))
    assert {one["auc"] for one in found["auc"]} == {None}
    assert found["random_readers_random_cases"]["p"] is None
    assert "one class" in found["undefined"]["auc.A.R1"]
    assert "one class" in run(ratings).stdout


@pytest.mark.parametrize("covariance", ["jackknife", "delong", "bootstrap"])
@pytest.mark.parametrize("more", [(), ("--cad", "R3")])
def test_one_class_only_is_the_reason_of_everything_that_is_undefined(
    ratings: Path, covariance: str, more: tuple[str, ...]
) -> None:
    path = changed(ratings, lambda lines: [line for line in lines if ",1," not in line])
    found = document(path, "--covariance", covariance, "--bootstrap", "100", *more)
    assert {"components.var_error", "random_readers_random_cases.p", "auc.B.R1"} <= set(found["undefined"])
    assert {reason for reason in found["undefined"].values() if "one class" not in reason} == set()
    assert ("cad.A.panel_mean" in found["undefined"]) == bool(more)


def test_one_diseased_case_is_the_reason_of_components_and_not_the_number_of_readers(ratings: Path) -> None:
    def one_diseased(lines: list[str]) -> list[str]:
        return [line for line in lines if ",1," not in line or ",c0," in line]

    found = document(changed(ratings, one_diseased))["undefined"]
    for name in ("var_error", "cov1", "cov2", "cov3", "var_reader", "var_treatment_reader"):
        assert "two diseased and two other cases" in found[f"components.{name}"]
    assert "components.ms_treatment" not in found


def test_one_reader_alone_has_the_components_that_need_no_second(ratings: Path) -> None:
    found = document(changed(ratings, lambda lines: [lines[0], *(line for line in lines if line.startswith("R1,"))]))
    lacking = {name for name, value in found["components"].items() if value is None}
    assert lacking == {"ms_reader", "ms_treatment_reader", "var_reader", "var_treatment_reader", "cov2", "cov3"}
    assert all("more readers" in found["undefined"][f"components.{name}"] for name in lacking)


def test_names_that_are_numbers_stand_in_the_order_of_numbers(ratings: Path) -> None:
    found = document(
        changed(ratings, lambda lines: [line.replace(",A,", ",10,").replace(",B,", ",9,") for line in lines])
    )
    assert found["treatments"] == ["9", "10"]


def test_the_control_is_subtracted_from_the_others(ratings: Path) -> None:
    plain, turned = document(ratings), document(ratings, "--control", "A")
    block = turned["random_readers_random_cases"]
    assert (block["first"], block["second"]) == ("B", "A")
    assert block["difference"] == pytest.approx(-plain["random_readers_random_cases"]["difference"])
    assert turned["settings"]["control"] == "A"


def test_a_control_that_is_no_treatment_is_refused(ratings: Path) -> None:
    result = run(ratings, "--control", "C")
    assert result.exit_code == 1
    assert "no 'C' to be the control; found A, B" in result.stderr


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda lines: lines[:-1],
            "ratings.csv: reader R3 has no rating of case c29 (first on line 31) under treatment B",
        ),
        (lambda lines: [*lines, lines[4]], "lines 5 and 182 both say reader R1, treatment A, case c3"),
        (with_cell(7, 4, "nan"), "ratings.csv: line 7: rating 'nan' is no finite number"),
        (with_cell(7, 4, "high"), "ratings.csv: line 7: rating 'high' is no number"),
        (with_cell(7, 3, "2"), "ratings.csv: line 7: truth '2' is neither 1 nor 0"),
        (with_cell(7, 3, "0"), "line 7: truth '0' is not that of the same case on line"),
        (with_cell(7, 0, ""), "ratings.csv: line 7: reader '' is empty"),
        (lambda lines: lines[:1], "there is no rating below the header"),
        (lambda lines: ["reader,treatment,case,truth,score", *lines[1:]], "line 1: no column 'rating'"),
    ],
    ids=["unbalanced", "twice", "NaN", "no number", "truth 2", "two truths", "no reader", "no rows", "no column"],
)
def test_a_table_that_cannot_be_used_is_refused_with_file_line_and_remedy(
    ratings: Path, change: Callable[[list[str]], list[str]], said: str
) -> None:
    result = run(changed(ratings, change))
    assert result.exit_code == 1
    assert said in result.stderr
    assert "Traceback" not in result.output


def test_a_machine_that_did_not_read_is_refused(ratings: Path) -> None:
    result = run(ratings, "--cad", "R9")
    assert result.exit_code == 1
    assert "no reader 'R9'" in result.stderr
    assert "R1, R2, R3" in result.stderr


def test_a_machine_without_a_panel_is_refused(ratings: Path) -> None:
    result = run(
        changed(ratings, lambda lines: [lines[0], *(line for line in lines if line.startswith("R1"))]), "--cad", "R1"
    )
    assert result.exit_code == 1
    assert "only reader" in result.stderr

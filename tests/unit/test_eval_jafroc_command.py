"""`radnode eval jafroc` over files: keys, a machine against a panel, and tables that cannot be used."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from sklearn.metrics import roc_auc_score

from dicom_node.cli import main

TRUTH = "case,diseased,lesion,weight"
MARKS = "modality,reader,case,mark,lesion,rating"


@dataclass(frozen=True, kw_only=True, slots=True)
class Files:
    """Truth and marks of a study."""

    truth: Path
    marks: Path


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """Four readers, two modalities, 20 normal and 16 diseased cases, half of those with two lesions."""
    random = np.random.default_rng(2)
    truth = [f"n{case},0,," for case in range(20)]
    lesions = []
    for case in range(16):
        shares = ["1"] if case % 2 else ["0.7", "0.3"]
        lesions += [(f"d{case}", str(number)) for number in range(1, len(shares) + 1)]
        truth += [f"d{case},1,{number},{share}" for number, share in enumerate(shares, start=1)]
    marks = []
    for modality in "AB":
        for reader in ("AI", "R1", "R2", "R3"):
            gain = 1.0 + (modality == "B")
            marks += [
                f"{modality},{reader},{case},NL,,{random.normal():.2f}"
                for case in (*(f"n{one}" for one in range(20)), *(f"d{one}" for one in range(16)))
                if random.random() < 0.5
            ]
            marks += [
                f"{modality},{reader},{case},LL,{lesion},{random.normal() + gain:.2f}"
                for case, lesion in lesions
                if random.random() < 0.8
            ]
    found = Files(truth=tmp_path / "truth.csv", marks=tmp_path / "marks.csv")
    found.truth.write_text("\n".join([TRUTH, *truth]) + "\n")
    found.marks.write_text("\n".join([MARKS, *marks]) + "\n")
    return found


def run(files: Files, *more: str) -> Result:
    arguments = ["eval", "jafroc", "--truth", str(files.truth), "--marks", str(files.marks), *more]
    return CliRunner().invoke(main, arguments)


def document(files: Files, *more: str) -> dict[str, object]:
    result = run(files, *more, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def rewrite(path: Path, change: Callable[[list[str]], list[str]]) -> None:
    path.write_text("\n".join(change(path.read_text().splitlines())) + "\n")


def with_line(line: int, text: str) -> Callable[[list[str]], list[str]]:
    return lambda lines: [*lines[: line - 1], text, *lines[line:]]


def test_the_keys_are_those_of_the_interface(files: Files) -> None:
    found = document(files, "--fom", "wafroc")
    assert len(found["fom"]) == 8
    assert set(found["fom"][0]) == {"modality", "reader", "value"}
    for key in ("random_readers_random_cases", "fixed_readers", "fixed_cases"):
        block = found[key]
        assert {"f", "ddf", "p", "difference", "ci"} <= set(block)
        assert block["ci"][0] < block["difference"] < block["ci"][1]
    means = {
        modality: np.mean([one["value"] for one in found["fom"] if one["modality"] == modality]) for modality in "AB"
    }
    assert found["fixed_cases"]["difference"] == pytest.approx(means["A"] - means["B"])
    assert (found["cases"], found["diseased"], found["lesions"]) == (36, 16, 24)
    assert [source["name"] for source in found["sources"]] == ["truth.csv", "marks.csv"]


@pytest.mark.parametrize("fom", ["wafroc", "afroc", "wafroc1", "afroc1", "hrauc", "lroc", "alroc", "pcl"])
def test_every_figure_of_merit_can_be_asked_for(files: Files, fom: str) -> None:
    found = document(files, "--fom", fom, "--fpf", "0.3")
    assert found["settings"]["fom"] == fom
    assert found["settings"]["fpf"] == (0.3 if fom in ("alroc", "pcl") else None)
    assert all(0 < one["value"] < 1 for one in found["fom"])
    assert 0 <= found["random_readers_random_cases"]["p"] <= 1


def test_hrauc_of_the_files_is_the_area_of_scikit_learn(files: Files) -> None:
    found = document(files, "--fom", "hrauc")["fom"][0]
    highest = dict.fromkeys([*(f"n{case}" for case in range(20)), *(f"d{case}" for case in range(16))], -1e6)
    for line in files.marks.read_text().splitlines()[1:]:
        modality, reader, case, _, _, rating = line.split(",")
        if (modality, reader) == (found["modality"], found["reader"]):
            highest[case] = max(highest[case], float(rating))
    judged = roc_auc_score([case.startswith("d") for case in highest], list(highest.values()))
    assert found["value"] == pytest.approx(judged)


def test_the_readable_form_names_figure_readers_and_the_machine(files: Files) -> None:
    result = run(files, "--cad", "AI")
    assert result.exit_code == 0
    for word in ("wafroc", "R1", "Panel minus machine", "AI"):
        assert word in result.stdout


def test_a_machine_is_compared_with_the_panel_in_each_modality(files: Files) -> None:
    found = document(files, "--cad", "AI")
    value = {(one["modality"], one["reader"]): one["value"] for one in found["fom"]}
    for one in found["cad"]:
        panel = np.mean([value[one["treatment"], reader] for reader in ("R1", "R2", "R3")])
        block = one["random_readers_random_cases"]
        assert one["figure"] == value[one["treatment"], "AI"]
        assert block["difference"] == pytest.approx(panel - one["figure"])
        assert block["ci"][0] < block["difference"] < block["ci"][1]
        assert 0 < block["p"] <= 1
    assert len(found["random_readers_random_cases"]["means"]) == 2


def test_the_control_is_subtracted_from_the_others(files: Files) -> None:
    plain, turned = document(files), document(files, "--control", "A")
    assert turned["fixed_readers"]["difference"] == pytest.approx(-plain["fixed_readers"]["difference"])
    assert {(one["modality"], one["reader"], one["value"]) for one in turned["fom"]} == {
        (one["modality"], one["reader"], one["value"]) for one in plain["fom"]
    }
    assert "no 'C' to be the control" in run(files, "--control", "C").stderr


def test_one_modality_and_a_machine_put_their_comparison_first(files: Files) -> None:
    rewrite(files.marks, lambda lines: [line for line in lines if not line.startswith("B,")])
    found = document(files, "--cad", "AI")
    assert found["random_readers_random_cases"] == found["cad"][0]["random_readers_random_cases"]
    assert found["random_readers_random_cases"]["first"] == "panel"


def test_a_panel_of_one_has_random_cases_only(files: Files) -> None:
    rewrite(files.marks, lambda lines: [line for line in lines if ",R2," not in line and ",R3," not in line])
    found = document(files, "--cad", "AI")
    block = found["cad"][0]
    assert block["random_readers_random_cases"]["p"] is None
    assert "one reader" in found["undefined"]["cad.A.random_readers_random_cases.p"]
    assert 0 < block["fixed_readers"]["p"] <= 1


@pytest.mark.parametrize("nothing", ["", "-inf", "-Infinity"])
def test_an_unmarked_row_is_no_mark(files: Files, nothing: str) -> None:
    before = document(files)
    rewrite(files.marks, lambda lines: [*lines, f"A,R1,n0,NL,,{nothing}", f"A,R1,d0,,,{nothing}"])
    assert document(files)["fom"] == before["fom"]


def test_the_only_lesion_of_a_case_need_not_be_named(files: Files) -> None:
    before = document(files)
    rewrite(files.marks, lambda lines: [*lines, "A,R1,d1,LL,1,9"])
    named = document(files)
    rewrite(files.marks, lambda lines: [*lines[:-1], "A,R1,d1,LL,,9"])
    assert document(files)["fom"] == named["fom"]
    assert named["fom"] != before["fom"]


def test_a_wrong_localisation_is_a_mark_beside_the_lesion(files: Files) -> None:
    before = document(files, "--fom", "lroc")
    rewrite(files.marks, lambda lines: [*lines, *(f"A,R1,d{case},LL_IL,,99" for case in range(16))])
    after = document(files, "--fom", "lroc")
    value = {(one["modality"], one["reader"]): one["value"] for one in after["fom"]}
    assert value["A", "R1"] == 0
    assert document(files, "--fom", "hrauc")["fom"][1]["value"] == 1
    assert before["fom"][0] == after["fom"][0]


def test_weights_left_empty_are_equal_and_rounded_ones_are_scaled(files: Files) -> None:
    rewrite(files.truth, lambda lines: [line.replace(",0.7", ",0.5").replace(",0.3", ",0.5") for line in lines])
    equal = document(files)
    rewrite(files.truth, lambda lines: [line.replace(",0.5", ",") for line in lines])
    empty = document(files)
    assert empty["fom"] == equal["fom"]
    assert "8 diseased cases have no weights" in empty["notes"][0]
    rewrite(files.truth, lambda lines: [line + "0.499" if line.endswith(",1,") else line for line in lines])
    rewrite(files.truth, lambda lines: [line + "0.499" if line.endswith(",2,") else line for line in lines])
    scaled = document(files)
    for one, other in zip(scaled["fom"], equal["fom"], strict=True):
        assert one["value"] == pytest.approx(other["value"], abs=1e-12)


def test_without_normal_cases_the_figure_is_undefined_and_says_why(files: Files) -> None:
    rewrite(files.truth, lambda lines: [line for line in lines if not line.startswith("n")])
    rewrite(files.marks, lambda lines: [line for line in lines if ",n" not in line])
    found = document(files)
    assert {one["value"] for one in found["fom"]} == {None}
    assert "no normal case" in found["undefined"]["fom.A.R1"]
    assert document(files, "--fom", "wafroc1")["fom"][0]["value"] is not None


def test_without_diseased_cases_the_figure_is_undefined_and_says_why(files: Files) -> None:
    rewrite(files.truth, lambda lines: [line for line in lines if not line.startswith("d")])
    rewrite(files.marks, lambda lines: [line for line in lines if ",d" not in line])
    found = document(files)
    assert "no diseased case" in found["undefined"]["fom.A.R1"]
    assert {reason for reason in found["undefined"].values() if "no diseased case" not in reason} == set()
    assert found["random_readers_random_cases"]["p"] is None


def test_a_lesion_marked_twice_counts_by_its_highest_mark_and_is_noted(files: Files) -> None:
    rewrite(files.marks, lambda lines: [*lines, "A,R1,d0,LL,1,50", "A,R1,d0,LL,1,60"])
    assert any("marked more than once" in note for note in document(files)["notes"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (with_line(22, "d0,1,1,0.6"), "line 22: the weights of case d0 add to 0.9, not to 1 (within 0.005)"),
        (with_line(22, "d0,1,1,-0.1"), "line 22: the weights of case d0 include one below 0"),
        (with_line(22, "d0,1,1,"), "line 22: the weights of case d0 are given for some of its lesions only"),
        (with_line(22, "d0,1,,1"), "line 22: lesion '' names no lesion, but the case is diseased"),
        (with_line(22, "d0,0,,"), "line 22: diseased '0' is not that of the same case on line 23"),
        (with_line(3, "n1,0,1,1"), "line 3: lesion '1' is named, but the case is not diseased"),
        (with_line(23, "d0,1,1,0.3"), "lines 22 and 23 both say case d0, lesion 1"),
        (with_line(22, "d0,maybe,1,0.7"), "line 22: diseased 'maybe' is neither 1 nor 0"),
        (lambda lines: lines[:1], "there is no case below the header"),
    ],
)
def test_truth_that_cannot_be_used_is_refused(
    files: Files, change: Callable[[list[str]], list[str]], said: str
) -> None:
    rewrite(files.truth, change)
    result = run(files)
    assert result.exit_code == 1
    assert f"truth.csv: {said}" in result.stderr
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("A,R1,x9,NL,,1", "case 'x9' is not in truth.csv"),
        ("A,R1,d0,LL,7,1", "lesion '7' is no lesion of its case, which has 1, 2"),
        ("A,R1,d0,LL,,1", "lesion '' is no lesion of its case, which has 1, 2"),
        ("A,R1,n0,LL,1,1", "mark 'LL' marks a lesion, but the case is not diseased"),
        ("A,R1,n0,LL_IL,,1", "mark 'LL_IL' is for diseased cases"),
        ("A,R1,n0,TP,,1", "mark 'TP' is no kind of mark"),
        ("A,R1,n0,NL,,nan", "rating 'nan' is no rating"),
        ("A,R1,n0,NL,,high", "rating 'high' is no number"),
        ("A,R1,n0,NL,,inf", "rating 'inf' is infinite"),
        ("A,,n0,NL,,1", "reader '' is empty"),
    ],
)
def test_a_mark_that_cannot_be_used_is_refused_with_file_and_line(files: Files, row: str, said: str) -> None:
    rewrite(files.marks, with_line(2, row))
    result = run(files)
    assert result.exit_code == 1
    assert f"marks.csv: line 2: {said}" in result.stderr


def test_a_reader_without_a_row_under_a_modality_is_refused_with_the_remedy(files: Files) -> None:
    rewrite(files.marks, lambda lines: [line for line in lines if not line.startswith("B,R2")])
    result = run(files)
    assert result.exit_code == 1
    assert "reader R2 (first on line" in result.stderr
    assert "add one NL row with rating -inf" in result.stderr


def test_a_file_of_marks_without_rows_is_refused(files: Files) -> None:
    rewrite(files.marks, lambda lines: lines[:1])
    assert "there is no mark below the header" in run(files).stderr


def test_a_machine_that_did_not_read_is_refused(files: Files) -> None:
    result = run(files, "--cad", "R9")
    assert result.exit_code == 1
    assert "no reader 'R9'" in result.stderr

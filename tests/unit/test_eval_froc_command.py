"""`radnode eval froc` over files: keys, options, and what it says of bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from eval.commands.froc import FrocDocument, command

COORDINATES = "seriesuid,coordX,coordY,coordZ"
TRUTH = f"{COORDINATES},diameter_mm\n1.1,-60.5,30.0,-110.2,8\n1.2,40.0,-25.0,-80.0,6\n1.2,10.5,-60.0,-140.0,10\n"
MARKS = (
    f"{COORDINATES},probability\n1.1,-60,30,-110,0.9\n1.1,0,0,-100,0.4\n1.2,40,-25,-81,0.7\n1.3,5,5,-120,0.8\n"
    "1.3,9,9,-90,0.2\n"
)
SCANS = "1.1\n1.2\n1.3\n1.4\n"
BOXES = f"{COORDINATES},width_mm,height_mm,depth_mm\n1.1,0,0,0,4,4,4\n1.2,50,0,0,2,2,2\n"
BOX_MARKS = f"{COORDINATES},width_mm,height_mm,depth_mm,probability\n1.1,0,0,0,2,2,2,0.9\n1.2,51,0,0,2,2,2,0.8\n"


def run(folder: Path, *options: str, truth: str = TRUTH, marks: str = MARKS, scans: str = SCANS, **more: str) -> Result:
    files = {"truth": truth, "marks": marks, "scans": scans, **more}
    arguments = list(options)
    for name, text in files.items():
        path = folder / f"{name}.csv"
        path.write_bytes(text.encode("utf-8"))
        arguments += [f"--{name}", str(path)]
    return CliRunner().invoke(command, arguments, catch_exceptions=False)


def document(folder: Path, *options: str, **files: str) -> Any:
    result = run(folder, *options, "--json", **files)
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)  # only JSON goes to standard output


def refused(folder: Path, *options: str, **files: str) -> str:
    result = run(folder, *options, **files)
    assert result.exit_code == 1
    assert not result.stdout
    return result.stderr


def sensitivities(found: Any) -> list[float]:
    return [point["sensitivity"] for point in found["operating_points"]]


def test_the_example_counted_by_hand(tmp_path: Path) -> None:
    found = document(tmp_path)
    # by falling score: hit 0.9, false 0.8, hit 0.7, false 0.4, false 0.2; three lesions, four scans
    assert [point["fp_per_scan"] for point in found["operating_points"]] == [0.125, 0.25, 0.5, 1, 2, 4, 8]
    assert sensitivities(found) == pytest.approx([1 / 3, *[2 / 3] * 6])
    assert found["cpm"] == pytest.approx((1 / 3 + 4) / 7)
    assert 0 <= found["cpm_ci"][0] <= found["cpm"] <= found["cpm_ci"][1] <= 1
    assert [point["threshold"] for point in found["operating_points"]] == [0.9, 0.7, 0.4, 0.2, 0.2, 0.2, 0.2]
    assert found["counts"] == {
        "scans": 4,
        "scans_with_lesions": 2,
        "scans_without_marks": 1,
        "units": 4,
        "lesions": 3,
        "excluded_lesions": 0,
        "marks": 5,
        "marks_considered": 5,
        "marks_on_lesions": 2,
        "marks_on_excluded": 0,
        "false_marks": 3,
        "lesions_found": 2,
        "lesions_missed": 1,
    }
    assert found["notes"] == ["62 of 1000 resamples had no lesion or no unit and were left out"]
    assert found["settings"]["denominator"] == "scan"
    assert "strictly nearer than the radius" in found["settings"]["hit_rule"]
    assert [source["rows"] for source in found["sources"]] == [4, 3, 5]


def test_the_result_keeps_to_its_schema_and_repeats_byte_by_byte(tmp_path: Path) -> None:
    first, again = run(tmp_path, "--json", "--seed", "4"), run(tmp_path, "--json", "--seed", "4")
    assert first.stdout == again.stdout
    assert FrocDocument.model_validate_json(first.stdout).settings["seed"] == 4


def test_a_readable_table_goes_to_the_terminal_and_json_to_a_file(tmp_path: Path) -> None:
    result = run(tmp_path, "--json", str(tmp_path / "out.json"))
    assert "CPM" in result.stdout
    assert "0.6667" in result.stdout
    assert json.loads((tmp_path / "out.json").read_text())["counts"]["lesions"] == 3


def test_marks_on_excluded_findings_are_removed(tmp_path: Path) -> None:
    excluded = f"{COORDINATES},diameter_mm\n1.3,5,5,-118,-1\n"
    found = document(tmp_path, excluded=excluded)
    assert found["counts"]["marks_on_excluded"] == 1
    assert sensitivities(found) == pytest.approx([2 / 3] * 7)


def test_marks_and_findings_of_scans_that_are_not_listed_are_dropped_with_a_note(tmp_path: Path) -> None:
    found = document(tmp_path, marks=MARKS + "9.9,0,0,0,0.99\n", truth=TRUTH + "9.8,0,0,0,5\n")
    assert sensitivities(found) == sensitivities(document(tmp_path))
    assert found["counts"]["marks"] == 5
    assert any("marks.csv: 1 of 6 marks are on scans that scans.csv does not list" in one for one in found["notes"])
    assert any("truth.csv: 1 of 4 findings" in one and "line 5" in one for one in found["notes"])


def test_the_limit_of_marks_can_be_lifted(tmp_path: Path) -> None:
    crowd = "".join(f"1.4,0,0,{z},0.1\n" for z in range(101))
    assert document(tmp_path, marks=MARKS + crowd)["counts"]["marks_considered"] == 5  # ties at the cut all drop
    assert document(tmp_path, "--marks-per-scan", "0", marks=MARKS + crowd)["counts"]["marks_considered"] == 106


def test_boxes_hit_by_overlap_and_by_centre(tmp_path: Path) -> None:
    by_overlap = document(tmp_path, "--hit", "iou", truth=BOXES, marks=BOX_MARKS, scans="1.1\n1.2\n")
    assert sensitivities(by_overlap)[-1] == 1.0  # IoU 1/8 and 1/3
    assert by_overlap["settings"]["iou"] == 0.1
    strict = document(tmp_path, "--hit", "iou", "--iou", "0.2", truth=BOXES, marks=BOX_MARKS, scans="1.1\n1.2\n")
    assert strict["counts"]["lesions_found"] == 1
    by_centre = document(tmp_path, "--hit", "center", truth=BOXES, marks=BOX_MARKS, scans="1.1\n1.2\n")
    assert by_centre["counts"]["lesions_found"] == 2
    assert by_centre["settings"]["iou"] is None


def test_overlap_needs_the_widths_in_both_files(tmp_path: Path) -> None:
    assert "no column 'width_mm'" in refused(tmp_path, "--hit", "iou", truth=TRUTH, marks=BOX_MARKS)
    assert "marks.csv: line 1: no column 'width_mm'" in refused(tmp_path, "--hit", "iou", truth=BOXES)
    flat = BOX_MARKS.replace("2,2,2,0.8", "2,0,2,0.8")
    assert "marks.csv: line 3: height_mm '0' is no width of a box" in refused(
        tmp_path, "--hit", "iou", truth=BOXES, marks=flat
    )


VIEWS = "seriesuid,patient,breast\nLCC,p1,L1\nLMLO,p1,L1\nRCC,p1,R1\nRMLO,p1,R1\n"
LESION_ON_VIEWS = (
    f"{COORDINATES},width_px,height_px,slices,lesion\nLCC,500,900,20,60,80,40,a\nLMLO,450,1000,18,60,80,40,a\n"
)
VIEW_MARKS = f"{COORDINATES},probability\nLCC,560,980,28,0.8\nRCC,100,100,5,0.9\nRMLO,100,100,5,0.7\n"


def test_mammography_counts_breasts_and_finds_a_lesion_in_either_view(tmp_path: Path) -> None:
    mammography = ("--hit", "mammography")
    files = {"truth": LESION_ON_VIEWS, "marks": VIEW_MARKS, "scans": VIEWS}
    by_view = document(tmp_path, *mammography, **files)
    assert by_view["counts"]["lesions"] == 2
    assert sensitivities(by_view)[:3] == [0, 0.5, 0.5]
    assert by_view["settings"]["resampled_unit"] == "patient"
    assert not any("frames" in note for note in by_view["notes"])  # 100 pixels away is near
    by_case = document(tmp_path, *mammography, "--either-view", "--per", "breast", **files)
    assert by_case["counts"]["lesions"] == 1
    assert by_case["counts"]["units"] == 2
    assert sensitivities(by_case)[:4] == [0, 0, 1, 1]
    assert by_case["settings"]["lesion"] == "case: found if hit in either view"
    normal = document(tmp_path, *mammography, "--per", "normal-image", **files)
    assert normal["counts"]["units"] == 2
    assert sensitivities(normal)[:3] == [0, 0, 0.5]


def test_no_view_of_a_lesion_is_a_normal_image_though_its_views_count_once(tmp_path: Path) -> None:
    on_both = f"{COORDINATES},diameter_mm,lesion\nv1,0,0,0,10,L\nv2,0,0,0,10,L\n"
    marks = f"{COORDINATES},probability\nv1,0,0,0,0.9\nv2,50,0,0,0.8\nv3,0,0,0,0.7\n"
    listed = "seriesuid,patient\nv1,p1\nv2,p1\nv3,p2\nv4,p2\n"
    found = document(tmp_path, "--either-view", "--per", "normal-image", truth=on_both, marks=marks, scans=listed)
    assert found["counts"]["units"] == 2  # v3 and v4
    assert found["counts"]["false_marks"] == 1  # on v3
    assert found["counts"]["scans_with_lesions"] == 2
    assert (found["counts"]["lesions"], found["counts"]["lesions_found"]) == (1, 1)


def test_breasts_and_views_need_their_columns(tmp_path: Path) -> None:
    assert "no column 'breast'" in refused(tmp_path, "--per", "breast")
    assert "truth.csv: line 1: no column 'lesion'" in refused(tmp_path, "--either-view")
    named = TRUTH.replace("diameter_mm\n", "diameter_mm,lesion\n").replace("8\n", "8,a\n").replace("6\n1", "6,b\n1")
    assert "no column 'breast'" in refused(tmp_path, "--either-view", truth=named.replace("10\n", "10,c\n"))


# Bad input


def test_a_scan_that_is_listed_twice_is_refused(tmp_path: Path) -> None:
    assert "scans.csv: lines 2 and 5 both say seriesuid 1.2; keep one" in refused(tmp_path, scans=SCANS + "1.2\n")


def test_a_list_with_a_header_is_read_as_well_and_an_empty_one_refused(tmp_path: Path) -> None:
    assert document(tmp_path, scans="seriesuid\n" + SCANS)["counts"]["scans"] == 4
    assert "there is no scan in it" in refused(tmp_path, scans="seriesuid\n")


@pytest.mark.parametrize("score", ["NaN", "inf", "", "high"])
def test_a_score_that_is_no_number_is_refused_with_its_line(tmp_path: Path, score: str) -> None:
    message = refused(tmp_path, marks=MARKS.replace("0.7\n", f"{score}\n"))
    assert f"marks.csv: line 4: probability '{score}'" in message


def test_scores_outside_0_to_1_are_taken_with_a_note(tmp_path: Path) -> None:
    found = document(tmp_path, marks=MARKS.replace("0.9\n", "12.5\n").replace("0.2\n", "-3\n"))
    assert sensitivities(found) == sensitivities(document(tmp_path))
    assert any("marks.csv: 2 scores are outside 0 to 1, the first on line 2" in one for one in found["notes"])


def test_no_lesions_leave_everything_undefined_with_a_reason(tmp_path: Path) -> None:
    found = document(tmp_path, truth=f"{COORDINATES},diameter_mm\n")
    assert found["cpm"] is None
    assert found["cpm_ci"] == [None, None]
    assert sensitivities(found) == [None] * 7
    assert "no lesions" in found["undefined"]["cpm"]
    assert "no lesions" in found["undefined"]["operating_points.fp_per_scan=0.125.sensitivity"]
    assert "undefined" in run(tmp_path, truth=f"{COORDINATES},diameter_mm\n").stdout


def test_no_marks_find_nothing_and_the_note_says_that_there_were_none(tmp_path: Path) -> None:
    found = document(tmp_path, marks=f"{COORDINATES},probability\n")
    assert found["cpm"] == 0.0
    assert found["counts"]["scans_without_marks"] == 4
    assert any("marks.csv: there is no mark in it" in one for one in found["notes"])
    assert [point["threshold"] for point in found["operating_points"]] == [None] * 7
    assert "operating_points.fp_per_scan=8.threshold" in found["undefined"]


def test_ids_that_are_never_those_of_the_list_are_refused(tmp_path: Path) -> None:
    message = refused(tmp_path, marks=MARKS.replace("\n1.", "\n2."))
    assert "marks.csv: line 2: no row is on a scan of scans.csv" in message
    assert "written alike" in message


def test_mixed_separators_are_refused_with_the_line(tmp_path: Path) -> None:
    message = refused(tmp_path, marks=MARKS.replace("1.2,40,-25,-81,0.7", "1.2;40;-25;-81;0.7"))
    assert "marks.csv: line 4" in message
    assert "semicolon" in message


def test_semicolons_and_decimal_commas_are_read_with_a_note(tmp_path: Path) -> None:
    marks = MARKS.replace(",", ";").replace("0.", "0,")
    found = document(tmp_path, marks=marks)
    assert found["cpm"] == document(tmp_path)["cpm"]
    assert any("semicolon" in one for one in found["notes"])


def test_a_missing_column_or_file_is_named(tmp_path: Path) -> None:
    assert "no column 'probability'" in refused(tmp_path, marks=MARKS.replace("probability", "score"))
    lost = CliRunner().invoke(command, ["--truth", "no.csv", "--scans", "no.csv", "--marks", "no.csv"])
    assert lost.exit_code == 1
    assert "no.csv: cannot be read" in lost.stderr


def test_a_finding_given_twice_and_one_of_no_size_are_noted(tmp_path: Path) -> None:
    found = document(tmp_path, truth=TRUTH + "1.2,40.0,-25.0,-80.0,6\n1.1,0,0,0,0\n")
    assert found["counts"]["lesions"] == 5
    assert any("truth.csv: lines 3 and 5 are the same finding" in one for one in found["notes"])
    assert any("truth.csv: line 6: a finding of diameter 0" in one for one in found["notes"])


def test_a_mark_given_twice_is_noted(tmp_path: Path) -> None:
    found = document(tmp_path, marks=MARKS + "1.3,5,5,-120,0.8\n1.1,0,0,-100,0.4\n")
    assert found["counts"]["false_marks"] == 5
    (doubled,) = [one for one in found["notes"] if "marks.csv" in one]
    assert "marks.csv: lines 3 and 8 are the same mark" in doubled
    assert "2 rows in all" in doubled
    assert not any("same mark" in one for one in document(tmp_path)["notes"])


def test_swapped_axes_are_told_from_a_bad_detector(tmp_path: Path) -> None:
    swapped = f"{COORDINATES},probability\n1.1,-110,30,-60,0.9\n1.2,-81,-25,40,0.7\n1.2,-140,-60,10,0.5\n"
    found = document(tmp_path, marks=swapped)
    assert found["cpm"] == 0.0
    assert "seem to be in different frames" in found["notes"][0]
    assert "(Z, Y, X)" in found["notes"][0]
    assert "3 would be" in found["notes"][0]


def test_mirrored_axes_are_told_from_a_bad_detector(tmp_path: Path) -> None:
    mirrored = f"{COORDINATES},probability\n1.1,60,-30,-110,0.9\n1.2,-40,25,-81,0.7\n1.2,-10,60,-140,0.5\n"
    found = document(tmp_path, marks=mirrored)
    assert "read as (-X, -Y, Z)" in found["notes"][0]


def test_voxel_indices_against_millimetres_are_pointed_out(tmp_path: Path) -> None:
    voxels = f"{COORDINATES},probability\n1.1,301,322,88,0.9\n1.2,402,188,120,0.7\n"
    result = run(tmp_path, "--json", marks=voxels)
    note = json.loads(result.stdout)["notes"][0]
    assert "none of 3 lesions is near a mark" in note
    assert "those of the marks are whole and never negative like voxel indices" in note
    assert "marks.csv and truth.csv" in note
    assert note in result.stderr  # loud even where JSON goes to standard output


def test_a_detector_that_finds_half_gets_no_such_note(tmp_path: Path) -> None:
    assert not any("frames" in note for note in document(tmp_path)["notes"])

"""Data sets as other people keep them: each layout is read into the same cases, and what is wrong is told."""

from __future__ import annotations

import json
import re
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import SimpleITK
from hypothesis import given
from hypothesis import strategies as st

from eval.cases import EvalCase, band
from eval.datasets import DatasetError, Margins, Words, in_language, parse_dataset, read_dataset
from eval.layouts import read_cases
from models.codes import Text
from tests.conftest import PROJECT
from tests.dx_wrapping import write_dx

HEAD = """
name = "a-set"
version = "1.0.0"
title = "A set"
layout = "{layout}"
unit = "{unit}"
modality = "DX"
licence = "CC0"
citation = "nobody"
standard = "one reader"
"""


def _cases(text: str, root: Path, *, layout: str = "table", unit: str = "film") -> tuple[EvalCase, ...]:
    return read_cases(parse_dataset(HEAD.format(layout=layout, unit=unit) + text, "set.toml"), root)


def _picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(np.arange(64 * 64, dtype=np.uint8).reshape(64, 64)).save(path)
    return path


# tables ---------------------------------------------------------------------------------------------------------------

TABLE = """
subgroups = ["sex", "age_years"]
[bands]
age_years = [40, 60]
[cases]
file = "cases.csv"
case = "film"
input = "{case}.png"
patient = "who"
traits = { sex = "sex" }
numbers = { age_years = "age" }
truth = { column = "class", positive = ["ill"], negative = ["well"], unknown = ["", "?"] }
not_judged = [{ column = "age", below = 18, because = "a child" }]
[[lesions]]
file = "boxes.csv"
case = "film"
shape = "xywh"
columns = ["x", "y", "w", "h"]
excluded = { kind = ["old"] }
label = "kind"
"""
CASES = """film,who,sex,age,class
a,1,F,39,ill
b,1,F,40,well
c,2,M,60,?
d,3,M,17,ill
e,4,,,well
"""
BOXES = """film,x,y,w,h,kind
a,1,2,3,4,new
a,10,10,5,5,old
"""


@pytest.fixture
def table(tmp_path: Path) -> Path:
    for name in "abcde":
        _picture(tmp_path / f"{name}.png")
    (tmp_path / "cases.csv").write_text(CASES, encoding="utf-8")
    (tmp_path / "boxes.csv").write_text(BOXES, encoding="utf-8")
    return tmp_path


def test_a_table_tells_truth_exclusions_traits_and_lesions(table: Path) -> None:
    cases = {case.case: case for case in _cases(TABLE, table)}
    assert {name: (case.positive, case.excluded) for name, case in cases.items()} == {
        "a": (True, ""),
        "b": (False, ""),
        "c": (None, "its truth is not known"),
        "d": (None, "a child"),
        "e": (False, ""),
    }
    assert [(lesion.box, lesion.label, lesion.excluded) for lesion in cases["a"].lesions] == [
        ((1, 2, 4, 6), "new", False),
        ((10, 10, 15, 15), "old", True),
    ]
    assert cases["a"].traits == {"sex": "F", "age_years": "below 40"}
    assert cases["b"].traits["age_years"] == "40 to 59"
    assert cases["c"].traits["age_years"] == "60 and over"
    assert cases["e"].traits == {}
    assert not cases["a"].dicom


def test_a_table_in_windows_1251_with_semicolons_is_read(table: Path) -> None:
    text = CASES.replace(",", ";").replace("F", "Ж").replace("M", "М")
    (table / "cases.csv").write_bytes(text.encode("cp1251"))
    assert _cases(TABLE, table)[0].traits["sex"] == "Ж"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("cases.csv", "class", "klass"), "cases.csv: line 1: no column 'class'"),
        (("cases.csv", "40,well", "40,maybe"), "cases.csv: line 3: class 'maybe' is neither positive, negative nor"),
        (("cases.csv", "b,1", "f,1"), "1 case(s) have no file, the first is f; see root and input"),
        (("cases.csv", "b,1,F,40,well", "a,9,F,40,well"), "cases.csv: line 3: who '9' is another one than in line 2"),
        (("cases.csv", "b,1", "b,"), "cases.csv: line 3: who '' is empty"),
        (("cases.csv", "40", "forty"), "cases.csv: line 3: age 'forty' is no number"),
        (("boxes.csv", "a,1,2", "z,1,2"), "boxes.csv: 1 case(s) are not in cases.csv, the first is z"),
        (("boxes.csv", "3,4,new", "0,4,new"), "boxes.csv: line 2: w '0' leaves the lesion without extent"),
        (("boxes.csv", "3,4,new", "3,,new"), "boxes.csv: line 2: h '' is empty while the lesion's other numbers"),
    ],
)
def test_what_is_wrong_in_a_table_is_told_by_file_line_and_column(
    table: Path, change: tuple[str, str, str], message: str
) -> None:
    name, old, new = change
    file = table / name
    file.write_text(file.read_text(encoding="utf-8").replace(old, new, 1), encoding="utf-8")
    with pytest.raises(DatasetError) as told:
        _cases(TABLE, table)
    assert message in str(told.value)


def test_a_subgroup_that_no_case_has_is_told(table: Path) -> None:
    with pytest.raises(DatasetError, match="no case has the trait vendor"):
        _cases(TABLE.replace('"sex", "age_years"]', '"vendor"]', 1), table)


def test_the_root_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="is no folder; name it with root or --root"):
        _cases(TABLE, tmp_path / "nowhere")


@given(
    value=st.floats(-1e6, 1e6),
    edges=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=5, unique=True),
)
def test_a_number_lies_in_one_band_and_neighbours_below_the_same_edge_share_it(
    value: float, edges: list[float]
) -> None:
    name = band(value, edges)
    assert name == band(value, list(reversed(edges)))
    assert name.startswith("below ") == (value < min(edges))
    assert name.endswith(" and over") == (value >= max(edges))


# COCO -----------------------------------------------------------------------------------------------------------------

COCO = '[coco]\npatient = "patient"\ntraits = ["view"]\ncategories = ["mass"]\n'


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    for name in ("one.png", "two.png"):
        _picture(tmp_path / "images" / name)
    _annotations(tmp_path)
    return tmp_path


def _annotations(
    root: Path, change: Callable[[dict[str, list[dict[str, object]]]], object] = lambda file: None
) -> None:
    file: dict[str, list[dict[str, object]]] = {
        "images": [
            {"id": 1, "file_name": "one.png", "patient": "p1", "view": "PA"},
            {"id": 2, "file_name": "two.png", "patient": "p2", "view": ""},
        ],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 7, "bbox": [1, 2, 3, 4]},
            {"id": 2, "image_id": 1, "category_id": 8, "bbox": [0, 0, 9, 9]},
            {"id": 3, "image_id": 2, "category_id": 7, "bbox": [5, 5, 5, 5], "iscrowd": 1},
        ],
        "categories": [{"id": 7, "name": "mass"}, {"id": 8, "name": "clip"}],
    }
    change(file)
    (root / "annotations.json").write_text(json.dumps(file), encoding="utf-8")


def test_a_coco_file_tells_lesions_of_the_categories_that_count(coco: Path) -> None:
    one, two = _cases(COCO, coco, layout="coco")
    assert (one.case, one.patient, one.positive, one.traits) == ("one.png", "p1", True, {"view": "PA"})
    assert [lesion.box for lesion in one.lesions] == [(1, 2, 4, 6)]
    assert two.positive is False
    assert [lesion.excluded for lesion in two.lesions] == [True]
    assert two.traits == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda file: file["annotations"][0].update(image_id=9), "1 annotation(s) are of images that are not in its"),
        (lambda file: file["annotations"][0].update(bbox=[1, 1, 0, 3]), "has an empty bbox [1.0, 1.0, 0.0, 3.0]"),
        (lambda file: file["annotations"][0].pop("bbox"), "annotations.json: annotations.0.bbox: Field required"),
        (lambda file: file.pop("images"), "annotations.json: images: Field required"),
        (lambda file: file["images"][0].update(patient=""), "annotations.json: image 1 has no patient"),
        (lambda file: file.update(categories=[]), "annotations.json: no category is called mass"),
        (lambda file: file["images"][1].update(file_name="one.png"), "1 case(s) are there twice, the first is one.png"),
    ],
)
def test_what_is_wrong_in_a_coco_file_is_told(
    coco: Path, change: Callable[[dict[str, list[dict[str, object]]]], object], message: str
) -> None:
    _annotations(coco, change)
    with pytest.raises(DatasetError) as told:
        _cases(COCO, coco, layout="coco")
    assert message in str(told.value)


# LUNA16 and decathlon -------------------------------------------------------------------------------------------------


def _scan(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = SimpleITK.GetImageFromArray(np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6) - 1000)
    image.SetSpacing((0.7, 0.7, 1.25))
    SimpleITK.WriteImage(image, str(path))
    return path


@pytest.fixture
def luna(tmp_path: Path) -> Path:
    for name in ("1.2.3", "1.2.4"):
        _scan(tmp_path / "subset0" / f"{name}.mhd")
    (tmp_path / "seriesuids.csv").write_text("1.2.3\n1.2.4\n", encoding="utf-8")
    head = "seriesuid,coordX,coordY,coordZ,diameter_mm\n"
    (tmp_path / "annotations.csv").write_text(head + "1.2.3,1,-2,3.5,6\n", encoding="utf-8")
    (tmp_path / "annotations_excluded.csv").write_text(head + "1.2.4,1,2,3,-1\n", encoding="utf-8")
    return tmp_path


def test_a_luna16_folder_is_read_with_its_irrelevant_findings(luna: Path) -> None:
    first, second = _cases("", luna, layout="luna16", unit="scan")
    assert (first.case, first.positive) == ("1.2.3", True)
    assert (first.lesions[0].center_mm, first.lesions[0].diameter_mm) == ((1, -2, 3.5), 6)
    assert [path.suffix for path in first.inputs] == [".mhd", ".raw"]
    assert second.positive is False
    assert (second.lesions[0].excluded, second.lesions[0].diameter_mm) == (True, 10)


def test_findings_of_a_scan_that_is_not_listed_are_told(luna: Path) -> None:
    (luna / "seriesuids.csv").write_text("1.2.3\n", encoding="utf-8")
    with pytest.raises(DatasetError, match=r"findings of 1 scan.*seriesuids\.csv does not list, the first is 1\.2\.4"):
        _cases("", luna, layout="luna16", unit="scan")


def test_a_listed_scan_without_a_file_is_told(luna: Path) -> None:
    (luna / "seriesuids.csv").write_text("1.2.3\n1.2.4\n1.2.5\n", encoding="utf-8")
    with pytest.raises(DatasetError, match=r"1 scan.* have no file below the root, the first is 1\.2\.5\.mhd"):
        _cases("", luna, layout="luna16", unit="scan")


@pytest.mark.parametrize(
    ("options", "box"),
    [
        ('box_mode = "cccwhd"\nworld = "LPS"', [1, 2, 3, 4, 6, 8]),
        ('box_mode = "cccwhd"\nworld = "RAS"', [-1, -2, 3, 4, 6, 8]),
        ('box_mode = "xyzwhd"\nworld = "LPS"', [-1, -1, -1, 4, 6, 8]),
        ('box_mode = "xyzxyz"\nworld = "RAS"', [-3, -5, -1, 1, 1, 7]),
    ],
)
def test_a_decathlon_list_tells_the_same_place_in_every_mode(tmp_path: Path, options: str, box: list[float]) -> None:
    _scan(tmp_path / "images" / "a.nii.gz")
    entries = {"validation": [{"image": "images/a.nii.gz", "box": [box], "label": [0]}], "training": []}
    (tmp_path / "dataset.json").write_text(json.dumps(entries), encoding="utf-8")
    (case,) = _cases(f"[decathlon]\n{options}\n", tmp_path, layout="decathlon", unit="scan")
    assert case.lesions[0].center_mm == (1, 2, 3)
    assert case.lesions[0].size_mm == (4, 6, 8)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"training": []}, "no section 'validation'; it has training"),
        ({"validation": [{"box": []}]}, "validation.0.image: Field required"),
        ({"validation": [{"image": "../a.nii"}]}, "../a.nii lies outside the root"),
        (
            {"validation": [{"image": "a.nii", "box": [[1, 1, 1, 0, 1, 1]]}]},
            "an empty box [1.0, 1.0, 1.0, 0.0, 1.0, 1.0]",
        ),
        ({"validation": [{"image": "a.nii"}]}, "1 case(s) have no file, the first is a.nii"),
    ],
)
def test_what_is_wrong_in_a_decathlon_list_is_told(tmp_path: Path, entries: object, message: str) -> None:
    (tmp_path / "dataset.json").write_text(json.dumps(entries), encoding="utf-8")
    with pytest.raises(DatasetError) as told:
        _cases("", tmp_path, layout="decathlon", unit="scan")
    assert message in str(told.value)


# DICOM ----------------------------------------------------------------------------------------------------------------

DICOM_TABLE = """
[cases]
file = "truth.csv"
case = "file"
patient = "who"
truth = { column = "ill", positive = ["1"], negative = ["0"] }
[[lesions]]
file = "boxes.csv"
case = "file"
shape = "corners"
columns = ["a", "b", "c", "d"]
"""


@pytest.fixture
def dicom(shared_data: Path, tmp_path: Path) -> Path:
    films = sorted((shared_data / "chest_xray_nih" / "images").iterdir())[:3]
    for number, film in enumerate(films):
        written = write_dx(film, tmp_path)
        shutil.move(written, tmp_path / f"film{number}.dcm")
    (tmp_path / "truth.csv").write_text("file,who,ill\nfilm0.dcm,p,1\nfilm1,p,0\n", encoding="utf-8")
    (tmp_path / "boxes.csv").write_text("file,a,b,c,d\nfilm0.dcm,1,2,3,4\n", encoding="utf-8")
    return tmp_path


def test_a_folder_of_dicom_takes_its_truth_from_a_table_by_file_name(dicom: Path) -> None:
    cases = {case.case: case for case in _cases(DICOM_TABLE, dicom, layout="dicom")}
    assert cases["film0.dcm"].positive is True
    assert [lesion.box for lesion in cases["film0.dcm"].lesions] == [(1, 2, 3, 4)]
    assert cases["film1.dcm"].positive is False
    assert cases["film1.dcm"].patient == "p"
    assert cases["film2.dcm"].excluded == "the table of cases does not name it"
    assert all(case.dicom for case in cases.values())


def test_a_folder_of_dicom_without_tables_is_run_and_not_judged(dicom: Path) -> None:
    cases = _cases("", dicom, layout="dicom", unit="study")
    assert [case.excluded for case in cases] == ["its truth is not known"] * 3


def test_a_row_of_which_there_is_no_dicom_file_is_told(dicom: Path) -> None:
    with (dicom / "truth.csv").open("a", encoding="utf-8") as file:
        file.write("film9.dcm,q,1\n")
    with pytest.raises(DatasetError, match=r"name 1 case.* of which there is no file, the first is film9\.dcm"):
        _cases(DICOM_TABLE, dicom, layout="dicom")


def test_ct_slices_of_one_series_are_one_scan(shared_data: Path) -> None:
    cases = _cases("", shared_data / "ct_lidc", layout="dicom", unit="scan")
    assert [len(case.inputs) for case in cases if len(case.inputs) > 1] != []
    assert len({case.case for case in cases}) == len(cases)


# the file itself ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name = ", "set.toml: not valid TOML"),
        ('name = "x y"', "fault(s)"),
        (HEAD.format(layout="table", unit="film"), "layout = 'table' needs the part [cases]"),
        (HEAD.format(layout="dicom", unit="film") + "[coco]\n", "[coco] is for layout = 'coco'"),
        (HEAD.format(layout="dicom", unit="ward"), "unit: Input should be 'film', 'view', 'scan' or 'study'"),
        (HEAD.format(layout="dicom", unit="film") + "speed = 1\n", "speed: Extra inputs are not permitted"),
    ],
)
def test_a_file_that_breaks_a_rule_is_told_with_every_fault(text: str, message: str) -> None:
    with pytest.raises(DatasetError) as told:
        parse_dataset(text, "set.toml")
    assert message in str(told.value)


@pytest.mark.parametrize("name", ["chest_opacity", "mammography_lesion", "lung_nodule_demo"])
def test_the_sets_of_the_shipped_models_have_a_whole_passport_in_two_languages(name: str) -> None:
    dataset = read_dataset(PROJECT / "training" / "recipes" / f"{name}.dataset.toml")
    assert dataset.passport is not None and dataset.plan is not None
    texts = [value for value in dict(dataset.passport).values() if isinstance(value, Text | str)]
    assert len(texts) == 18
    assert all(isinstance(text, Text) for text in (*texts, dataset.title, dataset.standard, dataset.plan.objective))


def test_words_in_one_language_are_the_same_in_both() -> None:
    words: Words = "one reader"
    assert in_language(words, "ru") == "one reader"
    assert in_language(Text(en="yes", ru="да"), "ru") == "да"


def test_the_examples_of_the_page_are_what_they_say() -> None:
    page = (PROJECT / "docs" / "howto" / "evaluate-a-model.md").read_text(encoding="utf-8")
    shortest, tables, margins = re.findall(r"```toml\n(.*?)```", page, flags=re.DOTALL)
    assert parse_dataset(shortest, "page").unit == "view"
    assert parse_dataset(shortest.replace('"dicom"', '"table"') + tables, "page").lesions[0].shape == "xywh"
    assert Margins.model_validate(tomllib.loads(margins)).auroc == 0.05

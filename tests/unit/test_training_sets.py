"""Data sets in other layouts: plain tables, COCO, and public sets as their makers publish them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.findings import Box
from tests.training_films import SIDE, blob_films
from training.cache import PreparedFilms
from training.data import Teaches
from training.datasets import data
from training.errors import DataError
from training.hashes import BITS, copies, distances, find_twins, perceptual_hash
from training.hits import center_in_radius, overlap
from training.public_sets import agreed_boxes, import_mias, import_nih, import_vindr
from training.readers import read_set


def picture(file: Path, seed: int = 0, side: int = 64) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(np.random.default_rng(seed).integers(0, 255, (side, side), dtype=np.uint8)).save(file)
    return file


def csv_set(folder: Path, films: str, boxes: str = "image,x,y,w,h\n", about: str = "") -> Path:
    for name in ("a", "b", "c", "d"):
        picture(folder / f"{name}.png")
    (folder / "films.csv").write_text(films)
    (folder / "boxes.csv").write_text(boxes)
    if about:
        (folder / "set.toml").write_text(about)
    return folder


def test_plain_tables_say_what_films_show_and_teach(tmp_path: Path) -> None:
    head = "image,patient,reading,view,age_years,device"
    rows = ("a.png,1,mass,CC,50,X", "b.png,1,clear,MLO,50,X", "c.png,2,,CC,,", "d.png,3,mass,,,")
    films = "\n".join([head, *rows])
    about = 'positive = "mass"\nnegatives = ["clear"]\nsubgroups = ["view"]\n'
    folder = csv_set(tmp_path, films, "image,x,y,radius\na.png,30,20,10\n", about)
    read = read_set("csv", folder)
    a, b, c, d = read.films
    assert (a.boxes, a.radii) == ((Box(x_min=20, y_min=10, x_max=40, y_max=30),), (10.0,))
    assert [film.teaches for film in read.films] == [
        Teaches.LESIONS,
        Teaches.NO_LESION,
        Teaches.NOTHING,
        Teaches.NOTHING,  # a lesion without a place
    ]
    assert [film.judged for film in read.films] == [True, True, False, False]
    assert a.traits == {"view": "CC", "device": "X"}
    assert (b.positive, c.reading, d.positive) == (False, "unread", True)
    assert read.subgroups == ("view",)


@pytest.mark.parametrize(
    ("films", "boxes", "said"),
    [
        ("image,reading\na.png,lesion\n", "image,x,y,w,h\n", r"films\.csv lacks the column\(s\) patient"),
        ("image,patient\na.png,\n", "image,x,y,w,h\n", "a.png has no patient"),
        ("image,patient\na.png,1\n", "image,x,y,w,h\nz.png,1,1,1,1\n", "the first is z.png"),
        ("image,patient\na.png,1\n", "image,x,y,w,h\na.png,1,1,0,1\n", r"line 2 \(a\.png\) cannot be understood"),
        ("image,patient,reading\na.png,1,normal\n", "image,x,y,w,h\na.png,1,1,5,5\n", "but has boxes"),
        ("image,patient,judged\na.png,1,perhaps\n", "image,x,y,w,h\n", "neither yes nor no"),
        ("image,patient\na.png,1\na.png,2\n", "image,x,y,w,h\n", "named twice"),
        ("image,patient\nnone.png,1\n", "image,x,y,w,h\n", "missing as files"),
        ("image,patient\n", "image,x,y,w,h\n", "holds no film"),
    ],
)
def test_faulty_tables_are_refused_with_the_row(tmp_path: Path, films: str, boxes: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        read_set("csv", csv_set(tmp_path, films, boxes))


def test_coco_needs_a_patient_for_each_image(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    picture(tmp_path / "b.png")
    images = [{"id": 1, "file_name": "a.png", "patient_id": 7}, {"id": 2, "file_name": "b.png", "patient_id": 8}]
    notes = [{"image_id": 1, "bbox": [1, 2, 3, 4], "category_id": 1}]
    (tmp_path / "annotations.json").write_text(json.dumps({"images": images, "annotations": notes, "categories": []}))
    a, b = read_set("coco", tmp_path).films
    assert a.boxes == (Box(x_min=1, y_min=2, x_max=4, y_max=6),)
    assert (b.reading, b.teaches) == ("normal", Teaches.NO_LESION)
    del images[0]["patient_id"]
    (tmp_path / "annotations.json").write_text(json.dumps({"images": images, "annotations": notes}))
    with pytest.raises(DataError, match="'patient_id'"):
        read_set("coco", tmp_path)


def write_rows(file: Path, *rows: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(rows) + "\n")


def test_nih_and_rsna_are_imported_as_published(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    for name in ("00000001_000.png", "00000002_000.png", "00000003_001.png"):
        picture(source / "images_001" / "images" / name)
    head = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position"
    write_rows(
        source / "Data_Entry_2017.csv",
        head,
        "00000001_000.png,Pneumonia,0,1,058Y,M,AP",
        "00000002_000.png,No Finding,0,2,40,F,PA",
        "00000003_001.png,Pneumonia|Mass,1,3,33,F,PA",
        "00000009_000.png,Mass,0,9,33,F,PA",
    )
    write_rows(
        source / "BBox_List_2017.csv",
        "Image Index,Finding Label,Bbox [x,y,w,h],,,",
        "00000003_001.png,Pneumonia,10.5,11.5,20,21,,,",
    )
    write_rows(source / "stage_2_train_labels.csv", "patientId,x,y,width,height,Target", "r1,1,2,3,4,1", "r2,,,,,0")
    write_rows(source / "stage_2_detailed_class_info.csv", "patientId,class", "r1,Lung Opacity", "r2,Normal")
    mapping = [
        {"subset_img_id": "r1", "img_id": "00000001_000.png"},
        {"subset_img_id": "r2", "img_id": "00000002_000.png"},
    ]
    (source / "pneumonia-challenge-dataset-mappings_2018.json").write_text(json.dumps(mapping))
    assert import_nih(source, target) == 3
    one, two, three = read_set("nih-chest", target).films
    assert (one.reading, one.boxes, one.numbers["age_years"]) == (
        "opacity",
        (Box(x_min=1, y_min=2, x_max=4, y_max=6),),
        58,
    )
    assert (two.reading, two.teaches) == ("normal", Teaches.NO_LESION)
    assert three.boxes == (Box(x_min=10.5, y_min=11.5, x_max=30.5, y_max=32.5),)
    assert one.path.read_bytes() == (source / "images_001" / "images" / "00000001_000.png").read_bytes()


def test_vindr_keeps_what_two_of_three_readers_saw(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    for name in ("f1", "f2", "f3"):
        (source / "train").mkdir(parents=True, exist_ok=True)
        (source / "train" / f"{name}.dicom").write_bytes(b"pixels")
    write_rows(
        source / "annotations" / "annotations_train.csv",
        "image_id,rad_id,class_name,x_min,y_min,x_max,y_max",
        "f1,R1,Consolidation,10,10,50,50",
        "f1,R2,Infiltration,12,12,52,52",
        "f1,R3,Cardiomegaly,100,100,200,200",
        "f2,R1,No finding,,,,",
        "f2,R2,No finding,,,,",
        "f3,R1,Consolidation,10,10,50,50",
        "f3,R2,No finding,,,,",
    )
    assert import_vindr(source, target) == 3
    films = {film.patient: film for film in read_set("csv", target).films}
    assert films["f1"].boxes == (Box(x_min=11, y_min=11, x_max=51, y_max=51),)
    assert (films["f2"].teaches, films["f2"].judged) == (Teaches.NO_LESION, True)
    assert (films["f3"].teaches, films["f3"].judged) == (Teaches.NOTHING, False)


def test_mini_mias_is_turned_to_our_origin_as_it_lies_beside_the_project(shared_data: Path, tmp_path: Path) -> None:
    with (shared_data / "mammography_mini_mias" / "lesions.csv").open(newline="") as lines:
        ours = {row["image"]: row for row in csv.DictReader(lines)}
    write_rows(
        tmp_path / "s" / "Info.txt", "some words first", "mdb010 F CIRC B 525 425 33", "mdb003 D NORM", "mdb004 D NORM"
    )
    for name in ("mdb010", "mdb003", "mdb004"):
        picture(tmp_path / "s" / f"{name}.pgm")
    assert import_mias(tmp_path / "s", tmp_path / "t") == 3
    with (tmp_path / "t" / "lesions.csv").open(newline="") as lines:
        for row in csv.DictReader(lines):
            assert row == {**ours[row["image"]], "severity": row["severity"]}
    assert [film.reading for film in read_set("mini-mias", tmp_path / "t").films] == ["normal", "normal", "lesion"]


def test_an_import_names_what_is_not_there(tmp_path: Path) -> None:
    for kind, lacks in (("nih", "Data_Entry_2017"), ("vindr", "annotations_train.csv"), ("mias", "Info.txt")):
        ended = CliRunner().invoke(data, ["import", kind, str(tmp_path), str(tmp_path / "t")])
        assert ended.exit_code == 1
        assert lacks in ended.output


def test_the_manifest_command_tells_the_set_that_is_meant_from_another(tmp_path: Path) -> None:
    folder = csv_set(tmp_path, "image,patient,reading\na.png,1,normal\nb.png,2,normal\nc.png,3,\n")
    said = CliRunner().invoke(data, ["manifest", str(folder), "--reader", "csv", "--list"])
    assert said.exit_code == 0
    digest = said.output.splitlines()[3].split(": ")[1]
    assert len(said.output.splitlines()) == 5
    arguments = ["manifest", str(folder), "--reader", "csv", "--expect"]
    assert CliRunner().invoke(data, [*arguments, digest]).exit_code == 0
    ended = CliRunner().invoke(data, [*arguments, "0" * 64])
    assert ended.exit_code == 1
    assert "not the set that is meant" in ended.output


def test_the_audit_command_passes_over_faults_and_tells_them(tmp_path: Path) -> None:
    films = "image,patient,reading\na.png,1,normal\nb.png,2,normal\nc.png,3,lesion\n"
    folder = csv_set(tmp_path / "set", films, "image,x,y,w,h\nc.png,40,40,60,10\n")
    ended = CliRunner().invoke(
        data, ["audit", str(folder), "--reader", "csv", "--side", "64", "--out", str(tmp_path / "out")]
    )
    assert ended.exit_code == 0, ended.output
    found = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert sorted((fault["image"], fault["kind"]) for fault in found["faults"]) == [
        ("c.png", "box outside"),
        ("d.png", "unlabelled"),
    ]
    assert "box outside" in (tmp_path / "out" / "audit.md").read_text()


boxes = st.tuples(st.integers(0, 50), st.integers(0, 50), st.integers(1, 40), st.integers(1, 40)).map(
    lambda four: Box(x_min=four[0], y_min=four[1], x_max=four[0] + four[2], y_max=four[1] + four[3])
)


@given(boxes, boxes)
def test_overlap_is_that_of_the_pixels(one: Box, other: Box) -> None:
    grid = np.zeros((2, 100, 100), dtype=bool)
    for layer, box in zip(grid, (one, other), strict=True):
        layer[int(box.y_min) : int(box.y_max), int(box.x_min) : int(box.x_max)] = True
    assert overlap(one, other) == pytest.approx((grid[0] & grid[1]).sum() / (grid[0] | grid[1]).sum())
    assert overlap(one, other) == overlap(other, one)


@given(boxes, boxes)
def test_a_mark_in_the_circle_is_in_its_hull(mark: Box, lesion: Box) -> None:
    if center_in_radius(mark, lesion):
        x, y = mark.center
        assert lesion.x_min <= x <= lesion.x_max
        assert lesion.y_min <= y <= lesion.y_max


@given(st.lists(boxes, max_size=6))
def test_one_reader_alone_never_agrees_with_himself(drawn: list[Box]) -> None:
    assert agreed_boxes([("R1", box) for box in drawn]) == []


@given(st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_copies_stay_near_and_strangers_far(seed: int) -> None:
    def smooth(number: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        coarse = np.random.default_rng([seed, number]).random((24, 24)).astype(np.float32)
        return np.asarray(PIL.Image.fromarray(coarse).resize((128, 128), PIL.Image.Resampling.BICUBIC))

    one, other = perceptual_hash(smooth(0))[None], perceptual_hash(smooth(1))[None]
    near = [int(distances(one, perceptual_hash(copy)[None])[0, 0]) for copy in copies(smooth(0))]
    assert max(near) < 60 < int(distances(one, other)[0, 0]) <= BITS


def test_equal_pixels_are_twins_however_the_threshold_lies() -> None:
    films, plain = blob_films(4)
    same = PreparedFilms(
        index=plain.index, greys=plain.greys, transforms=plain.transforms, digests=("x", "y", "z", "x")
    )
    random = np.random.default_rng(0)
    hashes = random.integers(0, 2**63, (4, 4), dtype=np.uint64)
    twins = find_twins(films, same, hashes, threshold_bits=0)
    assert [(pair.one, pair.other, pair.exact) for pair in twins] == [("0.jpg", "3.jpg", True)]
    assert plain.greys.shape[1] == SIDE

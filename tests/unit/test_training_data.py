"""What the films teach, and that no patient is on both sides of a split."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.findings import Box
from training.data import Film, ImageName, PatientKey, Teaches, counts, manifest_digest
from training.errors import DataError, SplitError
from training.nih import Reading
from training.readers import read_set
from training.splits import split_by_patient

HEAD = "image,findings,patient_id,age,sex,view,rsna_patientId,rsna_class"
BOX_HEAD = "image,label,x,y,w,h,source"


def folder_of(tmp_path: Path, films: list[str], boxes: list[str]) -> Path:
    (tmp_path / "images").mkdir()
    for row in films:
        (tmp_path / "images" / row.split(",")[0]).write_bytes(row.encode())
    (tmp_path / "labels.csv").write_text("\n".join([HEAD, *films]) + "\n")
    (tmp_path / "boxes.csv").write_text("\n".join([BOX_HEAD, *boxes]) + "\n")
    return tmp_path


def test_each_kind_of_film_teaches_what_its_labels_allow(tmp_path: Path) -> None:
    films = [
        "a.jpg,Pneumonia,1,60,M,AP,x,Lung Opacity",
        "b.jpg,No Finding,2,60,M,PA,x,Normal",
        "c.jpg,Effusion,3,60,M,PA,x,No Lung Opacity / Not Normal",
        "d.jpg,No Finding,4,60,M,PA,,",
        "e.jpg,Pneumonia,5,60,M,PA,,",
        "f.jpg,Pneumonia,6,60,M,PA,,",
        "g.jpg,Pneumonia,7,9,M,PA,x,Lung Opacity",
        "h.jpg,Pneumonia,8,60,M,PA,x,Normal",
    ]
    boxes = [
        "a.jpg,Lung Opacity,10,20,30,40,RSNA 2018 stage_2",
        "a.jpg,Pneumonia,0,0,5,5,NIH BBox_List_2017",
        "f.jpg,Pneumonia,1,2,3,4,NIH BBox_List_2017",
        "c.jpg,Effusion,1,2,3,4,NIH BBox_List_2017",
        "g.jpg,Lung Opacity,1,2,3,4,RSNA 2018 stage_2",
        "h.jpg,Pneumonia,1,2,3,4,NIH BBox_List_2017",
    ]
    read = {film.image: film for film in read_set("nih-chest", folder_of(tmp_path, films, boxes)).films}
    assert [read[ImageName(f"{name}.jpg")].teaches for name in "abcdefgh"] == [
        Teaches.LESIONS,
        Teaches.NO_LESION,
        Teaches.NO_LESION,
        Teaches.PROBABLY_NO_LESION,
        Teaches.FINDINGS,
        Teaches.LESIONS,
        Teaches.NOTHING,  # a child
        Teaches.NOTHING,  # the readers disagree
    ]
    assert read[ImageName("a.jpg")].boxes == (Box(x_min=10, y_min=20, x_max=40, y_max=60),)  # RSNA before NIH


def test_a_missing_film_and_a_strange_class_are_refused(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, ["a.jpg,x,1,60,M,AP,,"], [])
    (folder / "images" / "a.jpg").unlink()
    with pytest.raises(DataError, match="missing"):
        read_set("nih-chest", folder)
    (folder / "labels.csv").write_text(f"{HEAD}\na.jpg,x,1,60,M,AP,,Maybe\n")
    with pytest.raises(DataError, match="cannot be understood"):
        read_set("nih-chest", folder)
    (folder / "labels.csv").unlink()
    with pytest.raises(DataError, match=r"labels\.csv cannot be read"):
        read_set("nih-chest", folder)


def test_the_manifest_changes_with_one_byte_of_one_film(tmp_path: Path) -> None:
    films = read_set("nih-chest", folder_of(tmp_path, ["a.jpg,x,1,60,M,AP,,", "b.jpg,x,2,60,M,AP,,"], [])).films
    before = manifest_digest(films)
    assert before == manifest_digest(reversed(films))
    films[0].path.write_bytes(b"other")
    assert manifest_digest(films) != before


def test_the_nih_films_are_the_ones_the_card_counts(shared_data: Path) -> None:
    counted = counts(read_set("nih-chest", shared_data / "chest_xray_nih").films)
    assert counted["all"] == {"films": 657, "patients": 444, "boxes": 143, "AP": 386, "PA": 271, "children": 59}
    assert counted["read: opacity"]["AP"] == 55
    assert counted["read: normal"]["films"] == 49


def film(index: int, patient: int, view: str, reading: Reading) -> Film:
    return Film(
        image=ImageName(f"{index:04}.jpg"),
        path=Path(f"{index}.jpg"),
        patient=PatientKey(str(patient)),
        reading=reading,
        positive=reading is Reading.OPACITY,
        judged=True,
        teaches=Teaches.NO_LESION,
        stratum=f"{reading} {view}",
        traits={"view": view},
    )


FILMS = st.lists(
    st.tuples(st.integers(0, 30), st.sampled_from(["AP", "PA"]), st.sampled_from(list(Reading))),
    min_size=10,
    max_size=80,
).filter(lambda rows: len({patient for patient, _, _ in rows}) >= 5)


@given(FILMS, st.integers(2, 5), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_no_patient_is_in_two_folds_and_every_film_is_in_one(
    rows: list[tuple[int, str, Reading]], folds: int, seed: int
) -> None:
    films = [film(index, *row) for index, row in enumerate(rows)]
    splits = split_by_patient(films, folds=folds, seed=seed)
    assert set(splits.fold_of) == {one.image for one in films}
    for fold in range(folds):
        held_out = {one.patient for one in splits.held_out(films, fold)}
        assert not held_out & {one.patient for one in splits.training(films, fold)}
    assert splits.digest == split_by_patient(list(reversed(films)), folds=folds, seed=seed).digest


def test_readings_and_views_are_spread_evenly() -> None:
    films = [
        film(index, index, "AP" if index % 3 else "PA", Reading.OPACITY if index % 2 else Reading.NORMAL)
        for index in range(120)
    ]
    splits = split_by_patient(films, folds=4, seed=1)
    for fold in range(4):
        counts = Counter((one.view, one.reading) for one in splits.held_out(films, fold))
        assert set(counts.values()) == {5, 10}


def test_more_folds_than_patients_are_refused() -> None:
    films = [film(index, 1, "AP", Reading.NORMAL) for index in range(9)]
    with pytest.raises(SplitError, match="patients"):
        split_by_patient(films, folds=3, seed=0)

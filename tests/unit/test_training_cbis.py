"""CBIS-DDSM as the archive publishes it, rebuilt in little: tables, films, masks and crops as DICOM."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

from inference.findings import Box
from training.cbis_ddsm import import_cbis
from training.data import Teaches
from training.datasets import data
from training.errors import DataError
from training.readers import read_set

HEAD = (
    "patient_id", "breast_density", "left or right breast", "image view", "abnormality id", "abnormality type",
    "pathology", "image file path", "cropped image file path", "ROI mask file path",
)  # fmt: skip
SHAPE = (120, 80)


def write_dicom(path: Path, pixels: NDArray[np.uint8]) -> None:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = SecondaryCaptureImageStorage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    file.SOPClassUID, file.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    file.StudyInstanceUID, file.SeriesInstanceUID = generate_uid(), generate_uid()
    file.Modality, file.PatientID, file.PhotometricInterpretation = "MG", "x", "MONOCHROME2"
    file.Rows, file.Columns = pixels.shape
    file.SamplesPerPixel, file.BitsAllocated, file.BitsStored, file.HighBit, file.PixelRepresentation = 1, 8, 8, 7, 0
    file.PixelData = pixels.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    file.save_as(path, enforce_file_format=True)


def film(seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 255, SHAPE, dtype=np.uint8)


def mask(rows: slice, columns: slice, shape: tuple[int, int] = SHAPE) -> NDArray[np.uint8]:
    drawn = np.zeros(shape, dtype=np.uint8)
    drawn[rows, columns] = 255
    return drawn


def row(subject: str, number: int, kind: str = "mass", pathology: str = "MALIGNANT") -> tuple[str, ...]:
    woman, side, view = "_".join(subject.split("_")[1:3]), subject.split("_")[3], subject.split("_")[4]
    of_finding = f"{subject}_{number}"
    return (
        woman, "3", side, view, str(number), kind, pathology, f"{subject}/1.3.6/1.3.7/000000.dcm",
        f"{of_finding}/1.3.6/1.3.8/000000.dcm", f"{of_finding}/1.3.6/1.3.8/000001.dcm\n",
    )  # fmt: skip


def write_table(path: Path, *rows: tuple[str, ...]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as lines:
        csv.writer(lines).writerows([HEAD, *rows])


def archive(source: Path) -> Path:
    """Two films of one woman; mask and crop lie exchanged, and one mask has half the film's size."""
    left, right = "Mass-Training_P_00001_LEFT_CC", "Mass-Training_P_00001_RIGHT_MLO"
    write_table(
        source / "mass_case_description_train_set.csv",
        row(left, 1),
        row(left, 2, pathology="BENIGN_WITHOUT_CALLBACK"),
        row(right, 1, pathology="BENIGN"),
        row("Mass-Training_P_00009_LEFT_CC", 1),
    )
    write_dicom(source / "CBIS-DDSM" / left / "07-20-2016" / "1-full" / "1-1.dcm", film(0))
    write_dicom(source / "CBIS-DDSM" / right / "07-20-2016" / "1-full" / "1-1.dcm", film(1))
    masks = {f"{left}_1": mask(slice(10, 30), slice(20, 50)), f"{left}_2": mask(slice(90, 100), slice(5, 9))}
    masks[f"{right}_1"] = mask(slice(20, 30), slice(10, 20), shape=(60, 40))
    for index, (subject, drawn) in enumerate(masks.items()):
        crop = np.full((16, 16), 200, dtype=np.uint8)
        crop[3, 4] = 10
        first, second = (drawn, crop) if index % 2 else (crop, drawn)
        write_dicom(source / "CBIS-DDSM" / subject / "07-20-2016" / "1-roi" / "1-1.dcm", first)
        write_dicom(source / "CBIS-DDSM" / subject / "07-20-2016" / "1-roi" / "1-2.dcm", second)
    return source


def test_masks_become_boxes_of_their_films_whatever_their_file_is_called(tmp_path: Path) -> None:
    archive(tmp_path / "s")
    ended = CliRunner().invoke(data, ["import", "cbis", str(tmp_path / "s"), str(tmp_path / "t")])
    assert ended.exit_code == 0, ended.output
    assert "2 films" in ended.output
    left, right = sorted(read_set("csv", tmp_path / "t").films, key=lambda one: one.image)
    assert set(left.boxes) == {
        Box(x_min=20, y_min=10, x_max=50, y_max=30),
        Box(x_min=5, y_min=90, x_max=9, y_max=100),
    }
    assert right.boxes == (Box(x_min=20, y_min=40, x_max=40, y_max=60),)
    assert left.teaches is Teaches.LESIONS and left.positive
    assert left.patient == right.patient and left.breast != right.breast
    assert left.traits["pathology"] == "benign without callback and malignant"
    assert (left.traits["view"], right.traits["view"], left.traits["density"]) == ("CC", "MLO", "3")
    assert left.path.is_file()


def test_a_film_without_its_mask_is_named(tmp_path: Path) -> None:
    source = archive(tmp_path / "s")
    for path in source.rglob("Mass-Training_P_00001_RIGHT_MLO_1/**/*.dcm"):
        path.unlink()
    with pytest.raises(DataError, match="Mass-Training_P_00001_RIGHT_MLO_1: its mask is not there"):
        import_cbis(source, tmp_path / "t")


def test_an_empty_mask_is_named(tmp_path: Path) -> None:
    source = archive(tmp_path / "s")
    (path,) = (path for path in source.rglob("Mass-Training_P_00001_LEFT_CC_2/**/*.dcm") if path.name == "1-1.dcm")
    write_dicom(path, mask(slice(0, 0), slice(0, 0)))
    with pytest.raises(DataError, match="LEFT_CC_2: its mask marks nothing"):
        import_cbis(source, tmp_path / "t")


def test_what_is_no_archive_is_told(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    with pytest.raises(DataError, match="mass_case_description"):
        import_cbis(tmp_path / "s", tmp_path / "t")

"""CT scans that are no DICOM series go through the same inference: a real series saved as NIfTI is marked alike."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from eval.contamination import pictures_of
from eval.running import Options, run
from eval.runs import Run, Status, read_run
from eval.volumes import VolumeError, read_itk
from inference.loading import load_volume
from models.card import read_card
from models.registry import ZOO, InstalledModel

NODULES = ZOO / "lung-nodule-demo" / "0.1.0"
HEAD = """
name = "{name}"
version = "1.0.0"
title = "One scan"
layout = "{layout}"
unit = "scan"
modality = "CT"
licence = "CC BY 3.0"
citation = "S. G. Armato III et al., Data From LIDC-IDRI, 2015"
standard = "readers of LIDC-IDRI"
[rules]
hit = "center_in_box"
"""


@pytest.fixture(scope="module")
def slices(shared_data: Path) -> list[Path]:
    return sorted((shared_data / "ct_lidc" / "LIDC-IDRI-0002").rglob("*.dcm"))


@pytest.fixture(scope="module")
def saved(slices: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The series as NIfTI, with a list that says where its nodule is."""
    root = tmp_path_factory.mktemp("decathlon")
    volume = load_volume(slices)
    image = SimpleITK.GetImageFromArray(np.rint(volume.voxels).astype(np.int16))
    image.SetSpacing(tuple(reversed(volume.spacing_mm)))
    image.SetOrigin(volume.origin_mm)
    axes = np.asarray(volume.direction)[::-1].T
    image.SetDirection(axes.ravel().tolist())
    SimpleITK.WriteImage(image, str(root / "scan.nii.gz"))
    entries = {"validation": [{"image": "scan.nii.gz", "box": [[0, 0, 0, 5, 5, 5]], "patient": "p"}]}
    (root / "dataset.json").write_text(json.dumps(entries), encoding="utf-8")
    header = '[header]\nmodality = "CT"\nbody_part = "CHEST"\n'
    text = HEAD.format(name="saved", layout="decathlon") + header
    (root / "dataset.toml").write_text(text, encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def unlisted(tmp_path_factory: pytest.TempPathFactory) -> InstalledModel:
    folder = tmp_path_factory.mktemp("models") / "lung-nodule-demo" / "0.1.0"
    shutil.copytree(NODULES, folder)
    card = read_card(folder / "card.toml")
    training = card.training.model_copy(update={"files": None})
    return replace(InstalledModel(card=card, folder=folder), card=card.model_copy(update={"training": training}))


def _run(model: InstalledModel, root: Path, out: Path, dataset: Path | None = None) -> Run:
    given = Options(
        model=model,
        label="nodule",
        dataset_file=dataset or root / "dataset.toml",
        root=root,
        out=out,
        jobs=1,
        device="cpu",
        command="radnode eval run",
    )
    run(given)
    return read_run(out)


def test_a_series_saved_as_nifti_is_marked_as_the_series_itself(
    unlisted: InstalledModel, slices: list[Path], saved: Path, tmp_path: Path
) -> None:
    (tmp_path / "series").mkdir()
    for path in slices:
        shutil.copy(path, tmp_path / "series")
    dataset = tmp_path / "dicom.toml"
    dataset.write_text(HEAD.format(name="series", layout="dicom"), encoding="utf-8")
    (as_series,) = _run(unlisted, tmp_path / "series", tmp_path / "a", dataset).cases
    (as_nifti,) = _run(unlisted, saved, tmp_path / "b").cases
    assert as_series.status is as_nifti.status is Status.ANALYSED
    assert as_nifti.score == pytest.approx(as_series.score, abs=2e-4)
    assert len(as_series.marks) == len(as_nifti.marks) >= 10
    for one, other in zip(as_series.marks, as_nifti.marks, strict=True):
        assert one.score == pytest.approx(other.score, abs=2e-4)
        assert one.center_mm == pytest.approx(other.center_mm, abs=0.1)
        assert one.size_mm == pytest.approx(other.size_mm, abs=0.1)
    assert not as_series.judged
    assert as_nifti.positive is True


def test_a_training_series_saved_as_nifti_is_known(slices: list[Path], saved: Path, tmp_path: Path) -> None:
    digests = {digest for path in slices for digest in pictures_of(path)}
    assert set(pictures_of(saved / "scan.nii.gz")) == digests
    assert len(digests) == len(slices)


def test_what_a_marked_place_is_lies_in_the_patient(unlisted: InstalledModel, saved: Path, tmp_path: Path) -> None:
    (case,) = _run(unlisted, saved, tmp_path / "run").cases
    volume = read_itk(saved / "scan.nii.gz")
    corners = [volume.to_lps_mm(z, y, x) for z in (0, volume.voxels.shape[0] - 1) for y in (0, 511) for x in (0, 511)]
    low, high = np.min(corners, axis=0) - 5, np.max(corners, axis=0) + 5
    for mark in case.marks:
        assert mark.center_mm is not None
        assert ((low <= mark.center_mm) & (mark.center_mm <= high)).all()


def test_a_volume_of_another_modality_is_refused(unlisted: InstalledModel, saved: Path, tmp_path: Path) -> None:
    root = tmp_path / "set"
    shutil.copytree(saved, root)
    text = (root / "dataset.toml").read_text(encoding="utf-8").replace('modality = "CT"\nbody', 'modality = "MR"\nbody')
    (root / "dataset.toml").write_text(text, encoding="utf-8")
    (case,) = _run(unlisted, root, tmp_path / "run").cases
    assert case.status is Status.REFUSED
    assert case.reason == "modality: MR; the model accepts CT"


def test_a_volume_whose_voxels_are_missing_is_refused_without_its_name(
    unlisted: InstalledModel, saved: Path, tmp_path: Path
) -> None:
    root = tmp_path / "set"
    shutil.copytree(saved, root)
    (root / "scan.nii.gz").write_bytes(b"cut off")
    (case,) = _run(unlisted, root, tmp_path / "run").cases
    assert case.status is Status.REFUSED
    assert case.reason == "unreadable: the file cannot be read as a volume: is the file of voxels beside it, and whole?"


def test_a_picture_is_no_volume(tmp_path: Path) -> None:
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.zeros((4, 4), dtype=np.int16)), str(tmp_path / "flat.mha"))
    with pytest.raises(VolumeError, match=r"flat\.mha is no grey-scale volume"):
        read_itk(tmp_path / "flat.mha")

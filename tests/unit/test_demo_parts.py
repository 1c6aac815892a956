"""The demonstration's parts: the phantom before outside judges, the small archive, the output folder."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
from click.testing import CliRunner

from dicom_node.cli import main
from dicom_node.delivery import open_archive
from dicom_node.delivery.archive import Confirm, PacsDestination, Sent
from dicom_node.demo import phantom
from dicom_node.demo.command import own_command
from dicom_node.demo.studies import all_studies
from dicom_node.dimse.small_archive import SmallArchive
from tests.archives import outbound_set
from tests.judges import dcentvfy_complaints, dciodvfy_errors


@pytest.fixture(scope="module")
def slices(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    return phantom.write_phantom(tmp_path_factory.mktemp("phantom"))


def to(archive: SmallArchive, **changes: object) -> PacsDestination:
    known = {"name": "small", "host": "127.0.0.1", "port": archive.port, "called_ae": archive.ae_title}
    return PacsDestination.model_validate({**known, "confirm": Confirm.QUERY, **changes})


def test_outside_judges_find_no_error_in_the_phantom(slices: tuple[Path, ...]) -> None:
    assert [line for path in (slices[0], slices[24], slices[-1]) for line in dciodvfy_errors(path)] == []
    assert dcentvfy_complaints([], slices) == []


def test_the_phantom_says_that_it_is_one_wherever_a_viewer_looks(slices: tuple[Path, ...]) -> None:
    header = pydicom.dcmread(slices[0], stop_before_pixels=True)
    for word in (header.PatientName, header.PatientID, header.StudyDescription, header.SeriesDescription):
        assert "PHANTOM" in str(word)
    assert header.QualityControlSubject == "YES"


def test_the_phantom_is_a_contiguous_series_of_hounsfield_units(slices: tuple[Path, ...]) -> None:
    heights = [float(pydicom.dcmread(path, stop_before_pixels=True).ImagePositionPatient[2]) for path in slices]
    assert np.allclose(np.diff(heights), phantom.STEP_MM)
    image = pydicom.dcmread(slices[len(slices) // 2])
    hu = image.pixel_array.astype(float) * float(image.RescaleSlope) + float(image.RescaleIntercept)
    assert hu[0, 0] < -950
    assert np.array_equal(hu.astype(np.int16), phantom.phantom_hu()[len(slices) // 2])


def test_each_nodule_stands_out_of_the_lung() -> None:
    volume = phantom.phantom_hu()
    for nodule in phantom.NODULES:
        x, y, z = nodule.centre_mm
        column, row = (round(value / phantom.SPACING_MM + (phantom.SIDE_PX - 1) / 2) for value in (x, y))
        level = round(z / phantom.STEP_MM + (phantom.SLICES - 1) / 2)
        assert abs(volume[level, row, column] - nodule.value_hu) < 80


def test_the_phantom_is_the_same_every_time(slices: tuple[Path, ...], tmp_path: Path) -> None:
    again = phantom.write_phantom(tmp_path)
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in slices]


def test_the_demonstration_has_a_film_mammograms_and_the_phantom(tmp_path: Path) -> None:
    studies = all_studies(tmp_path, None)
    assert [study.modality for study in studies] == ["CR", "MG", "MG", "MG", "MG", "CT"]
    assert len({study.study_uid for study in studies}) == len(studies)


def test_a_folder_of_ones_own_is_sent_as_well(tmp_path: Path, slices: tuple[Path, ...]) -> None:
    own = outbound_set(tmp_path, count=2)
    (tmp_path / "notes.txt").write_text("no DICOM")
    studies = all_studies(tmp_path / "work", tmp_path)
    assert [len(study.objects) for study in studies if study.study_uid == own[0].study_uid] == [2]


def test_the_small_archive_keeps_what_it_takes_and_confirms_it(tmp_path: Path) -> None:
    objects = outbound_set(tmp_path, count=3)
    with SmallArchive(tmp_path / "kept") as small:
        archive = open_archive(to(small))
        archive.echo()
        assert archive.confirm(objects) == frozenset()
        assert [outcome.sent for outcome in archive.send(objects)] == [Sent.ACCEPTED] * 3
        assert archive.confirm(objects) == {one.sop_instance_uid for one in objects}
        kept = small.of_study(objects[0].study_uid)
        archive.close()
    assert [one.sop_instance_uid for one in kept] == [one.sop_instance_uid for one in objects]
    assert pydicom.dcmread(kept[0].path) == pydicom.dcmread(objects[0].path)


def test_the_small_archive_answers_to_its_own_title_only(tmp_path: Path) -> None:
    (one,) = outbound_set(tmp_path, count=1)
    with SmallArchive(tmp_path / "kept") as small:
        archive = open_archive(to(small, called_ae="ANOTHER"))
        (outcome,) = archive.send([one])
        archive.close()
        assert small.of_study(one.study_uid) == ()
    assert outcome.sent is Sent.RETRY


def test_the_command_it_names_is_one_that_the_shell_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = tmp_path / ".venv" / "bin" / "radnode"
    monkeypatch.setattr(sys, "executable", str(installed.with_name("python")))
    monkeypatch.setenv("PATH", "/nowhere")
    assert own_command() == "radnode", "it is not installed as a command"
    installed.parent.mkdir(parents=True)
    installed.write_text("#!/bin/sh\n")
    installed.chmod(0o700)
    monkeypatch.chdir(tmp_path)
    assert own_command() == ".venv/bin/radnode", "as after `make demo`"
    monkeypatch.chdir("/")
    assert own_command() == str(installed).lstrip("/")
    monkeypatch.setenv("PATH", str(installed.parent))
    assert own_command() == "radnode"


def test_a_folder_that_another_filled_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    done = CliRunner().invoke(main, ["demo", "--output", str(tmp_path)])
    assert done.exit_code == 1
    assert "not empty" in done.stderr
    assert (tmp_path / "thesis.txt").read_text() == "years of work"

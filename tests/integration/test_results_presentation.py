"""Presentation states before DCMTK: they check, and they render the picture with the polarity of the image."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread

from dicom_node.results.profile import Profile
from dicom_node.results.request import Role
from dicom_node.results.result_set import encode
from inference.loading import load_image
from tests import judges
from tests.conftest import require_tool
from tests.dx_wrapping import write_dx
from tests.results_cases import make_card, make_findings, make_request

PROFILE = Profile(language="en", presentation_state=True)


def _film(shared: Path, folder: Path, *, inverted: bool) -> Path:
    film = sorted((shared / "chest_xray_nih" / "images").glob("*"))[7]
    return write_dx(film, folder, inverted=inverted, patient_name="Ivanov^Ivan")


def _presentation_state(source: Path, folder: Path, profile: Profile = PROFILE) -> Path:
    card = make_card()
    request = make_request([source], card=card, findings=make_findings([source], card), profile=profile)
    (state,) = [written for written in encode(request) if written.role is Role.PRESENTATION_STATE]
    path = folder / "state.dcm"
    path.write_bytes(state.data)
    judges.assert_valid_result_object(path, [source])
    return path


def _assert_rendered_alike(state: Path, readable: Path, source: Path, folder: Path) -> None:
    rendered = folder / "rendered.pgm"
    program = require_tool("dcmp2pgm")
    subprocess.run([program, "-p", str(state), str(readable), str(rendered)], check=True, capture_output=True)
    with Image.open(rendered) as picture:
        theirs = np.asarray(picture, dtype=np.float64).ravel()
    ours = load_image(source).pixels.ravel()
    assert np.corrcoef(theirs, ours)[0, 1] >= 0.999


@pytest.mark.parametrize("inverted", [False, True], ids=["MONOCHROME2", "MONOCHROME1"])
def test_dcmtk_renders_a_film_through_the_state_as_it_is_displayed(
    inverted: bool, shared_data: Path, tmp_path: Path
) -> None:
    source = _film(shared_data, tmp_path, inverted=inverted)
    state = _presentation_state(source, tmp_path)
    assert judges.dcmpschk_complaints(state) == []
    _assert_rendered_alike(state, source, source, tmp_path)
    assert dcmread(state).PresentationLUTShape == ("INVERSE" if inverted else "IDENTITY")


def test_dcmtk_renders_a_real_monochrome1_film_upright_in_grey(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "dicom_samples" / "WG04_RG1_JLSN"
    state = _presentation_state(source, tmp_path)
    assert judges.dcmpschk_complaints(state) == []
    readable = tmp_path / "raw.dcm"
    subprocess.run([require_tool("gdcmconv"), "--raw", str(source), str(readable)], check=True, capture_output=True)
    _assert_rendered_alike(state, readable, source, tmp_path)


def test_the_marks_are_those_of_the_findings(shared_data: Path, tmp_path: Path) -> None:
    source = _film(shared_data, tmp_path, inverted=False)
    card = make_card()
    findings = make_findings([source], card)
    (annotation,) = dcmread(_presentation_state(source, tmp_path)).GraphicAnnotationSequence
    for graphic, lesion in zip(annotation.GraphicObjectSequence, findings.lesions, strict=True):
        polygon = lesion.region.key_plane.polygon
        drawn = np.reshape(graphic.GraphicData, (-1, 2))
        assert np.allclose(drawn, [*polygon, polygon[0]], atol=1e-3)
        assert graphic.TrackingUID == lesion.tracking_uid


def test_a_ct_study_gets_no_presentation_state(shared_data: Path) -> None:
    source = shared_data / "dicom_samples" / "WG04_CT1_RLE"
    card = make_card()
    request = make_request([source], card=card, findings=make_findings([source], card), profile=PROFILE)
    assert Role.PRESENTATION_STATE not in {written.role for written in encode(request)}


def test_a_voi_table_wins_over_a_window_beside_it(shared_data: Path, tmp_path: Path) -> None:
    source = _film(shared_data, tmp_path, inverted=False)
    film = dcmread(source)
    from pydicom import DataElement, Dataset

    table = Dataset()
    table.add(DataElement("LUTDescriptor", "US", [256, 0, 16]))
    table.add(DataElement("LUTData", "OW", (np.arange(256, dtype="<u2") * 257).tobytes()))
    film.VOILUTSequence = [table]
    film.save_as(source)
    state = dcmread(_presentation_state(source, tmp_path))
    (voi,) = state.SoftcopyVOILUTSequence
    assert "VOILUTSequence" in voi
    assert "WindowCenter" not in voi

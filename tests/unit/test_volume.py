"""CT series become volumes, or are refused with what is wrong about them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from inference.images import LoadLimits
from inference.loading import load_volume, read_image_header, select_slices
from inference.refusals import Refused
from tests.pictures import save, slice_data_set

Change = Callable[[list[Dataset]], None]


def series(count: int = 6, *, step_mm: float = 2.5) -> list[Dataset]:
    return [slice_data_set((-10.0, 20.0, i * step_mm), np.full((8, 6), 1000 + i)) for i in range(count)]


def written(folder: Path, slices: list[Dataset]) -> list[Path]:
    return [save(data_set, folder / f"{i}.dcm") for i, data_set in enumerate(slices)]


def refusal(folder: Path, slices: list[Dataset], **limits: int) -> str:
    with pytest.raises(Refused) as caught:
        load_volume(written(folder, slices), limits=LoadLimits(**limits))
    return str(caught.value)


def test_slices_are_sorted_by_position_and_rescaled_to_hounsfield_units(tmp_path: Path) -> None:
    paths = written(tmp_path, series())
    volume = load_volume([paths[i] for i in (3, 0, 5, 1, 4, 2)])
    assert volume.voxels.shape == (6, 8, 6)
    assert volume.voxels.dtype == np.float32
    assert volume.voxels[:, 0, 0].tolist() == [1000 + i - 1024 for i in range(6)]
    assert volume.spacing_mm == pytest.approx((2.5, 0.8, 0.7))
    assert volume.origin_mm == (-10, 20, 0)
    assert volume.to_lps_mm(2, 3, 4) == pytest.approx((-10 + 4 * 0.7, 20 + 3 * 0.8, 5))


def test_every_slice_has_its_own_rescale(tmp_path: Path) -> None:
    slices = series(4)
    slices[2].RescaleSlope, slices[2].RescaleIntercept = 2, -500
    assert load_volume(written(tmp_path, slices)).voxels[2, 0, 0] == 1002 * 2 - 500


def test_padding_becomes_air(tmp_path: Path) -> None:
    slices = series(3)
    pixels = np.full((8, 6), 1000)
    pixels[0, 0] = -2000
    slices[1] = slice_data_set((-10, 20, 2.5), pixels)
    slices[1].add_new(0x00280120, "US", 63536)  # as real files store it: US on signed pixels
    volume = load_volume(written(tmp_path, slices))
    assert volume.voxels[1, 0, 0] == -1024
    assert volume.voxels[1, 0, 1] == -24


def drop(slices: list[Dataset]) -> None:
    del slices[3]


def double(slices: list[Dataset]) -> None:
    slices[3].ImagePositionPatient = slices[2].ImagePositionPatient


def stretch(slices: list[Dataset]) -> None:
    slices[-1].ImagePositionPatient = [-10, 20, 5 * 2.5 + 0.9]


def tilt(slices: list[Dataset]) -> None:
    for i, data_set in enumerate(slices):
        data_set.ImagePositionPatient = [-10, 20 + i * math.tan(math.radians(15)) * 2.5, i * 2.5]


def turn(slices: list[Dataset]) -> None:
    slices[0].ImageOrientationPatient = [1, 0, 0, 0, 0, -1]


def shear(slices: list[Dataset]) -> None:
    for data_set in slices:
        data_set.ImageOrientationPatient = [1, 0, 0, 0.5, 0.8, 0]


def rescale_pixels(slices: list[Dataset]) -> None:
    slices[1].PixelSpacing = [0.9, 0.7]


def unplace(slices: list[Dataset]) -> None:
    del slices[1].ImagePositionPatient


def unspace(slices: list[Dataset]) -> None:
    slices[1].PixelSpacing = [0, 0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (drop, "1 slice(s) missing at a spacing of 2.50 mm"),
        (double, "occur twice"),
        (stretch, "slice distances from"),
        (tilt, "tilted"),
        (turn, "several orientations"),
        (shear, "perpendicular"),
        (rescale_pixels, "several pixel spacings"),
        (unplace, "is missing"),
        (unspace, "Pixel Spacing"),
    ],
)
def test_untrustworthy_geometry_is_refused_with_what_is_wrong(tmp_path: Path, change: Change, words: str) -> None:
    slices = series()
    change(slices)
    text = refusal(tmp_path, slices)
    assert text.startswith("geometry: ")
    assert words in text


@pytest.mark.parametrize(
    ("attribute", "value", "reason"),
    [
        ("RescaleType", "US", "not_hu"),
        ("RescaleIntercept", None, "not_hu"),
        ("PhotometricInterpretation", "MONOCHROME1", "not_hu"),
        ("SeriesInstanceUID", "1.2.77", "contradiction"),
        ("Modality", "PT", "modality"),
        ("RescaleSlope", 0, "unreadable"),
    ],
)
def test_one_foreign_slice_refuses_the_volume(tmp_path: Path, attribute: str, value: Any, reason: str) -> None:
    slices = series()
    if value is None:
        delattr(slices[2], attribute)
    else:
        setattr(slices[2], attribute, value)
    assert refusal(tmp_path, slices).startswith(reason)


def test_too_few_and_too_many_slices_are_refused_before_decoding(tmp_path: Path) -> None:
    assert refusal(tmp_path, series(2)).startswith("incomplete")
    assert refusal(tmp_path, series(6), max_slices=5).startswith("too_large")
    assert refusal(tmp_path, series(6), max_voxels=100).startswith("too_large")


def test_rounded_positions_are_no_gap(tmp_path: Path) -> None:
    slices = series(8, step_mm=0.625)
    for i, data_set in enumerate(slices):
        data_set.ImagePositionPatient = [-10, 20, round(i * 0.625 + 0.015 * (-1) ** i, 2)]
    assert load_volume(written(tmp_path, slices)).spacing_mm[0] == pytest.approx(0.625, abs=0.01)


def test_localizers_and_reformats_are_dropped_with_their_reason(tmp_path: Path) -> None:
    slices = series(4)
    slices[0].ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    slices[1].ImageType = ["DERIVED", "SECONDARY", "MPR"]
    headers = [read_image_header(path) for path in written(tmp_path, slices)]
    kept, dropped = select_slices([*headers, replace(headers[3], rows=4)])
    assert kept == tuple(headers[2:])
    assert [entry.why for entry in dropped] == [
        "image type LOCALIZER",
        "image type MPR",
        "4 x 6 pixels in a series of (8, 6)",
    ]


@settings(max_examples=15, deadline=None)
@given(
    angles=st.tuples(*[st.floats(-1.2, 1.2)] * 3),
    step=st.floats(0.5, 6),
    origin=st.tuples(*[st.floats(-300, 300)] * 3),
)
def test_any_orientation_gives_patient_coordinates_of_the_slices(
    tmp_path_factory: pytest.TempPathFactory,
    angles: tuple[float, float, float],
    step: float,
    origin: tuple[float, float, float],
) -> None:
    a, b, c = angles
    turned = (
        np.array([[1, 0, 0], [0, math.cos(a), -math.sin(a)], [0, math.sin(a), math.cos(a)]])
        @ np.array([[math.cos(b), 0, math.sin(b)], [0, 1, 0], [-math.sin(b), 0, math.cos(b)]])
        @ np.array([[math.cos(c), -math.sin(c), 0], [math.sin(c), math.cos(c), 0], [0, 0, 1]])
    )
    row, column = turned[:, 0], turned[:, 1]
    normal = np.cross(row, column)
    places = [np.asarray(origin) + normal * step * i for i in range(4)]
    slices = []
    for i, place in enumerate(places):
        data_set = slice_data_set((0, 0, 0), np.full((8, 6), i))
        data_set.ImagePositionPatient = [f"{value:.6f}" for value in place]
        data_set.ImageOrientationPatient = [f"{value:.8f}" for value in (*row, *column)]
        slices.append(data_set)
    volume = load_volume(written(tmp_path_factory.mktemp("ct"), slices))
    for i, place in enumerate(places):
        assert volume.to_lps_mm(i, 0, 0) == pytest.approx(place.tolist(), abs=0.02)
        assert volume.to_lps_mm(i, 2, 3) == pytest.approx((place + column * 1.6 + row * 2.1).tolist(), abs=0.02)


def test_a_real_series_is_a_volume_at_its_five_millimetres(shared_data: Path) -> None:
    for folder in sorted({path.parent for path in (shared_data / "ct_lung_pet_ct_dx").rglob("*.dcm")}):
        volume = load_volume(sorted(folder.glob("*.dcm")))
        assert volume.spacing_mm[0] == pytest.approx(5, abs=0.05)
        assert -1100 <= volume.voxels.min() < -900

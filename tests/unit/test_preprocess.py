"""The network's input and the exact way back to source pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from inference.findings import SeriesUid, SopUid, StudyUid
from inference.grayscale import GreyParameters, displayed
from inference.images import Image, ImageHeader
from inference.loading import load_film, load_image
from inference.preprocess import prepare
from inference.refusals import Reason, Refused
from models.inputs import Fit, Layout, ProjectionInput
from tests.pictures import disc_picture, film_file

SPEC = ProjectionInput(height=64, width=64)
HEADER = ImageHeader(
    sop_instance_uid=SopUid("1.2"),
    sop_class_uid="1.3",
    series_uid=SeriesUid("1.4"),
    study_uid=StudyUid("1.5"),
    transfer_syntax_uid="1.6",
    rows=1,
    columns=1,
)


def picture(pixels: NDArray[np.float32], padded: NDArray[np.bool_] | None = None) -> Image:
    return Image(header=HEADER, pixels=pixels.astype(np.float32), padded=padded, pixel_digest="0" * 64)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 300),
    columns=st.integers(1, 300),
    height=st.sampled_from([32, 64, 97]),
    width=st.sampled_from([32, 64, 97]),
    x=st.floats(0, 1),
    y=st.floats(0, 1),
    fit=st.sampled_from(Fit),
)
def test_the_way_to_the_input_and_back_returns_the_same_point(
    rows: int, columns: int, height: int, width: int, x: float, y: float, fit: Fit
) -> None:
    pixels = np.linspace(0, 1, rows * columns + 1, dtype=np.float32)[1:].reshape(rows, columns)
    pixels[0, 0] = 0
    if rows * columns == 1:
        return
    transform = prepare(picture(pixels), ProjectionInput(height=height, width=width, fit=fit)).transform
    there = transform.to_input(x * columns, y * rows)
    assert 0 <= there[0] <= width
    assert 0 <= there[1] <= height
    assert transform.to_source(*there) == pytest.approx((x * columns, y * rows), abs=1e-9 * max(rows, columns))


@pytest.mark.parametrize("shape", [(200, 100), (100, 200), (333, 251), (40, 20)])
def test_a_mark_in_the_source_is_found_at_its_transformed_place(shape: tuple[int, int]) -> None:
    rows, columns = shape
    pixels = np.zeros(shape, dtype=np.float32)
    top, left, size = rows // 2, columns // 4, max(rows // 10, 4)
    pixels[top : top + size, left : left + size] = 1
    made = prepare(picture(pixels), ProjectionInput(height=128, width=128, low_percentile=0, high_percentile=100))
    grey = made.tensor[0] * 0.25 + 0.5
    y, x = np.mgrid[0:128, 0:128] + 0.5  # centres of input pixels
    centre = float((x * grey).sum() / grey.sum()), float((y * grey).sum() / grey.sum())
    assert made.transform.to_source(*centre) == pytest.approx((left + size / 2, top + size / 2), abs=0.15)


def test_the_picture_keeps_its_proportions_and_is_padded_right_and_below() -> None:
    spec = ProjectionInput(height=64, width=64, pad_value=0.25)
    made = prepare(picture(np.random.default_rng(1).random((100, 50), dtype=np.float32)), spec)
    assert made.tensor.shape == (1, 64, 64)
    assert np.all(made.tensor[0, :, 32:] == np.float32((0.25 - 0.5) / 0.25))
    assert not np.all(made.tensor[0, :, 31] == np.float32((0.25 - 0.5) / 0.25))
    assert made.transform.scale_x == pytest.approx(0.64)


@pytest.mark.parametrize(("shape", "rows", "columns"), [((100, 50), (0, 64), (16, 48)), ((50, 100), (16, 48), (0, 64))])
def test_a_letterbox_has_the_picture_in_its_middle(
    shape: tuple[int, int], rows: tuple[int, int], columns: tuple[int, int]
) -> None:
    spec = ProjectionInput(height=64, width=64, fit=Fit.PAD_CENTER, pad_value=0.5)
    made = prepare(picture(0.1 + np.random.default_rng(1).random(shape, dtype=np.float32)), spec)
    padding = np.ones((64, 64), dtype=bool)
    padding[slice(*rows), slice(*columns)] = False
    assert np.all(made.tensor[0][padding] == 0)
    assert not np.any(made.tensor[0][~padding] == 0)
    assert made.transform.to_input(0, 0) == (columns[0], rows[0])


def test_a_stretched_picture_fills_the_rectangle() -> None:
    pixels = np.random.default_rng(1).random((100, 50), dtype=np.float32)
    made = prepare(picture(pixels), ProjectionInput(height=64, width=64, fit=Fit.STRETCH, pad_value=0.0))
    assert (made.transform.scale_x, made.transform.scale_y) == (1.28, 0.64)
    assert made.tensor[0, :, -4:].std() > 0.1


def test_channels_come_last_where_the_card_says_so() -> None:
    pixels = picture(disc_picture(64, 64) / np.float32(255))
    spec = ProjectionInput(height=64, width=96, channels=3, mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 0.5))
    first = prepare(pixels, spec).tensor
    last = prepare(pixels, spec.model_copy(update={"layout": Layout.CHANNELS_LAST})).tensor
    assert last.shape == (64, 96, 3)
    assert np.array_equal(last.transpose(2, 0, 1), first)


def test_every_channel_has_its_own_mean() -> None:
    spec = ProjectionInput(height=64, width=64, channels=3, mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 0.5))
    tensor = prepare(picture(disc_picture(64, 64) / np.float32(255)), spec).tensor
    greys = [tensor[i] * std + mean for i, (mean, std) in enumerate(zip(spec.mean, spec.std, strict=True))]
    assert np.allclose(greys[0], greys[1], atol=1e-6)
    assert np.allclose(greys[0], greys[2], atol=1e-6)


def test_padding_is_left_out_of_the_percentiles() -> None:
    rng = np.random.default_rng(2)
    whole = 0.4 + 0.2 * rng.random((64, 64), dtype=np.float32)
    framed, padded = np.zeros((64, 96), dtype=np.float32), np.ones((64, 96), dtype=np.bool_)
    framed[:, :64], padded[:, :64] = whole, False
    plain = prepare(picture(whole), ProjectionInput(height=96, width=96)).tensor
    with_frame = prepare(picture(framed, padded), ProjectionInput(height=64, width=96)).tensor
    assert with_frame[0, :, :63].mean() == pytest.approx(plain[0].mean(), abs=0.01)


def test_shrinking_does_not_alias() -> None:
    checkers = (np.indices((512, 512)).sum(axis=0) % 2).astype(np.float32)
    grey = prepare(picture(checkers), SPEC).tensor[0] * 0.25 + 0.5
    assert np.abs(grey - 0.5).max() < 0.05


def test_a_blank_picture_is_refused() -> None:
    with pytest.raises(Refused) as caught:
        prepare(picture(np.full((50, 50), 0.3)), SPEC)
    assert caught.value.refusal.reason is Reason.OUT_OF_RANGE


def test_a_picture_that_differs_only_in_its_tails_is_still_stretched() -> None:
    pixels = np.full((100, 100), 0.2, dtype=np.float32)
    pixels[3, 3] = 0.9
    grey = prepare(picture(pixels), ProjectionInput(height=100, width=100)).tensor[0] * 0.25 + 0.5
    assert grey[3, 3] == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("name", ["film.png", "film.jpg"])
def test_a_film_and_its_dx_wrapping_give_equal_tensors(tmp_path: Path, name: str) -> None:
    PIL.Image.fromarray(disc_picture().astype(np.uint8)).save(tmp_path / name)
    decoded = np.asarray(PIL.Image.open(tmp_path / name))
    film = load_film(tmp_path / name)
    wrapped = load_image(film_file(tmp_path / "film.dcm", decoded))
    assert np.array_equal(prepare(film, SPEC).tensor, prepare(wrapped, SPEC).tensor)
    assert film.pixel_digest == wrapped.pixel_digest


def test_real_films_and_their_dx_wrappings_give_equal_tensors(tmp_path: Path, shared_data: Path) -> None:
    for film in sorted((shared_data / "chest_xray_nih" / "images").iterdir())[:3]:
        decoded = np.asarray(PIL.Image.open(film).convert("L"))
        wrapped = load_image(film_file(tmp_path / "film.dcm", decoded, WindowCenter=128, WindowWidth=256))
        tensors = prepare(load_film(film), SPEC).tensor, prepare(wrapped, SPEC).tensor
        assert np.abs(tensors[0] - tensors[1]).max() * 0.25 < 1e-5


def test_an_inverted_film_is_another_input() -> None:
    values = disc_picture().astype(np.int32)
    upright, inverted = (displayed(values, GreyParameters(inverted=flag)) for flag in (False, True))
    assert np.allclose(upright, 1 - inverted, atol=1e-6)

"""Overlay pictures and status pages: anatomy untouched, marks where they belong, words that fit."""

from __future__ import annotations

import dataclasses
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydicom import dcmread

from dicom_node.results import drawing, overlay, texts
from dicom_node.results.profile import Profile
from dicom_node.results.request import EncodeRequest, ResultObject, Role
from dicom_node.results.result_set import encode
from dicom_node.results.seg import polygon_mask
from inference.findings import Flag
from inference.loading import load_image
from inference.refusals import TEXTS, Reason, Refusal
from tests.dx_wrapping import write_dx
from tests.results_cases import make_card, make_findings, make_request


@pytest.fixture(scope="module", params=[False, True], ids=["MONOCHROME2", "MONOCHROME1"])
def film(request: pytest.FixtureRequest, shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    picture = min((shared_data / "chest_xray_nih" / "images").glob("*"))
    return write_dx(picture, tmp_path_factory.mktemp("film"), inverted=request.param)


def _positive(film: Path, **profile: object) -> EncodeRequest:
    card = make_card()
    return make_request(
        [film], card=card, findings=make_findings([film], card), profile=Profile.model_validate(profile)
    )


def _picture(objects: tuple[ResultObject, ...], role: Role = Role.OVERLAY) -> NDArray[np.uint8]:
    (chosen,) = [known for known in objects if known.role is role]
    pixels: NDArray[np.uint8] = dcmread(BytesIO(chosen.data)).pixel_array
    return pixels


def _band_height(pixels: NDArray[np.uint8]) -> int:
    """Rows of the upper band: its left edge has the band's colour."""
    edge = np.all(pixels[:, 0] == drawing.BAND, axis=1)
    return int(np.argmin(edge))


def test_the_anatomy_is_shown_as_displayed_and_at_its_own_resolution(film: Path) -> None:
    pixels = _picture(encode(_positive(film)))
    grey = np.rint(load_image(film).pixels * 255)
    top = _band_height(pixels)
    shown = pixels[top : top + grey.shape[0]]
    assert shown.shape[1] == grey.shape[1]
    untouched = np.all(shown == shown[..., :1], axis=2) & (shown[..., 0] > 0)
    assert untouched.mean() > 0.5
    assert np.abs(shown[..., 0][untouched] - grey[untouched]).max() <= 1


def test_the_outline_is_drawn_on_the_lesion(film: Path) -> None:
    request = _positive(film)
    assert request.findings is not None
    pixels = _picture(encode(request))
    top = _band_height(pixels)
    box = request.findings.lesions[0].region.key_plane.box
    middle = round((box.x_min + box.x_max) / 2)
    column = pixels[top + round(box.y_max) - 3 : top + round(box.y_max) + 4, middle]
    assert any(tuple(value) == drawing.mark_colour(1) for value in column.tolist())


def test_a_large_picture_is_scaled_to_the_profile_and_says_so(film: Path) -> None:
    pixels = _picture(encode(_positive(film, overlay_max_side_px=512)))
    assert pixels.shape[1] == 512


def test_a_finding_without_a_place_is_shown_on_its_image(film: Path) -> None:
    card = make_card()
    findings = make_findings([film], card, lesions=0, present_without_place=True)
    objects = encode(make_request([film], card=card, findings=findings))
    assert [known.role for known in objects] == [Role.OVERLAY]


def test_a_finding_of_the_study_as_a_whole_is_shown_on_its_first_image(film: Path) -> None:
    card = make_card()
    made = make_findings([film], card, lesions=0, present_without_place=True)
    findings = dataclasses.replace(made, findings=(dataclasses.replace(made.findings[0], sop_instance_uid=None),))
    objects = encode(make_request([film], card=card, findings=findings))
    assert [known.role for known in objects] == [Role.OVERLAY]


def test_a_frame_of_a_multi_frame_image_is_shown_where_no_frame_is_named(shared_data: Path) -> None:
    source = shared_data / "dicom_samples" / "pydicom-data_eCT_Supplemental.dcm"
    card = make_card()
    findings = make_findings([source], card, lesions=0, present_without_place=True)
    (written,) = encode(make_request([source], card=card, findings=findings))
    (image,) = dcmread(BytesIO(written.data)).SourceImageSequence
    assert image.ReferencedFrameNumber == 1


def test_nothing_that_identifies_the_patient_is_burned_in(film: Path) -> None:
    for written in encode(_positive(film)):
        if written.role is Role.OVERLAY:
            assert dcmread(BytesIO(written.data)).BurnedInAnnotation == "NO"


def test_loss_by_compression_is_passed_on(film: Path) -> None:
    capture = dcmread(BytesIO(encode(_positive(film))[1].data))
    assert capture.LossyImageCompression == "01"
    assert capture.LossyImageCompressionRatio == 10
    assert capture.BodyPartExamined == "CHEST"


@pytest.mark.parametrize("language", ["ru", "en"])
@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_has_its_own_page(reason: Reason, language: str, film: Path) -> None:
    request = make_request(
        [film], card=make_card(), refusal=Refusal(reason=reason), profile=Profile.model_validate({"language": language})
    )
    (page,) = encode(request)
    other = dataclasses.replace(request, refusal=Refusal(reason=Reason.AGE if reason is Reason.VIEW else Reason.VIEW))
    assert reason in TEXTS
    assert page.role is Role.STATUS_PAGE
    assert page.data != encode(other)[0].data


def test_a_page_grows_so_that_no_sentence_is_lost(film: Path) -> None:
    short = Refusal(reason=Reason.UNREADABLE, detail="attribute")
    long = Refusal(reason=Reason.UNREADABLE, detail="attribute " * 200)
    card = make_card()
    heights = {
        refusal: _picture(encode(make_request([film], card=card, refusal=refusal)), Role.STATUS_PAGE).shape
        for refusal in (short, long)
    }
    assert heights[short] == (768, 1024, 3)
    assert heights[long][0] > 1000


def test_no_word_runs_off_the_page(film: Path) -> None:
    refusal = Refusal(reason=Reason.UNREADABLE, detail="W" * 400)
    pixels = _picture(encode(make_request([film], card=make_card(), refusal=refusal)), Role.STATUS_PAGE)
    assert np.all(pixels[12:, -32:] == drawing.BAND)


def test_every_flag_has_words() -> None:
    assert set(texts.FLAGS) == set(Flag)


@given(
    words=st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "Zs")), max_size=200),
    width=st.integers(40, 600),
    size=st.integers(11, 40),
)
@example(words="\xa0", width=40, size=11)
@settings(max_examples=60, deadline=None)
def test_wrapped_words_fit_and_none_is_lost(words: str, width: int, size: int) -> None:
    typeface = drawing.font(size)
    lines = drawing.wrap(words, typeface, width)
    assert all(typeface.getlength(line) <= width or len(line) == 1 for line in lines)
    assert "".join(lines).replace(" ", "") == words.replace(" ", "")


@given(score=st.floats(0, 1))
def test_a_percentage_never_claims_certainty_that_is_not_there(score: float) -> None:
    text = texts.percent(score)
    assert (text.startswith("100")) is (score == 1)
    assert (text.startswith("0")) is (score == 0)


@given(st.tuples(*[st.integers(0, 30)] * 4).filter(lambda box: box[0] < box[2] and box[1] < box[3]))
def test_a_box_mask_covers_exactly_the_pixels_of_the_box(box: tuple[int, int, int, int]) -> None:
    x_min, y_min, x_max, y_max = box
    corners = ((x_min, y_min), (x_max, y_min), (x_max, y_max), (x_min, y_max))
    mask = polygon_mask(corners, 30, 30)
    expected = np.zeros((30, 30), dtype=bool)
    expected[y_min:y_max, x_min:x_max] = True
    assert np.array_equal(mask, expected)


@pytest.mark.parametrize(("width", "height"), [(512, 512), (2018, 3072), (3072, 2500), (300, 900)])
def test_letters_are_legible_at_every_size(width: int, height: int) -> None:
    letter = overlay.letter_size(width, height)
    assert letter >= 12
    assert letter <= width / 20

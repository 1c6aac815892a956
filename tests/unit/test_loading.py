"""Headers and pixels of good, odd and hostile files: read right, or refused with a named reason."""

from __future__ import annotations

import random
import struct
import subprocess
import sys
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import (
    MPEG2MPML,
    JPEG2000Lossless,
    JPEGExtended12Bit,
    JPEGLSLossless,
    RLELossless,
)

from inference.images import LoadLimits
from inference.loading import load_film, load_image, load_volume, read_image_header
from inference.refusals import Reason, Refused
from models.card import PresentationIntent
from tests.conftest import PROJECT, require_tool
from tests.pictures import CT, MG, disc_picture, film_data_set, film_file, save


def reason_of(path: Path, **limits: int) -> Reason:
    with pytest.raises(Refused) as caught:
        load_image(path, limits=LoadLimits(**limits))
    return caught.value.refusal.reason


def header_of(folder: Path, **changes: Any):  # type: ignore[no-untyped-def]
    return read_image_header(film_file(folder / "a.dcm", **changes))


def coded(value: str, modifier: str = "") -> Sequence:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "SCT", "a view"
    if modifier:
        inner = Dataset()
        inner.CodeValue, inner.CodingSchemeDesignator, inner.CodeMeaning = modifier, "SCT", "a modifier"
        item.ViewModifierCodeSequence = Sequence([inner])
    return Sequence([item])


# headers -----------------------------------------------------------------------------------------------------------


def test_a_header_says_what_the_file_says(tmp_path: Path) -> None:
    header = header_of(
        tmp_path, ImageLaterality="L", SeriesDescription="Грудная клетка", SpecificCharacterSet="ISO_IR 192"
    )
    assert (header.modality, header.body_part, header.view, header.laterality) == ("DX", "CHEST", "PA", "L")
    assert header.presentation is PresentationIntent.FOR_PRESENTATION
    assert (header.rows, header.columns, header.frames) == (96, 80, 1)
    assert header.patient_age_years == 45
    assert header.description == "Грудная клетка"
    assert not header.lossy


@pytest.mark.parametrize(
    ("code", "view"),
    [("272479007", "PA"), ("R-10206", "AP"), ("399173006", "LL"), ("R-10242", "CC"), ("399368009", "MLO"), ("1", "")],
)
def test_the_view_is_read_from_its_code_when_view_position_is_empty(tmp_path: Path, code: str, view: str) -> None:
    assert header_of(tmp_path, ViewPosition="", ViewCodeSequence=coded(code)).view == view


def test_view_modifiers_are_read(tmp_path: Path) -> None:
    header = header_of(tmp_path, ViewPosition="CC", ViewCodeSequence=coded("399162004", "399209000"))
    assert header.view_modifiers == ("ID",)


@pytest.mark.parametrize(
    ("changes", "age"),
    [
        ({"PatientAge": "018M"}, 1.5),
        ({"PatientAge": "052W"}, pytest.approx(1, abs=0.01)),
        ({"PatientAge": "000Y"}, None),
        ({"PatientAge": "999Y"}, None),
        ({"PatientAge": "", "PatientBirthDate": "19800101", "StudyDate": "20200101"}, pytest.approx(40, abs=0.01)),
        ({"PatientAge": "", "PatientBirthDate": "00000000", "StudyDate": "20200101"}, None),
        ({"PatientAge": "", "PatientBirthDate": "20210101", "StudyDate": "20200101"}, None),
        ({"PatientAge": None}, None),
    ],
)
def test_the_age_comes_from_what_can_be_trusted(tmp_path: Path, changes: dict[str, Any], age: float | None) -> None:
    assert header_of(tmp_path, **changes).patient_age_years == age


@pytest.mark.parametrize(
    ("changes", "spacing"),
    [
        ({}, None),
        ({"PixelSpacing": [0.2, 0.1]}, None),  # of the detector or of the patient? nobody knows
        ({"ImagerPixelSpacing": [0.2, 0.2]}, None),
        ({"PixelSpacing": [0.2, 0.2], "ImagerPixelSpacing": [0.2, 0.2]}, None),
        ({"PixelSpacing": [0.18, 0.18], "ImagerPixelSpacing": [0.2, 0.2]}, (0.18, 0.18)),
        ({"PixelSpacing": [0.2, 0.1], "PixelSpacingCalibrationType": "FIDUCIAL"}, (0.2, 0.1)),
        ({"ImagerPixelSpacing": [0.2, 0.2], "EstimatedRadiographicMagnificationFactor": 1.25}, (0.16, 0.16)),
        ({"ImagerPixelSpacing": [0.2, 0.2], "EstimatedRadiographicMagnificationFactor": 0}, None),
        ({"PixelSpacing": [0, 0], "PixelSpacingCalibrationType": "GEOMETRY"}, None),
        ({"PixelSpacing": [0.7, 0.7], "Modality": "CT", "SOPClassUID": CT}, (0.7, 0.7)),
        ({"PixelSpacing": [0, 0], "Modality": "CT", "SOPClassUID": CT}, None),
    ],
)
def test_spacing_is_reported_only_where_it_can_be_trusted(
    tmp_path: Path, changes: dict[str, Any], spacing: tuple[float, float] | None
) -> None:
    header = header_of(tmp_path, **changes)
    assert header.spacing_mm == (pytest.approx(spacing) if spacing else None)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"SOPInstanceUID": ""}, Reason.UNREADABLE),
        ({"StudyInstanceUID": None}, Reason.UNREADABLE),
        ({"SeriesInstanceUID": "../../etc"}, Reason.UNREADABLE),
        ({"Rows": None}, Reason.UNREADABLE),
        ({"Rows": 0}, Reason.NO_PIXELS),
        ({"NumberOfFrames": 0}, Reason.NO_PIXELS),
        ({"NumberOfFrames": 3}, Reason.CONTRADICTION),
        ({"NumberOfFrames": 2_000_000_000}, Reason.TOO_LARGE),
        ({"Rows": 60000, "Columns": 60000}, Reason.TOO_LARGE),
        ({"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3}, Reason.NOT_GREY),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, Reason.NOT_GREY),
        ({"PhotometricInterpretation": None}, Reason.NOT_GREY),
        ({"Modality": "CT"}, Reason.CONTRADICTION),
        ({"SOPClassUID": MG, "Modality": "US"}, Reason.CONTRADICTION),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.88.34"}, Reason.NOT_AN_IMAGE),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.66.4"}, Reason.NOT_AN_IMAGE),
        ({"BitsStored": None}, Reason.UNREADABLE),
    ],
)
def test_headers_that_cannot_be_trusted_are_refused(tmp_path: Path, changes: dict[str, Any], reason: Reason) -> None:
    path = film_file(tmp_path / "a.dcm", **changes)
    with pytest.raises(Refused) as caught:
        read_image_header(path)
    assert caught.value.refusal.reason is reason
    assert reason_of(path) is reason


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"PixelData": b""}, Reason.NO_PIXELS),
        ({"PixelData": None}, Reason.NO_PIXELS),
        ({"PixelData": b"\0\0"}, Reason.CONTRADICTION),
        ({"Rows": 5000}, Reason.CONTRADICTION),
        ({"BitsStored": 99}, Reason.UNDECODABLE),
        ({"BitsAllocated": 32}, Reason.UNDECODABLE),
        ({"RescaleSlope": 0}, Reason.UNREADABLE),
        ({"RescaleSlope": "1E308"}, Reason.UNREADABLE),
        ({"RescaleIntercept": "-1E300"}, Reason.UNREADABLE),
    ],
)
def test_pixels_that_cannot_be_trusted_are_refused(tmp_path: Path, changes: dict[str, Any], reason: Reason) -> None:
    assert reason_of(film_file(tmp_path / "a.dcm", **changes)) is reason


def test_a_wrong_value_representation_is_read_or_refused_never_a_crash(tmp_path: Path) -> None:
    data_set = film_data_set(disc_picture())
    del data_set.Rows
    data_set.add_new(0x00280010, "LO", "96")
    assert load_image(save(data_set, tmp_path / "a.dcm")).pixels.shape == (96, 80)
    data_set.add_new(0x00280010, "LO", "many")
    assert reason_of(save(data_set, tmp_path / "b.dcm")) is Reason.UNREADABLE
    data_set = film_data_set(disc_picture())
    data_set.add_new(0x00281050, "LO", "wide")  # a window that is none: the picture spans its own range
    data_set.add_new(0x00540220, "LO", "no sequence")
    assert load_image(save(data_set, tmp_path / "c.dcm")).pixels.max() == 1


@pytest.mark.parametrize("keyword", ["BitsAllocated", "BitsStored", "PixelRepresentation", "Rows", "ViewPosition"])
def test_a_value_representation_that_does_not_exist_is_refused(tmp_path: Path, keyword: str) -> None:
    data_set = film_data_set(disc_picture())
    content = bytearray(save(data_set, tmp_path / "a.dcm").read_bytes())
    tag = data_set[keyword].tag
    at = content.index(struct.pack("<HH", tag.group, tag.element))
    content[at + 5] = 0xD9
    (tmp_path / "b.dcm").write_bytes(content)
    assert reason_of(tmp_path / "b.dcm") is Reason.UNREADABLE


def test_missing_files_are_the_disks_fault(tmp_path: Path) -> None:
    for read in (read_image_header, load_image, load_film):
        with pytest.raises(FileNotFoundError):
            read(tmp_path / "gone.dcm")


# hostile files -----------------------------------------------------------------------------------------------------


def test_a_file_cut_anywhere_is_refused_by_name(tmp_path: Path) -> None:
    whole = film_file(tmp_path / "a.dcm").read_bytes()
    for length in (0, 3, 131, 140, 200, 400, 700, len(whole) // 2, len(whole) - 1):
        cut = tmp_path / "cut.dcm"
        cut.write_bytes(whole[:length])
        assert reason_of(cut) in {Reason.UNREADABLE, Reason.NOT_AN_IMAGE, Reason.NO_PIXELS}, length


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless, RLELossless])
def test_a_compressed_file_cut_anywhere_is_refused(tmp_path: Path, syntax: str) -> None:
    data_set = film_data_set(disc_picture(levels=4096), bits=12)
    data_set.compress(syntax, generate_instance_uid=False)
    whole = save(data_set, tmp_path / "a.dcm").read_bytes()
    for cut_bytes in (9, 200, 2000):
        cut = tmp_path / "cut.dcm"
        cut.write_bytes(whole[:-cut_bytes])
        assert reason_of(cut) in {Reason.UNREADABLE, Reason.UNDECODABLE, Reason.NO_PIXELS}


@pytest.mark.parametrize("keyword", ["PixelData", "PatientAge", "StudyInstanceUID", "ViewPosition"])
def test_a_two_gigabyte_lie_in_a_length_field_costs_no_memory(tmp_path: Path, keyword: str) -> None:
    data_set = film_data_set(disc_picture())
    data_set[keyword].VR = "OB" if keyword == "PixelData" else "UT"  # those have four-byte lengths
    path = save(data_set, tmp_path / "a.dcm")
    content = bytearray(path.read_bytes())
    tag = data_set[keyword].tag
    at = content.index(struct.pack("<HH", tag.group, tag.element))
    content[at + 8 : at + 12] = struct.pack("<I", 0x7FFFFFF0)
    path.write_bytes(content)
    tracemalloc.start()
    assert reason_of(path) in {Reason.UNREADABLE, Reason.NOT_AN_IMAGE, Reason.NO_PIXELS}
    assert tracemalloc.get_traced_memory()[1] < 30_000_000
    tracemalloc.stop()


def test_a_deflated_bomb_is_refused_within_its_limit(tmp_path: Path) -> None:
    path = film_file(tmp_path / "a.dcm")
    subprocess.run([require_tool("dcmconv"), "+td", path, tmp_path / "deflated.dcm"], check=True)
    whole = (tmp_path / "deflated.dcm").read_bytes()
    start = 132 + 12 + struct.unpack("<I", whole[140:144])[0]
    packer = zlib.compressobj(9, wbits=-15)
    bomb = packer.compress(struct.pack("<HH2sHI", 0x0009, 0x1010, b"OB", 0, 0xFFFFFFF0))
    bomb += packer.compress(bytes(80_000_000)) + packer.flush()
    (tmp_path / "bomb.dcm").write_bytes(whole[:start] + bomb)
    tracemalloc.start()
    assert reason_of(tmp_path / "bomb.dcm", max_file_bytes=5_000_000) is Reason.TOO_LARGE
    assert tracemalloc.get_traced_memory()[1] < 30_000_000
    tracemalloc.stop()


def test_an_rle_bomb_costs_no_more_than_its_frame(tmp_path: Path) -> None:
    segment = b"\x81\x00" * 4_000_000  # each pair stands for 128 bytes: 512 MB
    header = struct.pack("<16I", 1, 64, *[0] * 14)
    data_set = film_data_set(disc_picture())
    data_set.file_meta.TransferSyntaxUID = RLELossless
    data_set.PixelData = encapsulate([header + segment])
    data_set["PixelData"].is_undefined_length = True
    path = save(data_set, tmp_path / "a.dcm")
    # A process of its own, because the decoder's memory shows only in the resident size.
    script = (
        "import resource, sys; from pathlib import Path; from inference.loading import load_image; "
        "from inference.refusals import Refused\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try: load_image(Path(sys.argv[1]))\n"
        "except Refused: pass\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    ran = subprocess.run([sys.executable, "-c", script, path], check=True, capture_output=True, text=True, cwd=PROJECT)
    assert int(ran.stdout) < 120_000  # KiB


def test_a_codestream_of_another_size_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    for syntax in (JPEG2000Lossless, JPEGLSLossless):
        data_set = film_data_set(disc_picture(200, 160))
        data_set.compress(syntax, generate_instance_uid=False)
        data_set.Rows, data_set.Columns = 100, 80
        assert reason_of(save(data_set, tmp_path / "a.dcm")) is Reason.CONTRADICTION


@pytest.mark.parametrize("depth", [50, 2000])
def test_deeply_nested_sequences_end_in_a_refusal_or_are_skipped(tmp_path: Path, depth: int) -> None:
    start = struct.pack("<HH2sHI", 0x0040, 0x0275, b"SQ", 0, 0xFFFFFFFF) + struct.pack(
        "<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF
    )
    end = struct.pack("<HHI", 0xFFFE, 0xE00D, 0) + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    whole = film_file(tmp_path / "a.dcm").read_bytes()
    at = whole.index(struct.pack("<HH", 0x7FE0, 0x0010))
    (tmp_path / "nested.dcm").write_bytes(whole[:at] + start * depth + end * depth + whole[at:])
    if depth < 100:
        assert load_image(tmp_path / "nested.dcm").pixels.max() == 1
    else:
        assert reason_of(tmp_path / "nested.dcm") is Reason.UNREADABLE


def test_a_file_above_the_limit_is_not_read(tmp_path: Path) -> None:
    assert reason_of(film_file(tmp_path / "a.dcm"), max_file_bytes=1000) is Reason.TOO_LARGE


def test_twelve_bit_extended_jpeg_is_refused_by_its_syntax(tmp_path: Path) -> None:
    source = save(film_data_set(disc_picture(levels=4096), bits=12), tmp_path / "a.dcm")
    subprocess.run([require_tool("dcmcjpeg"), "+ee", source, tmp_path / "b.dcm"], check=True, capture_output=True)
    assert dcmread(tmp_path / "b.dcm").file_meta.TransferSyntaxUID == JPEGExtended12Bit
    assert reason_of(tmp_path / "b.dcm") is Reason.TRANSFER_SYNTAX


def test_video_is_refused_by_its_syntax(tmp_path: Path) -> None:
    data_set = film_data_set(disc_picture())
    data_set.file_meta.TransferSyntaxUID = MPEG2MPML
    data_set.PixelData = encapsulate([b"\0\0\1\xba" * 40])
    data_set["PixelData"].is_undefined_length = True
    assert reason_of(save(data_set, tmp_path / "a.dcm")) is Reason.TRANSFER_SYNTAX


def test_no_value_of_the_file_reaches_the_text_of_a_refusal(tmp_path: Path) -> None:
    for changes in ({"Rows": 5000}, {"SOPInstanceUID": ""}, {"BitsStored": 99}, {"PixelData": b""}):
        path = film_file(tmp_path / "a.dcm", PatientName="Secret^Name", PatientID="Secret7", **changes)
        with pytest.raises(Refused) as caught:
            load_image(path)
        assert "ecret" not in str(caught.value)


def test_files_that_are_no_dicom_are_unreadable(tmp_path: Path) -> None:
    for content in (b"", b"hello", bytes(200), b"\x89PNG" + bytes(500), bytes(128) + b"DICM"):
        (tmp_path / "junk").write_bytes(content)
        assert reason_of(tmp_path / "junk") is Reason.UNREADABLE


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    folder, found = tmp_path_factory.mktemp("originals"), []
    for syntax in (None, JPEG2000Lossless, JPEGLSLossless, RLELossless):
        data_set = film_data_set(disc_picture(64, 40, levels=4096), bits=12, ViewCodeSequence=coded("272479007", "1"))
        if syntax:
            data_set.compress(syntax, generate_instance_uid=False)
        found.append(save(data_set, folder / "a.dcm").read_bytes())
    return found


def read_anything(folder: Path, content: bytes) -> None:
    path = folder / "mutant.dcm"
    path.write_bytes(content)
    for read in (read_image_header, load_image, lambda one: load_volume([one] * 3)):
        try:
            read(path)
        except Refused as refused:
            assert refused.refusal.reason in Reason


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(which=st.integers(0, 3), seed=st.integers(0, 2**32), flips=st.integers(1, 12))
def test_flipped_bytes_give_a_picture_or_a_refusal(
    originals: list[bytes], tmp_path: Path, which: int, seed: int, flips: int
) -> None:
    content, rng = bytearray(originals[which]), random.Random(seed)
    for _ in range(flips):
        content[rng.randrange(132, len(content))] = rng.randrange(256)
    read_anything(tmp_path, bytes(content))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(which=st.integers(0, 3), start=st.floats(0, 1), length=st.integers(1, 400), insert=st.binary(max_size=40))
def test_missing_and_foreign_pieces_give_a_picture_or_a_refusal(
    originals: list[bytes], tmp_path: Path, which: int, start: float, length: int, insert: bytes
) -> None:
    content = originals[which]
    at = 132 + int(start * (len(content) - 132))
    read_anything(tmp_path, content[:at] + insert + content[at + length :])


_PRINTABLE = st.characters(min_codepoint=32, max_codepoint=126)
_ATTRIBUTES = ["Rows", "Columns", "BitsStored", "HighBit", "WindowWidth", "RescaleSlope", "PixelPaddingValue",
               "NumberOfFrames", "PixelRepresentation", "ViewPosition", "PatientAge", "ImageType"]  # fmt: skip


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.dictionaries(
        st.sampled_from(_ATTRIBUTES),
        st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=12),
        max_size=4,
    )
)
def test_arbitrary_values_as_text_give_a_picture_or_a_refusal(tmp_path: Path, changes: dict[str, str]) -> None:
    data_set = film_data_set(disc_picture(24, 20))
    for keyword, value in changes.items():
        data_set.add_new(keyword, "LO", value)
    read_anything(tmp_path, save(data_set, tmp_path / "source.dcm").read_bytes())


# pictures ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("center", "width"), [("1E300", "1E308"), ("5", "-3"), ("5", "0"), ("0", "1E-300")])
def test_an_impossible_window_is_no_window(tmp_path: Path, center: str, width: str) -> None:
    plain = load_image(film_file(tmp_path / "a.dcm")).pixels
    assert np.array_equal(
        load_image(film_file(tmp_path / "b.dcm", WindowCenter=center, WindowWidth=width)).pixels, plain
    )


def test_a_padded_border_stored_as_us_on_signed_pixels_is_left_out(tmp_path: Path) -> None:
    pixels = disc_picture(levels=1000).astype(np.int32)
    pixels[:, :10] = -2000
    data_set = film_data_set(pixels, bits=16, signed=True)
    data_set.add_new(0x00280120, "US", 63536)
    image = load_image(save(data_set, tmp_path / "a.dcm"))
    assert image.padded is not None
    assert image.padded[:, :10].all()
    assert not image.padded[:, 10:].any()
    assert (image.pixels[:, :10] == 0).all()
    assert image.pixels[:, 10:].max() == 1


def test_a_range_of_padding_is_left_out_and_stays_black_on_monochrome1(tmp_path: Path) -> None:
    pixels = disc_picture(levels=1000).astype(np.int32) + 100
    pixels[:5], pixels[5:9] = 0, 20
    changes = {"PixelPaddingValue": 0, "PixelPaddingRangeLimit": 30, "PhotometricInterpretation": "MONOCHROME1"}
    image = load_image(save(film_data_set(pixels, bits=12, **changes), tmp_path / "a.dcm"))
    assert (image.pixels[:9] == 0).all()
    assert image.pixels[9:].min() < 0.02


def test_an_image_that_is_all_padding_is_no_padding(tmp_path: Path) -> None:
    image = load_image(film_file(tmp_path / "a.dcm", np.full((8, 8), 7), PixelPaddingValue=7))
    assert image.padded is None


@pytest.mark.parametrize(
    "change",
    [
        {"PatientName": "Other^Name"},
        {"PatientID": "P2"},
        {"SeriesDescription": "coerced"},
        {"AccessionNumber": "1"},
        {"PatientAge": "046Y"},
    ],
)
def test_coerced_attributes_keep_the_digest(tmp_path: Path, change: dict[str, Any]) -> None:
    plain = load_image(film_file(tmp_path / "a.dcm"))
    assert load_image(film_file(tmp_path / "b.dcm", **change)).pixel_digest == plain.pixel_digest


@pytest.mark.parametrize(
    "change",
    [
        {"WindowCenter": 100, "WindowWidth": 50},
        {"PhotometricInterpretation": "MONOCHROME1"},
        {"PixelPaddingValue": 0},
        {"ImagerPixelSpacing": [0.1, 0.1], "EstimatedRadiographicMagnificationFactor": 1.1},
    ],
)
def test_what_changes_the_picture_changes_the_digest(tmp_path: Path, change: dict[str, Any]) -> None:
    plain = load_image(film_file(tmp_path / "a.dcm"))
    assert load_image(film_file(tmp_path / "b.dcm", **change)).pixel_digest != plain.pixel_digest


def test_one_changed_pixel_changes_the_digest(tmp_path: Path) -> None:
    pixels = disc_picture()
    plain = load_image(film_file(tmp_path / "a.dcm", pixels)).pixel_digest
    pixels[40, 40] += 1
    assert load_image(film_file(tmp_path / "b.dcm", pixels)).pixel_digest != plain


def test_frames_are_named_from_one(tmp_path: Path) -> None:
    frames = np.stack([disc_picture(), 255 - disc_picture()]).astype(np.uint8)
    data_set = film_data_set(frames[0])
    data_set.SOPClassUID, data_set.NumberOfFrames = "1.2.840.10008.5.1.4.1.1.7.2", 2
    data_set.PixelData = frames.tobytes()
    path = save(data_set, tmp_path / "a.dcm")
    assert reason_of(path) is Reason.OUT_OF_RANGE
    first, second = load_image(path, frame=1), load_image(path, frame=2)
    assert second.frame_number == 2
    assert np.allclose(first.pixels, 1 - second.pixels, atol=1e-6)
    with pytest.raises(Refused):
        load_image(path, frame=3)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: PIL.Image.new("RGB", (8, 8), (9, 5, 1)), Reason.NOT_GREY),
        (lambda: PIL.Image.new("P", (8, 8)), Reason.NOT_GREY),
    ],
)
def test_a_coloured_film_is_refused(tmp_path: Path, make: Callable[[], PIL.Image.Image], reason: Reason) -> None:
    make().save(tmp_path / "film.png")
    with pytest.raises(Refused) as caught:
        load_film(tmp_path / "film.png")
    assert caught.value.refusal.reason is reason


def test_a_grey_film_saved_as_colour_and_one_of_sixteen_bits_are_read(tmp_path: Path) -> None:
    grey = disc_picture().astype(np.uint8)
    PIL.Image.fromarray(np.repeat(grey[..., None], 3, axis=2)).save(tmp_path / "rgb.png")
    PIL.Image.fromarray(disc_picture(levels=65536)).save(tmp_path / "deep.png")
    assert load_film(tmp_path / "rgb.png").pixels.max() == 1
    assert load_film(tmp_path / "deep.png").header.bits_stored == 16


def test_a_cut_or_giant_film_is_refused(tmp_path: Path) -> None:
    PIL.Image.fromarray(disc_picture().astype(np.uint8)).save(tmp_path / "film.png")
    for limits in (LoadLimits(max_pixels=10),):
        with pytest.raises(Refused):
            load_film(tmp_path / "film.png", limits=limits)
    (tmp_path / "film.png").write_bytes((tmp_path / "film.png").read_bytes()[:200])
    with pytest.raises(Refused):
        load_film(tmp_path / "film.png")

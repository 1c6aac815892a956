"""Loads one projection: a DICOM image or frame, or a film of a training set.

Called by `inference.engine`, `dicom_node` (headers) and `training` (films). The parts are `loading.reading`,
`loading.header`, `loading.pixels` and `loading.parameters`; volumes are `loading.volume`.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from inference.findings import SeriesUid, SopUid, StudyUid
from inference.grayscale import GreyParameters, displayed, padding_mask
from inference.images import Image, ImageHeader, LoadLimits
from inference.loading.header import image_header
from inference.loading.parameters import grey_parameters
from inference.loading.pixels import stored_values
from inference.loading.reading import EXPLICIT_LITTLE, read_data_set, refusing
from inference.refusals import Reason, Refused

_LIMITS = LoadLimits()
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
_FILM_FORMATS = ("JPEG", "PNG")
_BYTE_BITS = 8
_WORD_BITS = 16


def read_image_header(path: Path, *, limits: LoadLimits = _LIMITS) -> ImageHeader:
    """What the header of a DICOM image says; pixel data are not read.

    Raises
    ------
    Refused
        When the file is no DICOM image, is damaged, contradicts itself, or is not grey.
    OSError
        When the file cannot be opened or the disk fails.
    """
    data_set, syntax = read_data_set(path, limits=limits, pixels=False)
    with refusing(Reason.UNREADABLE):
        return image_header(data_set, syntax, limits=limits)


def load_image(path: Path, *, limits: LoadLimits = _LIMITS, frame: int | None = None) -> Image:
    """A picture as it is displayed (PS3.4 N.2), with its header and digest.

    Parameters
    ----------
    frame : int or None
        1-based frame of a multi-frame object; None is for single-frame objects only.

    Raises
    ------
    Refused
        When anything about the file cannot be trusted; the reason says what.
    OSError
        When the file cannot be opened or the disk fails.
    """
    data_set, syntax = read_data_set(path, limits=limits, pixels=True)
    with refusing(Reason.UNREADABLE):
        header = image_header(data_set, syntax, limits=limits)
        index = _frame_index(header, frame)
        parameters = grey_parameters(data_set, frame=index)
    values = stored_values(data_set, header, frame=index)
    return _image(header, values, parameters, frame if header.frames > 1 else None)


def load_film(path: Path, *, limits: LoadLimits = _LIMITS) -> Image:
    """A JPEG or PNG film of a training set, as `load_image` gives the same film wrapped as DX.

    The UIDs are made from the pixels; everything a header would say is empty.

    Raises
    ------
    Refused
        When the file is damaged, too large or not grey.
    OSError
        When the file cannot be opened or the disk fails.
    """
    values, bits, lossy = _read_film(path, limits)
    parameters = GreyParameters()
    digest = pixel_digest(values, parameters, None)
    uid = f"2.25.{int(digest[:32], 16)}"
    header = ImageHeader(
        sop_instance_uid=SopUid(uid),
        sop_class_uid=_SECONDARY_CAPTURE,
        series_uid=SeriesUid(uid),
        study_uid=StudyUid(uid),
        transfer_syntax_uid=EXPLICIT_LITTLE,
        rows=values.shape[0],
        columns=values.shape[1],
        bits_stored=bits,
        lossy=lossy,
    )
    return _image(header, values, parameters, None)


def film_values(path: Path, *, limits: LoadLimits = _LIMITS) -> NDArray[np.int32]:
    """The pixel values (rows, columns) of a JPEG or PNG film, as `load_film` takes them."""
    return _read_film(path, limits)[0]


def _read_film(path: Path, limits: LoadLimits) -> tuple[NDArray[np.int32], int, bool]:
    """Values, their bits, and whether the file was compressed with loss."""
    with path.open("rb") as file, refusing(Reason.UNREADABLE), PIL.Image.open(file, formats=_FILM_FORMATS) as picture:
        if picture.width * picture.height > limits.max_pixels:
            raise Refused(Reason.TOO_LARGE, f"{picture.height} x {picture.width} pixels")
        return *_film_values(picture), picture.format == "JPEG"


def _film_values(picture: PIL.Image.Image) -> tuple[NDArray[np.int32], int]:
    if picture.mode in ("L", "1"):
        return np.asarray(picture.convert("L"), dtype=np.int32), _BYTE_BITS
    if picture.mode.startswith("I"):
        return np.asarray(picture, dtype=np.int32), _WORD_BITS
    if picture.mode in ("RGB", "RGBA"):
        colours = np.asarray(picture)[..., :3]
        if (colours == colours[..., :1]).all():  # a grey film that was saved as colour
            return colours[..., 0].astype(np.int32), _BYTE_BITS
    raise Refused(Reason.NOT_GREY, f"a picture of mode {picture.mode}")


def _frame_index(header: ImageHeader, frame: int | None) -> int:
    if frame is None:
        if header.frames > 1:
            raise Refused(Reason.OUT_OF_RANGE, f"{header.frames} frames where a single picture is expected")
        return 0
    if not 1 <= frame <= header.frames:
        raise Refused(Reason.CONTRADICTION, f"frame {frame} of {header.frames}")
    return frame - 1


def _image(header: ImageHeader, values: NDArray[np.int32], parameters: GreyParameters, frame: int | None) -> Image:
    padded = padding_mask(values, parameters.padding)
    return Image(
        header=header,
        pixels=displayed(values, parameters, padded),
        padded=padded,
        frame_number=frame,
        pixel_digest=pixel_digest(values, parameters, header.spacing_mm),
    )


def pixel_digest(values: NDArray[np.int32], parameters: GreyParameters, spacing_mm: tuple[float, ...] | None) -> str:
    """sha256 over stored values, their shape, how they are displayed, and their spacing.

    Independent of the transfer syntax and of the width of the words the values were stored in.
    """
    digest = hashlib.sha256()
    described = {"shape": values.shape, "grey": asdict(parameters), "spacing_mm": spacing_mm}
    digest.update(json.dumps(described, sort_keys=True).encode())
    low, high = int(values.min()), int(values.max())
    narrow = "<u2" if low >= 0 and high <= np.iinfo(np.uint16).max else "<i4"
    if low < 0 and low >= np.iinfo(np.int16).min and high <= np.iinfo(np.int16).max:
        narrow = "<i2"
    digest.update(narrow.encode())
    digest.update(np.ascontiguousarray(values, dtype=narrow).data)
    return digest.hexdigest()

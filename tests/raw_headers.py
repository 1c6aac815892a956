"""DX files whose text attributes have exactly the bytes that a test wants, whatever set they declare."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

from PIL import Image
from pydicom import Dataset
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import correct_ambiguous_vr, write_data_element, write_file_meta_info
from pydicom.tag import Tag

from tests.dx_wrapping import wrap_film_as_dx


def write_header(path: Path, **attributes: object) -> Path:
    """A wrapped film at `path`, with `attributes` in place of its own.

    Bytes are written as they are, ``None`` takes the attribute away, everything else goes through pydicom.
    """
    picture = path.with_suffix(".png")
    Image.new("L", (4, 4)).save(picture)
    dx = wrap_film_as_dx(picture, patient_id="77-1")
    picture.unlink()
    for keyword, value in attributes.items():
        if isinstance(value, bytes):
            _put_raw(dx, keyword, value)
        elif value is None:
            del dx[keyword]
        else:
            setattr(dx, keyword, value)
    output = DicomBytesIO()
    output.is_implicit_VR, output.is_little_endian = False, True
    output.write(b"\0" * 128 + b"DICM")
    write_file_meta_info(output, dx.file_meta, enforce_standard=True)
    whole = correct_ambiguous_vr(dx, True)
    for tag in sorted(whole.keys()):  # dcmwrite would parse, and so change, the bytes that tests are about
        write_data_element(output, whole.get_item(tag), "ISO_IR 192")
    path.write_bytes(output.getvalue())
    return path


def item(**attributes: object) -> Dataset:
    """An item of a sequence."""
    made = Dataset()
    for keyword, value in attributes.items():
        setattr(made, keyword, value)
    return made


def png() -> bytes:
    """A picture that is no DICOM."""
    output = BytesIO()
    Image.new("L", (4, 4)).save(output, "PNG")
    return output.getvalue()


def _put_raw(data_set: Dataset, keyword: str, value: bytes) -> None:
    tag = Tag(keyword)
    padded = value + b" " * (len(value) % 2)
    data_set[tag] = RawDataElement(tag, dictionary_VR(tag), len(padded), padded, 0, False, True)

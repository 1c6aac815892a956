"""One frame of a data set, decoded into stored values; sizes are checked before a decoder runs.

Called by `loading.image` and `loading.volume`. One permissive decoder for each transfer syntax, named, so that the
same file gives the same values on every machine. What the values look like on a screen is `inference.grayscale`.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame
from pydicom.pixels.decoders.base import get_decoder

from inference.grayscale import unpack_stored
from inference.images import ImageHeader
from inference.loading import attributes as read
from inference.loading.codestream import stream_size
from inference.loading.reading import refusing
from inference.refusals import Reason, Refused

_NATIVE: Final = frozenset(
    {
        str(uid.ImplicitVRLittleEndian),
        str(uid.ExplicitVRLittleEndian),
        str(uid.ExplicitVRBigEndian),
        str(uid.DeflatedExplicitVRLittleEndian),
    }
)
_DECODERS: Final[dict[str, str]] = {
    str(uid.JPEGBaseline8Bit): "pillow",
    str(uid.JPEGExtended12Bit): "pillow",
    str(uid.JPEGLossless): "gdcm",
    str(uid.JPEGLosslessSV1): "gdcm",
    str(uid.JPEGLSLossless): "pyjpegls",
    str(uid.JPEGLSNearLossless): "pyjpegls",
    str(uid.JPEG2000Lossless): "pylibjpeg",
    str(uid.JPEG2000): "pylibjpeg",
    str(uid.HTJ2KLossless): "pylibjpeg",
    str(uid.HTJ2KLosslessRPCL): "pylibjpeg",
    str(uid.HTJ2K): "pylibjpeg",
    str(uid.RLELossless): "pylibjpeg",
}
DECODABLE: Final = _NATIVE | frozenset(_DECODERS)
_BYTE_BITS = 8
_EXTENDED_PRECISION = 12
_RLE_HEADER_BYTES = 64


def stored_values(data_set: Dataset, header: ImageHeader, *, frame: int) -> NDArray[np.int32]:
    """Stored values (rows, columns) of a frame (0-based), foreign bits removed, sign extended.

    Raises
    ------
    Refused
        NO_PIXELS, TRANSFER_SYNTAX, CONTRADICTION, UNREADABLE or UNDECODABLE.
    """
    syntax = header.transfer_syntax_uid
    if syntax not in DECODABLE:
        raise Refused(Reason.TRANSFER_SYNTAX, f"transfer syntax {syntax}")
    with refusing(Reason.UNREADABLE):
        data = _pixel_data(data_set)
        allocated, stored, high_bit, signed = _bits(data_set)
    with refusing(Reason.UNDECODABLE):
        if syntax in _NATIVE:
            raw = _native_frame(data, header, allocated, frame)
        else:
            raw = _decoded_frame(data_set, data, header, (allocated, stored, int(signed)), frame)
            high_bit = stored - 1  # decoders give samples in the low bits
    return unpack_stored(raw, bits_stored=stored, high_bit=high_bit, signed=signed)


def _pixel_data(data_set: Dataset) -> bytes:
    data = data_set.get("PixelData")
    if data is None and ("FloatPixelData" in data_set or "DoubleFloatPixelData" in data_set):
        raise Refused(Reason.UNDECODABLE, "floating-point pixel data")
    if not isinstance(data, bytes) or not data:
        raise Refused(Reason.NO_PIXELS, "Pixel Data is absent or empty")
    return data


def _bits(data_set: Dataset) -> tuple[int, int, int, bool]:
    allocated = read.required_integer(data_set, "BitsAllocated")
    stored = read.required_integer(data_set, "BitsStored")
    if allocated not in (8, 16) or not 1 <= stored <= allocated:
        raise Refused(Reason.UNDECODABLE, f"{allocated} bits allocated, {stored} stored")
    high_bit = read.integer(data_set, "HighBit")
    if high_bit is None or not stored - 1 <= high_bit < allocated:
        high_bit = stored - 1
    return allocated, stored, high_bit, read.integer(data_set, "PixelRepresentation") == 1


def _native_frame(data: bytes, header: ImageHeader, allocated: int, frame: int) -> NDArray[np.uint8 | np.uint16]:
    width = allocated // _BYTE_BITS
    frame_bytes = header.rows * header.columns * width
    if len(data) < frame_bytes * header.frames:
        raise Refused(
            Reason.CONTRADICTION, f"{len(data)} bytes of pixel data, the header asks for {frame_bytes * header.frames}"
        )
    big_endian = header.transfer_syntax_uid == str(uid.ExplicitVRBigEndian)
    if big_endian and width == 1 and len(data) % 2 == 0:  # OW: the bytes of each word are swapped, PS3.5 8.1.1
        data = np.frombuffer(data, dtype=">u2").astype("<u2").tobytes()
    dtype = np.dtype(f"{'>' if big_endian else '<'}u{width}")
    pixels = np.frombuffer(data, dtype=dtype, count=header.rows * header.columns, offset=frame * frame_bytes)
    return pixels.astype(f"=u{width}", copy=False).reshape(header.rows, header.columns)


def _decoded_frame(
    data_set: Dataset, data: bytes, header: ImageHeader, bits: tuple[int, int, int], frame: int
) -> NDArray[np.uint8 | np.uint16]:
    stream = _frame_stream(data_set, data, header, frame)
    _check_stream(stream, header, allocated=bits[0])
    allocated, stored, representation = bits
    # The library's own handling of unused bits is off: `unpack_stored` treats all syntaxes alike.
    options: dict[str, Any] = {
        "correct_unused_bits": False,
        "rows": header.rows,
        "columns": header.columns,
        "number_of_frames": 1,
        "samples_per_pixel": 1,
        "bits_allocated": allocated,
        "bits_stored": stored,
        "pixel_representation": representation,
        "photometric_interpretation": header.photometric,
        "pixel_keyword": "PixelData",
    }
    decoder = get_decoder(header.transfer_syntax_uid)
    plugin = _DECODERS[header.transfer_syntax_uid]
    array, _ = decoder.as_array(_encapsulated(stream), index=0, raw=True, decoding_plugin=plugin, **options)
    return np.asarray(array).reshape(header.rows, header.columns)


def _frame_stream(data_set: Dataset, data: bytes, header: ImageHeader, frame: int) -> bytes:
    offsets, lengths = data_set.get("ExtendedOffsetTable"), data_set.get("ExtendedOffsetTableLengths")
    extended = (offsets, lengths) if isinstance(offsets, bytes) and isinstance(lengths, bytes) else None
    return get_frame(data, frame, number_of_frames=header.frames, extended_offsets=extended)


def _encapsulated(stream: bytes) -> bytes:
    """The frame alone as encapsulated pixel data: an empty offset table and one fragment, PS3.5 A.4."""
    if len(stream) % 2:
        stream += b"\0"
    item = b"\xfe\xff\x00\xe0"
    return item + bytes(4) + item + len(stream).to_bytes(4, "little") + stream


def _check_stream(stream: bytes, header: ImageHeader, *, allocated: int) -> None:
    if header.transfer_syntax_uid == str(uid.RLELossless):
        if len(stream) <= _RLE_HEADER_BYTES:
            raise Refused(Reason.UNDECODABLE, "the RLE frame is shorter than its header")
        return
    size = stream_size(stream)
    if size is None:
        raise Refused(Reason.UNDECODABLE, "the compressed frame has no frame header")
    if (size.rows, size.columns) != (header.rows, header.columns):
        found = f"{size.rows} x {size.columns}"
        raise Refused(Reason.CONTRADICTION, f"compressed {found}, the header says {header.rows} x {header.columns}")
    if size.components != 1:
        raise Refused(Reason.NOT_GREY, f"{size.components} components in the compressed frame")
    if header.transfer_syntax_uid == str(uid.JPEGExtended12Bit) and size.precision >= _EXTENDED_PRECISION:
        raise Refused(Reason.TRANSFER_SYNTAX, "JPEG Extended of 12 bits: no decoder with a permissive licence")
    if size.precision > allocated:
        raise Refused(Reason.CONTRADICTION, f"{size.precision} bits compressed, {allocated} allocated")

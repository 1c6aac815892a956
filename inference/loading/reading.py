"""Reads a part-10 file into a data set with bounded memory, whatever the file says of itself.

Called by `loading.image` and `loading.volume`. The bounds: bytes of the file, bytes of an inflated data set, number
of elements parsed, and only the attributes in `TAGS` are kept. Every fault becomes `Refused`; what the attributes
mean is `loading.header` and `loading.parameters`.
"""

from __future__ import annotations

import io
import logging
import os
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

import pydicom.config
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from inference.images import LoadLimits
from inference.refusals import Reason, Refused

# Value checks of the library would warn with the value in the text, and values are patient data.
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
for _library in ("pydicom", "openjpeg", "pylibjpeg"):  # they log what they raise; a refusal already says it
    logging.getLogger(_library).setLevel(logging.CRITICAL)

_PREAMBLE_BYTES = 128
_META_GROUP = 0x0002
_PIXEL_DATA = 0x7FE00010
_PIXEL_TAGS = frozenset({0x7FE00008, 0x7FE00009, _PIXEL_DATA})
_MAX_READS = 1_500_000  # about 600,000 elements: an enhanced object of 4,000 frames; memory stays below 300 MB
_UNDEFINED_LENGTH = 0xFFFFFFFF
_INFLATE_STEP = 1 << 20
_ELEMENT_HEADER_BYTES = 8
_PANIC = "PanicException"  # of decoders in Rust; no Exception, and of no module that could be imported

_KEYWORDS = """
SpecificCharacterSet ImageType SOPClassUID SOPInstanceUID StudyDate Modality PresentationIntentType StudyDescription
SeriesDescription ViewCodeSequence PatientBirthDate PatientAge BodyPartExamined DeviceUID ContributingEquipmentSequence
AnatomicRegionSequence ViewPosition ImagerPixelSpacing EstimatedRadiographicMagnificationFactor StudyInstanceUID
SeriesInstanceUID ImagePositionPatient ImageOrientationPatient FrameOfReferenceUID Laterality ImageLaterality
GantryDetectorTilt SliceThickness SamplesPerPixel PhotometricInterpretation NumberOfFrames Rows Columns PixelSpacing
PixelSpacingCalibrationType BitsAllocated BitsStored HighBit PixelRepresentation PixelPaddingValue
PixelPaddingRangeLimit WindowCenter WindowWidth VOILUTFunction RescaleIntercept RescaleSlope RescaleType
PresentationLUTShape ModalityLUTSequence VOILUTSequence LossyImageCompression SharedFunctionalGroupsSequence
PerFrameFunctionalGroupsSequence ExtendedOffsetTable ExtendedOffsetTableLengths PixelData FloatPixelData
DoubleFloatPixelData ConvolutionKernel AcquisitionNumber
"""
TAGS: list[BaseTag | int] = [cast(int, tag_for_keyword(word)) for word in _KEYWORDS.split()]


class BoundedFile:
    """A seekable reader that never asks for more bytes than are left, and that gives up after too many reads.

    A length field that promises two gigabytes then costs nothing.
    """

    def __init__(self, source: BinaryIO, size: int) -> None:
        self._source = source
        self._size = size
        self._reads = 0
        self.overrun = False  # something pointed beyond the end
        self.name = "the file"  # pydicom puts the name into texts; file names are not ours to repeat

    def read(self, count: int = -1) -> bytes:
        """At most `count` bytes, fewer at the end."""
        self._reads += 1
        if self._reads > _MAX_READS:
            raise Refused(Reason.TOO_LARGE, "the header has too many elements")
        left = max(self._size - self._source.tell(), 0)
        if count > left and (
            left or count != _ELEMENT_HEADER_BYTES
        ):  # nothing where a next element might begin: the end
            self.overrun = True
        return self._source.read(left if count < 0 else min(count, left))

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """As `io.IOBase.seek`."""
        position = self._source.seek(offset, whence)
        self.overrun |= position > self._size
        return position

    def tell(self) -> int:
        """As `io.IOBase.tell`."""
        return self._source.tell()


@contextmanager
def refusing(reason: Reason) -> Iterator[None]:
    """Turn whatever a parser or decoder throws at a bad file into `Refused(reason)`.

    Only the kind of the error is kept: texts of libraries may quote values, and values are patient data.

    Raises
    ------
    Refused
        Always, in place of the error; TOO_LARGE when memory ran out.
    OSError
        Unchanged when the operating system raised it: the disk is at fault, not the file.
    """
    _hush()
    try:
        yield
    except Refused:
        raise
    except MemoryError as error:
        raise Refused(Reason.TOO_LARGE, "it needs more memory than there is") from error
    except RecursionError as error:
        raise Refused(reason, "sequences are nested too deeply") from error
    except Exception as error:  # parsers of foreign bytes throw anything, and all of it means the same here
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise Refused(reason, f"parsing fails ({type(error).__name__})") from None
    except BaseException as error:
        if type(error).__name__ != _PANIC:
            raise
        raise Refused(reason, "the decoder fails") from None


def _hush() -> None:
    """Keep pydicom's warnings out of logs; entered again if something (a test runner) reset the filters.

    `warnings.catch_warnings` is no alternative: it is not safe with several loader threads.
    """
    mine = ("ignore", None, Warning)
    if not any(entry[:3] == mine and entry[3] is not None for entry in warnings.filters[:3]):
        warnings.filterwarnings("ignore", module=r"pydicom(\..*)?$")


def read_data_set(
    path: Path, *, limits: LoadLimits, pixels: bool, more_tags: Sequence[int] = ()
) -> tuple[Dataset, str]:
    """The attributes of `TAGS` of a part-10 file, and its transfer syntax UID.

    Parameters
    ----------
    pixels : bool
        Whether to read the pixel data too; without, reading stops before them.
    more_tags : sequence of int
        Attributes to keep besides `TAGS`.

    Raises
    ------
    Refused
        UNREADABLE or TOO_LARGE.
    OSError
        If the file cannot be opened or the disk fails.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > limits.max_file_bytes:
            raise Refused(Reason.TOO_LARGE, f"the file has {size} bytes, {limits.max_file_bytes} are accepted")
        with refusing(Reason.UNREADABLE):
            return _parse(BoundedFile(file, size), limits=limits, pixels=pixels, tags=[*TAGS, *more_tags])


def _parse(file: BoundedFile, *, limits: LoadLimits, pixels: bool, tags: list[BaseTag | int]) -> tuple[Dataset, str]:
    syntax = _read_transfer_syntax(file)
    body = file
    if syntax == DeflatedExplicitVRLittleEndian:
        inflated = _inflate(file.read(), limits.max_file_bytes)
        body = BoundedFile(io.BytesIO(inflated), len(inflated))
    seen: dict[int, int] = {}

    def stop(tag: BaseTag, vr: str | None, length: int) -> bool:
        seen[int(tag)] = length
        return not pixels and int(tag) in _PIXEL_TAGS

    implicit, little = syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian
    data_set = read_dataset(cast(BinaryIO, body), implicit, little, stop_when=stop, specific_tags=tags)
    _check_complete(data_set, seen, body, pixels=pixels)
    return data_set, str(syntax)


def _read_transfer_syntax(file: BoundedFile) -> str:
    file.seek(_PREAMBLE_BYTES)
    if file.read(4) != b"DICM":
        raise Refused(Reason.UNREADABLE, "no DICOM file: the prefix DICM is missing")
    meta = read_dataset(cast(BinaryIO, file), False, True, stop_when=lambda tag, vr, length: tag.group != _META_GROUP)
    syntax = str(meta.get("TransferSyntaxUID", "") or "").strip(" \0")
    if not syntax:
        raise Refused(Reason.UNREADABLE, "Transfer Syntax UID is missing")
    return syntax


def _inflate(data: bytes, limit: int) -> bytes:
    """Inflate a deflated data set (PS3.5 A.5) up to `limit` bytes: a small file may stand for a giant."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    pieces, total = [], 0
    while data and not inflater.eof:
        piece = inflater.decompress(data, _INFLATE_STEP)
        data = inflater.unconsumed_tail
        total += len(piece)
        if total > limit:
            raise Refused(Reason.TOO_LARGE, f"the data set inflates to more than {limit} bytes")
        pieces.append(piece)
    return b"".join(pieces)


def _check_complete(data_set: Dataset, seen: dict[int, int], body: BoundedFile, *, pixels: bool) -> None:
    if seen and not len(data_set):  # the library gives up a whole data set for one element
        where = "ends in the middle of" if body.overrun else "cannot be parsed at"
        raise Refused(Reason.UNREADABLE, f"the file {where} an element")
    if not pixels:
        return
    if _PIXEL_DATA not in data_set:
        if body.overrun:
            raise Refused(Reason.UNREADABLE, "the file ends before its pixel data")
        return
    declared = seen.get(_PIXEL_DATA, _UNDEFINED_LENGTH)
    found = len(data_set[_PIXEL_DATA].value or b"")
    if declared != _UNDEFINED_LENGTH and found < declared:
        raise Refused(Reason.UNREADABLE, f"the file ends in the pixel data: {found} of {declared} bytes")


EXPLICIT_LITTLE = str(ExplicitVRLittleEndian)

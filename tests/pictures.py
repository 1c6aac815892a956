"""Writes small DICOM files for tests: films wrapped as DX, slices, and whatever attributes a test wants changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

DX = "1.2.840.10008.5.1.4.1.1.1.1"
CR = "1.2.840.10008.5.1.4.1.1.1"
CT = "1.2.840.10008.5.1.4.1.1.2"
MG = "1.2.840.10008.5.1.4.1.1.1.2"


def disc_picture(rows: int = 96, columns: int = 80, *, levels: int = 256) -> NDArray[np.uint16]:
    """A grey ramp with a bright disc: uses every level from 0 to `levels` - 1."""
    y, x = np.mgrid[0:rows, 0:columns]
    picture = (x + 2 * y) / (columns + 2 * rows - 3)
    picture[(x - columns * 0.6) ** 2 + (y - rows * 0.4) ** 2 < (rows / 8) ** 2] = 0.9
    picture[0, 0], picture[-1, -1] = 0.0, 1.0
    return np.rint(picture * (levels - 1)).astype(np.uint16)


def film_data_set(pixels: NDArray[Any], *, bits: int = 8, signed: bool = False, **changes: Any) -> Dataset:
    """A DX film of `pixels`; keyword arguments set attributes, None deletes one."""
    word = "b" if bits <= 8 else "h"
    data_set = Dataset()
    data_set.file_meta = FileMetaDataset()
    data_set.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data_set.file_meta.MediaStorageSOPClassUID, data_set.file_meta.MediaStorageSOPInstanceUID = DX, "1.2.3.4"
    data_set.SOPClassUID = DX
    data_set.SOPInstanceUID, data_set.SeriesInstanceUID = generate_uid(), generate_uid()
    data_set.StudyInstanceUID = generate_uid()
    data_set.Modality, data_set.BodyPartExamined, data_set.ViewPosition = "DX", "CHEST", "PA"
    data_set.PresentationIntentType = "FOR PRESENTATION"
    data_set.PatientAge, data_set.PatientID, data_set.PatientName = "045Y", "P1", "Test^Film"
    data_set.ImageType = ["ORIGINAL", "PRIMARY"]
    data_set.Rows, data_set.Columns = pixels.shape
    data_set.SamplesPerPixel, data_set.PhotometricInterpretation = 1, "MONOCHROME2"
    data_set.BitsAllocated = 8 if bits <= 8 else 16
    data_set.BitsStored, data_set.HighBit, data_set.PixelRepresentation = bits, bits - 1, int(signed)
    data_set.add_new(0x7FE00010, "OW", np.asarray(pixels).astype(f"<{word if signed else word.upper()}").tobytes())
    for keyword, value in changes.items():
        if value is None:
            delattr(data_set, keyword)
        else:
            setattr(data_set, keyword, value)
    return data_set


def save(data_set: Dataset, path: Path) -> Path:
    """Write a part-10 file."""
    data_set.save_as(path, enforce_file_format=True)
    return path


def film_file(path: Path, pixels: NDArray[Any] | None = None, **changes: Any) -> Path:
    """Write a DX film; see `film_data_set`."""
    return save(film_data_set(disc_picture() if pixels is None else pixels, **changes), path)


def slice_data_set(position: tuple[float, float, float], pixels: NDArray[Any], **changes: Any) -> Dataset:
    """One axial CT slice at `position` (mm, LPS), rescaled with intercept -1024, spacing 0.8 by 0.7 mm."""
    data_set = film_data_set(pixels, bits=16, signed=True)
    data_set.SOPClassUID, data_set.Modality = CT, "CT"
    del data_set.PresentationIntentType
    data_set.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    data_set.SeriesInstanceUID, data_set.StudyInstanceUID, data_set.FrameOfReferenceUID = "1.2.3", "1.2", "1.2.9"
    data_set.ImagePositionPatient, data_set.ImageOrientationPatient = list(position), [1, 0, 0, 0, 1, 0]
    data_set.PixelSpacing, data_set.SliceThickness = [0.8, 0.7], 5
    data_set.RescaleSlope, data_set.RescaleIntercept, data_set.RescaleType = 1, -1024, "HU"
    for keyword, value in changes.items():
        if value is None:
            delattr(data_set, keyword)
        else:
            setattr(data_set, keyword, value)
    return data_set

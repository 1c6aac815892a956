"""A chest CT phantom, computed: an ellipse of a body with two lungs, spine, heart, vessels and four nodules.

Made for the demonstration and for tests that need a contiguous CT without a patient. It is labelled as a phantom in
every attribute a viewer shows, and as a quality control subject (PS3.3 C.7.1.1, Quality Control Subject). The same
call gives the same bytes. It proves that a CT goes through the node, and nothing about any model.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian

from dicom_node.implementation import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME

SLICES: Final = 48
SIDE_PX: Final = 256
SPACING_MM: Final = 1.4
STEP_MM: Final = 2.5
_INTERCEPT: Final = -1024
_NOISE_HU: Final = 12.0
_AIR, _FAT, _SOFT, _LUNG, _BONE, _MARROW, _BLOOD, _NODULE = -1000.0, -100.0, 45.0, -860.0, 700.0, 180.0, 40.0, 35.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Ellipsoid:
    """A body part: centre and half axes in mm (x to the left, y to the back, z to the head), and its Hounsfield units.

    An infinite half axis makes a cylinder along it.
    """

    centre_mm: tuple[float, float, float]
    half_axes_mm: tuple[float, float, float]
    value_hu: float


_INF: Final = float("inf")
# Painted in this order; the later covers the earlier.
_BODY: Final = (
    Ellipsoid(centre_mm=(0, 0, 0), half_axes_mm=(165, 112, _INF), value_hu=_FAT),
    Ellipsoid(centre_mm=(0, 0, 0), half_axes_mm=(153, 101, _INF), value_hu=_SOFT),
    Ellipsoid(centre_mm=(-70, -4, 0), half_axes_mm=(62, 82, 120), value_hu=_LUNG),
    Ellipsoid(centre_mm=(70, -4, 0), half_axes_mm=(60, 80, 115), value_hu=_LUNG),
    Ellipsoid(centre_mm=(18, -28, -30), half_axes_mm=(58, 46, 48), value_hu=_BLOOD),
    Ellipsoid(centre_mm=(12, 38, 0), half_axes_mm=(13, 13, _INF), value_hu=_BLOOD),
    Ellipsoid(centre_mm=(0, 2, 0), half_axes_mm=(9, 9, _INF), value_hu=_AIR),
    Ellipsoid(centre_mm=(0, 66, 0), half_axes_mm=(22, 19, _INF), value_hu=_BONE),
    Ellipsoid(centre_mm=(0, 66, 0), half_axes_mm=(18, 15, _INF), value_hu=_MARROW),
    Ellipsoid(centre_mm=(0, 86, 0), half_axes_mm=(6, 9, _INF), value_hu=0.0),
    Ellipsoid(centre_mm=(0, -92, 0), half_axes_mm=(17, 6, _INF), value_hu=_MARROW),
)
_VESSELS: Final = tuple(
    Ellipsoid(centre_mm=(side * x, y, z), half_axes_mm=(radius, radius, 30), value_hu=_BLOOD)
    for side in (-1.0, 1.0)
    for x, y, z, radius in ((52, 10, 10, 4), (64, -30, -5, 3), (78, 26, -20, 3), (90, -10, 25, 2.5), (60, 40, 5, 3))
)
NODULES: Final = (
    Ellipsoid(centre_mm=(-88, 18, 20), half_axes_mm=(8, 8, 8), value_hu=_NODULE),
    Ellipsoid(centre_mm=(-66, -44, -25), half_axes_mm=(5, 5, 5), value_hu=_NODULE),
    Ellipsoid(centre_mm=(84, 30, -10), half_axes_mm=(11, 10, 9), value_hu=_NODULE),
    Ellipsoid(centre_mm=(96, -24, 32), half_axes_mm=(4, 4, 4), value_hu=_NODULE),
)


def phantom_hu() -> NDArray[np.int16]:
    """The phantom's Hounsfield units, (slices, rows, columns), first slice at the feet; in steps of one unit."""
    centre_px = (SIDE_PX - 1) / 2
    across_mm = (np.arange(SIDE_PX) - centre_px) * SPACING_MM
    along_mm = (np.arange(SLICES) - (SLICES - 1) / 2) * STEP_MM
    volume = np.full((SLICES, SIDE_PX, SIDE_PX), _AIR, dtype=np.float32)
    for part in (*_BODY, *_VESSELS, *NODULES):
        x, y, z = part.centre_mm
        half_x, half_y, half_z = part.half_axes_mm
        inside = (
            ((along_mm[:, None, None] - z) / half_z) ** 2
            + ((across_mm[None, :, None] - y) / half_y) ** 2
            + ((across_mm[None, None, :] - x) / half_x) ** 2
        ) <= 1
        volume[inside] = part.value_hu
    noise = np.random.default_rng(1895).normal(0, _NOISE_HU, volume.shape)
    return np.clip(np.rint(volume + noise), _INTERCEPT, 3071).astype(np.int16)


def write_phantom(folder: Path) -> tuple[Path, ...]:
    """Write the phantom as one CT series, one file a slice (CT Image Storage, PS3.3 A.3).

    Returns
    -------
    tuple of Path
        In the order of slices, from the feet.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, plane in enumerate(phantom_hu(), start=1):
        path = folder / f"slice-{number:03}.dcm"
        _slice(number, plane).save_as(path, enforce_file_format=True)
        paths.append(path)
    return tuple(paths)


def _slice(number: int, plane: NDArray[np.int16]) -> Dataset:
    image = Dataset()
    _describe_study(image)
    _describe_geometry(image, number)
    image.SOPClassUID, image.SOPInstanceUID = CTImageStorage, _uid(f"instance {number}")
    stored = (plane.astype(np.int32) - _INTERCEPT).astype("<u2")
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.Rows, image.Columns = stored.shape
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 12, 11, 0
    image.RescaleIntercept, image.RescaleSlope, image.RescaleType = str(_INTERCEPT), "1", "HU"
    image.WindowCenter, image.WindowWidth = ["40", "-600"], ["400", "1500"]
    image.WindowCenterWidthExplanation = ["SOFT TISSUE", "LUNG"]
    image.PixelData = stored.tobytes()
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = image.SOPClassUID, image.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
    image.file_meta = meta
    return image


def _describe_study(image: Dataset) -> None:
    image.SpecificCharacterSet = "ISO_IR 192"
    image.PatientName, image.PatientID = "PHANTOM^CHEST CT", "PHANTOM"
    image.PatientBirthDate, image.PatientSex = "", ""
    image.QualityControlSubject = "YES"
    image.PatientComments = "Computed phantom, not a person"
    image.StudyInstanceUID, image.SeriesInstanceUID = _uid("study"), _uid("series")
    image.FrameOfReferenceUID = _uid("frame of reference")
    image.PositionReferenceIndicator = ""
    image.StudyID, image.AccessionNumber, image.ReferringPhysicianName = "PHANTOM", "", ""
    image.StudyDate = image.SeriesDate = image.AcquisitionDate = image.ContentDate = "20260101"
    image.StudyTime = image.SeriesTime = image.AcquisitionTime = image.ContentTime = "120000"
    image.StudyDescription, image.SeriesDescription = "PHANTOM, computed, not a patient", "PHANTOM chest"
    image.Modality, image.SeriesNumber, image.AcquisitionNumber = "CT", 1, 1
    image.BodyPartExamined, image.PatientPosition = "CHEST", "HFS"
    image.Manufacturer, image.ManufacturerModelName, image.SoftwareVersions = "radnode", "computed phantom", "1"
    image.KVP, image.ConvolutionKernel = "120", "NONE"
    image.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    image.BurnedInAnnotation, image.LossyImageCompression = "NO", "00"


def _describe_geometry(image: Dataset, number: int) -> None:
    height_mm = (number - 1 - (SLICES - 1) / 2) * STEP_MM
    corner_mm = -(SIDE_PX - 1) / 2 * SPACING_MM
    image.InstanceNumber = number
    image.ImagePositionPatient = [f"{corner_mm:.2f}", f"{corner_mm:.2f}", f"{height_mm:.2f}"]
    image.ImageOrientationPatient = ["1", "0", "0", "0", "1", "0"]
    image.SliceLocation = f"{height_mm:.2f}"
    image.PixelSpacing, image.SliceThickness = [f"{SPACING_MM}", f"{SPACING_MM}"], f"{STEP_MM}"


def _uid(part: str) -> UID:
    """Always the same: a second demonstration sends a duplicate, not another study."""
    digest = hashlib.sha256(f"radnode chest CT phantom 1, {part}".encode()).hexdigest()
    return UID(f"2.25.{int(digest[:32], 16)}")

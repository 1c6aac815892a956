"""The values that loading hands on: a header, a projection, a volume. No data set, no file, no model.

Made by `inference.loading`; read by `preprocess`, `intended_use`, `engine`, `dicom_node` and `training`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inference.findings import SeriesUid, SopUid, StudyUid
from models.card import PresentationIntent


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadLimits:
    """How much one file may ask for; checked against what the header declares, before anything is decoded."""

    max_file_bytes: int = 1 << 30  # the largest tomosynthesis objects stay below
    max_pixels: int = 120_000_000  # of one frame; a 43 x 43 cm film at 50 um has 74 million
    max_frames: int = 4096  # of one object
    max_slices: int = 3000  # of one volume
    max_voxels: int = 900_000_000  # of one volume: 3.6 GB as float32


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageHeader:
    """What the header of one image says, as far as the node uses it; no names, no patient identifiers.

    Attributes
    ----------
    sop_instance_uid, sop_class_uid, series_uid, study_uid, transfer_syntax_uid : str
        Never empty, checked to be UIDs; never to be used as file names all the same.
    modality, body_part : str
        Upper case; empty when the header has none.
    view : str
        "PA", "AP", "LL", "RL", "CC", "MLO", ..., from View Position or else View Code Sequence; empty when neither
        names one.
    view_modifiers : tuple of str
        "ID" (implant displaced), "SPOT", "MAG", ...: from View Modifier Code Sequence, PS3.16 CID 4015.
    laterality : str
        "L", "R", "B" or empty.
    presentation : PresentationIntent
        UNKNOWN when the attribute is absent.
    patient_age_years : float or None
        From Patient's Age, else from birth date and study date.
    image_type : tuple of str
        Image Type (0008,0008), upper case.
    rows, columns, frames : int
        Of the stored picture; `frames` is 1 for single-frame objects.
    bits_stored : int
        Significant bits of a stored value.
    photometric : str
        Photometric Interpretation.
    lossy : bool
        Whether the picture was ever compressed with loss.
    spacing_mm : (row, column) or None
        Distance of pixel centres in the patient, None where it cannot be trusted.
    description : str
        Series Description, else Study Description. May hold what a person typed: for routing rules, not for logs.
    device_uid : str
        Device UID (0018,1002) of the equipment, empty when absent.
    contributing_device_uids : tuple of str
        Device UIDs in Contributing Equipment Sequence: whoever processed the picture before.
    """

    sop_instance_uid: SopUid
    sop_class_uid: str
    series_uid: SeriesUid
    study_uid: StudyUid
    transfer_syntax_uid: str
    modality: str = ""
    body_part: str = ""
    view: str = ""
    view_modifiers: tuple[str, ...] = ()
    laterality: str = ""
    presentation: PresentationIntent = PresentationIntent.UNKNOWN
    patient_age_years: float | None = None
    image_type: tuple[str, ...] = ()
    rows: int
    columns: int
    frames: int = 1
    bits_stored: int = 8
    photometric: str = "MONOCHROME2"
    lossy: bool = False
    spacing_mm: tuple[float, float] | None = None
    description: str = ""
    device_uid: str = ""
    contributing_device_uids: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Image:
    """One grey-scale picture as it is displayed.

    Attributes
    ----------
    header : ImageHeader
    pixels : float32 (rows, columns)
        0 black, 1 white, after modality LUT, VOI and polarity. Padding is 0.
    padded : bool (rows, columns) or None
        True where a pixel is padding and belongs to no statistics.
    frame_number : int or None
        1-based frame of a multi-frame object, else None.
    pixel_digest : str
        sha256 over the stored values and whatever decides how they are shown. Lossless recompression keeps it.
    """

    header: ImageHeader
    pixels: NDArray[np.float32]
    padded: NDArray[np.bool_] | None = None
    frame_number: int | None = None
    pixel_digest: str

    @property
    def spacing_mm(self) -> tuple[float, float] | None:
        """(row, column) distance of pixel centres in the patient, None where it cannot be trusted."""
        return self.header.spacing_mm


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Volume:
    """A stack of parallel, equally spaced CT slices in Hounsfield units.

    Attributes
    ----------
    voxels : float32 (slices, rows, columns)
        Hounsfield units; slices in the order of their position along the normal.
    spacing_mm : (slice, row, column)
        Distance between slice centres, row centres and column centres.
    origin_mm : (x, y, z)
        Centre of voxel (0, 0, 0) in the patient frame, LPS (PS3.3 C.7.6.2.1.1).
    direction : three unit vectors (x, y, z), LPS
        Along increasing slice, row and column index, in the order of the array's axes.
    headers : tuple of ImageHeader
        One per slice.
    pixel_digest : str
        sha256 over all slices' values and geometry.
    """

    voxels: NDArray[np.float32]
    spacing_mm: tuple[float, float, float]
    origin_mm: tuple[float, float, float]
    direction: tuple[tuple[float, float, float], tuple[float, float, float], tuple[float, float, float]]
    headers: tuple[ImageHeader, ...]
    pixel_digest: str

    @property
    def sop_instance_uids(self) -> tuple[SopUid, ...]:
        """SOP Instance UID of each slice."""
        return tuple(header.sop_instance_uid for header in self.headers)

    def to_lps_mm(self, slice_index: float, row: float, column: float) -> tuple[float, float, float]:
        """Patient coordinates (LPS, mm) of a voxel index; whole numbers are voxel centres."""
        steps = zip((slice_index, row, column), self.spacing_mm, self.direction, strict=True)
        offset = np.sum([index * step * np.asarray(axis) for index, step, axis in steps], axis=0)
        x, y, z = (np.asarray(self.origin_mm) + offset).tolist()
        return x, y, z

"""Loads a CT series as one volume in Hounsfield units, or says why it is none.

`select_slices` first drops what never belongs to a volume (localizers, derived pictures) and says so; `load_volume`
is strict about the rest: whatever is tilted, doubled, missing or unequally spaced is refused, nothing is dropped
silently and nothing is interpolated.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from inference.findings import SopUid
from inference.grayscale import GreyParameters, padding_mask
from inference.images import ImageHeader, LoadLimits, Volume
from inference.loading import attributes as read
from inference.loading.header import image_header
from inference.loading.image import pixel_digest
from inference.loading.parameters import grey_parameters
from inference.loading.pixels import stored_values
from inference.loading.reading import read_data_set, refusing
from inference.refusals import Reason, Refused

_LIMITS = LoadLimits()
_MIN_SLICES = 3
_AXES = 3
_ORTHOGONAL = 1e-3  # largest cosine between row and column direction, and deviation of their length from 1
_PARALLEL = 1e-3  # largest difference of a direction cosine between slices
_JITTER_MM = 0.05  # positions are printed with few decimals: a deviation so small is rounding
_TILT_MM = 0.5  # how far slice corners may drift sideways over the whole volume
_SPACING_MM = 1e-3
_AIR_HU = -1024.0  # what padding is set to
_NOT_VOLUME_TYPES = {"LOCALIZER", "SCOUT", "MPR", "REFORMATTED", "PROJECTION IMAGE", "MIP", "SCREEN SAVE", "DOSE_INFO"}
_HU_TYPES = {"", "HU"}
_SINGLE_CT = "1.2.840.10008.5.1.4.1.1.2"


@dataclass(frozen=True, kw_only=True, slots=True)
class DroppedSlice:
    """An image that was left out of a volume, and why."""

    sop_instance_uid: SopUid
    why: str


@dataclass(frozen=True, kw_only=True, slots=True)
class SliceHeader:
    """What decides whether an image is a slice worth looking at; pixel data are not read.

    Attributes
    ----------
    path : Path
    header : ImageHeader
    position_mm : (x, y, z) or None
        Image Position (Patient), LPS; None where it is missing.
    orientation : six direction cosines or None
        Image Orientation (Patient): along rows, then along columns.
    kernel : str
        Convolution Kernel, upper case; empty when absent.
    """

    path: Path
    header: ImageHeader
    position_mm: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    kernel: str


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Slice:
    header: ImageHeader
    position_mm: NDArray[np.float64]
    row_direction: NDArray[np.float64]  # along increasing column index
    column_direction: NDArray[np.float64]  # along increasing row index
    spacing_mm: tuple[float, float]
    values: NDArray[np.int32]
    parameters: GreyParameters

    @property
    def normal(self) -> NDArray[np.float64]:
        return np.cross(self.row_direction, self.column_direction)


def select_slices(headers: Sequence[ImageHeader]) -> tuple[tuple[ImageHeader, ...], tuple[DroppedSlice, ...]]:
    """Split a CT series into slices of a volume and what never belongs to one. Pure; looks at headers only.

    Dropped are localizers, derived reformats, screen captures and images of a modality or size that is not the
    series' own.
    """
    sizes = Counter((header.rows, header.columns) for header in headers if _why_no_slice(header) is None)
    common = sizes.most_common(1)[0][0] if sizes else None
    kept, dropped = [], []
    for header in headers:
        why = _why_no_slice(header)
        if why is None and (header.rows, header.columns) != common:
            why = f"{header.rows} x {header.columns} pixels in a series of {common}"
        if why is None:
            kept.append(header)
        else:
            dropped.append(DroppedSlice(sop_instance_uid=header.sop_instance_uid, why=why))
    return tuple(kept), tuple(dropped)


def _why_no_slice(header: ImageHeader) -> str | None:
    unfit = sorted(_NOT_VOLUME_TYPES.intersection(header.image_type))
    if unfit:
        return f"image type {unfit[0]}"
    if header.modality != "CT":
        return f"modality {header.modality or 'none'}"
    if header.sop_class_uid != _SINGLE_CT:
        return f"SOP class {header.sop_class_uid}"
    return None


def read_slice_header(path: Path, *, limits: LoadLimits = _LIMITS) -> SliceHeader:
    """The header of an image that may be a slice of a volume.

    Raises
    ------
    Refused
        When the file is no DICOM image, is damaged, contradicts itself, or is not grey.
    OSError
        When the file cannot be opened or the disk fails.
    """
    data_set, syntax = read_data_set(path, limits=limits, pixels=False)
    with refusing(Reason.UNREADABLE):
        position, orientation = (
            read.numbers(data_set, word) for word in ("ImagePositionPatient", "ImageOrientationPatient")
        )
        return SliceHeader(
            path=path,
            header=image_header(data_set, syntax, limits=limits),
            position_mm=position if len(position) == _AXES else None,
            orientation=orientation if len(orientation) == 2 * _AXES else None,
            kernel=read.code_text(data_set, "ConvolutionKernel"),
        )


def load_volume(paths: Sequence[Path], *, limits: LoadLimits = _LIMITS) -> Volume:
    """A volume of all the given slices.

    Raises
    ------
    Refused
        GEOMETRY for tilt, duplicates, gaps, unequal spacing or mixed orientations; NOT_HU when values are not
        Hounsfield units; INCOMPLETE for fewer than three slices; CONTRADICTION for slices of several series or
        sizes; TOO_LARGE; MODALITY for what is no single-frame CT image; and whatever `load_image` refuses.
    OSError
        When a file cannot be opened or the disk fails.
    """
    if len(paths) < _MIN_SLICES:
        raise Refused(Reason.INCOMPLETE, f"{len(paths)} slices, a volume needs {_MIN_SLICES}")
    if len(paths) > limits.max_slices:
        raise Refused(Reason.TOO_LARGE, f"{len(paths)} slices, {limits.max_slices} are accepted")
    slices = [_load_slice(path, len(paths), limits) for path in paths]
    _check_same_series(slices)
    ordered = _in_order(slices)
    step = _slice_step_mm(ordered)
    return _volume(ordered, step)


def _load_slice(path: Path, count: int, limits: LoadLimits) -> _Slice:
    data_set, syntax = read_data_set(path, limits=limits, pixels=True)
    with refusing(Reason.UNREADABLE):
        header = image_header(data_set, syntax, limits=limits)
        if header.modality != "CT" or header.sop_class_uid != _SINGLE_CT:
            raise Refused(Reason.MODALITY, f"SOP class {header.sop_class_uid}; volumes are made of single CT slices")
        if header.rows * header.columns * count > limits.max_voxels:
            raise Refused(Reason.TOO_LARGE, f"{count} slices of {header.rows} x {header.columns}")
        parameters = grey_parameters(data_set, frame=0)
        _check_hounsfield(data_set, header, parameters)
        position, orientation = _geometry(data_set)
    if header.spacing_mm is None:
        raise Refused(Reason.GEOMETRY, "Pixel Spacing is missing or impossible")
    return _Slice(
        header=header,
        position_mm=position,
        row_direction=orientation[:_AXES],
        column_direction=orientation[_AXES:],
        spacing_mm=header.spacing_mm,
        values=stored_values(data_set, header, frame=0).astype(np.int32, copy=False),
        parameters=parameters,
    )


def _check_hounsfield(data_set: Dataset, header: ImageHeader, parameters: GreyParameters) -> None:
    rescale_type = read.code_text(data_set, "RescaleType")
    if rescale_type not in _HU_TYPES:
        raise Refused(Reason.NOT_HU, f"Rescale Type {rescale_type}")
    if parameters.modality_lut is not None:
        raise Refused(Reason.NOT_HU, "a modality LUT in place of a rescale")
    if "RescaleSlope" not in data_set or "RescaleIntercept" not in data_set:
        raise Refused(Reason.NOT_HU, "Rescale Slope and Intercept are missing")
    if header.photometric != "MONOCHROME2":
        raise Refused(Reason.NOT_HU, header.photometric)


def _geometry(data_set: Dataset) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    position = np.asarray(read.numbers(data_set, "ImagePositionPatient"))
    orientation = np.asarray(read.numbers(data_set, "ImageOrientationPatient"))
    if position.shape != (_AXES,) or orientation.shape != (2 * _AXES,):
        raise Refused(Reason.GEOMETRY, "Image Position or Image Orientation is missing")
    row, column = orientation[:_AXES], orientation[_AXES:]
    lengths = np.abs([np.linalg.norm(row) - 1, np.linalg.norm(column) - 1, row @ column])
    if (lengths > _ORTHOGONAL).any():
        raise Refused(Reason.GEOMETRY, "Image Orientation does not hold two perpendicular unit vectors")
    return position, orientation


def _check_same_series(slices: Sequence[_Slice]) -> None:
    first = slices[0]
    if len({item.header.series_uid for item in slices}) > 1:
        raise Refused(Reason.CONTRADICTION, "slices of several series")
    if len({(item.header.rows, item.header.columns) for item in slices}) > 1:
        raise Refused(Reason.CONTRADICTION, "slices of several sizes")
    for item in slices:
        turned = np.abs(np.concatenate((item.row_direction, item.column_direction)) - _orientation(first)).max()
        if turned > _PARALLEL:
            raise Refused(Reason.GEOMETRY, "slices of several orientations")
        if np.abs(np.subtract(item.spacing_mm, first.spacing_mm)).max() > _SPACING_MM:
            raise Refused(Reason.GEOMETRY, "slices of several pixel spacings")


def _orientation(item: _Slice) -> NDArray[np.float64]:
    return np.concatenate((item.row_direction, item.column_direction))


def _in_order(slices: Sequence[_Slice]) -> list[_Slice]:
    normal = slices[0].normal
    return sorted(slices, key=lambda item: float(item.position_mm @ normal))


def _slice_step_mm(ordered: Sequence[_Slice]) -> float:
    """Distance of neighbouring slices, the same for all of them.

    Slice Thickness is not asked: it may be larger (overlap) or smaller (gaps by plan) than the distance.
    """
    normal = ordered[0].normal
    places = np.asarray([float(item.position_mm @ normal) for item in ordered])
    steps = np.diff(places)
    if (steps < _JITTER_MM).any():
        doubled = int((steps < _JITTER_MM).sum())
        raise Refused(Reason.GEOMETRY, f"{doubled} slice position(s) occur twice")
    usual = float(np.median(steps))
    gaps = np.rint(steps / usual).astype(int) - 1
    if (gaps > 0).any() and np.allclose(steps, usual * (gaps + 1), atol=2 * _JITTER_MM):
        raise Refused(Reason.GEOMETRY, f"{int(gaps.sum())} slice(s) missing at a spacing of {usual:.2f} mm")
    if np.abs(steps - usual).max() > 2 * _JITTER_MM:
        raise Refused(Reason.GEOMETRY, f"slice distances from {steps.min():.2f} to {steps.max():.2f} mm")
    drift = (ordered[-1].position_mm - ordered[0].position_mm) - (places[-1] - places[0]) * normal
    if float(np.linalg.norm(drift)) > _TILT_MM:
        raise Refused(Reason.GEOMETRY, f"the gantry is tilted: slices drift {float(np.linalg.norm(drift)):.1f} mm")
    return float(places[-1] - places[0]) / (len(ordered) - 1)


def _volume(ordered: Sequence[_Slice], step_mm: float) -> Volume:
    first = ordered[0]
    voxels = np.empty((len(ordered), first.header.rows, first.header.columns), dtype=np.float32)
    digest = hashlib.sha256()
    for target, item in zip(voxels, ordered, strict=True):
        target[...] = item.values * np.float32(item.parameters.slope) + np.float32(item.parameters.intercept)
        padded = padding_mask(item.values, item.parameters.padding)
        if padded is not None:
            target[padded] = _AIR_HU
        place = (*item.position_mm.tolist(), *_orientation(item).tolist(), *item.spacing_mm)
        digest.update(pixel_digest(item.values, item.parameters, place).encode())
    x, y, z = first.position_mm.tolist()
    return Volume(
        voxels=voxels,
        spacing_mm=(step_mm, *first.spacing_mm),
        origin_mm=(x, y, z),
        direction=(_triple(first.normal), _triple(first.column_direction), _triple(first.row_direction)),
        headers=tuple(item.header for item in ordered),
        pixel_digest=digest.hexdigest(),
    )


def _triple(vector: NDArray[np.float64]) -> tuple[float, float, float]:
    x, y, z = vector.tolist()
    return x, y, z

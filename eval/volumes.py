"""Reads volumes that are no DICOM series: MetaImage, NIfTI, NRRD, as public sets publish them.

Called by `eval.running`, and by `training.ct`, whose scans are read in the same way. SimpleITK, of the extra ``train``,
is loaded only when such a file is read.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from inference.findings import SeriesUid, SopUid, StudyUid
from inference.images import ImageHeader, Volume
from inference.loading.content import values_digest

if TYPE_CHECKING:
    from collections.abc import Callable

SUFFIXES = (".mhd", ".mha", ".nii", ".nii.gz", ".nrrd")
_CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
_EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
_AXES = 3
_PERPENDICULAR = 1e-3


class VolumeError(Exception):
    """A file that is no volume, or cannot be read; the message says why, without its folder."""


def is_volume(path: Path) -> bool:
    """Whether the name is that of a volume that is no DICOM file."""
    return path.name.lower().endswith(SUFFIXES)


def voxel_files(path: Path) -> tuple[Path, ...]:
    """The file, and the file of voxels beside a MetaImage header."""
    beside = (path.with_suffix(suffix) for suffix in (".raw", ".zraw"))
    return (path, *(file for file in beside if path.suffix.lower() == ".mhd" and file.is_file()))


def read_itk(path: Path) -> Volume:
    """A volume in Hounsfield units from a file that SimpleITK knows, without headers and without a digest.

    The file's frame is LPS, to which the library turns NIfTI too. Slices are put in the order of the body's long axis
    where the file counts the other way round.

    Raises
    ------
    VolumeError
        If the library is not installed, the file cannot be read, is no volume, or its axes are not perpendicular.
    """
    voxels, columns, spacing, origin = _read(path)
    axes = columns.T[::-1].copy()  # along slice, row, column
    if np.abs(axes @ axes.T - np.eye(_AXES)).max() > _PERPENDICULAR:
        raise VolumeError(f"{path.name}: its axes are not perpendicular")
    if np.cross(axes[2], axes[1]) @ axes[0] < 0:  # a left-handed stack: the last slice comes first
        origin = origin + (len(voxels) - 1) * spacing[0] * axes[0]
        axes[0] = -axes[0]
        voxels = voxels[::-1]
    return Volume(
        voxels=np.ascontiguousarray(voxels),
        spacing_mm=_triple(spacing),
        origin_mm=_triple(origin),
        direction=(_triple(axes[0]), _triple(axes[1]), _triple(axes[2])),
        headers=(),
        pixel_digest="",
    )


def _read(path: Path) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Voxels, direction (columns are axes x, y, z of the file), spacing (slice, row, column), origin."""
    try:
        import SimpleITK
    except ModuleNotFoundError as error:
        raise VolumeError(f"{path.name}: reading it needs SimpleITK: pip install 'radnode[train]'") from error
    try:
        image: Any = SimpleITK.ReadImage(str(path), SimpleITK.sitkFloat32)
    except RuntimeError as error:
        raise VolumeError(
            f"{path.name} cannot be read as a volume: is the file of voxels beside it, and whole?"
        ) from error
    if image.GetDimension() != _AXES or image.GetNumberOfComponentsPerPixel() != 1:
        raise VolumeError(f"{path.name} is no grey-scale volume")
    voxels: NDArray[np.float32] = SimpleITK.GetArrayFromImage(image)
    columns = np.asarray(image.GetDirection(), dtype=np.float64).reshape(_AXES, _AXES)
    return voxels, columns, np.asarray(image.GetSpacing())[::-1], np.asarray(image.GetOrigin(), dtype=np.float64)


def with_identity(volume: Volume, header: Callable[[SopUid, SeriesUid, StudyUid], ImageHeader]) -> Volume:
    """The volume with a digest of what it shows, and for each slice a header whose UIDs are made from that digest.

    Parameters
    ----------
    header : callable
        A slice's header from its SOP Instance, Series and Study UID.
    """
    digest = volume_digest(volume)
    series = f"2.25.{int(digest[:32], 16)}"
    headers = []
    for index in range(len(volume.voxels)):
        own = hashlib.sha256(f"{digest} {index}".encode()).hexdigest()
        headers.append(header(SopUid(f"2.25.{int(own[:32], 16)}"), SeriesUid(series), StudyUid(series)))
    return Volume(
        voxels=volume.voxels,
        spacing_mm=volume.spacing_mm,
        origin_mm=volume.origin_mm,
        direction=volume.direction,
        headers=tuple(headers),
        pixel_digest=digest,
    )


def slice_header(volume: Volume, sop: SopUid, series: SeriesUid, study: StudyUid, *, modality: str) -> ImageHeader:
    """A header that says of a slice what its file knows: size, spacing, and that it is a slice."""
    return ImageHeader(
        sop_instance_uid=sop,
        sop_class_uid=_CT_IMAGE_STORAGE,
        series_uid=series,
        study_uid=study,
        transfer_syntax_uid=_EXPLICIT_LITTLE,
        modality=modality,
        rows=volume.voxels.shape[1],
        columns=volume.voxels.shape[2],
        bits_stored=16,
        spacing_mm=volume.spacing_mm[1:],
    )


def volume_digest(volume: Volume) -> str:
    """sha256 over voxels, rounded to whole Hounsfield units, and geometry."""
    digest = hashlib.sha256()
    for plane in volume.voxels:
        digest.update(np.rint(plane).astype("<i4").tobytes())
    described = (volume.voxels.shape, volume.spacing_mm, volume.origin_mm, volume.direction)
    digest.update(repr(described).encode())
    return digest.hexdigest()


def slice_digests(volume: Volume) -> tuple[str, ...]:
    """What each slice shows, digested as slices of a DICOM series are (`inference.loading.content`); no blank ones."""
    return tuple(digest for plane in volume.voxels if (digest := values_digest(plane)))


def _triple(values: NDArray[np.float64]) -> tuple[float, float, float]:
    first, second, third = (float(value) for value in values)
    return first, second, third

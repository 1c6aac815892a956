"""One CT scan and the lesions known on it, in one form whatever layout they came in.

Made by the readers beside this module, read by `training.ct.grids` and `training.ct.score`. Boxes are edge
coordinates of the scan's own voxels, so that resampling and serving mean the same by them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference.images import Volume
from training.errors import DataError

Triple = tuple[float, float, float]

_SAME = 0.1  # intersection over union above which readers speak of one lesion


@dataclass(frozen=True, kw_only=True, slots=True)
class LesionBox:
    """A lesion as a box: lower and upper edge coordinates (slice, row, column) of the scan's voxels."""

    low: Triple
    high: Triple

    def sides_mm(self, spacing_mm: Triple) -> Triple:
        """Sides along slice, row and column."""
        z, y, x = ((b - a) * step for a, b, step in zip(self.low, self.high, spacing_mm, strict=True))
        return z, y, x


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Scan:
    """A volume and all lesions known on it."""

    volume: Volume
    lesions: tuple[LesionBox, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class CtCase:
    """A scan that can be read.

    Attributes
    ----------
    name : str
        Unique in the set; letters, digits, dot, dash and underscore.
    patient : str
        Scans of one patient are never parted.
    files : tuple of Path
        All that it is read from.
    read : callable
        Reads it; raises `inference.refusals.Refused` or `DataError`.
    """

    name: str
    patient: str
    files: tuple[Path, ...]
    read: Callable[[], Scan]


def read_itk(path: Path) -> Volume:
    """A volume in Hounsfield units from a file that SimpleITK knows (mhd with raw or zraw, NIfTI, NRRD).

    The file's frame is LPS, to which the library turns NIfTI too. Slices are put in the order of the body's long axis
    where the file counts the other way round.

    Raises
    ------
    DataError
        If the file cannot be read, is no volume, or its axes are not perpendicular.
    """
    import SimpleITK

    try:
        image: Any = SimpleITK.ReadImage(str(path), SimpleITK.sitkFloat32)
    except RuntimeError as error:
        raise DataError(f"{path} cannot be read as a volume: is the file of voxels beside it, and whole?") from error
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:  # noqa: PLR2004
        raise DataError(f"{path} is no grey-scale volume")
    voxels: NDArray[np.float32] = SimpleITK.GetArrayFromImage(image)
    columns = np.asarray(image.GetDirection(), dtype=np.float64).reshape(3, 3)
    axes = columns.T[::-1].copy()  # along slice, row, column
    if np.abs(axes @ axes.T - np.eye(3)).max() > 1e-3:  # noqa: PLR2004
        raise DataError(f"{path}: its axes are not perpendicular")
    spacing = np.asarray(image.GetSpacing())[::-1]
    origin = np.asarray(image.GetOrigin(), dtype=np.float64)
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


def from_world(volume: Volume, center_mm: Sequence[float], size_mm: Sequence[float]) -> LesionBox:
    """The box around a place in the patient (x, y, z, LPS), `size_mm` (x, y, z) along the axes of the patient.

    For an oblique volume the box of the same sides along the axes that are nearest.
    """
    axes, spacing = np.asarray(volume.direction), np.asarray(volume.spacing_mm)
    middle = axes @ (np.asarray(center_mm) - np.asarray(volume.origin_mm)) / spacing + 0.5
    sides = np.asarray([np.asarray(size_mm)[int(np.abs(axis).argmax())] for axis in axes]) / spacing
    return LesionBox(low=_triple(middle - sides / 2), high=_triple(middle + sides / 2))


def consensus(boxes: Sequence[NDArray[np.float64]], *, readers: int = 1) -> tuple[LesionBox, ...]:
    """Lesions that at least `readers` boxes (2, 3) agree on, each the median of its boxes."""
    groups: list[list[NDArray[np.float64]]] = []
    for box in boxes:
        home = next((group for group in groups if any(overlap(box, other) > _SAME for other in group)), None)
        if home is None:
            groups.append([box])
        else:
            home.append(box)
    medians = [np.median(np.asarray(group), axis=0) for group in groups if len(group) >= readers]
    return tuple(LesionBox(low=_triple(box[0]), high=_triple(box[1])) for box in medians)


def overlap(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Intersection over union of boxes (2, 3)."""
    shared = np.prod(np.clip(np.minimum(one[1], other[1]) - np.maximum(one[0], other[0]), 0, None))
    return float(shared / (np.prod(one[1] - one[0]) + np.prod(other[1] - other[0]) - shared))


def _triple(values: NDArray[np.float64]) -> Triple:
    z, y, x = (float(value) for value in values)
    return z, y, x

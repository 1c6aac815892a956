"""One CT scan and the lesions known on it, in one form whatever layout they came in.

Made by the readers beside this module, read by `training.ct.grids` and `training.ct.score`. Boxes are edge
coordinates of the scan's own voxels, so that resampling and serving mean the same by them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eval import volumes
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
    """A volume in Hounsfield units from a file that SimpleITK knows; see `eval.volumes.read_itk`.

    Raises
    ------
    DataError
        If the file cannot be read, is no volume, or its axes are not perpendicular.
    """
    try:
        return volumes.read_itk(path)
    except volumes.VolumeError as error:
        raise DataError(str(error)) from error


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

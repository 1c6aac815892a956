"""Sizes of a lesion in the patient: volume, axes in the plane of the slices, centre.

From the fractions of voxels that `volumes.segment` gives. Exact for ellipsoids of any orientation, as far as the
fractions are; the figures on phantoms are in `docs/ct-measurements.md`. A lesion of too few voxels gets the sizes of
its outline on one slice instead, and no volume.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inference.findings import Measurement, PlanarRegion
from inference.images import Volume
from inference.postprocess import LONG_AXIS, MILLIMETER, SHORT_AXIS
from inference.postprocess import measurements as box_measurements
from inference.volumes.grid import Triple
from inference.volumes.segment import LesionVoxels
from models.codes import Code

VOLUME = Code(value="118565006", scheme="SCT", meaning="Volume")
DIAMETER = Code(value="81827009", scheme="SCT", meaning="Diameter")
CUBIC_MILLIMETER = Code(value="mm3", scheme="UCUM", meaning="cubic millimeter")

_DECIMALS = 1
# Below these nothing of a lesion is known to be lesion alone, so its own level and all that follows is a guess; the
# table is in docs/ct-measurements.md.
_FEWEST_SLICES = 2.5
_FEWEST_PIXELS = 5.5
_ELLIPSOID = 5.0  # the variance along an axis of a solid ellipsoid is the half axis squared, by this
_SMALLEST = 1 / 12  # of the voxel's side squared: no lesion is thinner than its voxel


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """What is measured of a lesion.

    Attributes
    ----------
    volume_mm3 : float
    long_axis_mm, short_axis_mm : float
        Of the cut of the slices' plane through the centre of the ellipsoid that has the lesion's volume and the
        proportions of its second moments: what two callipers measure on a smooth lesion, without their luck.
    center_mm : (x, y, z)
        Centre of gravity, LPS.
    center : (slice, row, column)
        The same as edge coordinates of the source.
    """

    volume_mm3: float
    long_axis_mm: float
    short_axis_mm: float
    center_mm: Triple
    center: Triple

    @property
    def mean_diameter_mm(self) -> float:
        """Mean of both axes, as guidelines on nodules ask for."""
        return (self.long_axis_mm + self.short_axis_mm) / 2


def sizes(lesion: LesionVoxels, volume: Volume) -> Sizes:
    """Measure a lesion."""
    spacing = np.asarray(volume.spacing_mm)
    weight = lesion.fraction.astype(np.float64)
    total = float(weight.sum())
    mean, covariance = _moments(weight, total)
    center = mean + np.asarray(lesion.start) + 0.5
    z, y, x = center.tolist()
    volume_mm3 = total * math.prod(volume.spacing_mm)
    long_axis, short_axis = _axes(covariance * np.outer(spacing, spacing), spacing, volume_mm3)
    return Sizes(
        volume_mm3=volume_mm3,
        long_axis_mm=long_axis,
        short_axis_mm=short_axis,
        center_mm=volume.to_lps_mm(z - 0.5, y - 0.5, x - 0.5),
        center=(z, y, x),
    )


def is_resolved(found: Sizes, volume: Volume) -> bool:
    """Whether the lesion is so many voxels across that its volume and axes hold within a few per cent."""
    across = (6 * found.volume_mm3 / math.pi) ** (1 / 3)
    slices, pixels = across / volume.spacing_mm[0], across / max(volume.spacing_mm[1:])
    return bool(slices >= _FEWEST_SLICES and pixels >= _FEWEST_PIXELS)


def _moments(weight: NDArray[np.float64], total: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and covariance (3,), (3, 3) of voxel indices."""
    places = np.argwhere(weight != 0.0)
    values = weight[weight != 0.0]
    mean = values @ places / total
    away = places - mean
    return mean, (away * values[:, None]).T @ away / total


def _axes(covariance: NDArray[np.float64], spacing: NDArray[np.float64], volume_mm3: float) -> tuple[float, float]:
    """Long and short axis in mm in the plane of rows and columns."""
    # A voxel spreads what it holds evenly over itself: that much of the variance is the grid's, not the lesion's.
    own = covariance - np.diag(spacing**2) / 12
    variances, directions = np.linalg.eigh(own)
    floor = float((spacing**2).min()) * _SMALLEST
    half_axes = np.sqrt(_ELLIPSOID * np.maximum(variances, floor))
    half_axes *= (volume_mm3 / (4 / 3 * math.pi * float(np.prod(half_axes)))) ** (1 / 3)
    quadric = directions @ np.diag(half_axes**-2.0) @ directions.T
    flat = np.linalg.eigvalsh(quadric[1:, 1:])
    return 2 / math.sqrt(float(flat[0])), 2 / math.sqrt(float(flat[-1]))


def measurements(found: Sizes, volume: Volume, key: PlanarRegion) -> tuple[Measurement, ...]:
    """Sizes as findings carry them; of a lesion of too few voxels long axis, short axis and area on the key slice."""
    if not is_resolved(found, volume):
        rows_mm, columns_mm = volume.spacing_mm[1:]
        return box_measurements(key.box, (rows_mm, columns_mm), key.outline)
    listed = (
        (LONG_AXIS, found.long_axis_mm, MILLIMETER),
        (SHORT_AXIS, found.short_axis_mm, MILLIMETER),
        (DIAMETER, found.mean_diameter_mm, MILLIMETER),
        (VOLUME, found.volume_mm3, CUBIC_MILLIMETER),
    )
    return tuple(
        Measurement(quantity=quantity, value=round(value, _DECIMALS), unit=unit) for quantity, value, unit in listed
    )

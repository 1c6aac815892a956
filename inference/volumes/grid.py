"""A volume on the model's even grid, and exactly back: resampling along the volume's own axes, window, normalisation.

Both grids share their first edge, so that a place in one is a place in the other times a factor per axis, whatever
the direction of the axes in the patient. Called by `volumes.run` and by training; nothing is rotated or registered.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from inference.images import LoadLimits, Volume
from inference.refusals import Reason, Refused
from models.inputs import VolumeInput

Triple = tuple[float, float, float]
Shape = tuple[int, int, int]

_LIMITS = LoadLimits()
_WHOLE = 1e-6  # a grid that ends this close to a whole voxel ends there


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Grid:
    """A volume as the network sees it.

    Places are edge coordinates in the order slice, row, column: 0 is the outer face of the first voxel, so that the
    centre of voxel i is at i + 0.5.

    Attributes
    ----------
    voxels : float32 (slices, rows, columns)
        Clipped to the card's window and scaled to 0..1, not yet normalised.
    factor : (slice, row, column)
        Source voxels for each voxel of the grid.
    """

    voxels: NDArray[np.float32]
    factor: Triple

    @property
    def shape(self) -> Shape:
        """Voxels along slice, row and column."""
        slices, rows, columns = self.voxels.shape
        return slices, rows, columns

    def to_source(self, place: NDArray[np.float64]) -> NDArray[np.float64]:
        """Edge coordinates (..., 3) of the source for edge coordinates (..., 3) of the grid."""
        return np.asarray(place * np.asarray(self.factor), dtype=np.float64)

    def to_grid(self, place: NDArray[np.float64]) -> NDArray[np.float64]:
        """Edge coordinates (..., 3) of the grid for edge coordinates (..., 3) of the source."""
        return np.asarray(place / np.asarray(self.factor), dtype=np.float64)


def grid_shape(shape: Shape, spacing_mm: Triple, wanted_mm: Triple) -> Shape:
    """Voxels of the grid that covers `shape` source voxels of `spacing_mm` with voxels of `wanted_mm`."""
    slices, rows, columns = (
        max(math.ceil(count * have / want - _WHOLE), 1)
        for count, have, want in zip(shape, spacing_mm, wanted_mm, strict=True)
    )
    return slices, rows, columns


def resample(volume: Volume, spec: VolumeInput, *, limits: LoadLimits = _LIMITS) -> Grid:
    """Bring a volume to the card's spacing and window.

    Linear interpolation, with the filter widened to the reduction where the grid is coarser, so that shrinking does
    not alias. Slices first in their plane, one at a time, then along the normal: no second volume of the source's
    size is made.

    Raises
    ------
    Refused
        GEOMETRY when the slices are further apart than the model accepts; TOO_LARGE when the grid would be.
    """
    if volume.spacing_mm[0] > spec.max_slice_spacing_mm:
        far = f"slices are {volume.spacing_mm[0]:.2f} mm apart, the model accepts {spec.max_slice_spacing_mm:g} mm"
        raise Refused(Reason.GEOMETRY, far)
    shape = grid_shape(_shape(volume.voxels), volume.spacing_mm, spec.spacing_mm)
    if math.prod(shape) > limits.max_voxels:
        size = " x ".join(map(str, shape))
        raise Refused(Reason.TOO_LARGE, f"a grid of {size} voxels, {limits.max_voxels} are accepted")
    slices, rows, columns = (want / have for want, have in zip(spec.spacing_mm, volume.spacing_mm, strict=True))
    planes = np.empty((len(volume.voxels), *shape[1:]), dtype=np.float32)
    for plane, source in zip(planes, volume.voxels, strict=True):
        plane[...] = _resized(_windowed(source, spec), shape[1], shape[2], rows, columns)
    return Grid(voxels=_along_slices(planes, shape[0], slices), factor=(slices, rows, columns))


def normalised(voxels: NDArray[np.float32], spec: VolumeInput) -> NDArray[np.float32]:
    """What the network is given for windowed voxels."""
    return np.asarray((voxels - np.float32(spec.mean)) / np.float32(spec.std), dtype=np.float32)


def _shape(voxels: NDArray[np.float32]) -> Shape:
    slices, rows, columns = voxels.shape
    return slices, rows, columns


def _windowed(hounsfield: NDArray[np.float32], spec: VolumeInput) -> NDArray[np.float32]:
    scaled = (hounsfield - np.float32(spec.low_hu)) * np.float32(1.0 / (spec.high_hu - spec.low_hu))
    return np.clip(scaled, 0.0, 1.0, out=scaled)


def _resized(
    plane: NDArray[np.float32], rows: int, columns: int, row_factor: float, column_factor: float
) -> NDArray[np.float32]:
    """One slice on the grid's rows and columns; beyond the last edge its border goes on."""
    if plane.shape == (rows, columns) and row_factor == column_factor == 1.0:
        return plane
    height, width = rows * row_factor, columns * column_factor
    more = [(0, max(math.ceil(need - have), 0)) for need, have in zip((height, width), plane.shape, strict=True)]
    picture = PIL.Image.fromarray(np.pad(plane, more, mode="edge"))
    resized = picture.resize((columns, rows), PIL.Image.Resampling.BILINEAR, box=(0.0, 0.0, width, height))
    return np.asarray(resized, dtype=np.float32)


def along_axis(values: NDArray[np.float32], axis: int, count: int) -> NDArray[np.float32]:
    """`values` with `count` places along `axis`, edges kept where they are, linear in between."""
    moved = np.moveaxis(values, axis, 0)
    return np.moveaxis(_along_slices(moved, count, len(moved) / count), 0, axis)


def _along_slices(planes: NDArray[np.float32], count: int, factor: float) -> NDArray[np.float32]:
    """The same filter along the normal."""
    if len(planes) == count and factor == 1.0:
        return planes
    result = np.zeros((count, *planes.shape[1:]), dtype=np.float32)
    for target, (places, weights) in zip(result, _taps(len(planes), count, factor), strict=True):
        for place, weight in zip(places, weights, strict=True):
            target += weight * planes[place]
    return result


def _taps(have: int, count: int, factor: float) -> list[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Source planes and weights of each plane of the grid: a triangle as wide as the coarser of both steps."""
    reach = max(factor, 1.0)
    taps = []
    for index in range(count):
        centre = (index + 0.5) * factor - 0.5
        places = np.arange(math.floor(centre - reach) + 1, math.ceil(centre + reach))
        weights = np.maximum(1.0 - np.abs(places - centre) / reach, 0.0)
        taps.append((np.clip(places, 0, have - 1), (weights / weights.sum()).astype(np.float32)))
    return taps

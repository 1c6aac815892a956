"""A lesion's voxels within its box, on the grid of the source, each with the part of it that is lesion.

A bright lesion in a darker background is told by its own half-way level: the median of its core against the median of
what surrounds it. How much of a voxel is lesion follows from its value between the two, so that the parts add up to
the lesion's volume whatever the voxels' size and the scanner's blur (the principle of J. M. Kuhnigk et al., IEEE TMI
25(4), 2006). Where a network segments, its own probabilities decide instead. Called by `volumes.run`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inference.images import Volume
from inference.volumes.grid import Grid, Triple
from inference.volumes.masks import components, distance_mm, filled, largest, placed
from inference.volumes.merge import Place

Bools = NDArray[np.bool_]
Floats = NDArray[np.float32]
Vector = NDArray[np.float64]

_MARGIN_MM = 8.0  # of surroundings looked at on each side, to know the background
_GROWTH = 0.25  # of the box's side: the lesion may be so much larger than its box, and
_GROWTH_VOXELS = 2.0  # so many voxels
_LEAST_CONTRAST_HU = 75.0  # below it a lesion has no border that could be found by its level
_ROUNDS = 3  # of level and mask, each from the other
_NECK = 0.4  # what is thinner than this part of the lesion's own radius is a vessel or the pleura
_BAND_MM = 1.6  # around the mask, where the scanner's blur and part volumes lie
_SHELL_MM = (1.5, 5.0)  # distance of the surroundings that are the background
_FEWEST = 8  # voxels of which a median is one
_FRACTION_LIMITS = (-0.5, 1.5)  # noise may not say more than this of a border's voxel
_LOW_PERCENTILE = 30.0  # of what is around a box: lung, though the chest wall may be among it
_ALIKE = 0.8  # Dice overlap of a network's lesion with what voxel values make of it
_CORE = 0.7  # of the depth of the deepest voxel: from there on a voxel is lesion alone, also in small ones
_HALF = 0.5
_SUBVOXELS = 4  # along each axis, where a network's probabilities are cut at their level
_FULLEST_UPSAMPLED = 40_000_000  # voxels; a lesion beyond is large enough without


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LesionVoxels:
    """A lesion on the source's grid.

    Attributes
    ----------
    start : (slice, row, column)
        Source voxel at which the arrays begin.
    mask : bool (slices, rows, columns)
        The voxels that are called lesion: as many as `fraction` adds up to, the fullest first.
    fraction : float32 (slices, rows, columns)
        How much of each voxel is lesion; noise lets single values pass 0 and 1.
    """

    start: tuple[int, int, int]
    mask: Bools
    fraction: Floats


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Box:
    """A box in edge coordinates of an array, and voxel centres seen from it."""

    low: Vector
    high: Vector

    def radius(self, shape: tuple[int, ...]) -> Floats:
        """How far each voxel's centre is from the middle: 1 at the surface of the ellipsoid within the box."""
        middle, half = (self.low + self.high) / 2, np.maximum((self.high - self.low) / 2, _HALF)
        z, y, x = (
            ((np.arange(count) + _HALF - centre) / side) ** 2
            for count, centre, side in zip(shape, middle, half, strict=True)
        )
        return np.asarray(np.sqrt(z[:, None, None] + y[:, None] + x), dtype=np.float32)

    def grown(self) -> _Box:
        """The box as far as a lesion may go beyond it."""
        more = np.maximum(_GROWTH * (self.high - self.low), _GROWTH_VOXELS)
        return _Box(low=self.low - more, high=self.high + more)

    def inside(self, shape: tuple[int, ...]) -> Bools:
        """Voxels whose centre is in the box."""
        z, y, x = (
            (np.arange(count) + _HALF > low) & (np.arange(count) + _HALF < high)
            for count, low, high in zip(shape, self.low, self.high, strict=True)
        )
        return np.asarray(z[:, None, None] & y[:, None] & x)


def segment(volume: Volume, place: Place, grid: Grid) -> LesionVoxels | None:
    """The voxels of a lesion; None where nothing stands out from its surroundings."""
    low, high = grid.to_source(place.low), grid.to_source(place.high)
    spacing = volume.spacing_mm
    margin = np.asarray([max(_MARGIN_MM / step, _GROWTH_VOXELS + 1) for step in spacing])
    margin = np.maximum(margin, _GROWTH * (high - low) + 1)
    first = np.clip(np.floor(low - margin).astype(int), 0, np.asarray(volume.voxels.shape) - 1)
    last = np.clip(np.ceil(high + margin).astype(int), first + 1, volume.voxels.shape)
    z, y, x = (slice(int(start), int(end)) for start, end in zip(first, last, strict=True))
    around = volume.voxels[z, y, x]
    if place.soft is not None:
        fraction = _refined(around, _of_network(place, grid, around.shape, first), spacing)
    else:
        found = by_level(around, _Box(low=low - first, high=high - first), spacing)
        if found is None:
            return None
        fraction = found
    mask = _fullest(fraction)
    if not mask.any():
        return None
    return LesionVoxels(start=(z.start, y.start, x.start), mask=mask, fraction=fraction)


def by_level(around: Floats, box: _Box, spacing_mm: Triple) -> Floats | None:
    """How much of each voxel is lesion, from its value between background and core; None without contrast."""
    radius = box.radius(around.shape)
    middle, outside = radius <= max(_HALF, float(radius.min())), radius > 1.0 + _GROWTH
    if not outside.any():
        return None
    core, background = float(np.median(around[middle])), float(np.percentile(around[outside], _LOW_PERCENTILE))
    mask: Bools | None = None
    for _ in range(_ROUNDS):
        if core - background < _LEAST_CONTRAST_HU:
            return None
        mask = _mask((core + background) / 2, around, radius, box, spacing_mm)
        if mask is None:
            return None
        core, background = _levels(around, mask, (core + background) / 2, background, spacing_mm)
    assert mask is not None
    return _fractions(around, mask, core, background, spacing_mm)


def _mask(level: float, around: Floats, radius: Floats, box: _Box, spacing_mm: Triple) -> Bools | None:
    """The part above the level that holds the box's middle, without the vessels and walls it hangs on."""
    bright = around > level
    lesion = _main_part(bright & box.grown().inside(around.shape), radius)
    if lesion is None:
        return None
    return _without_necks(filled(lesion), radius, spacing_mm)


def _main_part(mask: Bools, radius: Floats) -> Bools | None:
    """The part that fills most of the ellipsoid within the box."""
    best, most = None, 0
    for low, high, part in components(mask):
        z, y, x = (slice(start, end) for start, end in zip(low, high, strict=True))
        within = int((part & (radius[z, y, x] <= 1.0)).sum())
        if within > most:
            best, most = placed(part, low, high, mask.shape), within
    return best


def _without_necks(mask: Bools, radius: Floats, spacing_mm: Triple) -> Bools:
    """What a ball that passes through no neck can reach: vessels and strands fall off, the lesion keeps its form."""
    depth = distance_mm(~mask, spacing_mm)
    deepest = float(depth[mask & (radius <= 1.0)].max(initial=0.0))
    neck = _NECK * deepest
    if neck <= min(spacing_mm):  # too small for anything thinner than itself to be told
        return mask
    inner = _main_part(depth > neck, radius)
    if inner is None:
        return mask
    reach = neck + math.sqrt(sum(step**2 for step in spacing_mm)) / 2 + min(spacing_mm)
    kept = _main_part(mask & (distance_mm(inner, spacing_mm) <= reach), radius)
    return mask if kept is None else kept


def _levels(around: Floats, mask: Bools, level: float, background: float, spacing_mm: Triple) -> tuple[float, float]:
    depth = distance_mm(~mask, spacing_mm)
    core = float(np.median(around[depth >= _CORE * float(depth.max())]))
    away = distance_mm(mask, spacing_mm)
    near = max(_SHELL_MM[0], 2 * min(spacing_mm))
    shell = around[(away > near) & (away <= max(_SHELL_MM[1], near + 3 * min(spacing_mm))) & (around < level)]
    return core, float(np.median(shell)) if shell.size >= _FEWEST else background


def _fractions(around: Floats, mask: Bools, core: float, background: float, spacing_mm: Triple) -> Floats:
    """All of the depth of a lesion is lesion; towards its border and beyond, what its value says."""
    part = np.clip((around - np.float32(background)) / np.float32(core - background), *_FRACTION_LIMITS)
    level = (core + background) / 2
    others = (around > level) & ~mask
    away = distance_mm(mask, spacing_mm)
    band = (away > 0) & _near(mask, spacing_mm) & (away < distance_mm(others, spacing_mm)) & ~others
    deep = ~_near(~mask, spacing_mm)
    result = np.where(mask | band, part, 0.0)
    result[deep & mask] = 1.0
    return np.asarray(result, dtype=np.float32)


def _near(mask: Bools, spacing_mm: Triple) -> Bools:
    """`mask` and what lies within the band around it, along each axis at least one voxel."""
    near = mask.copy()
    for axis, step in enumerate(spacing_mm):
        moved = near.copy()
        for shift in range(1, max(round(_BAND_MM / step), 1) + 1):
            moved |= _shifted(near, axis, shift) | _shifted(near, axis, -shift)
        near = moved
    return near


def _shifted(mask: Bools, axis: int, shift: int) -> Bools:
    moved = np.roll(mask, shift, axis)
    edge = slice(0, shift) if shift > 0 else slice(shift, None)
    moved[(slice(None),) * axis + (edge,)] = False
    return moved


def _refined(around: Floats, fraction: Floats, spacing_mm: Triple) -> Floats:
    """A network's lesion with its border's voxels as full as their values say, where values and network agree.

    A network looks at resampled voxels, so its border is known to a voxel of the grid at best.
    """
    mask = _fullest(fraction)
    others = ~_near(mask, spacing_mm)
    if not mask.any() or not others.any():
        return fraction
    core, background = float(np.median(around[mask])), float(np.percentile(around[others], _LOW_PERCENTILE))
    core, background = _levels(around, mask, (core + background) / 2, background, spacing_mm)
    if core - background < _LEAST_CONTRAST_HU:
        return fraction
    bright = (around > (core + background) / 2) & _near(mask, spacing_mm)
    fuller = _fractions(around, mask | bright, core, background, spacing_mm)
    again = _fullest(fuller)
    overlap = 2 * int((again & mask).sum()) / max(int(again.sum()) + int(mask.sum()), 1)
    return fuller if overlap >= _ALIKE else fraction


def _of_network(place: Place, grid: Grid, shape: tuple[int, ...], first: NDArray[np.int_]) -> Floats:
    """How much of each source voxel lies where the network's probabilities, interpolated, reach their level."""
    assert place.soft is not None
    fine = _SUBVOXELS if math.prod(shape) * _SUBVOXELS**3 <= _FULLEST_UPSAMPLED else 1
    values = place.soft
    for axis, (count, start, begin, factor) in enumerate(zip(shape, first, place.soft_start, grid.factor, strict=True)):
        sub = (np.arange(count * fine) + _HALF) / fine + start  # edge coordinates of the source
        values = _interpolated(values, axis, sub / factor - begin - _HALF)
    inside = values >= place.level
    parts = inside.reshape(shape[0], fine, shape[1], fine, shape[2], fine)
    return np.asarray(parts.mean(axis=(1, 3, 5)), dtype=np.float32)


def _interpolated(values: Floats, axis: int, places: Vector) -> Floats:
    """Linear along one axis at voxel indices `places`; 0 beyond the ends."""
    moved = np.moveaxis(values, axis, 0)
    padded = np.concatenate([np.zeros_like(moved[:1]), moved, np.zeros_like(moved[:1])])
    at = np.clip(places + 1, 0, len(padded) - 1)
    low = np.minimum(np.floor(at).astype(int), len(padded) - 2)
    share = (at - low).astype(np.float32).reshape(-1, *[1] * (moved.ndim - 1))
    return np.asarray(np.moveaxis(padded[low] * (1 - share) + padded[low + 1] * share, 0, axis))


def _fullest(fraction: Floats) -> Bools:
    """As many voxels as the fractions add up to, the fullest first, in one piece, holes of a slice closed."""
    count = min(round(float(fraction.sum())), int((fraction > 0).sum()))
    mask = np.zeros(fraction.shape, dtype=np.bool_)
    if count < 1:
        return mask
    order = np.argsort(-fraction, axis=None, kind="stable")[:count]
    mask.flat[order] = True
    return filled(largest(mask))

"""Nodules synthesised into real lung, for sets too small to learn from alone.

A nodule is an ellipsoid with a rough surface, of one value or ground glass, whose edge is blurred as the scanner's
point spread blurs one; it replaces lung in the share it fills and may lie beside vessels or the pleura. It teaches
what a round density looks like and nothing of how disease looks: a model trained on it is a demonstration. Called by
`training.ct.patches`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inference.volumes.masks import components, filled
from models.inputs import VolumeInput
from training.ct.recipe import Synthesis

_AIR_HU = -400.0  # below: air and lung
_SMALLEST_LUNG_MM3 = 50_000.0  # airways and bowel gas are smaller
_WAVES = 3  # of the surface's roughness
_HALF = 0.5
_GAUSSIAN = 1.702  # the logistic function of this times x is close to the Gaussian integral up to x
_MOST_STRETCHED = 1.4  # longest axis against the mean


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Nodule:
    """One nodule: its box as edge coordinates (2, 3) and the part of each voxel of `region` that it fills."""

    box: NDArray[np.float64]
    region: tuple[slice, slice, slice]
    share: NDArray[np.float32]
    value: float  # in the grid's 0..1


def lung_mask(voxels: NDArray[np.float32], spec: VolumeInput) -> NDArray[np.bool_]:
    """Lung of a windowed grid: air that is not open to the slice's border, in pieces large enough."""
    air = voxels < (_AIR_HU - spec.low_hu) / (spec.high_hu - spec.low_hu)
    inside = filled(~air) & air
    smallest = round(_SMALLEST_LUNG_MM3 / float(np.prod(spec.spacing_mm)))
    lung = np.zeros_like(air)
    for low, high, part in components(inside, smallest=smallest):
        z, y, x = (slice(start, end) for start, end in zip(low, high, strict=True))
        lung[z, y, x] |= part
    return lung


def draw(
    center: NDArray[np.float64],
    shape: tuple[int, int, int],
    spec: VolumeInput,
    how: Synthesis,
    random: np.random.Generator,
) -> Nodule | None:
    """A random nodule around `center` (edge coordinates) in an array of `shape`; None when nothing of it is inside."""
    spacing = np.asarray(spec.spacing_mm)
    diameter = float(np.exp(random.uniform(np.log(how.smallest_mm), np.log(how.largest_mm))))
    stretch = np.exp(random.uniform(-np.log(_MOST_STRETCHED), np.log(_MOST_STRETCHED), 3))
    half_axes = diameter / 2 * stretch / np.prod(stretch) ** (1 / 3)
    reach = (half_axes.max() * (1 + 2 * how.roughness) + 2 * how.blur_mm[1]) / spacing
    low = np.maximum(np.floor(center - reach), 0).astype(int)
    high = np.minimum(np.ceil(center + reach), shape).astype(int)
    if (low >= high).any():
        return None
    z, y, x = (slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    away = [
        (np.arange(a, b) + _HALF - middle) * step for a, b, middle, step in zip(low, high, center, spacing, strict=True)
    ]
    share = _share(away, half_axes, how, random)
    solid = random.random() >= how.ground_glass_share
    hounsfield = random.uniform(*(how.solid_hu if solid else how.ground_glass_hu))
    filled_voxels = np.argwhere(share >= _HALF)
    if not len(filled_voxels):
        return None
    box = np.asarray([filled_voxels.min(axis=0) + low, filled_voxels.max(axis=0) + low + 1], dtype=np.float64)
    value = (hounsfield - spec.low_hu) / (spec.high_hu - spec.low_hu)
    return Nodule(box=box, region=(z, y, x), share=share, value=value)


def _share(
    away_mm: list[NDArray[np.float64]], half_axes: NDArray[np.float64], how: Synthesis, random: np.random.Generator
) -> NDArray[np.float32]:
    turn = np.linalg.qr(random.normal(size=(3, 3)))[0]
    z, y, x = np.meshgrid(*away_mm, indexing="ij")
    turned = np.stack((z, y, x), axis=-1) @ turn
    scaled = turned / half_axes
    radius = np.sqrt((scaled**2).sum(axis=-1))
    direction = scaled / np.maximum(radius, 1e-6)[..., None]
    surface = np.ones_like(radius)
    for _ in range(_WAVES):
        wave = direction @ random.normal(scale=2.0, size=3) + random.uniform(0, 2 * np.pi)
        surface += how.roughness / _WAVES * np.cos(wave) * random.uniform(0, 1)
    blur = random.uniform(*how.blur_mm)
    depth_mm = (surface - radius) * float(half_axes.mean())
    steep = np.clip(-_GAUSSIAN * depth_mm / blur, -40, 40)
    return np.asarray(1.0 / (1.0 + np.exp(steep)), dtype=np.float32)


def put(voxels: NDArray[np.float32], nodule: Nodule) -> None:
    """Draw a nodule into windowed voxels; where tissue is denser already, it stays."""
    here = voxels[nodule.region]
    mixed = here * (1 - nodule.share) + np.float32(nodule.value) * nodule.share
    np.copyto(here, np.maximum(here, mixed) if nodule.value > _HALF else np.where(here < nodule.value, mixed, here))

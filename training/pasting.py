"""Cuts lesions out of films and pastes them into others, so that few lesions are seen on many backgrounds.

Called by `training.mammography_views` with training films only. A patch is what a lesion adds to the tissue around
it: its greys less a plane fitted to the ring around it, faded out at its edge. Film greys are sums of what the rays
passed through, so a patch is added, never put in place of what is there. Patches of plain tissue, cut the same way and
taught as nothing, keep the network from learning the cut instead of the lesion. (Cut, Paste and Learn: D. Dwibedi et
al., ICCV 2017.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

_RING = (1.15, 1.7)  # radii between which the surrounding tissue is taken
_FADED = 1.45  # radius at which a patch has faded out; it is whole up to the radius of the lesion
_LEAST_RING_PIXELS = 30
_BREAST = 0.05  # grey below which there is no tissue, only skin line or air
_TISSUE, _LEAST_TISSUE = 0.1, 0.98  # grey at the centre, and share of the middle of the patch that must be breast
_LARGEST_CHANGE = 0.25  # logarithm of the change of a patch's size
_STRENGTH = (0.7, 1.3)  # by which its greys are multiplied
_TRIES = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Circle:
    """A lesion in pixels of the picture it is on."""

    x: float
    y: float
    radius: float


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Patch:
    """What a lesion adds: greys float32 (side, side), which may be negative, centred on it."""

    greys: Tensor
    radius: float


def cut_out(grey: Tensor, lesion: Circle) -> Patch | None:
    """What `lesion` adds to the picture `grey` (h, w); None when too little tissue lies around it to tell."""
    reach = math.ceil(_RING[1] * lesion.radius) + 2
    x, y = round(lesion.x), round(lesion.y)
    framed = functional.pad(grey[None, None], (reach,) * 4, mode="replicate")
    around = framed[0, 0, y : y + 2 * reach + 1, x : x + 2 * reach + 1]
    side = torch.arange(-reach, reach + 1, dtype=torch.float32)
    rows, columns = torch.meshgrid(side, side, indexing="ij")
    away = torch.hypot(columns, rows) / lesion.radius
    ring = (away > _RING[0]) & (away < _RING[1]) & (around > _BREAST)
    if int(ring.sum()) < _LEAST_RING_PIXELS:
        return None
    terms = torch.stack([columns / reach, rows / reach, torch.ones_like(rows)], dim=-1)
    plane = torch.linalg.lstsq(terms[ring], around[ring][:, None]).solution[:, 0]
    faded = ((_FADED - away) / (_FADED - 1)).clamp(0, 1)
    return Patch(greys=(around - terms @ plane) * faded, radius=lesion.radius)


def paste(grey: Tensor, patch: Patch, random: np.random.Generator) -> Circle | None:
    """Add `patch`, turned, mirrored and resized at random, somewhere in the breast of `grey` (h, w), in place.

    Returns
    -------
    Circle or None
        Where it is now; None when no place was found for it.
    """
    size = math.exp(random.uniform(-_LARGEST_CHANGE, _LARGEST_CHANGE))
    greys = _turned(patch.greys, size, random)
    side = greys.shape[0]
    place = _place(grey, side, random)
    if place is None:
        return None
    x, y = place
    there = grey[y : y + side, x : x + side]
    added = (there + float(random.uniform(*_STRENGTH)) * greys).clamp(0, 1)
    there.copy_(torch.where(there > _BREAST, added, there))
    return Circle(x=x + side / 2, y=y + side / 2, radius=patch.radius * size)


def _turned(greys: Tensor, size: float, random: np.random.Generator) -> Tensor:
    side = round(greys.shape[0] * size) | 1  # odd: it keeps a middle pixel
    angle, mirror = random.uniform(0, 2 * math.pi), float(random.choice((-1.0, 1.0)))
    cosine, sine = math.cos(angle), math.sin(angle)
    way = torch.tensor([[[cosine * mirror, -sine, 0.0], [sine * mirror, cosine, 0.0]]])
    grid = functional.affine_grid(way, [1, 1, side, side], align_corners=False)
    return functional.grid_sample(greys[None, None], grid, align_corners=False)[0, 0]


def _place(grey: Tensor, side: int, random: np.random.Generator) -> tuple[int, int] | None:
    """Left and top of a square that lies in the breast, found by trying."""
    height, width = grey.shape
    if side >= min(height, width):
        return None
    for _ in range(_TRIES):
        x, y = int(random.integers(0, width - side)), int(random.integers(0, height - side))
        quarter = side // 4
        middle = grey[y + quarter : y + side - quarter, x + quarter : x + side - quarter]
        inside = float((middle > _BREAST).float().mean()) > _LEAST_TISSUE
        if inside and float(grey[y + side // 2, x + side // 2]) > _TISSUE:
            return x, y
    return None


def cut_out_tissue(
    grey: Tensor, radii: Sequence[float] | NDArray[np.float64], count: int, random: np.random.Generator
) -> list[Patch]:
    """Up to `count` patches of plain tissue from a film without lesions, of the sizes that lesions have."""
    height, width = grey.shape
    found = []
    for _ in range(count):
        x, y = random.uniform(0, width), random.uniform(0, height)
        if float(grey[int(y), int(x)]) <= _TISSUE:
            continue
        patch = cut_out(grey, Circle(x=x, y=y, radius=float(random.choice(radii))))
        if patch is not None:
            found.append(patch)
    return found

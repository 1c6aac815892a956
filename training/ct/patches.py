"""What the network is shown: tiles cut out of prepared scans, mirrored, some with synthesised nodules.

Called by `training.ct.loop`. Everything random derives from the seed it is given, so that a step that is repeated
shows the same. Boxes are in voxels of the tile, slice first, as lower and upper corner.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inference.volumes.grid import normalised
from inference.volumes.tiles import Tile, cut
from models.inputs import VolumeInput
from training.ct.grids import PreparedScan
from training.ct.nodules import draw, put
from training.ct.recipe import CtRecipe

_VISIBLE = 0.5  # a lesion of which the tile shows less is not asked for
_LESION_SHARE = 0.5  # of tiles of a scan with lesions that are cut around one of them
_NOISE = 0.015  # largest standard deviation of added noise, of the window
_TRIES = 8


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Patch:
    """One tile and its lesions.

    Attributes
    ----------
    voxels : float32 (1, slices, rows, columns)
        Normalised as the card says.
    boxes : float32 (lesions, 6)
        Lower, then upper corner: slice, row, column.
    """

    voxels: NDArray[np.float32]
    boxes: NDArray[np.float32]


def patch(scans: Sequence[PreparedScan], recipe: CtRecipe, random: np.random.Generator) -> Patch:
    """A random tile of a random scan."""
    scan = scans[int(random.integers(len(scans)))]
    spec = recipe.input
    around_lesion = len(scan.boxes) > 0 and random.random() < _LESION_SHARE
    middle = _lesion_place(scan, random) if around_lesion else _lung_place(scan, spec, random)
    start = _start(middle, scan.voxels.shape, spec.tile, random)
    tile = Tile(start=start, size=spec.tile, inner_low=(True,) * 3, inner_high=(True,) * 3)
    voxels = cut(scan.voxels, tile).astype(np.float32)  # type: ignore[arg-type]
    boxes = [box - np.asarray(start) for box in scan.boxes]
    if random.random() < recipe.synthesis.share:
        boxes += _nodules(voxels, boxes, scan, start, recipe, random)
    voxels += np.float32(random.uniform(0, _NOISE)) * random.standard_normal(voxels.shape, dtype=np.float32)
    voxels, boxes = _mirrored(np.clip(voxels, 0, 1), boxes, random)
    asked = np.asarray([box for box in boxes if _shown(box, spec) >= _VISIBLE], dtype=np.float32).reshape(-1, 2, 3)
    clipped = np.clip(asked, 0, np.asarray(spec.tile, dtype=np.float32))
    return Patch(voxels=normalised(voxels, spec)[np.newaxis], boxes=clipped.reshape(-1, 6))


def _lesion_place(scan: PreparedScan, random: np.random.Generator) -> NDArray[np.float64]:
    box = scan.boxes[int(random.integers(len(scan.boxes)))]
    return np.asarray(box.mean(axis=0), dtype=np.float64)


def _lung_place(scan: PreparedScan, spec: VolumeInput, random: np.random.Generator) -> NDArray[np.float64]:
    if len(scan.lung):
        return np.asarray(scan.lung[int(random.integers(len(scan.lung)))], dtype=np.float64)
    return np.asarray(random.uniform(0, scan.voxels.shape))


def _start(
    middle: NDArray[np.float64], shape: tuple[int, ...], tile: tuple[int, int, int], random: np.random.Generator
) -> tuple[int, int, int]:
    """A tile that shows `middle` somewhere in its inner half and stays within the scan where that is large enough."""
    z, y, x = (
        int(np.clip(round(place - side * random.uniform(0.25, 0.75)), 0, max(count - side, 0)))
        for place, side, count in zip(middle, tile, shape, strict=True)
    )
    return z, y, x


def _nodules(
    voxels: NDArray[np.float32],
    known: Sequence[NDArray[np.float64]],
    scan: PreparedScan,
    start: tuple[int, int, int],
    recipe: CtRecipe,
    random: np.random.Generator,
) -> list[NDArray[np.float64]]:
    """Draw nodules into the tile where it shows lung, clear of known lesions and of each other."""
    inside = scan.lung[((scan.lung >= start) & (scan.lung < np.add(start, voxels.shape))).all(axis=1)] - start
    if not len(inside):
        return []
    drawn: list[NDArray[np.float64]] = []
    depth, rows, columns = voxels.shape
    for _ in range(int(random.integers(1, recipe.synthesis.most + 1))):
        for _ in range(_TRIES):
            place = inside[int(random.integers(len(inside)))] + random.random(3)
            nodule = draw(place, (depth, rows, columns), recipe.input, recipe.synthesis, random)
            if nodule is not None and not any(_touch(nodule.box, other) for other in (*known, *drawn)):
                put(voxels, nodule)
                drawn.append(nodule.box)
                break
    return drawn


def _touch(one: NDArray[np.float64], other: NDArray[np.float64]) -> bool:
    return bool((np.minimum(one[1], other[1]) > np.maximum(one[0], other[0])).all())


def _shown(box: NDArray[np.float64], spec: VolumeInput) -> float:
    """Part of the box that lies in the tile."""
    inside = np.clip(np.minimum(box[1], spec.tile) - np.maximum(box[0], 0), 0, None)
    return float(np.prod(inside) / np.prod(box[1] - box[0]))


def _mirrored(
    voxels: NDArray[np.float32], boxes: Sequence[NDArray[np.float64]], random: np.random.Generator
) -> tuple[NDArray[np.float32], list[NDArray[np.float64]]]:
    flips = random.random(3) < 0.5  # noqa: PLR2004
    axes = [axis for axis in range(3) if flips[axis]]
    turned = [box.copy() for box in boxes]
    for axis in axes:
        for box in turned:
            box[:, axis] = voxels.shape[axis] - box[::-1, axis]
    return np.ascontiguousarray(np.flip(voxels, tuple(axes))), turned

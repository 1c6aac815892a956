"""Scans on the model's grid, made once and kept on disk, so that a set larger than memory can be learnt from.

Called by `training.ct.train`. A kept grid is one file whose name holds the digest of everything it was made from;
patches are cut out of it without reading it whole.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from inference.refusals import Refused
from inference.volumes.grid import resample
from models.inputs import VolumeInput
from training.ct.cases import CtCase, LesionBox, Scan
from training.ct.nodules import lung_mask
from training.errors import DataError
from training.files import write_whole

_LAYOUT = "2"  # of the kept files; another one makes them anew
_MOST_PLACES = 200_000  # lung voxels remembered of a scan: enough to draw from


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PreparedScan:
    """One scan ready to learn from.

    Attributes
    ----------
    case : CtCase
    voxels : float16 (slices, rows, columns)
        Windowed to 0..1; mapped from disk.
    boxes : float64 (lesions, 2, 3)
        Edge coordinates on the grid of lesions that are learnt.
    lung : int32 (places, 3)
        Voxels of lung, evenly drawn.
    digest : str
        sha256 of the files and of how they were prepared.
    """

    case: CtCase
    voxels: NDArray[np.float16]
    boxes: NDArray[np.float64]
    lung: NDArray[np.int32]
    digest: str


def prepare(
    cases: Sequence[CtCase], spec: VolumeInput, *, smallest_mm: float, folder: Path
) -> tuple[PreparedScan, ...]:
    """Resample and window every scan that is not kept in `folder` yet.

    Raises
    ------
    DataError
        If a scan cannot be read or is none the model could look at; the message names it.
    OSError
        If the disk is full; nothing half-written is left.
    """
    return tuple(_prepared(case, spec, smallest_mm, folder) for case in cases)


def digest_of(case: CtCase) -> str:
    """sha256 over the files of a scan, by content."""
    digest = hashlib.sha256(case.name.encode())
    for file in case.files:
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def grid_digest(case: CtCase, spec: VolumeInput, smallest_mm: float) -> str:
    """sha256 over everything that a kept grid is made from."""
    how = json.dumps([_LAYOUT, spec.model_dump(mode="json"), smallest_mm])
    return hashlib.sha256((digest_of(case) + how).encode()).hexdigest()


def manifest_digest(digests: Mapping[str, str]) -> str:
    """sha256 of the list of scans and their grids' digests, by name: what a card names its training data by."""
    lines = [f"{name} {digest}" for name, digest in sorted(digests.items())]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _prepared(case: CtCase, spec: VolumeInput, smallest_mm: float, folder: Path) -> PreparedScan:
    digest = grid_digest(case, spec, smallest_mm)
    voxels_file, places_file = folder / f"{digest[:24]}.npy", folder / f"{digest[:24]}.npz"
    if not (voxels_file.exists() and places_file.exists()):
        _write(case, spec, smallest_mm, voxels_file, places_file)
    with np.load(places_file) as kept:
        boxes, lung = kept["boxes"], kept["lung"]
    return PreparedScan(case=case, voxels=np.load(voxels_file, mmap_mode="r"), boxes=boxes, lung=lung, digest=digest)


def _write(case: CtCase, spec: VolumeInput, smallest_mm: float, voxels_file: Path, places_file: Path) -> None:
    scan = case.read()
    try:
        grid = resample(scan.volume, spec)
    except Refused as refused:
        raise DataError(f"{case.name}: {refused}") from refused
    lung = np.argwhere(lung_mask(grid.voxels, spec)).astype(np.int32)
    if len(lung) > _MOST_PLACES:
        lung = lung[np.random.default_rng(0).choice(len(lung), _MOST_PLACES, replace=False)]
    learnt = [lesion for lesion in scan.lesions if counts(lesion, scan, smallest_mm)]
    boxes = np.asarray([[lesion.low, lesion.high] for lesion in learnt], dtype=np.float64).reshape(-1, 2, 3)
    content = io.BytesIO()
    np.save(content, grid.voxels.astype(np.float16))
    write_whole(voxels_file, content.getvalue())
    places = io.BytesIO()
    np.savez(places, boxes=grid.to_grid(boxes), lung=lung)
    write_whole(places_file, places.getvalue())


def counts(lesion: LesionBox, scan: Scan, smallest_mm: float) -> bool:
    """Whether a lesion is large enough to be learnt and counted: by its longest side."""
    return max(lesion.sides_mm(scan.volume.spacing_mm)) >= smallest_mm

"""Reader of LUNA16 (Setio et al., Medical Image Analysis 42, 2017): MetaImage scans and one table of nodules.

The folder holds ``annotations.csv`` with seriesuid, coordX, coordY, coordZ, diameter_mm (LPS, mm) and the scans as
``SERIESUID.mhd`` with their ``.raw`` or ``.zraw`` beside them, in sub-folders (``subset0`` ...) or not. Scans without
a row have no nodule. Called by `training.ct.readers`.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path

from training.ct.cases import CtCase, Scan, from_world, read_itk
from training.errors import DataError

_COLUMNS = ("seriesuid", "coordX", "coordY", "coordZ", "diameter_mm")
Nodule = tuple[float, float, float, float]


def read_cases(folder: Path, table: str = "") -> tuple[CtCase, ...]:
    """All scans below a folder, each with its nodules.

    Raises
    ------
    DataError
        If the table is missing, lacks a column, or a row cannot be understood; or if there are no scans.
    """
    nodules = _nodules(folder / (table or "annotations.csv"))
    scans = sorted(folder.rglob("*.mhd"))
    if not scans:
        raise DataError(f"{folder} holds no .mhd file: unpack the subsets of LUNA16 into it")
    return tuple(_case(scan, tuple(nodules.get(scan.stem, ()))) for scan in scans)


def _nodules(file: Path) -> dict[str, list[Nodule]]:
    try:
        with file.open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}") from error
    if missing := [name for name in _COLUMNS if not rows or name not in rows[0]]:
        raise DataError(f"{file} has no rows or no column {', '.join(missing)}")
    nodules: dict[str, list[Nodule]] = defaultdict(list)
    for number, row in enumerate(rows, start=2):
        try:
            x, y, z, diameter = (float(row[name]) for name in _COLUMNS[1:])
        except (TypeError, ValueError) as error:
            raise DataError(f"{file.name} line {number}: coordinates and diameter must be numbers") from error
        if diameter <= 0:
            raise DataError(f"{file.name} line {number}: a diameter of {diameter:g} mm")
        nodules[row["seriesuid"]].append((x, y, z, diameter))
    return nodules


def _case(scan: Path, nodules: tuple[Nodule, ...]) -> CtCase:
    voxels = [file for suffix in (".raw", ".zraw") if (file := scan.with_suffix(suffix)).exists()]
    return CtCase(name=scan.stem, patient=scan.stem, files=(scan, *voxels), read=lambda: _scan(scan, nodules))


def _scan(scan: Path, nodules: tuple[Nodule, ...]) -> Scan:
    volume = read_itk(scan)
    boxes = tuple(from_world(volume, (x, y, z), (diameter,) * 3) for x, y, z, diameter in nodules)
    return Scan(volume=volume, lesions=boxes)

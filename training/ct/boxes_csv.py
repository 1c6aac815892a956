"""Reader of DICOM series with a table of boxes, one row for each slice of a lesion.

The folder holds ``boxes.csv`` with the columns path (below the folder), xmin, ymin, xmax, ymax (pixels, the last ones
included) and, where there are several, patient, reader and nodule_id or label. Rows of one reader and one name on
neighbouring slices are one lesion; readers' boxes of the same lesion become their median. Every series that a row
names is one case.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from inference.loading import load_volume
from inference.refusals import Refused
from training.ct.cases import CtCase, Scan, consensus
from training.errors import DataError

_NEEDED = ("path", "xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Row:
    file: Path
    lesion: tuple[str, str]  # reader, name
    box: tuple[float, float, float, float]  # y_min, x_min, y_max, x_max: edges


def read_cases(folder: Path, table: str = "") -> tuple[CtCase, ...]:
    """All series of a folder that its table names.

    Raises
    ------
    DataError
        If the table is missing, lacks a column, or a row cannot be understood.
    """
    file = folder / (table or "boxes.csv")
    series: dict[Path, list[_Row]] = defaultdict(list)
    patients: dict[Path, str] = {}
    for number, row in enumerate(_rows(file), start=2):
        parsed = _parsed(row, folder, f"{file.name} line {number}")
        series[parsed.file.parent].append(parsed)
        patients[parsed.file.parent] = row.get("patient") or Path(row["path"]).parts[0]
    return tuple(_case(home, tuple(rows), patients[home]) for home, rows in sorted(series.items()))


def _rows(file: Path) -> list[dict[str, str]]:
    try:
        with file.open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}") from error
    missing = [name for name in _NEEDED if not rows or name not in rows[0]]
    if missing:
        raise DataError(f"{file} has no rows or no column {', '.join(missing)}")
    return rows


def _parsed(row: dict[str, str], folder: Path, where: str) -> _Row:
    try:
        x_min, y_min, x_max, y_max = (float(row[name]) for name in _NEEDED[1:])
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}: xmin, ymin, xmax and ymax must be numbers") from error
    if x_min > x_max or y_min > y_max:
        raise DataError(f"{where}: an empty box")
    name = row.get("nodule_id") or row.get("label") or ""
    lesion = row.get("reader") or "", name
    return _Row(file=folder / row["path"], lesion=lesion, box=(y_min, x_min, y_max + 1, x_max + 1))


def _case(home: Path, rows: Sequence[_Row], patient: str) -> CtCase:
    files = tuple(sorted(home.glob("*.dcm")))
    return CtCase(name=f"{patient}_{home.name[-8:]}", patient=patient, files=files, read=lambda: _scan(files, rows))


def _scan(files: tuple[Path, ...], rows: Sequence[_Row]) -> Scan:
    from inference.loading import read_image_header

    try:
        volume = load_volume(files)
        uids = {row.file: read_image_header(row.file).sop_instance_uid for row in rows}
    except Refused as refused:
        raise DataError(f"{files[0].parent.name}: {refused}") from refused
    place = {uid: index for index, uid in enumerate(volume.sop_instance_uids)}
    by_lesion: dict[tuple[str, str], list[tuple[int, _Row]]] = defaultdict(list)
    for row in rows:
        by_lesion[row.lesion].append((place[uids[row.file]], row))
    boxes = [box for found in by_lesion.values() for box in _stacked(found)]
    return Scan(volume=volume, lesions=consensus(boxes))


def _stacked(rows: list[tuple[int, _Row]]) -> list[NDArray[np.float64]]:
    """Boxes (2, 3) of runs of slices; one slice may be skipped within a run."""
    rows = sorted(rows, key=lambda entry: entry[0])
    runs: list[list[tuple[int, _Row]]] = []
    for entry in rows:
        if runs and entry[0] - runs[-1][-1][0] <= 2:  # noqa: PLR2004
            runs[-1].append(entry)
        else:
            runs.append([entry])
    return [
        np.asarray(
            [
                [run[0][0], min(row.box[0] for _, row in run), min(row.box[1] for _, row in run)],
                [run[-1][0] + 1, max(row.box[2] for _, row in run), max(row.box[3] for _, row in run)],
            ],
            dtype=np.float64,
        )
        for run in runs
    ]

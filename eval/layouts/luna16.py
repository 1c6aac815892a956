"""A LUNA16 set (Setio et al., Medical Image Analysis 42, 2017): the layout ``luna16``.

Called by `eval.layouts`. ``seriesuids.csv`` names the scans, one a line, ``annotations.csv`` the nodules, and
``annotations_excluded.csv`` the irrelevant findings; scans lie as ``SERIESUID.mhd`` anywhere below the root. Scans on
the list without a nodule count, nodules of scans that are not on it are an error.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from eval.cases import EvalCase
from eval.datasets import DatasetError, DatasetFile, Luna16
from eval.runs import LesionRecord
from eval.tables import read_table
from eval.volumes import SUFFIXES, voxel_files

_COLUMNS = ("seriesuid", "coordX", "coordY", "coordZ", "diameter_mm")
_UNKNOWN_DIAMETER_MM = 10.0  # what LUNA16 takes for findings whose diameter is not known (below 0)


def read(dataset: DatasetFile, root: Path) -> list[EvalCase]:
    """Cases of the layout ``luna16``.

    Raises
    ------
    TableError
        If a table is missing or a cell cannot be understood.
    DatasetError
        If a scan is missing, or a finding is of a scan that is not on the list.
    """
    spec = dataset.luna16 or Luna16()
    scans = read_table(root / spec.scans, ["seriesuid"], header=["seriesuid"])
    names = [name for name in scans.text("seriesuid").tolist() if name != "seriesuid"]
    files = _files(root)
    findings: defaultdict[str, list[LesionRecord]] = defaultdict(list)
    tables = [(spec.annotations, False)]
    if spec.excluded is not None and (root / spec.excluded).is_file():
        tables.append((spec.excluded, True))
    for table, excluded in tables:
        for name, lesion in _findings(root / table, excluded=excluded):
            findings[name].append(lesion)
    if unknown := sorted(set(findings) - set(names)):
        raise DatasetError(
            f"{spec.annotations}: findings of {len(unknown)} scan(s) that {spec.scans} does not list, the first is "
            f"{unknown[0]}; add the scan to the list or leave its findings out"
        )
    if missing := [name for name in names if name not in files]:
        raise DatasetError(
            f"{spec.scans}: {len(missing)} scan(s) have no file below the root, the first is {missing[0]}.mhd"
        )
    return [_case(name, files[name], findings[name]) for name in names]


def _files(root: Path) -> dict[str, Path]:
    return {path.name.removesuffix(end): path for end in SUFFIXES for path in sorted(root.rglob(f"*{end}"))}


def _findings(file: Path, *, excluded: bool) -> list[tuple[str, LesionRecord]]:
    table = read_table(file, _COLUMNS)
    names = table.text("seriesuid").tolist()
    x, y, z, diameter = (table.numbers(column).tolist() for column in _COLUMNS[1:])
    return [
        (
            names[row],
            LesionRecord(
                label="nodule",
                center_mm=(x[row], y[row], z[row]),
                diameter_mm=diameter[row] if diameter[row] >= 0 else _UNKNOWN_DIAMETER_MM,
                excluded=excluded,
            ),
        )
        for row in range(len(table))
    ]


def _case(name: str, file: Path, lesions: Sequence[LesionRecord]) -> EvalCase:
    positive = any(not lesion.excluded for lesion in lesions)
    return EvalCase(
        case=name,
        patient=name,
        inputs=voxel_files(file),
        positive=positive,
        reading="positive" if positive else "negative",
        lesions=tuple(lesions),
        dicom=False,
    )

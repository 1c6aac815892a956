"""Cases and lesions from tables: the layout ``table``, and the truth beside a folder of DICOM.

Called by `eval.layouts`. A row is a case, or several rows are; a row of the second table is a lesion.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from string import Formatter
from typing import Any

import numpy as np

from eval.cases import EvalCase
from eval.datasets import CasesTable, DatasetFile, LesionsTable, Limit, Truth
from eval.runs import LesionRecord
from eval.tables import Table, TableError, read_table
from eval.volumes import voxel_files

_DICOM = frozenset({".dcm", ".dicom", ".ima", ""})
_EXTENT = {"xywh": 2, "circle": 2, "ball": 3, "cuboid": 3}  # from which column on the numbers of a shape are sizes
Lesions = Mapping[str, Sequence[LesionRecord]]


def read(dataset: DatasetFile, root: Path) -> list[EvalCase]:
    """Cases of the layout ``table``.

    Raises
    ------
    TableError
        If a table is missing or a cell cannot be understood; names file, line and column.
    """
    assert dataset.cases is not None, "the data set's validator sees to it"
    lesions = read_lesions(dataset.lesions, root)
    cases = read_truth(dataset.cases, lesions, root)
    if unknown := [case for case in lesions if case not in {each.case for each in cases}]:
        raise TableError(
            f"{dataset.lesions[0].file}: {len(unknown)} case(s) are not in {dataset.cases.file}, the first is "
            f"{unknown[0]}; leave them out with `where`, or add them"
        )
    return cases


def read_truth(spec: CasesTable, lesions: Lesions, root: Path) -> list[EvalCase]:
    """One case for each name in the table of cases.

    Raises
    ------
    TableError
        If the table is missing or a cell cannot be understood.
    """
    fields = [name for _, name, _, _ in Formatter().parse(spec.input) if name and name != "case"]
    limits = spec.not_judged
    truth = [spec.truth.column] if spec.truth else []
    needed = [
        spec.case,
        spec.patient,
        *fields,
        *truth,
        *(limit.column for limit in limits),
        *spec.traits.values(),
        *spec.numbers.values(),
    ]
    table = read_table(root / spec.file, needed)
    rows: defaultdict[str, list[int]] = defaultdict(list)
    for row, name in enumerate(table.text(spec.case).tolist()):
        rows[name].append(row)
    read = _Read(table, limits, spec.numbers.values())
    return [_case(spec, read, name, own, lesions.get(name, ()), root, fields) for name, own in rows.items()]


class _Read:
    """A table with those of its columns that are numbers, NaN where a cell says nothing."""

    def __init__(self, table: Table, limits: Sequence[Limit], numbers: Iterable[str]) -> None:
        self.table = table
        measured = {limit.column for limit in limits if limit.measured} | set(numbers)
        self.numbers = {column: table.optional_numbers(column) for column in measured}


def _case(
    spec: CasesTable,
    read: _Read,
    name: str,
    rows: Sequence[int],
    lesions: Sequence[LesionRecord],
    root: Path,
    fields: Sequence[str],
) -> EvalCase:
    table, first = read.table, rows[0]
    for column in (spec.patient, *fields):
        if any(table.columns[column][row] != table.columns[column][first] for row in rows):
            table.fault(rows[-1], column, f"is another one than in line {table.lines[first]} of the same case")
    inputs = _files(root / spec.input.format(case=name, **{field: table.columns[field][first] for field in fields}))
    positive, reading = _verdict(spec.truth, table, rows, lesions)
    excluded = next((limit.because for limit in spec.not_judged if _falls_out(limit, read, first)), "")
    if positive and not lesions and spec.unplaced is not None:
        excluded = excluded or spec.unplaced
    if positive is None:
        excluded = excluded or "its truth is not known"
    return EvalCase(
        case=name,
        patient=table.columns[spec.patient][first] or table.fault(first, spec.patient, "is empty"),
        inputs=inputs,
        positive=None if excluded else positive,
        excluded=excluded,
        reading=reading,
        lesions=tuple(lesions),
        traits={trait: table.columns[column][first] for trait, column in spec.traits.items()},
        numbers=_numbers(spec, read, first),
        dicom=all(path.suffix.lower() in _DICOM for path in inputs),
    )


def _files(place: Path) -> tuple[Path, ...]:
    """The file with its voxels, or all files of the folder that a case names."""
    if place.is_dir():
        return tuple(sorted(path for path in place.rglob("*") if path.is_file() and not path.name.startswith(".")))
    return voxel_files(place)


def _verdict(
    truth: Truth | None, table: Table, rows: Sequence[int], lesions: Sequence[LesionRecord]
) -> tuple[bool | None, str]:
    """Whether the case shows what is looked for, and the group of the reference standard in which it is counted."""
    if truth is None:
        shows = any(not lesion.excluded for lesion in lesions)
        return shows, "positive" if shows else "negative"
    said = [(_truth_of(truth, table, row), table.columns[truth.column][row]) for row in rows]
    value, cell = next(
        (one for wanted in (True, None, False) for one in said if one[0] is wanted), said[0]
    )  # one positive row decides; else one unknown row leaves it open
    return value, truth.readings.get(cell, cell or "unknown")


def _truth_of(truth: Truth, table: Table, row: int) -> bool | None:
    cell = table.columns[truth.column][row]
    if cell in truth.positive:
        return True
    if cell in truth.unknown:
        return None
    if truth.negative and cell not in truth.negative:
        table.fault(row, truth.column, "is neither positive, negative nor unknown in the data set's file")
    return False


def _falls_out(limit: Limit, read: _Read, row: int) -> bool:
    if read.table.columns[limit.column][row] in limit.values:
        return True
    if not limit.measured:
        return False
    value = read.numbers[limit.column][row]
    below, above = (
        limit.below is not None and value < limit.below,
        limit.at_least is not None and value >= limit.at_least,
    )
    return bool(below or above)


def _numbers(spec: CasesTable, read: _Read, row: int) -> dict[str, float]:
    cells = {name: float(read.numbers[column][row]) for name, column in spec.numbers.items()}
    return {name: value for name, value in cells.items() if not math.isnan(value)}


def read_lesions(specs: Sequence[LesionsTable], root: Path) -> Lesions:
    """For each case its lesions, from all tables.

    Raises
    ------
    TableError
        If a table is missing or a cell cannot be understood.
    """
    found: defaultdict[str, list[LesionRecord]] = defaultdict(list)
    for spec in specs:
        optional = [column for column in (spec.image, spec.label) if column]
        needed = [spec.case, *spec.columns, *spec.where, *spec.excluded, *optional]
        table = read_table(root / spec.file, needed)
        places = np.stack([table.optional_numbers(column) for column in spec.columns], axis=1)
        for row, name in enumerate(table.text(spec.case).tolist()):
            if not all(table.columns[column][row] in cells for column, cells in spec.where.items()):
                continue
            if not np.isnan(places[row]).all():
                found[name].append(_lesion(spec, table, row, places[row].tolist()))
    return found


def _lesion(spec: LesionsTable, table: Table, row: int, numbers: Sequence[float]) -> LesionRecord:
    for column, number in zip(spec.columns, numbers, strict=True):
        if math.isnan(number):
            table.fault(row, column, "is empty while the lesion's other numbers are there")
    if extent := _EXTENT.get(spec.shape):
        for column, number in zip(spec.columns[extent:], numbers[extent:], strict=True):
            if number <= 0:
                table.fault(row, column, "leaves the lesion without extent; it must be above 0")
    return LesionRecord(
        image=table.columns[spec.image][row] if spec.image else None,
        label=(table.columns[spec.label][row] if spec.label else "") or "lesion",
        excluded=any(table.columns[column][row] in cells for column, cells in spec.excluded.items()),
        **_placed(spec.shape, numbers),
    )


def _placed(shape: str, numbers: Sequence[float]) -> dict[str, Any]:
    if shape == "circle":
        x, y, radius = numbers
        return {"box": (x - radius, y - radius, x + radius, y + radius), "radius": radius}
    if shape == "xywh":
        x, y, width, height = numbers
        return {"box": (x, y, x + width, y + height)}
    if shape == "corners":
        return {"box": tuple(numbers)}
    if shape == "ball":
        return {"center_mm": tuple(numbers[:3]), "diameter_mm": numbers[3]}
    return {"center_mm": tuple(numbers[:3]), "size_mm": tuple(numbers[3:])}

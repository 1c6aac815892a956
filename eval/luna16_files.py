"""Reads the four tables of a FROC: the list of scans, findings, excluded findings, and marks.

Called by `eval.commands.froc`. Columns are LUNA16's; boxes add their widths. What the rules leave out (rows of scans
that are not listed) and what looks wrong without being a fault becomes a note; a fault ends the reading.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eval.hits import Hit, Places
from eval.luna16 import Lesions, Marks, diameters
from eval.tables import Table, TableError, read_table

SCAN = "seriesuid"
_AXES = ("coordX", "coordY", "coordZ")
_BOX_MM = ("width_mm", "height_mm", "depth_mm")
_BOX_PX = ("width_px", "height_px")
_SHOWN_LINES = 3


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Scans:
    """The list of scans.

    Attributes
    ----------
    table : Table
    index : mapping
        Id to its place in the list.
    patients, breasts : intp (scans,) or None
        Number of the patient and of the breast of each scan, where the list has such a column.
    """

    table: Table
    index: Mapping[str, int]
    patients: NDArray[np.intp] | None
    breasts: NDArray[np.intp] | None

    def __len__(self) -> int:
        return len(self.index)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Tables:
    """Everything read.

    Attributes
    ----------
    lesions : Lesions
        Included ones first, in the order of their file.
    lesion_ids : intp (included lesions,) or None
        Number of the lesion of each row, equal over the views that show it, where the table names lesions.
    listed_lesions, listed_marks : intp
        Rows of the tables of findings and of marks that are on listed scans.
    """

    scans: Scans
    truth: Table
    excluded: Table | None
    submission: Table
    marks: Marks
    lesions: Lesions
    lesion_ids: NDArray[np.intp] | None
    notes: tuple[str, ...]

    @property
    def all(self) -> tuple[Table, ...]:
        """The tables that were read."""
        return tuple(one for one in (self.scans.table, self.truth, self.excluded, self.submission) if one is not None)


def read_tables(*, scans: Path, truth: Path, excluded: Path | None, marks: Path, hit: Hit) -> Tables:
    """Read what a FROC needs.

    Raises
    ------
    TableError
        For anything that cannot be counted; the message names file, line and remedy.
    """
    listed = read_scans(scans)
    findings = read_table(truth, [SCAN, *_AXES, *_lesion_columns(hit)])
    others = read_table(excluded, [SCAN, *_AXES, *_lesion_columns(hit)]) if excluded else None
    submission = read_table(marks, [SCAN, *_AXES, *(_BOX_MM if hit is Hit.IOU else ()), "probability"])
    included, included_at, included_notes = _listed(findings, listed, "findings")
    irrelevant, irrelevant_at, irrelevant_notes = _listed(others, listed, "excluded findings")
    kept, kept_at, mark_notes = _listed(submission, listed, "marks")
    _some_listed(findings, included, listed.table)
    _some_listed(submission, kept, listed.table)
    lesion_places = _joined(
        _places(findings, _lesion_sizes(findings, hit), included),
        _places(others, _lesion_sizes(others, hit), irrelevant) if others else None,
    )
    sizes = _box_sizes(submission, _BOX_MM) if hit is Hit.IOU else np.full((len(submission), 3), np.nan)
    pointed = Marks(
        scan=kept_at, places=_places(submission, sizes, kept), score=submission.numbers("probability")[kept]
    )
    return Tables(
        scans=listed,
        truth=findings,
        excluded=others,
        submission=submission,
        marks=pointed,
        lesions=Lesions(
            scan=np.concatenate([included_at, irrelevant_at]),
            places=lesion_places,
            excluded=np.arange(included.size + irrelevant.size) >= included.size,
        ),
        lesion_ids=_lesion_ids(findings, listed, included, included_at),
        notes=(
            *(note for table in (listed.table, findings, others, submission) if table for note in table.notes),
            *included_notes,
            *irrelevant_notes,
            *mark_notes,
            *_oddities_of_marks(submission, kept, pointed),
            *_oddities_of_findings(findings, included),
        ),
    )


def read_scans(path: Path) -> Scans:
    """Read the list: one id a line without a header, or a table with the columns seriesuid and patient or breast.

    Raises
    ------
    TableError
        If the list is empty, or an id is there twice.
    """
    table = read_table(path, [SCAN], header=None if _has_header(path) else (SCAN,))
    if not len(table):
        raise TableError(f"{path.name}: there is no scan in it; write one id a line")
    ids = table.text(SCAN).tolist()
    table.unique(SCAN)
    return Scans(
        table=table,
        index={scan: number for number, scan in enumerate(ids)},
        patients=_numbered(table, "patient"),
        breasts=_numbered(table, "breast"),
    )


def _has_header(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            return SCAN.encode() in stream.readline().replace(b"\0", b"")
    except OSError:
        return False  # `read_table` says why


def _numbered(table: Table, column: str) -> NDArray[np.intp] | None:
    return np.unique(table.text(column), return_inverse=True)[1].astype(np.intp) if column in table else None


def _lesion_columns(hit: Hit) -> tuple[str, ...]:
    return {Hit.DISTANCE: ("diameter_mm",), Hit.IOU: _BOX_MM, Hit.CENTER: _BOX_MM, Hit.MAMMOGRAPHY: _BOX_PX}[hit]


def _lesion_sizes(table: Table | None, hit: Hit) -> NDArray[np.float64]:
    """(rows, 3) widths; a ball by its hull, the depth of a lesion in mammography half the slices of its volume."""
    if table is None:
        return np.zeros((0, 3))
    if hit is Hit.DISTANCE:
        return np.repeat(diameters(table.numbers("diameter_mm"))[:, None], 3, axis=1)
    if hit is not Hit.MAMMOGRAPHY:
        return _box_sizes(table, _BOX_MM)
    slices = table.numbers("slices") if "slices" in table else np.zeros(len(table))
    return np.column_stack([_box_sizes(table, _BOX_PX), slices / 2])


def _box_sizes(table: Table, columns: Sequence[str]) -> NDArray[np.float64]:
    for column in columns:
        if (wrong := np.flatnonzero(table.numbers(column) <= 0)).size:
            table.fault(int(wrong[0]), column, "is no width of a box; give a number above 0")
    return np.column_stack([table.numbers(column) for column in columns])


def _places(table: Table, sizes: NDArray[np.float64], rows: NDArray[np.intp]) -> Places:
    return Places(center=np.column_stack([table.numbers(axis) for axis in _AXES])[rows], size=sizes[rows])


def _joined(included: Places, excluded: Places | None) -> Places:
    if excluded is None:
        return included
    return Places(
        center=np.concatenate([included.center, excluded.center]), size=np.concatenate([included.size, excluded.size])
    )


def _listed(table: Table | None, scans: Scans, what: str) -> tuple[NDArray[np.intp], NDArray[np.intp], tuple[str, ...]]:
    """Rows on listed scans, the place of each in the list, and a note on those left out."""
    if table is None:
        return np.zeros(0, dtype=np.intp), np.zeros(0, dtype=np.intp), ()
    at = np.fromiter((scans.index.get(scan, -1) for scan in table.text(SCAN).tolist()), dtype=np.intp, count=len(table))
    strange = np.flatnonzero(at < 0)
    rows = np.flatnonzero(at >= 0)
    note = (
        f"{table.path.name}: {strange.size} of {len(table)} {what} are on scans that {scans.table.path.name} does not "
        f"list and were dropped, the first on line {table.lines[int(strange[0])]}; list these scans if they belong to "
        f"the set"
        if strange.size
        else ""
    )
    return rows, at[rows], (note,) if note else ()


def _some_listed(table: Table, rows: NDArray[np.intp], scans: Table) -> None:
    if len(table) and not rows.size:
        raise TableError(
            f"{table.path.name}: line {table.lines[0]}: no row is on a scan of {scans.path.name}; compare its "
            f"{SCAN} with line {scans.lines[0]} of the list: both must be written alike"
        )


def _lesion_ids(table: Table, scans: Scans, rows: NDArray[np.intp], at: NDArray[np.intp]) -> NDArray[np.intp] | None:
    """Numbers of lesions named in a column `lesion`, within their breast, else their patient, else their scan."""
    if "lesion" not in table:
        return None
    within = scans.breasts if scans.breasts is not None else scans.patients
    group = at if within is None else within[at]
    names = np.unique(table.text("lesion"), return_inverse=True)[1][rows]
    return np.unique(np.column_stack([group, names]), axis=0, return_inverse=True)[1].reshape(-1).astype(np.intp)


def _oddities_of_marks(submission: Table, kept: NDArray[np.intp], marks: Marks) -> tuple[str, ...]:
    """What can be counted and is probably not meant."""
    notes = []
    if not kept.size:
        notes.append(f"{submission.path.name}: there is no mark in it, so that nothing is found")
    if strange := np.flatnonzero((marks.score < 0) | (marks.score > 1)).tolist():
        notes.append(
            f"{submission.path.name}: {len(strange)} scores are outside 0 to 1, the first on line "
            f"{submission.lines[int(kept[strange[0]])]}; only their order counts here, so they were taken as they are"
        )
    again, doubled = _repeated(marks)
    if again:
        lines = " and ".join(str(submission.lines[int(kept[row])]) for row in doubled[:_SHOWN_LINES])
        notes.append(
            f"{submission.path.name}: lines {lines} are the same mark, place and score alike ({again} rows in all "
            f"repeat another); each row that hits nothing counts as a false mark, leave one out if it is one mark"
        )
    return tuple(notes)


def _repeated(marks: Marks) -> tuple[int, list[int]]:
    """How many marks are of the scan, place, size and score of an earlier one, and the first that are alike."""
    columns = np.column_stack([marks.scan, marks.places.center, marks.places.size, marks.score])
    order = np.lexsort(columns.T)
    alike = np.flatnonzero(((columns[order[1:]] == columns[order[:-1]]) | np.isnan(columns[order[1:]])).all(axis=1))
    if not alike.size:
        return 0, []
    group = np.cumsum(np.append(True, ~np.isin(np.arange(order.size - 1), alike)))
    first = group[alike[np.argmin(order[alike])]]
    return alike.size, order[group == first].tolist()


def _oddities_of_findings(truth: Table, included: NDArray[np.intp]) -> tuple[str, ...]:
    """What can be counted and is probably not meant."""
    notes = []
    if doubled := _doubled(truth, included):
        lines = " and ".join(str(truth.lines[row]) for row in doubled[:_SHOWN_LINES])
        notes.append(
            f"{truth.path.name}: lines {lines} are the same finding; each row counts as a lesion to be found, leave "
            f"one out if it is one lesion"
        )
    if "diameter_mm" in truth and (flat := included[truth.numbers("diameter_mm")[included] == 0]).size:
        notes.append(
            f"{truth.path.name}: line {truth.lines[int(flat[0])]}: a finding of diameter 0 can never be hit "
            f"({flat.size} such); give its diameter, or -1 where it is unknown (10 mm)"
        )
    return tuple(notes)


def _doubled(table: Table, rows: NDArray[np.intp]) -> list[int]:
    """The first rows that agree in every column."""
    seen: dict[tuple[str, ...], list[int]] = {}
    columns = list(table.columns.values())
    for row in rows.tolist():
        seen.setdefault(tuple(column[row] for column in columns), []).append(row)
    return next((same for same in seen.values() if len(same) > 1), [])

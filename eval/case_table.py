"""A table of cases, as the commands of ``radnode eval`` about cases read it.

Called by the commands roc, proportions, paired and drift. What is doubled, missing or no number is a fault with file,
line and remedy (`eval.tables`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eval.case_analysis import Cases
from eval.tables import Table, TableError, read_table

CASE_COLUMNS = ("case", "case_id", "id")  # that name a case unless another column is said to
_DOUBLED = "keep one row for each, or name with --patient who has several"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class CaseTable:
    """A table and what names its rows.

    Attributes
    ----------
    table : Table
    names : sequence of str
        Name of each row: its cell in the case column, else its line.
    patients : str (rows,) or None
        Whose row it is; None where no column was named.
    notes : tuple of str
        What a reader of the numbers must know.
    """

    table: Table
    names: Sequence[str]
    patients: NDArray[np.str_] | None
    notes: tuple[str, ...]

    def cases(self, truth: str, score: str, compare: str | None = None) -> Cases:
        """Truth and scores; every cell must hold one."""
        return Cases(
            scores=self.table.numbers(score),
            diseased=self.table.flags(truth),
            compared=None if compare is None else self.table.numbers(compare),
            patients=self.patients,
        )

    def cells(self, columns: Sequence[str]) -> dict[str, NDArray[np.str_]]:
        """Columns whose values make groups; "(empty)" where nothing is said, so that groups add up."""
        found = {column: self.table.optional_text(column) for column in columns}
        return {column: np.where(cells == "", "(empty)", cells) for column, cells in found.items()}


def read_cases(path: Path, needed: Sequence[str], *, case: str | None = None, patient: str | None = None) -> CaseTable:
    """Read a table with one row a case.

    Parameters
    ----------
    path : Path
    needed : sequence of str
        Columns that must be there.
    case : str, optional
        Column that names a case, each once; by default `case`, `case_id` or `id`, whichever is there first and does
        not name the patient.
    patient : str, optional
        Column that names the patient, who may have several rows.

    Raises
    ------
    TableError
        If a column is missing, a case is there twice or the table has no rows.
    """
    wanted = dict.fromkeys([*needed, *([case] if case else []), *([patient] if patient else [])])
    table = read_table(path, list(wanted))
    if not len(table):
        raise TableError(f"{path.name}: there are no rows below the header; give at least one case")
    named = case or next((name for name in CASE_COLUMNS if name in table and name != patient), None)
    if named:
        table.unique(named, remedy=_DOUBLED)
    return CaseTable(
        table=table,
        names=table.text(named).tolist() if named else [f"line {line}" for line in table.lines],
        patients=table.text(patient) if patient else None,
        notes=(*table.notes, *_copies(table, named), *_unit_note(table, patient)),
    )


def _copies(table: Table, named: str | None) -> tuple[str, ...]:
    """Rows that are another row in every cell: without a case column nobody can say whether they are copies."""
    if named:
        return ()
    rows = Counter(zip(*table.columns.values(), strict=True))
    copies = sum(count - 1 for count in rows.values())
    if not copies or len(rows) < len(table) / 2:  # few distinct values repeat by themselves
        return ()
    return (f"{table.path.name}: {copies} rows are another row in every cell; name the cases with --case to be sure",)


def _unit_note(table: Table, patient: str | None) -> tuple[str, ...]:
    if patient or "patient" not in table:
        return ()
    patients = len(set(table.columns["patient"]))
    if patients == len(table):
        return ()
    return (
        f"{table.path.name}: {len(table)} rows of {patients} patients were judged as if independent; "
        "name the column with --patient",
    )

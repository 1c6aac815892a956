"""Reads a table of radiologists' readings and enters it as truth: `radnode monitor truth FILE.csv`.

Columns: `study_uid` or `accession_number`, `reading`, and where wanted `label` and `read_at`. A row that cannot be
entered is named by its line, with the reason; the others are entered. What the table says beyond a known word of a
reading is neither kept nor printed: it may be a report's text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import Final

import sqlalchemy as sa

from dicom_node.ledger import Ledger, truths
from dicom_node.ledger.truths import Entered, NewTruth
from dicom_node.states import Reading, TruthSource
from eval.tables import Table, TableError, read_table
from inference.findings import StudyUid

READINGS: Final[Mapping[Reading, frozenset[str]]] = {
    Reading.POSITIVE: frozenset({"positive", "pos", "1", "1.0", "+", "yes", "true", "да", "патология", "есть"}),
    Reading.NEGATIVE: frozenset({"negative", "neg", "0", "0.0", "-", "no", "false", "нет", "норма"}),
    Reading.UNCLEAR: frozenset({"unclear", "?", "неясно", "сомнительно"}),
}
_COLUMNS: Final = frozenset({"study_uid", "accession_number", "reading", "label", "read_at"})


@dataclass(frozen=True, kw_only=True, slots=True)
class RefusedRow:
    """A row that was not entered, by its line of the file, and why. Repeats no cell that could name a patient."""

    line: int
    why: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Imported:
    """What became of the rows."""

    entered: Mapping[Entered, int]
    refused: tuple[RefusedRow, ...]
    ignored_columns: tuple[str, ...]
    notes: tuple[str, ...]


class _RowRefused(Exception):
    pass


def import_truth(ledger: Ledger, path: Path, zone: tzinfo, *, labels: frozenset[str]) -> Imported:
    """Enter every row that can be, in one transaction.

    Parameters
    ----------
    ledger : Ledger
    path : Path
        Table with a header; separators and encodings as `eval.tables.read_table` takes them.
    zone : tzinfo
        Of times in `read_at` that name none.
    labels : frozenset of str
        Labels that installed cards have.

    Raises
    ------
    TableError
        If the file is no such table.
    """
    table = read_table(path, ["reading"])
    by = [name for name in ("study_uid", "accession_number") if name in table]
    if not by:
        raise TableError(f"{path.name}: line 1: no column 'study_uid' or 'accession_number'")
    entered = dict.fromkeys(Entered, 0)
    refused = []
    now = ledger.clock()
    with ledger.begin() as tx:
        for row, line in enumerate(table.lines):
            try:
                new = _truth(tx, table, row, by, zone, labels, now)
                entered[truths.record(tx, new, now)] += 1
            except _RowRefused as error:
                refused.append(RefusedRow(line=line, why=str(error)))
    ignored = tuple(name for name in table.columns if name not in _COLUMNS)
    return Imported(entered=entered, refused=tuple(refused), ignored_columns=ignored, notes=table.notes)


def _truth(
    tx: sa.Connection,
    table: Table,
    row: int,
    by: Sequence[str],
    zone: tzinfo,
    labels: frozenset[str],
    now: datetime,
) -> NewTruth:
    word = table.columns["reading"][row].lower()
    reading = next((reading for reading, known in READINGS.items() if word in known), None)
    if reading is None:
        raise _RowRefused(
            "the reading is none of: " + ", ".join(sorted(w for known in READINGS.values() for w in known))
        )
    label = _cell(table, "label", row)
    if label and label not in labels:
        raise _RowRefused(f"no installed model has this label; there are: {', '.join(sorted(labels)) or 'none'}")
    return NewTruth(
        study_uid=_study(tx, table, row, by),
        label=label,
        reading=reading,
        source=TruthSource.CSV,
        rule=f"column reading says '{word}'",
        read_at=_read_at(_cell(table, "read_at", row), zone, now),
    )


def _study(tx: sa.Connection, table: Table, row: int, by: Sequence[str]) -> StudyUid:
    uid, number = _cell(table, "study_uid", row), _cell(table, "accession_number", row)
    if uid:
        if not truths.is_known(tx, uid):
            raise _RowRefused("the ledger has no study with this study_uid")
        return StudyUid(uid)
    if not number:
        raise _RowRefused(f"{' and '.join(by)}: empty")
    found = truths.with_accession_number(tx, number)
    if not found:
        raise _RowRefused("the ledger has no study with this accession_number")
    if len(found) > 1:
        raise _RowRefused("several studies have this accession_number: give the study_uid")
    return found[0]


def _read_at(text: str, zone: tzinfo, now: datetime) -> datetime:
    if not text:
        return now
    try:
        read = datetime.fromisoformat(text)
    except ValueError as error:
        raise _RowRefused("read_at is no time: write 2026-11-23 or 2026-11-23T14:05") from error
    read = read if read.tzinfo else read.replace(tzinfo=zone)
    if read > now:
        raise _RowRefused("read_at lies in the future")
    return read.astimezone(UTC)


def _cell(table: Table, column: str, row: int) -> str:
    return table.columns[column][row] if column in table else ""

"""A sink for tests of the receiver alone: one SQLite table, committed before it answers."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dicom_node.receiver import SinkFactory
from dicom_node.study import NewInstance, Recorded, RecordedKind
from inference.findings import SopUid

_SCHEMA = """
CREATE TABLE IF NOT EXISTS instance (
    id INTEGER PRIMARY KEY, sop TEXT, class TEXT, series TEXT, study TEXT, syntax TEXT, sha256 TEXT, size INTEGER,
    path TEXT, calling TEXT, called TEXT, peer TEXT, received_at TEXT, seen INTEGER DEFAULT 1, UNIQUE (sop, sha256));
CREATE TABLE IF NOT EXISTS commitment (transaction_uid TEXT, committed TEXT, failed TEXT);
"""


class SqliteSink:
    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._database = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=30)
        self._database.execute("PRAGMA synchronous=FULL")

    def record_instance(self, instance: NewInstance) -> Recorded:
        with self._lock:
            self._database.execute("BEGIN IMMEDIATE")
            try:
                kind = self._record(instance)
                self._database.execute("COMMIT")
            except BaseException:
                self._database.execute("ROLLBACK")
                raise
        return Recorded(kind=kind)

    def commitment_event(
        self, transaction_uid: str, committed: tuple[SopUid, ...], failed: Mapping[SopUid, int]
    ) -> None:
        with self._lock:
            values = (transaction_uid, json.dumps(committed), json.dumps(dict(failed)))
            self._database.execute("INSERT INTO commitment VALUES (?, ?, ?)", values)

    def _record(self, new: NewInstance) -> RecordedKind:
        again = self._database.execute(
            "UPDATE instance SET seen = seen + 1 WHERE sop = ? AND sha256 = ?", (new.sop_instance_uid, new.sha256)
        )
        if again.rowcount:
            return RecordedKind.DUPLICATE
        known = self._database.execute("SELECT 1 FROM instance WHERE sop = ?", (new.sop_instance_uid,)).fetchone()
        values = (
            new.sop_instance_uid, new.sop_class_uid, new.series_uid, new.study_uid, new.transfer_syntax_uid,
            new.sha256, new.size_bytes, new.relative_path, new.calling_ae, new.called_ae, new.peer_address,
            new.received_at.isoformat(),
        )  # fmt: skip
        self._database.execute(
            "INSERT INTO instance (sop, class, series, study, syntax, sha256, size, path, calling, called, peer,"
            " received_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            values,
        )
        return RecordedKind.REVISED if known else RecordedKind.NEW


class FailingSink(SqliteSink):
    """A ledger that cannot commit."""

    def record_instance(self, instance: NewInstance) -> Recorded:
        raise RuntimeError(f"PATIENT^NAME in {instance}")


@dataclass(frozen=True)
class Table:
    """What the acceptors wrote, read from the test."""

    path: Path

    def __post_init__(self) -> None:
        database = sqlite3.connect(self.path)
        database.execute("PRAGMA journal_mode=WAL")
        database.executescript(_SCHEMA)
        database.close()

    @property
    def factory(self) -> SinkFactory:
        return partial(SqliteSink, self.path)

    def rows(self, table: str = "instance") -> list[sqlite3.Row]:
        database = sqlite3.connect(self.path)
        database.row_factory = sqlite3.Row
        try:
            return database.execute(f"SELECT * FROM {table} ORDER BY rowid").fetchall()
        finally:
            database.close()

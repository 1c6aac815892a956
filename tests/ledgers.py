"""Ledgers for tests: one contract on SQLite and on real PostgreSQL, a clock that moves when told, and made-up rows.

`ledger` (a fixture, run once per database) is empty and up to date. What the tests put into it is made by the functions
here, with only the values that matter to a test named in it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from dicom_node.ledger import Ledger, instances, jobs, results
from dicom_node.ledger.jobs import Job, NewJob
from dicom_node.ledger.results import WrittenObject
from dicom_node.ledger.schema import metadata
from dicom_node.states import JobState
from dicom_node.study import NewInstance, Recorded
from inference.findings import SeriesUid, SopUid, StudyUid
from tests.postgresql import PostgresqlServer

NOON = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
STUDY = StudyUid("1.2.840.1")


@dataclass
class TestClock:
    """UTC that stands still until it is moved."""

    __test__ = False
    now: datetime = NOON

    def __call__(self) -> datetime:
        return self.now

    def move(self, seconds: float) -> datetime:
        """Go on (or back) by `seconds` and return the new time."""
        self.now += timedelta(seconds=seconds)
        return self.now


@contextmanager
def open_ledger(url: str, clock: TestClock) -> Iterator[Ledger]:
    """An up-to-date ledger, closed at the end."""
    opened = Ledger(url, clock=clock)
    try:
        opened.migrate()
        yield opened
    finally:
        opened.close()


@pytest.fixture
def clock() -> TestClock:
    """A clock that stands at noon."""
    return TestClock()


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Address of an empty database of each kind."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'ledger.sqlite3'}"
        return
    server = request.getfixturevalue("postgresql_server")
    with server.fresh_database() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger(request: pytest.FixtureRequest, tmp_path: Path, clock: TestClock) -> Iterator[Ledger]:
    """An empty, up-to-date ledger of each kind."""
    if request.param == "sqlite":
        with open_ledger(f"sqlite:///{tmp_path / 'ledger.sqlite3'}", clock) as opened:
            yield opened
        return
    with open_ledger(request.getfixturevalue("postgresql_ledger_url"), clock) as opened:
        yield opened
        names = ", ".join(table.name for table in metadata.sorted_tables)
        with opened.begin() as tx:
            tx.exec_driver_sql(f"TRUNCATE {names} RESTART IDENTITY")


@pytest.fixture(scope="session")
def postgresql_ledger_url(postgresql_server: PostgresqlServer) -> Iterator[str]:
    """One database for all tests that empty it behind them; making one for each would take minutes."""
    with postgresql_server.fresh_database() as url:
        yield url


def instance(sop: str = "1.2.3.1", *, study: str = STUDY, content: str = "pixels", **changes: Any) -> NewInstance:
    """An instance as an acceptor would record it."""
    values: dict[str, Any] = {
        "sop_instance_uid": SopUid(sop),
        "sop_class_uid": "1.2.840.10008.5.1.4.1.1.1.1",
        "series_uid": SeriesUid("1.2.3"),
        "study_uid": StudyUid(study),
        "transfer_syntax_uid": "1.2.840.10008.1.2.1",
        "sha256": hashlib.sha256(content.encode()).hexdigest(),
        "size_bytes": 100,
        "relative_path": f"instances/00/{hashlib.sha256((sop + study + content).encode()).hexdigest()[:32]}.dcm",
        "calling_ae": "MODALITY",
        "called_ae": "RADNODE",
        "peer_address": "127.0.0.1",
        "received_at": NOON,
    }
    return NewInstance(**values | changes)


def record(ledger: Ledger, new: NewInstance) -> Recorded:
    """Record in a transaction of its own."""
    with ledger.begin() as tx:
        return instances.record(tx, new)


def add_job(ledger: Ledger, *, study: str = STUDY, at: datetime | None = None, **changes: Any) -> int:
    """Queue a job (and its study, if it is not there) and return its id."""
    values: dict[str, Any] = {
        "study_uid": StudyUid(study),
        "revision": 1,
        "model_name": "toy-opacity",
        "model_version": "1.0.0",
        "model_digest": "m" * 64,
        "route": "chest",
        "destinations": ("pacs",),
        "instance_ids": (1,),
        "sources_digest": "d" * 64,
        "incomplete": False,
        "priority": 0,
    }
    record(ledger, instance(f"{study}.1", study=study))
    with ledger.begin() as tx:
        jobs.add(tx, NewJob(**values | changes), at or ledger.clock())
        return jobs.of_study(tx, StudyUid(study))[-1].id


def job_of(ledger: Ledger, job_id: int) -> Job:
    """One job; every job of these tests is of a study with few."""
    with ledger.read() as tx:
        study_uid = tx.exec_driver_sql(f"SELECT study_uid FROM job WHERE id = {int(job_id)}").scalar_one()
        return next(job for job in jobs.of_study(tx, study_uid) if job.id == job_id)


def claim(ledger: Ledger, owner: str = "node:worker0:1", **changes: Any) -> tuple[Job, ...]:
    """Claim as a worker would, with a lease of a minute."""
    values: dict[str, Any] = {"limit": 8, "ageing_s": 60.0, "alone": False, "lease_s": 60.0, "now": ledger.clock()}
    with ledger.begin() as tx:
        return jobs.claim(tx, owner=owner, **values | changes)


def succeed(ledger: Ledger, job_id: int, owner: str = "node:worker0:1") -> None:
    """End a job that `owner` holds."""
    with ledger.begin() as tx:
        jobs.finish(tx, job_id, owner=owner, state=JobState.SUCCEEDED, at=ledger.clock(), timings_s={})


def written(sop: str, *, role: str = "sr", study: str = STUDY) -> WrittenObject:
    """A result object whose file nobody opens."""
    return WrittenObject(
        role=role,
        study_uid=StudyUid(study),
        series_uid=f"{sop}.9",
        sop_class_uid="1.2.840.10008.5.1.4.1.1.88.34",
        sop_instance_uid=sop,
        path=f"results/00/{hashlib.sha256(sop.encode()).hexdigest()[:32]}.dcm",
        size_bytes=10,
    )


def add_result(
    ledger: Ledger,
    job_id: int,
    *sops: str,
    study: str = STUDY,
    destinations: tuple[str, ...] = ("pacs",),
    **changes: Any,
) -> int | None:
    """Commit a result set of these objects; its row id, or None when it stood already."""
    values: dict[str, Any] = {"model_name": "toy-opacity", "profile": "default", "at": ledger.clock()}
    with ledger.begin() as tx:
        return results.commit(
            tx,
            job_id=job_id,
            study_uid=StudyUid(study),
            objects=[written(sop, study=study) for sop in sops],
            destinations=destinations,
            **values | changes,
        )

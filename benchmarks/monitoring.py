"""How long a month of 100,000 studies takes to be counted, beside reading every job as an object and counting those.

    python benchmarks/monitoring.py [--studies 100000] [--url postgresql+pg8000://…]

Rows are written in bulk; what is timed is the report of the whole month, the same by day, and, as the plain way of the
same figures, every job of the month read through `ledger.jobs` with its findings opened.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import sqlalchemy as sa

from dicom_node.ledger import Ledger
from dicom_node.ledger.jobs import from_row
from dicom_node.ledger.schema import delivery, job, label_score, result_object, result_set, study, truth
from dicom_node.monitoring.build import Monitor
from dicom_node.monitoring.periods import Period, Step
from dicom_node.settings import Settings
from tests.service import findings

BEGIN = datetime(2026, 3, 1, tzinfo=UTC)
AT_A_TIME = 5000


def fill(ledger: Ledger, studies: int) -> None:
    """A month of analysed studies, one in twenty refused, one in five read by a radiologist."""
    random = np.random.default_rng(0)
    scores = random.beta(1.2, 3.0, studies).round(4)
    text = findings("1.2.3", 0.4).to_json()
    for start in range(0, studies, AT_A_TIME):
        numbers = range(start, min(start + AT_A_TIME, studies))
        with ledger.begin() as tx:
            _fill(tx, numbers, studies, scores, text)


def _fill(tx: sa.Connection, numbers: Sequence[int], studies: int, scores: np.ndarray, text: str) -> None:
    def at(number: int, seconds: float = 0.0) -> datetime:
        return BEGIN + timedelta(days=31 * number / studies, seconds=seconds)

    uids = {number: f"1.2.826.0.1.3680043.8.498.{number}" for number in numbers}
    refused = {number: number % 20 == 0 for number in numbers}
    tx.execute(study.insert(), [
        {"study_uid": uids[n], "state": "complete", "revision": 1, "calling_ae": "CR", "first_received_at": at(n, -20),
         "last_received_at": at(n, -10), "revision_started_at": at(n, -20), "completed_at": at(n),
         "outcome": "not_analysed" if refused[n] else "analysed", "outcome_reason": "view" if refused[n] else None}
        for n in numbers
    ])  # fmt: skip
    tx.execute(job.insert(), [
        {"id": n + 1, "study_uid": uids[n], "revision": 1, "model_name": "toy-opacity", "model_version": "1.0.0",
         "model_digest": "m" * 64, "role": "champion", "route": "chest", "destinations": ["pacs"],
         "instance_ids": [n], "sources_digest": "d" * 64, "incomplete": False, "priority": 0,
         "state": "rejected" if refused[n] else "succeeded", "refusal_reason": "view" if refused[n] else None,
         "queued_at": at(n), "finished_at": at(n, 5), "findings": None if refused[n] else text,
         "positive": None if refused[n] else bool(scores[n] >= 0.5), "images_unread": 0,
         "timings_s": {"model": 0.5, "total": 2.0}}
        for n in numbers
    ])  # fmt: skip
    tx.execute(label_score.insert(), [
        {"job_id": n + 1, "label": "opacity", "score": float(scores[n]), "present": bool(scores[n] >= 0.5)}
        for n in numbers if not refused[n]
    ])  # fmt: skip
    tx.execute(result_set.insert(), [
        {"id": n + 1, "job_id": n + 1, "study_uid": uids[n], "model_name": "toy-opacity", "profile": "default",
         "kind": "result", "is_current": True, "created_at": at(n, 5)} for n in numbers
    ])  # fmt: skip
    tx.execute(result_object.insert(), [
        {"result_set_id": n + 1, "role": role, "study_uid": uids[n], "series_uid": "1", "sop_class_uid": "1",
         "sop_instance_uid": f"{uids[n]}.{role}", "size_bytes": 1} for n in numbers for role in ("sr", "overlay")
    ])  # fmt: skip
    tx.execute(delivery.insert(), [
        {"result_set_id": n + 1, "study_uid": uids[n], "destination": "pacs", "state": "confirmed",
         "created_at": at(n, 5), "sent_at": at(n, 6), "finished_at": at(n, 6 + n % 30)} for n in numbers
    ])  # fmt: skip
    tx.execute(truth.insert(), [
        {"study_uid": uids[n], "label": "", "reading": "positive" if scores[n] > 0.55 else "negative", "source": "csv",
         "rule": "column reading says '1'", "read_at": at(n, 600), "entered_at": at(n, 700), "is_current": True}
        for n in numbers if n % 5 == 0
    ])  # fmt: skip


def plain(ledger: Ledger) -> int:
    """Every job an object, its findings opened: what counting in Python would begin with."""
    with ledger.read() as tx:
        return sum(from_row(row).state == "succeeded" for row in tx.execute(sa.select(job)))


def timed(what: str, do: object) -> float:
    """Run it, print and return the seconds."""
    begin = time.perf_counter()
    do()  # type: ignore[operator]
    seconds = time.perf_counter() - begin
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{what}: {seconds:.2f} s (largest memory so far {peak_mib:.0f} MiB)")
    return seconds


def main() -> None:
    """Fill a ledger and time the ways."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--studies", type=int, default=100_000)
    options.add_argument("--url")
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(given.url or f"sqlite:///{Path(folder) / 'ledger.sqlite3'}")
        ledger.migrate()
        timed(f"filling with {given.studies} studies", lambda: fill(ledger, given.studies))
        zone = ZoneInfo("Europe/Moscow")
        month = Period(first=date(2026, 3, 1), last=date(2026, 3, 31), zone=zone)
        monitor = Monitor(ledger, Settings(), tuple)
        whole = timed("the month", lambda: monitor.report(month))
        days = timed("the month, and each of its days", lambda: monitor.report(month, step=Step.DAY))
        objects = timed("plain: every job an object", lambda: plain(ledger))
        print(f"plain / the month: {objects / whole:.1f}; plain / with days: {objects / days:.1f}")
        ledger.close()


if __name__ == "__main__":
    main()

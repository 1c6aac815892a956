"""Group commit: whoever stores at the same moment shares a commit, and still gets the answer to its own instance."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import pytest
import sqlalchemy as sa

from dicom_node.ledger import Ledger, deliveries, instances
from dicom_node.ledger.schema import study
from dicom_node.sink import LedgerSink
from dicom_node.study import NewInstance, Recorded, RecordedKind
from inference.findings import SopUid, StudyUid
from tests.archives import free_port
from tests.ledgers import STUDY, TestClock, add_job, add_result, instance, open_ledger

JOIN_TIMEOUT_S = 60.0
SENDERS = 12
NEW = Recorded(kind=RecordedKind.NEW)


@pytest.fixture
def sink(ledger: Ledger, clock: TestClock) -> Iterator[LedgerSink]:
    opened = LedgerSink(ledger.url, clock)
    yield opened
    opened.close()


def at_once(
    sink: LedgerSink, sent: Sequence[NewInstance], *, while_held: AbstractContextManager[None] | None = None
) -> list[Recorded | Exception]:
    """Record each in a thread of its own, as associations do; the answers or errors in order of `sent`."""
    answers: dict[int, Recorded | Exception] = {}
    start = threading.Barrier(len(sent) + 1)

    def send(number: int) -> None:
        start.wait()
        try:
            answers[number] = sink.record_instance(sent[number])
        except Exception as error:  # noqa: BLE001  what a sender is told is what this is about
            answers[number] = error

    threads = [threading.Thread(target=send, args=[number], daemon=True) for number in range(len(sent))]
    for thread in threads:
        thread.start()
    with while_held or nullcontext():
        start.wait()
    for thread in threads:
        thread.join(JOIN_TIMEOUT_S)
    assert len(answers) == len(sent), "a sender was left waiting"
    return [answers[number] for number in range(len(sent))]


def kinds(answers: Sequence[Recorded | Exception]) -> Counter[RecordedKind]:
    return Counter(answer.kind for answer in answers if isinstance(answer, Recorded))


@contextmanager
def held(ledger: Ledger) -> Iterator[None]:
    """Hold the study's row (on SQLite the whole ledger): who commits meanwhile waits, and others gather behind."""
    with ledger.begin() as tx:
        tx.execute(study.update().values(waiting_for="a test"))
        yield
        time.sleep(0.3)  # time for all senders to have come; fewer make the group smaller, not the test wrong


@contextmanager
def counted_commits() -> Iterator[list[sa.Connection]]:
    """Every commit of this process, on whichever ledger."""
    seen: list[sa.Connection] = []
    note = seen.append
    sa.event.listen(sa.Engine, "commit", note)
    try:
        yield seen
    finally:
        sa.event.remove(sa.Engine, "commit", note)


def stored(ledger: Ledger, study_uid: str = STUDY) -> tuple[instances.StoredInstance, ...]:
    with ledger.read() as tx:
        return instances.of_study(tx, StudyUid(study_uid), only_current=False)


def test_distinct_instances_are_all_new(ledger: Ledger, sink: LedgerSink) -> None:
    sent = [instance(f"1.2.3.{number}", study=f"1.2.840.{number % 3}") for number in range(SENDERS)]
    assert kinds(at_once(sink, sent)) == {RecordedKind.NEW: SENDERS}
    rows = [row for number in range(3) for row in stored(ledger, f"1.2.840.{number}")]
    assert {row.sop_instance_uid for row in rows} == {one.sop_instance_uid for one in sent}
    assert len(rows) == SENDERS and all(row.is_current for row in rows)


def test_of_equal_instances_one_is_new_and_its_file_is_the_one_kept(ledger: Ledger, sink: LedgerSink) -> None:
    sent = [instance(relative_path=f"instances/00/{number:032x}.dcm") for number in range(SENDERS)]
    answers = at_once(sink, sent)
    assert kinds(answers) == {RecordedKind.NEW: 1, RecordedKind.DUPLICATE: SENDERS - 1}
    (row,) = stored(ledger)
    new = [one.relative_path for one, answer in zip(sent, answers, strict=True) if answer == NEW]
    assert [row.path] == new


def test_other_bytes_under_one_uid_are_revisions_and_exactly_one_is_current(ledger: Ledger, sink: LedgerSink) -> None:
    sent = [instance(content=f"content {number}") for number in range(SENDERS)]
    assert kinds(at_once(sink, sent)) == {RecordedKind.NEW: 1, RecordedKind.REVISED: SENDERS - 1}
    rows = stored(ledger)
    assert len(rows) == SENDERS
    assert [row.is_current for row in rows] == [False] * (SENDERS - 1) + [True], "the last that was committed"


def test_the_time_of_arrival_is_the_nodes_own(ledger: Ledger, sink: LedgerSink, clock: TestClock) -> None:
    new = instance()
    clock.move(5)
    sink.record_instance(new)
    assert stored(ledger)[0].received_at == clock.now != new.received_at


def test_who_stores_at_the_same_moment_shares_a_commit(ledger: Ledger, sink: LedgerSink) -> None:
    sink.record_instance(instance("1.2.3.99"))
    sent = [instance(f"1.2.3.{number}") for number in range(SENDERS)]
    with counted_commits() as commits:
        answers = at_once(sink, sent, while_held=held(ledger))
    assert kinds(answers) == {RecordedKind.NEW: SENDERS}
    assert len(commits) - 1 < SENDERS / 2, "one of these is the test's own"


def test_an_instance_that_cannot_be_entered_fails_its_own_sender_only(ledger: Ledger, sink: LedgerSink) -> None:
    sink.record_instance(instance("1.2.3.99"))
    sent = [instance(f"1.2.3.{number}") for number in range(SENDERS)]
    sent[5] = instance("1.2.3.5", sop_class_uid=None)
    answers = at_once(sink, sent, while_held=held(ledger))
    assert isinstance(answers[5], sa.exc.DBAPIError)
    assert kinds(answers) == {RecordedKind.NEW: SENDERS - 1}
    assert {row.sop_instance_uid for row in stored(ledger)} == {
        one.sop_instance_uid for number, one in enumerate(sent) if number != 5
    } | {"1.2.3.99"}


def test_while_the_ledger_cannot_commit_every_sender_is_told(ledger: Ledger, sink: LedgerSink) -> None:
    sent = [instance(f"1.2.3.{number}") for number in range(SENDERS)]
    with ledger.begin() as tx:
        tx.execute(sa.text("ALTER TABLE instance RENAME TO instance_away"))
    assert all(isinstance(answer, sa.exc.DBAPIError) for answer in at_once(sink, sent))
    with ledger.begin() as tx:
        tx.execute(sa.text("ALTER TABLE instance_away RENAME TO instance"))
    assert kinds(at_once(sink, sent)) == {RecordedKind.NEW: SENDERS}


def test_senders_to_a_ledger_that_cannot_be_opened_are_told_until_it_is_there(tmp_path: Path, clock: TestClock) -> None:
    folder = tmp_path / "away"
    url = f"sqlite:///{folder / 'ledger.sqlite3'}"
    sink = LedgerSink(url, clock)
    sent = [instance(f"1.2.3.{number}") for number in range(SENDERS)]
    assert all(isinstance(answer, sa.exc.OperationalError) for answer in at_once(sink, sent))
    folder.mkdir()
    with open_ledger(url, clock):
        assert kinds(at_once(sink, sent)) == {RecordedKind.NEW: SENDERS}
    sink.close()


def test_senders_to_a_database_that_is_down_are_told(clock: TestClock) -> None:
    sink = LedgerSink(f"postgresql+pg8000://nobody@127.0.0.1:{free_port()}/nothing", clock)
    answers = at_once(sink, [instance(f"1.2.3.{number}") for number in range(SENDERS)])
    assert all(isinstance(answer, Exception) for answer in answers)
    sink.close()


def test_an_archives_answer_to_commitment_is_entered_and_an_unknown_one_is_harmless(
    ledger: Ledger, sink: LedgerSink, clock: TestClock
) -> None:
    add_result(ledger, add_job(ledger), "1.9.1", "1.9.2")
    with ledger.begin() as tx:
        (row,) = deliveries.of_study(tx, STUDY)
        deliveries.register_commitment(tx, "1.2.3.4", row.id, clock())
    sink.commitment_event("1.2.3.5", (SopUid("1.9.1"),), {})
    with ledger.read() as tx:
        asked = deliveries.newest_commitment(tx, row.id)
    assert asked is not None and asked.committed is None
    sink.commitment_event("1.2.3.4", (SopUid("1.9.1"),), {SopUid("1.9.2"): 0x0112})
    with ledger.read() as tx:
        asked = deliveries.newest_commitment(tx, row.id)
    assert asked is not None
    assert (asked.committed, asked.failed) == (frozenset({"1.9.1"}), {"1.9.2": "failure reason 0112"})

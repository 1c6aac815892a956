"""The ledger's contract for results and deliveries, the same on SQLite and on PostgreSQL."""

from __future__ import annotations

from datetime import timedelta

import pytest
import sqlalchemy as sa

from dicom_node.ledger import Ledger, deliveries, results
from dicom_node.ledger.deliveries import DeliveryRow
from dicom_node.states import DeliveryState
from inference.findings import StudyUid
from tests.ledgers import (
    NOON,
    STUDY,
    TestClock,
    add_job,
    add_result,
    written,
)


def due(ledger: Ledger, destination: str = "pacs", *, limit: int = 16) -> tuple[DeliveryRow, ...]:
    with ledger.begin() as tx:
        return deliveries.claim_due(tx, destination, ledger.clock(), limit=limit)


def delivery(ledger: Ledger, number: int = 0, study: str = STUDY) -> DeliveryRow:
    with ledger.read() as tx:
        return deliveries.of_study(tx, StudyUid(study))[number]


# results -------------------------------------------------------------------------------------------------------------


def test_a_result_set_becomes_current_and_queues_its_deliveries(ledger: Ledger) -> None:
    job_id = add_job(ledger)
    set_id = add_result(ledger, job_id, "1.9.1", "1.9.2", destinations=("pacs", "web"))
    assert set_id is not None
    with ledger.read() as tx:
        current = results.current_of(tx, STUDY, "toy-opacity", "default")
        assert current == results.get(tx, set_id) == results.of_study(tx, STUDY)[0]
        assert results.known_paths(tx) == {written("1.9.1").path, written("1.9.2").path}
        queued = deliveries.of_result_set(tx, set_id)
    assert current is not None and current.kind is results.ResultKind.RESULT
    assert [one.sop_instance_uid for one in current.objects] == ["1.9.1", "1.9.2"]
    assert [(row.destination, row.state, row.next_attempt_at) for row in queued] == [
        ("pacs", DeliveryState.PENDING, NOON),
        ("web", DeliveryState.PENDING, NOON),
    ]


def test_the_same_set_again_changes_nothing(ledger: Ledger) -> None:
    job_id = add_job(ledger)
    add_result(ledger, job_id, "1.9.1", "1.9.2")
    assert add_result(ledger, job_id, "1.9.2", "1.9.1") is None
    with ledger.read() as tx:
        assert len(results.of_study(tx, STUDY)) == len(deliveries.of_study(tx, STUDY)) == 1


def test_another_set_supersedes_and_the_old_one_stays_on_record(ledger: Ledger) -> None:
    job_id = add_job(ledger)
    add_result(ledger, job_id, "1.9.1")
    add_result(ledger, job_id, "1.9.1", "1.9.2")
    with ledger.read() as tx:
        assert [row.is_current for row in results.of_study(tx, STUDY)] == [False, True]


def test_models_profiles_and_studies_have_their_own_current_set(ledger: Ledger) -> None:
    job_id = add_job(ledger)
    add_result(ledger, job_id, "1.9.1")
    add_result(ledger, job_id, "1.9.2", profile="english")
    add_result(ledger, job_id, "1.9.3", model_name="other")
    add_result(ledger, job_id, "1.9.4", study="1.2.9")
    with ledger.read() as tx:
        assert all(row.is_current for row in results.of_study(tx, STUDY))
        assert len(results.of_study(tx, STUDY)) == 3


def test_two_current_sets_are_refused_by_the_database_itself(ledger: Ledger) -> None:
    job_id = add_job(ledger)
    add_result(ledger, job_id, "1.9.1")
    copy = (
        "INSERT INTO result_set (job_id, study_uid, model_name, profile, kind, is_current, created_at) "
        "SELECT job_id, study_uid, model_name, profile, kind, is_current, created_at FROM result_set"
    )
    with pytest.raises(sa.exc.IntegrityError), ledger.begin() as tx:
        tx.execute(sa.text(copy))


def test_a_retraction_leaves_nothing_current_and_may_be_repeated(ledger: Ledger) -> None:
    job_id = add_job(ledger)
    set_id = add_result(ledger, job_id, "1.9.1")
    assert set_id is not None
    with ledger.begin() as tx:
        results.withdraw_current(tx, set_id)
    for note in ("1.9.7", "1.9.8"):
        assert add_result(ledger, job_id, note, kind=results.ResultKind.RETRACTION) is not None
    with ledger.read() as tx:
        assert results.current_of(tx, STUDY, "toy-opacity", "default") is None
        kinds = [row.kind for row in results.of_study(tx, STUDY)]
    assert kinds == ["result", "retraction", "retraction"]
    assert add_result(ledger, job_id, "1.9.1") is not None, "after a retraction the same result may stand again"


# deliveries ----------------------------------------------------------------------------------------------------------


def test_due_deliveries_are_claimed_once_and_marked_as_under_way(ledger: Ledger) -> None:
    add_result(ledger, add_job(ledger), "1.9.1")
    with ledger.read() as tx:
        assert deliveries.any_due(tx, "pacs", NOON)
        assert not deliveries.any_due(tx, "web", NOON)
        assert not deliveries.any_due(tx, "pacs", NOON - timedelta(seconds=1))
    (row,) = due(ledger)
    assert row.attempt_started_at == NOON
    assert due(ledger) == ()
    with ledger.read() as tx:
        assert not deliveries.any_due(tx, "pacs", NOON)
        assert deliveries.under_way(tx) == (row,)


def test_later_results_of_a_study_wait_for_the_earlier_and_studies_do_not_wait_for_each_other(ledger: Ledger) -> None:
    job_id = add_job(ledger)
    add_result(ledger, job_id, "1.9.1")
    add_result(ledger, job_id, "1.9.2")
    add_result(ledger, add_job(ledger, study="1.2.5"), "1.9.3", study="1.2.5")
    first = delivery(ledger, 0)
    assert [row.study_uid for row in due(ledger)] == [STUDY, "1.2.5"]
    assert due(ledger) == ()
    with ledger.begin() as tx:
        deliveries.set_sent(tx, first.id, at=NOON, ask_again_at=NOON + timedelta(seconds=9), reason="")
    (second,) = due(ledger)
    assert second.id == delivery(ledger, 1).id, "once the first has left the second may go"


def test_a_refused_delivery_no_longer_holds_the_next(ledger: Ledger) -> None:
    job_id = add_job(ledger)
    add_result(ledger, job_id, "1.9.1")
    add_result(ledger, job_id, "1.9.2")
    (first,) = due(ledger)
    with ledger.begin() as tx:
        deliveries.set_failed(tx, first.id, at=NOON, reason="0xA900\x00")
    failed = delivery(ledger)
    assert (failed.state, failed.attempts, failed.finished_at) == (DeliveryState.FAILED, 1, NOON)
    assert len(due(ledger)) == 1


def test_a_claim_takes_no_more_than_asked(ledger: Ledger) -> None:
    for n in range(5):
        add_result(ledger, add_job(ledger, study=f"1.2.{n}"), f"1.9.{n}", study=f"1.2.{n}")
    assert [len(due(ledger, limit=2)) for _ in range(3)] == [2, 2, 1]


def test_the_way_of_a_delivery_to_its_confirmation(ledger: Ledger, clock: TestClock) -> None:
    add_result(ledger, add_job(ledger), "1.9.1")
    (row,) = due(ledger)
    with ledger.begin() as tx:
        deliveries.set_retry(tx, row.id, next_attempt_at=clock.now + timedelta(seconds=10), reason="no connection")
    assert due(ledger) == ()
    clock.move(10)
    (row,) = due(ledger)
    assert (row.attempts, row.reason) == (1, "no connection")
    with ledger.begin() as tx:
        deliveries.set_sent(tx, row.id, at=clock.now, ask_again_at=clock.now, reason="")
        deliveries.claim_again(tx, row.id, clock.now)
    assert due(ledger) == (), "whoever sent it goes on with it"
    sent = delivery(ledger)
    assert (sent.state, sent.attempts, sent.sent_at, sent.reason) == (DeliveryState.SENT, 2, clock.now, None)
    for counts, asked in ((True, 1), (False, 1)):
        with ledger.begin() as tx:
            deliveries.set_unconfirmed(tx, row.id, ask_again_at=clock.move(1), reason="not shown", counts=counts)
        assert delivery(ledger).confirmations_asked == asked
        assert len(due(ledger)) == 1
    with ledger.begin() as tx:
        deliveries.set_confirmed(tx, row.id, at=clock.now, how="a query")
    done = delivery(ledger)
    assert (done.state, done.finished_at, done.next_attempt_at) == (DeliveryState.CONFIRMED, clock.now, None)
    clock.move(86400)
    assert due(ledger) == ()


def test_sent_to_one_who_cannot_confirm_is_the_end(ledger: Ledger) -> None:
    add_result(ledger, add_job(ledger), "1.9.1")
    (row,) = due(ledger)
    with ledger.begin() as tx:
        deliveries.set_sent(tx, row.id, at=NOON, ask_again_at=None, reason="cannot confirm")
    assert delivery(ledger).finished_at == NOON
    assert due(ledger) == ()


def test_deliveries_put_off_count_no_attempt(ledger: Ledger, clock: TestClock) -> None:
    add_result(ledger, add_job(ledger), "1.9.1")
    (row,) = due(ledger)
    with ledger.begin() as tx:
        deliveries.put_off(tx, [row.id], until=NOON + timedelta(seconds=5))
    assert due(ledger) == ()
    clock.move(5)
    (again,) = due(ledger)
    assert again.attempts == 0


def test_what_a_stopped_node_was_sending_is_due_again(ledger: Ledger) -> None:
    add_result(ledger, add_job(ledger), "1.9.1", destinations=("pacs", "web"))
    due(ledger, "pacs")
    due(ledger, "web")
    with ledger.begin() as tx:
        assert deliveries.release_attempts(tx, destination="web") == 1
    assert due(ledger, "pacs") == ()
    with ledger.begin() as tx:
        assert deliveries.release_attempts(tx) == 1
    assert len(due(ledger, "pacs")) == len(due(ledger, "web")) == 1


def test_a_person_may_try_again_what_failed_or_waits_by_study_or_destination(ledger: Ledger) -> None:
    for study in ("1.2.1", "1.2.2"):
        add_result(ledger, add_job(ledger, study=study), f"{study}.9", study=study, destinations=("pacs", "web"))
    for destination in ("pacs", "web"):
        for row in due(ledger, destination):
            with ledger.begin() as tx:
                deliveries.set_failed(tx, row.id, at=NOON, reason="refused")
    with ledger.begin() as tx:
        assert deliveries.make_due(tx, NOON, study_uid=StudyUid("1.2.1"), destination="web") == 1
        assert deliveries.make_due(tx, NOON, study_uid=StudyUid("1.2.1"), destination=None) == 2
        assert deliveries.make_due(tx, NOON, study_uid=None, destination="web") == 2
        assert deliveries.make_due(tx, NOON, study_uid=None, destination=None) == 4
    row = delivery(ledger, 0, "1.2.1")
    assert (row.state, row.finished_at, row.next_attempt_at) == (DeliveryState.PENDING, None, NOON)
    with ledger.begin() as tx:
        deliveries.set_confirmed(tx, row.id, at=NOON, how="")
        assert deliveries.make_due(tx, NOON, study_uid=None, destination=None) == 3, "what is confirmed stays so"


def test_metrics_are_counted_by_destination(ledger: Ledger, clock: TestClock) -> None:
    add_result(ledger, add_job(ledger), "1.9.1", destinations=("pacs", "web"))
    clock.move(60)
    add_result(ledger, add_job(ledger, study="1.2.5"), "1.9.2", study="1.2.5")
    (row,) = due(ledger, "web")
    with ledger.begin() as tx:
        deliveries.set_confirmed(tx, row.id, at=clock.now, how="")
    with ledger.read() as tx:
        assert deliveries.count_by_state(tx) == {
            ("pacs", DeliveryState.PENDING): 2,
            ("web", DeliveryState.CONFIRMED): 1,
        }
        assert deliveries.oldest_open(tx) == {"pacs": NOON}


# commitments ---------------------------------------------------------------------------------------------------------


def sent(ledger: Ledger) -> DeliveryRow:
    add_result(ledger, add_job(ledger), "1.9.1")
    (row,) = due(ledger)
    with ledger.begin() as tx:
        deliveries.set_sent(tx, row.id, at=NOON, ask_again_at=NOON + timedelta(hours=1), reason="")
    return delivery(ledger)


def test_an_answer_makes_its_delivery_due_at_once(ledger: Ledger, clock: TestClock) -> None:
    row = sent(ledger)
    with ledger.begin() as tx:
        assert deliveries.newest_commitment(tx, row.id) is None
        deliveries.register_commitment(tx, "2.25.1", row.id, NOON)
        asked = deliveries.newest_commitment(tx, row.id)
        assert asked is not None and asked.committed is None and asked.failed == {}
        answered_at = clock.move(5)
        assert deliveries.answer_commitment(tx, "2.25.1", committed=["1.9.1"], failed={"1.9.2": "x"}, at=answered_at)
        told = deliveries.newest_commitment(tx, row.id)
    assert told is not None and told.committed == {"1.9.1"} and told.failed == {"1.9.2": "x"}
    assert [found.id for found in due(ledger)] == [row.id]


def test_an_answer_before_the_delivery_is_marked_sent_is_kept_for_it(ledger: Ledger) -> None:
    add_result(ledger, add_job(ledger), "1.9.1")
    (row,) = due(ledger)
    with ledger.begin() as tx:
        deliveries.register_commitment(tx, "2.25.1", row.id, NOON)
        deliveries.answer_commitment(tx, "2.25.1", committed=["1.9.1"], failed={}, at=NOON)
        assert delivery(ledger).state is DeliveryState.PENDING
        deliveries.set_sent(tx, row.id, at=NOON, ask_again_at=NOON + timedelta(hours=1), reason="")
        told = deliveries.newest_commitment(tx, row.id)
        assert told is not None and told.committed == {"1.9.1"}
        deliveries.look_now(tx, row.id, NOON)
    assert len(due(ledger)) == 1


def test_the_newest_request_counts_and_an_answer_nobody_asked_for_is_told(ledger: Ledger) -> None:
    row = sent(ledger)
    with ledger.begin() as tx:
        for number in range(3):
            deliveries.register_commitment(tx, f"2.25.{number}", row.id, NOON + timedelta(seconds=number % 2))
        newest = deliveries.newest_commitment(tx, row.id)
        assert newest is not None and newest.transaction_uid == "2.25.1"
        assert not deliveries.answer_commitment(tx, "2.25.99", committed=[], failed={}, at=NOON)

"""The ledger's contract for reception, studies and events, the same on SQLite and on PostgreSQL."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from dicom_node.facts import InstanceFacts
from dicom_node.ledger import Ledger, events, instances, jobs, retention, studies
from dicom_node.ledger.schema import UtcTime
from dicom_node.states import InstanceState, JobRole, JobState, Outcome, Stage, StudyState
from dicom_node.study import RecordedKind
from inference.findings import StudyUid
from inference.refusals import Reason, Refusal
from models.card import PresentationIntent
from tests.ledgers import (
    NOON,
    STUDY,
    TestClock,
    add_job,
    add_result,
    claim,
    instance,
    record,
    succeed,
)


def study_of(ledger: Ledger, study: str = STUDY) -> studies.StudyRow:
    with ledger.read() as tx:
        found = studies.get(tx, StudyUid(study))
    assert found is not None
    return found


def settle(ledger: Ledger, study: str = STUDY, state: StudyState = StudyState.COMPLETE) -> None:
    with ledger.begin() as tx:
        seen = studies.get(tx, StudyUid(study))
        assert seen is not None and studies.settle(tx, seen, state=state, at=ledger.clock())


def together(count: int, work: Callable[[int], object]) -> list[object]:
    """Run `work` in so many threads that all begin at once."""
    gate = threading.Barrier(count)

    def one(number: int) -> object:
        gate.wait()
        return work(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))


# recording -----------------------------------------------------------------------------------------------------------


def test_the_first_instance_opens_its_study_and_the_same_bytes_again_change_nothing(ledger: Ledger) -> None:
    assert record(ledger, instance()).kind is RecordedKind.NEW
    later = NOON + timedelta(seconds=9)
    assert (
        record(ledger, instance(received_at=later, relative_path="instances/00/other")).kind is RecordedKind.DUPLICATE
    )
    with ledger.read() as tx:
        (stored,) = instances.of_study(tx, STUDY)
        times = tx.execute(sa.text("SELECT times_received FROM instance")).scalar_one()
        (opened,) = events.of_study(tx, STUDY)
    assert (stored.path, stored.received_at, stored.state) == (instance().relative_path, NOON, InstanceState.STORED)
    assert times == 2
    assert opened.what == "first instance received" and opened.revision == 1
    study = study_of(ledger)
    assert (study.state, study.revision, study.last_received_at, study.look_at) == (StudyState.RECEIVING, 1, NOON, NOON)


def test_other_bytes_under_the_same_uid_are_kept_beside_and_become_current(ledger: Ledger) -> None:
    record(ledger, instance(content="old"))
    assert record(ledger, instance(content="new")).kind is RecordedKind.REVISED
    with ledger.read() as tx:
        (current,) = instances.of_study(tx, STUDY)
        both = instances.of_study(tx, STUDY, only_current=False)
        what = [event.what for event in events.of_study(tx, STUDY)]
        assert studies.instance_count(tx, STUDY) == 1
    assert current.sha256 == instance(content="new").sha256
    assert [stored.is_current for stored in both] == [False, True]
    assert any("other bytes" in words for words in what)


def test_earlier_bytes_that_come_again_are_current_again_and_wake_their_study(ledger: Ledger, clock: TestClock) -> None:
    record(ledger, instance(content="good"))
    record(ledger, instance(content="cut"))
    settle(ledger)
    again = instance(content="good", relative_path="instances/00/again", received_at=clock.move(60))
    assert record(ledger, again).kind is RecordedKind.DUPLICATE, "its file is there: the new one is not kept"
    with ledger.read() as tx:
        (current,) = instances.of_study(tx, STUDY)
        both = instances.of_study(tx, STUDY, only_current=False)
        what = [event.what for event in events.of_study(tx, STUDY)]
    assert (current.sha256, current.path) == (instance(content="good").sha256, instance(content="good").relative_path)
    assert [stored.is_current for stored in both] == [True, False]
    assert "earlier bytes of an instance came again; they are current again" in what
    study = study_of(ledger)
    assert (study.state, study.revision, study.look_at) == (StudyState.RECEIVING, 2, clock.now)
    record(ledger, again)
    assert study_of(ledger).revision == 2
    with ledger.read() as tx:
        assert len(events.of_study(tx, STUDY)) == len(what) and len(instances.of_study(tx, STUDY)) == 1


def test_one_uid_in_two_studies_is_two_instances(ledger: Ledger) -> None:
    kinds = [record(ledger, instance(study=study)).kind for study in ("1.2.840.1", "1.2.840.2")]
    assert kinds == [RecordedKind.NEW, RecordedKind.NEW]


def test_a_late_instance_reopens_a_settled_study_in_its_next_revision(ledger: Ledger, clock: TestClock) -> None:
    record(ledger, instance())
    settle(ledger)
    late = clock.move(3600)
    record(ledger, instance("1.2.3.2", received_at=late))
    study = study_of(ledger)
    assert (study.state, study.revision, study.revision_started_at) == (StudyState.RECEIVING, 2, late)
    assert study.first_received_at == NOON
    assert (study.completed_at, study.look_at) == (None, late)
    record(ledger, instance("1.2.3.3", received_at=late))
    assert study_of(ledger).revision == 2


def test_a_duplicate_does_not_reopen_a_settled_study(ledger: Ledger) -> None:
    record(ledger, instance())
    settle(ledger)
    record(ledger, instance())
    assert study_of(ledger).state is StudyState.COMPLETE


def test_many_senders_of_one_study_lose_and_double_nothing(ledger: Ledger) -> None:
    kinds = together(8, lambda number: [record(ledger, instance(f"1.2.3.{number}.{n}")).kind for n in range(5)])
    assert kinds == [[RecordedKind.NEW] * 5] * 8
    with ledger.read() as tx:
        assert studies.instance_count(tx, STUDY) == 40
        assert [event.what for event in events.of_study(tx, STUDY)] == ["first instance received"]


def test_the_same_instance_sent_by_many_at_once_is_new_once(ledger: Ledger) -> None:
    kinds = together(8, lambda _number: record(ledger, instance()).kind)
    assert sorted(map(str, kinds)) == ["duplicate"] * 7 + ["new"]


def test_revisions_sent_by_many_at_once_leave_one_current(ledger: Ledger) -> None:
    kinds = together(6, lambda number: record(ledger, instance(content=str(number))).kind)
    assert sorted(map(str, kinds)) == ["new"] + ["revised"] * 5
    with ledger.read() as tx:
        assert len(instances.of_study(tx, STUDY)) == 1
        assert len(instances.of_study(tx, STUDY, only_current=False)) == 6


def test_nothing_is_recorded_when_the_transaction_fails(ledger: Ledger) -> None:
    with pytest.raises(RuntimeError), ledger.begin() as tx:
        instances.record(tx, instance())
        raise RuntimeError
    with ledger.read() as tx:
        assert studies.get(tx, STUDY) is None
        assert instances.known_paths(tx) == frozenset()


# indexing ------------------------------------------------------------------------------------------------------------

FACTS = InstanceFacts(
    modality="CT", view_modifiers=("SPOT",), image_type=("ORIGINAL", "PRIMARY"), normal=(0.0, 0.0, 1.0),
    position_mm=-12.25, presentation=PresentationIntent.FOR_PROCESSING, study_description="Грудь \x00 \ud834",
)  # fmt: skip


def test_facts_come_back_as_they_were_entered_even_hostile_ones(ledger: Ledger) -> None:
    record(ledger, instance())
    with ledger.begin() as tx:
        (waiting,) = instances.to_index(tx, limit=10)
        assert waiting.facts is None
        instances.set_indexed(tx, waiting.id, FACTS)
    with ledger.read() as tx:
        assert instances.to_index(tx, limit=10) == ()
        (stored,) = instances.of_study(tx, STUDY)
        assert instances.count_by_state(tx) == {InstanceState.INDEXED: 1}
    assert stored.facts == FACTS


@pytest.mark.parametrize("facts", [None, FACTS])
def test_an_instance_is_set_aside_with_its_reason(ledger: Ledger, facts: InstanceFacts | None) -> None:
    record(ledger, instance())
    refusal = Refusal(reason=Reason.NOT_GREY, detail="RGB\x00, 3 sample(s)")
    with ledger.begin() as tx:
        (waiting,) = instances.to_index(tx, limit=10)
        instances.set_aside(tx, waiting.id, InstanceState.QUARANTINED, refusal, facts)
    with ledger.read() as tx:
        (stored,) = instances.of_study(tx, STUDY)
    assert (stored.state, stored.reason, stored.facts) == (InstanceState.QUARANTINED, "not_grey", facts)
    assert "RGB" in str(stored.detail)


def test_instances_are_found_by_row_in_the_order_asked(ledger: Ledger) -> None:
    for number in range(3):
        record(ledger, instance(f"1.2.3.{number}"))
    with ledger.read() as tx:
        ids = [stored.id for stored in instances.of_study(tx, STUDY)]
        found = instances.by_ids(tx, [ids[2], ids[0], 999_999])
        assert instances.by_ids(tx, []) == ()
    assert [stored.id for stored in found] == [ids[2], ids[0]]


def test_more_rows_than_a_database_takes_parameters_are_found(ledger: Ledger) -> None:
    record(ledger, instance())
    with ledger.read() as tx:
        (stored,) = instances.of_study(tx, STUDY)
        assert instances.by_ids(tx, [*range(10_000_000, 10_002_000), stored.id]) == (stored,)


# studies -------------------------------------------------------------------------------------------------------------


def test_due_studies_are_those_whose_time_has_come_longest_waiting_first(ledger: Ledger) -> None:
    for number, waits_s in enumerate((30, 10, 20)):
        record(ledger, instance(study=f"1.2.{number}", received_at=NOON + timedelta(seconds=waits_s)))
    with ledger.read() as tx:
        assert [study.study_uid for study in studies.due(tx, NOON + timedelta(seconds=20), limit=9)] == [
            "1.2.1",
            "1.2.2",
        ]
        assert len(studies.due(tx, NOON + timedelta(days=1), limit=2)) == 2
        assert studies.next_look_at(tx) == NOON + timedelta(seconds=10)


def test_a_decision_on_what_has_changed_meanwhile_is_not_taken(ledger: Ledger) -> None:
    record(ledger, instance())
    seen = study_of(ledger)
    record(ledger, instance("1.2.3.2", received_at=NOON + timedelta(seconds=1)))
    with ledger.begin() as tx:
        assert not studies.settle(tx, seen, state=StudyState.COMPLETE, at=NOON)
        assert not studies.wait(tx, seen, look_at=NOON + timedelta(days=1), waiting_for="views")
    seen = study_of(ledger)
    with ledger.begin() as tx:
        assert studies.wait(tx, seen, look_at=NOON + timedelta(days=1), waiting_for="views")
    assert study_of(ledger).waiting_for == "views"
    settle(ledger, state=StudyState.INCOMPLETE)
    study = study_of(ledger)
    assert (study.state, study.look_at, study.waiting_for) == (StudyState.INCOMPLETE, None, None)


def test_an_outcome_is_kept_and_replaced(ledger: Ledger) -> None:
    record(ledger, instance())
    for outcome, reason in ((Outcome.NOT_ANALYSED, "view"), (Outcome.ANALYSED, "")):
        with ledger.begin() as tx:
            studies.end(tx, STUDY, outcome=outcome, at=NOON, reason=reason, detail=reason)
        study = study_of(ledger)
        assert (study.outcome, study.outcome_reason, study.outcome_detail) == (outcome, reason or None, reason or None)
    record(ledger, instance(study="1.2.9"))
    with ledger.begin() as tx:
        assert studies.count_by_outcome(tx) == {"analysed": 1, "receiving": 1}
        studies.set_retracted(tx, STUDY, NOON)
    assert study_of(ledger).retracted_at == NOON


def test_a_study_is_found_by_how_it_begins_or_ends_and_patterns_mean_nothing(ledger: Ledger) -> None:
    for study in ("1.2.840.77", "1.2.840.78", "1.3.77"):
        record(ledger, instance(study=study, received_at=NOON + timedelta(seconds=int(study[-2:]))))
    with ledger.read() as tx:
        assert set(studies.find(tx, ".77")) == {"1.2.840.77", "1.3.77"}
        assert set(studies.find(tx, "1.2.840")) == {"1.2.840.77", "1.2.840.78"}
        assert studies.find(tx, "%") == studies.find(tx, "_") == ()
        assert [study.study_uid for study in studies.newest(tx, limit=1)] == ["1.2.840.78"]


def test_a_restart_looks_at_every_unsettled_study_and_takes_future_times_as_now(
    ledger: Ledger, clock: TestClock
) -> None:
    record(ledger, instance(received_at=NOON + timedelta(days=365)))
    record(ledger, instance(study="1.2.9"))
    settle(ledger, "1.2.9")
    with ledger.begin() as tx:
        assert studies.wake_all_receiving(tx, clock.now) == 1
    study = study_of(ledger)
    assert study.look_at == study.last_received_at == study.revision_started_at == study.first_received_at == NOON
    assert study_of(ledger, "1.2.9").look_at is None


def test_a_person_may_have_an_unsettled_study_looked_at_now_and_a_settled_one_is_left(ledger: Ledger) -> None:
    record(ledger, instance())
    with ledger.begin() as tx:
        seen = studies.get(tx, STUDY)
        assert seen and studies.wait(tx, seen, look_at=NOON + timedelta(days=1), waiting_for="views")
        studies.look_now(tx, STUDY, NOON)
    study = study_of(ledger)
    assert (study.look_at, study.waved_through, study.first_received_at) == (NOON, 1, NOON)
    settle(ledger)
    with ledger.begin() as tx:
        studies.look_now(tx, STUDY, NOON)
    assert study_of(ledger).look_at is None


# events --------------------------------------------------------------------------------------------------------------


def test_events_are_told_in_the_order_they_were_entered_whatever_their_times(ledger: Ledger) -> None:
    with ledger.begin() as tx:
        for number, stage in enumerate(Stage):
            at = NOON - timedelta(seconds=number)
            events.add(tx, STUDY, at=at, stage=stage, what=f"что {number}", detail="d", revision=number or None)
        events.add(tx, StudyUid("1.9"), at=NOON, stage=Stage.ROUTE, what="of another study")
    with ledger.read() as tx:
        told = events.of_study(tx, STUDY)
    assert [event.stage for event in told] == list(Stage)
    assert [event.what for event in told] == [f"что {number}" for number in range(len(Stage))]
    assert told[0].revision is None and told[1].revision == 1 and told[1].at == NOON - timedelta(seconds=1)


# times ---------------------------------------------------------------------------------------------------------------


@given(moment=st.datetimes(min_value=datetime(1, 1, 2), max_value=datetime(9999, 12, 30), timezones=st.timezones()))
@example(moment=datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC))
@settings(max_examples=100, deadline=None)
def test_a_time_comes_back_to_the_microsecond(moment: datetime) -> None:
    dialect = sa.create_engine("sqlite://").dialect
    stored = UtcTime().process_bind_param(moment, dialect)
    assert isinstance(stored, int)
    assert UtcTime().process_result_value(stored, dialect) == moment.astimezone(UTC)


@given(moment=st.datetimes(timezones=st.just(UTC)))
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_database_keeps_a_time_to_the_microsecond(ledger: Ledger, moment: datetime) -> None:
    study = StudyUid(f"1.2.{abs(hash(moment))}")
    with ledger.begin() as tx:
        events.add(tx, study, at=moment, stage=Stage.ROUTE, what="")
        assert events.of_study(tx, study)[-1].at == moment


# retention -----------------------------------------------------------------------------------------------------------


def test_files_may_go_only_when_nothing_is_open_any_more(ledger: Ledger, clock: TestClock) -> None:
    job_id = add_job(ledger)

    def may_go() -> bool:
        with ledger.read() as tx:
            return retention.evictable(tx, clock.now + timedelta(days=7), limit=9) == (STUDY,)

    assert not may_go(), "the study is being received"
    settle(ledger)
    assert not may_go(), "a job is queued"
    claim(ledger)
    assert not may_go(), "a job is running"
    add_result(ledger, job_id, "1.9.1")
    succeed(ledger, job_id)
    assert not may_go(), "a delivery is pending"
    for state, finished, free in (("sent", "NULL", False), ("sent", "1", True), ("failed", "1", True)):
        with ledger.begin() as tx:
            tx.execute(sa.text(f"UPDATE delivery SET state = '{state}', finished_at = {finished}"))
        assert may_go() is free
    with ledger.begin() as tx:
        assert retention.evictable(tx, NOON - timedelta(days=7), limit=9) == (), "too young"
        instances.forget_files(tx, [stored.id for stored in instances.of_study(tx, STUDY)])
        assert retention.evictable(tx, clock.now + timedelta(days=7), limit=9) == ()
        assert instances.known_paths(tx) == frozenset()
        assert instances.of_study(tx, STUDY)[0].path is None


def test_an_evicted_instance_that_comes_again_is_kept_again(ledger: Ledger, clock: TestClock) -> None:
    record(ledger, instance())
    settle(ledger)
    with ledger.begin() as tx:
        instances.forget_files(tx, [stored.id for stored in instances.of_study(tx, STUDY)])
    again = instance(relative_path="instances/00/again", received_at=clock.move(60))
    assert record(ledger, again).kind is RecordedKind.NEW
    assert record(ledger, again).kind is RecordedKind.DUPLICATE
    with ledger.read() as tx:
        (stored,) = instances.of_study(tx, STUDY, only_current=False)
    assert stored.path == "instances/00/again"
    assert (study_of(ledger).state, study_of(ledger).revision) == (StudyState.RECEIVING, 2)


def test_an_evicted_instance_that_was_replaced_comes_again_without_waking_its_study(
    ledger: Ledger, clock: TestClock
) -> None:
    record(ledger, instance(content="first"))
    record(ledger, instance(content="second"))
    settle(ledger)
    with ledger.begin() as tx:
        instances.forget_files(tx, [stored.id for stored in instances.of_study(tx, STUDY, only_current=False)])
    again = instance(content="first", relative_path="instances/00/again", received_at=clock.move(60))
    assert record(ledger, again).kind is RecordedKind.NEW, "its file is the only one now and must be kept"
    with ledger.read() as tx:
        stored = instances.of_study(tx, STUDY, only_current=False)
    assert [(one.path, one.is_current) for one in stored] == [("instances/00/again", False), (None, True)]
    assert (study_of(ledger).state, study_of(ledger).revision) == (StudyState.COMPLETE, 1)


def test_the_oldest_study_goes_first(ledger: Ledger) -> None:
    for number, age_s in ((1, 10), (2, 30), (3, 20)):
        record(ledger, instance(study=f"1.2.{number}", received_at=NOON - timedelta(seconds=age_s)))
        settle(ledger, f"1.2.{number}")
    with ledger.read() as tx:
        assert retention.evictable(tx, NOON, limit=2) == ("1.2.2", "1.2.3")


def test_counts_are_by_state(ledger: Ledger) -> None:
    add_job(ledger)
    add_job(ledger, study="1.2.5")
    claim(ledger, limit=1)
    with ledger.read() as tx:
        assert jobs.count_by_state(tx) == {
            (JobRole.CHAMPION, JobState.QUEUED): 1,
            (JobRole.CHAMPION, JobState.RUNNING): 1,
        }

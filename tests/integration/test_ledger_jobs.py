"""The ledger's contract for jobs: leases, fencing, poison and order, the same on SQLite and on PostgreSQL."""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import sqlalchemy as sa

from dicom_node.ledger import Ledger, jobs
from dicom_node.ledger.jobs import LeaseLost
from dicom_node.outcomes import is_outdated
from dicom_node.states import JobStage, JobState
from inference.refusals import Reason, Refusal
from tests.ledgers import (
    NOON,
    STUDY,
    TestClock,
    add_job,
    add_result,
    claim,
    job_of,
    succeed,
)

OWNER = "node:worker0:1"
OTHER = "node:worker1:2"


def died(ledger: Ledger, owner: str = OWNER) -> int:
    with ledger.begin() as tx:
        return jobs.release(tx, owner_prefix=owner, interrupted=False)


def interrupted(ledger: Ledger, owner: str = OWNER) -> int:
    with ledger.begin() as tx:
        return jobs.release(tx, owner_prefix=owner, interrupted=True)


def test_a_claimed_job_is_running_with_its_attempt_counted(ledger: Ledger) -> None:
    job_id = add_job(ledger, destinations=("pacs", "web"), instance_ids=(3, 1), priority=2)
    with ledger.read() as tx:
        assert jobs.any_queued(tx) and jobs.running(tx) == ()
    (job,) = claim(ledger)
    assert (job.id, job.state, job.stage, job.attempts) == (job_id, JobState.RUNNING, JobStage.CLAIMED, 1)
    assert (job.destinations, job.instance_ids, job.reference) == (("pacs", "web"), (3, 1), "toy-opacity@1.0.0")
    assert (job.lease_owner, job.refusal, job.findings, job.runs_alone) == (OWNER, None, None, False)
    assert claim(ledger, OTHER) == ()
    with ledger.read() as tx:
        assert not jobs.any_queued(tx) and jobs.running(tx) == (job,)


def test_urgent_jobs_go_first_and_equals_in_their_order(ledger: Ledger) -> None:
    ids = [add_job(ledger, study=f"1.2.{n}", priority=priority) for n, priority in enumerate((0, 5, 0, 10))]
    claimed = [job.id for _ in range(4) for job in claim(ledger, limit=1)]
    assert claimed == [ids[3], ids[1], ids[0], ids[2]]


def test_waiting_raises_a_job_so_that_nothing_starves(ledger: Ledger, clock: TestClock) -> None:
    routine = add_job(ledger, study="1.2.1", priority=0)
    clock.move(4 * 60 - 1)
    urgent = add_job(ledger, study="1.2.2", priority=4)
    assert [job.id for job in claim(ledger, limit=1)] == [urgent]
    urgent = add_job(ledger, study="1.2.3", priority=4, at=clock.move(2))
    assert [job.id for job in claim(ledger, limit=2)] == [routine, urgent]


def test_a_job_that_ended_its_worker_runs_alone(ledger: Ledger) -> None:
    once_failed = add_job(ledger, study="1.2.1")
    claim(ledger)
    assert died(ledger) == 1
    fresh = add_job(ledger, study="1.2.2")
    with ledger.read() as tx:
        assert jobs.alone_since(tx) == NOON
    assert [job.id for job in claim(ledger)] == [fresh]
    (alone,) = claim(ledger, alone=True)
    assert (alone.id, alone.attempts, alone.runs_alone) == (once_failed, 2, True)
    with ledger.read() as tx:
        assert jobs.alone_since(tx) is None


def test_the_lane_of_lonely_jobs_gives_one_at_a_time(ledger: Ledger) -> None:
    for n in range(3):
        add_job(ledger, study=f"1.2.{n}")
    claim(ledger)
    died(ledger)
    assert claim(ledger) == ()
    assert len(claim(ledger, alone=True, limit=8)) == 1


def test_many_workers_never_get_the_same_job(ledger: Ledger) -> None:
    ids = {add_job(ledger, study=f"1.2.{n}", priority=n % 3) for n in range(40)}
    gate = threading.Barrier(8)

    def work(number: int) -> list[int]:
        gate.wait()
        mine: list[int] = []
        while claimed := claim(ledger, f"node:worker{number}:1", limit=random.randint(1, 3)):
            mine += [job.id for job in claimed]
        return mine

    with ThreadPoolExecutor(8) as pool:
        shares = list(pool.map(work, range(8)))
    claimed = [job_id for share in shares for job_id in share]
    assert len(claimed) == len(set(claimed))
    # On PostgreSQL a worker that finds all rows locked goes away; what is left is there for the next poll.
    claimed += [job.id for job in claim(ledger, limit=40)]
    assert set(claimed) == ids
    with ledger.read() as tx:
        assert {job.attempts for job in jobs.running(tx)} == {1}


def test_a_lease_that_runs_out_gives_the_job_to_another_and_fences_its_old_worker(
    ledger: Ledger, clock: TestClock
) -> None:
    job_id = add_job(ledger)
    claim(ledger)
    with ledger.begin() as tx:
        assert jobs.release_expired(tx, clock.now + timedelta(seconds=59)) == 0
        jobs.extend_leases(tx, owner=OWNER, until=clock.now + timedelta(seconds=120))
        assert jobs.release_expired(tx, clock.now + timedelta(seconds=61)) == 0
        assert jobs.release_expired(tx, clock.now + timedelta(seconds=121)) == 1
    (again,) = claim(ledger, OTHER, alone=True)
    assert (again.id, again.attempts) == (job_id, 2)
    with pytest.raises(LeaseLost), ledger.begin() as tx:
        jobs.set_stage(tx, job_id, owner=OWNER, stage=JobStage.LOAD, at=clock.now)
    with pytest.raises(LeaseLost), ledger.begin() as tx:
        jobs.put_back(tx, job_id, owner=OWNER, max_batch=1, device=None)
    with pytest.raises(LeaseLost), ledger.begin() as tx:
        jobs.commit_findings(
            tx, job_id, owner=OWNER, inputs_digest="a", findings=None, refusal=None,
            content_time=clock.now, timings_s={}, at=clock.now,
        )  # fmt: skip
    with pytest.raises(LeaseLost):
        succeed(ledger, job_id, OWNER)
    job = job_of(ledger, job_id)
    assert (job.lease_owner, job.stage, job.inputs_digest) == (OTHER, JobStage.CLAIMED, None)
    succeed(ledger, job_id, OTHER)
    with pytest.raises(LeaseLost):
        succeed(ledger, job_id, OTHER)


def test_extending_leases_touches_only_ones_own(ledger: Ledger, clock: TestClock) -> None:
    mine, others = add_job(ledger, study="1.2.1"), add_job(ledger, study="1.2.2")
    claim(ledger, OWNER, limit=1)
    claim(ledger, OTHER, limit=1)
    with ledger.begin() as tx:
        jobs.extend_leases(tx, owner=OWNER, until=clock.now + timedelta(days=1))
        assert jobs.release_expired(tx, clock.now + timedelta(hours=1)) == 1
    assert (job_of(ledger, mine).state, job_of(ledger, others).state) == (JobState.RUNNING, JobState.QUEUED)


def test_the_clock_of_leases_is_the_databases_where_machines_share_it(ledger: Ledger, clock: TestClock) -> None:
    clock.move(-365 * 86400)
    with ledger.read() as tx:
        now = ledger.lease_now(tx)
    assert (now == clock.now) is ledger.is_sqlite
    assert now.tzinfo is not None


def test_a_dead_worker_counts_and_an_interrupted_node_does_not(ledger: Ledger) -> None:
    job_id = add_job(ledger)
    for expected in ((0, 1), (0, 2)):
        claim(ledger)
        assert interrupted(ledger, "node:") == 1
        job = job_of(ledger, job_id)
        assert (job.attempts, job.interruptions) == expected
        assert (job.state, job.lease_owner, job.stage) == (JobState.QUEUED, None, None)
    claim(ledger)
    assert died(ledger) == 1
    assert (job_of(ledger, job_id).attempts, job_of(ledger, job_id).interruptions) == (1, 2)


def test_only_the_jobs_of_the_owner_are_released_and_patterns_mean_nothing(ledger: Ledger) -> None:
    add_job(ledger)
    claim(ledger, "node1:worker0:1")
    assert interrupted(ledger, "node2:") == interrupted(ledger, "%") == interrupted(ledger, "node_:") == 0


def test_after_three_attempts_a_job_is_poison_and_nobody_gets_it_a_fourth_time(ledger: Ledger) -> None:
    job_id = add_job(ledger)
    for attempt in range(3):
        assert len(claim(ledger, alone=attempt > 0)) == 1
        with ledger.read() as tx:
            assert jobs.poisonous(tx) == ()
        died(ledger)
    assert claim(ledger, alone=True) == claim(ledger) == ()
    with ledger.begin() as tx:
        (poison,) = jobs.poisonous(tx)
        assert poison.id == job_id
        jobs.mark_poison(tx, job_id)
        assert jobs.poisonous(tx) == ()
    (told,) = claim(ledger)
    assert told.refusal is not None and told.refusal.reason is Reason.POISON
    assert not told.runs_alone and told.findings is None


def test_findings_that_cannot_be_written_are_poison_too(ledger: Ledger, clock: TestClock) -> None:
    job_id = add_job(ledger)
    for attempt in range(3):
        claim(ledger, alone=attempt > 0)
        with ledger.begin() as tx:
            jobs.commit_findings(
                tx, job_id, owner=OWNER, inputs_digest="a", findings=None, refusal=None,
                content_time=clock.now, timings_s={"load": 1.5}, at=clock.now,
            )  # fmt: skip
        died(ledger)
    with ledger.begin() as tx:
        jobs.mark_poison(tx, jobs.poisonous(tx)[0].id)
    job = job_of(ledger, job_id)
    assert (job.content_time, job.findings) == (None, None)
    assert job.refusal is not None and job.refusal.reason is Reason.POISON


def test_a_refusal_that_ends_its_worker_three_times_is_left_to_a_person(ledger: Ledger, clock: TestClock) -> None:
    job_id = add_job(ledger, refusal=Refusal(reason=Reason.POISON, detail="x"))
    for attempt in range(3):
        claim(ledger, alone=attempt > 0)
        died(ledger)
    assert claim(ledger, alone=True) == ()
    with ledger.begin() as tx:
        assert jobs.poisonous(tx) == ()
        (hopeless,) = jobs.unwritable(tx)
        jobs.give_up(tx, hopeless.id, at=clock.now)
        assert jobs.unwritable(tx) == ()
    assert (job_of(ledger, job_id).state, job_of(ledger, job_id).finished_at) == (JobState.FAILED, NOON)


def test_interruptions_without_end_are_poison_at_last(ledger: Ledger) -> None:
    add_job(ledger)
    for number in range(jobs.MAX_INTERRUPTIONS):
        assert len(claim(ledger, alone=number > jobs.MAX_ATTEMPTS)) == 1, f"after {number} interruptions"
        interrupted(ledger)
    with ledger.read() as tx:
        assert len(jobs.poisonous(tx)) == 1


def test_a_job_put_back_keeps_what_the_next_worker_must_know(ledger: Ledger) -> None:
    job_id = add_job(ledger)
    claim(ledger)
    with ledger.begin() as tx:
        jobs.put_back(tx, job_id, owner=OWNER, max_batch=1, device="cpu")
    (job,) = claim(ledger, alone=True)
    assert (job.max_batch, job.device, job.attempts) == (1, "cpu", 2)
    with ledger.begin() as tx:
        jobs.put_back(tx, job_id, owner=OWNER, max_batch=1, device="cpu", counts=False)
    assert job_of(ledger, job_id).attempts == 1


def test_what_the_model_said_is_kept_for_a_retry(ledger: Ledger, clock: TestClock) -> None:
    job_id = add_job(ledger)
    claim(ledger)
    said = Refusal(reason=Reason.VIEW, detail="LL; the model accepts PA\x00")
    with ledger.begin() as tx:
        jobs.set_stage(tx, job_id, owner=OWNER, stage=JobStage.INFER, at=clock.now)
        jobs.commit_findings(
            tx, job_id, owner=OWNER, inputs_digest="abc", findings=None, refusal=said,
            content_time=clock.now, timings_s={"load": 0.25}, at=clock.move(1),
        )  # fmt: skip
    job = job_of(ledger, job_id)
    assert (job.stage, job.inputs_digest, job.content_time) == (JobStage.ENCODE, "abc", NOON)
    assert job.refusal is not None and job.refusal.reason is Reason.VIEW
    assert job.timings_s == {"load": 0.25}


def test_only_one_job_per_revision_and_model(ledger: Ledger) -> None:
    add_job(ledger)
    with pytest.raises(sa.exc.IntegrityError):
        add_job(ledger)
    add_job(ledger, revision=2)
    add_job(ledger, model_name="other")


def test_a_newer_revision_ends_queued_jobs_of_older_ones_and_no_others(ledger: Ledger, clock: TestClock) -> None:
    old, running = add_job(ledger), add_job(ledger, model_name="busy", priority=9)
    claim(ledger, limit=1)
    new = add_job(ledger, revision=2)
    with ledger.begin() as tx:
        assert jobs.withdraw_queued(tx, STUDY, 2, clock.now) == 1
    states = {job_id: job_of(ledger, job_id).state for job_id in (old, running, new)}
    assert states == {old: JobState.OUTDATED, running: JobState.RUNNING, new: JobState.QUEUED}
    with ledger.read() as tx:
        assert is_outdated(tx, job_of(ledger, old))
        assert not is_outdated(tx, job_of(ledger, new))
        assert not is_outdated(tx, job_of(ledger, running)), "another model's revision does not count"


def test_a_retried_job_with_results_may_be_outdated_too(ledger: Ledger, clock: TestClock) -> None:
    job_id = add_job(ledger)
    claim(ledger)
    add_result(ledger, job_id, "1.9.1")
    with ledger.begin() as tx:
        jobs.finish(tx, job_id, owner=OWNER, state=JobState.REJECTED, at=clock.now, timings_s={})
        assert jobs.queue_again(tx, job_id, clock.now)
        assert jobs.withdraw_queued(tx, STUDY, 2, clock.now) == 1
    assert job_of(ledger, job_id).state is JobState.OUTDATED


def test_a_person_may_have_a_refused_job_done_again_but_not_a_good_one(ledger: Ledger, clock: TestClock) -> None:
    job_id = add_job(ledger)
    claim(ledger)
    with ledger.begin() as tx:
        refusal = Refusal(reason=Reason.POISON)
        jobs.finish(
            tx, job_id, owner=OWNER, state=JobState.REJECTED, at=clock.now, timings_s={"x": 1.0}, refusal=refusal
        )
    rejected = job_of(ledger, job_id)
    assert rejected.refusal == refusal and rejected.finished_at == NOON and rejected.lease_owner is None
    later = clock.move(60)
    with ledger.begin() as tx:
        assert jobs.queue_again(tx, job_id, later)
        assert not jobs.queue_again(tx, job_id, later)
    again = job_of(ledger, job_id)
    assert (again.state, again.refusal, again.attempts, again.queued_at) == (JobState.QUEUED, None, 0, later)
    claim(ledger)
    succeed(ledger, job_id)
    with ledger.begin() as tx:
        assert not jobs.queue_again(tx, job_id, later)


def test_the_last_job_that_gave_a_result_is_found(ledger: Ledger) -> None:
    first = add_job(ledger)
    claim(ledger)
    with ledger.read() as tx:
        assert jobs.last_ended(tx, STUDY, "toy-opacity") is None
        begun = jobs.last_begun(tx, STUDY, "toy-opacity")
        assert begun is not None and begun.id == first
    succeed(ledger, first)
    second = add_job(ledger, revision=2)
    with ledger.read() as tx:
        ended, begun = (ask(tx, STUDY, "toy-opacity") for ask in (jobs.last_ended, jobs.last_begun))
        assert ended is not None and begun is not None
        assert ended.id == begun.id == first, "a queued job has not begun"
        assert [job.id for job in jobs.newest_of_study(tx, STUDY)] == [second]

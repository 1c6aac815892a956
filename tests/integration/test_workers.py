"""Workers: what they do with jobs, and what becomes of jobs when one is killed, stuck, out of memory or stopped."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from numpy.typing import NDArray

from dicom_node.building import installed
from dicom_node.clock import SteadyClock
from dicom_node.ledger import Ledger, jobs
from dicom_node.ledger.jobs import Job
from dicom_node.ledger.schema import event
from dicom_node.states import JobStage, JobState, Outcome
from dicom_node.worker import EXIT_RESTART, Worker
from dicom_node.workers import WorkerPool
from inference.engine import EngineSettings
from inference.findings import StudyUid
from inference.runtimes import open_network
from inference.runtimes.base import Device, DeviceOutOfMemory, Network
from models.registry import InstalledModel
from tests.pictures import disc_picture, film_file
from tests.pipeline_rig import PipelineRig
from tests.toy_model import install_toy_model

STUDY, NEXT = "1.2.826.0.1.55", "1.2.826.0.1.56"
WORKER = {"count": 1, "device": "cpu", "lease_s": 2.0, "poll_s": 0.02, "loader_threads": 1}
PATIENCE_S = 120.0


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., PipelineRig]]:
    made: list[PipelineRig] = []

    def one(*, endless_on_white: bool = False, **worker: Any) -> PipelineRig:
        if not (tmp_path / "models").exists():
            install_toy_model(tmp_path / "models", endless_on_white=endless_on_white)
        rig = PipelineRig(tmp_path, worker=WORKER | worker)
        rig.clock.now = datetime.now(UTC) - timedelta(seconds=100)  # workers have a clock of their own, the real one
        made.append(rig)
        return rig

    yield one
    for rig in made:
        rig.close()


def receive(rig: PipelineRig, study: str = STUDY, *, white: bool = False, count: int = 1) -> None:
    """Films of a study, routed and queued; a white one is what the endless model never finishes."""
    for number in range(count):
        pixels = disc_picture(64, 48)
        if white:
            pixels = np.full((64, 64), 255, dtype=np.uint16)
            pixels[:2] = 0
        rig.receive(film_file(rig.folder / f"{study}-{number}.dcm", pixels, StudyInstanceUID=study))
    assert rig.settle() == 1


def job_of(rig: PipelineRig, study: str = STUDY) -> Job:
    with rig.pipeline.ledger.read() as tx:
        return jobs.of_study(tx, StudyUid(study))[-1]


def is_stuck(rig: PipelineRig, study: str = STUDY) -> bool:
    job = job_of(rig, study)
    return job.state is JobState.RUNNING and job.stage is JobStage.INFER


class Pool:
    """A pool of real worker processes, tended by the test."""

    def __init__(self, rig: PipelineRig) -> None:
        self.rig = rig
        clock = SteadyClock.start()
        self.ledger = Ledger(rig.settings.ledger_url, clock=clock)
        self.pool = WorkerPool(rig.settings, self.ledger, clock, "node")

    def until(self, condition: Callable[[], bool]) -> None:
        """Do what the node does to its workers until `condition` holds."""
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline, self.rig.told(STUDY)
            self.pool.tend()
            self.rig.pipeline.stop_hopeless()
            time.sleep(0.05)


@contextmanager
def pool_of(rig: PipelineRig) -> Iterator[Pool]:
    pool = Pool(rig)
    try:
        yield pool
    finally:
        pool.pool.stop(0.1)
        pool.ledger.close()


# processes -----------------------------------------------------------------------------------------------------------


def test_a_killed_worker_costs_its_job_an_attempt_and_a_stopped_node_does_not(make: Callable[..., PipelineRig]) -> None:
    rig = make(endless_on_white=True)
    receive(rig, white=True)
    with pool_of(rig) as pool:
        pool.until(lambda: is_stuck(rig))
        (first,) = pool.pool.process_ids
        os.kill(first, signal.SIGKILL)
        pool.until(lambda: pool.pool.restarts == 1)
        queued = job_of(rig)
        assert (queued.state, queued.attempts, queued.interruptions) == (JobState.QUEUED, 1, 0)
        pool.until(lambda: is_stuck(rig))
        again = job_of(rig)
        assert again.attempts == 2 and again.runs_alone
        assert pool.pool.process_ids not in ((first,), ())
        pool.pool.stop(0.1)
        parked = job_of(rig)
        assert (parked.state, parked.attempts, parked.interruptions) == (JobState.QUEUED, 1, 1)
        assert parked.lease_owner is None


def test_a_film_that_no_worker_finishes_is_poison_and_the_next_study_is_analysed(
    make: Callable[..., PipelineRig],
) -> None:
    rig = make(endless_on_white=True, job_timeout_s=4.0)
    receive(rig, white=True)
    receive(rig, NEXT)
    with pool_of(rig) as pool:
        pool.until(lambda: all(rig.account(study).study.outcome is not None for study in (STUDY, NEXT)))
        assert pool.pool.restarts >= 3
    poisoned, fine = rig.account(STUDY), rig.account(NEXT)
    assert (poisoned.study.outcome, poisoned.study.outcome_reason) == (Outcome.NOT_ANALYSED, "poison")
    assert [one.role for one in poisoned.results[0].objects] == ["status_page"], "the radiologist is told"
    assert any("given up after 3 attempt(s)" in words for words in rig.told(STUDY))
    assert fine.study.outcome is Outcome.ANALYSED


def test_a_pool_that_is_stopped_lets_its_workers_finish(make: Callable[..., PipelineRig]) -> None:
    rig = make()
    receive(rig)
    with pool_of(rig) as pool:
        pool.until(lambda: job_of(rig).state is not JobState.QUEUED)
        pool.pool.stop(PATIENCE_S)
    job = job_of(rig)
    assert (job.state, job.attempts, job.interruptions) == (JobState.SUCCEEDED, 1, 0)


def test_a_pool_that_is_stopped_gives_back_nothing_of_another_pool_of_that_name(
    make: Callable[..., PipelineRig],
) -> None:
    rig = make(endless_on_white=True)
    receive(rig, white=True)
    with pool_of(rig) as pool:
        pool.until(lambda: is_stuck(rig))
        held = job_of(rig)
        with pool_of(rig):
            pass
        assert (job_of(rig).state, job_of(rig).lease_owner) == (JobState.RUNNING, held.lease_owner)


def test_a_pool_that_is_stopped_while_it_is_tended_leaves_no_worker_behind(
    make: Callable[..., PipelineRig], monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = make()
    with pool_of(rig) as pool:
        start, starting = pool.pool._start, threading.Event()
        begun: list[Any] = []

        def start_slowly(number: int) -> Any:
            starting.set()
            time.sleep(0.5)
            begun.append(start(number))
            return begun[-1]

        monkeypatch.setattr(pool.pool, "_start", start_slowly)
        tending = threading.Thread(target=pool.pool.run, args=[threading.Event()], daemon=True)
        tending.start()
        assert starting.wait(PATIENCE_S)
        pool.pool.stop(0.1)
        assert len(begun) == 1 and not begun[0].process.is_alive()
        assert pool.pool.process_ids == ()
        pool.pool.tend()
        assert len(begun) == 1, "a stopped pool starts nothing"


# one worker, in this process -----------------------------------------------------------------------------------------


class SmallDevice:
    """The real network on a device whose memory holds `room` pictures; the CPU's memory always suffices."""

    def __init__(self, model: InstalledModel, settings: EngineSettings, room: int) -> None:
        self._network = open_network(model, device=Device.CPU)
        self.device = "cpu" if settings.device == "cpu" else "cuda"
        self.max_batch = self._network.max_batch
        self._room = room

    def run(self, batch: NDArray[np.float32]) -> Mapping[str, NDArray[np.float32]]:
        if self.device == "cuda" and len(batch) > self._room:
            raise DeviceOutOfMemory("the device is full")
        return self._network.run(batch)

    def close(self) -> None:
        self._network.close()


def work(
    rig: PipelineRig,
    until: Callable[[], bool],
    *,
    room: int | None = None,
    owner: str = "node:worker0:1",
) -> int:
    """Run one worker until `until` holds or it asks to be restarted; its exit status."""
    networks: Callable[[InstalledModel, EngineSettings], Network] | None = None
    if room is not None:
        networks = lambda model, settings: SmallDevice(model, settings, room)  # noqa: E731
    worker = Worker(rig.pipeline, installed(rig.settings), owner, networks=networks)
    stop, status = threading.Event(), [-1]
    thread = threading.Thread(target=lambda: status.__setitem__(0, worker.run(stop)))
    rig.clock.now = datetime.now(UTC)
    thread.start()
    deadline = time.monotonic() + PATIENCE_S
    while thread.is_alive() and not until() and time.monotonic() < deadline:
        time.sleep(0.02)
    stop.set()
    thread.join(PATIENCE_S)
    return status[0]


def ended(rig: PipelineRig, *studies: str) -> Callable[[], bool]:
    return lambda: all(rig.account(study).study.outcome is not None for study in studies or (STUDY,))


def test_a_worker_does_what_is_queued_and_stops_when_told(make: Callable[..., PipelineRig]) -> None:
    rig = make()
    for study in (STUDY, NEXT):
        receive(rig, study)
    assert work(rig, ended(rig, STUDY, NEXT)) == 0
    assert [rig.account(study).study.outcome for study in (STUDY, NEXT)] == [Outcome.ANALYSED] * 2
    job = job_of(rig)
    assert set(job.timings_s) >= {"load", "model", "encode", "total"} and job.lease_owner is None


def test_out_of_memory_the_study_resumes_picture_by_picture(make: Callable[..., PipelineRig]) -> None:
    rig = make(device="auto", max_batch=4, max_delay_s=5.0)
    receive(rig, count=2)
    assert work(rig, ended(rig), room=1) == EXIT_RESTART
    job = job_of(rig)
    assert (job.state, job.attempts, job.max_batch, job.device) == (JobState.QUEUED, 1, 1, None)
    assert work(rig, ended(rig), room=1, owner="node:worker0:2") == 0
    assert (job_of(rig).state, job_of(rig).attempts) == (JobState.SUCCEEDED, 2)


def test_out_of_memory_even_with_one_picture_the_study_goes_to_the_cpu(make: Callable[..., PipelineRig]) -> None:
    rig = make(device="auto", max_batch=4)
    receive(rig)
    assert work(rig, ended(rig), room=0) == EXIT_RESTART
    assert work(rig, ended(rig), room=0, owner="node:worker0:2") == EXIT_RESTART
    job = job_of(rig)
    assert (job.attempts, job.max_batch, job.device) == (2, 1, "cpu")
    assert work(rig, ended(rig), room=0, owner="node:worker0:3") == 0
    assert rig.account(STUDY).study.outcome is Outcome.ANALYSED


def test_neighbours_of_a_study_that_filled_the_device_are_not_held_guilty(make: Callable[..., PipelineRig]) -> None:
    rig = make(device="auto", max_batch=4, max_delay_s=5.0)
    receive(rig)
    receive(rig, NEXT)
    assert work(rig, ended(rig, STUDY, NEXT), room=1) == EXIT_RESTART
    attempts = sorted((job.attempts, job.interruptions) for job in (job_of(rig), job_of(rig, NEXT)))
    assert attempts == [(0, 1), (1, 0)]
    assert work(rig, ended(rig, STUDY, NEXT), room=1, owner="node:worker0:2") == 0
    assert rig.account(NEXT).study.outcome is Outcome.ANALYSED


@pytest.mark.parametrize(("waited_s", "its_turn"), [(0.0, "last"), (3600.0, "first")])
def test_a_job_that_runs_alone_lets_others_pass_but_not_for_ever(
    make: Callable[..., PipelineRig], waited_s: float, its_turn: str
) -> None:
    rig = make(max_jobs_in_flight=1, ageing_s=1000.0)
    rig.clock.move(-waited_s)
    receive(rig)
    rig.claim()
    with rig.pipeline.ledger.begin() as tx:
        jobs.release(tx, owner_prefix="node:", interrupted=False)
    rig.clock.now = datetime.now(UTC) - timedelta(seconds=50)
    others = [f"{NEXT}.{number}" for number in range(3)]
    for study in others:
        receive(rig, study)
    assert work(rig, ended(rig, STUDY, *others)) == 0
    with rig.pipeline.ledger.read() as tx:
        query = sa.select(event.c.study_uid).where(event.c.what == "outcome analysed").order_by(event.c.id)
        order = list(tx.execute(query).scalars())
    assert order == ([STUDY, *others] if its_turn == "first" else [*others, STUDY])


def test_a_full_disk_costs_no_study_its_attempts(make: Callable[..., PipelineRig]) -> None:
    rig = make()
    receive(rig)
    shutil.rmtree(rig.settings.data_dir / "results")

    def disk_is_back() -> bool:
        job = job_of(rig)
        if job.state is JobState.QUEUED and job.content_time is not None:
            assert job.attempts == 0
            rig.pipeline.store.prepare()
        return rig.account(STUDY).study.outcome is not None

    assert work(rig, disk_is_back) == 0
    assert rig.account(STUDY).study.outcome is Outcome.ANALYSED
    assert job_of(rig).attempts == 1


def test_a_result_that_cannot_be_written_is_given_up_after_three_attempts_and_can_be_retried(
    make: Callable[..., PipelineRig],
) -> None:
    rig = make()
    receive(rig)
    (claimed,) = rig.claim()
    rig.say(claimed)
    with rig.pipeline.ledger.begin() as tx:
        jobs.release(tx, owner_prefix="node:", interrupted=True)
    (stored,) = (rig.settings.data_dir / "instances").rglob("*.dcm")
    kept = stored.rename(rig.folder / "kept.dcm")
    assert work(rig, ended(rig)) == 0
    job = job_of(rig)
    assert (job.state, job.attempts) == (JobState.FAILED, 3)
    assert rig.account(STUDY).study.outcome is Outcome.NOT_ANALYSED
    assert any("writing the result failed" in words for words in rig.told(STUDY))
    kept.rename(stored)
    with rig.pipeline.ledger.begin() as tx:
        assert jobs.queue_again(tx, job.id, rig.clock())
    assert work(rig, lambda: job_of(rig).state is JobState.SUCCEEDED, owner="node:worker0:2") == 0
    assert rig.account(STUDY).study.outcome is Outcome.ANALYSED


def test_a_job_whose_model_is_gone_is_told_so(make: Callable[..., PipelineRig]) -> None:
    rig = make()
    receive(rig)
    install_toy_model(rig.models, name="other")
    shutil.rmtree(rig.models / "toy-opacity")
    rig = make()
    assert work(rig, ended(rig)) == 0
    study = rig.account(STUDY).study
    assert (study.outcome, study.outcome_reason) == (Outcome.NOT_ANALYSED, "no_route")
    assert "toy-opacity@1.0.0 is no longer installed" in str(study.outcome_detail)


def test_a_model_removed_between_its_findings_and_their_writing_is_told_so_and_is_no_poison(
    make: Callable[..., PipelineRig],
) -> None:
    rig = make()
    receive(rig)
    (claimed,) = rig.claim()
    rig.say(claimed)
    with rig.pipeline.ledger.begin() as tx:
        jobs.release(tx, owner_prefix="node:", interrupted=True)
    install_toy_model(rig.models, name="other")
    shutil.rmtree(rig.models / "toy-opacity")
    rig = make()
    assert work(rig, ended(rig)) == 0
    study = rig.account(STUDY).study
    assert (study.outcome, study.outcome_reason) == (Outcome.NOT_ANALYSED, "no_route")


def test_an_image_outside_the_intended_use_is_told_in_a_result(make: Callable[..., PipelineRig]) -> None:
    rig = make()
    rig.receive(film_file(rig.folder / "a.dcm", disc_picture(64, 48), StudyInstanceUID=STUDY, ViewPosition="LL"))
    rig.settle()
    assert work(rig, ended(rig)) == 0
    assert rig.account(STUDY).study.outcome_reason == "view"


def test_a_worker_whose_lease_went_to_another_drops_what_it_did(make: Callable[..., PipelineRig]) -> None:
    rig = make()
    receive(rig)
    (mine,) = rig.claim()
    with rig.pipeline.ledger.begin() as tx:
        assert jobs.release_expired(tx, rig.clock() + timedelta(hours=1)) == 1
    with pytest.raises(jobs.LeaseLost):
        rig.say(mine)
    assert work(rig, ended(rig)) == 0
    assert len(rig.account(STUDY).results) == 1

"""A worker: claims jobs by lease, runs them through warm models, commits what they say and writes the results.

One process of its own, started and watched by `node` (or by `radnode worker` on another machine that shares ledger and
files). It may die at any moment: what it held is queued again by whoever notices. What a stage does is in `pipeline`,
how pictures become findings in `inference.engine`.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from queue import Empty, SimpleQueue
from typing import Literal

import sqlalchemy as sa
import structlog

from dicom_node.ledger import jobs
from dicom_node.ledger.jobs import Job, LeaseLost
from dicom_node.pipeline import Pipeline
from dicom_node.settings import WorkerSettings
from dicom_node.states import JobStage, JobState
from dicom_node.store import StoreError
from inference.engine import Analysis, Engine, EngineSettings
from inference.refusals import Reason, Refusal
from inference.runtimes.base import DeviceOutOfMemory, Network
from models.registry import InstalledModel

log = structlog.get_logger(__name__)

EXIT_RESTART = 75  # the device is out of memory: start this worker afresh (EX_TEMPFAIL)
ENCODER_THREADS = 2
PAUSE_S = 2.0  # before the next claim when the disk does not take results
GPU_BATCH = 8
_STAGES = {"load": JobStage.LOAD, "infer": JobStage.INFER}
_Device = Literal["auto", "cpu", "cuda"]


class Worker:
    """Claims and does jobs until told to stop.

    Parameters
    ----------
    pipeline : Pipeline
        The stages, over the shared ledger and store.
    models : sequence of InstalledModel
        What this worker can run; kept warm.
    owner : str
        Name under which it holds leases, unique per process: ``node:worker:pid``.
    networks : callable, optional
        Opens a model's network, as `inference.engine.Engine` takes it; else the card's own runtime.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        models: tuple[InstalledModel, ...],
        owner: str,
        *,
        networks: Callable[[InstalledModel, EngineSettings], Network] | None = None,
    ) -> None:
        self.pipeline = pipeline
        self._networks = networks
        self.owner = owner
        self.settings: WorkerSettings = pipeline.settings.worker
        self._models = models
        self._engines: dict[_Device, Engine] = {}
        self._held: dict[int, Job] = {}
        self._ended: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._encoders = ThreadPoolExecutor(ENCODER_THREADS, thread_name_prefix="encode")
        self._out_of_memory: Job | None = None
        self._claim_again_at = 0.0

    def run(self, stop: threading.Event) -> int:
        """Work until `stop` is set, then finish what is held; returns the exit status for the process."""
        import dicom_node.results.result_set  # noqa: F401  the writers too are warm before the first claim

        self._engine(self.settings.device)
        beat = threading.Thread(target=self._keep_leases, args=(stop,), name="leases", daemon=True)
        beat.start()
        log.info("worker ready", owner=self.owner)
        while self._out_of_memory is None and not (stop.is_set() and not self._held):
            try:
                if not stop.is_set():
                    self._claim()
                self._settle_ended()
            except sa.exc.DBAPIError as error:  # the ledger is away: everything stays as it is until it comes back
                log.warning("ledger not reachable", stage="work", owner=self.owner, exc_info=error)
                time.sleep(PAUSE_S)
        for engine in self._engines.values():
            engine.close()
        self._encoders.shutdown(wait=True)
        return self._hand_back() if self._out_of_memory else 0

    def _engine(self, device: _Device) -> Engine:
        if device not in self._engines:
            self._engines[device] = Engine(
                self._models,
                settings=EngineSettings(
                    max_batch=self.settings.max_batch or GPU_BATCH,
                    max_delay_s=self.settings.max_delay_s,
                    loader_threads=self.settings.loader_threads,
                    device=device,
                    runtime=self.settings.runtime,
                ),
                networks=self._networks,
            )
            for reference, fault in self._engines[device].faults.items():
                log.error("a model cannot be loaded", alarm=True, model=reference, fault=fault)
        return self._engines[device]

    # claiming --------------------------------------------------------------------------------------------------------

    def _claim(self) -> None:
        room = self.settings.max_jobs_in_flight - len(self._held)
        paused = time.monotonic() < self._claim_again_at
        if paused or room <= 0 or any(job.runs_alone for job in self._held.values()):
            return
        claimed: tuple[Job, ...] = ()
        if not self._alone_is_due():
            claimed = self._take(room, alone=False)
        if not claimed and not self._held:
            claimed = self._take(1, alone=True)
        for job in claimed:
            self._held[job.id] = job
            self._begin(job)

    def _alone_is_due(self) -> bool:
        """Whether a job that runs alone has waited long enough: then nothing else is begun until it had its turn."""
        ledger = self.pipeline.ledger
        with ledger.read() as tx:
            since = jobs.alone_since(tx)
        return since is not None and (ledger.clock() - since).total_seconds() > self.settings.ageing_s

    def _take(self, limit: int, *, alone: bool) -> tuple[Job, ...]:
        ledger = self.pipeline.ledger
        with ledger.read() as tx:  # a look without the write lock: most polls find nothing
            if not jobs.any_queued(tx):
                return ()
        with ledger.begin() as tx:
            return jobs.claim(
                tx,
                owner=self.owner,
                now=ledger.lease_now(tx),
                lease_s=self.settings.lease_s,
                limit=limit,
                ageing_s=self.settings.ageing_s,
                alone=alone,
            )

    def _begin(self, job: Job) -> None:
        """Where a job goes on: at the engine, or at encoding when its findings or its refusal are known already."""
        if job.refusal is None and job.reference not in self.pipeline.cards:
            refusal = Refusal(reason=Reason.NO_ROUTE, detail=f"model {job.reference} is no longer installed")
            self._analysed(job, Analysis(refusal=refusal))
            return
        if job.findings is not None or job.refusal is not None:
            self._encode_later(job)
            return
        engine = self._engine("cpu" if job.device == "cpu" else self.settings.device)
        future = engine.submit(
            job.reference,
            self.pipeline.study_input(job),
            max_batch=self._largest_batch(job, engine),
            on_stage=lambda stage: self._mark(job, stage),
        )
        future.add_done_callback(lambda done: self._ended.put(lambda: self._inferred(job, done)))

    def _largest_batch(self, job: Job, engine: Engine) -> int | None:
        """1 for a job that must run alone, and on a CPU unless the settings say otherwise; None: the engine's."""
        if job.runs_alone:
            return 1
        on_cpu = engine.devices.get(job.reference) == "cpu"
        return 1 if job.max_batch is None and self.settings.max_batch is None and on_cpu else job.max_batch

    def _mark(self, job: Job, stage: str) -> None:
        ledger = self.pipeline.ledger
        # A mark is for whoever watches; an unreachable ledger shows at the next commit that matters.
        with contextlib.suppress(LeaseLost, sa.exc.DBAPIError), ledger.begin() as tx:
            jobs.set_stage(tx, job.id, owner=self.owner, stage=_STAGES[stage], at=ledger.clock())

    # ending ----------------------------------------------------------------------------------------------------------

    def _settle_ended(self) -> None:
        try:
            settle = self._ended.get(timeout=self.settings.poll_s)
        except Empty:
            return
        try:
            settle()
        except sa.exc.DBAPIError:
            self._ended.put(settle)
            raise

    def _inferred(self, job: Job, done: Future[Analysis]) -> None:
        error = done.exception()
        if error is None:
            self._analysed(job, done.result())
        elif isinstance(error, DeviceOutOfMemory):
            self._out_of_memory = job
        else:
            self._drop(job, error)

    def _analysed(self, job: Job, analysis: Analysis) -> None:
        try:
            committed = self.pipeline.commit_analysis(job, self.owner, analysis)
        except LeaseLost as lost:
            self._drop(job, lost)
            return
        if committed.state is JobState.RUNNING:
            self._encode_later(committed)
        else:
            self._held.pop(job.id, None)

    def _encode_later(self, job: Job) -> None:
        encoded = self._encoders.submit(self._encode, job)
        encoded.add_done_callback(lambda done: self._ended.put(lambda: self._encoded(job, done)))

    def _encode(self, job: Job) -> None:
        if job.content_time is None:  # a refusal known before any image was read
            analysis = Analysis(refusal=job.refusal)
            job = self.pipeline.commit_analysis(job, self.owner, analysis)
        if job.state is JobState.RUNNING:
            self.pipeline.encode(job, self.owner)

    def _encoded(self, job: Job, done: Future[None]) -> None:
        error = done.exception()
        if error is None:
            self._held.pop(job.id, None)
            log.info("job done", job=job.id, study_uid=job.study_uid, model=job.reference)
        else:
            self._drop(job, error)

    def _drop(self, job: Job, error: BaseException) -> None:
        """Something unforeseen: the job is tried again, alone; after its third attempt it is poison."""
        if not isinstance(error, LeaseLost):
            self._give_back(job, error)
        self._held.pop(job.id, None)

    def _give_back(self, job: Job, error: BaseException) -> None:
        log.error("job failed", job=job.id, study_uid=job.study_uid, error=type(error).__name__, exc_info=error)
        if isinstance(error, StoreError | sa.exc.DBAPIError):  # disk or ledger, that is no fault of the study
            self._claim_again_at = time.monotonic() + PAUSE_S
            with contextlib.suppress(LeaseLost), self.pipeline.ledger.begin() as tx:
                batch, device = job.max_batch, job.device
                jobs.put_back(tx, job.id, owner=self.owner, max_batch=batch, device=device, counts=False)
            return
        with contextlib.suppress(LeaseLost), self.pipeline.ledger.begin() as tx:
            if job.refusal is not None or job.findings is not None:  # even the reason cannot be written: a person
                now = self.pipeline.ledger.clock()
                if job.attempts >= jobs.MAX_ATTEMPTS:
                    self.pipeline.fail(tx, job, self.owner, f"writing the result failed: {type(error).__name__}", now)
                    return
            jobs.put_back(tx, job.id, owner=self.owner, max_batch=1, device=job.device)

    def _hand_back(self) -> int:
        """Out of device memory: this job resumes alone, then on the CPU; the others as if nothing had been."""
        culprit = self._out_of_memory
        with self.pipeline.ledger.begin() as tx:
            if culprit is not None:
                device = "cpu" if culprit.runs_alone else culprit.device
                with contextlib.suppress(LeaseLost):
                    jobs.put_back(tx, culprit.id, owner=self.owner, max_batch=1, device=device)
            jobs.release(tx, owner_prefix=self.owner, interrupted=True)
        self._held.clear()  # no lease is kept any more
        log.warning("device out of memory, worker restarts", owner=self.owner)
        return EXIT_RESTART

    # leases ----------------------------------------------------------------------------------------------------------

    def _keep_leases(self, stop: threading.Event) -> None:
        while True:
            time.sleep(self.settings.lease_s / 4)
            if stop.is_set() and not self._held:
                return
            try:
                with self.pipeline.ledger.begin() as tx:
                    now = self.pipeline.ledger.lease_now(tx)
                    until = now + timedelta(seconds=self.settings.lease_s)
                    jobs.extend_leases(tx, owner=self.owner, until=until)
            except Exception as error:  # noqa: BLE001  the edge of this loop: an unreachable ledger comes back
                log.warning("leases not extended", stage="lease", owner=self.owner, error=type(error).__name__)


def owner_name(node_id: str, number: int) -> str:
    """Lease owner of a worker process; `node_id` first, so that a node finds everything that was its own."""
    return f"{node_id}:worker{number}:{os.getpid()}"

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

import sqlalchemy as sa
import structlog

from dicom_node.building import ModelFolders
from dicom_node.ledger import jobs, standings
from dicom_node.ledger.jobs import Job, LeaseLost
from dicom_node.pipeline import Pipeline
from dicom_node.settings import WorkerSettings
from dicom_node.states import JobRole, JobStage, JobState
from dicom_node.store import StoreError
from dicom_node.warm_models import WarmModels
from inference.engine import Analysis, EngineSettings
from inference.refusals import Reason, Refusal
from inference.runtimes.base import DeviceOutOfMemory, Network
from models.registry import InstalledModel

log = structlog.get_logger(__name__)

EXIT_RESTART = 75  # the device is out of memory: start this worker afresh (EX_TEMPFAIL)
ENCODER_THREADS = 2
PAUSE_S = 2.0  # before the next claim when the disk does not take results
_STAGES = {"load": JobStage.LOAD, "infer": JobStage.INFER}


class Worker:
    """Claims and does jobs until told to stop.

    Parameters
    ----------
    pipeline : Pipeline
        The stages, over the shared ledger and store.
    models : sequence of InstalledModel
        What is installed; what serves is kept warm.
    owner : str
        Name under which it holds leases, unique per process: ``node:worker:pid``.
    networks : callable, optional
        Opens a model's network, as `inference.engine.Engine` takes it; else the card's own runtime.
    folders : ModelFolders, optional
        Looked at for new versions while the worker runs.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        models: tuple[InstalledModel, ...],
        owner: str,
        *,
        networks: Callable[[InstalledModel, EngineSettings], Network] | None = None,
        folders: ModelFolders | None = None,
    ) -> None:
        self.pipeline = pipeline
        self.owner = owner
        self.settings: WorkerSettings = pipeline.settings.worker
        self._warm = WarmModels(pipeline, models, owner, networks=networks, folders=folders)
        self._held: dict[int, Job] = {}
        self._ended: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._encoders = ThreadPoolExecutor(ENCODER_THREADS, thread_name_prefix="encode")
        self._out_of_memory: Job | None = None
        self._claim_again_at = 0.0

    def run(self, stop: threading.Event) -> int:
        """Work until `stop` is set, then finish what is held; returns the exit status for the process."""
        import dicom_node.results.result_set  # noqa: F401  the writers too are warm before the first claim

        self._warm.start(stop)
        beat = threading.Thread(target=self._keep_leases, args=(stop,), name="leases", daemon=True)
        beat.start()
        log.info("worker ready", owner=self.owner)
        while not self._must_restart and not (stop.is_set() and not self._held):
            try:
                if not stop.is_set():
                    self._claim()
                self._settle_ended()
            except sa.exc.DBAPIError as error:  # the ledger is away: everything stays as it is until it comes back
                log.warning("ledger not reachable", stage="work", owner=self.owner, exc_info=error)
                time.sleep(PAUSE_S)
        self._warm.close()
        self._encoders.shutdown(wait=True)
        return self._hand_back() if self._must_restart else 0

    @property
    def _must_restart(self) -> bool:
        return self._out_of_memory is not None or self._warm.no_room

    # claiming --------------------------------------------------------------------------------------------------------

    def _claim(self) -> None:
        if time.monotonic() < self._claim_again_at:
            return
        for job in self._claim_champions() or self._claim_shadows():
            self._held[job.id] = job
            self._begin(job)

    def _claim_champions(self) -> tuple[Job, ...]:
        """What people wait for. Shadows take none of its room, and one that runs alone does not hold it up."""
        champions = [job for job in self._held.values() if job.role is JobRole.CHAMPION]
        room = self.settings.max_jobs_in_flight - len(champions)
        if room <= 0 or any(job.runs_alone for job in champions):
            return ()
        claimed = () if self._alone_is_due() else self._take(room, alone=False)
        return claimed if claimed or self._held else self._take(1, alone=True)

    def _claim_shadows(self) -> tuple[Job, ...]:
        """A few shadows, when no champion has work, held or waiting."""
        room = self.pipeline.settings.shadow.max_in_flight - len(self._held)
        if room <= 0 or any(job.role is JobRole.CHAMPION or job.runs_alone for job in self._held.values()):
            return ()
        with self.pipeline.ledger.read() as tx:
            if jobs.any_queued(tx, JobRole.CHAMPION):
                return ()
        claimed = self._take(room, alone=False, role=JobRole.SHADOW)
        return claimed if claimed or self._held else self._take(1, alone=True, role=JobRole.SHADOW)

    def _alone_is_due(self) -> bool:
        """Whether a job that runs alone has waited long enough: then nothing else is begun until it had its turn."""
        ledger = self.pipeline.ledger
        with ledger.read() as tx:
            since = jobs.alone_since(tx)
        return since is not None and (ledger.clock() - since).total_seconds() > self.settings.ageing_s

    def _take(self, limit: int, *, alone: bool, role: JobRole = JobRole.CHAMPION) -> tuple[Job, ...]:
        ledger = self.pipeline.ledger
        with ledger.read() as tx:  # a look without the write lock: most polls find nothing
            if not jobs.any_queued(tx, role):
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
                role=role,
            )

    def _begin(self, job: Job) -> None:
        """Where a job goes on: at the engine, or at encoding when its findings or its refusal are known already."""
        gone = self._why_gone(job) if job.refusal is None else None
        if gone is not None:
            self._analysed(job, Analysis(refusal=gone))
            return
        if job.findings is not None or job.refusal is not None:
            self._encode_later(job)
            return
        try:
            future = self._warm.submit(
                job,
                "cpu" if job.device == "cpu" else self.settings.device,
                max_batch=lambda on_cpu: self._largest_batch(job, on_cpu=on_cpu),
                on_stage=lambda stage: self._mark(job, stage),
            )
        except DeviceOutOfMemory as error:
            self._no_room(job, error)
            return
        future.add_done_callback(lambda done: self._ended.put(lambda: self._inferred(job, done)))

    def _why_gone(self, job: Job) -> Refusal | None:
        """Why the model that was meant when the study was routed cannot run; None when it can."""
        card = self.pipeline.cards.get(job.reference)
        if card is None or card.model_digest != job.model_digest:
            self._warm.look_for_models()  # perhaps it was put there a moment ago
            card = self.pipeline.cards.get(job.reference)
        if card is None:
            return Refusal(reason=Reason.NO_ROUTE, detail=f"model {job.reference} is no longer installed")
        if card.model_digest != job.model_digest:
            altered = f"{job.reference} was altered after the study was routed to it: a change is a new version"
            return Refusal(reason=Reason.MODEL_FAILED, detail=altered)
        return None

    def _no_room(self, job: Job, error: DeviceOutOfMemory) -> None:
        """The device is full: a shadow gives way, for a champion this process ends and another one begins afresh."""
        if job.role is JobRole.SHADOW:
            detail = f"{job.reference} has no room on the device: {error}"
            self._analysed(job, Analysis(refusal=Refusal(reason=Reason.MODEL_FAILED, detail=detail)))
        else:
            self._out_of_memory = job

    def _largest_batch(self, job: Job, *, on_cpu: bool) -> int | None:
        """1 for a job that must run alone, and on a CPU unless the settings say otherwise; None: the engine's."""
        if job.runs_alone:
            return 1
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
            self._no_room(job, error)
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
                    standings.renew_loaded(tx, self.owner, now)
            except Exception as error:  # noqa: BLE001  the edge of this loop: an unreachable ledger comes back
                log.warning("leases not extended", stage="lease", owner=self.owner, error=type(error).__name__)


def owner_name(node_id: str, number: int) -> str:
    """Lease owner of a worker process; `node_id` first, so that a node finds everything that was its own."""
    return f"{node_id}:worker{number}:{os.getpid()}"

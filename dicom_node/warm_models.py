"""The networks that one worker keeps in memory: champions, pinned versions and shadows, as the ledger says now.

`worker` submits jobs here. A thread looks at ledger and model folders every second, loads what has come to serve while
studies go on, and lets go of what no longer does. A study goes through the version it was routed to; one that is not
in memory any more is loaded for it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Literal

import sqlalchemy as sa
import structlog

from dicom_node.building import ModelFolders
from dicom_node.ledger import standings
from dicom_node.ledger.jobs import Job
from dicom_node.ledger.standings import LoadedModel
from dicom_node.pipeline import Pipeline
from dicom_node.serving import Version, read_standings, wanted_versions
from dicom_node.states import Standing
from inference.engine import Analysis, Engine, EngineSettings
from inference.refusals import Reason, Refusal
from inference.runtimes.base import DeviceOutOfMemory, Network
from models.card import ModelCard
from models.registry import InstalledModel

log = structlog.get_logger(__name__)

LOOK_S = 1.0  # how soon a worker follows a change of standing
KEEP_S = 30.0  # how long a version that serves no more stays in memory, for studies routed to it
BUSY_S = 0.05
GPU_BATCH = 8
Device = Literal["auto", "cpu", "cuda"]


class WarmModels:
    """What a worker can run at once.

    Parameters
    ----------
    pipeline : Pipeline
        For ledger, settings, routes and cards.
    models : sequence of InstalledModel
        What is installed.
    owner : str
        The worker, as it holds leases.
    networks : callable, optional
        Opens a model's network, as `inference.engine.Engine` takes it.
    folders : ModelFolders, optional
        Looked at for new versions; without it what is installed stays as it is.

    Attributes
    ----------
    no_room : bool
        A version that serves does not fit into the device's memory beside the others: this process must start afresh.
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
        self.no_room = False
        self._pipeline = pipeline
        self._models = {model.card.reference: model for model in models}
        self._owner = owner
        self._networks = networks
        self._folders = folders
        self._engines: dict[Device, Engine] = {}
        self._looking = threading.Lock()  # at the folders
        self._loading = threading.Lock()  # one model at a time is loaded
        self._using = threading.Lock()  # a model is not let go while a study is given to it
        self._without_room: dict[str, str] = {}  # shadows that do not fit
        self._unneeded_since: dict[str, float] = {}
        self._reported: frozenset[tuple[str, str, str | None]] | None = None

    # in the worker's loop --------------------------------------------------------------------------------------------

    def submit(
        self, job: Job, device: Device, *, max_batch: Callable[[bool], int | None], on_stage: Callable[[str], None]
    ) -> Future[Analysis]:
        """Give a study to the version that the job names; it is loaded first when it is not in memory.

        Parameters
        ----------
        max_batch : callable
            Told whether the model runs on a CPU, gives the largest batch.

        Raises
        ------
        DeviceOutOfMemory
            If there is no room to load it.
        """
        engine, study = self._engine(device), self._pipeline.study_input(job)
        while self._models[job.reference].card.model_digest == job.model_digest:
            with self._using:
                loaded = engine.models.get(job.reference)
                if loaded is not None and loaded.model_digest == job.model_digest:
                    on_cpu = engine.devices.get(job.reference) == "cpu"
                    return engine.submit(job.reference, study, max_batch=max_batch(on_cpu), on_stage=on_stage)
            if loaded is None:
                self._load(engine, job.reference)
            elif not self._remove(engine, job.reference):
                time.sleep(BUSY_S)  # a study of the version as it was is under way
        refused: Future[Analysis] = Future()
        detail = f"{job.reference} was altered at this moment: a change is a new version"
        refused.set_result(Analysis(refusal=Refusal(reason=Reason.MODEL_FAILED, detail=detail)))
        return refused

    def start(self, stop: threading.Event) -> None:
        """Load what serves, then follow the ledger until `stop` is set."""
        self._engine(self._pipeline.settings.worker.device)
        self.look()
        threading.Thread(target=self._follow, args=(stop,), name="models", daemon=True).start()

    def close(self) -> None:
        """Let go of everything."""
        for engine in self._engines.values():
            engine.close()
        try:
            with self._pipeline.ledger.begin() as tx:
                standings.forget_loaded(tx, self._owner)
        except sa.exc.DBAPIError:
            log.warning("what this worker held stays in the ledger until it is old", owner=self._owner)

    # following the ledger --------------------------------------------------------------------------------------------

    def look(self) -> None:
        """One look: load what is wanted and not in memory, let go of what was not wanted for a while, and say so."""
        self.look_for_models()
        with self._pipeline.ledger.read() as tx:
            known = read_standings(tx)
        routes = [route.model for route in self._pipeline.routes.route]
        wanted = {one.reference: one for one in wanted_versions(routes, known, self._pipeline.cards) if one.card}
        engine = self._engine(self._pipeline.settings.worker.device)
        self._let_go(engine, wanted)
        for one in wanted.values():
            row = known.of(one.model_name, one.model_version)
            self._have(engine, one, is_shadow=row is not None and row.standing is Standing.SHADOW)
        self._report(engine)

    def _follow(self, stop: threading.Event) -> None:
        while not stop.wait(LOOK_S):
            try:
                self.look()
            except Exception as error:
                log.error("models not looked after", stage="models", owner=self._owner, exc_info=error)

    def look_for_models(self) -> None:
        """See what is installed now; when that changed, what could not be loaded is tried again."""
        with self._looking:
            found = self._folders.changed() if self._folders is not None else None
            if found is None:
                return
            self._models = {model.card.reference: model for model in found}
            self._pipeline.take_models(found)
            self._without_room.clear()
        for engine in self._engines.values():
            for reference in tuple(engine.faults):
                self._remove(engine, reference)

    def _have(self, engine: Engine, version: Version, *, is_shadow: bool) -> None:
        if version.reference in engine.models or version.reference in self._without_room:
            return
        try:
            self._load(engine, version.reference)
        except DeviceOutOfMemory as error:
            if not is_shadow:
                self.no_room = True
                log.error("the device has no room for a model that serves", alarm=True, model=version.reference)
                return
            self._without_room[version.reference] = f"the device has no room for it: {error}"

    def _load(self, engine: Engine, reference: str) -> None:
        with self._loading:
            if reference in engine.models:
                return
            engine.add(self._models[reference])
            fault = engine.faults.get(reference)
        if fault:
            log.error("a model cannot be loaded", alarm=True, model=reference, fault=fault)
        else:
            log.info("model loaded", model=reference, owner=self._owner)

    def _let_go(self, engine: Engine, wanted: dict[str, Version]) -> None:
        now = time.monotonic()
        loaded = engine.models
        for reference, card in loaded.items():
            if reference in wanted and wanted[reference].model_digest == card.model_digest:
                self._unneeded_since.pop(reference, None)
                continue
            since = self._unneeded_since.setdefault(reference, now)
            if reference in wanted or now - since > KEEP_S:
                self._remove(engine, reference)

    def _remove(self, engine: Engine, reference: str) -> bool:
        """Let a model go; False while a study of it is under way."""
        with self._using:
            if reference in engine.models:
                try:
                    engine.remove(reference)
                except ValueError:
                    return False
        self._unneeded_since.pop(reference, None)
        return True

    def _engine(self, device: Device) -> Engine:
        if device not in self._engines:
            settings = self._pipeline.settings.worker
            self._engines[device] = Engine(
                (),
                settings=EngineSettings(
                    max_batch=settings.max_batch or GPU_BATCH,
                    max_delay_s=settings.max_delay_s,
                    loader_threads=settings.loader_threads,
                    device=device,
                    runtime=settings.runtime,
                ),
                networks=self._networks,
            )
        return self._engines[device]

    # telling ---------------------------------------------------------------------------------------------------------

    def _report(self, engine: Engine) -> None:
        """Enter what this worker holds, when it changed."""
        faults = {**engine.faults, **self._without_room}
        cards = {**engine.models, **self._cards_of(self._without_room)}
        now = frozenset((reference, card.model_digest, faults.get(reference)) for reference, card in cards.items())
        if now == self._reported:
            return
        devices = engine.devices
        with self._pipeline.ledger.begin() as tx:
            at = self._pipeline.ledger.lease_now(tx)
            rows = [
                LoadedModel(
                    owner=self._owner,
                    model_name=card.identity.name,
                    model_version=card.identity.version,
                    model_digest=card.model_digest,
                    device=devices.get(reference),
                    fault=faults.get(reference),
                    seen_at=at,
                )
                for reference, card in cards.items()
            ]
            standings.set_loaded(tx, self._owner, rows)
        self._reported = now

    def _cards_of(self, references: dict[str, str]) -> dict[str, ModelCard]:
        return {one: self._pipeline.cards[one] for one in references if one in self._pipeline.cards}

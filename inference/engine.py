"""Studies in, analyses out: warm models, loaders that decode while the network runs, batches across studies.

Called by the worker process (`dicom_node.worker`), `eval` and benchmarks. Loader threads and one batcher thread; what
is decided about a study is in `study_run`, what runs together in `batching`. Nothing here touches network, database
or settings files. A fault stays with its study; only `DeviceOutOfMemory` asks for a new process.
"""

from __future__ import annotations

import heapq
import itertools
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from inference import postprocess
from inference.batching import Batch, Batcher, BatchLimits, Schedule
from inference.guard import AppearanceGuard, guard_of
from inference.images import LoadLimits
from inference.refusals import Reason, Refusal, Refused
from inference.runtimes import open_network
from inference.runtimes.base import Device, Network, NetworkFailed
from inference.study_run import Analysis, Loaded, StudyInput, StudyRun, load_for
from inference.volume_guard import VolumeGuard
from inference.volumes.run import VolumeRun
from inference.volumes.tiles import Tile
from models.card import ModelCard, Runtime
from models.inputs import VolumeInput
from models.registry import InstalledModel, WeightsError

__all__ = ["Analysis", "Engine", "EngineClosed", "EngineSettings", "StudyInput"]


class EngineClosed(Exception):
    """The engine was closed before the study was done. Retryable: nothing was decided."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineSettings:
    """How the engine uses the machine."""

    max_batch: int = 8  # most pictures of a batch
    max_delay_s: float = 0.02  # longest time a picture waits for company; nothing waits when nothing more is coming
    loader_threads: int = 2  # decode and prepare
    network_threads: int = field(default_factory=lambda: min(os.cpu_count() or 1, 4))  # of one inference on the CPU
    device: Literal["auto", "cpu", "cuda"] = "auto"
    runtime: Literal["auto", "onnx", "torch"] = "auto"  # auto takes the first of the card
    ageing_s: float = 60.0  # waiting so long is worth one step of priority
    max_pictures_held: int = 64  # prepared pictures in memory; studies beyond wait as paths
    max_volumes_held: int = 2  # CT studies in memory, up to 1.5 GB each while they load; others wait as paths
    max_pictures_per_study: int = 200  # a projection study with more is no projection study
    limits: LoadLimits = field(default_factory=LoadLimits)


@dataclass(frozen=True, slots=True)
class _PictureTask:
    """A picture in a batch: its study, and what was loaded."""

    run: StudyRun
    loaded: Loaded

    def tensor(self) -> NDArray[np.float32]:
        return self.loaded.prepared.tensor

    def take(self, outputs: Mapping[str, NDArray[np.float32]]) -> None:
        prepared, picture = self.loaded.prepared, self.loaded.picture
        said = postprocess.say(outputs, picture, prepared.transform, self.run.card)
        self.run.results.append((self.loaded, said))

    def refuse(self, refusal: Refusal) -> None:
        self.run.skipped.append((self.loaded.picture.header.sop_instance_uid, refusal))


@dataclass(frozen=True, slots=True)
class _TileTask:
    """A tile of a volume in a batch; it is cut out only when its turn has come."""

    run: VolumeRun
    tile: Tile

    def tensor(self) -> NDArray[np.float32]:
        return self.run.tensor(self.tile)

    def take(self, outputs: Mapping[str, NDArray[np.float32]]) -> None:
        self.run.take(outputs, self.tile)

    def refuse(self, refusal: Refusal) -> None:
        self.run.broken = refusal


_Task: TypeAlias = _PictureTask | _TileTask


class Engine:
    """Runs installed models on studies.

    Parameters
    ----------
    models : sequence of InstalledModel
        Loaded and warmed up here; `submit` names them by reference.
    settings : EngineSettings
    clock : callable
        Monotonic seconds.
    networks : callable
        Opens a model's network: another runtime (a remote one) is passed in here.

    Attributes
    ----------
    faults : mapping of str to str
        Models that cannot be loaded, by reference, and why; their studies are refused, the others' are not.
    """

    def __init__(
        self,
        models: Sequence[InstalledModel],
        *,
        settings: EngineSettings | None = None,
        clock: Callable[[], float] = time.monotonic,
        networks: Callable[[InstalledModel, EngineSettings], Network] | None = None,
    ) -> None:
        self.settings = settings or EngineSettings()
        self._clock = clock
        self._open = networks or _open
        self._cards: dict[str, ModelCard] = {}
        self._networks: dict[str, Network] = {}
        self._guards: dict[str, AppearanceGuard | VolumeGuard | None] = {}
        self.faults: dict[str, str] = {}
        schedule = Schedule[_Task]({}, ageing_s=self.settings.ageing_s)
        self._lock = threading.Condition()
        self._waiting: list[tuple[float, int, StudyRun]] = []  # not yet admitted
        self._to_load: list[tuple[float, int, StudyRun, Callable[[], None]]] = []
        self._runs: set[StudyRun] = set()  # admitted and not done
        self._held = 0  # pictures
        self._loading = 0  # images on their way to the batcher
        self._ordinals = itertools.count()
        self._closed = False
        self._batcher = Batcher(schedule, self._run_batch, more_coming=lambda: self._loading > 0, clock=clock)
        self._loaders = [
            threading.Thread(target=self._load_loop, name=f"loader-{number}", daemon=True)
            for number in range(self.settings.loader_threads)
        ]
        for model in models:
            self.add(model)
        for loader in self._loaders:
            loader.start()

    def add(self, model: InstalledModel) -> None:
        """Load one more model and warm it up; studies of other models go on meanwhile.

        One that cannot be loaded is entered in `faults`: one bad model must not stop the others.

        Raises
        ------
        ValueError
            If a model of this reference is loaded already.
        DeviceOutOfMemory
            If the device has no room for it.
        """
        reference = model.card.reference
        if reference in self._cards:
            raise ValueError(f"{reference} is loaded already: remove it first")
        try:
            guard = guard_of(model)
            network = self._open(model, self.settings)
        except (WeightsError, NetworkFailed) as error:
            self.faults[reference] = str(error)
        else:
            self._networks[reference] = network
            self._guards[reference] = guard
            most = min(self.settings.max_batch, network.max_batch or self.settings.max_batch)
            limits = BatchLimits(max_batch=most, max_delay_s=self.settings.max_delay_s)
            self._batcher.add_model(reference, limits)
        self._cards[reference] = model.card

    def remove(self, reference: str) -> None:
        """Let go of a model and of its memory.

        Raises
        ------
        KeyError
            If the model is not one of this engine's.
        ValueError
            If a study of it is under way.
        """
        with self._lock:
            busy = {run.card.reference for run in self._runs} | {run.card.reference for _, _, run in self._waiting}
            if reference in busy:
                raise ValueError(f"a study of {reference} is under way")
            del self._cards[reference]
        self.faults.pop(reference, None)
        self._guards.pop(reference, None)
        network = self._networks.pop(reference, None)
        if network is not None:
            self._batcher.remove_model(reference)
            network.close()

    @property
    def models(self) -> dict[str, ModelCard]:
        """The models of this engine by reference, those in `faults` too."""
        return dict(self._cards)

    @property
    def devices(self) -> dict[str, str]:
        """Device of each model by reference."""
        return {reference: network.device for reference, network in self._networks.copy().items()}

    def submit(
        self,
        reference: str,
        study: StudyInput,
        *,
        max_batch: int | None = None,
        on_stage: Callable[[str], None] = lambda stage: None,
    ) -> Future[Analysis]:
        """Analyse a study.

        Parameters
        ----------
        reference : str
            ``name@version`` of a model given at construction.
        max_batch : int or None
            Upper bound of this study's batches; 1 runs its pictures alone.
        on_stage : callable
            Told "load" and "infer" as the study gets there, from the engine's threads.

        Returns
        -------
        Future of Analysis
            Its exception is `DeviceOutOfMemory` (start a new process), `EngineClosed`, or an unforeseen error that
            belongs to this study alone.

        Raises
        ------
        KeyError
            If the model is not one of this engine's.
        EngineClosed
            After `close`.
        """
        card = self._cards[reference]
        kind = VolumeRun if isinstance(card.input, VolumeInput) else StudyRun
        run = kind(card, study, max_batch=max_batch, on_stage=on_stage, started_s=self._clock())
        if reference in self.faults:
            refusal = Refusal(
                reason=Reason.MODEL_FAILED, detail=f"{reference} cannot be loaded: {self.faults[reference]}"
            )
            run.future.set_result(Analysis(refusal=refusal))
            return run.future
        with self._lock:
            if self._closed:
                raise EngineClosed
            self._waiting.append((self._key(study), next(self._ordinals), run))
            self._admit()
        return run.future

    def close(self) -> None:
        """Stop after the pictures in hand; studies that are not done end with `EngineClosed`."""
        with self._lock:
            self._closed = True
            left = [run for _, _, run in self._waiting]
            self._waiting.clear()
            self._to_load.clear()
            self._lock.notify_all()
        for loader in self._loaders:
            loader.join()
        self._batcher.close()
        for run in (*left, *self._runs):
            if not run.future.done():
                run.future.set_exception(EngineClosed())
        for network in self._networks.values():
            network.close()

    # admission and loading -------------------------------------------------------------------------------------------

    def _key(self, study: StudyInput) -> float:
        return self._clock() - study.priority * self.settings.ageing_s

    def _admit(self) -> None:
        """Let studies in while there is room, most urgent first; films and volumes each have their own. Lock held."""
        full: set[type[StudyRun]] = set()
        for key, ordinal, run in sorted(self._waiting, key=itemgetter(0, 1)):
            if self._closed or type(run) in full:
                continue
            if not self._has_room(run):
                full.add(type(run))
                continue
            self._waiting.remove((key, ordinal, run))
            if run.future.set_running_or_notify_cancel():
                self._let_in(run, key)

    def _has_room(self, run: StudyRun) -> bool:
        """One study always fits, however large it is. Lock held."""
        if isinstance(run, VolumeRun):
            return sum(isinstance(other, VolumeRun) for other in self._runs) < max(self.settings.max_volumes_held, 1)
        return not self._held or self._held + len(run.study.images) <= self.settings.max_pictures_held

    def _let_in(self, run: StudyRun, key: float) -> None:
        self._runs.add(run)
        if isinstance(run, VolumeRun):
            self._in_loader(run, key, partial(self._load_volume, run))
            return
        self._held += len(run.study.images)
        # A study without images takes one turn too, so that it ends like all others: in a loader thread.
        for path in run.study.images or (Path(),):
            self._in_loader(run, key, partial(self._load_one, run, path))

    def _in_loader(self, run: StudyRun, key: float, step: Callable[[], None]) -> None:
        """Have a loader thread do a step of a study. Lock held."""
        self._loading += 1
        heapq.heappush(self._to_load, (key, next(self._ordinals), run, step))
        self._lock.notify_all()

    def _load_loop(self) -> None:
        while (task := self._next_to_load()) is not None:
            run, step = task
            try:
                if not run.future.done():  # another of its pictures may have ended the study
                    step()
            except Exception as error:  # noqa: BLE001  (the loop's edge: whatever it is, it is this study's alone)
                self._fail(run, error)
            finally:
                with self._lock:
                    self._loading -= 1
                self._batcher.wake()

    def _next_to_load(self) -> tuple[StudyRun, Callable[[], None]] | None:
        with self._lock:
            while not self._to_load and not self._closed:
                self._lock.wait()
            if self._closed:
                return None
            _, _, run, step = heapq.heappop(self._to_load)
            return run, step

    def _load_begins(self, run: StudyRun) -> None:
        with self._lock:
            first = "load" not in run.times_s
            run.times_s.setdefault("load", self._clock())
        if first:
            run.on_stage("load")

    def _load_volume(self, run: VolumeRun) -> None:
        self._load_begins(run)
        guard = self._guards[run.card.reference]
        refusal = run.load(self.settings.limits, guard=guard if isinstance(guard, VolumeGuard) else None)
        if refusal is not None:
            self._finish(run, run.refused(self._clock(), refusal))
        else:
            self._all_loaded(run)

    def _load_one(self, run: StudyRun, path: Path) -> None:
        self._load_begins(run)
        if run.study.images:
            guard = self._guards[run.card.reference]
            by = guard if isinstance(guard, AppearanceGuard) else None
            name, loaded = load_for(run.card, path, self.settings.limits, guard=by, read=run.study.read_picture)
            with self._lock:
                if isinstance(loaded, Refusal):
                    run.skipped.append((name, loaded))
                else:
                    run.loaded.append(loaded)
                run.to_load -= 1
                too_many = len(run.loaded) > self.settings.max_pictures_per_study
                last = run.to_load == 0
            if too_many:
                self._finish(run, run.refused(self._clock(), _too_many(self.settings.max_pictures_per_study)))
                return
            if not last:
                return
        if not run.loaded:
            self._finish(run, run.refused(self._clock()))
        else:
            self._all_loaded(run)

    def _all_loaded(self, run: StudyRun) -> None:
        run.settle_inputs(self._clock())
        if run.study.known_inputs_digest == run.inputs_digest:
            self._finish(run, run.unchanged(self._clock()))
            return
        run.on_stage("infer")
        if isinstance(run, VolumeRun):
            self._put(run, [_TileTask(run, tile) for tile in run.next_tiles(self._largest_batch(run))])
        else:
            self._put(run, [_PictureTask(run, loaded) for loaded in run.loaded])

    def _put(self, run: StudyRun, tasks: Sequence[_Task]) -> None:
        run.to_infer = len(tasks)
        self._batcher.put(tasks, model=run.card.reference, priority=run.study.priority, max_batch=run.max_batch)

    def _largest_batch(self, run: StudyRun) -> int:
        most = self._networks[run.card.reference].max_batch or self.settings.max_batch
        return max(min(self.settings.max_batch, most, run.max_batch or most), 1)

    # inference, in the batcher's thread ------------------------------------------------------------------------------

    def _run_batch(self, batch: Batch[_Task]) -> None:
        tasks = [task for task in batch.items if not task.run.future.done()]
        if not tasks:
            return
        try:
            self._judge_or_isolate(batch.model, tasks)
        except Exception as error:  # noqa: BLE001  (the loop's edge: the batcher must outlive any batch)
            self._fail_all(tasks, error)

    def _judge_or_isolate(self, model: str, tasks: Sequence[_Task]) -> None:
        """A batch that fails is run one by one, so that only the picture that is at fault fails."""
        try:
            self._judge(model, tasks)
        except NetworkFailed:
            for task in tasks:
                self._judge_alone(model, task)

    def _judge_alone(self, model: str, task: _Task) -> None:
        try:
            self._judge(model, [task])
        except NetworkFailed as error:
            task.refuse(Refusal(reason=Reason.MODEL_FAILED, detail=str(error)))
            self._settle(task, 0.0)

    def _judge(self, model: str, tasks: Sequence[_Task]) -> None:
        started = self._clock()
        outputs = self._networks[model].run(np.stack([task.tensor() for task in tasks]))
        spent = self._clock() - started
        if any(array.shape[:1] != (len(tasks),) for array in outputs.values()):
            raise NetworkFailed("the network gave another number of pictures than it was given")
        for index, task in enumerate(tasks):
            try:
                task.take({name: array[index] for name, array in outputs.items()})
            except Refused as refused:
                task.refuse(refused.refusal)
            self._settle(task, spent if isinstance(task, _PictureTask) else spent / len(tasks))

    def _settle(self, task: _Task, model_s: float) -> None:
        run = task.run
        run.model_s += model_s
        run.to_infer -= 1
        if run.to_infer:
            return
        if isinstance(run, VolumeRun):
            self._go_on(run)
        else:
            self._finish(run, run.concluded(self._clock()))

    def _go_on(self, run: VolumeRun) -> None:
        """The next tiles of a volume, or its end.

        Tiles come one batch at a time, so that a film that came meanwhile waits for one batch and not for a volume.
        """
        if run.broken is not None:  # nothing is said of a volume of which a part was not seen
            self._finish(run, run.refused(self._clock(), run.broken))
        elif tiles := run.next_tiles(self._largest_batch(run)):
            self._put(run, [_TileTask(run, tile) for tile in tiles])
        else:  # putting tiles together and measuring takes a while, in which the network may run for others
            with self._lock:
                self._in_loader(run, self._key(run.study), lambda: self._finish(run, run.concluded(self._clock())))

    # endings ---------------------------------------------------------------------------------------------------------

    def _finish(self, run: StudyRun, analysis: Analysis) -> None:
        if self._leave(run):
            run.future.set_result(analysis)

    def _fail(self, run: StudyRun, error: Exception) -> None:
        if self._leave(run):
            run.future.set_exception(error)

    def _fail_all(self, tasks: Sequence[_Task], error: Exception) -> None:
        for run in {id(task.run): task.run for task in tasks}.values():
            self._fail(run, error)

    def _leave(self, run: StudyRun) -> bool:
        """Make room for the next study; True for the one thread that may end this one."""
        with self._lock:
            if run not in self._runs:
                return False
            self._runs.remove(run)
            self._held -= 0 if isinstance(run, VolumeRun) else len(run.study.images)
            self._admit()
            return True


def _open(model: InstalledModel, settings: EngineSettings) -> Network:
    runtime = None if settings.runtime == "auto" else Runtime(settings.runtime)
    return open_network(model, runtime=runtime, device=Device(settings.device), threads=settings.network_threads)


def _too_many(limit: int) -> Refusal:
    return Refusal(reason=Reason.TOO_MANY_INSTANCES, detail=f"more than {limit} images for a projection model")

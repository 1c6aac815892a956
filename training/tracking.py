"""Keeps a run in MLflow: parameters, curves, figures, the model and a few pictures, in a folder and nowhere else.

Used by `training.detection`, and by other tasks through `open_tracking`; the only module that knows MLflow. The records
are an SQLite file and a folder of artifacts; nothing is sent anywhere. Names of films are replaced by digests and no
patient is named. Without MLflow, or with ``--tracking off``, a run goes on and says so.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import logging
import os
import platform
import re
import subprocess
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from models.card import ModelCard
from training.cache import PreparedFilms
from training.errors import TrackingError
from training.files import write_whole
from training.release import CARD_FILE, FIGURES_FILE, PARITY_FILE, REPORT_FILE, Made

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from eval.report.sections import Fact
    from eval.report.twin import Twin
    from eval.runs import Run
    from models.evaluation_report import ReportFile
    from training.ct.recipe import CtRecipe
    from training.recipe import Recipe
    from training.several import Processes
    from training.splits import Splits

DATABASE, ARTIFACTS, RUNS_FILE = "mlflow.db", "artifacts", "mlflow-runs.json"
_NO_TELEMETRY = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "GIT_PYTHON_REFRESH": "quiet",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
_KEPT_LETTERS = re.compile(r"[^A-Za-z0-9_\-. /]")
_LONGEST_PARAMETER = 500


@dataclass(frozen=True, kw_only=True, slots=True)
class Told:
    """What the records may know of a run before it starts; `parameters` are the recipe's, by part."""

    name: str
    version: str
    task: str
    input: str
    reader: str
    seed: int
    parameters: Mapping[str, object]
    recipe_digest: str
    weights_digest: str
    manifest_sha256: str
    split_digest: str
    device: str
    processes: int

    @classmethod
    def of(cls, recipe: Recipe | CtRecipe, data: Identified, processes: Processes) -> Told:
        """What a recipe, a set and the machine say; who trains in one process names one."""
        return cls(
            name=recipe.name,
            version=recipe.version,
            task=recipe.task,
            input=recipe.input.kind,
            reader=recipe.data.reader,
            seed=recipe.schedule.seed,
            parameters=recipe.model_dump(mode="json", exclude_none=True),
            recipe_digest=recipe.digest,
            weights_digest=recipe.weights_digest,
            manifest_sha256=data.manifest_sha256,
            split_digest=data.splits.digest,
            device=str(processes.device),
            processes=processes.count,
        )


class Identified(Protocol):
    """A set and how it is dealt, by their digests."""

    @property
    def manifest_sha256(self) -> str:
        """Digest of the list of files and of their digests."""

    @property
    def splits(self) -> Splits:
        """Which patient is in which fold."""


class Part(Protocol):
    """The records of one fold, or of the refit."""

    def epoch(self, losses: Mapping[str, float | None]) -> None:
        """Keep an epoch's losses by name, once."""


class Tracking(Protocol):
    """The records of one run."""

    def part(self, name: str) -> contextlib.AbstractContextManager[Part]:
        """The records of one training within the run."""

    def release(self, made: Made, card: ModelCard, folder: Path, out: Path, prepared: PreparedFilms) -> None:
        """Keep figures, report, curves, example films and the model of a two-dimensional detector."""

    def keep(self, card: ModelCard, folder: Path, files: Sequence[Path], names: Sequence[str]) -> None:
        """Keep figures, `files` (with each of `names` replaced by its digest) and the model of any kind."""


class NoTracking:
    """Keeps nothing."""

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[Part]:
        """See `Tracking`."""
        yield self

    def epoch(self, losses: Mapping[str, float | None]) -> None:
        """See `Part`."""

    def release(self, made: Made, card: ModelCard, folder: Path, out: Path, prepared: PreparedFilms) -> None:
        """See `Tracking`."""

    def keep(self, card: ModelCard, folder: Path, files: Sequence[Path], names: Sequence[str]) -> None:
        """See `Tracking`."""


@contextlib.contextmanager
def open_tracking(folder: Path | None, told: Told, out: Path, *, say: Callable[[str], None]) -> Iterator[Tracking]:
    """The records of a run below `folder`; those that an interrupted call began are gone on with.

    Parameters
    ----------
    folder : Path or None
        Where `mlflow.db` and `artifacts` lie; None keeps no records.
    told : Told
        What is known of the run.
    out : Path
        The run's out folder, which remembers the records' ids.
    say : callable
        Tells the person why there are no records.
    """
    if folder is None:
        yield NoTracking()
        return
    if importlib.util.find_spec("mlflow") is None:
        say("MLflow is not installed, so the run is not recorded; pip install 'radnode[train]', or --tracking off")
        yield NoTracking()
        return
    tracking = _Mlflow(folder.resolve(), told, out / RUNS_FILE)
    try:
        yield tracking
    except BaseException:
        tracking.end("FAILED")
        raise
    tracking.end("FINISHED")


@dataclass(kw_only=True)
class _Run:
    """One MLflow run that losses are kept in."""

    client: MlflowClient
    run_id: str
    kept: int
    history: list[Mapping[str, float | None]] = field(default_factory=list)

    def epoch(self, losses: Mapping[str, float | None]) -> None:
        """See `Part`. A resumed training tells its old epochs again, and members theirs one after the other."""
        self.history.append(losses)
        step = len(self.history)
        if step <= self.kept:
            return
        for name, value in losses.items():
            if value is not None:
                with _quiet():
                    self.client.log_metric(self.run_id, f"train/{name}", value, step=step)


class _Mlflow:
    """Records in MLflow: one run for the whole training, one nested run for each fold and the refit."""

    def __init__(self, folder: Path, told: Told, runs: Path) -> None:
        self.uri, self.told, self.runs = f"sqlite:///{folder / DATABASE}", told, runs
        with _quiet():
            self.client, self.experiment = _experiment(folder, told.name)
            self.ids: dict[str, str] = self._ids(folder)
            self.parent = self._run(f"{told.name} {told.version}", "run")
            self._describe()
        self.histories: dict[str, list[Mapping[str, float | None]]] = {}

    def _ids(self, folder: Path) -> dict[str, str]:
        """Ids of the records that an earlier call of the same run began in the same folder."""
        if not self.runs.exists():
            return {}
        kept = json.loads(self.runs.read_text(encoding="utf-8"))
        same = kept.get("weights_digest") == self.told.weights_digest and kept.get("folder") == folder.name
        return dict(kept["ids"]) if same and self._known(kept["ids"].get("run", "")) else {}

    def _known(self, run_id: str) -> bool:
        from mlflow.exceptions import MlflowException

        try:
            return bool(run_id) and self.client.get_run(run_id).info.experiment_id == self.experiment
        except MlflowException:
            return False

    def _run(self, name: str, key: str, parent: str = "") -> str:
        """The id of the run remembered under `key`, begun if there is none."""
        if key not in self.ids:
            tags = self._tags() | ({"mlflow.parentRunId": parent} if parent else {})
            self.ids[key] = self.client.create_run(self.experiment, run_name=name, tags=tags).info.run_id
            folder = Path(self.uri.removeprefix("sqlite:///")).parent.name
            digest = self.told.weights_digest
            write_whole(self.runs, json.dumps({"weights_digest": digest, "folder": folder, "ids": self.ids}))
        self.client.update_run(self.ids[key], status="RUNNING")
        return self.ids[key]

    def _tags(self) -> dict[str, str]:
        told = self.told
        return {
            "git_commit": git_commit(),
            "data_manifest_sha256": told.manifest_sha256,
            "split_digest": told.split_digest,
            "recipe_digest": told.recipe_digest,
            "reader": told.reader,
            "task": told.task,
            "input": told.input,
            "seed": str(told.seed),
            "hardware": hardware(told.device, told.processes),
        }

    def _describe(self) -> None:
        parameters = flat(self.told.parameters)
        known = self.client.get_run(self.parent).data.params
        for name, value in parameters.items():
            if name not in known:
                self.client.log_param(self.parent, name, value[:_LONGEST_PARAMETER])

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[Part]:
        """See `Tracking`."""
        with _quiet():
            run_id = self._run(name, name, parent=self.parent)
            losses = [name for name in self.client.get_run(run_id).data.metrics if name.startswith("train/")]
            kept = max((len(self.client.get_metric_history(run_id, name)) for name in losses), default=0)
        run = _Run(client=self.client, run_id=run_id, kept=kept)
        self.histories[name] = run.history
        try:
            yield run
        except BaseException:
            self.client.set_terminated(run_id, "FAILED")
            raise
        self.client.set_terminated(run_id, "FINISHED")

    def release(self, made: Made, card: ModelCard, folder: Path, out: Path, prepared: PreparedFilms) -> None:
        """See `Tracking`."""
        with _quiet():
            self._pictures(made, prepared)
        written = [folder / name for name in (CARD_FILE, REPORT_FILE, PARITY_FILE, FIGURES_FILE)]
        files = [*written, out / "audit.json", out / "splits.json"]
        self.keep(card, folder, files, [film.image for film in made.read.films])

    def keep(self, card: ModelCard, folder: Path, files: Sequence[Path], names: Sequence[str]) -> None:
        """See `Tracking`."""
        with _quiet():
            for figure in card.evaluation.figures:
                self.client.log_metric(self.parent, metric_name(figure.name), figure.value)
            for file in files:
                self.client.log_text(self.parent, unnamed(file.read_text(encoding="utf-8"), names), file.name)
            self._model(card, folder)

    def _pictures(self, made: Made, prepared: PreparedFilms) -> None:
        from training.pictures import loss_curves, overlay, roc_and_froc, telling_films

        judging = made.recipe.judging
        self.client.log_figure(self.parent, loss_curves(self.histories), "curves/losses.png")
        self.client.log_figure(self.parent, roc_and_froc(made.evaluation, judging), "curves/roc-froc.png")
        if not made.recipe.data.show_films:
            return
        for kind, pairs in telling_films(made.evaluation, judging).items():
            for pair in pairs:
                name = f"films/{kind}-{digest_of(pair.film.image)}.png"
                self.client.log_image(self.parent, overlay(pair, prepared, made.evaluation), name)

    def _model(self, card: ModelCard, folder: Path) -> None:
        """The ONNX file as a model that MLflow can load, with the types of its input and outputs."""
        import mlflow
        import numpy as np
        import onnx
        from mlflow.models import ModelSignature
        from mlflow.types import Schema, TensorSpec

        model = onnx.load(folder / card.weights[0].file)
        picture = np.dtype(np.float32)

        def specs(values: Any) -> list[Any]:  # protobuf has no types
            return [
                TensorSpec(picture, [dim.dim_value or -1 for dim in value.type.tensor_type.shape.dim], value.name)
                for value in values
            ]

        signature = ModelSignature(Schema(specs(model.graph.input)), Schema(specs(model.graph.output)))
        before = mlflow.get_tracking_uri()
        mlflow.set_tracking_uri(self.uri)
        try:
            with mlflow.start_run(run_id=self.parent):
                mlflow.onnx.log_model(
                    model,
                    name="model",
                    signature=signature,
                    pip_requirements=["onnxruntime"],
                    save_as_external_data=False,
                )
        finally:
            mlflow.set_tracking_uri(before)

    def end(self, status: str) -> None:
        """Close the run."""
        self.client.set_terminated(self.parent, status)


def log_evaluation(folder: Path, run: Run, twin: Twin, report: ReportFile) -> tuple[str, bool]:
    """Keep an evaluation and its report: figures of the facts label, digests, the twin without names of cases.

    Returns
    -------
    str
        Id of the record.
    bool
        Whether it is new; the same report is kept once.

    Raises
    ------
    TrackingError
        If MLflow is not installed or cannot keep the record.
    """
    if importlib.util.find_spec("mlflow") is None:
        raise TrackingError("MLflow is not installed: pip install 'radnode[train]'")
    folder = folder.resolve()
    record = run.record
    with _quiet():
        client, experiment = _experiment(folder, record.model.partition("@")[0])
        known = client.search_runs([experiment], f"tags.report_sha256 = '{report.sha256}'", max_results=1)
        if known:
            return known[0].info.run_id, False
        tags = {
            "task": "evaluation",
            "kind": record.kind,
            "model": record.model,
            "model_digest": record.model_digest,
            "dataset": record.dataset,
            "dataset_digest": record.dataset_digest,
            "data_manifest_sha256": record.data_sha256,
            "report_sha256": report.sha256,
            "modality": " ".join(twin.sections.intended_use.modalities),
            "seed": str(twin.sections.statistics.seed),
            "hardware": record.hardware,
            "git_commit": git_commit(),
        }
        run_id = client.create_run(experiment, run_name=f"{record.model} on {record.dataset}", tags=tags).info.run_id
        for fact in twin.sections.annexes.facts:
            _log_value(client, run_id, fact)
        digests = {name: digest_of(name) for case in run.cases for name in (case.case, case.patient)}
        client.log_text(run_id, json.dumps(_renamed(json.loads(report.text), digests), indent=1), report.path.name)
        client.set_terminated(run_id, "FINISHED")
    return run_id, True


def _renamed(value: object, digests: Mapping[str, str]) -> object:
    """A JSON value in which every text that is one of the names is its digest; numbers and keys stay."""
    if isinstance(value, Mapping):
        return {key: _renamed(item, digests) for key, item in value.items()}
    if isinstance(value, list):
        return [_renamed(item, digests) for item in value]
    return digests.get(value, value) if isinstance(value, str) else value


def _log_value(client: MlflowClient, run_id: str, fact: Fact) -> None:
    if fact.value is None or fact.value.value is None:
        return
    for end, number in zip(("", "/low", "/high"), (fact.value.value, *fact.value.ci), strict=True):
        if number is not None:
            client.log_metric(run_id, f"val/{fact.key}{end}", number)


def _experiment(folder: Path, name: str) -> tuple[MlflowClient, str]:
    """A client of the records below `folder`, and the experiment called `name`, begun if there is none."""
    os.environ.update({key: os.environ.get(key, value) for key, value in _NO_TELEMETRY.items()})
    folder.mkdir(parents=True, exist_ok=True)
    from mlflow import MlflowClient

    uri = f"sqlite:///{folder / DATABASE}"
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    known = client.get_experiment_by_name(name)
    return client, known.experiment_id if known else client.create_experiment(name, (folder / ARTIFACTS).as_uri())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """MLflow and what it brings warn of their own insides."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from mlflow.exceptions import MlflowException

            yield
    except MlflowException as error:
        raise TrackingError(
            "MLflow cannot keep the run's records; what was trained is kept. Mend it and run the command again, or run "
            f"it with --tracking off. MLflow says: {str(error).splitlines()[0]}"
        ) from error
    finally:
        logging.disable(before)


def flat(values: Mapping[str, object], before: str = "") -> dict[str, str]:
    """Nested values as ``part.key`` to text."""
    found: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{before}{name}.")
        else:
            found[f"{before}{name}"] = str(value)
    return found


def metric_name(figure: str) -> str:
    """A figure's name as MLflow takes it."""
    return "val/" + _KEPT_LETTERS.sub("", figure.replace("%", "percent"))[:200].strip()


def digest_of(image: str) -> str:
    """What a film is called in the records: names of files may hold patient numbers."""
    return hashlib.sha256(image.encode()).hexdigest()[:12]


def unnamed(text: str, names: Sequence[str]) -> str:
    """`text` with every name replaced by its digest."""
    digests = {name: digest_of(name) for name in names}
    return re.sub(r"[^\s\"';:,|()`]+", lambda word: digests.get(word.group(), word.group()), text)


def git_commit() -> str:
    """The commit that the code is of, with ``+`` when files were changed since; "unknown" outside a checkout."""
    here = Path(__file__).resolve().parent
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
        changed = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"],
            cwd=here,
            capture_output=True,
            check=True,
            timeout=30,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return commit + ("+" if changed else "")


def hardware(device: str, processes: int) -> str:
    """What the run was computed on, in words."""
    import torch

    where = torch.cuda.get_device_name() if device.startswith("cuda") else platform.machine()
    return (
        f"{processes} x {where}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, torch {torch.__version__}"
    )

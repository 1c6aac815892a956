"""What a worker keeps in memory follows the ledger while it works, and a bad model hurts none but itself."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from dicom_node import promotion, warm_models
from dicom_node.building import ModelFolders, build_pipeline, installed
from dicom_node.ledger import standings
from dicom_node.ledger.standings import LoadedModel
from dicom_node.promotion import Act
from dicom_node.states import JobRole, JobState, Outcome
from dicom_node.worker import Worker
from inference.engine import EngineSettings
from inference.runtimes import open_network
from inference.runtimes.base import Device, DeviceOutOfMemory, Network
from models.card import ModelCard
from models.registry import InstalledModel
from tests.pictures import disc_picture, film_file
from tests.pipeline_rig import CHEST, PipelineRig
from tests.promotions import write_report
from tests.toy_model import install_toy_model

STUDY = "1.2.826.0.1.66"
OLD, NEW = "toy-opacity@1.0.0", "toy-opacity@2.0.0"
WORKER = {"count": 1, "device": "cpu", "lease_s": 8.0, "poll_s": 0.02, "loader_threads": 1}
PATIENCE_S = 90.0


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[PipelineRig]:
    made = PipelineRig(tmp_path, worker=WORKER)
    made.clock.now = datetime.now(UTC) - timedelta(seconds=100)
    assert made.pipeline.enter_first_champions() == (OLD,)
    yield made
    made.close()


@contextmanager
def worker(
    rig: PipelineRig, networks: Callable[[InstalledModel, EngineSettings], Network] | None = None
) -> Iterator[Callable[[Callable[[], bool]], None]]:
    """A worker that runs until the block ends; gives a way to wait for something."""
    folders = ModelFolders(rig.settings)
    models = installed(rig.settings)
    own = build_pipeline(rig.settings, rig.clock, models)  # as a worker's process has it
    one = Worker(own, models, "node:worker0:1", networks=networks, folders=folders)
    stop = threading.Event()
    thread = threading.Thread(target=one.run, args=(stop,))
    thread.start()

    def until(condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert thread.is_alive() and time.monotonic() < deadline
            rig.clock.now = datetime.now(UTC)
            time.sleep(0.02)

    try:
        yield until
    finally:
        stop.set()
        thread.join(PATIENCE_S)
        own.ledger.close()
        assert not thread.is_alive()


def receive(rig: PipelineRig, study: str) -> None:
    rig.receive(film_file(rig.folder / f"{study}.dcm", disc_picture(64, 48), StudyInstanceUID=study))
    rig.settle()


def loaded(rig: PipelineRig) -> dict[str, LoadedModel]:
    with rig.pipeline.ledger.read() as tx:
        return {one.reference: one for one in standings.loaded(tx, since=datetime(2020, 1, 1, tzinfo=UTC))}


def act(rig: PipelineRig) -> Act:
    return Act(operator="dr.petrova", at=rig.clock(), why="")


def shadow(rig: PipelineRig, card: ModelCard) -> None:
    with rig.pipeline.ledger.begin() as tx:
        promotion.shadow(tx, card, act(rig))


def states(rig: PipelineRig, study: str) -> dict[tuple[str, JobRole], JobState]:
    return {(job.reference, job.role): job.state for job in rig.account(study).jobs}


def test_a_version_that_is_installed_shadowed_and_promoted_while_the_worker_runs_is_used_without_a_restart(
    rig: PipelineRig,
) -> None:
    with worker(rig) as until:
        until(lambda: set(loaded(rig)) == {OLD})
        card = install_toy_model(rig.models, version="2.0.0", threshold=0.3)
        rig.pipeline.take_models(installed(rig.settings))
        shadow(rig, card)
        until(lambda: set(loaded(rig)) == {OLD, NEW})
        receive(rig, STUDY)
        done = {(OLD, JobRole.CHAMPION): JobState.SUCCEEDED, (NEW, JobRole.SHADOW): JobState.SUCCEEDED}
        until(lambda: states(rig, STUDY) == done)
        with rig.pipeline.ledger.begin() as tx:
            promotion.promote(tx, card, write_report(rig.folder / "evaluation.json", card), act(rig))
        receive(rig, STUDY + ".1")
        until(lambda: states(rig, STUDY + ".1") == {(NEW, JobRole.CHAMPION): JobState.SUCCEEDED})
    account = rig.account(STUDY)
    assert len(account.results) == 1
    said = [job.findings.model.version for job in account.jobs if job.findings]
    assert said == ["1.0.0", "2.0.0"]
    assert loaded(rig) == {}, "a worker that ended holds nothing"


def test_a_study_that_was_routed_to_a_version_which_serves_no_more_is_done_with_it(rig: PipelineRig) -> None:
    receive(rig, STUDY)
    card = install_toy_model(rig.models, version="2.0.0")
    with rig.pipeline.ledger.begin() as tx:
        promotion.promote(tx, card, write_report(rig.folder / "evaluation.json", card), act(rig))
    rig.pipeline.take_models(installed(rig.settings))
    with worker(rig) as until:
        until(lambda: states(rig, STUDY) == {(OLD, JobRole.CHAMPION): JobState.SUCCEEDED})
    assert rig.account(STUDY).study.outcome is Outcome.ANALYSED


def test_a_worker_that_has_not_looked_yet_finds_a_version_that_was_installed_and_promoted_just_now(
    rig: PipelineRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warm_models, "LOOK_S", 3600.0)
    with worker(rig) as until:
        until(lambda: set(loaded(rig)) == {OLD})
        card = install_toy_model(rig.models, version="2.0.0")
        with rig.pipeline.ledger.begin() as tx:
            promotion.promote(tx, card, write_report(rig.folder / "evaluation.json", card), act(rig))
        rig.pipeline.take_models(installed(rig.settings))  # the node has looked, the worker has not
        receive(rig, STUDY)
        until(lambda: rig.account(STUDY).study.outcome is not None)
    assert states(rig, STUDY) == {(NEW, JobRole.CHAMPION): JobState.SUCCEEDED}


def test_a_pinned_candidate_whose_card_is_edited_is_loaded_again(tmp_path: Path) -> None:
    pinned = PipelineRig(tmp_path, worker=WORKER, routes=[{**CHEST, "model": OLD}])
    path = pinned.models / "toy-opacity" / "1.0.0" / "card.toml"
    with worker(pinned) as until:
        until(lambda: set(loaded(pinned)) == {OLD})
        text = path.read_text(encoding="utf-8").replace("threshold = 0.5,", "threshold = 0.4,")
        path.write_text(text, encoding="utf-8")
        pinned.pipeline.take_models(installed(pinned.settings))
        receive(pinned, STUDY)
        until(lambda: pinned.account(STUDY).study.outcome is not None)
    (job,) = pinned.account(STUDY).jobs
    assert job.findings is not None and job.findings.model.model_digest == pinned.pipeline.cards[OLD].model_digest
    pinned.close()


def test_a_study_whose_model_was_altered_after_it_was_routed_is_refused(rig: PipelineRig) -> None:
    receive(rig, STUDY)
    path = rig.models / "toy-opacity" / "1.0.0" / "card.toml"
    path.write_text(path.read_text(encoding="utf-8").replace("threshold = 0.5,", "threshold = 0.4,"), encoding="utf-8")
    rig.pipeline.take_models(installed(rig.settings))
    with worker(rig) as until:
        until(lambda: rig.account(STUDY).study.outcome is not None)
    study = rig.account(STUDY).study
    assert (study.outcome, study.outcome_reason) == (Outcome.NOT_ANALYSED, "model_failed")
    assert "was altered after the study was routed to it" in str(study.outcome_detail)


def test_a_champion_that_cannot_be_loaded_is_told_by_the_worker_and_works_again_once_its_file_is_back(
    rig: PipelineRig,
) -> None:
    weights = rig.models / "toy-opacity" / "1.0.0" / "model.onnx"
    good = weights.read_bytes()
    weights.write_bytes(good + b"x")

    def faults() -> tuple[str, ...]:
        with rig.pipeline.ledger.read() as tx:
            return rig.pipeline.model_faults(tx)

    assert faults() == ()
    with worker(rig) as until:
        until(lambda: bool(faults()))
        assert "its sha256 differs" in faults()[0]
        receive(rig, STUDY)
        until(lambda: rig.account(STUDY).study.outcome is Outcome.NOT_ANALYSED)
        weights.write_bytes(good)
        until(lambda: not faults())
        receive(rig, STUDY + ".1")
        until(lambda: rig.account(STUDY + ".1").study.outcome is Outcome.ANALYSED)


class NoRoomForTheSecond:
    """The real network on a device that has room for one model only, and no more while it works."""

    def __init__(self, model: InstalledModel, settings: EngineSettings) -> None:
        if model.card.identity.version == "2.0.0":
            raise DeviceOutOfMemory("the device is full")
        self._network = open_network(model, device=Device.CPU)
        self.device, self.max_batch = "cuda", self._network.max_batch

    def run(self, batch: Any) -> Any:
        return self._network.run(batch)

    def close(self) -> None:
        self._network.close()


def test_a_shadow_that_has_no_room_on_the_device_ends_no_worker_and_no_study(rig: PipelineRig) -> None:
    shadow(rig, install_toy_model(rig.models, version="2.0.0"))
    rig.pipeline.take_models(installed(rig.settings))
    receive(rig, STUDY)
    with worker(rig, NoRoomForTheSecond) as until:
        expected = {(OLD, JobRole.CHAMPION): JobState.SUCCEEDED, (NEW, JobRole.SHADOW): JobState.REJECTED}
        until(lambda: states(rig, STUDY) == expected)
        assert "has no room" in str(loaded(rig)[NEW].fault)
        with rig.pipeline.ledger.read() as tx:
            assert rig.pipeline.model_faults(tx) == (), "a shadow's trouble is no fault of the node"
    assert rig.account(STUDY).study.outcome is Outcome.ANALYSED


def test_a_champion_takes_its_turn_before_shadows_that_waited_longer(rig: PipelineRig) -> None:
    shadow(rig, install_toy_model(rig.models, version="2.0.0"))
    rig.pipeline.take_models(installed(rig.settings))
    studies = [f"{STUDY}.{number}" for number in range(5)]
    for study in studies:
        receive(rig, study)
    with worker(rig) as until:
        until(lambda: all(set(states(rig, study).values()) == {JobState.SUCCEEDED} for study in studies))
    jobs_of = [job for study in studies for job in rig.account(study).jobs]
    ended = {role: [job.finished_at for job in jobs_of if job.role is role] for role in JobRole}
    assert max(filter(None, ended[JobRole.CHAMPION])) <= min(filter(None, ended[JobRole.SHADOW]))

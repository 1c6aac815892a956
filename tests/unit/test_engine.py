"""Studies through a real network: both runtimes, batches, refusals, poison, memory, closing."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from inference.engine import Analysis, Engine, EngineClosed, EngineSettings, StudyInput
from inference.findings import Flag, Presence
from inference.refusals import Reason
from inference.runtimes import open_network
from inference.runtimes.base import DeviceOutOfMemory, Network, NetworkFailed
from models.card import Runtime
from models.registry import InstalledModel
from tests.networks import DiscFinder, export, install
from tests.pictures import film_file

REFERENCE = "disc-finder@1.0.0"
WAIT_S = 60


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> InstalledModel:
    return install(tmp_path_factory.mktemp("models"), export(DiscFinder()))


@pytest.fixture(scope="module")
def engine(model: InstalledModel) -> Iterator[Engine]:
    engine = Engine([model], settings=EngineSettings(network_threads=1))
    yield engine
    engine.close()


def with_disc(x: int = 40, y: int = 70, rows: int = 128, columns: int = 96) -> NDArray[np.uint8]:
    """A dark film with one bright square of 32 pixels around (x, y)."""
    picture = np.full((rows, columns), 20, dtype=np.uint8)
    picture[y - 16 : y + 16, x - 16 : x + 16] = 250
    return picture


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def analyse(engine: Engine, *images: Path, **study: object) -> Analysis:
    return engine.submit(REFERENCE, StudyInput(study_uid="1.2", images=images, **study)).result(WAIT_S)  # type: ignore[arg-type]


def test_a_film_with_a_disc_gives_a_lesion_at_its_place(engine: Engine, tmp_path: Path) -> None:
    analysis = analyse(engine, film_file(tmp_path / "a.dcm", with_disc(x=40, y=48)))
    assert analysis.refusal is None
    assert analysis.findings is not None
    lesion, *_ = analysis.findings.lesions
    assert lesion.region.key_plane.box.center == pytest.approx((40, 48), abs=9)
    assert lesion.tracking_uid.startswith("2.25.")
    assert analysis.findings.findings[0].presence is Presence.PRESENT
    assert analysis.findings.findings[0].sop_instance_uid is None
    assert Flag.SPACING_UNKNOWN in analysis.findings.flags
    assert set(analysis.timings_s) == {"load", "wait", "model", "total"}


def test_a_dark_film_gives_a_negative_finding(engine: Engine, tmp_path: Path) -> None:
    picture = np.full((96, 96), 20, dtype=np.uint8)
    picture[0, 0] = 255
    findings = analyse(engine, film_file(tmp_path / "a.dcm", picture)).findings
    assert findings is not None
    assert not findings.is_positive
    assert findings.findings[0].presence is Presence.ABSENT


def test_both_runtimes_give_equal_outputs(model: InstalledModel) -> None:
    batch = np.random.default_rng(3).random((5, 1, 64, 64), dtype=np.float32)
    outputs = [open_network(model, runtime=runtime, threads=1).run(batch) for runtime in Runtime]
    assert outputs[0].keys() == outputs[1].keys()
    for name, array in outputs[0].items():
        assert array.dtype == np.float32
        np.testing.assert_allclose(array, outputs[1][name], atol=1e-4)


def test_the_same_study_through_both_runtimes_gives_equal_findings(model: InstalledModel, tmp_path: Path) -> None:
    film = film_file(tmp_path / "a.dcm", with_disc())
    said = []
    for runtime in ("onnx", "torch"):
        engine = Engine([model], settings=EngineSettings(runtime=runtime, network_threads=1))  # type: ignore[arg-type]
        said.append(analyse(engine, film).findings)
        engine.close()
    assert said[0] is not None
    assert said[0] == said[1]


def test_findings_do_not_depend_on_who_shares_the_batch(engine: Engine, tmp_path: Path) -> None:
    films = [film_file(tmp_path / f"{i}.dcm", with_disc(x=30 + 4 * i)) for i in range(6)]
    together = [engine.submit(REFERENCE, StudyInput(study_uid=f"1.{i}", images=(f,))) for i, f in enumerate(films)]
    alone = [
        engine.submit(REFERENCE, StudyInput(study_uid=f"1.{i}", images=(f,)), max_batch=1).result(WAIT_S)
        for i, f in enumerate(films)
    ]
    for one, other in zip(together, alone, strict=True):
        assert one.result(WAIT_S).findings == other.findings


def test_a_lateral_beside_the_frontal_is_skipped_and_changes_no_digest(engine: Engine, tmp_path: Path) -> None:
    frontal = film_file(tmp_path / "pa.dcm", with_disc())
    lateral = film_file(tmp_path / "ll.dcm", with_disc(), ViewPosition="LL")
    alone, both = analyse(engine, frontal), analyse(engine, frontal, lateral)
    assert [refusal.reason for _, refusal in both.skipped] == [Reason.VIEW]
    assert both.inputs_digest == alone.inputs_digest
    assert both.findings == alone.findings


def test_the_order_of_images_changes_nothing(engine: Engine, tmp_path: Path) -> None:
    films = [film_file(tmp_path / f"{i}.dcm", with_disc(x=30 + i)) for i in range(3)]
    assert analyse(engine, *films).findings == analyse(engine, *reversed(films)).findings


def test_a_damaged_image_is_skipped_and_the_result_says_that_images_are_missing(engine: Engine, tmp_path: Path) -> None:
    good = film_file(tmp_path / "good.dcm", with_disc())
    bad = film_file(tmp_path / "bad.dcm", with_disc())
    bad.write_bytes(bad.read_bytes()[:-1000])
    analysis = analyse(engine, good, bad)
    assert [refusal.reason for _, refusal in analysis.skipped] == [Reason.UNREADABLE]
    assert analysis.findings is not None
    assert Flag.STUDY_INCOMPLETE in analysis.findings.flags


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"ViewPosition": "LL"}, Reason.VIEW),
        ({"PatientAge": "007Y"}, Reason.AGE),
        ({"Modality": "MG"}, Reason.MODALITY),
        ({"BodyPartExamined": "KNEE"}, Reason.BODY_PART),
        ({"PresentationIntentType": "FOR PROCESSING"}, Reason.PRESENTATION),
    ],
)
def test_a_study_outside_the_intended_use_is_refused(
    engine: Engine, tmp_path: Path, changes: dict[str, str], reason: Reason
) -> None:
    analysis = analyse(engine, film_file(tmp_path / "a.dcm", with_disc(), **changes))
    assert analysis.findings is None
    assert analysis.inputs_digest is None
    assert analysis.refusal is not None
    assert analysis.refusal.reason is reason


def test_the_most_telling_reason_speaks_for_the_study(engine: Engine, tmp_path: Path) -> None:
    lateral = film_file(tmp_path / "ll.dcm", with_disc(), ViewPosition="LL")
    child = film_file(tmp_path / "pa.dcm", with_disc(), PatientAge="009Y")
    analysis = analyse(engine, lateral, child)
    assert analysis.refusal is not None
    assert analysis.refusal.reason is Reason.AGE
    assert len(analysis.skipped) == 2


def test_a_study_without_images_is_refused(engine: Engine) -> None:
    refusal = analyse(engine).refusal
    assert refusal is not None
    assert refusal.reason is Reason.NOT_AN_IMAGE


def test_known_inputs_are_not_run_again(engine: Engine, tmp_path: Path) -> None:
    film = film_file(tmp_path / "a.dcm", with_disc())
    first = analyse(engine, film)
    again = analyse(engine, film, known_inputs_digest=first.inputs_digest)
    assert again.unchanged
    assert again.findings is None
    assert "wait" not in again.timings_s


def test_a_missing_file_fails_its_study_alone(engine: Engine, tmp_path: Path) -> None:
    missing = engine.submit(REFERENCE, StudyInput(study_uid="1.9", images=(tmp_path / "gone.dcm",)))
    assert isinstance(missing.exception(WAIT_S), FileNotFoundError)
    assert analyse(engine, film_file(tmp_path / "a.dcm", with_disc())).findings is not None


def test_stages_are_told_in_order(engine: Engine, tmp_path: Path) -> None:
    stages: list[str] = []
    film = film_file(tmp_path / "a.dcm", with_disc())
    study = StudyInput(study_uid="1.2", images=(film, film))
    engine.submit(REFERENCE, study, on_stage=stages.append).result(WAIT_S)
    assert stages == ["load", "infer"]


def test_a_model_whose_weights_are_not_those_of_its_card_stops_only_its_own_studies(
    model: InstalledModel, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(model.folder, broken)
    weights = broken / model.card.weights[0].file
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    identity = model.card.identity.model_copy(update={"name": "broken"})
    other = InstalledModel(card=model.card.model_copy(update={"identity": identity}), folder=broken)
    engine = Engine([other, model], settings=EngineSettings(device="cpu", runtime=model.card.weights[0].runtime.value))
    try:
        film = film_file(tmp_path / "a.dcm", with_disc())
        assert set(engine.faults) == {other.card.reference}
        refused = engine.submit(other.card.reference, StudyInput(study_uid="1.2", images=(film,))).result(30)
        assert refused.refusal is not None and refused.refusal.reason is Reason.MODEL_FAILED
        assert "sha256 differs" in refused.refusal.detail
        said = engine.submit(model.card.reference, StudyInput(study_uid="1.2", images=(film,))).result(30)
        assert said.findings is not None
    finally:
        engine.close()


def test_an_unknown_model_is_an_error_of_the_caller(engine: Engine) -> None:
    with pytest.raises(KeyError):
        engine.submit("unknown@1.0.0", StudyInput(study_uid="1", images=()))


class Troubled:
    """A network around a real one that fails on chosen pictures, or is held until told to go on."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.sizes: list[int] = []
        self.poison: Exception | None = None
        self.not_finite = False
        self.gate = threading.Event()
        self.gate.set()

    device = "cpu"
    max_batch = None

    def run(self, batch: NDArray[np.float32]) -> Mapping[str, NDArray[np.float32]]:
        assert self.gate.wait(WAIT_S)
        self.sizes.append(len(batch))
        poisoned = batch.mean(axis=(1, 2, 3)) > 0.9  # the films that a test made nearly white
        if poisoned.any() and self.poison:
            raise self.poison
        outputs = {name: array.copy() for name, array in self.network.run(batch).items()}
        if self.not_finite:
            outputs["ltrb"][poisoned] = np.nan
        return outputs

    def close(self) -> None:
        self.network.close()


@pytest.fixture
def troubled(model: InstalledModel) -> Iterator[tuple[Engine, Troubled]]:
    network = Troubled(open_network(model, threads=1))
    settings = EngineSettings(max_batch=4, max_delay_s=0.05, network_threads=1)
    engine = Engine([model], settings=settings, networks=lambda _model, _settings: network)
    yield engine, network
    network.gate.set()
    engine.close()


def white(path: Path) -> Path:
    picture = np.full((64, 64), 250, dtype=np.uint8)
    picture[0, 0] = 0
    return film_file(path, picture)


def submit_all(engine: Engine, films: list[Path], **options: int) -> list[Analysis | BaseException]:
    futures = [
        engine.submit(REFERENCE, StudyInput(study_uid=f"1.{i}", images=(film,)), **options)
        for i, film in enumerate(films)
    ]
    return [future.exception(WAIT_S) or future.result() for future in futures]


def test_a_poisonous_picture_fails_alone(troubled: tuple[Engine, Troubled], tmp_path: Path) -> None:
    engine, network = troubled
    network.poison = NetworkFailed("it crashes")
    films = [film_file(tmp_path / f"{i}.dcm", with_disc()) for i in range(3)]
    ends = submit_all(engine, [*films, white(tmp_path / "white.dcm")])
    assert all(isinstance(end, Analysis) and end.findings for end in ends[:3])
    last = ends[3]
    assert isinstance(last, Analysis)
    assert last.refusal is not None
    assert last.refusal.reason is Reason.MODEL_FAILED


def test_outputs_that_are_not_numbers_are_the_models_failure(troubled: tuple[Engine, Troubled], tmp_path: Path) -> None:
    engine, network = troubled
    network.not_finite = True
    end = submit_all(engine, [white(tmp_path / "white.dcm")])[0]
    assert isinstance(end, Analysis)
    assert end.refusal is not None
    assert end.refusal.reason is Reason.MODEL_FAILED


def test_exhausted_device_memory_reaches_the_caller(troubled: tuple[Engine, Troubled], tmp_path: Path) -> None:
    engine, network = troubled
    network.poison = DeviceOutOfMemory("too large")
    assert isinstance(submit_all(engine, [white(tmp_path / "white.dcm")])[0], DeviceOutOfMemory)


def test_an_unforeseen_error_in_the_network_does_not_end_the_engine(
    troubled: tuple[Engine, Troubled], tmp_path: Path
) -> None:
    engine, network = troubled
    network.poison = ZeroDivisionError()
    assert isinstance(submit_all(engine, [white(tmp_path / "white.dcm")])[0], ZeroDivisionError)
    assert isinstance(submit_all(engine, [film_file(tmp_path / "a.dcm", with_disc())])[0], Analysis)


def test_pictures_of_several_studies_share_a_batch(troubled: tuple[Engine, Troubled], tmp_path: Path) -> None:
    engine, network = troubled
    network.gate.clear()
    films = [film_file(tmp_path / f"{i}.dcm", with_disc()) for i in range(9)]
    stages: list[str] = []
    futures = [
        engine.submit(REFERENCE, StudyInput(study_uid=f"1.{i}", images=(f,)), on_stage=stages.append)
        for i, f in enumerate(films)
    ]
    wait_for(lambda: stages.count("infer") == 9)
    network.gate.set()
    assert all(future.result(WAIT_S).findings for future in futures)
    assert max(network.sizes) > 1
    assert max(network.sizes) <= 4
    assert sum(network.sizes) == 9


def test_a_study_can_ask_to_run_alone(troubled: tuple[Engine, Troubled], tmp_path: Path) -> None:
    engine, network = troubled
    films = [film_file(tmp_path / f"{i}.dcm", with_disc()) for i in range(5)]
    submit_all(engine, films, max_batch=1)
    assert network.sizes == [1] * 5


def test_closing_ends_what_is_not_done(model: InstalledModel, tmp_path: Path) -> None:
    network = Troubled(open_network(model, threads=1))
    engine = Engine([model], settings=EngineSettings(max_pictures_held=2), networks=lambda _model, _settings: network)
    network.gate.clear()
    films = [film_file(tmp_path / f"{i}.dcm", with_disc()) for i in range(8)]
    futures = [engine.submit(REFERENCE, StudyInput(study_uid=f"1.{i}", images=(f,))) for i, f in enumerate(films)]
    threading.Timer(0.3, network.gate.set).start()
    engine.close()
    assert all(future.done() for future in futures)
    assert any(isinstance(future.exception(), EngineClosed) for future in futures)
    with pytest.raises(EngineClosed):
        engine.submit(REFERENCE, StudyInput(study_uid="1", images=()))


def test_loaders_do_not_run_ahead_of_the_network(model: InstalledModel, tmp_path: Path) -> None:
    network = Troubled(open_network(model, threads=1))
    settings = EngineSettings(max_pictures_held=4, max_batch=2)
    engine = Engine([model], settings=settings, networks=lambda _model, _settings: network)
    network.gate.clear()
    started: list[str] = []
    film = film_file(tmp_path / "a.dcm", with_disc())
    futures = [
        engine.submit(REFERENCE, StudyInput(study_uid=f"1.{i}", images=(film, film)), on_stage=started.append)
        for i in range(6)
    ]
    wait_for(lambda: started.count("load") == 2)
    threading.Event().wait(0.2)  # time in which a third study would begin
    held = started.count("load")
    network.gate.set()
    assert all(future.result(WAIT_S).findings for future in futures)
    engine.close()
    assert held == 2

"""A guarded model in the engine: what is out of range is refused or flagged, and a bad guard is the model's fault."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray
from PIL import Image

from dicom_node.cli import main
from inference.engine import Analysis, Engine, EngineSettings, StudyInput
from inference.findings import Flag
from inference.guard import AppearanceGuard, guard_of, see
from inference.refusals import Reason
from models.inputs import ProjectionInput
from models.registry import InstalledModel, WeightsError, installed_models
from tests.conftest import PROJECT
from tests.guards import drawn_chest, fitted, install_guard
from tests.pictures import film_file
from tests.toy_model import install_toy_model
from training.guard import main as make_guard

WAIT_S = 60


def guarded(folder: Path, **guard: object) -> InstalledModel:
    card = install_toy_model(folder, name="guarded")
    install_guard(folder / "guarded" / "1.0.0", fitted(), **guard)  # type: ignore[arg-type]
    return installed(folder, card.reference)


def installed(folder: Path, reference: str) -> InstalledModel:
    model = installed_models([folder]).find(reference)
    assert model is not None
    return model


@contextmanager
def running(*models: InstalledModel) -> Iterator[Engine]:
    engine = Engine(models, settings=EngineSettings(network_threads=1))
    try:
        yield engine
    finally:
        engine.close()


def analyse(engine: Engine, *images: Path, reference: str = "guarded@1.0.0") -> Analysis:
    return engine.submit(reference, StudyInput(study_uid="1.2", images=images)).result(WAIT_S)


def film(folder: Path, pixels: NDArray[np.float32]) -> Path:
    return film_file(folder, np.round(pixels * 255).astype(np.uint8))


def test_a_film_is_analysed_and_an_inverted_one_refused_in_words(tmp_path: Path) -> None:
    with running(guarded(tmp_path)) as engine:
        usual = analyse(engine, film(tmp_path / "a.dcm", drawn_chest(500)))
        assert usual.findings is not None
        assert Flag.OUT_OF_RANGE not in usual.findings.flags
        refused = analyse(engine, film(tmp_path / "b.dcm", 1 - drawn_chest(500)))
    assert refused.findings is None
    assert refused.refusal is not None
    assert refused.refusal.reason is Reason.OUT_OF_RANGE
    assert "inverted" in refused.refusal.detail


def test_an_odd_film_beside_a_good_one_is_left_out_and_the_result_says_so(tmp_path: Path) -> None:
    with running(guarded(tmp_path)) as engine:
        analysis = analyse(
            engine, film(tmp_path / "a.dcm", drawn_chest(501)), film(tmp_path / "b.dcm", np.rot90(drawn_chest(502)))
        )
    assert analysis.findings is not None
    assert len(analysis.findings.images) == 1
    assert Flag.STUDY_INCOMPLETE in analysis.findings.flags
    assert [refusal.reason for _, refusal in analysis.skipped] == [Reason.OUT_OF_RANGE]


def test_a_card_that_flags_has_the_film_analysed_with_a_caution(tmp_path: Path) -> None:
    with running(guarded(tmp_path, action="flag")) as engine:
        analysis = analyse(engine, film(tmp_path / "a.dcm", drawn_chest(503)[::-1]))
    assert analysis.findings is not None
    assert Flag.OUT_OF_RANGE in analysis.findings.flags


def test_a_card_without_guard_checks_nothing(tmp_path: Path) -> None:
    card = install_toy_model(tmp_path)
    with running(installed(tmp_path, card.reference)) as engine:
        analysis = analyse(engine, film(tmp_path / "a.dcm", 1 - drawn_chest(504)), reference=card.reference)
    assert analysis.findings is not None
    assert Flag.OUT_OF_RANGE not in analysis.findings.flags


def test_an_altered_guard_is_the_fault_of_its_model_alone(tmp_path: Path) -> None:
    other = install_toy_model(tmp_path).reference
    bad = guarded(tmp_path)
    file = bad.folder / "guard.npz"
    file.write_bytes(file.read_bytes() + b"\0")
    with running(bad, installed(tmp_path, other)) as engine:
        picture = film(tmp_path / "a.dcm", drawn_chest(505))
        refusal = analyse(engine, picture).refusal
        assert refusal is not None
        assert refusal.reason is Reason.MODEL_FAILED
        assert "guard.npz is not the file of the card: its sha256 differs" in refusal.detail
        assert analyse(engine, picture, reference=other).findings is not None


def test_a_guard_of_a_later_version_is_named(tmp_path: Path) -> None:
    model = guarded(tmp_path)
    card = model.folder / "card.toml"
    card.write_text(card.read_text(encoding="utf-8").replace("appearance-1", "appearance-7"), encoding="utf-8")
    with running(installed(tmp_path, "guarded@1.0.0")) as engine:
        assert "method 'appearance-7' is unknown" in engine.faults["guarded@1.0.0"]


def test_a_missing_guard_is_a_fault_of_the_inventory(tmp_path: Path) -> None:
    model = guarded(tmp_path)
    (model.folder / "guard.npz").unlink()
    inventory = installed_models([tmp_path])
    assert inventory.models == {}
    assert "guard.npz is missing" in inventory.faults[0]


def test_a_link_is_no_guard(tmp_path: Path) -> None:
    model = guarded(tmp_path)
    file = model.folder / "guard.npz"
    file.rename(tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(WeightsError, match="cannot be opened"):
        model.guard()


def test_the_list_of_models_says_whether_there_is_a_guard_and_whether_it_is_in_order(tmp_path: Path) -> None:
    def rows() -> dict[str, dict[str, str]]:
        listed = CliRunner().invoke(main, ["--settings", str(tmp_path / "radnode.toml"), "models", "--json", "-"])
        return {row["model"]: row for row in json.loads(listed.stdout)["models"]}

    folder = tmp_path / "models"
    install_toy_model(folder)
    guarded(folder)
    (tmp_path / "radnode.toml").write_text(f'[models]\nfolders = ["{folder}"]\n', encoding="utf-8")
    listed = rows()
    assert (listed["toy-opacity@1.0.0"]["guard"], listed["toy-opacity@1.0.0"]["weights"]) == ("none", "verified")
    assert (listed["guarded@1.0.0"]["guard"], listed["guarded@1.0.0"]["weights"]) == ("refuse", "verified")
    (folder / "guarded" / "1.0.0" / "guard.npz").write_bytes(b"other")
    assert "sha256 differs" in rows()["guarded@1.0.0"]["weights"]


def test_the_command_gives_a_model_its_guard_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "films"
    (data / "images").mkdir(parents=True)
    rows = ["image,findings,patient_id,age,sex,view,rsna_patientId,rsna_class"]
    for number in range(24):
        Image.fromarray(np.round(drawn_chest(number) * 255).astype(np.uint8)).save(data / "images" / f"{number:02}.png")
        rows.append(f"{number:02}.png,No Finding,{number // 2},{40 + number},M,PA,,Normal")
    (data / "labels.csv").write_text("\n".join(rows), encoding="utf-8")
    (data / "boxes.csv").write_text("image,label,source,x,y,w,h\n", encoding="utf-8")
    recipe = tmp_path / "recipe.toml"
    found = (PROJECT / "training" / "recipes" / "chest_opacity.toml").read_text(encoding="utf-8")
    recipe.write_text(re.sub(r"^set_sha256.*\n", "", found, flags=re.MULTILINE), encoding="utf-8")
    card = install_toy_model(tmp_path / "models")
    folder = tmp_path / "models" / card.identity.name / card.identity.version
    before = (folder / "card.toml").read_text(encoding="utf-8")
    arguments = [str(folder), "--recipe", str(recipe), "--data", str(data)]
    assert make_guard([*arguments, "--measure"]) == 0
    assert "real films refused: 0." in capsys.readouterr().out
    assert (folder / "card.toml").read_text(encoding="utf-8") == before
    assert make_guard(arguments) == 0
    model = installed(tmp_path / "models", card.reference)
    assert model.card.guard is not None
    assert model.card.device_uid != card.device_uid
    assert model.card.model_copy(update={"guard": None}) == card
    guard = guard_of(model)
    assert isinstance(guard, AppearanceGuard)
    assert not guard.judge(see(1 - drawn_chest(99), ProjectionInput(height=64, width=64))).accepted
    assert make_guard(arguments) == 1
    assert "raise its version" in capsys.readouterr().err
    assert make_guard([*arguments[:-1], str(tmp_path / "nothing")]) == 1

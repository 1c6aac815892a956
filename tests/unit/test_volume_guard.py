"""The guard of CT models: lung, bone, body and litres of drawn and real volumes; its file; the engine."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import deid_data
import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray

from inference.engine import Engine, EngineSettings, StudyInput
from inference.findings import Flag
from inference.guard import guard_of
from inference.guard_file import GuardError, file_of
from inference.images import Volume
from inference.loading import load_volume
from inference.refusals import Reason, Refused
from inference.volume_guard import (
    HOUNSFIELD,
    MEASURES,
    VolumeGuard,
    measures,
    read_volume_guard,
    volume_guard_bytes,
)
from models.card import Guard, read_card
from models.registry import InstalledModel
from tests.ct_phantoms import install_blob_finder, write_series
from tests.toy_model import install_toy_model
from training.errors import DataError
from training.toml import to_toml
from training.volume_guard import main, series_below, write_volume_guard

SPACING_MM = (5.0, 2.8, 2.8)
WAIT_S = 60


def drawn(kind: str, *, side: int = 128, slices: int = 24) -> NDArray[np.float32]:
    """A thorax (lungs, spine), a water phantom or a head (skull) in air, HU."""
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    slab = np.full((side, side), -1000.0)
    slab[(x / 0.85) ** 2 + (y / 0.6) ** 2 < 1] = 40.0
    if kind == "thorax":
        for center in (-0.4, 0.4):
            slab[((x - center) / 0.3) ** 2 + (y / 0.42) ** 2 < 1] = -820.0
        slab[(x / 0.09) ** 2 + ((y - 0.42) / 0.09) ** 2 < 1] = 500.0
    if kind == "head":
        ring = (x / 0.85) ** 2 + (y / 0.6) ** 2
        slab[(ring < 1) & (ring > 0.72)] = 900.0
    return np.repeat(slab[np.newaxis], slices, axis=0).astype(np.float32)


def as_volume(voxels: NDArray[np.float32]) -> Volume:
    return Volume(
        voxels=voxels,
        spacing_mm=SPACING_MM,
        origin_mm=(0.0, 0.0, 0.0),
        direction=((0.0, 0.0, 1.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0)),
        headers=(),
        pixel_digest="",
    )


def fitted(folder: Path, **guard: object) -> tuple[Guard, VolumeGuard]:
    made = write_volume_guard([as_volume(drawn("thorax"))], 1, folder, **guard)  # type: ignore[arg-type]
    return made, read_volume_guard((folder / made.file).read_bytes(), made)


def test_the_figures_of_a_drawn_thorax_are_those_of_its_drawing() -> None:
    voxels = drawn("thorax")
    lung_share, bone_share, body_share, litres = measures(as_volume(voxels)).tolist()
    body, lung = float((voxels > -1000).mean()), float((voxels == -820).mean())
    assert lung_share == pytest.approx(lung / body, rel=0.1)
    assert body_share == pytest.approx(body, rel=0.05)
    assert bone_share == pytest.approx(float((voxels == 500).sum() / (voxels == 40).sum()), rel=0.3)
    assert litres == pytest.approx(lung * voxels.size * np.prod(SPACING_MM) / 1e6, rel=0.1)


@pytest.mark.parametrize("kind", ["water", "head"])
def test_water_and_a_head_are_refused_by_name_of_what_is_unusual(kind: str, tmp_path: Path) -> None:
    _, guard = fitted(tmp_path, action="refuse")
    assert guard.flags(as_volume(drawn("thorax"))) == ()
    with pytest.raises(Refused) as refused:
        guard.flags(as_volume(drawn(kind)))
    assert refused.value.refusal.reason is Reason.OUT_OF_RANGE
    assert "litres of aerated lung 0.000, accepted" in refused.value.refusal.detail
    assert ("bone" in refused.value.refusal.detail) == (kind in ("head", "water"))


def test_values_of_another_sign_and_an_empty_room_are_out_of_range(tmp_path: Path) -> None:
    _, guard = fitted(tmp_path)
    for voxels in (-drawn("thorax"), np.full((4, 64, 64), -1000.0, np.float32), np.zeros((3, 20, 20), np.float32)):
        assert guard.flags(as_volume(voxels)) == (Flag.OUT_OF_RANGE,)


def test_a_smaller_and_noisier_thorax_is_accepted(tmp_path: Path) -> None:
    _, guard = fitted(tmp_path, action="refuse")
    noise = np.random.default_rng(0).normal(0, 60, (24, 128, 128)).astype(np.float32)
    assert guard.flags(as_volume(drawn("thorax") + noise)) == ()
    assert guard.flags(as_volume(np.pad(drawn("thorax"), ((0, 0), (20, 20), (20, 20)), constant_values=-1000.0))) == ()


def card_guard(content: bytes, method: str = HOUNSFIELD) -> Guard:
    return Guard(file="guard.npz", sha256=hashlib.sha256(content).hexdigest(), method=method, threshold=2.5)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"nothing", "not a file of arrays"),
        (file_of({"other": np.zeros(3)}), "limits is missing"),
        (file_of({"limits": np.zeros((2, 2))}), "expected float32 (4, 2)"),
        (volume_guard_bytes(np.ones(4), np.zeros(4)), "above the highest"),
    ],
)
def test_an_odd_file_is_refused(content: bytes, says: str) -> None:
    with pytest.raises(GuardError) as error:
        read_volume_guard(content, card_guard(content))
    assert says in str(error.value)


def test_methods_of_pictures_and_volumes_are_not_mixed_up(tmp_path: Path) -> None:
    content = volume_guard_bytes(np.zeros(4), np.ones(4))
    with pytest.raises(GuardError, match="appearance-1"):
        read_volume_guard(content, card_guard(content, "appearance-1"))
    card = install_toy_model(tmp_path)
    folder = tmp_path / card.identity.name / card.identity.version
    (folder / "guard.npz").write_bytes(content)
    with pytest.raises(GuardError, match="'hounsfield-1' is not for an input of kind 'projection'"):
        guard_of(InstalledModel(card=card.model_copy(update={"guard": card_guard(content)}), folder=folder))


@pytest.mark.parametrize("action", ["refuse", "flag"])
def test_the_engine_refuses_or_flags_a_head_and_analyses_a_thorax(action: str, tmp_path: Path) -> None:
    model = install_blob_finder(
        tmp_path / "models",
        name="finds-boxes",
        output="boxes",
        spacing_mm=(5.0, 6.0, 6.0),
        tile=(16, 32, 32),
        overlap=0.0,
    )
    made, _ = fitted(model.folder, action=action)
    card = model.folder / "card.toml"
    text = to_toml({"guard": made.model_dump(mode="json", exclude_none=True)})
    card.write_text(f"{card.read_text(encoding='utf-8')}\n{text}", encoding="utf-8")
    guarded = InstalledModel(card=read_card(card), folder=model.folder)
    engine = Engine([guarded], settings=EngineSettings(network_threads=1))
    try:
        said = {}
        for kind in ("thorax", "head"):
            paths = write_series(tmp_path / kind, drawn(kind, slices=16), SPACING_MM)
            study = StudyInput(study_uid="1.2", images=tuple(paths))
            said[kind] = engine.submit(guarded.card.reference, study).result(WAIT_S)
    finally:
        engine.close()
    assert said["thorax"].findings is not None
    assert Flag.OUT_OF_RANGE not in said["thorax"].findings.flags
    if action == "refuse":
        assert said["head"].refusal is not None
        assert said["head"].refusal.reason is Reason.OUT_OF_RANGE
    else:
        assert said["head"].findings is not None
        assert Flag.OUT_OF_RANGE in said["head"].findings.flags


def test_the_command_gives_a_ct_model_its_guard_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = install_blob_finder(tmp_path / "models", name="finds-boxes", output="boxes", tile=(24, 32, 32))
    write_series(tmp_path / "data" / "one", drawn("thorax", side=96, slices=12), SPACING_MM)
    arguments = [str(model.folder), "--data", str(tmp_path / "data")]
    assert main(arguments) == 0
    card = read_card(model.folder / "card.toml")
    assert card.guard is not None
    assert (card.guard.method, card.guard.action, card.guard.threshold) == (HOUNSFIELD, "flag", 2.5)
    assert isinstance(guard_of(InstalledModel(card=card, folder=model.folder)), VolumeGuard)
    assert main(arguments) == 1
    assert "has a guard: raise its version" in capsys.readouterr().err
    with pytest.raises(DataError):
        write_volume_guard([], 0, tmp_path)


def test_on_real_ct_chests_are_accepted_and_head_and_abdomen_are_not(shared_data: Path, tmp_path: Path) -> None:
    series = series_below([shared_data / "ct_lidc", shared_data / "ct_lung_pet_ct_dx"])
    chests = [load_volume(paths) for paths in series]
    assert len(chests) == 3
    content = tmp_path / "guard"
    for left_out in range(3):
        content.mkdir(exist_ok=True)
        others = [chest for index, chest in enumerate(chests) if index != left_out]
        made = write_volume_guard(others, 2, content, action="refuse")
        guard = read_volume_guard((content / made.file).read_bytes(), made)
        factors = guard.factors(chests[left_out])
        extent = factors.pop("lung_litres")
        assert max(factors.values()) <= made.threshold, "the shares of one patient lie within the limits of two others"
        assert extent <= 7, "but not how much of the chest was scanned"
    made = write_volume_guard(chests, 3, content, action="refuse")
    guard = read_volume_guard((content / made.file).read_bytes(), made)
    head = Path(next(iter(pydicom.__path__))) / "data" / "test_files" / "J2K_pixelrep_mismatch.dcm"
    (abdomen,) = Path(next(iter(deid_data.__path__))).parent.glob("data_store/data/explicit_VR-UN.dcm")
    for path in (head, abdomen):
        slab = pydicom.dcmread(path)
        hu = slab.pixel_array.astype(np.float32) * float(slab.RescaleSlope) + float(slab.RescaleIntercept)
        volume = replace(chests[0], voxels=np.repeat(hu[np.newaxis], 20, axis=0))
        with pytest.raises(Refused, match="share of the body"):
            guard.flags(volume)
    assert list(MEASURES) == list(guard.factors(chests[0]))

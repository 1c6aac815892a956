"""Installed models: found, verified, and never leading outside their folder."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.card import Runtime
from models.onnx_file import has_external_data
from models.registry import InstalledModel, WeightsError, installed_models
from tests.networks import DiscFinder, card_text, export, install


@pytest.fixture(scope="module")
def weights() -> tuple[bytes, bytes]:
    return export(DiscFinder())


@pytest.fixture
def model(tmp_path: Path, weights: tuple[bytes, bytes]) -> InstalledModel:
    return install(tmp_path, weights)


def external_weights(weights: tuple[bytes, bytes]) -> bytes:
    """The same network with one tensor in another file."""
    import onnx

    network = onnx.load_model_from_string(weights[0])
    onnx.external_data_helper.set_external_data(network.graph.initializer[0], location="../../secret")
    return bytes(network.SerializeToString())


def test_an_installed_model_is_found_by_reference_and_by_name(tmp_path: Path, model: InstalledModel) -> None:
    inventory = installed_models([tmp_path])
    assert inventory.faults == ()
    assert inventory.find("disc-finder@1.0.0") == model
    assert inventory.find("disc-finder") == model
    assert inventory.find("other") is None


def test_the_highest_version_is_the_latest(tmp_path: Path, weights: tuple[bytes, bytes]) -> None:
    for version in ("1.9.0", "1.10.0"):
        folder = tmp_path / "disc-finder" / version
        folder.mkdir(parents=True)
        (folder / "model.onnx").write_bytes(weights[0])
        (folder / "model.pt2").write_bytes(weights[1])
        (folder / "card.toml").write_text(card_text(weights).replace("1.0.0", version), encoding="utf-8")
    latest = installed_models([tmp_path]).latest("disc-finder")
    assert latest is not None
    assert latest.card.identity.version == "1.10.0"


def test_the_verified_bytes_are_those_of_the_file(model: InstalledModel, weights: tuple[bytes, bytes]) -> None:
    assert model.weights(Runtime.ONNX) == weights[0]
    assert model.weights(Runtime.TORCH) == weights[1]


def test_altered_weights_are_refused(model: InstalledModel) -> None:
    path = model.folder / "model.onnx"
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(WeightsError, match="sha256"):
        model.weights(Runtime.ONNX)


def test_a_link_in_place_of_the_weights_is_refused(model: InstalledModel, tmp_path: Path) -> None:
    path = model.folder / "model.onnx"
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(WeightsError, match="cannot be opened"):
        model.weights(Runtime.ONNX)


def test_weights_that_point_to_other_files_are_refused(tmp_path: Path, weights: tuple[bytes, bytes]) -> None:
    model = install(tmp_path / "external", (external_weights(weights), weights[1]))
    with pytest.raises(WeightsError, match="other files"):
        model.weights(Runtime.ONNX)


def test_one_broken_card_does_not_hide_the_others(tmp_path: Path, model: InstalledModel) -> None:
    broken = tmp_path / "broken" / "1.0.0"
    broken.mkdir(parents=True)
    (broken / "card.toml").write_text("[identity]\nname = 3\n", encoding="utf-8")
    inventory = installed_models([tmp_path])
    assert list(inventory.models) == [model.card.reference]
    assert len(inventory.faults) == 1
    assert "fault(s)" in inventory.faults[0]


def test_a_card_in_a_folder_of_another_name_is_a_fault(tmp_path: Path, model: InstalledModel) -> None:
    model.folder.rename(model.folder.parent / "2.0.0")
    inventory = installed_models([tmp_path])
    assert not inventory.models
    assert "its folder says otherwise" in inventory.faults[0]


def test_missing_weights_are_a_fault_of_the_inventory(tmp_path: Path, model: InstalledModel) -> None:
    (model.folder / "model.pt2").unlink()
    assert "model.pt2 is missing" in installed_models([tmp_path]).faults[0]


def test_the_same_model_in_two_roots_is_a_fault(tmp_path: Path, weights: tuple[bytes, bytes]) -> None:
    for root in ("a", "b"):
        install(tmp_path / root, weights)
    inventory = installed_models([tmp_path / "a", tmp_path / "b"])
    assert len(inventory.models) == len(inventory.faults) == 1


def test_external_data_is_seen_wherever_it_hides(weights: tuple[bytes, bytes]) -> None:
    assert not has_external_data(weights[0])
    assert has_external_data(external_weights(weights))


@settings(max_examples=150, deadline=None)
@given(data=st.binary(max_size=200))
def test_arbitrary_bytes_are_answered_or_called_malformed(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        assert has_external_data(data) in (True, False)

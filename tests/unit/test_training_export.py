"""Export: both files say what the network says, for any batch size, and name no file of the machine they came from."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from training.errors import ExportError
from training.export import ONNX_FILE, TORCH_FILE, export, prove_parity
from training.network import Detector, Mirrored
from training.recipe import Network

SIDE = 64
PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def detector() -> Iterator[Mirrored]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(4)
    network = Network(labels=("opacity",), neck_channels=16, frozen_blocks=0, dropout=0.1)
    yield Mirrored(Detector(network, pretrained=True)).eval()
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def exported(detector: Mirrored, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    export(detector, folder, height=SIDE, width=SIDE)
    return folder


def pictures(count: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.random.default_rng(1).normal(size=(count, 1, SIDE, SIDE)).astype(np.float32)


def test_both_files_say_what_the_network_says_for_several_batch_sizes(detector: Mirrored, exported: Path) -> None:
    parity = prove_parity(detector, exported, pictures(7))
    assert parity.films == 7
    assert {"torch.export", "ONNX Runtime CPU"} <= set(parity.runtimes)
    for off in parity.runtimes.values():
        assert set(off.outputs) == {"heatmap", "ltrb", "picture"}
        assert off.probability < 1e-4
        assert off.pixels < 0.1


def test_a_mirrored_film_gets_the_mirrored_answer(detector: Mirrored) -> None:
    film = torch.from_numpy(pictures(2))
    with torch.inference_mode():
        said, mirrored = detector(film), detector(film.flip(-1))
    assert torch.allclose(said.heatmap, mirrored.heatmap.flip(-1), atol=1e-4)
    assert torch.allclose(said.ltrb[:, 0], mirrored.ltrb[:, 2].flip(-1), atol=1e-3)
    assert torch.allclose(said.picture, mirrored.picture, atol=1e-4)


def test_weights_that_are_not_the_networks_are_found_out(detector: Mirrored, exported: Path) -> None:
    shape = Network(labels=("opacity",), neck_channels=16, frozen_blocks=0, dropout=0.1)
    other = Mirrored(Detector(shape, pretrained=True))
    with pytest.raises(ExportError, match="differs"):
        prove_parity(other.eval(), exported, pictures(2))


def test_the_graph_has_the_names_of_the_card_and_a_free_batch(exported: Path) -> None:
    graph = onnx.load(exported / ONNX_FILE).graph
    assert [output.name for output in graph.output] == ["heatmap", "ltrb", "picture"]
    shape = graph.input[0].type.tensor_type.shape.dim
    assert (shape[0].dim_param, [dim.dim_value for dim in shape[1:]]) == ("batch", [1, SIDE, SIDE])


def test_no_file_of_the_machine_is_named_in_what_is_shipped(exported: Path) -> None:
    with zipfile.ZipFile(io.BytesIO((exported / TORCH_FILE).read_bytes())) as archive:
        texts = [archive.read(name) for name in archive.namelist()]
    for content in [*texts, (exported / ONNX_FILE).read_bytes()]:
        assert str(PROJECT).encode() not in content
        assert b"site-packages" not in content

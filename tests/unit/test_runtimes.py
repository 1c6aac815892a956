"""Both runtimes refuse what they must not run, and tell memory from other trouble."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from inference.runtimes import open_network
from inference.runtimes.base import Device, NetworkFailed, is_out_of_memory
from inference.runtimes.onnx import OnnxNetwork
from inference.runtimes.torch import TorchNetwork
from models.card import Runtime
from tests.networks import DiscFinder, disc_card, export, install

NAMES = ("heatmap", "ltrb", "picture")


@pytest.fixture(scope="module")
def weights() -> tuple[bytes, bytes]:
    return export(DiscFinder())


def load_torch(data: bytes) -> TorchNetwork:
    return TorchNetwork(data, output_names=NAMES, device=Device.CPU, threads=1)


def replaced(archive: bytes, part: str, content: bytes) -> bytes:
    """The archive with one of its parts exchanged or added."""
    source, target = zipfile.ZipFile(io.BytesIO(archive)), io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as made:
        for name in source.namelist():
            if name != part:
                made.writestr(name, source.read(name))
        made.writestr(part, content)
    return target.getvalue()


class Harmful:
    """Unpickling it leaves a trace."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.trace,)


@pytest.mark.parametrize(
    "part",
    [
        "archive/data/sample_inputs/model.pt",
        "archive/data/weights/model.pt",
        "archive/data/constants/model.pt",
        "archive/data/constants/opaque_obj_0",
    ],
)
def test_a_pickle_in_the_archive_is_never_run(weights: tuple[bytes, bytes], tmp_path: Path, part: str) -> None:
    trace = tmp_path / "ran"
    poisoned = replaced(weights[1], part, pickle.dumps(Harmful(trace), protocol=2))
    with pytest.raises(NetworkFailed):
        load_torch(poisoned)
    assert not trace.exists()


def test_a_weight_that_is_declared_a_pickle_is_refused() -> None:
    part = "archive/data/weights/model_weights_config.json"
    archive = export(DiscFinder(work=1))[1]
    config = zipfile.ZipFile(io.BytesIO(archive)).read(part)
    declared = config.replace(b'"use_pickle": false', b'"use_pickle": true')
    assert declared != config
    with pytest.raises(NetworkFailed, match="pickle"):
        load_torch(replaced(archive, part, declared))


def test_a_plain_pickle_is_no_archive(tmp_path: Path) -> None:
    trace = tmp_path / "ran"
    with pytest.raises(NetworkFailed, match="no torch"):
        load_torch(pickle.dumps(Harmful(trace), protocol=2))
    assert not trace.exists()


@pytest.mark.parametrize("data", [b"", b"junk", b"\x08\x07" * 30])
def test_weights_that_are_no_network_are_an_error_of_ours(data: bytes) -> None:
    with pytest.raises(NetworkFailed):
        OnnxNetwork(data, card=disc_card(), device=Device.CPU, threads=1)
    with pytest.raises(NetworkFailed):
        load_torch(data)


def test_a_batch_of_the_wrong_shape_is_an_error_of_ours(weights: tuple[bytes, bytes]) -> None:
    batch = np.zeros((1, 2, 64, 64), dtype=np.float32)
    for network in (OnnxNetwork(weights[0], card=disc_card(), device=Device.CPU, threads=1), load_torch(weights[1])):
        assert network.device == "cpu"
        with pytest.raises(NetworkFailed):
            network.run(batch)


def test_asking_for_a_gpu_that_is_not_there_is_said_so(weights: tuple[bytes, bytes]) -> None:
    import onnxruntime
    import torch

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        with pytest.raises(NetworkFailed, match="CUDA"):
            OnnxNetwork(weights[0], card=disc_card(), device=Device.CUDA, threads=1)
    if not torch.cuda.is_available():
        with pytest.raises(NetworkFailed, match="CUDA"):
            TorchNetwork(weights[1], output_names=NAMES, device=Device.CUDA, threads=1)


@pytest.mark.parametrize("batch", [1, 2, 7])
@pytest.mark.parametrize("runtime", list(Runtime))
def test_the_batch_size_is_free(weights: tuple[bytes, bytes], tmp_path: Path, runtime: Runtime, batch: int) -> None:
    network = open_network(install(tmp_path, weights), runtime=runtime, device=Device.CPU, threads=1)
    outputs = network.run(np.zeros((batch, 1, 64, 64), dtype=np.float32))
    assert {name: array.shape for name, array in outputs.items()} == {
        "heatmap": (batch, 1, 8, 8),
        "ltrb": (batch, 4, 8, 8),
        "picture": (batch, 1),
    }
    network.close()


@pytest.mark.parametrize(
    ("text", "memory"),
    [
        ("CUDA out of memory. Tried to allocate 2 GiB", True),
        ("BFCArena::AllocateRawInternal Failed to allocate memory for requested buffer", True),
        ("CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate", True),
        ("Invalid rank for input", False),
    ],
)
def test_exhausted_memory_is_told_by_the_librarys_words(text: str, memory: bool) -> None:
    assert is_out_of_memory(text) is memory


@pytest.mark.gpu
@pytest.mark.parametrize("runtime", list(Runtime))
def test_a_gpu_gives_what_the_cpu_gives(weights: tuple[bytes, bytes], tmp_path: Path, runtime: Runtime) -> None:
    model = install(tmp_path, weights)
    batch = np.random.default_rng(1).random((4, 1, 64, 64), dtype=np.float32)
    on_gpu, on_cpu = (open_network(model, runtime=runtime, device=device) for device in (Device.CUDA, Device.CPU))
    assert on_gpu.device == "cuda"
    for name, array in on_cpu.run(batch).items():
        np.testing.assert_allclose(on_gpu.run(batch)[name], array, atol=1e-3)

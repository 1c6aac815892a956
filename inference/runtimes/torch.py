"""Runs a torch.export archive (.pt2) with PyTorch, on CUDA or the CPU.

Called by `runtimes.open_network`. An archive holds a graph and arrays; a pickle is code and is never loaded: the bytes
must be an archive of torch.export, and PyTorch's unpickler is told to admit weights only.
"""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray

from inference.runtimes.base import Device, DeviceOutOfMemory, NetworkFailed, is_out_of_memory

_PLAIN = ("weight_", "tensor_")  # raw arrays; custom and opaque objects are named otherwise


class TorchNetwork:
    """An exported program; see `runtimes.base.Network`.

    A program may return a mapping by output name, or a tuple in the order of `output_names`.
    """

    def __init__(self, weights: bytes, *, output_names: tuple[str, ...], device: Device, threads: int) -> None:
        if device is Device.CUDA and not torch.cuda.is_available():
            raise NetworkFailed("CUDA was asked for, PyTorch finds no GPU")
        self.device = "cuda" if device is not Device.CPU and torch.cuda.is_available() else "cpu"
        self.max_batch: int | None = None  # archives are exported with a free batch axis, see training.export
        self._names = output_names
        torch.set_num_threads(threads)
        _check_archive(weights)
        with _translated():
            program = torch.export.load(io.BytesIO(weights))
            self._module = program.module().to(self.device)

    def run(self, batch: NDArray[np.float32]) -> Mapping[str, NDArray[np.float32]]:
        """See `runtimes.base.Network.run`."""
        with _translated(), torch.inference_mode():
            outputs = self._module(torch.from_numpy(batch).to(self.device))
            named = outputs if isinstance(outputs, Mapping) else dict(zip(self._names, outputs, strict=True))
            return {str(name): tensor.float().cpu().numpy() for name, tensor in named.items()}

    def close(self) -> None:
        """See `runtimes.base.Network.close`."""
        del self._module
        if self.device == "cuda":
            torch.cuda.empty_cache()


def _check_archive(weights: bytes) -> None:
    """Refuse archives for which `torch.export.load` would unpickle anything but tensors.

    Raises
    ------
    NetworkFailed
        If the bytes are no archive of torch.export, or one that carries pickled objects.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(weights)) as archive:
            files = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
            whole = len(files) == len(archive.namelist())
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError) as error:
        raise NetworkFailed("the weights are no torch.export archive") from error
    if "archive_format" not in files or not whole:
        raise NetworkFailed("the weights are no torch.export archive; pickles are never loaded")
    for name, content in files.items():
        if _may_run_code(name, content):
            raise NetworkFailed(f"the archive holds a pickled object in {name}: pickles are code")


def _may_run_code(name: str, content: bytes) -> bool:
    """Whether PyTorch would hand this part of the archive to an unpickler that runs code."""
    if name.startswith("data/sample_inputs/"):
        try:
            torch.load(io.BytesIO(content), weights_only=True)
        except Exception:  # noqa: BLE001  (what the safe unpickler does not admit, PyTorch would give to the unsafe one)
            return bool(content)
        return False
    if name.startswith(("data/weights/", "data/constants/")):
        if name.endswith(".json"):
            entries = json.loads(content)["config"].values()
            return any(entry["use_pickle"] or not entry["path_name"].startswith(_PLAIN) for entry in entries)
        return not name.rpartition("/")[2].startswith(_PLAIN)
    return False


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise DeviceOutOfMemory("PyTorch ran out of memory") from error
    except Exception as error:
        if is_out_of_memory(str(error)):
            raise DeviceOutOfMemory("PyTorch ran out of memory") from error
        raise NetworkFailed(f"PyTorch fails ({type(error).__name__})") from error

"""Runs ONNX weights with ONNX Runtime, on CUDA where it is offered and asked for, else on the CPU.

Called by `runtimes.open_network`. Weights come as verified bytes; files are never opened here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from inference.runtimes.base import Device, DeviceOutOfMemory, NetworkFailed, is_out_of_memory

_CUDA, _CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
_ERRORS_ONLY = 3


class OnnxNetwork:
    """An inference session; see `runtimes.base.Network`."""

    def __init__(self, weights: bytes, *, device: Device, threads: int) -> None:
        available = onnxruntime.get_available_providers()
        if device is Device.CUDA and _CUDA not in available:
            raise NetworkFailed("CUDA was asked for, ONNX Runtime offers it not: install onnxruntime-gpu")
        providers = [_CUDA, _CPU] if device is not Device.CPU and _CUDA in available else [_CPU]
        if _CUDA in providers:
            # CUDA's libraries may be Python packages, which the system's loader does not search.
            onnxruntime.preload_dlls()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = _ERRORS_ONLY
        # Threads that spin between batches would take the cores from decoding and receiving.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        with _translated():
            self._session = onnxruntime.InferenceSession(weights, options, providers=providers)
        self.device = "cuda" if _CUDA in self._session.get_providers() else "cpu"
        if device is Device.CUDA and self.device != "cuda":
            raise NetworkFailed("CUDA was asked for, ONNX Runtime fell back to the CPU: see its log")
        self._input = self._session.get_inputs()[0].name
        self._outputs = [output.name for output in self._session.get_outputs()]

    def run(self, batch: NDArray[np.float32]) -> Mapping[str, NDArray[np.float32]]:
        """See `runtimes.base.Network.run`."""
        with _translated():
            arrays = self._session.run(self._outputs, {self._input: batch})
        return {name: np.asarray(array, dtype=np.float32) for name, array in zip(self._outputs, arrays, strict=True)}

    def warm_up(self, shape: tuple[int, int, int]) -> None:
        """See `runtimes.base.Network.warm_up`."""
        self.run(np.zeros((1, *shape), dtype=np.float32))

    def close(self) -> None:
        """See `runtimes.base.Network.close`."""
        self._session = None


@contextmanager
def _translated() -> Iterator[None]:
    """Turn the library's errors, which share no base class, into ours."""
    try:
        yield
    except Exception as error:
        if is_out_of_memory(str(error)):
            raise DeviceOutOfMemory("ONNX Runtime ran out of memory") from error
        raise NetworkFailed(f"ONNX Runtime fails ({type(error).__name__})") from error

"""Runs ONNX weights with ONNX Runtime, on CUDA where it is offered and asked for, else on the CPU.

Called by `runtimes.open_network`. Weights come as verified bytes; files are never opened here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from inference.runtimes.base import Device, DeviceOutOfMemory, NetworkFailed, is_out_of_memory, stacked
from inference.runtimes.signature import Port, Signature, wire
from models.card import ModelCard

_CUDA, _CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
_ERRORS_ONLY = 3
_DTYPES = {"float": "float32", "double": "float64"}  # what ONNX calls otherwise than NumPy


class OnnxNetwork:
    """An inference session; see `runtimes.base.Network`.

    Raises
    ------
    SignatureDiffers
        If the graph's inputs or outputs are not those of the card.
    NetworkFailed
        If the library cannot load the graph.
    """

    def __init__(self, weights: bytes, *, card: ModelCard, device: Device, threads: int) -> None:
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
        self._wiring = wire(signature_of(self._session), card)
        self.max_batch = self._wiring.max_batch

    def run(self, batch: NDArray[np.float32]) -> Mapping[str, NDArray[np.float32]]:
        """See `runtimes.base.Network.run`."""
        if self.max_batch is not None and len(batch) > self.max_batch:
            return stacked([self._run(batch[index : index + 1]) for index in range(len(batch))])
        return self._run(batch)

    def _run(self, batch: NDArray[np.float32]) -> Mapping[str, NDArray[np.float32]]:
        wiring = self._wiring
        fed = (batch if wiring.input_batched else batch[0]).astype(wiring.input_dtype, copy=False)
        with _translated():
            arrays = self._session.run(list(wiring.outputs), {wiring.input_name: fed})
        return {
            name: np.asarray(array, dtype=np.float32)[slice(None) if wiring.outputs_batched else np.newaxis]
            for name, array in zip(wiring.outputs, arrays, strict=True)
        }

    def close(self) -> None:
        """See `runtimes.base.Network.close`."""
        self._session = None


def opened(weights: bytes) -> onnxruntime.InferenceSession:
    """A session on the processor for a graph without a card, to look into.

    Raises
    ------
    NetworkFailed
        If the library cannot load it.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    with _translated():
        return onnxruntime.InferenceSession(weights, options, providers=[_CPU])


def signature_of(session: onnxruntime.InferenceSession) -> Signature:
    """Inputs and outputs of a graph."""
    return Signature(
        inputs=tuple(_port(port) for port in session.get_inputs()),
        outputs=tuple(_port(port) for port in session.get_outputs()),
    )


def _port(port: onnxruntime.NodeArg) -> Port:
    element = port.type.removeprefix("tensor(").removesuffix(")")
    return Port(name=port.name, dtype=_DTYPES.get(element, element), shape=tuple(port.shape))


@contextmanager
def _translated() -> Iterator[None]:
    """Turn the library's errors, which share no base class, into ours."""
    try:
        yield
    except Exception as error:
        if is_out_of_memory(str(error)):
            raise DeviceOutOfMemory("ONNX Runtime ran out of memory") from error
        raise NetworkFailed(f"ONNX Runtime fails ({type(error).__name__})") from error

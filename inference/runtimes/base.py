"""The interface between the engine and whichever library runs a network.

Implemented by `runtimes.onnx` and `runtimes.torch`; a remote runtime can be passed in the same way. Arrays only:
tensors of a library do not leave this package.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Device(StrEnum):
    """Where a network is run."""

    AUTO = "auto"  # CUDA where the runtime offers it, else the CPU
    CPU = "cpu"
    CUDA = "cuda"  # an NVIDIA GPU; an error when there is none


class NetworkFailed(Exception):
    """The library could not load or run the network. Permanent for this input."""


class DeviceOutOfMemory(Exception):
    """The device had no memory left for the batch. Retryable: after a restart, with a smaller batch."""


class Network(Protocol):
    """A loaded network."""

    @property
    def device(self) -> str:
        """ "cpu" or "cuda"."""

    @property
    def max_batch(self) -> int | None:
        """Most pictures that are run at a time; None for any number."""

    def run(self, batch: NDArray[np.float32]) -> Mapping[str, NDArray[np.float32]]:
        """Outputs by name for a batch (pictures, channels, height, width), each with the batch axis first.

        A batch above `max_batch` is run one by one.

        Raises
        ------
        DeviceOutOfMemory
            If the device's memory does not suffice.
        NetworkFailed
            If the library fails otherwise, or a batch was run one by one and gave outputs of different lengths.
        """

    def close(self) -> None:
        """Free the network's memory."""


def stacked(runs: Sequence[Mapping[str, NDArray[np.float32]]]) -> Mapping[str, NDArray[np.float32]]:
    """Outputs of single pictures as those of one batch.

    Raises
    ------
    NetworkFailed
        If they differ in shape, as lists of boxes do: then pictures must be run alone.
    """
    for name in runs[0]:
        if len({run[name].shape for run in runs}) > 1:
            raise NetworkFailed(f"output {name} has another length for each picture: they must be run one by one")
    return {name: np.concatenate([run[name] for run in runs]) for name in runs[0]}


def is_out_of_memory(message: str) -> bool:
    """Whether a library's error text tells of exhausted memory; none of them has a type for it in all cases."""
    lowered = message.lower()
    words = ("out of memory", "failed to allocate memory", "cublas_status_alloc_failed", "bad_alloc", "bad allocation")
    return any(word in lowered for word in words)

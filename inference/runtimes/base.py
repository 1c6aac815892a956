"""The interface between the engine and whichever library runs a network.

Implemented by `runtimes.onnx` and `runtimes.torch`; a remote runtime can be passed in the same way. Arrays only:
tensors of a library do not leave this package.
"""

from __future__ import annotations

from collections.abc import Mapping
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

    def run(self, batch: NDArray[np.float32]) -> Mapping[str, NDArray[np.float32]]:
        """Outputs by name for a batch (pictures, channels, height, width).

        Raises
        ------
        DeviceOutOfMemory
            If the device's memory does not suffice.
        NetworkFailed
            If the library fails otherwise.
        """

    def warm_up(self, shape: tuple[int, int, int]) -> None:
        """Run one empty picture (channels, height, width), so that the first study does not pay for it."""

    def close(self) -> None:
        """Free the network's memory."""


def is_out_of_memory(message: str) -> bool:
    """Whether a library's error text tells of exhausted memory; none of them has a type for it in all cases."""
    lowered = message.lower()
    words = ("out of memory", "failed to allocate memory", "cublas_status_alloc_failed", "bad_alloc", "bad allocation")
    return any(word in lowered for word in words)

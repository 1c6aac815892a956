"""Looks into an ONNX file: what it takes and gives, and what it gives for a picture of noise.

Called by `radnode models inspect`; what can be made of it is `inference.runtimes.proposals`' business.
"""

from __future__ import annotations

import math

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from inference.runtimes.onnx import opened, signature_of
from inference.runtimes.proposals import Proposals, propose, proposed_input
from inference.runtimes.signature import Dimension, Signature

_LARGEST_RUN = 1 << 26  # values of the input: a larger picture is not tried
_FREE_SIDE, _FREE_TILE = 512, 96


def inspect(weights: bytes) -> tuple[Signature, Proposals]:
    """Signature of a graph, and ways to describe it in a card.

    Raises
    ------
    NetworkFailed
        If the file is no graph that ONNX Runtime can load.
    """
    session = opened(weights)
    signature = signature_of(session)
    model_input, _ = proposed_input(signature)
    if model_input is None:
        return signature, propose(signature, {}, ())
    port = signature.inputs[0]
    shape = tuple(_size(size, index, len(port.shape)) for index, size in enumerate(port.shape))
    return signature, propose(signature, _given(session, port.name, port.dtype, shape), shape[-2:])


def _size(size: Dimension, index: int, axes: int) -> int:
    """A size to try: the graph's own, else one picture, one channel, a usual side."""
    if isinstance(size, int):
        return size
    if axes > 3:  # noqa: PLR2004  (with a batch axis)
        return 1 if index < 2 else _FREE_TILE if axes > 4 else _FREE_SIDE  # noqa: PLR2004
    return 1 if index == 0 else _FREE_SIDE


def _given(
    session: onnxruntime.InferenceSession, name: str, dtype: str, shape: tuple[int, ...]
) -> dict[str, NDArray[np.generic]]:
    """What the graph gives for noise; nothing where it does not take the sizes that were tried."""
    if math.prod(shape) > _LARGEST_RUN:
        return {}
    noise = np.random.default_rng(0).random(shape, dtype=np.float32).astype(dtype)
    names = [output.name for output in session.get_outputs()]
    try:
        arrays = session.run(names, {name: noise})
    except Exception:  # noqa: BLE001  (the library's errors share no base class; the shapes alone must do then)
        return {}
    return {name: array for name, array in zip(names, arrays, strict=True) if isinstance(array, np.ndarray)}

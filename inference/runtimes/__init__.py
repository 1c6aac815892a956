"""Networks behind one small interface; the only place of `inference` that knows onnxruntime and torch.

`open_network` chooses the library from the card and the settings. Called by `inference.engine`.
"""

from __future__ import annotations

import numpy as np

from inference.outputs import output_names
from inference.runtimes.base import Device, DeviceOutOfMemory, Network, NetworkFailed
from inference.runtimes.signature import SignatureDiffers, check_outputs, picture_shape
from models.card import Runtime
from models.registry import InstalledModel

__all__ = ["Device", "DeviceOutOfMemory", "Network", "NetworkFailed", "SignatureDiffers", "open_network"]


def open_network(
    model: InstalledModel, *, runtime: Runtime | None = None, device: Device = Device.AUTO, threads: int = 2
) -> Network:
    """Load verified weights, and run one empty picture: the first study does not pay for it, and what comes is checked.

    Parameters
    ----------
    runtime : Runtime or None
        None takes the first of the card.
    device : Device
        AUTO takes CUDA where the runtime offers it.
    threads : int
        Threads of one inference on the CPU.

    Raises
    ------
    models.registry.WeightsError
        If the weights are not those of the card.
    NetworkFailed
        If the library cannot load or run them, is not installed, or CUDA was asked for and is not there; as
        `SignatureDiffers` if the graph takes or gives something else than the card says.
    """
    chosen = model.runtimes[0] if runtime is None else runtime
    weights = model.weights(chosen)
    network: Network
    if chosen is Runtime.ONNX:
        from inference.runtimes.onnx import OnnxNetwork

        network = OnnxNetwork(weights, card=model.card, device=device, threads=threads)
    else:
        from inference.runtimes.torch import TorchNetwork

        network = TorchNetwork(weights, output_names=output_names(model.card.output), device=device, threads=threads)
    shape = picture_shape(model.card)
    check_outputs(network.run(np.zeros((1, *shape), dtype=np.float32)), model.card)
    return network

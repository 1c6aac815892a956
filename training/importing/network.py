"""Builds the network that a bundle describes, gives it its weights, and writes it as ONNX with a proof.

Called by `training.importing.monai`. Networks come from a list of MONAI's own; weights are read as arrays only. Of a
pickled object or a TorchScript archive nothing is loaded: both are programs.
"""

from __future__ import annotations

import inspect
import io
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from training.importing.bundle import ImportRefused
from training.importing.expressions import Component, Named
from training.importing.preprocessing import Axes

INPUT_NAME = "pictures"
TOLERANCE = 1e-4  # largest difference of an output of the written file, of logits or probabilities
_OPSET = 18
_MAX_PARAMETERS = 1_000_000_000
_WRAPPERS = ("model", "state_dict", "network", "net", "model_state_dict")
# Networks that take arrays in and give one array out, and whose arguments are plain values.
NETWORKS = frozenset(
    {
        "AHNet", "AttentionUnet", "BasicUNet", "BasicUNetPlusPlus", "BasicUnet", "Classifier", "DenseNet",
        "DenseNet121", "DenseNet169", "DenseNet201", "DenseNet264", "Densenet121", "DynUNet", "EfficientNetBN",
        "FlexibleUNet", "HighResNet", "ResNet", "SEResNet50", "SEResNet101", "SEResNext50", "SegResNet", "SENet",
        "SENet154", "SwinUNETR", "TorchVisionFCModel", "UNet", "UNETR", "Unet", "VNet", "ViT", "densenet121",
        "densenet169", "densenet201", "densenet264", "resnet10", "resnet18", "resnet34", "resnet50", "resnet101",
    }
)  # fmt: skip


def build(component: Component) -> nn.Module:
    """The network of a component, with weights as they are by chance.

    Raises
    ------
    ImportRefused
        If it is not on the list, wants to download weights, or MONAI does not take its arguments.
    """
    import monai.networks.nets as nets

    module, _, name = component.target.rpartition(".")
    if name not in NETWORKS or (module and not f"{module}.".startswith("monai.networks.nets.")):
        raise ImportRefused(
            f"{component.place}: {component.target} is not among the networks that are imported: "
            f"{', '.join(sorted(NETWORKS))}. Export it as ONNX where it was made, and write a card for it"
        )
    made = getattr(nets, name)
    arguments = {key: _plain(value, component.place) for key, value in component.arguments.items()}
    positional = [_plain(value, component.place) for value in component.positional]
    if wanted := [key for key, value in arguments.items() if value and ("pretrained" in key or key == "weights")]:
        raise ImportRefused(f"{component.place}: {wanted[0]} asks for a download; the bundle's own weights are used")
    parameters = inspect.signature(made).parameters
    arguments |= {key: False for key, one in parameters.items() if key == "pretrained" and one.default is True}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # MONAI warns of arguments that will go
            network = made(*positional, **arguments)
    except Exception as error:
        raise ImportRefused(f"{component.place}: MONAI does not make {component.target}: {error}") from error
    if not isinstance(network, nn.Module):
        raise ImportRefused(f"{component.place}: {component.target} is no network")
    if sum(parameter.numel() for parameter in network.parameters()) > _MAX_PARAMETERS:
        raise ImportRefused(f"{component.place}: more than {_MAX_PARAMETERS} parameters")
    return network.eval()


def _plain(value: object, place: str) -> Any:
    """An argument as MONAI takes it; the names of its factories become the words that it takes for them."""
    if isinstance(value, Component):
        raise ImportRefused(f"{place}: {value.target} as an argument is not understood")
    if isinstance(value, Named):
        module, _, name = value.name.rpartition(".")
        if module.endswith((".Norm", ".Act")):
            return name
        if module == "torch":
            return getattr(torch, name)
        raise ImportRefused(f"{place}: {value.name} as an argument is not understood")
    if isinstance(value, Mapping):
        return {key: _plain(item, place) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_plain(item, place) for item in value)
    return value


def load_weights(network: nn.Module, data: bytes, name: str) -> None:
    """Give a network the arrays of a state dictionary.

    Raises
    ------
    ImportRefused
        If the file holds anything but arrays, or other arrays than the network has.
    """
    try:
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:
        raise ImportRefused(
            f"{name}: is no file of weights alone: pickled objects and TorchScript are programs and are never loaded. "
            "Save the network's state_dict() with torch.save"
        ) from error
    weights = _state(content)
    if weights is None:
        raise ImportRefused(f"{name}: holds no state dictionary, nor one under {', '.join(_WRAPPERS)}")
    try:
        missing, strange = network.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        raise ImportRefused(f"{name}: the weights have other shapes than the network: {error}") from error
    if missing or strange:
        raise ImportRefused(
            f"{name}: is not of the network that the configuration describes: {len(missing)} of its arrays are missing "
            f"({', '.join(missing[:3])}), {len(strange)} are not its own ({', '.join(strange[:3])})"
        )


def _state(content: object) -> dict[str, Tensor] | None:
    for candidate in (content, *(content.get(key) for key in _WRAPPERS if isinstance(content, dict))):
        if isinstance(candidate, dict) and candidate and all(isinstance(value, Tensor) for value in candidate.values()):
            return {str(key).removeprefix("module."): value for key, value in candidate.items()}
    return None


class _Turned(nn.Module):
    """A network behind a card's order of axes: spatial axes are turned on the way in, and back where they come out."""

    def __init__(self, network: nn.Module, axes: Axes) -> None:
        super().__init__()
        self.network = network
        self._flips = [axis + 2 for axis in axes.reversed_axes]
        self._there = [0, 1, *(axis + 2 for axis in axes.order)]
        self._back = [self._there.index(axis) for axis in range(len(self._there))]

    def forward(self, pictures: Tensor) -> Tensor:
        turned = torch.flip(pictures, self._flips) if self._flips else pictures
        given: Tensor = self.network(turned.permute(self._there))
        if given.dim() != pictures.dim():
            return given
        back = given.permute(self._back)
        return torch.flip(back, self._flips) if self._flips else back


def turned(network: nn.Module, axes: Axes) -> nn.Module:
    """The network behind a card's order of axes."""
    return _Turned(network, axes).eval()


def given_shape(network: nn.Module, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of what the network gives for one picture of `shape` (channels first), both without the batch axis.

    Raises
    ------
    ImportRefused
        If it does not take the picture, or gives something else than one array.
    """
    try:
        with torch.inference_mode():
            given = network(torch.from_numpy(_picture(shape, 1)))
    except Exception as error:
        raise ImportRefused(f"the network does not take pictures of {shape}: {error}") from error
    if not isinstance(given, Tensor):
        raise ImportRefused(f"the network gives a {type(given).__name__}; only one array is understood")
    return tuple(given.shape[1:])


def write_onnx(network: nn.Module, shape: tuple[int, ...], output_name: str, file: Path) -> None:
    """Write the network as ONNX, and prove that the file says what the network says.

    Parameters
    ----------
    shape : tuple of int
        Of one picture, channels first.

    Raises
    ------
    ImportRefused
        If it cannot be written, or the file says something else.
    """
    free = {0: torch.export.Dim("batch", min=1, max=256)}
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter warns of its own internals; parity judges the result
            torch.onnx.export(
                network, (torch.from_numpy(_picture(shape, 2)),), file, input_names=[INPUT_NAME],
                output_names=[output_name], opset_version=_OPSET, dynamic_shapes=(free,), dynamo=True,
                external_data=False, verbose=False,
            )  # fmt: skip
    except Exception as error:
        raise ImportRefused(f"the network cannot be written as ONNX ({type(error).__name__})") from error
    _prove(network, file, shape)


def _prove(network: nn.Module, file: Path, shape: tuple[int, ...]) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    for pictures in (_picture(shape, 1), _picture(shape, 3)):
        with torch.inference_mode():
            truth = network(torch.from_numpy(pictures)).numpy()
        (written,) = session.run(None, {INPUT_NAME: pictures})
        worst = float(np.abs(written - truth).max() / max(1.0, float(np.abs(truth).max())))
        if worst > TOLERANCE:
            raise ImportRefused(f"the written file differs from the network by {worst:.2g}, more than {TOLERANCE:g}")


def _picture(shape: tuple[int, ...], count: int) -> NDArray[np.float32]:
    """Smooth noise from 0 to 1: like pictures, and different in every one."""
    return np.random.default_rng(count).random((count, *shape), dtype=np.float32)

"""Writes a trained network out for serving, as ONNX and as a torch.export archive, and proves that both say the same.

Called by `training.release`. Neither file holds code of ours: no pickled class, no name of a module. Both take a batch
of any size under the name `pictures` and give the outputs under the names of the card's `CenterHeatmapOutput`.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from training.errors import ExportError
from training.files import write_whole
from training.network import Outputs

INPUT_NAME = "pictures"
ONNX_FILE, TORCH_FILE = "model.onnx", "model.pt2"
LARGEST_PROBABILITY, LARGEST_PIXELS = 1e-4, 0.1  # differences above which a release is refused
_OPSET = 18
_LARGEST_FILE_BYTES = 25_000_000
_BATCH = 4

_Run = Callable[[NDArray[np.float32]], Mapping[str, NDArray[np.float32]]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Differences:
    """Largest absolute differences of one runtime from the trained network, over all films compared.

    Attributes
    ----------
    probability : float
        Of the probabilities of centres and of pictures.
    pixels : float
        Of the distances to a box's edges, in input pixels.
    outputs : dict
        Of each raw output: logits, input pixels.
    """

    probability: float
    pixels: float
    outputs: dict[str, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Parity:
    """The proof that the written files say what the trained network says: for each runtime how far it is off."""

    films: int
    runtimes: dict[str, Differences]


class _Served(nn.Module):
    """The network with named outputs in the one container that an archive can hold without our classes."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        outputs: Outputs = self.network(pictures)
        return outputs._asdict()


def export(network: nn.Module, folder: Path, *, height: int, width: int) -> None:
    """Write `model.onnx` and `model.pt2` into `folder`.

    Raises
    ------
    ExportError
        If a file is larger than 25 MB.
    """
    served = _Served(network.eval()).eval()
    example = torch.zeros(2, 1, height, width)
    shapes = {INPUT_NAME: {0: torch.export.Dim("batch", min=1, max=1024)}}
    with torch.inference_mode(False), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns of its own internals; parity is what judges the result
        program = torch.export.export(served, (example,), dynamic_shapes=shapes)
        _forget_sources(program)
        archive = io.BytesIO()  # written from memory, so that a full disk is told as such
        torch.export.save(program, archive)
        write_whole(folder / TORCH_FILE, archive.getvalue())
        torch.onnx.export(
            program,
            (),
            folder / ONNX_FILE,
            input_names=[INPUT_NAME],
            output_names=list(Outputs._fields),
            opset_version=_OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    _strip(folder / ONNX_FILE)
    for name in (ONNX_FILE, TORCH_FILE):
        if (size := (folder / name).stat().st_size) > _LARGEST_FILE_BYTES:
            raise ExportError(f"{name} has {size} bytes, more than {_LARGEST_FILE_BYTES}")


def _forget_sources(program: torch.export.ExportedProgram) -> None:
    """Remove the stack traces by which each operation names the files of the machine it was exported on."""
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                node.meta.pop("stack_trace", None)


def _strip(file: Path) -> None:
    """Leave of the graph what is computed and the names of its dimensions."""
    import onnx

    model = onnx.load(file)
    for part in (*model.graph.node, *model.graph.value_info, *model.graph.initializer, model.graph, model):
        del part.metadata_props[:]
    for value in (*model.graph.input, *model.graph.output):
        del value.metadata_props[:]
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    del model.graph.value_info[:]
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, file)


def prove_parity(network: nn.Module, folder: Path, pictures: NDArray[np.float32]) -> Parity:
    """Run real films (N, 1, H, W) through the network and both files, in batches of several sizes.

    The ONNX file is run on the processor and, where there is one, on the GPU, there without reduced precision.

    Raises
    ------
    ExportError
        If a probability differs by 1e-4 or more, or an edge by 0.1 input pixel or more.
    """
    truth = [_said(network, batch) for batch in _batches(pictures)]
    runtimes = {
        name: _differences(truth, [run(batch) for batch in _batches(pictures)])
        for name, run in _runtimes(folder).items()
    }
    for name, off in runtimes.items():
        if not (off.probability < LARGEST_PROBABILITY and off.pixels < LARGEST_PIXELS):  # what is no number differs too
            raise ExportError(
                f"the exported network differs from the trained one on {name}: probabilities by {off.probability:.2g} "
                f"(allowed {LARGEST_PROBABILITY:g}), edges by {off.pixels:.2g} pixels (allowed {LARGEST_PIXELS:g})"
            )
    return Parity(films=len(pictures), runtimes=runtimes)


def _said(network: nn.Module, batch: NDArray[np.float32]) -> Mapping[str, NDArray[np.float32]]:
    with torch.inference_mode():
        outputs: Outputs = network(torch.from_numpy(batch))
    return {name: value.numpy() for name, value in outputs._asdict().items()}


def _runtimes(folder: Path) -> dict[str, _Run]:
    """What can run the written files here, each as a function from a batch to outputs by name."""
    import onnxruntime

    archive = torch.export.load(folder / TORCH_FILE).module()

    def by_archive(batch: NDArray[np.float32]) -> Mapping[str, NDArray[np.float32]]:
        with torch.inference_mode():
            return {name: value.numpy() for name, value in archive(torch.from_numpy(batch)).items()}

    def by_onnx(providers: list[object]) -> _Run:
        session = onnxruntime.InferenceSession(folder / ONNX_FILE, providers=providers)
        names = list(Outputs._fields)
        return lambda batch: dict(zip(names, session.run(names, {INPUT_NAME: batch}), strict=True))

    runtimes = {"torch.export": by_archive, "ONNX Runtime CPU": by_onnx(["CPUExecutionProvider"])}
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        exact = ("CUDAExecutionProvider", {"use_tf32": "0"})
        runtimes["ONNX Runtime CUDA"] = by_onnx([exact, "CPUExecutionProvider"])
    return runtimes


def _differences(
    truth: list[Mapping[str, NDArray[np.float32]]], said: list[Mapping[str, NDArray[np.float32]]]
) -> Differences:
    outputs = {
        name: max(float(np.abs(one[name] - other[name]).max()) for one, other in zip(truth, said, strict=True))
        for name in Outputs._fields
    }
    probability = max(
        float(np.abs(_probability(one[name]) - _probability(other[name])).max())
        for one, other in zip(truth, said, strict=True)
        for name in ("heatmap", "picture")
    )
    return Differences(probability=probability, pixels=outputs["ltrb"], outputs=outputs)


def _probability(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    return np.asarray(1 / (1 + np.exp(-logits.astype(np.float64))))


def _batches(pictures: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """The first film alone, the others in batches: a batch size frozen by the exporter would show."""
    rest = [pictures[start : start + _BATCH] for start in range(1, len(pictures), _BATCH)]
    return [pictures[:1], *rest]

"""Writes a trained network out for serving, as ONNX and as a torch.export archive, and proves that both say the same.

Called by `training.release`. Neither file holds code of ours: no pickled class, no name of a module. Both take a batch
of any size under the name `pictures` and give the outputs under the names of the card's `CenterHeatmapOutput`.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from training.errors import ExportError
from training.network import Outputs

INPUT_NAME = "pictures"
ONNX_FILE, TORCH_FILE = "model.onnx", "model.pt2"
_OPSET = 18
_LARGEST_FILE_BYTES = 25_000_000
_BATCH = 4
TOLERANCE = 1e-3  # logits; input pixels for distances


@dataclass(frozen=True, kw_only=True, slots=True)
class Parity:
    """Largest absolute difference of each output from the trained network's, over all films compared."""

    films: int
    onnx: dict[str, float]
    torch: dict[str, float]


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
        torch.export.save(program, folder / TORCH_FILE)
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

    Raises
    ------
    ExportError
        If an output differs by more than `TOLERANCE`.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(folder / ONNX_FILE, providers=["CPUExecutionProvider"])
    archive = torch.export.load(folder / TORCH_FILE).module()
    onnx, other = dict.fromkeys(Outputs._fields, 0.0), dict.fromkeys(Outputs._fields, 0.0)
    for batch in _batches(pictures):
        with torch.inference_mode():
            said = network(torch.from_numpy(batch))._asdict()
            by_archive = archive(torch.from_numpy(batch))
        by_onnx = dict(zip(Outputs._fields, session.run(list(Outputs._fields), {INPUT_NAME: batch}), strict=True))
        for name, truth in said.items():
            onnx[name] = max(onnx[name], float(np.abs(by_onnx[name] - truth.numpy()).max()))
            other[name] = max(other[name], float((by_archive[name] - truth).abs().max()))
    parity = Parity(films=len(pictures), onnx=onnx, torch=other)
    if (worst := max([*onnx.values(), *other.values()])) > TOLERANCE:
        raise ExportError(f"the exported network differs by {worst:.2g}, more than {TOLERANCE:g}")
    return parity


def _batches(pictures: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """The first film alone, the others in batches: a batch size frozen by the exporter would show."""
    rest = [pictures[start : start + _BATCH] for start in range(1, len(pictures), _BATCH)]
    return [pictures[:1], *rest]

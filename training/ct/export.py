"""Writes a trained three-dimensional detector as one ONNX file and proves on real tiles that it says the same.

Called by `training.ct.train`. Tiles have a fixed size, batches any; anchors are decoded inside the graph.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from training.ct.network import Served
from training.errors import ExportError

ONNX_FILE = "model.onnx"
INPUT_NAME, OUTPUT_NAMES = "tiles", ("boxes", "scores")
LARGEST_PROBABILITY, LARGEST_VOXELS = 1e-4, 0.1  # differences above which a release is refused
_OPSET = 18
_BATCH = 4
_PAIRED = 1e-3  # scores closer than this may be listed in either order


@dataclass(frozen=True, kw_only=True, slots=True)
class CtParity:
    """How far the written file is off the trained network: largest differences over all tiles compared."""

    tiles: int
    probability: float
    voxels: float
    runtimes: tuple[str, ...]


def export(served: Served, folder: Path, tile: tuple[int, int, int]) -> None:
    """Write `model.onnx` into `folder`.

    Raises
    ------
    ExportError
        If the written graph is none that ONNX accepts.
    """
    import onnx

    example = torch.zeros(2, 1, *tile)
    shapes = ({0: torch.export.Dim("batch", min=1, max=1024)},)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns of its own internals; parity is what judges the result
        program = torch.export.export(served.eval(), (example,), dynamic_shapes=shapes)
        torch.onnx.export(
            program,
            (),
            folder / ONNX_FILE,
            input_names=[INPUT_NAME],
            output_names=list(OUTPUT_NAMES),
            opset_version=_OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    model = onnx.load(folder / ONNX_FILE)
    for part in (*model.graph.node, *model.graph.value_info, *model.graph.initializer, model.graph, model):
        del part.metadata_props[:]  # names of files of the machine it was made on
    for value in (*model.graph.input, *model.graph.output):
        del value.metadata_props[:]
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    del model.graph.value_info[:]
    try:
        onnx.checker.check_model(model, full_check=True)
    except onnx.checker.ValidationError as error:
        raise ExportError("the exporter wrote a graph that ONNX does not accept") from error
    onnx.save(model, folder / ONNX_FILE)


def prove_parity(served: Served, folder: Path, tiles: NDArray[np.float32]) -> CtParity:
    """Run real tiles (N, 1, slices, rows, columns) through network and file, one alone and the others in batches.

    Raises
    ------
    ExportError
        If a probability differs by 1e-4 or more, or a box's edge by 0.1 voxel or more.
    """
    import onnxruntime

    providers: dict[str, list[object]] = {"ONNX Runtime CPU": ["CPUExecutionProvider"]}
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        providers["ONNX Runtime CUDA"] = [("CUDAExecutionProvider", {"use_tf32": "0"}), "CPUExecutionProvider"]
    probability = voxels = 0.0
    for chosen in providers.values():
        session = onnxruntime.InferenceSession(folder / ONNX_FILE, providers=chosen)
        for batch in [tiles[:1], *(tiles[start : start + _BATCH] for start in range(1, len(tiles), _BATCH))]:
            with torch.inference_mode():
                boxes, scores = (value.numpy() for value in served(torch.from_numpy(batch)))
            said_boxes, said_scores = session.run(list(OUTPUT_NAMES), {INPUT_NAME: batch})
            probability = max(probability, float(np.abs(scores - said_scores).max()))
            voxels = max(voxels, _box_difference(boxes, scores, said_boxes))
    if probability >= LARGEST_PROBABILITY or voxels >= LARGEST_VOXELS:
        raise ExportError(
            f"the exported network differs from the trained one: probabilities by {probability:.2g} "
            f"(allowed {LARGEST_PROBABILITY:g}), boxes by {voxels:.2g} voxels (allowed {LARGEST_VOXELS:g})"
        )
    return CtParity(tiles=len(tiles), probability=probability, voxels=voxels, runtimes=tuple(providers))


def _box_difference(boxes: NDArray[np.float32], scores: NDArray[np.float32], said: NDArray[np.float32]) -> float:
    """Largest difference of an edge; a box is held against the nearest of those with its score."""
    largest = 0.0
    for own, own_scores, others in zip(boxes, scores, said, strict=True):
        for index, box in enumerate(own):
            alike = np.abs(own_scores - own_scores[index]) < _PAIRED
            largest = max(largest, float(np.abs(others[alike] - box).max(axis=1).min()))
    return largest

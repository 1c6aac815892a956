"""CT volumes whose truth is known, ellipsoids with true partial volume on any grid, and networks that find them.

A voxel's value is the mean of the phantom over the voxel, by supersampling; a scanner's blur can be added. The networks
are real ONNX graphs in which nothing is trained: they find by convolution what is brighter than lung.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from inference.findings import SeriesUid, SopUid, StudyUid
from inference.images import ImageHeader, Volume
from models.card import read_card
from models.registry import InstalledModel
from tests.pictures import save, slice_data_set
from tests.untrained import UNTRAINED

LUNG_HU, NODULE_HU = -850.0, 40.0
LOW_HU, HIGH_HU = -1000.0, 400.0
_SUB = 6  # samples along each side of a voxel
Triple = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class Ellipsoid:
    """Half axes along the columns, rows and slices of `turned`; centre as edge coordinates (slice, row, column)."""

    center: Triple
    half_axes_mm: Triple  # slice, row, column of its own frame
    turned: NDArray[np.float64] = field(default_factory=lambda: np.eye(3))  # its axes in the volume's frame, as rows

    @property
    def volume_mm3(self) -> float:
        return 4 / 3 * math.pi * math.prod(self.half_axes_mm)

    def plane_axes_mm(self) -> tuple[float, float]:
        """Long and short axis of the cut through the centre in the plane of rows and columns."""
        quadric = self.turned.T @ np.diag([side**-2.0 for side in self.half_axes_mm]) @ self.turned
        low, high = np.linalg.eigvalsh(quadric[1:, 1:])
        return 2 / math.sqrt(low), 2 / math.sqrt(high)


def rotation(*degrees: float) -> NDArray[np.float64]:
    """A rotation matrix of three angles."""
    result = np.eye(3)
    for axis, angle in enumerate(np.radians(degrees)):
        one, other = [(1, 2), (0, 2), (0, 1)][axis]
        turn = np.eye(3)
        turn[one, one] = turn[other, other] = math.cos(angle)
        turn[one, other], turn[other, one] = -math.sin(angle), math.sin(angle)
        result = result @ turn
    return result


def rendered(shape: tuple[int, int, int], spacing_mm: Triple, lesions: list[Ellipsoid]) -> NDArray[np.float64]:
    """Part of each voxel that is lesion, 0 to 1."""
    part = np.zeros(shape)
    for lesion in lesions:
        reach = np.ceil(max(lesion.half_axes_mm) / np.asarray(spacing_mm)) + 1
        low = np.maximum(np.floor(np.asarray(lesion.center) - reach), 0).astype(int)
        high = np.minimum(np.ceil(np.asarray(lesion.center) + reach), shape).astype(int)
        sub = [
            ((np.arange((end - start) * _SUB) + 0.5) / _SUB + start - middle) * step
            for start, end, middle, step in zip(low, high, lesion.center, spacing_mm, strict=True)
        ]
        squared = np.zeros([len(line) for line in sub])
        for axis, half in zip(lesion.turned, lesion.half_axes_mm, strict=True):
            along = axis[0] * sub[0][:, None, None] + axis[1] * sub[1][:, None] + axis[2] * sub[2]
            squared += (along / half) ** 2
        sides = [end - start for start, end in zip(low, high, strict=True)]
        blocks = (squared <= 1).reshape(sides[0], _SUB, sides[1], _SUB, sides[2], _SUB)
        z, y, x = (slice(start, end) for start, end in zip(low, high, strict=True))
        part[z, y, x] = np.maximum(part[z, y, x], blocks.mean(axis=(1, 3, 5)))
    return part


def hounsfield(part: NDArray[np.float64], *, noise_hu: float = 0.0, seed: int = 0) -> NDArray[np.float64]:
    """Lung with lesions in it."""
    clean = LUNG_HU + (NODULE_HU - LUNG_HU) * part
    return clean + np.random.default_rng(seed).normal(0, noise_hu, part.shape) if noise_hu else clean


def write_series(
    folder: Path,
    values: NDArray[np.float64],
    spacing_mm: Triple,
    *,
    direction: NDArray[np.float64] | None = None,
    origin_mm: Triple = (-120.0, -90.0, 40.0),
    **changes: object,
) -> list[Path]:
    """A CT series of Hounsfield units; rows of `direction` are the axes slice, row, column in the patient."""
    axes = np.asarray([[0, 0, 1], [0, 1, 0], [1, 0, 0]], dtype=float) if direction is None else direction
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for index, plane in enumerate(values):
        place = np.asarray(origin_mm) + index * spacing_mm[0] * axes[0]
        data_set = slice_data_set(tuple(place.tolist()), np.rint(plane + 1024).astype(np.int16))
        data_set.PixelSpacing = [f"{spacing_mm[1]:.6g}", f"{spacing_mm[2]:.6g}"]
        data_set.ImagePositionPatient = [f"{value:.8f}"[:16] for value in place]
        cosines = [*axes[2].tolist(), *axes[1].tolist()]
        data_set.ImageOrientationPatient = [f"{value:.12f}"[:16] for value in cosines]
        data_set.SliceThickness, data_set.InstanceNumber = spacing_mm[0], index + 1
        for keyword, value in changes.items():
            setattr(data_set, keyword, value)
        paths.append(save(data_set, folder / f"{index:03}.dcm"))
    return paths


def volume_of(voxels: NDArray[np.float32], spacing_mm: Triple = (1.0, 1.0, 1.0)) -> Volume:
    """An axial volume without files behind it."""
    header = ImageHeader(
        sop_instance_uid=SopUid("1.1"),
        sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
        series_uid=SeriesUid("1.3"),
        study_uid=StudyUid("1.2"),
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        rows=voxels.shape[1],
        columns=voxels.shape[2],
    )
    return Volume(
        voxels=voxels,
        spacing_mm=spacing_mm,
        origin_mm=(0.0, 0.0, 0.0),
        direction=((0.0, 0.0, 1.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0)),
        headers=(header,) * len(voxels),
        pixel_digest="",
    )


CARD = """
limits = [{{ en = "finds bright blobs only", ru = "находит только светлые пятна" }}]

[identity]
name = "{name}"
version = "1.0.0"
title = {{ en = "Blobs in lung", ru = "Очаги в лёгком" }}
description = {{ en = "For tests", ru = "Для тестов" }}
manufacturer = "radnode tests"
licence = "Apache-2.0"
use = "{use}"

[[weights]]
runtime = "onnx"
file = "model.onnx"
sha256 = "{sha256}"

[input]
kind = "volume"
spacing_mm = [{spacing}]
tile = [{tile}]
overlap = {overlap}
low_hu = {low}
high_hu = {high}

[output]
{output}

[[labels]]
key = "nodule"
title = {{ en = "Lung nodule", ru = "Очаг в лёгком" }}
finding = {{ value = "427359005", scheme = "SCT", meaning = "Solitary nodule of lung" }}
site = {{ value = "39607008", scheme = "SCT", meaning = "Lung" }}
lesion = {{ threshold = 0.5, chosen_by = "by hand" }}

[intended_use]
modalities = ["CT"]
body_parts = ["CHEST", "LUNG"]
accept_unknown_body_part = true
statement = {{ en = "tests only", ru = "только для тестов" }}
"""


def install_blob_finder(
    root: Path,
    *,
    name: str = "blob-finder",
    output: str = "boxes",
    spacing_mm: Triple = (1.0, 1.0, 1.0),
    tile: tuple[int, int, int] = (32, 32, 32),
    overlap: float = 0.5,
    use: str = "research",
) -> InstalledModel:
    """Write a finder with its card below `root`; `output` is "boxes", "map" (coarse) or "segmentation"."""
    weights = {"boxes": blob_boxes, "map": coarse_map, "segmentation": segmentation}[output](tile)
    folder = root / name / "1.0.0"
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(weights)
    kind = 'kind = "boxes"\nmin_score = 0.05' if output == "boxes" else 'kind = "heatmap"\nmin_pixels = 1'
    card = (CARD + UNTRAINED).format(
        name=name,
        use=use,
        sha256=hashlib.sha256(weights).hexdigest(),
        spacing=", ".join(map(str, spacing_mm)),
        tile=", ".join(map(str, tile)),
        overlap=overlap,
        low=LOW_HU,
        high=HIGH_HU,
        output=kind,
        manifest="0" * 64,
    )
    (folder / "card.toml").write_text(card, encoding="utf-8")
    return InstalledModel(card=read_card(folder / "card.toml"), folder=folder)


_BACKGROUND = (LUNG_HU - LOW_HU) / (HIGH_HU - LOW_HU)
_CONTRAST = (NODULE_HU - LUNG_HU) / (HIGH_HU - LOW_HU)
_MOST = 16  # boxes of a tile


def _gaussian(sigma: float, reach: int) -> NDArray[np.float32]:
    line = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * sigma**2))
    kernel = line[:, None, None] * line[:, None] * line
    return (kernel / kernel.sum()).astype(np.float32)[None, None]


def _amount() -> list[onnx.NodeProto]:
    """How much of each voxel is blob, out of the normalised input."""
    return [
        helper.make_node("Sub", ["volume", "background"], ["above"]),
        helper.make_node("Div", ["above", "contrast"], ["raw"]),
        helper.make_node("Clip", ["raw", "zero", "one"], ["amount"]),
    ]


_AMOUNTS = {
    "background": np.asarray(_BACKGROUND, dtype=np.float32),
    "contrast": np.asarray(_CONTRAST, dtype=np.float32),
    "zero": np.asarray(0.0, dtype=np.float32),
    "one": np.asarray(1.0, dtype=np.float32),
}


@cache
def blob_boxes(tile: tuple[int, int, int]) -> bytes:
    """Peaks of the blurred tile, each with the box of the ball that holds as much as there is around it."""
    depth, height, width = tile
    constants: dict[str, NDArray[np.generic]] = {
        **_AMOUNTS,
        "blur": _gaussian(2.5, 7),
        "least": np.asarray(0.12, dtype=np.float32),
        "steepness": np.asarray(40.0, dtype=np.float32),
        "flat": np.asarray([0, depth * height * width], dtype=np.int64),
        "one_peak": np.asarray(1e-6, dtype=np.float32),
        "most": np.asarray([_MOST], dtype=np.int64),
        "plane": np.asarray(height * width, dtype=np.int64),
        "row": np.asarray(width, dtype=np.int64),
        "half": np.asarray(0.5, dtype=np.float32),
        "ball": np.asarray(3 / (4 * math.pi) * 25**3, dtype=np.float32),
        "third": np.asarray(1 / 3, dtype=np.float32),
        "last": np.asarray([2], dtype=np.int64),
    }
    node = helper.make_node
    nodes = [
        *_amount(),
        node("Conv", ["amount", "blur"], ["response"], pads=[7] * 6),
        node("MaxPool", ["response"], ["around"], kernel_shape=[9] * 3, pads=[4] * 6),
        node("Sub", ["around", "response"], ["below"]),
        node("Less", ["below", "one_peak"], ["is_peak"]),
        node("Where", ["is_peak", "response", "zero"], ["peaks"]),
        node("Reshape", ["peaks", "flat"], ["listed"]),
        node("TopK", ["listed", "most"], ["strength", "place"], axis=1),
        node("Sub", ["strength", "least"], ["margin"]),
        node("Mul", ["margin", "steepness"], ["odds"]),
        node("Sigmoid", ["odds"], ["scores"]),
        # the blob's whole amount, in a window of 25 voxels, gives its radius
        node("AveragePool", ["amount"], ["mean"], kernel_shape=[25] * 3, pads=[12] * 6, count_include_pad=1),
        node("Reshape", ["mean", "flat"], ["means"]),
        node("GatherElements", ["means", "place"], ["held"], axis=1),
        node("Mul", ["held", "ball"], ["cubed"]),
        node("Max", ["cubed", "one"], ["at_least"]),
        node("Pow", ["at_least", "third"], ["radius"]),
        node("Div", ["place", "plane"], ["z_index"]),
        node("Mod", ["place", "plane"], ["in_plane"]),
        node("Div", ["in_plane", "row"], ["y_index"]),
        node("Mod", ["in_plane", "row"], ["x_index"]),
    ]
    for axis in "xyz":
        nodes += [
            node("Cast", [f"{axis}_index"], [f"{axis}_at"], to=TensorProto.FLOAT),
            node("Add", [f"{axis}_at", "half"], [f"{axis}_middle"]),
            node("Sub", [f"{axis}_middle", "radius"], [f"{axis}_low"]),
            node("Add", [f"{axis}_middle", "radius"], [f"{axis}_high"]),
            node("Unsqueeze", [f"{axis}_low", "last"], [f"{axis}_min"]),
            node("Unsqueeze", [f"{axis}_high", "last"], [f"{axis}_max"]),
        ]
    nodes.append(node("Concat", ["x_min", "y_min", "z_min", "x_max", "y_max", "z_max"], ["boxes"], axis=2))
    outputs = [("boxes", ["tiles", _MOST, 6]), ("scores", ["tiles", _MOST])]
    return _serialised(nodes, constants, tile, outputs)


@cache
def coarse_map(tile: tuple[int, int, int]) -> bytes:
    """Logits on cells of four voxels: says where, not how large."""
    nodes = [
        *_amount(),
        helper.make_node("AveragePool", ["amount"], ["cells"], kernel_shape=[4] * 3, strides=[4] * 3),
        helper.make_node("Sub", ["cells", "least"], ["margin"]),
        helper.make_node("Mul", ["margin", "steepness"], ["heatmap"]),
    ]
    constants = {**_AMOUNTS, "least": np.asarray(0.3, np.float32), "steepness": np.asarray(30.0, np.float32)}
    return _serialised(nodes, constants, tile, [("heatmap", ["tiles", 1, *(side // 4 for side in tile)])])


@cache
def segmentation(tile: tuple[int, int, int]) -> bytes:
    """Logits of every voxel: positive where more than half of it is blob."""
    nodes = [
        *_amount(),
        helper.make_node("Sub", ["amount", "least"], ["margin"]),
        helper.make_node("Mul", ["margin", "steepness"], ["heatmap"]),
    ]
    constants = {**_AMOUNTS, "least": np.asarray(0.5, np.float32), "steepness": np.asarray(8.0, np.float32)}
    return _serialised(nodes, constants, tile, [("heatmap", ["tiles", 1, *tile])])


def _serialised(
    nodes: list[onnx.NodeProto],
    constants: dict[str, NDArray[np.generic]],
    tile: tuple[int, int, int],
    outputs: list[tuple[str, list[object]]],
) -> bytes:
    graph = helper.make_graph(
        nodes,
        "blob-finder",
        [helper.make_tensor_value_info("volume", TensorProto.FLOAT, ["tiles", 1, *tile])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs],
        [numpy_helper.from_array(np.asarray(value), key) for key, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())

"""ONNX files that our trainer did not make, installed beside a card: what a user brings.

A torchvision RetinaNet (lists of boxes without a batch axis, suppressed by the graph), a detector of the form that
YOLOv8 exports (one tensor of raw boxes), and two files that the package `rapidocr` ships: a network that finds lines
of text (a probability map) and one that tells whether they stand on their heads (a classifier). The first two are
crafted by hand, so that they find bright blocks without having learnt anything.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator

from models.card import read_card
from models.registry import InstalledModel
from training.toml import to_toml

RETINA_SIDE, RETINA_STRIDE = 128, 16
YOLO_SIDE = 640
YOLO_PLACES = 8400  # (640/8)**2 + (640/16)**2 + (640/32)**2
TEXT_FINDER, TEXT_TURNER = "PP-OCRv6_det_small.onnx", "ch_ppocr_mobile_v2.0_cls_mobile.onnx"


# the files -----------------------------------------------------------------------------------------------------------


class _Pooled(nn.Module):
    """A backbone that looks at nothing but the mean grey of each patch."""

    out_channels = 4

    def forward(self, pictures: Tensor) -> Tensor:
        grey = nn.functional.avg_pool2d(pictures.mean(1, keepdim=True), RETINA_STRIDE)
        return grey.expand(-1, self.out_channels, -1, -1)


def retina() -> RetinaNet:
    """torchvision's detector with weights set by hand: blocks above 0.6 are class 0, those above 0.9 class 1."""
    anchors = AnchorGenerator(((24.0, 40.0),), ((0.5, 1.0),))
    network = RetinaNet(
        _Pooled(), 2, anchor_generator=anchors, min_size=RETINA_SIDE, max_size=RETINA_SIDE, image_mean=[0.0] * 3,
        image_std=[1.0] * 3, score_thresh=0.05, nms_thresh=0.3, detections_per_img=12,
    )  # fmt: skip
    with torch.no_grad():
        for head in (network.head.classification_head, network.head.regression_head):
            for block in head.conv:
                _hand_on(block[0])
        _read_grey(network.head.classification_head.cls_logits)
        nn.init.zeros_(network.head.regression_head.bbox_reg.weight)
    return network.eval()


def _hand_on(layer: nn.Conv2d) -> None:
    nn.init.zeros_(layer.weight)
    layer.weight[:, :, 1, 1] = torch.eye(layer.out_channels)
    nn.init.zeros_(layer.bias)


def _read_grey(layer: nn.Conv2d) -> None:
    """The logit of class 0 rises from 0.6, that of class 1 from 0.9; each shape of anchor a little less."""
    nn.init.zeros_(layer.weight)
    for anchor in range(layer.out_channels // 2):
        layer.weight[2 * anchor : 2 * anchor + 2, 0, 1, 1] = torch.tensor([12.0, 30.0])
        layer.bias[2 * anchor : 2 * anchor + 2] = torch.tensor([-7.2, -27.0]) - 0.3 * anchor


def retina_file() -> bytes:
    """The graph that torchvision's own exporter makes: one picture (3, 128, 128), boxes (K, 4), no batch axis."""
    written = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns of every size it fixes
        torch.onnx.export(
            retina(), ([torch.rand(3, RETINA_SIDE, RETINA_SIDE)],), written, input_names=["image"],
            output_names=["boxes", "scores", "labels"], opset_version=17, dynamo=False,
        )  # fmt: skip
    return written.getvalue()


class _RawBoxes(nn.Module):
    """Bright blocks as a YOLO head writes them: (1, 4 + 2 classes, 8400), boxes x, y, width, height, not suppressed.

    Each place looks at a window of four strides: its centre is that of the brightness in it, its sides come from the
    brightness' spread. Class 0 is wide, class 1 is tall.
    """

    def forward(self, images: Tensor) -> Tensor:
        grey = nn.functional.relu(images.mean(1, keepdim=True) - 0.7) / 0.3
        return torch.cat([self._places(grey, stride) for stride in (8, 16, 32)], dim=2)

    def _places(self, grey: Tensor, stride: int) -> Tensor:
        side = torch.arange(YOLO_SIDE, dtype=torch.float32) + 0.5
        x, y = side.reshape(1, 1, 1, -1), side.reshape(1, 1, -1, 1)
        mass = self._window(grey, stride)
        alone = self._window(grey, stride, 6) * 36 < 1.05 * 16 * mass  # nothing bright goes on outside the window
        center_x, center_y = self._window(grey * x, stride) / mass, self._window(grey * y, stride) / mass
        width = (12 * (self._window(grey * x * x, stride) / mass - center_x**2).clamp(min=0)).sqrt()
        height = (12 * (self._window(grey * y * y, stride) / mass - center_y**2).clamp(min=0)).sqrt()
        at = side[: YOLO_SIDE // stride] * stride
        near = ((center_x - at.reshape(1, 1, 1, -1)).abs() < stride) & (
            (center_y - at.reshape(1, 1, -1, 1)).abs() < stride
        )
        filled = mass * (4 * stride) ** 2 / (width * height + 1)
        fits = (torch.maximum(width, height) < 3 * stride) & (torch.minimum(width, height) > stride)
        score = torch.where(near & fits & alone & (filled > 0.8), 0.5 + 0.4 * filled.clamp(max=1.1) ** 4, 0.001 * mass)
        wide = torch.where(width > height, score, 0.01 * score)
        tall = torch.where(width > height, 0.01 * score, score)
        return torch.cat((center_x, center_y, width, height, wide, tall), dim=1).flatten(2)

    def _window(self, values: Tensor, stride: int, strides: int = 4) -> Tensor:
        side = strides * stride
        return nn.functional.avg_pool2d(values, side, stride, (side - stride) // 2) + 1e-6


def raw_boxes_file() -> bytes:
    """One tensor `output0` (1, 6, 8400) of one picture `images` (1, 3, 640, 640)."""
    written = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _RawBoxes(), (torch.rand(1, 3, YOLO_SIDE, YOLO_SIDE),), written, input_names=["images"],
            output_names=["output0"], opset_version=17, dynamo=False,
        )  # fmt: skip
    return written.getvalue()


def shipped_file(name: str) -> bytes:
    """A file that the package `rapidocr` ships."""
    return files("rapidocr").joinpath("models", name).read_bytes()


# their cards ---------------------------------------------------------------------------------------------------------


def install_foreign(root: Path, name: str, weights: bytes, **parts: Any) -> InstalledModel:
    """Write weights and a card below `root`; `parts` are `input`, `output`, `labels` and `intended_use`."""
    folder = root / name / "1.0.0"
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(weights)
    (folder / "card.toml").write_text(to_toml(foreign_card(name, weights, **parts)), encoding="utf-8")
    return InstalledModel(card=read_card(folder / "card.toml"), folder=folder)


def foreign_card(name: str, weights: bytes, **parts: Any) -> dict[str, Any]:
    """The card of a foreign model, as a table."""
    return {
        "identity": {
            "name": name, "version": "1.0.0", "title": both(name), "description": both("for tests"),
            "manufacturer": "another house", "licence": "Apache-2.0", "use": "demonstration",
        },
        "weights": [{"runtime": "onnx", "file": "model.onnx", "sha256": hashlib.sha256(weights).hexdigest()}],
        "input": parts["input"],
        "output": parts["output"],
        "labels": list(parts["labels"]),
        "intended_use": {
            "modalities": ["DX", "CR"], "accept_unknown_body_part": True, "accept_unknown_view": True,
            "statement": both("for tests"), **parts.get("intended_use", {}),
        },
        "training": {
            "description": "unknown", "licence": "unknown", "citation": "none", "films": 0, "patients": 0,
            "manifest_sha256": "0" * 64,
        },
        "evaluation": {"method": "none", "command": "none"},
        "limits": [both("it was never evaluated")],
    }  # fmt: skip


def both(text: str) -> Mapping[str, str]:
    return {"en": text, "ru": text}


def label(key: str, *, threshold: float = 0.5, lesion: bool = True, **more: Any) -> dict[str, Any]:
    point = {"threshold": threshold, "chosen_by": "by hand"}
    return {
        "key": key, "title": both(key), "finding": {"value": "128477000", "scheme": "SCT", "meaning": "Opacity"},
        "site": {"value": "39607008", "scheme": "SCT", "meaning": "Lung"},
        ("lesion" if lesion else "picture"): point, **more,
    }  # fmt: skip


GREY = {"low_percentile": 0.0, "high_percentile": 100.0}
RGB = {"channels": 3, "mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]}

RETINA = {
    "input": {"kind": "projection", "height": RETINA_SIDE, "width": RETINA_SIDE, **RGB, **GREY},
    "output": {
        "kind": "boxes", "boxes": "boxes", "scores": "scores", "classes": "labels", "min_score": 0.05,
    },
    "labels": (label("grey_block", index=0, threshold=0.3), label("white_block", index=1, threshold=0.3)),
}  # fmt: skip
RAW_BOXES = {
    "input": {
        "kind": "projection", "height": YOLO_SIDE, "width": YOLO_SIDE, "fit": "pad_center", "pad_value": 0.447,
        **RGB, **GREY,
    },
    "output": {
        "kind": "boxes", "boxes": "output0", "scores": False, "layout": "center_size", "transposed": True,
        "min_score": 0.25, "nms_iou": 0.45,
    },
    "labels": (label("wide"), label("tall")),
}  # fmt: skip
TEXT = {
    "input": {"kind": "projection", "height": 352, "width": 352, **GREY, "channels": 3,
              "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
    "output": {"kind": "heatmap", "heatmap": "fetch_name_0", "activation": "none", "region_threshold": 0.3,
               "min_pixels": 10},
    "labels": (label("burned_in_text", threshold=0.7),),
}  # fmt: skip
TURNED = {
    "input": {"kind": "projection", "height": 48, "width": 192, **GREY, "channels": 3, "pad_value": 0.5,
              "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
    "output": {"kind": "probability", "probability": "save_infer_model/scale_0.tmp_1"},
    "labels": (label("upside_down", lesion=False, index=1),),
}  # fmt: skip


# pictures for them ---------------------------------------------------------------------------------------------------


def blocks(rows: int, columns: int, *found: tuple[int, int, int, int, int]) -> NDArray[np.uint8]:
    """A dark, slightly uneven film with blocks (left, top, right, bottom, grey)."""
    picture = np.random.default_rng(rows).integers(0, 40, (rows, columns)).astype(np.uint8)
    for left, top, right, bottom, grey in found:
        picture[top:bottom, left:right] = grey
    picture[0, 0], picture[-1, -1] = 0, 255
    return picture


def written(
    lines: Mapping[tuple[int, int], str], rows: int = 352, columns: int = 352, size: int = 28
) -> NDArray[np.uint8]:
    """White text on black, as burned into a film: each line at its (left, top)."""
    picture = Image.new("L", (columns, rows), 0)
    font = ImageFont.load_default(size)
    for place, text in lines.items():
        ImageDraw.Draw(picture).text(place, text, fill=255, font=font)
    return np.asarray(picture)

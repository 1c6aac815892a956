"""A tiny detector for tests of the node: bright spots become lesions, in about a millisecond, on every machine alike.

`install_toy_model` writes `card.toml` and an ONNX graph below a models folder. Nothing is trained: a cell's logit is
how much brighter it is than its surroundings. Two arguments make it slow, so that drills have something to interrupt:
`busy_rounds` on every picture, and `endless_on_white` on a film that is nearly white, which no worker ever finishes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from models.card import ModelCard, read_card
from tests.untrained import UNTRAINED

SIZE = 128
STRIDE = 8
HALF_BOX = 12.0  # input pixels from a mark's centre to each edge of its box
WHITE = 0.9  # mean of a picture from which `endless_on_white` never ends
_CONTRAST, _STEEPNESS = 0.2, 40.0
_ROUND_SIDE = 256

CARD = """
limits = [{{ en = "finds bright spots only", ru = "находит только светлые пятна" }}]

[identity]
name = "{name}"
version = "{version}"
title = {{ en = "Bright spots", ru = "Светлые пятна" }}
description = {{ en = "For tests", ru = "Для тестов" }}
manufacturer = "radnode tests"
licence = "Apache-2.0"
use = "research"

[[weights]]
runtime = "onnx"
file = "model.onnx"
sha256 = "{sha256}"

[input]
kind = "projection"
height = {size}
width = {size}
mean = [0.0]
std = [1.0]

[output]
kind = "center_heatmap"
stride = {stride}

[[labels]]
key = "opacity"
title = {{ en = "Opacity", ru = "Затемнение" }}
finding = {{ value = "128480000", scheme = "SCT", meaning = "Lung opacity" }}
site = {{ value = "39607008", scheme = "SCT", meaning = "Lung" }}
lesion = {{ threshold = {threshold}, chosen_by = "by hand" }}
picture = {{ threshold = {threshold}, chosen_by = "by hand" }}

[intended_use]
modalities = [{modalities}]
body_parts = ["CHEST"]
accept_unknown_body_part = true
views = [{views}]
accept_unknown_view = true
statement = {{ en = "tests only", ru = "только для тестов" }}
"""


def install_toy_model(
    folder: Path,
    *,
    name: str = "toy-opacity",
    version: str = "1.0.0",
    threshold: float = 0.5,
    modalities: Sequence[str] = ("CR", "DX"),
    views: Sequence[str] = ("PA", "AP"),
    busy_rounds: int = 0,
    endless_on_white: bool = False,
) -> ModelCard:
    """Write the model into ``folder/name/version`` and return its card.

    Parameters
    ----------
    folder : Path
        A models folder, as `[models] folders` of the settings names it.
    busy_rounds : int
        Idle work for every batch; 4000 rounds take very roughly a second.
    endless_on_white : bool
        A picture whose mean is above `WHITE` keeps the network busy for days: the input that kills its worker.
    """
    home = folder / name / version
    home.mkdir(parents=True)
    weights = toy_network(busy_rounds, endless_on_white)
    (home / "model.onnx").write_bytes(weights)
    card = (CARD + UNTRAINED).format(
        name=name,
        version=version,
        sha256=hashlib.sha256(weights).hexdigest(),
        size=SIZE,
        stride=STRIDE,
        threshold=threshold,
        modalities=_quoted(modalities),
        views=_quoted(views),
        manifest="0" * 64,
    )
    (home / "card.toml").write_text(card, encoding="utf-8")
    return read_card(home / "card.toml")


@cache
def toy_network(busy_rounds: int = 0, endless_on_white: bool = False) -> bytes:
    """The ONNX file; input (pictures, 1, SIZE, SIZE), outputs heatmap, ltrb and picture as the card says."""
    grid = SIZE // STRIDE
    nodes = [
        helper.make_node("AveragePool", ["image"], ["here"], kernel_shape=[STRIDE] * 2, strides=[STRIDE] * 2),
        helper.make_node(
            "AveragePool", ["image"], ["around"], kernel_shape=[5 * STRIDE] * 2, strides=[STRIDE] * 2,
            pads=[2 * STRIDE] * 4, count_include_pad=0,
        ),
        helper.make_node("Sub", ["here", "around"], ["brighter"]),
        helper.make_node("Sub", ["brighter", "contrast"], ["above"]),
        helper.make_node("Mul", ["above", "steepness"], ["logits"]),
        helper.make_node("Mul", ["logits", "zero"], ["nothing"]),
        helper.make_node("Add", ["nothing", "half_box"], ["edge"]),
        helper.make_node("Concat", ["edge"] * 4, ["ltrb"], axis=1),
        helper.make_node("ReduceMax", ["logits"], ["picture"], axes=[2, 3], keepdims=0),
    ]  # fmt: skip
    constants: dict[str, NDArray[np.generic]] = {
        "contrast": np.asarray(_CONTRAST, dtype=np.float32),
        "steepness": np.asarray(_STEEPNESS, dtype=np.float32),
        "zero": np.asarray(0.0, dtype=np.float32),
        "half_box": np.asarray(HALF_BOX, dtype=np.float32),
    }
    if busy_rounds or endless_on_white:
        more_nodes, more_constants = _busy(busy_rounds, endless_on_white)
        nodes += more_nodes
        constants |= more_constants
        nodes.append(helper.make_node("Add", ["logits", "idle"], ["heatmap"]))
    else:
        nodes.append(helper.make_node("Identity", ["logits"], ["heatmap"]))
    graph = helper.make_graph(
        nodes,
        "bright-spots",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["pictures", 1, SIZE, SIZE])],
        [
            helper.make_tensor_value_info("heatmap", TensorProto.FLOAT, ["pictures", 1, grid, grid]),
            helper.make_tensor_value_info("ltrb", TensorProto.FLOAT, ["pictures", 4, grid, grid]),
            helper.make_tensor_value_info("picture", TensorProto.FLOAT, ["pictures", 1]),
        ],
        [numpy_helper.from_array(value, key) for key, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


def _busy(rounds: int, endless_on_white: bool) -> tuple[list[onnx.NodeProto], dict[str, NDArray[np.generic]]]:
    """A loop of matrix products whose result is nothing; its length depends on the batch's mean, if asked for."""
    side = _ROUND_SIDE
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["going_in"], ["going_out"]),
            helper.make_node("MatMul", ["work_in", "work"], ["product"]),
            helper.make_node("Mul", ["product", "zero"], ["work_out"]),
        ],
        "busy",
        [
            helper.make_tensor_value_info("round", TensorProto.INT64, []),
            helper.make_tensor_value_info("going_in", TensorProto.BOOL, []),
            helper.make_tensor_value_info("work_in", TensorProto.FLOAT, [side, side]),
        ],
        [
            helper.make_tensor_value_info("going_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("work_out", TensorProto.FLOAT, [side, side]),
        ],
    )
    nodes = [
        helper.make_node("ReduceMean", ["image"], ["means"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("ReduceMax", ["means"], ["brightest"], keepdims=0),
        helper.make_node("Greater", ["brightest", "white"], ["is_white"]),
        helper.make_node("Where", ["is_white", "rounds_if_white", "rounds_else"], ["rounds"]),
        helper.make_node("Loop", ["rounds", "", "work"], ["worked"], body=body),
        helper.make_node("ReduceSum", ["worked"], ["idle"], keepdims=0),
    ]
    constants: dict[str, NDArray[np.generic]] = {
        "white": np.asarray(WHITE, dtype=np.float32),
        "rounds_if_white": np.asarray(1 << 40 if endless_on_white else rounds, dtype=np.int64),
        "rounds_else": np.asarray(rounds, dtype=np.int64),
        "work": np.zeros((side, side), dtype=np.float32),
    }
    return nodes, constants


def _quoted(words: Sequence[str]) -> str:
    return ", ".join(f'"{word}"' for word in words)

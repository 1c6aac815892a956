"""A graph that does not fit its card is refused when it is loaded, in the words of the graph and of the card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from inference.runtimes import open_network
from inference.runtimes.base import Device
from inference.runtimes.onnx import OnnxNetwork, opened, signature_of
from inference.runtimes.signature import Port, Signature, SignatureDiffers, Wiring, wire
from models.card import ModelCard, Runtime
from models.inputs import Layout, ProjectionInput, VolumeInput
from models.outputs import Activation, BoxesOutput, HeatmapOutput, Output, ProbabilityOutput
from models.registry import InstalledModel
from tests.networks import DiscFinder, disc_card, export, install
from tests.unit.test_outputs_boxes import POINT, labels

PICTURES = Port(name="images", dtype="float32", shape=("batch", 1, 64, 64))
BOXES = Port(name="boxes", dtype="float32", shape=("batch", 10, 4))
SCORES = Port(name="scores", dtype="float32", shape=("batch", 10))
CLASSES = Port(name="classes", dtype="int64", shape=("batch", 10))


def card(output: Output, *, count: int = 1, **more: Any) -> ModelCard:
    points = {"lesion": None, "picture": POINT} if isinstance(output, ProbabilityOutput) else {}
    return disc_card(output=output, labels=labels(count, **points), input=ProjectionInput(height=64, width=64, **more))


def fitted(inputs: tuple[Port, ...], outputs: tuple[Port, ...], wanted: ModelCard) -> Wiring:
    return wire(Signature(inputs=inputs, outputs=outputs), wanted)


def port(of: Port, **change: Any) -> Port:
    return Port(**{"name": of.name, "dtype": of.dtype, "shape": of.shape} | change)


def test_a_graph_that_fits_is_fed_in_batches() -> None:
    wiring = fitted((PICTURES,), (SCORES, BOXES, CLASSES), card(BoxesOutput()))
    assert wiring == Wiring(
        input_name="images", input_dtype="float32", input_batched=True, max_batch=None,
        outputs=("boxes", "scores"), outputs_batched=True,
    )  # fmt: skip


def test_a_graph_of_one_picture_is_run_one_by_one() -> None:
    one = fitted((port(PICTURES, shape=(1, 1, 64, 64)),), (BOXES, SCORES), card(BoxesOutput()))
    assert (one.max_batch, one.input_batched, one.outputs_batched) == (1, True, True)
    bare = fitted(
        (port(PICTURES, shape=(1, None, None)),),
        (port(BOXES, shape=("n", 4)), port(SCORES, shape=("n",))),
        card(BoxesOutput()),
    )
    assert (bare.max_batch, bare.input_batched, bare.outputs_batched) == (1, False, False)


def test_scores_of_each_class_without_a_batch_axis_are_told_by_their_boxes() -> None:
    outputs = (port(BOXES, shape=("n", 4)), port(SCORES, shape=("n", 3)))
    assert fitted((PICTURES,), outputs, card(BoxesOutput(), count=3)).outputs_batched is False


def test_an_output_without_a_known_rank_is_left_to_the_first_picture() -> None:
    outputs = (port(BOXES, shape=()), port(SCORES, shape=()))
    assert fitted((PICTURES,), outputs, card(BoxesOutput())).outputs_batched is True


def test_volumes_are_fed_in_tiles() -> None:
    tiles = Port(name="tiles", dtype="float32", shape=(1, 1, 32, 48, 64))
    output = Port(name="heatmap", dtype="float32", shape=(1, 1, 32, 48, 64))
    spec = VolumeInput(spacing_mm=(1, 1, 1), tile=(32, 48, 64))
    wanted = disc_card(output=HeatmapOutput(), input=spec)
    assert fitted((tiles,), (output,), wanted).max_batch == 1
    with pytest.raises(SignatureDiffers, match="slices 32, rows 48, columns 64"):
        fitted((port(tiles, shape=(1, 1, 64, 48, 32)),), (output,), wanted)


MASK = Port(name="heatmap", dtype="float32", shape=("batch", 1, 64, 64))


@pytest.mark.parametrize(
    ("inputs", "outputs", "wanted", "said"),
    [
        ((), (BOXES, SCORES), card(BoxesOutput()), "0 inputs, a model takes one"),
        ((PICTURES, port(PICTURES, name="sizes")), (BOXES, SCORES), card(BoxesOutput()), "2 inputs, a model takes one"),
        (
            (PICTURES, port(PICTURES, name="sizes")),
            (BOXES, SCORES),
            card(BoxesOutput(), tensor="images"),
            "besides images the graph wants sizes",
        ),
        ((PICTURES,), (BOXES, SCORES), card(BoxesOutput(), tensor="x"), "tensor is x, which the graph does not take"),
        ((port(PICTURES, dtype="uint8"),), (BOXES, SCORES), card(BoxesOutput()), "takes uint8"),
        ((port(PICTURES, shape=("b", 3, 64, 64)),), (BOXES, SCORES), card(BoxesOutput()), "channels 1"),
        ((port(PICTURES, shape=("b", 1, 64, 96)),), (BOXES, SCORES), card(BoxesOutput()), "width 64"),
        ((port(PICTURES, shape=("b", 64)),), (BOXES, SCORES), card(BoxesOutput()), "has 2 axes"),
        ((port(PICTURES, shape=(4, 1, 64, 64)),), (BOXES, SCORES), card(BoxesOutput()), "exactly 4 pictures"),
        (
            (PICTURES,),
            (BOXES, SCORES),
            card(BoxesOutput(), layout=Layout.CHANNELS_LAST),
            "height 64, width 64, channels 1",
        ),
        ((PICTURES,), (BOXES,), card(BoxesOutput()), "names scores, which the graph does not give"),
        ((PICTURES,), (BOXES, port(SCORES, dtype="int64")), card(BoxesOutput()), "scores gives int64"),
        ((PICTURES,), (BOXES, port(SCORES, dtype="seq(tensor(float))")), card(BoxesOutput()), "seq"),
        ((PICTURES,), (port(BOXES, shape=("b", 10, 6)), SCORES), card(BoxesOutput()), "set scores to false"),
        ((PICTURES,), (port(BOXES, shape=("b", 4, 10)), SCORES), card(BoxesOutput()), "change transposed"),
        ((PICTURES,), (port(BOXES, shape=("b", 10)), SCORES), card(BoxesOutput()), "boxes has 10 numbers"),
        ((PICTURES,), (port(BOXES, shape=(1, 5, 8400)),), card(BoxesOutput(scores=None)), "8396 .*change transposed"),
        (
            (PICTURES,),
            (BOXES, SCORES, CLASSES),
            card(BoxesOutput(classes="classes", activation=Activation.SOFTMAX), count=2),
            "softmax needs a score for each class",
        ),
        ((PICTURES,), (BOXES, SCORES), card(BoxesOutput(), count=2), "one score for each box and the card 2 labels"),
        ((PICTURES,), (port(BOXES, shape=("n", 4)), SCORES), card(BoxesOutput()), "scores has 10 class"),
        ((PICTURES,), (port(MASK, shape=("b", 64)),), card(HeatmapOutput()), "heatmap has 2 axes"),
        ((PICTURES,), (port(MASK, dtype="int64"),), card(HeatmapOutput()), "heatmap gives int64"),
        ((PICTURES,), (port(MASK, shape=("b", 3, 64, 64)),), card(HeatmapOutput()), "3 class"),
        ((PICTURES,), (MASK,), card(HeatmapOutput(activation=Activation.SOFTMAX)), "softmax of one class"),
        (
            (PICTURES,),
            (Port(name="probability", dtype="float32", shape=("b", 14)),),
            card(ProbabilityOutput(), count=2),
            r"14 class\(es\), the card's labels take 2",
        ),
    ],
)  # fmt: skip
def test_a_graph_that_does_not_fit_is_refused(
    inputs: tuple[Port, ...], outputs: tuple[Port, ...], wanted: ModelCard, said: str
) -> None:
    with pytest.raises(SignatureDiffers, match=said) as caught:
        fitted(inputs, outputs, wanted)
    assert str(caught.value).endswith(str(Signature(inputs=inputs, outputs=outputs)))


def graph(dtype: int = TensorProto.FLOAT, *, batch: int | str = 1) -> bytes:
    """A map of the picture itself, of class numbers, and a list that no card can name."""
    side = [batch, 1, 64, 64]
    made = helper.make_graph(
        [
            helper.make_node("Identity", ["images"], ["heatmap"]),
            helper.make_node("Cast", ["images"], ["classes"], to=TensorProto.INT64),
        ],
        "echo",
        [helper.make_tensor_value_info("images", dtype, side)],
        [
            helper.make_tensor_value_info("heatmap", dtype, side),
            helper.make_tensor_value_info("classes", TensorProto.INT64, side),
        ],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def test_the_signature_of_a_file_is_that_of_its_graph() -> None:
    assert str(signature_of(opened(graph(batch="batch")))) == (
        "the graph takes images float32(batch, 1, 64, 64) and gives heatmap float32(batch, 1, 64, 64), "
        "classes int64(batch, 1, 64, 64)"
    )


@pytest.mark.parametrize("dtype", [TensorProto.FLOAT, TensorProto.FLOAT16])
def test_a_graph_of_one_picture_and_of_half_floats_is_run(dtype: int) -> None:
    network = OnnxNetwork(graph(dtype), card=card(HeatmapOutput()), device=Device.CPU, threads=1)
    batch = np.random.default_rng(0).random((3, 1, 64, 64), dtype=np.float32)
    outputs = network.run(batch)
    assert (network.max_batch, list(outputs)) == (1, ["heatmap"])
    assert outputs["heatmap"].dtype == np.float32
    assert np.allclose(outputs["heatmap"], batch, atol=1e-3)


def test_what_only_the_first_picture_tells_is_checked_when_the_model_is_loaded(tmp_path: Path) -> None:
    model = install(tmp_path, export(DiscFinder()))
    two = model.card.model_copy(update={"labels": labels(2)})
    for runtime in Runtime:
        open_network(model, runtime=runtime, device=Device.CPU, threads=1).close()
        with pytest.raises(SignatureDiffers, match="the card's labels take 2"):
            open_network(InstalledModel(card=two, folder=model.folder), runtime=runtime, device=Device.CPU, threads=1)

"""`radnode models inspect` tells what a file takes and gives, and drafts cards that become models when filled in."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import TensorProto, helper

from dicom_node.cli import main
from models.card import CardError, ModelCard, read_card
from models.draft import blanks, laid_over
from tests.foreign_models import TEXT_FINDER, TEXT_TURNER, raw_boxes_file, retina_file, shipped_file
from tests.monai_bundles import KNOWN
from training.toml import to_toml


def graph(inputs: list[Any], nodes: list[Any], outputs: list[Any]) -> bytes:
    made = helper.make_graph(nodes, "g", inputs, outputs)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def value(name: str, *shape: int | str, dtype: int = TensorProto.FLOAT) -> Any:
    return helper.make_tensor_value_info(name, dtype, list(shape))


def inspect(tmp_path: Path, weights: bytes, *options: str) -> Result:
    (tmp_path / "model.onnx").write_bytes(weights)
    return CliRunner().invoke(main, ["models", "inspect", str(tmp_path / "model.onnx"), *options])


@pytest.mark.parametrize(
    ("weights", "kind", "said"),
    [
        (retina_file, "boxes", ['classes = "labels"', 'layout = "corners"', 'unit = "pixels"', "height = 128"]),
        (raw_boxes_file, "boxes", ["scores = false", "transposed = true", 'layout = "center_size"', "width = 640"]),
        (lambda: shipped_file(TEXT_FINDER), "heatmap", ['heatmap = "fetch_name_0"', 'activation = "none"']),
        (lambda: shipped_file(TEXT_TURNER), "probability", ['probability = "save_infer_model/scale_0.tmp_1"']),
    ],
    ids=["lists", "raw boxes", "map", "classifier"],
)
def test_the_forms_that_a_card_describes_are_proposed(
    weights: Callable[[], bytes], kind: str, said: list[str], tmp_path: Path
) -> None:
    result = inspect(tmp_path, weights())
    assert result.exit_code == 0, result.output
    assert f"proposal 1: {kind};" in result.output
    for words in said:
        assert words in result.output


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        (lambda: shipped_file("PP-OCRv6_rec_small.onnx"), "no card describes what this graph gives"),
        (
            lambda: graph(
                [value("x", 1, 3, 64, 64)],
                [helper.make_node("Shape", ["x"], ["y"])],
                [value("y", 4, dtype=TensorProto.INT64)],
            ),
            "no card describes what this graph gives (y int64(4))",
        ),
        (
            lambda: graph(
                [value("x", 1, 1, 64, 64), value("z", 1, 1, 64, 64)],
                [helper.make_node("Add", ["x", "z"], ["y"])],
                [value("y", 1, 1, 64, 64)],
            ),
            "the graph has 2 inputs",
        ),
        (
            lambda: graph(
                [value("x", 1, 1, 64, 64, dtype=TensorProto.UINT8)],
                [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT)],
                [value("y", 1, 1, 64, 64)],
            ),
            "input x takes uint8",
        ),
        (lambda: b"junk", "no ONNX file"),
    ],
    ids=["a recogniser of text", "a shape", "two inputs", "bytes", "junk"],
)
def test_an_unknown_form_is_refused_with_an_explanation(
    weights: Callable[[], bytes], said: str, tmp_path: Path
) -> None:
    result = inspect(tmp_path, weights())
    assert result.exit_code == 1
    assert said in result.output


def test_a_draft_is_refused_until_it_is_filled_in(tmp_path: Path) -> None:
    draft = tmp_path / "card.toml"
    result = inspect(tmp_path, shipped_file(TEXT_FINDER), "--card", str(draft))
    assert result.exit_code == 0, result.output
    with pytest.raises(CardError, match=r"intended_use\.modalities"):
        read_card(draft)
    table = tomllib.loads(draft.read_text(encoding="utf-8"))
    assert len(blanks(table)) > 20
    assert f"{len(blanks(table))} blank(s)" in result.output
    label = KNOWN["labels"][0] | {"key": "finding_1"}
    more = {"identity": {"description": {"en": "Finds"}, "manufacturer": "Us"}, "labels": [label]}
    more |= {"training": {"description": "text", "citation": "none"}}
    known = laid_over(laid_over(KNOWN, more), {"intended_use": {"statement": {"en": "An example"}}})
    filled = laid_over(table, known)
    assert blanks(filled) == ()
    assert ModelCard.model_validate(filled).reference == "my-model@1.0.0"
    draft.write_text(to_toml(filled), encoding="utf-8")
    assert read_card(draft).labels[0].key == "finding_1"
    again = inspect(tmp_path, shipped_file(TEXT_FINDER), "--card", str(draft))
    assert again.exit_code == 1
    assert "is there already" in again.output

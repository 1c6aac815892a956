"""Boxes come back to the source whatever their encoding, and are suppressed as elsewhere."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from inference.findings import Box, SeriesUid, SopUid, StudyUid
from inference.images import Image, ImageHeader
from inference.outputs import Seen, decode_outputs
from inference.outputs.boxes import listed, overlaps, suppressed
from inference.preprocess import Transform, prepare
from inference.refusals import Reason, Refused
from models.card import Label, ModelCard, OperatingPoint
from models.inputs import Fit, ProjectionInput, VolumeInput
from models.outputs import Activation, BoxesOutput, BoxLayout, BoxUnit
from tests.networks import disc_card

HEADER = ImageHeader(
    sop_instance_uid=SopUid("1.2"),
    sop_class_uid="1.3",
    series_uid=SeriesUid("1.4"),
    study_uid=StudyUid("1.5"),
    transfer_syntax_uid="1.6",
    rows=1,
    columns=1,
)
POINT = OperatingPoint(threshold=0.5, chosen_by="by hand")


def labels(count: int, **more: Any) -> tuple[Label, ...]:
    first = disc_card().labels[0]
    return tuple(first.model_copy(update={"key": f"label_{index}", "lesion": POINT, **more}) for index in range(count))


def card(output: BoxesOutput, *, count: int = 1, side: tuple[int, int] = (64, 64), fit: Fit = Fit.PAD_END) -> ModelCard:
    spec = ProjectionInput(height=side[0], width=side[1], fit=fit)
    return disc_card(output=output, labels=labels(count), input=spec)


def way(rows: int, columns: int, spec: ProjectionInput) -> Transform:
    pixels = np.random.default_rng(0).random((rows, columns), dtype=np.float32)
    return prepare(Image(header=HEADER, pixels=pixels, pixel_digest="0" * 64), spec).transform


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """One way in which a network may write down a box and its scores."""

    layout: BoxLayout
    unit: BoxUnit
    form: str  # "packed", "objectness", "each_class", "one_score", "named_classes"
    activation: Activation
    transposed: bool
    first_class: int

    def output(self, **more: Any) -> BoxesOutput:
        packed = self.form in ("packed", "objectness")
        named = {"classes": "classes"} if self.form == "named_classes" else {}
        return BoxesOutput(
            boxes="boxes",
            scores=None if packed else "scores",
            layout=self.layout,
            unit=self.unit,
            transposed=self.transposed,
            objectness=self.form == "objectness",
            activation=self.activation,
            first_class=self.first_class,
            **{"nms_iou": None, **named, **more},
        )

    def write(
        self, boxes: NDArray[np.float64], classes: NDArray[np.int64], scores: NDArray[np.float64], side: tuple[int, int]
    ) -> dict[str, NDArray[np.float32]]:
        """Arrays of a network that sees `boxes` (K, 4 corners in input pixels), independently of the decoder."""
        rows = [self._numbers(box, side) for box in boxes]
        total = int(classes.max()) + 1 if len(classes) else 1
        table = np.full((len(boxes), total + self.first_class), 1e-6)
        for row, (label, score) in enumerate(zip(classes, scores, strict=True)):
            table[row, label + self.first_class] = score
            if self.activation is Activation.SOFTMAX:  # they share what is left
                others = np.arange(table.shape[1]) != label + self.first_class
                table[row, others] = (1 - score) / others.sum()
        place = np.asarray(rows).reshape(-1, 4)
        turned = (lambda array: array.T) if self.transposed else (lambda array: array)
        if self.form == "packed":
            return {"boxes": turned(np.hstack((place, self._raw(table)))).astype(np.float32)}
        if self.form == "objectness":
            sure = np.full((len(boxes), 1), 0.9)
            return {"boxes": turned(np.hstack((place, self._raw(sure), self._raw(table / sure)))).astype(np.float32)}
        made = {"boxes": turned(place).astype(np.float32)}
        if self.form == "each_class":
            return made | {"scores": turned(self._raw(table)).astype(np.float32)}
        made["scores"] = self._raw(scores).astype(np.float32)
        if self.form == "named_classes":
            made["classes"] = (classes + self.first_class).astype(np.float32)
        return made

    def _numbers(self, box: NDArray[np.float64], side: tuple[int, int]) -> list[float]:
        x0, y0, x1, y1 = (float(value) for value in box)
        numbers = {
            BoxLayout.CORNERS: [x0, y0, x1, y1],
            BoxLayout.CENTER_SIZE: [(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0],
            BoxLayout.CORNER_SIZE: [x0, y0, x1 - x0, y1 - y0],
        }[self.layout]
        if self.unit is BoxUnit.FRACTION:
            return [number / side[1 - index % 2] for index, number in enumerate(numbers)]
        return numbers

    def _raw(self, probability: NDArray[np.float64]) -> NDArray[np.float64]:
        if self.activation is Activation.SIGMOID:
            return logit(probability)
        return np.log(probability) if self.activation is Activation.SOFTMAX else probability


def logit(probability: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.log(probability / (1 - probability))


@st.composite
def encodings(draw: st.DrawFn) -> Encoding:
    activation = draw(st.sampled_from(Activation))
    forms = ["packed", "each_class"]
    if activation is not Activation.SOFTMAX:
        forms += ["objectness", "one_score", "named_classes"]
    form = draw(st.sampled_from(forms))
    least = 1 if activation is Activation.SOFTMAX else 0  # of one class a softmax is always 1
    return Encoding(
        layout=draw(st.sampled_from(BoxLayout)),
        unit=draw(st.sampled_from(BoxUnit)),
        form=form,
        activation=activation,
        transposed=draw(st.booleans()),
        first_class=0 if form == "one_score" else draw(st.integers(least, 1)),
    )


SIDES = st.sampled_from([(64, 64), (96, 160), (320, 256)])


@settings(max_examples=150, deadline=None)
@given(
    encoding=encodings(),
    side=SIDES,
    fit=st.sampled_from(Fit),
    mirrored=st.booleans(),
    rows=st.integers(40, 3000),
    columns=st.integers(40, 3000),
    seed=st.integers(0, 2**32),
)
def test_a_box_of_the_source_comes_back_through_every_encoding(
    encoding: Encoding, side: tuple[int, int], fit: Fit, mirrored: bool, rows: int, columns: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    count = 1 if encoding.form == "one_score" else 3
    wanted = card(encoding.output(min_score=0.5), count=count, side=side, fit=fit)
    assert isinstance(wanted.input, ProjectionInput)
    there = way(rows, columns, wanted.input)
    there = Transform(**{name: getattr(there, name) for name in Transform.__slots__} | {"mirrored": mirrored})
    corners = np.sort(rng.uniform(0, 1, (4, 2, 2)), axis=1) * (columns, rows)  # (K, low and high, x and y)
    corners[:, 1] = np.minimum(corners[:, 1] + 2, (columns, rows))
    corners[:, 0] = np.minimum(corners[:, 0], corners[:, 1] - 1)
    classes = rng.integers(0, count, 4)
    classes[0] = count - 1  # so that the table of classes is as wide as the card says
    scores = rng.permutation([0.85, 0.8, 0.7, 0.6])
    moved = np.asarray([[*there.to_input(*low), *there.to_input(*high)] for low, high in corners])
    moved[:, 0::2].sort(axis=1)  # mirrored, left and right change places
    outputs = encoding.write(moved, classes, scores, side)
    found = decode_outputs(outputs, wanted, there).marks
    tolerance = 0.01 + 2e-7 * max(side) / min(there.scale_x, there.scale_y)  # the network's numbers are float32
    order = np.argsort(-scores)
    assert [mark.label_index for mark in found] == [int(classes[index]) for index in order]
    for mark, index in zip(found, order, strict=True):
        edges = (mark.box.x_min, mark.box.y_min, mark.box.x_max, mark.box.y_max)
        assert edges == pytest.approx(tuple(corners[index].ravel()), abs=tolerance)
        assert 1 / (1 + math.exp(-mark.logit)) == pytest.approx(scores[index], abs=2e-4)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), count=st.integers(0, 120), threshold=st.sampled_from([0.1, 0.3, 0.5, 0.7]))
def test_suppression_agrees_with_torchvision(seed: int, count: int, threshold: float) -> None:
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 40, (count, 2))
    boxes = np.hstack((low, low + rng.uniform(1, 24, (count, 2)))).astype(np.float32)
    scores = rng.uniform(0.05, 0.95, count).round(2).astype(np.float32)  # rounded: equals occur
    classes = rng.integers(0, 3, count)
    output = BoxesOutput(classes="classes", nms_iou=threshold, max_lesions=300, min_score=0)
    wanted = card(output, count=3)
    found = decode_outputs(
        {"boxes": boxes, "scores": scores, "classes": classes.astype(np.float32)},
        wanted,
        way(64, 64, wanted.input),  # type: ignore[arg-type]
    ).marks
    kept = torchvision.ops.batched_nms(
        torch.from_numpy(boxes), torch.from_numpy(scores), torch.from_numpy(classes), threshold
    ).numpy()
    assert {rounded(boxes[index], int(classes[index])) for index in kept} == {
        rounded(np.asarray([mark.box.x_min, mark.box.y_min, mark.box.x_max, mark.box.y_max]), mark.label_index)
        for mark in found
    }


def rounded(box: NDArray[Any], label: int) -> tuple[int, tuple[float, ...]]:
    return label, tuple(np.clip(box, 0, 64).astype(float).round(2).tolist())


def test_boxes_of_a_volume_overlap_by_their_volumes() -> None:
    cube, half = np.asarray([0.0, 0, 0, 2, 2, 2]), np.asarray([[0.0, 0, 1, 2, 2, 3], [5, 5, 5, 6, 6, 6]])
    assert overlaps(cube, half).tolist() == pytest.approx([4 / 12, 0])


def test_boxes_of_a_volume_are_read_along_three_axes() -> None:
    output = BoxesOutput(layout=BoxLayout.CENTER_SIZE, unit=BoxUnit.FRACTION)
    wanted = card(output).model_copy(update={"input": VolumeInput(spacing_mm=(1, 1, 1), tile=(16, 32, 64))})
    row = np.asarray([[0.5, 0.5, 0.5, 0.25, 0.5, 1]], dtype=np.float32)
    corners, values = listed(
        {"boxes": row, "scores": np.asarray([0.8], dtype=np.float32)}, output, wanted, (64, 32, 16)
    )
    assert corners.tolist() == [[24, 8, 0, 40, 24, 16]]
    assert values == pytest.approx(np.asarray([[math.log(4)]]), abs=1e-6)


def see(outputs: dict[str, Any], output: BoxesOutput, *, count: int = 1, **more: Any) -> Seen:
    wanted = card(output, count=count).model_copy(update=more)
    arrays = {name: np.asarray(values, dtype=np.float32) for name, values in outputs.items()}
    return decode_outputs(arrays, wanted, way(64, 64, wanted.input))  # type: ignore[arg-type]


def test_a_graph_that_suppressed_its_boxes_is_believed() -> None:
    twice = {"boxes": [[0, 0, 9, 9], [0, 0, 9, 9]], "scores": [0.9, 0.8]}
    assert len(see(twice, BoxesOutput(nms_iou=None)).marks) == 2
    assert len(see(twice, BoxesOutput()).marks) == 1


def test_boxes_of_different_labels_do_not_suppress_each_other() -> None:
    outputs = {"boxes": [[0, 0, 9, 9], [0, 0, 9, 9]], "scores": [0.9, 0.8], "classes": [0, 1]}
    assert len(see(outputs, BoxesOutput(classes="classes"), count=2).marks) == 2


def test_a_label_is_found_by_its_index_among_many_classes() -> None:
    outputs = {"boxes": [[0, 0, 9, 9]], "scores": [[0.1, 0.2, 0.3, 0.9]]}
    (label,) = labels(1, index=3)
    (mark,) = see(outputs, BoxesOutput(), labels=(label,)).marks
    assert (mark.label_index, mark.box) == (0, Box(x_min=0, y_min=0, x_max=9, y_max=9))


def test_more_classes_than_labels_are_refused_unless_labels_name_theirs() -> None:
    with pytest.raises(Refused, match=r"4 class\(es\), the card's labels take 1"):
        see({"boxes": [[0, 0, 9, 9]], "scores": [[0.1, 0.2, 0.3, 0.9]]}, BoxesOutput())


def test_a_lone_objectness_is_the_score() -> None:
    (mark,) = see({"boxes": [[0, 0, 9, 9, 0.8]]}, BoxesOutput(scores=None, objectness=True)).marks
    assert mark.logit == pytest.approx(math.log(4), abs=1e-5)


def test_boxes_in_the_padding_and_empty_boxes_are_dropped() -> None:
    outputs = {
        "boxes": [[40, 10, 60, 20], [3, 3, 3, 9], [9, 9, 3, 3], [10, 10, 40, 20]],
        "scores": [0.9, 0.9, 0.9, 0.8],
    }
    wanted = card(BoxesOutput())
    arrays = {name: np.asarray(values, dtype=np.float32) for name, values in outputs.items()}
    narrow = way(128, 64, wanted.input)  # type: ignore[arg-type]
    (mark,) = decode_outputs(arrays, wanted, narrow).marks
    assert mark.box == Box(x_min=20, y_min=20, x_max=64, y_max=40)


def test_no_boxes_at_all_are_no_failure() -> None:
    seen = see({"boxes": np.zeros((0, 4)), "scores": np.zeros(0)}, BoxesOutput())
    assert seen.marks == ()
    assert seen.strongest == pytest.approx([math.log(1e-7)], abs=1e-3)


def test_the_strongest_is_told_even_of_what_is_not_looked_at() -> None:
    seen = see({"boxes": [[0, 0, 9, 9]], "scores": [0.005]}, BoxesOutput())
    assert seen.marks == ()
    assert seen.strongest == pytest.approx([math.log(0.005 / 0.995)], abs=1e-4)


def test_the_whole_picture_has_a_value_of_its_own() -> None:
    outputs = {"boxes": [[0, 0, 9, 9]], "scores": [-3.0], "picture": [2.0]}
    seen = see(outputs, BoxesOutput(picture="picture", activation=Activation.SIGMOID))
    assert (seen.picture, seen.strongest) == ((2.0,), (-3.0,))


@pytest.mark.parametrize(
    ("outputs", "output", "said"),
    [
        ({"scores": [0.5]}, BoxesOutput(), "no output boxes: the network gave scores"),
        ({"boxes": [[0, 0, 9, 9]], "scores": [7.5]}, BoxesOutput(), "outside 0..1"),
        ({"boxes": [[0, 0, 9, float("nan")]], "scores": [0.5]}, BoxesOutput(), "not numbers"),
        ({"boxes": [[0, 0, 9, 9]], "scores": [0.5, 0.5]}, BoxesOutput(), "1 boxes, and output scores"),
        ({"boxes": [[0, 0, 9]], "scores": [0.5]}, BoxesOutput(), "wanted 4 numbers"),
        ({"boxes": [[[0, 0, 9, 9]]], "scores": [0.5]}, BoxesOutput(), "one row of numbers"),
        ({"boxes": [[0, 0, 9, 9]]}, BoxesOutput(scores=None), "no room for scores"),
        (
            {"boxes": [[0, 0, 9, 9]], "scores": [0.5], "classes": [0, 1]},
            BoxesOutput(classes="classes"),
            r"classes of shape \(2,\)",
        ),
    ],
)
def test_outputs_that_do_not_fit_are_the_models_failure(
    outputs: dict[str, Any], output: BoxesOutput, said: str
) -> None:
    with pytest.raises(Refused, match=said) as caught:
        see(outputs, output)
    assert caught.value.refusal.reason is Reason.MODEL_FAILED


def test_suppression_keeps_no_more_than_the_card_wants() -> None:
    corners = np.asarray([[10.0 * i, 0, 10.0 * i + 5, 5] for i in range(5)])
    values = np.asarray([0.1, 0.5, 0.3, 0.9, 0.2])
    assert suppressed(corners, values, BoxesOutput(max_lesions=2)).tolist() == [3, 1]
    assert suppressed(corners, values, BoxesOutput(max_lesions=2, nms_iou=None)).tolist() == [3, 1]

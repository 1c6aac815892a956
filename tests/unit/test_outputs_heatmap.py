"""Regions of a map agree with scipy, lie where they were drawn, and are measured as drawn."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import ImageDraw
from scipy import ndimage

from inference.findings import Box
from inference.outputs import Seen, decode_outputs
from inference.outputs.components import labelled, outline
from inference.postprocess import AREA, LONG_AXIS, SHORT_AXIS, measurements
from inference.preprocess import Transform
from inference.refusals import Reason, Refused
from models.inputs import ProjectionInput
from models.outputs import Activation, HeatmapOutput, ProbabilityOutput
from tests.networks import disc_card
from tests.unit.test_outputs_boxes import POINT, labels

Mask = NDArray[np.bool_]


def masks(axes: int) -> st.SearchStrategy[Mask]:
    @st.composite
    def made(draw: st.DrawFn) -> Mask:
        shape = tuple(draw(st.integers(1, 14)) for _ in range(axes))
        rng = np.random.default_rng(draw(st.integers(0, 2**32)))
        return np.asarray(rng.random(shape) < draw(st.sampled_from([0.0, 0.2, 0.4, 0.6, 1.0])))

    return made()


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_regions_are_those_of_scipy(axes: int) -> None:
    @settings(max_examples=120, deadline=None)
    @given(mask=masks(axes))
    def agrees(mask: Mask) -> None:
        ours, count = labelled(mask)
        theirs, their_count = ndimage.label(mask, structure=np.ones((3,) * axes))
        assert count == their_count
        pairs = {(int(a), int(b)) for a, b in zip(ours.ravel(), theirs.ravel(), strict=True)}
        assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})

    agrees()


def test_regions_are_numbered_in_the_order_of_their_first_cells() -> None:
    mask = np.asarray([[0, 0, 1, 0, 1], [1, 0, 0, 0, 0]], dtype=bool)
    assert labelled(mask)[0].tolist() == [[0, 0, 1, 0, 2], [3, 0, 0, 0, 0]]


@settings(max_examples=120, deadline=None)
@given(mask=masks(2))
def test_an_outline_encloses_its_region_and_no_more(mask: Mask) -> None:
    regions, count = labelled(mask)
    for number in range(1, count + 1):
        region = np.asarray(regions == number)
        points = outline(region)
        filled = ndimage.binary_fill_holes(region, structure=[[0, 1, 0], [1, 1, 1], [0, 1, 0]])
        assert shoelace(points) == filled.sum()
        drawn = Pillow.new("1", (region.shape[1] * 4, region.shape[0] * 4))
        ImageDraw.Draw(drawn).polygon([(4 * x, 4 * y) for x, y in points], fill=1)
        assert np.array_equal(np.asarray(drawn)[2::4, 2::4], filled)  # at the cells' centres


def shoelace(points: tuple[tuple[float, float], ...]) -> float:
    """Area of a polygon; positive when it runs clockwise on a screen."""
    pairs = zip(points, (*points[1:], points[0]), strict=True)
    return sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in pairs) / 2


def test_an_outline_turns_at_each_of_its_points() -> None:
    assert outline(np.ones((2, 3), dtype=bool)) == ((0, 0), (3, 0), (3, 2), (0, 2))


def see(maps: Any, output: HeatmapOutput, *, count: int = 1, transform: Transform | None = None, **more: Any) -> Seen:
    wanted = disc_card(output=output, labels=labels(count), input=ProjectionInput(height=64, width=64))
    way = transform or Transform(source_rows=64, source_columns=64, scale_x=1.0, scale_y=1.0)
    arrays = {"heatmap": np.asarray(maps, dtype=np.float32)}
    return decode_outputs(arrays | more.pop("others", {}), wanted.model_copy(update=more), way)


PLAIN = HeatmapOutput(activation=Activation.NONE)


def test_a_region_becomes_a_mark_with_its_box_outline_and_highest_value() -> None:
    values = np.zeros((1, 64, 64))
    values[0, 10:20, 30:36] = 0.7
    values[0, 12, 33] = 0.9
    (mark,) = see(values, PLAIN).marks
    assert mark.box == Box(x_min=30, y_min=10, x_max=36, y_max=20)
    assert mark.outline == ((30, 10), (36, 10), (36, 20), (30, 20))
    assert mark.logit == pytest.approx(math.log(9), abs=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    grid=st.sampled_from([8, 16, 32, 64, 128]),
    scale=st.floats(0.05, 2),
    offset=st.floats(0, 20),
    mirrored=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_a_region_lies_where_it_was_drawn_whatever_the_grid(
    grid: int, scale: float, offset: float, mirrored: bool, seed: int
) -> None:
    side = int(44 / scale)
    way = Transform(
        source_rows=side, source_columns=side, scale_x=scale, scale_y=scale,
        offset_x=offset, offset_y=offset, mirrored=mirrored,
    )  # fmt: skip
    rng = np.random.default_rng(seed)
    first, last = np.sort(rng.integers(0, grid, (2, 2)), axis=0)
    values = np.zeros((1, grid, grid))
    values[0, first[0] : last[0] + 1, first[1] : last[1] + 1] = 0.8
    cell = 64 / grid
    found = see(values, PLAIN, transform=way).marks
    centre = (np.arange(grid) + 0.5) * cell
    inside = (centre - offset >= 0) & (centre - offset <= side * scale)
    rows, columns = (np.flatnonzero(inside[first[i] : last[i] + 1]) + first[i] for i in (0, 1))
    assert len(found) == (1 if rows.size and columns.size else 0)
    if found:
        box = found[0].box
        x = sorted(way.to_source(float(edge) * cell, 0)[0] for edge in (columns[0], columns[-1] + 1))
        y = [way.to_source(0, float(edge) * cell)[1] for edge in (rows[0], rows[-1] + 1)]
        wanted = np.clip([x[0], y[0], x[1], y[1]], 0, side)
        assert (box.x_min, box.y_min, box.x_max, box.y_max) == pytest.approx(tuple(wanted), abs=0.011)


def test_small_regions_are_noise_and_only_the_strongest_are_kept() -> None:
    values = np.zeros((1, 64, 64))
    for place, peak in ((4, 0.6), (20, 0.9), (40, 0.8)):
        values[0, place : place + 3, place : place + 3] = peak
    values[0, 60, 60] = 0.99
    output = HeatmapOutput(activation=Activation.NONE, min_pixels=4, max_lesions=2)
    assert [round(1 / (1 + math.exp(-mark.logit)), 3) for mark in see(values, output).marks] == [0.9, 0.8]


def test_the_background_of_a_softmax_is_a_class_of_its_own() -> None:
    values = np.zeros((2, 64, 64))
    values[0] = 3
    values[1, 5:9, 5:9] = 6
    label = labels(1, index=1)
    output = HeatmapOutput(activation=Activation.SOFTMAX)
    (mark,) = see(values, output, labels=label).marks
    assert mark.box == Box(x_min=5, y_min=5, x_max=9, y_max=9)
    assert mark.logit == pytest.approx(3.0, abs=1e-6)


def test_what_is_said_of_padding_is_of_no_picture() -> None:
    way = Transform(source_rows=64, source_columns=32, scale_x=1, scale_y=1, offset_x=16)
    values = np.zeros((1, 64, 64))
    values[0, 4:9, 2:12] = 0.95
    values[0, 30:40, 10:20] = 0.6
    seen = see(values, PLAIN, transform=way)
    (mark,) = seen.marks
    assert mark.box == Box(x_min=0, y_min=30, x_max=4, y_max=40)
    assert seen.strongest == pytest.approx([math.log(1.5)], abs=1e-5)


def test_nothing_above_the_threshold_marks_nothing() -> None:
    seen = see(np.full((1, 64, 64), 0.4), PLAIN)
    assert seen.marks == ()
    assert seen.strongest == pytest.approx([math.log(0.4 / 0.6)], abs=1e-5)


def test_an_outlined_lesion_is_measured_along_its_outline() -> None:
    rows, columns = np.mgrid[0:200, 0:200]
    ellipse = ((columns - 100) * 0.6 + (rows - 100) * 0.8) ** 2 / 80**2 + (
        (rows - 100) * 0.6 - (columns - 100) * 0.8
    ) ** 2 / 30**2 < 1
    points = tuple((float(x), float(y)) for x, y in outline(ellipse))
    found = {
        entry.quantity: entry.value
        for entry in measurements(Box(x_min=0, y_min=0, x_max=9, y_max=9), (0.5, 0.5), points)
    }
    assert found[LONG_AXIS] == pytest.approx(80, abs=1)
    assert found[SHORT_AXIS] == pytest.approx(30, abs=1)
    assert found[AREA] == pytest.approx(ellipse.sum() * 0.25, abs=0.1)


def test_a_classifier_speaks_of_the_picture_and_marks_nothing() -> None:
    output = ProbabilityOutput(activation=Activation.SOFTMAX)
    label = labels(1, index=2, lesion=None, picture=POINT)
    wanted = disc_card(output=output, labels=label)
    way = Transform(source_rows=64, source_columns=64, scale_x=1.0, scale_y=1.0)
    seen = decode_outputs({"probability": np.log(np.asarray([0.1, 0.3, 0.6], dtype=np.float32))}, wanted, way)
    assert (seen.marks, seen.strongest) == ((), ())
    assert seen.picture == pytest.approx([math.log(1.5)], abs=1e-5)


def test_a_calibration_of_one_and_zero_leaves_a_probability_as_it_is() -> None:
    wanted = disc_card(output=ProbabilityOutput(), labels=labels(1, lesion=None, picture=POINT))
    way = Transform(source_rows=64, source_columns=64, scale_x=1.0, scale_y=1.0)
    for probability in (0.0, 0.03, 0.5, 0.97, 1.0):
        seen = decode_outputs({"probability": np.asarray([probability], dtype=np.float32)}, wanted, way)
        assert 1 / (1 + math.exp(-seen.picture[0])) == pytest.approx(probability, abs=1e-6)


@pytest.mark.parametrize(
    ("maps", "output", "said"),
    [
        (np.zeros((64, 64)), PLAIN, "a map for each class"),
        (np.zeros((2, 64, 64)), PLAIN, r"2 class\(es\), the card's labels take 1"),
        (np.full((1, 64, 64), -3.0), PLAIN, "outside 0..1"),
        (np.full((1, 64, 64), np.inf), PLAIN, "not numbers"),
        (np.zeros((1, 0, 64)), PLAIN, "a map for each class"),
    ],
)
def test_maps_that_do_not_fit_are_the_models_failure(maps: Any, output: HeatmapOutput, said: str) -> None:
    with pytest.raises(Refused, match=said) as caught:
        see(maps, output)
    assert caught.value.refusal.reason is Reason.MODEL_FAILED

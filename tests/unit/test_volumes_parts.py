"""Grids, tiles, masks and merging: every voxel is seen, every place finds back, every lesion is one."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from dicom_node.results.seg import polygon_mask
from inference.images import LoadLimits
from inference.outputs.components import outline
from inference.refusals import Reason, Refused
from inference.volumes.decode import TileMark
from inference.volumes.grid import along_axis, grid_shape, resample
from inference.volumes.masks import components, distance_mm, filled
from inference.volumes.merge import merged
from inference.volumes.tiles import Tile, cut, plan
from models.inputs import VolumeInput
from tests.ct_phantoms import Triple, volume_of

sides = st.integers(1, 60)
tile_sides = st.integers(8, 40)
spacings = st.floats(0.4, 5.0)


# tiles ----------------------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.tuples(sides, sides, sides), st.tuples(tile_sides, tile_sides, tile_sides), st.floats(0, 0.75))
def test_tiles_cover_every_voxel_and_share_at_least_the_overlap(
    shape: tuple[int, int, int], tile: tuple[int, int, int], overlap: float
) -> None:
    tiles = plan(shape, tile, overlap)
    for axis, (count, side) in enumerate(zip(shape, tile, strict=True)):
        starts = sorted({one.start[axis] for one in tiles})
        assert starts[0] == 0
        assert starts[-1] + side >= count
        assert starts[-1] == max(count - side, 0)
        gaps = np.diff(starts)
        assert (gaps <= max(math.floor(side * (1 - overlap)), 1)).all()


@settings(max_examples=30, deadline=None)
@given(st.tuples(st.integers(1, 30), sides, sides), st.tuples(*[st.integers(8, 20)] * 3))
def test_a_tile_knows_which_of_its_faces_lie_inside_the_grid(
    shape: tuple[int, int, int], tile: tuple[int, int, int]
) -> None:
    for one in plan(shape, tile, 0.25):
        for axis in range(3):
            assert one.inner_low[axis] == (one.start[axis] > 0)
            assert one.inner_high[axis] == (one.start[axis] + tile[axis] < shape[axis])


def test_a_tile_larger_than_the_volume_is_filled_up_with_the_lowest_value() -> None:
    voxels = np.full((3, 5, 4), 0.7, dtype=np.float32)
    (tile,) = plan((3, 5, 4), (8, 8, 8), 0.25)
    whole = cut(voxels, tile)
    assert whole.shape == (8, 8, 8)
    assert whole[:3, :5, :4].min() == np.float32(0.7)
    assert whole.sum() == pytest.approx(0.7 * 60, rel=1e-5)


# grid -----------------------------------------------------------------------------------------------------------------


@given(st.tuples(sides, sides, sides), st.tuples(spacings, spacings, spacings), st.tuples(spacings, spacings, spacings))
def test_the_grid_covers_the_volume_and_no_voxel_more(shape: tuple[int, int, int], have: Triple, want: Triple) -> None:
    counts = grid_shape(shape, have, want)
    for count, before, from_mm, to_mm in zip(counts, shape, have, want, strict=True):
        assert count * to_mm >= before * from_mm - 1e-4
        assert (count - 1) * to_mm < before * from_mm


@settings(max_examples=25, deadline=None)
@given(st.tuples(*[st.floats(0.5, 2.5)] * 3), st.tuples(*[st.floats(0.5, 2.5)] * 3))
def test_a_place_that_is_resampled_is_found_back_where_it_was(have: Triple, want: Triple) -> None:
    """A ramp along each axis says at every voxel of the grid which source place it is."""
    shape = (14, 16, 18)
    for axis in range(3):
        ramp = np.moveaxis(
            np.broadcast_to((np.arange(shape[axis]) + 0.5).reshape(-1, 1, 1), _first(shape, axis)), 0, axis
        )
        spec = VolumeInput(spacing_mm=want, tile=(8, 8, 8), low_hu=0.0, high_hu=100.0)
        grid = resample(volume_of(np.ascontiguousarray(ramp, dtype=np.float32), have), spec)
        index = np.indices(grid.shape).transpose(1, 2, 3, 0) + 0.5
        expected = grid.to_source(index)[..., axis]
        reach = max(grid.factor[axis], 1.0)  # within a filter's reach of the border there is nothing to interpolate
        inner = (expected > reach) & (expected < shape[axis] - reach)
        # a filter of few samples is not quite symmetric where the grid is coarser
        close = 0.1 if grid.factor[axis] > 1 else 2e-3
        assert np.abs(grid.voxels * 100.0 - expected)[inner].max(initial=0.0) < close
        assert np.allclose(grid.to_grid(grid.to_source(index)), index)


def _first(shape: tuple[int, int, int], axis: int) -> tuple[int, int, int]:
    one, other = (side for index, side in enumerate(shape) if index != axis)
    return shape[axis], one, other


def test_air_stays_air_and_the_window_is_clipped_before_resampling() -> None:
    voxels = np.full((6, 20, 20), -3000.0, dtype=np.float32)
    voxels[:, :, 10:] = 3000.0
    grid = resample(volume_of(voxels, (2.0, 0.7, 0.7)), VolumeInput(spacing_mm=(1.0, 1.0, 1.0), tile=(8, 8, 8)))
    assert grid.voxels.min() == 0.0
    assert grid.voxels.max() == 1.0
    assert grid.shape == (12, 14, 14)


@pytest.mark.parametrize(
    ("spacing_mm", "limits", "reason", "words"),
    [
        ((7.5, 1.0, 1.0), LoadLimits(), Reason.GEOMETRY, "7.50 mm apart, the model accepts 5 mm"),
        ((5.0, 4.0, 4.0), LoadLimits(max_voxels=5000), Reason.TOO_LARGE, "a grid of 20 x 32 x 32 voxels"),
    ],
)
def test_a_volume_that_suits_no_grid_is_refused_with_its_figures(
    spacing_mm: Triple, limits: LoadLimits, reason: Reason, words: str
) -> None:
    spec = VolumeInput(spacing_mm=(1.0, 1.0, 1.0), tile=(8, 8, 8))
    with pytest.raises(Refused) as caught:
        resample(volume_of(np.zeros((4, 8, 8), dtype=np.float32), spacing_mm), spec, limits=limits)
    assert caught.value.refusal.reason is reason
    assert words in str(caught.value)


@given(st.integers(1, 12), st.integers(1, 5))
def test_a_coarse_map_keeps_its_edges_when_it_is_spread(cells: int, times: int) -> None:
    values = np.random.default_rng(cells).random((cells, 2)).astype(np.float32)
    spread = along_axis(values, 0, cells * times)
    assert spread.shape == (cells * times, 2)
    assert spread.mean() == pytest.approx(values.mean(), abs=0.3)
    if times % 2:
        assert np.allclose(spread[times // 2 :: times], values, atol=1e-6)


# masks ----------------------------------------------------------------------------------------------------------------


masks = st.tuples(st.integers(1, 5), st.integers(1, 9), st.integers(1, 9), st.integers(0, 10**6), st.floats(0.05, 0.95))


def made(case: tuple[int, int, int, int, float]) -> NDArray[np.bool_]:
    *shape, seed, density = case
    return np.asarray(np.random.default_rng(seed).random(shape) < density)


@given(masks)
def test_parts_are_those_of_scipy_largest_first(case: tuple[int, int, int, int, float]) -> None:
    mask = made(case)
    expected, count = ndimage.label(mask, np.ones((3, 3, 3)))
    found = list(components(mask))
    assert len(found) == count
    together = np.zeros(mask.shape, dtype=int)
    for low, high, part in found:
        together[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] += part
    assert (together == mask).all()
    numbers = [int(part.sum()) for _, _, part in found]
    assert numbers == sorted((int((expected == index + 1).sum()) for index in range(count)), reverse=True)


@given(masks, st.tuples(spacings, spacings, spacings))
def test_distances_are_those_of_scipy(case: tuple[int, int, int, int, float], spacing_mm: Triple) -> None:
    mask = made(case)
    if mask.any():
        expected = ndimage.distance_transform_edt(~mask, sampling=spacing_mm)
        assert np.allclose(distance_mm(mask, spacing_mm), expected, atol=1e-3)


@given(masks)
def test_holes_of_slices_are_those_of_scipy(case: tuple[int, int, int, int, float]) -> None:
    mask = made(case)
    expected = np.stack([ndimage.binary_fill_holes(plane) for plane in mask])
    assert (filled(mask) == expected).all()


@given(masks)
def test_outlines_hold_exactly_the_pixels_of_their_mask(case: tuple[int, int, int, int, float]) -> None:
    """What a segmentation makes of the outlines is the mask again."""
    for plane in filled(made(case)):
        again = np.zeros(plane.shape, dtype=np.bool_)
        for low, _, part in components(plane[np.newaxis]):
            points = tuple((float(x + low[2]), float(y + low[1])) for x, y in outline(part[0]))
            again |= polygon_mask(points, *plane.shape)
        assert (again == plane).all()


# merging --------------------------------------------------------------------------------------------------------------


def seen_by(tiles: tuple[Tile, ...], low: Triple, high: Triple) -> list[TileMark]:
    """What perfect tiles say of a lesion: each the part it sees."""
    marks = []
    for tile in tiles:
        start, end = np.asarray(tile.start, dtype=float), np.asarray(tile.start, dtype=float) + tile.size
        part_low, part_high = np.maximum(low, start), np.minimum(high, end)
        if (part_high - part_low > 0.5).all():
            cut_off = (np.asarray(tile.inner_low) & (part_low - start < 2)) | (
                np.asarray(tile.inner_high) & (end - part_high < 2)
            )
            visible = float(np.prod(part_high - part_low))
            marks.append(
                TileMark(
                    label_index=0, low=part_low, high=part_high, logit=visible / 100, tile=tile, whole=not cut_off.any()
                )
            )
    return marks


@settings(deadline=None)
@given(st.tuples(*[st.floats(0, 55)] * 3), st.tuples(*[st.floats(3, 40)] * 3))
def test_a_lesion_is_one_whatever_tiles_cut_it(low: Triple, size: Triple) -> None:
    high = tuple(min(a + b, 64.0) for a, b in zip(low, size, strict=True))
    marks = seen_by(plan((64, 64, 64), (32, 32, 32), 0.5), low, high)  # type: ignore[arg-type]
    places = merged(marks, nms_iou=0.3, max_lesions=20)
    assert len(places) == 1
    assert np.allclose(places[0].low, low)
    assert np.allclose(places[0].high, high)


def test_two_lesions_side_by_side_at_a_tile_edge_stay_two() -> None:
    tiles = plan((64, 64, 64), (32, 32, 32), 0.5)
    boxes = [((28.0, 20.0, 10.0), (36.0, 28.0, 18.0)), ((28.0, 29.0, 10.0), (36.0, 37.0, 18.0))]
    marks = list(itertools.chain.from_iterable(seen_by(tiles, low, high) for low, high in boxes))
    assert len(merged(marks, nms_iou=0.3, max_lesions=20)) == 2


def test_marks_of_other_labels_do_not_suppress_each_other() -> None:
    (tile,) = plan((20, 20, 20), (32, 32, 32), 0.5)
    low, high = np.full(3, 4.0), np.full(3, 9.0)
    marks = [TileMark(label_index=i, low=low, high=high, logit=1.0, tile=tile, whole=True) for i in (0, 1)]
    assert len(merged(marks, nms_iou=0.3, max_lesions=20)) == 2
    assert len(merged(marks, nms_iou=0.3, max_lesions=1)) == 1

"""LUNA16's FROC: its rules one by one, a plain implementation beside it, and what must hold for any detector."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from eval.froc import (
    UNMARKED,
    Detections,
    MatchedFilm,
    SensitivityAtRates,
    detections,
    froc,
    in_either_view,
    on_normal_images,
    per_group,
)
from eval.hits import Hit, Places, hit_rule, overlap
from eval.luna16 import (
    FALSE_MARKS_PER_SCAN,
    Lesions,
    Marks,
    Matching,
    diameters,
    match,
    performance,
    strongest,
)
from tests.plain_luna16 import PlainLesion, PlainMark, bootstrap, judge, sensitivities

DISTANCE = hit_rule(Hit.DISTANCE).compare
Row = tuple[int, float, float, float, float]  # scan, x, y, z, and score or diameter


def places(rows: list[Row], *, ball: bool) -> Places:
    size = diameters(np.asarray([row[4] for row in rows])) if ball else np.full(len(rows), np.nan)
    return Places(
        center=np.asarray([row[1:4] for row in rows], dtype=float).reshape(-1, 3),
        size=np.repeat(size[:, None], 3, axis=1),
    )


def marks_of(rows: list[Row]) -> Marks:
    return Marks(
        scan=np.asarray([row[0] for row in rows], dtype=np.intp),
        places=places(rows, ball=False),
        score=np.asarray([row[4] for row in rows], dtype=float),
    )


def lesions_of(rows: list[Row], excluded: list[Row] | None = None) -> Lesions:
    everything = rows + (excluded or [])
    return Lesions(
        scan=np.asarray([row[0] for row in everything], dtype=np.intp),
        places=places(everything, ball=True),
        excluded=np.arange(len(everything)) >= len(rows),
    )


def matched(scans: int, marks: list[Row], lesions: list[Row], excluded: list[Row] | None = None) -> Matching:
    return match(scans, marks_of(marks), lesions_of(lesions, excluded), DISTANCE)


def points(found: Detections) -> list[float]:
    return [point.sensitivity.value for point in performance(found, resamples=0).points]


def plain_points(scans: int, marks: list[Row], lesions: list[Row], excluded: list[Row]) -> list[float]:
    return sensitivities(judge(*plain(scans, marks, lesions, excluded)), scans)


def plain(
    scans: int, marks: list[Row], lesions: list[Row], excluded: list[Row]
) -> tuple[list[str], list[PlainMark], list[PlainLesion], list[PlainLesion]]:
    return (
        [str(scan) for scan in range(scans)],
        [PlainMark(str(row[0]), (row[1], row[2], row[3]), row[4]) for row in marks],
        [PlainLesion(str(row[0]), (row[1], row[2], row[3]), row[4]) for row in lesions],
        [PlainLesion(str(row[0]), (row[1], row[2], row[3]), row[4]) for row in excluded],
    )


def rows_of(last: st.SearchStrategy[float], most: int, least: int = 0) -> st.SearchStrategy[list[Row]]:
    spot = st.integers(0, 6).map(float)
    return st.lists(st.tuples(st.integers(0, 3), spot, spot, spot, last), min_size=least, max_size=most)


MARKS = rows_of(st.integers(0, 6).map(float), 40)
LESIONS = rows_of(st.sampled_from([-1.0, 2.0, 3.0, 4.0, 6.0]), 8, least=1)
EXCLUDED = rows_of(st.sampled_from([-1.0, 2.0, 5.0]), 4)


@st.composite
def matchings(draw: st.DrawFn) -> Detections:
    """Matched sets with ties, missed lesions, and scans with nothing."""
    scans = draw(st.integers(1, 6))
    here = st.integers(0, scans - 1)
    found = draw(st.lists(st.tuples(here, st.sampled_from([UNMARKED, 0.0, 1.0, 2.0, 3.0])), min_size=1, max_size=8))
    wrong = draw(st.lists(st.tuples(here, st.integers(0, 4).map(float)), max_size=25))
    return Detections(
        found=np.asarray([score for _, score in found], dtype=float),
        found_in=np.asarray([scan for scan, _ in found], dtype=np.intp),
        false_marks=np.asarray([score for _, score in wrong], dtype=float),
        false_in=np.asarray([scan for scan, _ in wrong], dtype=np.intp),
        counted=np.ones(scans),
        clusters=np.arange(scans, dtype=np.intp),
    )


# Rules of matching


def test_a_mark_exactly_at_the_radius_does_not_hit() -> None:
    assert matched(1, [(0, 5, 0, 0, 1.0)], [(0, 0, 0, 0, 10)]).detections.found.tolist() == [UNMARKED]
    assert matched(1, [(0, 4.999, 0, 0, 1.0)], [(0, 0, 0, 0, 10)]).detections.found.tolist() == [1.0]


def test_a_diameter_below_zero_means_ten_millimetres() -> None:
    assert diameters(np.asarray([-1.0, 0.0, 4.0])).tolist() == [10.0, 0.0, 4.0]
    assert matched(1, [(0, 4, 0, 0, 1.0)], [(0, 0, 0, 0, -1)]).detections.found.tolist() == [1.0]


def test_a_lesion_is_found_once_with_its_highest_score_and_all_its_hits_leave_the_false_marks() -> None:
    found = matched(1, [(0, 1, 0, 0, 0.3), (0, 0, 0, 0, 0.8), (0, 50, 0, 0, 0.1)], [(0, 0, 0, 0, 10)])
    assert found.detections.found.tolist() == [0.8]
    assert found.detections.false_marks.tolist() == [0.1]
    assert (found.considered, found.hitting, found.on_excluded) == (3, 2, 0)


def test_one_mark_finds_two_overlapping_lesions() -> None:
    assert matched(1, [(0, 2, 0, 0, 0.5)], [(0, 0, 0, 0, 6), (0, 4, 0, 0, 6)]).detections.found.tolist() == [0.5, 0.5]


def test_a_mark_on_an_included_and_an_excluded_lesion_finds_the_included_one() -> None:
    found = matched(1, [(0, 0, 0, 0, 0.5), (0, 8, 0, 0, 0.9)], [(0, 0, 0, 0, 6)], [(0, 4, 0, 0, 12)])
    assert found.detections.found.tolist() == [0.5]
    assert found.detections.false_marks.size == 0
    assert (found.hitting, found.on_excluded) == (1, 1)


def test_a_lesion_of_another_scan_is_never_hit() -> None:
    found = matched(2, [(1, 0, 0, 0, 0.5)], [(0, 0, 0, 0, 6)])
    assert found.detections.found.tolist() == [UNMARKED]
    assert found.detections.false_in.tolist() == [1]


def test_of_more_than_a_hundred_marks_those_strictly_above_the_next_best_stay() -> None:
    scan = np.zeros(102, dtype=np.intp)
    score = np.arange(102, dtype=float)
    assert strongest(scan, score).sum() == 100
    assert not strongest(scan, score)[:2].any()
    tied = np.concatenate([np.full(60, 1.0), np.full(42, 0.5)])
    assert strongest(scan, tied).tolist() == [True] * 60 + [False] * 42  # ties at the cut all drop
    assert not strongest(scan, np.ones(102)).any()
    assert strongest(scan[:100], np.ones(100)).all()  # a hundred are no more than a hundred


def test_the_limit_counts_each_scan_for_itself() -> None:
    random = np.random.default_rng(3)
    scan, score = random.integers(0, 3, 400), random.integers(0, 60, 400).astype(float)
    kept = strongest(scan, score, 40)
    for one in range(3):
        cut = np.sort(score[scan == one])[::-1][40]
        assert kept[scan == one].tolist() == (score[scan == one] > cut).tolist()


# The curve and CPM


def test_a_small_example_computed_by_hand() -> None:
    found = detections([
        MatchedFilm(lesions=np.asarray([0.9, UNMARKED]), false_marks=np.asarray([0.8])),
        MatchedFilm(lesions=np.asarray([0.7]), false_marks=np.asarray([])),
        MatchedFilm(lesions=np.asarray([]), false_marks=np.asarray([0.7])),
        MatchedFilm(lesions=np.asarray([]), false_marks=np.asarray([])),
    ])  # fmt: skip
    # (0, 0) (0, 1/3) (1/4, 1/3) (1/2, 2/3): the last step is one sloped segment
    third = 1 / 3
    assert points(found) == pytest.approx([third, third, 2 * third, 2 * third, 2 * third, 2 * third, 2 * third])
    assert performance(found).cpm.value == pytest.approx((2 * third + 10 * third) / 7)
    thresholds = [point.threshold for point in performance(found).points]
    assert thresholds == [0.9, 0.8, 0.7, 0.7, 0.7, 0.7, 0.7]


def test_no_false_mark_at_all_gives_the_final_sensitivity_and_no_hit_gives_zero() -> None:
    perfect = matched(2, [(0, 0, 0, 0, 0.2)], [(0, 0, 0, 0, 6), (1, 0, 0, 0, 6)])
    assert points(perfect.detections) == [0.5] * 7
    useless = matched(2, [(0, 50, 0, 0, 0.2)], [(0, 0, 0, 0, 6)])
    assert performance(useless.detections).cpm.value == 0.0
    assert performance(matched(2, [], [(0, 0, 0, 0, 6)]).detections).cpm.value == 0.0


def test_without_lesions_everything_is_undefined_and_says_why() -> None:
    nothing = performance(matched(2, [(0, 0, 0, 0, 1.0)], []).detections)
    assert not nothing.cpm.defined
    assert "no lesions" in nothing.cpm.reason
    assert all(not point.sensitivity.defined for point in nothing.points)


@given(MARKS, LESIONS, EXCLUDED)
@settings(max_examples=150, deadline=None)
def test_points_are_those_of_a_plain_implementation(marks: list[Row], lesions: list[Row], excluded: list[Row]) -> None:
    found = matched(4, marks, lesions, excluded)
    assert points(found.detections) == pytest.approx(plain_points(4, marks, lesions, excluded), abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_points_are_those_of_a_plain_implementation_with_crowded_scans(seed: int) -> None:
    random = np.random.default_rng(seed)
    spots = random.integers(0, 40, (700, 3))
    marks = [(int(random.integers(0, 5)), *map(float, spot), float(random.integers(0, 400))) for spot in spots]
    lesions = [(int(scan), *map(float, random.integers(0, 40, 3)), 14.0) for scan in random.integers(0, 5, 12)]
    excluded = [(int(scan), *map(float, random.integers(0, 40, 3)), -1.0) for scan in random.integers(0, 5, 6)]
    found = matched(5, marks, lesions, excluded)
    assert found.considered <= 500
    assert points(found.detections) == pytest.approx(plain_points(5, marks, lesions, excluded), abs=1e-12)


@given(matchings())
@settings(max_examples=80, deadline=None)
def test_points_are_those_of_the_curve_and_numpy_interp(found: Detections) -> None:
    films = [
        MatchedFilm(lesions=found.found[found.found_in == scan], false_marks=found.false_marks[found.false_in == scan])
        for scan in range(found.counted.size)
    ]
    curve = froc(films)
    rates = (0.1, 0.125, 0.3, 0.5, 2 / 3, 1.0, 3.0, 8.0)
    assert SensitivityAtRates(found, rates).of_all() == pytest.approx([curve.sensitivity_at(rate) for rate in rates])
    assert SensitivityAtRates(found, rates).thresholds_at() == pytest.approx([curve.threshold_at(one) for one in rates])


# Resampling


def test_resamples_are_those_of_a_plain_implementation() -> None:
    random = np.random.default_rng(11)
    spots = random.integers(0, 30, (160, 3))
    marks = [(int(random.integers(0, 12)), *map(float, spot), float(random.integers(0, 40))) for spot in spots]
    lesions = [(int(scan), *map(float, random.integers(0, 30, 3)), 16.0) for scan in random.integers(0, 12, 15)]
    found = matched(12, marks, lesions)
    drawn = SensitivityAtRates(found.detections, FALSE_MARKS_PER_SCAN).resampled(40, 5)
    same_draws = np.random.default_rng(5)
    draws = [same_draws.integers(0, 12, 12).tolist() for _ in range(40)]
    ids, *rows = plain(12, marks, lesions, [])
    assert drawn == pytest.approx(np.asarray(bootstrap(judge(ids, *rows), ids, draws)), abs=1e-12)


def test_the_interval_repeats_with_its_seed_and_holds_the_value() -> None:
    random = np.random.default_rng(2)
    found = Detections(
        found=np.where(random.random(80) < 0.7, random.random(80), UNMARKED),
        found_in=random.integers(0, 60, 80),
        false_marks=random.random(300) * 0.9,
        false_in=random.integers(0, 60, 300),
        counted=np.ones(60),
        clusters=np.arange(60),
    )
    first, again, other = (performance(found, resamples=300, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first.cpm != other.cpm
    assert first.cpm.low < first.cpm.value < first.cpm.high
    assert 0.1 < first.cpm.high - first.cpm.low < 0.4


def test_resamples_without_a_lesion_are_counted_and_left_out() -> None:
    lonely = performance(matched(2, [(0, 0, 0, 0, 1.0)], [(0, 0, 0, 0, 6)]).detections, resamples=200)
    assert 20 < lonely.left_out < 80  # a quarter of the draws of two scans miss the first
    assert (lonely.cpm.low, lonely.cpm.high) == (1.0, 1.0)


def test_no_resamples_give_no_interval_and_say_so() -> None:
    bare = performance(matched(1, [(0, 0, 0, 0, 1.0)], [(0, 0, 0, 0, 6)]).detections, resamples=0)
    assert bare.cpm.value == 1.0
    assert np.isnan(bare.cpm.low)
    assert bare.cpm.reason == "no resamples were asked for"


def simulated(random: np.random.Generator, scans: int) -> Detections:
    """Scans with lesions that are easy or hard together, and false marks whose scores overlap with theirs."""
    lesions, wrong = random.poisson(1.3, scans), random.poisson(6, scans)
    score = random.normal(1.0 + 0.7 * np.repeat(random.normal(0, 1, scans), lesions), 1.0)
    own = np.arange(scans)
    return Detections(
        found=np.where(random.random(score.size) < 0.85, score, UNMARKED),
        found_in=np.repeat(own, lesions),
        false_marks=random.normal(-0.5, 1, int(wrong.sum())),
        false_in=np.repeat(own, wrong),
        counted=np.ones(scans),
        clusters=own,
    )


def test_the_interval_covers_the_cpm_of_the_population_as_often_as_it_says() -> None:
    population = performance(simulated(np.random.default_rng(1), 200_000), resamples=0).cpm.value
    random = np.random.default_rng(11)
    trials = 500
    intervals = [performance(simulated(random, 150), resamples=200, seed=trial).cpm for trial in range(trials)]
    covered = sum(one.low <= population <= one.high for one in intervals) / trials
    assert 0.93 <= covered <= 0.97


# What must hold for any detector


@given(matchings())
@settings(max_examples=60, deadline=None)
def test_a_monotone_transform_of_scores_changes_nothing(found: Detections) -> None:
    bent = replace(found, found=np.where(np.isinf(found.found), UNMARKED, np.exp(found.found) - 7),
                   false_marks=np.exp(found.false_marks) - 7)  # fmt: skip
    assert points(bent) == points(found)


@given(matchings(), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_the_order_of_rows_and_scans_changes_nothing(found: Detections, random: object) -> None:
    order = np.random.default_rng(int(getattr(random, "randrange")(1000)))  # noqa: B009 - hypothesis types it loosely
    new_place = order.permutation(found.counted.size)
    lesions, wrong = order.permutation(found.found.size), order.permutation(found.false_marks.size)
    shuffled = replace(
        found,
        found=found.found[lesions],
        found_in=new_place[found.found_in[lesions]],
        false_marks=found.false_marks[wrong],
        false_in=new_place[found.false_in[wrong]],
    )
    assert points(shuffled) == pytest.approx(points(found), abs=1e-12)


@given(MARKS, LESIONS, EXCLUDED, st.integers(2, 3))
@settings(max_examples=40, deadline=None)
def test_the_whole_set_repeated_as_other_scans_changes_nothing(
    marks: list[Row], lesions: list[Row], excluded: list[Row], times: int
) -> None:
    def repeated(rows: list[Row]) -> list[Row]:
        return [(row[0] + 4 * copy, *row[1:]) for copy in range(times) for row in rows]

    once = matched(4, marks, lesions, excluded).detections
    often = matched(4 * times, repeated(marks), repeated(lesions), repeated(excluded)).detections
    assert points(often) == pytest.approx(points(once), abs=1e-12)


@given(matchings())
@settings(max_examples=60, deadline=None)
def test_sensitivity_rises_with_the_rate_and_false_marks_never_help(found: Detections) -> None:
    values = points(found)
    assert all(0 <= one <= 1 for one in values)
    assert values == sorted(values)
    more = replace(
        found,
        false_marks=np.append(found.false_marks, 2.5),
        false_in=np.append(found.false_in, 0).astype(np.intp),
    )
    assert all(worse <= better + 1e-12 for worse, better in zip(points(more), values, strict=True))


# Denominators and views


def film(lesions: list[float], false_marks: list[float]) -> MatchedFilm:
    return MatchedFilm(lesions=np.asarray(lesions, dtype=float), false_marks=np.asarray(false_marks, dtype=float))


def test_per_normal_image_counts_false_marks_of_images_without_a_lesion_alone() -> None:
    found = on_normal_images(detections([film([0.5], [0.9, 0.8]), film([], [0.6]), film([], [])]))
    assert found.false_marks.tolist() == [0.6]
    assert found.counted.tolist() == [0, 1, 1]
    assert SensitivityAtRates(found, [0.25, 0.5]).of_all().tolist() == [0.0, 1.0]


def test_with_lesions_on_every_image_nothing_can_be_said_per_normal_image() -> None:
    nothing = performance(on_normal_images(detections([film([0.5], [0.9])])))
    assert "no scan counts in the denominator" in nothing.cpm.reason


def test_per_breast_adds_up_the_false_marks_of_its_views() -> None:
    views = detections([film([0.5], [0.9]), film([], [0.8]), film([], []), film([], [])])
    breasts = per_group(views, np.asarray([0, 0, 1, 1]))
    assert SensitivityAtRates(breasts, [0.5, 1.0]).of_all().tolist() == [0.0, 1.0]
    assert SensitivityAtRates(views, [0.25, 0.5]).of_all().tolist() == [0.0, 1.0]


def test_a_lesion_hit_in_either_view_is_found_once() -> None:
    views = detections([film([0.5, UNMARKED], []), film([0.7], []), film([UNMARKED], [])], ["a", "a", "b"])
    cases = in_either_view(views, np.asarray([4, 6, 4, 9]))
    assert cases.found.tolist() == [0.7, UNMARKED, UNMARKED]
    assert cases.clusters.tolist() == [0, 0, 1]


def test_views_of_a_patient_are_resampled_together() -> None:
    # Two patients of fifty films each: every resample holds whole patients, so only three values can come.
    films = [film([1.0], [])] * 50 + [film([UNMARKED], [])] * 50
    found = detections(films, ["a"] * 50 + ["b"] * 50)
    drawn = SensitivityAtRates(found, [1.0]).resampled(50, 0)
    assert set(np.unique(drawn)) == {0.0, 0.5, 1.0}


# Other hit rules


def box(*numbers: float) -> Places:
    """x, y, z of the centre and the three widths."""
    both: NDArray[np.float64] = np.asarray(numbers, dtype=float).reshape(-1, 6)
    return Places(center=both[:, :3], size=both[:, 3:])


def test_overlap_of_boxes_in_space() -> None:
    assert overlap(box(0, 0, 0, 2, 2, 2), box(1, 0, 0, 2, 2, 2)).tolist() == [[pytest.approx(1 / 3)]]
    assert overlap(box(0, 0, 0, 2, 2, 2), box(2, 0, 0, 2, 2, 2)).tolist() == [[0.0]]
    assert overlap(box(0, 0, 0, 2, 2, 2), box(0, 0, 0, 4, 4, 4)).tolist() == [[0.125]]


@given(st.lists(st.integers(1, 6), min_size=12, max_size=12))
@settings(max_examples=50, deadline=None)
def test_overlap_is_that_of_monai(numbers: list[int]) -> None:
    from monai.data.box_utils import box_iou

    one, other = np.asarray(numbers[:6], dtype=float), np.asarray(numbers[6:], dtype=float)
    corners = [np.concatenate([each[:3], each[:3] + each[3:]])[None] for each in (one, other)]
    ours = [Places(center=(each[:3] + each[3:] / 2)[None], size=each[3:][None]) for each in (one, other)]
    assert overlap(*ours) == pytest.approx(box_iou(*corners), abs=1e-6)


def test_overlap_exactly_at_the_least_is_a_hit() -> None:
    assert hit_rule(Hit.IOU, least_iou=0.125).compare(box(0, 0, 0, 2, 2, 2), box(0, 0, 0, 4, 4, 4)).all()
    assert not hit_rule(Hit.IOU, least_iou=0.126).compare(box(0, 0, 0, 2, 2, 2), box(0, 0, 0, 4, 4, 4)).any()
    assert "IoU 0.126" in hit_rule(Hit.IOU, least_iou=0.126).words


def test_a_centre_on_the_edge_of_the_box_is_in_it() -> None:
    inside = hit_rule(Hit.CENTER).compare
    assert inside(box(2, 0, 0, 1, 1, 1), box(0, 0, 0, 4, 4, 4)).tolist() == [[True]]
    assert inside(box(2.01, 0, 0, 1, 1, 1), box(0, 0, 0, 4, 4, 4)).tolist() == [[False]]
    assert inside(box(0, 0, 2.01, 1, 1, 1), box(0, 0, 0, 4, 4, 4)).tolist() == [[False]]


def test_in_mammography_a_mark_within_a_hundred_pixels_or_half_the_diagonal_hits() -> None:
    near = hit_rule(Hit.MAMMOGRAPHY).compare
    small, large = box(0, 0, 0, 30, 40, 0), box(0, 0, 0, 300, 400, 0)
    assert [bool(near(box(x, 0, 0, 1, 1, 1), small)[0, 0]) for x in (100, 100.5)] == [True, False]
    assert [bool(near(box(x, 0, 0, 1, 1, 1), large)[0, 0]) for x in (250, 250.5)] == [True, False]
    thick = box(0, 0, 20, 30, 40, 30)  # a volume of 60 slices: 15 to either side
    assert [bool(near(box(0, 0, z, 1, 1, 1), thick)[0, 0]) for z in (35, 36, 5, 4)] == [True, False, True, False]

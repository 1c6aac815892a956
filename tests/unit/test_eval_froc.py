"""The FROC curve: examples computed by hand, and what must hold for any marks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.froc import UNMARKED, Mark, MatchedFilm, froc, match
from inference.findings import Box


def box(x: float, y: float, size: float = 10) -> Box:
    return Box(x_min=x, y_min=y, x_max=x + size, y_max=y + size)


def film(lesions: list[float], false_marks: list[float]) -> MatchedFilm:
    return MatchedFilm(lesions=np.asarray(lesions, dtype=float), false_marks=np.asarray(false_marks, dtype=float))


FILMS = st.lists(
    st.builds(
        film,
        st.lists(st.one_of(st.just(UNMARKED), st.integers(0, 5).map(float)), max_size=3),
        st.lists(st.integers(0, 5).map(float), max_size=4),
    ),
    min_size=1,
    max_size=12,
)


def test_a_mark_finds_the_lesion_its_centre_lies_in_and_no_other() -> None:
    matched = match([Mark(box=box(3, 3), score=0.7)], [box(0, 0), box(50, 50)])
    assert matched.lesions.tolist() == [0.7, UNMARKED]
    assert matched.false_marks.size == 0


def test_a_mark_that_overlaps_a_lesion_with_its_centre_outside_is_false() -> None:
    matched = match([Mark(box=box(6, 6), score=0.7)], [box(0, 0)])
    assert matched.lesions.tolist() == [UNMARKED]
    assert matched.false_marks.tolist() == [0.7]


def test_two_marks_in_one_lesion_are_one_finding_with_the_higher_score_and_no_false_mark() -> None:
    matched = match([Mark(box=box(0, 0), score=0.4), Mark(box=box(1, 1), score=0.9)], [box(0, 0)])
    assert matched.lesions.tolist() == [0.9]
    assert matched.false_marks.size == 0


def test_one_mark_may_find_two_overlapping_lesions() -> None:
    assert match([Mark(box=box(2, 2), score=0.5)], [box(0, 0), box(4, 4)]).lesions.tolist() == [0.5, 0.5]


def test_the_curve_of_a_small_example() -> None:
    curve = froc([film([0.9, UNMARKED], [0.8]), film([0.7], []), film([], [0.7])])
    assert curve.thresholds.tolist() == [np.inf, 0.9, 0.8, 0.7]
    assert curve.false_per_film == pytest.approx([0, 0, 1 / 3, 2 / 3])
    assert curve.sensitivity == pytest.approx([0, 1 / 3, 1 / 3, 2 / 3])
    assert curve.sensitivity_at(0) == pytest.approx(1 / 3)  # the upper value at a step
    assert curve.sensitivity_at(0.5) == pytest.approx(0.5)  # a tie of a hit and a false mark is one slope
    assert curve.sensitivity_at(8) == pytest.approx(2 / 3)  # flat past the end
    assert curve.threshold_at(0.5) == 0.8


def test_films_without_lesions_count_in_the_denominator_of_false_marks() -> None:
    assert froc([film([1.0], [2.0])]).false_per_film[-1] == 1
    assert froc([film([1.0], [2.0]), film([], [])]).false_per_film[-1] == 0.5


@given(FILMS)
@settings(max_examples=100, deadline=None)
def test_the_curve_rises_and_counts_what_a_plain_count_counts(films: list[MatchedFilm]) -> None:
    curve = froc(films)
    assert (np.diff(curve.false_per_film) >= 0).all()
    lesions = sum(one.lesions.size for one in films)
    for threshold, false, sensitivity in zip(curve.thresholds, curve.false_per_film, curve.sensitivity, strict=True):
        assert false * len(films) == pytest.approx(sum(int((one.false_marks >= threshold).sum()) for one in films))
        if lesions:
            found = sum(int((one.lesions >= threshold).sum()) for one in films)
            assert sensitivity * lesions == pytest.approx(found)


def test_no_films_have_no_curve() -> None:
    with pytest.raises(ValueError, match="at least one film"):
        froc([])

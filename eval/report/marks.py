"""Marks and lesions of a run held against each other by the rule of its data set.

Used by the results and the galleries of this package: the arrays are those of `eval.luna16.match`, here they are made
of case records, image by image, and the words of the rule go into the report.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eval.datasets import Hit, Rules
from eval.froc import UNMARKED, Detections
from eval.hits import Compare, Places, center_in_box, near_in_plane, overlap, within_radius
from eval.luna16 import Lesions, Marks, match
from eval.ranking import Bools
from eval.runs import CaseRecord, LesionRecord, MarkRecord, Place

_FLAT = 1.0  # depth of a place in a picture: any, as long as all have it


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Matched:
    """All places of the judged cases after matching.

    Attributes
    ----------
    detections : Detections
        Images are cases; included lesions and false marks.
    lesions : tuple of (int, LesionRecord)
        Case and record of each included lesion, in the order of `detections.found`.
    false_marks : tuple of (int, MarkRecord)
        Case and record of each false mark, in the order of `detections.false_marks`.
    marks : int
        All marks of the judged label.
    """

    detections: Detections
    lesions: tuple[tuple[int, LesionRecord], ...]
    false_marks: tuple[tuple[int, MarkRecord], ...]
    marks: int


def has_places(cases: Sequence[CaseRecord]) -> bool:
    """Whether there is anything to match: a mark or a lesion."""
    return any(case.marks or case.lesions or case.matched for case in cases)


def match_cases(cases: Sequence[CaseRecord], label: str, rules: Rules) -> Matched:
    """Hold the marks of `label` against the lesions, image by image; a false mark is one that hits none.

    Raises
    ------
    ValueError
        If a place has no coordinates of the kind that the rule needs.
    """
    open_cases = [(row, case) for row, case in enumerate(cases) if case.matched is None]
    marks = [(row, mark) for row, case in open_cases for mark in case.marks if mark.label == label]
    marks.sort(key=lambda pair: pair[1].score)
    places = [(row, lesion) for row, case in open_cases for lesion in case.lesions]
    found = _matched(marks, places, rules)
    wrong = [marks[rank] for rank in found.false_marks.astype(np.intp).tolist()]
    lesions = [(row, lesion) for row, lesion in places if not lesion.excluded]
    scores = np.asarray([mark.score for _, mark in marks], dtype=np.float64)
    hit = found.found > UNMARKED
    best = np.full(found.found.shape, UNMARKED)
    best[hit] = scores[found.found[hit].astype(np.intp)]
    known_found, known_wrong = _known(cases, label)
    lesions += [(row, lesion) for row, lesion, _ in known_found]
    wrong += known_wrong
    patients = np.asarray([case.patient for case in cases], dtype=np.str_)
    detections = Detections(
        found=np.append(best, [score for _, _, score in known_found]),
        false_marks=np.asarray([mark.score for _, mark in wrong], dtype=np.float64),
        found_in=np.asarray([row for row, _ in lesions], dtype=np.intp),
        false_in=np.asarray([row for row, _ in wrong], dtype=np.intp),
        counted=np.ones(len(cases)),
        clusters=np.unique(patients, return_inverse=True)[1].astype(np.intp),
    )
    return Matched(
        detections=detections,
        lesions=tuple(lesions),
        false_marks=tuple(wrong),
        marks=len(marks) + sum(len(case.marks) for case in cases if case.matched is not None),
    )


def _matched(
    marks: Sequence[tuple[int, MarkRecord]], lesions: Sequence[tuple[int, LesionRecord]], rules: Rules
) -> Detections:
    """Marks, which come by rising score, go by their rank: it names each of them even where scores are equal."""
    keys = sorted({(row, place.image or "") for row, place in [*marks, *lesions]})
    number_of = {key: number for number, key in enumerate(keys)}
    return match(
        len(keys),
        Marks(scan=_images(marks, number_of), places=_places(marks), score=np.arange(len(marks), dtype=np.float64)),
        Lesions(
            scan=_images(lesions, number_of),
            places=_places(lesions),
            excluded=np.asarray([lesion.excluded for _, lesion in lesions], dtype=np.bool_),
        ),
        rule(rules),
        most=None,
    ).detections


_Found = list[tuple[int, LesionRecord, float]]


def _known(cases: Sequence[CaseRecord], label: str) -> tuple[_Found, list[tuple[int, MarkRecord]]]:
    """Lesions and false marks of cases of which only the outcome of matching was kept; they have no place."""
    found: _Found = []
    wrong = []
    for row, case in enumerate(cases):
        if case.matched is None:
            continue
        included = [lesion for lesion in case.lesions if not lesion.excluded]
        whole = len(included) == len(case.matched.found)
        for index, score in enumerate(case.matched.found):
            found.append((row, included[index] if whole else LesionRecord(), UNMARKED if score is None else score))
        wrong += [(row, MarkRecord(label=label, score=score)) for score in case.matched.false_marks]
    return found, wrong


def rule(rules: Rules) -> Compare:
    """The data set's hit rule as a function of marks and lesions of one image."""
    return {
        Hit.CENTER_IN_BOX: center_in_box,
        Hit.CENTER_IN_RADIUS: _in_ball,
        Hit.DISTANCE: within_radius,
        Hit.MAMMOGRAPHY: near_in_plane,
        Hit.IOU: lambda marks, lesions: overlap(marks, lesions) >= rules.iou,
    }[rules.hit]


def _in_ball(marks: Places, lesions: Places) -> Bools:
    """The mark's centre in the circle or ball of the reader, edge included."""
    apart = ((marks.center[:, None] - lesions.center[None]) ** 2).sum(axis=2)
    return np.asarray(apart <= (lesions.size[:, 0] / 2) ** 2)


def _images(places: Sequence[tuple[int, Place]], number_of: Mapping[tuple[int, str], int]) -> NDArray[np.intp]:
    return np.asarray([number_of[row, place.image or ""] for row, place in places], dtype=np.intp)


def _places(places: Sequence[tuple[int, Place]]) -> Places:
    rows = [_place(place) for _, place in places]
    center = np.asarray([row[0] for row in rows], dtype=np.float64).reshape(-1, 3)
    size = np.asarray([row[1] for row in rows], dtype=np.float64).reshape(-1, 3)
    return Places(center=center, size=size)


def _place(place: Place) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if place.center_mm is not None:
        ball = (place.diameter_mm,) * 3 if place.diameter_mm is not None else None
        size = place.size_mm or ball
        if size is None:
            raise ValueError("a place in millimetres has neither size nor diameter")
        return place.center_mm, tuple(float(width) for width in size)
    if place.box is None:
        raise ValueError("a place has neither a box nor a centre in millimetres")
    x_min, y_min, x_max, y_max = place.box
    width, height = (2 * place.radius, 2 * place.radius) if place.radius else (x_max - x_min, y_max - y_min)
    return ((x_min + x_max) / 2, (y_min + y_max) / 2, 0.0), (width, height, _FLAT)

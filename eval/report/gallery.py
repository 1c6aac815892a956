"""The errors of a run, case by case: missed cases, false alarms, missed lesions, false marks.

Called by `eval.report.build`. Which errors are shown and what is drawn on them is decided here; making pictures is
`eval.report.pictures`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from eval.ranking import Bools
from eval.report.case_results import Counted
from eval.report.lesion_results import found_at_threshold
from eval.report.marks import Matched
from eval.report.sections import Drawn, Gallery, Shown
from eval.runs import CaseRecord, Place, Run, Status

SHOWN = 9
_MARKS_DRAWN = 6
_MARGIN = 0.15  # around the places of a volume, whose own frame is not known

Frame = tuple[float, float, float, float]


def galleries(counted: Counted, matched: Matched | None, run: Run) -> tuple[Gallery, ...]:
    """The worst first: diseased cases with the lowest score, others with the highest, marks from the strongest on.

    Cases that were not analysed come before every score; equal scores are in the order of the cases' names.
    """
    judged = counted.judged
    cases = judged.records
    frame = _frame(cases)
    missed = np.flatnonzero(~judged.called & judged.diseased)
    alarms = np.flatnonzero(judged.called & ~judged.diseased & judged.analysed)

    def shown(rows: Iterable[int], image: Callable[[int], str | None] = lambda row: None) -> tuple[Shown, ...]:
        return tuple(_shown(cases[row], run, frame, image(row), matched, row) for row in rows)

    made = [
        Gallery(kind="missed_cases", total=missed.size, shown=shown(_lowest(missed, cases)[:SHOWN])),
        Gallery(kind="false_alarms", total=alarms.size, shown=shown(_highest(alarms, cases)[:SHOWN])),
    ]
    if matched is not None:
        made += _of_places(counted, matched, run, shown)
    return tuple(made)


def _of_places(counted: Counted, matched: Matched, run: Run, shown: Callable[..., tuple[Shown, ...]]) -> list[Gallery]:
    """Lesions that no mark at the served threshold found, and marks at or above it that hit none."""
    cases = counted.judged.records
    found = found_at_threshold(matched, run, counted)
    lost = [matched.lesions[index] for index in np.flatnonzero(~found).tolist()]
    lost.sort(key=lambda pair: (_score(cases[pair[0]]), cases[pair[0]].case, pair[1].image or ""))
    wrong = [(row, mark) for row, mark in matched.false_marks if mark.score >= _least(run, cases[row])]
    wrong.sort(key=lambda pair: (-pair[1].score, cases[pair[0]].case, pair[1].image or ""))
    strongest: dict[tuple[int, str | None], float] = {}
    for row, mark in wrong:
        strongest.setdefault((row, mark.image), mark.score)
    pictures = [
        one.model_copy(update={"strongest_false_mark": score})
        for one, score in zip(_once(wrong, shown), strongest.values(), strict=False)  # both from the strongest on
    ]
    return [
        _gallery("missed_lesions", lost, _once(lost, shown)),
        _gallery("false_marks", wrong, tuple(pictures)),
    ]


def _gallery(kind: str, pairs: Sequence[tuple[int, Place]], shown: tuple[Shown, ...]) -> Gallery:
    """A case with several such places counts once, each of its places too."""
    return Gallery(kind=kind, total=len({row for row, _ in pairs}), places=len(pairs), shown=shown)


def _once(pairs: Sequence[tuple[int, Place]], shown: Callable[..., tuple[Shown, ...]]) -> tuple[Shown, ...]:
    """Each picture once, however many of its places are errors."""
    images: dict[tuple[int, str | None], None] = dict.fromkeys((row, place.image) for row, place in pairs)
    kept = list(images)[:SHOWN]
    return tuple(one for row, image in kept for one in shown([row], lambda _, image=image: image))


def _lowest(rows: Iterable[int], cases: Sequence[CaseRecord]) -> list[int]:
    return sorted(map(int, rows), key=lambda row: (_score(cases[row]), cases[row].case))


def _highest(rows: Iterable[int], cases: Sequence[CaseRecord]) -> list[int]:
    return sorted(map(int, rows), key=lambda row: (-_score(cases[row]), cases[row].case))


def _score(case: CaseRecord) -> float:
    """What is printed of the case; below every score where there is none."""
    return -np.inf if case.status is not Status.ANALYSED or case.score is None else case.score


def _least(run: Run, case: CaseRecord) -> float:
    threshold = run.mark_threshold(case)
    return np.inf if threshold is None else threshold


def _shown(
    case: CaseRecord,
    run: Run,
    frame: Frame,
    image: str | None,
    matched: Matched | None,
    row: int,
) -> Shown:
    failure = "" if case.status is Status.ANALYSED else f"{case.status.value}: {case.reason}".rstrip(": ")
    return Shown(
        case=case.case,
        image=image if image is not None else _image_of(case),
        score=case.score,
        threshold=run.threshold(case),
        reading=case.reading,
        failure=failure,
        frame=_frame_in_mm(case) or _own_frame(case) or frame,
        drawn=_drawn(case, run, image, matched, row),
    )


def _image_of(case: CaseRecord) -> str | None:
    """The image with the strongest mark or the first lesion, where a case has several."""
    places = [*sorted(case.marks, key=lambda mark: -mark.score), *case.lesions]
    return next((place.image for place in places if place.image), None)


def _drawn(case: CaseRecord, run: Run, image: str | None, matched: Matched | None, row: int) -> tuple[Drawn, ...]:
    kept = image if image is not None else _image_of(case)
    least = run.mark_threshold(case)
    wrong = {id(mark) for at, mark in matched.false_marks if at == row} if matched is not None else set()
    lesions = [
        Drawn(box=box, kind="irrelevant" if lesion.excluded else "lesion")
        for lesion in case.lesions
        if (box := _flat(lesion)) is not None and lesion.image == kept
    ]
    marks = [
        Drawn(box=box, kind="false_mark" if id(mark) in wrong else "mark", score=mark.score)
        for mark in sorted(case.marks, key=lambda mark: -mark.score)
        if (box := _flat(mark)) is not None and mark.image == kept and least is not None and mark.score >= least
    ]
    return (*lesions, *marks[:_MARKS_DRAWN])


def _flat(place: Place) -> tuple[float, float, float, float] | None:
    """Its box in the picture, or its hull in the axial plane, mm."""
    if place.box is not None:
        return place.box
    if place.center_mm is None:
        return None
    x, y, _ = place.center_mm
    width, height = (place.size_mm or (place.diameter_mm or 0.0,) * 3)[:2]
    return (x - width / 2, y - height / 2, x + width / 2, y + height / 2)


def _own_frame(case: CaseRecord) -> Frame | None:
    """Width and height of the picture, where the set tells."""
    width, height = case.numbers.get("columns"), case.numbers.get("rows")
    return (0.0, 0.0, width, height) if width and height else None


def _frame_in_mm(case: CaseRecord) -> Frame | None:
    """The axial hull of all places of a volume with a margin, mm; None for a picture."""
    places = [place for place in (*case.marks, *case.lesions) if place.box is None]
    boxes = [box for place in places if (box := _flat(place)) is not None]
    if not boxes:
        return None
    left, top = (min(box[index] for box in boxes) for index in (0, 1))
    right, bottom = (max(box[index] for box in boxes) for index in (2, 3))
    margin = _MARGIN * max(right - left, bottom - top)
    return (left - margin, top - margin, right - left + 2 * margin, bottom - top + 2 * margin)


def _frame(cases: Sequence[CaseRecord]) -> Frame:
    """The smallest frame that holds every place of every case: pictures of a set are usually alike."""
    boxes = [place.box for case in cases for place in (*case.marks, *case.lesions) if place.box is not None]
    if not boxes:
        return (0.0, 0.0, 1.0, 1.0)
    return (0.0, 0.0, max(box[2] for box in boxes), max(box[3] for box in boxes))


def called_outcome(called: Bools, diseased: Bools, analysed: Bools) -> list[str]:
    """TP, FN, TN or FP of each case, with the failures by their name."""
    names = {(True, True): "TP", (False, True): "FN", (False, False): "TN", (True, False): "FP"}
    return [
        names[bool(call), bool(ill)] + ("" if known else " (not analysed)")
        for call, ill, known in zip(called, diseased, analysed, strict=True)
    ]

"""The galleries of errors: cases are counted as cases, and come in the order that the pages print."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from eval.report.build import Report, build
from eval.report.gallery import SHOWN
from eval.report.inputs import read_inputs
from eval.report.language import LANGUAGES, Language, number, read_words
from eval.report.pages import page
from eval.report.sections import Gallery
from eval.runs import CaseRecord, LesionRecord, MarkRecord, Run, Status
from tests.conftest import PROJECT
from tests.report_runs import DAY, cases, film, make_run

MARKED = 0.5  # the served threshold of marks


def twice(case: CaseRecord) -> CaseRecord:
    """The case with a second lesion that nothing marks, or with a second false mark."""
    if case.status is not Status.ANALYSED:
        return case
    if case.positive:
        return case.model_copy(update={"lesions": (*case.lesions, LesionRecord(box=(700.0, 700.0, 720.0, 720.0)))})
    mark = MarkRecord(label="opacity", box=(600.0, 600.0, 640.0, 640.0), score=0.6)
    return case.model_copy(update={"marks": (*case.marks, mark)})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Report]:
    folder = tmp_path_factory.mktemp("errors")
    records = [twice(case) for case in reversed(cases())]
    missed = [place for place, case in enumerate(records) if case.positive and case.status is Status.ANALYSED][:2]
    for place in missed:  # equal scores, names not in order
        records[place] = records[place].model_copy(update={"score": 0.001})
    make_run(folder / "run", folder / "models", records)
    given = read_inputs(folder / "run", models=[folder / "models"])
    return given.run, build(given, created=DAY)


def of(report: Report, kind: str) -> Gallery:
    return next(one for one in report.twin.sections.errors.galleries if one.kind == kind)


def errors(run: Run) -> tuple[dict[str, int], dict[str, list[float]]]:
    """By plain counting: for each case its lesions that no mark has its centre in, and scores of marks in no lesion."""
    lost: dict[str, int] = {}
    wrong: dict[str, list[float]] = {}
    for case in run.judged:
        boxes = [lesion.box for lesion in case.lesions if lesion.box is not None]
        marks = [(mark.box, mark.score) for mark in case.marks if mark.box is not None and mark.score >= MARKED]
        hits = [[_inside(mark, box) for box in boxes] for mark, _ in marks]
        if missed := sum(not any(row[index] for row in hits) for index in range(len(boxes))):
            lost[case.case] = missed
        if scores := [score for row, (_, score) in zip(hits, marks, strict=True) if not any(row)]:
            wrong[case.case] = scores
    return lost, wrong


def _inside(mark: tuple[float, float, float, float], box: tuple[float, float, float, float]) -> bool:
    x, y = (mark[0] + mark[2]) / 2, (mark[1] + mark[3]) / 2
    return box[0] <= x <= box[2] and box[1] <= y <= box[3]


def test_a_case_with_two_errors_counts_once_and_its_lesions_or_marks_are_a_count_of_their_own(
    made: tuple[Run, Report],
) -> None:
    run, report = made
    lost, wrong = errors(run)
    assert max(lost.values()) > 1
    assert max(map(len, wrong.values())) > 1
    lesions, marks = of(report, "missed_lesions"), of(report, "false_marks")
    assert (lesions.total, lesions.places) == (len(lost), sum(lost.values()))
    assert (marks.total, marks.places) == (len(wrong), sum(map(len, wrong.values())))
    assert of(report, "missed_cases").places is None


@pytest.mark.parametrize("language", LANGUAGES)
def test_headings_print_cases_as_cases_and_places_beside_them(made: tuple[Run, Report], language: Language) -> None:
    report, words = made[1], read_words(language)
    text = page(report.twin, language, report.pictures)
    for gallery in report.twin.sections.errors.galleries:
        (heading,) = re.findall(rf"<h3>({re.escape(words['gallery'][gallery.kind])}.*?)</h3>", text)
        counts = [gallery.total, *([] if gallery.places is None else [gallery.places]), len(gallery.shown)]
        assert [int(found) for found in re.findall(r"\d+", heading)] == counts
        if gallery.places is not None:
            assert words["gallery_places"][gallery.kind] in heading


def test_errors_come_in_the_order_of_the_printed_score_and_then_of_the_names(made: tuple[Run, Report]) -> None:
    run, report = made
    lost, _ = errors(run)
    scores = {case.case: -1.0 if case.score is None else case.score for case in run.judged}
    expected = sorted(lost, key=lambda name: (scores[name], name))[:SHOWN]
    assert [one.case for one in of(report, "missed_lesions").shown] == expected
    for kind, sign in (("missed_cases", 1), ("false_alarms", -1)):
        names = [one.case for one in of(report, kind).shown]
        assert names == sorted(names, key=lambda name: (sign * scores[name], name))


@pytest.mark.parametrize("language", LANGUAGES)
def test_false_marks_come_by_the_strongest_which_is_printed(made: tuple[Run, Report], language: Language) -> None:
    run, report = made
    _, wrong = errors(run)
    shown = of(report, "false_marks").shown
    expected = sorted(wrong, key=lambda name: (-max(wrong[name]), name))[:SHOWN]
    assert [one.case for one in shown] == expected
    assert [one.strongest_false_mark for one in shown] == [max(wrong[name]) for name in expected]
    words = read_words(language)
    text = page(report.twin, language, report.pictures)
    assert words["text"]["by_strongest_mark"] in text
    for one in shown:
        assert (
            f"{words['gallery']['strongest']}: {number(one.strongest_false_mark, language=language, places=3)}" in text
        )


def test_a_film_that_was_cut_off_is_refused_after_a_report_was_printed_too(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from eval.report.pdf import pdf_of; from inference.loading import load_film; "
        "from inference.refusals import Refused\n"
        "pdf_of('<p>a page</p>')\n"
        "try: load_film(Path(sys.argv[1]))\n"
        "except Refused: print('refused')\n"
    )
    (tmp_path / "film.png").write_bytes(film("film-001")[:4000])
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "film.png")],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "refused"

"""Parts of the report: places held against each other by every rule, words and figures of a language."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eval.datasets import Hit, Rules
from eval.froc import UNMARKED
from eval.report.case_results import Counted
from eval.report.describe import natural
from eval.report.faults import ReportError
from eval.report.gallery import galleries
from eval.report.inputs import read_inputs
from eval.report.judged import Judged
from eval.report.language import LANGUAGES, Names, number, read_words, short
from eval.report.marks import match_cases
from eval.report.statements import read_statements
from eval.runs import CaseRecord, LesionRecord, MarkRecord, Matched, Status, read_run
from tests.report_runs import cases, make_run


def case(name: str, marks: list[MarkRecord], lesions: list[LesionRecord], **more: Any) -> CaseRecord:
    return CaseRecord(
        case=name, patient=name, status=Status.ANALYSED, positive=bool(lesions), marks=marks, lesions=lesions, **more
    )


def mark(*box: float, score: float, image: str | None = None, label: str = "opacity") -> MarkRecord:
    return MarkRecord(box=box, score=score, label=label, image=image)


def square(x: int, y: int, side: int) -> tuple[float, float, float, float]:
    return (float(x), float(y), float(x + side), float(y + side))


def iou(one: Any, other: Any) -> float:
    wide = min(one[2], other[2]) - max(one[0], other[0])
    high = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(wide, 0) * max(high, 0)
    area = lambda box: (box[2] - box[0]) * (box[3] - box[1])  # noqa: E731
    return shared / (area(one) + area(other) - shared)


def touches(rule: Hit, one: MarkRecord, lesion: LesionRecord) -> bool:
    """The rules as `evaluation.md` words them, one pair at a time."""
    assert one.box is not None
    assert lesion.box is not None
    x, y = (one.box[0] + one.box[2]) / 2, (one.box[1] + one.box[3]) / 2
    a, b = (lesion.box[0] + lesion.box[2]) / 2, (lesion.box[1] + lesion.box[3]) / 2
    apart = math.hypot(x - a, y - b)
    if rule is Hit.CENTER_IN_BOX:
        return lesion.box[0] <= x <= lesion.box[2] and lesion.box[1] <= y <= lesion.box[3]
    if rule is Hit.CENTER_IN_RADIUS:
        return apart <= (lesion.radius or 0)
    if rule is Hit.DISTANCE:
        return apart < (lesion.radius or 0)
    if rule is Hit.MAMMOGRAPHY:
        return apart <= max(math.hypot(lesion.box[2] - lesion.box[0], lesion.box[3] - lesion.box[1]) / 2, 100)
    return iou(one.box, lesion.box) >= 0.2


@pytest.mark.parametrize("rule", list(Hit))
def test_every_rule_finds_what_a_plain_comparison_of_pairs_finds(rule: Hit) -> None:
    random = np.random.default_rng(11)
    records = []
    for index in range(60):
        corners = random.integers(0, 300, (6, 2))
        sides = random.integers(10, 120, 6)
        boxes = [
            (float(x), float(y), float(x + side), float(y + side)) for (x, y), side in zip(corners, sides, strict=True)
        ]
        lesions = [
            LesionRecord(box=box, radius=(box[2] - box[0]) / 2, excluded=bool(random.random() < 0.2))
            for box in boxes[:2]
        ]
        marks = [mark(*box, score=float(random.integers(1, 5)) / 5) for box in boxes[2:]]
        records.append(case(f"c{index}", marks, lesions if index % 4 else []))
    found = match_cases(records, "opacity", Rules(hit=rule))
    wanted, wrong = [], []
    for record in records:
        kept = [lesion for lesion in record.lesions if not lesion.excluded]
        wanted += [
            max([m.score for m in record.marks if touches(rule, m, lesion)], default=UNMARKED) for lesion in kept
        ]
        wrong += [m for m in record.marks if not any(touches(rule, m, lesion) for lesion in record.lesions)]
    assert found.detections.found.tolist() == wanted
    assert sorted(id(pair[1]) for pair in found.false_marks) == sorted(map(id, wrong))
    assert sorted(found.detections.false_marks.tolist()) == sorted(m.score for m in wrong)
    assert {len(wrong) > 0, any(score > 0 for score in wanted)} == {True}


def test_marks_of_another_image_or_label_find_nothing() -> None:
    lesions = [LesionRecord(box=(0, 0, 10, 10), image="left.dcm")]
    marks = [
        mark(0, 0, 10, 10, score=0.9, image="right.dcm"),
        mark(0, 0, 10, 10, score=0.8, image="left.dcm", label="nodule"),
        mark(1, 1, 9, 9, score=0.7, image="left.dcm"),
    ]
    found = match_cases([case("a", marks, lesions)], "opacity", Rules())
    assert found.detections.found.tolist() == [0.7]
    assert found.detections.false_marks.tolist() == [0.9]


def test_places_in_millimetres_are_balls_or_boxes() -> None:
    lesion = LesionRecord(center_mm=(10, 20, -30), diameter_mm=8)
    marks = [
        MarkRecord(center_mm=(10, 20, -26.1), size_mm=(5, 5, 5), score=0.6, label="opacity"),
        MarkRecord(center_mm=(10, 20, -26), size_mm=(5, 5, 5), score=0.5, label="opacity"),
    ]
    found = match_cases([case("a", marks, [lesion])], "opacity", Rules(hit=Hit.DISTANCE))
    assert found.detections.found.tolist() == [0.6]
    assert found.detections.false_marks.tolist() == [0.5]
    with pytest.raises(ValueError, match="neither size nor diameter"):
        match_cases([case("b", [], [LesionRecord(center_mm=(0, 0, 0))])], "opacity", Rules())


def test_outcomes_kept_without_places_count_like_places() -> None:
    kept = Matched(found=(0.9, None), false_marks=(0.4, 0.3))
    known = case("a", [], [LesionRecord(), LesionRecord()], matched=kept)
    placed = case("b", [mark(0, 0, 10, 10, score=0.2)], [LesionRecord(box=(0, 0, 10, 10))])
    found = match_cases([known, placed], "opacity", Rules())
    assert sorted(found.detections.found.tolist()) == [UNMARKED, 0.2, 0.9]
    assert found.detections.false_marks.tolist() == [0.4, 0.3]
    assert found.detections.false_in.tolist() == [0, 0]


def test_the_frame_of_a_volume_holds_all_its_places(tmp_path: Path) -> None:
    lesion = LesionRecord(center_mm=(-100, 50, 0), diameter_mm=10)
    wrong = MarkRecord(center_mm=(80, -60, 0), size_mm=(20, 30, 5), score=0.9, label="opacity")
    records = [
        record.model_copy(update={"marks": (wrong,), "lesions": (lesion,) if record.positive else ()})
        for record in cases(20)
    ]
    make_run(tmp_path / "run", tmp_path / "models", records)
    run = read_run(tmp_path / "run")
    counted = Counted(judged=Judged.of(run), rules=run.dataset.rules)
    found = galleries(counted, match_cases(run.judged, "opacity", run.dataset.rules), run)
    shown = [one for gallery in found for one in gallery.shown if one.drawn]
    assert shown
    for one in shown:
        left, top, width, height = one.frame
        for box in one.drawn:
            assert left <= box.box[0] < box.box[2] <= left + width
            assert top <= box.box[1] < box.box[3] <= top + height


def test_bands_of_numbers_stand_in_their_order() -> None:
    given = ["60 and over", "F", "below 40", "40 to 59", "unknown", "M"]
    assert sorted(given, key=natural) == ["below 40", "40 to 59", "60 and over", "F", "M", "unknown"]


def test_figures_are_written_as_the_language_writes_them() -> None:
    assert number(0.8767, language="en", places=3) == "0.877"
    assert number(-0.5, language="ru", places=2) == "−0,50"
    assert number(-0.0001, language="en", places=3) == "0.000"
    assert number(None, language="ru", places=3) == "—"
    assert [short(value, language="ru") for value in (0.125, 61.0, 4816.4)] == ["0,125", "61", "4816"]


def test_traits_and_values_have_names_or_stand_as_they_are() -> None:
    english, russian = (Names(read_words(language), language) for language in LANGUAGES)
    assert (english.trait("sex"), russian.trait("sex")) == ("sex", "пол")
    assert (english.level("F", "sex"), english.level("F", "tissue")) == ("F", "fatty")
    assert russian.level("40 to 59", "age_years") == "40–59"
    assert russian.level("below 40", "age_years") == "до 40"
    assert russian.trait("scanner") == "scanner"


@pytest.mark.parametrize(
    ("given", "rows"),
    [
        (
            {"films": 24, "runtimes": {"ONNX": {"probability": 1e-7, "pixels": 2e-5, "outputs": {}}}},
            [("ONNX", 24, 1e-7, 2e-5)],
        ),
        ({"tiles": 3, "probability": 1e-5, "voxels": 1e-4, "runtimes": ["ONNX"]}, [("ONNX", 3, 1e-5, 1e-4)]),
    ],
)
def test_agreement_of_runtimes_is_read_from_beside_the_card(
    tmp_path: Path, given: dict[str, Any], rows: list[tuple[Any, ...]]
) -> None:
    make_run(tmp_path / "run", tmp_path / "models", cases(20))
    beside = tmp_path / "models" / "toy-opacity" / "1.0.0" / "parity.json"
    beside.write_text(json.dumps(given))
    read = read_inputs(tmp_path / "run", models=[tmp_path / "models"]).parity
    assert [(one.runtime, one.inputs, one.probability, one.edges) for one in read] == rows
    beside.write_text('{"films": "many"}')
    with pytest.raises(ReportError, match="no record of how runtimes agree"):
        read_inputs(tmp_path / "run", models=[tmp_path / "models"])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[use\n", "not valid TOML"),
        ('[use]\nusers = { en = "a" }\n', r"use\.users"),
        ("[defects]\nA = 'many'\n", r"defects\.A"),
        ("colour = 1\n", "colour"),
    ],
)
def test_statements_that_cannot_be_read_are_told_by_their_place(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "report.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ReportError, match=told):
        read_statements(file)

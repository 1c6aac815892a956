"""Parts of monitoring that need no ledger: periods, the table of defects, charts, the order of shown statements."""

from __future__ import annotations

from datetime import UTC, date, timedelta
from itertools import pairwise
from xml.etree import ElementTree
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from dicom_node.monitoring.defects import CLASSES, OWN_REASONS, REASONS, Seen
from dicom_node.monitoring.periods import Period, Step, local_zone
from dicom_node.settings import MonitoringSettings
from dicom_node.web import charts
from dicom_node.web.charts import Level, Series
from inference.refusals import Reason
from tests.service import findings

DAYS = st.dates(min_value=date(2020, 1, 1), max_value=date(2030, 12, 31))
ZONES = st.sampled_from(["UTC", "Europe/Moscow", "Europe/Berlin", "America/Sao_Paulo", "Asia/Kathmandu"])


@given(first=DAYS, days=st.integers(0, 380), step=st.sampled_from(list(Step)), zone=ZONES)
def test_parts_follow_each_other_without_gap_and_make_up_the_whole(
    first: date, days: int, step: Step, zone: str
) -> None:
    whole = Period(first=first, last=first + timedelta(days=days), zone=ZoneInfo(zone))
    parts = whole.divided(step)
    assert parts[0].span.begin == whole.span.begin and parts[-1].span.end == whole.span.end
    for one, following in pairwise(parts):
        assert one.span.end == following.span.begin and one.last + timedelta(days=1) == following.first
    if step is Step.WEEK:
        assert all(part.first.weekday() == 0 for part in parts[1:])
    if step is Step.MONTH:
        assert all(part.first.day == 1 for part in parts[1:])


def test_a_day_on_which_clocks_change_has_another_length() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    lengths = [Period(first=day, last=day, zone=berlin).span for day in (date(2026, 3, 29), date(2026, 10, 25))]
    assert [(span.end - span.begin) / timedelta(hours=1) for span in lengths] == [23, 25]
    assert lengths[0].begin.tzinfo is UTC


def test_the_zone_is_that_of_the_settings_else_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", ":Asia/Omsk")
    assert local_zone("Europe/Moscow").key == "Europe/Moscow"
    assert local_zone(None).key == "Asia/Omsk"
    monkeypatch.setenv("TZ", "no zone")
    assert local_zone(None).key


def test_a_zone_that_is_none_and_limits_in_the_wrong_order_are_refused() -> None:
    for wrong in ({"time_zone": "Moscow"}, {"time_zone": "../etc"}, {"psi_notice": 0.5}, {"flag_rate_notice": 0.2}):
        with pytest.raises(ValidationError, match=r"time zone|must not come later"):
            MonitoringSettings.model_validate(wrong)


def test_every_reason_has_its_place_in_the_table_of_defects() -> None:
    assert set(REASONS) == set(Reason)
    codes = [one.code for one in CLASSES]
    assert codes == ["А", "Б", "В1", "В2", "В3", "В4", "В5", "Г1", "Г2", "Г3", "Г4", "Г5", "Д1", "Д2"]
    assert {fault.defect for fault in REASONS.values()} <= {None, *codes}
    assert Reason.MODEL_FAILED in OWN_REASONS and Reason.AGE not in OWN_REASONS
    assert all(one.title.ru and one.why.ru for one in CLASSES) and {one.seen for one in CLASSES} == set(Seen)


def test_a_study_has_one_statement_a_label_that_about_the_study_first() -> None:
    made = findings("1.2.3", 0.4, images=2)
    (whole,) = made.of_study()
    assert whole.sop_instance_uid is None
    pictures = type(made)(
        model=made.model, study_uid=made.study_uid, inputs_digest="", images=made.images, findings=made.findings[1:]
    )
    (highest,) = pictures.of_study()
    assert highest.sop_instance_uid is not None and highest.score == 0.4


# charts --------------------------------------------------------------------------------------------------------------

LABELS = ["01.03", "02.03", "03.03"]


def rectangles(chart: str) -> list[dict[str, str]]:
    root = ElementTree.fromstring(f"<root>{chart}</root>")
    return [dict(one.attrib) for one in root.iter("rect")]


def test_stacked_bars_stand_on_each_other_in_proportion() -> None:
    series = [Series(name="a", css="a", values=[1, 0, 2]), Series(name="b", css="b", values=[3, 0, None])]
    bars = rectangles(charts.stacked_bars(LABELS, series, "title"))
    assert [bar["class"] for bar in bars] == ["bar a", "bar b", "bar a"]
    heights = [float(bar["height"]) for bar in bars]
    assert heights[1] == pytest.approx(3 * heights[0], abs=0.2) and heights[2] == pytest.approx(2 * heights[0], abs=0.2)
    assert float(bars[1]["y"]) + heights[1] == pytest.approx(float(bars[0]["y"]), abs=0.2)


def test_a_gap_in_a_line_is_a_gap() -> None:
    points: list[charts.Point] = [(0.5, 0.4, 0.6), (None, None, None), (0.2, None, None)]
    chart = charts.share_line(LABELS, points, "rate", [Level(name="reference", value=0.3)], "title")
    root = ElementTree.fromstring(f"<root>{chart}</root>")
    assert len(list(root.iter("circle"))) == 2
    assert [line.attrib["class"] for line in root.iter("polyline")].count("line a") == 0
    assert [line.attrib["class"] for line in root.iter("polyline")].count("whisker") == 1


@example(values=[5e-324], level=1.0)
@given(st.lists(st.none() | st.floats(0, 1e6, allow_nan=False), max_size=40), st.floats(0.001, 1e6))
def test_every_chart_is_well_formed_and_stays_in_its_frame(values: list[float | None], level: float) -> None:
    labels = [f"<{number}>" for number in range(len(values))]
    series = [Series(name="a & b", css="a", values=values)]
    for chart in (charts.lines(labels, series, [Level(name="<limit>", value=level)], "x"),
                  charts.stacked_bars(labels, series, "x")):  # fmt: skip
        root = ElementTree.fromstring(f"<root>{chart}</root>")
        for bar in root.iter("rect"):
            assert 0 <= float(bar.attrib["y"]) <= charts.HEIGHT and float(bar.attrib["height"]) >= 0
        for line in root.iter("polyline"):
            for point in line.attrib["points"].split():
                assert 0 <= float(point.split(",")[1]) <= charts.HEIGHT

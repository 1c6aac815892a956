"""What is said of a breast: of its most suspicious view, held against the other breast where the card says so."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.breast_findings import BreastView, breast_findings
from inference.findings import Finding, Presence, SopUid
from models.card import BreastComparison, Calibration, Label, OperatingPoint
from models.codes import Code, Text

LESION = Code(value="52988006", scheme="SCT", meaning="Lesion")
BREAST = Code(value="76752008", scheme="SCT", meaning="Breast")
VIEWS = {
    SopUid("1.1"): BreastView(side="R", view="MLO"),
    SopUid("1.2"): BreastView(side="R", view="CC"),
    SopUid("1.3"): BreastView(side="L", view="MLO"),
    SopUid("1.4"): BreastView(side="", view="MLO"),
    SopUid("1.5"): BreastView(side="B", view="MLO"),
}
POINT = OperatingPoint(threshold=0.5, chosen_by="by hand")
COMPARED = Label(
    key="lesion",
    title=Text(en="Lesion", ru="Изменение"),
    finding=LESION,
    site=BREAST,
    lesion=POINT,
    breast=BreastComparison(contralateral=0.5, calibration=Calibration(slope=2.0, intercept=1.0), point=POINT),
)


def view(uid: str, score: float, label: str = "lesion") -> Finding:
    return Finding(
        label=label,
        code=LESION,
        site=BREAST,
        presence=Presence.PRESENT if score >= 0.5 else Presence.ABSENT,
        score=score,
        raw_score=score,
        threshold=0.5,
        sop_instance_uid=SopUid(uid),
    )


def sides(findings: tuple[Finding, ...]) -> list[str]:
    return [finding.laterality.value for finding in findings if finding.laterality is not None]


def logit(share: float) -> float:
    return math.log(share / (1 - share))


def test_each_breast_has_one_finding_right_before_left() -> None:
    found = breast_findings([view("1.3", 0.2), view("1.1", 0.6), view("1.2", 0.4)], VIEWS)
    assert sides(found) == ["24028007", "7771000"]
    assert [finding.score for finding in found] == [0.6, 0.2]
    assert [finding.presence for finding in found] == [Presence.PRESENT, Presence.ABSENT]
    assert all(finding.sop_instance_uid is None for finding in found)


def test_views_without_a_side_and_findings_of_the_study_speak_of_no_breast() -> None:
    study = replace(view("1.1", 0.9), sop_instance_uid=None)
    assert breast_findings([study, view("1.4", 0.9), view("1.5", 0.9), view("1.9", 0.9)], VIEWS, [COMPARED]) == ()


def test_each_label_has_its_own_finding() -> None:
    said = [view("1.1", 0.3, "mass"), view("1.2", 0.8, "calcification"), view("1.2", 0.6, "mass")]
    found = breast_findings(said, VIEWS)
    assert {finding.label: finding.score for finding in found} == {"mass": 0.6, "calcification": 0.8}


def test_a_view_is_held_against_the_same_view_of_the_other_breast() -> None:
    right, left = breast_findings([view("1.1", 0.6), view("1.3", 0.8)], VIEWS, [COMPARED])
    for found, own, other in ((right, 0.6, 0.8), (left, 0.8, 0.6)):
        expected = 2 * (logit(own) - 0.5 * logit(other)) + 1
        assert found.score == pytest.approx(1 / (1 + math.exp(-expected)), abs=1e-4)
    assert left.score > right.score


def test_without_the_same_view_of_the_other_breast_a_breast_is_judged_for_itself() -> None:
    assert breast_findings([view("1.3", 0.7)], VIEWS, [COMPARED])[0].score == 0.7
    right, left = breast_findings([view("1.2", 0.4), view("1.3", 0.7)], VIEWS, [COMPARED])
    assert (right.score, left.score) == (0.4, 0.7)


def test_views_without_a_name_are_not_held_against_each_other() -> None:
    unnamed = {SopUid("1.1"): BreastView(side="R", view=""), SopUid("1.3"): BreastView(side="L", view="")}
    found = breast_findings([view("1.1", 0.6), view("1.3", 0.8)], unnamed, [COMPARED])
    assert [finding.score for finding in found] == [0.6, 0.8]


def test_a_breast_that_is_positive_in_one_view_is_positive() -> None:
    strict = COMPARED.model_copy(
        update={"breast": BreastComparison(contralateral=0.5, point=OperatingPoint(threshold=0.95, chosen_by="x"))}
    )
    # The compared view scores higher but stays under its own threshold; the other view is over its own.
    found = breast_findings([view("1.1", 0.9), view("1.3", 0.5), view("1.2", 0.55)], VIEWS, [strict])
    assert found[0].presence is Presence.PRESENT
    assert found[0].score == 0.55


@given(st.lists(st.tuples(st.sampled_from(["1.1", "1.2", "1.3"]), st.floats(0, 1)), min_size=1, max_size=8))
def test_a_breast_is_as_suspicious_as_its_most_suspicious_view(said: list[tuple[str, float]]) -> None:
    found = breast_findings([view(uid, score) for uid, score in said], VIEWS)
    by_side: dict[str, float] = {}
    for uid, score in said:
        side = {"R": "24028007", "L": "7771000"}[VIEWS[SopUid(uid)].side]
        by_side[side] = max(by_side.get(side, 0.0), score)
    assert {finding.laterality.value: finding.score for finding in found if finding.laterality} == by_side


@given(st.floats(0, 1), st.floats(0, 1))
def test_any_two_scores_can_be_compared(one: float, other: float) -> None:
    found = breast_findings([view("1.1", one), view("1.3", other)], VIEWS, [COMPARED])
    assert all(0 <= finding.score <= 1 for finding in found)

"""What is said of a breast is what is said of its most suspicious view."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from inference.breast_findings import breast_findings
from inference.findings import Finding, Presence, SopUid
from models.codes import Code

LESION = Code(value="52988006", scheme="SCT", meaning="Lesion")
BREAST = Code(value="76752008", scheme="SCT", meaning="Breast")


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


SIDES = {SopUid("1.1"): "R", SopUid("1.2"): "R", SopUid("1.3"): "L", SopUid("1.4"): "", SopUid("1.5"): "B"}


def sides(findings: tuple[Finding, ...]) -> list[str]:
    return [finding.laterality.value for finding in findings if finding.laterality is not None]


def test_each_breast_has_one_finding_right_before_left() -> None:
    found = breast_findings([view("1.3", 0.2), view("1.1", 0.6), view("1.2", 0.4)], SIDES)
    assert sides(found) == ["24028007", "7771000"]
    assert [finding.score for finding in found] == [0.6, 0.2]
    assert [finding.presence for finding in found] == [Presence.PRESENT, Presence.ABSENT]
    assert all(finding.sop_instance_uid is None for finding in found)


def test_views_without_a_side_and_findings_of_the_study_speak_of_no_breast() -> None:
    study = Finding(
        label="lesion",
        code=LESION,
        site=BREAST,
        presence=Presence.PRESENT,
        score=0.9,
        raw_score=0.9,
        threshold=0.5,
    )
    assert breast_findings([study, view("1.4", 0.9), view("1.5", 0.9), view("1.9", 0.9)], SIDES) == ()


def test_one_breast_alone_is_said_alone() -> None:
    assert sides(breast_findings([view("1.3", 0.7)], SIDES)) == ["7771000"]


def test_each_label_has_its_own_finding() -> None:
    found = breast_findings(
        [view("1.1", 0.3, "mass"), view("1.2", 0.8, "calcification"), view("1.2", 0.6, "mass")], SIDES
    )
    assert {finding.label: finding.score for finding in found} == {"mass": 0.6, "calcification": 0.8}


@given(st.lists(st.tuples(st.sampled_from(["1.1", "1.2", "1.3"]), st.floats(0, 1)), min_size=1, max_size=8))
def test_a_breast_is_as_suspicious_as_its_most_suspicious_view(views: list[tuple[str, float]]) -> None:
    found = breast_findings([view(uid, score) for uid, score in views], SIDES)
    by_side: dict[str, float] = {}
    for uid, score in views:
        side = {"R": "24028007", "L": "7771000"}[SIDES[SopUid(uid)]]
        by_side[side] = max(by_side.get(side, 0.0), score)
    said = {finding.laterality.value: finding.score for finding in found if finding.laterality is not None}
    assert said == by_side

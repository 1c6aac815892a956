"""When is a study whole? Decided from what came, the rules and the time alone, so every case can be tried."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dicom_node.assembly import (
    Arrivals,
    ArrivedInstance,
    AssemblyRules,
    Decision,
    Lacking,
    Wait,
    Whole,
    decide,
    missing_mammography_views,
    missing_slices,
    too_early,
)
from dicom_node.facts import InstanceFacts
from dicom_node.requested_side import RequestedSide, requested_side
from inference.findings import SeriesUid

NOON = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
RULES = AssemblyRules()
VIEWS = [("R", "CC"), ("L", "CC"), ("R", "MLO"), ("L", "MLO")]
AXIAL = (0.0, 0.0, 1.0)


def arrived(series: str = "1.2.3", **facts: object) -> ArrivedInstance:
    return ArrivedInstance(series_uid=SeriesUid(series), facts=InstanceFacts(**facts))  # type: ignore[arg-type]


def films(count: int = 1, modality: str = "DX") -> list[ArrivedInstance]:
    return [arrived(modality=modality) for _ in range(count)]


def mammograms(views: Sequence[tuple[str, str]] = VIEWS, **facts: object) -> list[ArrivedInstance]:
    return [arrived(modality="MG", laterality=side, view=view, **facts) for side, view in views]


def missing_views(instances: Sequence[ArrivedInstance]) -> str | None:
    return missing_mammography_views([one.facts for one in instances], len(instances))


def stack(
    positions: Sequence[float], series: str = "1.2.3", normal: tuple[float, ...] = AXIAL
) -> list[ArrivedInstance]:
    return [arrived(series, modality="CT", position_mm=at, normal=normal) for at in positions]


def after(
    instances: Sequence[ArrivedInstance],
    quiet_s: float,
    *,
    waited_s: float | None = None,
    rules: AssemblyRules = RULES,
    holders: Sequence[str] = (),
    count: int | None = None,
    archive_count: Callable[[], int | None] = lambda: None,
) -> Decision:
    """Decide when nothing has come for `quiet_s`, `waited_s` after the revision began."""
    now = NOON + timedelta(seconds=quiet_s if waited_s is None else waited_s)
    arrivals = Arrivals(
        instances=instances,
        count=len(instances) if count is None else count,
        last_received_at=now - timedelta(seconds=quiet_s),
        revision_started_at=NOON,
    )
    return decide(arrivals, rules, now, holders=holders, archive_count=archive_count)


# holding and quiet time ----------------------------------------------------------------------------------------------

some_instances = st.one_of(
    st.integers(0, 3).map(films),
    st.lists(st.sampled_from(VIEWS), max_size=5).map(mammograms),
    st.lists(st.floats(-1e4, 1e4), max_size=6).map(stack),
    st.just([*films(), *mammograms(), *stack([0, 1])]),
)


@given(instances=some_instances, quiet_s=st.floats(0, 1e7), waited_s=st.floats(0, 1e7))
@settings(max_examples=150, deadline=None)
def test_a_study_that_is_held_is_never_whole(instances: list[ArrivedInstance], quiet_s: float, waited_s: float) -> None:
    decision = after(instances, quiet_s, waited_s=waited_s, holders=["an association is sending"])
    assert isinstance(decision, Wait) and decision.because == "an association is sending"


@given(instances=some_instances, quiet_s=st.floats(-1e6, 4.999), waited_s=st.floats(-1e6, 1e7))
@settings(max_examples=150, deadline=None)
def test_nothing_is_decided_before_the_quiet_time_is_over(
    instances: list[ArrivedInstance], quiet_s: float, waited_s: float
) -> None:
    needed = {"DX": RULES.projection_quiet_s, "MG": RULES.mammography_quiet_s, "CT": RULES.ct_quiet_s}
    wanted_s = max((needed[one.facts.modality] for one in instances), default=RULES.other_quiet_s)
    if quiet_s < wanted_s - 1e-5:
        assert isinstance(after(instances, quiet_s, waited_s=waited_s), Wait)


@given(instances=some_instances, quiet_s=st.floats(-1e6, 1e7), waited_s=st.floats(-1e6, 1e7))
@settings(max_examples=150, deadline=None)
def test_a_wait_ends_later_than_now_and_what_waited_long_enough_is_settled(
    instances: list[ArrivedInstance], quiet_s: float, waited_s: float
) -> None:
    decision = after(instances, quiet_s, waited_s=waited_s)
    now = NOON + timedelta(seconds=waited_s)
    if isinstance(decision, Wait):
        assert decision.until > now
        assert quiet_s < RULES.ct_quiet_s or waited_s < RULES.ct_deadline_s
    settled = after(instances, 400, waited_s=400)
    assert isinstance(settled, Whole | Lacking)


@pytest.mark.parametrize(
    ("instances", "quiet_s"),
    [(films(), 0.5), (films(modality="CR"), 0.5), (mammograms(), 2.0), (stack([0, 5, 10]), 5.0), (films(1, "US"), 5.0)],
)
def test_each_kind_of_image_has_its_own_quiet_time(instances: list[ArrivedInstance], quiet_s: float) -> None:
    waiting = after(instances, quiet_s - 0.01, waited_s=100)
    assert isinstance(waiting, Wait)
    assert waiting.until <= NOON + timedelta(seconds=100.01)
    assert isinstance(after(instances, quiet_s, waited_s=100), Whole)


def test_an_early_answer_needs_no_images_and_never_contradicts_the_whole_one() -> None:
    at = NOON
    assert isinstance(too_early(at, RULES, at, ()), Wait)
    assert too_early(at, RULES, at + timedelta(seconds=0.5), ()) is None
    assert too_early(at, RULES, at + timedelta(days=1), ["sending"]) is not None
    assert too_early(at, AssemblyRules(projection_quiet_s=9, ct_quiet_s=3), at + timedelta(seconds=2), ()) is None


def test_an_empty_study_waits_its_quiet_time_and_is_then_settled() -> None:
    assert isinstance(after([], 4.9), Wait)
    assert isinstance(after([], 5.0), Whole)


# mammography ---------------------------------------------------------------------------------------------------------


@given(views=st.lists(st.sampled_from(VIEWS), max_size=8))
@settings(max_examples=80, deadline=None)
def test_mammography_is_whole_exactly_when_the_four_standard_views_are_there(views: list[tuple[str, str]]) -> None:
    decision = after([*mammograms(views), *mammograms([("L", "ML")])], 2.0)
    missing = {f"{side}-{view}" for side, view in VIEWS} - {f"{side}-{view}" for side, view in views}
    assert isinstance(decision, Whole if not missing else Wait)
    if isinstance(decision, Wait):
        assert all(view in decision.because for view in missing)


def test_a_missing_view_is_named_and_waited_for_until_the_deadline() -> None:
    three = mammograms(VIEWS[:3])
    waiting = after(three, 10, waited_s=100)
    assert waiting == Wait(until=NOON + timedelta(seconds=300), because="missing: L-MLO")
    assert after(three, 10, waited_s=300) == Lacking(missing="L-MLO")


def test_the_studys_own_count_overrules_the_standard_views() -> None:
    one_side = mammograms([("R", "CC"), ("R", "MLO")], images_expected=2)
    assert isinstance(after(one_side, 2.0), Whole), "a unilateral study that says so is whole"
    four = mammograms(images_expected=6)
    assert missing_views(four) == "2 of 6 instances"
    assert missing_views(mammograms(images_expected=0)) is None


def test_the_studys_own_count_counts_every_modality() -> None:
    four_of_five = mammograms(images_expected=5)
    assert isinstance(after(four_of_five, 10), Wait)
    assert isinstance(after(four_of_five, 10, count=5), Whole), "the fifth is a report, or a film"
    assert isinstance(after([*four_of_five, *films()], 10), Whole)


@pytest.mark.parametrize("modifier", ["SPOT", "MAG", "ID", "RL", "399999999"])
def test_a_view_with_a_modifier_does_not_stand_for_the_whole_breast(modifier: str) -> None:
    extra = mammograms([("L", "MLO")], view_modifiers=(modifier,))
    assert missing_views([*mammograms(VIEWS[:3]), *extra]) == "L-MLO"
    assert missing_views([*mammograms(), *extra]) is None


RIGHT = [("R", "CC"), ("R", "MLO")]


@pytest.mark.parametrize("side", ["R", "U"])
def test_a_study_whose_request_names_one_side_is_whole_with_the_views_of_that_side(side: str) -> None:
    assert isinstance(after(mammograms(RIGHT, requested_side=RequestedSide(side)), 2.0), Whole)
    assert missing_views(mammograms(RIGHT[:1], requested_side=RequestedSide(side))) == "R-MLO"


def test_the_named_side_counts_only_while_nothing_of_the_other_has_come() -> None:
    right = {"requested_side": RequestedSide.RIGHT}
    assert missing_views(mammograms([*RIGHT, ("L", "CC")], **right)) == "L-MLO"
    assert missing_views(mammograms(RIGHT, requested_side=RequestedSide.LEFT)) == "L-CC, L-MLO"
    disagreeing = [*mammograms(RIGHT, **right), *mammograms(RIGHT, requested_side=RequestedSide.LEFT)]
    assert missing_views(disagreeing) == "L-CC, L-MLO"
    unnamed = mammograms([("", "CC"), ("", "MLO")], requested_side=RequestedSide.ONE)
    assert missing_views(unnamed) == "R-CC, L-CC, R-MLO, L-MLO"


def test_the_size_of_the_acquisition_decides_where_every_image_gives_it() -> None:
    assert missing_views(mammograms(RIGHT, images_in_acquisition=2)) is None
    assert missing_views(mammograms(VIEWS[:3], images_in_acquisition=4)) == "1 of 4 images of the acquisition"
    first = mammograms(RIGHT, images_in_acquisition=2, acquisition_number=1)
    second = mammograms([("L", "CC")], images_in_acquisition=2, acquisition_number=2)
    assert missing_views([*first, *second]) == "1 of 4 images of the acquisition"
    assert missing_views(mammograms(RIGHT, images_in_acquisition=1)) == "L-CC, L-MLO", "each its own acquisition"
    assert missing_views([*first, *mammograms([("L", "CC")])]) == "L-MLO"


def test_a_unilateral_study_that_says_nothing_is_settled_as_incomplete() -> None:
    decision = after(mammograms([("R", "CC"), ("R", "MLO")]), 300, waited_s=300)
    assert decision == Lacking(missing="L-CC, L-MLO")


@pytest.mark.parametrize(
    ("texts", "side"),
    [
        (["MAMMOGRAPHY LEFT BREAST"], "L"), (["Mammo RT diagnostic"], "R"), (["Маммография правой железы"], "R"),
        (["Левосторонняя маммография"], "L"), (["Unilateral mammography"], "U"), (["односторонняя"], "U"),
        (["Diagnostic", "unilateral", "left"], "L"), (["right breast, after left mastectomy"], ""),
        (["Screening, right"], ""), (["Bilateral mammography"], ""), (["Обзорная маммография обеих желёз"], ""),
        (["Маммография по правилам"], ""), (["bright, cleft, alright"], ""), (["R"], ""), ([], ""), ([""], ""),
    ],
)  # fmt: skip
def test_the_side_of_a_request_is_read_from_its_words(texts: list[str], side: str) -> None:
    assert requested_side(texts) == side


@given(texts=st.lists(st.text(max_size=30), max_size=4))
@settings(max_examples=50, deadline=None)
def test_whatever_a_request_says_its_side_is_one_of_four(texts: list[str]) -> None:
    assert requested_side(texts) in RequestedSide
    assert requested_side([*texts, "left right"]) is RequestedSide.UNSAID


def test_views_that_cannot_be_told_count_as_missing() -> None:
    unnamed = mammograms([("", ""), ("", ""), ("", ""), ("", "")])
    assert isinstance(after(unnamed, 10), Wait)


# slices --------------------------------------------------------------------------------------------------------------


@given(
    count=st.integers(2, 40),
    step=st.floats(0.3, 20),
    start=st.floats(-2000, 2000),
    jitter=st.floats(0, 0.2),
    seed=st.randoms(use_true_random=False),
)
@settings(max_examples=80, deadline=None)
def test_evenly_spaced_slices_are_contiguous_in_any_order_and_with_jitter(
    count: int, step: float, start: float, jitter: float, seed: object
) -> None:
    positions = [start + step * (number + jitter * math.sin(number * 7)) for number in range(count)]
    seed.shuffle(positions)  # type: ignore[attr-defined]
    assert missing_slices(stack(positions)) is None


@given(count=st.integers(5, 40), step=st.floats(0.3, 20), lost=st.integers(1, 3), at=st.integers(1, 100))
@example(count=5, step=5.0, lost=1, at=2)
@settings(max_examples=80, deadline=None)
def test_lost_slices_in_the_middle_are_counted(count: int, step: float, lost: int, at: int) -> None:
    gap_at = 1 + at % (count - 2)
    positions = [step * (number if number < gap_at else number + lost) for number in range(count)]
    missing = missing_slices(stack(positions))
    assert missing is not None and missing.startswith(f"series 1.2.3: {lost} slice(s)")


def test_a_gap_is_waited_for_and_then_told() -> None:
    gap = stack([0, 5, 10, 20, 25])
    waiting = after(gap, 5)
    assert isinstance(waiting, Wait) and "first between 10.00 and 20.00 mm (usual step 5.00 mm)" in waiting.because
    assert isinstance(after(gap, 300, waited_s=300), Lacking)


def test_phases_at_the_same_positions_are_no_gap() -> None:
    assert missing_slices(stack([0, 0, 5, 5, 10, 10.005, 15])) is None


def test_a_localizer_in_the_series_breaks_no_stack() -> None:
    localizers = stack([-200, 300], normal=(1.0, 0.0, 0.0))
    assert missing_slices([*stack([0, 5, 10]), *localizers]) is None


def test_an_oblique_stack_is_one_stack() -> None:
    assert missing_slices(stack([0, 2, 4, 6], normal=(0.0, -0.342, 0.94))) is None
    assert missing_slices(stack([0, 2, 6, 8], normal=(0.0, -0.342, 0.94))) is not None


def test_each_series_is_looked_at_for_itself() -> None:
    thin, thick = stack([0, 1, 2, 3], "1.1"), stack([0, 5, 10, 30], "1.2")
    missing = missing_slices([*thin, *thick])
    assert missing is not None and missing.startswith("series 1.2: 3 slice(s)")


def test_slices_without_a_position_and_single_slices_are_not_judged() -> None:
    assert missing_slices([arrived(modality="CT"), *stack([4])]) is None
    assert isinstance(after([arrived(modality="CT")], 5), Whole)


# several kinds, the archive's count, clocks --------------------------------------------------------------------------


def test_a_study_of_several_kinds_obeys_the_strictest() -> None:
    mixed = [*films(), *mammograms(VIEWS[:3]), *stack([0, 5, 15, 20])]
    assert isinstance(after(mixed, 4.9, waited_s=9), Wait)
    lacking = after(mixed, 300, waited_s=300)
    assert isinstance(lacking, Lacking)
    assert "L-MLO" in lacking.missing and "1 slice(s)" in lacking.missing
    assert isinstance(after([*films(), *mammograms()], 2.0), Whole)


def test_with_two_deadlines_the_later_counts() -> None:
    rules = AssemblyRules(mammography_deadline_s=60, ct_deadline_s=120)
    mixed = [*mammograms(VIEWS[:3]), *stack([0, 5, 15, 20])]
    assert isinstance(after(mixed, 100, waited_s=100, rules=rules), Wait)
    assert isinstance(after(mixed, 120, waited_s=120, rules=rules), Lacking)


ASKING = AssemblyRules(archive_count="pacs")


def test_the_archives_own_count_is_asked_last_and_believed() -> None:
    asked: list[int] = []

    def counted() -> int:
        asked.append(1)
        return 3

    assert isinstance(after(films(2), 0.1, rules=ASKING, archive_count=counted), Wait)
    assert isinstance(after(mammograms(VIEWS[:3]), 10, rules=ASKING, archive_count=counted), Wait)
    assert asked == [], "while something else is open the archive is left in peace"
    waiting = after(films(2), 1, rules=ASKING, archive_count=counted)
    assert isinstance(waiting, Wait) and "3 instances" in waiting.because
    assert isinstance(after(films(2), 1, rules=ASKING, count=3, archive_count=counted), Whole)
    assert after(films(2), 400, rules=ASKING, archive_count=counted) == Lacking(
        missing="1 of the 3 instances that the archive counts"
    )


def test_an_archive_that_does_not_answer_delays_and_does_not_condemn() -> None:
    waiting = after(films(), 1, rules=ASKING)
    assert isinstance(waiting, Wait) and "no answer yet" in waiting.because
    assert isinstance(after(films(), 300, rules=ASKING), Whole)
    almost = after(films(), 299, rules=ASKING)
    assert isinstance(almost, Wait) and almost.until == NOON + timedelta(seconds=300)


def test_without_the_rule_the_archive_is_never_asked() -> None:
    def forbidden() -> int:
        raise AssertionError("asked")

    assert isinstance(after(films(), 1, archive_count=forbidden), Whole)


def test_deadlines_count_from_the_revision_so_that_a_late_image_begins_them_anew() -> None:
    three = mammograms(VIEWS[:3])
    late = Arrivals(
        instances=three,
        count=3,
        last_received_at=NOON + timedelta(days=2),
        revision_started_at=NOON + timedelta(days=2),
    )
    decision = decide(late, RULES, NOON + timedelta(days=2, seconds=10))
    assert decision == Wait(until=NOON + timedelta(days=2, seconds=300), because="missing: L-MLO")


@given(back_s=st.floats(0, 1e8))
@settings(max_examples=50, deadline=None)
def test_a_clock_set_back_delays_and_never_settles_early(back_s: float) -> None:
    decision = after(mammograms(VIEWS[:3]), 10, waited_s=-back_s)
    assert isinstance(decision, Wait)
    assert decision.until <= NOON - timedelta(seconds=back_s) + timedelta(seconds=300.001)


def test_rules_refuse_what_cannot_be_meant() -> None:
    for wrong in ({"ct_quiet_s": -1}, {"association_idle_s": 0}, {"max_instances": 0}, {"quiet": 1}):
        with pytest.raises(ValueError, match="validation error"):
            AssemblyRules.model_validate(wrong)

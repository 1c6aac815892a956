"""When is a study whole? A pure decision from what has arrived, the rules, and the time.

Called by `dicom_node.pipeline` for every study that is being received. It never decides by the end of an association
alone, and never while one that is still sending could bring more. Who holds a study open is `dicom_node.reception`;
what the study's archive counts is asked by the coordinator; both come in as arguments.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from statistics import median_low

from pydantic import BaseModel, ConfigDict, Field

from dicom_node.facts import InstanceFacts
from dicom_node.requested_side import RequestedSide
from inference.findings import SeriesUid

STANDARD_MAMMOGRAPHY_VIEWS = ("R-CC", "L-CC", "R-MLO", "L-MLO")
PROJECTION_MODALITIES = frozenset({"CR", "DX", "RF", "RG", "PX", "IO"})
# How often to look while somebody else decides the time (an open association, the archive's count).
HELD_POLL_S = 0.1
ARCHIVE_POLL_S = 5.0
# A gap is a step between neighbouring slices larger than this many usual steps.
GAP_FACTOR = 1.5
# Slices closer than this are the same position (another phase or kernel), not a step.
SAME_POSITION_MM = 0.01


class AssemblyRules(BaseModel):
    """How long to wait for what, in seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    projection_quiet_s: float = Field(default=0.5, ge=0, description="CR, DX: quiet time after the last image")
    mammography_quiet_s: float = Field(default=2.0, ge=0, description="MG: quiet time once all views are there")
    mammography_deadline_s: float = Field(default=300.0, ge=0, description="MG: wait at most so long for missing views")
    ct_quiet_s: float = Field(default=5.0, ge=0, description="CT, MR, PT: quiet time once slices are contiguous")
    ct_deadline_s: float = Field(default=300.0, ge=0, description="CT: wait at most so long for missing slices")
    other_quiet_s: float = Field(default=5.0, ge=0, description="any other modality: quiet time after the last image")
    association_idle_s: float = Field(
        default=5.0, gt=0, description="an open association silent for longer no longer holds a study"
    )
    archive_count: str | None = Field(
        default=None, description="name of a destination whose own count of the study's instances must be reached"
    )
    archive_count_deadline_s: float = Field(default=300.0, ge=0, description="wait at most so long for that count")
    max_instances: int = Field(default=20_000, ge=1, description="a study of more instances is not analysed")
    max_revisions_per_day: int = Field(default=20, ge=1, description="more late changes than this wait for a person")


@dataclass(frozen=True, kw_only=True, slots=True)
class ArrivedInstance:
    """One current, readable instance of the study."""

    series_uid: SeriesUid
    facts: InstanceFacts


@dataclass(frozen=True, kw_only=True, slots=True)
class Arrivals:
    """What has arrived of one study.

    Attributes
    ----------
    instances : sequence of ArrivedInstance
        Current and readable ones.
    count : int
        All instances, unreadable ones included: what an archive would count.
    last_received_at, revision_started_at : datetime
        UTC; the revision's deadlines count from `revision_started_at`.
    """

    instances: Sequence[ArrivedInstance]
    count: int
    last_received_at: datetime
    revision_started_at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class Wait:
    """Not yet: look again at `until`."""

    until: datetime
    because: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Whole:
    """The study is complete."""

    because: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Lacking:
    """The deadline has passed and something is missing."""

    missing: str


Decision = Wait | Whole | Lacking


@dataclass(frozen=True, kw_only=True, slots=True)
class _Rule:
    """What one kind of image asks for: quiet time, and how long to wait for what is missing."""

    name: str
    quiet_s: float
    deadline_s: float
    missing: str | None = None


def too_early(last_received_at: datetime, rules: AssemblyRules, now: datetime, holders: Sequence[str]) -> Wait | None:
    """The answer that needs no look at the images: somebody is sending, or no rule's quiet time can be over."""
    if holders:
        return Wait(until=now + timedelta(seconds=HELD_POLL_S), because=holders[0])
    quiet = (rules.projection_quiet_s, rules.mammography_quiet_s, rules.ct_quiet_s, rules.other_quiet_s)
    quiet_until = last_received_at + timedelta(seconds=min(quiet))
    return Wait(until=quiet_until, because=f"quiet time of at least {min(quiet):g} s") if now < quiet_until else None


def decide(
    arrivals: Arrivals,
    rules: AssemblyRules,
    now: datetime,
    *,
    holders: Sequence[str] = (),
    archive_count: Callable[[], int | None] = lambda: None,
) -> Decision:
    """Whether the study is whole.

    Parameters
    ----------
    arrivals : Arrivals
        What is there.
    rules : AssemblyRules
        How long to wait.
    now : datetime
        UTC.
    holders : sequence of str
        Why the study is held open: associations that are not idle, objects half received.
    archive_count : callable
        The archive's own count of the study's instances, asked only when all else is met; None while unknown.
    """
    early = too_early(arrivals.last_received_at, rules, now, holders)
    if early:
        return early
    kinds = _rules_of(arrivals, rules)
    quiet_s = max(rule.quiet_s for rule in kinds)
    quiet_until = arrivals.last_received_at + timedelta(seconds=quiet_s)
    if now < quiet_until:
        return Wait(until=quiet_until, because=f"quiet time of {quiet_s:g} s ({_names(kinds)})")
    waited_s = max(0.0, (now - arrivals.revision_started_at).total_seconds())
    lacking = [rule for rule in kinds if rule.missing]
    if lacking:
        return _wait_or_give_up(lacking, arrivals, waited_s, now)
    if rules.archive_count:
        return _compare_with_archive(arrivals, rules, waited_s, now, archive_count())
    return Whole(because=f"{_names(kinds)}: nothing is missing, quiet for {quiet_s:g} s, no association is sending")


def _wait_or_give_up(lacking: Sequence[_Rule], arrivals: Arrivals, waited_s: float, now: datetime) -> Decision:
    missing = "; ".join(rule.missing or "" for rule in lacking)
    deadline_s = max(rule.deadline_s for rule in lacking)
    if waited_s < deadline_s:
        return Wait(until=now + timedelta(seconds=deadline_s - waited_s), because=f"missing: {missing}")
    return Lacking(missing=missing)


def _compare_with_archive(
    arrivals: Arrivals, rules: AssemblyRules, waited_s: float, now: datetime, count: int | None
) -> Decision:
    if count is not None and arrivals.count >= count:
        return Whole(because=f"all {count} instances that the archive counts are here")
    told = "no answer yet" if count is None else f"{count} instances"
    if waited_s < rules.archive_count_deadline_s:
        poll_s = min(ARCHIVE_POLL_S, rules.archive_count_deadline_s - waited_s)
        return Wait(until=now + timedelta(seconds=poll_s), because=f"the archive's own count: {told}")
    if count is None:
        return Whole(because="the archive did not tell its count before the deadline; the other rules are met")
    return Lacking(missing=f"{count - arrivals.count} of the {count} instances that the archive counts")


def _rules_of(arrivals: Arrivals, rules: AssemblyRules) -> list[_Rule]:
    instances = arrivals.instances
    modalities = {arrived.facts.modality for arrived in instances}
    found: list[_Rule] = []
    if modalities & PROJECTION_MODALITIES:
        found.append(_Rule(name="projection", quiet_s=rules.projection_quiet_s, deadline_s=0))
    if "MG" in modalities:
        views = [arrived.facts for arrived in instances if arrived.facts.modality == "MG"]
        missing = missing_mammography_views(views, arrivals.count)
        found.append(
            _Rule(
                name="mammography",
                quiet_s=rules.mammography_quiet_s,
                deadline_s=rules.mammography_deadline_s,
                missing=missing,
            )
        )
    if modalities & {"CT", "MR", "PT"}:
        missing = missing_slices(instances)
        found.append(_Rule(name="slices", quiet_s=rules.ct_quiet_s, deadline_s=rules.ct_deadline_s, missing=missing))
    return found or [_Rule(name="other", quiet_s=rules.other_quiet_s, deadline_s=0)]


def _names(kinds: Sequence[_Rule]) -> str:
    return " and ".join(rule.name for rule in kinds)


def missing_mammography_views(images: Sequence[InstanceFacts], study_count: int) -> str | None:
    """Which of the expected views are missing, or None.

    The first of these that the study gives decides: its own count (Number of Study Related Instances, which counts
    objects of every modality); the size of its acquisitions (Images in Acquisition); the standard views, of one side
    only where the request names one side and nothing of the other has come.

    Parameters
    ----------
    images : sequence of InstanceFacts
        The study's mammograms.
    study_count : int
        All instances of the study.
    """
    expected = max((facts.images_expected or 0 for facts in images), default=0)
    if expected:
        return None if study_count >= expected else f"{expected - study_count} of {expected} instances"
    if images and all((facts.images_in_acquisition or 0) > 1 for facts in images):
        return _missing_of_acquisitions(images)
    # A view with a modifier (spot, magnified, rolled, implant displaced) is taken beside the ordinary one and does not
    # show the whole breast; models refuse it too (`inference.intended_use`).
    shown = {f"{facts.laterality}-{facts.view}" for facts in images if not facts.view_modifiers}
    missing = [view for view in _expected_views(images) if view not in shown]
    return ", ".join(missing) if missing else None


def _missing_of_acquisitions(images: Sequence[InstanceFacts]) -> str | None:
    """How many images the acquisitions lack; 1 image in each says nothing of the study and is not asked here."""
    here = Counter(facts.acquisition_number for facts in images)
    sizes = {facts.acquisition_number: facts.images_in_acquisition or 0 for facts in images}
    lacking = sum(max(0, size - here[number]) for number, size in sizes.items())
    return f"{lacking} of {sum(sizes.values())} images of the acquisition" if lacking else None


def _expected_views(images: Sequence[InstanceFacts]) -> tuple[str, ...]:
    """The four standard views, or those of the one side that the request names and that alone has come."""
    asked = {facts.requested_side for facts in images} - {RequestedSide.UNSAID}
    for side in (RequestedSide.LEFT, RequestedSide.RIGHT):
        if asked and asked <= {side, RequestedSide.ONE} and {facts.laterality for facts in images} == {side.value}:
            return tuple(view for view in STANDARD_MAMMOGRAPHY_VIEWS if view.startswith(f"{side}-"))
    return STANDARD_MAMMOGRAPHY_VIEWS


def missing_slices(instances: Sequence[ArrivedInstance]) -> str | None:
    """Where the slices of a series are not contiguous, or None.

    Slices are compared within a series and orientation by their distance along the normal (PS3.3 C.7.6.2.1.1).
    """
    gaps = [
        f"series {series_uid}: {gap}"
        for series_uid, positions in _positions_by_series(instances).items()
        if (gap := _gap(positions))
    ]
    return "; ".join(gaps) if gaps else None


def _positions_by_series(instances: Sequence[ArrivedInstance]) -> Mapping[SeriesUid, list[float]]:
    stacks: dict[tuple[SeriesUid, tuple[float, ...] | None], list[float]] = {}
    for arrived in instances:
        if arrived.facts.position_mm is not None:
            stacks.setdefault((arrived.series_uid, arrived.facts.normal), []).append(arrived.facts.position_mm)
    # A localizer or a reformat within the series is a stack of its own; only the largest stack must be contiguous.
    largest: dict[SeriesUid, list[float]] = {}
    for (series_uid, _normal), positions in stacks.items():
        if len(positions) > len(largest.get(series_uid, ())):
            largest[series_uid] = sorted(positions)
    return largest


def _gap(positions: Sequence[float]) -> str | None:
    steps = [(low, high) for low, high in pairwise(positions) if high - low > SAME_POSITION_MM]
    if not steps:
        return None
    usual_mm = median_low(high - low for low, high in steps)
    wide = [(low, high) for low, high in steps if high - low > GAP_FACTOR * usual_mm]
    if not wide:
        return None
    lost = sum(round((high - low) / usual_mm) - 1 for low, high in wide)
    low, high = wide[0]
    return f"{lost} slice(s), first between {low:.2f} and {high:.2f} mm (usual step {usual_mm:.2f} mm)"

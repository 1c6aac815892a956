"""What versions of models did in service, counted by the database: no findings are opened, no job becomes an object.

Asked by `dicom_node.monitoring`. The unit is the study: of each study the newest job of a version that was queued in
the span counts; jobs whose earlier result stood (UNCHANGED) or that were overtaken (OUTDATED) do not. What the figures
mean and which are defects is decided in `monitoring`; truth is entered by `truths`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from dicom_node.ledger.schema import delivery, job, label_score, result_object, result_set, study, truth
from dicom_node.states import DeliveryState, JobRole, JobState, Reading
from inference.refusals import Reason

_PASSED_OVER = (JobState.UNCHANGED, JobState.OUTDATED)
_OPEN = (JobState.QUEUED, JobState.RUNNING)
_LEFT = (DeliveryState.CONFIRMED, DeliveryState.SENT)
_REPORTS = ("sr", "negative_sr")
_PICTURES = ("overlay", "status_page")


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One version in one role: what is counted together."""

    model_name: str
    model_version: str
    role: JobRole

    @property
    def reference(self) -> str:
        """``name@version``."""
        return f"{self.model_name}@{self.model_version}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """From `begin` until before `end`, UTC."""

    begin: datetime
    end: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdicts:
    """Analysed studies, and those of them in which anything was reported."""

    analysed: int
    positive: int


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelCount:
    """Studies that a label was judged in, and those in which it is present."""

    studies: int
    present: int


def lines(tx: sa.Connection, span: Span) -> tuple[Line, ...]:
    """Every version and role that a study was queued for, by name."""
    columns = (job.c.model_name, job.c.model_version, job.c.role)
    query = sa.select(*columns).where(*_within(span)).distinct().order_by(*columns)
    return tuple(Line(model_name=name, model_version=version, role=JobRole(role)) for name, version, role in
                 tx.execute(query))  # fmt: skip


def ends(tx: sa.Connection, line: Line, span: Span) -> dict[tuple[JobState, Reason | None], int]:
    """Studies by the state of their job and, where it was refused, the reason."""
    counted = _counted(line, span)
    query = (
        sa.select(job.c.state, job.c.refusal_reason, sa.func.count())
        .join(counted, counted.c.id == job.c.id)
        .group_by(job.c.state, job.c.refusal_reason)
    )
    return {(JobState(state), Reason(reason) if reason else None): count for state, reason, count in tx.execute(query)}


def withdrawn(tx: sa.Connection, line: Line, span: Span) -> int:
    """Studies whose results a person withdrew after they were queued."""
    counted = _counted(line, span)
    query = (
        sa.select(sa.func.count())
        .select_from(job.join(counted, counted.c.id == job.c.id).join(study, study.c.study_uid == job.c.study_uid))
        .where(study.c.retracted_at >= job.c.queued_at)
    )
    return tx.execute(query).scalar_one()


def verdicts(tx: sa.Connection, line: Line, span: Span) -> Verdicts:
    """How many studies were analysed, and in how many of them something was reported."""
    counted = _counted(line, span)
    query = (
        sa.select(job.c.positive, sa.func.count())
        .join(counted, counted.c.id == job.c.id)
        .where(job.c.state == JobState.SUCCEEDED)
        .group_by(job.c.positive)
    )
    found = {bool(positive): count for positive, count in tx.execute(query)}
    return Verdicts(analysed=sum(found.values()), positive=found.get(True, 0))


def labels(tx: sa.Connection, line: Line, span: Span) -> dict[str, LabelCount]:
    """For each label of the version: in how many studies it was judged, and in how many it is present."""
    counted = _counted(line, span)
    query = (
        sa.select(label_score.c.label, label_score.c.present, sa.func.count())
        .select_from(label_score.join(job, job.c.id == label_score.c.job_id).join(counted, counted.c.id == job.c.id))
        .where(job.c.state == JobState.SUCCEEDED)
        .group_by(label_score.c.label, label_score.c.present)
        .order_by(label_score.c.label)
    )
    found: dict[str, dict[bool, int]] = {}
    for label, present, count in tx.execute(query):
        found.setdefault(label, {})[bool(present)] = count
    return {
        label: LabelCount(studies=sum(counts.values()), present=counts.get(True, 0)) for label, counts in found.items()
    }


def scores(tx: sa.Connection, line: Line, span: Span, label: str) -> NDArray[np.float64]:
    """(studies,) scores of a label, in no order; only the column of numbers leaves the database."""
    counted = _counted(line, span)
    query = (
        sa.select(label_score.c.score)
        .select_from(label_score.join(job, job.c.id == label_score.c.job_id).join(counted, counted.c.id == job.c.id))
        .where(job.c.state == JobState.SUCCEEDED, label_score.c.label == label)
    )
    return np.fromiter(tx.execute(query).scalars(), dtype=np.float64)


# times ---------------------------------------------------------------------------------------------------------------


def result_seconds(tx: sa.Connection, line: Line, span: Span) -> NDArray[np.float64]:
    """(studies,) seconds from the last image received to the first destination that confirmed the result.

    Where a destination offers no confirmation, to its answer. A study that changed after it was queued has a later last
    image than its job saw, and is left out.
    """
    counted, first = _counted(line, span), _first_left()
    query = (
        sa.select(_microseconds(first.c.at) - _microseconds(study.c.last_received_at))
        .select_from(
            job.join(counted, counted.c.id == job.c.id)
            .join(study, study.c.study_uid == job.c.study_uid)
            .join(first, first.c.job_id == job.c.id)
        )
        .where(first.c.at.is_not(None), job.c.revision == study.c.revision)
    )
    return np.maximum(np.fromiter(tx.execute(query).scalars(), dtype=np.float64) / 1e6, 0.0)


def timed_seconds(tx: sa.Connection, line: Line, span: Span, timing: str) -> NDArray[np.float64]:
    """(studies,) seconds of one of the timings that a worker keeps with each job it analysed (`Analysis.timings_s`)."""
    counted = _counted(line, span)
    seconds = job.c.timings_s[timing].as_float()
    query = (
        sa.select(seconds)
        .join(counted, counted.c.id == job.c.id)
        .where(job.c.state == JobState.SUCCEEDED, seconds.is_not(None))
    )
    return np.fromiter(map(float, tx.execute(query).scalars()), dtype=np.float64)


# defects -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class DefectRules:
    """What the settings say of defects.

    Attributes
    ----------
    late_after : timedelta
        From the last image received.
    own_reasons : collection of Reason
        Refusals that are the service's own failure, not the study's.
    with_pictures, with_positive_reports, with_negative_reports : collection of str
        Profiles that write such objects, by name.
    """

    late_after: timedelta
    own_reasons: Collection[Reason]
    with_pictures: Collection[str]
    with_positive_reports: Collection[str]
    with_negative_reports: Collection[str]


def defects(tx: sa.Connection, line: Line, span: Span, rules: DefectRules, now: datetime) -> dict[str, int]:
    """Studies with each defect that rows can show, and under ``any`` those with at least one.

    Keys are the classes as `monitoring.defects` names them.
    """
    counted = _counted(line, span)
    classes = _defective(rules, now, delivered=line.role is JobRole.CHAMPION)
    found = {name: _studies_with(tx, counted, query) for name, query in classes.items()}
    union = sa.union(*classes.values()).subquery()
    found["any"] = _studies_with(tx, counted, sa.select(union.c[0].label("job_id")))
    return found


def _studies_with(tx: sa.Connection, counted: sa.Subquery, defective: sa.Select[int]) -> int:
    having = defective.subquery()
    query = sa.select(sa.func.count()).select_from(counted).where(counted.c.id.in_(sa.select(having.c.job_id)))
    return tx.execute(query).scalar_one()


def _defective(rules: DefectRules, now: datetime, *, delivered: bool) -> dict[str, sa.Select[int]]:
    """Queries for the jobs of each class; nothing of a shadow is delivered, so only its failures are defects."""
    failed = sa.select(job.c.id.label("job_id")).where(_failed(rules))
    left_out = sa.select(job.c.id.label("job_id")).where(job.c.state == JobState.SUCCEEDED)
    found = {
        "Б": failed,
        "Г3": left_out.where(job.c.images_unread > 0),
        "Г4": left_out.where(job.c.incomplete),
    }
    if delivered:
        found["А"] = _late(rules)
        found["Б"] = sa.select(failed.union(_never_left(now - rules.late_after)).subquery().c.job_id)
        found |= _incomplete_sets(rules)
    return found


def _failed(rules: DefectRules) -> sa.ColumnElement[bool]:
    own = sa.and_(job.c.state == JobState.REJECTED, job.c.refusal_reason.in_(list(rules.own_reasons)))
    return sa.or_(job.c.state == JobState.FAILED, own)


def _late(rules: DefectRules) -> sa.Select[int]:
    first = _first_left()
    took = _microseconds(first.c.at) - _microseconds(study.c.last_received_at)
    return (
        sa.select(job.c.id.label("job_id"))
        .join(study, study.c.study_uid == job.c.study_uid)
        .join(first, first.c.job_id == job.c.id)
        .where(job.c.revision == study.c.revision, took > rules.late_after // timedelta(microseconds=1))
    )


def _never_left(before: datetime) -> sa.Select[int]:
    """Queued before, and by now neither ended nor told to any destination."""
    first = _first_left()
    waiting = sa.or_(job.c.state.in_(_OPEN), sa.and_(first.c.job_id.is_not(None), first.c.at.is_(None)))
    return (
        sa.select(job.c.id.label("job_id"))
        .outerjoin(first, first.c.job_id == job.c.id)
        .where(job.c.queued_at < before, waiting)
    )


def _incomplete_sets(rules: DefectRules) -> dict[str, sa.Select[int]]:
    """Jobs with a result set that lacks, or doubles, what its profile promises."""
    reports, pictures = _objects(_REPORTS), _objects(_PICTURES)
    promised = sa.or_(
        sa.and_(job.c.positive, result_set.c.profile.in_(list(rules.with_positive_reports))),
        sa.and_(sa.not_(job.c.positive), result_set.c.profile.in_(list(rules.with_negative_reports))),
    )
    sets = (
        sa.select(job.c.id.label("job_id"))
        .join(result_set, result_set.c.job_id == job.c.id)
        .where(result_set.c.kind == "result", job.c.state == JobState.SUCCEEDED)
    )
    return {
        "В1": sets.where(result_set.c.profile.in_(list(rules.with_pictures)), pictures == 0),
        "В2": sets.where(promised, reports == 0),
        "В3": sets.where(reports > 1),
    }


def _objects(roles: Sequence[str]) -> sa.ScalarSelect[int]:
    return (
        sa.select(sa.func.count())
        .where(result_object.c.result_set_id == result_set.c.id, result_object.c.role.in_(roles))
        .correlate(result_set)
        .scalar_subquery()
    )


def _first_left() -> sa.Subquery:
    """For each job with deliveries, when the first of them was confirmed or finally sent; null where none was."""
    left = sa.case((delivery.c.state.in_(_LEFT), delivery.c.finished_at))
    return (
        sa.select(result_set.c.job_id, sa.func.min(left).label("at"))
        .join(delivery, delivery.c.result_set_id == result_set.c.id)
        .where(result_set.c.kind == "result")
        .group_by(result_set.c.job_id)
        .subquery()
    )


# the node as a whole -------------------------------------------------------------------------------------------------


def arrivals(tx: sa.Connection, span: Span) -> dict[tuple[str, str], int]:
    """Studies that began to arrive in the span, by outcome (their state while they have none) and its reason."""
    outcome = sa.func.coalesce(study.c.outcome, study.c.state)
    query = (
        sa.select(outcome, study.c.outcome_reason, sa.func.count())
        .where(study.c.first_received_at >= span.begin, study.c.first_received_at < span.end)
        .group_by(outcome, study.c.outcome_reason)
    )
    return {(str(state), why or ""): count for state, why, count in tx.execute(query)}


# truth ---------------------------------------------------------------------------------------------------------------


def agreement(tx: sa.Connection, line: Line, span: Span) -> dict[tuple[Reading, bool | None], int]:
    """Studies with a reading, by reading and what the version said: present, not, or None where it did not speak.

    A reading of the whole study is held against whether anything was reported, one of a label against that label.
    """
    read = _read(line, span).subquery()
    query = sa.select(read.c.reading, read.c.said, sa.func.count()).group_by(read.c.reading, read.c.said)
    return {(Reading(reading), None if said is None else bool(said)): n for reading, said, n in tx.execute(query)}


def hits(tx: sa.Connection, line: Line, span: Span) -> NDArray[np.bool_]:
    """(positive readings,) whether the version said so too, in the order in which the radiologists read."""
    read = _read(line, span).subquery()
    query = (
        sa.select(read.c.said)
        .where(read.c.reading == Reading.POSITIVE, read.c.said.is_not(None))
        .order_by(read.c.read_at, read.c.id)
    )
    return np.fromiter(map(bool, tx.execute(query).scalars()), dtype=np.bool_)


def rules_of_readings(tx: sa.Connection, line: Line, span: Span) -> Mapping[str, int]:
    """By which rule readings were decided, with how many there are of each."""
    read = _read(line, span).subquery()
    query = sa.select(read.c.rule, sa.func.count()).group_by(read.c.rule).order_by(read.c.rule)
    return {rule: count for rule, count in tx.execute(query)}  # noqa: C416  rows are no pairs to mypy


def _read(line: Line, span: Span) -> sa.Select[tuple[int, str, str, int, bool | None]]:
    counted = _counted(line, span)
    of_label = sa.and_(label_score.c.job_id == job.c.id, label_score.c.label == truth.c.label)
    spoken = sa.case((truth.c.label == "", job.c.positive), else_=label_score.c.present)
    said = sa.case((job.c.state == JobState.SUCCEEDED, spoken))
    return (
        sa.select(truth.c.id, truth.c.reading, truth.c.rule, truth.c.read_at, said.label("said"))
        .select_from(
            job.join(counted, counted.c.id == job.c.id)
            .join(truth, sa.and_(truth.c.study_uid == job.c.study_uid, truth.c.is_current))
            .outerjoin(label_score, of_label)
        )
        .where(sa.or_(truth.c.label == "", label_score.c.job_id.is_not(None)))
    )


# what counts ---------------------------------------------------------------------------------------------------------


def _counted(line: Line, span: Span) -> sa.Subquery:
    """The id of each study's newest job of the version that was queued in the span and not passed over."""
    return (
        sa.select(sa.func.max(job.c.id).label("id"))
        .where(
            job.c.model_name == line.model_name,
            job.c.model_version == line.model_version,
            job.c.role == line.role,
            job.c.state.not_in(_PASSED_OVER),
            *_within(span),
        )
        .group_by(job.c.study_uid)
        .subquery()
    )


def _within(span: Span) -> tuple[sa.ColumnElement[bool], ...]:
    return (job.c.queued_at >= span.begin, job.c.queued_at < span.end)


def _microseconds(time: sa.ColumnElement[datetime]) -> sa.ColumnElement[int]:
    return sa.type_coerce(time, sa.BigInteger)

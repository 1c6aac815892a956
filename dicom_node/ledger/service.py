"""What versions of models did in service, counted by the database: no findings are opened, no job becomes an object.

Asked by `dicom_node.monitoring`. The unit is the study: in a stretch of time each study counts once for a version, by
the newest of its jobs that was queued then; jobs whose earlier result stood (UNCHANGED) or that were overtaken
(OUTDATED) do not count. `gathered` writes one plain row for each into a temporary table, which the figures of the
stretch and of its days are then taken from. What they mean and which are defects is decided in `monitoring`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from dicom_node.ledger.schema import (
    UtcTime,
    delivery,
    job,
    label_score,
    result_object,
    result_set,
    study,
    truth,
)
from dicom_node.states import DeliveryState, JobRole, JobState, Reading
from inference.findings import Findings, Presence
from inference.refusals import Reason

_PASSED_OVER = (JobState.UNCHANGED, JobState.OUTDATED)
_OPEN = (JobState.QUEUED, JobState.RUNNING)
_LEFT = (DeliveryState.CONFIRMED, DeliveryState.SENT)
_REPORTS = ("sr", "negative_sr")
_PICTURES = ("overlay", "status_page")

# Columns of the temporary table by the class of defect that they say, as `monitoring.defects` names them.
_DEFECTS: Mapping[str, str] = {
    "А": "late", "Б": "no_result", "В1": "no_picture", "В2": "no_report", "В3": "two_reports", "Г3": "unread",
    "Г4": "incomplete",
}  # fmt: skip
ANY = "any"


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
class Ended:
    """Studies whose job is in one state for one reason, and what more is true of how many of them.

    `defects` has a count for each class that rows can show, and under `ANY` those with at least one.
    """

    state: JobState
    reason: Reason | None
    studies: int
    positive: int
    withdrawn: int
    defects: Mapping[str, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelCount:
    """Studies that a label was judged in, and those in which it is present."""

    studies: int
    present: int


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


_row = sa.Table(
    "monitored",
    sa.MetaData(),
    sa.Column("job_id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("line", sa.Integer, nullable=False),
    sa.Column("study_uid", sa.Text, nullable=False),
    sa.Column("queued_at", UtcTime, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("reason", sa.Text),
    sa.Column("positive", sa.Boolean),
    sa.Column("withdrawn", sa.Boolean, nullable=False),
    sa.Column("result_us", sa.BigInteger),  # last image received to first destination
    sa.Column("model", sa.Float),  # timings of the worker, seconds
    sa.Column("total", sa.Float),
    *(sa.Column(name, sa.Boolean, nullable=False) for name in _DEFECTS.values()),
    prefixes=["TEMPORARY"],
)
sa.Index("monitored_by_time", _row.c.line, _row.c.queued_at)


def lines(tx: sa.Connection, span: Span) -> tuple[Line, ...]:
    """Every version and role that a study was queued for, by name."""
    columns = (job.c.model_name, job.c.model_version, job.c.role)
    query = sa.select(*columns).where(*_within(job, span)).distinct().order_by(*columns)
    return tuple(
        Line(model_name=name, model_version=version, role=JobRole(role)) for name, version, role in tx.execute(query)
    )


def arrivals(tx: sa.Connection, span: Span) -> dict[tuple[str, str], int]:
    """Studies that began to arrive in the span, by outcome (their state while they have none) and its reason."""
    outcome = sa.func.coalesce(study.c.outcome, study.c.state)
    query = (
        sa.select(outcome, study.c.outcome_reason, sa.func.count())
        .where(study.c.first_received_at >= span.begin, study.c.first_received_at < span.end)
        .group_by(outcome, study.c.outcome_reason)
    )
    return {(str(state), why or ""): count for state, why, count in tx.execute(query)}


@contextmanager
def gathered(
    tx: sa.Connection, counted: Sequence[Line], span: Span, rules: DefectRules, now: datetime
) -> Iterator[Gathered]:
    """Write down what counts in the span, for as long as it is looked at; the ledger's own tables stay as they are."""
    _row.create(tx)
    for number, line in enumerate(counted):
        tx.execute(_insert(number, line, span, rules, now))
    yield Gathered(tx, counted)
    _row.drop(tx)  # after a fault the transaction takes it back


class Gathered:
    """The studies that count, one row for each version that they were queued for.

    Parameters
    ----------
    tx : Connection
        The transaction in which they were gathered.
    counted : sequence of Line
        For whom.
    """

    def __init__(self, tx: sa.Connection, counted: Sequence[Line]) -> None:
        self._tx = tx
        self._numbers = {line: number for number, line in enumerate(counted)}

    def ends(self, line: Line, span: Span) -> tuple[Ended, ...]:
        """How studies ended, by state and reason."""
        defects = [_row.c[name] for name in _DEFECTS.values()]
        flags = [_row.c.positive, _row.c.withdrawn, sa.or_(*defects), *defects]
        query = (
            sa.select(_row.c.state, _row.c.reason, sa.func.count(), *(_sum(flag) for flag in flags))
            .where(*self._of(line, span))
            .group_by(_row.c.state, _row.c.reason)
            .order_by(_row.c.state, _row.c.reason)
        )
        return tuple(
            Ended(
                state=JobState(state),
                reason=Reason(reason) if reason else None,
                studies=studies,
                positive=positive,
                withdrawn=withdrawn,
                defects=dict(zip((ANY, *_DEFECTS), counts, strict=True)),
            )
            for state, reason, studies, positive, withdrawn, *counts in self._tx.execute(query)
        )

    def labels(self, line: Line, span: Span) -> dict[str, LabelCount]:
        """For each label of the version: in how many studies it was judged, and in how many it is present."""
        query = (
            sa.select(label_score.c.label, sa.func.count(), _sum(label_score.c.present))
            .join(_row, _row.c.job_id == label_score.c.job_id)
            .where(*self._of(line, span), _row.c.state == JobState.SUCCEEDED)
            .group_by(label_score.c.label)
            .order_by(label_score.c.label)
        )
        return {label: LabelCount(studies=count, present=present) for label, count, present in self._tx.execute(query)}

    def scores(self, line: Line, span: Span, label: str) -> NDArray[np.float64]:
        """(studies,) scores of a label, in no order; only the column of numbers leaves the database."""
        query = (
            sa.select(label_score.c.score)
            .join(_row, _row.c.job_id == label_score.c.job_id)
            .where(*self._of(line, span), _row.c.state == JobState.SUCCEEDED, label_score.c.label == label)
        )
        return self._numbers_of(query)

    def result_seconds(self, line: Line, span: Span) -> NDArray[np.float64]:
        """(studies,) seconds from the last image received to the first destination that confirmed the result.

        Where a destination offers no confirmation, to its answer. A study that changed after it was queued has a later
        last image than its job saw, and is left out.
        """
        query = sa.select(_row.c.result_us).where(*self._of(line, span), _row.c.result_us.is_not(None))
        return np.maximum(self._numbers_of(query) / 1e6, 0.0)

    def timed_seconds(self, line: Line, span: Span, timing: str) -> NDArray[np.float64]:
        """(studies,) seconds of a timing that a worker keeps of what it analysed: model or total (`Analysis`)."""
        seconds = _row.c[timing]
        which = (*self._of(line, span), _row.c.state == JobState.SUCCEEDED, seconds.is_not(None))
        return self._numbers_of(sa.select(seconds).where(*which))

    def agreement(self, line: Line, span: Span) -> dict[tuple[Reading, bool | None], int]:
        """Studies with a reading, by reading and what the version said: present, not, or None where it did not speak.

        A reading of the whole study is held against whether anything was reported, one of a label against that label.
        """
        read = self._read(line, span).subquery()
        query = sa.select(read.c.reading, read.c.said, sa.func.count()).group_by(read.c.reading, read.c.said)
        return {
            (Reading(reading), None if said is None else bool(said)): count
            for reading, said, count in self._tx.execute(query)
        }

    def hits(self, line: Line, span: Span) -> NDArray[np.bool_]:
        """(positive readings,) whether the version said so too, in the order in which the radiologists read."""
        read = self._read(line, span).subquery()
        query = (
            sa.select(read.c.said)
            .where(read.c.reading == Reading.POSITIVE, read.c.said.is_not(None))
            .order_by(read.c.read_at, read.c.id)
        )
        return np.fromiter(map(bool, self._tx.execute(query).scalars()), dtype=np.bool_)

    def rules_of_readings(self, line: Line, span: Span) -> dict[str, int]:
        """By which rule readings were decided, with how many there are of each."""
        read = self._read(line, span).subquery()
        query = sa.select(read.c.rule, sa.func.count()).group_by(read.c.rule).order_by(read.c.rule)
        return {rule: count for rule, count in self._tx.execute(query)}  # noqa: C416  rows are no pairs to mypy

    def _read(self, line: Line, span: Span) -> sa.Select[int, str, str, datetime, bool | None]:
        of_label = sa.and_(label_score.c.job_id == _row.c.job_id, label_score.c.label == truth.c.label)
        spoken = sa.case((truth.c.label == "", _row.c.positive), else_=label_score.c.present)
        said = sa.case((_row.c.state == JobState.SUCCEEDED, spoken))
        return (
            sa.select(truth.c.id, truth.c.reading, truth.c.rule, truth.c.read_at, said.label("said"))
            .select_from(
                _row.join(truth, sa.and_(truth.c.study_uid == _row.c.study_uid, truth.c.is_current)).outerjoin(
                    label_score, of_label
                )
            )
            .where(*self._of(line, span), sa.or_(truth.c.label == "", label_score.c.job_id.is_not(None)))
        )

    def _of(self, line: Line, span: Span) -> tuple[sa.ColumnElement[bool], ...]:
        return (_row.c.line == self._numbers[line], *_within(_row, span))

    def _numbers_of(self, query: sa.Select[float]) -> NDArray[np.float64]:
        return np.fromiter(map(float, self._tx.execute(query).scalars()), dtype=np.float64)


# the row of one study ------------------------------------------------------------------------------------------------


def _insert(number: int, line: Line, span: Span, rules: DefectRules, now: datetime) -> sa.Insert:
    counted = (
        sa.select(sa.func.max(job.c.id).label("id"))
        .where(
            job.c.model_name == line.model_name,
            job.c.model_version == line.model_version,
            job.c.role == line.role,
            job.c.state.not_in(_PASSED_OVER),
            *_within(job, span),
        )
        .group_by(job.c.study_uid)
        .subquery()
    )
    first = _first_left()
    took = sa.case((job.c.revision == study.c.revision, _microseconds(first) - _microseconds(study.c.last_received_at)))
    columns: dict[str, sa.ColumnElement[object]] = {
        "job_id": job.c.id,
        "line": sa.literal(number),
        "study_uid": job.c.study_uid,
        "queued_at": job.c.queued_at,
        "state": job.c.state,
        "reason": job.c.refusal_reason,
        "positive": job.c.positive,
        "withdrawn": sa.func.coalesce(study.c.retracted_at >= job.c.queued_at, sa.false()),
        "result_us": took,
        "model": job.c.timings_s["model"].as_float(),
        "total": job.c.timings_s["total"].as_float(),
        **_defects(took, first, rules, now, delivered=line.role is JobRole.CHAMPION),
    }
    rows = sa.select(*(value.label(name) for name, value in columns.items())).select_from(
        sa.join(counted, job, job.c.id == counted.c.id).join(study, study.c.study_uid == job.c.study_uid)
    )
    return _row.insert().from_select(list(columns), rows)


def _defects(
    took_us: sa.ColumnElement[int | None],
    first: sa.ScalarSelect[datetime],
    rules: DefectRules,
    now: datetime,
    *,
    delivered: bool,
) -> dict[str, sa.ColumnElement[object]]:
    """Whether each class is true of the study; nothing of a shadow is delivered, so only its failures are defects."""
    analysed = job.c.state == JobState.SUCCEEDED
    own = sa.and_(job.c.state == JobState.REJECTED, job.c.refusal_reason.in_(list(rules.own_reasons)))
    found: dict[str, sa.ColumnElement[bool]] = {
        "late": sa.false(),
        "no_result": sa.or_(job.c.state == JobState.FAILED, own),
        "no_picture": sa.false(),
        "no_report": sa.false(),
        "two_reports": sa.false(),
        "unread": sa.and_(analysed, job.c.images_unread > 0),
        "incomplete": sa.and_(analysed, job.c.incomplete),
    }
    if delivered:
        never = sa.and_(_sets().exists(), first.is_(None))
        waits = sa.and_(job.c.queued_at < now - rules.late_after, sa.or_(job.c.state.in_(_OPEN), never))
        found["late"] = took_us > rules.late_after // timedelta(microseconds=1)
        found["no_result"] = sa.or_(found["no_result"], waits)
        found |= {name: sa.and_(analysed, wrong) for name, wrong in _faulty_sets(rules).items()}
    return {name: sa.func.coalesce(value, sa.false()) for name, value in found.items()}


def _faulty_sets(rules: DefectRules) -> dict[str, sa.ColumnElement[bool]]:
    """Whether the job has a result set that lacks, or doubles, what its profile promises."""
    reports, pictures = _objects(_REPORTS), _objects(_PICTURES)
    promised = sa.or_(
        sa.and_(job.c.positive, result_set.c.profile.in_(list(rules.with_positive_reports))),
        sa.and_(sa.not_(job.c.positive), result_set.c.profile.in_(list(rules.with_negative_reports))),
    )
    return {
        "no_picture": _sets().where(result_set.c.profile.in_(list(rules.with_pictures)), pictures == 0).exists(),
        "no_report": _sets().where(promised, reports == 0).exists(),
        "two_reports": _sets().where(reports > 1).exists(),
    }


def _sets() -> sa.Select[int]:
    """The result sets that the job wrote; none when the same result stood already."""
    return (
        sa.select(result_set.c.id).where(result_set.c.job_id == job.c.id, result_set.c.kind == "result").correlate(job)
    )


def _objects(roles: Sequence[str]) -> sa.ScalarSelect[int]:
    return (
        sa.select(sa.func.count())
        .where(result_object.c.result_set_id == result_set.c.id, result_object.c.role.in_(roles))
        .correlate(result_set)
        .scalar_subquery()
    )


def _first_left() -> sa.ScalarSelect[datetime]:
    """When the first delivery of the job's result was confirmed or finally sent; null where none was."""
    return (
        sa.select(sa.func.min(delivery.c.finished_at))
        .select_from(result_set.join(delivery, delivery.c.result_set_id == result_set.c.id))
        .where(result_set.c.job_id == job.c.id, result_set.c.kind == "result", delivery.c.state.in_(_LEFT))
        .correlate(job)
        .scalar_subquery()
    )


def _within(table: sa.FromClause, span: Span) -> tuple[sa.ColumnElement[bool], ...]:
    return (table.c.queued_at >= span.begin, table.c.queued_at < span.end)


def _sum(flag: sa.ColumnElement[bool]) -> sa.ColumnElement[int]:
    return sa.func.coalesce(sa.func.sum(sa.case((flag, 1), else_=0)), 0)


def _microseconds(time: sa.ColumnElement[datetime]) -> sa.ColumnElement[int]:
    return sa.type_coerce(time, sa.BigInteger)


def set_label_scores(tx: sa.Connection, job_id: int, findings: Findings | None) -> None:
    """What monitoring reads without opening findings: the study's score of each label."""
    tx.execute(label_score.delete().where(label_score.c.job_id == job_id))
    rows = [
        {"job_id": job_id, "label": said.label, "score": said.score, "present": said.presence is Presence.PRESENT}
        for said in (findings.of_study() if findings else ())
    ]
    if rows:
        tx.execute(label_score.insert(), rows)

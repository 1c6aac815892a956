"""Jobs of one version as a whole: how long the queue is, what is dropped from it, and what a version said of studies.

Asked by routing, by the coordinator's housekeeping and by `radnode models compare`. How a single job is claimed and
ended is `jobs`, alike for champions and shadows.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

import sqlalchemy as sa

from dicom_node.ledger.jobs import Job, from_row
from dicom_node.ledger.schema import job
from dicom_node.states import JobRole, JobState
from inference.findings import StudyUid

_ENDED = (JobState.SUCCEEDED, JobState.REJECTED)


def queue_length(tx: sa.Connection) -> int:
    """How many jobs wait for a worker, of champions and shadows together."""
    return tx.execute(sa.select(sa.func.count()).where(job.c.state == JobState.QUEUED)).scalar_one()


def waiting(tx: sa.Connection, *, queued_before: datetime, limit: int) -> tuple[Job, ...]:
    """Shadows' jobs that no worker has taken since, the oldest first."""
    query = (
        sa.select(job)
        .where(job.c.state == JobState.QUEUED, job.c.role == JobRole.SHADOW, job.c.queued_at < queued_before)
        .order_by(job.c.queued_at)
        .limit(limit)
    )
    return tuple(map(from_row, tx.execute(query)))


def waiting_of(tx: sa.Connection, model_name: str, model_version: str) -> tuple[Job, ...]:
    """The jobs of one shadow that no worker has taken yet."""
    query = sa.select(job).where(*_waiting(model_name, model_version, JobRole.SHADOW))
    return tuple(map(from_row, tx.execute(query)))


def studies_waiting_for(tx: sa.Connection, model_name: str, model_version: str) -> tuple[StudyUid, ...]:
    """Studies whose result this version is to give, and no worker has begun."""
    query = sa.select(job.c.study_uid).where(*_waiting(model_name, model_version, JobRole.CHAMPION)).distinct()
    return tuple(tx.execute(query).scalars())


def withdraw_waiting(tx: sa.Connection, study_uid: StudyUid, model_name: str, model_version: str, at: datetime) -> bool:
    """End the study's job of a version that serves no more; False when a worker has begun it by now."""
    which = (job.c.study_uid == study_uid, *_waiting(model_name, model_version, JobRole.CHAMPION))
    return tx.execute(job.update().where(*which).values(state=JobState.OUTDATED, finished_at=at)).rowcount > 0


def _waiting(model_name: str, model_version: str, role: JobRole) -> tuple[sa.ColumnElement[bool], ...]:
    return (
        job.c.state == JobState.QUEUED,
        job.c.role == role,
        job.c.model_name == model_name,
        job.c.model_version == model_version,
    )


def shed(tx: sa.Connection, job_id: int, *, at: datetime) -> bool:
    """Drop a shadow's job from the queue; False when a worker has it by now."""
    mine = (job.c.id == job_id, job.c.role == JobRole.SHADOW, job.c.state == JobState.QUEUED)
    return tx.execute(job.update().where(*mine).values(state=JobState.SHED, finished_at=at)).rowcount == 1


def newest_of_version(
    tx: sa.Connection, model_name: str, model_version: str, *, since: datetime | None = None
) -> Iterator[Job]:
    """Of each study the newest job that this version ended by speaking or by refusing, champion or shadow, by id."""
    which = [job.c.model_name == model_name, job.c.model_version == model_version, job.c.state.in_(_ENDED)]
    if since is not None:
        which.append(job.c.finished_at >= since)
    newest = sa.select(sa.func.max(job.c.id)).where(*which).group_by(job.c.study_uid)
    for row in tx.execute(sa.select(job).where(job.c.id.in_(newest)).order_by(job.c.id)):
        yield from_row(row)


def count_of_version(tx: sa.Connection, model_name: str, model_version: str) -> dict[tuple[JobRole, JobState], int]:
    """How many jobs of a version are in each state, by role."""
    query = (
        sa.select(job.c.role, job.c.state, sa.func.count())
        .where(job.c.model_name == model_name, job.c.model_version == model_version)
        .group_by(job.c.role, job.c.state)
    )
    return {(JobRole(role), JobState(state)): count for role, state, count in tx.execute(query)}

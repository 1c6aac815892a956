"""Jobs: one model on one study revision, claimed by lease, committed stage by stage.

The coordinator adds them, workers claim and finish them, the supervisor gives back what a dead worker held. A worker
whose lease has gone to another finds out at its next commit, because every change names the lease's owner.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa

from dicom_node.ledger import service
from dicom_node.ledger.schema import job
from dicom_node.states import JobRole, JobStage, JobState
from inference.findings import Findings, StudyUid
from inference.refusals import Reason, Refusal

MAX_ATTEMPTS = 3  # a job that ended its worker so often is poison
MAX_INTERRUPTIONS = 20  # whole-node stops do not count as attempts, but not for ever

_ONCE_FAILED = sa.or_(job.c.attempts > 0, job.c.interruptions > MAX_ATTEMPTS)
_TOO_OFTEN = sa.or_(job.c.attempts >= MAX_ATTEMPTS, job.c.interruptions >= MAX_INTERRUPTIONS)


class LeaseLost(Exception):
    """Another worker holds this job now; what this one did for it is dropped."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NewJob:
    """A job to be queued."""

    study_uid: StudyUid
    revision: int
    model_name: str
    model_version: str
    model_digest: str
    role: JobRole = JobRole.CHAMPION
    route: str
    destinations: tuple[str, ...]
    instance_ids: tuple[int, ...]
    sources_digest: str
    incomplete: bool
    priority: int
    refusal: Refusal | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A job as the ledger knows it. `refusal` set while queued: nothing to infer, the reason is to be written."""

    id: int
    study_uid: StudyUid
    revision: int
    model_name: str
    model_version: str
    model_digest: str
    role: JobRole
    route: str
    destinations: tuple[str, ...]
    instance_ids: tuple[int, ...]
    sources_digest: str
    incomplete: bool
    priority: int
    state: JobState
    stage: JobStage | None
    stage_at: datetime | None
    attempts: int
    interruptions: int
    max_batch: int | None
    device: str | None
    queued_at: datetime
    finished_at: datetime | None
    lease_owner: str | None
    inputs_digest: str | None
    findings: Findings | None
    content_time: datetime | None
    refusal: Refusal | None
    timings_s: Mapping[str, float]

    @property
    def reference(self) -> str:
        """``name@version`` of the model."""
        return f"{self.model_name}@{self.model_version}"

    @property
    def title(self) -> str:
        """The model as the account of a study calls it: a shadow says that it is one."""
        return f"{self.reference} (shadow)" if self.role is JobRole.SHADOW else self.reference

    @property
    def runs_alone(self) -> bool:
        """Whether it once ended its worker: then it shares neither batch nor process with other studies."""
        return self.attempts > 1 or self.interruptions > MAX_ATTEMPTS


def add(tx: sa.Connection, new: NewJob, now: datetime, *, shed: bool = False) -> None:
    """Queue a job; with `shed` only write down that there was to be one."""
    tx.execute(
        job.insert().values(
            study_uid=new.study_uid,
            revision=new.revision,
            model_name=new.model_name,
            model_version=new.model_version,
            model_digest=new.model_digest,
            role=new.role,
            route=new.route,
            destinations=list(new.destinations),
            instance_ids=list(new.instance_ids),
            sources_digest=new.sources_digest,
            incomplete=new.incomplete,
            priority=new.priority,
            state=JobState.SHED if shed else JobState.QUEUED,
            queued_at=now,
            finished_at=now if shed else None,
            refusal_reason=new.refusal.reason if new.refusal else None,
            refusal_detail=new.refusal.detail if new.refusal else None,
        )
    )


def any_queued(tx: sa.Connection, role: JobRole = JobRole.CHAMPION) -> bool:
    """Whether a job of this role waits for a worker."""
    waiting = sa.select(job.c.id).where(job.c.state == JobState.QUEUED, job.c.role == role)
    return tx.execute(waiting.limit(1)).first() is not None


def alone_since(tx: sa.Connection) -> datetime | None:
    """Since when the oldest job waits that has to run alone; None when there is none. Shadows have no turn to claim."""
    query = sa.select(sa.func.min(job.c.queued_at)).where(
        job.c.state == JobState.QUEUED, job.c.role == JobRole.CHAMPION, _ONCE_FAILED, sa.not_(_TOO_OFTEN)
    )
    since: datetime | None = tx.execute(query).scalar_one()
    return since


def claim(
    tx: sa.Connection,
    *,
    owner: str,
    now: datetime,
    lease_s: float,
    limit: int,
    ageing_s: float,
    alone: bool,
    role: JobRole = JobRole.CHAMPION,
) -> tuple[Job, ...]:
    """Take up to `limit` queued jobs: urgent first, and one step of priority gained per `ageing_s` of waiting.

    The attempt is counted here, before the work. With `alone`, takes at most one job that once ended its worker, and
    nothing else; without, leaves those. What has failed too often is left to `poisonous` and `unwritable`.
    """
    waited_us = sa.type_coerce(now, job.c.queued_at.type) - job.c.queued_at
    rank = job.c.priority + sa.cast(waited_us, sa.Float) / (ageing_s * 1e6)
    lane = _ONCE_FAILED if alone else sa.not_(_ONCE_FAILED)
    query = (
        sa.select(job.c.id)
        .where(job.c.state == JobState.QUEUED, job.c.role == role, lane, sa.not_(_TOO_OFTEN))
        .order_by(rank.desc(), job.c.id)
        .limit(1 if alone else limit)
    )
    if tx.dialect.name == "postgresql":
        query = query.with_for_update(skip_locked=True)
    ids = list(tx.execute(query).scalars())
    if not ids:
        return ()
    tx.execute(
        job.update()
        .where(job.c.id.in_(ids), job.c.state == JobState.QUEUED)
        .values(
            state=JobState.RUNNING,
            stage=JobStage.CLAIMED,
            stage_at=now,
            attempts=job.c.attempts + 1,
            lease_owner=owner,
            lease_until=now + timedelta(seconds=lease_s),
        )
    )
    rows = tx.execute(sa.select(job).where(job.c.id.in_(ids), job.c.lease_owner == owner))
    found = {row.id: from_row(row) for row in rows}
    return tuple(found[job_id] for job_id in ids if job_id in found)


def extend_leases(tx: sa.Connection, *, owner: str, until: datetime) -> None:
    """The worker lives: its leases run on."""
    tx.execute(
        job.update().where(job.c.lease_owner == owner, job.c.state == JobState.RUNNING).values(lease_until=until)
    )


def set_stage(tx: sa.Connection, job_id: int, *, owner: str, stage: JobStage, at: datetime) -> None:
    """The job enters its next stage.

    Raises
    ------
    LeaseLost
        If another worker holds the job.
    """
    _change(tx, job_id, owner, stage=stage, stage_at=at)


def commit_findings(
    tx: sa.Connection,
    job_id: int,
    *,
    owner: str,
    inputs_digest: str | None,
    findings: Findings | None,
    refusal: Refusal | None,
    content_time: datetime,
    timings_s: Mapping[str, float],
    at: datetime,
    images_unread: int = 0,
) -> None:
    """What the model said, or why it did not; a retry encodes exactly this with exactly this content time.

    `images_unread` counts the images that the model should have seen and that were left out.

    Raises
    ------
    LeaseLost
        If another worker holds the job.
    """
    _change(
        tx,
        job_id,
        owner,
        stage=JobStage.ENCODE,
        stage_at=at,
        inputs_digest=inputs_digest,
        findings=findings.to_json() if findings else None,
        findings_digest=findings.digest if findings else None,
        refusal_reason=refusal.reason if refusal else None,
        refusal_detail=refusal.detail if refusal else None,
        content_time=content_time,
        timings_s=dict(timings_s),
        positive=findings.is_positive if findings else None,
        images_unread=images_unread,
    )
    service.set_label_scores(tx, job_id, findings)


def finish(
    tx: sa.Connection,
    job_id: int,
    *,
    owner: str,
    state: JobState,
    at: datetime,
    timings_s: Mapping[str, float],
    refusal: Refusal | None = None,
) -> None:
    """The job has ended.

    Raises
    ------
    LeaseLost
        If another worker holds the job.
    """
    values: dict[str, object] = {"state": state, "finished_at": at, "timings_s": dict(timings_s)}
    if refusal:
        values |= {"refusal_reason": refusal.reason, "refusal_detail": refusal.detail}
    _change(tx, job_id, owner, stage=None, lease_owner=None, lease_until=None, **values)


def put_back(
    tx: sa.Connection, job_id: int, *, owner: str, max_batch: int | None, device: str | None, counts: bool = True
) -> None:
    """Queue the job again: after its worker ran out of device memory (smaller batch, then the CPU) or failed it.

    `counts` is False when nothing is held against the study, for instance because the disk was full.

    Raises
    ------
    LeaseLost
        If another worker holds the job.
    """
    values: dict[str, object] = {} if counts else {"attempts": job.c.attempts - 1}
    _change(
        tx,
        job_id,
        owner,
        state=JobState.QUEUED,
        stage=None,
        lease_owner=None,
        lease_until=None,
        max_batch=max_batch,
        device=device,
        **values,
    )


def _change(tx: sa.Connection, job_id: int, owner: str, **values: object) -> None:
    mine = (job.c.id == job_id, job.c.lease_owner == owner, job.c.state == JobState.RUNNING)
    if tx.execute(job.update().where(*mine).values(**values)).rowcount != 1:
        raise LeaseLost(f"job {job_id} is no longer held by {owner}")


def release(tx: sa.Connection, *, owner_prefix: str, interrupted: bool) -> int:
    """Queue again what owners with this prefix held.

    With `interrupted` (the whole node stopped) the attempt is not held against the study; else (its worker alone died)
    it is, unless the worker held a shadow too: then the shadow alone is blamed.
    """
    mine = (job.c.state == JobState.RUNNING, job.c.lease_owner.startswith(owner_prefix, autoescape=True))
    return _queue_again(tx, mine, interrupted)


def release_expired(tx: sa.Connection, now: datetime) -> int:
    """Queue again what workers held whose lease has run out; counts as an attempt."""
    return _queue_again(tx, (job.c.state == JobState.RUNNING, job.c.lease_until < now), interrupted=False)


def _queue_again(tx: sa.Connection, which: Sequence[sa.ColumnElement[bool]], interrupted: bool) -> int:
    back: dict[str, object] = {"state": JobState.QUEUED, "stage": None, "lease_owner": None, "lease_until": None}
    unblamed = back | {"attempts": job.c.attempts - 1, "interruptions": job.c.interruptions + 1}
    if interrupted:
        return tx.execute(job.update().where(*which).values(**unblamed)).rowcount
    shadowing = sa.select(job.c.lease_owner).where(*which, job.c.role == JobRole.SHADOW)
    owners = list(tx.execute(shadowing).scalars())
    beside = (*which, job.c.role == JobRole.CHAMPION, job.c.lease_owner.in_(owners))
    spared = tx.execute(job.update().where(*beside).values(**unblamed)).rowcount if owners else 0
    return spared + tx.execute(job.update().where(*which).values(**back)).rowcount


def poisonous(tx: sa.Connection) -> tuple[Job, ...]:
    """Queued jobs that have ended their worker too often; they get no further attempt."""
    query = sa.select(job).where(job.c.state == JobState.QUEUED, _TOO_OFTEN, job.c.refusal_reason.is_(None))
    return tuple(map(from_row, tx.execute(query)))


def unwritable(tx: sa.Connection) -> tuple[Job, ...]:
    """Queued jobs that ended their worker too often though only a refusal was to be written: a person must look."""
    query = sa.select(job).where(job.c.state == JobState.QUEUED, _TOO_OFTEN, job.c.refusal_reason.is_not(None))
    return tuple(map(from_row, tx.execute(query)))


def give_up(tx: sa.Connection, job_id: int, *, at: datetime) -> None:
    """End a queued job as FAILED."""
    tx.execute(
        job.update()
        .where(job.c.id == job_id, job.c.state == JobState.QUEUED)
        .values(state=JobState.FAILED, finished_at=at)
    )


def mark_poison(tx: sa.Connection, job_id: int) -> None:
    """Give a poisonous job its refusal; a worker then writes the reason without touching the images again."""
    tx.execute(
        job.update()
        .where(job.c.id == job_id, job.c.state == JobState.QUEUED)
        .values(
            refusal_reason=Reason.POISON,
            refusal_detail="processing ended its worker or exceeded its limits repeatedly",
            attempts=0,
            interruptions=0,
            findings=None,
            findings_digest=None,
            content_time=None,
        )
    )


def running(tx: sa.Connection) -> tuple[Job, ...]:
    """Jobs that a worker holds now."""
    return tuple(map(from_row, tx.execute(sa.select(job).where(job.c.state == JobState.RUNNING))))


def of_study(tx: sa.Connection, study_uid: StudyUid) -> tuple[Job, ...]:
    """All jobs of a study, oldest first."""
    return tuple(map(from_row, tx.execute(sa.select(job).where(job.c.study_uid == study_uid).order_by(job.c.id))))


def newest_of_study(tx: sa.Connection, study_uid: StudyUid) -> tuple[Job, ...]:
    """The newest job of each model on this study; shadows are nobody's result."""
    mine = (found for found in of_study(tx, study_uid) if found.role is JobRole.CHAMPION)
    return tuple({found.model_name: found for found in mine}.values())


def last_ended(tx: sa.Connection, study_uid: StudyUid, model_name: str, *, shadow: str | None = None) -> Job | None:
    """The newest job of this model on this study that gave a result of its own: succeeded or rejected.

    `shadow` is the version of a shadow; its jobs are those of that version alone.
    """
    return _newest(tx, study_uid, model_name, shadow, (JobState.SUCCEEDED, JobState.REJECTED))


def last_begun(tx: sa.Connection, study_uid: StudyUid, model_name: str, *, shadow: str | None = None) -> Job | None:
    """As `last_ended`, or the job that a worker holds now, whichever is newer."""
    return _newest(tx, study_uid, model_name, shadow, (JobState.SUCCEEDED, JobState.REJECTED, JobState.RUNNING))


def _newest(
    tx: sa.Connection, study_uid: StudyUid, model_name: str, shadow: str | None, states: Sequence[JobState]
) -> Job | None:
    query = (
        sa.select(job)
        .where(job.c.study_uid == study_uid, *_line(model_name, shadow), job.c.state.in_(states))
        .order_by(job.c.id.desc())
        .limit(1)
    )
    row = tx.execute(query).first()
    return from_row(row) if row else None


def _line(model_name: str, shadow: str | None) -> tuple[sa.ColumnElement[bool], ...]:
    """Jobs that replace each other: those of a name's champions, or those of one shadow version."""
    if shadow is None:
        return (job.c.model_name == model_name, job.c.role == JobRole.CHAMPION)
    return (job.c.model_name == model_name, job.c.role == JobRole.SHADOW, job.c.model_version == shadow)


def is_overtaken(tx: sa.Connection, old: Job) -> bool:
    """Whether a later revision of the study has a job of the same model: `old` must not replace its result."""
    shadow = old.model_version if old.role is JobRole.SHADOW else None
    query = sa.select(job.c.id).where(
        job.c.study_uid == old.study_uid, *_line(old.model_name, shadow), job.c.revision > old.revision
    )
    return tx.execute(query.limit(1)).first() is not None


def withdraw_queued(tx: sa.Connection, study_uid: StudyUid, before_revision: int, at: datetime) -> int:
    """End jobs of older revisions that no worker has begun: the newer revision makes them pointless."""
    return tx.execute(
        job.update()
        .where(job.c.study_uid == study_uid, job.c.revision < before_revision, job.c.state == JobState.QUEUED)
        .values(state=JobState.OUTDATED, finished_at=at)
    ).rowcount


def queue_again(tx: sa.Connection, job_id: int, now: datetime) -> bool:
    """A person wants this ended job done again; its sources are read afresh."""
    ended = (JobState.FAILED, JobState.REJECTED)
    changed = tx.execute(
        job.update()
        .where(job.c.id == job_id, job.c.state.in_(ended))
        .values(
            state=JobState.QUEUED,
            stage=None,
            attempts=0,
            interruptions=0,
            refusal_reason=None,
            refusal_detail=None,
            findings=None,
            findings_digest=None,
            content_time=None,
            finished_at=None,
            max_batch=None,
            device=None,
            queued_at=now,
        )
    )
    return changed.rowcount == 1


def open_for_unknown_destinations(tx: sa.Connection, known: Collection[str]) -> dict[str, int]:
    """Destinations that the settings no longer name, with how many open jobs were routed to each."""
    open_jobs = sa.select(job.c.destinations).where(job.c.state.in_((JobState.QUEUED, JobState.RUNNING)))
    return dict(Counter(name for names in tx.execute(open_jobs).scalars() for name in names if name not in known))


def count_by_state(tx: sa.Connection) -> dict[tuple[JobRole, JobState], int]:
    """How many jobs of each role are in each state."""
    rows = tx.execute(sa.select(job.c.role, job.c.state, sa.func.count()).group_by(job.c.role, job.c.state))
    return {(JobRole(role), JobState(state)): count for role, state, count in rows}


def from_row(row: sa.Row[tuple[object, ...]]) -> Job:
    """The job of a whole row of the table."""
    values = row._mapping
    plain = {name: values[name] for name in Job.__slots__ if name in values}
    refusal = None
    if values["refusal_reason"]:
        refusal = Refusal(reason=Reason(values["refusal_reason"]), detail=values["refusal_detail"] or "")
    return Job(
        **{
            **plain,
            "destinations": tuple(values["destinations"]),
            "instance_ids": tuple(values["instance_ids"]),
            "role": JobRole(values["role"]),
            "state": JobState(values["state"]),
            "stage": JobStage(values["stage"]) if values["stage"] else None,
            "findings": Findings.from_json(values["findings"]) if values["findings"] else None,
            "refusal": refusal,
            "timings_s": values["timings_s"] or {},
        }
    )

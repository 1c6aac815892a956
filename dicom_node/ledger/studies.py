"""Studies: which wait for assembly, how they were settled, and how they ended.

Called by the coordinator (`dicom_node.coordinator`) and by whoever shows studies. Deciding when a study is whole is
`dicom_node.assembly`; the instances are in `instances`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from dicom_node.ledger.schema import instance, study
from dicom_node.states import Outcome, StudyState
from inference.findings import StudyUid


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyRow:
    """One study as the ledger knows it."""

    study_uid: StudyUid
    state: StudyState
    revision: int
    calling_ae: str
    first_received_at: datetime
    last_received_at: datetime
    revision_started_at: datetime
    look_at: datetime | None
    waiting_for: str | None
    waved_through: int | None
    completed_at: datetime | None
    outcome: Outcome | None
    outcome_reason: str | None
    outcome_detail: str | None
    outcome_at: datetime | None
    retracted_at: datetime | None


def due(tx: sa.Connection, now: datetime, *, limit: int) -> tuple[StudyRow, ...]:
    """Studies that assembly should look at now, the longest waiting first."""
    query = (
        sa.select(study)
        .where(study.c.look_at.is_not(None), study.c.look_at <= now)
        .order_by(study.c.look_at)
        .limit(limit)
    )
    return tuple(map(_row, tx.execute(query)))


def next_look_at(tx: sa.Connection) -> datetime | None:
    """When assembly must look again at the earliest."""
    earliest: datetime | None = tx.execute(sa.select(sa.func.min(study.c.look_at))).scalar_one()
    return earliest


def get(tx: sa.Connection, study_uid: StudyUid) -> StudyRow | None:
    """One study, or None."""
    row = tx.execute(sa.select(study).where(study.c.study_uid == study_uid)).first()
    return _row(row) if row else None


def find(tx: sa.Connection, part: str) -> tuple[StudyUid, ...]:
    """Study UIDs that begin or end with `part`, at most ten: lists show the end, people type either."""
    either = sa.or_(
        study.c.study_uid.startswith(part, autoescape=True), study.c.study_uid.endswith(part, autoescape=True)
    )
    return tuple(tx.execute(sa.select(study.c.study_uid).where(either).limit(10)).scalars())


def newest(tx: sa.Connection, *, limit: int) -> tuple[StudyRow, ...]:
    """The studies that arrived last, newest first."""
    query = sa.select(study).order_by(study.c.last_received_at.desc()).limit(limit)
    return tuple(map(_row, tx.execute(query)))


def wait(tx: sa.Connection, seen: StudyRow, *, look_at: datetime, waiting_for: str) -> bool:
    """Look again later; False when the study changed since it was `seen`."""
    changed = tx.execute(_as_seen(seen).values(look_at=look_at, waiting_for=waiting_for))
    return changed.rowcount == 1


def look_now(tx: sa.Connection, study_uid: StudyUid, now: datetime) -> None:
    """A person wants an unsettled study looked at now, however often it has changed today."""
    tx.execute(
        study.update()
        .where(study.c.study_uid == study_uid, study.c.state == StudyState.RECEIVING)
        .values(look_at=now, waved_through=study.c.revision)
    )


def look_again(tx: sa.Connection, study_uid: StudyUid, now: datetime) -> bool:
    """Something that a study waits for is known now; False when it is not being received any more."""
    receiving = study.update().where(study.c.study_uid == study_uid, study.c.state == StudyState.RECEIVING)
    return tx.execute(receiving.values(look_at=now)).rowcount == 1


def reopen(tx: sa.Connection, study_uid: StudyUid, now: datetime) -> bool:
    """A person wants a settled study assembled and routed anew, by today's rules and models, in a new revision."""
    changed = tx.execute(
        study.update()
        .where(study.c.study_uid == study_uid, study.c.state != StudyState.RECEIVING)
        .values(
            state=StudyState.RECEIVING,
            revision=study.c.revision + 1,
            revision_started_at=now,
            completed_at=None,
            look_at=now,
            waved_through=study.c.revision + 1,
        )
    )
    return changed.rowcount == 1


def settle(tx: sa.Connection, seen: StudyRow, *, state: StudyState, at: datetime) -> bool:
    """The study is whole, or its deadline has passed; False when it changed since it was `seen`."""
    changed = tx.execute(_as_seen(seen).values(state=state, completed_at=at, look_at=None, waiting_for=None))
    return changed.rowcount == 1


def _as_seen(seen: StudyRow) -> sa.Update:
    return study.update().where(
        study.c.study_uid == seen.study_uid,
        study.c.revision == seen.revision,
        study.c.last_received_at == seen.last_received_at,
        study.c.state == StudyState.RECEIVING,
    )


def end(
    tx: sa.Connection, study_uid: StudyUid, *, outcome: Outcome, at: datetime, reason: str = "", detail: str = ""
) -> None:
    """The study's one Outcome for now; a later revision may replace it."""
    tx.execute(
        study.update()
        .where(study.c.study_uid == study_uid)
        .values(outcome=outcome, outcome_reason=reason or None, outcome_detail=detail or None, outcome_at=at)
    )


def set_retracted(tx: sa.Connection, study_uid: StudyUid, at: datetime) -> None:
    """All results of the study were withdrawn."""
    tx.execute(study.update().where(study.c.study_uid == study_uid).values(retracted_at=at))


def wake_all_receiving(tx: sa.Connection, now: datetime) -> int:
    """Have assembly look at every unsettled study now: deadlines are recomputed when a node starts.

    Times that lie in the future, because the clock was set back, are taken as now, so that nothing waits for ever.
    """
    for column in (study.c.last_received_at, study.c.revision_started_at, study.c.first_received_at):
        tx.execute(study.update().where(column > now).values({column: now}))
    return tx.execute(study.update().where(study.c.state == StudyState.RECEIVING).values(look_at=now)).rowcount


def count_by_outcome(tx: sa.Connection) -> dict[str, int]:
    """How many studies ended in each Outcome; those not ended yet under their state."""
    label = sa.func.coalesce(study.c.outcome, study.c.state)
    return {str(row[0]): row[1] for row in tx.execute(sa.select(label, sa.func.count()).group_by(label))}


def instance_count(tx: sa.Connection, study_uid: StudyUid) -> int:
    """Current instances of a study."""
    query = sa.select(sa.func.count()).where(instance.c.study_uid == study_uid, instance.c.is_current)
    return tx.execute(query).scalar_one()


def _row(row: sa.Row[tuple[object, ...]]) -> StudyRow:
    values = row._mapping
    return StudyRow(
        **{
            **{name: values[name] for name in StudyRow.__slots__},
            "state": StudyState(values["state"]),
            "outcome": Outcome(values["outcome"]) if values["outcome"] else None,
        }
    )

"""Which studies' files may go. Asked by `dicom_node.retention`."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa

from dicom_node.ledger.schema import delivery, instance, job, study
from dicom_node.states import DeliveryState, JobState, StudyState
from inference.findings import StudyUid


def evictable(tx: sa.Connection, before: datetime, *, limit: int) -> tuple[StudyUid, ...]:
    """Studies settled before `before`, with files, without an open job and with every delivery terminal; oldest first.

    SENT without a further question is terminal: the receiver offers no confirmation.
    """
    query = _evictable(before).order_by(study.c.last_received_at).limit(limit)
    return tuple(tx.execute(query).scalars())


def still_evictable(tx: sa.Connection, study_uid: StudyUid, before: datetime) -> bool:
    """Whether the study may go now; no instance is recorded in it until the transaction ends."""
    held = sa.select(study.c.study_uid).where(study.c.study_uid == study_uid).with_for_update()
    tx.execute(held)  # then look: PostgreSQL judges the row as it was before the lock was had
    return tx.execute(_evictable(before).where(study.c.study_uid == study_uid)).first() is not None


def _evictable(before: datetime) -> sa.Select[StudyUid]:
    open_delivery = sa.exists().where(
        delivery.c.study_uid == study.c.study_uid,
        sa.or_(
            delivery.c.state == DeliveryState.PENDING,
            sa.and_(delivery.c.state == DeliveryState.SENT, delivery.c.finished_at.is_(None)),
        ),
    )
    open_job = sa.exists().where(
        job.c.study_uid == study.c.study_uid, job.c.state.in_((JobState.QUEUED, JobState.RUNNING))
    )
    has_files = sa.exists().where(instance.c.study_uid == study.c.study_uid, instance.c.path.is_not(None))
    return sa.select(study.c.study_uid).where(
        study.c.state != StudyState.RECEIVING,
        study.c.last_received_at < before,
        sa.not_(open_delivery),
        sa.not_(open_job),
        has_files,
    )

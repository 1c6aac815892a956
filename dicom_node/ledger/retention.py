"""Which studies' files may go, and the rows that forget them. Asked by `dicom_node.retention`."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa

from dicom_node.ledger.schema import delivery, document, instance, job, result_object, result_set, study
from dicom_node.states import DeliveryState, DocumentState, JobState, StudyState
from inference.findings import StudyUid

KEPT_FOR_WITHDRAWAL_BYTES = 256 * 1024
"""Of a result that stands one file up to this size is kept: a rejection note takes patient and study from it."""


def evictable(tx: sa.Connection, before: datetime, *, limit: int) -> tuple[StudyUid, ...]:
    """Studies with files in which nothing happened since `before` and nothing is open; oldest first.

    Nothing happened: no image came, no delivery and no document ended. Nothing is open: no job, no document that is
    still to be written or waits for a person, and every delivery is terminal (SENT without a further question is: the
    receiver offers no confirmation).
    """
    query = _evictable(before).order_by(study.c.last_received_at).limit(limit)
    return tuple(tx.execute(query).scalars())


def still_evictable(tx: sa.Connection, study_uid: StudyUid, before: datetime) -> bool:
    """Whether the study may go now; no instance is recorded in it until the transaction ends."""
    held = sa.select(study.c.study_uid).where(study.c.study_uid == study_uid).with_for_update()
    tx.execute(held)  # then look: PostgreSQL judges the row as it was before the lock was had
    return tx.execute(_evictable(before).where(study.c.study_uid == study_uid)).first() is not None


def forget_files(tx: sa.Connection, study_uid: StudyUid) -> tuple[str, ...]:
    """The study's rows name no file any more that may go; returns those files, to be removed after the commit."""
    images = sa.and_(instance.c.study_uid == study_uid, instance.c.path.is_not(None))
    written = sa.and_(result_object.c.study_uid == study_uid, _result_file_may_go())
    paths = list(tx.execute(sa.select(instance.c.path).where(images)).scalars())
    results = tx.execute(sa.select(result_object.c.id, result_object.c.path).where(written)).all()
    letters = sa.and_(document.c.study_uid == study_uid, _letter_may_go())
    documents = list(tx.execute(sa.select(document.c.path).where(letters)).scalars())
    tx.execute(document.update().where(letters).values(path=None))
    needless = sa.and_(document.c.study_uid == study_uid, _request_may_go())
    documents += list(tx.execute(sa.select(document.c.request_path).where(needless)).scalars())
    tx.execute(document.update().where(needless).values(request_path=None))
    tx.execute(instance.update().where(images).values(path=None))
    tx.execute(result_object.update().where(result_object.c.id.in_([row.id for row in results])).values(path=None))
    return (*paths, *(row.path for row in results), *documents)


def _evictable(before: datetime) -> sa.Select[StudyUid]:
    held_by_delivery = sa.exists().where(
        delivery.c.study_uid == study.c.study_uid,
        sa.or_(
            delivery.c.state == DeliveryState.PENDING,
            sa.and_(delivery.c.state == DeliveryState.SENT, delivery.c.finished_at.is_(None)),
            delivery.c.finished_at >= before,
        ),
    )
    held_by_document = sa.exists().where(
        document.c.study_uid == study.c.study_uid,
        sa.or_(
            # One that is written needs the study's files no more, only its own, which goes with a later eviction.
            sa.and_(document.c.state == DocumentState.PENDING, document.c.path.is_(None)),
            document.c.state == DocumentState.PARKED,
            document.c.finished_at >= before,
        ),
    )
    open_job = sa.exists().where(
        job.c.study_uid == study.c.study_uid, job.c.state.in_((JobState.QUEUED, JobState.RUNNING))
    )
    has_images = sa.exists().where(instance.c.study_uid == study.c.study_uid, instance.c.path.is_not(None))
    has_results = sa.exists().where(result_object.c.study_uid == study.c.study_uid, _result_file_may_go())
    has_letters = sa.exists().where(document.c.study_uid == study.c.study_uid, _letter_may_go())
    return sa.select(study.c.study_uid).where(
        study.c.state != StudyState.RECEIVING,
        study.c.last_received_at < before,
        sa.not_(held_by_delivery),
        sa.not_(held_by_document),
        sa.not_(open_job),
        sa.or_(has_images, has_results, has_letters),
    )


def _letter_may_go() -> sa.ColumnElement[bool]:
    """The file of a document that is not on its way any more."""
    return sa.and_(document.c.path.is_not(None), document.c.finished_at.is_not(None))


def _request_may_go() -> sa.ColumnElement[bool]:
    """What a document was written from that never left; of others it stays, for their withdrawal."""
    never = sa.not_(document.c.may_have_arrived)
    stopped = document.c.state.in_((DocumentState.OVERTAKEN, DocumentState.FAILED, DocumentState.WITHHELD))
    return sa.and_(document.c.request_path.is_not(None), stopped, never)


def _result_file_may_go() -> sa.ColumnElement[bool]:
    """Every file but the smallest of a result that stands, and that too when it is large."""
    smaller = result_object.alias("smaller")
    stands = sa.exists().where(result_set.c.id == result_object.c.result_set_id, result_set.c.is_current)
    another_is_kept = sa.exists().where(
        smaller.c.result_set_id == result_object.c.result_set_id,
        smaller.c.path.is_not(None),
        sa.or_(
            smaller.c.size_bytes < result_object.c.size_bytes,
            sa.and_(smaller.c.size_bytes == result_object.c.size_bytes, smaller.c.id < result_object.c.id),
        ),
    )
    too_large = result_object.c.size_bytes > KEPT_FOR_WITHDRAWAL_BYTES
    return sa.and_(result_object.c.path.is_not(None), sa.or_(sa.not_(stands), another_is_kept, too_large))

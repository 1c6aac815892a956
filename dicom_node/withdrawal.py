"""Withdrawing results: what the node said is taken back, and every archive that has it is told.

A person retracts a study's results (`radnode retract`), or a newer result supersedes an older one at an archive that
honours rejection notes (the profile's `reject_superseded`). The note is an IOCM Key Object (`results.retraction`); it
goes where the results went, as a result set of its own; documents of the record are taken back by a further version.
What has not left yet does not leave any more.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa

from dicom_node.ledger import deliveries, events, instances, jobs, results, studies
from dicom_node.outbox.queueing import queue_withdrawal
from dicom_node.states import InstanceState, Stage
from inference.findings import StudyUid

if TYPE_CHECKING:
    from dicom_node.encoding import Encoder


class NoImageLeft(Exception):
    """No file of the study is left to take patient and study from."""


SUPERSEDED = "quality"  # the title of a note about a result that a newer one replaces


@dataclass(frozen=True, kw_only=True, slots=True)
class Rejection:
    """A rejection note whose file is durable, and the result set that it names."""

    rejected: results.ResultSetRow
    written: results.WrittenObject
    reason: str


def retract(encoder: Encoder, study_uid: StudyUid, reason: str) -> int:
    """Withdraw every current result of a study; jobs under way for it will write nothing.

    Parameters
    ----------
    reason : str
        A `results.retraction.Withdrawal` value.

    Returns
    -------
    int
        How many result sets were withdrawn.
    """
    with encoder.ledger.read() as tx:
        current = [row for row in results.of_study(tx, study_uid) if row.is_current]
    rejections = [write_rejection(encoder, row, reason) for row in current]
    now = encoder.ledger.clock()
    with encoder.ledger.begin() as tx:
        still = {row.id for row in results.of_study(tx, study_uid) if row.is_current}
        standing = [rejection for rejection in rejections if rejection.rejected.id in still]
        for rejection in standing:
            results.withdraw_current(tx, rejection.rejected.id)
            commit_rejection(tx, rejection, now)
        queue_withdrawal(tx, study_uid, now)
        studies.set_retracted(tx, study_uid, now)
        return len(standing)


def write_rejection(encoder: Encoder, row: results.ResultSetRow, reason: str) -> Rejection:
    """Encode and write the note that rejects a result set; nothing names its file before `commit_rejection`."""
    from dicom_node.results.retraction import RetractRequest, Withdrawal, encode_retraction

    with encoder.ledger.read() as tx:
        spoken_by = next(job for job in jobs.of_study(tx, row.study_uid) if job.id == row.job_id)
        source = _any_image(tx, encoder, row)
    note = encode_retraction(
        RetractRequest(
            source=source,
            withdrawn=row.references,
            reason=Withdrawal(reason),
            card=encoder.card_of(spoken_by),
            profile=encoder.profile(row.profile),
            content_time=encoder.ledger.clock(),
        )
    )
    return Rejection(rejected=row, written=encoder.write_object(row.study_uid, note), reason=reason)


def commit_rejection(tx: sa.Connection, rejection: Rejection, now: datetime) -> None:
    """Cancel what has not left yet, and queue the note for every destination that may have the result."""
    row = rejection.rejected
    cancelled = deliveries.cancel_unsent(tx, row.id, at=now, reason="withdrawn before it was sent")
    told = [one.destination for one in deliveries.of_result_set(tx, row.id) if one.destination not in cancelled]
    results.commit(
        tx,
        job_id=row.job_id,
        study_uid=row.study_uid,
        model_name=row.model_name,
        profile=row.profile,
        objects=[rejection.written],
        destinations=told,
        at=now,
        kind=results.ResultKind.RETRACTION,
    )
    what = f"{row.model_name}: {len(row.objects)} object(s) withdrawn by a rejection note"
    detail = f"reason {rejection.reason}, profile {row.profile}"
    if cancelled:
        detail += f"; not sent any more to {', '.join(cancelled)}"
    events.add(tx, row.study_uid, at=now, stage=Stage.RETRACT, what=what, detail=detail)


def _any_image(tx: sa.Connection, encoder: Encoder, row: results.ResultSetRow) -> Path:
    """A file that names patient and study: an image, or, once all are evicted, the withdrawn result itself.

    Raises
    ------
    NoImageLeft
        When neither is there any more.
    """
    images = [one for one in instances.of_study(tx, row.study_uid) if one.state is InstanceState.INDEXED]
    for relative_path in [one.path for one in images] + [one.path for one in row.objects]:
        if relative_path and (path := encoder.store.path(relative_path)).exists():
            return path
    raise NoImageLeft("every file of the study is gone; let the source send one image of it again")

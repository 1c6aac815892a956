"""What of a job goes to the record: rows in the ledger, within the transaction that ends the job or withdraws it.

Called by `dicom_node.encoding` and `dicom_node.withdrawal`. Nothing is read or written here but the ledger: what a
document says is decided when it is prepared, from the same committed findings.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from dicom_node.ledger import documents
from dicom_node.ledger.documents import DocumentRow, NewDocument, content_digest
from dicom_node.ledger.jobs import Job
from dicom_node.outcomes import note
from dicom_node.states import DocumentKind, Stage
from inference.findings import StudyUid


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordRoute:
    """A destination of the record as far as queueing goes.

    Attributes
    ----------
    takes_refusals : bool
        It wants to be told when a model could not speak.
    """

    name: str
    takes_refusals: bool


def queue_job(tx: sa.Connection, job: Job, routes: Collection[RecordRoute], now: datetime) -> int:
    """Queue what a job that has ended tells the record; returns how many documents there are.

    Findings become a report, in place of an earlier one. A refusal is told to those that ask for refusals; others have
    an earlier report taken back, because its images are no longer the study.
    """
    queued = 0
    for route in routes:
        said = _said(job, route)
        if said is None:
            continue
        kind, digest = said
        new = NewDocument(
            study_uid=job.study_uid,
            model_name=job.model_name,
            destination=route.name,
            job_id=job.id,
            kind=kind,
            content_digest=digest,
        )
        if documents.enqueue(tx, new, now) is not None:
            queued += 1
            note(tx, job, Stage.DELIVER, f"{job.reference}: {kind} queued for {route.name}", now)
    return queued


def _said(job: Job, route: RecordRoute) -> tuple[DocumentKind, str] | None:
    if job.findings is not None:
        return DocumentKind.REPORT, content_digest(job.model_digest, job.findings.digest)
    if job.refusal is None:
        return None
    kind = DocumentKind.REFUSAL if route.takes_refusals else DocumentKind.WITHDRAWAL
    return kind, content_digest(job.model_digest, job.refusal.reason)


def queue_withdrawal(tx: sa.Connection, study_uid: StudyUid, now: datetime) -> int:
    """Take back every report of a study; returns how many withdrawals are queued.

    What has not left yet does not leave any more, and needs no withdrawal.
    """
    reports = [row for row in documents.newest_of_sets(tx, study_uid) if row.kind is DocumentKind.REPORT]
    return sum(documents.enqueue(tx, _withdrawal(row), now) is not None for row in reports)


def _withdrawal(row: DocumentRow) -> NewDocument:
    return NewDocument(
        study_uid=row.study_uid,
        model_name=row.model_name,
        destination=row.destination,
        job_id=row.job_id,
        kind=DocumentKind.WITHDRAWAL,
        content_digest=row.document_id,
    )

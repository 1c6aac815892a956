"""Events: every decision about a study, in order. Written by each stage in the transaction that decides.

`radnode explain` and the API print them. `detail` never holds patient data.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from dicom_node.ledger.schema import event
from dicom_node.states import Stage
from inference.findings import StudyUid


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """One decision: when, at which stage, what, and the particulars."""

    at: datetime
    revision: int | None
    stage: Stage
    what: str
    detail: str


def add(
    tx: sa.Connection,
    study_uid: StudyUid,
    *,
    at: datetime,
    stage: Stage,
    what: str,
    detail: str = "",
    revision: int | None = None,
) -> None:
    """Append one event to the study's account."""
    tx.execute(
        event.insert().values(study_uid=study_uid, at=at, revision=revision, stage=stage, what=what, detail=detail)
    )


def of_study(tx: sa.Connection, study_uid: StudyUid) -> tuple[Event, ...]:
    """All events of a study, oldest first."""
    rows = tx.execute(sa.select(event).where(event.c.study_uid == study_uid).order_by(event.c.id))
    return tuple(
        Event(at=row.at, revision=row.revision, stage=Stage(row.stage), what=row.what, detail=row.detail)
        for row in rows
    )

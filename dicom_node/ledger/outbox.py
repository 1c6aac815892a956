"""The couriers' side of the documents: taken in order, written once, attempts counted before anything leaves.

Called by `dicom_node.outbox`, by the node when it starts and by its housekeeping. What a document is, how it is queued
and what signers and registers say of it is `ledger.documents`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from enum import StrEnum

import sqlalchemy as sa

from dicom_node.ledger import events
from dicom_node.ledger.documents import DocumentRow, as_row, by_ids
from dicom_node.ledger.schema import document
from dicom_node.states import DocumentKind, DocumentState, ParkReason, Stage

_OFTEN = 20
# These wait for a person or are dead: whatever they hold has not left.
_STOPPED = (DocumentState.PARKED, DocumentState.WITHHELD, DocumentState.FAILED)


class Task(StrEnum):
    """What a courier has to do next with a document."""

    WRITE = "write"  # nothing of it is fixed yet
    BRING = "bring"  # it is written: send it, or ask whether it is there


def any_due(tx: sa.Connection, destination: str, task: Task, now: datetime) -> bool:
    """Whether `claim_due` would find anything: a look without the write lock."""
    return tx.execute(_due(destination, task, now).limit(1)).first() is not None


def claim_due(
    tx: sa.Connection, destination: str, task: Task, now: datetime, *, limit: int, probing: bool = False
) -> tuple[DocumentRow, ...]:
    """Mark due documents of a destination as being worked on and return them, oldest first, one per study.

    A study's later document waits until its earlier one has arrived for good, so that nothing overtakes. While a
    receiver is `probing`, what failed least often comes first: one document that always fails must not be every probe.
    """
    order = (document.c.attempts, document.c.id) if probing else (document.c.id,)
    query = _due(destination, task, now).order_by(*order).limit(limit)
    if tx.dialect.name == "postgresql":
        query = query.with_for_update(skip_locked=True)
    ids = list(tx.execute(query).scalars())
    if ids:
        tx.execute(document.update().where(document.c.id.in_(ids)).values(attempt_started_at=now))
    claimed = {row.id: row for row in by_ids(tx, ids)}
    return tuple(claimed[one] for one in ids)


def _due(destination: str, task: Task, now: datetime) -> sa.Select[int]:
    earlier = document.alias("earlier")
    overtakes = sa.exists().where(
        earlier.c.study_uid == document.c.study_uid,
        earlier.c.destination == document.c.destination,
        earlier.c.id < document.c.id,
        _is_open(earlier),
    )
    return sa.select(document.c.id).where(
        document.c.destination == destination,
        _is_open(document),
        document.c.path.is_(None) if task is Task.WRITE else document.c.path.is_not(None),
        document.c.attempt_started_at.is_(None),
        document.c.next_attempt_at <= now,
        sa.not_(overtakes),
    )


def _is_open(table: sa.FromClause) -> sa.ColumnElement[bool]:
    unconfirmed = sa.and_(table.c.state == DocumentState.HANDED_OVER, table.c.finished_at.is_(None))
    return sa.or_(table.c.state == DocumentState.PENDING, unconfirmed)


def set_written(
    tx: sa.Connection,
    row_id: int,
    *,
    version: int,
    replaces: str | None,
    sent_set_id: str,
    path: str,
    request_path: str | None,
    sha256: str,
    size_bytes: int,
) -> None:
    """What will be sent is fixed, and due: from here on every attempt sends these bytes."""
    _set(
        tx,
        row_id,
        version=version,
        replaces=replaces,
        sent_set_id=sent_set_id,
        path=path,
        request_path=request_path,
        sha256=sha256,
        size_bytes=size_bytes,
        attempt_started_at=None,
        reason=None,
    )


def count_attempt(tx: sa.Connection, row_id: int) -> None:
    """An attempt begins: from here on the receiver may have the document, whatever becomes of this process."""
    _set(tx, row_id, attempts=document.c.attempts + 1, may_have_arrived=True)


def set_unsent(tx: sa.Connection, row: DocumentRow) -> None:
    """Nothing left in the attempt that was begun with `row`; in earlier ones it may have."""
    _set(tx, row.id, may_have_arrived=row.may_have_arrived)


def set_handed_over(
    tx: sa.Connection, row_id: int, *, at: datetime, receiver_ids: Sequence[str], ask_at: datetime | None, told: str
) -> None:
    """The receiver acknowledged; `ask_at` is when to ask whether it has it, None when it cannot be asked.

    Of a document that came back signed or registered before this, only when and under which names it was taken.
    """
    taken: dict[str, object] = {"handed_over_at": at, "receiver_ids": list(receiver_ids)}
    never = document.c.handed_over_at.is_(None)
    tx.execute(document.update().where(document.c.id == row_id, sa.not_(_is_under_way()), never).values(**taken))
    _set(
        tx,
        row_id,
        state=DocumentState.HANDED_OVER,
        attempt_started_at=None,
        next_attempt_at=ask_at,
        confirmations_asked=0,
        finished_at=None if ask_at else at,
        reason=told or None,
        **taken,
    )


def set_confirmed(tx: sa.Connection, row_id: int, *, at: datetime, told: str) -> None:
    """Nothing more is asked: the receiver shows the document, or cannot be asked."""
    _set(tx, row_id, attempt_started_at=None, next_attempt_at=None, finished_at=at, reason=told)


def set_unconfirmed(tx: sa.Connection, row_id: int, *, ask_at: datetime, told: str, counts: bool) -> None:
    """Not shown yet: ask again later. `counts` is False when the receiver could not even be asked."""
    asked = document.c.confirmations_asked + int(counts)
    _set(tx, row_id, attempt_started_at=None, next_attempt_at=ask_at, confirmations_asked=asked, reason=told)


def claim_again(tx: sa.Connection, row_id: int, now: datetime) -> None:
    """Go on with this document at once, without letting another thread take it."""
    _set(tx, row_id, attempt_started_at=now)


def tell_waiting(tx: sa.Connection, destination: str, told: str) -> None:
    """Why everything that is still to be written for a destination waits."""
    waiting = (document.c.destination == destination, document.c.state == DocumentState.PENDING)
    tx.execute(document.update().where(*waiting, document.c.path.is_(None)).values(reason=told))


def give_back(tx: sa.Connection, ids: Sequence[int]) -> None:
    """Claimed documents to which nothing was done: they are due as before."""
    tx.execute(document.update().where(document.c.id.in_(ids)).values(attempt_started_at=None))


def set_retry(tx: sa.Connection, row_id: int, *, next_attempt_at: datetime, told: str, written: bool = True) -> None:
    """It could not be brought, or not even written (`written` False), for a passing reason: again later."""
    _set(
        tx,
        row_id,
        state=DocumentState.PENDING,
        attempt_started_at=None,
        next_attempt_at=next_attempt_at,
        preparations=document.c.preparations + int(not written),
        reason=told,
    )


def set_resend(tx: sa.Connection, row_id: int, *, at: datetime, told: str) -> None:
    """The receiver acknowledged it and does not have it: send it again."""
    _set(tx, row_id, resends=document.c.resends + 1)
    set_retry(tx, row_id, next_attempt_at=at, told=told)


def set_parked(tx: sa.Connection, row_id: int, *, at: datetime, why: ParkReason, told: str) -> None:
    """A person must look."""
    _end(tx, row_id, DocumentState.PARKED, at, told, park_reason=why)


def set_withheld(tx: sa.Connection, row_id: int, *, at: datetime, told: str) -> None:
    """By rule this destination does not get it."""
    _end(tx, row_id, DocumentState.WITHHELD, at, told)


def set_refused(tx: sa.Connection, row: DocumentRow, *, at: datetime, told: str) -> None:
    """The receiver refuses it for good in the attempt that began with `row`; it may have kept it in an earlier one."""
    set_unsent(tx, row)
    set_failed(tx, row.id, at=at, told=told)


def set_failed(tx: sa.Connection, row_id: int, *, at: datetime, told: str) -> None:
    """It cannot be sent any more: a dead letter until a person acts."""
    _end(tx, row_id, DocumentState.FAILED, at, told)


def set_overtaken(tx: sa.Connection, row_id: int, *, at: datetime, told: str) -> None:
    """It need not leave any more, and neither may what stands before it in its set and never left: it is taken back."""
    set_id = sa.select(document.c.set_id).where(document.c.id == row_id).scalar_subquery()
    stopped = (document.c.set_id == set_id, document.c.id < row_id, document.c.state.in_(_STOPPED))
    never = sa.not_(document.c.may_have_arrived)
    tx.execute(document.update().where(*stopped, never).values(state=DocumentState.OVERTAKEN, park_reason=None))
    _end(tx, row_id, DocumentState.OVERTAKEN, at, told)


def _end(
    tx: sa.Connection,
    row_id: int,
    state: DocumentState,
    at: datetime,
    told: str,
    *,
    park_reason: ParkReason | None = None,
) -> None:
    _set(
        tx,
        row_id,
        state=state,
        attempt_started_at=None,
        next_attempt_at=None,
        finished_at=at,
        park_reason=park_reason,
        reason=told,
    )


def _set(tx: sa.Connection, row_id: int, **values: object) -> None:
    """Enter what became of a document, unless its signer or register has said more of it meanwhile."""
    tx.execute(document.update().where(document.c.id == row_id, _is_under_way()).values(**values))


def _is_under_way() -> sa.ColumnElement[bool]:
    return document.c.state.in_((DocumentState.PENDING, DocumentState.HANDED_OVER))


def count_written_waiting(tx: sa.Connection, destination: str) -> int:
    """How many documents of a destination are written and not yet handed over."""
    waiting = (document.c.destination == destination, document.c.state == DocumentState.PENDING)
    hopeful = document.c.attempts < _OFTEN  # one that is refused again and again must not starve the others
    query = sa.select(sa.func.count()).select_from(document).where(*waiting, document.c.path.is_not(None), hopeful)
    return int(tx.execute(query).scalar_one())


def release_attempts(tx: sa.Connection, *, destination: str | None = None) -> int:
    """What a stopped node (or a failed round) left under way is due again at once."""
    query = document.update().where(document.c.attempt_started_at.is_not(None))
    if destination is not None:
        query = query.where(document.c.destination == destination)
    return tx.execute(query.values(attempt_started_at=None)).rowcount


def unknown_destinations(tx: sa.Connection, known: Collection[str]) -> dict[str, int]:
    """Destinations that the settings no longer name, with how many documents are still open for each."""
    elsewhere = sa.and_(_is_open(document), document.c.destination.not_in(list(known)))
    query = sa.select(document.c.destination, sa.func.count()).where(elsewhere).group_by(document.c.destination)
    return {name: count for name, count in tx.execute(query)}  # noqa: C416  rows are no pairs to mypy


def close_unknown(tx: sa.Connection, known: Collection[str], now: datetime) -> int:
    """Close what is open for destinations that are no longer set; once they are again, a person may retry."""
    elsewhere = sa.and_(_is_open(document), document.c.destination.not_in(list(known)))
    rows = [as_row(row) for row in tx.execute(sa.select(document).where(elsewhere))]
    for row in rows:
        told = f"destination {row.destination} is no longer set"
        if row.state is DocumentState.PENDING:
            set_failed(tx, row.id, at=now, told=told)
        else:
            set_confirmed(tx, row.id, at=now, told=f"not confirmed: {told}")
        what = f"document for {row.destination} is not followed any more: {told}"
        events.add(tx, row.study_uid, at=now, stage=Stage.DELIVER, what=what)
    return len(rows)


def any_parked(tx: sa.Connection, before: datetime) -> bool:
    """Whether a document is parked since before then."""
    return tx.execute(sa.select(document.c.id).where(*_parked_reports(before)).limit(1)).first() is not None


def _parked_reports(before: datetime) -> tuple[sa.ColumnElement[bool], ...]:
    """A withdrawal is never given up: what it takes back stands in the record until it arrives."""
    told = document.c.kind != DocumentKind.WITHDRAWAL
    return (document.c.state == DocumentState.PARKED, document.c.finished_at < before, told)


def give_up_parked(tx: sa.Connection, *, parked_before: datetime, now: datetime) -> int:
    """Documents that nobody looked at for so long become dead letters: they keep their study's files no longer."""
    query = sa.select(document).where(*_parked_reports(parked_before))
    rows = [as_row(row) for row in tx.execute(query)]
    for row in rows:
        told = f"nobody looked at it in time; it was parked because: {row.reason}"
        still = (document.c.id == row.id, document.c.state == DocumentState.PARKED)
        dead = {"state": DocumentState.FAILED, "finished_at": now, "park_reason": None, "reason": told}
        tx.execute(document.update().where(*still).values(**dead))
        what = f"document for {row.destination}: parked for too long, given up"
        events.add(tx, row.study_uid, at=now, stage=Stage.DELIVER, what=what)
    return len(rows)

"""Deliveries: result sets on their way to destinations, retried for days, in order per study.

`dicom_node.deliverer` claims and finishes them; storage commitments that acceptors receive are entered here too.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from dicom_node.ledger import events
from dicom_node.ledger.schema import commitment, delivery
from dicom_node.states import DeliveryState, Stage
from inference.findings import StudyUid


@dataclass(frozen=True, kw_only=True, slots=True)
class DeliveryRow:
    """One delivery as the ledger knows it."""

    id: int
    result_set_id: int
    study_uid: StudyUid
    destination: str
    state: DeliveryState
    attempts: int
    confirmations_asked: int
    attempt_started_at: datetime | None
    next_attempt_at: datetime | None
    reason: str | None
    created_at: datetime
    sent_at: datetime | None
    finished_at: datetime | None


@dataclass(frozen=True, kw_only=True, slots=True)
class CommitmentRow:
    """One storage commitment asked for; `committed` is None until the archive has answered."""

    transaction_uid: str
    delivery_id: int
    requested_at: datetime
    committed: frozenset[str] | None
    failed: Mapping[str, str]


def any_due(tx: sa.Connection, destination: str, now: datetime) -> bool:
    """Whether `claim_due` would find anything: a look without the write lock."""
    return tx.execute(_due(destination, now).limit(1)).first() is not None


def claim_due(tx: sa.Connection, destination: str, now: datetime, *, limit: int) -> tuple[DeliveryRow, ...]:
    """Mark due deliveries of a destination as being attempted and return them, oldest first, one per study.

    A study's later result waits until its earlier one has left or is refused, so that nothing overtakes.
    """
    query = _due(destination, now).order_by(delivery.c.id).limit(limit)
    if tx.dialect.name == "postgresql":
        query = query.with_for_update(skip_locked=True)
    ids = list(tx.execute(query).scalars())
    if ids:
        tx.execute(delivery.update().where(delivery.c.id.in_(ids)).values(attempt_started_at=now))
    return by_ids(tx, ids)


def _due(destination: str, now: datetime) -> sa.Select[int]:
    earlier = delivery.alias("earlier")
    overtakes = sa.exists().where(
        earlier.c.study_uid == delivery.c.study_uid,
        earlier.c.destination == delivery.c.destination,
        earlier.c.id < delivery.c.id,
        earlier.c.state == DeliveryState.PENDING,
    )
    return sa.select(delivery.c.id).where(
        delivery.c.destination == destination,
        delivery.c.state.in_((DeliveryState.PENDING, DeliveryState.SENT)),
        delivery.c.attempt_started_at.is_(None),
        delivery.c.next_attempt_at <= now,
        sa.not_(overtakes),
    )


def by_ids(tx: sa.Connection, ids: Sequence[int]) -> tuple[DeliveryRow, ...]:
    """Deliveries as they are now, oldest first."""
    rows = tx.execute(sa.select(delivery).where(delivery.c.id.in_(ids)).order_by(delivery.c.id))
    return tuple(map(_row, rows))


def set_sent(tx: sa.Connection, delivery_id: int, *, at: datetime, ask_again_at: datetime | None, reason: str) -> None:
    """The destination took every object; `ask_again_at` is when to confirm, None when nothing can confirm."""
    tx.execute(
        delivery.update()
        .where(delivery.c.id == delivery_id)
        .values(
            state=DeliveryState.SENT,
            attempts=delivery.c.attempts + 1,
            confirmations_asked=0,
            attempt_started_at=None,
            next_attempt_at=ask_again_at,
            sent_at=at,
            reason=reason or None,
            finished_at=None if ask_again_at else at,
        )
    )


def claim_again(tx: sa.Connection, delivery_id: int, now: datetime) -> None:
    """Go on with this delivery at once, without letting another thread take it."""
    tx.execute(delivery.update().where(delivery.c.id == delivery_id).values(attempt_started_at=now))


def look_now(tx: sa.Connection, delivery_id: int, now: datetime) -> None:
    """Something is known about this delivery that was not known when its next look was set."""
    tx.execute(
        delivery.update()
        .where(delivery.c.id == delivery_id, delivery.c.state == DeliveryState.SENT)
        .values(next_attempt_at=now)
    )


def set_confirmed(tx: sa.Connection, delivery_id: int, *, at: datetime, how: str) -> None:
    """The destination committed to the objects or shows them."""
    tx.execute(
        delivery.update()
        .where(delivery.c.id == delivery_id)
        .values(
            state=DeliveryState.CONFIRMED, attempt_started_at=None, next_attempt_at=None, finished_at=at, reason=how
        )
    )


def set_unconfirmed(
    tx: sa.Connection, delivery_id: int, *, ask_again_at: datetime, reason: str, counts: bool = True
) -> None:
    """Not there yet: ask again later. `counts` is False when the archive could not even be asked."""
    tx.execute(
        delivery.update()
        .where(delivery.c.id == delivery_id)
        .values(
            attempt_started_at=None,
            next_attempt_at=ask_again_at,
            reason=reason,
            confirmations_asked=delivery.c.confirmations_asked + int(counts),
        )
    )


def set_retry(tx: sa.Connection, delivery_id: int, *, next_attempt_at: datetime, reason: str) -> None:
    """The attempt failed for a passing reason, or what was sent is not there: send again later."""
    failed_attempt = sa.case((delivery.c.state == DeliveryState.PENDING, 1), else_=0)  # a sending was counted as sent
    tx.execute(
        delivery.update()
        .where(delivery.c.id == delivery_id)
        .values(
            state=DeliveryState.PENDING,
            attempts=delivery.c.attempts + failed_attempt,
            attempt_started_at=None,
            next_attempt_at=next_attempt_at,
            reason=reason,
        )
    )


def set_failed(tx: sa.Connection, delivery_id: int, *, at: datetime, reason: str) -> None:
    """The destination refuses for good; a person may retry."""
    tx.execute(
        delivery.update()
        .where(delivery.c.id == delivery_id)
        .values(
            state=DeliveryState.FAILED,
            attempts=delivery.c.attempts + 1,
            attempt_started_at=None,
            next_attempt_at=None,
            finished_at=at,
            reason=reason,
        )
    )


def cancel_unsent(tx: sa.Connection, result_set_id: int, *, at: datetime, reason: str) -> tuple[str, ...]:
    """Stop the deliveries of a result set that were never attempted; returns their destinations."""
    never = sa.and_(
        delivery.c.result_set_id == result_set_id,
        delivery.c.state == DeliveryState.PENDING,
        delivery.c.attempts == 0,
        delivery.c.attempt_started_at.is_(None),
    )
    names = tuple(tx.execute(sa.select(delivery.c.destination).where(never)).scalars())
    tx.execute(
        delivery.update()
        .where(never)
        .values(state=DeliveryState.FAILED, next_attempt_at=None, finished_at=at, reason=reason)
    )
    return names


def unknown_destinations(tx: sa.Connection, known: Collection[str]) -> dict[str, int]:
    """Destinations that the settings no longer name, with how many deliveries are still open for each."""
    query = sa.select(delivery.c.destination, sa.func.count()).where(_open_elsewhere(known))
    return {name: count for name, count in tx.execute(query.group_by(delivery.c.destination))}  # noqa: C416


def close_unknown(tx: sa.Connection, known: Collection[str], now: datetime) -> int:
    """Close what is open for destinations that are no longer set; once they are again, a person may retry."""
    rows = tuple(map(_row, tx.execute(sa.select(delivery).where(_open_elsewhere(known)))))
    for row in rows:
        reason = f"destination {row.destination} is no longer set"
        tx.execute(
            delivery.update()
            .where(delivery.c.id == row.id)
            .values(
                state=DeliveryState.FAILED,
                attempt_started_at=None,
                next_attempt_at=None,
                finished_at=now,
                reason=reason,
            )
        )
        what = f"not delivered: {reason}; when it is set again, `radnode retry`"
        events.add(tx, row.study_uid, at=now, stage=Stage.DELIVER, what=what)
    return len(rows)


def _open_elsewhere(known: Collection[str]) -> sa.ColumnElement[bool]:
    unconfirmed = sa.and_(delivery.c.state == DeliveryState.SENT, delivery.c.finished_at.is_(None))
    is_open = sa.or_(delivery.c.state == DeliveryState.PENDING, unconfirmed)
    return sa.and_(is_open, delivery.c.destination.not_in(list(known)))


def put_off(tx: sa.Connection, ids: Sequence[int], *, until: datetime) -> None:
    """Give claimed deliveries back untried: the destination's circuit is open."""
    tx.execute(delivery.update().where(delivery.c.id.in_(ids)).values(attempt_started_at=None, next_attempt_at=until))


def release_attempts(tx: sa.Connection, *, destination: str | None = None) -> int:
    """Attempts that a stopped node (or a failed round) left under way are due again at once."""
    query = delivery.update().where(delivery.c.attempt_started_at.is_not(None))
    if destination is not None:
        query = query.where(delivery.c.destination == destination)
    return tx.execute(query.values(attempt_started_at=None)).rowcount


def make_due(
    tx: sa.Connection,
    now: datetime,
    *,
    study_uid: StudyUid | None,
    destination: str | None,
    known: Collection[str] | None = None,
) -> int:
    """A person wants failed and waiting deliveries tried again now; of `known` destinations only, when told them."""
    again = (DeliveryState.FAILED, DeliveryState.PENDING)
    query = delivery.update().where(delivery.c.state.in_(again))
    if study_uid is not None:
        query = query.where(delivery.c.study_uid == study_uid)
    if destination is not None:
        query = query.where(delivery.c.destination == destination)
    if known is not None:
        query = query.where(delivery.c.destination.in_(list(known)))
    return tx.execute(query.values(state=DeliveryState.PENDING, next_attempt_at=now, finished_at=None)).rowcount


def of_result_set(tx: sa.Connection, result_set_id: int) -> tuple[DeliveryRow, ...]:
    """Deliveries of one result set."""
    query = sa.select(delivery).where(delivery.c.result_set_id == result_set_id).order_by(delivery.c.id)
    return tuple(map(_row, tx.execute(query)))


def of_study(tx: sa.Connection, study_uid: StudyUid) -> tuple[DeliveryRow, ...]:
    """All deliveries of a study, oldest first."""
    query = sa.select(delivery).where(delivery.c.study_uid == study_uid).order_by(delivery.c.id)
    return tuple(map(_row, tx.execute(query)))


def under_way(tx: sa.Connection) -> tuple[DeliveryRow, ...]:
    """Deliveries being attempted now."""
    return tuple(map(_row, tx.execute(sa.select(delivery).where(delivery.c.attempt_started_at.is_not(None)))))


def count_by_state(tx: sa.Connection) -> dict[tuple[str, DeliveryState], int]:
    """How many deliveries are in each state, per destination."""
    rows = tx.execute(
        sa.select(delivery.c.destination, delivery.c.state, sa.func.count()).group_by(
            delivery.c.destination, delivery.c.state
        )
    )
    return {(destination, DeliveryState(state)): count for destination, state, count in rows}


def oldest_open(tx: sa.Connection) -> dict[str, datetime]:
    """Since when the oldest delivery of each destination waits that is neither sent nor refused."""
    rows = tx.execute(
        sa.select(delivery.c.destination, sa.func.min(delivery.c.created_at))
        .where(delivery.c.state == DeliveryState.PENDING)
        .group_by(delivery.c.destination)
    )
    return {destination: since for destination, since in rows}  # noqa: C416  rows are no pairs to mypy


def register_commitment(tx: sa.Connection, transaction_uid: str, delivery_id: int, at: datetime) -> None:
    """Entered before the request leaves: the archive's answer may come before the request's own response."""
    tx.execute(commitment.insert().values(transaction_uid=transaction_uid, delivery_id=delivery_id, requested_at=at))


def forget_unanswered_commitments(tx: sa.Connection, delivery_id: int) -> None:
    """The archive did not take the request: nobody will answer it."""
    tx.execute(commitment.delete().where(commitment.c.delivery_id == delivery_id, commitment.c.answered_at.is_(None)))


def forget_all_unanswered_commitments(tx: sa.Connection, now: datetime) -> int:
    """A node that starts asks anew: whether a request of its last run ever left is not known."""
    forgotten = sa.select(commitment.c.delivery_id).where(commitment.c.answered_at.is_(None))
    tx.execute(
        delivery.update()
        .where(delivery.c.id.in_(forgotten), delivery.c.state == DeliveryState.SENT)
        .values(next_attempt_at=now)
    )
    return tx.execute(commitment.delete().where(commitment.c.answered_at.is_(None))).rowcount


def answer_commitment(
    tx: sa.Connection, transaction_uid: str, *, committed: Sequence[str], failed: Mapping[str, str], at: datetime
) -> bool:
    """The archive answered; its delivery is due for a look now. False for a transaction nobody asked for."""
    changed = tx.execute(
        commitment.update()
        .where(commitment.c.transaction_uid == transaction_uid)
        .values(answered_at=at, committed=list(committed), failed=dict(failed))
    )
    of_transaction = sa.select(commitment.c.delivery_id).where(commitment.c.transaction_uid == transaction_uid)
    tx.execute(
        delivery.update()
        .where(delivery.c.id.in_(of_transaction), delivery.c.state == DeliveryState.SENT)
        .values(next_attempt_at=at)
    )
    return changed.rowcount == 1


def newest_commitment(tx: sa.Connection, delivery_id: int) -> CommitmentRow | None:
    """The commitment asked for last for this delivery."""
    query = (
        sa.select(commitment)
        .where(commitment.c.delivery_id == delivery_id)
        .order_by(commitment.c.requested_at.desc())
        .limit(1)
    )
    row = tx.execute(query).first()
    if row is None:
        return None
    return CommitmentRow(
        transaction_uid=row.transaction_uid,
        delivery_id=row.delivery_id,
        requested_at=row.requested_at,
        committed=frozenset(row.committed) if row.committed is not None else None,
        failed=row.failed or {},
    )


def _row(row: sa.Row[tuple[object, ...]]) -> DeliveryRow:
    values = row._mapping
    return DeliveryRow(
        **{**{name: values[name] for name in DeliveryRow.__slots__}, "state": DeliveryState(values["state"])}
    )

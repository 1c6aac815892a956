"""Documents for the regional record: queued with the job that they tell of, and what became of them.

Workers and withdrawals `enqueue`; how couriers take and bring them is `ledger.outbox`; `dicom_node.returned` enters
what signers and registers say. All versions of a document, which share study, model and destination, are a set. What is
in a row names no patient: what is sent is a file, and the file is kept as images are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import sqlalchemy as sa

from dicom_node.ledger.schema import document
from dicom_node.states import DocumentKind, DocumentState, ParkReason
from inference.findings import StudyUid

# The receiver has these, or had them: a further version counts on from them.
LEFT = (DocumentState.HANDED_OVER, DocumentState.SIGNED, DocumentState.REGISTERED, DocumentState.REFUSED)
# Nothing of these has left, or the receiver would not have it: a further version takes their place.
_NOT_LEFT = (DocumentState.PENDING, DocumentState.PARKED, DocumentState.WITHHELD, DocumentState.FAILED)
_AGAIN = _NOT_LEFT
_TO_RENEW = (DocumentState.REFUSED, DocumentState.FAILED)
_RETURNED = (DocumentState.SIGNED, DocumentState.REGISTERED, DocumentState.REFUSED)


@dataclass(frozen=True, kw_only=True, slots=True)
class DocumentRow:
    """One document as the ledger knows it; the columns are explained in `schema`."""

    id: int
    document_id: str
    set_id: str
    study_uid: StudyUid
    model_name: str
    destination: str
    job_id: int
    kind: DocumentKind
    state: DocumentState
    version: int | None
    replaces: str | None
    path: str | None
    sha256: str | None
    request_path: str | None
    sent_set_id: str | None
    resends: int
    preparations: int
    attempts: int
    may_have_arrived: bool
    confirmations_asked: int
    next_attempt_at: datetime | None
    park_reason: ParkReason | None
    reason: str | None
    receiver_ids: tuple[str, ...]
    created_at: datetime
    handed_over_at: datetime | None
    finished_at: datetime | None
    returned_at: datetime | None
    register_number: str | None
    register_code: str | None

    @property
    def is_there(self) -> bool:
        """Whether the receiver has it, or may have it though it is a dead letter here: a later version replaces it."""
        return self.state in LEFT or (self.state is DocumentState.FAILED and self.may_have_arrived)

    @property
    def is_open(self) -> bool:
        """Whether the courier still has to do with it."""
        return self.state is DocumentState.PENDING or (
            self.state is DocumentState.HANDED_OVER and self.finished_at is None
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class NewDocument:
    """What is to be told to one destination.

    Attributes
    ----------
    content_digest : str
        Of the model and what it said; equal content makes no new version.
    """

    study_uid: StudyUid
    model_name: str
    destination: str
    job_id: int
    kind: DocumentKind
    content_digest: str

    @property
    def set_id(self) -> str:
        """Equal for every version."""
        return _digest("document set", self.study_uid, self.model_name, self.destination)


def content_digest(model_digest: str, said: str) -> str:
    """Of a model and what it said: its findings' digest, or the reason of a refusal."""
    return _digest("document content", model_digest, said)


# queueing ------------------------------------------------------------------------------------------------------------


def enqueue(tx: sa.Connection, new: NewDocument, now: datetime) -> str | None:
    """Queue a document; what stands in its way and never left is overtaken.

    Returns
    -------
    str or None
        Its document id; None when it says what the newest one says, unless that was refused by the register or may
        have arrived and failed, or when it takes back what never left.
    """
    known = of_set(tx, new.set_id)
    standing = [row for row in known if row.state is not DocumentState.OVERTAKEN]
    newest = standing[-1] if standing else None
    to_renew = newest is not None and newest.state in _TO_RENEW and newest.is_there
    if newest and not to_renew and (newest.kind, _content(tx, newest)) == (new.kind, new.content_digest):
        return None
    _overtake(tx, new.set_id, now)
    left = [row for row in of_set(tx, new.set_id) if row.state is not DocumentState.OVERTAKEN]
    if new.kind is DocumentKind.WITHDRAWAL and (not left or left[-1].kind is not DocumentKind.REPORT):
        return None
    return _insert(tx, new, now)


def take_back_first(tx: sa.Connection, row: DocumentRow, now: datetime, *, told: str) -> None:
    """What left was filed under somebody else: it is taken back there, and this is told anew after that."""
    left = [one for one in of_set(tx, row.set_id) if one.id < row.id and one.is_there]
    ended = {"state": DocumentState.OVERTAKEN, "finished_at": now, "next_attempt_at": None, "reason": told}
    tx.execute(document.update().where(document.c.id == row.id).values(**ended, attempt_started_at=None))
    again = _told_by(tx, row)
    _insert(tx, replace(again, kind=DocumentKind.WITHDRAWAL, content_digest=left[-1].document_id), now)
    _insert(tx, again, now)


def _told_by(tx: sa.Connection, row: DocumentRow) -> NewDocument:
    return NewDocument(
        study_uid=row.study_uid,
        model_name=row.model_name,
        destination=row.destination,
        job_id=row.job_id,
        kind=row.kind,
        content_digest=_content(tx, row),
    )


def _insert(tx: sa.Connection, new: NewDocument, now: datetime) -> str:
    ordinal = len(of_set(tx, new.set_id))
    document_id = _digest("document", new.set_id, str(ordinal), new.kind, new.content_digest)
    tx.execute(
        document.insert().values(
            document_id=document_id,
            set_id=new.set_id,
            study_uid=new.study_uid,
            model_name=new.model_name,
            destination=new.destination,
            job_id=new.job_id,
            kind=new.kind,
            content_digest=new.content_digest,
            state=DocumentState.PENDING,
            created_at=now,
            next_attempt_at=now,
        )
    )
    return document_id


def _content(tx: sa.Connection, row: DocumentRow) -> str:
    return str(tx.execute(sa.select(document.c.content_digest).where(document.c.id == row.id)).scalar_one())


def _overtake(tx: sa.Connection, set_id: str, now: datetime) -> None:
    """What never left does not leave any more; an attempt may have reached the receiver, so it goes on."""
    never = sa.not_(document.c.may_have_arrived)
    tx.execute(
        document.update()
        .where(
            document.c.set_id == set_id,
            document.c.state.in_(_NOT_LEFT),
            document.c.attempt_started_at.is_(None),
            never,
        )
        .values(
            state=DocumentState.OVERTAKEN,
            next_attempt_at=None,
            finished_at=now,
            park_reason=None,
            reason="a newer version or a withdrawal came before it had left",
        )
    )


def is_superseded(tx: sa.Connection, row: DocumentRow) -> bool:
    """Whether something newer of its set came, so that a document that never left need not leave."""
    newer = (document.c.set_id == row.set_id, document.c.id > row.id, document.c.state != DocumentState.OVERTAKEN)
    return tx.execute(sa.select(document.c.id).where(*newer).limit(1)).first() is not None


def newest_of_sets(tx: sa.Connection, study_uid: StudyUid) -> tuple[DocumentRow, ...]:
    """The newest document of each set of a study that was not overtaken."""
    newest = {row.set_id: row for row in of_study(tx, study_uid) if row.state is not DocumentState.OVERTAKEN}
    return tuple(newest.values())


# what comes back -----------------------------------------------------------------------------------------------------


def set_returned(
    tx: sa.Connection,
    document_id: str,
    *,
    state: DocumentState,
    at: datetime,
    number: str | None = None,
    code: str | None = None,
    told: str = "",
) -> bool:
    """Enter what a signer or a register says of a document.

    A registered document stays so; a refused one may be signed or registered later; what never left cannot come back.
    The same word twice changes nothing.

    Returns
    -------
    bool
        False when the document is unknown or its state does not allow this.
    """
    row = by_document_id(tx, document_id)
    if row is None or state not in _RETURNED or not _may_return(row, state, at):
        return False
    changed: dict[str, object] = {"state": state, "returned_at": at, "finished_at": row.finished_at or at}
    if number is not None:
        changed["register_number"] = number
    if state is not DocumentState.SIGNED:
        changed["register_code"] = code
    if told:
        changed["reason"] = told
    settled = {**changed, "attempt_started_at": None, "next_attempt_at": None}
    tx.execute(document.update().where(document.c.id == row.id).values(**settled))
    return True


def _may_return(row: DocumentRow, state: DocumentState, at: datetime) -> bool:
    unanswered = row.state in (DocumentState.PENDING, DocumentState.FAILED) and row.may_have_arrived
    if row.state is DocumentState.REGISTERED:
        return state is DocumentState.REGISTERED
    if row.returned_at is not None and at < row.returned_at:
        return False
    return row.state in LEFT or unanswered


# a person ---------------------------------------------------------------------------------------------------


def make_due(
    tx: sa.Connection,
    now: datetime,
    *,
    study_uid: StudyUid | None,
    destination: str | None,
    known: Collection[str],
) -> int:
    """A person wants what waits, is parked, withheld or dead tried again now; of known destinations.

    Only the newest of a set: an earlier one must not follow a later one. What is not on its way already is written
    anew, because what stopped it was its content or its context.
    """
    later = document.alias("later")
    overtaken = sa.exists().where(
        later.c.set_id == document.c.set_id, later.c.id > document.c.id, later.c.state != DocumentState.OVERTAKEN
    )
    wanted = [document.c.state.in_(_AGAIN), document.c.destination.in_(list(known)), sa.not_(overtaken)]
    wanted += [document.c.attempt_started_at.is_(None)]
    if study_uid is not None:
        wanted.append(document.c.study_uid == study_uid)
    if destination is not None:
        wanted.append(document.c.destination == destination)
    under_way = sa.and_(document.c.state == DocumentState.PENDING, document.c.may_have_arrived)
    wanted.append(sa.not_(sa.and_(document.c.state == DocumentState.FAILED, document.c.may_have_arrived)))
    anew = {name: sa.case((under_way, document.c[name]), else_=None) for name in ("path", "sha256", "size_bytes")}
    changed = tx.execute(
        document.update()
        .where(*wanted)
        .values(state=DocumentState.PENDING, next_attempt_at=now, finished_at=None, park_reason=None, **anew)
    )
    return changed.rowcount


def renew(
    tx: sa.Connection,
    now: datetime,
    *,
    study_uid: StudyUid | None,
    destination: str | None,
    known: Collection[str],
) -> int:
    """A person has mended why the register refused: queue a next version that tells the same; of known destinations.

    So it is with a dead letter that may have arrived: the receiver would not take other bytes under its id.
    """
    arrived = sa.or_(document.c.state == DocumentState.REFUSED, document.c.may_have_arrived)
    query = sa.select(document).where(document.c.state.in_(_TO_RENEW), arrived, document.c.destination.in_(list(known)))
    if study_uid is not None:
        query = query.where(document.c.study_uid == study_uid)
    if destination is not None:
        query = query.where(document.c.destination == destination)
    renewed = 0
    for row in map(as_row, tx.execute(query.order_by(document.c.id)).all()):
        standing = [one.id for one in of_set(tx, row.set_id) if one.state is not DocumentState.OVERTAKEN]
        if standing[-1] == row.id:
            renewed += enqueue(tx, _told_by(tx, row), now) is not None
    return renewed


# reading -------------------------------------------------------------------------------------------------------------


def by_ids(tx: sa.Connection, ids: Sequence[int]) -> tuple[DocumentRow, ...]:
    """Documents as they are now, oldest first."""
    rows = tx.execute(sa.select(document).where(document.c.id.in_(ids)).order_by(document.c.id))
    return tuple(map(as_row, rows))


def by_document_id(tx: sa.Connection, document_id: str) -> DocumentRow | None:
    """The document of this id, or None."""
    row = tx.execute(sa.select(document).where(document.c.document_id == document_id)).first()
    return as_row(row) if row else None


def of_set(tx: sa.Connection, set_id: str) -> tuple[DocumentRow, ...]:
    """All documents of a set, oldest first."""
    return tuple(
        map(as_row, tx.execute(sa.select(document).where(document.c.set_id == set_id).order_by(document.c.id)))
    )


def of_study(tx: sa.Connection, study_uid: StudyUid) -> tuple[DocumentRow, ...]:
    """All documents of a study, oldest first."""
    query = sa.select(document).where(document.c.study_uid == study_uid).order_by(document.c.id)
    return tuple(map(as_row, tx.execute(query)))


def in_states(
    tx: sa.Connection, states: Collection[DocumentState], *, destination: str | None, limit: int
) -> tuple[DocumentRow, ...]:
    """Documents in these states, newest first."""
    query = sa.select(document).where(document.c.state.in_(list(states)))
    if destination is not None:
        query = query.where(document.c.destination == destination)
    return tuple(map(as_row, tx.execute(query.order_by(document.c.id.desc()).limit(limit))))


def count_by_state(tx: sa.Connection) -> dict[tuple[str, DocumentState], int]:
    """How many documents are in each state, per destination."""
    columns = (document.c.destination, document.c.state)
    rows = tx.execute(sa.select(*columns, sa.func.count()).group_by(*columns))
    return {(destination, DocumentState(state)): count for destination, state, count in rows}


def oldest_waiting(tx: sa.Connection) -> dict[str, datetime]:
    """Since when the oldest document of each destination waits that has not been handed over."""
    query = sa.select(document.c.destination, sa.func.min(document.c.created_at))
    rows = tx.execute(query.where(document.c.state == DocumentState.PENDING).group_by(document.c.destination))
    return {destination: since for destination, since in rows}  # noqa: C416  rows are no pairs to mypy


def known_paths(tx: sa.Connection) -> frozenset[str]:
    """Every file that a row names."""
    named = tx.execute(sa.select(document.c.path, document.c.request_path)).all()
    return frozenset(path for row in named for path in row if path is not None)


def as_row(row: sa.Row[tuple[object, ...]]) -> DocumentRow:
    """A row of the table as a value."""
    values = row._mapping
    read = {name: values[name] for name in DocumentRow.__slots__}
    read["kind"], read["state"] = DocumentKind(values["kind"]), DocumentState(values["state"])
    read["park_reason"] = ParkReason(values["park_reason"]) if values["park_reason"] else None
    read["receiver_ids"] = tuple(values["receiver_ids"] or ())
    return DocumentRow(**read)


def _digest(*parts: str) -> str:
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()

"""Stored instances: recorded by the acceptors, indexed by the coordinator, read by whoever needs pixels.

`record` is the commit before a C-STORE is answered with success. What header facts mean is `dicom_node.facts`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from dicom_node.facts import InstanceFacts
from dicom_node.ledger import events
from dicom_node.ledger.schema import instance, study
from dicom_node.states import InstanceState, Stage, StudyState
from dicom_node.study import NewInstance, Recorded, RecordedKind
from inference.findings import SeriesUid, SopUid, StudyUid
from inference.refusals import Refusal


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredInstance:
    """One stored instance as the ledger knows it; `path` is below the store's root, None once evicted."""

    id: int
    study_uid: StudyUid
    series_uid: SeriesUid
    sop_instance_uid: SopUid
    sop_class_uid: str
    transfer_syntax_uid: str
    sha256: str
    size_bytes: int
    path: str | None
    calling_ae: str
    called_ae: str
    received_at: datetime
    is_current: bool
    state: InstanceState
    reason: str | None
    detail: str | None
    facts: InstanceFacts | None


def record(tx: sa.Connection, new: NewInstance) -> Recorded:
    """Enter one durable instance and wake its study: the newest bytes under a UID are the current ones.

    Bytes that are current already are counted and change nothing else. Bytes that a later revision had replaced become
    current again; the answer is DUPLICATE all the same, for their file is there.
    """
    state = _lock_study(tx, new)
    known = tx.execute(_FIND, {"the_sop": new.sop_instance_uid, "the_study": new.study_uid}).all()
    if any(row.sha256 == new.sha256 for row in known):
        return _count_again(tx, new, state)
    if known:
        tx.execute(instance.update().where(_same_uid(new), instance.c.is_current).values(is_current=False))
    tx.execute(
        _INSERT,
        {
            "study_uid": new.study_uid,
            "series_uid": new.series_uid,
            "sop_instance_uid": new.sop_instance_uid,
            "sop_class_uid": new.sop_class_uid,
            "transfer_syntax_uid": new.transfer_syntax_uid,
            "sha256": new.sha256,
            "size_bytes": new.size_bytes,
            "path": new.relative_path,
            "calling_ae": new.calling_ae,
            "called_ae": new.called_ae,
            "peer_address": new.peer_address,
            "received_at": new.received_at,
            "is_current": True,
            "state": InstanceState.STORED,
        },
    )
    _wake_study(tx, new, state)
    if known:
        events.add(
            tx,
            new.study_uid,
            at=new.received_at,
            stage=Stage.RECEIVE,
            what="an instance came again with other bytes; both are kept, the newest is current",
            detail=f"SOP Instance UID {new.sop_instance_uid}",
        )
    return Recorded(kind=RecordedKind.REVISED if known else RecordedKind.NEW)


# Built once: this is the path of every C-STORE, and building a statement costs as much as running it.
_FIND = sa.select(instance.c.id, instance.c.sha256).where(
    instance.c.sop_instance_uid == sa.bindparam("the_sop"), instance.c.study_uid == sa.bindparam("the_study")
)
_INSERT = instance.insert()
_STATE = sa.select(study.c.state).where(study.c.study_uid == sa.bindparam("the_study"))
_STATE_LOCKED = _STATE.with_for_update()
_TOUCH = (
    study.update()
    .where(study.c.study_uid == sa.bindparam("the_study"))
    .values(
        last_received_at=sa.bindparam("now"), look_at=sa.bindparam("now"), calling_ae=sa.bindparam("the_calling_ae")
    )
)


def _same_uid(new: NewInstance) -> sa.ColumnElement[bool]:
    """Rows of the instance with this UID in this study, whatever their bytes."""
    return sa.and_(instance.c.sop_instance_uid == new.sop_instance_uid, instance.c.study_uid == new.study_uid)


def _count_again(tx: sa.Connection, new: NewInstance, state: StudyState) -> Recorded:
    """The same bytes under the same UID: counted."""
    same_bytes = sa.and_(_same_uid(new), instance.c.sha256 == new.sha256)
    tx.execute(instance.update().where(same_bytes).values(times_received=instance.c.times_received + 1))
    return _take_back(tx, new, same_bytes, state)


def _take_back(tx: sa.Connection, new: NewInstance, same_bytes: sa.ColumnElement[bool], state: StudyState) -> Recorded:
    """The same bytes again: nothing new, unless they had been replaced, or their file was evicted.

    Of an evicted study even replaced bytes only get their file back: what is current keeps its result, and sleeps on.
    """
    if _restore_current(tx, new, same_bytes, state):
        return Recorded(kind=RecordedKind.DUPLICATE)
    evicted = sa.and_(same_bytes, instance.c.path.is_(None))
    put_back = instance.update().where(evicted).values(path=new.relative_path).returning(instance.c.is_current)
    is_current = tx.execute(put_back).scalar_one_or_none()
    if is_current is None:
        return Recorded(kind=RecordedKind.DUPLICATE)
    if is_current:
        _wake_study(tx, new, state)
    what = "an evicted instance came again and is kept again"
    detail = "" if is_current else "a later revision of it is current"
    events.add(tx, new.study_uid, at=new.received_at, stage=Stage.RECEIVE, what=what, detail=detail)
    return Recorded(kind=RecordedKind.NEW)


def _restore_current(
    tx: sa.Connection, new: NewInstance, same_bytes: sa.ColumnElement[bool], state: StudyState
) -> bool:
    """Bytes whose file is there and that other bytes had replaced are the newest again; whether they were such."""
    replaced = sa.and_(same_bytes, instance.c.path.is_not(None), sa.not_(instance.c.is_current))
    row_id = tx.execute(sa.select(instance.c.id).where(replaced)).scalar_one_or_none()
    if row_id is None:
        return False
    tx.execute(instance.update().where(_same_uid(new)).values(is_current=instance.c.id == row_id))
    _wake_study(tx, new, state)
    events.add(
        tx,
        new.study_uid,
        at=new.received_at,
        stage=Stage.RECEIVE,
        what="earlier bytes of an instance came again; they are current again",
        detail=f"SOP Instance UID {new.sop_instance_uid}",
    )
    return True


def _lock_study(tx: sa.Connection, new: NewInstance) -> StudyState:
    """State of the study, whose row is made if it is not there; on PostgreSQL held, so that acceptors take turns."""
    find = _STATE if tx.dialect.name == "sqlite" else _STATE_LOCKED  # SQLite's transaction is alone already
    state = tx.execute(find, {"the_study": new.study_uid}).scalar_one_or_none()
    if state is None:
        _create_study(tx, new)
        state = tx.execute(find, {"the_study": new.study_uid}).scalar_one()
    return StudyState(state)


def _create_study(tx: sa.Connection, new: NewInstance) -> None:
    values = {
        "study_uid": new.study_uid,
        "state": StudyState.RECEIVING,
        "revision": 1,
        "calling_ae": new.calling_ae,
        "first_received_at": new.received_at,
        "last_received_at": new.received_at,
        "revision_started_at": new.received_at,
        "look_at": new.received_at,
    }
    created: sa.CursorResult[tuple[str]]
    if tx.dialect.name == "sqlite":
        from sqlalchemy.dialects.sqlite import insert as sqlite_insert

        created = tx.execute(sqlite_insert(study).values(values).on_conflict_do_nothing())
    else:
        from sqlalchemy.dialects.postgresql import insert as postgresql_insert

        created = tx.execute(postgresql_insert(study).values(values).on_conflict_do_nothing())
    if created.rowcount:  # else another acceptor was faster
        events.add(
            tx,
            new.study_uid,
            at=new.received_at,
            stage=Stage.RECEIVE,
            what="first instance received",
            detail=f"from {new.calling_ae} to {new.called_ae}",
            revision=1,
        )


def _wake_study(tx: sa.Connection, new: NewInstance, state: StudyState) -> None:
    """A new instance makes a settled study a study being received again, in its next revision."""
    if state is not StudyState.RECEIVING:
        tx.execute(
            study.update()
            .where(study.c.study_uid == new.study_uid)
            .values(
                state=StudyState.RECEIVING,
                revision=study.c.revision + 1,
                revision_started_at=new.received_at,
                completed_at=None,
            )
        )
        events.add(
            tx,
            new.study_uid,
            at=new.received_at,
            stage=Stage.RECEIVE,
            what="a late instance opens a new revision",
            detail=f"from {new.calling_ae}",
        )
    tx.execute(_TOUCH, {"the_study": new.study_uid, "now": new.received_at, "the_calling_ae": new.calling_ae})


def to_index(tx: sa.Connection, *, limit: int) -> tuple[StoredInstance, ...]:
    """Stored instances whose header has not been read, oldest first."""
    query = sa.select(instance).where(instance.c.state == InstanceState.STORED).order_by(instance.c.id).limit(limit)
    return tuple(map(_stored, tx.execute(query)))


def index_again(tx: sa.Connection, study_uid: StudyUid) -> int:
    """Have the headers of a study's stored instances read anew: rules and decoders may have changed since."""
    mine = sa.and_(instance.c.study_uid == study_uid, instance.c.is_current, instance.c.path.is_not(None))
    return tx.execute(instance.update().where(mine).values(state=InstanceState.STORED)).rowcount


def set_indexed(tx: sa.Connection, instance_id: int, facts: InstanceFacts) -> None:
    """The header was read and the instance can be analysed."""
    tx.execute(
        instance.update()
        .where(instance.c.id == instance_id)
        .values(state=InstanceState.INDEXED, facts=facts.to_json(), reason=None, detail=None)
    )
    if facts.accession_number:
        of_study = sa.select(instance.c.study_uid).where(instance.c.id == instance_id).scalar_subquery()
        numbered = study.update().where(study.c.study_uid == of_study)
        tx.execute(numbered.values(accession_number=facts.accession_number))


def set_aside(
    tx: sa.Connection, instance_id: int, state: InstanceState, refusal: Refusal, facts: InstanceFacts | None
) -> None:
    """The instance cannot be analysed, for a named reason."""
    tx.execute(
        instance.update()
        .where(instance.c.id == instance_id)
        .values(
            state=state,
            reason=refusal.reason,
            detail=refusal.detail,
            facts=facts.to_json() if facts else None,
        )
    )


def of_study(tx: sa.Connection, study_uid: StudyUid, *, only_current: bool = True) -> tuple[StoredInstance, ...]:
    """Instances of a study in order of arrival."""
    query = sa.select(instance).where(instance.c.study_uid == study_uid).order_by(instance.c.id)
    if only_current:
        query = query.where(instance.c.is_current)
    return tuple(map(_stored, tx.execute(query)))


def count_current(tx: sa.Connection, study_uid: StudyUid) -> int:
    """How many instances of a study there are, each counted once however often it was revised."""
    query = sa.select(sa.func.count()).where(instance.c.study_uid == study_uid, instance.c.is_current)
    return int(tx.execute(query).scalar_one())


def by_ids(tx: sa.Connection, ids: Sequence[int]) -> tuple[StoredInstance, ...]:
    """Instances by their row ids, in the order of `ids`."""
    found: dict[int, StoredInstance] = {}
    for start in range(0, len(ids), 500):
        rows = tx.execute(sa.select(instance).where(instance.c.id.in_(ids[start : start + 500])))
        found.update((stored.id, stored) for stored in map(_stored, rows))
    return tuple(found[row_id] for row_id in ids if row_id in found)


def known_paths(tx: sa.Connection) -> frozenset[str]:
    """Every path that a row names; the start-up scan compares them with the files."""
    return frozenset(tx.execute(sa.select(instance.c.path).where(instance.c.path.is_not(None))).scalars())


def count_by_state(tx: sa.Connection) -> dict[InstanceState, int]:
    """How many instances are in each state."""
    rows = tx.execute(sa.select(instance.c.state, sa.func.count()).group_by(instance.c.state))
    return {InstanceState(state): count for state, count in rows}


def is_evicted(tx: sa.Connection, new: NewInstance) -> bool:
    """Whether these very bytes were stored, and evicted since."""
    query = sa.select(instance.c.id).where(
        instance.c.sop_instance_uid == new.sop_instance_uid,
        instance.c.study_uid == new.study_uid,
        instance.c.sha256 == new.sha256,
        instance.c.path.is_(None),
    )
    return tx.execute(query).first() is not None


def forget_files(tx: sa.Connection, ids: Iterable[int]) -> None:
    """The files of these instances were evicted; the rows stay."""
    tx.execute(instance.update().where(instance.c.id.in_(list(ids))).values(path=None))


def _stored(row: sa.Row[tuple[object, ...]]) -> StoredInstance:
    values = row._mapping
    return StoredInstance(
        id=values["id"],
        study_uid=values["study_uid"],
        series_uid=values["series_uid"],
        sop_instance_uid=values["sop_instance_uid"],
        sop_class_uid=values["sop_class_uid"],
        transfer_syntax_uid=values["transfer_syntax_uid"],
        sha256=values["sha256"],
        size_bytes=values["size_bytes"],
        path=values["path"],
        calling_ae=values["calling_ae"],
        called_ae=values["called_ae"],
        received_at=values["received_at"],
        is_current=values["is_current"],
        state=InstanceState(values["state"]),
        reason=values["reason"],
        detail=values["detail"],
        facts=InstanceFacts.from_json(values["facts"]) if values["facts"] is not None else None,
    )

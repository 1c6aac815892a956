"""Result sets: the DICOM objects of one job under one profile; one is current per study, model and profile.

Workers commit them together with their deliveries; the deliverer reads them; retraction adds its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

import sqlalchemy as sa

from dicom_node.ledger.schema import delivery, result_object, result_set
from dicom_node.results.request import ObjectRef
from dicom_node.states import DeliveryState
from inference.findings import SeriesUid, SopUid, StudyUid


class ResultKind(StrEnum):
    """What a result set says."""

    RESULT = "result"  # findings, or why there are none
    RETRACTION = "retraction"  # names withdrawn objects


@dataclass(frozen=True, kw_only=True, slots=True)
class WrittenObject:
    """One result object whose file is durable; `path` is below the store's root, None once evicted."""

    role: str
    study_uid: StudyUid
    series_uid: str
    sop_class_uid: str
    sop_instance_uid: str
    path: str | None
    size_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ResultSetRow:
    """One result set with its objects."""

    id: int
    job_id: int
    study_uid: StudyUid
    model_name: str
    profile: str
    kind: ResultKind
    is_current: bool
    created_at: datetime
    objects: tuple[WrittenObject, ...]

    @property
    def references(self) -> tuple[ObjectRef, ...]:
        """The objects, as result writers refer to them."""
        return tuple(
            ObjectRef(
                study_uid=written.study_uid,
                series_uid=SeriesUid(written.series_uid),
                sop_class_uid=written.sop_class_uid,
                sop_instance_uid=SopUid(written.sop_instance_uid),
            )
            for written in self.objects
        )


def commit(
    tx: sa.Connection,
    *,
    job_id: int,
    study_uid: StudyUid,
    model_name: str,
    profile: str,
    objects: Sequence[WrittenObject],
    destinations: Sequence[str],
    at: datetime,
    kind: ResultKind = ResultKind.RESULT,
) -> int | None:
    """Make these objects the current result set and queue its deliveries; None when they are it already.

    A rerun that wrote the same set (same SOP Instance UIDs, because UIDs derive from content) changes nothing.
    """
    current = current_of(tx, study_uid, model_name, profile)
    same = {written.sop_instance_uid for written in objects}
    if current and kind is ResultKind.RESULT:
        if {written.sop_instance_uid for written in current.objects} == same:
            return None
        tx.execute(result_set.update().where(result_set.c.id == current.id).values(is_current=False))
    inserted = tx.execute(
        result_set.insert()
        .values(
            job_id=job_id,
            study_uid=study_uid,
            model_name=model_name,
            profile=profile,
            kind=kind,
            is_current=kind is ResultKind.RESULT,
            created_at=at,
        )
        .returning(result_set.c.id)
    ).scalar_one()
    for written in objects:
        tx.execute(
            result_object.insert().values(
                result_set_id=inserted,
                role=written.role,
                study_uid=written.study_uid,
                series_uid=written.series_uid,
                sop_class_uid=written.sop_class_uid,
                sop_instance_uid=written.sop_instance_uid,
                path=written.path,
                size_bytes=written.size_bytes,
            )
        )
    for destination in destinations:
        tx.execute(
            delivery.insert().values(
                result_set_id=inserted,
                study_uid=study_uid,
                destination=destination,
                state=DeliveryState.PENDING,
                created_at=at,
                next_attempt_at=at,
            )
        )
    return int(inserted)


def current_of(tx: sa.Connection, study_uid: StudyUid, model_name: str, profile: str) -> ResultSetRow | None:
    """The result set that stands, or None."""
    query = sa.select(result_set).where(
        result_set.c.study_uid == study_uid,
        result_set.c.model_name == model_name,
        result_set.c.profile == profile,
        result_set.c.is_current,
    )
    row = tx.execute(query).first()
    return _row(tx, row) if row else None


def withdraw_current(tx: sa.Connection, result_set_id: int) -> None:
    """This result set no longer stands (retraction)."""
    tx.execute(result_set.update().where(result_set.c.id == result_set_id).values(is_current=False))


def get(tx: sa.Connection, result_set_id: int) -> ResultSetRow:
    """One result set by its row id."""
    return _row(tx, tx.execute(sa.select(result_set).where(result_set.c.id == result_set_id)).one())


def of_study(tx: sa.Connection, study_uid: StudyUid) -> tuple[ResultSetRow, ...]:
    """All result sets of a study, oldest first."""
    query = sa.select(result_set).where(result_set.c.study_uid == study_uid).order_by(result_set.c.id)
    return tuple(_row(tx, row) for row in tx.execute(query).all())


def known_paths(tx: sa.Connection) -> frozenset[str]:
    """Every result file that a row names."""
    return frozenset(tx.execute(sa.select(result_object.c.path).where(result_object.c.path.is_not(None))).scalars())


def _row(tx: sa.Connection, row: sa.Row[tuple[object, ...]]) -> ResultSetRow:
    values = row._mapping
    query = sa.select(result_object).where(result_object.c.result_set_id == values["id"]).order_by(result_object.c.id)
    objects = tuple(
        WrittenObject(**{name: found._mapping[name] for name in WrittenObject.__slots__}) for found in tx.execute(query)
    )
    return ResultSetRow(
        id=values["id"],
        job_id=values["job_id"],
        study_uid=values["study_uid"],
        model_name=values["model_name"],
        profile=values["profile"],
        kind=ResultKind(values["kind"]),
        is_current=values["is_current"],
        created_at=values["created_at"],
        objects=objects,
    )

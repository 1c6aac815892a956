"""Which version of a model is champion, shadow or retired, every change of that, and the reports it rests on.

Asked by routing in the transaction that queues jobs, by workers, health and `radnode models`. What may become what is
decided in `dicom_node.promotion`; the database holds that a name has one champion at most.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from dicom_node.ledger.schema import evaluation_report, loaded_model, model_standing, standing_change
from dicom_node.states import Standing, StandingAction


class StandingChanged(Exception):
    """Another person changed the standing of this model at the same moment; look, and decide again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StandingRow:
    """What one version is now. A version without a row is a candidate."""

    model_name: str
    model_version: str
    standing: Standing
    model_digest: str  # of the card when it got this standing
    since: datetime

    @property
    def reference(self) -> str:
        """``name@version``."""
        return f"{self.model_name}@{self.model_version}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """One change of standing: who, when, from what, to what, why, and by which report."""

    at: datetime
    operator: str
    action: StandingAction
    model_name: str
    model_version: str
    from_standing: Standing
    to_standing: Standing
    model_digest: str
    report_sha256: str | None
    why: str

    @property
    def reference(self) -> str:
        """``name@version``."""
        return f"{self.model_name}@{self.model_version}"


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedModel:
    """A model in the memory of a worker; `fault` says why it is not."""

    owner: str
    model_name: str
    model_version: str
    model_digest: str
    device: str | None
    fault: str | None
    seen_at: datetime

    @property
    def reference(self) -> str:
        """``name@version``."""
        return f"{self.model_name}@{self.model_version}"


def every(tx: sa.Connection) -> tuple[StandingRow, ...]:
    """All rows, by name and since when."""
    query = sa.select(model_standing).order_by(model_standing.c.model_name, model_standing.c.since)
    return tuple(map(_row, tx.execute(query)))


def championed(tx: sa.Connection) -> frozenset[str]:
    """Names of which a version was ever champion."""
    query = sa.select(standing_change.c.model_name).where(standing_change.c.to_standing == Standing.CHAMPION).distinct()
    return frozenset(tx.execute(query).scalars())


def of_name(tx: sa.Connection, model_name: str, *, for_update: bool = False) -> tuple[StandingRow, ...]:
    """All rows of a name; `for_update` keeps others from changing them until the transaction ends."""
    query = sa.select(model_standing).where(model_standing.c.model_name == model_name)
    if for_update:
        query = query.with_for_update()
    return tuple(map(_row, tx.execute(query)))


def change(tx: sa.Connection, made: Change) -> None:
    """Give a version its new standing and write the change into the history.

    Raises
    ------
    StandingChanged
        If the version is not what `made.from_standing` says, or the name has another champion.
    """
    try:
        with tx.begin_nested():
            _set(tx, made)
    except sa.exc.IntegrityError as error:
        raise StandingChanged(f"{made.model_name} has got another champion at this moment") from error
    tx.execute(
        standing_change.insert().values(**{name: getattr(made, name) for name in Change.__slots__}),
    )


def _set(tx: sa.Connection, made: Change) -> None:
    key = (
        model_standing.c.model_name == made.model_name,
        model_standing.c.model_version == made.model_version,
    )
    values = {"standing": made.to_standing, "model_digest": made.model_digest, "since": made.at}
    found = tx.execute(sa.select(model_standing.c.standing).where(*key).with_for_update()).scalar_one_or_none()
    if (found or Standing.CANDIDATE) != made.from_standing:
        raise StandingChanged(f"{made.reference} is {found} by now, not {made.from_standing}")
    if found is None:
        tx.execute(
            model_standing.insert().values(model_name=made.model_name, model_version=made.model_version, **values)
        )
    else:
        tx.execute(model_standing.update().where(*key).values(**values))


def history(tx: sa.Connection, model_name: str) -> tuple[Change, ...]:
    """Every change of a name's versions, oldest first."""
    query = sa.select(standing_change).where(standing_change.c.model_name == model_name).order_by(standing_change.c.id)
    return tuple(
        Change(
            **{name: row._mapping[name] for name in Change.__slots__}
            | {
                "action": StandingAction(row.action),
                "from_standing": Standing(row.from_standing),
                "to_standing": Standing(row.to_standing),
            }
        )
        for row in tx.execute(query)
    )


def store_report(tx: sa.Connection, *, sha256: str, text: str, at: datetime) -> None:
    """Keep the file that a promotion rests on; the same file once."""
    known = tx.execute(sa.select(evaluation_report.c.sha256).where(evaluation_report.c.sha256 == sha256)).first()
    if known is None:
        tx.execute(evaluation_report.insert().values(sha256=sha256, text=text, stored_at=at))


def report_text(tx: sa.Connection, sha256: str) -> str | None:
    """The stored file of a report, or None."""
    query = sa.select(evaluation_report.c.text).where(evaluation_report.c.sha256 == sha256)
    text: str | None = tx.execute(query).scalar_one_or_none()
    return text


# what workers hold ---------------------------------------------------------------------------------------------------


def set_loaded(tx: sa.Connection, owner: str, models: Sequence[LoadedModel]) -> None:
    """What this worker holds now, in place of what it held."""
    tx.execute(loaded_model.delete().where(loaded_model.c.owner == owner))
    for one in models:
        tx.execute(loaded_model.insert().values(**{name: getattr(one, name) for name in LoadedModel.__slots__}))


def renew_loaded(tx: sa.Connection, owner: str, at: datetime) -> None:
    """The worker lives, and holds what it held."""
    tx.execute(loaded_model.update().where(loaded_model.c.owner == owner).values(seen_at=at))


def forget_loaded(tx: sa.Connection, owner_prefix: str) -> None:
    """These workers hold nothing any more."""
    tx.execute(loaded_model.delete().where(loaded_model.c.owner.startswith(owner_prefix, autoescape=True)))


def loaded(tx: sa.Connection, *, since: datetime) -> tuple[LoadedModel, ...]:
    """What living workers hold: those that gave a sign of life after `since`."""
    query = sa.select(loaded_model).where(loaded_model.c.seen_at >= since).order_by(loaded_model.c.owner)
    return tuple(
        LoadedModel(**{name: row._mapping[name] for name in LoadedModel.__slots__}) for row in tx.execute(query)
    )


def _row(row: sa.Row[tuple[object, ...]]) -> StandingRow:
    values = row._mapping
    return StandingRow(
        **{name: values[name] for name in StandingRow.__slots__} | {"standing": Standing(values["standing"])}
    )

"""Destinations that a person holds back: nothing is sent to them until the hold is taken away.

Set by `radnode destinations pause`, asked by the loops that send. What waits stays in order and loses no attempt.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from dicom_node.ledger.schema import destination_hold


@dataclass(frozen=True, kw_only=True, slots=True)
class Hold:
    """Who holds a destination back, and why."""

    destination: str
    since: datetime
    operator: str
    why: str


def is_held(tx: sa.Connection, destination: str) -> bool:
    """Whether nothing may be sent there now."""
    query = sa.select(destination_hold.c.since).where(destination_hold.c.destination == destination)
    return tx.execute(query).first() is not None


def every(tx: sa.Connection) -> dict[str, Hold]:
    """All holds by destination."""
    rows = tx.execute(sa.select(destination_hold).order_by(destination_hold.c.destination))
    holds = (Hold(**dict(row._mapping)) for row in rows)
    return {hold.destination: hold for hold in holds}


def hold(tx: sa.Connection, new: Hold) -> bool:
    """Hold a destination back; False when it is held already, which stays as it is."""
    if is_held(tx, new.destination):
        return False
    tx.execute(
        destination_hold.insert().values(
            destination=new.destination, since=new.since, operator=new.operator, why=new.why
        )
    )
    return True


def release(tx: sa.Connection, destination: str) -> bool:
    """Take the hold away; False when there was none."""
    return tx.execute(destination_hold.delete().where(destination_hold.c.destination == destination)).rowcount == 1

"""What came of writing a document: said by `outbox.preparing`, acted upon by `outbox.courier`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from dicom_node.outbox.letters import Letter
from dicom_node.states import ParkReason


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """The document stands: what is sent, and which version of its set it is."""

    letter: Letter
    version: int
    replaces: str | None
    set_id: str
    request: bytes | None  # packed, see `outbox.sent`


@dataclass(frozen=True, kw_only=True, slots=True)
class Parked:
    """A person must look. `told` names fields and sources, never a value."""

    why: ParkReason
    told: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Withheld:
    """By rule this destination does not get it."""

    told: str


@dataclass(frozen=True, kw_only=True, slots=True)
class NotYet:
    """Something does not answer now: try to write it later."""

    told: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Needless:
    """There is nothing to tell any more: what it takes back never left."""

    told: str


@dataclass(frozen=True, kw_only=True, slots=True)
class TakeBackFirst:
    """What left before was filed under somebody else: there it is taken back before this is told."""

    told: str


Preparation: TypeAlias = Written | Parked | Withheld | NotYet | Needless | TakeBackFirst

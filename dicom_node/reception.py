"""The board of reception: which associations are open now, what they brought, and what is half received.

Acceptor processes report over a pipe, `dicom_node.dimse.scp` applies the reports here, and assembly asks before it
calls a study complete. It lives in memory only: after a restart no association is open, which is the truth. What was
stored is the ledger's.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

from inference.findings import StudyUid

_MAX_STUDIES_PER_ASSOCIATION = 10_000


class Happened(StrEnum):
    """What an acceptor reports."""

    OPENED = "opened"  # an association was accepted
    REJECTED = "rejected"  # an association was refused: AE title, address, limit or disk
    ACTIVE = "active"  # something came; sent at most once a second
    OBJECT_STARTED = "object_started"  # a C-STORE has begun; its study is not known yet
    OBJECT_KNOWN = "object_known"  # the study of the half-received object is known
    STORED = "stored"  # durable and in the ledger
    DUPLICATE = "duplicate"  # durable and in the ledger already
    REFUSED = "refused"  # an object was answered with a failure
    CLOSED = "closed"  # released, aborted or cut


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """One line from an acceptor process."""

    happened: Happened
    association: int
    study_uid: str = ""
    calling_ae: str = ""
    peer_address: str = ""
    reason: str = ""

    def to_bytes(self) -> bytes:
        """JSON, for the pipe: what comes from a process that reads the network is never unpickled."""
        words = (self.happened, self.association, self.study_uid, self.calling_ae, self.peer_address, self.reason)
        return json.dumps(words).encode()

    @staticmethod
    def from_bytes(data: bytes) -> Report:
        """Read what `to_bytes` wrote. Raises ValueError."""
        happened, association, *texts = json.loads(data)
        study_uid, calling_ae, peer_address, reason = map(str, texts)
        return Report(
            happened=Happened(happened),
            association=int(association),
            study_uid=study_uid,
            calling_ae=calling_ae,
            peer_address=peer_address,
            reason=reason,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenAssociation:
    """One open association, for the console and the metrics."""

    calling_ae: str
    peer_address: str
    open_s: float
    idle_s: float
    receiving: bool
    studies: int
    stored: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ReceptionCounts:
    """Totals since the node started."""

    associations: int = 0
    rejected: int = 0
    stored: int = 0
    duplicates: int = 0
    refused: int = 0


@dataclass(kw_only=True, slots=True)
class _Association:
    calling_ae: str
    peer_address: str
    opened_at: float
    active_at: float
    receiving: bool = False
    half_received_study: str = ""
    stored: int = 0
    studies: dict[str, None] = field(default_factory=dict)

    def contributed(self, study_uid: str) -> None:
        """Remember the study; of a sender that never ends, only the newest are remembered."""
        self.studies.pop(study_uid, None)
        self.studies[study_uid] = None
        if len(self.studies) > _MAX_STUDIES_PER_ASSOCIATION:
            del self.studies[next(iter(self.studies))]


class ReceptionBoard:
    """What is going on at the port. Every method may be called from any thread.

    Parameters
    ----------
    clock : callable
        Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._open: dict[tuple[str, int], _Association] = {}
        self._totals = dict.fromkeys(Happened, 0)
        self._subscribers: list[Callable[[StudyUid], None]] = []

    def holders(self, study_uid: StudyUid, calling_ae: str, idle_s: float) -> tuple[str, ...]:
        """Why the study cannot be complete yet; empty when nothing holds it.

        Parameters
        ----------
        study_uid : StudyUid
            The study.
        calling_ae : str
            Who sends it: a half-received object of this sender whose study is not yet known holds the study.
        idle_s : float
            An association on which nothing came for so long holds nothing, for some senders never close. A
            half-received object holds however slow it is: it ends by the receiver's own timeouts.

        Returns
        -------
        tuple of str
            One reason for each association that holds the study.
        """
        now = self._clock()
        with self._lock:
            reasons = (_holds(association, study_uid, calling_ae, now - idle_s) for association in self._open.values())
            return tuple(reason for reason in reasons if reason)

    def subscribe(self, on_stored: Callable[[StudyUid], None]) -> None:
        """Call `on_stored` with the study each time an instance was stored or an association of it ended.

        It is called from the receiver's thread and must return at once: set an event, put into a queue.
        """
        with self._lock:
            self._subscribers.append(on_stored)

    def apply(self, acceptor: str, report: Report) -> None:
        """Enter one report of the acceptor process called `acceptor`."""
        with self._lock:
            self._totals[report.happened] += 1
            touched = self._enter((acceptor, report.association), report)
            subscribers = tuple(self._subscribers)
        _tell(subscribers, touched)

    def drop_acceptor(self, acceptor: str) -> None:
        """Forget the associations of a process that ended."""
        with self._lock:
            gone = [key for key in self._open if key[0] == acceptor]
            studies = tuple(study for key in gone for study in self._open.pop(key).studies)
            subscribers = tuple(self._subscribers)
        _tell(subscribers, studies)

    def snapshot(self) -> tuple[OpenAssociation, ...]:
        """The open associations, oldest first."""
        now = self._clock()
        with self._lock:
            return tuple(
                OpenAssociation(
                    calling_ae=association.calling_ae,
                    peer_address=association.peer_address,
                    open_s=now - association.opened_at,
                    idle_s=now - association.active_at,
                    receiving=association.receiving,
                    studies=len(association.studies),
                    stored=association.stored,
                )
                for association in sorted(self._open.values(), key=lambda association: association.opened_at)
            )

    def counts(self) -> ReceptionCounts:
        """Totals since the node started."""
        with self._lock:
            return ReceptionCounts(
                associations=self._totals[Happened.OPENED],
                rejected=self._totals[Happened.REJECTED],
                stored=self._totals[Happened.STORED],
                duplicates=self._totals[Happened.DUPLICATE],
                refused=self._totals[Happened.REFUSED],
            )

    def _enter(self, key: tuple[str, int], report: Report) -> tuple[str, ...]:
        now = self._clock()
        if report.happened is Happened.OPENED:
            self._open[key] = _Association(
                calling_ae=report.calling_ae, peer_address=report.peer_address, opened_at=now, active_at=now
            )
        if report.happened is Happened.CLOSED:
            closed = self._open.pop(key, None)
            return tuple(closed.studies) if closed else ()
        association = self._open.get(key)
        if association is None:
            return ()
        association.active_at = now
        return _change(association, report)


def _change(association: _Association, report: Report) -> tuple[str, ...]:
    match report.happened:
        case Happened.OBJECT_STARTED:
            association.receiving, association.half_received_study = True, ""
        case Happened.OBJECT_KNOWN:
            association.half_received_study = report.study_uid
        case Happened.REFUSED:
            association.receiving, association.half_received_study = False, ""
        case Happened.STORED | Happened.DUPLICATE:
            association.receiving, association.half_received_study = False, ""
            association.stored += 1
            association.contributed(report.study_uid)
            return (report.study_uid,)
        case _:
            pass
    return ()


def _holds(association: _Association, study_uid: str, calling_ae: str, active_after: float) -> str:
    who = f"association from {association.calling_ae} at {association.peer_address}"
    if association.receiving and association.half_received_study == study_uid:
        return f"{who} is in the middle of an object of this study"
    if association.receiving and not association.half_received_study and association.calling_ae == calling_ae:
        return f"{who} is in the middle of an object of a study not yet known"
    if study_uid in association.studies and association.active_at > active_after:
        return f"{who} brought objects of this study and is still open"
    return ""


def _tell(subscribers: tuple[Callable[[StudyUid], None], ...], studies: tuple[str, ...]) -> None:
    for study_uid in studies:
        for subscriber in subscribers:
            subscriber(StudyUid(study_uid))

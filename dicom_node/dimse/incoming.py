"""One object on its way in: from the C-STORE command to the status that answers it.

Used by `dimse.association` on the thread that reads the socket. The bytes go to disk as they come, hashed and sniffed
on the way, so memory does not grow with the object; the order at the end is what makes an acknowledgement true.
"""

from __future__ import annotations

import errno
import hashlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog

from dicom_node.dimse.command import Command, Status, file_meta, readable
from dicom_node.dimse.header_sniff import HeaderSniffer, ObjectIdentity
from dicom_node.receiver import InstanceSink
from dicom_node.store import DiskState, IncomingFile, Store, StoreError
from dicom_node.study import NewInstance, RecordedKind
from inference.findings import SeriesUid, SopUid, StudyUid

log = structlog.get_logger(__name__)

_SINK_PAUSE_S = 5.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Sender:
    """Who an association is with."""

    calling_ae: str
    called_ae: str
    peer_address: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """How a C-STORE is answered; `study_uid` is set when the object was stored."""

    status: Status
    comment: str = ""
    study_uid: str = ""
    is_duplicate: bool = False


class ObjectTooLarge(Exception):
    """The peer goes on sending after its object was far beyond the limit; the association is aborted."""


class Intake:
    """What every object of an acceptor process shares: store, sink, and the memory of a failing sink.

    Parameters
    ----------
    store : Store
        Where files go.
    sink : InstanceSink
        Where they are recorded.
    max_object_bytes : int
        Largest data set that is stored.
    clock : callable
        Monotonic seconds.
    """

    def __init__(
        self, store: Store, sink: InstanceSink, max_object_bytes: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.store = store
        self.sink = sink
        self.max_object_bytes = max_object_bytes
        self._clock = clock
        self._lock = threading.Lock()
        self._sink_paused_until = -1.0

    def refusal(self) -> Answer | None:
        """Why no object is taken at the moment, or None."""
        if self.store.disk_state() is DiskState.HARD:
            return Answer(status=Status.OUT_OF_RESOURCES, comment="disk full")
        with self._lock:
            paused = self._clock() < self._sink_paused_until
        return Answer(status=Status.OUT_OF_RESOURCES, comment="ledger not available") if paused else None

    def disk_failed(self, error_number: int | None) -> None:
        """A write failed: when the disk is full the reserve goes, so that the ledger can still commit."""
        if error_number in (errno.ENOSPC, errno.EDQUOT) and self.store.free_reserve():
            log.error("the disk is full; the reserve was given back")

    def record(self, instance: NewInstance) -> RecordedKind | None:
        """Commit to the sink; None when it failed. Objects are then refused for a while before they are written."""
        try:
            return self.sink.record_instance(instance).kind
        except Exception as error:  # noqa: BLE001 - whatever a ledger raises, the sender must be told to come again
            # The text of a database error can quote values; its type is enough to find the cause in the ledger's log.
            log.error("the ledger did not commit an instance", error=type(error).__name__)
            with self._lock:
                self._sink_paused_until = self._clock() + _SINK_PAUSE_S
            return None


class IncomingObject:
    """A data set being received.

    Parameters
    ----------
    intake : Intake
        Of the process.
    command : Command
        The C-STORE request.
    transfer_syntax_uid : str
        Negotiated for its presentation context.
    sender : Sender
        Who sends it.
    """

    def __init__(self, intake: Intake, command: Command, transfer_syntax_uid: str, sender: Sender) -> None:
        self.command = command
        self._intake = intake
        self._sender = sender
        self._transfer_syntax_uid = transfer_syntax_uid
        self._sniffer = HeaderSniffer(transfer_syntax_uid)
        self._digest = hashlib.sha256()
        self._size_bytes = 0
        self._file: IncomingFile | None = None
        self._refused = intake.refusal()
        if self._refused is None:
            self._open()

    @property
    def study_uid(self) -> str:
        """The study, as soon as the first bytes told; before that empty."""
        return self._sniffer.study_uid

    def write(self, data: memoryview) -> None:
        """Take the next bytes. Faults are kept for the answer: the peer must be heard out before it is told.

        Raises
        ------
        ObjectTooLarge
            If the peer sends twice the largest object.
        """
        self._size_bytes += len(data)
        if self._size_bytes > self._intake.max_object_bytes:
            self._refuse(Status.OUT_OF_RESOURCES, "object too large")
            if self._size_bytes > 2 * self._intake.max_object_bytes:
                raise ObjectTooLarge
        if self._file is None:
            return
        self._digest.update(data)
        self._sniffer.feed(data)
        try:
            self._file.write(data)
        except OSError as error:
            self._refuse(Status.OUT_OF_RESOURCES, "disk full or failing")
            self._intake.disk_failed(error.errno)

    def finish(self) -> Answer:
        """The last byte came: make the object safe, record it, and say how the request is answered."""
        identity = self._sniffer.identity()
        if self._refused is None and identity is None:
            self._refuse(Status.CANNOT_UNDERSTAND, self._sniffer.missing())
        if self._refused is None and identity is not None and not self._is_as_commanded(identity):
            self._refuse(Status.NOT_THE_SOP_CLASS, "data set is not what the command says")
        if self._refused is not None or self._file is None or identity is None:
            return self._refused or Answer(status=Status.CANNOT_UNDERSTAND)
        return self._store(self._file, identity)

    def abandon(self) -> None:
        """The association ended before the object did: nothing of it stays."""
        if self._file is not None:
            self._file.discard()
            self._file = None

    def _open(self) -> None:
        sop_class_uid = readable(self.command.sop_class_uid)
        sop_instance_uid = readable(self.command.sop_instance_uid)
        if sop_class_uid is None or sop_instance_uid is None:
            self._refuse(Status.CANNOT_UNDERSTAND, "unreadable identifiers in the command")
            return
        meta = file_meta(
            sop_class_uid=sop_class_uid,
            sop_instance_uid=sop_instance_uid,
            transfer_syntax_uid=self._transfer_syntax_uid,
            calling_ae=self._sender.calling_ae,
            called_ae=self._sender.called_ae,
        )
        try:
            self._file = self._intake.store.create_incoming()
            self._file.write(meta)
        except (StoreError, OSError) as error:
            self._refuse(Status.OUT_OF_RESOURCES, "disk full or failing")
            self._intake.disk_failed(error.errno)

    def _refuse(self, status: Status, comment: str) -> None:
        if self._refused is None:
            self._refused = Answer(status=status, comment=comment)
        self.abandon()

    def _is_as_commanded(self, identity: ObjectIdentity) -> bool:
        return (
            readable(self.command.sop_class_uid) == identity.sop_class_uid
            and readable(self.command.sop_instance_uid) == identity.sop_instance_uid
        )

    def _store(self, file: IncomingFile, identity: ObjectIdentity) -> Answer:
        received_at = datetime.now(UTC)
        self._file = None
        try:
            relative_path = self._intake.store.place(file)
        except StoreError as error:
            log.error("an instance could not be made durable", error=str(error))
            self._intake.disk_failed(error.errno)
            return Answer(status=Status.OUT_OF_RESOURCES, comment="disk full or failing")
        kind = self._intake.record(
            NewInstance(
                sop_instance_uid=SopUid(identity.sop_instance_uid),
                sop_class_uid=identity.sop_class_uid,
                series_uid=SeriesUid(identity.series_uid),
                study_uid=StudyUid(identity.study_uid),
                transfer_syntax_uid=self._transfer_syntax_uid,
                sha256=self._digest.hexdigest(),
                size_bytes=self._size_bytes,
                relative_path=relative_path,
                calling_ae=self._sender.calling_ae,
                called_ae=self._sender.called_ae,
                peer_address=self._sender.peer_address,
                received_at=received_at,
            )
        )
        if kind is None:
            # The commit may have happened although it was not reported, and a row must never lose its file. Without
            # a row the scan at the next start takes the file up.
            return Answer(status=Status.OUT_OF_RESOURCES, comment="ledger not available")
        is_duplicate = kind is RecordedKind.DUPLICATE
        if is_duplicate:
            self._intake.store.remove(relative_path)
        return Answer(status=Status.SUCCESS, study_uid=identity.study_uid, is_duplicate=is_duplicate)

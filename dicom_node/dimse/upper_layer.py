"""pynetdicom's upper layer with the bounds a server needs: how long a PDU may be, and how long it may take.

Used by `dimse.association` in place of pynetdicom's own socket and reactor. As a server pynetdicom reads whatever
length a PDU claims, waits for half a PDU for ever, and polls every millisecond; here a PDU has a largest length for
its type and a deadline, and threads sleep until there is something to do.
"""

from __future__ import annotations

import os
import queue
import select
import socket
import struct
import threading
import time
from typing import TYPE_CHECKING, Any, cast

import structlog
from pynetdicom.dul import DULServiceProvider
from pynetdicom.pdu import P_DATA_TF
from pynetdicom.pdu_primitives import P_DATA
from pynetdicom.transport import AssociationSocket

if TYPE_CHECKING:
    from dicom_node.dimse.association import AcceptedAssociation

log = structlog.get_logger(__name__)

_HEADER = struct.Struct(">BxL")
_PDV_HEADER = struct.Struct(">LB")
_ASSOCIATE_RQ, _P_DATA_TF = 0x01, 0x04
_PDU_TYPES = range(0x01, 0x08)
_MAX_ASSOCIATE_BYTES = 256 * 1024  # 128 presentation contexts with every transfer syntax there is are about half
_MAX_CONTROL_BYTES = 4 * 1024  # release and abort are 4 bytes long
_PDV_SLACK_BYTES = 64  # some senders do not count the headers of the PDVs
_IDLE_POLL_S = 0.1
_RECEIVE_TICK_S = 5.0
_AWAITING_CLOSE = "Sta13"


class PeerGone(Exception):
    """The connection was closed, reset, or too slow in the middle of a PDU."""


class PeerMisbehaves(Exception):
    """What came is not allowed by PS3.8 or by what was negotiated; the association is aborted."""


class Wake:
    """Wakes the thread that sleeps on the socket when another thread has something to send."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._descriptor: int | None = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def fileno(self) -> int:
        """The descriptor to poll; -1 once closed."""
        return -1 if self._descriptor is None else self._descriptor

    def set(self) -> None:
        """Wake the sleeper."""
        with self._lock:
            if self._descriptor is not None:
                os.eventfd_write(self._descriptor, 1)

    def clear(self) -> None:
        """Forget earlier wakes."""
        with self._lock:
            if self._descriptor is not None:
                try:
                    os.eventfd_read(self._descriptor)
                except BlockingIOError:
                    return

    def close(self) -> None:
        """Give the descriptor back."""
        with self._lock:
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None


class SignallingQueue(queue.Queue[Any]):
    """A queue whose reader waits for an event that other things set as well."""

    def __init__(self, signal: threading.Event) -> None:
        super().__init__()
        self._signal = signal

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """As `queue.Queue.put`, and set the event."""
        super().put(item, block, timeout)
        self._signal.set()


class PeerSocket(AssociationSocket):
    """The connection with a peer: sleeps until it is readable, reads with a deadline."""

    def __init__(self, association: AcceptedAssociation, connection: socket.socket, wake: Wake) -> None:
        super().__init__(association, client_socket=connection)
        self._wake = wake
        self._poller = select.poll()
        self._poller.register(connection, select.POLLIN)
        self._poller.register(wake, select.POLLIN)

    @property
    def ready(self) -> bool:
        """Whether there is something to read; waits a moment for it unless there is other work."""
        if self.socket is None or not self._is_connected:
            time.sleep(0.001)
            return False
        try:
            wait_s = 0.0 if not self.event_queue.empty() else _IDLE_POLL_S
            events = dict(self._poller.poll(wait_s * 1000))
            if self._wake.fileno() in events:
                self._wake.clear()
            return self.socket.fileno() in events
        except (OSError, ValueError):
            self.event_queue.put("Evt17")
            return False

    def receive(self, size: int, deadline: float) -> bytearray:
        """Exactly `size` bytes. Raises `PeerGone`."""
        data = bytearray(size)
        view = memoryview(data)
        while view:
            got = self._receive_some(view, deadline)
            view = view[got:]
        return data

    def drain(self) -> bool:
        """Throw away what is there; False when the peer has closed."""
        if self.socket is None:
            return False
        try:
            return bool(self.socket.recv(64 * 1024))
        except OSError:
            return False

    def _receive_some(self, view: memoryview, deadline: float) -> int:
        while self.socket is not None and time.monotonic() < deadline:
            try:
                got = self.socket.recv_into(view)
            except TimeoutError:
                continue
            except OSError as error:
                raise PeerGone("the connection was reset") from error
            if got:
                return got
            raise PeerGone("the connection was closed")
        raise PeerGone("a PDU did not come to its end in time")


class ReceivedValues(P_DATA_TF):
    """A P-DATA-TF as it came, its fragments without a copy; it is its own P-DATA indication."""

    def __init__(self, values: list[tuple[int, memoryview]]) -> None:
        super().__init__()
        self.values = values

    def to_primitive(self) -> P_DATA:
        """Itself: pynetdicom's primitive would want every fragment copied."""
        return cast(P_DATA, self)


class BoundedUpperLayer(DULServiceProvider):
    """The reactor that reads the socket and drives the state machine of PS3.8 9.2, with bounds.

    Parameters
    ----------
    association : AcceptedAssociation
        Its owner.
    wake : Wake
        Set whenever something is to be sent.
    """

    def __init__(self, association: AcceptedAssociation, wake: Wake) -> None:
        super().__init__(association)
        self.daemon = True
        self._run_loop_delay = 0.0  # `PeerSocket.ready` sleeps instead
        self._association = association
        self._wake = wake
        self._broken = False
        self.to_user_queue = SignallingQueue(association.attention)

    def send_pdu(self, primitive: Any) -> None:
        """As pynetdicom's, and wake the reactor."""
        super().send_pdu(primitive)
        self._wake.set()

    def misbehaves(self, reason: str) -> None:
        """Abort the association: what the peer sent is not allowed."""
        log.warning("association aborted", reason=reason, **self._association.who)
        self._broken = True
        self.event_queue.put("Evt19")

    def run_reactor(self) -> None:
        """As pynetdicom's; whatever ends it, nothing half-received stays and the association's thread is told."""
        try:
            super().run_reactor()
        except Exception as error:  # noqa: BLE001 - the edge of the loop: one association ends, the others go on
            log.error("an association's reactor failed", error=type(error).__name__, **self._association.who)
        finally:
            self._association.reception.abandon()
            self.to_user_queue.put(None)

    def _read_pdu_data(self) -> None:
        peer = self._association.peer_socket
        if self._broken:
            if not peer.drain():
                self.event_queue.put("Evt17")
            return
        try:
            self._receive_pdu(peer, time.monotonic() + self._association.settings.pdu_timeout_s)
        except PeerGone:
            self.event_queue.put("Evt17")
        except PeerMisbehaves as error:
            self.misbehaves(str(error))

    def _receive_pdu(self, peer: PeerSocket, deadline: float) -> None:
        header = peer.receive(_HEADER.size, deadline)
        kind, length = _HEADER.unpack(header)
        if kind not in _PDU_TYPES or length > self._largest(kind):
            raise PeerMisbehaves(f"a PDU of type {kind:#04x} and {length} bytes")
        body = peer.receive(length, deadline)
        if kind == _P_DATA_TF:
            self._recv_pdu.put(ReceivedValues(_split(body)))
            self.event_queue.put("Evt10")
            return
        try:
            pdu, event = self._decode_pdu(header + body)
        except Exception as error:
            raise PeerMisbehaves(f"a PDU of type {kind:#04x} that cannot be read") from error
        self._recv_pdu.put(pdu)
        self.event_queue.put(event)

    def _largest(self, kind: int) -> int:
        if kind == _P_DATA_TF:
            return self._association.settings.max_pdu_bytes + _PDV_SLACK_BYTES
        return _MAX_ASSOCIATE_BYTES if kind == _ASSOCIATE_RQ else _MAX_CONTROL_BYTES


def configure(connection: socket.socket, pdu_timeout_s: float) -> None:
    """Set up an accepted connection: no delay, and no call that blocks longer than a moment."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.settimeout(min(pdu_timeout_s, _RECEIVE_TICK_S))


def _split(body: bytearray) -> list[tuple[int, memoryview]]:
    """The PDVs of a P-DATA-TF (PS3.8 9.3.5.1): context and message control header with fragment."""
    view = memoryview(body)
    values = []
    while view:
        if len(view) < _PDV_HEADER.size + 1:
            raise PeerMisbehaves("a PDV that is cut short")
        length, context_id = _PDV_HEADER.unpack(view[: _PDV_HEADER.size])
        end = length + 4
        if length < 2 or end > len(view):  # noqa: PLR2004 - context ID and control header
            raise PeerMisbehaves("a PDV whose length does not fit")
        values.append((context_id, view[_PDV_HEADER.size : end]))
        view = view[end:]
    return values

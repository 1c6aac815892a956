"""Associations that this node requests: opened, held and released here, with their failures told apart.

Used by `dimse.scu` and `dimse.commitment`. What is said over an association is theirs; this module also holds what
pynetdicom's transport needs to be bounded in time and memory. Receiving is in `dimse.acceptor`.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pydicom.uid import UID
from pynetdicom import AE, _config, build_context, evt
from pynetdicom.association import Association
from pynetdicom.pdu_primitives import P_DATA
from pynetdicom.transport import AddressInformation, AssociationSocket

from dicom_node.delivery.archive import (
    ArchiveRejected,
    ArchiveUnreachable,
    PacsDestination,
)
from dicom_node.delivery.tls import client_context
from dicom_node.implementation import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME

# Its per-PDU log handlers cost time and, at debug level, print data sets.
_config.LOG_HANDLER_LEVEL = "none"
# A path given to send_c_store is then read piece by piece and its bytes travel as they are.
_config.STORE_SEND_CHUNKED_DATASET = True

MAX_CONTEXTS: Final = 128  # context IDs are odd numbers up to 255 (PS3.8 section 9.3.2.2)
IDLE: Final = "Sta1"  # states of PS3.8 section 9.2
TRANSFER: Final = "Sta6"
ABORT_LIMIT_S: Final = 0.2  # for the abort itself to leave
JOIN_TIMEOUT_S: Final = 2.0
LONGEST_PDU_BYTES: Final = 2 << 20  # twice the most that a destination may negotiate
QUEUED_PDUS: Final = 16  # how far reading a file may run ahead of the network
REJECTED_PERMANENTLY: Final = 1
CALLING_TITLE_UNKNOWN: Final = (1, 3)  # source and diagnostic of A-ASSOCIATE-RJ (PS3.8 table 9-21)
CALLED_TITLE_UNKNOWN: Final = (1, 7)

Contexts = Sequence[tuple[str, str]]
Handler = tuple[Any, Callable[..., Any], list[Any]]


class NoContextAccepted(Exception):
    """The archive accepted the association's titles but none of the proposed presentation contexts. Permanent."""


class ConnectionLost(Exception):
    """The association ended in the middle of a message."""


class _Socket(AssociationSocket):
    """pynetdicom's socket, which it leaves open when a connection is refused, and which would read 4 GiB if told so."""

    def _create_socket(self, address: AddressInformation) -> socket.socket:
        created = super()._create_socket(address)
        # With Nagle's algorithm every small PDU waits for an acknowledgement: seven times slower for small objects.
        created.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return created

    def recv(self, nr_bytes: int) -> bytearray:
        if nr_bytes > LONGEST_PDU_BYTES:
            raise OSError("the archive announced a PDU longer than any that was negotiated")
        return super().recv(nr_bytes)

    def _shutdown_socket(self) -> None:
        super()._shutdown_socket()
        if self.socket is not None:
            self.socket.close()


class _Entity(AE):
    """pynetdicom's application entity with sockets of ours."""

    def _create_socket(
        self, assoc: Association, address: AddressInformation, tls_args: tuple[ssl.SSLContext, str] | None
    ) -> AssociationSocket:
        created = _Socket(assoc, address=address)
        created.tls_args = tls_args
        return created


class _PacedQueue(queue.Queue[Any]):
    """The queue between a message and the network, held short so that a file is not read into memory at once.

    Only data waits, never a release or an abort; and only while the association's own thread lives and is in its
    data transfer state (Sta6 of PS3.8 section 9.2), because nobody drains the queue after that.
    """

    def __init__(self, provider: Any) -> None:
        super().__init__()
        self._provider = provider

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        while isinstance(item, P_DATA):
            if not self._provider.is_alive() or self._provider.state_machine.current_state != TRANSFER:
                raise ConnectionLost
            if self.qsize() < QUEUED_PDUS:
                break
            time.sleep(0.0005)
        super().put(item, block, timeout)


@dataclass(slots=True)
class _Connection:
    """What the transport told while an association was requested."""

    opened: bool = False


def _on_open(event: Any, connection: _Connection, idle_timeout_s: float) -> None:
    connection.opened = True
    transport: socket.socket = event.assoc.dul.socket.socket
    # pynetdicom leaves the socket without a limit; a peer that stops reading would hold the thread for ever.
    transport.settimeout(idle_timeout_s)


def _on_abort(event: evt.Event) -> None:
    """Cut the connection after an abort: an archive that trickles half a PDU would keep its reader busy for ever."""
    provider = event.assoc.dul
    deadline_s = time.monotonic() + ABORT_LIMIT_S
    while time.monotonic() < deadline_s:
        if provider.to_provider_queue.empty() or provider.state_machine.current_state == IDLE:
            break
        time.sleep(0.005)
    if provider.socket is not None and provider.socket.socket is not None:
        with contextlib.suppress(OSError):
            provider.socket.socket.shutdown(socket.SHUT_RDWR)


def _explain_rejection(association: Association, destination: PacsDestination) -> str:
    answer = association.acceptor.primitive
    if answer is None:
        return "the archive rejected the association: see its log"
    permanent = "permanently" if answer.result == REJECTED_PERMANENTLY else "for now"
    told = answer.reason_str.strip().lower() or "no reason given"
    remedies: dict[tuple[int | None, int | None], str] = {
        CALLING_TITLE_UNKNOWN: f"enter the AE title {destination.calling_ae} in the archive; in a node, in its peers",
        CALLED_TITLE_UNKNOWN: f"set called_ae, which is {destination.called_ae}, to the peer's own AE title",
    }
    remedy = remedies.get((answer.result_source, answer.diagnostic), "see the archive's log")
    return f"the archive rejected the association {permanent} ({told}): {remedy}"


def _explain_failure(association: Association, destination: PacsDestination, connection: _Connection) -> Exception:
    """Say why an association did not come about."""
    where = f"{destination.host}:{destination.port}"
    if association.is_rejected:
        return ArchiveRejected(_explain_rejection(association, destination))
    if association.rejected_contexts and not association.accepted_contexts:
        return NoContextAccepted()
    if not connection.opened:
        return ArchiveUnreachable(
            f"no connection to {where}: is the archive running, and are host, port and TLS right?"
        )
    return ArchiveUnreachable(
        f"{where} does not answer an association request: is it a DICOM port, with or without TLS?"
    )


def _close(association: Association) -> None:
    """Close the socket, which pynetdicom leaves to the garbage collector when an association ended in disorder."""
    provider = association.dul
    provider.kill_dul()
    if provider.is_alive():
        provider.join(JOIN_TIMEOUT_S)
    if provider.socket is not None and provider.socket.socket is not None:
        provider.socket.socket.close()


@contextlib.contextmanager
def associate(
    destination: PacsDestination, contexts: Contexts, handlers: Sequence[Handler] = ()
) -> Iterator[Association]:
    """Hold one association with an archive.

    Parameters
    ----------
    contexts
        Pairs of abstract and transfer syntax UID, at most `MAX_CONTEXTS`; each becomes a presentation context with
        that one transfer syntax, so that which syntax is spoken is decided here and not by the archive.
    handlers
        Further pynetdicom event handlers.

    Raises
    ------
    ArchiveRejected, ArchiveUnreachable
        When no association comes about.
    NoContextAccepted
        When it does, and the archive accepts none of `contexts`.
    ArchiveMisconfigured
        When the TLS files cannot be used.
    """
    entity = _Entity(ae_title=destination.calling_ae)
    entity.implementation_class_uid = UID(IMPLEMENTATION_CLASS_UID)
    entity.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    entity.connection_timeout = destination.connect_timeout_s
    entity.acse_timeout = destination.response_timeout_s
    entity.dimse_timeout = destination.response_timeout_s
    entity.network_timeout = None  # silence while we index is no fault; a stalled transfer ends by the socket's timeout
    connection = _Connection()
    opening = (evt.EVT_CONN_OPEN, _on_open, [connection, destination.idle_timeout_s])
    try:
        association = entity.associate(
            destination.host,
            destination.port,
            contexts=[build_context(abstract, transfer) for abstract, transfer in contexts],
            ae_title=destination.called_ae,
            max_pdu=destination.max_pdu_bytes,
            tls_args=(client_context(destination.tls), destination.host) if destination.tls else None,
            evt_handlers=[opening, (evt.EVT_ABORTED, _on_abort, []), *handlers],
        )
    except OSError as error:
        told = f"no connection to {destination.host}:{destination.port}: the name cannot be resolved"
        raise ArchiveUnreachable(told) from error
    if not association.is_established:
        _close(association)
        raise _explain_failure(association, destination, connection)
    association.dul.to_provider_queue = _PacedQueue(association.dul)
    try:
        yield association
    except BaseException:
        association.abort()
        raise
    else:
        if association.is_established:
            association.release()
    finally:
        _close(association)

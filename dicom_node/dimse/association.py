"""One association with a peer that sends: negotiation by pynetdicom, the data sets by us.

Made by `dimse.acceptor` for each connection. C-STORE is served on the thread that reads the socket: the next request
is not read before the last one is answered, so a peer cannot fill the memory, and nothing waits for another thread.
Everything else (C-ECHO, storage commitment reports) goes pynetdicom's way.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import structlog
from pydicom.dataset import Dataset
from pynetdicom import evt
from pynetdicom._globals import MODE_ACCEPTOR
from pynetdicom.acse import ACSE
from pynetdicom.ae import ApplicationEntity
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_messages import DIMSEMessage
from pynetdicom.dimse_primitives import C_CANCEL
from pynetdicom.pdu_primitives import P_DATA
from pynetdicom.presentation import PresentationContext
from pynetdicom.sop_class import StorageCommitmentPushModel  # type: ignore[attr-defined]
from pynetdicom.transport import AddressInformation

from dicom_node.dimse.admission import Admission
from dicom_node.dimse.command import (
    C_STORE_RQ,
    Command,
    CommandError,
    Status,
    parse_command,
    store_response,
)
from dicom_node.dimse.incoming import Answer, IncomingObject, Intake, ObjectTooLarge, Sender
from dicom_node.dimse.upper_layer import BoundedUpperLayer, PeerMisbehaves, PeerSocket, ReceivedValues, Wake
from dicom_node.receiver import InstanceSink, ReceiverSettings
from dicom_node.reception import Happened, Report
from inference.findings import SopUid

log = structlog.get_logger(__name__)

_MAX_COMMAND_BYTES = 16 * 1024
_MAX_MESSAGE_BYTES = 8 * 1024**2  # a storage commitment report of 50,000 instances
_MAX_QUEUED_MESSAGES = 16
_PDV_OVERHEAD_BYTES = 6
_ATTENTION_S = 0.1
_ACTIVITY_EVERY_S = 1.0
_IS_COMMAND, _IS_LAST = 0x01, 0x02
_SUCCESS, _PROCESSING_FAILURE = 0x0000, 0x0110


@dataclass(frozen=True, kw_only=True, slots=True)
class Services:
    """What every association of an acceptor process works with."""

    settings: ReceiverSettings
    entity: ApplicationEntity
    contexts: list[PresentationContext]
    admission: Admission
    intake: Intake
    report: Callable[[Report], None]


class ObjectReception(DIMSEServiceProvider):
    """Puts messages together: C-STORE straight to disk, others for pynetdicom's services."""

    def __init__(self, association: AcceptedAssociation) -> None:
        super().__init__(association)
        self._association = association
        self._command = bytearray()
        self._object: IncomingObject | None = None
        self._context_id = 0
        self._object_known = False
        self._message_bytes = 0
        self._reported_at = float("-inf")
        self._heard_at = time.monotonic()

    @property
    def quiet_s(self) -> float:
        """How long nothing has come, in seconds; 0 in the middle of a message."""
        return 0.0 if self._in_message else time.monotonic() - self._heard_at

    def get_msg(self, block: bool = False) -> Any:
        """As pynetdicom's, which its reactor polls: waits a moment for something to come."""
        self._association.attention.wait(_ATTENTION_S)
        self._association.attention.clear()
        return super().get_msg(block=False)

    def receive_primitive(self, primitive: P_DATA) -> None:
        """Take the fragments of one P-DATA-TF."""
        self._tell_activity()
        try:
            for context_id, value in cast(ReceivedValues, primitive).values:
                self._take(context_id, value)
        except (CommandError, PeerMisbehaves) as error:
            self.abandon()
            self._association.dul.misbehaves(str(error))
        except ObjectTooLarge:
            self.abandon()
            self._association.dul.misbehaves("an object that does not end")

    def abandon(self) -> None:
        """Drop a half-received object, if any."""
        if self._object is not None:
            self._object.abandon()
            self._object = None

    def _take(self, context_id: int, value: memoryview) -> None:
        control, fragment = value[0], value[1:]
        if self._in_message and context_id != self._context_id:
            raise PeerMisbehaves("a message that changes its presentation context")
        if control & _IS_COMMAND:
            self._take_command(context_id, fragment, last=bool(control & _IS_LAST))
        elif self._object is not None:
            self._take_data(self._object, fragment, last=bool(control & _IS_LAST))
        elif self.message is not None:
            self._take_other(context_id, value)
        else:
            raise PeerMisbehaves("a data set without a command")

    @property
    def _in_message(self) -> bool:
        return bool(self._command) or self._object is not None or self.message is not None

    def _take_command(self, context_id: int, fragment: memoryview, *, last: bool) -> None:
        if self._object is not None or self.message is not None:
            raise PeerMisbehaves("a command in the middle of a data set")
        self._context_id = context_id
        self._command += fragment
        if len(self._command) > _MAX_COMMAND_BYTES:
            raise PeerMisbehaves("a command set that does not end")
        if not last:
            return
        data = bytes(self._command)
        self._command.clear()
        command = parse_command(data)
        if context_id not in self._association._accepted_cx:
            raise PeerMisbehaves("a message on a presentation context that was not accepted")
        if command.field == C_STORE_RQ:
            self._begin_object(command)
        else:
            self._begin_other(context_id, data)

    def _begin_object(self, command: Command) -> None:
        if not command.has_data_set:
            self._answer(command, Answer(status=Status.CANNOT_UNDERSTAND, comment="no data set"))
            return
        syntax = str(self._association._accepted_cx[self._context_id].transfer_syntax[0])
        self._association.tell(Happened.OBJECT_STARTED)
        self._object_known = False
        self._object = IncomingObject(self._association.services.intake, command, syntax, self._association.sender)

    def _take_data(self, incoming: IncomingObject, fragment: memoryview, *, last: bool) -> None:
        incoming.write(fragment)
        if not self._object_known and incoming.study_uid:
            self._object_known = True
            self._association.tell(Happened.OBJECT_KNOWN, study_uid=incoming.study_uid)
        if last:
            answer = incoming.finish()
            self._object = None
            self._answer(incoming.command, answer)

    def _answer(self, command: Command, answer: Answer) -> None:
        if answer.status is Status.SUCCESS:
            happened = Happened.DUPLICATE if answer.is_duplicate else Happened.STORED
            self._association.tell(happened, study_uid=answer.study_uid)
        else:
            self._association.tell(Happened.REFUSED, reason=answer.comment)
            log.warning(
                "instance refused", status=f"{answer.status:04X}", reason=answer.comment, **self._association.who
            )
        self._send_command(store_response(command, answer.status, answer.comment))

    def _send_command(self, data: bytes) -> None:
        size = max(self.maximum_pdu_size - _PDV_OVERHEAD_BYTES, 1) if self.maximum_pdu_size else len(data)
        for start in range(0, len(data), size):
            is_last = start + size >= len(data)
            control = bytes([_IS_COMMAND | (_IS_LAST if is_last else 0)])
            primitive = P_DATA()
            primitive.presentation_data_value_list.append((self._context_id, control + data[start : start + size]))
            self._association.dul.send_pdu(primitive)

    def _begin_other(self, context_id: int, command: bytes) -> None:
        self.message = DIMSEMessage()
        self._message_bytes = 0
        self._take_other(context_id, memoryview(bytes([_IS_COMMAND | _IS_LAST]) + command))

    def _take_other(self, context_id: int, value: memoryview) -> None:
        assert self.message is not None
        self._message_bytes += len(value)
        if self._message_bytes > _MAX_MESSAGE_BYTES:
            raise PeerMisbehaves("a message that does not end")
        primitive = P_DATA()
        primitive.presentation_data_value_list.append((context_id, bytes(value)))
        try:
            if not self.message.decode_msg(primitive, self._association):
                return
            request = self.message.message_to_primitive()
        except Exception as error:
            raise PeerMisbehaves("a message that cannot be read") from error
        self.message = None
        if isinstance(request, C_CANCEL):
            return
        if self.msg_queue.qsize() >= _MAX_QUEUED_MESSAGES:
            raise PeerMisbehaves("more requests than were negotiated to be outstanding")
        self.msg_queue.put((context_id, request))
        self._association.attention.set()

    def _tell_activity(self) -> None:
        now = self._heard_at = time.monotonic()
        if now - self._reported_at >= _ACTIVITY_EVERY_S:
            self._reported_at = now
            self._association.tell(Happened.ACTIVE)


class AdmittingControl(ACSE):
    """Asks `Admission` before it negotiates."""

    def __init__(self, association: AcceptedAssociation) -> None:
        super().__init__(association)
        self._association = association

    def _negotiate_as_acceptor(self) -> None:
        rejection = self._association.admit()
        if rejection is None:
            super()._negotiate_as_acceptor()
            return
        self.send_reject(rejection.result, rejection.source, rejection.diagnostic)
        self._association.is_rejected = True
        self._association.kill()


class AcceptedAssociation(Association):
    """The acceptor's side of one connection; a thread of its own, and one more that reads the socket.

    Parameters
    ----------
    services : Services
        Of the process.
    connection : socket
        As accepted.
    address : tuple
        Of the peer, as `socket.accept` gave it.
    number : int
        Of the association within its process.
    """

    def __init__(self, services: Services, connection: socket.socket, address: tuple[Any, ...], number: int) -> None:
        self.attention = threading.Event()
        super().__init__(services.entity, MODE_ACCEPTOR)
        self.name = f"association-{number}"
        self.services = services
        self.settings = services.settings
        self.number = number
        self.sender = Sender(calling_ae="", called_ae="", peer_address=str(address[0]))
        self._admitted = False
        self._connection = connection
        self._wake = Wake()
        self.acse = AdmittingControl(self)
        self.dul: BoundedUpperLayer = BoundedUpperLayer(self, self._wake)
        self.dimse = self.reception = ObjectReception(self)
        self._set_timeouts()
        self.peer_socket = PeerSocket(self, connection, self._wake)
        self.set_socket(self.peer_socket)
        self._describe_both_sides(connection, address)
        self.bind(evt.EVT_N_EVENT_REPORT, _take_commitment_report, [services.intake.sink])

    @property
    def who(self) -> dict[str, str]:
        """For log lines: who is at the other end."""
        return {"calling_ae": self.sender.calling_ae, "peer_address": self.sender.peer_address}

    def quiet_s(self) -> float:
        """How long the peer has been silent between messages, in seconds."""
        return self.reception.quiet_s

    def tell(self, happened: Happened, *, study_uid: str = "", reason: str = "") -> None:
        """Report to the board."""
        self.services.report(
            Report(
                happened=happened,
                association=self.number,
                study_uid=study_uid,
                calling_ae=self.sender.calling_ae,
                peer_address=self.sender.peer_address,
                reason=reason,
            )
        )

    def admit(self) -> Any:
        """The rejection of this association, or None; called once, before negotiation."""
        request: Any = self.requestor.primitive
        self.sender = Sender(
            calling_ae=str(request.calling_ae_title).strip(),
            called_ae=str(request.called_ae_title).strip(),
            peer_address=self.sender.peer_address,
        )
        rejection = self.services.admission.admit(self.sender)
        if rejection is not None:
            log.warning("association rejected", reason=rejection.reason, called_ae=self.sender.called_ae, **self.who)
            self.tell(Happened.REJECTED, reason=rejection.reason)
            return rejection
        self._admitted = True
        self.acceptor.supported_contexts = self._offered_contexts()
        self.tell(Happened.OPENED)
        return None

    def run_reactor(self) -> None:
        """As pynetdicom's; whatever ends it, the slot, the connection and the board's entry are given back."""
        try:
            super().run_reactor()
        except Exception as error:  # noqa: BLE001 - the edge of the loop: one association ends, the others go on
            log.error("an association failed", error=type(error).__name__, **self.who)
        finally:
            self._end()

    def _end(self) -> None:
        self.dul.kill_dul()
        self._wake.set()
        self.dul.join(self.settings.pdu_timeout_s)
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._connection.close()
        self._wake.close()
        if self._admitted:
            self._admitted = False
            self.services.admission.leave()
            self.tell(Happened.CLOSED)

    def _set_timeouts(self) -> None:
        self.acse_timeout = self.settings.association_timeout_s
        self.network_timeout = self.settings.idle_timeout_s
        self.dimse_timeout = self.settings.idle_timeout_s

    def _describe_both_sides(self, connection: socket.socket, address: tuple[Any, ...]) -> None:
        self.acceptor.maximum_length = self.settings.max_pdu_bytes
        self.acceptor.ae_title = self.ae.ae_title
        self.acceptor.address_info = AddressInformation.from_tuple(connection.getsockname())
        self.acceptor.implementation_class_uid = self.ae.implementation_class_uid
        self.acceptor.implementation_version_name = self.ae.implementation_version_name
        # Negotiation only reads them; pynetdicom's own server copies them deeply, 15 ms for each association.
        self.acceptor.supported_contexts = self.services.contexts
        self.requestor.address_info = AddressInformation.from_tuple(address)

    def _offered_contexts(self) -> list[PresentationContext]:
        """Storage commitment is accepted from a peer that proposes itself as SCP: the node asks, it does not grant."""
        role = self.requestor.role_selection.get(StorageCommitmentPushModel)
        if role is not None and role.scp_role:
            return self.services.contexts
        return [cx for cx in self.services.contexts if cx.abstract_syntax != StorageCommitmentPushModel]


def _take_commitment_report(event: Any, sink: InstanceSink) -> tuple[int, Dataset | None]:
    try:
        report: Dataset = event.event_information
        committed = tuple(
            SopUid(str(item.ReferencedSOPInstanceUID)) for item in report.get("ReferencedSOPSequence", ())
        )
        failed = {
            SopUid(str(item.ReferencedSOPInstanceUID)): int(item.get("FailureReason", _PROCESSING_FAILURE))
            for item in report.get("FailedSOPSequence", ())
        }
        sink.commitment_event(str(report.TransactionUID), committed, failed)
    except Exception as error:  # noqa: BLE001 - a report that cannot be taken is answered so, and may come again
        log.error("a storage commitment report was not taken", error=type(error).__name__)
        return _PROCESSING_FAILURE, None
    return _SUCCESS, None

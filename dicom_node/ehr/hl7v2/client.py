"""`MllpClient`: brings messages to a receiver over one lasting MLLP connection and waits for each acknowledgement.

Made by `ehr.receivers.mllp`, one for each destination. Messages are `oru`'s, the meaning of answers is
`acknowledgement`'s; here are the connection, frames (HL7 Implementation Guide, transport specification MLLP, release 1)
and limits of size and time. A receiver may see a message twice, always under the same control id.
"""

from __future__ import annotations

import select
import socket
import ssl
import time
from contextlib import suppress
from typing import Final

from dicom_node.delivery.tls import client_context
from dicom_node.ehr.answer import Answer, Discretion, Retry
from dicom_node.ehr.hl7v2.acknowledgement import judge
from dicom_node.ehr.hl7v2.destination import MllpDestination
from dicom_node.ehr.hl7v2.encoding import read_segments

START: Final = b"\x0b"
END: Final = b"\x1c\r"
_CHUNK_BYTES: Final = 65536
_MAX_TOLD: Final = 60


class _NoAnswer(Exception):
    """There is no usable answer; the message is the reason.

    `gone` where the receiver closed without a word, `unsent` where there never was a connection.
    """

    def __init__(self, reason: str, *, gone: bool = False, unsent: bool = False) -> None:
        super().__init__(reason)
        self.gone = gone
        self.unsent = unsent


class MllpClient:
    """A receiver of HL7 v2. Calls block; one instance may be used by one thread at a time.

    Raises
    ------
    ArchiveMisconfigured
        When a certificate named in the settings cannot be used.
    """

    def __init__(self, destination: MllpDestination) -> None:
        self._destination = destination
        self._tls = client_context(destination.tls) if destination.tls else None
        self._connection: socket.socket | None = None

    def send(self, message: bytes, discretion: Discretion) -> Answer:
        """Send one message and wait for its acknowledgement; faults of the network are `Retry`, never raised.

        Parameters
        ----------
        message : bytes
            As `write_oru` gave it.
        discretion : Discretion
            Of the same request (`answer.discretion_of`).
        """
        control_id = read_segments(message.decode())[0].value(10)
        try:
            return self._deliver(message, control_id, discretion)
        except _NoAnswer as error:
            self.close()
            return Retry(reason=str(error), unsent=error.unsent)

    def probe(self) -> str:
        """Connect without sending anything; what is wrong, or nothing."""
        try:
            if self._usable() is None:
                self._connect()
        except _NoAnswer as error:
            self.close()
            return str(error)
        return ""

    def close(self) -> None:
        """Close the connection; the next message opens another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(OSError):
                connection.close()

    def _deliver(self, message: bytes, control_id: str, discretion: Discretion) -> Answer:
        lasting = self._usable()
        try:
            return self._exchange(lasting or self._connect(), message, control_id, discretion)
        except _NoAnswer as error:
            if lasting is None or not error.gone:
                raise
        # A connection that was idle may be closed at the moment it is used; that says nothing of the receiver.
        self.close()
        try:
            again = self._connect()
        except _NoAnswer as error:
            raise _NoAnswer(str(error)) from None  # what went over the old connection may have arrived
        return self._exchange(again, message, control_id, discretion)

    def _usable(self) -> socket.socket | None:
        """The lasting connection, if the other side still holds it and has said nothing that nobody asked for."""
        if self._connection is not None and select.select([self._connection], [], [], 0)[0]:
            # Closed, or a late answer to an earlier message: either way a new connection begins without it.
            self.close()
        return self._connection

    def _connect(self) -> socket.socket:
        where = (self._destination.host, self._destination.port)
        try:
            plain = socket.create_connection(where, timeout=self._destination.connect_timeout_s)
            self._connection = plain
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if self._tls is not None:
                self._connection = self._tls.wrap_socket(plain, server_hostname=where[0])
        except (OSError, UnicodeError) as error:  # the latter for what is no name of a host
            told = str(error)[:_MAX_TOLD] or type(error).__name__
            reason = f"no connection to {where[0]}:{where[1]}: is it running, and are address and TLS right? ({told})"
            raise _NoAnswer(reason, unsent=True) from None
        return self._connection

    def _exchange(self, connection: socket.socket, message: bytes, control_id: str, discretion: Discretion) -> Answer:
        """Write one frame, then read frames until one of them answers it."""
        deadline_s = time.monotonic() + self._destination.response_timeout_s
        received = bytearray()
        try:
            connection.settimeout(self._destination.response_timeout_s)
            connection.sendall(START + message + END)
            read_bytes = 0
            while True:
                for block in _take_blocks(received):
                    answer = judge(block, control_id, discretion, commit_is_final=self._destination.commit_is_final)
                    if answer is not None:
                        return answer
                chunk = self._receive(connection, deadline_s)
                read_bytes += len(chunk)
                if not chunk:
                    raise _NoAnswer("the receiver closed the connection without an answer", gone=read_bytes == 0)
                if read_bytes > self._destination.max_response_bytes:
                    raise _NoAnswer("the receiver sent more than max_response_bytes without an answer: is this MLLP?")
                received += chunk
        except TimeoutError:
            raise _NoAnswer("the receiver was silent for too long: see its log, or raise response_timeout_s") from None
        except (OSError, ssl.SSLError) as error:
            gone = isinstance(error, ConnectionError) and not received
            raise _NoAnswer(f"the connection to the receiver broke ({type(error).__name__})", gone=gone) from None

    @staticmethod
    def _receive(connection: socket.socket, deadline_s: float) -> bytes:
        remaining_s = deadline_s - time.monotonic()
        if remaining_s <= 0:
            raise TimeoutError
        connection.settimeout(remaining_s)
        return connection.recv(_CHUNK_BYTES)


def _take_blocks(received: bytearray) -> list[bytes]:
    """Take whole frames out of what was received; bytes outside of frames are dropped."""
    blocks = []
    while (end := received.find(END)) >= 0:
        # A frame that was never ended is overtaken by the next start.
        start = received.rfind(START, 0, end)
        if start >= 0:
            blocks.append(bytes(received[start + len(START) : end]))
        del received[: end + len(END)]
    return blocks

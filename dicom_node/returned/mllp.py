"""The MLLP listener: takes ORU^R01 from a reporting system and acknowledges each (HL7 v2.5.1 sections 2.9 and 2.15).

Opened by `desk`. A message is acknowledged after it is in the ledger; a thread for each connection, so that a silent
sender holds up nobody. What a message means is the taker's; here are frames, limits and acknowledgements.
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final

import structlog

from dicom_node.ehr.hl7v2.client import END, START
from dicom_node.ehr.hl7v2.encoding import (
    Encoded,
    Hl7Error,
    Segment,
    components,
    header,
    moment,
    read_segments,
    segment,
    text,
)
from dicom_node.ehr.inbound import MAX_BYTES
from dicom_node.returned.answer import Answer, Verdict
from dicom_node.returned.settings import MllpSettings, TlsServer

log = structlog.get_logger(__name__)

_CHUNK_BYTES: Final = 65536
_WAKE_S: Final = 0.5
_MAX_TOLD: Final = 250
_MAX_ECHO: Final = 199  # MSH-10 as long as HL7 v2.7 allows it
# HL7 table 0357
_SEGMENT_SEQUENCE: Final = ("100", "Segment sequence error")
_DATA_TYPE_ERROR: Final = ("102", "Data type error")
_UNSUPPORTED_MESSAGE: Final = ("200", "Unsupported message type")
_UNKNOWN_KEY: Final = ("204", "Unknown key identifier")
_INTERNAL_ERROR: Final = ("207", "Application internal error")

Take = Callable[[bytes], Answer]


class _Ended(Exception):
    """The connection has ended, or is to be."""


class MllpListener:
    """A port that takes messages.

    Parameters
    ----------
    settings : MllpSettings
    take : callable
        Gives the answer to one message; called from several threads.
    """

    def __init__(self, settings: MllpSettings, take: Take) -> None:
        self._settings = settings
        self._take = take
        self._server: socket.socket | None = None
        self._tls: ssl.SSLContext | None = None
        self._lock = threading.Lock()
        self._open: dict[socket.socket, float] = {}  # when each was last heard of
        self.port = 0

    @property
    def is_open(self) -> bool:
        """Whether it listens."""
        return self._server is not None

    def open(self) -> None:
        """Bind the port and accept in a thread.

        Raises
        ------
        OSError
            When the port is taken or a certificate cannot be read.
        """
        self._tls = _server_context(self._settings.tls) if self._settings.tls else None
        server = socket.create_server((self._settings.host, self._settings.port))
        server.settimeout(_WAKE_S)
        self._server, self.port = server, server.getsockname()[1]
        threading.Thread(target=self._accept, args=(server,), name="returned-mllp", daemon=True).start()

    def close(self) -> None:
        """Stop listening and end every connection."""
        server, self._server, self.port = self._server, None, 0
        if server is not None:
            server.close()
        with self._lock:
            for connection in self._open:
                _shut(connection)

    def _accept(self, server: socket.socket) -> None:
        while self._server is server:
            try:
                connection, _address = server.accept()
            except TimeoutError:
                continue
            except OSError:
                if self._server is not server:
                    return  # closed
                time.sleep(_WAKE_S)  # no descriptor is free: others have to end first
                continue
            self._make_room()
            with self._lock:
                self._open[connection] = time.monotonic()
            threading.Thread(target=self._serve, args=(connection,), name="returned-mllp-sender", daemon=True).start()

    def _make_room(self) -> None:
        with self._lock:
            while len(self._open) >= self._settings.max_connections:
                silent = min(self._open, key=lambda one: self._open[one])
                del self._open[silent]
                _shut(silent)

    def _serve(self, plain: socket.socket) -> None:
        connection = plain
        try:
            plain.settimeout(self._settings.message_timeout_s)
            if self._tls is not None:
                connection = encrypted = self._wrapped(plain, self._tls)
                encrypted.do_handshake()
            for message in self._messages(connection):
                connection.settimeout(self._settings.message_timeout_s)
                connection.sendall(START + self._acknowledge(message) + END)
        except (OSError, _Ended):
            pass  # the sender keeps what was not acknowledged
        finally:
            with self._lock:
                self._open.pop(connection, None)
            with suppress(OSError):
                connection.close()

    def _wrapped(self, plain: socket.socket, tls: ssl.SSLContext) -> ssl.SSLSocket:
        """The connection before its handshake; it takes the place of the plain one, which is no more."""
        connection = tls.wrap_socket(plain, server_side=True, do_handshake_on_connect=False)
        with self._lock:
            since_s = self._open.pop(plain, time.monotonic())
            self._open[connection] = since_s
        return connection

    def _messages(self, connection: socket.socket) -> Iterator[bytes]:
        """Contents of frames until the sender closes, is silent for too long, or sends no end."""
        received = bytearray()
        begun_s: float | None = None
        while True:
            begin = received.find(START)
            end = received.find(END, begin + 1) if begin >= 0 else -1
            if end >= 0:
                # What stands before the last start was never ended.
                yield bytes(received[received.rfind(START, begin, end) + len(START) : end])
                del received[: end + len(END)]
                begun_s = None
                continue
            if begin < 0:
                received.clear()  # between frames nothing has a meaning
            elif len(received) - begin > MAX_BYTES:
                reason = Answer(
                    verdict=Verdict.UNREADABLE, why=f"message: larger than {MAX_BYTES} bytes", field="message"
                )
                connection.sendall(START + acknowledgement(bytes(received[begin + 1 :][:_CHUNK_BYTES]), reason) + END)
                raise _Ended
            elif begun_s is None:
                begun_s = time.monotonic()
            received += self._chunk(connection, begun_s)

    def _chunk(self, connection: socket.socket, begun_s: float | None) -> bytes:
        if begun_s is None:
            patience_s = self._settings.idle_timeout_s
        else:
            patience_s = begun_s + self._settings.message_timeout_s - time.monotonic()
            if patience_s <= 0:
                raise _Ended
        connection.settimeout(patience_s)
        chunk = connection.recv(_CHUNK_BYTES)
        if not chunk:
            raise _Ended
        with self._lock:
            if connection in self._open:
                self._open[connection] = time.monotonic()
        return chunk

    def _acknowledge(self, message: bytes) -> bytes:
        try:
            answer = self._take(message)
        except Exception:  # the edge of the loop: this message is answered, the connection lives on
            log.exception("a message that came back could not be handled", alarm=True)
            answer = Answer(verdict=Verdict.LATER, why="internal error: see the log of the node")
        return acknowledgement(message, answer)


def _shut(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _server_context(tls: TlsServer) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(tls.certificate_file, tls.key_file)
    if tls.client_ca_file is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(tls.client_ca_file)
    return context


# acknowledgements ----------------------------------------------------------------------------------------------------


def acknowledgement(message: bytes, answer: Answer) -> bytes:
    """The ACK^R01 that tells `answer` to the sender of `message`, of which it repeats names and control id only."""
    asked = _header_of(message)
    code = _code(answer, enhanced=_value(asked, 15) == "AL" and _value(asked, 16) == "NE")
    fields = {
        3: text(_value(asked, 5)),
        4: text(_value(asked, 6)),
        5: text(_value(asked, 3)),
        6: text(_value(asked, 4)),
        7: moment(datetime.now(UTC)),
        9: components("ACK", _value(asked, 9, 2) or "R01", "ACK"),
        10: text(uuid.uuid4().hex[:20]),
        11: text(_value(asked, 11) or "P"),
        12: text(_value(asked, 12) or "2.5.1"),
        18: text("UNICODE UTF-8"),
    }
    lines = [header(fields), segment("MSA", {1: text(code), 2: text(_value(asked, 10))})]
    if not answer.is_good:
        lines.append(_error(answer))
    return "".join(f"{line}\r" for line in lines).encode()


def _code(answer: Answer, *, enhanced: bool) -> str:
    """MSA-1 (HL7 table 0008): rejected is what is no message that is taken here, in error what can be mended."""
    if answer.is_good:
        last = "A"
    elif answer.verdict is Verdict.UNREADABLE and answer.field in {"MSH", "MSH-9", "message"}:
        last = "R"
    else:
        last = "E"
    return ("C" if enhanced else "A") + last


def _error(answer: Answer) -> Encoded:
    if answer.verdict is Verdict.LATER:
        condition = _INTERNAL_ERROR
    elif answer.verdict is Verdict.REFUSED:
        condition = _UNKNOWN_KEY
    elif answer.field == "MSH-9":
        condition = _UNSUPPORTED_MESSAGE
    elif answer.field in {"OBR", "MSH"}:
        condition = _SEGMENT_SEQUENCE
    else:
        condition = _DATA_TYPE_ERROR
    place, _dash, number = answer.field.partition("-")
    where = components(place, "1", number) if place.isupper() else Encoded("")
    told = text(answer.why[:_MAX_TOLD])
    return segment("ERR", {2: where, 3: components(*condition, "HL70357"), 4: text("E"), 8: told})


def _header_of(message: bytes) -> Segment | None:
    try:
        return read_segments(message.split(b"\r", 1)[0].decode("utf-8", errors="replace"))[0]
    except Hl7Error:
        return None


def _value(asked: Segment | None, position: int, component: int = 1) -> str:
    return asked.value(position, component)[:_MAX_ECHO] if asked else ""

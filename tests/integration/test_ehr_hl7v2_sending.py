"""HL7 v2 documents over MLLP to the server of PyPI `hl7`, and to receivers that nobody wishes for."""

from __future__ import annotations

import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hl7
import pytest

from dicom_node.delivery.archive import TlsClient
from dicom_node.ehr.answer import Accepted, Answer, Discretion, Refused, Retry, discretion_of
from dicom_node.ehr.hl7v2.client import MllpClient
from dicom_node.ehr.hl7v2.destination import MllpDestination
from dicom_node.ehr.hl7v2.encoding import named, read_segments
from dicom_node.ehr.hl7v2.oru import control_id, write_oru
from dicom_node.ehr.hl7v2.profile import read_profile
from tests.archives import ScriptedServer
from tests.certificates import Authority
from tests.mllp import MllpServer, accept
from tests.record_cases import HOSTILE, hostile_record, make_record

REQUEST = make_record()
MESSAGE = write_oru(REQUEST, read_profile("plain"))
CONTROL_ID = control_id(REQUEST.document_id)
DISCRETION = discretion_of(REQUEST)


@contextmanager
def _client(port: int, **settings: Any) -> Iterator[MllpClient]:
    limits = {"response_timeout_s": 10.0, **settings}
    client = MllpClient(MllpDestination(name="region", host="127.0.0.1", port=port, **limits))
    try:
        yield client
    finally:
        client.close()


def _send_to(script: Callable[[socket.socket], None], **settings: Any) -> Answer:
    with ScriptedServer(script) as server, _client(server.port, **settings) as client:
        return client.send(MESSAGE, DISCRETION)


def _ack(code: str, *errors: str, control: str = CONTROL_ID, words: str = "") -> str:
    lines = ["MSH|^~\\&|RIS|HOSP|RADNODE||20260302120005||ACK^R01^ACK|R-1|P|2.5.1", f"MSA|{code}|{control}|{words}"]
    return "\r".join([*lines, *errors]) + "\r"


def _frame(text: str) -> bytes:
    return b"\x0b" + text.encode() + b"\x1c\r"


def _read_frame(connection: socket.socket) -> bytes:
    data = b""
    while not data.endswith(b"\x1c\r"):
        chunk = connection.recv(65536)
        if not chunk:
            raise ConnectionError
        data += chunk
    return data


def _answering(*answers: bytes) -> Callable[[socket.socket], None]:
    def script(connection: socket.socket) -> None:
        _read_frame(connection)
        for answer in answers:
            connection.sendall(answer)

    return script


def test_the_server_of_hl7_reads_and_acknowledges() -> None:
    with MllpServer() as server, _client(server.port) as client:
        answer = client.send(MESSAGE, DISCRETION)
    assert isinstance(answer, Accepted) and answer.receiver_ids
    assert str(server.received[0]).encode() == MESSAGE
    assert str(server.received[0].segment("PID")[5][0][0]) == "Иванова"


def test_one_connection_serves_many_messages() -> None:
    with MllpServer() as server, _client(server.port) as client:
        for number in range(20):
            request = make_record(document_id=f"doc-{number}")
            assert isinstance(client.send(write_oru(request, read_profile("plain")), DISCRETION), Accepted)
        assert (server.connections, len(server.received)) == (1, 20)


def test_hostile_text_arrives_as_it_was_written() -> None:
    with MllpServer() as server, _client(server.port) as client:
        answer = client.send(write_oru(hostile_record(), read_profile("plain")), DISCRETION)
    assert isinstance(answer, Accepted)
    pid = next(named(read_segments(str(server.received[0])), "PID"))
    assert pid.value(5, 1) == HOSTILE


def test_a_connection_closed_while_idle_is_opened_again() -> None:
    seen: list[bytes] = []

    def script(connection: socket.socket) -> None:
        seen.append(_read_frame(connection))
        connection.sendall(_frame(_ack("AA")))

    with ScriptedServer(script) as server, _client(server.port) as client:
        for _ in range(3):
            assert isinstance(client.send(MESSAGE, DISCRETION), Accepted)
        assert server.connections == len(seen) == 3


def test_a_connection_lost_at_the_moment_of_sending_is_tried_once_more_at_once() -> None:
    first = threading.Event()

    def script(connection: socket.socket) -> None:
        _read_frame(connection)
        connection.sendall(_frame(_ack("AA")))
        if not first.is_set():
            first.set()
            _read_frame(connection)  # and closes without an answer

    with ScriptedServer(script) as server, _client(server.port) as client:
        assert isinstance(client.send(MESSAGE, DISCRETION), Accepted)
        assert isinstance(client.send(MESSAGE, DISCRETION), Accepted)
        assert server.connections == 2


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (_ack("AA"), Accepted),
        (_ack("AE"), Refused),
        (_ack("AE", "ERR||PID^1^5|101^Required field missing^HL70357|E"), Refused),
        (_ack("AE", "ERR|||206^Application record locked^HL70357|E"), Retry),
        (_ack("AE", "ERR|||207^Application internal error^HL70357|E"), Retry),
        (_ack("AE", "ERR|||207|E", "ERR||PID^1^3|204^Unknown key identifier^HL70357|E"), Refused),
        (_ack("AR"), Retry),
        (_ack("AR", "ERR|||207|E"), Retry),
        *[(_ack("AR", f"ERR|||{code}|E"), Refused) for code in (200, 201, 202, 203)],
        (_ack("CE"), Refused),
        (_ack("CR"), Retry),
        (_ack("OK"), Retry),
    ],
)
def test_an_acknowledgement_means_what_the_standard_says(answer: str, kind: type[Answer]) -> None:
    assert isinstance(_send_to(_answering(_frame(answer))), kind)


@pytest.mark.parametrize(("code", "kind"), [("AE", Refused), ("AR", Retry)])
def test_the_server_of_hl7_may_say_no(code: str, kind: type[Answer]) -> None:
    with MllpServer(lambda message: message.create_ack(code)) as server, _client(server.port) as client:
        assert isinstance(client.send(MESSAGE, DISCRETION), kind)


def test_silence_of_the_server_of_hl7_is_tried_again() -> None:
    with MllpServer(lambda message: None) as server, _client(server.port, response_timeout_s=0.3) as client:
        answer = client.send(MESSAGE, DISCRETION)
        assert len(server.received) == 1
    assert isinstance(answer, Retry) and "silent" in answer.reason


def test_an_error_stops_with_its_text_and_without_the_patient() -> None:
    error = "ERR||OBR^1^18|204^Unknown key identifier^HL70357|E|||Accession A100200 of Ивановой, 12.04.1961 not found"
    answer = _send_to(_answering(_frame(_ack("AE", error))))
    assert isinstance(answer, Refused)
    assert "error 204 OBR-1-18 Unknown key identifier" in answer.reason and "not found" in answer.reason
    assert not any(word in answer.reason for word in ("Иванов", "1961", "A100200"))


def test_the_text_of_older_receivers_is_told_too() -> None:
    answer = _send_to(_answering(_frame(_ack("AE", words="Table mapping failed"))))
    assert isinstance(answer, Refused) and "Table mapping failed" in answer.reason


def test_answers_to_other_messages_are_passed_over() -> None:
    other = _frame(_ack("AE", control="SOMEBODY-ELSE"))
    assert isinstance(_send_to(_answering(other, b"noise", other, _frame(_ack("AA")))), Accepted)


def test_an_answer_to_another_message_only_is_silence() -> None:
    def script(connection: socket.socket) -> None:
        _read_frame(connection)
        connection.sendall(_frame(_ack("AA", control="SOMEBODY-ELSE")))
        time.sleep(0.6)

    answer = _send_to(script, response_timeout_s=0.3)
    assert isinstance(answer, Retry) and "silent" in answer.reason


def test_a_late_answer_is_not_taken_for_that_of_the_next_message() -> None:
    second = make_record(document_id="e" * 64)

    def script(connection: socket.socket) -> None:
        _read_frame(connection)
        # The first answer comes twice, the second time as a refusal.
        connection.sendall(_frame(_ack("AA")) + _frame(_ack("AE")))
        _read_frame(connection)
        connection.sendall(_frame(_ack("AA", control=control_id("e" * 64))))

    with ScriptedServer(script) as server, _client(server.port) as client:
        assert isinstance(client.send(MESSAGE, DISCRETION), Accepted)
        assert isinstance(client.send(write_oru(second, read_profile("plain")), DISCRETION), Accepted)


def test_a_commit_is_no_last_word_unless_the_settings_say_so() -> None:
    committed = _frame(_ack("CA"))
    assert isinstance(_send_to(_answering(committed, _frame(_ack("AA")))), Accepted)
    assert isinstance(_send_to(_answering(committed)), Retry)
    assert isinstance(_send_to(_answering(committed), commit_is_final=True), Accepted)


@pytest.mark.parametrize(
    "garbage",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\x0b\x1c\r",
        b"\x0bMSH\x1c\r",
        b"\x0bMSH|^~\\&\rMSA\x1c\r",
        b"\x0b" + b"\xff" * 500 + b"\x1c\r",
        b"\x1c\r" * 100,
    ],
)
def test_garbage_is_no_answer(garbage: bytes) -> None:
    assert isinstance(_send_to(_answering(garbage)), Retry)
    assert isinstance(_send_to(_answering(garbage, _frame(_ack("AA")))), Accepted)


@pytest.mark.parametrize("piece", [b"x" * 4096, b"\x0b" + b"y" * 4096, _frame(_ack("AA", control="NOT-OURS"))])
def test_endless_garbage_is_cut_off(piece: bytes) -> None:
    def script(connection: socket.socket) -> None:
        _read_frame(connection)
        while True:
            connection.sendall(piece)

    answer = _send_to(script, max_response_bytes=1 << 16)
    assert isinstance(answer, Retry) and "max_response_bytes" in answer.reason


def test_an_answer_in_single_bytes_is_read() -> None:
    def script(connection: socket.socket) -> None:
        _read_frame(connection)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in _frame(_ack("AA")):
            connection.sendall(bytes([byte]))

    assert isinstance(_send_to(script), Accepted)


def test_an_answer_that_trickles_ends_at_the_limit() -> None:
    def script(connection: socket.socket) -> None:
        _read_frame(connection)
        while True:
            connection.sendall(b"x")
            time.sleep(0.05)

    answer = _send_to(script, response_timeout_s=0.4)
    assert isinstance(answer, Retry) and "response_timeout_s" in answer.reason


def test_a_reset_in_the_middle_is_tried_again() -> None:
    def script(connection: socket.socket) -> None:
        _read_frame(connection)
        connection.sendall(b"\x0bMSH|")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    assert isinstance(_send_to(script), Retry)


def test_nobody_there_is_tried_again() -> None:
    with ScriptedServer(lambda connection: None) as server:
        port = server.port
    with _client(port) as client:
        answer = client.send(MESSAGE, DISCRETION)
    assert isinstance(answer, Retry) and "no connection" in answer.reason


def test_tls_with_a_certificate_on_both_sides(tmp_path: Path) -> None:
    authority, stranger = Authority(tmp_path, "hospital"), Authority(tmp_path, "stranger")
    certificate, key = authority.issue("receiver")
    own, own_key = authority.issue("node")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(authority.certificate))
    context.load_cert_chain(certificate, key)
    context.verify_mode = ssl.CERT_REQUIRED
    right = TlsClient(ca_file=authority.certificate, certificate_file=own, key_file=own_key)
    with MllpServer(tls=context) as server:
        with _client(server.port, tls=right) as client:
            for _ in range(3):
                assert isinstance(client.send(MESSAGE, DISCRETION), Accepted)
            assert server.connections == 1
        with _client(server.port, tls=right.model_copy(update={"ca_file": stranger.certificate})) as client:
            assert isinstance(client.send(MESSAGE, DISCRETION), Retry)
        assert len(server.received) == 3


def test_plain_mllp_to_another_machine_needs_a_decision() -> None:
    settings = {"name": "region", "host": "ris.example", "port": 2575}
    with pytest.raises(ValueError, match="clear_text"):
        MllpDestination.model_validate(settings)
    assert MllpDestination.model_validate({**settings, "clear_text": True})
    assert MllpDestination.model_validate({**settings, "tls": {}})


def test_the_servers_own_ack_answers_the_message() -> None:
    acknowledgement = accept(hl7.parse(MESSAGE.decode()))
    assert str(acknowledgement.segment("MSA")[2]) == CONTROL_ID


def test_discretion_leaves_words_that_name_nobody() -> None:
    assert Discretion().told("unknown\r\ncode\x00 7") == "unknown code 7"

"""The receiver of HL7 v2 as the outbox uses it, against the server of PyPI `hl7` and scripted ones."""

from __future__ import annotations

import socket
import ssl
import struct
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dicom_node.ehr.answer import Accepted, Refused, Retry
from dicom_node.ehr.context import ContextMissing, DocumentRequest, Order, Revision
from dicom_node.ehr.destination import DestinationMisconfigured
from dicom_node.ehr.hl7v2.destination import MllpDestination
from dicom_node.ehr.hl7v2.encoding import named, read_segments
from dicom_node.ehr.receiver import Held, RecordReceiver
from dicom_node.ehr.receivers import open_receiver
from tests.archives import ScriptedServer
from tests.certificates import Authority
from tests.mllp import MllpServer, accept
from tests.record_cases import HOSTILE, hostile_record, make_record
from tests.record_receivers import make_envelope, opened

FIRST = make_record(lesions=3, document_id="a" * 64)
SECOND = make_record(
    lesions=1, document_id="b" * 64, revision=Revision(set_id="s" * 64, version=2, replaces_id="a" * 64)
)
GONE = make_record(
    lesions=1,
    document_id="c" * 64,
    revision=Revision(set_id="s" * 64, version=3, replaces_id="b" * 64, withdrawn=True),
)


def _destination(port: int, **settings: Any) -> MllpDestination:
    return MllpDestination(name="ris", host="127.0.0.1", port=port, **{"response_timeout_s": 10.0, **settings})


@pytest.fixture
def server() -> Iterator[MllpServer]:
    with MllpServer() as running:
        yield running


@pytest.fixture
def receiver(server: MllpServer) -> Iterator[RecordReceiver]:
    with opened(_destination(server.port), semd_profile=None) as one:
        yield one


def _sent(receiver: RecordReceiver, request: DocumentRequest, replaced: DocumentRequest | None = None) -> Accepted:
    answer = receiver.send(receiver.write(request, replaced=replaced), make_envelope(request))
    assert isinstance(answer, Accepted)
    return answer


def test_a_document_is_acknowledged_and_cannot_be_asked_for(server: MllpServer, receiver: RecordReceiver) -> None:
    ids = _sent(receiver, FIRST).receiver_ids
    assert ids and receiver.confirm(make_envelope(FIRST), ids) is Held.UNSAID
    assert len(server.received) == 1


def test_ten_sends_carry_one_control_id_over_one_connection(server: MllpServer, receiver: RecordReceiver) -> None:
    for _ in range(10):
        _sent(receiver, FIRST)
    assert len({str(message["MSH.10"]) for message in server.received}) == 1
    assert len(server.received) == 10 and server.connections == 1


def test_a_correction_deletes_what_it_has_no_more_and_a_withdrawal_everything(
    server: MllpServer, receiver: RecordReceiver
) -> None:
    for request, replaced in ((FIRST, None), (SECOND, FIRST), (GONE, SECOND)):
        assert receiver.write(request, replaced=replaced) == receiver.write(request, replaced=replaced)
        _sent(receiver, request, replaced)
    statuses = [[(str(line[4]), str(line[11])) for line in message.segments("OBX")] for message in server.received]
    first, second, gone = statuses
    assert {status for _, status in first} == {"P"}
    assert {place for place, status in second if status == "D"} == {"2", "3"}
    assert {status for place, status in gone if place != "0"} == {"D"}
    with pytest.raises(ValueError, match="replaced"):
        receiver.write(GONE, replaced=FIRST)


def test_hostile_text_in_every_field_stays_text(server: MllpServer, receiver: RecordReceiver) -> None:
    request = hostile_record(HOSTILE)
    written = receiver.write(request, replaced=None)
    _sent(receiver, request)
    assert b"\x0b" not in written and b"\x1c" not in written and b"\n" not in written
    kinds = [one.name for one in read_segments(written.decode())]
    assert kinds.count("MSH") == 1 and set(kinds) == {"MSH", "PID", "ORC", "OBR", "OBX", "PV1"}
    pid = next(named(read_segments(written.decode()), "PID"))
    assert "<b>&\"'|^~\\&" in pid.value(5)
    assert len(server.received) == 1 and len(server.received[0].segments("PID")) == 1


def test_what_lacks_for_the_message_is_named(receiver: RecordReceiver) -> None:
    with pytest.raises(ContextMissing, match=r"order\.accession_number"):
        receiver.write(replace(FIRST, order=Order()), replaced=None)


def test_an_internal_error_is_tried_again_until_it_is_taken() -> None:
    answers = iter(("AE", "AR", "AA"))

    def acknowledge(message: Any) -> Any:
        code = next(answers)
        if code == "AA":
            return accept(message)
        error = "207" if code == "AE" else "206"
        lines = ["MSH|^~\\&|RIS||RADNODE||20260302||ACK|1|P|2.5.1", f"MSA|{code}|{message['MSH.10']}"]
        return "\r".join([*lines, f"ERR|||{error}|E"]) + "\r"

    with MllpServer(acknowledge) as server, opened(_destination(server.port)) as receiver:
        message = receiver.write(FIRST, replaced=None)
        assert [type(receiver.send(message, make_envelope(FIRST))) for _ in range(3)] == [Retry, Retry, Accepted]


def test_a_refusal_names_nobody() -> None:
    def acknowledge(message: Any) -> str:
        head = "MSH|^~\\&|RIS||RADNODE||20260302||ACK|1|P|2.5.1"
        return f"{head}\rMSA|AE|{message['MSH.10']}|Иванова Анна 77-1: unknown ward\r"

    with MllpServer(acknowledge) as server, opened(_destination(server.port)) as receiver:
        answer = receiver.send(receiver.write(FIRST, replaced=None), make_envelope(FIRST))
    assert isinstance(answer, Refused) and "unknown ward" in answer.reason
    assert "Иванов" not in answer.reason and "77" not in answer.reason


def test_a_reset_in_the_middle_is_tried_again() -> None:
    def resets(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"\x0bMSH|")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    with ScriptedServer(resets) as server, opened(_destination(server.port)) as receiver:
        assert isinstance(receiver.send(receiver.write(FIRST, replaced=None), make_envelope(FIRST)), Retry)


# --- the check before anything is sent --------------------------------------------------------------------------


def test_the_check_connects_and_sends_nothing() -> None:
    came: list[bytes] = []
    done = threading.Event()

    def listens(connection: socket.socket) -> None:
        came.append(connection.recv(65536))
        done.set()

    with ScriptedServer(listens) as server:
        with opened(_destination(server.port)) as receiver:
            assert receiver.check() == ""
        assert done.wait(10.0)
    assert came == [b""]


def test_the_check_leaves_a_connection_that_serves(server: MllpServer, receiver: RecordReceiver) -> None:
    assert [receiver.check(), receiver.check()] == ["", ""]
    _sent(receiver, FIRST)
    assert receiver.check() == "" and server.connections == 1


def test_the_check_of_nobody_there_names_the_address() -> None:
    with ScriptedServer(lambda connection: None) as server:
        port = server.port
    with opened(_destination(port)) as receiver:
        assert f"no connection to 127.0.0.1:{port}" in receiver.check()


def test_the_check_holds_the_certificate_against_the_authority(tmp_path: Path) -> None:
    authority, stranger = Authority(tmp_path, "hospital"), Authority(tmp_path, "stranger")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue("ris"))
    with MllpServer(tls=context) as server:
        said = []
        for trusted in (authority, stranger):
            with opened(_destination(server.port, tls={"ca_file": trusted.certificate})) as receiver:
                said.append(receiver.check())
    assert said[0] == "" and "TLS" in said[1]


def test_a_name_that_is_no_host_is_told() -> None:
    with opened(MllpDestination(name="ris", host="a" * 70, port=2575, clear_text=True)) as receiver:
        assert "no connection" in receiver.check()
        answer = receiver.send(receiver.write(FIRST, replaced=None), make_envelope(FIRST))
    assert isinstance(answer, Retry)


def test_a_profile_that_is_not_there_is_told_when_it_is_opened(tmp_path: Path) -> None:
    with pytest.raises(DestinationMisconfigured, match=r"none\.toml"):
        open_receiver(_destination(2575, document=str(tmp_path / "none.toml")), semd_profile=None)

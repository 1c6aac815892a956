"""Reports over MLLP from real clients: acknowledged as HL7 v2 says, whatever a sender does."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hl7
import pytest
from hl7.client import MLLPClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dicom_node.ehr.answer import Accepted, Discretion, Refused
from dicom_node.ehr.hl7v2.acknowledgement import judge
from dicom_node.returned.answer import Answer, Verdict
from dicom_node.returned.mllp import acknowledgement
from dicom_node.states import Reading
from tests.certificates import Authority
from tests.integration.receiving_rig import eventually
from tests.returned_rig import CLEAR, ReturnedRig, oru, returned_rig


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[ReturnedRig]:
    mllp = {"port": 0, "max_connections": 4, "idle_timeout_s": 30, "message_timeout_s": 1.0}
    with returned_rig(tmp_path, mllp=mllp, poll_s=0.05) as made, made.running():
        assert eventually(lambda: made.desk.mllp_port)
        yield made


def send(rig: ReturnedRig, *messages: bytes) -> list[Any]:
    """Send over one connection with the client of PyPI hl7; its parsed acknowledgements."""
    with MLLPClient("127.0.0.1", rig.desk.mllp_port) as client:
        client.socket.settimeout(20)
        return [hl7.parse(client.send(b"\x0b" + one + b"\x1c\r"), encoding="utf-8") for one in messages]


def plain(rig: ReturnedRig) -> socket.socket:
    return socket.create_connection(("127.0.0.1", rig.desk.mllp_port), timeout=20)


def until_closed(connection: socket.socket) -> bytes:
    received = b""
    try:
        while chunk := connection.recv(65536):
            received += chunk
    except ConnectionError:
        pass
    return received


def test_several_reports_over_one_connection_are_taken_and_acknowledged(rig: ReturnedRig) -> None:
    first, second = rig.film(), rig.film()
    answers = send(rig, oru(first, control="c1"), oru(second, CLEAR, control="c2"))
    assert [(str(one.segment("MSA")[1]), str(one.segment("MSA")[2])) for one in answers] == [("AA", "c1"), ("AA", "c2")]
    assert str(answers[0].segment("MSH")[3]) == "RADNODE"
    assert rig.readings(first) == {"opacity": Reading.POSITIVE}
    assert rig.readings(second) == {"opacity": Reading.NEGATIVE}


def test_a_report_of_an_unknown_study_is_an_error_that_says_what_to_send(rig: ReturnedRig) -> None:
    (answer,) = send(rig, oru(None, accession="SECRET-1"))
    assert str(answer.segment("MSA")[1]) == "AE"
    assert str(answer.segment("ERR")[3]).startswith("204^")
    assert "Study Instance UID" in str(answer.segment("ERR")[8])
    assert "SECRET" not in str(answer)


def test_two_studies_under_one_accession_number_are_refused(rig: ReturnedRig) -> None:
    studies = [rig.film(accession="A1"), rig.film(accession="A1")]
    (answer,) = send(rig, oru(None, accession="A1"))
    assert str(answer.segment("MSA")[1]) == "AE"
    assert [rig.readings(study) for study in studies] == [{}, {}]


@pytest.mark.parametrize(
    ("message", "code", "condition"),
    [
        (b"PID|1", "AR", "100"),
        (b"", "AR", "100"),
        (oru(None, accession="A").replace(b"ORU^R01^ORU_R01", b"ADT^A01"), "AR", "200"),
        (oru(None, accession="A").replace(b"UNICODE UTF-8", b"KOI8-R"), "AE", "102"),
        (oru(None, accession="A", status="Q"), "AE", "102"),
        (oru(None, accession="A").replace("Имп".encode(), b"\xff\xfe"), "AE", "204"),
        (b"MSH|^~\\&|" + b"\xff" * 99, "AE", "102"),
    ],
)
def test_what_is_no_report_is_rejected_and_the_connection_lives_on(
    rig: ReturnedRig, message: bytes, code: str, condition: str
) -> None:
    study = rig.film()
    wrong, right = send(rig, message, oru(study))
    assert str(wrong.segment("MSA")[1]) == code
    assert str(wrong.segment("ERR")[3]).startswith(condition)
    assert str(right.segment("MSA")[1]) == "AA"


def test_an_acknowledgement_is_understood_by_our_own_client() -> None:
    message = oru(None, accession="A1", control="c9")
    good = acknowledgement(message, Answer(verdict=Verdict.TAKEN, why=""))
    bad = acknowledgement(message, Answer(verdict=Verdict.REFUSED, why="no study", field="OBR-18"))
    assert isinstance(judge(good, "c9", Discretion()), Accepted)
    assert isinstance(judge(bad, "c9", Discretion()), Refused)


def test_enhanced_senders_get_the_acknowledgement_that_they_asked_for(rig: ReturnedRig) -> None:
    study = rig.film()
    asked = oru(study).replace(b"|2.5.1||||||", b"|2.5.1|||AL|NE||")
    (answer,) = send(rig, asked)
    assert str(answer.segment("MSA")[1]) == "CA"


def test_silent_and_endless_senders_hold_up_nobody(rig: ReturnedRig) -> None:
    silent = [plain(rig) for _ in range(6)]
    endless = plain(rig)
    endless.sendall(b"\x0b" + oru(rig.film())[:60])
    study = rig.film()
    assert str(send(rig, oru(study))[0].segment("MSA")[1]) == "AA"
    assert until_closed(endless) == b""  # after message_timeout_s
    for one in [*silent, endless]:
        one.close()
    assert rig.readings(study) == {"opacity": Reading.POSITIVE}


def test_a_message_without_end_and_measure_is_rejected(rig: ReturnedRig) -> None:
    with plain(rig) as sender:
        sender.sendall(b"\x0bMSH|^~\\&|RIS|HOSP|||2026||ORU^R01|big|P|2.5.1\r")
        try:
            for _ in range(100):
                sender.sendall(b"x" * (1 << 20))
        except OSError:
            pass
        else:
            pytest.fail("100 MB were read")
    study = rig.film()
    assert str(send(rig, oru(study))[0].segment("MSA")[1]) == "AA"


def test_noise_between_frames_and_a_frame_that_was_broken_off_are_passed_over(rig: ReturnedRig) -> None:
    study = rig.film()
    with plain(rig) as sender:
        sender.sendall(b"noise\r\n\x0bMSH|broken off\r\x0b" + oru(study, control="c3") + b"\x1c\r")
        received = b""
        while b"\x1c\r" not in received:
            received += sender.recv(65536)
    assert b"MSA|AA|c3" in received


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200))
def test_any_bytes_in_a_frame_are_answered(rig: ReturnedRig, content: bytes) -> None:
    message = content.replace(b"\x1c", b"").replace(b"\x0b", b"")
    with plain(rig) as sender:
        sender.sendall(b"\x0b" + message + b"\x1c\r")
        received = b""
        while b"\x1c\r" not in received:
            chunk = sender.recv(65536)
            assert chunk
            received += chunk
    assert b"\rMSA|A" in received


def test_the_port_speaks_tls_with_senders_that_show_a_certificate(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "authority")
    certificate, key = authority.issue("node")
    shown, shown_key = authority.issue("sender")
    files = {"certificate_file": certificate, "key_file": key, "client_ca_file": authority.certificate}
    with returned_rig(tmp_path, mllp={"port": 0, "tls": files}, poll_s=0.05) as rig, rig.running():
        assert eventually(lambda: rig.desk.mllp_port)
        study = rig.film()
        context = ssl.create_default_context(cafile=authority.certificate)
        context.load_cert_chain(shown, shown_key)
        with context.wrap_socket(plain(rig), server_hostname="127.0.0.1") as sender:
            sender.sendall(b"\x0b" + oru(study) + b"\x1c\r")
            assert b"MSA|AA" in sender.recv(65536)
        stranger = ssl.create_default_context(cafile=authority.certificate)
        with pytest.raises(OSError), stranger.wrap_socket(plain(rig), server_hostname="127.0.0.1") as sender:
            sender.sendall(b"\x0b" + oru(study, CLEAR) + b"\x1c\r")
            assert sender.recv(65536) == b""
            raise ConnectionError  # closed without an answer is as good as an alert
        with plain(rig) as clear_text:
            clear_text.sendall(b"\x0b" + oru(study, CLEAR) + b"\x1c\r")
            assert b"MSA" not in until_closed(clear_text)
    assert rig.told(study) != []


def test_a_port_that_is_taken_is_tried_again_and_told_until_then(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with returned_rig(tmp_path, mllp={"port": port}) as rig, rig.running():
            assert eventually(lambda: "returned.mllp" in rig.desk.fault)
            other.close()
            assert eventually(lambda: rig.desk.mllp_port == port)
            assert eventually(lambda: rig.desk.fault == "")
            time.sleep(0.1)

"""FHIR documents against Medplum's server, and against servers that nobody wishes for, over real sockets."""

from __future__ import annotations

import json
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dicom_node.ehr.answer import Accepted, Answer, Refused, Retry, discretion_of
from dicom_node.ehr.context import DocumentRequest, Revision
from dicom_node.ehr.fhir.bundle import write_bundle
from dicom_node.ehr.fhir.client import FhirClient
from dicom_node.ehr.fhir.destination import FhirDestination
from dicom_node.ehr.fhir.entries import Attachment
from dicom_node.ehr.fhir.profile import read_profile
from tests.archives import ScriptedServer
from tests.certificates import Authority
from tests.medplum import Medplum
from tests.record_cases import hostile_record, make_record

PDF = Attachment(media_type="application/pdf", title="Протокол", data=b"%PDF-1.4 not a real one")
KINDS = ("Device", "Patient", "ImagingStudy", "Observation", "DiagnosticReport", "Provenance")


@pytest.fixture(scope="module")
def medplum() -> Iterator[Medplum]:
    with Medplum() as server:
        yield server


@pytest.fixture(scope="module")
def atomic() -> Iterator[Medplum]:
    with Medplum(atomic=True) as server:
        yield server


def _send(url: str, request: DocumentRequest, *, bundle: bytes | None = None, **settings: Any) -> Answer:
    destination = FhirDestination(name="region", url=url, **settings)
    client = FhirClient(destination)
    try:
        body = bundle or write_bundle(request, read_profile(destination.document))
        return client.send(body, discretion_of(request))
    finally:
        client.close()


def _counts(server: Medplum) -> dict[str, int]:
    return {kind: len(server.held(kind)) for kind in KINDS}


@pytest.mark.parametrize("lesions", [0, 2, 12])
def test_ten_sends_leave_one_of_each_resource(medplum: Medplum, lesions: int) -> None:
    medplum.clear()
    request = make_record(lesions=lesions)
    answers = [_send(medplum.url, request) for _ in range(10)]
    assert _counts(medplum) == dict.fromkeys(KINDS, 1) | {"Observation": 1 + lesions}
    assert {type(answer) for answer in answers} == {Accepted}
    ids = {answer.receiver_ids for answer in answers if isinstance(answer, Accepted)}
    assert len(ids) == 1 and len(ids.pop()) == 6 + lesions


def test_ten_sends_leave_one_of_each_resource_in_atomic_transactions(atomic: Medplum) -> None:
    atomic.clear()
    answers = [_send(atomic.url, make_record(lesions=2)) for _ in range(10)]
    assert _counts(atomic) == dict.fromkeys(KINDS, 1) | {"Observation": 3}
    assert {type(answer) for answer in answers} == {Accepted}


def test_a_server_that_allows_fewer_entries_refuses_for_good_and_says_so(atomic: Medplum) -> None:
    atomic.clear()
    answer = _send(atomic.url, make_record(lesions=12))
    assert isinstance(answer, Refused) and "Transaction" in answer.reason
    assert sum(_counts(atomic).values()) == 0


def test_two_documents_of_one_patient_and_study_share_what_they_are_about(medplum: Medplum) -> None:
    medplum.clear()
    for number in range(2):
        revision = Revision(set_id=f"set-{number}", version=1)
        assert isinstance(_send(medplum.url, make_record(document_id=f"doc-{number}", revision=revision)), Accepted)
    assert _counts(medplum) == {
        "Device": 1, "Patient": 1, "ImagingStudy": 1, "Observation": 6, "DiagnosticReport": 2, "Provenance": 2,
    }  # fmt: skip


def test_a_correction_amends_the_report_and_a_withdrawal_takes_all_back(medplum: Medplum) -> None:
    medplum.clear()
    plain = read_profile("plain")
    first = make_record(lesions=2, document_id="a" * 64)
    second = make_record(
        lesions=1, document_id="b" * 64, revision=Revision(set_id="s" * 64, version=2, replaces_id="a" * 64)
    )
    gone = make_record(
        lesions=1,
        document_id="c" * 64,
        revision=Revision(set_id="s" * 64, version=3, replaces_id="b" * 64, withdrawn=True),
    )
    expected = iter([("preliminary", 3, 0), ("amended", 2, 3), ("entered-in-error", 0, 5)])
    for request, replaced in ((first, None), (second, first), (gone, second)):
        for _ in range(3):
            body = write_bundle(request, plain, replaced=replaced)
            assert isinstance(_send(medplum.url, request, bundle=body), Accepted)
        reports, said = medplum.held("DiagnosticReport"), medplum.held("Observation")
        standing = sum(one["status"] == "preliminary" for one in said)
        assert (reports[0]["status"], standing, len(said) - standing) == next(expected)
        assert len(reports) == 1
    assert len(medplum.held("Provenance")) == 3


def test_an_old_attempt_that_arrives_after_its_correction_changes_nothing(medplum: Medplum) -> None:
    medplum.clear()
    first = make_record(lesions=2, document_id="a" * 64)
    second = make_record(
        lesions=1, document_id="b" * 64, revision=Revision(set_id="s" * 64, version=2, replaces_id="a" * 64)
    )
    _send(medplum.url, first)
    corrected = write_bundle(second, read_profile("plain"), replaced=first)
    assert isinstance(_send(medplum.url, second, bundle=corrected), Accepted)
    assert isinstance(_send(medplum.url, first), Accepted)
    assert [one["status"] for one in medplum.held("DiagnosticReport")] == ["amended"]


def test_links_of_the_stored_report_lead_to_what_was_stored(medplum: Medplum) -> None:
    medplum.clear()
    _send(medplum.url, make_record(lesions=2))
    known = {f"{kind}/{one['id']}" for kind in KINDS for one in medplum.held(kind)}
    report, provenance = medplum.held("DiagnosticReport")[0], medplum.held("Provenance")[0]
    linked = [*report["result"], *report["imagingStudy"], report["subject"], *provenance["target"]]
    assert {one["reference"] for one in linked} <= known


@pytest.mark.parametrize("document", ["plain", "odii"])
def test_hostile_text_arrives_as_it_was_written(medplum: Medplum, document: str) -> None:
    medplum.clear()
    request = hostile_record("<a href='x'>&amp;|^~\\&\r\nЖ")
    for _ in range(2):
        assert isinstance(_send(medplum.url, request, document=document), Accepted)
    assert len(medplum.held("DiagnosticReport")) == 1
    if document == "plain":
        assert medplum.held("Patient")[0]["name"][0]["family"] == "<a href='x'>&amp;|^~\\&\r\nЖ"


def test_the_regional_profile_is_accepted_and_repeated_without_a_second_task(medplum: Medplum) -> None:
    medplum.clear()
    request = make_record()
    body = write_bundle(request, read_profile("odii"), attachments=[PDF])
    answers = [_send(medplum.url, request, bundle=body, document="odii") for _ in range(10)]
    assert len(set(map(str, answers))) == 1 and isinstance(answers[0], Accepted)
    counts = {kind: len(medplum.held(kind)) for kind in ("Task", "DiagnosticReport", "Observation", "Binary")}
    assert counts == {"Task": 1, "DiagnosticReport": 1, "Observation": 2, "Binary": 1}


def test_what_the_server_finds_wrong_is_refused_for_good(medplum: Medplum) -> None:
    medplum.clear()
    request = make_record()
    body = json.loads(write_bundle(request, read_profile("plain")))
    body["entry"][1]["resource"]["birthDate"] = "12.04.1961"
    answer = _send(medplum.url, request, bundle=json.dumps(body).encode())
    assert isinstance(answer, Refused)
    assert "birthDate" in answer.reason and "1961" not in answer.reason


# --- servers that nobody wishes for -----------------------------------------------------------------------------


def _http(status: str, body: bytes = b"", headers: str = "") -> bytes:
    kind = "Content-Type: application/fhir+json\r\n"
    return f"HTTP/1.1 {status}\r\n{kind}{headers}Content-Length: {len(body)}\r\n\r\n".encode() + body


def _read_request(connection: socket.socket) -> bytes:
    """One whole request: its head, and a body of the length it announces."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += connection.recv(65536)
    head, _, body = data.partition(b"\r\n\r\n")
    length = next(
        int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")
    )
    while len(body) < length:
        body += connection.recv(65536)
    return head


def _answering(status: str, body: bytes = b"", headers: str = "") -> Callable[[socket.socket], None]:
    def script(connection: socket.socket) -> None:
        _read_request(connection)
        connection.sendall(_http(status, body, headers))

    return script


def _outcome(code: str, text: str, severity: str = "error") -> bytes:
    issue = {"severity": severity, "code": code, "diagnostics": text, "expression": ["Bundle.entry[1].resource"]}
    return json.dumps({"resourceType": "OperationOutcome", "issue": [issue]}).encode()


def _send_to(script: Callable[[socket.socket], None], **settings: Any) -> Answer:
    with ScriptedServer(script) as server:
        return _send(f"http://127.0.0.1:{server.port}/fhir", make_record(), **settings)


@pytest.mark.parametrize("status", ["429 Too Many Requests", "503 Service Unavailable"])
def test_a_server_that_asks_to_wait_is_heeded(status: str) -> None:
    answer = _send_to(_answering(status, headers="Retry-After: 120\r\n"))
    assert isinstance(answer, Retry) and answer.after_s == 120


def test_a_date_to_wait_for_is_understood() -> None:
    answer = _send_to(_answering("503 Busy", headers="Retry-After: Fri, 31 Dec 2100 23:59:59 GMT\r\n"))
    assert isinstance(answer, Retry) and answer.after_s is not None and answer.after_s > 1e9


@pytest.mark.parametrize(
    "status", ["500 Oops", "502 Bad Gateway", "401 Unauthorized", "404 Not Found", "409 Conflict", "429 Slow down"]
)
def test_what_may_pass_is_tried_again(status: str) -> None:
    assert isinstance(_send_to(_answering(status)), Retry)


@pytest.mark.parametrize("status", ["400 Bad Request", "412 Precondition Failed", "413 Too large", "422 Unprocessable"])
def test_what_will_never_pass_is_refused(status: str) -> None:
    assert isinstance(_send_to(_answering(status)), Refused)


def test_a_reason_has_the_servers_words_without_the_patient() -> None:
    text = "Пациентка Ивановой Анны, 12.04.1961, СНИЛС 112-233-445 95: unknown code system"
    answer = _send_to(_answering("422 Unprocessable", _outcome("code-invalid", text)))
    assert isinstance(answer, Refused)
    assert "code-invalid" in answer.reason and "Bundle.entry[1].resource" in answer.reason
    assert "unknown code system" in answer.reason
    assert not any(word in answer.reason for word in ("Иванов", "Анн", "1961", "112", "95"))


def test_an_outcome_that_calls_itself_transient_is_tried_again() -> None:
    assert isinstance(_send_to(_answering("400 Bad", _outcome("lock-error", "busy"))), Retry)


def test_a_repeated_task_is_accepted_under_the_id_it_has() -> None:
    body = _outcome("duplicate", "exists: Task/7f3c-1")
    assert _send_to(_answering("422 Unprocessable", body)) == Accepted(receiver_ids=("Task/7f3c-1",))
    whole = json.dumps({"resourceType": "Task", "id": "7f3c-1"}).encode()
    assert _send_to(_answering("200 OK", whole)) == Accepted(receiver_ids=("Task/7f3c-1",))


def test_a_duplicate_patient_is_no_success() -> None:
    body = _outcome("duplicate", "exists: Patient/1")
    assert isinstance(_send_to(_answering("422 Unprocessable", body)), Refused)


def test_one_failed_entry_in_a_good_answer_is_a_failure() -> None:
    entries = [{"response": {"status": "201 Created", "location": "Patient/1/_history/1"}}]
    entries.append({"response": {"status": "422", "outcome": json.loads(_outcome("invalid", "no"))}})
    body = json.dumps({"resourceType": "Bundle", "type": "transaction-response", "entry": entries}).encode()
    answer = _send_to(_answering("200 OK", body))
    assert isinstance(answer, Refused) and answer.reason.startswith("entry 1:")


@pytest.mark.parametrize(
    "body", [b"<html>It works!</html>", b"{}", b"[]", b'{"resourceType": "Bundle"}', b"[" * 100000]
)
def test_a_success_that_names_nothing_is_no_success(body: bytes) -> None:
    assert isinstance(_send_to(_answering("200 OK", body)), Retry)


def test_a_redirect_is_not_followed() -> None:
    elsewhere = threading.Event()
    with ScriptedServer(lambda connection: elsewhere.set()) as other:
        told = f"Location: http://localhost:{other.port}/fhir\r\n"
        answer = _send_to(_answering("307 Temporary Redirect", headers=told))
    assert isinstance(answer, Retry) and "redirects to localhost" in answer.reason
    assert not elsewhere.is_set()


def test_an_endless_answer_is_cut_off() -> None:
    def script(connection: socket.socket) -> None:
        _read_request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/fhir+json\r\n\r\n")
        while True:
            connection.sendall(b" " * 65536)

    answer = _send_to(script, max_response_bytes=1 << 16)
    assert isinstance(answer, Retry) and "max_response_bytes" in answer.reason


def test_an_answer_that_trickles_ends_at_the_limit() -> None:
    def script(connection: socket.socket) -> None:
        _read_request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        while True:
            connection.sendall(b" ")
            time.sleep(0.05)

    answer = _send_to(script, response_timeout_s=0.4)
    assert isinstance(answer, Retry) and "response_timeout_s" in answer.reason


def test_silence_is_tried_again() -> None:
    answer = _send_to(lambda connection: time.sleep(0.6), response_timeout_s=0.3)
    assert isinstance(answer, Retry) and "silent" in answer.reason


def test_a_reset_in_the_middle_is_tried_again() -> None:
    def script(connection: socket.socket) -> None:
        _read_request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    assert isinstance(_send_to(script), Retry)


def test_nobody_there_is_tried_again() -> None:
    with ScriptedServer(lambda connection: None) as server:
        url = f"http://127.0.0.1:{server.port}"
    answer = _send(url, make_record())
    assert isinstance(answer, Retry) and "no connection" in answer.reason


@pytest.mark.parametrize(("document", "header"), [("plain", b"Bearer t-1"), ("odii", b"N3 t-1")])
def test_the_token_is_read_from_its_file_for_every_request(tmp_path: Path, document: str, header: bytes) -> None:
    token = tmp_path / "token"
    token.write_text("t-1\n", encoding="ascii")
    heads: list[bytes] = []

    def script(connection: socket.socket) -> None:
        heads.append(_read_request(connection))
        connection.sendall(_http("503 Busy"))

    _send_to(script, document=document, token_file=token)
    assert b"Authorization: " + header in heads[0]


def test_a_missing_token_sends_nothing() -> None:
    connected = threading.Event()
    answer = _send_to(lambda connection: connected.set(), token_env="RADNODE_TEST_NO_SUCH_VARIABLE")
    assert isinstance(answer, Retry) and "RADNODE_TEST_NO_SUCH_VARIABLE" in answer.reason
    assert not connected.is_set()


def test_https_checks_the_certificate_of_the_server(tmp_path: Path) -> None:
    authority, stranger = Authority(tmp_path, "hospital"), Authority(tmp_path, "stranger")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue("region"))
    body = json.dumps({"resourceType": "Task", "id": "t-1"}).encode()

    def script(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as encrypted:
            _answering("201 Created", body)(encrypted)

    with ScriptedServer(script) as server:
        url = f"https://127.0.0.1:{server.port}"
        trusted = _send(url, make_record(), tls={"ca_file": authority.certificate})
        refused = [_send(url, make_record(), tls=tls) for tls in ({"ca_file": stranger.certificate}, None)]
    assert trusted == Accepted(receiver_ids=("Task/t-1",))
    assert all(isinstance(answer, Retry) and "TLS" in answer.reason for answer in refused)


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"url": "http://region.example/fhir"}, "plain http"),
        ({"url": "https://user:pw@region.example/fhir"}, "no credentials"),
        ({"url": "ftp://region.example"}, "http"),
        ({"url": "https://region.example", "token_env": "A", "token_file": "b"}, "one of"),
        ({"url": "https://region.example", "tokn_env": "A"}, "tokn_env"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, str], fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        FhirDestination.model_validate({"name": "region", **settings})

"""The receiver of FHIR R4 as the outbox uses it: written, sent, and asked for, against Medplum and scripted servers."""

from __future__ import annotations

import base64
import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from dicom_node.ehr.answer import Accepted, Refused, Retry
from dicom_node.ehr.context import ContextMissing, DocumentRequest, Revision
from dicom_node.ehr.destination import DestinationMisconfigured
from dicom_node.ehr.fhir.destination import FhirDestination
from dicom_node.ehr.receiver import Held, RecordReceiver
from dicom_node.ehr.receivers import open_receiver
from dicom_node.ehr.semd import write_semd
from tests.archives import ScriptedServer
from tests.medplum import Medplum, schema_faults
from tests.record_cases import HOSTILE, hostile_record, make_record
from tests.record_receivers import make_envelope, opened
from tests.semd_cases import PROFILE, make_document

KINDS = ("Device", "Patient", "ImagingStudy", "Observation", "DiagnosticReport", "Provenance")
FIRST = make_record(lesions=2, document_id="a" * 64)
SECOND = make_record(
    lesions=1, document_id="b" * 64, revision=Revision(set_id="s" * 64, version=2, replaces_id="a" * 64)
)
GONE = make_record(
    lesions=1,
    document_id="c" * 64,
    revision=Revision(set_id="s" * 64, version=3, replaces_id="b" * 64, withdrawn=True),
)


@pytest.fixture(scope="module")
def server() -> Iterator[Medplum]:
    with Medplum() as running:
        yield running


@pytest.fixture
def medplum(server: Medplum) -> Medplum:
    server.clear()
    return server


@pytest.fixture
def receiver(medplum: Medplum) -> Iterator[RecordReceiver]:
    with opened(_destination(medplum.url)) as one:
        yield one


def _destination(url: str, **settings: Any) -> FhirDestination:
    return FhirDestination(name="region", url=url, **settings)


def _brought(receiver: RecordReceiver, request: DocumentRequest, replaced: DocumentRequest | None = None) -> Accepted:
    answer = receiver.send(receiver.write(request, replaced=replaced), make_envelope(request))
    assert isinstance(answer, Accepted)
    return answer


def _held(receiver: RecordReceiver, request: DocumentRequest, ids: tuple[str, ...] = ()) -> Held:
    return receiver.confirm(make_envelope(request), ids)


# --- what was taken stands --------------------------------------------------------------------------------------


def test_ten_sends_leave_one_of_each_and_the_server_says_that_it_has_it(
    medplum: Medplum, receiver: RecordReceiver
) -> None:
    assert _held(receiver, FIRST) is Held.NO
    answers = {_brought(receiver, FIRST) for _ in range(10)}
    assert len(answers) == 1
    assert {kind: len(medplum.held(kind)) for kind in KINDS} == dict.fromkeys(KINDS, 1) | {"Observation": 3}
    assert _held(receiver, FIRST, answers.pop().receiver_ids) is Held.YES


def test_a_server_that_was_restarted_empty_is_found_out_and_gets_it_again() -> None:
    with Medplum() as before, opened(_destination(before.url)) as receiver:
        _brought(receiver, FIRST)
        assert _held(receiver, FIRST) is Held.YES
    with Medplum() as after, opened(_destination(after.url)) as receiver:
        assert _held(receiver, FIRST) is Held.NO
        _brought(receiver, FIRST)
        assert _held(receiver, FIRST) is Held.YES
        assert len(after.held("DiagnosticReport")) == 1


def test_a_server_that_forgot_the_report_alone_gets_no_second_of_the_others(
    medplum: Medplum, receiver: RecordReceiver
) -> None:
    _brought(receiver, FIRST)
    report = medplum.held("DiagnosticReport")[0]["id"]
    httpx.delete(f"{medplum.url}/DiagnosticReport/{report}", trust_env=False).raise_for_status()
    assert _held(receiver, FIRST) is Held.NO
    _brought(receiver, FIRST)
    assert _held(receiver, FIRST) is Held.YES
    assert {kind: len(medplum.held(kind)) for kind in KINDS} == dict.fromkeys(KINDS, 1) | {"Observation": 3}


def test_a_correction_stands_only_when_the_report_is_of_its_version(receiver: RecordReceiver) -> None:
    _brought(receiver, FIRST)
    assert (_held(receiver, FIRST), _held(receiver, SECOND)) == (Held.YES, Held.NO)
    _brought(receiver, SECOND, FIRST)
    assert _held(receiver, SECOND) is Held.YES
    # It was corrected: what stands is not it, but nothing of it is lost and nothing is to be sent again.
    assert _held(receiver, FIRST) is Held.YES


def test_a_withdrawal_stands_only_when_the_report_says_so(medplum: Medplum, receiver: RecordReceiver) -> None:
    _brought(receiver, FIRST)
    _brought(receiver, SECOND, FIRST)
    assert _held(receiver, GONE) is Held.NO
    _brought(receiver, GONE, SECOND)
    assert _held(receiver, GONE) is Held.YES
    assert [one["status"] for one in medplum.held("DiagnosticReport")] == ["entered-in-error"]
    assert {one["status"] for one in medplum.held("Observation")} == {"entered-in-error"}


def test_an_old_version_in_the_place_of_a_newer_one_is_found_out(receiver: RecordReceiver) -> None:
    _brought(receiver, FIRST)
    _brought(receiver, SECOND, FIRST)
    _brought(receiver, GONE, SECOND)
    _brought(receiver, SECOND, FIRST)  # an attempt that came late: a correction puts itself into the place
    assert _held(receiver, GONE) is Held.NO
    _brought(receiver, GONE, SECOND)
    assert _held(receiver, GONE) is Held.YES


def test_one_document_says_nothing_of_another(receiver: RecordReceiver) -> None:
    _brought(receiver, FIRST)
    other = make_record(document_id="e" * 64, revision=Revision(set_id="t" * 64, version=1))
    assert _held(receiver, other) is Held.NO


def test_the_regional_profile_is_asked_by_the_ids_that_it_gave(medplum: Medplum) -> None:
    with opened(_destination(medplum.url, document="odii")) as receiver:
        ids = _brought(receiver, FIRST).receiver_ids
        assert {one.partition("/")[0] for one in ids} >= {"Task", "DiagnosticReport"}
        assert _held(receiver, FIRST, ids) is Held.YES
        assert _held(receiver, FIRST) is Held.UNSAID
        assert _held(receiver, FIRST, ("Observation/1",)) is Held.UNSAID
        medplum.clear()
        assert _held(receiver, FIRST, ids) is Held.NO


# --- what is written --------------------------------------------------------------------------------------------


def test_the_semd_draft_is_a_form_of_the_report(medplum: Medplum) -> None:
    request = make_document()
    with opened(_destination(medplum.url, attach_semd=True)) as receiver:
        bundle = receiver.write(request, replaced=None)
        assert schema_faults(json.loads(bundle)) == []
        _brought(receiver, request)
        gone = replace(
            request,
            document_id="doc-2",
            revision=Revision(set_id="set-1", version=2, replaces_id="doc-1", withdrawn=True),
        )
        report = medplum.held("DiagnosticReport")[0]
        _brought(receiver, gone, request)
    (form,) = report["presentedForm"]
    assert base64.b64decode(form["data"]) == write_semd(request, PROFILE)
    assert form["contentType"] == "application/xml" and "черновик" in form["title"]
    assert "presentedForm" not in medplum.held("DiagnosticReport")[0]


def test_a_region_gets_the_semd_draft_as_a_binary(medplum: Medplum) -> None:
    request = make_document()
    with opened(_destination(medplum.url, document="odii", attach_semd=True)) as receiver:
        ids = {_brought(receiver, request).receiver_ids for _ in range(2)}
    assert len(ids) == 1
    (binary,) = medplum.held("Binary")
    assert base64.b64decode(binary["data"]) == write_semd(request, PROFILE)


def test_without_the_context_file_no_draft_is_promised(medplum: Medplum) -> None:
    with pytest.raises(DestinationMisconfigured, match=r"region: .*attach_semd.*context file"):
        open_receiver(_destination(medplum.url, attach_semd=True), semd_profile=None)
    with opened(_destination(medplum.url), semd_profile=None) as receiver:
        _brought(receiver, FIRST)


def test_what_the_draft_lacks_stops_the_document(medplum: Medplum) -> None:
    with opened(_destination(medplum.url, attach_semd=True)) as receiver, pytest.raises(ContextMissing) as caught:
        receiver.write(replace(make_document(), author=None), replaced=None)
    assert "author" in " ".join(caught.value.missing)


@pytest.mark.parametrize("document", ["plain", "odii"])
def test_hostile_text_in_every_field_stays_text(medplum: Medplum, document: str) -> None:
    with opened(_destination(medplum.url, document=document)) as receiver:
        request = hostile_record(HOSTILE)
        # Medplum does not know the escape of the bar in a criterion (R4 search, section 3.1.1.4.0.2).
        number = replace(request.patient.identifier, value=request.patient.identifier.value.replace("|", "/"))
        request = replace(request, patient=replace(request.patient, identifier=number))
        bundle = json.loads(receiver.write(request, replaced=None))
        assert schema_faults(bundle) == []
        ids = {_brought(receiver, request).receiver_ids for _ in range(2)}
        assert len(ids) == 1
        assert _held(receiver, request, ids.pop()) is Held.YES
    assert len(medplum.held("DiagnosticReport")) == 1


def test_a_profile_that_is_not_there_is_told_when_it_is_opened(tmp_path: Path) -> None:
    missing = _destination("https://region.example", document=str(tmp_path / "none.toml"))
    with pytest.raises(DestinationMisconfigured, match=r"none\.toml"):
        open_receiver(missing, semd_profile=None)


# --- servers that nobody wishes for -----------------------------------------------------------------------------

Script = Callable[[socket.socket], None]


def _whole_request(connection: socket.socket) -> tuple[bytes, bytes]:
    data = b""
    while b"\r\n\r\n" not in data:
        data += connection.recv(65536)
    head, _, body = data.partition(b"\r\n\r\n")
    lengths = [line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")]
    while lengths and len(body) < int(lengths[0].split(b":")[1]):
        body += connection.recv(65536)
    return head, body


def _read_request(connection: socket.socket) -> bytes:
    return _whole_request(connection)[0]


def _answering(status: str, body: bytes = b"", headers: str = "") -> Script:
    def script(connection: socket.socket) -> None:
        _read_request(connection)
        head = f"HTTP/1.1 {status}\r\nConnection: close\r\n{headers}Content-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)

    return script


def _json(**content: Any) -> bytes:
    return json.dumps(content).encode()


def _bundle(*resources: dict[str, Any], kind: str = "searchset") -> bytes:
    return _json(resourceType="Bundle", type=kind, entry=[{"resource": one} for one in resources])


def _asked(script: Script, ids: tuple[str, ...] = (), **settings: Any) -> Held:
    with ScriptedServer(script) as server, opened(_destination(f"http://127.0.0.1:{server.port}", **settings)) as one:
        return one.confirm(make_envelope(FIRST), ids)


@pytest.mark.parametrize(
    ("status", "body", "held"),
    [
        ("200 OK", _bundle(), Held.NO),
        ("200 OK", _bundle({"resourceType": "DiagnosticReport", "id": "1"}), Held.UNSAID),  # criterion not known to it
        ("200 OK", _bundle(kind="transaction-response"), Held.ASK_AGAIN),
        ("200 OK", b"<html>Maintenance</html>", Held.ASK_AGAIN),
        ("200 OK", b"[" * 100_000, Held.ASK_AGAIN),
        ("200 OK", _json(resourceType="Bundle", type="searchset", entry="x"), Held.NO),
        ("200 OK", _json(resourceType="Bundle", type="searchset", total=0), Held.NO),
        ("200 OK", _json(resourceType="Bundle", type="searchset", total=1), Held.UNSAID),
        ("405 No", b"", Held.UNSAID),
        ("501 No", b"", Held.UNSAID),
        ("404 No", b"", Held.ASK_AGAIN),
        ("401 No", b"", Held.ASK_AGAIN),
        ("500 No", b"", Held.ASK_AGAIN),
    ],
)
def test_only_a_search_that_found_nothing_says_no(status: str, body: bytes, held: Held) -> None:
    assert _asked(_answering(status, body)) is held


@pytest.mark.parametrize(
    ("status", "body", "held"),
    [
        ("404 No", b"<html>", Held.UNSAID),
        ("404 No", _json(resourceType="OperationOutcome"), Held.NO),
        ("410 Gone", _json(resourceType="OperationOutcome"), Held.NO),
        ("200 OK", _json(resourceType="Task", id="7"), Held.YES),
        ("200 OK", _json(resourceType="Task", id="8"), Held.ASK_AGAIN),
        ("405 No", b"", Held.UNSAID),
        ("503 No", b"", Held.ASK_AGAIN),
    ],
)
def test_what_reading_back_an_id_says(status: str, body: bytes, held: Held) -> None:
    assert _asked(_answering(status, body), ("Task/7",), document="odii") is held


def test_a_search_does_not_take_an_old_answer() -> None:
    heads: list[bytes] = []

    def script(connection: socket.socket) -> None:
        heads.append(_read_request(connection))

    assert _asked(script) is Held.ASK_AGAIN
    assert b"Cache-Control: no-cache" in heads[0]
    assert b"Accept: application/fhir+json" in heads[0]


def test_what_asks_about_a_document_names_no_patient() -> None:
    heads: list[bytes] = []
    assert _asked(lambda connection: heads.append(_read_request(connection))) is Held.ASK_AGAIN
    assert b"77-1" not in heads[0] and b"2.25.1001" not in heads[0]


def test_a_redirect_of_a_question_leads_nowhere() -> None:
    elsewhere = threading.Event()
    with ScriptedServer(lambda connection: elsewhere.set()) as other:
        script = _answering("302 Found", headers=f"Location: http://127.0.0.1:{other.port}/\r\n")
        assert _asked(script) is Held.ASK_AGAIN
    assert not elsewhere.is_set()


def test_an_answer_of_100_mb_is_cut_off() -> None:
    written = 0

    def script(connection: socket.socket) -> None:
        nonlocal written
        _read_request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 104857600\r\n\r\n")
        for _ in range(1600):
            connection.sendall(b"[" * 65536)
            written += 65536

    assert _asked(script) is Held.ASK_AGAIN
    assert written < 50 << 20


def test_500_then_a_reset_then_success_leaves_one_of_each(medplum: Medplum) -> None:
    """A server in front of Medplum that fails twice: before the transaction, and after it, in its answer."""
    turns = iter(("fails", "forwards and resets", "forwards"))

    def front(connection: socket.socket) -> None:
        turn = next(turns)
        _, body = _whole_request(connection)
        if turn == "fails":
            connection.sendall(b"HTTP/1.1 500 Oops\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
            return
        kind = {"Content-Type": "application/fhir+json"}
        answer = httpx.post(medplum.url, content=body, headers=kind, trust_env=False)
        if turn == "forwards":
            said = f"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {len(answer.content)}\r\n\r\n"
            connection.sendall(said.encode() + answer.content)
            return
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n{")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    with ScriptedServer(front) as server, opened(_destination(f"http://127.0.0.1:{server.port}")) as receiver:
        bundle = receiver.write(FIRST, replaced=None)
        answers = [receiver.send(bundle, make_envelope(FIRST)) for _ in range(3)]
    assert [type(one) for one in answers] == [Retry, Retry, Accepted]
    assert {kind: len(medplum.held(kind)) for kind in KINDS} == dict.fromkeys(KINDS, 1) | {"Observation": 3}


def test_what_the_server_finds_wrong_is_refused_for_good(medplum: Medplum, receiver: RecordReceiver) -> None:
    bundle = json.loads(receiver.write(FIRST, replaced=None))
    bundle["entry"][1]["resource"]["birthDate"] = "12.04.1961"
    answer = receiver.send(json.dumps(bundle).encode(), make_envelope(FIRST))
    assert isinstance(answer, Refused) and "birthDate" in answer.reason and "1961" not in answer.reason


# --- the check before anything is sent --------------------------------------------------------------------------


def _checked(script: Script, **settings: Any) -> str:
    with ScriptedServer(script) as server, opened(_destination(f"http://127.0.0.1:{server.port}", **settings)) as one:
        return one.check()


def _capable(release: str, filler: int = 0) -> bytes:
    return _json(resourceType="CapabilityStatement", fhirVersion=release, description="x" * filler)


@pytest.mark.parametrize(
    ("status", "body", "headers", "told"),
    [
        ("200 OK", _capable("4.0.1"), "", ""),
        ("200 OK", _capable("4.0.1", 6 << 20), "", ""),  # larger than an answer to a transaction may be
        ("200 OK", _capable("5.0.0"), "", "R4"),
        ("200 OK", _capable("3.0.2"), "", "R4"),
        ("200 OK", b"<html>It works!</html>", "", "base of the FHIR service"),
        ("404 Not Found", b"", "", "base of the FHIR service"),
        ("401 Unauthorized", b"", "", "token"),
        ("403 Forbidden", b"", "", "token"),
        ("301 Moved", b"", "Location: https://other.example/secret?a=b\r\n", "redirects to other.example (HTTP 301)"),
    ],
)
def test_the_check_says_what_is_wrong(status: str, body: bytes, headers: str, told: str) -> None:
    said = _checked(_answering(status, body, headers))
    assert (told in said) if told else said == ""
    assert "secret" not in said


def test_the_check_asks_with_the_token_and_sends_no_document(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("t-1\n", encoding="ascii")
    heads: list[bytes] = []
    _checked(lambda connection: heads.append(_read_request(connection)), token_file=token)
    assert heads[0].startswith(b"GET /metadata ") and b"Authorization: Bearer t-1" in heads[0]


def test_a_region_need_not_say_what_it_can_do() -> None:
    assert _checked(_answering("404 Not Found"), document="odii") == ""
    assert "token" in _checked(_answering("401 Unauthorized"), document="odii")


def test_the_check_of_nobody_there_names_the_address() -> None:
    with ScriptedServer(lambda connection: None) as server:
        port = server.port
    with opened(_destination(f"http://127.0.0.1:{port}")) as receiver:
        assert f"no connection to 127.0.0.1:{port}" in receiver.check()

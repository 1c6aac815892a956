"""Delivery by DICOMweb to a real Orthanc, and to HTTP servers that misbehave."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from dicom_node.delivery import open_archive
from dicom_node.delivery.archive import (
    Archive,
    ArchiveRejected,
    ArchiveUnreachable,
    DicomwebDestination,
    OutboundObject,
    PacsDestination,
    Sent,
)
from inference.findings import StudyUid
from tests.archives import Orthanc, ScriptedServer, as_outbound, free_port, outbound_set, write_secondary_capture

Script = Callable[[socket.socket], None]


@pytest.fixture
def opened() -> Iterator[Callable[..., Archive]]:
    archives: list[Archive] = []

    def make(url: str, **settings: object) -> Archive:
        values: dict[str, object] = {"name": "web", "kind": "dicomweb", "url": url}
        archives.append(open_archive(DicomwebDestination.model_validate(values | settings)))
        return archives[-1]

    yield make
    for archive in archives:
        archive.close()


Opened = Callable[..., Archive]


def read_request(connection: socket.socket) -> bytes:
    """Read one request whole."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += connection.recv(65536)
    head, _, body = received.partition(b"\r\n\r\n")
    lengths = [line.split(b":")[1] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    while lengths and len(body) < int(lengths[0]):
        body += connection.recv(65536)
    return head + b"\r\n\r\n" + body


def answering(status: str, body: bytes = b"", *headers: str) -> Script:
    def script(connection: socket.socket) -> None:
        read_request(connection)
        lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers, "", ""]
        connection.sendall("\r\n".join(lines).encode() + body)

    return script


def url_of(server: ScriptedServer) -> str:
    return f"http://127.0.0.1:{server.port}/dicom-web"


def test_objects_are_stored_bit_for_bit_and_confirmed_by_query(
    orthanc: Orthanc, opened: Opened, tmp_path: Path
) -> None:
    objects = outbound_set(tmp_path)
    archive = opened(orthanc.dicomweb_url)
    assert archive.confirm(objects) == frozenset()
    assert archive.count_instances(objects[0].study_uid) == 0
    assert [(outcome.sent, outcome.reason) for outcome in archive.send(objects)] == [(Sent.ACCEPTED, "")] * 3
    assert archive.confirm(objects) == {item.sop_instance_uid for item in objects}
    assert archive.count_instances(objects[0].study_uid) == 3
    for item in objects:
        assert orthanc.dicom_file(item.sop_instance_uid) == item.path.read_bytes()


def test_a_re_send_makes_no_duplicate(orthanc: Orthanc, opened: Opened, tmp_path: Path) -> None:
    objects = outbound_set(tmp_path)
    for _ in range(3):
        assert {outcome.sent for outcome in opened(orthanc.dicomweb_url).send(objects)} == {Sent.ACCEPTED}
    assert len(orthanc.instances()) == 3


def test_what_is_sent_both_ways_is_one_object(orthanc: Orthanc, opened: Opened, tmp_path: Path) -> None:
    objects = outbound_set(tmp_path)
    pacs = PacsDestination(name="pacs", host="127.0.0.1", port=orthanc.dimse_port, called_ae=orthanc.ae_title)
    for archive in (opened(orthanc.dicomweb_url), open_archive(pacs), opened(orthanc.dicomweb_url)):
        assert {outcome.sent for outcome in archive.send(objects)} == {Sent.ACCEPTED}
    assert len(orthanc.instances()) == 3


def test_large_sets_travel_in_several_requests(orthanc: Orthanc, opened: Opened, tmp_path: Path) -> None:
    objects = [
        as_outbound(path, write_secondary_capture(path, side=500)) for path in (tmp_path / f"{n}.dcm" for n in range(5))
    ]
    outcomes = opened(orthanc.dicomweb_url + "/", max_request_bytes=1 << 20).send(objects)
    assert [outcome.sent for outcome in outcomes] == [Sent.ACCEPTED] * 5
    assert [outcome.sop_instance_uid for outcome in outcomes] == [item.sop_instance_uid for item in objects]
    assert len(orthanc.instances()) == 5


def test_an_archive_that_was_down_gets_everything_once_it_is_back(
    orthanc: Orthanc, opened: Opened, tmp_path: Path
) -> None:
    objects = outbound_set(tmp_path)
    archive = opened(orthanc.dicomweb_url)
    archive.echo()
    orthanc.stop(kill=True)
    outcomes = archive.send(objects)
    assert [outcome.sent for outcome in outcomes] == [Sent.RETRY] * 3
    assert "is the archive running" in outcomes[0].reason
    with pytest.raises(ArchiveUnreachable):
        archive.echo()
    orthanc.start()
    assert {outcome.sent for outcome in archive.send(objects)} == {Sent.ACCEPTED}
    assert orthanc.sop_uids() == {item.sop_instance_uid for item in objects}


def test_a_bad_object_is_refused_alone(orthanc: Orthanc, opened: Opened, tmp_path: Path) -> None:
    good, bad, gone, other = outbound_set(tmp_path, 4)
    bad.path.write_bytes(b"not DICOM")
    gone.path.unlink()
    outcomes = opened(orthanc.dicomweb_url).send([good, bad, gone, other])
    assert [outcome.sent for outcome in outcomes] == [Sent.ACCEPTED, Sent.REFUSED, Sent.RETRY, Sent.ACCEPTED]
    assert "HTTP 400" in outcomes[1].reason
    assert "cannot be read" in outcomes[2].reason
    assert orthanc.sop_uids() == {good.sop_instance_uid, other.sop_instance_uid}


@pytest.mark.parametrize("status", ["400 Bad Request", "500 Internal Server Error"])
def test_one_object_that_fails_its_whole_request_does_not_hold_the_others(
    opened: Opened, tmp_path: Path, status: str
) -> None:
    objects = outbound_set(tmp_path, 3)
    poison = objects[1].path.read_bytes()

    def fails_on_one(connection: socket.socket) -> None:
        failed = poison in read_request(connection)
        answer = f"HTTP/1.1 {status if failed else '200 OK'}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        connection.sendall(answer.encode())

    with ScriptedServer(fails_on_one) as server:
        outcomes = opened(url_of(server)).send(objects)
    assert [outcome.sent is Sent.ACCEPTED for outcome in outcomes] == [True, False, True]


def test_a_wrong_path_names_the_remedy(orthanc: Orthanc, opened: Opened, tmp_path: Path) -> None:
    archive = opened(orthanc.http_url + "/nothing-here")
    (outcome,) = archive.send(outbound_set(tmp_path, 1))
    assert outcome.sent is Sent.REFUSED
    assert "root of the DICOMweb service" in outcome.reason
    with pytest.raises(ArchiveUnreachable, match="root of the DICOMweb service"):
        archive.echo()


def test_commitment_is_not_used_over_dicomweb(orthanc: Orthanc, opened: Opened, tmp_path: Path) -> None:
    archive = opened(orthanc.dicomweb_url)
    kept: list[object] = []
    assert archive.request_commitment(outbound_set(tmp_path), register=kept.append, answered=kept.append) is False
    assert kept == []


def test_without_confirmation_nothing_is_asked(opened: Opened, tmp_path: Path) -> None:
    assert opened(f"http://127.0.0.1:{free_port()}", confirm="none").confirm(outbound_set(tmp_path)) is None


@pytest.mark.parametrize(
    ("status", "sent", "told"),
    [
        ("500 Internal Server Error", Sent.RETRY, "HTTP 500"),
        ("503 Service Unavailable", Sent.RETRY, "HTTP 503"),
        ("507 Insufficient Storage", Sent.RETRY, "its disk is full"),
        ("429 Too Many Requests", Sent.RETRY, "HTTP 429"),
        ("408 Request Timeout", Sent.RETRY, "HTTP 408"),
        ("425 Too Early", Sent.RETRY, "HTTP 425"),
        ("400 Bad Request", Sent.REFUSED, "HTTP 400"),
        ("401 Unauthorized", Sent.REFUSED, "check the credentials"),
        ("403 Forbidden", Sent.REFUSED, "allow this node's account"),
        ("409 Conflict", Sent.REFUSED, "HTTP 409"),
        ("413 Content Too Large", Sent.REFUSED, "raise the limit"),
        ("415 Unsupported Media Type", Sent.REFUSED, "does not take DICOM files"),
    ],
)
def test_an_http_status_without_a_list_speaks_for_all(
    opened: Opened, tmp_path: Path, status: str, sent: Sent, told: str
) -> None:
    with ScriptedServer(answering(status, b"<html>no</html>")) as server:
        outcomes = opened(url_of(server)).send(outbound_set(tmp_path, 2))
    assert [outcome.sent for outcome in outcomes] == [sent, sent]
    assert told in outcomes[0].reason


def test_an_archive_may_say_when_to_come_back(opened: Opened, tmp_path: Path) -> None:
    objects = outbound_set(tmp_path, 1)
    with ScriptedServer(answering("503 Busy", b"", "Retry-After: 120")) as server:
        assert opened(url_of(server)).send(objects)[0].retry_after_s == 120
    later = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    with ScriptedServer(answering("503 Busy", b"", f"Retry-After: {later}")) as server:
        wait_s = opened(url_of(server)).send(objects)[0].retry_after_s
        assert wait_s is not None and 3000 < wait_s <= 3600
    with ScriptedServer(answering("503 Busy", b"", "Retry-After: whenever")) as server:
        assert opened(url_of(server)).send(objects)[0].retry_after_s is None


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "307 Temporary Redirect", "308 Permanent Redirect"])
def test_a_redirect_is_never_followed(opened: Opened, tmp_path: Path, status: str) -> None:
    objects = outbound_set(tmp_path, 1)
    with ScriptedServer(answering("200 OK")) as elsewhere:
        location = f"Location: http://localhost:{elsewhere.port}/studies"
        with ScriptedServer(answering(status, b"", location)) as server:
            archive = opened(url_of(server))
            (outcome,) = archive.send(objects)
            with pytest.raises(ArchiveUnreachable, match="redirects to localhost"):
                archive.confirm(objects)
        assert elsewhere.connections == 0
    assert outcome.sent is Sent.RETRY
    assert "redirects to localhost" in outcome.reason


def store_response(objects: list[OutboundObject], **failed: int) -> bytes:
    """Answer of an archive that stored all of `objects` but those named by position, with their Failure Reason."""
    reasons = {int(position.removeprefix("_")): code for position, code in failed.items()}
    stored = [
        {"00081155": {"vr": "UI", "Value": [o.sop_instance_uid]}} for n, o in enumerate(objects) if n not in reasons
    ]
    rejected = [
        {
            "00081155": {"vr": "UI", "Value": [objects[n].sop_instance_uid]},
            "00081197": {"vr": "US", "Value": [code]},
        }
        for n, code in reasons.items()
    ]
    answer: dict[str, object] = {"00081199": {"vr": "SQ", "Value": stored}}
    if rejected:
        answer["00081198"] = {"vr": "SQ", "Value": rejected}
    return json.dumps(answer).encode()


@pytest.mark.parametrize("status", ["200 OK", "202 Accepted", "409 Conflict"])
def test_every_object_has_its_own_answer(opened: Opened, tmp_path: Path, status: str) -> None:
    objects = outbound_set(tmp_path, 5)
    body = store_response(objects, _1=0xA700, _2=0xA900, _3=0xC000, _4=0x0122)
    with ScriptedServer(answering(status, body, "Content-Type: application/dicom+json")) as server:
        outcomes = opened(url_of(server)).send(objects)
    assert [outcome.sent for outcome in outcomes] == [
        Sent.ACCEPTED,
        Sent.RETRY,
        Sent.REFUSED,
        Sent.REFUSED,
        Sent.REFUSED,
    ]
    assert "status A700" in outcomes[1].reason


def test_an_answer_in_xml_is_read(opened: Opened, tmp_path: Path) -> None:
    objects = outbound_set(tmp_path, 2)
    body = f"""<?xml version="1.0" encoding="UTF-8"?>
    <NativeDicomModel xmlns="http://dicom.nema.org/PS3.19/models/NativeDICOM">
      <DicomAttribute tag="00081199" vr="SQ"><Item number="1"><DicomAttribute tag="00081155" vr="UI">
        <Value number="1">{objects[0].sop_instance_uid}</Value></DicomAttribute></Item></DicomAttribute>
      <DicomAttribute tag="00081198" vr="SQ"><Item number="1"><DicomAttribute tag="00081155" vr="UI">
        <Value number="1">{objects[1].sop_instance_uid}</Value></DicomAttribute>
        <DicomAttribute tag="00081197" vr="US"><Value number="1">49152</Value></DicomAttribute></Item></DicomAttribute>
    </NativeDicomModel>""".encode()
    with ScriptedServer(answering("202 Accepted", body, "Content-Type: application/dicom+xml")) as server:
        outcomes = opened(url_of(server)).send(objects)
    assert [outcome.sent for outcome in outcomes] == [Sent.ACCEPTED, Sent.REFUSED]
    assert "status C000" in outcomes[1].reason


def test_an_object_that_the_answer_does_not_mention_is_sent_again(opened: Opened, tmp_path: Path) -> None:
    objects = outbound_set(tmp_path, 2)
    with ScriptedServer(answering("200 OK", store_response(objects[:1]))) as server:
        outcomes = opened(url_of(server)).send(objects)
    assert [outcome.sent for outcome in outcomes] == [Sent.ACCEPTED, Sent.RETRY]


def test_success_without_a_word_is_success(opened: Opened, tmp_path: Path) -> None:
    with ScriptedServer(answering("200 OK")) as server:
        (outcome,) = opened(url_of(server)).send(outbound_set(tmp_path, 1))
    assert outcome.sent is Sent.ACCEPTED


@pytest.mark.parametrize(
    "body",
    [
        b"<html>Welcome</html>",
        b"{}",
        b"[]",
        b"null",
        b"[1, 2]",
        b"[" * 100_000,
        b'{"00081199": 3}' + b"\xff\xfe",
        b'{"00081199": [',
        bytes(1000),
    ],
)
@pytest.mark.parametrize("kind", ["application/dicom+json", "application/dicom+xml", "text/html"])
def test_garbage_is_not_taken_for_success(opened: Opened, tmp_path: Path, body: bytes, kind: str) -> None:
    objects = outbound_set(tmp_path, 1)
    with ScriptedServer(answering("200 OK", body, f"Content-Type: {kind}")) as server:
        (outcome,) = opened(url_of(server)).send(objects)
    assert outcome.sent is Sent.RETRY
    assert "is url the root" in outcome.reason


def test_a_search_that_answers_garbage_is_not_taken_for_absence(opened: Opened, tmp_path: Path) -> None:
    with ScriptedServer(answering("200 OK", b"<html>Welcome</html>")) as server:
        archive = opened(url_of(server))
        with pytest.raises(ArchiveUnreachable, match="not one of QIDO-RS"):
            archive.confirm(outbound_set(tmp_path, 1))
        with pytest.raises(ArchiveUnreachable, match="not one of QIDO-RS"):
            archive.echo()


@pytest.mark.parametrize("status", ["405 Method Not Allowed", "501 Not Implemented"])
def test_a_service_without_search_says_so(opened: Opened, tmp_path: Path, status: str) -> None:
    with ScriptedServer(answering(status)) as server:
        archive = opened(url_of(server))
        assert archive.confirm(outbound_set(tmp_path, 1)) is None
        assert archive.count_instances(StudyUid("1.2.3")) is None
        with pytest.raises(ArchiveRejected, match="offers no QIDO-RS"):
            archive.echo()
        opened(url_of(server), confirm="none").echo()


def test_a_huge_answer_is_cut_off(opened: Opened, tmp_path: Path) -> None:
    sent_bytes = 0

    def flood(connection: socket.socket) -> None:
        nonlocal sent_bytes
        read_request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n")
        while True:
            connection.sendall(bytes(65536))
            sent_bytes += 65536

    with ScriptedServer(flood) as server:
        (outcome,) = opened(url_of(server), max_response_bytes=1 << 20).send(outbound_set(tmp_path, 1))
    assert outcome.sent is Sent.RETRY
    assert "max_response_bytes" in outcome.reason
    assert sent_bytes < 64 << 20


def test_a_compressed_answer_is_not_unpacked(opened: Opened, tmp_path: Path) -> None:
    with ScriptedServer(answering("200 OK", bytes(100), "Content-Encoding: gzip")) as server:
        (outcome,) = opened(url_of(server)).send(outbound_set(tmp_path, 1))
    assert outcome.sent is Sent.RETRY


def never_answers(connection: socket.socket) -> None:
    while connection.recv(65536):
        pass


def drips(connection: socket.socket) -> None:
    read_request(connection)
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
    connection.settimeout(0.05)
    while True:
        connection.sendall(b" ")
        try:
            if not connection.recv(1):
                return
        except TimeoutError:
            continue


def resets_in_the_middle(connection: socket.socket) -> None:
    connection.recv(1000)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


def hangs_up_in_the_answer(connection: socket.socket) -> None:
    read_request(connection)
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{")


def speaks_another_language(connection: socket.socket) -> None:
    read_request(connection)
    connection.sendall(b"220 smtp.example ready\r\n")


@pytest.mark.parametrize(
    "script", [never_answers, drips, resets_in_the_middle, hangs_up_in_the_answer, speaks_another_language]
)
def test_a_server_that_fails_on_the_wire_is_tried_again_in_bounded_time(
    opened: Opened, tmp_path: Path, script: Script
) -> None:
    objects = outbound_set(tmp_path, 2)
    with ScriptedServer(script) as server:
        archive = opened(url_of(server), response_timeout_s=0.5)
        outcomes = archive.send(objects)
        with pytest.raises(ArchiveUnreachable):
            archive.confirm(objects)
        archive.close()
    assert [outcome.sent for outcome in outcomes] == [Sent.RETRY] * 2
    assert outcomes[0].reason


def test_a_request_that_is_too_large_is_sent_piece_by_piece(opened: Opened, tmp_path: Path) -> None:
    objects = outbound_set(tmp_path, 3)
    sizes: list[int] = []

    def takes_one_at_a_time(connection: socket.socket) -> None:
        request = read_request(connection)
        parts = request.count(b"Content-Type: application/dicom\r\n")
        sizes.append(parts)
        if parts > 1:
            connection.sendall(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        else:
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    with ScriptedServer(takes_one_at_a_time) as server:
        outcomes = opened(url_of(server)).send(objects)
    assert [outcome.sent for outcome in outcomes] == [Sent.ACCEPTED] * 3
    assert sizes == [3, 1, 1, 1]


def seen_request(opened: Opened, tmp_path: Path, **settings: object) -> str:
    requests: list[bytes] = []

    def script(connection: socket.socket) -> None:
        requests.append(read_request(connection))
        connection.sendall(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")

    with ScriptedServer(script) as server:
        opened(url_of(server), **settings).confirm(outbound_set(tmp_path, 1))
    return requests[0].decode()


def test_credentials_come_from_files_and_the_environment(
    opened: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEB_TOKEN", "sesame")
    assert "Authorization: Bearer sesame" in seen_request(opened, tmp_path, token_env="WEB_TOKEN")
    (tmp_path / "password").write_text("пароль\n", encoding="utf-8")
    request = seen_request(opened, tmp_path, username="node", password_file=tmp_path / "password")
    assert "Authorization: Basic bm9kZTrQv9Cw0YDQvtC70Yw=" in request
    assert "Authorization" not in seen_request(opened, tmp_path)


def test_a_token_that_no_header_may_carry_is_said_without_sending_anything(opened: Opened, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("ключ\n", encoding="utf-8")
    with ScriptedServer(answering("200 OK")) as server:
        (outcome,) = opened(url_of(server), token_file=token).send(outbound_set(tmp_path, 1))
        assert server.connections == 0
    assert outcome.sent is Sent.RETRY
    assert "no header may carry" in outcome.reason and "ключ" not in outcome.reason


def test_a_missing_secret_is_said_without_sending_anything(opened: Opened, tmp_path: Path) -> None:
    with ScriptedServer(answering("200 OK")) as server:
        (outcome,) = opened(url_of(server), token_file=tmp_path / "absent").send(outbound_set(tmp_path, 1))
        assert server.connections == 0
    assert outcome.sent is Sent.RETRY
    assert "holds no secret" in outcome.reason

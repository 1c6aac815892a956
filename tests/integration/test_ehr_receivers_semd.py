"""The receiver of SEMD drafts: a folder as a physician's system empties it, and a service over real sockets."""

from __future__ import annotations

import hashlib
import json
import resource
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from lxml import etree

from dicom_node.ehr.answer import Accepted, Answer, Refused, Retry
from dicom_node.ehr.context import DocumentRequest, Identifier, Revision
from dicom_node.ehr.destination import DestinationMisconfigured
from dicom_node.ehr.receiver import Envelope, Held
from dicom_node.ehr.receivers import open_receiver
from dicom_node.ehr.semd import ContextInvalid
from dicom_node.ehr.semd.client import FolderSender
from dicom_node.ehr.semd.destination import SemdDestination
from dicom_node.states import DocumentKind
from dicom_node.wording import ReportText
from tests.archives import ScriptedServer
from tests.certificates import Authority
from tests.conftest import PROJECT
from tests.record_cases import HOSTILE
from tests.record_receivers import draft_service, make_envelope, opened
from tests.semd_cases import make_document

DRAFT = b"<?xml version='1.0'?><ClinicalDocument/>"
DIGEST = hashlib.sha256(DRAFT).hexdigest()
ID = "d" * 64


def _folder(folder: Path) -> SemdDestination:
    return SemdDestination(name="physicians", folder=folder)


def _names(folder: Path) -> set[str]:
    return {one.name for one in folder.iterdir()}


# --- a folder ---------------------------------------------------------------------------------------------------


def test_a_draft_appears_whole_after_its_sidecar(tmp_path: Path) -> None:
    with opened(_folder(tmp_path)) as receiver:
        request = make_document()
        draft = receiver.write(request, replaced=None)
        assert receiver.send(draft, make_envelope(request)) == Accepted()
        assert receiver.confirm(make_envelope(request), ()) is Held.UNSAID
    assert (tmp_path / "doc-1.xml").read_bytes() == draft
    told = json.loads((tmp_path / "doc-1.json").read_text(encoding="utf-8"))
    assert told == {
        "document_id": "doc-1", "set_id": "set-1", "version": 1, "kind": "report",
        "study_uid": request.source.study_uid, "sha256": hashlib.sha256(draft).hexdigest(),
    }  # fmt: skip
    assert _names(tmp_path) == {"doc-1.xml", "doc-1.json"}


def test_nobody_else_on_the_machine_may_read_a_draft(tmp_path: Path) -> None:
    with opened(_folder(tmp_path)) as receiver:
        receiver.send(DRAFT, make_envelope())
    assert {one.stat().st_mode & 0o007 for one in tmp_path.iterdir()} == {0}


def test_ten_sends_leave_one_draft_and_other_bytes_are_never_put_in_its_place(tmp_path: Path) -> None:
    with opened(_folder(tmp_path)) as receiver:
        assert {receiver.send(DRAFT, make_envelope()) for _ in range(10)} == {Accepted()}
        answers = [receiver.send(other, make_envelope()) for other in (DRAFT + b" ", DRAFT.upper())]
    assert all(isinstance(answer, Refused) and "other content" in answer.reason for answer in answers)
    assert (tmp_path / f"{ID}.xml").read_bytes() == DRAFT


def test_a_link_under_the_name_of_a_draft_is_not_written_through(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(b"kept")
    box = tmp_path / "box"
    box.mkdir()
    (box / f"{ID}.xml").symlink_to(elsewhere)
    (box / f".{ID}.json.part").symlink_to(elsewhere)
    with opened(_folder(box)) as receiver:
        assert isinstance(receiver.send(DRAFT, make_envelope()), Refused)
        (box / f"{ID}.xml").unlink()
        assert receiver.send(DRAFT, make_envelope()) == Accepted()
    assert elsewhere.read_bytes() == b"kept"


def test_a_missing_folder_is_tried_again_and_not_made(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    with opened(_folder(gone)) as receiver:
        answer = receiver.send(DRAFT, make_envelope())
        assert "No such file" in receiver.check()
        assert isinstance(answer, Retry) and "No such file" in answer.reason
        assert not gone.exists()
        gone.mkdir()
        assert receiver.check() == ""
        assert receiver.send(DRAFT, make_envelope()) == Accepted()


def test_a_file_in_the_place_of_the_folder_is_tried_again(tmp_path: Path) -> None:
    (tmp_path / "box").write_bytes(b"")
    with opened(_folder(tmp_path / "box")) as receiver:
        answer = receiver.send(DRAFT, make_envelope())
        assert isinstance(answer, Retry) and "Not a directory" in answer.reason
        assert "Not a directory" in receiver.check()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "none", place], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"file systems cannot be mounted here: {mounted.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True, capture_output=True)


def test_a_full_disk_is_tried_again_and_leaves_nothing_half(small_disk: Path) -> None:
    big = DRAFT + b" " * 100_000
    with opened(_folder(small_disk)) as receiver:
        answer = receiver.send(big, make_envelope())
        assert isinstance(answer, Retry) and "No space left" in answer.reason
        assert not [name for name in _names(small_disk) if name.endswith((".xml", ".part"))]
        subprocess.run(["mount", "-o", "remount,size=1m", small_disk], check=True, capture_output=True)
        assert receiver.send(big, make_envelope()) == Accepted()
    assert (small_disk / f"{ID}.xml").read_bytes() == big


def test_a_disk_that_became_read_only_is_tried_again(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True, capture_output=True)
    with opened(_folder(small_disk)) as receiver:
        answer = receiver.send(DRAFT, make_envelope())
        assert isinstance(answer, Retry) and "Read-only file system" in answer.reason
        assert "Read-only" in receiver.check()
        subprocess.run(["mount", "-o", "remount,rw", small_disk], check=True, capture_output=True)
        assert receiver.send(DRAFT, make_envelope()) == Accepted()


def test_a_file_that_may_not_grow_is_tried_again(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with opened(_folder(tmp_path)) as receiver:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        try:
            answer = receiver.send(DRAFT + b" " * 2000, make_envelope())
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert isinstance(answer, Retry) and "File too large" in answer.reason
        assert receiver.send(DRAFT + b" " * 2000, make_envelope()) == Accepted()
    assert _names(tmp_path) == {f"{ID}.xml", f"{ID}.json"}


_KILLED_AT_EVERY_STEP = """
import os, sys
from pathlib import Path
from dicom_node.ehr.semd.client import FolderSender
from tests.record_receivers import make_envelope

folder, draft = Path(sys.argv[1]), sys.argv[2].encode()
steps = {"open", "os.rename", "os.remove"}

def killed_at(last, place):
    seen = 0
    def hook(event, arguments):
        nonlocal seen
        if event in steps and str(arguments[0]).startswith(str(place)):
            seen += 1
            if seen == last:
                os._exit(9)
    return hook

for number in range(1, 100):
    place = folder / str(number)
    place.mkdir()
    child = os.fork()
    if child == 0:
        sys.addaudithook(killed_at(number, place))
        FolderSender(place).send(draft, make_envelope())
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.waitstatus_to_exitcode(status) == 0:
        sys.exit(0)
sys.exit("it never came to its end")
"""


def test_a_kill_at_any_step_leaves_nothing_half_and_the_next_attempt_completes(tmp_path: Path) -> None:
    """Killed before every single opening, renaming and removing of a file: what stands is whole or not there."""
    subprocess.run(
        [sys.executable, "-c", _KILLED_AT_EVERY_STEP, str(tmp_path), DRAFT.decode()], check=True, cwd=PROJECT
    )
    places = sorted(tmp_path.iterdir(), key=lambda one: int(one.name))
    after = []
    for place in places:
        draft, told = place / f"{ID}.xml", place / f"{ID}.json"
        after.append((told.exists(), draft.exists()))
        assert not draft.exists() or draft.read_bytes() == DRAFT
        assert not told.exists() or json.loads(told.read_bytes())["sha256"] == DIGEST
        assert FolderSender(place).send(DRAFT, make_envelope()) == Accepted()
        assert draft.read_bytes() == DRAFT and _names(place) == {draft.name, told.name}
    # Nothing, then the sidecar alone, then both: never the draft alone.
    assert list(dict.fromkeys(after)) == [(False, False), (True, False), (True, True)]


def test_an_id_that_is_no_name_of_a_file_never_becomes_one(tmp_path: Path) -> None:
    for bad in ("../" + "d" * 8, "", ".hidden", "a/b", "a\x00b", "Ж", "a" * 200):
        with opened(_folder(tmp_path)) as receiver, pytest.raises(ValueError, match="id of a document"):
            receiver.send(DRAFT, make_envelope(document_id=bad))
    assert _names(tmp_path) == set()


# --- a service --------------------------------------------------------------------------------------------------


def _service(url: str, **settings: Any) -> SemdDestination:
    return SemdDestination(name="mis", url=url, **settings)


def test_a_service_gets_the_draft_and_says_that_it_has_it() -> None:
    request = make_document()
    with draft_service() as service, opened(_service(service.url)) as receiver:
        draft = receiver.write(request, replaced=None)
        assert receiver.confirm(make_envelope(request), ()) is Held.NO
        for _ in range(10):
            assert receiver.send(draft, make_envelope(request)) == Accepted()
        assert receiver.confirm(make_envelope(request), ()) is Held.YES
        assert receiver.check() == ""
    assert service.held == {"doc-1": draft}
    head = service.heads[1]
    assert (head["Radnode-Set-Id"], head["Radnode-Version"], head["Radnode-Kind"]) == ("set-1", "1", "report")
    assert head["Content-Type"] == "application/xml"


def test_500_is_tried_again_until_it_is_taken() -> None:
    with draft_service(answers=[(500, {}), (503, {"Retry-After": "7"})]) as service:
        with opened(_service(service.url)) as receiver:
            answers = [receiver.send(DRAFT, make_envelope()) for _ in range(3)]
        assert service.held == {ID: DRAFT}
    first, second, third = answers
    assert isinstance(first, Retry) and "HTTP 500" in first.reason and first.after_s is None
    assert isinstance(second, Retry) and second.after_s == 7
    assert third == Accepted()


def test_a_service_that_acknowledges_and_forgets_is_found_out_and_gets_it_again() -> None:
    with draft_service(forgets=1) as service, opened(_service(service.url)) as receiver:
        assert receiver.send(DRAFT, make_envelope()) == Accepted()
        assert receiver.confirm(make_envelope(), ()) is Held.NO
        assert receiver.send(DRAFT, make_envelope()) == Accepted()
        assert receiver.confirm(make_envelope(), ()) is Held.YES
    assert service.held == {ID: DRAFT} and service.puts == [ID, ID]


@pytest.mark.parametrize(
    ("not_offered", "held"), [({"HEAD"}, Held.YES), ({"HEAD", "GET"}, Held.UNSAID), ({"GET"}, Held.YES)]
)
def test_where_head_is_not_offered_get_is_asked(not_offered: set[str], held: Held) -> None:
    # Larger than any answer may be: it is not read.
    draft = DRAFT + b" " * (2 << 20)
    with draft_service(not_offered=frozenset(not_offered)) as service, opened(_service(service.url)) as receiver:
        assert receiver.send(draft, make_envelope()) == Accepted()
        assert receiver.confirm(make_envelope(), ()) is held
        assert receiver.check() == ""


@pytest.mark.parametrize(
    ("status", "held"),
    [(410, Held.NO), (501, Held.UNSAID), (500, Held.ASK_AGAIN), (401, Held.ASK_AGAIN), (302, Held.ASK_AGAIN)],
)
def test_what_answers_say_of_a_draft_that_was_taken(status: int, held: Held) -> None:
    with draft_service(answers=[(status, {}), (status, {})]) as service, opened(_service(service.url)) as receiver:
        assert receiver.confirm(make_envelope(), ()) is held


def test_a_stranger_that_holds_other_content_refuses_for_good() -> None:
    with draft_service(held={ID: b"<other/>"}) as service, opened(_service(service.url)) as receiver:
        answer = receiver.send(DRAFT, make_envelope())
    assert isinstance(answer, Refused) and "other content" in answer.reason


@pytest.mark.parametrize("status", [429, 408, 425, 500, 502, 503, 507, 401, 403, 404, 405, 423])
def test_what_may_pass_is_tried_again(status: int) -> None:
    with draft_service(answers=[(status, {})]) as service, opened(_service(service.url)) as receiver:
        answer = receiver.send(DRAFT, make_envelope())
        assert isinstance(answer, Retry) and f"HTTP {status}" in answer.reason
        assert receiver.send(DRAFT, make_envelope()) == Accepted()


@pytest.mark.parametrize("status", [400, 406, 409, 410, 413, 415, 422])
def test_what_will_never_pass_is_refused(status: int) -> None:
    with draft_service(answers=[(status, {})]) as service, opened(_service(service.url)) as receiver:
        assert isinstance(receiver.send(DRAFT, make_envelope()), Refused)


def test_the_token_is_read_for_every_request(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("old\n", encoding="ascii")
    with draft_service(token="new") as service, opened(_service(service.url, token_file=token)) as receiver:
        assert "check the token" in receiver.check()
        assert isinstance(receiver.send(DRAFT, make_envelope()), Retry)
        token.write_text("new\n", encoding="ascii")
        assert receiver.check() == ""
        assert receiver.send(DRAFT, make_envelope()) == Accepted()


def test_without_its_token_nothing_is_sent() -> None:
    with draft_service() as service:
        with opened(_service(service.url, token_env="RADNODE_TEST_NO_SUCH_VARIABLE")) as receiver:
            answer = receiver.send(DRAFT, make_envelope())
            assert receiver.confirm(make_envelope(), ()) is Held.ASK_AGAIN
            assert "RADNODE_TEST_NO_SUCH_VARIABLE" in receiver.check()
        assert isinstance(answer, Retry) and "RADNODE_TEST_NO_SUCH_VARIABLE" in answer.reason
        assert service.heads == []


# --- services that nobody wishes for ----------------------------------------------------------------------------

Script = Callable[[socket.socket], None]


def _read_request(connection: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        data += connection.recv(65536)
    head, _, body = data.partition(b"\r\n\r\n")
    lengths = [line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")]
    while lengths and len(body) < int(lengths[0].split(b":")[1]):
        body += connection.recv(65536)
    return head


def _answering(status: str, body: bytes = b"", headers: str = "") -> Script:
    def script(connection: socket.socket) -> None:
        _read_request(connection)
        connection.sendall(f"HTTP/1.1 {status}\r\n{headers}Content-Length: {len(body)}\r\n\r\n".encode() + body)

    return script


def _send_to(script: Script, draft: bytes = DRAFT, envelope: Envelope | None = None, **settings: Any) -> Answer:
    with ScriptedServer(script) as server, opened(_service(f"http://127.0.0.1:{server.port}/in", **settings)) as one:
        return one.send(draft, envelope or make_envelope())


@pytest.mark.parametrize(
    ("headers", "body"), [(f'ETag: "{DIGEST}"\r\n', b""), (f'ETag: W/"{DIGEST.upper()}"\r\n', b""), ("", b"has it: %s")]
)
def test_a_conflict_with_the_very_same_draft_is_success(headers: str, body: bytes) -> None:
    said = body % DIGEST.encode() if body else b""
    assert _send_to(_answering("409 Conflict", said, headers)) == Accepted()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_refused_and_nothing_goes_there(status: int) -> None:
    elsewhere = threading.Event()
    with ScriptedServer(lambda connection: elsewhere.set()) as other:
        location = f"Location: http://localhost:{other.port}/in/Иванова?token=t-1\r\n"
        answer = _send_to(_answering(f"{status} Moved", headers=location))
    assert isinstance(answer, Refused) and "redirects to localhost (HTTP" in answer.reason
    assert not any(word in answer.reason for word in ("Иванова", "t-1", "/in"))
    assert not elsewhere.is_set()


def test_a_refusal_in_words_names_nobody() -> None:
    request = make_document()
    words = "Пациентки Ивановой Марии, СНИЛС 087-654-303 00, нет в регистре".encode()
    answer = _send_to(_answering("422 No", words), envelope=make_envelope(request))
    assert isinstance(answer, Refused) and "нет в регистре" in answer.reason
    assert not any(word in answer.reason for word in ("Иванов", "Мари", "087", "303"))


@pytest.mark.parametrize(
    "body",
    [
        b"<!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]><a>&b;</a>",
        b"<!DOCTYPE l [<!ENTITY a 'ha'>" + b"<!ENTITY b '&a;&a;&a;&a;'>" * 50 + b"]><l>&b;</l>",
        b"<a>" * 100_000,
        b"\xff\xfe\x00" * 1000,
    ],
)
def test_hostile_xml_is_not_read_and_not_told(body: bytes) -> None:
    assert _send_to(_answering("200 OK", body)) == Accepted()
    answer = _send_to(_answering("422 No", body))
    assert isinstance(answer, Refused) and len(answer.reason) < 400
    assert "<" not in answer.reason and "passwd" not in answer.reason


def test_an_answer_of_100_mb_is_cut_off() -> None:
    written = 0

    def script(connection: socket.socket) -> None:
        nonlocal written
        _read_request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 104857600\r\n\r\n")
        for _ in range(1600):
            connection.sendall(b"<" * 65536)
            written += 65536

    answer = _send_to(script)
    assert isinstance(answer, Retry) and "max_response_bytes" in answer.reason
    assert written < 50 << 20


def test_a_slow_answer_is_waited_for_and_silence_is_not() -> None:
    def slow(connection: socket.socket) -> None:
        _read_request(connection)
        for part in (b"HTTP/1.1 20", b"1 Created\r\nContent-", b"Length: 0\r\n\r\n"):
            time.sleep(0.1)
            connection.sendall(part)

    assert _send_to(slow, response_timeout_s=20) == Accepted()
    answer = _send_to(lambda connection: time.sleep(0.6), response_timeout_s=0.3)
    assert isinstance(answer, Retry) and "silent" in answer.reason


def _drips_headers(connection: socket.socket) -> None:
    _read_request(connection)
    connection.sendall(b"HTTP/1.1 201 Created\r\nX: ")
    while True:
        connection.sendall(b"x")
        time.sleep(0.05)


def _never_ends_its_continue(connection: socket.socket) -> None:
    _read_request(connection)
    while True:
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        time.sleep(0.05)


def _drips_its_body(connection: socket.socket) -> None:
    _read_request(connection)
    connection.sendall(b"HTTP/1.1 201 Created\r\nContent-Length: 1000\r\n\r\n")
    while True:
        connection.sendall(b"x")
        time.sleep(0.05)


def _takes_the_draft_by_drops(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    for _ in range(30):
        connection.recv(4096)
        time.sleep(0.05)


@pytest.mark.parametrize(
    "script", [_drips_headers, _never_ends_its_continue, _drips_its_body, _takes_the_draft_by_drops]
)
def test_a_server_that_is_never_silent_and_never_done_ends_at_the_limit(script: Script) -> None:
    draft = DRAFT + b" " * (8 << 20) if script is _takes_the_draft_by_drops else DRAFT
    answer = _send_to(script, draft, response_timeout_s=0.5)
    assert isinstance(answer, Retry) and "response_timeout_s" in answer.reason


def test_a_reset_after_the_draft_was_stored_leaves_one() -> None:
    stored: list[bytes] = []

    def resets(connection: socket.socket) -> None:
        stored.append(_read_request(connection))
        connection.sendall(b"HTTP/1.1 201 Cre")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    answer = _send_to(resets)
    assert isinstance(answer, Retry) and "broke off" in answer.reason
    # It has it and says so at the next attempt.
    assert _send_to(_answering("409 Conflict", headers=f'ETag: "{DIGEST}"\r\n')) == Accepted()
    assert len(stored) == 1


def test_nobody_there_is_tried_again() -> None:
    with ScriptedServer(lambda connection: None) as server:
        url = f"http://127.0.0.1:{server.port}"
    with opened(_service(url)) as receiver:
        answer = receiver.send(DRAFT, make_envelope())
        assert isinstance(answer, Retry) and "no connection" in answer.reason
        assert receiver.confirm(make_envelope(), ()) is Held.ASK_AGAIN
        assert "no connection" in receiver.check()


@pytest.mark.parametrize("host", ["a" * 70, "no..such..host", "нет-такого.invalid"])
def test_a_name_that_is_no_host_is_told(host: str) -> None:
    with opened(_service(f"https://{host}/in", connect_timeout_s=2)) as receiver:
        answer = receiver.send(DRAFT, make_envelope())
    assert isinstance(answer, Retry) and "no connection" in answer.reason


def test_https_checks_the_certificate_of_the_service(tmp_path: Path) -> None:
    authority, stranger = Authority(tmp_path, "hospital"), Authority(tmp_path, "stranger")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue("mis"))

    def script(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as encrypted:
            _answering("201 Created")(encrypted)

    with ScriptedServer(script) as server:
        url = f"https://127.0.0.1:{server.port}"
        answers = []
        for trusted in (authority, stranger):
            with opened(_service(url, tls={"ca_file": trusted.certificate})) as receiver:
                answers.append(receiver.send(DRAFT, make_envelope()))
    assert answers[0] == Accepted()
    assert isinstance(answers[1], Retry) and "TLS" in answers[1].reason


def test_certificates_that_cannot_be_read_are_told_when_it_is_opened(tmp_path: Path) -> None:
    broken = _service("https://mis.example", tls={"ca_file": tmp_path / "none.pem"})
    with pytest.raises(DestinationMisconfigured, match="certificate"), opened(broken):
        pass


# --- what is written --------------------------------------------------------------------------------------------


def test_without_the_context_file_there_are_no_drafts(tmp_path: Path) -> None:
    with pytest.raises(DestinationMisconfigured, match=r"physicians: .*context file"):
        open_receiver(_folder(tmp_path), semd_profile=None)


def _hostile() -> DocumentRequest:
    plain = make_document(lesions=1)
    assert plain.patient.name is not None and plain.performer is not None and plain.encounter is not None
    name = replace(plain.patient.name, family=HOSTILE, given=HOSTILE, patronymic=HOSTILE)
    return replace(
        plain,
        patient=replace(plain.patient, identifier=Identifier(value=HOSTILE), name=name, telephone=HOSTILE),
        performer=replace(plain.performer, name=HOSTILE),
        encounter=replace(plain.encounter, identifier=Identifier(value=HOSTILE)),
        order=replace(plain.order, accession_number=HOSTILE, diagnosis_text=HOSTILE),
        source=replace(plain.source, description=HOSTILE, manufacturer=HOSTILE, device_model=HOSTILE),
        text=ReportText(language="ru", description=HOSTILE, conclusion=HOSTILE, recommendation=HOSTILE),
    )


def test_hostile_text_in_every_field_stays_text(tmp_path: Path) -> None:
    request = _hostile()
    with opened(_folder(tmp_path)) as receiver:
        draft = receiver.write(request, replaced=None)
        assert receiver.send(draft, make_envelope(request)) == Accepted()
    root = etree.fromstring((tmp_path / "doc-1.xml").read_bytes())
    names = {"v": "urn:hl7-org:v3"}
    kept = HOSTILE.translate({0x0B: "\ufffd", 0x1C: "\ufffd", 0x00: "\ufffd"}).replace("\r\n", "\n")
    assert root.xpath("string(//v:patient/v:name/v:family)", namespaces=names) == kept
    assert root.xpath("count(//v:b)", namespaces=names) == 0


def test_a_correction_and_a_withdrawal_are_further_versions_of_the_set(tmp_path: Path) -> None:
    first = make_document()
    second = replace(first, document_id="doc-2", revision=Revision(set_id="set-1", version=2, replaces_id="doc-1"))
    gone = replace(
        first, document_id="doc-3", revision=Revision(set_id="set-1", version=3, replaces_id="doc-2", withdrawn=True)
    )
    with opened(_folder(tmp_path)) as receiver:
        for request, replaced in ((first, None), (second, first), (gone, second)):
            draft = receiver.write(request, replaced=replaced)
            assert receiver.write(request, replaced=replaced) == draft
            assert receiver.send(draft, make_envelope(request)) == Accepted()
        with pytest.raises(ValueError, match="replaced"):
            receiver.write(gone, replaced=first)
    told = [json.loads((tmp_path / f"doc-{number}.json").read_bytes()) for number in (1, 2, 3)]
    assert [one["version"] for one in told] == [1, 2, 3] and {one["set_id"] for one in told} == {"set-1"}
    assert [one["kind"] for one in told] == [DocumentKind.REPORT, DocumentKind.REPORT, DocumentKind.WITHDRAWAL]
    roots = [etree.fromstring((tmp_path / f"doc-{number}.xml").read_bytes()) for number in (1, 2, 3)]
    assert len({root.xpath("string(*[local-name()='setId']/@extension)") for root in roots}) == 1
    assert [root.xpath("string(*[local-name()='versionNumber']/@value)") for root in roots] == ["1", "2", "3"]


def test_a_wrong_value_stops_the_draft_by_the_name_of_its_field(tmp_path: Path) -> None:
    request = make_document()
    wrong = replace(request, patient=replace(request.patient, snils="08765430301"))
    with opened(_folder(tmp_path)) as receiver, pytest.raises(ContextInvalid, match=r"patient\.snils") as caught:
        receiver.write(wrong, replaced=None)
    assert "08765430301" not in str(caught.value)
    assert _names(tmp_path) == set()

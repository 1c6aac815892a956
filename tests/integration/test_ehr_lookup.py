"""Context from a file, a table and a service (a real server on loopback), put together and refused with reasons."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicom_node.ehr.context import Employee, Identifier, Sex
from dicom_node.ehr.lookup import (
    AskAgain,
    ContextFileError,
    Found,
    KnownError,
    LookupKey,
    NotKnown,
    NoUse,
    assemble,
    look_up,
    read_context_file,
    read_known,
)
from dicom_node.ehr.lookup.sources import ServiceSettings, ServiceSource, TableSettings, TableSource
from dicom_node.ehr.semd import ProfileError, unknown, write_semd
from tests.semd_cases import STAFF, make_document

KEY = LookupKey(study_uid="1.2.3", patient_id="17", accession_number="ACC-11")
FILE = (
    """
[always.performer]
oid = "1.2.643.5.1.13.13.12.2.77.7799"
name = 'ГБУЗ "Поликлиника № 1"'
address = { text = "г. Москва, ул. Примерная, д. 1", region_code = "77", postal_code = "101000" }

"""
    + STAFF
    + """[[lookup]]
kind = "csv"
file = "patients.csv"
delimiter = ";"

[semd]
place = "1"
visit = "1"
"""
)
TABLE = """patient_id;patient.snils;patient.policy.kind;patient.policy.number;encounter.identifier.value;encounter.begun
16;112-233-445 95;;;;
17;087-654-303 00;3;7700000000000001;A-5;2026-11-20T08:00:00+03:00
18;087-654-303 01;;;;
19;;;;;
19;;;;;
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "context.toml").write_text(FILE, encoding="utf-8")
    (tmp_path / "patients.csv").write_text(TABLE, encoding="utf-8-sig")
    return tmp_path


def test_file_table_and_header_make_the_context_of_a_draft(folder: Path) -> None:
    settings = read_context_file(folder / "context.toml")
    asked = look_up(settings.sources(), KEY)
    header = read_known({"patient": {"identifier": {"value": "17"}, "name": {"family": "Иванова", "given": "Мария"}}})

    context = assemble(settings.always, *asked.layers, header)
    profile = settings.semd_profile()
    request = replace(
        make_document(whole=False),
        patient=context.patient,
        encounter=context.encounter,
        performer=context.performer,
        author=context.author,
        legal_authenticator=context.legal_authenticator,
    )

    assert (asked.ask_again, asked.no_use) == ((), ())
    assert context.patient.snils == "08765430300"
    assert context.encounter is not None
    assert context.encounter.begun == datetime(2026, 11, 20, 5, 0, tzinfo=UTC)
    assert b"087-654-303 00" in write_semd(request, profile)
    assert "patient.snils" not in unknown(request, profile)


def test_a_later_piece_overrides_field_by_field() -> None:
    always = read_known({"author": {"identifier": {"value": "1"}, "name": {"family": "А", "given": "Б"}}})
    found = read_known({"author": {"name": {"family": "В", "given": "Г", "patronymic": "Д"}, "position_code": "94"}})

    author = assemble(always, found).author

    assert isinstance(author, Employee)
    assert (author.identifier, author.name.family, author.name.patronymic) == (Identifier(value="1"), "В", "Д")
    assert (author.position_code, author.position_name, author.snils) == ("94", "", None)
    assert always["author"]["name"] == {"family": "А", "given": "Б"}  # type: ignore[index]


def test_nothing_known_is_a_patient_without_a_number_and_no_more() -> None:
    context = assemble()

    assert context.patient.identifier.value == ""
    assert (context.author, context.encounter, context.performer) == (None, None, None)


def test_values_are_read_and_faults_told_without_them() -> None:
    known = read_known({"patient": {"birth_date": "1961-04-09", "sex": "F", "telephone": " ", "snils": None}})
    assert known == {"patient": {"birth_date": date(1961, 4, 9), "sex": Sex.FEMALE}}

    with pytest.raises(KnownError) as raised:
        read_known(
            {
                "patient": {"birth_date": "09.04.1961", "snils": "08765430301", "sexx": "F", "name": "Иванова"},
                "phone": {},
                "order": 7,
            }
        )

    assert [fault.split(":")[0] for fault in raised.value.faults] == [
        "patient.birth_date",
        "patient.snils",
        "patient.sexx",
        "patient.name",
        "phone",
        "order",
    ]
    for secret in ("1961", "08765430301", "Иванова"):
        assert secret not in str(raised.value)


def table(folder: Path, **changes: object) -> TableSource:
    return TableSource(
        TableSettings.model_validate({"kind": "csv", "file": folder / "patients.csv", "delimiter": ";"} | changes)
    )


@pytest.mark.parametrize(
    ("patient", "answer", "reason"),
    [
        ("17", Found, ""),
        ("99", NotKnown, ""),
        ("", NotKnown, ""),
        ("18", NoUse, "patient.snils: not a SNILS: its check sum is wrong"),
        ("19", NoUse, "2 rows for one key"),
    ],
)
def test_a_table_answers(folder: Path, patient: str, answer: type, reason: str) -> None:
    found = table(folder).find(replace(KEY, patient_id=patient))

    assert isinstance(found, answer)
    assert reason in str(getattr(found, "reason", ""))


def test_a_table_is_read_anew_and_its_absence_can_heal(folder: Path) -> None:
    source = table(folder)
    (folder / "patients.csv").rename(folder / "away.csv")
    assert isinstance(source.find(KEY), AskAgain)

    (folder / "patients.csv").write_text("patient_id;patient.telephone\n17;+7 1", encoding="utf-8")
    assert source.find(KEY) == Found(known={"patient": {"telephone": "+7 1"}})


@pytest.mark.parametrize(
    "content",
    [
        "",
        "id;patient.snils\n17;1",
        "patient_id;patient.shoe\n17;44",
        "patient_id;patient;patient.snils\n17;x;1",
        "patient_id;patient.telephone\n17;1;2;3",
        'patient_id;patient.telephone\n17;"1',
        "patient_id;patient.telephone\n17;Ё".encode("cp1251"),
    ],
    ids=["empty", "no key", "unknown column", "column above", "more cells", "open quote", "not UTF-8"],
)
def test_a_table_that_cannot_be_used_says_why(folder: Path, content: str | bytes) -> None:
    (folder / "patients.csv").write_bytes(content if isinstance(content, bytes) else content.encode())

    assert isinstance(table(folder).find(KEY), NoUse)


@given(cells=st.lists(st.tuples(st.text(max_size=10), st.text(max_size=10)), max_size=5))
def test_any_tree_is_read_or_refused(cells: list[tuple[str, str]]) -> None:
    try:
        read_known({"patient": dict(cells)})
    except KnownError as refused:
        assert refused.faults


class Service(ThreadingHTTPServer):
    """Answers what the test says, and keeps what it was asked."""

    status = 200
    body = b"{}"
    asked: tuple[dict[str, list[str]], str]
    location = ""


class _Handler(BaseHTTPRequestHandler):
    server: Service

    def do_GET(self) -> None:
        self.server.asked = (parse_qs(urlsplit(self.path).query), self.headers.get("Authorization", ""))
        self.send_response(self.server.status)
        if self.server.location:
            self.send_header("Location", self.server.location)
        self.send_header("Content-Length", str(len(self.server.body)))
        self.end_headers()
        self.wfile.write(self.server.body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
        """Say nothing."""


@contextmanager
def serving() -> Iterator[Service]:
    with Service(("127.0.0.1", 0), _Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def service_source(port: int, token: Path | None = None) -> Iterator[ServiceSource]:
    source = ServiceSource(
        ServiceSettings.model_validate(
            {"kind": "http", "url": f"http://127.0.0.1:{port}/context", "token_file": token, "timeout_s": 5}
        )
    )
    try:
        yield source
    finally:
        source.close()


def test_a_service_is_asked_with_the_study_s_numbers_and_a_token(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret\n")
    with serving() as server, service_source(server.server_port, tmp_path / "token") as source:
        server.body = json.dumps({"patient": {"snils": "08765430300"}, "order": {"diagnosis_code": "J18.9"}}).encode()
        answer = source.find(KEY)

    assert answer == Found(known={"patient": {"snils": "08765430300"}, "order": {"diagnosis_code": "J18.9"}})
    assert server.asked == (
        {"patient_id": ["17"], "accession_number": ["ACC-11"], "study_uid": ["1.2.3"]},
        "Bearer secret",
    )


@pytest.mark.parametrize(
    ("status", "body", "answer"),
    [
        (404, b"", NotKnown),
        (204, b"", NotKnown),
        (500, b"", AskAgain),
        (429, b"", AskAgain),
        (401, b"", NoUse),
        (200, b"<html>", NoUse),
        (200, b"[]", NoUse),
        (200, b"\xff", NoUse),
        (200, b'{"patient": {"snils": "08765430301"}}', NoUse),
        (200, b'{"patient": {"name": ' * 30_000, NoUse),
        (200, b" " * 2_000_000, NoUse),
    ],
    ids=["404", "204", "500", "429", "401", "page", "list", "bytes", "bad SNILS", "deep", "huge"],
)
def test_a_service_s_answers_are_understood(status: int, body: bytes, answer: type) -> None:
    with serving() as server, service_source(server.server_port) as source:
        server.status, server.body = status, body
        said = source.find(KEY)

    assert isinstance(said, answer)
    assert "08765430301" not in str(said)


def test_a_redirect_is_not_followed() -> None:
    with serving() as elsewhere, serving() as server, service_source(server.server_port) as source:
        server.status, server.location = 302, f"http://127.0.0.1:{elsewhere.server_port}/"
        said = source.find(KEY)

    assert isinstance(said, NoUse)
    assert not hasattr(elsewhere, "asked")


def test_a_service_that_is_not_there_and_a_token_that_is_not_there(tmp_path: Path) -> None:
    with serving() as server:
        port = server.server_port
    with service_source(port) as source:
        assert isinstance(source.find(KEY), AskAgain)
    with service_source(port, tmp_path / "no-token") as source:
        assert isinstance(source.find(KEY), NoUse)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("place =", "plaace ="), "plaace"),
        (("112-233-445 95", "112-233-445 96"), "author.snils: not a SNILS"),
        (('position_code = "94"', 'position = "94"'), "author.position"),
        (('kind = "csv"', 'kind = "dbf"'), "lookup"),
        (("[semd]", "[semd"), "not TOML"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_with_its_faults(
    folder: Path, change: tuple[str, str], said: str
) -> None:
    path = folder / "context.toml"
    path.write_text(FILE.replace(*change), encoding="utf-8")

    with pytest.raises(ContextFileError, match=said) as raised:
        read_context_file(path)

    assert "112-233" not in str(raised.value)


def test_a_site_that_names_unknown_codes_is_refused_when_its_profile_is_made(folder: Path) -> None:
    path = folder / "context.toml"
    path.write_text(FILE.replace('place = "1"', 'place = "99"'), encoding="utf-8")

    with pytest.raises(ProfileError, match="places"):
        read_context_file(path).semd_profile()


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ContextFileError, match="cannot be read"):
        read_context_file(tmp_path / "none.toml")

"""Reports and states over real HTTP: only with the token, bounded, and answered in the sender's own language."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from dicom_node.states import Reading
from dicom_node.web.returned import add_returned
from dicom_node.web.server import WebServer
from inference.findings import StudyUid
from tests.returned_rig import CLEAR, ReturnedRig, diagnostic_report, oru, returned_rig

TOKEN = "correct-horse"


@contextmanager
def served(rig: ReturnedRig) -> Iterator[httpx.Client]:
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    add_returned(app, rig.desk)
    server = WebServer(app, "127.0.0.1", 0)
    server.start()
    with httpx.Client(base_url=f"http://127.0.0.1:{server.port}", trust_env=False, timeout=60) as client:
        client.headers["Authorization"] = f"Bearer {TOKEN}"
        yield client
    server.stop()


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[ReturnedRig]:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    with returned_rig(tmp_path, token_file=tmp_path / "token") as made:
        yield made


@pytest.fixture
def client(rig: ReturnedRig) -> Iterator[httpx.Client]:
    with served(rig) as made:
        yield made


def issue(answer: httpx.Response) -> dict[str, object]:
    content = answer.json()
    assert content["resourceType"] == "OperationOutcome"
    (found,) = content["issue"]
    return dict(found)


def test_a_fhir_report_is_taken_and_its_reading_told(rig: ReturnedRig, client: httpx.Client) -> None:
    study = rig.film(score=0.1)
    answer = client.post("/api/reports", content=diagnostic_report(study))
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/fhir+json")
    assert issue(answer)["diagnostics"] == "opacity positive (disagrees with toy-opacity@1.0.0)"
    assert rig.readings(study) == {"opacity": Reading.POSITIVE}
    again = client.post("/api/reports", content=diagnostic_report(study))
    assert str(issue(again)["diagnostics"]).endswith("known already")


def test_an_hl7_report_is_acknowledged(rig: ReturnedRig, client: httpx.Client) -> None:
    study = rig.film()
    answer = client.post("/api/reports", content=oru(study, CLEAR, control="c4"))
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/hl7-v2")
    assert b"\rMSA|AA|c4\r" in answer.content
    refused = client.post("/api/reports", content=oru(None, accession="NOBODY"))
    assert (refused.status_code, b"MSA|AE" in refused.content) == (422, True)


@pytest.mark.parametrize("shown", ["", "Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer", TOKEN])
def test_without_the_token_nothing_is_taken(rig: ReturnedRig, client: httpx.Client, shown: str) -> None:
    study = rig.film()
    headers = {"Authorization": shown}
    for answer in (
        client.post("/api/reports", content=diagnostic_report(study), headers=headers),
        client.post(f"/api/documents/{'a' * 64}/state", content=b"{}", headers=headers),
        client.put(f"/api/documents/{'a' * 64}/signature", content=b"x", headers=headers),
    ):
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert rig.readings(study) == {}


def test_the_token_may_be_changed_and_its_file_may_go(rig: ReturnedRig, client: httpx.Client, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("another")
    assert client.post("/api/reports", content=b"{}").status_code == 401
    (tmp_path / "token").unlink()
    assert client.post("/api/reports", content=b"{}").status_code == 401


def test_without_a_token_in_the_settings_there_are_no_routes(tmp_path: Path) -> None:
    with returned_rig(tmp_path) as rig, served(rig) as client:
        assert client.post("/api/reports", content=b"{}").status_code == 404
        assert client.put(f"/api/documents/{'a' * 64}/signature", content=b"x").status_code == 404


@pytest.mark.parametrize(
    ("body", "where"),
    [
        (b"", "resource"),
        (b"{", "resource"),
        (b"[" * 100_000, "resource"),
        (b"[]", "resource"),
        (b'{"resourceType": "DiagnosticReport"}', "DiagnosticReport.status"),
        (b'{"resourceType": "Bundle", "entry": 7}', "Bundle.entry"),
        (b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', "resource"),
        (b"\xff\xfe\x00", "resource"),
        (json.dumps({"a": "1" * 100_000}).encode(), "resourceType"),
    ],
)
def test_what_is_no_report_is_named_by_its_element(client: httpx.Client, body: bytes, where: str) -> None:
    answer = client.post("/api/reports", content=body)
    assert (answer.status_code, issue(answer)["expression"]) == (400, [where])


def test_an_unknown_study_is_refused_without_repeating_who_it_was(client: httpx.Client) -> None:
    answer = client.post("/api/reports", content=diagnostic_report(StudyUid("1.2.3.777"), "Иванова: пневмония"))
    assert (answer.status_code, issue(answer)["code"]) == (422, "business-rule")
    assert not any(word in answer.text for word in ("777", "Иванов"))


def chunks(count: int) -> Iterator[bytes]:
    for _ in range(count):
        yield b"x" * (1 << 20)


def test_a_body_of_100_mb_is_not_read(rig: ReturnedRig, client: httpx.Client) -> None:
    announced = {"Content-Length": str(100 << 20)}
    for headers in (announced, {}):
        try:
            answer = client.post("/api/reports", content=chunks(100), headers=headers)
        except httpx.TransportError:
            continue  # the node closed while the sender still wrote
        assert (answer.status_code, issue(answer)["code"]) == (413, "too-long")
    study = rig.film()
    assert client.post("/api/reports", content=diagnostic_report(study)).status_code == 200


def test_a_state_of_an_unknown_document_is_refused(client: httpx.Client) -> None:
    known = {"state": "registered", "number": "1"}
    assert client.post(f"/api/documents/{'a' * 64}/state", json=known).status_code == 422
    assert client.post("/api/documents/xyz/state", json=known).status_code == 400
    assert client.put(f"/api/documents/{'a' * 64}/signature", content=b"x").status_code == 422
    assert client.put("/api/documents/xyz/signature", content=b"x").status_code == 400
    assert client.put(f"/api/documents/{'a' * 64}/signature", content=b"x" * (2 << 20)).status_code == 413


def test_a_database_that_does_not_answer_means_later(rig: ReturnedRig, client: httpx.Client) -> None:
    study = rig.film()
    rig.ledger.engine.dispose()
    (rig.folder / "ledger.sqlite3").rename(rig.folder / "away")
    (rig.folder / "ledger.sqlite3").mkdir()
    answer = client.post("/api/reports", content=diagnostic_report(study))
    assert (answer.status_code, issue(answer)["code"]) == (503, "transient")
    assert answer.headers["retry-after"] == "30"

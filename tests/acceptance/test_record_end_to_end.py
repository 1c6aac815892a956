"""A film becomes a draft in the physician's system, is signed, registered, and its report comes back: a real node."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hl7
import httpx
import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset

from dicom_node.ehr.semd import SemdProfile, check_semd
from dicom_node.ehr.semd.profile import edition_4
from tests.dx_wrapping import wrap_film_as_dx
from tests.integration.test_semd_signature import GOST, PhysiciansSystem, enrolled
from tests.mllp import MllpServer
from tests.outbox_rig import CONTEXT, patients_table
from tests.running_node import RunningNode
from tests.semd_cases import SITE
from tests.toy_model import install_toy_model

ROUTE = {"name": "films", "model": "toy-opacity", "destinations": ["mis", "ris"], "match": {"modality": ["CR", "DX"]}}
TOKEN = "a-token-of-the-record"
PATIENT = {"PatientBirthDate": "19610409", "AccessionNumber": "ACC-1", "StudyDescription": "Chest"}
NUMBER = "77.26.11.000123"
WAIT_S = 60.0


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> PhysiciansSystem:
    return enrolled(tmp_path_factory.mktemp("signer"), "md_gost12_256", *GOST)


@pytest.fixture
def receiver() -> Iterator[MllpServer]:
    with MllpServer() as server:
        yield server


@pytest.fixture
def node(tmp_path: Path, receiver: MllpServer, signer: PhysiciansSystem) -> Iterator[RunningNode]:
    install_toy_model(tmp_path / "models")
    folder = tmp_path / "node"
    folder.mkdir()
    (tmp_path / "drafts").mkdir()
    (folder / "context.toml").write_text(CONTEXT, encoding="utf-8")
    (folder / "patients.csv").write_text(patients_table(range(2)), encoding="utf-8")
    (folder / "token").write_text(TOKEN, encoding="utf-8")
    settings = {
        "assembly": {"projection_quiet_s": 0.3, "association_idle_s": 1.0},
        "outbox": {"context_file": "context.toml"},
        "monitoring": {"time_zone": "Europe/Moscow"},
        "returned": {"token_file": "token", "trusted_file": str(signer.trusted), "folder": "returned", "settle_s": 0},
        "record": [
            {"name": "mis", "kind": "semd", "folder": str(tmp_path / "drafts"), "accept_research": True},
            {"name": "ris", "kind": "mllp", "host": "127.0.0.1", "port": receiver.port, "accept_research": True},
        ],
    }
    (folder / "returned").mkdir()
    started = RunningNode(folder, settings, routes=[ROUTE], models=tmp_path / "models")
    started.start()
    yield started
    started.kill()


def film(folder: Path, **changes: object) -> Dataset:
    grey = np.random.default_rng(1).normal(90, 10, (384, 384))
    grey[60:100, 60:100] = 250
    picture = folder / "film.png"
    Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8)).save(picture)
    made = wrap_film_as_dx(picture, patient_name="Иванов^Иван", patient_id="P0")
    for keyword, value in (PATIENT | changes).items():
        setattr(made, keyword, value)
    made.save_as(folder / "film.dcm", enforce_file_format=True)
    return made


def wait_for(node: RunningNode, study: str, true: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The account of the study once something is true of it."""
    deadline = time.monotonic() + WAIT_S
    while True:
        account = node.account(study)
        if account is not None and true(account):
            return account
        assert time.monotonic() < deadline, (json.dumps(account, ensure_ascii=False)[-3000:], node.log_tail())
        time.sleep(0.1)


def states(account: dict[str, Any]) -> dict[str, str]:
    return {one["destination"]: one["state"] for one in account["documents"]}


def test_a_draft_is_handed_over_signed_and_registered_and_the_signed_report_becomes_truth(
    node: RunningNode, receiver: MllpServer, signer: PhysiciansSystem, tmp_path: Path
) -> None:
    study = str(film(tmp_path).StudyInstanceUID)
    node.send([tmp_path / "film.dcm"])
    both = {"mis": "handed_over", "ris": "handed_over"}
    account = wait_for(node, study, lambda told: states(told) == both)
    document = next(one for one in account["documents"] if one["destination"] == "mis")

    draft = (tmp_path / "drafts" / f"{document['document_id']}.xml").read_bytes()
    profile = SemdProfile(edition=edition_4(), site=SITE)
    assert check_semd(draft, profile) == ()
    assert "Иванов" in draft.decode()
    (message,) = receiver.received
    assert str(message.segment("PID")[5][0][0][0]) == "Иванов"
    assert "ACC-1" in str(message.segment("OBR")[3])

    api = httpx.Client(
        base_url=node.web_url, headers={"Authorization": f"Bearer {TOKEN}"}, trust_env=False, timeout=30.0
    )
    with api:
        address = f"/api/documents/{document['document_id']}"
        assert api.put(f"{address}/signature", content=b"forged").status_code >= httpx.codes.BAD_REQUEST
        assert api.put(f"{address}/signature", content=signer.sign(draft)).status_code == httpx.codes.OK
        assert states(node.account(study) or {})["mis"] == "signed"
        registered = api.post(f"{address}/state", json={"state": "registered", "number": NUMBER})
        assert registered.status_code == httpx.codes.OK
        assert httpx.post(f"{node.web_url}{address}/state", json={}, trust_env=False).status_code == 401

    report = _signed_report(study)
    (node.folder / "returned" / "report.hl7").write_bytes(report)
    told = wait_for(node, study, lambda one: any(event["stage"] == "return" and "opacity" in event["what"]
                                                 for event in one["events"]))  # fmt: skip
    (mis,) = [one for one in told["documents"] if one["destination"] == "mis"]
    assert (mis["state"], mis["register_number"]) == ("registered", NUMBER)
    words = node.command("explain", study)
    assert NUMBER in words and "opacity positive" in words and "agrees" in words
    for text in (words, node.log.read_text(encoding="utf-8"), node.command("documents", "--state", "registered")):
        assert not any(secret in text for secret in ("Иванов", "P0^", "ACC-1", "1961"))


def _signed_report(study: str) -> bytes:
    segments = (
        "MSH|^~\\&|RIS|CLINIC|RADNODE|CLINIC|20260302130000+0300||ORU^R01^ORU_R01|42|P|2.5.1||||||UNICODE UTF-8",
        "PID|1||P0||Иванов^Иван",
        "OBR|1||ACC-1|18748-4^Diagnostic imaging study^LN|||20260302114500+0300|||||||||||||||20260302125900+0300|||F",
        f"OBX|1|ST|110180^Study Instance UID^DCM||{study}||||||F",
        "OBX|2|TX|19005-8^Impression^LN||Инфильтративные изменения в нижней доле правого лёгкого.||||||F",
    )
    message = "\r".join(segments) + "\r"
    assert hl7.parse(message)
    return message.encode()


def test_a_patient_of_whom_record_and_images_differ_waits_for_a_person_and_then_arrives(
    node: RunningNode, tmp_path: Path
) -> None:
    study = str(film(tmp_path, PatientBirthDate="19610904").StudyInstanceUID)
    node.send([tmp_path / "film.dcm"])
    wait_for(node, study, lambda told: states(told) == {"mis": "parked", "ris": "parked"})
    assert "patient.birth_date" in node.command("documents")
    table = node.folder / "patients.csv"
    table.write_text(table.read_text(encoding="utf-8").replace("1961-04-09", "1961-09-04"), encoding="utf-8")
    node.command("retry", study)
    wait_for(node, study, lambda told: states(told) == {"mis": "handed_over", "ris": "handed_over"})
    assert len(list((tmp_path / "drafts").glob("*.xml"))) == 1

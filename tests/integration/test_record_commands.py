"""What people see of documents for the record: commands, the account of a study, the API and the metrics."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner, Result
from lxml import etree
from prometheus_client.parser import text_string_to_metric_families

from dicom_node.cli import main
from dicom_node.health import Health
from dicom_node.ledger import documents
from dicom_node.metrics import NodeMetrics
from dicom_node.outbox.courier import Courier
from dicom_node.reception import ReceptionBoard
from dicom_node.states import DocumentState
from dicom_node.web.app import build_app
from dicom_node.web.server import WebServer
from inference.findings import StudyUid
from tests.archives import free_port
from tests.outbox_rig import MoodyService, OutboxRig, moody_service
from tests.pipeline_rig import pacs
from training.toml import to_toml

SECRETS = ("IVANOV", "Иванов", "1961", "ACC1", "10000000")


class Desk:
    """An outbox with its settings in a file, and commands run against it; no word of theirs names the patient."""

    def __init__(self, folder: Path, url: str, *, accept_research: bool = True) -> None:
        record = [{"name": "mis", "kind": "semd", "url": url, "accept_research": accept_research}]
        self.rig = OutboxRig(folder, record)
        self.settings_file = folder / "radnode.toml"
        self.values: dict[str, Any] = {
            "data_dir": "data",
            "routes_file": "routes.toml",
            "models": {"folders": ["models"], "include_zoo": False},
            "storage": {"soft_free_bytes": 0, "hard_free_bytes": 0, "reserve_bytes": 0},
            "destination": [pacs("pacs", port=free_port())],
            "record": record,
            "outbox": {"context_file": "context.toml"},
            "monitoring": {"time_zone": "Europe/Moscow"},
        }
        self.write()

    def write(self, **changes: Any) -> None:
        self.values |= changes
        self.settings_file.write_text(to_toml(self.values), encoding="utf-8")

    def run(self, *arguments: str, status: int = 0) -> Result:
        done = CliRunner().invoke(main, ["--settings", str(self.settings_file), *arguments])
        assert done.exit_code == status, (done.output, done.exception)
        assert not any(secret in done.output for secret in SECRETS)
        return done

    def json(self, *arguments: str) -> Any:
        return json.loads(self.run(*arguments, "--json").stdout)


@pytest.fixture
def service() -> Iterator[MoodyService]:
    with moody_service(MoodyService()) as running:
        yield running


@pytest.fixture
def desk(tmp_path: Path, service: MoodyService) -> Iterator[Desk]:
    made = Desk(tmp_path, service.url)
    yield made
    made.rig.close()


@pytest.fixture
def courier(desk: Desk) -> Iterator[Courier]:
    made = desk.rig.courier("mis")
    yield made
    made.close()


def parked(desk: Desk, courier: Courier) -> StudyUid:
    """A study whose images and record differ in the birth date: its document waits for a person."""
    study = desk.rig.analysed(0, PatientBirthDate="19610904")
    desk.rig.bring(courier)
    return study


def test_explain_tells_a_document_from_its_queueing_to_its_arrival(desk: Desk, courier: Courier) -> None:
    study = desk.rig.analysed(1)
    told = desk.run("explain", study).output
    assert "report queued for mis" in told and "Document of toy-opacity for mis, report: pending" in told
    desk.rig.bring(courier)
    told = desk.run("explain", study).output
    assert "handed over to mis, attempt 1" in told
    assert "Document (version 1) of toy-opacity for mis, report: handed_over" in told
    assert "the receiver shows it" in told
    (document,) = desk.json("explain", study)["documents"]
    assert (document["version"], document["state"], document["attempts"]) == (1, "handed_over", 1)
    (line,) = desk.json("studies")
    assert line["documents"] == ["mis: handed_over"]
    assert "record" in desk.run("studies").output


def test_documents_that_need_a_person_are_listed_with_the_reason_and_tried_again(desk: Desk, courier: Courier) -> None:
    assert desk.run("documents").output == "No document is in need of a person.\n"
    study = parked(desk, courier)
    told = desk.run("documents").output
    assert "parked (patient_disagrees)" in told and "patient.birth_date" in told and study in told
    (listed,) = desk.json("documents", "--state", "parked", "--destination", "mis")
    assert listed["study_uid"] == study and listed["park_reason"] == "patient_disagrees"
    assert desk.json("documents", "--state", "failed") == []

    table = desk.rig.folder / "patients.csv"
    table.write_text(table.read_text(encoding="utf-8").replace("1961-04-09", "1961-09-04"), encoding="utf-8")
    assert desk.json("retry", study)["documents"] == 1
    desk.rig.clock.now = datetime.now(UTC)  # the command went by the real clock
    desk.rig.bring(courier)
    assert [row.state for row in desk.rig.rows(study)] == ["handed_over"]
    assert "and 0 document(s) are tried again now" in desk.run("retry", "--destination", "mis").output


def test_what_the_register_refused_is_told_again_as_the_next_version_once_it_was_mended(
    desk: Desk, courier: Courier, service: MoodyService
) -> None:
    study = desk.rig.analysed(1)
    desk.rig.bring(courier)
    (first,) = desk.rig.rows(study)
    with desk.rig.pipeline.ledger.begin() as tx:
        assert documents.set_returned(
            tx, first.document_id, state=DocumentState.REFUSED, at=desk.rig.clock(), code="NO_PATIENT"
        )
    assert "the register's word: code NO_PATIENT" in desk.run("explain", study).output
    assert desk.json("retry", study)["documents"] == 1
    assert desk.json("retry", study)["documents"] == 1, "it waits, and there is no third"
    desk.rig.clock.now = datetime.now(UTC)
    desk.rig.bring(courier)
    _refused, second = desk.rig.rows(study)
    assert (second.state, second.version, second.replaces) == ("handed_over", 2, first.document_id)
    assert len(service.held) == 2


def test_a_retraction_tells_which_documents_are_taken_back_and_which_do_not_leave(desk: Desk, courier: Courier) -> None:
    left = desk.rig.analysed(1)
    desk.rig.bring(courier)
    waiting = desk.rig.analysed(2)
    told = desk.run("retract", left, "--yes").output
    assert "1 withdrawal(s) of documents queued; 0 document(s) will not leave any more" in told
    assert [(row.kind, row.state) for row in desk.rig.rows(left)] == [
        ("report", "handed_over"),
        ("withdrawal", "pending"),
    ]
    counted = desk.json("retract", waiting, "--yes")
    assert (counted["document_withdrawals"], counted["documents_not_leaving"]) == (0, 1)
    assert [row.state for row in desk.rig.rows(waiting)] == ["overtaken"]
    assert "no result that stands" in desk.run("retract", left, "--yes", status=1).output


def test_a_retraction_names_the_fault_of_the_routes_in_words(desk: Desk) -> None:
    study = desk.rig.analysed(1)
    desk.write(record=[])
    done = desk.run("retract", study, "--yes", status=1)
    assert isinstance(done.exception, SystemExit)
    assert "route chest names destination 'mis', which the settings do not have" in done.output


def test_a_retraction_asks_for_the_record_too(desk: Desk) -> None:
    study = desk.rig.analysed(1)
    asked = CliRunner().invoke(main, ["--settings", str(desk.settings_file), "retract", study], input="n\n")
    assert "from every archive and every receiver of the record?" in asked.output and asked.exit_code == 1
    assert [row.state for row in desk.rig.rows(study)] == ["pending"]


def test_a_document_is_given_out_as_it_was_sent(desk: Desk, courier: Courier, service: MoodyService) -> None:
    study = desk.rig.analysed(1)
    (row,) = desk.rig.rows(study)
    assert "nothing is written of it" in desk.run("document", row.document_id, status=1).output
    desk.rig.bring(courier)
    out = desk.rig.folder / "draft.xml"
    assert "bytes written to" in desk.run("document", row.document_id, "--out", str(out)).output
    assert out.read_bytes() == service.held[row.document_id]
    etree.fromstring(out.read_bytes())
    assert "cannot be written" in desk.run("document", row.document_id, "--out", str(out), status=1).output
    assert "there is no document" in desk.run("document", "0" * 64, status=1).output


def test_a_paused_destination_gets_nothing_until_it_is_resumed(
    desk: Desk, courier: Courier, service: MoodyService
) -> None:
    said = desk.run("pause", "mis", "--operator", "Anna", "--why", "they move house").output
    assert "nothing is sent to mis" in said
    assert "since" in desk.run("pause", "mis", status=1).output
    study = desk.rig.analysed(1)
    desk.rig.bring(courier)
    assert not service.held
    (row,) = desk.rig.rows(study)
    assert row.state == "pending" and row.path and row.attempts == 0
    lines = {one["name"]: one for one in desk.json("destinations")}
    assert lines["mis"]["hold"]["why"] == "they move house" and lines["mis"]["waiting"] == 1
    assert "by Anna: they move house" in desk.run("destinations").output
    assert "is sent to mis again" in desk.run("resume", "mis").output
    assert "is not held back" in desk.run("resume", "mis", status=1).output
    desk.rig.bring(courier)
    assert list(service.held) == [row.document_id]
    assert {one["name"]: one["arrived"] for one in desk.json("destinations")}["mis"] == 1
    assert "no destination is called nowhere" in desk.run("pause", "nowhere", status=1).output


def test_what_a_receiver_does_not_take_by_rule_stands_in_a_column_of_its_own(
    tmp_path: Path, service: MoodyService
) -> None:
    desk = Desk(tmp_path, service.url, accept_research=False)
    courier = desk.rig.courier("mis")
    try:
        desk.rig.analysed(1)
        desk.rig.bring(courier)
        lines = {one["name"]: one for one in desk.json("destinations")}
        assert (lines["mis"]["withheld"], lines["pacs"]["withheld"]) == (1, 0)
        assert lines["mis"]["needs_a_person"] == {} and lines["mis"]["waiting"] == 0
        table = desk.run("destinations").output.splitlines()
        place = next(line.index("withheld") for line in table if "withheld" in line)
        shown = {
            line.split()[0]: line[place:].split()[0] for line in table if line.lstrip().startswith(("pacs", "mis"))
        }
        assert shown == {"pacs": "0", "mis": "1"}
    finally:
        courier.close()
        desk.rig.close()


def test_check_looks_at_context_form_and_address_of_a_receiver(desk: Desk) -> None:
    told = {one["check"]: one["fault"] for one in _checks(desk)}
    assert told["record mis"] is None and told["time zone"] is None
    (desk.rig.folder / "context.toml").write_text("[always.performer]\noid = 'none'\nnam = 'x'\n", encoding="utf-8")
    told = {one["check"]: one["fault"] for one in _checks(desk)}
    assert "always.performer.nam" in told["record mis"]
    desk.write(monitoring={})
    assert "time_zone" in {one["check"]: one["fault"] for one in _checks(desk)}["time zone"]


def test_check_looks_at_the_way_back(desk: Desk) -> None:
    assert "returned" not in {one["check"] for one in _checks(desk)}
    desk.write(returned={"folder": "back", "trusted_file": "trusted.pem", "token_file": "token"})
    token = desk.rig.folder / "token"
    for mend, told in (
        (lambda: token.write_text("secret", encoding="utf-8"), "token"),
        ((desk.rig.folder / "back").mkdir, "back is not there"),
        ((desk.rig.folder / "trusted.pem").touch, "no signature can be verified"),
    ):
        found = {one["check"]: one["fault"] for one in _checks(desk)}
        assert told in str(found["returned"])
        mend()
    assert {one["check"]: one["fault"] for one in _checks(desk)}["returned"] is None


def _checks(desk: Desk) -> list[dict[str, Any]]:
    done = CliRunner().invoke(main, ["--settings", str(desk.settings_file), "check", "--json"])
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def test_the_api_and_the_metrics_tell_of_documents_and_name_nobody(desk: Desk, courier: Courier) -> None:
    parked(desk, courier)
    desk.rig.analysed(1)
    desk.rig.bring(courier)
    desk.rig.analysed(2)
    ledger = desk.rig.pipeline.ledger
    metrics = NodeMetrics(ledger, desk.rig.pipeline.store, ReceptionBoard())
    app = build_app(ledger, metrics.registry, lambda: Health(parts={}), settings=desk.rig.settings)
    web = WebServer(app, "127.0.0.1", 0)
    web.start()
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{web.port}", trust_env=False, timeout=30) as client:
            found = client.get("/api/documents", params={"state": "parked"})
            assert [one["park_reason"] for one in found.json()] == ["patient_disagrees"]
            assert client.get("/api/documents", params={"state": "lost"}).status_code == 422
            lines = {one["name"]: one for one in client.get("/api/destinations").json()}
            assert lines["mis"]["needs_a_person"] == {"parked": 1} and lines["mis"]["waiting"] == 1
            assert lines["mis"]["withheld"] == 0
            samples = {
                tuple(sample.labels.values()): sample.value
                for family in text_string_to_metric_families(client.get("/metrics").text)
                for sample in family.samples
                if sample.name == "radnode_documents"
            }
            told = found.text + client.get("/metrics").text
    finally:
        web.stop()
    assert samples == {("mis", "parked"): 1, ("mis", "handed_over"): 1, ("mis", "pending"): 1}
    assert not any(secret in told for secret in SECRETS)


def test_settings_refuse_two_destinations_of_one_name_and_an_unknown_profile(desk: Desk) -> None:
    twice = [{"name": "pacs", "kind": "mllp", "host": "127.0.0.1", "port": 2575, "profile": "none"}]
    desk.write(record=twice)
    told = desk.run("destinations", status=1).output
    assert "two destinations are called 'pacs'" in told and "names profile 'none', which is not set" in told

"""Where the stages of a study meet the outbox: what is queued, and what is taken back because the study changed."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lxml import etree

from dicom_node.ledger import documents, outbox
from dicom_node.ledger.documents import DocumentRow
from dicom_node.outbox.courier import Courier
from dicom_node.states import DocumentKind, DocumentState, Outcome, ParkReason
from dicom_node.withdrawal import retract
from inference.refusals import Reason, Refusal
from tests.archives import free_port
from tests.integration.receiving_rig import eventually
from tests.outbox_rig import Mood, MoodyService, OutboxRig
from tests.pipeline_rig import CHEST
from training.toml import to_toml

V3 = "{urn:hl7-org:v3}"


@pytest.fixture
def rig(tmp_path: Path, service: MoodyService) -> Iterator[OutboxRig]:
    made = OutboxRig(tmp_path, [{"name": "mis", "kind": "semd", "url": service.url, "accept_research": True}])
    yield made
    made.close()


@pytest.fixture
def courier(rig: OutboxRig) -> Iterator[Courier]:
    made = rig.courier("mis")
    yield made
    made.close()


def test_a_second_patient_in_the_study_takes_back_what_the_record_was_told(
    rig: OutboxRig, courier: Courier, service: MoodyService
) -> None:
    study = rig.analysed(1)
    rig.bring(courier)
    rig.study(1, patient=2)
    rig.settle()
    assert rig.account(study).study.outcome is Outcome.NOT_ANALYSED
    rig.bring(courier)
    report, withdrawal = rig.rows(study)
    assert (withdrawal.kind, withdrawal.state) == (DocumentKind.WITHDRAWAL, DocumentState.HANDED_OVER)
    assert withdrawal.replaces == report.document_id and withdrawal.version == 2
    told = etree.fromstring(service.held[withdrawal.document_id])
    numbers = told.xpath("//v:patientRole/v:id[1]/@extension", namespaces={"v": V3[1:-1]})
    assert numbers == ["P1"], "the patient under whom the report was filed"


def dies_unanswered(rig: OutboxRig, courier: Courier, service: MoodyService) -> DocumentRow:
    """A report that was kept, whose answer was lost, and whose receiver was then taken out of the settings."""
    service.mood = lambda: Mood.CUTS
    study = rig.analysed(1)
    rig.bring(courier)
    (row,) = rig.rows(study)
    assert row.state is DocumentState.PENDING and row.may_have_arrived and row.document_id in service.held
    with rig.pipeline.ledger.begin() as tx:
        assert outbox.close_unknown(tx, [], rig.clock()) == 1
    service.mood = lambda: Mood.HONEST
    return row


def test_a_dead_letter_that_may_have_arrived_is_taken_back(
    rig: OutboxRig, courier: Courier, service: MoodyService
) -> None:
    dead = dies_unanswered(rig, courier, service)
    assert retract(rig.pipeline.encoder, dead.study_uid, "quality") == 1
    rig.bring(courier)
    failed, withdrawal = rig.rows(dead.study_uid)
    assert failed.state is DocumentState.FAILED
    assert (withdrawal.kind, withdrawal.state) == (DocumentKind.WITHDRAWAL, DocumentState.HANDED_OVER)
    assert (withdrawal.version, withdrawal.replaces) == (2, dead.document_id)


def test_a_dead_letter_that_may_have_arrived_is_tried_again_as_the_next_version(
    rig: OutboxRig, courier: Courier, service: MoodyService
) -> None:
    dead = dies_unanswered(rig, courier, service)
    scope: dict[str, Any] = {"study_uid": dead.study_uid, "destination": None, "known": ["mis"]}
    with rig.pipeline.ledger.begin() as tx:
        assert documents.make_due(tx, rig.clock(), **scope) == 0
        assert documents.renew(tx, rig.clock(), **scope) == 1
    rig.bring(courier)
    _failed, second = rig.rows(dead.study_uid)
    assert (second.state, second.version) == (DocumentState.HANDED_OVER, 2)


def test_what_certainly_never_left_is_overtaken_and_not_taken_back(rig: OutboxRig, courier: Courier) -> None:
    courier.destination = courier.destination.model_copy(update={"url": f"http://127.0.0.1:{free_port()}/drafts"})
    courier._opening._destination = courier.destination
    study = rig.analysed(1)
    rig.bring(courier)
    (row,) = rig.rows(study)
    assert row.attempts == 1 and not row.may_have_arrived
    assert retract(rig.pipeline.encoder, study, "quality") == 1
    assert [one.state for one in rig.rows(study)] == [DocumentState.OVERTAKEN]


def test_documents_say_that_they_wait_for_their_settings_and_go_on_once_those_are_right(
    tmp_path: Path, rig: OutboxRig, courier: Courier
) -> None:
    context = tmp_path / "context.toml"
    right = context.read_text(encoding="utf-8")
    context.write_text("[always.performer]\nnam = 'x'\n", encoding="utf-8")
    courier.settings = courier.settings.model_copy(update={"first_retry_s": 0.05})
    study = rig.analysed(1)
    stop = threading.Event()
    thread = threading.Thread(target=courier.run, args=(stop,))
    thread.start()
    try:
        assert eventually(lambda: "always.performer.nam" in str(rig.rows(study)[0].reason))
        context.write_text(right, encoding="utf-8")
        assert eventually(lambda: rig.rows(study)[0].state is DocumentState.HANDED_OVER)
    finally:
        stop.set()
        thread.join(30)


def test_images_without_a_zone_park_their_draft_where_nobody_said_where_they_are_made(
    tmp_path: Path, service: MoodyService
) -> None:
    record = [{"name": "mis", "kind": "semd", "url": service.url, "accept_research": True}]
    rig = OutboxRig(tmp_path, record, monitoring={})
    courier = rig.courier("mis")
    study, other = rig.analysed(1), rig.analysed(2, TimezoneOffsetFromUTC="+0300")
    rig.bring(courier)
    (row,) = rig.rows(study)
    assert row.park_reason is ParkReason.CONTEXT_MISSING
    assert "source.performed_at; set [monitoring] time_zone" in str(row.reason)
    assert [one.state for one in rig.rows(other)] == [DocumentState.HANDED_OVER]
    rig.close()


def test_a_route_may_name_the_record_alone(tmp_path: Path, rig: OutboxRig, courier: Courier) -> None:
    route = CHEST | {"destinations": ["mis"]}
    (tmp_path / "routes.toml").write_text(to_toml({"route": [route]}), encoding="utf-8")
    from dicom_node.routing import read_routes

    rig.pipeline.routes = read_routes(tmp_path / "routes.toml")
    study = rig.analysed(1)
    account = rig.account(study)
    assert account.study.outcome is Outcome.ANALYSED and not account.deliveries
    assert [one.role for row in account.results for one in row.objects] == ["sr", "overlay"], "for the key image"
    rig.bring(courier)
    assert [row.state for row in rig.rows(study)] == [DocumentState.HANDED_OVER]


def test_the_key_image_of_the_document_is_the_overlay_in_jpeg(
    rig: OutboxRig, courier: Courier, service: MoodyService
) -> None:
    study = rig.analysed(1)
    rig.bring(courier)
    (row,) = rig.rows(study)
    told = etree.fromstring(service.held[row.document_id])
    pictures = told.xpath("//v:observationMedia/v:value[@representation='B64']", namespaces={"v": V3[1:-1]})
    assert [one.get("mediaType") for one in pictures] == ["image/jpeg"]


def test_a_refusal_is_no_document_for_a_receiver_that_does_not_ask_for_refusals(
    rig: OutboxRig, courier: Courier
) -> None:
    study = rig.study(1)
    rig.settle()
    for job in rig.claim():
        rig.pipeline.encode(rig.say(job, refusal=Refusal(reason=Reason.VIEW)), "node:worker0:1")
    rig.bring(courier)
    assert rig.rows(study) == ()


def test_without_the_libraries_of_documents_the_remedy_is_named(tmp_path: Path) -> None:
    script = f"""
import sys
sys.modules["lxml"] = None
from pathlib import Path
from dicom_node.ehr.destination import DestinationMisconfigured
from dicom_node.ledger import Ledger
from dicom_node.outbox.opening import Opening
from dicom_node.settings import Settings
from dicom_node.store import Store
folder = Path({str(tmp_path)!r})
record = [{{"name": "mis", "kind": "semd", "url": "http://127.0.0.1:9/drafts"}}]
settings = Settings.model_validate({{"data_dir": folder, "record": record}})
opening = Opening(settings.record[0], settings, Ledger(settings.ledger_url), Store(folder), dict)
try:
    opening.open()
except DestinationMisconfigured as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert "need lxml: install radnode with the extra ehr" in done.stdout

"""What was told the record is taken back where it was told, whatever changed since; and what may not leave stays."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dicom_node.ledger import deliveries, holds, outbox
from dicom_node.ledger.holds import Hold
from dicom_node.outbox.courier import Courier
from dicom_node.outbox.queueing import queue_withdrawal
from dicom_node.outbox.sent import pack, sent_request, unpack
from dicom_node.retention import Retention
from dicom_node.states import DocumentKind, DocumentState, ParkReason
from inference.findings import StudyUid
from tests.outbox_desk import RESEND_S, Build, change_patients, make_due, only, retract, said, under_way
from tests.outbox_rig import Mood, MoodyService, OutboxRig
from tests.pipeline_rig import OWNER
from tests.record_cases import make_record

NUMBER = "//v:recordTarget/v:patientRole/v:id[1]/@extension"
SNILS = "//v:recordTarget/v:patientRole/v:id[2]/@extension"
FAMILY = "//v:recordTarget//v:patient/v:name/v:family"
SET = "/*/v:setId/@extension"
VERSION = "/*/v:versionNumber/@value"


def drafts(service: MoodyService, path: str) -> list[str]:
    return [said(service.held[name], path) for name in service.order]


def finish_all(rig: OutboxRig, lesions: int = 1) -> None:
    while claimed := rig.claim():
        for job in claimed:
            rig.pipeline.encode(rig.say(job, rig.findings(job, lesions)), OWNER)


def test_what_a_document_was_written_from_is_read_back_as_it_was() -> None:
    for lesions in (0, 2):
        request = make_record(lesions=lesions)
        again = unpack(pack(request))
        assert pack(again) == pack(request) and again.patient == request.patient
    with pytest.raises(ValueError, match="packed"):
        unpack(b"rubbish")


def test_a_withdrawal_goes_to_whom_the_report_went_though_the_table_now_says_somebody_else(
    rig: OutboxRig, courier: Courier, service: MoodyService
) -> None:
    study = rig.analysed(0)
    rig.bring(courier)
    change_patients(rig, "P0;Иванов;Иван;1961-04-09", "P0;Сидоров;Олег;1961-04-09")
    retract(rig, study)
    rig.bring(courier)
    assert [row.state for row in rig.rows(study)] == [DocumentState.HANDED_OVER] * 2
    assert len(set(drafts(service, FAMILY))) == 1 and len(set(drafts(service, SNILS))) == 1
    assert drafts(service, VERSION) == ["1", "2"]


@pytest.mark.parametrize("lacks", ["the model", "the images", "the lookup"])
def test_a_withdrawal_needs_neither_model_nor_images_nor_lookup(
    rig: OutboxRig, courier: Courier, service: MoodyService, lacks: str
) -> None:
    study = rig.analysed(0)
    rig.bring(courier)
    if lacks == "the model":
        rig.pipeline.cards.clear()
    elif lacks == "the lookup":
        (rig.folder / "patients.csv").unlink()
    else:
        for path in (rig.settings.data_dir / "instances").rglob("*.dcm"):
            path.unlink()
    with rig.pipeline.ledger.begin() as tx:
        assert queue_withdrawal(tx, study, rig.clock()) == 1
    rig.bring(courier)
    assert [row.state for row in rig.rows(study)] == [DocumentState.HANDED_OVER] * 2
    assert len(service.held) == 2


def test_what_it_was_written_from_outlives_the_letter(rig: OutboxRig, courier: Courier, service: MoodyService) -> None:
    study = rig.analysed(0)
    rig.bring(courier)
    with rig.pipeline.ledger.begin() as tx:
        for row in deliveries.of_study(tx, study):
            deliveries.set_confirmed(tx, row.id, at=rig.clock(), how="a query")
    rig.clock.move(30 * 86400)
    retention = Retention(rig.pipeline.ledger, rig.pipeline.store, rig.settings.storage)
    assert retention.evict_due() == 1
    report = only(rig, study)
    assert report.path is None and sent_request(rig.pipeline.store, report) is not None
    rig.pipeline.cards.clear()
    with rig.pipeline.ledger.begin() as tx:
        queue_withdrawal(tx, study, rig.clock())
    rig.bring(courier)
    assert drafts(service, VERSION) == ["1", "2"] and len(set(drafts(service, NUMBER))) == 1


def test_a_corrected_patient_number_takes_back_the_first_and_begins_a_document_of_its_own(
    rig: OutboxRig, courier: Courier, service: MoodyService
) -> None:
    image = "1.2.826.0.1.77.0.1"
    study = rig.analysed(0, SOPInstanceUID=image)
    rig.bring(courier)
    rig.study(0, patient=1, SOPInstanceUID=image)  # the archive corrected whose image it is
    rig.settle()
    finish_all(rig, lesions=2)
    rig.bring(courier)
    assert drafts(service, NUMBER) == ["P0", "P0", "P1"]
    assert drafts(service, VERSION) == ["1", "2", "1"]
    first, taken_back, anew = drafts(service, SET)
    assert first == taken_back != anew
    retract(rig, study)
    rig.bring(courier)
    assert drafts(service, NUMBER)[-1] == "P1" and drafts(service, SET)[-1] == anew
    assert not [row for row in rig.rows(study) if row.is_open]


def test_a_report_kept_unanswered_and_then_refused_is_taken_back(build: Build, service: MoodyService) -> None:
    rig = build(record={"response_timeout_s": 0.2})
    courier = rig.courier("emr")
    service.mood = lambda: Mood.SLOW
    study = rig.analysed(0)
    rig.bring(courier)
    service.mood = lambda: Mood.ECHOES
    rig.clock.move(RESEND_S)
    rig.bring(courier)
    assert only(rig, study).state is DocumentState.FAILED and len(service.held) == 1
    service.mood = lambda: Mood.HONEST
    retract(rig, study)
    rig.bring(courier)
    report, withdrawal = rig.rows(study)
    assert (withdrawal.kind, withdrawal.state) == (DocumentKind.WITHDRAWAL, DocumentState.HANDED_OVER)
    assert withdrawal.replaces == report.document_id and drafts(service, VERSION) == ["1", "2"]


def test_a_receiver_that_acknowledges_and_never_has_it_is_given_up_and_what_follows_goes_on(
    rig: OutboxRig, courier: Courier, service: MoodyService
) -> None:
    service.mood = lambda: Mood.FORGETS
    study = rig.analysed(0)
    for _hour in range(60):
        rig.bring(courier)
        rig.clock.move(RESEND_S)
    row = only(rig, study)
    assert row.state is DocumentState.FAILED and "never had it" in str(row.reason)
    service.mood = lambda: Mood.HONEST
    assert make_due(rig) == 1
    rig.bring(courier)
    assert drafts(service, VERSION) == ["2"]


def stopping(rig: OutboxRig, service: MoodyService, act: Callable[[], None]) -> Callable[[], Mood]:
    """After the first request something happens while the round goes on."""

    def mood() -> Mood:
        if service.requests == 1:
            act()
        return Mood.HONEST

    return mood


def twenty(build: Build) -> tuple[OutboxRig, Courier, list[StudyUid]]:
    rig = build(patients=20)
    studies = [rig.study(number) for number in range(20)]
    rig.settle()
    finish_all(rig)
    return rig, rig.courier("emr"), studies


def test_a_pause_holds_what_the_round_has_already_taken(build: Build, service: MoodyService) -> None:
    rig, courier, studies = twenty(build)

    def pause() -> None:
        with rig.pipeline.ledger.begin() as tx:
            holds.hold(tx, Hold(destination="emr", since=rig.clock(), operator="Anna", why="they move house"))

    service.mood = stopping(rig, service, pause)
    rig.bring(courier)
    assert len(service.held) == 1
    with rig.pipeline.ledger.begin() as tx:
        holds.release(tx, "emr")
    rig.bring(courier)
    assert len(service.held) == len(studies) and service.conflicts == 0


def test_what_is_taken_back_while_the_round_goes_on_does_not_leave(build: Build, service: MoodyService) -> None:
    rig, courier, studies = twenty(build)

    def take_back() -> None:
        for study in studies:
            retract(rig, study)

    service.mood = stopping(rig, service, take_back)
    rig.bring(courier)
    sent = {said(body, VERSION) for body in service.held.values()}
    assert len(service.held) == 2 and sent == {"1", "2"}, "the one that was under way, and its withdrawal"


def test_a_parked_withdrawal_is_never_given_up(rig: OutboxRig, courier: Courier) -> None:
    study = rig.analysed(0)
    rig.bring(courier)
    retract(rig, study)
    under_way(rig, outbox.Task.WRITE)
    withdrawal = rig.rows(study)[1]
    with rig.pipeline.ledger.begin() as tx:
        outbox.set_parked(tx, withdrawal.id, at=rig.clock(), why=ParkReason.CONTEXT_MISSING, told="made up")
    later = rig.clock.move(400 * 86400)
    with rig.pipeline.ledger.begin() as tx:
        assert outbox.give_up_parked(tx, parked_before=later, now=later) == 0


def test_documents_that_are_refused_again_and_again_do_not_starve_the_others(
    build: Build, service: MoodyService
) -> None:
    rig = build(patients=6, outbox={"max_written": 2, "batch": 1})
    studies = [rig.study(number) for number in range(6)]
    rig.settle()
    finish_all(rig)
    courier = rig.courier("emr")
    service.poison = {row.document_id for row in rig.every_row()[:2]}
    for _round in range(200):
        rig.bring(courier)
        rig.clock.move(900.0)
    assert len(service.held) == len(studies) - 2


def test_a_receiver_that_asks_to_wait_is_left_alone_so_long(build: Build, service: MoodyService) -> None:
    rig, courier, studies = twenty(build)
    service.busy_s = 3600
    service.mood = lambda: Mood.BUSY
    rig.bring(courier)
    assert service.requests == 1, "the first word of it opens the circuit"
    service.mood = lambda: Mood.HONEST
    rig.clock.move(3000.0)
    rig.bring(courier)
    assert service.requests == 1
    rig.clock.move(700.0)
    rig.bring(courier)
    assert len(service.held) == len(studies)


def test_the_first_of_two_patients_under_one_accession_number_is_told_of_it(rig: OutboxRig, courier: Courier) -> None:
    first = rig.analysed(0, AccessionNumber="ACC-SHARED")
    rig.bring(courier)
    second = rig.analysed(1, AccessionNumber="ACC-SHARED")
    rig.bring(courier)
    assert only(rig, second).park_reason is ParkReason.PATIENT_DISAGREES
    told = [line for line in rig.told(first) if "another patient" in line]
    assert told == ["another study under this accession number is of another patient: see whose documents stand at emr"]


def test_a_damaged_overlay_costs_the_picture_and_not_the_document(
    rig: OutboxRig, courier: Courier, service: MoodyService
) -> None:
    study = rig.analysed(0)
    for path in rig.result_files():
        path.write_bytes(b"rubbish")
    rig.bring(courier)
    assert only(rig, study).state is DocumentState.HANDED_OVER
    assert not said(next(iter(service.held.values())), "//v:observationMedia/v:value[@representation='B64']")

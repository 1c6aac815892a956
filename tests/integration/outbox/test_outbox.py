"""The outbox of the regional record: what leaves, in which order and version, what waits for whom, what never leaves.

Every test receives studies, lets a model speak of them, and has a courier bring the SEMD drafts over real HTTP. What
happens over a day of outages is `test_outbox_receiver_day`; what kills do, `tests/acceptance/test_outbox_kill_drill`.
"""

from __future__ import annotations

from dicom_node.ledger import documents, holds
from dicom_node.ledger.holds import Hold
from dicom_node.ledger.outbox import Task
from dicom_node.outbox.courier import Courier
from dicom_node.outbox.queueing import RecordRoute, queue_job
from dicom_node.states import DocumentKind, DocumentState
from tests.outbox_desk import (
    RESEND_S,
    Build,
    change_patients,
    make_due,
    only,
    refuse,
    retract,
    said,
    states,
    under_way,
)
from tests.outbox_rig import Mood, MoodyService, OutboxRig
from tests.toy_model import install_toy_model

# one document for each word on a study --------------------------------------------------------------------------------


def test_one_study_is_one_document(rig: OutboxRig, courier: Courier, service: MoodyService) -> None:
    study = rig.analysed(0)
    rig.bring(courier)
    row = only(rig, study)
    assert (row.kind, row.state, row.version, row.attempts) == (
        DocumentKind.REPORT,
        DocumentState.HANDED_OVER,
        1,
        1,
    )
    assert row.finished_at is not None
    assert service.order == [row.document_id]
    assert said(service.held[row.document_id], "//v:recordTarget/v:patientRole/v:id[1]/@extension") == "P0"
    rig.clock.move(86400)
    rig.bring(courier)
    assert service.sendings == {row.document_id: 1}, "what arrived is left alone"


def test_other_findings_on_new_images_make_a_second_version_that_replaces_the_first(
    rig: OutboxRig, courier: Courier, service: MoodyService
) -> None:
    study = rig.analysed(0, lesions=1)
    rig.bring(courier)
    rig.analysed(0, lesions=2)
    rig.bring(courier)
    first, second = (service.held[name] for name in service.order)
    assert [row.document_id for row in rig.rows(study)] == service.order
    assert [said(body, "/*/v:versionNumber/@value") for body in (first, second)] == ["1", "2"]
    assert said(first, "/*/v:setId/@extension") == said(second, "/*/v:setId/@extension") != ""
    assert said(first, "/*/v:id/@extension") != said(second, "/*/v:id/@extension")
    assert rig.rows(study)[1].replaces == rig.rows(study)[0].document_id


def test_an_unchanged_word_on_the_study_is_not_told_again(
    rig: OutboxRig, courier: Courier, service: MoodyService
) -> None:
    study = rig.analysed(0)
    rig.bring(courier)
    (job,) = rig.account(study).jobs
    with rig.pipeline.ledger.begin() as tx:
        assert queue_job(tx, job, [RecordRoute(name="emr", takes_refusals=False)], rig.clock()) == 0
    rig.bring(courier)
    assert len(rig.rows(study)) == 1
    assert len(service.order) == 1


def test_two_studies_of_one_patient_are_sets_of_their_own(
    rig: OutboxRig, courier: Courier, service: MoodyService
) -> None:
    for number in range(2):
        rig.study(number, patient=0)
    rig.settle()
    rig.finish()
    rig.bring(courier)
    assert len({said(body, "/*/v:setId/@extension") for body in service.held.values()}) == 2
    assert {said(body, "/*/v:versionNumber/@value") for body in service.held.values()} == {"1"}


# taking back ----------------------------------------------------------------------------------------------------------


def test_a_withdrawal_of_what_left_is_a_further_version(
    rig: OutboxRig, courier: Courier, service: MoodyService
) -> None:
    study = rig.analysed(0)
    rig.bring(courier)
    retract(rig, study)
    rig.bring(courier)
    assert states(rig, study) == [
        (DocumentKind.REPORT, DocumentState.HANDED_OVER),
        (DocumentKind.WITHDRAWAL, DocumentState.HANDED_OVER),
    ]
    report, taken_back = (service.held[name] for name in service.order)
    assert said(taken_back, "/*/v:versionNumber/@value") == "2"
    assert said(taken_back, "/*/v:setId/@extension") == said(report, "/*/v:setId/@extension")
    retract(rig, study)
    rig.bring(courier)
    assert len(service.order) == 2, "taken back once"


def test_what_never_left_never_leaves_once_it_is_taken_back(
    rig: OutboxRig, courier: Courier, service: MoodyService
) -> None:
    study = rig.analysed(0)
    retract(rig, study)
    rig.bring(courier)
    assert states(rig, study) == [(DocumentKind.REPORT, DocumentState.OVERTAKEN)]
    assert make_due(rig) == 0
    rig.bring(courier)
    assert not service.sendings


def test_a_refusal_after_a_report_takes_the_report_back(
    rig: OutboxRig, courier: Courier, service: MoodyService
) -> None:
    study = rig.analysed(0)
    rig.bring(courier)
    rig.study(0)
    rig.settle()
    refuse(rig)
    rig.bring(courier)
    assert [row.kind for row in rig.rows(study)] == [DocumentKind.REPORT, DocumentKind.WITHDRAWAL]
    assert [said(service.held[name], "/*/v:versionNumber/@value") for name in service.order] == ["1", "2"]


def test_a_refusal_alone_tells_the_record_nothing(rig: OutboxRig, courier: Courier, service: MoodyService) -> None:
    study = rig.study(0)
    rig.settle()
    refuse(rig)
    rig.bring(courier)
    assert rig.rows(study) == ()
    assert not service.sendings


def test_a_report_after_its_withdrawal_is_a_document_of_its_own(
    rig: OutboxRig, courier: Courier, service: MoodyService
) -> None:
    rig.analysed(0)
    rig.bring(courier)
    rig.study(0)
    rig.settle()
    refuse(rig)
    rig.bring(courier)
    rig.analysed(0, lesions=2)
    rig.bring(courier)
    assert [said(service.held[name], "/*/v:versionNumber/@value") for name in service.order] == ["1", "2", "1"]
    first, taken_back, anew = (said(service.held[name], "/*/v:setId/@extension") for name in service.order)
    assert first == taken_back != anew


def test_a_later_version_waits_for_the_earlier_and_other_studies_do_not(build: Build, service: MoodyService) -> None:
    rig = build(outbox={"first_retry_s": 600})
    courier = rig.courier("emr")
    study = rig.analysed(0)
    service.mood = lambda: Mood.BROKEN
    rig.bring(courier)
    rig.analysed(0, lesions=2)
    other = rig.analysed(1)
    service.mood = lambda: Mood.HONEST
    rig.bring(courier)
    assert [row.state for row in rig.rows(study)] == [DocumentState.PENDING, DocumentState.PENDING]
    assert service.order == [only(rig, other).document_id], "the first of the study is not due yet"
    rig.clock.move(RESEND_S)
    rig.bring(courier)
    assert service.order[1:] == [row.document_id for row in rig.rows(study)]


def test_a_second_model_version_makes_a_second_version_of_the_document(build: Build, service: MoodyService) -> None:
    first = build()
    study = first.analysed(0)
    first.bring(first.courier("emr"))
    install_toy_model(first.models, version="1.1.0")
    second = build(model="toy-opacity@1.1.0")
    second.clock.now = first.clock()
    second.analysed(0)
    second.bring(second.courier("emr"))
    rows = second.rows(study)
    assert [row.version for row in rows] == [1, 2]
    assert rows[0].set_id == rows[1].set_id
    assert [said(service.held[row.document_id], "/*/v:versionNumber/@value") for row in rows] == ["1", "2"]
    assert "1.1.0" in service.held[rows[1].document_id].decode()


def test_the_same_story_on_every_database(build: Build, service: MoodyService, ledger_url: str) -> None:
    rig = build(ledger={"url": ledger_url}, outbox={"first_retry_s": 600})
    courier = rig.courier("emr")
    service.mood = lambda: Mood.BROKEN
    study = rig.analysed(0)
    rig.bring(courier)
    rig.analysed(0, lesions=2)
    change_patients(rig, "P1;Иванов;Иван", "P1;Петров;Иван")
    parked = rig.analysed(1)
    service.mood = lambda: Mood.HONEST
    rig.bring(courier)
    assert not service.held, "the first waits for its next attempt, the second for the first"
    assert only(rig, parked).state is DocumentState.PARKED
    rig.clock.move(RESEND_S)
    rig.bring(courier)
    retract(rig, study)
    with rig.pipeline.ledger.begin() as tx:
        holds.hold(tx, Hold(destination="emr", since=rig.clock(), operator="admin", why="moving"))
    rig.bring(courier)
    assert service.order == [row.document_id for row in rig.rows(study)][:2]
    with rig.pipeline.ledger.begin() as tx:
        holds.release(tx, "emr")
    change_patients(rig, "P1;Петров;Иван", "P1;Иванов;Иван")
    assert make_due(rig, study_uid=parked) == 1
    rig.bring(courier)
    assert set(service.order) == {row.document_id for row in rig.every_row()}
    assert [name for name in service.order if name != only(rig, parked).document_id] == [
        row.document_id for row in rig.rows(study)
    ]
    assert [row.version for row in rig.rows(study)] == [1, 2, 3]


# what a person or a fault must not undo -------------------------------------------------------------------------------


def test_a_report_that_was_parked_while_it_was_taken_back_does_not_leave_by_retry(
    rig: OutboxRig, courier: Courier, service: MoodyService
) -> None:
    study = rig.analysed(0)
    under_way(rig, Task.WRITE)
    retract(rig, study)
    rig.restart(courier)
    change_patients(rig, "P0;Иванов;Иван", "P0;Петров;Иван")
    rig.bring(courier)
    change_patients(rig, "P0;Петров;Иван", "P0;Иванов;Иван")
    assert make_due(rig) == 0, "the result was taken back: nobody may send it now"
    rig.bring(courier)
    assert not service.sendings


def test_a_report_that_was_refused_while_it_was_taken_back_does_not_leave_by_retry(
    rig: OutboxRig, courier: Courier, service: MoodyService
) -> None:
    study = rig.analysed(0)
    service.mood = lambda: Mood.BROKEN
    rig.bring(courier)
    retract(rig, study)
    service.mood = lambda: Mood.ECHOES
    rig.clock.move(RESEND_S)
    rig.bring(courier)
    service.mood = lambda: Mood.HONEST
    make_due(rig)
    rig.clock.move(RESEND_S)
    rig.bring(courier)
    report, withdrawal = rig.rows(study)
    assert report.state is DocumentState.FAILED
    assert list(service.held) == [withdrawal.document_id], "500 does not say that nothing was kept: it is taken back"
    assert not [row for row in rig.rows(study) if row.is_open]


def test_a_signature_that_comes_back_before_the_acknowledgement_stands(
    rig: OutboxRig, courier: Courier, service: MoodyService
) -> None:
    study = rig.analysed(0)

    def register() -> Mood:
        with rig.pipeline.ledger.begin() as tx:
            row = only(rig, study)
            assert documents.set_returned(
                tx, row.document_id, state=DocumentState.REGISTERED, at=rig.clock(), number="N-1"
            )
        return Mood.HONEST

    service.mood = register
    rig.bring(courier)
    row = only(rig, study)
    assert (row.state, row.register_number) == (DocumentState.REGISTERED, "N-1")
    assert row.handed_over_at is not None
    assert service.sendings == {row.document_id: 1}


def test_a_signature_that_comes_back_while_the_receiver_is_too_slow_stands(
    rig: OutboxRig, courier: Courier, service: MoodyService
) -> None:
    study = rig.analysed(0)

    def register() -> Mood:
        with rig.pipeline.ledger.begin() as tx:
            documents.set_returned(tx, only(rig, study).document_id, state=DocumentState.SIGNED, at=rig.clock())
        return Mood.CUTS

    service.mood = register
    rig.bring(courier)
    rig.clock.move(RESEND_S)
    rig.bring(courier)
    assert only(rig, study).state is DocumentState.SIGNED
    assert service.requests == 1


def test_a_lost_letter_of_what_was_acknowledged_does_not_make_a_dead_letter_of_it(
    rig: OutboxRig, courier: Courier, service: MoodyService
) -> None:
    study = rig.analysed(0)
    service.mood = lambda: Mood.FORGETS
    rig.bring(courier)
    row = only(rig, study)
    assert row.state is DocumentState.HANDED_OVER
    service.keep(row.document_id, b"it came late")
    rig.pipeline.store.remove(str(row.path))
    rig.clock.move(RESEND_S)
    rig.bring(courier)
    assert only(rig, study).state is DocumentState.HANDED_OVER
    assert only(rig, study).finished_at is not None


def test_a_version_that_was_refused_leaves_its_number_to_the_next(
    rig: OutboxRig, courier: Courier, service: MoodyService
) -> None:
    study = rig.analysed(0)
    service.mood = lambda: Mood.ECHOES
    rig.bring(courier)
    assert only(rig, study).state is DocumentState.FAILED
    service.mood = lambda: Mood.HONEST
    rig.analysed(0, lesions=2)
    rig.bring(courier)
    refused, second = rig.rows(study)
    assert refused.state is DocumentState.OVERTAKEN
    assert make_due(rig) == 0, "an earlier word must not follow a later one"
    assert (second.version, second.replaces) == (1, None)
    assert said(service.held[second.document_id], "/*/v:versionNumber/@value") == "1"

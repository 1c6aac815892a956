"""The outbox of the regional record: what leaves, in which order and version, what waits for whom, what never leaves.

Every test receives studies, lets a model speak of them, and has a courier bring the SEMD drafts over real HTTP. What
happens over a day of outages is `test_outbox_receiver_day`; what kills do, `tests/acceptance/test_outbox_kill_drill`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from lxml import etree

from dicom_node import withdrawal
from dicom_node.ledger import documents, holds, outbox
from dicom_node.ledger.holds import Hold
from dicom_node.ledger.outbox import Task
from dicom_node.outbox.courier import Courier
from dicom_node.outbox.queueing import RecordRoute, queue_job
from dicom_node.states import DocumentKind, DocumentState, ParkReason
from inference.findings import StudyUid
from inference.refusals import Reason, Refusal
from tests.outbox_rig import Mood, MoodyService, OutboxRig, moody_service
from tests.pipeline_rig import OWNER

V3 = {"v": "urn:hl7-org:v3"}
RESEND_S = 3600.0  # longer than any wait between attempts

Build = Callable[..., OutboxRig]


@pytest.fixture
def service() -> Iterator[MoodyService]:
    with moody_service(MoodyService()) as running:
        yield running


@pytest.fixture
def build(tmp_path: Path, service: MoodyService) -> Iterator[Build]:
    """Makes a rig whose one receiver is `service`; `record` and `outbox` are laid over the settings."""
    made: list[OutboxRig] = []

    def make(
        *, record: dict[str, Any] | None = None, outbox: dict[str, Any] | None = None, **settings: Any
    ) -> OutboxRig:
        table = {"name": "emr", "kind": "semd", "url": service.url, "accept_research": True} | (record or {})
        waits = {"first_retry_s": 10, "longest_retry_s": 900, "context_file": tmp_path / "context.toml"}
        made.append(OutboxRig(tmp_path, [table], outbox=waits | (outbox or {}), **settings))
        return made[-1]

    yield make
    for rig in made:
        rig.close()


@pytest.fixture
def rig(build: Build) -> OutboxRig:
    return build()


@pytest.fixture
def courier(rig: OutboxRig) -> Iterator[Courier]:
    made = rig.courier("emr")
    yield made
    made.close()


def said(body: bytes, path: str) -> str:
    """One value of a draft."""
    return str(etree.fromstring(body).xpath(f"string({path})", namespaces=V3))


def states(rig: OutboxRig, study_uid: StudyUid) -> list[tuple[DocumentKind, DocumentState]]:
    return [(row.kind, row.state) for row in rig.rows(study_uid)]


def retract(rig: OutboxRig, study_uid: StudyUid) -> None:
    withdrawal.retract(rig.pipeline.encoder, study_uid, "quality")


def refuse(rig: OutboxRig) -> None:
    """The model cannot speak of what is queued."""
    for job in rig.claim():
        rig.pipeline.encode(rig.say(job, refusal=Refusal(reason=Reason.VIEW)), OWNER)


def make_due(rig: OutboxRig, **changes: Any) -> int:
    """What `radnode retry` does."""
    values: dict[str, Any] = {"study_uid": None, "destination": None, "known": ["emr"]}
    with rig.pipeline.ledger.begin() as tx:
        return documents.make_due(tx, rig.clock(), **values | changes)


def only(rig: OutboxRig, study_uid: StudyUid) -> documents.DocumentRow:
    (row,) = rig.rows(study_uid)
    return row


def without(text: str, section: str) -> str:
    """A TOML text without one of its tables."""
    before, _heading, after = text.partition(section)
    assert after
    return before + after[after.index("\n[") :]


def change_patients(rig: OutboxRig, old: str, new: str) -> None:
    table = rig.folder / "patients.csv"
    text = table.read_text(encoding="utf-8")
    assert old in text
    table.write_text(text.replace(old, new), encoding="utf-8")


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


def test_a_report_after_its_withdrawal_is_the_third_version(
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
    assert [said(service.held[name], "/*/v:versionNumber/@value") for name in service.order] == ["1", "2", "3"]


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


# what a person must look at -------------------------------------------------------------------------------------------


def test_a_document_without_what_its_form_needs_is_parked_until_the_context_is_mended(
    rig: OutboxRig, courier: Courier, service: MoodyService
) -> None:
    context = rig.folder / "context.toml"
    whole = context.read_text(encoding="utf-8")
    context.write_text(without(whole, "[always.legal_authenticator]"), encoding="utf-8")
    study = rig.analysed(0)
    rig.bring(courier)
    row = only(rig, study)
    assert (row.state, row.park_reason) == (DocumentState.PARKED, ParkReason.CONTEXT_MISSING), row.reason
    assert "legal_authenticator" in str(row.reason)
    rig.clock.move(RESEND_S)
    rig.bring(courier)
    assert not service.sendings, "it waits for a person, not for time"
    context.write_text(whole, encoding="utf-8")
    assert make_due(rig) == 1
    rig.bring(courier)
    assert service.order == [row.document_id], "the courier reads the mended file without a new start"
    assert only(rig, study).park_reason is None


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("P0;Иванов;Иван", "P0;Петров;Иван", "patient.name"),
        ("P0;Иванов;Иван;1961-04-09", "P0;Иванов;Иван;1962-04-09", "patient.birth_date"),
        ("10000000009", "10000000008", "patient.snils"),
    ],
    ids=["another name", "another birth date", "a SNILS with a wrong sum"],
)
def test_disagreement_about_the_patient_parks_the_document_by_field_and_not_by_value(
    rig: OutboxRig, courier: Courier, service: MoodyService, old: str, new: str, told: str
) -> None:
    change_patients(rig, old, new)
    study = rig.analysed(0)
    rig.bring(courier)
    row = only(rig, study)
    assert row.state is DocumentState.PARKED
    assert row.park_reason in {ParkReason.PATIENT_DISAGREES, ParkReason.CONTEXT_INVALID}
    assert told in str(row.reason)
    assert not any(value in str(row.reason) for value in ("Петров", "Иванов", "1962", "1961", "1000000000"))
    assert not service.sendings


# a person holds it back -----------------------------------------------------------------------------------------------


def test_a_pause_lets_documents_be_written_and_none_leave_and_its_end_sends_them(
    rig: OutboxRig, courier: Courier, service: MoodyService
) -> None:
    with rig.pipeline.ledger.begin() as tx:
        holds.hold(tx, Hold(destination="emr", since=rig.clock(), operator="admin", why="moving"))
    study = rig.analysed(0)
    rig.bring(courier)
    row = only(rig, study)
    assert row.path is not None
    assert (row.state, row.attempts) == (DocumentState.PENDING, 0)
    rig.clock.move(86400)
    rig.bring(courier)
    assert not service.sendings
    with rig.pipeline.ledger.begin() as tx:
        assert holds.release(tx, "emr")
    rig.bring(courier)
    assert service.sendings == {row.document_id: 1}


# what a person or a fault must not undo -------------------------------------------------------------------------------


def under_way(rig: OutboxRig, task: Task) -> None:
    """A courier has just taken what is due, and is not done with it."""
    with rig.pipeline.ledger.begin() as tx:
        assert outbox.claim_due(tx, "emr", task, rig.clock(), limit=9)


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
    assert make_due(rig) == 0
    rig.clock.move(RESEND_S)
    rig.bring(courier)
    assert not service.held
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


# receivers with troubles ----------------------------------------------------------------------------------------------


def test_a_document_that_is_poison_to_the_receiver_holds_no_other(
    rig: OutboxRig, courier: Courier, service: MoodyService
) -> None:
    poisonous = only(rig, rig.analysed(0)).document_id
    service.poison.add(poisonous)
    for _hour in range(12):  # alone for so long that its wait and that of the circuit are both the longest
        rig.bring(courier)
        rig.clock.move(RESEND_S)
    wholesome = only(rig, rig.analysed(1)).document_id
    rig.clock.move(900.0)  # both are due: the probe must not be the one that fails always
    rig.bring(courier)
    assert service.order == [wholesome]


def test_the_circuit_opens_after_three_failures_and_one_probe_finds_out(build: Build, service: MoodyService) -> None:
    rig = build(patients=8)
    for number in range(8):
        rig.study(number)
    rig.settle()
    rig.finish()
    courier = rig.courier("emr")
    service.mood = lambda: Mood.BROKEN
    rig.bring(courier)
    assert service.requests == 3
    rig.clock.move(15.0)
    rig.bring(courier)
    assert service.requests == 4, "one probe"
    service.mood = lambda: Mood.HONEST
    rig.clock.move(30.0)
    rig.bring(courier)
    rig.clock.move(RESEND_S)
    rig.bring(courier)
    assert len(service.order) == 8


def test_a_circuit_whose_probe_only_asked_for_a_document_is_closed_by_the_answer(
    build: Build, service: MoodyService
) -> None:
    rig = build(patients=5, outbox={"first_confirm_s": 5})
    courier = rig.courier("emr")
    rig.analysed(0)
    service.mood = lambda: Mood.FORGETS
    rig.bring(courier)
    asked_for = rig.every_row()[0]
    service.mood = lambda: Mood.BROKEN
    rig.clock.move(-20.0)
    for number in range(1, 4):
        rig.study(number)
    rig.settle()
    rig.finish()
    with rig.pipeline.ledger.begin() as tx:  # so that it is not asked for before the circuit opens
        outbox.set_unconfirmed(tx, asked_for.id, ask_at=rig.clock.move(1.0), told="", counts=True)
    rig.clock.move(-1.0)
    rig.bring(courier)
    assert service.requests == 4
    with rig.pipeline.ledger.begin() as tx:
        for row in rig.every_row()[1:]:
            outbox.set_retry(tx, row.id, next_attempt_at=rig.clock() + timedelta(hours=1), told="")
    service.keep(asked_for.document_id, b"kept after all")
    service.mood = lambda: Mood.HONEST
    rig.clock.move(20.0)
    rig.bring(courier)
    assert rig.every_row()[0].finished_at is not None, "the probe was a question, and it was answered"
    late = only(rig, rig.analysed(4)).document_id
    rig.bring(courier)
    assert late in service.held, "the receiver answers: nothing waits for the end of a probe"


def test_a_document_parked_for_too_long_becomes_a_dead_letter_that_retry_brings(
    rig: OutboxRig, courier: Courier, service: MoodyService
) -> None:
    change_patients(rig, "P0;Иванов;Иван", "P0;Петров;Иван")
    study = rig.analysed(0)
    rig.bring(courier)
    now = rig.clock.move(31 * 86400.0)
    with rig.pipeline.ledger.begin() as tx:
        assert outbox.give_up_parked(tx, parked_before=now - timedelta(days=32), now=now) == 0
        assert outbox.give_up_parked(tx, parked_before=now - timedelta(days=30), now=now) == 1
    row = only(rig, study)
    assert (row.state, row.park_reason) == (DocumentState.FAILED, None)
    assert "patient.name" in str(row.reason), "why it was parked is still told"
    change_patients(rig, "P0;Петров;Иван", "P0;Иванов;Иван")
    assert make_due(rig) == 1
    rig.bring(courier)
    assert service.order == [row.document_id]

"""Documents that wait for a person, for time or for room: parked, withheld, held back; and what brings them at last."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from dicom_node.ehr.destination import DestinationMisconfigured
from dicom_node.ledger import holds, outbox
from dicom_node.ledger.holds import Hold
from dicom_node.ledger.schema import delivery
from dicom_node.outbox.courier import Courier
from dicom_node.results.texts import RESEARCH_SENTENCE
from dicom_node.retention import Retention
from dicom_node.settings import StorageSettings
from dicom_node.states import DeliveryState, DocumentState, ParkReason
from tests.outbox_desk import (
    RESEND_S,
    Build,
    change_patients,
    make_due,
    only,
    retract,
    said,
    without,
)
from tests.outbox_rig import Mood, MoodyService, OutboxRig

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


@pytest.mark.parametrize(("study", "told"), [({"PatientSex": "F"}, "patient.sex")], ids=["another sex"])
def test_a_patient_of_another_sex_in_the_table_parks_the_document(
    rig: OutboxRig, courier: Courier, service: MoodyService, study: dict[str, Any], told: str
) -> None:
    table = rig.folder / "patients.csv"
    heading, *lines = table.read_text(encoding="utf-8").splitlines()
    table.write_text("\n".join([heading + ";patient.sex", *(line + ";M" for line in lines)]) + "\n", encoding="utf-8")
    uid = rig.analysed(0, **study)
    rig.bring(courier)
    row = only(rig, uid)
    assert (row.state, row.park_reason) == (DocumentState.PARKED, ParkReason.PATIENT_DISAGREES), row.reason
    assert told in str(row.reason)
    assert not service.sendings


def test_two_patients_under_one_accession_number_park_both_documents(
    rig: OutboxRig, courier: Courier, service: MoodyService
) -> None:
    uids = [rig.study(0, AccessionNumber="SHARED"), rig.study(1, AccessionNumber="SHARED", PatientName="PETROV^OLEG")]
    change_patients(rig, "P1;Иванов;Иван", "P1;Петров;Олег")
    third = rig.study(2)
    rig.settle()
    rig.finish()
    rig.bring(courier)
    for uid in uids:
        row = only(rig, uid)
        assert (row.state, row.park_reason) == (DocumentState.PARKED, ParkReason.PATIENT_DISAGREES), row.reason
        assert "accession" in str(row.reason)
        assert "SHARED" not in str(row.reason)
    assert service.order == [only(rig, third).document_id]


def test_a_study_without_patient_id_is_parked(rig: OutboxRig, courier: Courier, service: MoodyService) -> None:
    study = rig.analysed(0, PatientID="")
    rig.bring(courier)
    row = only(rig, study)
    assert row.state is DocumentState.PARKED, row.reason
    assert "patient.identifier" in str(row.reason)
    assert not service.sendings


def test_a_patient_whom_no_source_knows_is_parked_and_the_table_brings_the_document(
    rig: OutboxRig, courier: Courier, service: MoodyService
) -> None:
    study = rig.analysed(7)
    rig.bring(courier)
    first = only(rig, study)
    change_patients(rig, "P0;", "P7;")
    make_due(rig)
    rig.bring(courier)
    assert only(rig, study).state is DocumentState.HANDED_OVER, only(rig, study).reason
    assert service.order == [first.document_id]


def test_a_model_that_is_gone_parks_the_document_until_it_is_back(build: Build, service: MoodyService) -> None:
    rig = build()
    study = rig.analysed(0)
    away = rig.folder / "away"
    (rig.models / "toy-opacity").rename(away)
    bare = build()
    bare.clock.now = rig.clock()
    bare.bring(bare.courier("emr"))
    row = only(bare, study)
    assert (row.state, row.park_reason) == (DocumentState.PARKED, ParkReason.MODEL_GONE), row.reason
    assert "toy-opacity@1.0.0" in str(row.reason)
    away.rename(rig.models / "toy-opacity")
    assert make_due(rig) == 1
    rig.bring(rig.courier("emr"))
    assert service.order == [row.document_id]


def test_a_study_whose_files_are_all_gone_is_parked_until_an_image_comes_again(
    rig: OutboxRig, courier: Courier, service: MoodyService
) -> None:
    study = rig.analysed(0)
    kept = {path: path.read_bytes() for path in rig.settings.data_dir.rglob("*.dcm")}
    for path in kept:
        path.unlink()
    rig.bring(courier)
    row = only(rig, study)
    assert (row.state, row.park_reason) == (DocumentState.PARKED, ParkReason.FILES_GONE), row.reason
    for path, content in kept.items():
        path.write_bytes(content)
    assert make_due(rig) == 1
    rig.bring(courier)
    assert service.order == [row.document_id]


def test_another_study_that_cannot_be_read_any_more_does_not_hold_this_one(
    rig: OutboxRig, courier: Courier, service: MoodyService
) -> None:
    """They share an accession number, and the other's image was damaged on the disk."""
    rig.study(0, AccessionNumber="SHARED")
    rig.settle()
    rig.claim()
    (damaged,) = (rig.settings.data_dir / "instances").rglob("*.dcm")
    study = rig.study(1, patient=0, AccessionNumber="SHARED")
    rig.settle()
    rig.finish()
    damaged.write_bytes(b"no DICOM any more")
    rig.bring(courier)
    assert only(rig, study).state in {DocumentState.HANDED_OVER, DocumentState.PARKED}, only(rig, study).reason


# by rule -------------------------------------------------------------------------------------------------------------


def test_a_research_model_is_withheld_until_the_destination_accepts_it_and_then_carries_the_warning(
    build: Build, service: MoodyService
) -> None:
    strict = build(record={"accept_research": False})
    study = strict.analysed(0)
    strict.bring(strict.courier("emr"))
    row = only(strict, study)
    assert row.state is DocumentState.WITHHELD
    assert "accept_research" in str(row.reason)
    assert not service.sendings
    open_minded = build()
    open_minded.clock.now = strict.clock()
    assert make_due(open_minded) == 1
    open_minded.bring(open_minded.courier("emr"))
    assert RESEARCH_SENTENCE.in_language("ru") in service.held[row.document_id].decode()


# settings that do not work yet ---------------------------------------------------------------------------------------


def test_documents_wait_for_the_file_of_a_token(build: Build, service: MoodyService, tmp_path: Path) -> None:
    rig = build(record={"token_file": tmp_path / "token"})
    study = rig.analysed(0)
    courier = rig.courier("emr")
    rig.bring(courier)
    assert only(rig, study).state is DocumentState.PENDING
    assert "token" in str(only(rig, study).reason)
    assert not service.requests
    (tmp_path / "token").write_text("s3cret", encoding="utf-8")
    (tmp_path / "token").chmod(0o600)
    rig.clock.move(RESEND_S)
    rig.bring(courier)
    assert service.order == [only(rig, study).document_id]
    assert "s3cret" not in " ".join(rig.told(study))


def test_documents_wait_for_a_context_file_that_can_be_read(
    rig: OutboxRig, courier: Courier, service: MoodyService
) -> None:
    context = rig.folder / "context.toml"
    whole = context.read_text(encoding="utf-8")
    context.write_text("[always\n", encoding="utf-8")
    study = rig.analysed(0)
    with pytest.raises(DestinationMisconfigured, match="context"):
        courier.work()
    row = only(rig, study)
    assert (row.state, row.attempts, row.preparations) == (DocumentState.PENDING, 0, 0)
    context.write_text(whole, encoding="utf-8")
    rig.bring(courier)
    assert service.order == [row.document_id], "and nobody started the node anew"


# files ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("harm", ["lost", "damaged", "another"])
def test_a_letter_that_is_lost_or_damaged_is_a_dead_letter_and_retry_writes_it_anew(
    rig: OutboxRig, courier: Courier, service: MoodyService, harm: str
) -> None:
    study = rig.analysed(0)
    service.mood = lambda: Mood.BROKEN
    rig.bring(courier)
    path = rig.pipeline.store.path(str(only(rig, study).path))
    if harm == "lost":
        path.unlink()
    else:
        path.write_bytes(b"rubbish" if harm == "damaged" else path.read_bytes().replace(b"P0", b"P1"))
    service.mood = lambda: Mood.HONEST
    rig.clock.move(RESEND_S)
    rig.bring(courier)
    row = only(rig, study)
    assert row.state is DocumentState.FAILED
    assert "radnode retry" in str(row.reason)
    assert not service.sendings, "what is not what was written is not sent"
    assert make_due(rig) == 1
    rig.bring(courier)
    _dead, anew = rig.rows(study)
    assert service.order == [anew.document_id]
    assert (anew.version, anew.replaces) == (2, row.document_id), "an answer of 500 does not say that nothing was kept"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "data"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=16m", "none", str(place)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"file systems cannot be mounted here: {mounted.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True, capture_output=True)


def test_a_full_disk_when_a_letter_is_written_loses_nothing(
    small_disk: Path, build: Build, service: MoodyService, tmp_path: Path
) -> None:
    rig = build(ledger={"url": f"sqlite:///{tmp_path / 'ledger.sqlite3'}"})
    studies = [rig.study(number) for number in range(2)]
    rig.settle()
    rig.finish()
    filler = small_disk / "filler"
    with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
        while True:
            file.write(b"0" * 4096)
    courier = rig.courier("emr")
    rig.bring(courier)
    rows = [only(rig, study) for study in studies]
    assert {(row.state, row.path) for row in rows} == {(DocumentState.PENDING, None)}
    assert "No space left" in str(rows[0].reason)
    assert not list((small_disk / "incoming").iterdir()), "nothing half written is left"
    filler.unlink()
    rig.clock.move(RESEND_S)
    rig.bring(courier)
    assert sorted(service.order) == sorted(row.document_id for row in rows)


def evict(rig: OutboxRig, *, after_days: float) -> None:
    rig.clock.move(after_days * 86400.0)
    Retention(rig.pipeline.ledger, rig.pipeline.store, StorageSettings(retention_days=30)).evict_due()


def files(rig: OutboxRig, pattern: str) -> list[Path]:
    return sorted(rig.settings.data_dir.rglob(pattern))


def test_what_waits_for_its_receiver_keeps_its_letter_and_not_its_images(build: Build, service: MoodyService) -> None:
    rig = build()
    study = rig.analysed(0)
    service.mood = lambda: Mood.BROKEN
    courier = rig.courier("emr")
    rig.bring(courier)
    settle_deliveries(rig)
    evict(rig, after_days=40)
    assert not files(rig, "instances/*/*.dcm")
    assert len(files(rig, "*.letter")) == 1
    service.mood = lambda: Mood.HONEST
    rig.bring(courier)
    assert service.order == [only(rig, study).document_id]
    evict(rig, after_days=10)
    assert files(rig, "*.letter"), "it arrived ten days ago"
    evict(rig, after_days=31)
    assert not files(rig, "*.letter")
    assert only(rig, study).path is None
    retract(rig, study)
    rig.bring(courier)
    assert [row.version for row in rig.rows(study)] == [1, 2], rig.rows(study)[-1].reason
    assert len(service.order) == 2


def test_what_is_not_written_yet_or_waits_for_a_person_keeps_its_images(
    rig: OutboxRig, courier: Courier, service: MoodyService
) -> None:
    change_patients(rig, "P0;Иванов;Иван", "P0;Петров;Иван")
    parked = rig.analysed(0)
    rig.bring(courier)
    unwritten = rig.analysed(1)
    settle_deliveries(rig)
    images = files(rig, "instances/*/*.dcm")
    evict(rig, after_days=40)
    assert files(rig, "instances/*/*.dcm") == images
    assert [only(rig, study).state for study in (parked, unwritten)] == [DocumentState.PARKED, DocumentState.PENDING]


def settle_deliveries(rig: OutboxRig) -> None:
    """Archives have everything: only the record is looked at."""
    with rig.pipeline.ledger.begin() as tx:
        tx.execute(delivery.update().values(state=DeliveryState.CONFIRMED, finished_at=rig.clock()))


# destinations that go ------------------------------------------------------------------------------------------------


def test_a_removed_destination_closes_its_documents_and_retry_brings_them_once_it_is_back(
    rig: OutboxRig, courier: Courier, service: MoodyService
) -> None:
    arrived = rig.analysed(0)
    rig.bring(courier)
    waits = rig.analysed(1)
    with rig.pipeline.ledger.begin() as tx:
        assert outbox.unknown_destinations(tx, ["other"]) == {"emr": 1}
        assert outbox.close_unknown(tx, ["other"], rig.clock()) == 1
        assert outbox.close_unknown(tx, ["other"], rig.clock()) == 0
    row = only(rig, waits)
    assert row.state is DocumentState.FAILED
    assert "no longer set" in str(row.reason)
    assert only(rig, arrived).state is DocumentState.HANDED_OVER
    assert make_due(rig, known=["other"]) == 0
    rig.bring(courier)
    assert len(service.order) == 1
    assert make_due(rig) == 1
    rig.bring(courier)
    assert service.order[1:] == [row.document_id]


def test_a_dead_letter_whose_files_were_evicted_is_written_anew_from_the_result(
    rig: OutboxRig, courier: Courier, service: MoodyService
) -> None:
    study = rig.analysed(0)
    service.mood = lambda: Mood.ECHOES
    rig.bring(courier)
    assert only(rig, study).state is DocumentState.FAILED
    settle_deliveries(rig)
    evict(rig, after_days=40)
    assert not files(rig, "instances/*/*.dcm")
    assert not files(rig, "*.letter")
    service.mood = lambda: Mood.HONEST
    assert make_due(rig) == 1
    rig.bring(courier)
    assert service.order == [only(rig, study).document_id], only(rig, study).reason
    assert said(service.held[service.order[0]], "//v:recordTarget/v:patientRole/v:id[1]/@extension") == "P0"


def test_a_receiver_that_is_far_behind_gets_no_more_letters_written_than_are_allowed(
    build: Build, service: MoodyService
) -> None:
    rig = build(patients=8, outbox={"max_written": 4, "batch": 2})
    for number in range(8):
        rig.study(number)
    rig.settle()
    rig.finish()
    with rig.pipeline.ledger.begin() as tx:
        holds.hold(tx, Hold(destination="emr", since=rig.clock(), operator="admin", why="moving"))
    courier = rig.courier("emr")
    rig.bring(courier)
    assert len(files(rig, "*.letter")) == 4
    with rig.pipeline.ledger.begin() as tx:
        holds.release(tx, "emr")
    rig.bring(courier)
    assert service.order == [row.document_id for row in rig.every_row()], "oldest first"

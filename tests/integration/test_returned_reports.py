"""Reports that come back are linked to their study and become truth, on both databases."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from dicom_node.ehr.inbound import RadiologistReport, ReportStatus
from dicom_node.facts import InstanceFacts
from dicom_node.ledger import Ledger, events, instances, truths
from dicom_node.ledger.truths import Entered, NewTruth
from dicom_node.returned.reports import Agreement, Answered, Taken, agreement, take_report
from dicom_node.returned.rules import read_rules
from dicom_node.states import Reading, TruthSource
from inference.findings import StudyUid
from tests.ledgers import TestClock
from tests.service import Service

RULES = read_rules("radiology")
PNEUMONIA = "Правосторонняя нижнедолевая пневмония у Ивановой."
CLEAR = "Очаговых и инфильтративных изменений не выявлено."


@pytest.fixture
def service(ledger: Ledger, clock: TestClock) -> Service:
    return Service(ledger, clock)


def film(service: Service, *, accession: str = "", modality: str = "DX", score: float = 0.9) -> StudyUid:
    """A study of one film on which the model has spoken."""
    study = service.arrive()
    service.analyse(study, score)
    with service.ledger.begin() as tx:
        (stored,) = instances.of_study(tx, study)
        instances.set_indexed(tx, stored.id, InstanceFacts(modality=modality, accession_number=accession))
    return study


def report(
    service: Service, study: StudyUid | None, conclusion: str = PNEUMONIA, **changes: object
) -> RadiologistReport:
    values: dict[str, object] = {
        "report_id": "R1", "study_uid": study, "accession_number": None, "patient_id": "77-1",
        "status": ReportStatus.FINAL, "conclusion": conclusion, "signed_at": service.clock(),
    }  # fmt: skip
    return RadiologistReport(**values | changes)  # type: ignore[arg-type]


def take(service: Service, one: RadiologistReport, **changes: object) -> Taken:
    values: dict[str, object] = {
        "source": TruthSource.HL7, "labels": {"opacity", "nodule"}, "now": service.clock.move(60),
    }  # fmt: skip
    return take_report(service.ledger, one, RULES, **values | changes)  # type: ignore[arg-type]


def held(service: Service, study: StudyUid) -> dict[str, Reading]:
    with service.ledger.read() as tx:
        return {one.label: one.reading for one in truths.current(tx, study)}


def told(service: Service, study: StudyUid) -> list[str]:
    with service.ledger.read() as tx:
        return [f"{one.what} | {one.detail}" for one in events.of_study(tx, study) if one.stage == "return"]


def test_a_signed_report_becomes_truth_and_its_account_says_how_it_agrees(service: Service) -> None:
    study = film(service)
    taken = take(service, report(service, study))
    assert taken.answered is Answered.TAKEN
    (label,) = taken.labels
    assert (label.label, label.reading, label.entered) == ("opacity", Reading.POSITIVE, Entered.NEW)
    assert label.against == (("toy-opacity@1.0.0", Agreement.AGREE),)
    assert told(service, study) == [
        "the radiologist's report: opacity positive (agrees with toy-opacity@1.0.0)"
        " | decided by radiology 1: infiltrate affirmed; by hl7"
    ]


@pytest.mark.parametrize(
    ("conclusion", "score", "expected"),
    [
        (PNEUMONIA, 0.9, Agreement.AGREE),
        (PNEUMONIA, 0.1, Agreement.DISAGREE),
        (CLEAR, 0.9, Agreement.DISAGREE),
        (CLEAR, 0.1, Agreement.AGREE),
        ("Нельзя исключить пневмонию.", 0.9, Agreement.UNCLEAR),
    ],
)
def test_agreement_is_between_the_report_and_the_label(
    service: Service, conclusion: str, score: float, expected: Agreement
) -> None:
    study = film(service, score=score)
    (label,) = take(service, report(service, study, conclusion)).labels
    assert [how for _model, how in label.against] == [expected]


def test_agreement_knows_no_fourth_answer() -> None:
    said = {(reading, present): agreement(reading, present=present) for reading in Reading for present in (True, False)}
    assert [said[Reading.POSITIVE, True], said[Reading.NEGATIVE, False]] == [Agreement.AGREE] * 2
    assert [said[Reading.POSITIVE, False], said[Reading.NEGATIVE, True]] == [Agreement.DISAGREE] * 2
    assert [said[Reading.UNCLEAR, True], said[Reading.UNCLEAR, False]] == [Agreement.UNCLEAR] * 2


def test_the_same_report_twice_is_taken_once(service: Service) -> None:
    study = film(service)
    first = report(service, study)
    take(service, first)
    again = take(service, first)
    assert [one.entered for one in again.labels] == [Entered.SAME]
    assert len(told(service, study)) == 1


def test_a_corrected_report_replaces_and_an_older_one_does_not(service: Service) -> None:
    study = film(service)
    first = report(service, study)
    take(service, first)
    corrected = report(service, study, CLEAR, status=ReportStatus.CORRECTED)
    assert [one.entered for one in take(service, corrected).labels] == [Entered.REPLACED]
    assert [one.entered for one in take(service, first).labels] == [Entered.OLDER]
    assert held(service, study) == {"opacity": Reading.NEGATIVE}


def test_a_preliminary_report_decides_nothing(service: Service) -> None:
    study = film(service)
    taken = take(service, report(service, study, status=ReportStatus.PRELIMINARY))
    assert (taken.answered, held(service, study)) == (Answered.IGNORED, {})
    assert "preliminary" in taken.why


def test_a_withdrawn_report_takes_its_reading_back_for_good(service: Service) -> None:
    study = film(service)
    first = report(service, study)
    take(service, first)
    withdrawn = report(service, study, "", status=ReportStatus.WITHDRAWN)
    assert take(service, withdrawn).answered is Answered.WITHDRAWN
    assert held(service, study) == {}
    assert [one.entered for one in take(service, first).labels] == [None]
    assert held(service, study) == {}
    assert take(service, withdrawn).why.endswith("nothing of it was held")
    take(service, report(service, study, CLEAR, status=ReportStatus.CORRECTED))
    assert held(service, study) == {"opacity": Reading.NEGATIVE}


def test_a_withdrawal_leaves_what_a_person_entered_from_a_table(service: Service) -> None:
    study = film(service)
    entered = NewTruth(
        study_uid=study, reading=Reading.POSITIVE, source=TruthSource.CSV, rule="column", read_at=service.clock()
    )
    with service.ledger.begin() as tx:
        truths.record(tx, entered, service.clock())
    take(service, report(service, study))
    take(service, report(service, study, "", status=ReportStatus.WITHDRAWN))
    assert held(service, study) == {"": Reading.POSITIVE}


def test_a_report_is_linked_by_an_accession_number_that_one_study_has(service: Service) -> None:
    study = film(service, accession="A1")
    assert take(service, report(service, None, accession_number="A1")).study_uid == study


def test_two_studies_under_one_accession_number_are_refused(service: Service) -> None:
    studies = [film(service, accession="A1"), film(service, accession="A1")]
    taken = take(service, report(service, None, accession_number="A1"))
    assert (taken.answered, taken.study_uid) == (Answered.REFUSED, None)
    assert "several studies" in taken.why
    assert [held(service, one) for one in studies] == [{}, {}]


@pytest.mark.parametrize("link", [{"study_uid": StudyUid("1.2.3")}, {"study_uid": None, "accession_number": "NONE"}])
def test_a_report_of_no_known_study_is_refused_with_the_reason(service: Service, link: dict[str, object]) -> None:
    taken = take(service, replace(report(service, None), **link))  # type: ignore[arg-type]
    assert taken.answered is Answered.REFUSED
    assert not any(secret in taken.why for secret in ("NONE", "1.2.3", "77-1"))


def test_another_patient_under_the_accession_number_is_refused(service: Service) -> None:
    film(service, accession="A1")
    one = report(service, None, accession_number="A1")
    assert take(service, one, patient_ids=lambda _study: {"88-2"}).answered is Answered.REFUSED
    assert take(service, one, patient_ids=lambda _study: set()).answered is Answered.TAKEN
    assert take(service, one, patient_ids=lambda _study: {"77-1", "88-2"}).answered is Answered.TAKEN


def test_a_report_is_read_for_labels_of_its_modality_only(service: Service) -> None:
    study = film(service, modality="CT")
    (label,) = take(service, report(service, study, "Очаг в S2 справа.")).labels
    assert label.label == "nodule"
    assert take(service, report(service, film(service, modality="MG"))).answered is Answered.IGNORED


def test_a_report_from_a_clock_that_goes_fast_does_not_block_the_next(service: Service) -> None:
    study = film(service)
    take(service, report(service, study, signed_at=service.clock() + timedelta(days=9)))
    later = take(service, report(service, study, CLEAR, status=ReportStatus.CORRECTED, signed_at=None))
    assert [one.entered for one in later.labels] == [Entered.REPLACED]


def test_nothing_of_the_text_reaches_the_ledger(service: Service) -> None:
    study = film(service)
    taken = take(service, report(service, study))
    with service.ledger.read() as tx:
        rows = [str(row) for table in ("truth", "event") for row in tx.exec_driver_sql(f"SELECT * FROM {table}")]
    assert not any(word in text for word in ("Иванов", "пневмони", "77-1") for text in [*rows, repr(taken)])

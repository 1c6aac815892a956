"""From images to the exchange of Moscow: what the outbox brings to real brokers for studies that end in every way."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from dicom_node.outbox.courier import Courier
from dicom_node.states import DocumentKind, DocumentState
from inference.refusals import Reason, Refusal
from tests.kafka_brokers import Brokers, Received
from tests.outbox_rig import OutboxRig

RESULTS, ERRORS = "DICOMREPORTNOTIFY", "PUMCONSUMERERROR"


@pytest.fixture
def brokers() -> Iterator[Brokers]:
    with Brokers(2) as running:
        yield running


def _rig(folder: Path, brokers: Brokers, **changed: Any) -> OutboxRig:
    record = {
        "name": "exchange",
        "kind": "kafka",
        "bootstrap_servers": list(brokers.addresses),
        "profile": "moscow",
        "accept_research": True,
        "model_ids": {"toy-opacity": 42},
        "connect_timeout_s": 1.0,
        "response_timeout_s": 2.0,
    }
    return OutboxRig(folder, [record | changed], profile=[{"name": "default"}, {"name": "moscow", "form": "moscow"}])


@pytest.fixture
def rig(tmp_path: Path, brokers: Brokers) -> Iterator[OutboxRig]:
    made = _rig(tmp_path, brokers)
    yield made
    made.close()


@pytest.fixture
def courier(rig: OutboxRig) -> Iterator[Courier]:
    made = rig.courier("exchange")
    yield made
    made.close()


def _schema(kind: str) -> Draft202012Validator:
    text = resources.files("dicom_node.ehr.moscow").joinpath("schemas", f"{kind}.schema.json").read_text("utf-8")
    return Draft202012Validator(json.loads(text))


def _said(found: Received, kind: str) -> dict[str, Any]:
    whole = json.loads(found.value)
    _schema(kind).validate(whole)
    assert found.key == whole["studyIUID"]
    result: dict[str, Any] = whole["aiResult"]
    return result


def _refuse(rig: OutboxRig, reason: Reason) -> None:
    rig.settle()
    for job in rig.claim():
        rig.pipeline.encode(rig.say(job, refusal=Refusal(reason=reason)), "node:worker0:1")


@pytest.mark.parametrize("lesions", [0, 2])
def test_a_result_names_the_one_series_of_pictures_of_the_study(
    rig: OutboxRig, courier: Courier, brokers: Brokers, lesions: int
) -> None:
    study = rig.analysed(1, lesions=lesions)
    rig.bring(courier)
    (row,) = rig.rows(study)
    assert row.state is DocumentState.HANDED_OVER, row
    (found,) = brokers.read(RESULTS, 1)
    said = _said(found, "result")
    assert said["norma"] is (lesions == 0) and said["modelId"] == 42
    written = next(one for one in rig.account(study).results if one.profile == "moscow")
    assert {one.series_uid for one in written.objects if one.role == "overlay"} == {said["seriesIUID"]}
    assert row.receiver_ids == (f"{found.topic}/{found.partition}/{found.offset}",)
    assert found.headers["radnode-document-id"] == row.document_id
    assert "исследовательск" in said["conclusion"]
    for planted in ("IVANOV", "Иванов", "P1", "ACC1"):
        assert planted not in found.value.decode()


def test_a_study_that_a_model_could_not_analyse_is_told_as_an_error(
    rig: OutboxRig, courier: Courier, brokers: Brokers
) -> None:
    study = rig.study(1)
    _refuse(rig, Reason.VIEW)
    rig.bring(courier)
    (row,) = rig.rows(study)
    assert (row.kind, row.state) == (DocumentKind.REFUSAL, DocumentState.HANDED_OVER)
    (found,) = brokers.read(ERRORS, 1)
    assert _said(found, "error")["error"] == "Series error"


def test_not_even_the_refusal_of_a_research_model_is_told_without_leave(tmp_path: Path, brokers: Brokers) -> None:
    rig = _rig(tmp_path, brokers, accept_research=False)
    courier = rig.courier("exchange")
    study = rig.study(1)
    _refuse(rig, Reason.VIEW)
    rig.bring(courier)
    assert [row.state for row in rig.rows(study)] == [DocumentState.WITHHELD]
    courier.close()
    rig.close()


def test_an_error_after_a_result_takes_the_result_back(rig: OutboxRig, courier: Courier, brokers: Brokers) -> None:
    rig.analysed(1)
    rig.bring(courier)
    rig.study(1, SOPInstanceUID="1.2.826.0.1.77.1.9")
    _refuse(rig, Reason.INCOMPLETE)
    rig.bring(courier)
    assert _said(brokers.read(RESULTS, 1)[0], "result")["pathologyFlag"] is True
    said = _said(brokers.read(ERRORS, 1)[0], "error")
    assert said["error"] == "Incorrect number of images" and "отозван" in said["description"]


def test_a_second_patient_in_the_study_takes_the_result_back(
    rig: OutboxRig, courier: Courier, brokers: Brokers
) -> None:
    study = rig.analysed(1)
    rig.bring(courier)
    rig.study(1, patient=2)
    rig.settle()
    rig.bring(courier)
    assert [row.state for row in rig.rows(study)] == [DocumentState.HANDED_OVER] * 2
    (found,) = brokers.read(ERRORS, 1)
    assert _said(found, "error")["error"] == "Other" and found.headers["radnode-document-version"] == "2"


def test_brokers_that_were_away_get_everything_once_and_in_order(
    rig: OutboxRig, courier: Courier, brokers: Brokers
) -> None:
    brokers.go_down()
    studies = [rig.analysed(number) for number in range(3)]
    rig.bring(courier, rounds=4)
    assert {row.state for study in studies for row in rig.rows(study)} == {DocumentState.PENDING}
    brokers.come_up()
    for _ in range(8):
        rig.clock.move(900.0)
        rig.bring(courier)
    assert {row.state for study in studies for row in rig.rows(study)} == {DocumentState.HANDED_OVER}
    assert sorted(one.key for one in brokers.read(RESULTS, 3)) == sorted(studies)


def test_a_model_without_a_number_is_parked_with_the_setting_that_lacks(tmp_path: Path, brokers: Brokers) -> None:
    rig = _rig(tmp_path, brokers, model_ids={})
    courier = rig.courier("exchange")
    study = rig.analysed(1)
    rig.bring(courier)
    (row,) = rig.rows(study)
    assert row.state is DocumentState.PARKED and "moscow.model_ids.toy-opacity" in str(row.reason)
    courier.close()
    rig.close()

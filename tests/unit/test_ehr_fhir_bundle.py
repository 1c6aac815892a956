from __future__ import annotations

import base64
import json
from dataclasses import replace
from typing import Any

import pytest

from dicom_node.ehr.context import ContextMissing, DocumentRequest, Identifier, Order, Revision
from dicom_node.ehr.fhir.bundle import write_bundle
from dicom_node.ehr.fhir.entries import Attachment
from dicom_node.ehr.fhir.profile import read_profile
from dicom_node.ehr.profile_file import ProfileError
from tests.medplum import schema_faults
from tests.record_cases import NOON, hostile_record, make_record

PLAIN = read_profile("plain")
ODII = read_profile("odii")
PDF = Attachment(media_type="application/pdf", title="Протокол", data=b"%PDF-1.4 not a real one")


def _bundle(request: DocumentRequest, **options: Any) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(write_bundle(request, PLAIN, **options))
    return made


def _of_kind(bundle: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [entry["resource"] for entry in bundle["entry"] if entry["resource"]["resourceType"] == kind]


@pytest.mark.parametrize("bare", [False, True], ids=["full", "bare"])
@pytest.mark.parametrize("lesions", [0, 1, 2, 12])
def test_a_bundle_meets_the_official_schema_of_r4(lesions: int, bare: bool) -> None:
    assert schema_faults(_bundle(make_record(lesions=lesions, bare=bare), attachments=[PDF])) == []


def test_the_schema_catches_what_is_wrong() -> None:
    bundle = _bundle(make_record())
    _of_kind(bundle, "Observation")[0]["status"] = "unsigned"
    del _of_kind(bundle, "DiagnosticReport")[0]["code"]
    assert len(schema_faults(bundle)) == 2


def test_there_is_an_observation_for_each_lesion_and_one_for_the_study() -> None:
    for lesions in (0, 1, 2, 12):
        bundle = _bundle(make_record(lesions=lesions))
        report = _of_kind(bundle, "DiagnosticReport")[0]
        assert len(_of_kind(bundle, "Observation")) == 1 + lesions == len(report["result"])


def test_a_lesion_carries_site_side_score_sizes_and_place() -> None:
    lesion = _of_kind(_bundle(make_record(lesions=1)), "Observation")[1]
    shown = {part["code"].get("text") or part["code"]["coding"][0]["display"]: part for part in lesion["component"]}
    assert lesion["bodySite"]["coding"][0]["code"] == "39607008"
    assert lesion["status"] == "preliminary"
    assert shown["Certainty of Finding"]["valueQuantity"] == {
        "value": 87.4,
        "unit": "%",
        "system": "http://unitsofmeasure.org",
        "code": "%",
    }
    assert shown["Long Axis"]["valueQuantity"]["value"] == 34.25
    assert shown["Laterality"]["valueCodeableConcept"]["coding"][0]["display"] == "Right"
    assert "columns 100.0 to 130.0, rows 200.0 to 260.0" in shown["Place on the image"]["valueString"]


def test_a_score_is_a_probability_of_cancer_only_where_the_card_says_so() -> None:
    codes = {
        cancer: _of_kind(_bundle(make_record(cancer=cancer)), "Observation")[0]["component"][0]["code"]["coding"][0][
            "code"
        ]
        for cancer in (False, True)
    }
    assert codes == {False: "111012", True: "111047"}


def test_every_reference_leads_into_the_bundle() -> None:
    bundle = _bundle(make_record(lesions=2))
    names = {entry["fullUrl"] for entry in bundle["entry"]}
    found = [text for text in _strings(bundle, "reference") if text != "#dicomweb"]
    assert len(names) == len(bundle["entry"]) == 8
    assert set(found) <= names


def _strings(value: Any, key: str) -> list[str]:
    if isinstance(value, dict):
        own = [value[key]] if isinstance(value.get(key), str) else []
        return own + [text for item in value.values() for text in _strings(item, key)]
    return [text for item in value for text in _strings(item, key)] if isinstance(value, list) else []


def test_a_second_attempt_writes_equal_bytes() -> None:
    assert write_bundle(make_record(), PLAIN) == write_bundle(make_record(), PLAIN)


def test_a_first_version_only_creates_and_a_correction_replaces_the_report() -> None:
    first = make_record(document_id="a" * 64)
    second = make_record(
        document_id="b" * 64, lesions=1, revision=Revision(set_id="s" * 64, version=2, replaces_id="a" * 64)
    )
    before, after = _bundle(first), _bundle(second, replaced=first)
    assert {entry["request"]["method"] for entry in before["entry"]} == {"POST"}
    report = next(entry for entry in after["entry"] if entry["resource"]["resourceType"] == "DiagnosticReport")
    assert report["request"]["method"] == "PUT"
    assert report["resource"]["status"] == "amended"
    assert report["fullUrl"] in {entry["fullUrl"] for entry in before["entry"]}
    old = {entry["fullUrl"] for entry in before["entry"] if entry["resource"]["resourceType"] == "Observation"}
    closed = {entry["fullUrl"]: entry["resource"]["status"] for entry in after["entry"] if entry["fullUrl"] in old}
    assert closed == dict.fromkeys(old, "entered-in-error")
    assert not old & {one["reference"] for one in report["resource"]["result"]}
    assert schema_faults(after) == []


def test_a_withdrawal_says_nothing_of_the_findings() -> None:
    first = make_record(document_id="a" * 64)
    revision = Revision(set_id="s" * 64, version=2, replaces_id="a" * 64, withdrawn=True)
    bundle = _bundle(make_record(document_id="b" * 64, revision=revision), replaced=first, attachments=[PDF])
    report = _of_kind(bundle, "DiagnosticReport")[0]
    assert report["status"] == "entered-in-error"
    assert {one["status"] for one in _of_kind(bundle, "Observation")} == {"entered-in-error"}
    assert "presentedForm" not in report
    assert "87" not in report["conclusion"] + report["text"]["div"]
    assert schema_faults(bundle) == []


def test_a_replaced_document_must_be_the_one_that_the_revision_names() -> None:
    revision = Revision(set_id="s" * 64, version=2, replaces_id="a" * 64)
    with pytest.raises(ValueError, match="not the one"):
        write_bundle(make_record(revision=revision), PLAIN, replaced=make_record(document_id="c" * 64))


def test_hostile_text_stays_text() -> None:
    bundle = _bundle(hostile_record())
    assert schema_faults(bundle) == []
    div = _of_kind(bundle, "DiagnosticReport")[0]["text"]["div"]
    assert "<b>&" not in div.replace("<p><b>", "") and "&lt;b&gt;&amp;" in div
    assert not set("\x00\x0b\x1c") & set(json.dumps(bundle, ensure_ascii=False))


def test_the_ai_is_neither_author_nor_signer() -> None:
    bundle = _bundle(make_record())
    provenance, report = _of_kind(bundle, "Provenance")[0], _of_kind(bundle, "DiagnosticReport")[0]
    device = next(entry["fullUrl"] for entry in bundle["entry"] if entry["resource"]["resourceType"] == "Device")
    assert [agent["who"]["reference"] for agent in provenance["agent"]] == [device]
    assert provenance["agent"][0]["type"]["coding"][0]["code"] == "assembler"
    assert "signature" not in provenance and "resultsInterpreter" not in report


@pytest.mark.parametrize("profile", [PLAIN, ODII], ids=["plain", "regional"])
def test_every_part_that_may_be_read_alone_carries_the_warning(profile: Any) -> None:
    request = make_record(lesions=2)
    bundle = json.loads(write_bundle(request, profile))
    for one in _of_kind(bundle, "Observation"):
        assert [note["text"] for note in one["note"]] == list(request.text.warnings)
    if profile is PLAIN:
        report = _of_kind(bundle, "DiagnosticReport")[0]
        assert all(
            warning in report["conclusion"] and warning in report["text"]["div"] for warning in request.text.warnings
        )


def test_the_device_is_the_model_with_its_digests() -> None:
    request = make_record()
    device = _of_kind(_bundle(request), "Device")[0]
    versions = {one["type"]["text"]: one["value"] for one in device["version"]}
    assert versions["model digest, SHA-256"] == request.findings.model.model_digest
    assert device["identifier"][0]["value"] == f"urn:oid:{request.card.device_uid}"


@pytest.mark.parametrize("lesions", [0, 2])
@pytest.mark.parametrize("withdrawn", [False, True])
def test_the_regional_profile_meets_the_schema_too(lesions: int, withdrawn: bool) -> None:
    revision = Revision(set_id="s" * 64, version=2 if withdrawn else 1, withdrawn=withdrawn)
    bundle = json.loads(write_bundle(make_record(lesions=lesions, revision=revision), ODII, attachments=[PDF]))
    kinds = [entry["resource"]["resourceType"] for entry in bundle["entry"]]
    assert kinds == ["Task", "DiagnosticReport", "Observation", "Observation"] + ([] if withdrawn else ["Binary"])
    assert schema_faults(bundle) == []
    task, report = _of_kind(bundle, "Task")[0], _of_kind(bundle, "DiagnosticReport")[0]
    assert task["intent"] == "reflex-order" and task["basedOn"] == [{"reference": "Task/ord-5"}]
    assert report["status"] == ("entered-in-error" if withdrawn else "partial")
    codes = [one["code"]["coding"][0]["code"] for one in _of_kind(bundle, "Observation")]
    assert codes == ["1", "2"]


def test_a_region_may_have_documents_inside_the_report() -> None:
    inline = ODII.model_copy(update={"documents": "inline"})
    bundle = json.loads(write_bundle(make_record(), inline, attachments=[PDF]))
    form = _of_kind(bundle, "DiagnosticReport")[0]["presentedForm"][0]
    assert base64.b64decode(form["data"]) == PDF.data
    assert _of_kind(bundle, "Binary") == [] and schema_faults(bundle) == []


def test_the_regional_profile_names_all_that_is_missing() -> None:
    with pytest.raises(ContextMissing) as raised:
        write_bundle(make_record(bare=True), ODII)
    assert raised.value.missing == ("order.placer", "performer")


def test_an_order_that_is_no_id_of_fhir_is_named_by_its_number() -> None:
    order = Order(placer=Identifier(value="№ 5/26", system="1.2.3"))
    bundle = json.loads(write_bundle(replace(make_record(), order=order), ODII))
    assert _of_kind(bundle, "Task")[0]["basedOn"][0]["identifier"]["value"] == "№ 5/26"
    assert schema_faults(bundle) == []


def test_a_profile_with_a_misspelt_key_is_refused_with_its_name(tmp_path: Any) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('kind = "plain"\npatient_sistem = "1.2.3"\n', encoding="utf-8")
    with pytest.raises(ProfileError, match="patient_sistem"):
        read_profile(str(path))


def test_moments_carry_their_offset() -> None:
    report = _of_kind(_bundle(make_record()), "DiagnosticReport")[0]
    assert report["issued"] == NOON.isoformat()

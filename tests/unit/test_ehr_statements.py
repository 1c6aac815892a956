from __future__ import annotations

import json
from dataclasses import replace

import pytest

from dicom_node.ehr.context import DocumentRequest
from dicom_node.ehr.fhir.bundle import write_bundle
from dicom_node.ehr.fhir.profile import read_profile
from dicom_node.ehr.hl7v2.encoding import named, read_segments
from dicom_node.ehr.hl7v2.oru import write_oru
from dicom_node.ehr.hl7v2.profile import OruProfile
from dicom_node.ehr.statements import place_text, study_statements
from inference.findings import Box, Finding, PlanarRegion, Presence, SopUid
from models.codes import Code, Text
from tests.medplum import schema_faults
from tests.record_cases import IMAGE, make_record


def _with(request: DocumentRequest, *findings: Finding) -> DocumentRequest:
    return replace(request, findings=replace(request.findings, findings=findings))


def _statement(request: DocumentRequest) -> tuple[Presence, float | None]:
    (said,) = study_statements(request.findings, request.card)
    return said.presence, said.score


def _said(request: DocumentRequest) -> Finding:
    return request.findings.findings[0]


def test_the_statement_about_the_study_wins_over_that_about_a_picture() -> None:
    request = make_record(lesions=0)
    whole = replace(_said(request), sop_instance_uid=None, score=0.31)
    assert _statement(_with(request, _said(request), whole)) == (Presence.ABSENT, 0.31)


def test_of_several_pictures_the_most_suspicious_counts() -> None:
    request = make_record(lesions=0)
    other = replace(_said(request), sop_instance_uid=SopUid("2.25.7"), score=0.6, presence=Presence.PRESENT)
    assert _statement(_with(request, _said(request), other)) == (Presence.PRESENT, 0.6)


def test_a_lesion_is_present_and_its_score_stands_in_where_there_is_no_other() -> None:
    assert _statement(_with(make_record(lesions=2))) == (Presence.PRESENT, 0.874)


def test_silence_is_absent_without_a_score() -> None:
    assert _statement(_with(make_record(lesions=0))) == (Presence.ABSENT, None)


def test_what_is_undetermined_has_no_score() -> None:
    request = make_record(lesions=0)
    said = replace(_said(request), presence=Presence.UNDETERMINED)
    assert _statement(_with(request, said)) == (Presence.UNDETERMINED, None)


@pytest.mark.parametrize("presence", list(Presence))
@pytest.mark.parametrize("silent", [False, True])
def test_both_formats_say_the_same_of_the_study(presence: Presence, silent: bool) -> None:
    request = make_record(lesions=0)
    request = _with(request, *([] if silent else [replace(_said(request), presence=presence)]))
    (said,) = study_statements(request.findings, request.card)
    bundle = json.loads(write_bundle(request, read_profile("plain")))
    (observation,) = [one["resource"] for one in bundle["entry"] if one["resource"]["resourceType"] == "Observation"]
    lines = [
        one for one in named(read_segments(write_oru(request, OruProfile()).decode()), "OBX") if one.value(4) == "0.1"
    ]
    assert observation["valueCodeableConcept"]["coding"][0]["display"].lower() == said.presence.value
    assert lines[0].value(5, 2).lower() == said.presence.value
    assert ("valueQuantity" in observation["component"][0]) == (len(lines) == 2) == (said.score is not None)
    assert schema_faults(bundle) == []


def test_every_label_of_a_card_has_its_observation_with_its_own_lesions() -> None:
    request = make_record(lesions=2)
    first = request.card.labels[0]
    second = first.model_copy(
        update={
            "key": "nodule",
            "title": Text(en="Nodule", ru="Узел"),
            "finding": Code(value="786838002", scheme="SCT", meaning="Lung nodule"),
        }
    )
    card = request.card.model_copy(update={"labels": (first, second)})
    one, other = request.findings.lesions
    findings = replace(request.findings, lesions=(one, replace(other, label="nodule", code=second.finding)))
    bundle = json.loads(write_bundle(replace(request, card=card, findings=findings), read_profile("plain")))
    found = {entry["fullUrl"]: entry["resource"] for entry in bundle["entry"]}
    whole = [one for one in found.values() if "hasMember" in one]
    assert [one["code"]["text"] for one in whole] == ["Затемнение в лёгком", "Узел"]
    for statement in whole:
        (member,) = statement["hasMember"]
        assert found[member["reference"]]["code"] == statement["code"]
    assert schema_faults(bundle) == []


def test_a_place_names_image_frame_and_box() -> None:
    box = Box(x_min=1, y_min=2, x_max=3.25, y_max=4)
    plane = PlanarRegion(sop_instance_uid=IMAGE, frame_number=7, box=box)
    assert place_text(plane) == f"image {IMAGE}, frame 7, columns 1.0 to 3.2, rows 2.0 to 4.0"

"""A result's identity: the same word on a study is the same objects, byte for byte; another word is other objects."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import UID

from dicom_node.results.profile import Profile
from dicom_node.results.request import EncodeRequest, Role
from dicom_node.results.result_set import encode
from dicom_node.results.uids import result_key, uid_of
from inference.findings import Findings
from inference.refusals import Reason, Refusal
from models.card import ModelCard
from tests.dx_wrapping import write_dx
from tests.results_cases import NOON, make_card, make_findings, make_request


@pytest.fixture(scope="module")
def card() -> ModelCard:
    return make_card()


@pytest.fixture(scope="module")
def film(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dx(min((shared_data / "chest_xray_nih" / "images").glob("*")), tmp_path_factory.mktemp("film"))


@pytest.fixture(scope="module")
def findings(film: Path, card: ModelCard) -> Findings:
    return make_findings([film], card)


def _uids(request: EncodeRequest) -> set[str]:
    key = result_key(request)
    return {key.instance_uid(Role.SR), key.instance_uid(Role.OVERLAY), key.series_uid(Role.OVERLAY)}


def test_the_same_request_gives_the_same_bytes(film: Path, card: ModelCard, findings: Findings) -> None:
    request = make_request([film], card=card, findings=findings)
    assert encode(request) == encode(request)


def test_another_process_gives_the_same_uids(film: Path, card: ModelCard, findings: Findings) -> None:
    key = result_key(make_request([film], card=card, findings=findings))
    program = (
        "from dicom_node.results.uids import ResultKey; from dicom_node.results.request import Role; "
        f"print(ResultKey(study_uid={key.study_uid!r}, inputs={key.inputs!r}, model={key.model!r}, "
        f"findings={key.findings!r}, profile={key.profile!r}).instance_uid(Role.SR))"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.strip() == key.instance_uid(Role.SR)


def test_other_content_is_another_uid(film: Path, card: ModelCard, findings: Findings) -> None:
    requests = [
        make_request([film], card=card, findings=findings),
        make_request([film], card=card, findings=findings, profile=Profile(language="en")),
        make_request([film], card=card, findings=findings, profile=Profile(name="other")),
        make_request([film], card=card, findings=dataclasses.replace(findings, lesions=findings.lesions[:1])),
        make_request([film], card=card, findings=dataclasses.replace(findings, inputs_digest="0" * 64)),
        make_request([film], card=card, refusal=Refusal(reason=Reason.AGE)),
        make_request([film], card=card, refusal=Refusal(reason=Reason.VIEW)),
        make_request([film], card=None, refusal=Refusal(reason=Reason.AGE)),
        make_request([film], card=card, refusal=Refusal(reason=Reason.AGE, detail="7 years")),
    ]
    sets = [_uids(request) for request in requests]
    assert len(set.union(*sets)) == 3 * len(requests)


def test_another_model_is_another_uid_and_another_device(film: Path) -> None:
    old, new = make_card(), make_card(version="1.3.0")
    requests = [make_request([film], card=card, findings=make_findings([film], card)) for card in (old, new)]
    assert _uids(requests[0]).isdisjoint(_uids(requests[1]))
    assert old.device_uid != new.device_uid


def test_the_time_of_a_retry_changes_no_uid(film: Path, card: ModelCard, findings: Findings) -> None:
    request = make_request([film], card=card, findings=findings)
    later = dataclasses.replace(request, content_time=NOON.replace(hour=18))
    assert [known.sop_instance_uid for known in encode(later)] == [known.sop_instance_uid for known in encode(request)]


def test_a_derived_uid_is_the_decimal_form_of_a_uuid() -> None:
    uid = UID(uid_of("a", "b"))
    assert uid.is_valid
    assert uid.startswith("2.25.")
    number = int(uid.removeprefix("2.25."))
    assert (number >> 76) & 0xF == 8
    assert (number >> 62) & 0x3 == 2
    assert uid_of("a", "b") != uid_of("ab", "")


def test_equipment_observer_and_algorithm_carry_equal_values(film: Path, card: ModelCard, findings: Findings) -> None:
    from io import BytesIO

    report = dcmread(BytesIO(encode(make_request([film], card=card, findings=findings))[0].data))
    (equipment,) = report.ContributingEquipmentSequence
    assert equipment.PurposeOfReferenceCodeSequence[0].CodeValue == "109102"
    words = {}
    for item in report.iterall():
        if item.keyword == "ContentSequence":
            for content in item.value:
                if "ConceptNameCodeSequence" in content:
                    value = content.get("TextValue") or content.get("UID")
                    words.setdefault(content.ConceptNameCodeSequence[0].CodeValue, value)
    assert equipment.DeviceUID == words["121012"] == card.device_uid
    assert equipment.ManufacturerModelName == words["121013"] == words["121015"] == words["111001"] == "test-opacity"
    assert equipment.Manufacturer == words["121014"] == "radnode tests"
    assert equipment.SoftwareVersions == words["111003"] == "1.2.0"


def test_a_report_is_complete_unverified_and_preliminary(film: Path, card: ModelCard, findings: Findings) -> None:
    from io import BytesIO

    report = dcmread(BytesIO(encode(make_request([film], card=card, findings=findings))[0].data))
    assert (report.CompletionFlag, report.VerificationFlag, report.PreliminaryFlag) == (
        "COMPLETE",
        "UNVERIFIED",
        "PRELIMINARY",
    )


@pytest.mark.parametrize(("cancer", "code"), [(True, "111047"), (False, "111012")])
def test_only_a_cancer_label_is_reported_as_a_probability_of_cancer(cancer: bool, code: str, film: Path) -> None:
    card = make_card(cancer=cancer)
    report = encode(make_request([film], card=card, findings=make_findings([film], card)))[0].data
    assert code.encode() in report
    assert (b"111047" in report) is cancer


def test_the_card_has_to_be_the_one_that_spoke(film: Path, findings: Findings) -> None:
    with pytest.raises(ValueError, match="model digests differ"):
        make_request([film], card=make_card(version="9.9.9"), findings=findings)


def test_a_request_says_exactly_one_thing(film: Path, card: ModelCard, findings: Findings) -> None:
    with pytest.raises(ValueError, match="either findings or a refusal"):
        make_request([film], card=card)
    with pytest.raises(ValueError, match="either findings or a refusal"):
        make_request([film], card=card, findings=findings, refusal=Refusal(reason=Reason.AGE))


def test_a_time_without_a_zone_is_refused(film: Path, card: ModelCard, findings: Findings) -> None:
    request = make_request([film], card=card, findings=findings)
    with pytest.raises(ValueError, match="time zone"):
        dataclasses.replace(request, content_time=datetime(2026, 3, 2, 12))


def test_a_profile_that_shows_no_lesion_is_refused() -> None:
    with pytest.raises(ValueError, match="nobody would see a lesion"):
        Profile(sr=False, overlay=False)

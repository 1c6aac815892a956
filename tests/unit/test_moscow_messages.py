"""Messages of the exchange of Moscow: held against their JSON Schemas, and what may and may not stand in them."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from dicom_node.ehr.context import ContextMissing, DocumentRequest, Revision
from dicom_node.ehr.moscow.blocks import whole_percent
from dicom_node.ehr.moscow.message import is_error, write_error, write_result
from dicom_node.ehr.moscow.profile import MoscowProfile, read_profile
from dicom_node.ehr.profile_file import ProfileError
from dicom_node.wording import ReportText
from inference.findings import Presence
from inference.refusals import Reason
from models.wording import CategorySystem
from tests.exchange_cases import (
    LEFT,
    TIMES,
    breast_card,
    in_pixels,
    labelled,
    measured,
    moscow_document,
    moscow_profile,
    of_breast,
    refusal_notice,
    with_card,
)
from tests.record_cases import HOSTILE
from tests.results_cases import RIGHT
from tests.semd_cases import STUDIES, make_document

PROFILE = moscow_profile()
DOCS = Path(__file__).resolve().parents[2] / "docs" / "schemas"
SHIPPED = resources.files("dicom_node.ehr.moscow").joinpath("schemas")


def _schema(kind: str) -> Draft202012Validator:
    schema = json.loads(SHIPPED.joinpath(f"{kind}.schema.json").read_text(encoding="utf-8"))
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


RESULTS, ERRORS = _schema("result"), _schema("error")


def _result(request: DocumentRequest, profile: MoscowProfile = PROFILE) -> dict[str, Any]:
    message = write_result(request, profile)
    assert not is_error(message, profile)
    whole = json.loads(message)
    RESULTS.validate(whole)
    found: dict[str, Any] = whole["aiResult"]
    return found


def _error(message: bytes, profile: MoscowProfile = PROFILE) -> dict[str, Any]:
    assert is_error(message, profile)
    whole = json.loads(message)
    ERRORS.validate(whole)
    found: dict[str, Any] = whole["aiResult"]
    return found


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("lesions", [0, 1, 2, 12])
@pytest.mark.parametrize("study", STUDIES)
def test_results_of_every_modality_match_the_schema(study: str, lesions: int, whole: bool) -> None:
    request = moscow_document(study, lesions=lesions, whole=whole)
    result = _result(request)
    assert result["pathologyFlag"] is (lesions > 0) and result["norma"] is (lesions == 0)
    assert result["seriesIUID"] == "1.2.826.0.1.3680043.10.1.8"
    assert write_result(moscow_document(study, lesions=lesions, whole=whole), PROFILE) == write_result(request, PROFILE)


@pytest.mark.parametrize("kind", ["result", "error"])
def test_the_published_schema_is_the_shipped_one(kind: str) -> None:
    shipped = SHIPPED.joinpath(f"{kind}.schema.json").read_text(encoding="utf-8")
    assert (DOCS / f"moscow-{kind}.schema.json").read_text(encoding="utf-8") == shipped


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("confidenceLevel", 101),
        ("confidenceLevel", 87.5),
        ("norma", True),
        ("seriesIUID", "1.02.3"),
        ("report", ""),
        ("patientName", "x"),
        ("modelId", True),
        ("probParams", {}),
    ],
)
def test_the_schema_catches_a_faulty_result(path: str, value: object) -> None:
    whole = json.loads(write_result(moscow_document(), PROFILE))
    whole["aiResult"][path] = value
    assert not RESULTS.is_valid(whole)


def test_the_schema_catches_a_category_that_is_not_documented() -> None:
    whole = json.loads(write_error(refusal_notice(), PROFILE))
    whole["aiResult"]["error"] = "Bad luck"
    assert not ERRORS.is_valid(whole)


def test_keys_stand_in_the_order_of_the_description() -> None:
    whole = json.loads(write_result(moscow_document("CT"), PROFILE))
    assert list(whole) == ["studyIUID", "aiResult"]
    assert list(whole["aiResult"]) == [
        "seriesIUID", "pathologyFlag", "norma", "confidenceLevel", "modelId", "modelVersion", "report", "conclusion",
        "dateTimeParams", "probParams",
    ]  # fmt: skip
    assert list(whole["aiResult"]["dateTimeParams"]) == [
        "downloadStartDT", "downloadEndDT", "processStartDT", "processEndDT",
    ]  # fmt: skip


def test_the_text_is_that_of_the_report_with_recommendation_and_warnings_under_the_conclusion() -> None:
    text = ReportText(language="ru", description="Видно.", conclusion="Итог.", recommendation="Совет.", warnings=("!",))
    result = _result(replace(moscow_document(), text=text))
    assert (result["report"], result["conclusion"]) == ("Видно.", "Итог.\nСовет.\n!")


def test_moments_are_those_of_the_zone() -> None:
    times = _result(moscow_document())["dateTimeParams"]
    assert times["downloadStartDT"] == "2026-11-20T09:58:01+03:00"
    assert times["processEndDT"] == "2026-11-20T09:59:16+03:00"
    other = moscow_profile(time_format="%d.%m.%Y %H:%M:%S", time_zone="UTC")
    whole = json.loads(write_result(moscow_document(), other))
    assert whole["aiResult"]["dateTimeParams"]["processStartDT"] == "20.11.2026 06:59:02"


@given(st.floats(0, 1), st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_confidence_never_falls_when_a_score_rises(first: float, second: float) -> None:
    low, high = sorted((first, second))
    assert 0 <= whole_percent(low) <= whole_percent(high) <= 100


def test_confidence_is_the_highest_score_of_a_pathology() -> None:
    request = moscow_document("mammography", lesions=1)
    found = request.findings
    quiet = replace(found, findings=(replace(found.findings[0], score=0.126),), lesions=())
    assert _result(replace(request, findings=quiet))["confidenceLevel"] == 13
    silent = replace(found, findings=(), lesions=())
    assert _result(replace(request, findings=silent))["confidenceLevel"] == 0
    without_it = moscow_profile(silent_confidence=None)
    assert "confidenceLevel" not in json.loads(write_result(replace(request, findings=silent), without_it))["aiResult"]


def test_a_breast_that_is_found_is_a_pathology_though_no_picture_is() -> None:
    request = moscow_document("mammography", lesions=0)
    found = replace(request.findings, findings=(*request.findings.findings, of_breast("mass", LEFT, 0.6)))
    assert _result(replace(request, findings=found))["pathologyFlag"] is True


def test_a_label_that_the_profile_calls_normal_is_no_pathology() -> None:
    request = moscow_document(lesions=0)
    label = request.card.labels[0]
    normal = label.finding.model_copy(update={"value": "17621005"})
    card = labelled(request.card, label.model_copy(update={"finding": normal}))
    found = replace(request.findings, findings=(replace(request.findings.findings[0], presence=Presence.PRESENT),))
    assert _result(replace(request, card=card, findings=found))["norma"] is True
    assert _result(replace(request, findings=found))["norma"] is False


def test_a_study_of_which_the_model_cannot_tell_is_never_called_normal() -> None:
    request = moscow_document(lesions=0)
    unknown = replace(request.findings.findings[0], presence=Presence.UNDETERMINED)
    undecided = replace(request, findings=replace(request.findings, findings=(unknown,)))
    assert _error(write_result(undecided, PROFILE))["error"] == "Other"


def test_a_model_is_called_as_the_profile_has_it() -> None:
    request = moscow_document()
    assert _result(request)["modelId"] == 8
    second = request.card.model_copy(update={"identity": request.card.identity.model_copy(update={"version": "2.0.0"})})
    result = _result(replace(request, card=second))
    assert (result["modelId"], result["modelVersion"]) == ("eight-2", "2.0.0")


def test_all_that_lacks_is_named_at_once() -> None:
    nothing = replace(moscow_document(), key_image=None, times=None)
    with pytest.raises(ContextMissing) as stopped:
        write_result(nothing, read_profile("moscow"))
    assert stopped.value.missing == ("moscow.model_ids.test-opacity", "key_image", "times")
    with pytest.raises(ContextMissing, match=r"moscow\.model_ids\.test-mass"):
        write_error(refusal_notice(), read_profile("moscow"))


def test_a_profile_may_do_without_series_and_times() -> None:
    fields = PROFILE.fields.model_dump() | {"times": "", "normal": ""}
    lean = moscow_profile(series_required=False, fields=fields)
    result = json.loads(write_result(replace(moscow_document(), key_image=None, times=None), lean))["aiResult"]
    assert {"seriesIUID", "dateTimeParams", "norma", ""}.isdisjoint(result)


@pytest.mark.parametrize("reason", Reason)
def test_every_refusal_has_a_documented_category(reason: Reason) -> None:
    error = _error(write_error(refusal_notice(reason, detail="(0008,0060) is US"), PROFILE))
    assert error["modelId"] == 7 and error["description"].endswith(": (0008,0060) is US")
    assert error["error"] == "Other" if reason in (Reason.POISON, Reason.MODEL_FAILED) else error["error"] != "Other"


def test_the_words_of_an_error_are_in_the_language_of_the_notice() -> None:
    assert _error(write_error(refusal_notice(), PROFILE))["description"] == "комплект изображений неполный"
    assert _error(write_error(refusal_notice(language="en"), PROFILE))["description"] == "images are missing"


def test_an_error_after_a_result_says_that_the_result_no_longer_holds() -> None:
    plain, withdrawing = (_error(write_error(refusal_notice(withdraws=one), PROFILE)) for one in (False, True))
    assert withdrawing["description"].startswith(plain["description"] + ". ")
    assert "отозван" in withdrawing["description"] and withdrawing["error"] == plain["error"]


def test_a_correction_is_sent_again_or_waits_for_a_person() -> None:
    corrected = replace(moscow_document(), revision=Revision(set_id="s", version=2, replaces_id="a" * 64))
    assert _result(corrected)["pathologyFlag"] is True
    with pytest.raises(ContextMissing, match="corrections"):
        write_result(corrected, moscow_profile(corrections="withhold"))
    first_to_leave = replace(corrected, revision=Revision(set_id="s", version=2))
    assert write_result(first_to_leave, moscow_profile(corrections="withhold"))


@pytest.mark.parametrize("times", [TIMES, None])
@pytest.mark.parametrize("corrections", ["resend", "withhold"])
def test_a_withdrawal_is_an_error_that_says_so_and_repeats_nothing(corrections: str, times: Any) -> None:
    revision = Revision(set_id="s", version=2, replaces_id="a" * 64, withdrawn=True)
    request = replace(moscow_document("CT"), revision=revision, times=times, key_image=None)
    message = write_result(request, moscow_profile(corrections=corrections))
    error = _error(message)
    assert error["error"] == "Other" and "отозван" in error["description"].lower()
    assert request.text.description not in message.decode() and "probParams" not in message.decode()


# --- blocks -----------------------------------------------------------------------------------------------------


def test_a_model_that_tells_nothing_apart_gives_the_level_of_the_breasts_alone() -> None:
    card = breast_card()
    plain = labelled(card, card.labels[0].model_copy(update={"cancer": False}))
    block = _result(with_card(moscow_document("mammography"), plain, lesions=2))["probParams"]
    assert block == {"mmg": {"mmg_conf_level": 87}}


def test_each_breast_has_its_own_figures() -> None:
    request = with_card(moscow_document("mammography"), breast_card(), lesions=2)  # right, then left
    right, left = request.findings.lesions
    found = replace(
        request.findings,
        findings=(*request.findings.findings, of_breast("mass", RIGHT, 0.55), of_breast("mass", LEFT, 0.21)),
        lesions=(right, replace(left, label="calcification")),
    )
    assert _result(replace(request, findings=found))["probParams"]["mmg"] == {
        "mmg_conf_level": 89,
        "mmg_malignancy_right": 55,
        "mmg_malignancy_left": 21,
        "mmg_calcification_left": 89,
    }


def test_categories_are_named_only_where_the_card_supports_them() -> None:
    supported = (CategorySystem.BI_RADS,)
    request = with_card(moscow_document("mammography"), breast_card(supported=supported), lesions=0)
    said = (
        of_breast("birads_2", RIGHT, 0.6),
        of_breast("birads_4", RIGHT, 0.7),
        of_breast("birads_2", LEFT, 0.8),
        of_breast("birads_4", LEFT, 0.2, present=False),
    )
    request = replace(request, findings=replace(request.findings, findings=(*request.findings.findings, *said)))
    result = _result(request)
    assert result["probParams"]["mmg"]["mmg_rads_right"] == "4"
    assert result["probParams"]["mmg"]["mmg_rads_left"] == "2"
    assert result["pathologyFlag"] is True
    benign = replace(request.findings, findings=tuple(one for one in said if one.label == "birads_2"))
    assert _result(replace(request, findings=benign))["norma"] is True
    assert not [key for key in result["probParams"]["mmg"] if "pgmi" in key or "acr" in key]


def test_of_several_categories_the_likeliest_says_whether_it_is_a_pathology() -> None:
    request = with_card(moscow_document("mammography"), breast_card(supported=(CategorySystem.BI_RADS,)), lesions=0)
    for benign, suspicious, is_normal in ((0.8, 0.4, True), (0.4, 0.8, False)):
        said = (of_breast("birads_2", RIGHT, benign), of_breast("birads_4", RIGHT, suspicious))
        found = replace(request.findings, findings=said)
        result = _result(replace(request, findings=found))
        assert result["norma"] is is_normal
        assert result["probParams"]["mmg"]["mmg_rads_right"] == ("2" if is_normal else "4")


def test_nodules_have_number_and_the_sizes_of_the_largest() -> None:
    request = moscow_document("CT", lesions=2)
    small, large = request.findings.lesions
    found = replace(request.findings, lesions=(measured(small, 6.2, 4.0, 90.1), measured(large, 11.4, 8.3)))
    assert _result(replace(request, findings=found))["probParams"]["ct_lc"] == {
        "ct_lc_conf_level": 87,
        "ct_lc_lin_x": 11.4,
        "ct_lc_lin_y": 8.3,
        "ct_lc_num": 2,
    }
    resolved = replace(found, lesions=(small, large := measured(large, 11.4, 8.3, 410.5)))
    assert "ct_lc_lin_x" not in _result(replace(request, findings=resolved))["probParams"]["ct_lc"]
    alone = replace(found, lesions=(large,))
    assert _result(replace(request, findings=alone))["probParams"]["ct_lc"]["ct_lc_volume"] == 410.5


def test_sizes_in_pixels_are_left_out() -> None:
    request = moscow_document("CT", lesions=1)
    found = replace(request.findings, lesions=(in_pixels(request.findings.lesions[0]),))
    assert _result(replace(request, findings=found))["probParams"]["ct_lc"] == {"ct_lc_conf_level": 87, "ct_lc_num": 1}


def test_no_nodules_are_counted_as_none_and_other_findings_not_at_all() -> None:
    assert _result(moscow_document("CT", lesions=0))["probParams"]["ct_lc"]["ct_lc_num"] == 0
    other = replace(make_document("CT"), times=TIMES)
    assert "probParams" not in _result(other)


@pytest.mark.parametrize("study", ["chest film", "fluorography"])
def test_a_block_that_is_not_known_is_left_out(study: str) -> None:
    assert "probParams" not in _result(moscow_document(study))


def test_a_site_that_knows_the_block_writes_it_into_its_profile() -> None:
    block = {"name": "rg", "modalities": ["DX"], "fields": [{"key": "rg_conf_level", "says": "score"}]}
    own = moscow_profile(blocks=[block])
    assert json.loads(write_result(moscow_document(), own))["aiResult"]["probParams"] == {"rg": {"rg_conf_level": 87}}


# --- text and people --------------------------------------------------------------------------------------------


@given(st.text(st.characters(), max_size=40))
@settings(max_examples=60, deadline=None)
def test_any_text_comes_back_as_it_was(text: str) -> None:
    request = moscow_document()
    words = ReportText(language="ru", description=f"д{text}", conclusion=f"з{text}", recommendation="")
    result = json.loads(write_result(replace(request, text=words), PROFILE))["aiResult"]
    # A lone surrogate is no character: no encoding of Unicode carries it.
    sent = text.encode("utf-8", "replace").decode()
    assert (result["report"], result["conclusion"]) == (f"д{sent}", f"з{sent}")


def test_hostile_text_neither_breaks_the_message_nor_becomes_a_field() -> None:
    hostile = HOSTILE + '","norma":true,"x":"\u2028'
    words = ReportText(language="ru", description=hostile, conclusion=hostile, recommendation="")
    result = _result(replace(moscow_document(), text=words))
    assert result["report"] == hostile and result["norma"] is False


@pytest.mark.parametrize("study", STUDIES)
def test_nothing_of_patient_staff_or_order_is_written(study: str) -> None:
    request = moscow_document(study)
    assert request.patient.name and request.patient.snils and request.author and request.order.accession_number
    message = write_result(request, PROFILE).decode()
    planted = [
        request.patient.identifier.value, request.patient.snils, request.patient.name.family,
        request.patient.name.given, request.patient.telephone, request.author.name.family,
        request.order.accession_number, request.order.diagnosis_code, "1961",
    ]  # fmt: skip
    for value in planted:
        assert value and value not in message


# --- profile ----------------------------------------------------------------------------------------------------


def test_another_region_renames_topics_and_fields_in_its_file(tmp_path: Path) -> None:
    text = Path(str(resources.files("dicom_node.ehr.moscow").joinpath("profiles", "moscow.toml"))).read_text("utf-8")
    own = text.replace('"studyIUID"', '"study"').replace('"DICOMREPORTNOTIFY"', '"region.results"')
    own = own.replace("# chest-opacity = 101", "test-opacity = 101")
    (tmp_path / "own.toml").write_text(own, encoding="utf-8")
    profile = read_profile(str(tmp_path / "own.toml"))
    assert profile.topics.result == "region.results"
    whole = json.loads(write_result(moscow_document(), profile))
    assert whole["study"] == moscow_document().findings.study_uid and whole["aiResult"]["modelId"] == 101


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('age = "Tag error"\n', "", "no category for age"),
        ('age = "Tag error"', 'age = "Tag eror"', "not among error_categories: Tag eror"),
        ('"Europe/Moscow"', '"Europe/Moskow"', "no time zone"),
        ('normal = "norma"', 'normal = "pathologyFlag"', "same key: pathologyFlag"),
        ('result = "DICOMREPORTNOTIFY"', 'result = "a topic"', "topics.result"),
        ("# chest-opacity = 101", "chest-opacity = true", "model_ids.chest-opacity"),
        ('name = "radiography"\nknown = false', 'name = "radiography"', "a known block has fields"),
        ('side = "left", system = "BI-RADS"', 'side = "left"', "names its system"),
    ],
)
def test_a_faulty_profile_is_refused_with_what_is_wrong(tmp_path: Path, old: str, new: str, told: str) -> None:
    text = SHIPPED.joinpath("..", "profiles", "moscow.toml").read_text(encoding="utf-8")
    assert old in text
    (tmp_path / "own.toml").write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(ProfileError, match=told):
        read_profile(str(tmp_path / "own.toml"))


# --- the page for users -----------------------------------------------------------------------------------------

PAGE = DOCS.parent / "howto" / "moscow.md"


def test_the_page_shows_the_messages_as_they_are_written() -> None:
    request = moscow_document("CT", lesions=1)
    lesion = measured(request.findings.lesions[0], 11.4, 8.3, 410.5)
    texts = {"report": "…", "conclusion": "…"}
    result = json.loads(write_result(replace(request, findings=replace(request.findings, lesions=(lesion,))), PROFILE))
    shown = [json.loads(one) for one in re.findall(r"```json\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)]
    assert shown == [
        result | {"aiResult": result["aiResult"] | texts},
        json.loads(write_error(refusal_notice(), PROFILE)),
    ]


def test_the_page_names_the_category_of_every_reason() -> None:
    rows = re.findall(r"^\| ([A-Z][a-z ]+?)(?: \(.*?\))? \| (`.*`) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    told = {reason: category for category, listed in rows for reason in re.findall(r"`(\w+)`", listed)}
    assert told == {reason.value: category for reason, category in PROFILE.errors.items()}

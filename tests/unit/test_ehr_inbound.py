from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicom_node.ehr.fhir.bundle import write_bundle
from dicom_node.ehr.fhir.profile import read_profile as fhir_profile
from dicom_node.ehr.hl7v2.oru import write_oru
from dicom_node.ehr.hl7v2.profile import read_profile as hl7v2_profile
from dicom_node.ehr.inbound import InboundError, ReportStatus, read_diagnostic_report, read_oru
from tests.record_cases import NOON, STUDY, make_record

MOSCOW = timezone(timedelta(hours=3))
HEAD = "MSH|^~\\&|RIS|HOSP|RADNODE||20260302130000||ORU^R01^ORU_R01|7|P|2.5.1||||||{charset}"
PID = "PID|1||77-1^^^HOSP^MR||Иванова^Анна"
OBR = "OBR|1|P5|F9|18748-4^Diagnostic imaging study^LN||||||||||||||A100200||||20260302125900+0300||RAD|F"


def _oru(*lines: str, charset: str = "UNICODE UTF-8", codec: str = "utf-8") -> bytes:
    return "\r".join([HEAD.format(charset=charset), PID, *lines, ""]).encode(codec)


def _one(*lines: str, **options: str) -> Any:
    (report,) = read_oru(_oru(*lines, **options), zone=MOSCOW)
    return report


IMPRESSION = "OBX|1|FT|19005-8^Impression^LN||Очаг в S6 справа.\\.br\\Контроль через 3 мес.||||||F"


def test_a_signed_report_is_read_with_its_links_and_its_moment() -> None:
    report = _one(OBR, IMPRESSION, f"OBX|2|ST|110180^Study Instance UID^DCM||{STUDY}||||||F")
    assert (report.report_id, report.study_uid, report.accession_number) == ("F9", STUDY, "A100200")
    assert (report.status, report.patient_id) == (ReportStatus.FINAL, "77-1")
    assert report.conclusion == "Очаг в S6 справа.\nКонтроль через 3 мес."
    assert report.signed_at == datetime(2026, 3, 2, 12, 59, tzinfo=MOSCOW)


def test_the_conclusion_is_told_from_the_description() -> None:
    described = "OBX|1|TX|18782-3^Observation^LN||Лёгкие без очагов.||||||F"
    assert _one(OBR, described, IMPRESSION).conclusion.startswith("Очаг")
    older = "OBX|2|TX|CHEST&IMP^Chest||Норма.||||||F"
    assert _one(OBR, described, older).conclusion == "Норма."


def test_text_without_codes_is_all_conclusion() -> None:
    lines = ("OBX|1|TX|R^Report||Строка 1~Строка 2||||||F", "OBX|2|TX|R^Report||Строка 3||||||F")
    assert _one(OBR, *lines).conclusion == "Строка 1\nСтрока 2\nСтрока 3"


def test_the_study_may_stand_in_a_segment_of_ihe() -> None:
    assert _one(OBR, IMPRESSION, f"ZDS|{STUDY}^RADNODE^Application^DICOM").study_uid == STUDY


@pytest.mark.parametrize(
    ("code", "status"),
    [("P", ReportStatus.PRELIMINARY), ("F", ReportStatus.FINAL), ("C", ReportStatus.CORRECTED),
     ("X", ReportStatus.WITHDRAWN)],
)  # fmt: skip
def test_the_status_is_that_of_the_order(code: str, status: ReportStatus) -> None:
    assert _one(OBR[:-1] + code, IMPRESSION).status is status


def test_a_report_whose_observations_are_all_deleted_is_withdrawn() -> None:
    assert _one(OBR, IMPRESSION[:-1] + "D").status is ReportStatus.WITHDRAWN


def test_several_orders_of_a_message_are_several_reports() -> None:
    second = OBR.replace("|F9|", "|F10|").replace("A100200", "A100201")
    reports = read_oru(_oru(OBR, IMPRESSION, second, IMPRESSION), zone=MOSCOW)
    assert [report.accession_number for report in reports] == ["A100200", "A100201"]


@pytest.mark.parametrize(
    ("charset", "codec"),
    [("UNICODE UTF-8", "utf-8"), ("8859/5", "iso8859-5"), ("WINDOWS-1251", "cp1251"), ("", "utf-8")],
)
def test_cyrillic_is_read_in_the_character_set_that_is_named(charset: str, codec: str) -> None:
    assert _one(OBR, IMPRESSION, charset=charset, codec=codec).conclusion.startswith("Очаг в S6")


def test_a_moment_without_an_offset_is_of_the_zone_that_was_given() -> None:
    assert _one(OBR.replace("+0300", ""), IMPRESSION).signed_at == datetime(2026, 3, 2, 12, 59, tzinfo=MOSCOW)


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (b"", "MSH"),
        (b"GET / HTTP/1.1\r\n", "MSH"),
        (_oru(OBR, IMPRESSION, charset="KOI8"), "MSH-18"),
        (_oru(OBR, IMPRESSION, codec="cp1251"), "MSH-18"),
        (_oru(OBR, IMPRESSION).replace(b"ORU^R01", b"ADT^A01"), "MSH-9"),
        (_oru(), "OBR"),
        (_oru(OBR[:-1], IMPRESSION), "OBR-25"),
        (_oru(OBR[:-1] + "Q", IMPRESSION), "OBR-25"),
        (_oru(OBR.replace("20260302125900", "20261302125900"), IMPRESSION), "OBR-22"),
        (_oru(OBR.replace("20260302125900+0300", "вчера"), IMPRESSION), "OBR-22"),
        (_oru(OBR.replace("A100200", "").replace("|F9|", "||"), IMPRESSION), "OBR-18"),
        (_oru(OBR), "OBX-5"),
        (_oru(OBR, IMPRESSION, "OBX|2|ST|110180^U^DCM||1.2.abc||||||F"), "OBX-5"),
        (_oru(OBR, IMPRESSION, "OBX|2|ST|110180^U^DCM||1.2.3||||||F", "ZDS|1.2.4"), "OBX-5"),
        (b"MSH" + b"x" * (9 << 20), "message"),
    ],
)
def test_what_is_wrong_with_a_message_is_named_by_its_field(message: bytes, field: str) -> None:
    with pytest.raises(InboundError) as raised:
        read_oru(message, zone=MOSCOW)
    assert raised.value.field == field
    assert not any(word in str(raised.value) for word in ("Иванова", "A100200", "abc", "вчера"))


def test_our_own_message_can_be_read_back() -> None:
    request = make_record()
    (report,) = read_oru(write_oru(request, hl7v2_profile("plain")), zone=UTC)
    assert (report.study_uid, report.accession_number, report.status) == (STUDY, "A100200", ReportStatus.PRELIMINARY)
    assert report.conclusion == "\n".join([request.text.conclusion, *request.text.warnings])
    assert report.signed_at == NOON


@given(st.binary() | st.text().map(lambda text: f"MSH|^~\\&|{text}".encode("utf-8", "replace")))
def test_any_bytes_give_a_report_or_an_error_of_ours(message: bytes) -> None:
    try:
        read_oru(message, zone=UTC)
    except InboundError as error:
        assert error.field


FHIR: dict[str, Any] = {
    "resourceType": "DiagnosticReport",
    "id": "dr-1",
    "status": "final",
    "imagingStudy": [{"reference": "ImagingStudy/is-1"}],
    "subject": {"identifier": {"value": "77-1"}},
    "issued": "2026-03-02T12:59:00+03:00",
    "conclusion": "Очаг в S6 справа.",
}
IMAGING_STUDY: dict[str, Any] = {
    "resourceType": "ImagingStudy",
    "id": "is-1",
    "identifier": [
        {"system": "urn:dicom:uid", "value": f"urn:oid:{STUDY}"},
        {"type": {"coding": [{"code": "ACSN"}]}, "value": "A100200"},
    ],
}


def _read(report: dict[str, Any], *others: dict[str, Any]) -> Any:
    entries = [{"resource": one} for one in (report, *others)]
    whole = {"resourceType": "Bundle", "type": "collection", "entry": entries} if others else report
    return read_diagnostic_report(json.dumps(whole).encode())


def test_a_diagnostic_report_is_read_with_the_study_beside_it() -> None:
    report = _read(FHIR, IMAGING_STUDY)
    assert (report.report_id, report.study_uid, report.accession_number) == ("dr-1", STUDY, "A100200")
    assert (report.status, report.conclusion, report.patient_id) == (ReportStatus.FINAL, "Очаг в S6 справа.", "77-1")
    assert report.signed_at == datetime(2026, 3, 2, 12, 59, tzinfo=MOSCOW)


def test_the_study_may_be_contained_or_named_by_its_identifier() -> None:
    contained = {**FHIR, "contained": [IMAGING_STUDY], "imagingStudy": [{"reference": "#is-1"}]}
    assert _read(contained).study_uid == STUDY
    named = {**FHIR, "imagingStudy": [{"identifier": IMAGING_STUDY["identifier"][0]}]}
    assert _read(named).study_uid == STUDY


def test_the_order_may_carry_the_accession_number() -> None:
    ordered = {**FHIR, "imagingStudy": [], "basedOn": [{"identifier": IMAGING_STUDY["identifier"][1]}]}
    assert _read(ordered).accession_number == "A100200"


def test_the_conclusion_may_be_a_form_in_plain_text() -> None:
    form = {"contentType": "text/plain; charset=utf-8", "data": base64.b64encode("Норма.".encode()).decode()}
    plain = {key: value for key, value in FHIR.items() if key != "conclusion"}
    assert _read({**plain, "presentedForm": [form]}, IMAGING_STUDY).conclusion == "Норма."


@pytest.mark.parametrize(
    ("status", "expected"),
    [("preliminary", "preliminary"), ("amended", "corrected"), ("appended", "corrected"),
     ("entered-in-error", "withdrawn"), ("cancelled", "withdrawn")],
)  # fmt: skip
def test_every_status_of_r4_has_its_place(status: str, expected: str) -> None:
    assert _read({**FHIR, "status": status}, IMAGING_STUDY).status == expected


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"status": "done"}, "DiagnosticReport.status"),
        ({"status": None}, "DiagnosticReport.status"),
        ({"imagingStudy": []}, "DiagnosticReport.imagingStudy"),
        ({"imagingStudy": "x"}, "DiagnosticReport.imagingStudy"),
        ({"conclusion": " "}, "DiagnosticReport.conclusion"),
        ({"issued": "yesterday"}, "DiagnosticReport.issued"),
        ({"issued": "2026-03-02T12:59:00"}, "DiagnosticReport.issued"),
        ({"resourceType": "Patient"}, "Bundle.entry"),
        (
            {"identifier": [{"system": "urn:dicom:uid", "value": "urn:oid:1.2.3"}]},
            "DiagnosticReport.imagingStudy",
        ),
    ],
)
def test_what_is_wrong_with_a_resource_is_named_by_its_element(change: dict[str, Any], field: str) -> None:
    with pytest.raises(InboundError) as raised:
        _read({**FHIR, **change}, IMAGING_STUDY)
    assert raised.value.field == field


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"[" * 100000, b"\xff", b'{"resourceType": "Bundle"}', b"{}"])
def test_what_is_no_report_is_said_to_be_none(body: bytes) -> None:
    with pytest.raises(InboundError):
        read_diagnostic_report(body)


def test_our_own_bundle_can_be_read_back() -> None:
    report = read_diagnostic_report(write_bundle(make_record(), fhir_profile("plain")))
    assert (report.study_uid, report.accession_number, report.status) == (STUDY, "A100200", ReportStatus.PRELIMINARY)
    assert report.signed_at == NOON and report.patient_id == "77-1"


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(sorted(FHIR)), inner, max_size=4),
    max_leaves=12,
)


@given(
    st.fixed_dictionaries(
        {"resourceType": st.just("DiagnosticReport")}, optional={key: _JSON for key in FHIR if key != "resourceType"}
    )
)
def test_any_json_gives_a_report_or_an_error_of_ours(content: dict[str, Any]) -> None:
    try:
        read_diagnostic_report(json.dumps(content).encode())
    except InboundError as error:
        assert error.field


def test_codes_and_flags_of_the_conclusion_are_read_beside_its_words() -> None:
    coded = "OBX|2|CWE|19005-8^Impression^LN||J18.9^Пневмония^I10^233604007^Pneumonia^SCT~R91^^I10||||||F"
    elsewhere = "OBX|3|CWE|18782-3^Observation^LN||C34^Рак^I10||||||F"
    report = _one(OBR, IMPRESSION.replace("||||||F", "|||A|||F"), coded, elsewhere)
    assert [(one.system, one.value, one.is_flag) for one in report.codes] == [
        ("I10", "J18.9", False),
        ("SCT", "233604007", False),
        ("I10", "R91", False),
        ("", "A", True),
    ]
    assert report.conclusion.startswith("Очаг")


def test_a_report_signed_in_codes_alone_has_a_conclusion() -> None:
    report = _one(OBR, "OBX|1|CE|19005-8^Impression^LN||J18.9^^I10||||||F")
    assert (report.conclusion, [one.value for one in report.codes]) == ("", ["J18.9"])
    fhir = {
        "resourceType": "DiagnosticReport",
        "status": "final",
        "identifier": [{"type": {"coding": [{"code": "ACSN"}]}, "value": "A1"}],
        "conclusionCode": [{"coding": [{"system": "http://snomed.info/sct", "code": "233604007"}, {"code": 7}]}, "x"],
    }
    read = read_diagnostic_report(json.dumps(fhir).encode())
    assert [(one.system, one.value) for one in read.codes] == [("http://snomed.info/sct", "233604007")]

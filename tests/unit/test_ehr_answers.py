from __future__ import annotations

import json
import unicodedata
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dicom_node.delivery.retry_after import retry_after_s
from dicom_node.ehr.answer import MAX_TOLD, Accepted, Discretion, Refused, Retry, discretion_of
from dicom_node.ehr.context import PersonName
from dicom_node.ehr.fhir.outcomes import HttpAnswer, judge
from dicom_node.ehr.hl7v2.acknowledgement import judge as judge_acknowledgement
from tests.record_cases import make_record

NOBODY = Discretion()
KEYS = ["resourceType", "type", "entry", "response", "status", "outcome", "issue", "severity", "code", "diagnostics",
        "details", "text", "expression", "location", "id"]  # fmt: skip
VALUES = ["Bundle", "OperationOutcome", "transaction-response", "error", "duplicate", "201 Created", "422", "Task/1"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=6) | st.sampled_from(VALUES),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5),
    max_leaves=20,
)


@given(st.integers(min_value=100, max_value=599), st.binary() | JSON.map(lambda content: json.dumps(content).encode()))
def test_any_answer_of_a_fhir_server_has_a_meaning(status: int, body: bytes) -> None:
    answer = judge(HttpAnswer(status=status, body=body), NOBODY)
    assert isinstance(answer, Accepted | Retry | Refused)
    if status >= 500 or status < 200:
        assert not isinstance(answer, Refused)


@given(st.binary() | st.text().map(lambda text: f"MSH|^~\\&\rMSA|AE|X|{text}\rERR|||{text}".encode("utf-8", "replace")))
def test_any_block_is_an_answer_or_none(block: bytes) -> None:
    assert isinstance(judge_acknowledgement(block, "X", NOBODY), Accepted | Retry | Refused | None)


@given(st.text(max_size=2000))
@example("0²")
def test_what_is_told_is_one_short_line_without_numbers(text: str) -> None:
    told = NOBODY.told(text)
    assert len(told) <= MAX_TOLD
    assert "\n" not in told and "\r" not in told
    assert not any(first.isdecimal() and second.isdecimal() for first, second in pairwise(told))


@pytest.mark.parametrize(
    "words",
    [
        "Иванова", "ИВАНОВОЙ", "Ивановой-Петровой", "Анну", "Сергеевне", "11223344595", "112-233-445 95", "77-1",
        "A100200", "12.04.1961", "19610412", "1961-04-12", "Полярной", "ord-5", "family_Иванова", "Петрову",
    ],
)  # fmt: skip
def test_nothing_of_the_persons_passes(words: str) -> None:
    told = discretion_of(make_record()).told(f"cannot file {words} here")
    assert told.startswith("cannot file") and told.endswith("here")
    kept = told.removeprefix("cannot file").removesuffix("here")
    assert not any(
        part in kept for part in ("ванов", "ВАНОВ", "Анн", "Сергеев", "112", "100200", "61", "Полярн", "етр")
    )


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize(
    ("name", "echoed"),
    [("Юрий", "Юрию"), ("Пётр", "ПЕТРА"), ("Павел", "Павла"), ("Лия", "Лии"), ("Ян", "Яном"), ("Smith", "SMITH")],
)
def test_a_name_passes_in_no_case_and_no_spelling(name: str, echoed: str, form: Any) -> None:
    patient = replace(make_record().patient, name=PersonName(family=name, given="Ю"))
    told = discretion_of(make_record(patient=patient)).told(unicodedata.normalize(form, f"no {echoed} here"))
    assert told == "no [...] here"


def test_words_that_name_nobody_pass() -> None:
    text = "Reference_REF_CantResolve: Unable to resolve resource"
    assert discretion_of(make_record()).told(text) == text


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        ("", None),
        ("120", 120.0),
        ("-5", 0.0),
        ("Mon, 02 Mar 2026 12:01:00 GMT", 60.0),
        ("Mon, 02 Mar 2026 11:00:00 GMT", 0.0),
        ("soon", None),
        ("9" * 400, None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str | None, expected: float | None) -> None:
    assert retry_after_s(value, datetime(2026, 3, 2, 12, 0, tzinfo=UTC)) == expected


def _bundle(*entries: dict[str, Any]) -> HttpAnswer:
    body = {"resourceType": "Bundle", "type": "transaction-response", "entry": [{"response": one} for one in entries]}
    return HttpAnswer(status=200, body=json.dumps(body).encode())


def test_ids_are_told_in_the_order_of_the_entries() -> None:
    answer = judge(
        _bundle(
            {"status": "201 Created", "location": "https://region.example/fhir/Device/d1/_history/1"},
            {"status": "200", "location": "Patient/p1"},
        ),
        NOBODY,
    )
    assert answer == Accepted(receiver_ids=("Device/d1", "Patient/p1"))


def test_a_refused_entry_outweighs_one_to_be_tried_again() -> None:
    answer = judge(_bundle({"status": "503"}, {"status": "201"}, {"status": "412"}), NOBODY)
    assert isinstance(answer, Refused) and answer.reason.startswith("entry 2:")


def test_an_entry_without_a_status_is_no_success() -> None:
    assert isinstance(judge(_bundle({"status": "201"}, {}), NOBODY), Retry)


def test_a_success_that_reports_an_error_is_none() -> None:
    issue = {"severity": "error", "code": "business-rule", "details": {"text": "organisation not registered"}}
    body = json.dumps({"resourceType": "OperationOutcome", "issue": [issue]}).encode()
    answer = judge(HttpAnswer(status=200, body=body), NOBODY)
    assert isinstance(answer, Refused) and "organisation not registered" in answer.reason

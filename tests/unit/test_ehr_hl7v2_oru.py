from __future__ import annotations

import re
import warnings
from dataclasses import replace
from typing import Any

import hl7
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicom_node.ehr.context import ContextMissing, DocumentRequest, Order, Revision
from dicom_node.ehr.hl7v2.encoding import Hl7Error, Segment, formatted, named, number, read_segments, text, unescaped
from dicom_node.ehr.hl7v2.oru import control_id, write_oru
from dicom_node.ehr.hl7v2.profile import OruProfile, read_profile
from tests.record_cases import HOSTILE, STUDY, hostile_record, make_record

PLAIN = read_profile("plain")
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))


def hl7apy_faults(message: bytes) -> list[str]:
    """What hl7apy, validating strictly, has against a message; the judge is imported where it is used: it is slow."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from hl7apy.consts import VALIDATION_LEVEL
        from hl7apy.exceptions import HL7apyException
        from hl7apy.parser import parse_message
    try:
        parse_message(message.decode(), validation_level=VALIDATION_LEVEL.STRICT, find_groups=True).validate()
    except HL7apyException as error:
        return [f"{type(error).__name__}: {error}"]
    return []


def _segments(request: DocumentRequest, **options: Any) -> tuple[Segment, ...]:
    return read_segments(write_oru(request, PLAIN, **options).decode())


def _observations(request: DocumentRequest, **options: Any) -> list[Segment]:
    return list(named(_segments(request, **options), "OBX"))


@pytest.mark.parametrize("bare", [False, True], ids=["full", "bare"])
@pytest.mark.parametrize("lesions", [0, 1, 2, 12])
def test_a_message_passes_hl7apy(lesions: int, bare: bool) -> None:
    request = make_record(lesions=lesions, bare=bare)
    profile = OruProfile(accession_number_required=not bare)
    assert hl7apy_faults(write_oru(request, profile)) == []


def test_hl7apy_catches_what_is_wrong() -> None:
    message = write_oru(make_record(), PLAIN)
    assert hl7apy_faults(message.replace(b"OBR|1|", b"OBZ|1|")) != []
    assert hl7apy_faults(re.sub(rb"PID\|[^\r]*\r", b"PID|1\r", message)) != []
    assert hl7apy_faults(message.replace(b"\rPID|", b"\rPID|" + b"|" * 60)) != []


def test_the_header_says_what_the_message_is() -> None:
    header = _segments(make_record())[0]
    shown = [header.field(position) for position in (9, 11, 12, 17, 18)]
    assert shown == ["ORU^R01^ORU_R01", "P", "2.5.1", "RUS", "UNICODE UTF-8"]
    assert header.value(10) == control_id("d" * 64) and len(header.value(10)) == 20


def test_order_numbers_and_status_stand_where_receivers_look() -> None:
    obr = next(named(_segments(make_record()), "OBR"))
    assert (obr.value(2), obr.value(3), obr.value(18), obr.value(25)) == ("ord-5", "A100200", "A100200", "P")
    uids = [one.value(5) for one in _observations(make_record()) if one.value(3) == "110180"]
    assert uids == [STUDY]


def test_the_patient_has_both_numbers_and_three_names() -> None:
    pid = next(named(_segments(make_record()), "PID"))
    assert (pid.value(3, 1), pid.value(3, 5)) == ("77-1", "MR")
    assert (pid.value(3, 1, repetition=2), pid.value(3, 5, repetition=2)) == ("11223344595", "NNRUS")
    assert [pid.value(5, part) for part in (1, 2, 3)] == ["Иванова", "Анна", "Сергеевна"]
    assert (pid.value(7), pid.value(8)) == ("19610412", "F")


def test_there_is_one_group_of_observations_for_each_lesion() -> None:
    for lesions in (0, 1, 2, 12):
        said = _observations(make_record(lesions=lesions))
        groups = {one.value(4) for one in said}
        assert groups == {"0", "0.1", *(str(number) for number in range(1, lesions + 1))}
        assert len({(one.value(3), one.value(4)) for one in said}) == len(said)
        assert [one.value(1) for one in said] == [str(index) for index in range(1, len(said) + 1)]


def test_a_lesion_is_written_with_site_side_score_and_sizes() -> None:
    group = {one.value(3, 2): one for one in _observations(make_record(lesions=1)) if one.value(4) == "1"}
    assert group["Finding"].field(5) == "128480000^Lung opacity^SCT"
    assert group["Laterality"].value(5, 2) == "Right"
    assert (group["Certainty of Finding"].value(5), group["Certainty of Finding"].value(6)) == ("87.4", "%")
    assert (group["Long Axis"].value(5), group["Long Axis"].value(6)) == ("34.25", "mm")
    assert group["Finding"].value(18) == "test-opacity@1.2.0"


def test_lines_of_the_text_are_breaks_of_formatted_text() -> None:
    description = next(one for one in _observations(make_record()) if one.value(3) == "18782-3")
    assert description.value(2) == "FT"
    assert "\\.br\\" in description.field(5)
    assert description.value(5) == make_record().text.description


def test_warnings_stand_under_the_conclusion() -> None:
    conclusion = next(one for one in _observations(make_record()) if one.value(3) == "19005-8")
    assert conclusion.value(5).endswith("\nВ исследовательских целях. Не медицинское изделие.")


def test_a_correction_is_marked_and_deletes_lesions_that_are_gone() -> None:
    first = make_record(lesions=3, document_id="a" * 64)
    second = make_record(
        lesions=1, document_id="b" * 64, revision=Revision(set_id="s" * 64, version=2, replaces_id="a" * 64)
    )
    statuses = {one.value(4): one.value(11) for one in _observations(second, replaced=first)}
    assert statuses == {"0": "C", "0.1": "C", "1": "C", "2": "D", "3": "D"}
    assert next(named(_segments(second), "OBR")).value(25) == "C"
    assert hl7apy_faults(write_oru(second, PLAIN, replaced=first)) == []


def test_a_withdrawal_deletes_everything_but_the_link_to_the_study() -> None:
    gone = make_record(lesions=2, revision=Revision(set_id="s" * 64, version=2, withdrawn=True))
    statuses = [(one.value(3), one.value(11)) for one in _observations(gone)]
    assert statuses[0] == ("110180", "C")
    assert {status for _, status in statuses[1:]} == {"D"}
    assert hl7apy_faults(write_oru(gone, PLAIN)) == []


def test_a_message_needs_an_accession_number_unless_the_profile_does_without() -> None:
    request = replace(make_record(), order=Order())
    with pytest.raises(ContextMissing) as raised:
        write_oru(request, PLAIN)
    assert raised.value.missing == ("order.accession_number",)
    assert write_oru(request, OruProfile(accession_number_required=False))


def test_a_second_attempt_writes_equal_bytes() -> None:
    assert write_oru(make_record(), PLAIN) == write_oru(make_record(), PLAIN)


def test_hostile_text_makes_no_new_segment_field_or_frame() -> None:
    message = write_oru(hostile_record(), PLAIN)
    plain = write_oru(hostile_record("harmless"), PLAIN)
    shape = [[len(line.split("|")), line[:3]] for line in message.decode().split("\r")]
    assert shape == [[len(line.split("|")), line[:3]] for line in plain.decode().split("\r")]
    assert not any(byte < 0x20 and byte != 0x0D for byte in message)
    assert message.count(b"MSH|") == 1
    pid = next(named(read_segments(message.decode()), "PID"))
    assert pid.value(5, 1) == HOSTILE


def test_another_parser_reads_the_hostile_text_back() -> None:
    parsed = hl7.parse(write_oru(hostile_record("a|b^c&d~e\\f\\.br\\g"), PLAIN).decode())
    assert parsed.unescape(str(parsed.segment("PID")[5][0][0])) == "a|b^c&d~e\\f\\.br\\g"


@given(TEXTS)
def test_what_is_escaped_comes_back(value: str) -> None:
    encoded = text(value)
    assert unescaped(encoded) == value
    assert not set("|^&~\r\n\x0b\x1c") & set(encoded)


@given(TEXTS)
def test_formatted_text_comes_back_with_plain_line_feeds(value: str) -> None:
    encoded = formatted(value)
    assert unescaped(encoded) == value.replace("\r\n", "\n").replace("\r", "\n")
    assert not set("|^&~\r\n\x0b\x1c") & set(encoded)


@given(st.text())
def test_any_text_can_be_sent(value: str) -> None:
    assert text(value).encode("utf-8").decode("utf-8") == text(value)


@given(TEXTS)
def test_any_text_in_every_field_leaves_the_segments_alone(value: str) -> None:
    message = write_oru(hostile_record(value), PLAIN).decode()
    assert [one.name for one in read_segments(message)][:5] == ["MSH", "PID", "PV1", "ORC", "OBR"]
    assert next(named(read_segments(message), "PID")).value(5, 2) == value


@given(st.text())
def test_reading_any_text_gives_segments_or_says_that_it_is_none(value: str) -> None:
    for message in (value, f"MSH|^~\\&{value}"):
        try:
            segments = read_segments(message)
        except Hl7Error:
            continue
        assert segments[0].name == "MSH"
        for one in segments:
            assert isinstance(one.value(3) + one.text(5), str)


@given(st.floats(min_value=-1e9, max_value=1e9))
def test_a_number_has_no_exponent(value: float) -> None:
    assert re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", number(value))
    assert float(number(value)) == pytest.approx(value, abs=1e-4)

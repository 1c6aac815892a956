"""Statuses and answers of archives are read right, and no bytes from outside do harm."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dicom_node.delivery import stow
from dicom_node.delivery.archive import OutboundObject, Sent
from dicom_node.delivery.statuses import judge_status
from inference.findings import SeriesUid, SopUid, StudyUid


def outbound(uid: str) -> OutboundObject:
    return OutboundObject(
        study_uid=StudyUid("1.2"),
        series_uid=SeriesUid("1.3"),
        sop_class_uid="1.4",
        sop_instance_uid=SopUid(uid),
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        path=Path("absent"),
    )


@pytest.mark.parametrize(
    ("code", "sent"),
    [
        (0x0000, Sent.ACCEPTED),
        (0xB000, Sent.ACCEPTED),
        (0xB006, Sent.ACCEPTED),
        (0xB007, Sent.ACCEPTED),
        (0x0107, Sent.ACCEPTED),
        (0x0111, Sent.ACCEPTED),
        (0xA700, Sent.RETRY),
        (0xA7FF, Sent.RETRY),
        (0x0110, Sent.RETRY),
        (0x0213, Sent.RETRY),
        (0xFE00, Sent.RETRY),
        (0xA900, Sent.REFUSED),
        (0xC000, Sent.REFUSED),
        (0xC211, Sent.REFUSED),
        (0x0122, Sent.REFUSED),
        (0x0124, Sent.REFUSED),
        (0x0212, Sent.REFUSED),
    ],
)
def test_a_status_is_stored_later_or_never(code: int, sent: Sent) -> None:
    assert judge_status(code)[0] is sent


@given(code=st.integers(0, 0xFFFF))
@settings(max_examples=200)
def test_every_status_but_success_has_a_reason_with_its_code(code: int) -> None:
    _, reason = judge_status(code)
    assert reason == "" if code == 0 else f"{code:04X}" in reason


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["00081199", "00081198", "00081155", "00081197", "00081196", "Value", "vr"]),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)


def read_and_judge(body: bytes) -> None:
    objects = [outbound("1.2.3"), outbound("1.2.4")]
    for read in (stow.read_json, stow.read_xml):
        try:
            answers = read(body)
            for answer in answers:
                told = stow.store_outcomes(answer, objects)
                assert set(told) <= {"1.2.3", "1.2.4"}
        except ValueError:
            continue


@given(content=json_values)
@settings(max_examples=200)
def test_json_of_any_shape_is_an_answer_or_a_value_error(content: object) -> None:
    read_and_judge(json.dumps(content).encode())


@given(body=st.binary(max_size=200))
@settings(max_examples=200)
def test_any_bytes_are_an_answer_or_a_value_error(body: bytes) -> None:
    read_and_judge(body)


ANSWER = """<NativeDicomModel xmlns="http://dicom.nema.org/PS3.19/models/NativeDICOM">
<DicomAttribute tag="00081198" vr="SQ"><Item number="1"><DicomAttribute tag="00081155" vr="UI"><Value number="1">1.2.3
</Value></DicomAttribute><DicomAttribute tag="00081197" vr="US"><Value number="1">42752</Value></DicomAttribute></Item>
</DicomAttribute></NativeDicomModel>"""


@given(data=st.data())
@settings(max_examples=200)
def test_a_damaged_answer_is_an_answer_or_a_value_error(data: st.DataObject) -> None:
    body = bytearray(ANSWER.encode())
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    read_and_judge(bytes(body))


def test_a_failure_in_xml_is_read_with_its_reason() -> None:
    (answer,) = stow.read_xml(ANSWER.encode())
    (outcome,) = stow.store_outcomes(answer, [outbound("1.2.3")]).values()
    assert (outcome.sent, "A700" in outcome.reason) == (Sent.RETRY, True)


def test_entities_are_not_expanded() -> None:
    bomb = '<!DOCTYPE a [<!ENTITY x "xxxxxxxx"><!ENTITY y "&x;&x;&x;&x;">]><NativeDicomModel>&y;</NativeDicomModel>'
    for encoding in ("utf-8", "utf-16", "utf-16-le"):
        with pytest.raises(ValueError, match="document type"):
            stow.read_xml(bomb.encode(encoding))


def test_a_failed_object_without_a_reason_is_sent_again() -> None:
    answer = {stow.FAILED_SOP_SEQUENCE: [{stow.REFERENCED_SOP_UID: {"Value": ["1.2.3"]}}]}
    (outcome,) = stow.store_outcomes(answer, [outbound("1.2.3")]).values()
    assert outcome.sent is Sent.RETRY


def test_a_warning_is_told_and_counts_as_stored() -> None:
    item = {stow.REFERENCED_SOP_UID: {"Value": ["1.2.3"]}, stow.WARNING_REASON: {"Value": [0xB000]}}
    (outcome,) = stow.store_outcomes({stow.REFERENCED_SOP_SEQUENCE: [item]}, [outbound("1.2.3")]).values()
    assert (outcome.sent, "B000" in outcome.reason) == (Sent.ACCEPTED, True)


def test_a_multipart_body_is_as_long_as_it_says(tmp_path: Path) -> None:
    objects = []
    for n, size in enumerate((0, 1, 70_000, 200_000)):
        path = tmp_path / str(n)
        path.write_bytes(bytes([n]) * size)
        objects.append(replace(outbound(f"1.{n}"), path=path))
    body = stow.multipart(objects)
    chunks = list(body)
    assert sum(map(len, chunks)) == body.length_bytes
    assert max(map(len, chunks)) <= stow.CHUNK_BYTES
    assert b"".join(chunks).endswith(f"--{body.boundary}--\r\n".encode())

"""Documents for the record carry the report in words as it was written, line by line and to the letter."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from lxml import etree

from dicom_node.ehr.context import DocumentRequest
from dicom_node.ehr.fhir.bundle import write_bundle
from dicom_node.ehr.fhir.profile import read_profile as fhir_profile
from dicom_node.ehr.hl7v2.encoding import named, read_segments
from dicom_node.ehr.hl7v2.oru import write_oru
from dicom_node.ehr.hl7v2.profile import read_profile as oru_profile
from dicom_node.ehr.semd import write_semd
from dicom_node.wording import report_text
from tests.semd_cases import PROFILE, STUDIES, make_document


def words_of_semd(request: DocumentRequest) -> str:
    return " ".join(etree.fromstring(write_semd(request, PROFILE)).itertext())


def words_of_bundle(request: DocumentRequest) -> str:
    written = write_bundle(request, fhir_profile("plain"))
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", text)) for text in _texts(json.loads(written)))


def words_of_message(request: DocumentRequest) -> str:
    segments = read_segments(write_oru(request, oru_profile("plain")).decode())
    return " ".join(one.value(5) for one in named(segments, "OBX"))


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _texts(one)


def _even(words: str) -> str:
    return re.sub(r"\s+", " ", words)


@pytest.mark.parametrize("writer", [words_of_semd, words_of_bundle, words_of_message])
@pytest.mark.parametrize("lesions", [0, 1, 2, 12])
@pytest.mark.parametrize("study", STUDIES)
def test_every_line_of_the_report_is_in_the_document(
    study: str, lesions: int, writer: Callable[[DocumentRequest], str]
) -> None:
    request = make_document(study, lesions=lesions)
    text = report_text(request.findings, request.card, language="ru")
    written = _even(writer(replace(request, text=text)))
    for paragraph in (text.description, text.conclusion, text.recommendation, *text.warnings):
        for line in paragraph.split("\n"):
            assert _even(line) in written, line

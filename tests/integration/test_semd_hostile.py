"""Hostile text in every field of a SEMD: escaped and valid, or refused with the name of the field."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lxml import etree

from dicom_node.ehr.context import (
    Address,
    ContextMissing,
    DocumentRequest,
    Employee,
    Identifier,
    Organisation,
    PersonName,
    Revision,
)
from dicom_node.ehr.semd import ContextInvalid, check_semd, write_semd
from dicom_node.ehr.semd.elements import plain
from dicom_node.wording import ReportText
from inference.findings import SeriesUid, SopUid
from tests.semd_cases import PROFILE, make_document
from tests.semd_judges import SemdJudges

NASTY = (
    """<script>alert('x')</script>""",
    """]]><ClinicalDocument xmlns="urn:hl7-org:v3"/><![CDATA[""",
    """&xxe; & < > " ' </value>""",
    "<!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]>&b;",
    "a\x00b\x08c\x1f\x7f\x85\ufffe\uffff\ud800",
    "  \u202e\u2028 \N{NO-BREAK SPACE}x\r\ny\tz ",
    "Ё" * 5000,
    "👩‍⚕️ Щербаков-Ёлкин",
)


@pytest.fixture(scope="module")
def judges(shared_ehr: Path) -> SemdJudges:
    return SemdJudges(shared_ehr / "semd_instrumental_protocol")


def filled(text: str) -> DocumentRequest:
    """A request with `text` in every field of free text."""
    request = make_document(lesions=2)
    name = PersonName(family=text, given=text, patronymic=text)
    address = Address(text=text, region_code="77", postal_code=text)
    where = Organisation(oid="1.2.643.5.1.13.13.12.2.77.7799", name=text, address=address, telephone=text)
    assert request.patient.document is not None and request.patient.policy is not None
    assert request.author is not None and request.encounter is not None and request.key_image is not None

    def person(number: str) -> Employee:
        assert request.author is not None
        return replace(
            request.author,
            identifier=Identifier(value=text + number, system=text),
            name=name,
            position_code="9999",
            position_name=text,
            telephone=text,
            organisation=where,
        )

    return replace(
        request,
        document_id=text,
        revision=Revision(set_id=text, version=2, replaces_id=text),
        patient=replace(
            request.patient,
            identifier=Identifier(value=text, system=text),
            name=name,
            document=replace(request.patient.document, series=text, number=text, issued_by=text, issued_by_code=text),
            policy=replace(request.patient.policy, number=text, series=text, insurer_name=text),
            address=address,
            telephone=text,
        ),
        performer=where,
        author=person("a"),
        legal_authenticator=person("b"),
        encounter=replace(request.encounter, identifier=Identifier(value=text)),
        order=replace(
            request.order,
            placer=Identifier(value=text, system="1.2.643.5.1.13.13.12.2.77.7799.100.1.1.51"),
            accession_number=text,
            diagnosis_text=text,
        ),
        source=replace(request.source, manufacturer=text, device_model=text, device_serial=text, description=text),
        key_image=replace(request.key_image, series_uid=SeriesUid(text), sop_instance_uid=SopUid(text)),
        text=ReportText(language="ru", description=text, conclusion=text, recommendation=text, warnings=(text,)),
    )


@pytest.mark.parametrize("text", NASTY)
def test_nasty_text_in_every_field_stays_text(judges: SemdJudges, text: str) -> None:
    document = write_semd(filled(text), PROFILE)

    assert judges.schema_errors(document) == []
    assert judges.failed_asserts(document) == []
    assert {found.code for found in judges.mismatches(document)} == {"9999"}, "the position that is no position"
    root = etree.fromstring(document)
    assert root.getroottree().docinfo.doctype == ""
    assert root.xpath("string(//*[local-name()='family'])") == plain(text)
    assert len(root.xpath("//*[local-name()='ClinicalDocument' or local-name()='script']")) == 1


@given(text=st.text(max_size=40))
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_is_written_and_read_back_or_refused_as_missing(judges: SemdJudges, text: str) -> None:
    try:
        document = write_semd(filled(text), PROFILE)
    except (ContextMissing, ContextInvalid):
        assert not text.strip()
        return
    assert judges.schema_errors(document) == []
    assert check_semd(document, PROFILE) == ()
    assert etree.fromstring(document).xpath("string(//*[local-name()='conclusion' or local-name()='given'])") == plain(
        text
    )


@given(
    oid=st.text(max_size=30),
    position=st.text(max_size=8),
    snils=st.text(alphabet="0123456789- ", max_size=15),
    diagnosis=st.text(max_size=8),
    address=st.text(max_size=30),
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_code_number_or_address_is_valid_or_refused(
    judges: SemdJudges, oid: str, position: str, snils: str, diagnosis: str, address: str
) -> None:
    request = make_document(lesions=1)
    assert request.author is not None and request.performer is not None
    request = replace(
        request,
        performer=replace(request.performer, oid=oid) if oid else request.performer,
        author=replace(request.author, position_code=position) if position else request.author,
        patient=replace(request.patient, snils=snils or None),
        order=replace(request.order, diagnosis_code=diagnosis),
        base_url=address,
    )
    try:
        document = write_semd(request, PROFILE)
    except (ContextMissing, ContextInvalid):
        return
    assert judges.schema_errors(document) == []


@given(
    moment=st.datetimes(min_value=datetime(1990, 1, 1), max_value=datetime(2100, 1, 1)),
    minutes=st.integers(min_value=-14 * 60, max_value=14 * 60),
    born=st.dates(),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_times_of_every_zone_are_written_as_the_rules_want_them(
    judges: SemdJudges, moment: datetime, minutes: int, born: date
) -> None:
    aware = moment.replace(tzinfo=timezone(timedelta(minutes=minutes)))
    request = make_document(lesions=0)
    request = replace(
        request,
        created_at=aware,
        source=replace(request.source, performed_at=aware),
        patient=replace(request.patient, birth_date=born),
    )
    try:
        document = write_semd(request, PROFILE)
    except ContextInvalid as refused:
        assert refused.faults == ("patient.birth_date: no plausible year",)
        return

    assert judges.schema_errors(document) == []
    assert judges.failed_asserts(document) == []
    low = str(etree.fromstring(document).xpath("string(//*[local-name()='act']//*[local-name()='low']/@value)"))
    assert datetime.strptime(low, "%Y%m%d%H%M%z") == aware.astimezone(UTC).replace(second=0, microsecond=0)

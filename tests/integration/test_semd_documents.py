"""Every draft of a SEMD before the Ministry's schema, its Schematron and the federal dictionaries."""

from __future__ import annotations

import base64
from dataclasses import replace
from pathlib import Path

import pytest
from lxml import etree

from dicom_node.ehr import snils
from dicom_node.ehr.context import ContextMissing, Identifier, Revision
from dicom_node.ehr.semd import (
    ContextInvalid,
    SemdProfile,
    SemdSite,
    check_semd,
    edition_4,
    read_edition,
    unknown,
    write_semd,
)
from dicom_node.ehr.semd.profile import Dictionaries
from dicom_node.results.texts import RESEARCH_SENTENCE, warning_sentence
from dicom_node.wording import report_text
from models.card import ModelCard
from models.codes import Code
from tests.semd_cases import PROFILE, SITE, STUDIES, make_document
from tests.semd_judges import SemdJudges

V3 = {"v": "urn:hl7-org:v3"}


@pytest.fixture(scope="module")
def judges(shared_ehr: Path) -> SemdJudges:
    return SemdJudges(shared_ehr / "semd_instrumental_protocol")


def hold(document: bytes, judges: SemdJudges) -> None:
    """The document passes every judge."""
    assert judges.schema_errors(document) == []
    assert judges.failed_asserts(document) == []
    assert judges.mismatches(document) == []
    for element in etree.fromstring(document).iter("{urn:hl7-org:v3}id"):
        if element.get("root") == snils.OID:
            snils.parse(element.get("extension") or "")


def texts(document: bytes, path: str) -> list[str]:
    return [str(found) for found in etree.fromstring(document).xpath(path, namespaces=V3)]


@pytest.mark.parametrize("lesions", [0, 1, 2, 12])
@pytest.mark.parametrize("whole", [True, False], ids=["whole context", "least context"])
@pytest.mark.parametrize("study", STUDIES)
def test_every_draft_passes_schema_schematron_dictionaries_and_snils(
    judges: SemdJudges, study: str, whole: bool, lesions: int
) -> None:
    document = write_semd(make_document(study, lesions=lesions, whole=whole), PROFILE)

    hold(document, judges)
    assert len(texts(document, "//v:section/v:code[@code='OBJECTINFO']/@code")) == lesions
    assert texts(document, "//v:act/v:code/@code") == [STUDIES[study][3]]


@pytest.mark.parametrize("lesions", [0, 1, 2, 12])
@pytest.mark.parametrize("study", ["chest film", "mammography", "CT"])
def test_the_report_of_the_node_stands_in_the_draft_word_for_word(judges: SemdJudges, study: str, lesions: int) -> None:
    request = make_document(study, lesions=lesions)
    text = report_text(request.findings, request.card, language="ru")

    document = write_semd(replace(request, text=text), PROFILE)

    hold(document, judges)
    protocol, conclusion = (
        texts(document, f"string(//v:observation[v:code/@code='{code}']/v:value)") for code in ("1805", "1806")
    )
    assert "".join(protocol).startswith(text.description)
    assert "".join(conclusion) == text.conclusion
    lines = texts(document, "//v:section[v:code/@code='RESINFO']/v:text/v:paragraph/text()")
    assert len([line for line in lines if line.startswith(RESEARCH_SENTENCE.ru[:25])]) == 1


@pytest.mark.parametrize("modality", ["DX", "CR"])
def test_a_finding_without_a_place_stands_in_the_result(judges: SemdJudges, modality: str) -> None:
    request = make_document(lesions=0, present_without_place=True)
    request = replace(request, source=replace(request.source, modality=modality))

    document = write_semd(request, PROFILE)

    hold(document, judges)
    assert texts(document, "//v:section[v:code/@code='RESINFO']//v:originalText/text()") == ["Затемнение в лёгком"]


def test_a_pathology_of_the_dictionary_is_coded_and_keeps_the_model_s_words(judges: SemdJudges) -> None:
    request = make_document(lesions=1)
    pneumothorax = Code(value="36118008", scheme="SCT", meaning="Pneumothorax")
    lesion = replace(request.findings.lesions[0], code=pneumothorax)

    document = write_semd(replace(request, findings=replace(request.findings, lesions=(lesion,))), PROFILE)

    hold(document, judges)
    assert texts(document, "//v:observation[v:code/@code='808']/v:value/@displayName") == ["Пневмоторакс"]
    assert texts(document, "//v:observation[v:code/@code='808']//v:originalText/text()") == ["Затемнение в лёгком"]


@pytest.mark.parametrize("lesions", [0, 2])
def test_a_correction_keeps_its_set_and_counts_on(judges: SemdJudges, lesions: int) -> None:
    first = make_document(lesions=2)
    corrected = replace(
        make_document(lesions=lesions),
        document_id="doc-2",
        revision=Revision(set_id="set-1", version=2, replaces_id="doc-1"),
    )

    before, after = write_semd(first, PROFILE), write_semd(corrected, PROFILE)

    hold(after, judges)
    assert texts(before, "v:setId/@*") == texts(after, "v:setId/@*")
    assert texts(before, "v:versionNumber/@value") + texts(after, "v:versionNumber/@value") == ["1", "2"]
    assert texts(after, "v:id/@extension") == ["doc-2"]
    assert any("заменяет документ doc-1" in line for line in texts(after, "//v:paragraph/text()"))


@pytest.mark.parametrize("whole", [True, False])
def test_a_withdrawal_takes_everything_back_and_says_nothing_else(judges: SemdJudges, whole: bool) -> None:
    request = replace(
        make_document(lesions=12, whole=whole),
        document_id="doc-3",
        revision=Revision(set_id="set-1", version=3, replaces_id="doc-2", withdrawn=True),
    )

    document = write_semd(request, PROFILE)

    hold(document, judges)
    assert texts(document, "//v:section/v:code/@code") == ["DOCINFO", "RESINFO"]
    assert "отозван" in texts(document, "//v:observation[v:code/@code='1806']/v:value/text()")[0]
    assert texts(document, "//v:observationMedia[@ID='KEYIMAGE']") == []
    assert request.text.description not in document.decode()
    assert request.text.conclusion not in document.decode()


def test_an_edition_that_knows_related_documents_names_the_one_that_is_replaced() -> None:
    edition = edition_4().model_copy(update={"related_document": True})
    request = replace(make_document(), revision=Revision(set_id="set-1", version=2, replaces_id="doc-0"))

    document = write_semd(request, SemdProfile(edition=edition, site=SITE))

    assert texts(document, "v:relatedDocument[@typeCode='RPLC']/v:parentDocument/v:id/@extension") == ["doc-0"]


def test_the_ordinal_field_is_left_out_because_a_rule_of_the_edition_cannot_be_met(judges: SemdJudges) -> None:
    edition = edition_4().model_copy(update={"ordinal": True})

    document = write_semd(make_document(lesions=2), SemdProfile(edition=edition, site=SITE))

    failed = judges.failed_asserts(document)
    assert len(failed) == 2
    assert all("8034" in line and "не должен иметь атрибут @nullFlavor" in line for line in failed)


def test_another_edition_is_a_file(tmp_path: Path) -> None:
    shipped = (
        Path(read_edition.__code__.co_filename)
        .with_name("profiles")
        .joinpath("edition4.toml")
        .read_text(encoding="utf-8")
    )
    changed = shipped.replace('"1.2.643.5.1.13.13.14.6.9.4"', '"1.2.643.5.1.13.13.14.6.9.5"')
    changed = changed.replace("edition = 4", "edition = 5").replace('"174"', '"224"').replace("7.24", "8.1")
    (tmp_path / "edition5.toml").write_text(changed, encoding="utf-8")
    profile = SemdProfile(edition=read_edition(str(tmp_path / "edition5.toml")), site=SITE)

    document = write_semd(make_document(), profile)

    assert texts(document, "v:templateId/@root") == ["1.2.643.5.1.13.13.14.6.9.5"]
    assert texts(document, "v:code/@codeSystemVersion") == ["8.1"]
    assert check_semd(document, profile) == ()
    assert check_semd(document, PROFILE) != ()


def test_the_key_image_and_the_link_to_the_study_are_in_the_document() -> None:
    request = make_document(whole=True)
    assert request.key_image is not None

    document = write_semd(request, PROFILE)

    media = "//v:observationMedia[@ID='KEYIMAGE']/v:value"
    assert base64.b64decode("".join(texts(document, f"{media}//text()"))) == request.key_image.data
    assert texts(document, "//v:observationMedia[@ID='STUDY']//v:reference/@value") == [
        f"https://pacs.example.org/dicom-web/studies/{request.source.study_uid}"
    ]
    bare = write_semd(make_document(whole=False), PROFILE)
    assert texts(bare, "//v:reference/@value") == [f"urn:oid:{request.source.study_uid}"]


def test_a_research_model_s_warning_stands_in_narrative_and_protocol() -> None:
    document = write_semd(make_document(), PROFILE)

    sentence = RESEARCH_SENTENCE.ru
    for section in ("DOCINFO", "RESINFO"):
        lines = texts(document, f"//v:section[v:code/@code='{section}']/v:text/v:paragraph/text()")
        assert lines.count(sentence) == 1
    assert sentence in texts(document, "//v:observation[v:code/@code='1805']/v:value/text()")[0]


def test_a_registered_model_names_its_number_and_is_not_called_research() -> None:
    request = make_document()
    data = request.card.model_dump()
    data["identity"] |= {"use": "registered", "registration_number": "РЗН 2026/1"}
    card = ModelCard.model_validate(data)

    document = write_semd(replace(request, card=card), PROFILE).decode()

    assert warning_sentence(card, "ru") in document
    assert RESEARCH_SENTENCE.ru not in document


def test_equal_requests_give_equal_bytes() -> None:
    assert write_semd(make_document(), PROFILE) == write_semd(make_document(), PROFILE)


def test_everything_that_lacks_is_named_at_once() -> None:
    request = make_document(whole=False)
    request = replace(
        request,
        patient=replace(request.patient, name=None),
        performer=None,
        author=None,
        legal_authenticator=replace(request.legal_authenticator, snils=None) if request.legal_authenticator else None,
        encounter=None,
        source=replace(request.source, performed_at=None, modality="US"),
    )

    with pytest.raises(ContextMissing) as raised:
        write_semd(request, SemdProfile(edition=edition_4()))

    assert set(raised.value.missing) == {
        "patient.name",
        "performer.oid",
        "performer.name",
        "performer.address",
        "author",
        "legal_authenticator.snils",
        "source.performed_at",
        "encounter.kind_code",
        "profile.site.place",
        "profile.studies (no rule fits modality and body part)",
    }


def test_what_the_document_does_without_is_told() -> None:
    assert unknown(make_document(whole=True), PROFILE) == ()
    assert unknown(make_document(whole=False), SemdProfile(edition=edition_4(), site=SemdSite(place="1"))) == (
        "patient.snils",
        "patient.birth_date",
        "patient.sex",
        "encounter.begun",
        "order.placer",
        "order.diagnosis_code",
        "order.diagnosis_text",
        "profile.site.service_form",
        "profile.site.service_condition",
        "source.dose_msv",
        "source.device_model",
        "source.device_serial",
        "key_image",
        "patient.document",
        "patient.policy",
        "patient.address",
    )


def test_a_block_of_which_a_part_lacks_is_left_out_whole_and_the_part_is_told(judges: SemdJudges) -> None:
    request = make_document(whole=True)
    patient = request.patient
    assert patient.document is not None and patient.policy is not None and patient.address is not None
    patient = replace(
        patient,
        document=replace(patient.document, issued_on=None),
        policy=replace(patient.policy, kind="77"),
        address=replace(patient.address, region_code="16"),
    )
    request = replace(request, patient=patient)

    document = write_semd(request, PROFILE)

    hold(document, judges)
    for block in ("IdentityDoc", "InsurancePolicy", "addr"):
        path = f"v:recordTarget/v:patientRole/*[local-name()='{block}']/@nullFlavor"
        assert texts(document, path) == ["NI"]
    assert unknown(request, PROFILE) == (
        "patient.document.issued_on",
        "profile.site.codes.policies (the name of patient.policy.kind)",
        "profile.site.codes.regions (the name of patient.address.region_code)",
    )


def test_wrong_values_are_refused_by_the_names_of_their_fields_and_never_shown() -> None:
    request = make_document()
    assert request.author is not None and request.performer is not None
    request = replace(
        request,
        patient=replace(request.patient, snils="08765430301"),
        author=replace(request.author, snils="123", position_name="Врач"),
        performer=replace(request.performer, oid="1.2.643.05"),
        source=replace(request.source, dose_msv=float("nan")),
        base_url="javascript:alert(1)",
    )

    with pytest.raises(ContextInvalid) as raised:
        write_semd(request, PROFILE)

    fields = {fault.split(":")[0] for fault in raised.value.faults}
    assert fields == {
        "patient.snils",
        "author.snils",
        "author.position_name",
        "performer.oid",
        "source.dose_msv",
        "base_url",
    }
    for secret in ("08765430301", "javascript", "643.05"):
        assert secret not in str(raised.value)


def test_a_referral_is_named_only_where_its_number_is_that_of_a_document() -> None:
    request = make_document(whole=True)
    named = write_semd(request, PROFILE)
    bare = write_semd(replace(request, order=replace(request.order, placer=Identifier(value="9"))), PROFILE)

    assert texts(named, "//v:order/v:id/@extension") == ["ref-9"]
    assert texts(bare, "//v:inFulfillmentOf") == []


def test_our_table_of_codes_is_the_dictionaries_to_the_letter(judges: SemdJudges) -> None:
    compared = 0
    for key in Dictionaries.model_fields:
        ours = PROFILE.dictionary(key)
        if ours.oid not in judges.dictionaries:
            assert ours.second_hand or key == "policies", key
            continue
        version, name, codes = judges.dictionaries[ours.oid]
        assert (ours.version, ours.name) == (version, name)
        assert {code: codes.get(code) for code in ours.codes} == dict(ours.codes)
        compared += len(ours.codes)
    assert compared >= 70


def test_the_product_carries_no_whole_dictionary_of_size(judges: SemdJudges) -> None:
    for key in Dictionaries.model_fields:
        ours = SemdProfile(edition=edition_4()).dictionary(key)
        if ours.oid in judges.dictionaries and len(judges.dictionaries[ours.oid][2]) > 20:
            assert len(ours.codes) < len(judges.dictionaries[ours.oid][2]) / 4


@pytest.mark.parametrize("site", [{"place": "77"}, {"codes": {"planets": {"1": "Марс"}}}, {"system": "x"}])
def test_a_site_that_the_edition_does_not_know_is_refused(site: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"places|planets|system"):
        SemdProfile(edition=edition_4(), site=SemdSite.model_validate(site))

"""Spoilt documents: our own check catches them, and so do the outside judges where it is theirs to judge."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import pytest
from lxml import etree

from dicom_node.ehr.semd import check_semd, write_semd
from tests.semd_cases import PROFILE, make_document
from tests.semd_judges import SemdJudges

V3 = {"v": "urn:hl7-org:v3", "identity": "urn:hl7-ru:identity"}
Mutation = Callable[[etree._Element], None]


@pytest.fixture(scope="module")
def judges(shared_ehr: Path) -> SemdJudges:
    return SemdJudges(shared_ehr / "semd_instrumental_protocol")


@pytest.fixture(scope="module")
def sound() -> bytes:
    return write_semd(make_document(lesions=2), PROFILE)


def one(root: etree._Element, path: str) -> etree._Element:
    found = root.xpath(path, namespaces=V3)
    assert isinstance(found, list) and found, path
    assert isinstance(found[0], etree._Element)
    return found[0]


def spoilt(document: bytes, mutate: Mutation) -> bytes:
    root = etree.fromstring(document)
    mutate(root)
    return etree.tostring(root, encoding="UTF-8", xml_declaration=True)


def remove(path: str) -> Mutation:
    def mutate(root: etree._Element) -> None:
        element = one(root, path)
        parent = element.getparent()
        assert parent is not None
        parent.remove(element)

    return mutate


def change(path: str, **attributes: str) -> Mutation:
    def mutate(root: etree._Element) -> None:
        for name, value in attributes.items():
            one(root, path).set(name, value)

    return mutate


def say(path: str, text: str) -> Mutation:
    def mutate(root: etree._Element) -> None:
        one(root, path).text = text

    return mutate


def second_author(root: etree._Element) -> None:
    author = one(root, "v:author")
    author.addnext(deepcopy(author))


def empty_narrative(root: etree._Element) -> None:
    one(root, "//v:section/v:text").clear()


def unknown_location(root: etree._Element) -> None:
    value = one(root, "//v:observation[v:code/@code='8037']/v:value")
    value.set("nullFlavor", "NI")
    for name in ("code", "codeSystem", "codeSystemName", "codeSystemVersion", "displayName"):
        del value.attrib[name]


def no_picture(root: etree._Element) -> None:
    one(root, "//v:observationMedia/v:value/v:reference").tail = "?"


def strange_element(root: etree._Element) -> None:
    etree.SubElement(root, "{urn:hl7-org:v3}authorization")


MISSING_1806 = remove("//v:entry[v:observation/v:code/@code='1806']")
WRONG_LATERALITY_FIELD = change("//v:code[@code='6034']", code="8019")
WRONG_ID_ROOT = change("/v:ClinicalDocument/v:id", root="1.2.643.5.1.13.13.12.2.77.7799.100.1.1.50")
WRONG_STUDY_DICTIONARY = change(
    "//v:act/v:code",
    code="A06.09.007",
    codeSystem="1.2.643.5.1.13.13.11.1070",
    codeSystemName="Номенклатура медицинских услуг",
    codeSystemVersion="2.12",
    displayName="Рентгенография легких",
)
WRONG_SNILS = change("//v:patientRole/v:id[2]", extension="087-654-303 01")
WRONG_NAME = change("//v:value[@code='169']", displayName="Лёгкое")

SIX = {
    "missing 1806": MISSING_1806,
    "wrong laterality field": WRONG_LATERALITY_FIELD,
    "wrong id root": WRONG_ID_ROOT,
    "study of the wrong dictionary": WRONG_STUDY_DICTIONARY,
    "wrong SNILS sum": WRONG_SNILS,
    "wrong display name": WRONG_NAME,
}
MORE = {
    "no signer": remove("v:legalAuthenticator"),
    "two authors": second_author,
    "another template": change("v:templateId", root="1.2.643.5.1.13.13.14.6.9.3"),
    "a signed time": change("v:author/v:time", nullFlavor="NA"),
    "version nought": change("v:versionNumber", value="0"),
    "no conclusion": remove("//v:section[v:code/@code='RESINFO']/.."),
    "empty narrative": empty_narrative,
    "an old dictionary": change("//v:value[@code='169']", codeSystemVersion="1.1"),
    "a code out of the table": change("//v:act/v:code", code="7003321"),
    "a patient of no clinic": change("//v:patientRole/v:id[1]", root="1.2.3.100.1.1.10"),
    "staff without SNILS": change("//v:assignedAuthor/v:id[2]", root="1.2.643.100.4"),
    "a time without zone": change("//v:act/v:effectiveTime/v:low", value="202611200930"),
    "no beginning of the event": remove("//v:serviceEvent/v:effectiveTime/v:low"),
    "a picture that is none": no_picture,
    "a reference to no picture": change("//v:renderMultiMedia", referencedObject="OTHER"),
    "a location that is not known": unknown_location,
    "an empty protocol": say("//v:observation[v:code/@code='1805']/v:value", ""),
    "a nameless patient": say("//v:patient/v:name/v:family", " "),
    "a strange element": strange_element,
}


def test_the_document_that_is_spoilt_is_sound_before(sound: bytes, judges: SemdJudges) -> None:
    assert check_semd(sound, PROFILE) == ()
    assert (judges.schema_errors(sound), judges.failed_asserts(sound), judges.mismatches(sound)) == ([], [], [])


@pytest.mark.parametrize("name", [*SIX, *MORE])
def test_our_own_check_catches_what_is_spoilt(sound: bytes, name: str) -> None:
    assert check_semd(spoilt(sound, (SIX | MORE)[name]), PROFILE) != ()


def test_without_a_site_the_shipped_edition_alone_is_asked(sound: bytes) -> None:
    bare = write_semd(make_document(whole=False), PROFILE)

    assert check_semd(bare) == ()
    assert [fault.where.rsplit("/", 1)[1] for fault in check_semd(sound)] == ["InsurancePolicyType"]


@pytest.mark.parametrize("name", SIX)
def test_the_outside_judges_can_fail(sound: bytes, judges: SemdJudges, name: str) -> None:
    document = spoilt(sound, SIX[name])

    wrong = [
        bool(judges.schema_errors(document)),
        bool(judges.failed_asserts(document)),
        bool(judges.mismatches(document)),
    ]

    expected = {
        "missing 1806": [False, True, False],
        "wrong laterality field": [False, True, True],
        "wrong id root": [True, True, False],
        "study of the wrong dictionary": [False, True, False],
        "wrong SNILS sum": [False, False, False],
        "wrong display name": [False, False, True],
    }
    assert wrong == expected[name]


def test_the_sum_of_a_snils_is_ours_alone_to_see_and_its_shape_the_rules(sound: bytes, judges: SemdJudges) -> None:
    document = spoilt(sound, change("//v:patientRole/v:id[2]", extension="087-654-303 0"))

    assert judges.failed_asserts(document) != []
    assert [fault.what for fault in check_semd(document, PROFILE)] == [
        "not a SNILS: eleven digits are expected, as 000-000-000 00"
    ]


def test_faults_never_repeat_what_the_document_says_of_the_patient(sound: bytes) -> None:
    document = spoilt(sound, WRONG_SNILS)
    document = spoilt(document, change("//v:patientRole/v:id[1]", root="1.2.3"))
    document = spoilt(document, change("//v:birthTime", value="19610409x"))

    said = " ".join(map(str, check_semd(document, PROFILE)))

    assert len(check_semd(document, PROFILE)) == 3
    for secret in ("654", "PAT-17", "1961", "Иванова"):
        assert secret not in said


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"not xml",
        b"<ClinicalDocument/>",
        b'<!DOCTYPE x [<!ENTITY a "b">]><ClinicalDocument xmlns="urn:hl7-org:v3">&a;</ClinicalDocument>',
        b'<!DOCTYPE x SYSTEM "file:///etc/hostname"><ClinicalDocument xmlns="urn:hl7-org:v3"/>',
        b'<?xml version="1.0"?><ClinicalDocument xmlns="urn:hl7-org:v3"><!-- c --><?pi?></ClinicalDocument>',
        b"<a>" * 100_000,
        b" " * (17 * 1024 * 1024),
    ],
    ids=["empty", "text", "no namespace", "entity", "external", "hollow", "deep", "large"],
)
def test_whatever_is_handed_in_is_answered_with_faults(document: bytes) -> None:
    assert check_semd(document, PROFILE) != ()

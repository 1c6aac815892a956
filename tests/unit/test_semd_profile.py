"""The profile of a SEMD: which study it was, what a site adds, and what a broken file of an edition says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dicom_node.ehr.semd import ProfileError, SemdProfile, SemdSite, StudyRule, edition_4, read_edition
from models.codes import Code
from tests.semd_cases import PROFILE, STUDIES, make_document

SOURCE = make_document().source


@pytest.mark.parametrize(
    ("modality", "body_part", "description", "code"),
    [
        *((modality, part, words, code) for modality, words, part, code in STUDIES.values()),
        ("CR", "", "", "7002892"),
        ("DX", "CHEST", "ФЛГ профилактическая", "7003320"),
        ("CT", "CHEST", "КТ ОГК без контрастирования", "7001894"),
        ("CT", "CHEST", "КТ с болюсным контрастированием", "7001910"),
        ("CT", "CHEST", "LDCT screening", "7001928"),
        ("MG", "BREAST", "Screening MLO CC", "7003379"),
        ("CT", "ABDOMEN", "КТ брюшной полости", None),
        ("DX", "SKULL", "", None),
        ("US", "BREAST", "УЗИ", None),
    ],
)
def test_the_study_is_named_by_modality_part_and_words(
    modality: str, body_part: str, description: str, code: str | None
) -> None:
    source = replace(SOURCE, modality=modality, body_part=body_part, description=description)

    assert PROFILE.study_code(source) == code


def test_a_site_s_rule_comes_before_the_edition_s() -> None:
    rule = StudyRule(code="7003320", modalities=("DX",), words=("профосмотр",))
    profile = SemdProfile(edition=edition_4(), site=SemdSite(studies=(rule,)))

    assert profile.study_code(replace(SOURCE, description="Профосмотр")) == "7003320"


def test_a_site_adds_codes_versions_and_equals_of_findings() -> None:
    site = SemdSite.model_validate(
        {
            "codes": {"regions": {"16": "Республика Татарстан (Татарстан)"}},
            "versions": {"diagnoses": "2.27"},
            "map": {"pathologies": {"SCT:128480000": "4300"}},
        }
    )
    profile = SemdProfile(edition=edition_4(), site=site)

    assert profile.name_of("regions", "16") == "Республика Татарстан (Татарстан)"
    assert profile.name_of("regions", "77") == "г. Москва"
    assert profile.dictionary("diagnoses").version == "2.27"
    assert profile.mapped("pathologies", Code(value="128480000", scheme="SCT", meaning="Lung opacity")) == "4300"


def test_every_code_that_a_rule_or_a_map_names_is_in_the_table() -> None:
    edition = edition_4()
    for rule in edition.studies:
        assert PROFILE.name_of("studies", rule.code), rule
    for key in ("locations", "lateralities", "pathologies"):
        for code in getattr(edition.map, key).values():
            assert PROFILE.name_of(key, code), code
    for field in edition.fields.model_dump().values():
        assert PROFILE.name_of("fields", field), field


@pytest.mark.parametrize(
    "site",
    [
        {"studies": [{"code": "1", "modalities": ["DX"]}]},
        {"map": {"locations": {"SCT:1": "99999"}}},
    ],
)
def test_a_code_without_a_name_is_refused_when_the_profile_is_made(site: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"studies|locations"):
        SemdProfile(edition=edition_4(), site=SemdSite.model_validate(site))


@pytest.mark.parametrize(
    ("text", "said"),
    [("edition = 4", "fault"), ("edition = = 4", "not valid TOML"), (None, "cannot be read")],
)
def test_a_file_of_an_edition_that_cannot_be_used_is_refused_with_its_name(
    tmp_path: Path, text: str | None, said: str
) -> None:
    path = tmp_path / "edition9.toml"
    if text is not None:
        path.write_text(text, encoding="utf-8")

    with pytest.raises(ProfileError, match=rf"edition9\.toml.*{said}"):
        read_edition(str(path))

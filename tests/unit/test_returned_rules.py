"""What the shipped rules make of conclusions written for these tests, of codes, and of faulty files."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dicom_node.ehr.inbound import ReportCode
from dicom_node.ehr.profile_file import ProfileError
from dicom_node.returned.language import sentences
from dicom_node.returned.rules import MAX_CONCLUSION, Decision, read_rules
from dicom_node.states import Reading
from models.card import ModelCard
from models.registry import installed_models
from tests.returned_cases import CASES, HELD_OUT, UNRELATED

RULES = read_rules("radiology")
SNOMED, ICD = "http://snomed.info/sct", "urn:oid:1.2.643.5.1.13.13.11.1005"


def decide(text: str, label: str = "opacity", *codes: ReportCode) -> Decision:
    rules = RULES.of(label)
    assert rules is not None
    return RULES.read(rules, text, codes)


@pytest.mark.parametrize(("label", "reading", "text"), CASES)
def test_a_conclusion_is_read_as_a_careful_person_would(label: str, reading: Reading, text: str) -> None:
    decided = decide(text, label)
    assert decided.reading is reading, decided.rule


@pytest.mark.parametrize(("label", "reading", "text"), HELD_OUT)
def test_conclusions_that_nobody_had_in_sight_are_read_as_well(label: str, reading: Reading, text: str) -> None:
    decided = decide(text, label)
    assert decided.reading is reading, decided.rule


@given(
    st.sampled_from(CASES + HELD_OUT),
    st.lists(st.sampled_from(UNRELATED), max_size=3),
    st.lists(st.sampled_from(UNRELATED)),
)
def test_sentences_about_something_else_change_nothing(
    case: tuple[str, Reading, str], before: list[str], after: list[str]
) -> None:
    label, _reading, text = case
    ended = text if text.endswith((".", "?")) else text + "."
    assert decide("\n".join([*before, ended, *after]), label) == decide(text, label)


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=300))
def test_any_text_at_all_gives_a_decision_and_none_of_its_words(text: str) -> None:
    decided = decide(text)
    assert decided == decide(text)
    assert len(decided.rule) < 200


def test_the_rule_that_decided_holds_no_words_of_the_report() -> None:
    assert decide("Инфильтрация в S6 справа у Иванова И.И.").rule == "radiology 1: infiltrate affirmed"
    assert decide("Иванов здоров.").rule == "radiology 1: nothing in the conclusion speaks of it"


def test_hard_wrapped_lines_are_one_sentence_and_new_lines_are_not() -> None:
    assert len(sentences("Очаговых и инфильтративных\nизменений не выявлено.\nКорни структурны")) == 2
    assert len(sentences("Без очагов\nИнфильтрация справа")) == 2
    assert len(sentences("Свежих очагов нет; лёгкие чистые")) == 2
    assert len(sentences("Очаг 5 мм в ср. доле. Корни")) == 2


def test_a_code_decides_without_words() -> None:
    assert (
        decide("", "opacity", ReportCode(system=ICD, value="J18.9")).rule == "radiology 1: codes J18 of ICD-10 affirmed"
    )
    assert decide("", "opacity", ReportCode(system="I10", value="j15")).reading is Reading.POSITIVE
    assert decide("", "opacity", ReportCode(system=SNOMED, value="168733007")).reading is Reading.NEGATIVE
    assert decide("", "opacity", ReportCode(system="", value="N", is_flag=True)).reading is Reading.NEGATIVE
    assert decide("", "opacity", ReportCode(system="", value="A", is_flag=True)).reading is Reading.UNCLEAR
    assert decide("", "opacity", ReportCode(system="local", value="J18")).reading is Reading.UNCLEAR


def test_words_against_codes_are_unclear() -> None:
    said = "Очаговых и инфильтративных изменений не выявлено."
    assert decide(said, "opacity", ReportCode(system=ICD, value="J18.9")).reading is Reading.UNCLEAR
    normal = ReportCode(system=SNOMED, value="17621005")
    assert decide("Инфильтрация в S6 справа.", "opacity", normal).reading is Reading.UNCLEAR


def test_a_conclusion_as_long_as_a_book_is_not_read() -> None:
    assert "characters" in decide("Инфильтрация. " * MAX_CONCLUSION).rule
    assert "words" in decide("очаг, не выявлено, " * 2000).rule


def test_every_label_of_the_shipped_models_has_rules() -> None:
    zoo = installed_models((Path(__file__).resolve().parents[2] / "models" / "zoo",)).models.values()
    cards: list[ModelCard] = [one.card for one in zoo]
    assert cards
    for card in cards:
        for label in card.labels:
            rules = RULES.of(label.key)
            assert rules is not None
            assert set(rules.modalities) & set(card.intended_use.modalities)


def test_every_fault_of_a_rules_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    finding = '[[label.finding]]\nname = "x"\nphrases = ["a"]\n'
    file.write_text(
        f'name = "own"\nversion = 1\n[words]\nnot_a_cue = ["x"]\n[[label]]\nkey = "a"\ncolour = 1\n{finding}'
    )
    with pytest.raises(ProfileError, match=r"fault\(s\)(.|\n)*not_a_cue(.|\n)*colour"):
        read_rules(str(file))
    file.write_text(f'name = "own"\nversion = 1\n[words]\nidle = [".. x"]\n[[label]]\nkey = "a"\n{finding}')
    with pytest.raises(ProfileError, match=r"'\.\. x'"):
        read_rules(str(file))
    file.write_text(f'name = "own"\nversion = 1\n[words]\n[[label]]\nkey = "a"\n{finding}')
    assert read_rules(str(file)).of("a") is not None

"""Numerals agree, numbers have the sign of the language, and no score reads as certainty."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicom_node.wording.grammar import (
    CountedNoun,
    Verb,
    agree,
    counted,
    decimal,
    millimetres,
    percentage,
    plain,
    within_sentence,
)

NODULE = CountedNoun(gender="m", one="очаг", few="очага", many="очагов")
SHADOW = CountedNoun(gender="f", one="тень", few="тени", many="теней")
FOUND = Verb(m="отмечен", f="отмечена", n="отмечено", many="отмечено")


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "очагов"), (1, "очаг"), (2, "очага"), (4, "очага"), (5, "очагов"), (11, "очагов"), (12, "очагов"),
     (14, "очагов"), (21, "очаг"), (22, "очага"), (25, "очагов"), (101, "очаг"), (111, "очагов"), (112, "очагов")],
)  # fmt: skip
def test_a_russian_noun_takes_the_form_that_its_numeral_asks_for(count: int, words: str) -> None:
    assert counted(NODULE, count, "ru") == f"{count}\xa0{words}"


def test_an_english_noun_is_plural_but_for_one() -> None:
    noun = CountedNoun(one="nodule", many="nodules")
    assert [counted(noun, count, "en") for count in (0, 1, 2, 21)] == [
        "0\xa0nodules", "1\xa0nodule", "2\xa0nodules", "21\xa0nodules",
    ]  # fmt: skip


def test_a_verb_agrees_in_gender_with_one_and_is_neuter_with_many() -> None:
    assert [agree(FOUND, NODULE, count, "ru") for count in (1, 2, 5, 21)] == [
        "отмечен", "отмечено", "отмечено", "отмечен",
    ]  # fmt: skip
    assert agree(FOUND, SHADOW, 1, "ru") == "отмечена"
    assert agree(Verb(n="is", many="are"), CountedNoun(one="a", many="b"), 1, "en") == "is"


def test_decimals_have_the_sign_of_the_language_and_no_negative_zero() -> None:
    assert decimal(-12.34, 1, "ru") == "−12,3"
    assert decimal(-12.34, 1, "en") == "−12.3"
    assert decimal(-0.01, 1, "en") == "0.0"


def test_tenths_of_a_millimetre_are_told_of_small_lesions_only() -> None:
    assert millimetres((6.44, 5.06), "ru") == "6,4 × 5,1"
    assert millimetres((11.2, 9.24), "ru") == "11 × 9"
    assert millimetres((9.96, 9.0), "en") == "10 × 9"


@given(st.floats(min_value=0, max_value=1))
def test_no_score_is_certainty(score: float) -> None:
    words = percentage(score)
    assert words not in ("0\xa0%", "100\xa0%")
    assert words.endswith("\xa0%")


def test_scores_near_the_ends_are_told_as_bounds() -> None:
    assert [percentage(score) for score in (0.0, 0.004, 0.006, 0.5, 0.994, 0.996, 1.0)] == [
        "<1\xa0%", "<1\xa0%", "1\xa0%", "50\xa0%", "99\xa0%", ">99\xa0%", ">99\xa0%",
    ]  # fmt: skip


def test_text_of_others_becomes_one_plain_line() -> None:
    assert plain(" a\n b\t\tc\x00\x1b[31m\u202ed \xa0e ") == "a b c [31m d \xa0e"


def test_a_title_is_small_within_a_sentence_unless_it_is_an_abbreviation() -> None:
    assert within_sentence("Очаг в лёгком.") == "очаг в лёгком"
    assert within_sentence("КТ-признак") == "КТ-признак"

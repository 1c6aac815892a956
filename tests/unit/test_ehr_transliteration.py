"""Names across alphabets: every scheme agrees with the Cyrillic and with every other scheme, other names do not."""

from __future__ import annotations

from itertools import combinations, permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dicom_node.ehr.context import PersonName
from dicom_node.ehr.transliteration import (
    NameMatch,
    compare_names,
    in_parts,
    is_whole,
    same_word,
    without_placeholders,
)
from tests.names_and_schemes import FAMILIES, GIVEN, PATRONYMICS, SCHEMES

GROUPS = (FAMILIES, GIVEN, PATRONYMICS)
NAMES = FAMILIES + GIVEN + PATRONYMICS
LETTERS = "абвгдеёжзийклмнопрстуфхцчшщъыьэюя"
# Different names that one Latin spelling stands for: whoever reads MARIA cannot know which of two it is.
SHARED = {
    frozenset(pair.split("/"))
    for pair in ("Мышкин/Мишкин", "Лысенко/Лисенко", "Мария/Марья", "Софья/София", "Нэлли/Нелли")
}
SHARED_IN_LATIN = SHARED | {frozenset(("Данил", "Даниил"))}


def name(text: str) -> PersonName:
    """``family^given^patronymic``."""
    family, given_name, patronymic = [*text.split("^"), "", ""][:3]
    return PersonName(family=family, given=given_name, patronymic=patronymic)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_each_scheme_s_spelling_is_the_same_name(scheme: str) -> None:
    spelled = {one: SCHEMES[scheme](one) for one in NAMES}

    assert not {one: latin for one, latin in spelled.items() if not same_word(one, latin)}
    assert not {one: latin for one, latin in spelled.items() if not same_word(latin.upper(), one.upper())}


def test_spellings_of_two_schemes_are_the_same_name() -> None:
    missed = [
        (one, left, right)
        for left, right in combinations(SCHEMES, 2)
        for one in NAMES
        if not same_word(SCHEMES[left](one), SCHEMES[right](one))
    ]

    assert not missed


@settings(max_examples=60, deadline=None)
@given(
    word=st.text(st.sampled_from(LETTERS), min_size=2, max_size=12).filter(lambda word: word[0] not in "ъыь"),
    schemes=st.tuples(st.sampled_from(sorted(SCHEMES)), st.sampled_from(sorted(SCHEMES))),
)
def test_any_russian_word_is_recognised(word: str, schemes: tuple[str, str]) -> None:
    left, right = (SCHEMES[scheme](word) for scheme in schemes)
    if not left.strip("'`’”ʹʺ"):
        return

    assert same_word(word, left)
    assert same_word(left, right)
    assert same_word(right, left)


def test_different_names_in_cyrillic_are_never_the_same() -> None:
    agreed = {
        frozenset(pair)
        for group in GROUPS
        for pair in combinations(group, 2)
        if same_word(*pair) and pair[0].replace("ё", "е") != pair[1].replace("ё", "е")
    }

    assert not agreed


def test_different_names_in_two_alphabets_are_the_same_only_where_a_spelling_is_shared() -> None:
    agreed = {
        frozenset((one, other))
        for group in GROUPS
        for one, other in permutations(group, 2)
        if one.replace("ё", "е") != other.replace("ё", "е") and same_word(one, SCHEMES["ICAO 9303"](other))
    }

    assert agreed <= SHARED


def test_different_names_in_latin_letters_are_the_same_only_where_a_spelling_is_shared() -> None:
    agreed = {
        frozenset((one, other))
        for group in GROUPS
        for one, other in combinations(group, 2)
        if one[0] == other[0]
        and one.replace("ё", "е") != other.replace("ё", "е")
        and same_word(SCHEMES["German"](one), SCHEMES["BGN/PCGN"](other))
    }

    assert agreed <= SHARED_IN_LATIN


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Иванов", "Иванова"),
        ("Иванов", "IVANOVA"),
        ("IVANOV", "IVANOVA"),
        ("Сергеев", "Сергей"),
        ("Сергеев", "SERGEI"),
        ("SERGEEV", "SERGEY"),
        ("Наталья", "Наталия"),
        ("Козлова", "KOSLOVA"),
        ("Иванов", "山田"),
        ("Иванов", ""),
        ("-", "-"),
    ],
)
def test_other_words_differ(one: str, other: str) -> None:
    assert not same_word(one, other)
    assert not same_word(other, one)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Семёнов", "СЕМЕНОВ"),
        ("Семенов", "SEMYONOV"),  # the record left the dots out, the machine did not
        ("Петрова-Водкина", "PETROVA VODKINA"),
        ("Петрова-Водкина", "Petrovavodkina"),
        ("О'Коннор", "OKONNOR"),
        ("Гүлнәр", "Gülnär"),
        ("Гүлнәр", "Гулнар"),
        ("Сергій", "SERHII".replace("H", "G")),
        ("Люкceмбypг", "LYUKSEMBURG"),  # Latin c, e, y, p among Cyrillic letters
        ("Müller", "MÜLLER"),
        ("山田", "山田"),
    ],
)
def test_the_same_word_in_other_clothes(one: str, other: str) -> None:
    assert same_word(one, other)
    assert same_word(other, one)


@pytest.mark.parametrize(
    ("one", "other", "match"),
    [
        ("Иванов^Иван^Иванович", "IVANOV^IVAN", NameMatch.SAME),
        ("Иванов^Иван^Иванович", "Ivanov^Ivan^Ivanovich", NameMatch.SAME),
        ("Иванов Иван Иванович", "IVANOV^IVAN IVANOVICH", NameMatch.SAME),
        ("Мамедов Али Вели оглы", "MAMEDOV^ALI^VELI OGLY", NameMatch.SAME),
        ("Иванов^И.И.", "Иванов^Иван^Иванович", NameMatch.PARTIAL),
        ("IVANOV I.I.", "Иванов^Иван^Иванович", NameMatch.PARTIAL),
        ("Иванова^Ю.", "Ivanova^Iuliia", NameMatch.PARTIAL),
        ("Иванова^Юлия", "IVANOVA^Yu.", NameMatch.PARTIAL),
        ("Иванов", "Иванов^Иван", NameMatch.PARTIAL),
        ("Иванов^П.", "Иванов^Иван", NameMatch.GIVEN_DIFFERS),
        ("Иванов^И.П.", "Иванов^Иван^Иванович", NameMatch.PATRONYMIC_DIFFERS),
        ("Иванов^Иван^Петрович", "IVANOV^IVAN^IVANOVICH", NameMatch.PATRONYMIC_DIFFERS),
        ("Иванов^Пётр", "IVANOV^IVAN", NameMatch.GIVEN_DIFFERS),
        ("Иванова^Иван", "IVANOV^IVAN", NameMatch.FAMILY_DIFFERS),
        ("Иван^Иванов", "Иванов^Иван", NameMatch.FAMILY_DIFFERS),
        ("Петрова^Анна", "Петрова-Водкина^Анна", NameMatch.FAMILY_DIFFERS),
    ],
)
def test_names_are_held_against_each_other(one: str, other: str, match: NameMatch) -> None:
    assert compare_names(name(one), name(other)) is match
    assert compare_names(name(other), name(one)) is match


@pytest.mark.parametrize(
    ("written", "parts"),
    [
        ("Иванов Иван Иванович", "Иванов^Иван^Иванович"),
        ("Иванов И.И.", "Иванов^И.^И."),
        ("Иванов^Иван Иванович", "Иванов^Иван^Иванович"),
        ("Али^Анна Мария", "Али^Анна Мария"),
        ("Петрова-Водкина^Анна^Ильинична", "Петрова-Водкина^Анна^Ильинична"),
        ("Ли", "Ли"),
    ],
)
def test_parts_are_told_apart(written: str, parts: str) -> None:
    assert in_parts(name(written)) == name(parts)


def test_a_name_with_an_initial_or_without_a_given_name_is_not_whole() -> None:
    assert [is_whole(name(one)) for one in ("Иванов^Иван", "Иванов^И.", "Иванов^Yu.", "Иванов", "^Иван", "Ли^Ян")] == [
        True,
        False,
        False,
        False,
        False,
        True,
    ]


NOBODY = (
    "-^-",
    ".^.",
    "'^'",
    "??????^?????",
    "\ufffd\ufffd^\ufffd",
    "12345^678",
    "UNKNOWN^UNKNOWN",
    "Unknown Unknown",
    "(unknown)^-",
    "NONAME",
    "No Name",
    "NO^NAME",
    "ANONYMOUS^0001",
    "anon",
    "NONE^NULL",
    "N/A^N/A",
    "X^X",
    "XX^XXX",
    "Х Х Х",
    "НЕИЗВЕСТНЫЙ^НЕИЗВЕСТНЫЙ",
    "Неизвестная Неизвестная Неизвестная",
    "неизвестно",
    "Без имени",
    "АНОНИМ",
    "HEИЗBECTHЫЙ",  # Latin letters among Cyrillic ones
)


@pytest.mark.parametrize("nobody", NOBODY)
def test_what_names_nobody_agrees_and_disagrees_with_nobody(nobody: str) -> None:
    for other in ("Иванов^Иван^Иванович", "IVANOV^IVAN", nobody, "Хохлова^Х.", "Попов^Null"):
        assert compare_names(name(nobody), name(other)) is NameMatch.PARTIAL
        assert compare_names(name(other), name(nobody)) is NameMatch.PARTIAL
    assert not is_whole(name(nobody))
    assert without_placeholders(in_parts(name(nobody))) == name("")


@pytest.mark.parametrize(
    "damaged",
    ["Ив?нов^Иван", "Иванов^И\ufffdан", "IVANOV2^IVAN", "Иванов^Иван^??????", "Иванов^Иван^Ив?нович", "ANON12^IVAN"],
)
def test_a_name_with_lost_letters_or_digits_is_neither_whole_nor_a_confirmation(damaged: str) -> None:
    assert not is_whole(name(damaged))
    for other in (damaged, "Иванов^Иван", "Иванов^Иван^Иванович"):
        assert compare_names(name(damaged), name(other)) is not NameMatch.SAME


def test_an_unsaid_part_of_a_name_differs_from_nothing_and_the_others_still_do() -> None:
    assert compare_names(name("Иванов^Иван^-"), name("IVANOV^IVAN^IVANOVICH")) is NameMatch.SAME
    assert compare_names(name("Иванов^UNKNOWN"), name("Иванов^Иван")) is NameMatch.PARTIAL
    assert compare_names(name("Иванов^UNKNOWN"), name("Петров^Иван")) is NameMatch.FAMILY_DIFFERS
    assert compare_names(name("Иванов^Х."), name("Иванов^Иван")) is NameMatch.GIVEN_DIFFERS  # an initial, no cross
    assert is_whole(name("Иванов^Иван^-"))
    assert without_placeholders(name("Иванов^Иван^-")) == name("Иванов^Иван")


@pytest.mark.parametrize(
    "real",
    [
        "Анонимов^Анон-Али",
        "NONEMAKER^NULLA",
        "Nullmeyer^Xaver",
        "Хохлов^Харитон^Харитонович",
        "Неизвестнов^Ким",
        "Безимени^Нона",
        "Noname-Ivanova^Anonna",
        "No^Nele",
        "Na^An",
        "Xu^Xx-Li",
    ],
)
def test_a_real_name_with_the_letters_of_a_placeholder_is_a_name(real: str) -> None:
    assert compare_names(name(real), name(real.upper())) is NameMatch.SAME
    assert is_whole(name(real))
    assert without_placeholders(name(real)) == name(real)


def test_what_is_longer_than_any_name_is_only_held_against_its_equal() -> None:
    long = "i" * 60_000

    assert same_word(long, long.upper())
    assert not same_word(long, "y" * 60_000)
    assert not same_word("и" * 60_000, long)

"""SNILS: its forms, its sum, and that a wrong number never stands in an error."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicom_node.ehr import snils

NUMBERS = st.integers(min_value=1_001_999, max_value=999_999_999)


def with_sum(number: int) -> str:
    """The SNILS of a number, its sum written down step by step as the rule says it."""
    digits = f"{number:09d}"
    total = 0
    for place, digit in enumerate(digits):
        total += (9 - place) * int(digit)
    while total > 101:
        total %= 101
    if total in (100, 101):
        total = 0
    return f"{digits}{total:02d}"


@pytest.mark.parametrize("text", ["112-233-445 95", "112-233-445-95", "11223344595", " 112 233 445 95\n"])
def test_every_usual_form_is_read(text: str) -> None:
    assert snils.parse(text) == "11223344595"


@pytest.mark.parametrize("text", ["08765430300", "087-654-303 00"])
def test_a_sum_of_a_hundred_and_one_counts_as_nought(text: str) -> None:
    assert snils.formatted(snils.parse(text)) == "087-654-303 00"


@given(number=NUMBERS)
def test_the_right_sum_is_taken_and_every_other_refused(number: int) -> None:
    right = with_sum(number)

    assert snils.parse(right) == right
    wrong = f"{right[:9]}{(int(right[9:]) + 1) % 100:02d}"
    assert not snils.verify(wrong)


@given(number=NUMBERS, place=st.integers(min_value=0, max_value=8), by=st.integers(min_value=1, max_value=9))
def test_one_changed_digit_is_seen(number: int, place: int, by: int) -> None:
    right = with_sum(number)
    changed = f"{right[:place]}{(int(right[place]) + by) % 10}{right[place + 1 :]}"
    if int(changed[:9]) > 1_001_998 and with_sum(int(changed[:9]))[9:] != right[9:]:
        assert not snils.verify(changed)


def test_old_numbers_bear_no_sum() -> None:
    assert snils.verify("00100199812")
    assert not snils.verify("00100199912")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "123",
        "112-233-445 9",
        "112--233-445 95",
        "00000000000",
        "1122334459x",
        "１１２２３３４４５９５",
        "112\n233\n445\n95",
    ],
)
def test_what_is_no_snils_is_refused_without_being_repeated(text: str) -> None:
    with pytest.raises(snils.SnilsError) as raised:
        snils.parse(text)

    assert not text.strip() or text.strip() not in str(raised.value)


@given(text=st.text(max_size=20))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        digits = snils.parse(text)
    except snils.SnilsError:
        return
    assert snils.parse(snils.formatted(digits)) == digits

"""Numerals, agreement, numbers and units in Russian and English: what templates cannot say by themselves.

Called by every other module here. The rules of Russian numerals are those of Unicode CLDR (one, few, many).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, model_validator

from models.wording import EnglishNoun, RussianNoun

NO_BREAK: Final = "\N{NO-BREAK SPACE}"
_MINUS: Final = "\N{MINUS SIGN}"
_HUNDRED: Final = 100
_TEENS: Final = range(11, 15)
_FEW: Final = (2, 3, 4)
_CONTROLS: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u200b\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff]")
_SPACES: Final = re.compile(r"[^\S\xa0]+")
_WHOLE_FROM_MM: Final = 10.0  # from here on tenths of a millimetre are below what an image can show


class CountedNoun(BaseModel):
    """A noun in the forms of its language; English has no gender and no `few`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    gender: Literal["m", "f", "n"] = "n"
    one: str
    few: str = ""
    many: str

    @staticmethod
    def of(noun: RussianNoun | EnglishNoun) -> CountedNoun:
        """A card's noun."""
        return CountedNoun.model_validate(noun.model_dump())


class Verb(BaseModel):
    """A participle that agrees with what is counted; English needs `n` and `many` alone."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    m: str = ""
    f: str = ""
    n: str
    many: str

    @model_validator(mode="after")
    def _all_genders_or_one(self) -> Verb:
        if bool(self.m) != bool(self.f):
            raise ValueError("a verb has all genders or only n")
        return self


def plural(count: int, language: str) -> Literal["one", "few", "many"]:
    """The class of a numeral: 1, 21 are one, 2 to 4, 22 are few, 0, 5 to 20 are many; in English 1 is one."""
    if language != "ru":
        return "one" if count == 1 else "many"
    if count % _HUNDRED in _TEENS:
        return "many"
    if count % 10 == 1:
        return "one"
    return "few" if count % 10 in _FEW else "many"


def counted(noun: CountedNoun, count: int, language: str) -> str:
    """``2 очага``, ``5 очагов``; ``1 nodule``, ``2 nodules``."""
    form = plural(count, language)
    word = noun.one if form == "one" else noun.few if form == "few" else noun.many
    return f"{count}{NO_BREAK}{word}"


def agree(verb: Verb, noun: CountedNoun, count: int, language: str) -> str:
    """The form of `verb` before or after `count` of `noun`."""
    if plural(count, language) != "one":
        return verb.many
    genders = {"m": verb.m, "f": verb.f, "n": verb.n}
    return genders[noun.gender] or verb.n


def decimal(value: float, digits: int, language: str) -> str:
    """A number with the decimal sign of the language and a true minus."""
    text = f"{value:.{digits}f}"
    if not text.strip("-0."):
        text = text.lstrip("-")
    text = text.replace("-", _MINUS)
    return text.replace(".", ",") if language == "ru" else text


def millimetres(axes_mm: Sequence[float], language: str) -> str:
    """Axes, the longest first, as they are read aloud: tenths if it is below a centimetre, else whole; no unit."""
    digits = 0 if round(axes_mm[0], 1) >= _WHOLE_FROM_MM else 1
    return " × ".join(decimal(axis, digits, language) for axis in axes_mm)


def percentage(score: float) -> str:
    """A score of 0 to 1 in whole per cent; never 100 % and never 0 %, for no score is certainty."""
    value = round(score * 100)
    if value >= _HUNDRED:
        return f">99{NO_BREAK}%"
    return f"<1{NO_BREAK}%" if value <= 0 else f"{value}{NO_BREAK}%"


def plain(text: str) -> str:
    """One line of plain text: control characters and runs of spaces become one space; a no-break space stays."""
    return _SPACES.sub(" ", _CONTROLS.sub(" ", text)).strip()


def within_sentence(title: str) -> str:
    """A title as it stands within a sentence: its first letter small, unless it is an abbreviation."""
    text = plain(title).rstrip(".")
    if len(text) > 1 and (text[1].isupper() or text[1].isdigit()):
        return text
    return text[:1].lower() + text[1:]


def sentence(text: str) -> str:
    """With a capital at the beginning."""
    return text[:1].upper() + text[1:]

"""The languages of a report: its fixed words, how figures are written, what traits and their values are called.

Used by `eval.report.pages` and `eval.report.plots`. The words are `words/words.toml`, English and Russian side by side.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from importlib.resources import files
from typing import Final, Literal

from models.codes import Text

Language = Literal["en", "ru"]
LANGUAGES: Final[tuple[Language, ...]] = ("en", "ru")
Words = Mapping[str, Mapping[str, str]]
_LARGE: Final = 1000
_BANDS: Final[Mapping[Language, tuple[tuple[str, str], ...]]] = {
    "en": (),
    "ru": ((r"^below (\S+)$", r"до \1"), (r"^(\S+) to <?(\S+)$", r"\1–\2"), (r"^(\S+) and over$", r"\1 и более")),
}


def read_words(language: Language) -> Words:
    """The fixed words of a language, by part and key; ``reasons`` goes from the English sentence to the language's."""
    given = tomllib.loads((files("eval.report") / "words" / "words.toml").read_text(encoding="utf-8"))
    reasons = given.pop("reasons")
    words = {
        part: {key: Text.model_validate(pair).in_language(language) for key, pair in pairs.items()}
        for part, pairs in given.items()
    }
    return {**words, "reasons": {pair["en"]: pair[language] for pair in reasons}}


class Names:
    """What axes, traits and their values are called; what has no words of its own stands as it is."""

    def __init__(self, words: Words, language: Language) -> None:
        self._words, self._language = words["axis"], language

    def __getitem__(self, key: str) -> str:
        return self._words[key]

    def trait(self, trait: str) -> str:
        """Of a trait."""
        return self._words.get(f"trait_{trait}", trait)

    def level(self, value: str, trait: str) -> str:
        """Of a value of a trait; a band of numbers is written as the language does."""
        found = self._words.get(f"value_{trait}_{value}") or self._words.get(f"value_{value}")
        return found or self._band(value)

    def spread(self, name: str) -> str:
        """Of a number over cases or lesions."""
        return self._words.get(f"spread_{name}", name)

    def number(self, value: float, places: int = 2) -> str:
        """A figure as the language writes it."""
        return number(value, language=self._language, places=places)

    def _band(self, value: str) -> str:
        for pattern, instead in _BANDS[self._language]:
            value = re.sub(pattern, instead, value)
        return value


def number(value: float | None, *, language: Language, places: int) -> str:
    """A figure as the language writes it: 0.877, 0,877; a dash where there is none, and a real minus."""
    return "—" if value is None else _written(f"{value:.{places}f}", language)


def short(value: float, *, language: Language) -> str:
    """A number that is not measured to places: 0.95, 0.125, 61, 4816."""
    return _written(f"{value:.0f}" if abs(value) >= _LARGE else f"{value:.4g}", language)


def _written(plain: str, language: Language) -> str:
    signed = (plain if float(plain) else plain.removeprefix("-")).replace("-", "−")
    return signed.replace(".", ",") if language == "ru" else signed

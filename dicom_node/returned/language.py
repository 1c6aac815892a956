"""Sentences, words and phrases of a report in Russian or English, as far as the rules of `rules` need them.

Pure and deterministic: no grammar, only words and their endings. `statements` asks it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

GAP: Final = ".."  # in a phrase: up to three words between
_GAP_WORDS: Final = 3
_SOFT_HYPHENS: Final = dict.fromkeys(map(ord, "\N{SOFT HYPHEN}\N{ZERO WIDTH SPACE}\N{ZERO WIDTH NO-BREAK SPACE}"))
_TOKEN: Final = re.compile(r"[^\W_]+|[,()?]")
_SENTENCE_END: Final = re.compile(r"(?<=[.!?])\s+|(?<=;)|\n")
_LAST_WORD: Final = re.compile(r"([^\W\d_]+)\.$")
# After these a full stop ends no sentence while the text goes on with a small letter or a number.
_ABBREVIATED: Final = frozenset({
    *("т", "е", "к", "д", "г", "гг", "ср", "им", "обл", "прав", "лев", "верх", "нижн", "средн", "в", "н", "с", "пр"),
    *("рис", "диф", "др", "сегм", "см", "мм", "approx", "cf", "vs", "e", "i", "g", "no", "dr"),
})  # fmt: skip
PUNCTUATION: Final = frozenset(",()?")

Words = tuple[str, ...]


def sentences(text: str) -> tuple[Words, ...]:
    """Take a text apart: sentences of case-folded words and of those marks that part clauses."""
    plain = unicodedata.normalize("NFKC", text.translate(_SOFT_HYPHENS)).replace("\r", "\n")
    found = (tuple(_TOKEN.findall(one.casefold().replace("ё", "е"))) for one in _raw_sentences(plain))
    return tuple(words for words in found if words)


def _raw_sentences(text: str) -> Iterable[str]:
    held = ""
    for part in _SENTENCE_END.split(text):
        part = part.strip()
        if not part:
            continue
        if held and _goes_on(held, part):
            held = f"{held} {part}"
            continue
        yield held
        held = part
    yield held


def _goes_on(before: str, after: str) -> bool:
    """Whether what looked like the end of a sentence was a broken line or an abbreviation."""
    if not (after[0].islower() or after[0].isdigit()):
        return False
    if before[-1] not in ".!?":
        return before[-1] != ";" and after[0].islower()
    word = _LAST_WORD.search(before.casefold())
    return word is not None and word[1] in _ABBREVIATED


@dataclass(frozen=True, kw_only=True, slots=True)
class Phrase:
    """Words in a row; one that ends in ``*`` stands for every ending, ``..`` for up to three words of any kind.

    Attributes
    ----------
    words : tuple of str
    whole : bool
        Whether it must be the whole sentence (written ``^...$``).
    """

    words: Words
    whole: bool = False

    @staticmethod
    def of(written: str) -> Phrase:
        """Read a phrase as a rules file writes it."""
        whole = written.startswith("^") and written.endswith("$")
        plain = written.strip("^$").casefold().replace("ё", "е").replace("-", " ")
        return Phrase(words=tuple(plain.split()), whole=whole)

    def end(self, words: Sequence[str], start: int) -> int | None:
        """Where it ends if it begins at `start`, else None."""
        end = _match(self.words, words, start)
        if end is None or (self.whole and (start, end) != (0, len(words))):
            return None
        return end


def _match(wanted: Sequence[str], words: Sequence[str], start: int) -> int | None:
    at = start
    for index, want in enumerate(wanted):
        if want == GAP:
            return _after_gap(wanted[index + 1 :], words, at)
        if at >= len(words) or not _same(want, words[at]):
            return None
        at += 1
    return at


def _after_gap(wanted: Sequence[str], words: Sequence[str], at: int) -> int | None:
    for skipped in range(_GAP_WORDS + 1):
        if any(word in PUNCTUATION for word in words[at : at + skipped]):
            return None
        end = _match(wanted, words, at + skipped)
        if end is not None:
            return end
    return None


def _same(want: str, word: str) -> bool:
    return word.startswith(want[:-1]) if want.endswith("*") else word == want


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """A phrase that was found: words `start` to before `end`, and under which name it was looked for."""

    start: int
    end: int
    name: str

    def __len__(self) -> int:
        return self.end - self.start


class PhraseBook:
    """Phrases by name, found in sentences.

    Parameters
    ----------
    phrases : iterable of (name, written phrase)
    """

    def __init__(self, phrases: Iterable[tuple[str, str]]) -> None:
        self._by_letter: dict[str, list[tuple[str, Phrase]]] = {}
        for name, written in phrases:
            phrase = Phrase.of(written)
            self._by_letter.setdefault(phrase.words[0][0], []).append((name, phrase))

    def find(self, words: Sequence[str], taken: Iterable[Span] = ()) -> tuple[Span, ...]:
        """Every phrase in a sentence, the longest where they overlap, none within `taken`; in order."""
        free = [True] * len(words)
        for span in taken:
            free[span.start : span.end] = [False] * len(span)
        found: list[Span] = []
        for span in sorted(self._all(words), key=lambda one: (-len(one), one.start)):
            if all(free[span.start : span.end]):
                free[span.start : span.end] = [False] * len(span)
                found.append(span)
        return tuple(sorted(found, key=lambda one: one.start))

    def _all(self, words: Sequence[str]) -> Iterable[Span]:
        for start, word in enumerate(words):
            for name, phrase in self._by_letter.get(word[0], ()):
                end = phrase.end(words, start)
                if end is not None:
                    yield Span(start=start, end=end, name=name)


class Form(StrEnum):
    """What the ending of a Russian noun says of its case, as far as it matters for what was denied."""

    NAMED = "named"  # nominative: something is stated of it
    OWNED = "owned"  # genitive: what "не выявлено" and "без" govern
    EITHER = "either"  # its ending fits both, or it is not Russian


_OWNED_ENDINGS: Final = ("ов", "ев", "ей", "ых", "их", "ий", "ого", "его", "ции", "сии", "мы", "та", "ния", "нья", "ой")
_NAMED_ENDINGS: Final = ("ая", "ое", "ый", "ые", "ие", "ция", "сия", "мония", "аги", "узлы", "узелки")


def form(word: str) -> Form:
    """Tell the case of a word by its ending."""
    if not re.search("[а-я]", word):
        return Form.EITHER
    if word.endswith(_NAMED_ENDINGS):
        return Form.NAMED
    if word.endswith(_OWNED_ENDINGS):
        return Form.OWNED
    return Form.EITHER if word[-1] in "аеиоуыэюяй" else Form.NAMED

"""Whether two names are the same name when one is written in Cyrillic and the other in Latin letters, or both in Latin.

Used by the reconciliation of patients. A name in Latin letters is not turned back into Cyrillic, which no scheme allows
without loss: it is asked whether a Cyrillic name exists of which both are spellings. Two names in Cyrillic are held
against each other letter by letter, ё being е, so Наталья and Наталия stay two names although NATALIA may be either.
Schemes: ICAO 9303, GOST R 52535.1, GOST 7.79 (A, which is ISO 9, and B), BGN/PCGN, German, and what consoles invent.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from itertools import product
from typing import Final, TypeAlias

from dicom_node.ehr.context import PersonName

_Spellings: TypeAlias = Mapping[str, tuple[str, ...]]

_START: Final = "^"
_AFTER_VOWEL: Final = frozenset("аеиоуыэюяьъй^")  # where е is heard as йе
_HUSHING: Final = frozenset("жчшщц")  # after these ё is heard, and often written, as о
_VOWELS: Final = "аеиоуыэюя"

# The spellings of each letter or pair of letters. What a pair has here comes on top of what its letters give; "" means
# that nothing is written. е stands for ё too, since few write the dots.
_GENERAL: Final = """
а a    б b    в v w    г g    д d    е e yo io jo ë yë ė    ж zh ž j    з z    и i    й i y j ĭ    к k    л l    м m
н n    о o    п p    р r    с s    т t    у u    ф f    х kh h x    ц ts tc cz c tz    ч ch č tch    ш sh š
щ shch šč ŝ shh sch sh    ъ "" ie    ы y i    ь ""    э e è ė eh    ю yu iu ju û    я ya ia ja â
кс x    кт ct    дж j dj    ия ia    ию iu    йя ya ia ja
"""
_GERMAN: Final = """
а a    б b    в w    г g    д d    е e jo    ж sch sh    з s    и i    й i j    к k    л l    м m    н n    о o    п p
р r    с s ss    т t    у u    ф f    х ch    ц z    ч tsch    ш sch    щ schtsch    ъ ""    ы y    ь ""    э e
ю ju    я ja    кс x    ия ia    ию iu    йя ja    дж dsch    кт ct    ий i    ый y
"""
# Letters of the other languages of Russia and its neighbours.
_NEIGHBOURS: Final = """
ә a ä e    ө o ö    ү u ü    җ zh j c    ң n ng ñ    һ h kh    қ k q    ғ g gh    ұ u    і i    ї i yi ji
є e ie ye je    ґ g    ў u w ŭ
"""
_HEARD: Final = ("ye", "ie", "je")  # of е after a vowel or at the beginning
_SHORT_ENDINGS: Final = {"ий": ("y", "i"), "ый": ("y", "i")}
_SOFTENED: Final = ("i", "y", "j")  # of ь before a vowel

# What another keyboard or character set has in their place; Cyrillic only.
_FOLDED: Final = str.maketrans("әөүҗңһқғұіїєґў", "аоужнхкгуииегу")
_ALIKE: Final = str.maketrans("ABCEHKMOPTXYaceopxyk", "АВСЕНКМОРТХУасеорхук")
_SIGNS: Final = re.compile(r"[\u0027\u0060\u00B4\u00B7\u02B9-\u02BC\u2018\u2019\u201C\u201D\u2032\u2033\u0361\u0022]")
_SPACES: Final = re.compile(r"\s+|(?<=\.)(?=[^\s.])")
_BETWEEN: Final = re.compile(r"[\s.,_\-\u2010-\u2015]+")
_PATRONYMIC: Final = re.compile(
    r".+(?:ич|вна|чна|i(?:ch|tch|tsch|č|c|cz)|[vw]na|(?:c?h|tsch|č)na)|огл[ыуи]|угли|улы|[кг]ызы|кизи"
    r"|og[lh]?l[yiu]|ugli|uly|[kgq][yi]z[yi]"
)
# What programs and people write where no name is known; a name made of them alone is none.
_PLACEHOLDERS: Final = frozenset(
    {
        "unknown",
        "noname",
        "anonymous",
        "anon",
        "none",
        "null",
        "n/a",
        "неизвестный",
        "неизвестная",
        "неизвестно",
        "аноним",
    }
)
_PLACEHOLDING_WORDS: Final = frozenset({"no name", "без имени"})
_CROSSES: Final = re.compile(r"[xх]+")  # Latin or Cyrillic
_BRACKETS: Final = "()[]{}<>*/"
_LOST: Final = frozenset("?\ufffd")  # what is left of letters that a character set does not have
_INITIAL_LETTERS: Final = 2  # Yu, Ju
_LONGEST: Final = 64  # characters of a whole name, PS3.5 6.2; what is longer is no name to look for spellings of


class NameMatch(StrEnum):
    """What comes of two names held against each other."""

    SAME = "same"  # family and given name agree, and patronymics where both have one
    PARTIAL = "partial"  # nothing differs, but one has an initial, or nothing, for the family or the given name
    FAMILY_DIFFERS = "family_differs"
    GIVEN_DIFFERS = "given_differs"
    PATRONYMIC_DIFFERS = "patronymic_differs"


def in_parts(name: PersonName) -> PersonName:
    """The name with its parts where they belong: many consoles have one field for all of it.

    ``Иванов Иван Иванович`` in the place of the family name, with nothing else, is family name, given name and
    patronymic in the order that Russian papers have; a patronymic or a second initial behind the given name goes to
    its own place.
    """
    family, given, patronymic = (part.strip() for part in (name.family, name.given, name.patronymic))
    words = [word for word in _SPACES.split(family) if word]
    if not given and not patronymic and len(words) > 1:
        family, given, patronymic = words[0], words[1], " ".join(words[2:])
    words = [word for word in _SPACES.split(given) if word]
    if not patronymic and len(words) > 1 and (_is_patronymic(words[-1]) or _are_initials(given)):
        given, patronymic = words[0], " ".join(words[1:])
    return PersonName(family=family, given=given, patronymic=patronymic)


def without_placeholders(name: PersonName) -> PersonName:
    """The name with its parts emptied that name nobody: without any letter (``-``), or UNKNOWN, XXX and the like.

    A single X behind a family name is an initial.
    """
    if " ".join(_lettered(f"{name.family} {name.given} {name.patronymic}")) in _PLACEHOLDING_WORDS:
        return PersonName(family="", given="", patronymic="")
    family = "" if _names_nobody(name.family, crosses=1) else name.family
    crosses = 2 if family else 1
    given, patronymic = ("" if _names_nobody(part, crosses=crosses) else part for part in (name.given, name.patronymic))
    return PersonName(family=family, given=given, patronymic=patronymic)


def is_damaged(name: PersonName) -> bool:
    """Whether letters of the name were lost to a question mark, or digits stand in it."""
    return any(letter in _LOST or letter.isdigit() for letter in f"{name.family}{name.given}{name.patronymic}")


def compare_names(one: PersonName, other: PersonName) -> NameMatch:
    """Hold two names against each other, whatever the alphabet of either; the order of the two does not matter.

    What names nobody (`without_placeholders`) is as good as missing, and a name that `is_damaged` is never the same.
    """
    damaged = is_damaged(one) or is_damaged(other)
    one, other = _said_parts(one), _said_parts(other)
    if _said(one.family, other.family) and not same_word(one.family, other.family):
        return NameMatch.FAMILY_DIFFERS
    if _said(one.given, other.given) and not _same_or_initials(one.given, other.given):
        return NameMatch.GIVEN_DIFFERS
    if _said(one.patronymic, other.patronymic) and not _same_or_initials(one.patronymic, other.patronymic):
        return NameMatch.PATRONYMIC_DIFFERS
    whole = all((one.family, other.family, one.given, other.given)) and not damaged
    return NameMatch.SAME if whole and not _are_initials(one.given, other.given) else NameMatch.PARTIAL


def is_whole(name: PersonName) -> bool:
    """Whether family and given name are there without damage, the latter with more than its initial."""
    said = _said_parts(name)
    return bool(said.family and said.given) and not _are_initials(said.given) and not is_damaged(name)


def is_cyrillic(text: str) -> bool:
    """Whether the text has letters, and all of them are Cyrillic."""
    letters = [letter for letter in text if letter.isalpha()]
    return bool(letters) and all(map(_is_cyrillic_letter, letters))


def same_word(one: str, other: str) -> bool:
    """Whether two family names, or two given names, are spellings of the same; hyphens and apostrophes do not count."""
    left, right = _words(one), _words(other)
    if max(len(one), len(other)) > _LONGEST:
        return bool(left) and left == right
    if len(left) == len(right) and all(map(_same, left, right)):
        return bool(left)
    return bool(left and right) and _same("".join(left), "".join(right))


def _said_parts(name: PersonName) -> PersonName:
    return without_placeholders(in_parts(without_placeholders(name)))


def _names_nobody(text: str, *, crosses: int) -> bool:
    """Whether a part has no letter, or placeholders only; `crosses` is how many X at least are one."""
    words = _lettered(text)
    return " ".join(words) in _PLACEHOLDING_WORDS or all(
        word in _PLACEHOLDERS or (len(word) >= crosses and _CROSSES.fullmatch(word)) for word in words
    )


def _lettered(text: str) -> list[str]:
    return [word.strip(_BRACKETS) for word in _words(text) if any(map(str.isalpha, word))]


def _said(one: str, other: str) -> bool:
    return bool(_words(one)) and bool(_words(other))


def _words(text: str) -> list[str]:
    return [_plain(word) for word in _BETWEEN.split(text) if word]


def _plain(word: str) -> str:
    """Small letters without signs; Latin letters among Cyrillic ones that look the same are taken for these."""
    if any(map(_is_cyrillic_letter, word)):
        word = word.translate(_ALIKE)
    return unicodedata.normalize("NFC", _SIGNS.sub("", word).casefold()).replace("ё", "е")


def _is_cyrillic_letter(letter: str) -> bool:
    return "\u0400" <= letter <= "\u052f"


def _is_latin(word: str) -> bool:
    return all("a" <= letter <= "z" or "\u00df" <= letter <= "\u024f" for letter in word)


def _is_patronymic(word: str) -> bool:
    return _PATRONYMIC.fullmatch(_plain(word)) is not None


def _are_initials(*texts: str) -> bool:
    """Whether one of the texts is made of initials: single letters, or two with a full stop (Yu.)."""
    return any(bool(_words(text)) and all(map(_is_initial, _words(text), _stops(text))) for text in texts)


def _stops(text: str) -> list[bool]:
    """Of each word, whether a full stop follows it."""
    found = [piece for piece in re.split(r"([\s.,_\-\u2010-\u2015]+)", text) if piece]
    return ["." in "".join(found[at + 1 : at + 2]) for at, piece in enumerate(found) if not _BETWEEN.fullmatch(piece)]


def _is_initial(word: str, stopped: bool) -> bool:
    return len(word) == 1 or (stopped and len(word) <= _INITIAL_LETTERS)


def _same_or_initials(one: str, other: str) -> bool:
    if same_word(one, other):
        return True
    if not _are_initials(one, other):
        return False
    return _initial_fits(_words(one)[0], _words(other)[0], _are_initials(one), _are_initials(other))


def _initial_fits(one: str, other: str, short_one: bool, short_other: bool) -> bool:
    """Whether some letter begins both; of an initial, the beginning of the letter's spelling is enough."""
    return any(
        any(_begins(one, spelling, short_one) for spelling in _spelled(left, letters, _START))
        and any(_begins(other, spelling, short_other) for spelling in _spelled(right, letters, _START))
        for left, right in _alphabets(one, other)
        for letters in left.keys() & right.keys()
    )


def _begins(word: str, spelling: str, is_initial: bool) -> bool:
    return bool(spelling) and (spelling.startswith(word) if is_initial else word.startswith(spelling))


def _same(one: str, other: str) -> bool:
    if one == other:
        return True
    if is_cyrillic(one) and is_cyrillic(other):
        return one.translate(_FOLDED) == other.translate(_FOLDED)
    return any(_have_origin(one, other, left, right) for left, right in _alphabets(one, other))


def _have_origin(one: str, other: str, left: _Spellings, right: _Spellings) -> bool:
    """Whether a Cyrillic word exists that `left` may spell as `one` and `right` as `other`."""
    waiting, seen = [(0, 0, _START)], set()
    while waiting:
        state = waiting.pop()
        if state in seen:
            continue
        seen.add(state)
        if state[:2] == (len(one), len(other)):
            return True
        waiting += _next(one, other, state, left, right)
    return False


def _next(
    one: str, other: str, state: tuple[int, int, str], left: _Spellings, right: _Spellings
) -> Iterator[tuple[int, int, str]]:
    at, beside, before = state
    for letters in left.keys() & right.keys():
        ends = {at + len(s) for s in _spelled(left, letters, before) if one.startswith(s, at)}
        ends |= {at + len(s) for s in _ending(left, letters) if one[at:] == s}
        if not ends:
            continue
        others = {beside + len(s) for s in _spelled(right, letters, before) if other.startswith(s, beside)}
        others |= {beside + len(s) for s in _ending(right, letters) if other[beside:] == s}
        yield from ((end, to, letters[-1]) for end in ends for to in others if (end, to) != (at, beside))


def _spelled(alphabet: _Spellings, letters: str, before: str) -> Sequence[str]:
    spellings = alphabet[letters]
    if alphabet is _CYRILLIC:
        return spellings
    if letters == "е" and before in _AFTER_VOWEL:
        return (*spellings, *_HEARD)
    if letters == "е" and before in _HUSHING:
        return (*spellings, "o")
    return spellings


def _ending(alphabet: _Spellings, letters: str) -> Sequence[str]:
    return () if alphabet is _CYRILLIC else _SHORT_ENDINGS.get(letters, ())


def _read(table: str) -> dict[str, tuple[str, ...]]:
    """The alphabet of a table; each pair of letters has what its letters give as well, to meet another's spelling."""
    written = {letters: spellings for letters, *spellings in map(str.split, re.split(r"\s{4}|\n", table.strip()))}
    read = {letters: tuple("" if one == '""' else one for one in spellings) for letters, spellings in written.items()}
    if "ь" in read:
        read |= {"ь" + vowel: tuple(map("".join, product(_SOFTENED, _heard(read, vowel)))) for vowel in _VOWELS}
        read = dict.fromkeys(_SHORT_ENDINGS, ()) | read
    return {letters: (*spellings, *_letter_by_letter(read, letters)) for letters, spellings in read.items()}


def _letter_by_letter(read: _Spellings, letters: str) -> Iterator[str]:
    if len(letters) > 1:
        first, second = letters[0], letters[1]
        last = _heard(read, second) if first in _AFTER_VOWEL else read[second]
        yield from map("".join, product(read[first], last))


def _heard(read: _Spellings, vowel: str) -> Sequence[str]:
    return (*read[vowel], *_HEARD) if vowel == "е" else read[vowel]


_LATIN: Final = (_read(_GENERAL), _read(_GERMAN))
_WITH_NEIGHBOURS: Final = (_LATIN[0] | _read(_NEIGHBOURS), _LATIN[1])
_CYRILLIC: Final = {letters: (letters,) for alphabet in _WITH_NEIGHBOURS for letters in alphabet}


def _alphabets(one: str, other: str) -> Iterator[tuple[_Spellings, _Spellings]]:
    """In which pairs of alphabets two words may be written; none if a letter is neither Cyrillic nor Latin."""
    known = is_cyrillic(one), is_cyrillic(other)
    if not all(cyrillic or _is_latin(word) for cyrillic, word in zip(known, (one, other), strict=True)):
        return
    # the neighbours' letters have spellings in common with too many Russian ones to be guessed from Latin letters alone
    latin = _WITH_NEIGHBOURS if any(known) else _LATIN
    yield from product(*((_CYRILLIC,) if cyrillic else latin for cyrillic in known))

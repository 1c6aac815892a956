"""What a sentence states of a finding: that it is there, that it is not, or that one cannot tell.

Asked by `rules` sentence by sentence. Words that deny or doubt reach the words that they govern (negation scope):
backwards or forwards within their clause, and over a comma only where a list goes on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from dicom_node.returned.language import PUNCTUATION, Form, PhraseBook, Span, Words, form

BOTH_SIDES: Final = frozenset({"left", "right"})
_BARE_WORDS: Final = 4  # a link of a list has no more


class Says(StrEnum):
    """What is stated of a finding."""

    AFFIRMED = "affirmed"  # it is there
    DENIED = "denied"  # it is not there
    UNCERTAIN = "uncertain"  # it may be there


@dataclass(frozen=True, kw_only=True, slots=True)
class Statement:
    """One statement about one finding.

    Attributes
    ----------
    finding : str
        Its name in the rules.
    says : Says
    broad : bool
        Whether it speaks of every finding of the label at once.
    sides : frozenset of str
        "left", "right", both, or empty when no side is named.
    partial : bool
        Whether it speaks only of a part, of something new or of what is left.
    coded : bool
        Whether a code states it, not words.
    past : bool
        Whether it speaks of what an earlier examination had shown: its denial leaves nothing of that.
    """

    finding: str
    says: Says
    broad: bool = False
    sides: frozenset[str] = frozenset()
    partial: bool = False
    coded: bool = False
    past: bool = False


class Cue(StrEnum):
    """Words that change what a sentence states, by the names that a rules file gives them."""

    IDLE = "idle"  # looks like a denial and is none: "без динамики"
    DENIED_BEFORE = "denied_before"  # denies what follows
    DENIED_AFTER = "denied_after"  # denies what precedes
    DENIED_EITHER = "denied_either"
    UNCERTAIN_BEFORE = "uncertain_before"
    UNCERTAIN_AFTER = "uncertain_after"
    UNCERTAIN_EITHER = "uncertain_either"
    SEEN = "seen"  # states that something is there
    EARLIER = "earlier"  # speaks of what was
    STILL = "still"  # and still is
    ASIDE = "aside"  # from here on a question, a recommendation or a reason for the examination
    BUT = "but"  # ends every reach
    OTHERS = "others"  # speaks of what is new or left
    PART = "part"  # speaks of a part of the organ
    LEFT = "left"
    RIGHT = "right"
    BOTH = "both"


_REACHING: Final = {
    Cue.DENIED_BEFORE: (Says.DENIED, False, True),
    Cue.DENIED_AFTER: (Says.DENIED, True, False),
    Cue.DENIED_EITHER: (Says.DENIED, True, True),
    Cue.UNCERTAIN_BEFORE: (Says.UNCERTAIN, False, True),
    Cue.UNCERTAIN_AFTER: (Says.UNCERTAIN, True, False),
    Cue.UNCERTAIN_EITHER: (Says.UNCERTAIN, True, True),
}
# Where phrases overlap, the earlier group wins: "не исключается" is a doubt, though "исключается" denies.
_ORDER: Final = (
    frozenset({Cue.IDLE}),
    frozenset({Cue.UNCERTAIN_BEFORE, Cue.UNCERTAIN_AFTER, Cue.UNCERTAIN_EITHER}),
    frozenset({Cue.DENIED_BEFORE, Cue.DENIED_AFTER, Cue.DENIED_EITHER}),
    frozenset({Cue.SEEN, Cue.EARLIER, Cue.ASIDE, Cue.BUT}),
)
_PLACES: Final = frozenset({Cue.OTHERS, Cue.PART, Cue.LEFT, Cue.RIGHT, Cue.BOTH})
_LIST_WORDS: Final = frozenset({"и", "или", "либо", "ни", "or", "nor", "and"})
_PREPOSITIONS: Final = frozenset({"в", "во", "на", "in", "at", "within"})
_PLURAL_ENDINGS: Final = ("ются", "ятся", "ны", "are")


class CueBook:
    """The words that change statements, found in their order of precedence.

    Parameters
    ----------
    phrases : mapping of Cue to phrases
    """

    def __init__(self, phrases: Mapping[Cue, Iterable[str]]) -> None:
        def book(group: frozenset[Cue]) -> PhraseBook:
            return PhraseBook((cue, phrase) for cue in sorted(group) for phrase in phrases.get(cue, ()))

        self._ordered = tuple(book(group) for group in _ORDER)
        self._places = book(_PLACES)
        self._still = book(frozenset({Cue.STILL}))  # "сохраняется" is this and states something too

    def clauses(self, words: Words) -> Clauses:
        """A sentence with its cues."""
        taken: list[Span] = []
        for book in self._ordered:
            taken += book.find(words, taken)
        return Clauses(words, tuple(taken), self._places.find(words), goes_on=bool(self._still.find(words)))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Clause:
    start: int
    end: int
    hard: bool  # nothing reaches over its beginning


class Clauses:
    """One sentence: its words, cues and clauses, and what they make of a mention.

    Parameters
    ----------
    words : tuple of str
    cues, places : tuple of Span
    goes_on : bool
        Whether it says that something still is.
    """

    def __init__(self, words: Words, cues: tuple[Span, ...], places: tuple[Span, ...], *, goes_on: bool) -> None:
        self.words = words
        self._goes_on = goes_on
        self._cues = tuple(sorted(cues, key=lambda one: one.start))
        self._places = places
        self._clauses = tuple(self._divided())

    def _divided(self) -> Iterable[_Clause]:
        breaks = {index: (index + 1, False) for index, word in enumerate(self.words) if word in PUNCTUATION - {"?"}}
        breaks |= {cue.start: (cue.end, True) for cue in self._cues if cue.name == Cue.BUT}
        start, hard = 0, True
        for index in sorted(breaks):
            after, next_hard = breaks[index]
            if index > start:
                yield _Clause(start=start, end=index, hard=hard)
                hard = next_hard
            else:
                hard = hard or next_hard
            start = after
        if start < len(self.words):
            yield _Clause(start=start, end=len(self.words), hard=hard)

    def clause_words(self, span: Span) -> Words:
        """Words of the clause that a span stands in, without what follows a denial after it: "... без выпота"."""
        clause = self._clauses[self._place(span.start)]
        later = (cue.start for cue in self._cues if cue.name == Cue.DENIED_BEFORE and cue.start >= span.end)
        return self.words[clause.start : min(clause.end, min(later, default=clause.end))]

    def judge(self, mentions: Sequence[Span]) -> tuple[tuple[Span, Says, bool], ...]:
        """What is said of each mention, and whether of a part only; without those that are history or asides."""
        verdicts: dict[Span, Says] = {}
        parts: set[Span] = set()
        for cue in self._cues:
            if cue.name not in _REACHING:
                continue
            says, backwards, forwards = _REACHING[Cue(cue.name)]
            for mention, verdict in self._reached(cue, says, mentions, backwards=backwards, forwards=forwards):
                verdicts[mention] = Says.UNCERTAIN if Says.UNCERTAIN in {verdict, verdicts.get(mention)} else verdict
                if self._names(cue, Cue.OTHERS) or self._names(cue, Cue.PART):
                    parts.add(mention)
        return tuple(
            (one, verdicts.get(one, Says.AFFIRMED), one in parts or self._names(one, Cue.OTHERS, Cue.PART))
            for one in mentions
            if not self._is_aside(one) and (one in verdicts or not self._is_history(one))
        )

    def sides(self, span: Span) -> frozenset[str]:
        """Sides that the clause of `span` names."""
        named = {one.name for one in self._places_in(self._clauses[self._place(span.start)])}
        return BOTH_SIDES if Cue.BOTH in named else frozenset(str(one) for one in named & {Cue.LEFT, Cue.RIGHT})

    def _names(self, span: Span, *cues: Cue) -> bool:
        return any(one.name in cues for one in self._places_in(self._clauses[self._place(span.start)]))

    def _places_in(self, clause: _Clause) -> list[Span]:
        return [one for one in self._places if clause.start <= one.start < clause.end]

    def _place(self, word: int) -> int:
        return next(index for index, one in enumerate(self._clauses) if word < one.end)

    def _is_aside(self, mention: Span) -> bool:
        return any(cue.name == Cue.ASIDE and cue.start <= mention.start for cue in self._cues)

    def speaks_of_earlier(self, mention: Span) -> bool:
        """Whether the sentence calls it something of an earlier examination."""
        return any(cue.name == Cue.EARLIER and cue.start <= mention.start for cue in self._cues)

    def _is_history(self, mention: Span) -> bool:
        if self._goes_on or not self.speaks_of_earlier(mention):
            return False
        clause = self._clauses[self._place(mention.start)]
        here = {cue.name for cue in self._cues if clause.start <= cue.start < clause.end}
        return Cue.EARLIER in here or Cue.SEEN not in here

    # reach -----------------------------------------------------------------------------------------------------------

    def _reached(
        self, cue: Span, says: Says, mentions: Sequence[Span], *, backwards: bool, forwards: bool
    ) -> Iterable[tuple[Span, Says]]:
        home = self._place(cue.start)
        before = self._inside(mentions, self._clauses[home].start, cue.start) if backwards else []
        if before:
            yield from ((one, says) for one in before)
        ends_clause = cue.end >= self._clauses[home].end
        if backwards and (before or ends_clause or not forwards):
            yield from self._list_before(home, cue, says, mentions, filled=cue.start > self._clauses[home].start)
        if forwards and not before and not (backwards and ends_clause and cue.start > self._clauses[home].start):
            yield from self._onwards(home, cue, says, mentions)

    def _onwards(self, home: int, cue: Span, says: Says, mentions: Sequence[Span]) -> Iterable[tuple[Span, Says]]:
        """What a cue reaches after it: to the next word that states something, over commas while a list goes on."""
        if self._is_alone(cue):
            home = self._beside(home)
        here = self._clauses[home]
        stop = self._next_seen(max(cue.end, here.start), here.end)
        if here.end <= cue.start:
            cue = Span(start=here.start, end=here.start, name=cue.name)
            stop = here.end
        yield from ((one, says) for one in self._inside(mentions, cue.end, stop))
        if stop < here.end:
            return
        for index in range(home + 1, len(self._clauses)):
            clause = self._clauses[index]
            if clause.hard or self._has_own_cue(clause):
                return
            for one in self._inside(mentions, clause.start, clause.end):
                verdict = self._listed(clause, one, says)
                if verdict is None:
                    return
                yield one, verdict

    def _is_alone(self, cue: Span) -> bool:
        """Whether it stands between commas, as "вероятно" does: then the clause beside it is meant."""
        clause = self._clauses[self._place(cue.start)]
        return (clause.start, clause.end) == (cue.start, cue.end)

    def _beside(self, home: int) -> int:
        return home + 1 if home + 1 < len(self._clauses) else max(home - 1, 0)

    def _listed(self, clause: _Clause, mention: Span, says: Says) -> Says | None:
        """Verdict on a mention in a later clause; None where the list has ended."""
        case = form(self.words[mention.end - 1])
        if says is Says.UNCERTAIN or case is Form.OWNED or self.words[clause.start] in _LIST_WORDS:
            return says
        if case is Form.NAMED:
            return None
        return Says.UNCERTAIN if self._is_placed(clause) else says

    def _list_before(
        self, home: int, cue: Span, says: Says, mentions: Sequence[Span], *, filled: bool
    ) -> Iterable[tuple[Span, Says]]:
        """What a cue at the end of a list reaches in the clauses before its own."""
        plural = self.words[cue.end - 1].endswith(_PLURAL_ENDINGS)
        for index in range(home, 0, -1):
            if self._clauses[index].hard:
                return
            clause = self._clauses[index - 1]
            if self._has_own_cue(clause):
                return
            inside = self._inside(mentions, clause.start, clause.end)
            if not inside and not self._is_bare(clause):
                return
            for one in inside:
                verdict = self._carried(clause, one, says, plural=plural or not filled)
                if verdict is None:
                    return
                yield one, verdict

    def _carried(self, clause: _Clause, mention: Span, says: Says, *, plural: bool) -> Says | None:
        """Verdict on a mention in an earlier clause; None where that clause stands for itself."""
        case, placed = form(self.words[mention.end - 1]), self._is_placed(clause)
        if case is Form.OWNED:
            return says
        if placed:
            return None if case is Form.NAMED else Says.UNCERTAIN
        return says if plural or case is Form.EITHER else Says.UNCERTAIN

    def _inside(self, mentions: Sequence[Span], start: int, end: int) -> list[Span]:
        return [one for one in mentions if start <= one.start and one.end <= end]

    def _next_seen(self, start: int, end: int) -> int:
        """Where the next word stands that states something, if a mention may follow it."""
        return next((cue.start for cue in self._cues if cue.name == Cue.SEEN and start <= cue.start < end), end)

    def _has_own_cue(self, clause: _Clause) -> bool:
        deciding = {Cue.SEEN, *_REACHING}
        return any(cue.name in deciding and clause.start <= cue.start < clause.end for cue in self._cues)

    def _is_placed(self, clause: _Clause) -> bool:
        words = self.words[clause.start : clause.end]
        return bool(self._places_in(clause)) or any(
            word in _PREPOSITIONS or any(letter.isdigit() for letter in word) for word in words
        )

    def _is_bare(self, clause: _Clause) -> bool:
        return clause.end - clause.start <= _BARE_WORDS and not self._is_placed(clause)

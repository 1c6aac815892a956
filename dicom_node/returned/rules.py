"""From a radiologist's conclusion to a reading for each label: the rules, as a file, and the decision they come to.

`reports` asks it. A rules file names codes and phrases; what phrases mean together is `statements`' work. In doubt the
reading is unclear: a wrong truth does more harm to monitoring than a missing one. The rule that decided is told in
names of the rules file, never in words of the report.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Final, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, model_validator

from dicom_node.ehr.inbound import ReportCode
from dicom_node.ehr.profile_file import read_profile_file
from dicom_node.returned.language import GAP, PhraseBook, Words, sentences
from dicom_node.returned.statements import BOTH_SIDES, Clauses, Cue, CueBook, Says, Statement
from dicom_node.states import Reading

SHIPPED: Final = ("radiology",)
MAX_CONCLUSION: Final = 50_000  # characters
MAX_SENTENCE: Final = 300  # words; a longer one is no sentence of a person
NORMAL: Final = "every finding"
_NORMAL_FLAG: Final = "N"  # HL7 table 0078
_ICD_10: Final = "ICD-10"
# How senders name the same code systems: FHIR addresses, HL7 tables 0396 and 0353, OIDs.
_SYSTEMS: Final = {
    "http://snomed.info/sct": "SCT",
    "urn:oid:2.16.840.1.113883.6.96": "SCT",
    "2.16.840.1.113883.6.96": "SCT",
    "sct": "SCT",
    "snm3": "SCT",
    "http://hl7.org/fhir/sid/icd-10": _ICD_10,
    "urn:oid:2.16.840.1.113883.6.3": _ICD_10,
    "urn:oid:1.2.643.5.1.13.13.11.1005": _ICD_10,
    "1.2.643.5.1.13.13.11.1005": _ICD_10,
    "i10": _ICD_10,
    "i10c": _ICD_10,
    "icd10": _ICD_10,
    "icd-10": _ICD_10,
}


def _is_phrase(written: str) -> str:
    words = written.strip("^$").split()
    if not words or words[0] == GAP or words[-1] == GAP or any(word.strip("*") == "" for word in words):
        raise ValueError(f"{written!r}: a phrase is words, each perhaps with * at its end, with .. only between words")
    return written


Written = Annotated[str, Field(min_length=1, max_length=100)]
Phrases = tuple[Written, ...]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    @model_validator(mode="after")
    def _phrases_are_words(self) -> Self:
        for name in type(self).model_fields:
            value = getattr(self, name)
            if name in _PHRASE_FIELDS and isinstance(value, tuple):
                for written in value:
                    _is_phrase(written)
        return self


_PHRASE_FIELDS: Final = frozenset({"phrases", "normal", "here", "elsewhere"})


class FindingRules(_Part):
    """Words for one kind of finding that counts for a label."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=40)]
    """How the account of a decision calls it."""
    phrases: Phrases = Field(min_length=1)
    """Each word as it stands, or its stem with ``*``; ``..`` is up to three words between."""
    broad: bool = False
    """Its denial denies every finding of the label: "затемнений нет"."""


class CodeRules(_Part):
    """Codes of the conclusion that decide by themselves."""

    snomed_positive: tuple[str, ...] = ()
    snomed_negative: tuple[str, ...] = ()
    icd10_positive: tuple[str, ...] = ()
    """Beginnings of ICD-10 codes: ``J18`` is every code below it."""
    icd10_negative: tuple[str, ...] = ()


class LabelRules(_Part):
    """What decides the reading of one label."""

    key: Annotated[str, Field(min_length=1, max_length=64)]
    """Key of the label in the model's card."""
    modalities: tuple[str, ...] = ()
    """Modalities of studies that it is read for; empty: all."""
    codes: CodeRules = CodeRules()
    finding: tuple[FindingRules, ...] = Field(min_length=1)
    normal: Phrases = ()
    """Statements that nothing is wrong."""
    here: Phrases = ()
    """The label's own organs."""
    elsewhere: Phrases = ()
    """Other organs: a clause that names one of them and none of its own says nothing of the label."""

    @cached_property
    def books(self) -> Books:
        """Its phrases, ready to be found."""
        return Books(
            findings=PhraseBook((one.name, phrase) for one in self.finding for phrase in one.phrases),
            normal=PhraseBook((NORMAL, phrase) for phrase in self.normal),
            here=PhraseBook(("here", phrase) for phrase in self.here),
            elsewhere=PhraseBook(("elsewhere", phrase) for phrase in self.elsewhere),
            broad=frozenset(one.name for one in self.finding if one.broad),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Books:
    """Phrases of one label, ready to be found; `broad` are names of findings."""

    findings: PhraseBook
    normal: PhraseBook
    here: PhraseBook
    elsewhere: PhraseBook
    broad: frozenset[str]


class ReportRules(_Part):
    """A rules file."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=40)]
    """Stands with its version in every decision, so that readings by different rules can be told apart."""
    version: Annotated[int, Field(ge=1)]
    words: Mapping[Cue, Phrases]
    """Words that deny, doubt or place a statement."""
    label: tuple[LabelRules, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        keys = [one.key for one in self.label]
        if len(set(keys)) != len(keys):
            raise ValueError("two tables of rules speak of one label")
        for phrases in self.words.values():
            for written in phrases:
                _is_phrase(written)
        return self

    @cached_property
    def cues(self) -> CueBook:
        """The words that change statements, ready to be found."""
        return CueBook(self.words)

    def of(self, key: str) -> LabelRules | None:
        """Rules of a label, if there are any."""
        return next((one for one in self.label if one.key == key), None)

    def read(self, rules: LabelRules, conclusion: str, codes: Sequence[ReportCode] = ()) -> Decision:
        """Decide what a conclusion says of a label.

        Parameters
        ----------
        rules : LabelRules
            Of this file.
        conclusion : str
            Text of a signed report.
        codes : sequence of ReportCode
            Codes and flags that came with it.
        """
        if len(conclusion) > MAX_CONCLUSION:
            return self._decided(Reading.UNCLEAR, f"the conclusion has more than {MAX_CONCLUSION} characters")
        spoken = sentences(conclusion)
        if any(len(words) > MAX_SENTENCE for words in spoken):
            return self._decided(Reading.UNCLEAR, f"the conclusion has a sentence of more than {MAX_SENTENCE} words")
        stated = [*_of_codes(rules.codes, codes)]
        for words in spoken:
            stated += _of_sentence(rules.books, self.cues.clauses(words))
        reading, why = weighed(stated)
        return self._decided(reading, why)

    def _decided(self, reading: Reading, why: str) -> Decision:
        return Decision(reading=reading, rule=f"{self.name} {self.version}: {why}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """A reading, and the rule that decided in words without any of the report."""

    reading: Reading
    rule: str


def read_rules(name: str) -> ReportRules:
    """Read rules that come with the product by name, others by their path.

    Raises
    ------
    ProfileError
        When the file cannot be read or breaks a rule; every fault is named.
    """
    return read_profile_file(name, TypeAdapter(ReportRules), package=__package__ or "", shipped=SHIPPED)


# statements ----------------------------------------------------------------------------------------------------------


def _of_sentence(books: Books, clauses: Clauses) -> Iterable[Statement]:
    mentions = books.findings.find(clauses.words)
    for span, says, partial in clauses.judge(mentions):
        if not _of_another_organ(books, clauses.clause_words(span)):
            sides = clauses.sides(span)
            broad, past = span.name in books.broad, clauses.speaks_of_earlier(span)
            yield Statement(finding=span.name, says=says, broad=broad, sides=sides, partial=partial, past=past)
    normal = books.normal.find(clauses.words, mentions)
    for span, says, partial in clauses.judge(normal):
        if says is not Says.UNCERTAIN and not _of_another_organ(books, clauses.clause_words(span)):
            sides = clauses.sides(span)
            yield Statement(finding=NORMAL, says=Says.DENIED, broad=True, sides=sides, partial=partial)


def _of_another_organ(books: Books, words: Words) -> bool:
    others = books.elsewhere.find(words)
    return bool(others) and not books.here.find(words, others)


def _of_codes(rules: CodeRules, codes: Sequence[ReportCode]) -> Iterable[Statement]:
    if {one.value for one in codes if one.is_flag} == {_NORMAL_FLAG}:
        yield Statement(finding="every finding (flag N)", says=Says.DENIED, broad=True, coded=True)
    for one in codes:
        says, told = _meaning(rules, "" if one.is_flag else _SYSTEMS.get(one.system.casefold(), ""), one.value.upper())
        if says is not None:
            yield Statement(finding=told, says=says, broad=True, coded=True)


def _meaning(rules: CodeRules, system: str, code: str) -> tuple[Says | None, str]:
    if system == "SCT":
        told = f"code {code} of SNOMED CT"
        says = (
            Says.AFFIRMED if code in rules.snomed_positive else Says.DENIED if code in rules.snomed_negative else None
        )
        return says, told
    if system == _ICD_10:
        for says, beginnings in ((Says.AFFIRMED, rules.icd10_positive), (Says.DENIED, rules.icd10_negative)):
            if begin := next((one for one in beginnings if code.startswith(one.upper())), None):
                return says, f"codes {begin} of ICD-10"
    return None, ""


# weighing ------------------------------------------------------------------------------------------------------------


def weighed(stated: Sequence[Statement]) -> tuple[Reading, str]:
    """The reading that statements come to, and why: what is affirmed counts, unless it is denied elsewhere.

    Doubt about one finding takes nothing from another that is certain; beside denials it makes the reading unclear. A
    denial of one side, of a part or of what is new denies the whole only together with that of the other side.
    """
    affirmed = [one for one in stated if one.says is Says.AFFIRMED]
    denied = [one for one in stated if one.says is Says.DENIED]
    doubted = [one for one in stated if one.says is Says.UNCERTAIN]
    if affirmed:
        certain = [one for one in affirmed if not any(_contradicts(no, one) for no in denied)]
        if certain:
            return Reading.POSITIVE, f"{_names(certain)} affirmed"
        return Reading.UNCLEAR, f"{_names(affirmed)} affirmed and denied"
    if doubted:
        return Reading.UNCLEAR, f"{_names(doubted)} uncertain"
    whole = [one for one in denied if _is_whole(one, denied)]
    if whole:
        return Reading.NEGATIVE, f"{_names(whole)} denied"
    if denied:
        return Reading.UNCLEAR, f"{_names(denied)} denied in part only"
    return Reading.UNCLEAR, "nothing in the conclusion speaks of it"


def _contradicts(denial: Statement, affirmed: Statement) -> bool:
    if denial.partial or not (denial.broad or affirmed.coded or denial.finding == affirmed.finding):
        return False
    if not denial.sides or denial.sides == BOTH_SIDES:
        return True
    return bool(affirmed.sides) and affirmed.sides <= denial.sides


def _is_whole(denial: Statement, others: Sequence[Statement]) -> bool:
    if denial.partial or denial.past:
        return denial.past
    alike = [one.sides for one in others if not one.partial and one.finding == denial.finding]
    return not denial.sides or frozenset().union(*alike) >= BOTH_SIDES


def _names(stated: Iterable[Statement]) -> str:
    return ", ".join(sorted({one.finding for one in stated}))

"""Reads the templates: one file of words for each kind of study, laid over the general one, in both languages.

Called by `wording.report`. A file that lacks a sentence, has one too many, or asks for a word that nobody fills in is
refused when it is read, so that no report can carry a hole.
"""

from __future__ import annotations

import string
import tomllib
from collections.abc import Mapping
from enum import StrEnum
from functools import cache
from importlib import resources
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field

from dicom_node.wording.grammar import CountedNoun, Verb
from models.codes import Code

_LAYERS: Final = {"chest_ct": ("ct", "chest_ct")}


class Kind(StrEnum):
    """The kind of study, which chooses the template."""

    GENERAL = "general"  # nothing closer is known
    CHEST_FILM = "chest_film"  # radiograph or fluorogram of the chest
    MAMMOGRAPHY = "mammography"  # mammograms
    CT = "ct"  # computed tomography of any part
    CHEST_CT = "chest_ct"  # computed tomography, model of the lungs


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Phrases(_Part):
    """The words of one language for one kind of study; `templates/general.toml` shows every sentence."""

    study: str
    image: CountedNoun
    item: CountedNoun
    spot: CountedNoun
    studied: Verb
    marked: Verb
    suspected: Verb
    remained: Verb
    examined: str
    view_one: str
    views: str
    sought: str
    grades: str
    found: str
    at_threshold: str
    repeated: str
    lesion: str
    size: str
    volume: str
    size_unknown: str
    size_on_film: str
    size_not_given: str
    probability: str
    cancer_probability: str
    score: str
    very_low: str
    low: str
    moderate: str
    high: str
    very_high: str
    below: str
    in_study: str
    in_study_below: str
    unplaced: str
    on_image: str
    not_found: str
    not_found_plain: str
    scored: str
    undetermined: str
    side_present: str
    side_absent: str
    side_undetermined: str
    category: str
    category_none: str
    concluded_found: str
    concluded_unplaced: str
    concluded_side: str
    concluded_not_found: str
    concluded_not_found_plain: str
    concluded_undetermined: str
    suggestion: str
    no_exclusion: str
    partial: str
    recommend_found: str
    recommend_unplaced: str
    recommend_nothing: str
    recommend_refused: str
    refused: str
    refused_detail: str
    withdrawn: str
    refused_means: str
    origin: str
    origin_node: str
    left_out: str
    left_out_because: str
    caution: str
    right: str
    left: str
    both: str
    side_unknown: str
    patient_right: str
    patient_left: str
    picture_right: str
    picture_left: str
    middle: str
    upper: str
    center: str
    lower: str
    picture: str
    projection: str
    frame: str
    slice: str
    slices: str
    position: str
    numbering: str
    mm: str
    mm2: str
    mm3: str
    view_names: Mapping[str, str]
    flags: Mapping[str, str]


class SiteWords(_Part):
    """An anatomical site in one language."""

    name: str
    right: str = ""
    left: str = ""
    within: str
    within_right: str = ""
    within_left: str = ""


class _Site(_Part):
    code: str
    ru: SiteWords
    en: SiteWords


class _TermNoun(_Part):
    codes: tuple[str, ...] = Field(min_length=1)
    sites: tuple[str, ...] = ()
    ru: CountedNoun
    en: CountedNoun


class _Terms(_Part):
    nouns: tuple[_TermNoun, ...]
    sites: tuple[_Site, ...]


@cache
def phrases_of(kind: Kind, language: str) -> Phrases:
    """The words for `kind` in `language`.

    Raises
    ------
    ValueError
        If the node does not speak `language`, or a template is faulty.
    """
    if language not in ("ru", "en"):
        raise ValueError(f"language {language!r} is not spoken here: use 'en' or 'ru'")
    general = _read(Kind.GENERAL)
    words = dict(general[language])
    for layer in () if kind is Kind.GENERAL else _LAYERS.get(kind, (str(kind),)):
        words |= _read(layer)[language]
    _check_places(words, general["ru"])
    return Phrases.model_validate(words)


def noun_of_code(finding: Code, site: Code, language: str) -> CountedNoun | None:
    """What findings of this code at this site are called, where that is known."""
    for term in _terms().nouns if finding.scheme == "SCT" else ():
        if finding.value in term.codes and (not term.sites or site.value in term.sites):
            return term.ru if language == "ru" else term.en
    return None


def site_words(site: Code, language: str) -> SiteWords | None:
    """The words for an anatomical site, where they are known."""
    for known in _terms().sites if site.scheme == "SCT" else ():
        if known.code == site.value:
            return known.ru if language == "ru" else known.en
    return None


def _read(name: str) -> dict[str, Any]:
    text = resources.files(__package__).joinpath("templates", f"{name}.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


@cache
def _terms() -> _Terms:
    return _Terms.model_validate(_read("terms"))


def _check_places(words: Mapping[str, Any], model: Mapping[str, Any]) -> None:
    """A sentence may ask only for what the general Russian one asks for: that is what the code fills in."""
    for key, sentence in words.items():
        if isinstance(sentence, str) and (unknown := _places(sentence) - _places(str(model.get(key, "")))):
            raise ValueError(f"template sentence {key}: nobody fills in {', '.join(sorted(unknown))}")


def _places(sentence: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(sentence) if name is not None}

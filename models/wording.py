"""What a card says of its labels in words: nouns that can be counted, sentences of its own, categories it may name.

Part of `models.card`; read by `dicom_node.wording`, which makes the text of the report. All of it is optional: without
it the report takes its nouns from the codes and its sentences from the templates of the modality.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from pydantic import Field

from models.codes import CardPart, Text

_Word = Field(min_length=1, max_length=120)


class RussianNoun(CardPart):
    """A noun, with what belongs to it, in the forms that numerals ask for: 1 очаг, 2 очага, 5 очагов.

    `many` is the genitive of the plural, which stands after "не выявлено" too.
    """

    gender: Literal["m", "f", "n"]
    one: str = _Word
    few: str = _Word
    many: str = _Word


class EnglishNoun(CardPart):
    """A noun in both numbers."""

    one: str = _Word
    many: str = _Word


class Noun(CardPart):
    """What the findings of a label are called when they are counted, in lower case."""

    ru: RussianNoun
    en: EnglishNoun


class LabelWording(CardPart):
    """A card's own words for a label, beside those of the template; plain sentences, nothing is filled in."""

    noun: Noun | None = Field(default=None, description="null: by the code of the finding, else by the title")
    description: Text | None = Field(default=None, description="added to the description where the label is reported")
    conclusion: Text | None = Field(default=None, description="added to the conclusion where the label is reported")
    recommendation: Text | None = Field(default=None, description="in place of the template's where it is reported")


class CategorySystem(StrEnum):
    """A system of categories that a report may name only if the model was made for it and its card says so."""

    BI_RADS = "BI-RADS"  # breast, American College of Radiology
    LUNG_RADS = "Lung-RADS"  # nodules in screening by CT, American College of Radiology
    FLEISCHNER = "Fleischner"  # incidental nodules, Fleischner Society


class Category(CardPart):
    """The category for which a label stands: the model gives it, nothing computes it from sizes."""

    system: CategorySystem
    value: str = Field(pattern=r"^[0-9A-Za-z][0-9A-Za-z+ .-]{0,23}$", description='as written: "4A", "3", "2S"')

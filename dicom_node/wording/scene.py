"""What every sentence of a report needs: the findings, the card, the language, and what the images show.

Built by `wording.report`, read by `statements`, `places` and `scores`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from dicom_node.wording.grammar import NO_BREAK, CountedNoun, Verb, agree, counted, sentence, within_sentence
from dicom_node.wording.phrases import Kind, Phrases, noun_of_code, site_words
from dicom_node.wording.values import ShownImage
from inference.findings import Findings, SopUid
from models.card import Label, ModelCard
from models.codes import Code

LUNG: Final = "39607008"
BREAST: Final = "76752008"
RIGHT: Final = "24028007"
LEFT: Final = "7771000"
_CHEST_SITES: Final = frozenset({LUNG, "51185008", "43799004"})  # lung, thorax, thoracic cavity
_FILM_MODALITIES: Final = frozenset({"CR", "DX", "RF", "XA", "RG"})
_UNKNOWN: Final = ShownImage()


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """One model's word on one study, about to be put into words."""

    findings: Findings
    card: ModelCard
    language: str
    phrases: Phrases
    kind: Kind
    shown: Mapping[SopUid, ShownImage]

    @property
    def is_sliced(self) -> bool:
        """Whether images are slices of a volume, and not pictures of their own."""
        return self.kind in (Kind.CT, Kind.CHEST_CT)

    def image(self, uid: SopUid) -> ShownImage:
        """What an image shows, as far as it is known."""
        return self.shown.get(uid, _UNKNOWN)

    def title(self, label: Label) -> str:
        """What the card calls the label, as it stands within a sentence."""
        return within_sentence(label.title.in_language(self.language))

    def noun(self, label: Label) -> CountedNoun | None:
        """How findings of the label are counted: the card's noun, else that of the code if no other label shares it."""
        own = self._noun(label)
        others = (self._noun(other) for other in self.card.labels if other is not label)
        return None if own is None or own in others else own

    def counted(self, label: Label, count: int) -> str:
        """``2 предполагаемых очага``; where the label has no noun, ``2 подозрительных участка (очаг в лёгком)``."""
        noun = self.noun(label)
        if noun is not None:
            suspected = agree(self.phrases.suspected, noun, count, self.language)
            return counted(noun, count, self.language).replace(NO_BREAK, f"{NO_BREAK}{suspected} ", 1)
        return f"{counted(self.phrases.spot, count, self.language)} ({self.title(label)})"

    def agreeing(self, verb: Verb, label: Label, count: int) -> str:
        """`verb` in the form that goes with `count` of the label's noun."""
        return agree(verb, self.noun(label) or self.phrases.spot, count, self.language)

    def within(self, label: Label, sides: Sequence[str]) -> str:
        """Where the findings of a label are or were looked for, with a space before it; empty where it is not known.

        `sides` are R or L, empty for an unknown one; nothing is said of a side that is not among them.
        """
        words = site_words(label.site, self.language)
        if words is None:
            return ""
        if not words.within_right:
            return f" {words.within}"
        known = set(sides)
        place = {frozenset("RL"): words.within, frozenset("R"): words.within_right, frozenset("L"): words.within_left}
        found = place.get(frozenset(known), "")
        return f" {found}" if found else ""

    def sides(self) -> tuple[str, ...]:
        """The sides that the examined images show."""
        shown = [self.image(image.sop_instance_uid).laterality for image in self.findings.images]
        return tuple(side for one in shown for side in ("RL" if one == "B" else (one,)))

    def _noun(self, label: Label) -> CountedNoun | None:
        if label.wording is not None and label.wording.noun is not None:
            noun = label.wording.noun
            return CountedNoun.of(noun.ru if self.language == "ru" else noun.en)
        return noun_of_code(label.finding, label.site, self.language)


def kind_of(card: ModelCard | None, modalities: Sequence[str]) -> Kind:
    """The kind of study by the modality of its images, else by the card's, and by the sites that the model looks at."""
    sites = {label.site.value for label in card.labels} if card else set()
    known = next((one for one in modalities if one), "")
    if not known and card is not None and len(card.intended_use.modalities) == 1:
        known = card.intended_use.modalities[0]
    if known == "CT":
        return Kind.CHEST_CT if sites and sites <= _CHEST_SITES else Kind.CT
    if known == "MG":
        return Kind.MAMMOGRAPHY
    if sites and sites <= _CHEST_SITES and (known in _FILM_MODALITIES or _is_film_model(card, known)):
        return Kind.CHEST_FILM
    return Kind.GENERAL


def _is_film_model(card: ModelCard | None, modality: str) -> bool:
    return not modality and card is not None and set(card.intended_use.modalities) <= _FILM_MODALITIES


def side_name(laterality: Code | None, site: Code, scene: Scene) -> str:
    """``правая молочная железа``, ``справа``, or that the side is not stated."""
    if laterality is None:
        return scene.phrases.side_unknown
    words = site_words(site, scene.language)
    sides = {
        RIGHT: (words.right if words else "") or scene.phrases.right,
        LEFT: (words.left if words else "") or scene.phrases.left,
    }
    return sides.get(laterality.value, scene.phrases.both)


def paragraph(*sentences: str) -> str:
    """Sentences on one line, each with a capital; empty ones are left out."""
    return " ".join(sentence(one) for one in sentences if one)


def with_space(text: str) -> str:
    """`text` whose spaces do not break a line: a number and its unit."""
    return text.replace(" ", NO_BREAK)

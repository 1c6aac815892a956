"""Results of a model that only demonstrates say so in every form and in both languages."""

from __future__ import annotations

import pytest

from dicom_node.results import overlay, texts
from inference.findings import Measurement
from inference.postprocess import LONG_AXIS, MILLIMETER, SHORT_AXIS
from inference.volumes.measure import CUBIC_MILLIMETER, VOLUME
from models.card import ModelCard, Use
from tests.results_cases import make_card


def card_for(use: Use) -> ModelCard:
    card = make_card()
    changes = {"use": use, "registration_number": "RU 1" if use is Use.REGISTERED else None}
    return card.model_copy(update={"identity": card.identity.model_copy(update=changes)})


@pytest.mark.parametrize("language", ["ru", "en"])
def test_each_use_has_words_of_its_own(language: str) -> None:
    for say in (texts.warning, texts.warning_word, texts.warning_sentence):
        assert len({say(card_for(use), language) for use in Use}) == len(Use)


def test_the_short_warning_of_a_demonstration_is_in_both_languages_whoever_reads_it() -> None:
    for language in ("ru", "en"):
        words = texts.warning(card_for(Use.DEMONSTRATION), language)
        assert texts.DEMONSTRATION.en in words
        assert texts.DEMONSTRATION.ru in words


@pytest.mark.parametrize("language", ["ru", "en"])
def test_a_series_of_a_demonstration_says_so_and_fits_its_attribute(language: str) -> None:
    titles = [value for name, value in vars(texts).items() if name.startswith("SERIES_")]
    assert len(titles) > 5
    for title in titles:
        words = texts.series_title(title, card_for(Use.DEMONSTRATION), language)
        assert words.startswith(texts.DEMONSTRATION_SERIES.in_language(language))
        assert len(words.encode()) <= 64  # characters count, but validators count bytes
        assert texts.series_title(title, card_for(Use.RESEARCH), language) == title.in_language(language)
        assert texts.series_title(title, None, language) == title.in_language(language)


def test_a_lesion_with_a_volume_shows_it_after_its_axes() -> None:
    sizes = (
        Measurement(quantity=LONG_AXIS, value=12.2, unit=MILLIMETER),
        Measurement(quantity=SHORT_AXIS, value=9.4, unit=MILLIMETER),
        Measurement(quantity=VOLUME, value=523.3, unit=CUBIC_MILLIMETER),
    )
    shown = overlay.size_text(sizes, "en").replace("\N{NO-BREAK SPACE}", " ")
    assert shown == "12 × 9 mm, 523 mm³"
    assert overlay.size_text(sizes[:2], "ru").replace("\N{NO-BREAK SPACE}", " ") == "12 × 9 мм"

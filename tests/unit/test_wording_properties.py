"""Whatever a model says, the text has no holes, keeps to its language, and denies only what the card looks for."""

from __future__ import annotations

import re
import string

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dicom_node.wording import ReportText, report_text
from dicom_node.wording.phrases import Kind, Phrases, phrases_of
from inference.findings import Finding, Flag
from inference.refusals import Reason, Refusal
from models.card import ModelCard
from tests.wording_cases import KINDS, LESION, NODULE, OPACITY, STRANGE, card_of, findings_of, of_study, shown_on

LANGUAGES = ("ru", "en")
SETS = {"DX": (OPACITY, NODULE, STRANGE), "MG": (LESION,), "CT": (NODULE,), "US": (STRANGE,)}
NAME = "test-model"
# What the tests' cards look for, as a denial may name it; everything else would be an invention.
SOUGHT = {
    "opacity": ("затемнен", "opacit"),
    "nodule": ("очаг", "nodule"),
    "lesion": ("изменен", "lesion"),
    "strange": ("странность", "odd thing"),
}
OTHER_DISEASE = re.compile(
    r"пневмоторакс|пневмони|туберкул|перелом|выпот|опухол|кальцинат|pneumothorax|pneumonia|fracture|effusion|tumou?r"
)


def everything(text: ReportText) -> list[str]:
    paragraphs = (text.description, text.conclusion, text.recommendation, *text.warnings)
    return [line for paragraph in paragraphs if paragraph for line in paragraph.split("\n")]


def check(text: ReportText) -> None:
    """What holds of every text."""
    for line in everything(text):
        assert line == line.strip() and line
        assert not re.search(r"[{}]|None|nan|  |\(\)|;\.|; ;|,,|\.\.| [.,;:]|<[a-z/]|&\w+;", line), line
        assert not re.search(r"(?<![\d>])100\xa0%|(?<!\d)0\xa0%", line), line
        assert line[0] == line[0].upper(), line
        assert line.endswith((".", ":")), line
        assert not re.search(r"\d (?:%|мм|mm)", line), f"a space that breaks before a unit: {line}"
    words = "\n".join(everything(text)).replace(NAME, "")
    if text.language == "ru":
        assert not re.search(r"[A-Za-z]", words), words
        assert not re.search(r"\d\.\d", words.replace("1.2.0", "")), words
    else:
        assert not re.search(r"[А-Яа-яЁё]", words), words
    assert not OTHER_DISEASE.search(words.lower()), words


@st.composite
def cases(draw: st.DrawFn) -> tuple[ReportText, ModelCard]:
    modality = draw(st.sampled_from(sorted(KINDS)))
    labels = draw(st.lists(st.sampled_from(SETS[modality]), min_size=1, unique_by=lambda one: str(one["key"])))
    use = draw(st.sampled_from(("research", "demonstration")))
    card = card_of(*labels, modality=modality, use=use, calibrated=draw(st.booleans()))
    images = draw(st.integers(1, 6))
    side = draw(st.sampled_from(("", "R", "L")))
    said: list[Finding] = []
    for label in card.labels:
        present = draw(st.booleans())
        said.append(of_study(card, label.key, present, score=draw(st.floats(0.2, 1))))
        if draw(st.booleans()):
            said.append(of_study(card, label.key, draw(st.booleans()), score=0.5, side=draw(st.sampled_from("RL"))))
        if draw(st.booleans()):
            image = f"1.2.3.{draw(st.integers(0, images - 1))}"
            said.append(of_study(card, label.key, present, score=0.7, image=image))
    findings = findings_of(
        card,
        lesions=draw(st.sampled_from((0, 1, 2, 12))),
        images=images,
        planes=draw(st.integers(1, images)) if modality == "CT" else 1,
        side=side if modality == "MG" else "",
        in_mm=draw(st.booleans()),
        flags=tuple(draw(st.lists(st.sampled_from(Flag), unique=True))),
        said=said,
        score=draw(st.floats(0.3, 1)),
        center=(draw(st.floats(0.05, 0.95)), draw(st.floats(0.05, 0.95))),
    )
    orientation = draw(st.sampled_from((("", ""), ("L", "F"), ("R", "F"), ("A", "F"), ("F", "L"), ("LA", "FP"))))
    views = draw(st.sampled_from((("",), ("PA",), ("PA", "LL"), ("CC", "MLO"))))
    shown = shown_on(findings, modality, views=views, side=side, orientation=orientation) if draw(st.booleans()) else {}
    text = report_text(
        findings,
        card,
        language=draw(st.sampled_from(LANGUAGES)),
        shown=shown,
        images_given=draw(st.none() | st.integers(0, 9)),
        left_out=draw(st.dictionaries(st.sampled_from(Reason), st.integers(1, 30), max_size=3)),
    )
    return text, card


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(cases())
def test_every_text_is_whole_pure_and_careful(case: tuple[ReportText, ModelCard]) -> None:
    check(case[0])


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(cases())
def test_absence_is_said_of_the_cards_labels_alone(case: tuple[ReportText, ModelCard]) -> None:
    text, card = case
    denied = [line for line in everything(text) if re.search(r"не выявлено|^no [a-z]+ found|not found", line.lower())]
    names = [word for label in card.labels for word in SOUGHT[label.key]]
    for line in denied:
        assert any(name in line.lower() for name in names), line


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("modality", KINDS)
@pytest.mark.parametrize("lesions", [0, 1, 2, 12])
def test_every_modality_and_number_of_lesions_has_its_text(modality: str, lesions: int, language: str) -> None:
    card = card_of(modality=modality)
    findings = findings_of(card, lesions=lesions, images=4, planes=2 if modality == "CT" else 1)
    text = report_text(findings, card, language=language, shown=shown_on(findings, modality))
    check(text)
    numbered = [line for line in text.description.split("\n") if re.match(r"\d+\. ", line)]
    assert len(numbered) == lesions
    assert [int(line.split(".")[0]) for line in numbered] == list(range(1, lesions + 1))


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("reason", Reason)
def test_every_refusal_is_whole_and_pure(reason: Reason, language: str) -> None:
    for card in (None, card_of()):
        check(report_text(None, card, language=language, refusal=Refusal(reason=reason, detail="7 / 9")))


@given(st.text(max_size=60))
def test_the_detail_of_a_refusal_breaks_no_line_and_fills_no_place(detail: str) -> None:
    refusal = Refusal(reason=Reason.VIEW, detail=detail)
    text = report_text(None, None, language="en", refusal=refusal)
    assert len(text.description.split("\n")) <= 2
    assert text.description.isprintable() or "\n" in text.description or "\xa0" in text.description
    assert not re.search(r"[\x00-\x09\x0b-\x1f]", text.description)


@pytest.mark.parametrize("kind", Kind)
def test_templates_of_both_languages_ask_for_the_same_words(kind: Kind) -> None:
    ru, en = (phrases_of(kind, language) for language in LANGUAGES)
    for name in Phrases.model_fields:
        sentences = [getattr(ru, name), getattr(en, name)]
        if all(isinstance(one, str) for one in sentences):
            assert _places(sentences[0]) == _places(sentences[1]), name
    assert ru.view_names.keys() == en.view_names.keys()
    assert set(ru.flags) == set(en.flags) == set(Flag)


def _places(sentence: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(sentence) if name is not None}

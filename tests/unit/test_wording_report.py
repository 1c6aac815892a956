"""The text of a report: what it says of lesions, of their absence, of sides and slices, of doubts and of refusals."""

from __future__ import annotations

import dataclasses
import re

import pytest

from dicom_node.wording import ReportText, ShownImage, report_text, withdrawal_text
from dicom_node.wording.phrases import Kind, phrases_of
from inference.findings import Flag, Presence, SopUid
from inference.refusals import TEXTS, Reason, Refusal
from models.codes import Code
from tests.wording_cases import KINDS, LESION, NODULE, OPACITY, STRANGE, card_of, findings_of, of_study, shown_on

LANGUAGES = ("ru", "en")


def whole(text: ReportText) -> str:
    return "\n".join((text.description, text.conclusion, text.recommendation, *text.warnings))


def chest(lesions: int, language: str = "ru", **more: object) -> ReportText:
    card = card_of()
    findings = findings_of(card, lesions=lesions, **more)  # type: ignore[arg-type]
    shown = shown_on(findings, "DX", views=("PA",), orientation=("L", "F"))
    return report_text(findings, card, language=language, shown=shown)


def test_one_opacity_reads_as_a_radiologist_writes_it() -> None:
    text = chest(1)
    assert text.description.replace("\xa0", " ").splitlines() == [
        "Рентгенограмма органов грудной клетки: программой изучен 1 снимок (проекция: задне-передняя).",
        "Модель ищет только: затемнение лёгочной ткани. Другие изменения не оценивались.",
        "Отмечено 1 предполагаемое затемнение в лёгких (порог 30 %).",
        "1. Правая сторона пациента; верхняя часть снимка; размер 34 × 27 мм; вероятность находки высокая (87 %).",
        "Затемнение лёгочной ткани: в исследовании в целом вероятность находки высокая (87 %).",
        "Размеры измерены по снимку, без поправки на проекционное увеличение.",
    ]
    assert text.conclusion.replace("\xa0", " ").splitlines() == [
        "Программой отмечено 1 предполагаемое затемнение в лёгких; наибольшая вероятность находки высокая (87 %).",
        "Это предположение модели, а не диагноз.",
    ]
    assert "врач-рентгенолог" in text.recommendation


@pytest.mark.parametrize(
    ("lesions", "words"),
    [(2, "2 предполагаемых затемнения"), (5, "5 предполагаемых затемнений"), (12, "12 предполагаемых затемнений")],
)
def test_numbers_of_lesions_agree_with_their_noun(lesions: int, words: str) -> None:
    text = chest(lesions)
    assert words in text.conclusion.replace("\xa0", " ")
    assert len(re.findall(r"^\d+\. ", text.description, flags=re.MULTILINE)) == lesions


def test_nothing_found_is_said_of_what_was_sought_and_excludes_nothing() -> None:
    text = chest(0)
    assert "Программой не выявлено затемнений в лёгких; вероятность находки очень низкая (4\xa0%)" in text.conclusion
    assert "ниже порога (20\xa0%)" in text.conclusion
    assert "не исключает заболевания" in text.conclusion
    assert "без патологии" not in whole(text).lower()
    assert text.recommendation


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_positive_report_of_two_labels_says_which_was_not_found(language: str) -> None:
    card = card_of(OPACITY, NODULE)
    text = report_text(findings_of(card, lesions=1), card, language=language)
    absent = {"ru": "не выявлено очагов в лёгких", "en": "no nodules found by software in the lungs"}[language]
    assert absent in text.conclusion.lower()
    assert {"ru": "не выявлено затемнений", "en": "no opacities"}[language] not in whole(text).lower()


@pytest.mark.parametrize(
    ("orientation", "center", "side", "part"),
    [
        (("L", "F"), (0.2, 0.1), "правая сторона пациента", "верхняя часть снимка"),
        (("L", "F"), (0.8, 0.5), "левая сторона пациента", "средняя по высоте часть снимка"),
        (("R", "F"), (0.2, 0.9), "левая сторона пациента", "нижняя часть снимка"),
        (("R", "H"), (0.2, 0.9), "левая сторона пациента", "верхняя часть снимка"),
        (("F", "R"), (0.9, 0.1), "левая сторона пациента", "нижняя часть снимка"),
        (("", ""), (0.2, 0.9), "левая сторона изображения (сторона пациента неизвестна)", "нижняя часть снимка"),
        (("L", "F"), (0.5, 0.5), "около середины снимка", "средняя по высоте часть"),
    ],
)
def test_sides_of_a_film_are_the_patients_where_the_header_tells_them(
    orientation: tuple[str, str], center: tuple[float, float], side: str, part: str
) -> None:
    card = card_of()
    findings = findings_of(card, lesions=1, center=center)
    text = report_text(findings, card, language="ru", shown=shown_on(findings, "DX", orientation=orientation))
    assert side in text.description.lower()
    assert part in text.description


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_part_of_a_film_is_never_called_a_zone_or_lobe(language: str) -> None:
    words = whole(chest(12, language)).lower()
    for invented in ("зон", "дол", "сегмент", "поле", "lobe", "zone", "segment", "field"):
        assert invented not in words.replace("должн", "")


def test_a_lateral_film_has_no_patients_side() -> None:
    card = card_of()
    findings = findings_of(card, lesions=1)
    text = report_text(
        findings, card, language="ru", shown=shown_on(findings, "DX", views=("LL",), orientation=("A", "F"))
    )
    assert "сторона" not in text.description.lower()
    assert "верхняя часть снимка" in text.description.lower()


def test_a_breast_lesion_has_side_and_view_and_no_quadrant() -> None:
    card = card_of(modality="MG")
    findings = findings_of(card, lesions=2, images=2, side="R")
    text = report_text(findings, card, language="ru", shown=shown_on(findings, "MG", views=("CC", "MLO"), side="R"))
    assert "1. Правая молочная железа; проекция краниокаудальная; маммограмма 1 из 2" in text.description
    assert "2. Правая молочная железа; проекция медиолатеральная косая; маммограмма 2 из 2" in text.description
    assert "к одному и тому же изменению" in text.description
    assert "к одному и тому же изменению" in text.conclusion
    assert "квадрант" not in whole(text)
    assert "част" not in text.description.replace("счаст", "")


def test_absence_is_said_of_the_examined_breast_only() -> None:
    card = card_of(modality="MG")
    findings = findings_of(card, images=2)
    one_side = report_text(findings, card, language="ru", shown=shown_on(findings, "MG", side="L"))
    assert "не выявлено изменений в левой молочной железе" in one_side.conclusion
    unknown = report_text(findings, card, language="ru", shown=shown_on(findings, "MG"))
    assert "молочн" not in unknown.conclusion


def test_each_breast_has_a_line_of_its_own() -> None:
    card = card_of(modality="MG")
    said = [
        of_study(card, "lesion", present=False),
        of_study(card, "lesion", present=True, score=0.45, side="R"),
        of_study(card, "lesion", present=False, side="L"),
    ]
    text = report_text(findings_of(card, said=said), card, language="ru")
    assert "Правая молочная железа: изменение в молочной железе — подозрение; вероятность находки" in text.description
    assert "Левая молочная железа: изменение в молочной железе — не выявлено" in text.description
    assert "Подозрение, правая молочная железа: изменение в молочной железе" in text.conclusion
    assert "не выявлено" not in text.conclusion


def test_a_ct_lesion_has_slices_a_position_and_a_volume_and_no_lobe_of_its_own_making() -> None:
    card = card_of(modality="CT")
    findings = findings_of(card, lesions=1, images=60, planes=3)
    text = report_text(findings, card, language="ru", shown=shown_on(findings, "CT"))
    assert "Компьютерная томография органов грудной клетки: программой изучено 60\xa0срезов." in text.description
    assert "1. Срезы 1–3 из 60, ключевой 2; координата\xa0−125\xa0мм; размер 34\xa0×\xa027\xa0мм" in text.description
    assert "объём 13405\xa0мм³" in text.description
    assert "дол" not in text.description


def test_a_lobe_is_named_where_the_finding_names_it() -> None:
    card = card_of(modality="CT")
    findings = findings_of(card, lesions=1, images=9, planes=3)
    lobe = Code(value="266005", scheme="SCT", meaning="Lower lobe of right lung")
    findings = dataclasses.replace(findings, lesions=(dataclasses.replace(findings.lesions[0], site=lobe),))
    shown = shown_on(findings, "CT")
    assert "нижняя доля правого лёгкого" in report_text(findings, card, language="ru", shown=shown).description.lower()
    assert "lower lobe of the right lung" in report_text(findings, card, language="en", shown=shown).description.lower()


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_millimetres_are_told_without_trustworthy_spacing(language: str) -> None:
    text = chest(2, language, in_mm=False, flags=(Flag.SPACING_UNKNOWN,))
    assert not re.search(r"\d\s*(мм|mm|px|пикс)", whole(text))
    assert phrases_of(Kind.CHEST_FILM, language).size_unknown in text.description


@pytest.mark.parametrize("language", LANGUAGES)
def test_sizes_in_pixels_are_not_told(language: str) -> None:
    card = card_of()
    findings = findings_of(card, lesions=1)
    pixels = Code(value="{pixels}", scheme="UCUM", meaning="pixels")
    (lesion,) = findings.lesions
    sizes = tuple(dataclasses.replace(one, unit=pixels) for one in lesion.measurements)
    findings = dataclasses.replace(findings, lesions=(dataclasses.replace(lesion, measurements=sizes),))
    text = report_text(findings, card, language=language)
    assert "34" not in text.description
    assert phrases_of(Kind.CHEST_FILM, language).size_not_given in text.description


def test_a_score_that_the_card_does_not_calibrate_is_no_probability() -> None:
    card = card_of(calibrated=False)
    text = report_text(findings_of(card, lesions=1), card, language="ru")
    assert "оценка модели 87\xa0% (не калибрована, вероятностью не является)" in text.conclusion
    assert "вероятность находки" not in whole(text)


def test_only_a_cancer_label_has_a_probability_of_cancer() -> None:
    card = card_of(LESION | {"cancer": True}, modality="MG")
    assert (
        "вероятность рака высокая (87\xa0%)"
        in report_text(findings_of(card, lesions=1), card, language="ru").conclusion
    )
    card = card_of(modality="MG")
    assert "рак" not in whole(report_text(findings_of(card, lesions=1), card, language="ru"))


@pytest.mark.parametrize(
    ("score", "word"),
    [(0.31, "умеренная"), (0.6, "высокая"), (0.89, "высокая"), (0.9, "очень высокая"), (1.0, "очень высокая")],
)
def test_probabilities_have_the_word_of_their_range(score: float, word: str) -> None:
    card = card_of()
    text = report_text(findings_of(card, lesions=1, score=score), card, language="ru")
    assert f"вероятность находки {word} (" in text.conclusion


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_suspicion_without_a_place_says_so(language: str) -> None:
    card = card_of()
    findings = findings_of(card, images=2, said=[of_study(card, "opacity", present=True)])
    text = report_text(findings, card, language=language)
    assert {"ru": "место не определено", "en": "place not determined"}[language] in text.conclusion
    assert {"ru": "не выявлено", "en": "not found"}[language] not in whole(text).lower()


def test_single_suspicious_images_are_named() -> None:
    card = card_of()
    said = [of_study(card, "opacity", present=True), of_study(card, "opacity", present=True, image="1.2.3.1")]
    findings = findings_of(card, images=2, said=said)
    text = report_text(findings, card, language="ru", shown=shown_on(findings, "DX", views=("PA", "LL")))
    assert "проекция левая боковая, снимок 2 из 2: подозрение без определённого места" in text.description


def test_lesions_in_a_study_below_its_own_threshold_are_told_with_that_doubt() -> None:
    card = card_of()
    findings = findings_of(card, lesions=1, said=[of_study(card, "opacity", present=False)])
    text = report_text(findings, card, language="ru")
    assert "ниже порога (20\xa0%), хотя отдельные места порога достигли" in text.description


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_the_network_does_not_judge_is_neither_found_nor_absent(language: str) -> None:
    card = card_of()
    said = dataclasses.replace(of_study(card, "opacity", present=False), presence=Presence.UNDETERMINED)
    text = report_text(findings_of(card, said=[said]), card, language=language)
    assert {"ru": "не выявлено", "en": "found"}[language] not in whole(text).lower()
    assert {"ru": "Суждения нет: затемнение", "en": "No judgement: lung opacity"}[language] in text.conclusion


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("flag", Flag)
def test_every_caution_is_told(flag: Flag, language: str) -> None:
    with_flag, without = chest(0, language, flags=(flag,)), chest(0, language)
    (more,) = set(with_flag.warnings) - set(without.warnings)
    assert more.startswith({"ru": "Внимание: ", "en": "Caution: "}[language])
    partial = phrases_of(Kind.CHEST_FILM, language).partial
    assert (partial in with_flag.conclusion) is (flag is Flag.STUDY_INCOMPLETE)


def test_images_left_out_are_counted_with_their_reasons() -> None:
    card = card_of()
    findings = findings_of(card, images=2)
    text = report_text(findings, card, language="ru", left_out={Reason.VIEW: 1, Reason.UNDECODABLE: 2})
    (line,) = [one for one in text.warnings if "Без анализа" in one]
    assert line.replace("\xa0", " ").startswith("Без анализа осталось 3 изображения из 5 (данные изображения не")
    assert "проекция вне области применения" in line
    assert "только к изученным изображениям" in text.conclusion
    counted = report_text(findings, card, language="ru", images_given=3)
    assert any("осталось 1 изображение из 3:" in one.replace("\xa0", " ") for one in counted.warnings)
    assert report_text(findings, card, language="ru", images_given=2) == report_text(findings, card, language="ru")


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("reason", Reason)
@pytest.mark.parametrize("known", [True, False])
def test_every_refusal_is_told_and_claims_nothing(reason: Reason, language: str, known: bool) -> None:
    card = card_of() if known else None
    refusal = Refusal(reason=reason, detail="7 of 9")
    text = report_text(None, card, language=language, refusal=refusal)
    assert TEXTS[reason].in_language(language)[1:] in text.conclusion
    assert "7 of 9" in text.description
    means = phrases_of(Kind.GENERAL, language).refused_means
    assert text.conclusion.endswith(means)
    assert text.recommendation
    assert {"ru": "не выявлено", "en": "found"}[language] not in whole(text).lower()


@pytest.mark.parametrize("language", LANGUAGES)
def test_each_use_of_a_model_is_stated_first(language: str) -> None:
    first = set()
    for use in ("demonstration", "research", "registered"):
        card = card_of(use=use)
        first.add(report_text(findings_of(card, lesions=1), card, language=language).warnings[0])
    assert len(first) == 3


@pytest.mark.parametrize("lesions", [0, 1])
def test_a_demonstration_recommends_nothing(lesions: int) -> None:
    card = card_of(use="demonstration")
    assert report_text(findings_of(card, lesions=lesions), card, language="ru").recommendation == ""


def test_a_label_without_a_noun_is_called_by_its_title() -> None:
    card = card_of(modality="US")
    text = report_text(findings_of(card, lesions=2), card, language="ru").conclusion.replace("\xa0", " ")
    assert "отмечено 2 подозрительных участка (странность)" in text
    assert "Программой не выявлено: странность" in report_text(findings_of(card), card, language="ru").conclusion


def test_labels_that_share_a_noun_are_told_apart_by_their_titles() -> None:
    titles = ({"en": "Solid nodule", "ru": "Солидный очаг"}, {"en": "Ground glass nodule", "ru": "Матовое стекло"})
    card = card_of(*(NODULE | {"key": f"n{number}", "title": title} for number, title in enumerate(titles)))
    text = report_text(findings_of(card, lesions=1), card, language="ru").conclusion
    assert "(солидный очаг)" in text
    assert "Программой не выявлено: матовое стекло" in text


def test_a_card_brings_words_of_its_own() -> None:
    own = {
        "noun": {
            "ru": {"gender": "f", "one": "тень", "few": "тени", "many": "теней"},
            "en": {"one": "shadow", "many": "shadows"},
        },
        "description": {"en": "Description of the card.", "ru": "Описание карты."},
        "conclusion": {"en": "Conclusion of the card.", "ru": "Заключение карты."},
        "recommendation": {"en": "CT of the chest.", "ru": "КТ органов грудной клетки."},
    }
    card = card_of(OPACITY | {"wording": own})
    text = report_text(findings_of(card, lesions=1), card, language="ru")
    assert "Программой отмечена 1\xa0предполагаемая тень в лёгких" in text.conclusion
    assert "Описание карты." in text.description
    assert "Заключение карты." in text.conclusion
    assert text.recommendation == "КТ органов грудной клетки."
    silent = whole(report_text(findings_of(card), card, language="ru"))
    assert "карты" not in silent
    assert "не выявлено теней" in silent


def test_a_category_is_named_only_by_a_model_that_gives_it() -> None:
    labels = [
        LESION | {"key": f"birads_{value.lower()}", "title": {"en": f"BI-RADS {value}", "ru": f"BI-RADS {value}"},
                  "category": {"system": "BI-RADS", "value": value}}
        for value in ("3", "4A")
    ]  # fmt: skip
    card = card_of(LESION, *labels, modality="MG", supported_categories=["BI-RADS"])
    said = [
        of_study(card, "lesion", present=True),
        of_study(card, "birads_3", present=True, score=0.41),
        of_study(card, "birads_4a", present=True, score=0.55),
    ]
    text = report_text(findings_of(card, said=said), card, language="ru")
    assert "Категория BI-RADS 4A — по оценке модели; вероятность находки умеренная (55\xa0%)." in text.conclusion
    assert "Категория BI-RADS 3" not in whole(text)
    silent = report_text(findings_of(card), card, language="ru")
    assert "Категория BI-RADS моделью не присвоена." in silent.conclusion
    assert not re.search("BI-RADS (3|4A)", whole(silent))
    assert silent.recommendation == phrases_of(Kind.MAMMOGRAPHY, "ru").recommend_nothing


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_withdrawal_takes_back_and_says_nothing_else(language: str) -> None:
    text = withdrawal_text(card_of(), language=language)
    assert text.conclusion.startswith(text.description)
    assert {"ru": "не выявлено", "en": "found"}[language] not in whole(text).lower()
    assert len(text.warnings) == 2


def test_a_lesion_on_an_image_that_was_not_analysed_is_an_error() -> None:
    card = card_of()
    findings = findings_of(card, lesions=1, images=2)
    with pytest.raises(ValueError, match="not analysed"):
        report_text(dataclasses.replace(findings, images=findings.images[1:]), card, language="ru")


def test_a_card_cannot_have_categories_that_it_does_not_support() -> None:
    label = LESION | {"category": {"system": "BI-RADS", "value": "3"}}
    with pytest.raises(ValueError, match="supported_categories"):
        card_of(label, modality="MG")


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("modality", KINDS)
def test_no_category_is_named_without_support(modality: str, language: str) -> None:
    card = card_of(modality=modality)
    text = whole(report_text(findings_of(card, lesions=12), card, language=language)).lower()
    assert not re.search(r"rads|fleischner|флейшнер", text)


def test_supported_categories_and_wording_leave_digests_of_other_cards_alone() -> None:
    plain = card_of(modality="MG")
    assert card_of(modality="MG", supported_categories=[]).model_digest == plain.model_digest
    assert card_of(modality="MG", supported_categories=["BI-RADS"]).model_digest != plain.model_digest


def test_unknown_views_keep_their_code() -> None:
    card = card_of()
    findings = findings_of(card, images=2)
    shown = {SopUid("1.2.3.0"): ShownImage(modality="DX", view="LAO")}
    assert "(проекция: LAO)" in report_text(findings, card, language="ru", shown=shown).description


def test_the_same_findings_give_the_same_text() -> None:
    assert chest(3) == chest(3)


def test_a_report_needs_one_thing_to_say_and_the_card_that_said_it() -> None:
    card = card_of()
    findings = findings_of(card)
    for given, refusal in ((None, None), (findings, Refusal(reason=Reason.AGE))):
        with pytest.raises(ValueError, match="either findings or a refusal"):
            report_text(given, card, language="ru", refusal=refusal)
    with pytest.raises(ValueError, match="the card of the model that spoke"):
        report_text(findings, card_of(modality="CT"), language="ru")
    with pytest.raises(ValueError, match="not spoken here"):
        report_text(findings, card, language="de")


def test_a_strange_site_is_left_out_of_the_russian_text() -> None:
    card = card_of(STRANGE | {"key": "one"}, OPACITY)
    assert not re.search(r"[A-Za-z]", report_text(findings_of(card, lesions=2), card, language="ru").conclusion)

"""The words of results in both languages, and Russian names of the codes that a radiologist reads in a viewer.

Used by reports and overlay pictures. Words about a model (its title, its labels, its limits) come from its card, those
about a refusal from `inference.refusals`.
"""

from __future__ import annotations

from typing import Final

from inference.findings import Flag
from models.card import ModelCard, Use
from models.codes import Code, Text

RESEARCH: Final = Text(en="FOR RESEARCH ONLY", ru="В ИССЛЕДОВАТЕЛЬСКИХ ЦЕЛЯХ")
RESEARCH_WORD: Final = Text(en="AI, research", ru="ИИ, исследование")
AI: Final = Text(en="AI", ru="ИИ")
RESEARCH_SENTENCE: Final = Text(
    en="For research only. Not a medical device; not for diagnosis. To be judged by a radiologist.",
    ru="В исследовательских целях. Не медицинское изделие, не для постановки диагноза. Заключение даёт врач.",
)
DEMONSTRATION: Final = Text(en="DEMONSTRATION, ACCURACY UNKNOWN", ru="ДЕМОНСТРАЦИЯ, ТОЧНОСТЬ НЕИЗВЕСТНА")
DEMONSTRATION_WORD: Final = Text(en="AI, demonstration", ru="ИИ, демонстрация")
DEMONSTRATION_SENTENCE: Final = Text(
    en="Demonstration of the software: how often this model is right is not known. Not a medical device; not for "
    "diagnosis; not to be relied on in any way.",
    ru="Демонстрация работы программы: точность этой модели неизвестна. Не медицинское изделие, не для постановки "
    "диагноза, полагаться на результат нельзя.",
)
# short: a series' description has 64 characters, and validators count the bytes of Cyrillic
DEMONSTRATION_SERIES: Final = Text(en="DEMO", ru="ДЕМО")
REGISTERED: Final = Text(en="ANALYSED BY SOFTWARE", ru="ОБРАБОТАНО ПРОГРАММОЙ")
REGISTERED_SENTENCE: Final = Text(
    en="Result of software, registration {number}. To be judged by a radiologist.",
    ru="Результат программы, регистрационное удостоверение {number}. Заключение даёт врач.",
)
ANALYSIS: Final = Text(en="AI analysis", ru="Анализ ИИ")
FOUND: Final = Text(en="Marked: {count}", ru="Отмечено: {count}")
PRESENT_WITHOUT_PLACE: Final = Text(
    en="{finding}: suspected on this image, {percent}; place not determined",
    ru="{finding}: подозрение на этом снимке, {percent}; место не определено",
)
PRESENT_IN_STUDY: Final = Text(
    en="{finding}: suspected in this study, {percent}; place not determined",
    ru="{finding}: подозрение в исследовании, {percent}; место не определено",
)
NOTHING_FOUND: Final = Text(en="Nothing found", ru="Не обнаружено")
SOUGHT: Final = Text(en="Sought", ru="Искали")
NOTHING_EXCLUDED: Final = Text(
    en="This does not exclude disease: other pathology was not looked for, and what was sought may be missed.",
    ru="Это не исключает заболевания: другую патологию не искали, а искомая может быть пропущена.",
)
NOT_ANALYSED: Final = Text(en="Not analysed", ru="Не проанализировано")
NOT_ANALYSED_MEANS: Final = Text(
    en="The study was not assessed. This page says nothing about the presence or absence of disease.",
    ru="Исследование не оценивалось. Эта страница ничего не говорит о наличии или отсутствии заболевания.",
)
REASON: Final = Text(en="Reason", ru="Причина")
DETAIL: Final = Text(en="Detail", ru="Подробности")
MODEL: Final = Text(en="Model", ru="Модель")
NO_MODEL: Final = Text(en="none", ru="нет")
THRESHOLD: Final = Text(en="Threshold", ru="Порог")
IMAGES: Final = Text(en="Images analysed", ru="Снимков изучено")
HIGHEST: Final = Text(en="highest score {percent}", ru="наибольшая оценка {percent}")
CAUTION: Final = Text(en="Caution", ru="Внимание")
LIMITS: Final = Text(en="Limits", ru="Ограничения")
SLICE: Final = Text(en="key slice", ru="ключевой срез")
SCALED: Final = Text(en="picture scaled to {percent} of its size", ru="изображение уменьшено до {percent} размера")
PIXELS: Final = Text(en="px", ru="пикс.")
MILLIMETRES: Final = Text(en="mm", ru="мм")
CUBIC_MILLIMETRES: Final = Text(en="mm³", ru="мм³")

SERIES_REPORT: Final = Text(en="AI: marks (report)", ru="ИИ: отметки (отчёт)")
SERIES_NEGATIVE: Final = Text(en="AI: no marks (report)", ru="ИИ: без отметок (отчёт)")
SERIES_OVERLAY: Final = Text(en="AI: marks on images", ru="ИИ: отметки на снимках")
SERIES_NOTHING: Final = Text(en="AI: nothing found", ru="ИИ: не обнаружено")
SERIES_REFUSED: Final = Text(en="AI: not analysed", ru="ИИ: не проанализировано")
SERIES_SEGMENTATION: Final = Text(en="AI: segmentation", ru="ИИ: сегментация")
SERIES_PRESENTATION: Final = Text(en="AI: marks (presentation)", ru="ИИ: отметки (представление)")
SERIES_CAD: Final = Text(en="AI: mammography CAD", ru="ИИ: маммография CAD")
SERIES_RETRACTION: Final = Text(en="AI: results withdrawn", ru="ИИ: результаты отозваны")

FLAGS: Final[dict[Flag, Text]] = {
    Flag.AGE_UNKNOWN: Text(en="patient age unknown", ru="возраст пациента неизвестен"),
    Flag.VIEW_UNKNOWN: Text(en="view unknown", ru="проекция неизвестна"),
    Flag.BODY_PART_UNKNOWN: Text(en="body part unknown", ru="анатомическая область неизвестна"),
    Flag.SPACING_UNKNOWN: Text(en="scale unknown, sizes not measured", ru="масштаб неизвестен, размеры не измерены"),
    Flag.LOSSY_COMPRESSION: Text(en="compressed with loss", ru="сжатие с потерями"),
    Flag.OUT_OF_RANGE: Text(
        en="unlike the pictures the model was trained on", ru="не похоже на изображения, на которых обучена модель"
    ),
    Flag.STUDY_INCOMPLETE: Text(en="study incomplete", ru="исследование неполное"),
}

# Russian names of codes that do not come with a name of their own in the card.
_RUSSIAN: Final[dict[tuple[str, str], str]] = {
    ("39607008", "SCT"): "лёгкое",
    ("3341006", "SCT"): "правое лёгкое",
    ("44029006", "SCT"): "левое лёгкое",
    ("51185008", "SCT"): "грудная клетка",
    ("43799004", "SCT"): "грудная полость",
    ("76752008", "SCT"): "молочная железа",
    ("24028007", "SCT"): "справа",
    ("7771000", "SCT"): "слева",
    ("51440002", "SCT"): "с двух сторон",
    ("111047", "DCM"): "Вероятность рака",
    ("111012", "DCM"): "Уверенность в находке",
    ("103339001", "SCT"): "Длинная ось",
    ("103340004", "SCT"): "Короткая ось",
    ("42798000", "SCT"): "Площадь",
    ("118565006", "SCT"): "Объём",
    ("410668003", "SCT"): "Длина",
    ("81827009", "SCT"): "Диаметр",
    ("103355008", "SCT"): "Ширина",
    ("121207", "DCM"): "Высота",
    ("52101004", "SCT"): "Присутствует",
    ("2667000", "SCT"): "Отсутствует",
    ("373068000", "SCT"): "Не определено",
}


def code_name(code: Code, language: str) -> str:
    """What `code` is called in `language`: its own English meaning where no Russian name is known."""
    if language == "ru":
        return _RUSSIAN.get((code.value, code.scheme), code.meaning)
    return code.meaning


def is_demonstration(card: ModelCard | None) -> bool:
    """Whether the model only shows that the machinery works."""
    return card is not None and card.identity.use is Use.DEMONSTRATION


def warning(card: ModelCard | None, language: str) -> str:
    """The short warning on top of every picture; in both languages, whoever reads the picture, unless registered."""
    if card is not None and card.identity.use is Use.REGISTERED:
        return REGISTERED.in_language(language)
    words = DEMONSTRATION if is_demonstration(card) else RESEARCH
    other = "en" if language == "ru" else "ru"
    return f"{words.in_language(language)} / {words.in_language(other)}"


def warning_word(card: ModelCard | None, language: str) -> str:
    """The warning as one word, where there is room for no more."""
    if card is not None and card.identity.use is Use.REGISTERED:
        return AI.in_language(language)
    return (DEMONSTRATION_WORD if is_demonstration(card) else RESEARCH_WORD).in_language(language)


def warning_sentence(card: ModelCard | None, language: str) -> str:
    """The whole warning. Research is the only default: without a card nothing is registered."""
    if card is not None and card.identity.use is Use.REGISTERED:
        return REGISTERED_SENTENCE.in_language(language).format(number=card.identity.registration_number)
    return (DEMONSTRATION_SENTENCE if is_demonstration(card) else RESEARCH_SENTENCE).in_language(language)


def series_title(title: Text, card: ModelCard | None, language: str) -> str:
    """A series' description; that of a demonstration says so before anything else."""
    words = title.in_language(language)
    return f"{DEMONSTRATION_SERIES.in_language(language)}. {words}" if is_demonstration(card) else words


def percent(score: float) -> str:
    """A score of 0 to 1 as people read it. Never "100 %" or "0 %" for a score that is not exactly that."""
    value = round(score * 100)
    if value == 100 and score < 1:  # noqa: PLR2004
        return ">99\N{NO-BREAK SPACE}%"
    if value == 0 and score > 0:
        return "<1\N{NO-BREAK SPACE}%"
    return f"{value}\N{NO-BREAK SPACE}%"

"""The words of monitoring in Russian and English, for the page, the export and warnings.

Tables on the terminal are English, as all of the command line is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from models.codes import Text

_WARNINGS: Final[Mapping[str, Text]] = {
    "defects": Text(
        en="{value} of studies have a technological defect, more than {limit}",
        ru="технологические дефекты в {value} исследований, больше {limit}",
    ),
    "psi": Text(
        en="{label}: scores have moved from the evaluation report, PSI {value}, limit {limit}",
        ru="{label}: оценки сместились относительно отчёта об испытаниях, PSI {value}, порог {limit}",
    ),
    "ks": Text(
        en="{label}: scores are distributed otherwise than in the evaluation report, Kolmogorov-Smirnov p {value}",
        ru="{label}: распределение оценок отличается от отчёта об испытаниях, Колмогоров — Смирнов p {value}",
    ),
    "flag_rate": Text(
        en="{label}: the share of positive studies differs from the report by {value} points, limit {limit}",
        ru="{label}: доля положительных исследований отличается от отчёта на {value} п. п., порог {limit}",
    ),
    "cusum": Text(
        en="sensitivity against the radiologists' readings has fallen: CUSUM {value}, limit {limit}",
        ru="чувствительность относительно заключений врачей снизилась: CUSUM {value}, порог {limit}",
    ),
}
_FIGURES: Final[Mapping[str, tuple[str, str]]] = {
    "defects": ("{:.1%}", "{:.0%}"),
    "psi": ("{:.3f}", "{:.2f}"),
    "ks": ("{:.2g}", "{:.2g}"),
    "flag_rate": ("{:+.1f}", "{:.0f}"),
    "cusum": ("{:.2f}", "{:.2f}"),
}


def warning(key: str, label: str, value: float, limit: float) -> Text:
    """The sentence of a warning, with its figures as they are written in each language."""
    scale = 100 if key == "flag_rate" else 1  # a difference of shares is told in points
    english = [form.format(scale * figure) for form, figure in zip(_FIGURES[key], (value, limit), strict=True)]
    russian = [figure.replace(".", ",").replace("%", "\N{NO-BREAK SPACE}%") for figure in english]
    text = _WARNINGS[key]
    return Text(
        en=text.en.format(label=label, value=english[0], limit=english[1]),
        ru=text.ru.format(label=label, value=russian[0], limit=russian[1]),
    )


def undefined(reason: str, language: str) -> str:
    """A reason of the document in a language; what has no Russian yet, such as a file's name, is shown as it is."""
    if language != "ru" or not reason.startswith("undefined: "):
        return reason
    told = reason.removeprefix("undefined: ")
    return f"не определено: {_REASONS.get(told, told)}"


_REASONS: Final[Mapping[str, str]] = {
    "no study was received": "исследований не поступало",
    "no study was analysed": "ни одно исследование не проанализировано",
    "nothing was confirmed by a destination": "ни один получатель не подтвердил результат",
    "a shadow sends nothing": "теневая версия ничего не отправляет",
    "the version is not installed any more": "версия больше не установлена",
    "no evaluation report lies beside the card": "рядом с карточкой нет отчёта об испытаниях",
    "the evaluation report beside the card is of another state of the model":
        "отчёт рядом с карточкой — о другом состоянии модели",
    "no positive reading has come back": "положительных заключений врачей ещё нет",
    "no negative reading has come back": "отрицательных заключений врачей ещё нет",
    "no reading that decides has come back": "однозначных заключений врачей ещё нет",
    "no positive reading of an analysed study has come back":
        "по проанализированным исследованиям положительных заключений ещё нет",
    "the report's sensitivity is 0, 1, not known, or not above cusum_drop":
        "чувствительность в отчёте равна 0 или 1, неизвестна или не выше cusum_drop",
}  # fmt: skip

PAGE: Final[Mapping[str, Text]] = {
    "title": Text(en="Monitoring in service", ru="Мониторинг в эксплуатации"),
    "from": Text(en="from", ru="с"),
    "to": Text(en="to", ru="по"),
    "by": Text(en="by", ru="по периодам"),
    "day": Text(en="day", ru="день"),
    "week": Text(en="week", ru="неделя"),
    "month": Text(en="month", ru="месяц"),
    "show": Text(en="Show", ru="Показать"),
    "model": Text(en="model, or NAME@VERSION", ru="модель или ИМЯ@ВЕРСИЯ"),
    "all_models": Text(en="all models", ru="все модели"),
    "zone": Text(en="time zone", ru="часовой пояс"),
    "node": Text(en="All studies that came to the node", ru="Все исследования, поступившие на узел"),
    "studies": Text(en="studies", ru="исследований"),
    "no_route": Text(en="no route", ru="без маршрута"),
    "quarantined": Text(en="quarantined", ru="в карантине"),
    "not_analysed": Text(en="not analysed", ru="не проанализировано"),
    "nothing": Text(
        en="No study was queued for a model in this period.",
        ru="В этом периоде ни одно исследование не направлялось модели.",
    ),
    "champion": Text(en="serves", ru="рабочая версия"),
    "shadow": Text(en="shadow", ru="теневая версия"),
    "received": Text(en="received", ru="получено"),
    "analysed": Text(en="analysed", ru="проанализировано"),
    "refused": Text(en="declined", ru="отклонено"),
    "failed": Text(en="failed", ru="сбой"),
    "open": Text(en="open or dropped", ru="в работе или снято"),
    "withdrawn": Text(en="withdrawn", ru="отозвано"),
    "positive": Text(en="something reported", ru="с находками"),
    "with_defects": Text(en="with a defect", ru="с дефектом"),
    "confirmed_in": Text(en="last image → confirmed, p95", ru="последний снимок → подтверждение, p95"),
    "no_warning": Text(en="No figure is beyond its limit.", ru="Ни один показатель не вышел за порог."),
    "notice": Text(en="Notice", ru="Внимание"),
    "alarm": Text(en="Alarm", ru="Тревога"),
    "times": Text(en="Time", ru="Время"),
    "last_image_to_confirmed": Text(
        en="last image received → first destination confirmed",
        ru="последний снимок получен → первый получатель подтвердил",
    ),
    "analysis_time": Text(
        en="first image read → findings, waiting for a batch included",
        ru="первый снимок прочитан → находки, с ожиданием пакета",
    ),
    "model_time": Text(en="in the network", ru="в нейросети"),
    "max": Text(en="max", ru="макс."),
    "s": Text(en="s", ru="с"),
    "points": Text(en="points", ru="п. п."),
    "reasons": Text(en="Why studies were not analysed", ru="Почему исследования не проанализированы"),
    "not_written": Text(en="the result could not be written", ru="результат не удалось записать"),
    "no_reason": Text(en="no reason was kept", ru="причина не записана"),
    "declined_kind": Text(en="the study", ru="исследование"),
    "failed_kind": Text(en="the service", ru="сервис"),
    "reason": Text(en="reason", ru="причина"),
    "lies_with": Text(en="lies with", ru="на чьей стороне"),
    "none": Text(en="none", ru="нет"),
    "defects": Text(en="Technological defects", ru="Технологические дефекты"),
    "class": Text(en="class", ru="класс"),
    "seen_by": Text(en="how it is seen", ru="как определяется"),
    "any_defect": Text(en="any counted defect", ru="любой из учитываемых"),
    "excluded": Text(en="excluded", ru="исключён"),
    "not_seen": Text(en="not seen", ru="не виден"),
    "scores": Text(en="Scores and flag rate", ru="Оценки и доля положительных"),
    "flag_rate": Text(en="label present", ru="признак найден"),
    "against_report": Text(en="against the evaluation report", ru="относительно отчёта об испытаниях"),
    "drift": Text(en="drift of scores", ru="смещение оценок"),
    "psi_unmoved": Text(en="by chance below", ru="случайно до"),
    "reference": Text(en="evaluation report", ru="отчёт об испытаниях"),
    "service": Text(en="in service", ru="в эксплуатации"),
    "no_reference": Text(en="Nothing to compare with", ru="Сравнить не с чем"),
    "cases": Text(en="cases, unit", ru="случаев, единица"),
    "agreement": Text(en="Agreement with radiologists", ru="Согласие с врачами"),
    "readings": Text(en="readings", ru="заключений"),
    "agree": Text(en="agree", ru="совпало"),
    "disagree": Text(en="disagree", ru="не совпало"),
    "unclear": Text(en="unclear", ru="неясно"),
    "no_reading": Text(en="No reading has come back.", ru="Заключений врачей ещё не поступало."),
    "sensitivity": Text(en="sensitivity", ru="чувствительность"),
    "sensitivity_failures": Text(
        en="sensitivity, not analysed = missed", ru="чувствительность, непроанализированные = пропуск"
    ),
    "specificity": Text(en="specificity", ru="специфичность"),
    "decided_by": Text(en="decided by", ru="чем решено"),
    "signals": Text(en="signals", ru="сигналов"),
    "limit": Text(en="limit", ru="порог"),
    "late": Text(en="late after", ru="поздно после"),
    "chart_studies": Text(en="Studies", ru="Исследования"),
    "chart_flag_rate": Text(en="Share of studies with the label, 95 % interval", ru="Доля с признаком, 95 % интервал"),
    "chart_times": Text(en="Last image received → confirmed, seconds", ru="Последний снимок → подтверждение, секунды"),
    "chart_bins": Text(en="Scores, by tenths of the report's", ru="Оценки, по децилям отчёта"),
    "chart_cusum": Text(en="CUSUM of sensitivity, by positive reading", ru="CUSUM чувствительности, по заключениям"),
    "footer": Text(
        en="Shares: exact 95 % interval (Clopper and Pearson). A study belongs to the day on which it was queued for "
        "the model. No patient and no study is named here.",
        ru="Доли: точный 95 % интервал (Клоппер — Пирсон). Исследование относится ко дню, когда оно поставлено в "
        "очередь модели. Пациенты и исследования здесь не названы.",
    ),
}

"""Tables of monitoring: one row a version and period, and the export with the fields of Roszdravnadzor's order 4472.

Written by `radnode monitor --csv` and `--order-4472`, read by people and by other programs. Cells are numbers with a
point and plain words; an undefined share is an empty cell.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from dicom_node.monitoring.document import ModelService, MonitoringReport, PeriodService, Rate, Times
from dicom_node.states import JobRole
from inference.refusals import TEXTS, Reason
from models.card import ModelCard, Use

_UNKNOWN: Final = "не указано"
_NOT_REGISTERED: Final = "не зарегистрировано: модель для исследований"
ORDER_HEADINGS: Final = (
    "Наименование медицинского изделия",
    "Номер регистрационного удостоверения",
    "Дата регистрационного удостоверения",
    "Версия программного обеспечения",
    "Область применения",
    "Начало периода",
    "Конец периода",
    "Обработано исследований",
    "Результаты",
    "Ошибки",
)


def service_csv(report: MonitoringReport) -> str:
    """One row a version, role and period; the whole stretch where it is not divided."""
    rows = [_service_row(period, model) for period in (report.periods or (report.whole,)) for model in period.models]
    columns = list(dict.fromkeys(name for row in rows for name in row)) or ["period", "model"]
    return _text(columns, ([row.get(name, "") for name in columns] for row in rows))


def _service_row(period: PeriodService, model: ModelService) -> dict[str, object]:
    row: dict[str, object] = {
        "period": period.name,
        "begin": period.begin.isoformat(),
        "end": period.end.isoformat(),
        "model": model.model,
        "role": model.role,
        "received": model.received,
        "analysed": model.analysed,
        "refused": sum(model.refused.values()),
        "failed": sum(model.failed.values()),
        "open": model.open,
        "dropped": model.dropped,
        "withdrawn": model.withdrawn,
        **{f"refused_{reason}": count for reason, count in model.refused.items()},
        **{f"failed_{reason}": count for reason, count in model.failed.items()},
        **_rate("positive", model.positive),
        **_times("last_image_to_confirmed_s", model.last_image_to_confirmed_s),
        **_times("model_s", model.model_s),
        **_times("analysis_s", model.analysis_s),
        **_rate("defects", model.defects.any),
        **{f"defect_{one.code}": one.studies for one in model.defects.classes if one.studies is not None},
    }
    for label in model.labels:
        row |= _rate(f"{label.label}_flag_rate", label.flag_rate)
        row |= {f"{label.label}_psi": _number(label.drift.psi), f"{label.label}_ks": _number(label.drift.ks)}
    agreement = model.agreement
    row |= {"readings": agreement.readings, "agree": agreement.agree, "disagree": agreement.disagree}
    row |= {"unclear": agreement.unclear, **_rate("sensitivity", agreement.sensitivity)}
    return row | {**_rate("specificity", agreement.specificity), "warnings": len(model.warnings)}


def order_4472_csv(report: MonitoringReport, cards: Mapping[str, ModelCard]) -> str:
    """The fields of the order, one row a version that serves and period; shadows are no device in use."""
    periods = report.periods or (report.whole,)
    rows = [
        _order_row(period, model, cards.get(model.model))
        for period in periods
        for model in period.models
        if model.role == JobRole.CHAMPION
    ]
    return _text(ORDER_HEADINGS, rows)


def _order_row(period: PeriodService, model: ModelService, card: ModelCard | None) -> list[object]:
    name, _, number = model.model.partition("@")
    return [
        card.identity.title.ru if card else name,
        *_registration(card),
        number,
        card.intended_use.statement.ru if card else _UNKNOWN,
        period.begin.isoformat(),
        period.end.isoformat(),
        model.analysed,
        _results(model),
        _errors(model),
    ]


def _registration(card: ModelCard | None) -> tuple[str, str]:
    """Number and date; the card carries no date of the registration."""
    if card is None:
        return _UNKNOWN, _UNKNOWN
    if card.identity.use is not Use.REGISTERED:
        return _NOT_REGISTERED, _NOT_REGISTERED
    return card.identity.registration_number or _UNKNOWN, _UNKNOWN


def _results(model: ModelService) -> str:
    positive = model.positive.count or 0
    said = f"с находками {positive}, без находок {model.analysed - positive}"
    refused = sum(model.refused.values())
    return f"{said}; отклонено как неподходящие {refused}" if refused else said


def _errors(model: ModelService) -> str:
    failed = [f"{_reason(reason)} — {count}" for reason, count in model.failed.items()]
    defects = [f"{one.code} — {one.studies}" for one in model.defects.classes if one.studies]
    parts = ["сбои: " + ", ".join(failed)] if failed else []
    return "; ".join(parts + (["дефекты: " + ", ".join(defects)] if defects else [])) or "нет"


def _reason(reason: str) -> str:
    return TEXTS[Reason(reason)].ru if reason in set(Reason) else "результат не записан"


def _rate(name: str, rate: Rate) -> dict[str, object]:
    low, high = rate.ci
    return {name: _number(rate.value), f"{name}_low": _number(low), f"{name}_high": _number(high)}


def _times(name: str, times: Times) -> dict[str, object]:
    return {f"{name}_{key}": _number(getattr(times, key)) for key in ("p50", "p95", "max")}


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _text(columns: Sequence[str], rows: Iterator[Sequence[object]] | Sequence[Sequence[object]]) -> str:
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return lines.getvalue()

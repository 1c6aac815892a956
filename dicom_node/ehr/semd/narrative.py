"""What a person reads in a SEMD: the lines of its sections.

Used by `dicom_node.ehr.semd.body`. Findings in words come from `dicom_node.wording` by way of the request; here are
only the frame around them, the lesion's lines in its own section, and what a withdrawn document says.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from dicom_node.ehr.context import DocumentRequest, SourceStudy
from dicom_node.ehr.semd.profile import SemdProfile
from dicom_node.results.texts import code_name, percent, warning_sentence
from inference.findings import Finding, Lesion, Measurement
from models.card import Use

# True of the draft and of the document that a physician has signed: the bytes are the same.
DRAFT: Final = (
    "Текст подготовлен программным обеспечением с применением технологий искусственного интеллекта. Программа не автор "
    "и не подписант документа: без проверки и подписи врача, указанного в документе, он не является медицинским "
    "заключением."
)
WITHDRAWN_PROTOCOL: Final = (
    "Результат программного анализа отозван. Сведения предыдущих версий этого документа, подготовленные программой, "
    "недействительны. Отзыв ничего не говорит о наличии или отсутствии патологии."
)
WITHDRAWN_CONCLUSION: Final = "Результат программного анализа отозван; заключения программы нет."

_MILLIMETRES: Final = {"mm": "мм", "mm2": "мм²", "mm3": "мм³", "cm": "см"}


def warnings(request: DocumentRequest) -> tuple[str, ...]:
    """What stands under every text: the model's use first, then the cautions of the analysis, each once."""
    return tuple(dict.fromkeys((warning_sentence(request.card, "ru"), *request.text.warnings)))


def about_document(request: DocumentRequest, profile: SemdProfile, study_name: str) -> tuple[str, ...]:
    """Lines of the section on the document: study, equipment, program, standing of the draft."""
    source, identity = request.source, request.card.identity
    return (
        f"Исследование: {study_name}.",
        *_circumstances(source),
        *_diagnosis(request),
        f"Номер обращения в архиве (Accession Number): {request.order.accession_number}."
        if request.order.accession_number
        else "",
        f"Исследование в архиве (Study Instance UID): {source.study_uid}.",
        f"Анализ выполнила программа: {identity.title.ru}, версия {identity.version} ({identity.manufacturer})."
        + (f" Регистрационное удостоверение {identity.registration_number}." if identity.use is Use.REGISTERED else ""),
        _version(request),
        DRAFT,
        *warnings(request),
    )


def _circumstances(source: SourceStudy) -> tuple[str, ...]:
    device = " ".join(part for part in (source.manufacturer, source.device_model) if part.strip())
    return (
        f"Выполнено: {source.performed_at:%d.%m.%Y %H:%M %z}." if source.performed_at else "",
        f"Оборудование: {device}." if device else "",
        f"Лучевая нагрузка: {decimal(source.dose_msv)} мЗв." if source.dose_msv is not None else "",
    )


def _diagnosis(request: DocumentRequest) -> tuple[str, ...]:
    said = " ".join(part for part in (request.order.diagnosis_code, request.order.diagnosis_text) if part)
    return (f"Диагноз при направлении: {said}.",) if said.strip() else ()


def _version(request: DocumentRequest) -> str:
    revision = request.revision
    if revision.version == 1 and revision.replaces_id is None:
        return ""
    replaced = f", заменяет документ {revision.replaces_id}" if revision.replaces_id else ""
    return f"Версия документа {revision.version}{replaced}."


def about_lesion(
    number: int, lesion: Lesion, request: DocumentRequest, place: str, side: str | None
) -> tuple[str, ...]:
    """Lines of the section on one lesion."""
    sizes = "; ".join(_measured(one) for one in lesion.measurements if one.unit.value in _MILLIMETRES)
    return (
        f"Находка {number}: {request.card.label(lesion.label).title.ru}.",
        f"Локализация: {place}{f', {side.lower()}' if side else ''}.",
        f"Оценка программы {percent(lesion.score)} при пороге {percent(lesion.threshold)}.",
        f"Размеры: {sizes}." if sizes else "Размеры не измерены.",
        f"Снимок (SOP Instance UID): {lesion.region.key_plane.sop_instance_uid}.",
    )


def about_statement(finding: Finding, request: DocumentRequest) -> str:
    """A finding of the whole study that has no place."""
    title = request.card.label(finding.label).title.ru
    return f"{title}: подозрение в исследовании, оценка программы {percent(finding.score)}; место не определено."


def result_lines(request: DocumentRequest, statements: Sequence[Finding]) -> tuple[str, ...]:
    """Lines of the section with the result."""
    if request.revision.withdrawn:
        return (WITHDRAWN_PROTOCOL, WITHDRAWN_CONCLUSION, *warnings(request))
    recommendation = request.text.recommendation.strip()
    return (
        f"Описание: {request.text.description}",
        *(about_statement(one, request) for one in statements),
        f"Заключение: {request.text.conclusion}",
        f"Рекомендации: {recommendation}" if recommendation else "",
        *warnings(request),
    )


def decimal(value: float) -> str:
    """A number as people write it in Russian, to three significant digits."""
    return f"{value:.3g}".replace(".", ",") if abs(value) < 1000 else f"{value:.0f}"  # noqa: PLR2004


def _measured(one: Measurement) -> str:
    return f"{code_name(one.quantity, 'ru').lower()} {decimal(one.value)} {_MILLIMETRES[one.unit.value]}"

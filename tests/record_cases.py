"""Documents of the record for tests: requests with any number of lesions, and text that no format likes."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

from dicom_node.ehr.context import (
    Address,
    DocumentRequest,
    Employee,
    Encounter,
    Identifier,
    Order,
    Organisation,
    Patient,
    PersonName,
    Revision,
    Sex,
    SourceSeries,
    SourceStudy,
)
from dicom_node.wording import ReportText
from inference.findings import (
    AnalysedImage,
    Box,
    Finding,
    Findings,
    Lesion,
    Measurement,
    ModelIdentity,
    PlanarRegion,
    Presence,
    Region,
    SeriesUid,
    SopUid,
    StudyUid,
)
from models.card import ModelCard
from tests.results_cases import LONG_AXIS, MILLIMETRE, RIGHT, SHORT_AXIS, make_card

NOON = datetime(2026, 3, 2, 12, 0, 5, tzinfo=timezone(timedelta(hours=3)))
STUDY = StudyUid("2.25.1001")
SERIES = SeriesUid("2.25.1002")
IMAGE = SopUid("2.25.1003")
DX = "1.2.840.10008.5.1.4.1.1.1.1"
HOSTILE = "<b>&\"'|^~\\&\r\nMSH|^~\\&|\x0b\x1c\x00]]>{}$%;--\N{NO-BREAK SPACE}\N{CYRILLIC CAPITAL LETTER ZHE}"


def make_record(
    *,
    lesions: int = 2,
    document_id: str = "d" * 64,
    revision: Revision | None = None,
    cancer: bool = False,
    bare: bool = False,
    **changed: Any,
) -> DocumentRequest:
    """A request with `lesions` lesions; `bare` leaves out everything that may be unknown."""
    card = make_card(cancer=cancer)
    full = DocumentRequest(
        document_id=document_id,
        revision=revision or Revision(set_id="s" * 64, version=1),
        created_at=NOON,
        source=_source(bare=bare),
        patient=Patient(identifier=Identifier(value="77-1")) if bare else make_patient(),
        findings=_findings(card, lesions),
        card=card,
        text=_text(lesions),
        order=Order() if bare else Order(placer=Identifier(value="ord-5", system="1.2.3"), accession_number="A100200"),
        encounter=None if bare else Encounter(identifier=Identifier(value="E-9", system="1.2.4")),
        performer=None if bare else Organisation(oid="1.2.643.5.1.13.13.12.2.77.7777", name="Больница № 1"),
        author=None if bare else make_employee(),
        base_url="" if bare else "https://pacs.example/dicom-web",
    )
    return replace(full, **changed)


def make_patient() -> Patient:
    """A patient of whom everything is known that these documents carry."""
    return Patient(
        identifier=Identifier(value="77-1", system="1.2.643.5.1.13.13.12.2.77.7777.100.1.1.10"),
        name=PersonName(family="Иванова", given="Анна", patronymic="Сергеевна"),
        birth_date=date(1961, 4, 12),
        sex=Sex.FEMALE,
        snils="11223344595",
        address=Address(text="Москва, улица Полярная, 3", postal_code="127221"),
        telephone="+7 495 1234567",
    )


def make_employee() -> Employee:
    """A radiologist."""
    return Employee(
        identifier=Identifier(value="404", system="1.2.643.5.1.13.13.12.2.77.7777.100.1.1.70"),
        name=PersonName(family="Петров", given="Пётр", patronymic="Петрович"),
        position_code="94",
        position_name="Врач-рентгенолог",
    )


def hostile_record(text: str = HOSTILE) -> DocumentRequest:
    """A request that has `text` in every field that people fill."""
    plain = make_record(lesions=1)
    name = PersonName(family=text, given=text, patronymic=text)
    return replace(
        plain,
        source=replace(plain.source, description=text, body_part=text),
        patient=replace(
            plain.patient,
            identifier=Identifier(value=f"77{text}", system="1.2.643.7"),
            name=name,
            address=Address(text=text),
            telephone=text,
        ),
        text=ReportText(language="ru", description=text, conclusion=text, recommendation=text, warnings=(text,)),
        order=Order(placer=Identifier(value=f"p{text}"), accession_number=f"a{text}", diagnosis_text=text),
        performer=Organisation(oid="1.2.643.1", name=f"o{text}"),
    )


def _source(*, bare: bool) -> SourceStudy:
    series = SourceSeries(series_uid=SERIES, modality="DX", images={IMAGE: DX})
    return SourceStudy(
        study_uid=STUDY,
        modality="DX",
        performed_at=None if bare else NOON - timedelta(minutes=20),
        series=(series,),
        description="" if bare else "Рентгенография органов грудной клетки",
        body_part="" if bare else "CHEST",
    )


def _text(lesions: int) -> ReportText:
    found = f"Отмечено затемнений: {lesions}." if lesions else "Затемнений не отмечено."
    return ReportText(
        language="ru",
        description=f"В правом лёгком.\n{found}",
        conclusion=f"{found} Вероятность 87\N{NO-BREAK SPACE}%.",
        recommendation="Оценка врачом-рентгенологом." if lesions else "",
        warnings=("В исследовательских целях. Не медицинское изделие.",),
    )


def _findings(card: ModelCard, lesions: int) -> Findings:
    label = card.labels[0]
    point = label.operating_point.threshold
    statement = Finding(
        label=label.key,
        code=label.finding,
        site=label.site,
        presence=Presence.PRESENT if lesions else Presence.ABSENT,
        score=0.874 if lesions else 0.12,
        raw_score=0.5,
        threshold=point,
        sop_instance_uid=IMAGE,
    )
    return Findings(
        model=ModelIdentity(
            name=card.identity.name,
            version=card.identity.version,
            weights_digest=card.weights_digest,
            model_digest=card.model_digest,
            device_uid=card.device_uid,
        ),
        study_uid=STUDY,
        inputs_digest=hashlib.sha256(b"pixels").hexdigest(),
        images=(AnalysedImage(sop_instance_uid=IMAGE, sop_class_uid=DX, series_uid=SERIES, rows=2000, columns=1600),),
        findings=(statement,),
        lesions=tuple(_lesion(card, number) for number in range(lesions)),
    )


def _lesion(card: ModelCard, number: int) -> Lesion:
    label = card.labels[0]
    box = Box(x_min=100.0 + 40 * number, y_min=200.0, x_max=130.0 + 40 * number, y_max=260.0)
    return Lesion(
        label=label.key,
        code=label.finding,
        site=label.site,
        laterality=RIGHT if number % 2 == 0 else None,
        score=0.874 - 0.03 * number,
        raw_score=0.8,
        threshold=label.operating_point.threshold,
        region=Region(planes=(PlanarRegion(sop_instance_uid=IMAGE, box=box),)),
        measurements=(
            Measurement(quantity=LONG_AXIS, value=34.25 + number, unit=MILLIMETRE),
            Measurement(quantity=SHORT_AXIS, value=27.5, unit=MILLIMETRE),
        ),
        tracking_id=f"{label.key} {number + 1}",
        tracking_uid=f"2.25.{2000 + number}",
    )


def at(hour: int) -> datetime:
    """A moment of the day of the tests, in UTC."""
    return datetime(2026, 3, 2, hour, tzinfo=UTC)

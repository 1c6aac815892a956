"""Requests for documents of the record: all modalities, any number of lesions, with all the context or the least of it.

People, organisations and numbers are invented; SNILS are made with a right sum.
"""

from __future__ import annotations

import io
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta, timezone

from PIL import Image

from dicom_node.ehr.context import (
    Address,
    DocumentRequest,
    Employee,
    Encounter,
    Identifier,
    IdentityDocument,
    InsurancePolicy,
    KeyImage,
    Order,
    Organisation,
    Patient,
    PersonName,
    Revision,
    Sex,
    SourceSeries,
    SourceStudy,
)
from dicom_node.ehr.semd import SemdProfile, SemdSite, edition_4
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
from models.codes import Code
from tests.results_cases import LONG_AXIS, MILLIMETRE, make_card

STUDY = StudyUid("1.2.826.0.1.3680043.10.1.7")
SERIES = SeriesUid("1.2.826.0.1.3680043.10.1.7.1")
IMAGE = SopUid("1.2.826.0.1.3680043.10.1.7.1.1")
MOSCOW = timezone(timedelta(hours=3))
SIDES = (
    Code(value="24028007", scheme="SCT", meaning="Right"),
    Code(value="7771000", scheme="SCT", meaning="Left"),
    None,
)
# Author and signer, as an installation writes them into its context file.
STAFF = """[always.author]
identifier = { value = "104" }
name = { family = "Петрова", given = "Анна", patronymic = "Сергеевна" }
position_code = "94"
position_name = "Врач-рентгенолог"
snils = "112-233-445 95"

[always.legal_authenticator]
identifier = { value = "105" }
name = { family = "Сидоров", given = "Пётр" }
position_code = "94"
position_name = "Врач-рентгенолог"
snils = "087-654-303 00"

"""
SITE = SemdSite(
    place="1",
    service_form="1",
    service_condition="2",
    codes={"policies": {"3": "Полис ОМС единого образца, бессрочный"}, "regions": {"47": "Ленинградская область"}},
)
PROFILE = SemdProfile(edition=edition_4(), site=SITE)
STUDIES = {
    "fluorography": ("DX", "Флюорография органов грудной клетки", "CHEST", "7003320"),
    "chest film": ("DX", "Рентгенография органов грудной клетки", "CHEST", "7002892"),
    "mammography": ("MG", "Маммография", "BREAST", "7003379"),
    "spot view": ("MG", "Прицельная маммография", "BREAST", "7003387"),
    "tomosynthesis": ("MG", "Томосинтез молочной железы", "BREAST", "7003395"),
    "CT": ("CT", "КТ органов грудной клетки без контраста", "CHEST", "7001894"),
    "low-dose CT": ("CT", "Низкодозная КТ", "CHEST", "7001928"),
    "CT with contrast": ("CT", "КТ ОГК с контрастированием", "CHEST", "7001910"),
}


def radiologist(*, number: str = "104", snils: str = "11223344595") -> Employee:
    """A physician of the department."""
    return Employee(
        identifier=Identifier(value=number),
        name=PersonName(family="Петрова", given="Анна", patronymic="Сергеевна"),
        position_code="94",
        position_name="Врач-рентгенолог",
        snils=snils,
        telephone="+7 (495) 111-22-33",
    )


def clinic(oid: str = "1.2.643.5.1.13.13.12.2.77.7799") -> Organisation:
    """The organisation whose document it is."""
    return Organisation(
        oid=oid,
        name='ГБУЗ "Поликлиника № 1"',
        address=Address(text="г. Москва, ул. Примерная, д. 1", region_code="77", postal_code="101000"),
        telephone="+74951112233",
    )


def whole_patient() -> Patient:
    """A patient of whom everything is known."""
    return Patient(
        identifier=Identifier(value="PAT-17"),
        name=PersonName(family="Иванова", given="Мария", patronymic="Петровна"),
        birth_date=date(1961, 4, 9),
        sex=Sex.FEMALE,
        snils="08765430300",
        document=IdentityDocument(
            kind="1",
            series="4501",
            number="123456",
            issued_by="ОВД Примерного района",
            issued_by_code="770-001",
            issued_on=date(2006, 5, 1),
        ),
        policy=InsurancePolicy(kind="3", number="7700000000000001"),
        address=Address(text="г. Москва, ул. Первая, д. 2, кв. 3", region_code="77", postal_code="101001"),
        telephone="8 916 000-00-00",
    )


def bare_patient() -> Patient:
    """A patient of whom the header of the picture says a name and no more."""
    return Patient(identifier=Identifier(value="17"), name=PersonName(family="Иванова", given="Мария"))


def picture() -> KeyImage:
    """A small picture as JPEG."""
    stream = io.BytesIO()
    Image.new("RGB", (32, 24), (40, 80, 120)).save(stream, "JPEG")
    return KeyImage(
        sop_instance_uid=SopUid("1.2.826.0.1.3680043.10.1.8.1"),
        series_uid=SeriesUid("1.2.826.0.1.3680043.10.1.8"),
        media_type="image/jpeg",
        data=stream.getvalue(),
    )


def findings(card: ModelCard, lesions: int, *, present_without_place: bool = False) -> Findings:
    """Findings with so many lesions."""
    label = card.labels[0]
    image = AnalysedImage(
        sop_instance_uid=IMAGE, sop_class_uid="1.2.840.10008.5.1.4.1.1.1.1", series_uid=SERIES, rows=64, columns=64
    )
    found = tuple(
        Lesion(
            label=label.key,
            code=label.finding,
            site=label.site,
            laterality=SIDES[number % len(SIDES)],
            score=0.9 - number / 100,
            raw_score=0.8,
            threshold=0.35,
            region=Region(planes=(PlanarRegion(sop_instance_uid=IMAGE, box=Box(x_min=1, y_min=1, x_max=9, y_max=9)),)),
            measurements=(Measurement(quantity=LONG_AXIS, value=12.34, unit=MILLIMETRE),) if number % 2 else (),
            tracking_id=f"{label.key} {number + 1}",
            tracking_uid=f"2.25.{1000 + number}",
        )
        for number in range(lesions)
    )
    statement = Finding(
        label=label.key,
        code=label.finding,
        site=label.site,
        presence=Presence.PRESENT if lesions or present_without_place else Presence.ABSENT,
        score=0.87,
        raw_score=0.8,
        threshold=0.35,
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
        inputs_digest="0" * 64,
        images=(image,),
        findings=(statement,),
        lesions=found,
    )


def make_document(
    study: str = "chest film", *, lesions: int = 2, whole: bool = True, present_without_place: bool = False
) -> DocumentRequest:
    """A request for the first version of a document; `whole` says whether optional context is there."""
    modality, description, body_part, _ = STUDIES[study]
    card = make_card(cancer=modality == "MG")
    source = SourceStudy(
        study_uid=STUDY,
        modality=modality,
        performed_at=datetime(2026, 11, 20, 9, 30, tzinfo=MOSCOW),
        series=(SourceSeries(series_uid=SERIES, modality=modality, images={IMAGE: "1.2.840.10008.5.1.4.1.1.1.1"}),),
        description=description,
        body_part=body_part,
    )
    request = DocumentRequest(
        document_id="doc-1",
        revision=Revision(set_id="set-1", version=1),
        created_at=datetime(2026, 11, 20, 7, 0, 30, tzinfo=UTC),
        source=source,
        patient=bare_patient(),
        findings=findings(card, lesions, present_without_place=present_without_place),
        card=card,
        text=ReportText(
            language="ru",
            description="В правом лёгком отмечено затемнение 12 мм." if lesions else "Затемнений не отмечено.",
            conclusion="Подозрение на затемнение, оценка 87 %." if lesions else "Искомых изменений не отмечено.",
            recommendation="",
        ),
        encounter=Encounter(identifier=Identifier(value="A-5"), kind_code="1"),
        performer=clinic(),
        author=radiologist(),
        legal_authenticator=radiologist(number="105", snils="08765430300"),
    )
    return _with_everything(request) if whole else request


def _with_everything(request: DocumentRequest) -> DocumentRequest:
    encounter = Encounter(
        identifier=Identifier(value="A-5"),
        kind_code="2",
        kind_name="Повторный",
        begun=datetime(2026, 11, 20, 8, 0, tzinfo=MOSCOW),
        ended=datetime(2026, 11, 20, 12, 0, tzinfo=MOSCOW),
    )
    order = Order(
        placer=Identifier(value="ref-9", system="1.2.643.5.1.13.13.12.2.77.7799.100.1.1.51"),
        filler=Identifier(value="F-3"),
        accession_number="ACC-11",
        diagnosis_code="J18.9",
        diagnosis_text="Пневмония неуточненная",
    )
    source = replace(request.source, manufacturer="ACME", device_model="X-1", device_serial="SN 7", dose_msv=0.0312)
    return replace(
        request,
        source=source,
        patient=whole_patient(),
        order=order,
        encounter=encounter,
        text=replace(request.text, recommendation="Сопоставить с предыдущими исследованиями."),
        key_image=picture(),
        base_url="https://pacs.example.org/dicom-web",
    )

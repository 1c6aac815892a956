"""What a document for the record says beside the findings: who the patient is, who works where, what was ordered.

Filled by the lookup of the context (configuration, DICOM header, HTTP, CSV) and read by every writer of documents.
What is not known is None; whether a document can do without it is decided by its writer, which names all that is
missing at once (`ContextMissing`). Holds patient data: values of these types never reach a log.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum

from dicom_node.wording import ReportText
from inference.findings import Findings, SeriesUid, SopUid, StudyUid
from inference.refusals import Refusal
from models.card import ModelCard


class Sex(StrEnum):
    """Patient's Sex (0010,0040), PS3.3 C.7.1.1; each writer has codes of its own for it."""

    MALE = "M"
    FEMALE = "F"
    OTHER = "O"


@dataclass(frozen=True, kw_only=True, slots=True)
class PersonName:
    """A name in its parts, in Unicode."""

    family: str
    given: str
    patronymic: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Identifier:
    """A number within the system that gave it.

    Attributes
    ----------
    value : str
    system : str
        OID without ``urn:oid:``, or a URI; empty where only the node itself knows the number.
    """

    value: str
    system: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Address:
    """A postal address; `text` is the whole of it on one line."""

    text: str
    region_code: str | None = None  # subject of the federation, НСИ 1.2.643.5.1.13.13.99.2.206
    postal_code: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class IdentityDocument:
    """A passport or the like."""

    kind: str  # code of НСИ 1.2.643.5.1.13.13.99.2.48
    series: str
    number: str
    issued_by: str | None = None
    issued_by_code: str | None = None
    issued_on: date | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class InsurancePolicy:
    """The policy of obligatory medical insurance (ОМС)."""

    kind: str  # code of НСИ 1.2.643.5.1.13.13.11.1035
    number: str
    series: str | None = None
    insurer_oid: str | None = None
    insurer_name: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Patient:
    """Whose study it is."""

    identifier: Identifier  # of the archive or the medical information system
    name: PersonName | None = None
    birth_date: date | None = None
    sex: Sex | None = None
    snils: str | None = None  # eleven digits, no separators, checksum verified
    document: IdentityDocument | None = None
    policy: InsurancePolicy | None = None
    address: Address | None = None
    telephone: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Organisation:
    """A medical organisation of the federal register (ФРМО)."""

    oid: str
    name: str
    address: Address | None = None
    telephone: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Employee:
    """A person of the staff register (ФРМР). The AI is none: author and signer are people."""

    identifier: Identifier
    name: PersonName
    position_code: str  # НСИ 1.2.643.5.1.13.13.11.1002; 94 is Врач-рентгенолог
    position_name: str
    snils: str | None = None
    telephone: str | None = None
    organisation: Organisation | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Encounter:
    """The case of care within which the study was made."""

    identifier: Identifier
    kind_code: str | None = None  # НСИ 1.2.643.5.1.13.13.11.1007
    kind_name: str | None = None
    begun: datetime | None = None
    ended: datetime | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """What was asked for, and by whom."""

    placer: Identifier | None = None
    filler: Identifier | None = None
    accession_number: str | None = None
    diagnosis_code: str | None = None  # ICD-10
    diagnosis_text: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceSeries:
    """A series that the model looked at."""

    series_uid: SeriesUid
    modality: str
    images: Mapping[SopUid, str]  # SOP Instance UID to SOP Class UID


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceStudy:
    """The study as it was received."""

    study_uid: StudyUid
    modality: str
    performed_at: datetime | None  # aware, on the clock of the modality
    series: Sequence[SourceSeries]
    description: str = ""
    body_part: str = ""
    manufacturer: str = ""
    device_model: str = ""
    device_serial: str = ""
    dose_msv: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyImage:
    """The overlay picture that stands for the result: an object of the ResultSet, and its picture as JPEG or PNG."""

    sop_instance_uid: SopUid
    series_uid: SeriesUid
    media_type: str
    data: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Revision:
    """Which state of the document this is: equal `set_id` through all of them, `version` from 1."""

    set_id: str
    version: int
    replaces_id: str | None = None  # identifier of the document that this one corrects
    withdrawn: bool = False  # the result was taken back: nothing of it holds any more


@dataclass(frozen=True, kw_only=True, slots=True)
class ProcessingTimes:
    """When the study came and when the model worked on it; aware."""

    received_from: datetime  # first image
    received_until: datetime  # last image
    begun: datetime  # the job was taken by a worker
    ended: datetime  # its findings, or its refusal, stood


@dataclass(frozen=True, kw_only=True, slots=True)
class RefusalNotice:
    """A model could not speak of a study: for receivers that want to be told, in place of a document.

    Attributes
    ----------
    document_id
        Derived as that of a document is.
    model_name, model_version
        Who could not.
    refusal
        Why, in the words of `inference.refusals`.
    withdraws
        The receiver has a result of an earlier revision of the study, which no longer holds.
    """

    document_id: str
    created_at: datetime
    study_uid: StudyUid
    model_name: str
    model_version: str
    refusal: Refusal
    times: ProcessingTimes
    language: str = "ru"
    withdraws: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class DocumentRequest:
    """One model's word on one study, to be written as one document.

    Attributes
    ----------
    document_id : str
        Derived from (study UID, model digest, findings digest, destination): a retry writes the same document.
    created_at : datetime
        Aware; fixed before the first attempt.
    findings, card, text
        What was said, by whom, in which words.
    base_url : str
        Where DICOMweb serves the study; empty where nothing can be linked.
    times : ProcessingTimes or None
        Asked for by the exchange of Moscow alone.
    """

    document_id: str
    revision: Revision
    created_at: datetime
    source: SourceStudy
    patient: Patient
    findings: Findings
    card: ModelCard
    text: ReportText
    order: Order = Order()
    encounter: Encounter | None = None
    performer: Organisation | None = None  # who made the study and whose document it is
    author: Employee | None = None
    legal_authenticator: Employee | None = None
    key_image: KeyImage | None = None
    base_url: str = ""
    language: str = "ru"
    times: ProcessingTimes | None = None


class ContextMissing(Exception):
    """A document cannot be written with what is known. Permanent until somebody supplies it.

    Attributes
    ----------
    missing : tuple of str
        Everything that lacks, as a person finds it in the configuration: ``patient.snils``, ``author.position_code``.
    """

    def __init__(self, missing: Sequence[str]) -> None:
        super().__init__("missing for the document: " + ", ".join(missing))
        self.missing = tuple(missing)

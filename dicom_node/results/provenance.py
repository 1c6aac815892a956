"""Who made a result: one identity, written alike into equipment, device observer and algorithm identification.

IHE AI Results (AIR) asks that Contributing Equipment (0018,A001), the device observer of the report and TID 4019 carry
equal values, and that a changed model has another Device UID. Used by every writer of this package.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from pydicom import Dataset

from dicom_node.results import texts
from dicom_node.results.header import SourceHeader
from dicom_node.results.profile import ENCODER_VERSION
from dicom_node.results.request import EncodeRequest
from models.card import ModelCard
from models.codes import Code, Text

NODE_NAME: Final = "radnode"
# Device UID of the node itself, which speaks when no model does; random once, constant ever after.
NODE_DEVICE_UID: Final = "2.25.64301858273619451047102839126519835617"
PROCESSING_EQUIPMENT: Final = Code(value="109102", scheme="DCM", meaning="Processing Equipment")


@dataclass(frozen=True, kw_only=True, slots=True)
class Provenance:
    """The speaker of a result, and the settings it spoke with."""

    name: str
    version: str
    manufacturer: str
    device_uid: str
    parameters: tuple[str, ...] = ()

    @property
    def serial_number(self) -> str:
        """A short name of the exact weights and settings, for attributes that want a serial number."""
        return self.device_uid.rpartition(".")[2][:16]


def provenance_of(card: ModelCard | None) -> Provenance:
    """The model that spoke, or the node itself where none was chosen."""
    if card is None:
        return Provenance(name=NODE_NAME, version=ENCODER_VERSION, manufacturer=NODE_NAME, device_uid=NODE_DEVICE_UID)
    return Provenance(
        name=card.identity.name,
        version=card.identity.version,
        manufacturer=card.identity.manufacturer,
        device_uid=card.device_uid,
        parameters=tuple(f"{label.key}: threshold {label.operating_point.threshold:g}" for label in card.labels),
    )


def code_item(code: Code, meaning: str | None = None) -> Dataset:
    """A coded entry (PS3.3 8.8), its meaning replaced where `meaning` translates it."""
    item = Dataset()
    item.CodeValue = code.value
    item.CodingSchemeDesignator = code.scheme
    item.CodeMeaning = meaning or code.meaning
    return item


def contributing_equipment(provenance: Provenance, moment: datetime, language: str) -> Dataset:
    """An item of Contributing Equipment Sequence as IHE AIR wants it, Device UID included."""
    item = Dataset()
    item.Manufacturer = provenance.manufacturer
    item.ManufacturerModelName = provenance.name
    item.SoftwareVersions = provenance.version
    item.DeviceUID = provenance.device_uid
    item.ContributionDateTime = moment.strftime("%Y%m%d%H%M%S")
    item.ContributionDescription = "анализ изображений" if language == "ru" else "image analysis"
    item.PurposeOfReferenceCodeSequence = [code_item(PROCESSING_EQUIPMENT)]
    return item


def stamp(
    result: Dataset,
    *,
    request: EncodeRequest,
    header: SourceHeader,
    series_number: int,
    instance_number: int,
    title: Text,
) -> None:
    """`stamp_as` with the model, time and language of a request."""
    stamp_as(
        result,
        card=request.card,
        header=header,
        content_time=request.content_time,
        language=language_of(request, header),
        series_number=series_number,
        instance_number=instance_number,
        title=title,
    )


def stamp_as(
    result: Dataset,
    *,
    card: ModelCard | None,
    header: SourceHeader,
    content_time: datetime,
    language: str,
    series_number: int,
    instance_number: int,
    title: Text,
) -> None:
    """Write patient, study, series time, equipment and provenance into `result`, replacing what is there.

    `result` has its SOP Class, SOP Instance, Series Instance UID and Modality already; `title` becomes the series
    description.
    """
    moment = header.local_time(content_time)
    date, time = moment.strftime("%Y%m%d"), moment.strftime("%H%M%S")
    header.apply(result)
    result.InstanceCreationDate, result.InstanceCreationTime = date, time
    result.SeriesDate, result.SeriesTime = date, time
    if result.Modality != "PR":  # a presentation state has creation date and time of its own
        result.ContentDate, result.ContentTime = date, time
    result.SeriesNumber, result.InstanceNumber = series_number, instance_number
    result.SeriesDescription = texts.series_title(title, card, language)
    result.Manufacturer = result.ManufacturerModelName = NODE_NAME
    result.SoftwareVersions = ENCODER_VERSION
    provenance = provenance_of(card)
    result.DeviceSerialNumber = provenance.serial_number
    result.ContributingEquipmentSequence = [contributing_equipment(provenance, moment, language)]


def language_of(request: EncodeRequest, header: SourceHeader) -> str:
    """Language of words inside the data set: English where the source's character set leaves only ASCII.

    The conformance statement and the profile's `language` tell this to administrators.
    """
    return "en" if header.ascii_only else request.profile.language

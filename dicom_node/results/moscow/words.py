"""What the fourteen items say, and the words that pictures share with them: service, warnings, time.

Used by `report` and `pictures`. Description, conclusion and remarks are `dicom_node.wording`'s, as everywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from zoneinfo import ZoneInfo

from dicom_node.results import texts
from dicom_node.results.header import SourceHeader
from dicom_node.results.moscow.form import Form, Item, Service, read_form
from dicom_node.results.narrative import narrative
from dicom_node.results.request import EncodeRequest
from dicom_node.wording import ReportText
from inference.findings import Findings, SopUid
from models.card import ModelCard
from models.codes import Text

_DIGEST_SHOWN: Final = 16
_GENERAL_WARNINGS: Final = 2  # of the report's warnings: use and origin, which have items of their own
_MATRICES_SHOWN: Final = 6


@dataclass(frozen=True, kw_only=True, slots=True)
class Words:
    """The words of one result in one language.

    Attributes
    ----------
    header : SourceHeader
        Of the first analysed image.
    text : ReportText
        The report in words, in the language of all that is said here.
    """

    request: EncodeRequest
    findings: Findings
    card: ModelCard
    header: SourceHeader
    form: Form
    text: ReportText

    @property
    def language(self) -> str:
        """``"ru"`` or ``"en"``."""
        return self.text.language

    def say(self, text: Text) -> str:
        """`text` in this language."""
        return text.in_language(self.language)

    @property
    def service(self) -> str:
        """What the experiment calls the model, else the card's title."""
        return self.say(self._registered.name or self.card.identity.title)

    @property
    def origin(self) -> str:
        """The warning that software has written this."""
        return self.say(self.form.warnings.origin)

    @property
    def purpose(self) -> str:
        """The warning that says what the result may be used for."""
        identity = self.card.identity
        return self.say(self.form.warnings.purpose[identity.use]).format(number=identity.registration_number)

    @property
    def time(self) -> str:
        """When the report was written, with the clock's distance from UTC."""
        zone, moment = self.form.time_zone, self.request.content_time
        moment = moment.astimezone(ZoneInfo(zone)) if zone else self.header.local_time(moment)
        offset = moment.strftime("%z")
        return f"{moment:%d.%m.%Y %H:%M:%S} (UTC{offset[:3]}:{offset[3:5]})"

    @property
    def _registered(self) -> Service:
        return self.form.services.get(self.card.identity.name, Service())

    def items(self, headers: Mapping[SopUid, SourceHeader]) -> dict[Item, str]:
        """What each item says; `headers` are those of the images shown."""
        known = [headers[image.sop_instance_uid] for image in self.findings.images if image.sop_instance_uid in headers]
        purpose, guide = self._registered.purpose, self._registered.guide
        return {
            Item.MODALITY: self._named(known, "Modality", self.form.modalities),
            Item.REGION: self._region(known),
            Item.STUDY: self.request.study_uid,
            Item.TIME: self.time,
            Item.ORIGIN: self.origin,
            Item.PURPOSE: self.purpose,
            Item.SERVICE: self.service,
            Item.VERSION: self.card.identity.version,
            Item.SERVICE_PURPOSE: self.say(purpose or self.card.intended_use.statement),
            Item.TECHNICAL: "\n".join(self._technical(known)),
            Item.DEFECTS: self._defects(),
            Item.DESCRIPTION: self.text.description,
            Item.CONCLUSION: "\n".join(filter(None, (self.text.conclusion, self.text.recommendation))),
            Item.GUIDE: self.say(guide or self.form.guide),
        }

    @property
    def remarks(self) -> tuple[str, ...]:
        """What was left out or has to be looked at with caution, as every report says it."""
        return self.text.warnings[_GENERAL_WARNINGS:]

    def _named(self, headers: Sequence[SourceHeader], keyword: str, names: Mapping[str, Text]) -> str:
        """The values of a coded attribute, each with its name where the form has one: ``DX (рентгенография)``."""
        values = _distinct(header.text(keyword).upper() for header in headers)
        return ", ".join(f"{value} ({self.say(names[value])})" if value in names else value for value in values)

    def _region(self, headers: Sequence[SourceHeader]) -> str:
        """The body part as the images name it, else the organs that the model looks at."""
        values = _distinct(header.text("BodyPartExamined").upper() for header in headers)
        if values:
            return ", ".join(self.say(self.form.regions[one]) if one in self.form.regions else one for one in values)
        return ", ".join(_distinct(texts.code_name(label.site, self.language) for label in self.card.labels))

    def _technical(self, headers: Sequence[SourceHeader]) -> Iterator[str]:
        say, technical, images = self.say, self.form.technical, self.findings.images
        yield say(technical.images).format(count=len(images), given=max(len(self.request.sources), len(images)))
        matrices = _distinct(f"{image.columns} × {image.rows}" for image in images)
        yield say(technical.matrix).format(matrix=_listed(matrices))
        for sentence, keyword in ((technical.voltage, "KVP"), (technical.thickness, "SliceThickness")):
            values = _distinct(_number(header.text(keyword)) for header in headers)
            if values:
                yield say(sentence).format(value=_listed(values))
        identity, digest = self.card.identity, self.card.model_digest[:_DIGEST_SHOWN]
        yield say(technical.model).format(name=identity.name, version=identity.version, digest=digest)
        for label in self.card.labels:
            threshold = texts.percent(label.operating_point.threshold)
            yield say(technical.threshold).format(label=self.say(label.title).lower(), percent=threshold)

    def _defects(self) -> str:
        defects, remarks = self.form.defects, " ".join(self.remarks)
        seen = self.say(defects.some).format(remarks=remarks) if remarks else self.say(defects.none)
        return f"{seen}\n{self.say(defects.not_assessed)}"


def words_of(request: EncodeRequest, findings: Findings, header: SourceHeader, language: str) -> Words:
    """The words of `request` in `language`; `header` is that of the first analysed image."""
    assert request.card is not None
    return Words(
        request=request,
        findings=findings,
        card=request.card,
        header=header,
        form=read_form(request.profile.moscow_file),
        text=narrative(request, header, language),
    )


def _distinct(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(value for value in values if value))


def _listed(values: Sequence[str]) -> str:
    return ", ".join(values[:_MATRICES_SHOWN]) + (" …" if len(values) > _MATRICES_SHOWN else "")


def _number(text: str) -> str:
    """A decimal string without padding; what is no number, or none above 0, is nothing."""
    try:
        value = float(text)
    except ValueError:
        return ""
    return f"{value:g}" if value > 0 else ""

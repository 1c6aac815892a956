"""The file that says how results for the Moscow experiment are named and worded.

``moscow`` comes with the product, any other is the path of a TOML file of the same form. Read by `Profile.digest` and
by the writers of this package; free of DICOM libraries, because settings are read by every command.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from enum import StrEnum
from functools import cache, cached_property
from string import Formatter
from typing import Annotated, Final, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, field_validator, model_validator

from dicom_node.ehr.profile_file import read_profile_file
from models.card import Use
from models.codes import Text

SHIPPED: Final = ("moscow",)
_MEANING_LIMIT: Final = 64  # Code Meaning and Series Description are LO


class Item(StrEnum):
    """An item of the report; the file gives its name, its code and its place."""

    MODALITY = "modality"
    REGION = "region"
    STUDY = "study"
    TIME = "time"
    ORIGIN = "origin"  # warning: made by software
    PURPOSE = "purpose"  # warning: what it may be used for
    SERVICE = "service"
    VERSION = "version"
    SERVICE_PURPOSE = "service_purpose"
    TECHNICAL = "technical"
    DEFECTS = "defects"
    DESCRIPTION = "description"
    CONCLUSION = "conclusion"
    GUIDE = "guide"


class ReportClass(StrEnum):
    """Storage class of the report; none of its content needs more than the first."""

    BASIC_TEXT = "basic_text"
    ENHANCED = "enhanced"
    COMPREHENSIVE = "comprehensive"


class Placement(StrEnum):
    """Where the words of a picture stand."""

    OUTSIDE = "outside"  # in bands above and below: every pixel of the source is seen, and the picture is higher
    OVER = "over"  # on the upper and lower edge: rows and columns are the source's, what lies there is darkened


class Slices(StrEnum):
    """Which slices of a volume, or frames of a multi-frame image, are in the series."""

    MARKED = "marked"  # those that a lesion crosses; without any, the middle one
    ALL = "all"  # every one that was analysed


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class ItemName(_Part):
    """Concept name of one item."""

    item: Item
    code: Annotated[str, StringConstraints(min_length=1, max_length=16)]
    name: Text

    @field_validator("name")
    @classmethod
    def _fits(cls, name: Text) -> Text:
        return _short(name)


class CodingScheme(_Part):
    """The scheme of the items' codes (PS3.3 C.12.1, Coding Scheme Identification)."""

    designator: Annotated[str, StringConstraints(min_length=1, max_length=16)]
    name: str
    organisation: str


class Title(_Part):
    """Concept name of the whole report."""

    code: Annotated[str, StringConstraints(min_length=1, max_length=16)]
    scheme: Annotated[str, StringConstraints(min_length=1, max_length=16)]
    meaning: Text

    @field_validator("meaning")
    @classmethod
    def _fits(cls, meaning: Text) -> Text:
        return _short(meaning)


class ReportForm(_Part):
    """The structured report."""

    report_class: ReportClass = ReportClass.BASIC_TEXT
    series: Text
    title: Title
    scheme: CodingScheme
    items: tuple[ItemName, ...]
    """In the order in which they are written; each of the fourteen once."""

    @model_validator(mode="after")
    def _every_item_once(self) -> Self:
        named = [one.item for one in self.items]
        faults = [f"{item} is not there" for item in Item if item not in named]
        faults += [f"{item} is there twice" for item in Item if named.count(item) > 1]
        codes = [one.code for one in self.items]
        faults += [f"code {code!r} is used twice" for code in sorted(set(codes)) if codes.count(code) > 1]
        if faults:
            raise ValueError("; ".join(faults))
        return self

    @field_validator("series")
    @classmethod
    def _fits(cls, series: Text) -> Text:
        return _short(series)


class Warnings(_Part):
    """The two warnings, in the report and in the footer of every picture."""

    origin: Text
    purpose: dict[Use, Text]
    """By the use that the card states; {number} is the registration number."""

    @field_validator("origin")
    @classmethod
    def _says_something(cls, origin: Text) -> Text:
        _check_template(origin, needs=())
        return origin

    @field_validator("purpose")
    @classmethod
    def _every_use(cls, purpose: dict[Use, Text]) -> dict[Use, Text]:
        missing = [use.value for use in Use if use not in purpose]
        if missing:
            raise ValueError(f"words are missing for use {', '.join(missing)}")
        for use, text in purpose.items():
            _check_template(text, needs=("number",) if use is Use.REGISTERED else ())
        return purpose


class Service(_Part):
    """What the experiment calls a model; what is absent comes from its card."""

    name: Text | None = None
    purpose: Text | None = None
    guide: Text | None = None


class Technical(_Part):
    """Sentences of the technical data; one whose figure the header does not have is left out."""

    images: Text
    matrix: Text
    voltage: Text
    thickness: Text
    model: Text
    threshold: Text


class Defects(_Part):
    """What the node can say of technological defects: what it looked for, and what it did not."""

    none: Text
    some: Text
    not_assessed: Text


class PictureForm(_Part):
    """The series of pictures."""

    series: Text
    placement: Placement = Placement.OUTSIDE
    slices: Slices = Slices.MARKED
    normal: Text
    undetermined: Text
    positive: Text
    unplaced: Text
    footer: Text

    @model_validator(mode="after")
    def _templates(self) -> Self:
        _short(self.series)
        _check_template(self.positive, needs=("count", "here"))
        _check_template(self.footer, needs=("service", "version", "time"))
        return self


class Form(_Part):
    """Everything that such a file says."""

    time_zone: str = ""
    """Zone of times that people read, as Europe/Moscow; empty: the clock that the study's images declare."""
    report: ReportForm
    picture: PictureForm
    warnings: Warnings
    guide: Text
    """User guide of the services that name none of their own."""
    technical: Technical
    defects: Defects
    modalities: dict[str, Text] = Field(default_factory=dict)
    """What the values of Modality (0008,0060) are called."""
    regions: dict[str, Text] = Field(default_factory=dict)
    """What the values of Body Part Examined (0018,0015) are called."""
    services: dict[str, Service] = Field(default_factory=dict)
    """By the name of the model."""

    @field_validator("time_zone")
    @classmethod
    def _zone_is_known(cls, name: str) -> str:
        try:
            return name and ZoneInfo(name).key
        except (ZoneInfoNotFoundError, ValueError) as error:
            raise ValueError(f"no time zone {name!r} is known here; write it as Europe/Moscow") from error

    @model_validator(mode="after")
    def _templates(self) -> Self:
        technical = self.technical
        needs: Mapping[str, tuple[Text, tuple[str, ...]]] = {
            "images": (technical.images, ("count", "given")),
            "matrix": (technical.matrix, ("matrix",)),
            "voltage": (technical.voltage, ("value",)),
            "thickness": (technical.thickness, ("value",)),
            "model": (technical.model, ("name", "version", "digest")),
            "threshold": (technical.threshold, ("label", "percent")),
            "defects": (self.defects.some, ("remarks",)),
        }
        for text, wanted in needs.values():
            _check_template(text, needs=wanted)
        return self

    @cached_property
    def digest(self) -> str:
        """sha256 over what the file says, comments and order of keys apart."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()


_ADAPTER: Final = TypeAdapter(Form)


@cache
def read_form(name: str) -> Form:
    """Read the form that comes with the product, or the TOML file at a path; once in the life of a process.

    Raises
    ------
    dicom_node.ehr.profile_file.ProfileError
        When it cannot be read or breaks a rule.
    """
    return read_profile_file(name, _ADAPTER, package="dicom_node.results.moscow", shipped=SHIPPED)


def _short(text: Text) -> Text:
    for words in (text.ru, text.en):
        if len(words) > _MEANING_LIMIT:
            raise ValueError(f"{words!r} has {len(words)} characters, DICOM allows {_MEANING_LIMIT}")
    return text


def _check_template(text: Text, *, needs: tuple[str, ...]) -> None:
    """Every sentence has its placeholders, and no others."""
    for language in ("ru", "en"):
        words = text.in_language(language)
        if not words.strip():
            raise ValueError("words are missing")
        found = {name for _, name, _, _ in Formatter().parse(words) if name is not None}
        if found != set(needs):
            wanted = ", ".join(f"{{{name}}}" for name in needs) or "none"
            raise ValueError(f"placeholders of {words!r} ({language}): wanted {wanted}")

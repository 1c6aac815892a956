"""What an exchange of the Moscow kind calls things: topics, keys, blocks, categories of errors, numbers of models.

A profile is a TOML file; ``moscow`` comes with the product, any other is a path. Read by whoever configures a
destination; `message` and `blocks` take every name from here, so that another region, or better knowledge of this
one, is another file.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Final, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, field_validator, model_validator

from dicom_node.ehr.context import SourceStudy
from dicom_node.ehr.moscow.model_id import ModelId
from dicom_node.ehr.profile_file import read_profile_file
from inference.refusals import Reason
from models.card import Label
from models.codes import Code

SHIPPED: Final = ("moscow",)
ISO_8601: Final = "iso8601"

Topic = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,249}$")]
Key = Annotated[str, Field(min_length=1, max_length=64)]
OptionalKey = Annotated[str, Field(max_length=64)]
Name = Annotated[str, Field(min_length=1, max_length=64)]
CodeRef = Annotated[str, Field(pattern=r"^[A-Za-z0-9_]+:\S+$")]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Topics(_Part):
    """Where messages go; the key of each is the Study Instance UID."""

    result: Topic
    error: Topic


class HeaderNames(_Part):
    """Names of the Kafka headers by which a consumer tells a repeated message from a new one."""

    document_id: Key
    version: Key


class FieldNames(_Part):
    """Keys of the JSON objects; an empty one leaves its field out, where that is allowed."""

    study_uid: Key
    result: Key
    series_uid: OptionalKey
    pathology: OptionalKey
    normal: OptionalKey
    confidence: OptionalKey
    model_id: Key
    model_version: OptionalKey
    description: Key
    conclusion: Key
    times: OptionalKey
    received_from: Key
    received_until: Key
    begun: Key
    ended: Key
    blocks: OptionalKey
    error: Key
    error_description: OptionalKey

    @model_validator(mode="after")
    def _keys_differ(self) -> FieldNames:
        within_result = [
            [self.series_uid, self.pathology, self.normal, self.confidence, self.model_id, self.model_version,
             self.description, self.conclusion, self.times, self.blocks, self.error],
            [self.model_id, self.error, self.error_description, self.times],
            [self.received_from, self.received_until, self.begun, self.ended],
            [self.study_uid, self.result],
        ]  # fmt: skip
        for keys in within_result:
            given = [key for key in keys if key]
            twice = sorted({key for key in given if given.count(key) > 1})
            if twice:
                raise ValueError(f"two fields of one object have the same key: {', '.join(twice)}")
        return self


class Says(StrEnum):
    """What a field of a block says."""

    SCORE = "score"  # highest calibrated score, whole per cent
    CANCER_SCORE = "cancer_score"  # the same, of labels whose score the card calls a probability of cancer
    COUNT = "count"  # number of lesions
    LONG_AXIS = "long_axis"  # of the largest lesion, mm
    SHORT_AXIS = "short_axis"  # of the same lesion, mm
    VOLUME = "volume"  # of the same lesion, mm3
    CATEGORY = "category"  # value of a system of categories that the card supports


class BlockField(_Part):
    """One field of a block: what it says, of which findings, of which side."""

    key: Key
    says: Says
    side: Literal["right", "left"] | None = None
    """None speaks of the study."""
    findings: tuple[CodeRef, ...] = ()
    """Codes of the labels that count, such as `SCT:27925004`; empty takes every label that is a pathology."""
    system: str = ""
    """Of a category: its system as cards name it, such as `BI-RADS`."""

    @model_validator(mode="after")
    def _category_has_system(self) -> BlockField:
        if (self.says is Says.CATEGORY) != bool(self.system):
            raise ValueError("a category, and nothing else, names its system")
        return self

    def speaks_of(self, label: Label) -> bool:
        """Whether the findings of a label count."""
        return not self.findings or reference(label.finding) in self.findings


class Block(_Part):
    """The block of one kind of study. The first that fits is written; one that is not known is left out."""

    name: Key
    known: bool = True
    """False: the exchange has a block for these studies, but its names are not known, so nothing is written."""
    modalities: tuple[str, ...] = Field(min_length=1)
    body_parts: tuple[str, ...] = ()
    """Body Part Examined, upper case; empty fits all, and a study that names none fits every block."""
    words: tuple[str, ...] = ()
    """Any of them stands in the Study Description, whatever the case; empty asks for none."""
    fields: tuple[BlockField, ...] = ()

    @model_validator(mode="after")
    def _fields_if_known(self) -> Block:
        if self.known != bool(self.fields):
            raise ValueError("a known block has fields, one with known = false has none")
        keys = [one.key for one in self.fields]
        if len(set(keys)) != len(keys):
            raise ValueError("two fields of a block have the same key")
        return self

    def fits(self, study: SourceStudy) -> bool:
        """Whether the block is of studies such as this."""
        part, said = study.body_part.strip().upper(), study.description.casefold()
        return (
            study.modality in self.modalities
            and (not part or not self.body_parts or part in self.body_parts)
            and (not self.words or any(word.casefold() in said for word in self.words))
        )


class Normal(_Part):
    """Labels of a card that are no pathology though they are found; every other label is one."""

    findings: tuple[CodeRef, ...] = ()
    categories: tuple[str, ...] = ()
    """System and value, such as `BI-RADS 1`."""


class MoscowProfile(_Part):
    """One exchange."""

    topics: Topics
    headers: HeaderNames
    fields: FieldNames
    time_format: Annotated[str, Field(min_length=1, max_length=64)] = ISO_8601
    """`iso8601`, or a format of C's strftime."""
    time_zone: str = "Europe/Moscow"
    model_ids: Mapping[str, ModelId] = Field(default_factory=dict)
    """What the exchange calls a model, by `name@version` or by `name`."""
    series_required: bool = True
    """Stop a result for which no series of pictures was written."""
    silent_confidence: Annotated[int, Field(ge=0, le=100)] | None = 0
    """Confidence of a result whose model gives no score where it marks nothing; none leaves the field out."""
    corrections: Literal["resend", "withhold"] = "resend"
    """Whether a later result on a study is sent as another message, or stopped for a person to look at."""
    error_categories: tuple[Name, ...] = Field(min_length=1)
    withdrawal_category: Name
    """Of the message that takes a result back."""
    errors: Mapping[Reason, Name]
    """Category of each reason of refusal."""
    normal: Normal = Normal()
    blocks: tuple[Block, ...] = ()

    @field_validator("time_zone")
    @classmethod
    def _zone_is_known(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise ValueError(f"no time zone {name!r} is known here; write it as Europe/Moscow") from error
        return name

    @model_validator(mode="after")
    def _every_reason_has_a_category(self) -> MoscowProfile:
        missing = [reason.value for reason in Reason if reason not in self.errors]
        if missing:
            raise ValueError(f"errors: no category for {', '.join(missing)}")
        unknown = sorted({*self.errors.values(), self.withdrawal_category} - set(self.error_categories))
        if unknown:
            raise ValueError(f"not among error_categories: {', '.join(unknown)}")
        return self

    def with_model_ids(self, more: Mapping[str, ModelId]) -> MoscowProfile:
        """The same profile with further numbers of models, which go before its own."""
        return self.model_copy(update={"model_ids": {**self.model_ids, **more}})

    def model_id(self, name: str, version: str) -> ModelId | None:
        """What the exchange calls a model; None where nobody has written it down."""
        found = self.model_ids.get(f"{name}@{version}")
        return self.model_ids.get(name) if found is None else found

    def is_pathology(self, label: Label) -> bool:
        """Whether a label that is found is a pathology."""
        if label.category is not None:
            return f"{label.category.system} {label.category.value}" not in self.normal.categories
        return reference(label.finding) not in self.normal.findings

    def block_of(self, study: SourceStudy) -> Block | None:
        """The block that is written for a study; None where none is known."""
        found = next((block for block in self.blocks if block.fits(study)), None)
        return found if found is not None and found.known else None


def reference(code: Code) -> str:
    """A code as profiles write it: ``SCT:27925004``."""
    return f"{code.scheme}:{code.value}"


_ADAPTER: Final = TypeAdapter(MoscowProfile)


def read_profile(name: str) -> MoscowProfile:
    """Read a profile that comes with the product, or the TOML file at a path.

    Raises
    ------
    ProfileError
        When it cannot be read or breaks a rule.
    """
    return read_profile_file(name, _ADAPTER, package="dicom_node.ehr.moscow", shipped=SHIPPED)

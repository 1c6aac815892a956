"""The model card: what a model is, what it wants to see, what it says, and what it must not be used for.

A card is a TOML file (`card.toml`) beside the weights. It is read here, refused with all its faults at once, and
handed around as an immutable value. Finding cards on disk and checking the digest of weights is `models.registry`;
running a model is `inference`; writing a card from a training run is `training`.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal, NewType

from pydantic import Field, ValidationError, model_validator

from models.codes import CardPart, Code, Text
from models.inputs import Input, VolumeInput
from models.outputs import CenterHeatmapOutput, Output, ProbabilityOutput
from models.wording import Category, CategorySystem, LabelWording

ModelName = NewType("ModelName", str)
ModelVersion = NewType("ModelVersion", str)
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class CardError(Exception):
    """The card file is missing, is not TOML, or says something a card may not say. The message lists every fault."""


class Runtime(StrEnum):
    """Which library runs the weights."""

    ONNX = "onnx"  # ONNX Runtime; the default, needs no torch
    TORCH = "torch"  # a torch.export archive (.pt2); never a pickle


class Use(StrEnum):
    """What a model may be used for; it decides the warning on every output."""

    DEMONSTRATION = "demonstration"  # shows that the machinery works; claims no accuracy, and every result says so
    RESEARCH = "research"  # not a medical device: every result carries the warning
    REGISTERED = "registered"  # a registered medical device; the card carries the registration number


class PresentationIntent(StrEnum):
    """Presentation Intent Type (0008,0068), PS3.3 C.8.11.1."""

    FOR_PRESENTATION = "FOR PRESENTATION"
    FOR_PROCESSING = "FOR PROCESSING"
    UNKNOWN = "UNKNOWN"  # the attribute is absent, as in every CR


class Identity(CardPart):
    """Who the model is."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{1,62}$")
    version: str = Field(pattern=r"^[0-9]+\.[0-9]+\.[0-9]+$")
    title: Text
    description: Text
    manufacturer: str = Field(min_length=1, max_length=64)
    licence: str = Field(min_length=1)
    use: Use = Use.RESEARCH
    registration_number: str | None = None

    @model_validator(mode="after")
    def _registered_has_number(self) -> Identity:
        if self.use is Use.REGISTERED and not self.registration_number:
            raise ValueError("use = 'registered' needs registration_number")
        return self


class WeightsFile(CardPart):
    """One file of weights. A card may name one for each runtime; they are the same network."""

    runtime: Runtime
    file: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="file name beside the card, no folders")
    sha256: Sha256


class Calibration(CardPart):
    """Platt scaling of a raw logit: ``score = sigmoid(slope * logit + intercept)``."""

    slope: float = Field(default=1.0, gt=0)
    intercept: float = 0.0


class OperatingPoint(CardPart):
    """The threshold that is served: a lesion or a picture is positive when ``score >= threshold``."""

    threshold: float = Field(ge=0, le=1)
    chosen_by: str = Field(min_length=1, description="how the threshold was chosen, and on what data")


class BreastComparison(CardPart):
    """How a breast is judged when the same view of the other breast is there: tissue is alike on both sides.

    The logit of the view less `contralateral` times the logit of the other breast's view, calibrated for itself.
    """

    contralateral: float = Field(gt=0, le=1, description="share of the other breast's logit that is subtracted")
    calibration: Calibration = Calibration()
    point: OperatingPoint


class Label(CardPart):
    """One thing the model looks for. The order of labels is the order of the network's channels."""

    key: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    title: Text
    finding: Code = Field(description="SNOMED CT code of the finding")
    radlex: Code | None = None
    site: Code = Field(description="anatomical site of the finding")
    cancer: bool = Field(default=False, description="the score may be reported as a probability of cancer")
    index: int | None = Field(
        default=None, ge=0, description="the network's class; null: the label's place in the list"
    )
    lesion: OperatingPoint | None = Field(default=None, description="null when the network marks no places")
    lesion_calibration: Calibration = Calibration()
    picture: OperatingPoint | None = Field(default=None, description="null when the network says nothing of the whole")
    picture_calibration: Calibration = Calibration()
    breast: BreastComparison | None = Field(default=None, description="null: each breast is judged for itself")
    wording: LabelWording | None = Field(default=None, description="null: the report has no words of the card's own")
    category: Category | None = Field(default=None, description="the label is a category, such as BI-RADS 4A")

    @property
    def operating_point(self) -> OperatingPoint:
        """The operating point to name where one is named: that of lesions, for a classifier that of pictures."""
        point = self.lesion or self.picture
        assert point is not None, "the card's validator sees to it"
        return point


class IntendedUse(CardPart):
    """Which studies the model was made for. What lies outside is not analysed, with a reason."""

    modalities: tuple[str, ...] = Field(min_length=1)
    body_parts: tuple[str, ...] = Field(
        default=(), description="Body Part Examined values accepted, upper case; empty accepts all"
    )
    accept_unknown_body_part: bool = Field(default=False, description="an empty Body Part Examined is accepted")
    views: tuple[str, ...] = Field(
        default=(), description="View Position values accepted (PA, AP, CC, MLO); empty accepts all"
    )
    accept_unknown_view: bool = Field(default=False, description="an empty View Position is accepted and flagged")
    presentation: tuple[PresentationIntent, ...] = (PresentationIntent.FOR_PRESENTATION, PresentationIntent.UNKNOWN)
    min_age_years: float | None = Field(default=None, ge=0)
    max_age_years: float | None = Field(default=None, ge=0)
    statement: Text


class TrainingFiles(CardPart):
    """A table beside the card with the digest of every training file and of every picture in it after decoding.

    An evaluation refuses cases that are in it; digests alone tell neither names nor patients.
    """

    file: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    sha256: Sha256


class TrainingData(CardPart):
    """What the weights were made from."""

    description: str = Field(min_length=1)
    licence: str = Field(min_length=1)
    citation: str = Field(min_length=1)
    films: int = Field(ge=0)
    patients: int = Field(ge=0)
    manifest_sha256: Sha256 = Field(description="digest of the list of training files and their digests")
    files: TrainingFiles | None = Field(default=None, description="null: an evaluation cannot tell training files")


class Figure(CardPart):
    """One figure of the evaluation, with its interval and what it was counted on."""

    name: str = Field(min_length=1)
    value: float
    low: float | None = None
    high: float | None = None
    on: str = Field(min_length=1, description="what it was measured on, with counts")


class EvaluationSummary(CardPart):
    """How well the model did, on patients it was not trained on."""

    method: str = Field(min_length=1)
    command: str = Field(min_length=1, description="the command that repeats the evaluation")
    figures: tuple[Figure, ...] = ()


class Guard(CardPart):
    """The check that a picture is of the kind the model was trained on; `inference.guard` runs it, training fits it.

    `file` holds statistics of the training pictures (numpy arrays, no code). A picture whose distance is above
    `threshold` is refused or, with `action = "flag"`, analysed with a caution.
    """

    file: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    sha256: Sha256
    method: str = Field(min_length=1, description="name and version of the features, as `inference.guard` knows them")
    threshold: float
    action: Literal["refuse", "flag"] = "refuse"
    figures: tuple[Figure, ...] = Field(default=(), description="false alarms on real films and what was caught")


class ModelCard(CardPart):
    """A model, as its users and the node know it. See the field descriptions; the JSON Schema is in `docs/schemas`.

    Raises
    ------
    CardError
        From `read`, listing every fault of the file.
    """

    identity: Identity
    weights: tuple[WeightsFile, ...] = Field(min_length=1)
    input: Input
    output: Output
    labels: tuple[Label, ...] = Field(min_length=1)
    intended_use: IntendedUse
    training: TrainingData
    evaluation: EvaluationSummary
    guard: Guard | None = Field(default=None, description="null: nothing checks that a picture is of the right kind")
    limits: tuple[Text, ...] = Field(min_length=1, description="what the model cannot do; printed where people decide")
    supported_categories: tuple[CategorySystem, ...] = Field(
        default=(), description="systems of categories that reports may name: the model was made and judged for them"
    )

    @model_validator(mode="after")
    def _names_are_unique(self) -> ModelCard:
        keys = [label.key for label in self.labels]
        if len(set(keys)) != len(keys):
            raise ValueError("labels: two labels have the same key")
        runtimes = [weights.runtime for weights in self.weights]
        if len(set(runtimes)) != len(runtimes):
            raise ValueError("weights: one file per runtime")
        return self

    @model_validator(mode="after")
    def _categories_are_supported(self) -> ModelCard:
        for label in self.labels:
            if label.category is not None and label.category.system not in self.supported_categories:
                raise ValueError(
                    f"labels: {label.key} is a category of {label.category.system}: see supported_categories"
                )
        return self

    @model_validator(mode="after")
    def _output_fits_input_and_labels(self) -> ModelCard:
        if isinstance(self.input, VolumeInput) and isinstance(self.output, CenterHeatmapOutput):
            raise ValueError("output: a center_heatmap is of a picture; a volume model gives boxes or a heatmap")
        indices = [self.class_index(label) for label in self.labels]
        if len(set(indices)) != len(indices):
            raise ValueError("labels: two labels have the same index")
        for label in self.labels:
            marks = not isinstance(self.output, ProbabilityOutput)
            if marks and label.lesion is None:
                raise ValueError(f"labels: {label.key} needs a lesion operating point: the output marks places")
            if not marks and (label.lesion is not None or label.picture is None):
                raise ValueError(f"labels: {label.key} needs picture and no lesion: a classifier marks nothing")
        return self

    def class_index(self, label: Label) -> int:
        """The network's class or channel of a label of this card, counted from 0."""
        return self.labels.index(label) if label.index is None else label.index

    @property
    def reference(self) -> str:
        """Name and version in one word, ``name@version``, as routes and commands write it."""
        return f"{self.identity.name}@{self.identity.version}"

    @property
    def weights_digest(self) -> str:
        """sha256 over all weights files' digests, in the card's order: the identity of the network itself."""
        return hashlib.sha256("\n".join(weights.sha256 for weights in self.weights).encode()).hexdigest()

    @property
    def model_digest(self) -> str:
        """sha256 over weights and everything that changes what is said: input, output, labels, intended use, guard.

        A changed threshold, calibration or preprocessing is another digest and so another Device UID; a corrected
        description is not. What a card leaves at its default takes no part, so that a key that a later version of
        the software adds does not rename the models of today; defaults therefore never change.
        """
        parts = dict.fromkeys(("weights", "input", "output", "labels", "intended_use", "supported_categories"), True)
        decisive = self.model_dump(mode="json", include=parts, exclude_defaults=True)
        decisive["kinds"] = [self.input.kind, self.output.kind]
        decisive["name"], decisive["version"] = self.identity.name, self.identity.version
        if self.guard is not None:
            decisive["guard"] = self.guard.model_dump(mode="json", exclude={"figures"})
        canonical = json.dumps(decisive, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    @property
    def device_uid(self) -> str:
        """Device UID (0018,1002) of this model: ``2.25.`` and 128 bits of `model_digest` (PS3.5 B.2)."""
        return f"2.25.{int(self.model_digest[:32], 16)}"

    def label(self, key: str) -> Label:
        """The label called `key`.

        Raises
        ------
        KeyError
            If the card has no such label.
        """
        for label in self.labels:
            if label.key == key:
                return label
        raise KeyError(f"model {self.reference} has no label {key!r}")


def read_card(path: Path) -> ModelCard:
    """Read and check one `card.toml`.

    Raises
    ------
    CardError
        If the file cannot be read or breaks a rule; the message names the file and every fault.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise CardError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise CardError(f"{path}: not UTF-8 (byte {error.start}): save the card as UTF-8") from error
    try:
        return ModelCard.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise CardError(f"{path}: not valid TOML: {error}") from error
    except ValidationError as error:
        faults = [f"  {'.'.join(map(str, fault['loc'])) or 'card'}: {fault['msg']}" for fault in error.errors()]
        raise CardError(f"{path}: {len(faults)} fault(s)\n" + "\n".join(faults)) from error

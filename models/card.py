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

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from models.codes import Code, Text

ModelName = NewType("ModelName", str)
ModelVersion = NewType("ModelVersion", str)
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class CardError(Exception):
    """The card file is missing, is not TOML, or says something a card may not say. The message lists every fault."""


class _Part(BaseModel):
    """A piece of a card: immutable, and a misspelt key is a fault, not a silent default."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Runtime(StrEnum):
    """Which library runs the weights."""

    ONNX = "onnx"  # ONNX Runtime; the default, needs no torch
    TORCH = "torch"  # a torch.export archive (.pt2); never a pickle


class Use(StrEnum):
    """What a model may be used for; it decides the warning on every output."""

    RESEARCH = "research"  # not a medical device: every result carries the warning
    REGISTERED = "registered"  # a registered medical device; the card carries the registration number


class PresentationIntent(StrEnum):
    """Presentation Intent Type (0008,0068), PS3.3 C.8.11.1."""

    FOR_PRESENTATION = "FOR PRESENTATION"
    FOR_PROCESSING = "FOR PROCESSING"
    UNKNOWN = "UNKNOWN"  # the attribute is absent, as in every CR


class Identity(_Part):
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


class WeightsFile(_Part):
    """One file of weights. A card may name one for each runtime; they are the same network."""

    runtime: Runtime
    file: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="file name beside the card, no folders")
    sha256: Sha256


class ProjectionInput(_Part):
    """Input of a two-dimensional model: one grey-scale picture, scaled the way it is displayed.

    The picture is taken as displayed (modality LUT, VOI, then polarity, PS3.4 N.2), stretched between two percentiles
    of its pixels, resized to fit the model's rectangle with its proportions kept, padded at the right and bottom with
    `pad_value`, repeated over `channels`, and normalised: ``(value - mean) / std``.
    """

    kind: Literal["projection"] = "projection"
    height: int = Field(ge=32, le=4096)
    width: int = Field(ge=32, le=4096)
    channels: Literal[1, 3] = 1
    low_percentile: float = Field(default=0.5, ge=0, le=50)
    high_percentile: float = Field(default=99.5, ge=50, le=100)
    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.25,)
    pad_value: float = Field(default=0.0, ge=0, le=1, description="grey of the padding before normalising")

    @model_validator(mode="after")
    def _one_mean_per_channel(self) -> ProjectionInput:
        if len(self.mean) != self.channels or len(self.std) != self.channels:
            raise ValueError(f"mean and std need {self.channels} value(s), one per channel")
        if any(value <= 0 for value in self.std):
            raise ValueError("std must be positive")
        return self


class CenterHeatmapOutput(_Part):
    """Output of an anchor-free detector: for each cell the logit of a lesion's centre and the distances to its edges.

    Names are those of the graph's outputs. Shapes for N pictures, C labels and a grid of h by w cells of `stride`
    input pixels: heatmap (N, C, h, w) logits; ltrb (N, 4, h, w) distances in input pixels from the cell's centre
    ``((column + 0.5) * stride, (row + 0.5) * stride)`` to the left, top, right and bottom edges; picture (N, C)
    logits of the whole picture, optional.
    """

    kind: Literal["center_heatmap"] = "center_heatmap"
    heatmap: str = "heatmap"
    ltrb: str = "ltrb"
    picture: str | None = "picture"
    stride: int = Field(ge=1, le=64)
    max_lesions: int = Field(default=20, ge=1, le=300, description="marks kept per picture after suppression")
    nms_iou: float = Field(default=0.3, gt=0, lt=1)


class Calibration(_Part):
    """Platt scaling of a raw logit: ``score = sigmoid(slope * logit + intercept)``."""

    slope: float = Field(default=1.0, gt=0)
    intercept: float = 0.0


class OperatingPoint(_Part):
    """The threshold that is served: a lesion or a picture is positive when ``score >= threshold``."""

    threshold: float = Field(ge=0, le=1)
    chosen_by: str = Field(min_length=1, description="how the threshold was chosen, and on what data")


class Label(_Part):
    """One thing the model looks for. The order of labels is the order of the network's channels."""

    key: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    title: Text
    finding: Code = Field(description="SNOMED CT code of the finding")
    radlex: Code | None = None
    site: Code = Field(description="anatomical site of the finding")
    cancer: bool = Field(default=False, description="the score may be reported as a probability of cancer")
    lesion: OperatingPoint
    lesion_calibration: Calibration = Calibration()
    picture: OperatingPoint | None = Field(default=None, description="null when the network says nothing of the whole")
    picture_calibration: Calibration = Calibration()


class IntendedUse(_Part):
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


class TrainingData(_Part):
    """What the weights were made from."""

    description: str = Field(min_length=1)
    licence: str = Field(min_length=1)
    citation: str = Field(min_length=1)
    films: int = Field(ge=0)
    patients: int = Field(ge=0)
    manifest_sha256: Sha256 = Field(description="digest of the list of training files and their digests")


class Figure(_Part):
    """One figure of the evaluation, with its interval and what it was counted on."""

    name: str = Field(min_length=1)
    value: float
    low: float | None = None
    high: float | None = None
    on: str = Field(min_length=1, description="what it was measured on, with counts")


class EvaluationSummary(_Part):
    """How well the model did, on patients it was not trained on."""

    method: str = Field(min_length=1)
    command: str = Field(min_length=1, description="the command that repeats the evaluation")
    figures: tuple[Figure, ...] = ()


class ModelCard(_Part):
    """A model, as its users and the node know it. See the field descriptions; the JSON Schema is in `docs/schemas`.

    Raises
    ------
    CardError
        From `read`, listing every fault of the file.
    """

    identity: Identity
    weights: tuple[WeightsFile, ...] = Field(min_length=1)
    input: ProjectionInput
    output: CenterHeatmapOutput
    labels: tuple[Label, ...] = Field(min_length=1)
    intended_use: IntendedUse
    training: TrainingData
    evaluation: EvaluationSummary
    limits: tuple[Text, ...] = Field(min_length=1, description="what the model cannot do; printed where people decide")

    @model_validator(mode="after")
    def _names_are_unique(self) -> ModelCard:
        keys = [label.key for label in self.labels]
        if len(set(keys)) != len(keys):
            raise ValueError("labels: two labels have the same key")
        runtimes = [weights.runtime for weights in self.weights]
        if len(set(runtimes)) != len(runtimes):
            raise ValueError("weights: one file per runtime")
        return self

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
        """sha256 over weights and everything that changes what is said: input, output, labels, intended use.

        A changed threshold, calibration or preprocessing is another digest and so another Device UID; a corrected
        description is not.
        """
        decisive = self.model_dump(mode="json", include={"weights", "input", "output", "labels", "intended_use"})
        decisive["name"], decisive["version"] = self.identity.name, self.identity.version
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

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
from typing import Annotated, Literal, NewType, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from models.codes import Code, Text

ModelName = NewType("ModelName", str)
ModelVersion = NewType("ModelVersion", str)
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class CardError(Exception):
    """The card file is missing, is not TOML, or says something a card may not say. The message lists every fault."""


def _none_of_false(value: object) -> object:
    return None if value is False else value


# TOML has no null: where a default is to be taken away, a card says `false`.
OptionalName = Annotated[
    str | None, BeforeValidator(_none_of_false, json_schema_input_type=str | Literal[False] | None)
]
OptionalFraction = Annotated[
    Annotated[float, Field(gt=0, lt=1)] | None,
    BeforeValidator(_none_of_false, json_schema_input_type=Annotated[float, Field(gt=0, lt=1)] | Literal[False] | None),
]


class _Part(BaseModel):
    """A piece of a card: immutable, and a misspelt key is a fault, not a silent default."""

    model_config = ConfigDict(frozen=True, extra="forbid")


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


class Fit(StrEnum):
    """How a picture is brought into the model's rectangle."""

    PAD_END = "pad_end"  # proportions kept, padding at the right and bottom
    PAD_CENTER = "pad_center"  # proportions kept, padding on both sides (letterbox)
    STRETCH = "stretch"  # proportions not kept


class Layout(StrEnum):
    """Order of the axes of a picture's tensor."""

    CHANNELS_FIRST = "channels_first"  # (N, channels, height, width)
    CHANNELS_LAST = "channels_last"  # (N, height, width, channels)


class _PictureInput(_Part):
    """What inputs of two-dimensional models have in common."""

    tensor: str | None = Field(default=None, description="name of the graph's input; null takes the only one")
    height: int = Field(ge=32, le=4096)
    width: int = Field(ge=32, le=4096)
    channels: Literal[1, 3] = 1
    layout: Layout = Layout.CHANNELS_FIRST
    low_percentile: float = Field(default=0.5, ge=0, le=50)
    high_percentile: float = Field(default=99.5, ge=50, le=100)
    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.25,)
    pad_value: float = Field(default=0.0, ge=0, le=1, description="grey of the padding before normalising")

    @model_validator(mode="after")
    def _one_mean_per_channel(self) -> Self:
        if len(self.mean) != self.channels or len(self.std) != self.channels:
            raise ValueError(f"mean and std need {self.channels} value(s), one per channel")
        if any(value <= 0 for value in self.std):
            raise ValueError("std must be positive")
        return self


class ProjectionInput(_PictureInput):
    """Input of a two-dimensional model: one grey-scale picture, scaled the way it is displayed.

    The picture is taken as displayed (modality LUT, VOI, then polarity, PS3.4 N.2), stretched between two percentiles
    of its pixels, resized into the model's rectangle as `fit` says, padded with `pad_value`, repeated over `channels`,
    and normalised: ``(value - mean) / std``.
    """

    kind: Literal["projection"] = "projection"
    fit: Fit = Fit.PAD_END


class BreastInput(_PictureInput):
    """Input of a mammography model: one breast, cut out of its picture and turned the same way every time.

    The picture is taken as displayed, the breast is segmented (labels, scanner borders and background are blanked),
    mirrored so that its chest wall lies at the left, cropped, stretched between two percentiles of the breast's own
    pixels, brought to `spacing_mm` where the picture's spacing is known, made smaller where it does not fit the
    model's rectangle, padded at the right and bottom, and normalised.
    """

    kind: Literal["breast"] = "breast"
    spacing_mm: float | None = Field(
        default=None, gt=0, le=2, description="pixel size fed to the network; null fits the breast to the rectangle"
    )


class VolumeInput(_Part):
    """Input of a three-dimensional model: Hounsfield units on an even grid, cut into overlapping tiles.

    Triples are in the order slice, row, column. The volume is resampled along its own axes to `spacing_mm`, clipped
    to the window and scaled to 0..1, normalised ``(value - mean) / std``, and looked at in tiles of `tile` voxels
    that overlap by `overlap` of their side; what is outside the volume is `low_hu`.
    """

    kind: Literal["volume"] = "volume"
    tensor: str | None = Field(default=None, description="name of the graph's input; null takes the only one")
    spacing_mm: tuple[float, float, float]
    tile: tuple[int, int, int]
    overlap: float = Field(default=0.25, ge=0, le=0.75)
    low_hu: float = -1000.0
    high_hu: float = 400.0
    mean: float = 0.0
    std: float = Field(default=1.0, gt=0)
    max_slice_spacing_mm: float = Field(default=5.0, gt=0, description="series with slices further apart are refused")

    @model_validator(mode="after")
    def _sizes_are_sane(self) -> VolumeInput:
        if any(value <= 0 for value in self.spacing_mm):
            raise ValueError("spacing_mm must be positive")
        if any(not 8 <= side <= 512 for side in self.tile):  # noqa: PLR2004
            raise ValueError("tile sides must be from 8 to 512 voxels")
        if not self.low_hu < self.high_hu:
            raise ValueError("low_hu must be below high_hu")
        return self


Input = Annotated[ProjectionInput | BreastInput | VolumeInput, Field(discriminator="kind")]


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
    picture: OptionalName = Field(default="picture", description="false: the network says nothing of the whole")
    stride: int = Field(ge=1, le=64)
    max_lesions: int = Field(default=20, ge=1, le=300, description="marks kept per picture after suppression")
    nms_iou: float = Field(default=0.3, gt=0, lt=1)


class Activation(StrEnum):
    """What has to be done to a network's numbers to make probabilities of them."""

    NONE = "none"  # they are probabilities already
    SIGMOID = "sigmoid"  # logits, one for each label
    SOFTMAX = "softmax"  # logits that exclude each other; the background is a class of its own


class BoxLayout(StrEnum):
    """What the numbers of a box are; for a volume with the third axis after the first two: x, y, z."""

    CORNERS = "corners"  # x_min, y_min, x_max, y_max (in a volume x_min, y_min, z_min, x_max, y_max, z_max)
    CENTER_SIZE = "center_size"  # x, y of the centre, width, height (x, y, z, width, height, depth)
    CORNER_SIZE = "corner_size"  # x_min, y_min, width, height


class BoxUnit(StrEnum):
    """What the numbers of a box count."""

    PIXELS = "pixels"  # of the network's input (voxels of the tile)
    FRACTION = "fraction"  # of the input's width and height


class BoxesOutput(_Part):
    """Output of a detector that lists boxes, suppressed already or not.

    Either `boxes` (N, K, 4), `scores` (N, K) or (N, K, classes) and, where scores are one a box, `classes` (N, K); or
    all in one tensor (`scores = false`): (N, K, 4 + objectness + classes). `transposed` says that the last two axes are
    the other way round. A model that takes one picture at a time may leave out the axis N. With a `VolumeInput` a box
    has six numbers. `classes` counts from `first_class`; a label's class is its `index`.
    """

    kind: Literal["boxes"] = "boxes"
    boxes: str = "boxes"
    scores: OptionalName = Field(default="scores", description="false: they are in `boxes`, after a box's place")
    classes: str | None = None
    picture: str | None = Field(default=None, description="probabilities or logits of the whole picture (N, classes)")
    layout: BoxLayout = BoxLayout.CORNERS
    unit: BoxUnit = BoxUnit.PIXELS
    transposed: bool = False
    objectness: bool = Field(default=False, description="the packed tensor has an objectness before the classes")
    activation: Activation = Activation.NONE
    first_class: int = Field(default=0, ge=0, le=1, description="1 where class 0 is the background")
    min_score: float = Field(default=0.01, ge=0, lt=1, description="boxes below it are not looked at")
    max_lesions: int = Field(default=20, ge=1, le=300)
    nms_iou: OptionalFraction = Field(default=0.3, description="false: the graph has suppressed them itself")


class HeatmapOutput(_Part):
    """Output of a network that gives each pixel or voxel a value: a probability map or a segmentation.

    `heatmap` is (N, classes, h, w), for a volume (N, classes, d, h, w), of any grid that covers the input evenly. A
    lesion is a connected region above `region_threshold`; its score is the region's highest value.
    """

    kind: Literal["heatmap"] = "heatmap"
    heatmap: str = "heatmap"
    picture: str | None = None
    activation: Activation = Activation.SIGMOID
    region_threshold: float = Field(default=0.5, gt=0, lt=1)
    min_pixels: int = Field(default=1, ge=1, description="smaller regions, in cells of the map, are noise")
    max_lesions: int = Field(default=20, ge=1, le=300)


class ProbabilityOutput(_Part):
    """Output of a classifier: (N, classes), about the whole picture; it marks nothing."""

    kind: Literal["probability"] = "probability"
    probability: str = "probability"
    activation: Activation = Activation.NONE


Output = Annotated[CenterHeatmapOutput | BoxesOutput | HeatmapOutput | ProbabilityOutput, Field(discriminator="kind")]


class Calibration(_Part):
    """Platt scaling of a raw logit: ``score = sigmoid(slope * logit + intercept)``."""

    slope: float = Field(default=1.0, gt=0)
    intercept: float = 0.0


class OperatingPoint(_Part):
    """The threshold that is served: a lesion or a picture is positive when ``score >= threshold``."""

    threshold: float = Field(ge=0, le=1)
    chosen_by: str = Field(min_length=1, description="how the threshold was chosen, and on what data")


class BreastComparison(_Part):
    """How a breast is judged when the same view of the other breast is there: tissue is alike on both sides.

    The logit of the view less `contralateral` times the logit of the other breast's view, calibrated for itself.
    """

    contralateral: float = Field(gt=0, le=1, description="share of the other breast's logit that is subtracted")
    calibration: Calibration = Calibration()
    point: OperatingPoint


class Label(_Part):
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

    @property
    def operating_point(self) -> OperatingPoint:
        """The operating point to name where one is named: that of lesions, for a classifier that of pictures."""
        point = self.lesion or self.picture
        assert point is not None, "the card's validator sees to it"
        return point


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


class Guard(_Part):
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


class ModelCard(_Part):
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
        parts = dict.fromkeys(("weights", "input", "output", "labels", "intended_use"), True)
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

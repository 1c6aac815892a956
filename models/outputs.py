"""What a network's numbers mean: the `[output]` of a card.

Part of `models.card`; `inference.outputs` and `inference.volumes` turn numbers into lesions by these values.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from models.codes import CardPart


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


class CenterHeatmapOutput(CardPart):
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


class BoxesOutput(CardPart):
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


class HeatmapOutput(CardPart):
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


class ProbabilityOutput(CardPart):
    """Output of a classifier: (N, classes), about the whole picture; it marks nothing."""

    kind: Literal["probability"] = "probability"
    probability: str = "probability"
    activation: Activation = Activation.NONE


Output = Annotated[CenterHeatmapOutput | BoxesOutput | HeatmapOutput | ProbabilityOutput, Field(discriminator="kind")]

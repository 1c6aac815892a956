"""What a model wants to see: the `[input]` of a card.

Part of `models.card`; `inference.preprocess`, `inference.breast` and `inference.volumes` bring pixels into this form,
and training prepares its films by the same values.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from models.codes import CardPart


class Fit(StrEnum):
    """How a picture is brought into the model's rectangle."""

    PAD_END = "pad_end"  # proportions kept, padding at the right and bottom
    PAD_CENTER = "pad_center"  # proportions kept, padding on both sides (letterbox)
    STRETCH = "stretch"  # proportions not kept


class Layout(StrEnum):
    """Order of the axes of a picture's tensor."""

    CHANNELS_FIRST = "channels_first"  # (N, channels, height, width)
    CHANNELS_LAST = "channels_last"  # (N, height, width, channels)


class _PictureInput(CardPart):
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


class VolumeInput(CardPart):
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

"""From a picture to the network's input, and exactly back: stretch, letterbox, channels, normalisation.

Serving (`inference.engine`) and training call the same `prepare` with the card's `ProjectionInput`. Reading files is
`inference.loading`; nothing here depends on torch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from inference.findings import Box
from inference.images import Image
from inference.refusals import Reason, Refused
from models.card import ProjectionInput


@dataclass(frozen=True, kw_only=True, slots=True)
class Transform:
    """The way between source pixels and input pixels; in both (0, 0) is the top-left corner of the first pixel.

    `scale_x` and `scale_y` are input pixels per source pixel. They differ by the rounding of the resized picture to
    whole pixels, so each axis has its own and the way back is exact.
    """

    source_rows: int
    source_columns: int
    scale_x: float
    scale_y: float

    def to_input(self, x: float, y: float) -> tuple[float, float]:
        """Input pixel coordinates of a source point."""
        return x * self.scale_x, y * self.scale_y

    def to_source(self, x: float, y: float) -> tuple[float, float]:
        """Source pixel coordinates of an input point, not clipped."""
        return x / self.scale_x, y / self.scale_y

    def box_to_source(self, x_min: float, y_min: float, x_max: float, y_max: float) -> Box | None:
        """The box in source pixels, clipped to the picture; None when nothing of it is inside."""
        left, top = self.to_source(x_min, y_min)
        right, bottom = self.to_source(x_max, y_max)
        left, right = (min(max(value, 0.0), float(self.source_columns)) for value in (left, right))
        top, bottom = (min(max(value, 0.0), float(self.source_rows)) for value in (top, bottom))
        if not (left < right and top < bottom):
            return None
        return Box(x_min=left, y_min=top, x_max=right, y_max=bottom)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ModelInput:
    """One picture ready for a network: float32 (channels, height, width), and the way back."""

    tensor: NDArray[np.float32]
    transform: Transform


def prepare(image: Image, spec: ProjectionInput) -> ModelInput:
    """Make the network's input of one picture, as the card's `ProjectionInput` says.

    Raises
    ------
    Refused
        OUT_OF_RANGE when the picture is blank: all its pixels alike.
    """
    stretched = _stretched(image, spec)
    rows, columns = stretched.shape
    height, width = _fitted(rows, columns, spec)
    canvas = np.full((spec.height, spec.width), spec.pad_value, dtype=np.float32)
    canvas[:height, :width] = _resized(stretched, height, width)
    mean = np.asarray(spec.mean, dtype=np.float32).reshape(-1, 1, 1)
    std = np.asarray(spec.std, dtype=np.float32).reshape(-1, 1, 1)
    tensor = (canvas[np.newaxis] - mean) / std  # one mean per channel: broadcasting repeats the picture
    transform = Transform(source_rows=rows, source_columns=columns, scale_x=width / columns, scale_y=height / rows)
    return ModelInput(tensor=np.ascontiguousarray(tensor, dtype=np.float32), transform=transform)


def _stretched(image: Image, spec: ProjectionInput) -> NDArray[np.float32]:
    """Grey between the two percentiles spread to 0..1; padding takes no part and is black."""
    inside = image.pixels.ravel() if image.padded is None else image.pixels[~image.padded]
    low, high = (float(value) for value in np.percentile(inside, (spec.low_percentile, spec.high_percentile)))
    if not low < high:  # nearly everything has one grey: what differs is in the tails
        low, high = float(inside.min()), float(inside.max())
    if not low < high:
        raise Refused(Reason.OUT_OF_RANGE, "the picture is blank: all its pixels are alike")
    stretched = image.pixels - np.float32(low)
    stretched *= np.float32(1.0 / (high - low))
    np.clip(stretched, 0.0, 1.0, out=stretched)
    if image.padded is not None:
        stretched[image.padded] = 0.0
    return stretched


def _fitted(rows: int, columns: int, spec: ProjectionInput) -> tuple[int, int]:
    scale = min(spec.height / rows, spec.width / columns)
    height = min(max(round(rows * scale), 1), spec.height)
    width = min(max(round(columns * scale), 1), spec.width)
    return height, width


def _resized(pixels: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """Bilinear with the filter widened to the reduction, so that shrinking does not alias."""
    if pixels.shape == (height, width):
        return pixels
    resized = PIL.Image.fromarray(pixels).resize((width, height), PIL.Image.Resampling.BILINEAR)
    return np.asarray(resized, dtype=np.float32)

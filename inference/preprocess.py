"""From a picture to the network's input, and exactly back: stretch, letterbox or cut-out breast, normalisation.

Serving (`inference.engine`) and training call the same `prepare` with the card's `ProjectionInput` or `BreastInput`.
Finding the breast is `inference.breast`, reading files `inference.loading`; nothing here depends on torch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from inference.breast import Breast, Side, find_breast
from inference.findings import Box
from inference.images import Image
from inference.refusals import Reason, Refused
from models.inputs import BreastInput, Fit, Layout, ProjectionInput


@dataclass(frozen=True, kw_only=True, slots=True)
class Transform:
    """The way between source pixels and input pixels; in both (0, 0) is the top-left corner of the first pixel.

    First the source is mirrored left to right if `mirrored`, then scaled, then moved by the offset. `scale_x` and
    `scale_y` are input pixels per source pixel; they differ by the rounding of the resized picture to whole pixels,
    so each axis has its own and the way back is exact. `offset_x` and `offset_y` are where the (mirrored) source's
    top-left corner lies, in input pixels: positive for padding before the picture, negative where it was cropped.
    """

    source_rows: int
    source_columns: int
    scale_x: float
    scale_y: float
    offset_x: float = 0.0
    offset_y: float = 0.0
    mirrored: bool = False

    def to_input(self, x: float, y: float) -> tuple[float, float]:
        """Input pixel coordinates of a source point."""
        x = self.source_columns - x if self.mirrored else x
        return x * self.scale_x + self.offset_x, y * self.scale_y + self.offset_y

    def to_source(self, x: float, y: float) -> tuple[float, float]:
        """Source pixel coordinates of an input point, not clipped."""
        x, y = (x - self.offset_x) / self.scale_x, (y - self.offset_y) / self.scale_y
        return self.source_columns - x if self.mirrored else x, y

    def box_to_source(self, x_min: float, y_min: float, x_max: float, y_max: float) -> Box | None:
        """The box in source pixels, clipped to the picture; None when nothing of it is inside."""
        one, top = self.to_source(x_min, y_min)
        other, bottom = self.to_source(x_max, y_max)
        left, right = (other, one) if self.mirrored else (one, other)
        left, right = (min(max(value, 0.0), float(self.source_columns)) for value in (left, right))
        top, bottom = (min(max(value, 0.0), float(self.source_rows)) for value in (top, bottom))
        if not (left < right and top < bottom):
            return None
        return Box(x_min=left, y_min=top, x_max=right, y_max=bottom)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ModelInput:
    """One picture ready for a network, and the way back.

    The tensor is float32 (channels, height, width), or (height, width, channels) where the card's layout says so.
    """

    tensor: NDArray[np.float32]
    transform: Transform


def prepare(image: Image, spec: ProjectionInput | BreastInput) -> ModelInput:
    """Make the network's input of one picture, as the card's input says.

    Raises
    ------
    Refused
        OUT_OF_RANGE when the picture is blank (all its pixels alike), or no breast is found where one is asked for.
    """
    return _prepare_breast(image, spec) if isinstance(spec, BreastInput) else _prepare_whole(image, spec)


def _prepare_whole(image: Image, spec: ProjectionInput) -> ModelInput:
    stretched = _stretched(image, spec)
    rows, columns = stretched.shape
    height, width = _fitted(rows, columns, spec)
    top, left = _placed(height, width, spec)
    canvas = np.full((spec.height, spec.width), spec.pad_value, dtype=np.float32)
    canvas[top : top + height, left : left + width] = _resized(stretched, height, width)
    transform = Transform(
        source_rows=rows,
        source_columns=columns,
        scale_x=width / columns,
        scale_y=height / rows,
        offset_x=float(left),
        offset_y=float(top),
    )
    return ModelInput(tensor=normalised(canvas, spec), transform=transform)


def _prepare_breast(image: Image, spec: BreastInput) -> ModelInput:
    """The breast alone, chest wall at the left, grey between two percentiles of its own pixels spread to 0..1."""
    rows, columns = image.pixels.shape
    breast = find_breast(image.pixels)
    mirrored = breast.chest_wall is Side.RIGHT
    height, width = _breast_size(breast, image.spacing_mm, spec)
    box = (breast.left, breast.top, breast.right, breast.bottom)
    resized = PIL.Image.fromarray(image.pixels).resize((width, height), PIL.Image.Resampling.BILINEAR, box=box)
    greys = np.array(resized, dtype=np.float32)
    inside = breast.mask(rows=rows, columns=columns, height=height, width=width)
    low, high = (float(value) for value in np.percentile(greys[inside], (spec.low_percentile, spec.high_percentile)))
    if not low < high:
        raise Refused(Reason.OUT_OF_RANGE, "the breast is blank: all its pixels are alike")
    shown = np.where(inside, np.clip((greys - np.float32(low)) / np.float32(high - low), 0.0, 1.0), np.float32(0.0))
    canvas = np.full((spec.height, spec.width), spec.pad_value, dtype=np.float32)
    canvas[:height, :width] = shown[:, ::-1] if mirrored else shown
    scale_x, scale_y = width / (breast.right - breast.left), height / (breast.bottom - breast.top)
    transform = Transform(
        source_rows=rows,
        source_columns=columns,
        scale_x=scale_x,
        scale_y=scale_y,
        offset_x=-(columns - breast.right if mirrored else breast.left) * scale_x,
        offset_y=-breast.top * scale_y,
        mirrored=mirrored,
    )
    return ModelInput(tensor=normalised(canvas, spec), transform=transform)


def _breast_size(breast: Breast, spacing_mm: tuple[float, float] | None, spec: BreastInput) -> tuple[int, int]:
    """Height and width of the breast's rectangle in input pixels: true to scale where that is known and fits."""
    rows, columns = breast.bottom - breast.top, breast.right - breast.left
    if spec.spacing_mm is None or spacing_mm is None:
        scale_y = scale_x = min(spec.height / rows, spec.width / columns)
    else:
        scale_y, scale_x = spacing_mm[0] / spec.spacing_mm, spacing_mm[1] / spec.spacing_mm
        shrink = min(1.0, spec.height / (rows * scale_y), spec.width / (columns * scale_x))
        scale_y, scale_x = scale_y * shrink, scale_x * shrink
    height = min(max(round(rows * scale_y), 1), spec.height)
    width = min(max(round(columns * scale_x), 1), spec.width)
    return height, width


def normalised(canvas: NDArray[np.float32], spec: ProjectionInput | BreastInput) -> NDArray[np.float32]:
    """The tensor of a picture (height, width) from 0 to 1: ``(value - mean) / std`` for each channel, in its layout."""
    mean = np.asarray(spec.mean, dtype=np.float32).reshape(-1, 1, 1)
    std = np.asarray(spec.std, dtype=np.float32).reshape(-1, 1, 1)
    tensor = (canvas[np.newaxis] - mean) / std  # one mean per channel: broadcasting repeats the picture
    if spec.layout is Layout.CHANNELS_LAST:
        tensor = tensor.transpose(1, 2, 0)
    return np.ascontiguousarray(tensor, dtype=np.float32)


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
    """Height and width of the picture within the model's rectangle."""
    if spec.fit is Fit.STRETCH:
        return spec.height, spec.width
    scale = min(spec.height / rows, spec.width / columns)
    height = min(max(round(rows * scale), 1), spec.height)
    width = min(max(round(columns * scale), 1), spec.width)
    return height, width


def _placed(height: int, width: int, spec: ProjectionInput) -> tuple[int, int]:
    """Row and column of the picture's top-left pixel; an odd pixel of padding goes to the end."""
    if spec.fit is Fit.PAD_CENTER:
        return (spec.height - height) // 2, (spec.width - width) // 2
    return 0, 0


def _resized(pixels: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """Bilinear with the filter widened to the reduction, so that shrinking does not alias."""
    if pixels.shape == (height, width):
        return pixels
    resized = PIL.Image.fromarray(pixels).resize((width, height), PIL.Image.Resampling.BILINEAR)
    return np.asarray(resized, dtype=np.float32)

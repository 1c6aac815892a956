"""Is this picture of the kind the model was trained on? A distance from the training pictures, before the network.

Called by `inference.study_run` for each picture of a model whose card has a `guard`. The distance is learnt from
training pictures alone (`training.guard`): for each part of `inference.appearance` how far a picture lies from their
mean within the directions in which they vary (Mahalanobis; Hotelling's T squared) and how much of it lies outside
those directions (the residual Q of Jackson and Mudholkar 1979). What lies beyond the median training picture is
added up over the parts (root of the sum of squares), so that a picture odd in several ways is further away than one
odd in a single one.
"""

from __future__ import annotations

import hashlib
import io
import math
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from inference.appearance import LENGTHS, Part, describe, thumbnail
from inference.breast import Side, find_breast
from inference.findings import Flag
from inference.images import Image
from inference.refusals import Reason, Refused
from models.card import BreastInput, Guard, ProjectionInput
from models.registry import InstalledModel, WeightsError

METHOD = "appearance-1"
_SMALLEST = 1e-9  # of a distance, so that its logarithm is finite
_TOO_FAR = 99.0  # distances beyond are all the same to the reader
_UNUSUAL = 1.0  # distance of a part from which it is named
_WORDS = {
    Part.LAYOUT: "where it is light and dark",
    Part.EDGES: "the course of its contours",
    Part.TEXTURE: "its detail and spread of greys",
}


class GuardError(WeightsError):
    """The file of a guard is not a guard, or one of a later version: its model cannot be run. Permanent."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PartStatistics:
    """How the training pictures' features of one part are spread.

    Attributes
    ----------
    mean : float64 (features,)
    axes : float64 (directions, features)
        Orthonormal principal directions.
    variances : float64 (directions,)
        Along each of them.
    residual : float
        Mean squared length of what lies outside them.
    middle, unit : (within, outside)
        Of the two log distances of training pictures held out by patient: the median, and how far above it the 98th
        percentile lies.
    """

    mean: NDArray[np.float64]
    axes: NDArray[np.float64]
    variances: NDArray[np.float64]
    residual: float
    middle: tuple[float, float] = (0.0, 0.0)
    unit: tuple[float, float] = (1.0, 1.0)

    def log_distances(self, features: NDArray[np.float64]) -> tuple[float, float]:
        """Logarithms of T squared a direction, and of the residual as a share of the usual one."""
        away = features - self.mean
        along = self.axes @ away
        within = float(np.mean(along**2 / self.variances))
        outside = max(float(away @ away - along @ along), 0.0) / self.residual
        return float(np.log(max(within, _SMALLEST))), float(np.log(max(outside, _SMALLEST)))

    def excess(self, within: float, outside: float) -> float:
        """How far two log distances lie above those of the median training picture, in units of the usual spread."""
        first = max((within - self.middle[0]) / self.unit[0], 0.0)
        return math.hypot(first, max((outside - self.middle[1]) / self.unit[1], 0.0))


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What the guard says of one picture.

    Attributes
    ----------
    distance : float
        Root of the sum of the squares of the parts'; 0 for a picture that is in nothing further away than the median.
    threshold : float
        The card's; a picture further away is out of range.
    parts : mapping
        Distance of each part; 1 is about where the outermost two in a hundred training pictures begin.
    resembles : str
        For a picture out of range: in words what would make it usual ("inverted", "upside down"), or empty.
    """

    distance: float
    threshold: float
    parts: Mapping[Part, float]
    resembles: str = ""

    @property
    def accepted(self) -> bool:
        """Whether the picture is of the kind the model was trained on."""
        return self.distance <= self.threshold

    @property
    def detail(self) -> str:
        """What was found, for the person who looks into it; no patient data."""
        unusual = [part for part in Part if self.parts[part] >= _UNUSUAL]
        unusual.sort(key=lambda part: -self.parts[part])
        words = f"unusual in {', '.join(_WORDS[part] for part in unusual)}" if unusual else "not unusual in any part"
        text = f"distance {min(self.distance, _TOO_FAR):.2f}, accepted up to {self.threshold:.2f}; {words}"
        return f"{text}; it may be {self.resembles}" if self.resembles else text


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class AppearanceGuard:
    """The guard of one model, ready to judge; it keeps no state, so any number of threads may use it."""

    statistics: Mapping[Part, PartStatistics]
    threshold: float
    action: Literal["refuse", "flag"] = "refuse"

    def judge(self, pixels: NDArray[np.float32], padded: NDArray[np.bool_] | None = None) -> Verdict:
        """Judge a picture (rows, columns) as it is displayed, grey in any range; `padded` is no part of it."""
        return self.judge_thumbnail(thumbnail(pixels, padded))

    def judge_thumbnail(self, grey: NDArray[np.float32]) -> Verdict:
        """Judge what `appearance.thumbnail` made of a picture."""
        parts = self.parts(grey)
        distance = combined(parts)
        resembles = self._resembles(grey) if distance > self.threshold else ""
        return Verdict(distance=distance, threshold=self.threshold, parts=parts, resembles=resembles)

    def parts(self, grey: NDArray[np.float32]) -> dict[Part, float]:
        """Distance of each part of a thumbnail."""
        features = describe(grey)
        return {part: one.excess(*one.log_distances(features[part])) for part, one in self.statistics.items()}

    def _resembles(self, grey: NDArray[np.float32]) -> str:
        """The one simple change after which the picture would be accepted; the most usual if there are several."""
        turned = (
            ("inverted: light and dark exchanged", 1.0 - grey),
            ("upside down", grey[::-1, ::-1]),
            ("upside down", grey[::-1]),  # which of the two it is, a mirrored film does not tell
            ("lying on its side", np.rot90(grey)),
            ("lying on its side", np.rot90(grey, 3)),
        )
        distances = [(combined(self.parts(np.ascontiguousarray(how))), name) for name, how in turned]
        nearest, name = min(distances)
        return name if nearest <= self.threshold else ""


def guard_of(model: InstalledModel) -> AppearanceGuard | None:
    """The guard of an installed model; None for a model whose card has none: nothing is checked then.

    Raises
    ------
    models.registry.WeightsError
        If the file is absent or altered, or (`GuardError`) is no guard that this version knows.
    """
    data, guard = model.guard(), model.card.guard
    if data is None or guard is None:
        return None
    try:
        return read_guard(data, guard)
    except GuardError as error:
        raise GuardError(f"{model.card.reference}: {error}") from error


def guard_flags(guard: AppearanceGuard, image: Image, spec: ProjectionInput | BreastInput) -> tuple[Flag, ...]:
    """The caution with which a picture is analysed: none where it is of the right kind.

    Raises
    ------
    inference.refusals.Refused
        OUT_OF_RANGE, with what is unusual in words, when the picture is not of that kind and the card says refuse.
    """
    verdict = guard.judge_thumbnail(thumbnail_of(image, spec))
    if verdict.accepted:
        return ()
    if guard.action == "refuse":
        raise Refused(Reason.OUT_OF_RANGE, verdict.detail)
    return (Flag.OUT_OF_RANGE,)


def combined(parts: Mapping[Part, float]) -> float:
    """The distance of a picture from those of its parts."""
    return float(np.sqrt(sum(distance**2 for distance in parts.values())))


def thumbnail_of(image: Image, spec: ProjectionInput | BreastInput) -> NDArray[np.float32]:
    """What a guard looks at: the whole picture; for a mammography model the breast, chest wall at the left.

    Raises
    ------
    inference.refusals.Refused
        OUT_OF_RANGE when no breast is found where one is needed.
    """
    if not isinstance(spec, BreastInput):
        return thumbnail(image.pixels, image.padded)
    breast = find_breast(image.pixels)
    cut = image.pixels[breast.top : breast.bottom, breast.left : breast.right]
    inside = breast.mask(
        rows=image.pixels.shape[0], columns=image.pixels.shape[1], height=cut.shape[0], width=cut.shape[1]
    )
    cut = np.where(inside, cut, np.float32(0.0))
    return thumbnail(cut[:, ::-1] if breast.chest_wall is Side.RIGHT else cut)


def read_guard(data: bytes, guard: Guard) -> AppearanceGuard:
    """The guard of a card from the bytes of its file.

    Raises
    ------
    GuardError
        If the bytes are not those of the card, the method is unknown, or an array is missing, odd or not finite.
    """
    if hashlib.sha256(data).hexdigest() != guard.sha256:
        raise GuardError(f"{guard.file} is not the file of the card: its sha256 differs")
    if guard.method != METHOD:
        raise GuardError(f"{guard.file}: method {guard.method!r} is unknown; this version knows {METHOD!r}")
    try:
        arrays = _arrays(data)
        statistics = {part: _part(arrays, part) for part in Part}
    except GuardError as error:
        raise GuardError(f"{guard.file}: {error}") from error
    return AppearanceGuard(statistics=statistics, threshold=guard.threshold, action=guard.action)


def guard_bytes(statistics: Mapping[Part, PartStatistics]) -> bytes:
    """The file that `read_guard` reads: an npz of float32 arrays, the same bytes for the same statistics."""
    arrays: dict[str, NDArray[np.float32]] = {}
    for part in Part:
        one = statistics[part]
        arrays |= {
            f"{part}.mean": one.mean.astype(np.float32),
            f"{part}.axes": one.axes.astype(np.float32),
            f"{part}.variances": one.variances.astype(np.float32),
            f"{part}.scale": np.asarray([one.residual, *one.middle, *one.unit], dtype=np.float32),
        }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            entry = io.BytesIO()
            np.lib.format.write_array(entry, array, allow_pickle=False)
            # A fixed date: what is the same shall have the same digest.
            archive.writestr(zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0)), entry.getvalue())
    return buffer.getvalue()


def _arrays(data: bytes) -> dict[str, NDArray[np.generic]]:
    """The arrays of an npz; only their own format is read, never a pickle."""
    try:
        opened = np.load(io.BytesIO(data), allow_pickle=False)
        if not isinstance(opened, np.lib.npyio.NpzFile):
            raise GuardError("one array where several are expected")
        with opened:
            return {name: opened[name] for name in opened.files}
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise GuardError("not a file of arrays (npz)") from error


def _part(arrays: Mapping[str, NDArray[np.generic]], part: Part) -> PartStatistics:
    length = LENGTHS[part]
    mean = _array(arrays, f"{part}.mean", (length,))
    variances = _array(arrays, f"{part}.variances", (None,))
    axes = _array(arrays, f"{part}.axes", (variances.size, length))
    residual, *scale = _array(arrays, f"{part}.scale", (5,)).tolist()
    if not (variances > 0).all() or residual <= 0 or min(scale[2:]) <= 0:
        raise GuardError(f"{part}: a spread that is not positive")
    return PartStatistics(
        mean=mean,
        axes=axes,
        variances=variances,
        residual=residual,
        middle=(scale[0], scale[1]),
        unit=(scale[2], scale[3]),
    )


def _array(arrays: Mapping[str, NDArray[np.generic]], name: str, shape: tuple[int | None, ...]) -> NDArray[np.float64]:
    if name not in arrays:
        raise GuardError(f"{name} is missing")
    array = arrays[name]
    fits = array.ndim == len(shape) and all(want in (None, has) for want, has in zip(shape, array.shape, strict=True))
    if array.dtype != np.float32 or not fits or not array.size:
        raise GuardError(f"{name} is {array.dtype} {array.shape}, expected float32 {shape}")
    if not np.isfinite(array).all():
        raise GuardError(f"{name} holds values that are not numbers")
    return array.astype(np.float64)

"""Is this picture of the kind the model was trained on? A distance from the training pictures, before the network.

Called by `inference.study_run` for each picture of a model whose card has a `guard`. The distance is learnt from
training pictures alone (`training.guard`): for each part of `inference.appearance` how far a picture lies from their
mean within the directions in which they vary (Mahalanobis; Hotelling's T squared) and how much of it lies outside
those directions (the residual Q of Jackson and Mudholkar 1979). What lies beyond the median training picture is
added up over the parts (root of the sum of squares), so that a picture odd in several ways is further away than one
odd in a single one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from inference.appearance import LENGTHS, Part, describe, surroundings, thumbnail
from inference.breast import Side, find_breast
from inference.findings import Flag
from inference.guard_file import GuardError, file_of, named, read_arrays
from inference.images import Image
from inference.refusals import Reason, Refused
from inference.volume_guard import HOUNSFIELD, VolumeGuard, read_volume_guard
from models.card import Guard
from models.inputs import BreastInput, ProjectionInput, VolumeInput
from models.registry import InstalledModel

WHOLE, BREAST = "appearance-1", "breast-appearance-1"
METHODS: Mapping[str, tuple[Part, ...]] = {
    WHOLE: (Part.LAYOUT, Part.EDGES, Part.TEXTURE),
    BREAST: (Part.LAYOUT, Part.EDGES, Part.TEXTURE, Part.SURROUNDINGS),
}
ROOTS = frozenset({Part.SURROUNDINGS})  # parts whose distances are roots, not logarithms
_SMALLEST = 1e-9  # of a distance, so that its logarithm is finite
_TOO_FAR = 99.0  # distances beyond are all the same to the reader
_BREAST_SIDE = 512  # pixels; the breast is found and cut out on a picture about this large
_UNUSUAL = 1.0  # distance of a part from which it is named
_WORDS = {
    Part.LAYOUT: "where it is light and dark",
    Part.EDGES: "the course of its contours",
    Part.TEXTURE: "its detail and spread of greys",
    Part.SURROUNDINGS: "what lies beside the breast",
}


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
        Of the two distances of training pictures held out by patient: the median, and how far above it the 98th
        percentile lies; with `root` the furthest, and a tenth of it.
    root : bool
        Distances are roots: for a part with few features, of which most pictures have none and some have much.
    """

    mean: NDArray[np.float64]
    axes: NDArray[np.float64]
    variances: NDArray[np.float64]
    residual: float
    middle: tuple[float, float] = (0.0, 0.0)
    unit: tuple[float, float] = (1.0, 1.0)
    root: bool = False

    def distances(self, features: NDArray[np.float64]) -> tuple[float, float]:
        """T squared a direction, and the residual as a share of the usual one; logarithms, or roots if `root`."""
        away = features - self.mean
        along = self.axes @ away
        within = float(np.mean(along**2 / self.variances))
        outside = max(float(away @ away - along @ along), 0.0) / self.residual
        if self.root:
            return math.sqrt(within), math.sqrt(outside)
        return math.log(max(within, _SMALLEST)), math.log(max(outside, _SMALLEST))

    def excess(self, within: float, outside: float) -> float:
        """How far two distances lie above those of the median training picture, in units of the usual spread."""
        first = max((within - self.middle[0]) / self.unit[0], 0.0)
        return math.hypot(first, max((outside - self.middle[1]) / self.unit[1], 0.0))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Seen:
    """What a guard looks at.

    Attributes
    ----------
    grey : float32 (SIDE, SIDE)
        Thumbnail of the picture, for a mammography model of the breast cut out of it.
    around : float64 (3,) or None
        `appearance.surroundings` of the breast; None where the whole picture is looked at.
    """

    grey: NDArray[np.float32]
    around: NDArray[np.float64] | None = None

    @property
    def features(self) -> dict[Part, NDArray[np.float64]]:
        """Features of each part."""
        found = describe(self.grey)
        return found if self.around is None else found | {Part.SURROUNDINGS: self.around}


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
        unusual = [part for part, away in self.parts.items() if away >= _UNUSUAL]
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

    def judge(self, seen: Seen) -> Verdict:
        """Judge what `see` made of a picture."""
        parts = self.parts(seen)
        distance = combined(parts)
        resembles = self._resembles(seen) if distance > self.threshold else ""
        return Verdict(distance=distance, threshold=self.threshold, parts=parts, resembles=resembles)

    def parts(self, seen: Seen) -> dict[Part, float]:
        """Distance of each part."""
        features = seen.features
        return {part: one.excess(*one.distances(features[part])) for part, one in self.statistics.items()}

    def _resembles(self, seen: Seen) -> str:
        """The one simple change after which the picture would be accepted; the most usual if there are several."""
        grey = seen.grey
        turned = (
            ("inverted: light and dark exchanged", 1.0 - grey),
            ("upside down", grey[::-1, ::-1]),
            ("upside down", grey[::-1]),  # which of the two it is, a mirrored film does not tell
            ("lying on its side", np.rot90(grey)),
            ("lying on its side", np.rot90(grey, 3)),
        )
        changed = [(name, replace(seen, grey=np.ascontiguousarray(how))) for name, how in turned]
        distances = [(combined(self.parts(how)), name) for name, how in changed]
        nearest, name = min(distances)
        return name if nearest <= self.threshold else ""


def guard_of(model: InstalledModel) -> AppearanceGuard | VolumeGuard | None:
    """The guard of an installed model; None for a model whose card has none: nothing is checked then.

    Raises
    ------
    models.registry.WeightsError
        If the file is absent or altered, or (`GuardError`) is no guard that this version knows for such a model.
    """
    data, guard = model.guard(), model.card.guard
    if data is None or guard is None:
        return None
    spec = model.card.input
    fitting = HOUNSFIELD if isinstance(spec, VolumeInput) else method_of(spec)
    try:
        if guard.method in (*METHODS, HOUNSFIELD) and guard.method != fitting:
            raise GuardError(f"{guard.file}: method {guard.method!r} is not for an input of kind {spec.kind!r}")
        return read_volume_guard(data, guard) if guard.method == HOUNSFIELD else read_guard(data, guard)
    except GuardError as error:
        raise GuardError(f"{model.card.reference}: {error}") from error


def method_of(spec: ProjectionInput | BreastInput) -> str:
    """The method by which pictures of a model with this input are judged."""
    return BREAST if isinstance(spec, BreastInput) else WHOLE


def guard_flags(guard: AppearanceGuard, image: Image, spec: ProjectionInput | BreastInput) -> tuple[Flag, ...]:
    """The caution with which a picture is analysed: none where it is of the right kind.

    Raises
    ------
    inference.refusals.Refused
        OUT_OF_RANGE, with what is unusual in words, when the picture is not of that kind and the card says refuse.
    """
    verdict = guard.judge(see(image.pixels, spec, image.padded))
    if verdict.accepted:
        return ()
    if guard.action == "refuse":
        raise Refused(Reason.OUT_OF_RANGE, verdict.detail)
    return (Flag.OUT_OF_RANGE,)


def combined(parts: Mapping[Part, float]) -> float:
    """The distance of a picture from those of its parts."""
    return float(np.sqrt(sum(distance**2 for distance in parts.values())))


def see(
    pixels: NDArray[np.float32], spec: ProjectionInput | BreastInput, padded: NDArray[np.bool_] | None = None
) -> Seen:
    """What a guard looks at: the whole picture; for a mammography model the breast, chest wall at the left.

    Parameters
    ----------
    pixels : float32 (rows, columns)
        Grey as displayed.
    padded : bool (rows, columns), optional
        True where a pixel is padding.

    Raises
    ------
    inference.refusals.Refused
        OUT_OF_RANGE when no breast is found where one is needed.
    """
    if not isinstance(spec, BreastInput):
        return Seen(grey=thumbnail(pixels, padded))
    small = _reduced(pixels)
    rows, columns = small.shape
    breast = find_breast(small)
    height, width = breast.bottom - breast.top, breast.right - breast.left
    inside = np.zeros(small.shape, dtype=np.bool_)
    rectangle = np.s_[breast.top : breast.bottom, breast.left : breast.right]
    inside[rectangle] = breast.mask(rows=rows, columns=columns, height=height, width=width)
    if not inside.any():
        raise Refused(Reason.OUT_OF_RANGE, "no breast found: nothing on the picture is large enough")
    cut = np.where(inside, small, np.float32(0.0))[rectangle]
    grey = thumbnail(cut[:, ::-1] if breast.chest_wall is Side.RIGHT else cut)
    return Seen(grey=grey, around=surroundings(small, inside))


def _reduced(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """The picture a whole number of times smaller, so that its longer side is at most twice `_BREAST_SIDE`."""
    factor = max(pixels.shape) // _BREAST_SIDE
    if factor <= 1:
        return pixels
    return np.asarray(PIL.Image.fromarray(pixels).reduce(factor), dtype=np.float32)


def read_guard(data: bytes, guard: Guard) -> AppearanceGuard:
    """The guard of a card from the bytes of its file.

    Raises
    ------
    GuardError
        If the bytes are not those of the card, the method is unknown, or an array is missing, odd or not finite.
    """
    if guard.method not in METHODS:
        known = ", ".join((*METHODS, HOUNSFIELD))
        raise GuardError(f"{guard.file}: method {guard.method!r} is unknown; this version knows {known}")
    try:
        arrays = read_arrays(data, guard)
        statistics = {part: _part(arrays, part) for part in METHODS[guard.method]}
    except GuardError as error:
        raise GuardError(f"{guard.file}: {error}") from error
    return AppearanceGuard(statistics=statistics, threshold=guard.threshold, action=guard.action)


def guard_bytes(statistics: Mapping[Part, PartStatistics]) -> bytes:
    """The file that `read_guard` reads."""
    arrays: dict[str, NDArray[np.float64]] = {}
    for part, one in statistics.items():
        arrays |= {
            f"{part}.mean": one.mean,
            f"{part}.axes": one.axes,
            f"{part}.variances": one.variances,
            f"{part}.scale": np.asarray([one.residual, *one.middle, *one.unit]),
        }
    return file_of(arrays)


def _part(arrays: Mapping[str, NDArray[np.generic]], part: Part) -> PartStatistics:
    length = LENGTHS[part]
    mean = named(arrays, f"{part}.mean", (length,))
    variances = named(arrays, f"{part}.variances", (None,))
    axes = named(arrays, f"{part}.axes", (variances.size, length))
    residual, *scale = named(arrays, f"{part}.scale", (5,)).tolist()
    if not (variances > 0).all() or residual <= 0 or min(scale[2:]) <= 0:
        raise GuardError(f"{part}: a spread that is not positive")
    return PartStatistics(
        mean=mean,
        axes=axes,
        variances=variances,
        residual=residual,
        middle=(scale[0], scale[1]),
        unit=(scale[2], scale[3]),
        root=part in ROOTS,
    )

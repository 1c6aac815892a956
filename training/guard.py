"""Fits a model's guard from training films: statistics of appearance, a threshold, and how often it is wrong.

Called by the release stage (`fit_guard`, `write_guard`) and as ``python -m training.guard MODEL_FOLDER`` for a model
that has no guard yet. Only pictures of the right kind are looked at, never one of another kind; what is caught is
measured by ``python -m benchmarks.guard``. Judging is `inference.guard`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from eval.intervals import clopper_pearson
from inference.appearance import SIDE, Part, describe
from inference.guard import METHOD, AppearanceGuard, PartStatistics, combined, guard_bytes, thumbnail_of
from models.card import BreastInput, Figure, Guard, ProjectionInput
from training.cache import read_picture
from training.data import ADULT_AGE_YEARS, Film
from training.files import write_whole
from training.splits import Splits

GUARD_FILE = "guard.npz"
_CONFIDENCE = 0.95
_OLDER_AGE_YEARS = 60
_SCALE_QUANTILE = 0.98  # of held-out distances: the unit in which parts are compared
_THRESHOLD_STEP = 1e-4  # thresholds are rounded up to it
_SMALLEST_UNIT = 1e-3
_SMALLEST_RESIDUAL = 1e-9


class GuardDataError(Exception):
    """There are too few films, or too few patients, to fit a guard."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GuardSettings:
    """How a guard is fitted. The bounds of the variations say what still counts as a film of the right kind.

    Attributes
    ----------
    max_refused : float
        Highest share of real films that may be refused, with 95 % confidence.
    kept : mapping
        Share of the variance that a part's principal directions explain; the rest is the residual.
    variations : int
        Changed copies of each film that widen the statistics; none of them is judged.
    mirrored : bool
        Whether a mirror image is of the right kind.
    rotation_degrees, scale, stretch, shift, log_gamma, clipped, noise, bands : float
        Largest turn; logarithms of the largest change of size and of proportions; largest shift and blanked side as
        shares of the side; logarithm of the largest gamma; share of the greys cut off at each end; noise as a share
        of the range.
    """

    max_refused: float = 0.015
    kept: Mapping[Part, float] = field(
        default_factory=lambda: {Part.LAYOUT: 0.95, Part.EDGES: 0.90, Part.TEXTURE: 0.995}
    )
    variations: int = 6
    mirrored: bool = True
    rotation_degrees: float = 8.0
    scale: float = 0.15
    stretch: float = 0.10
    shift: float = 0.06
    log_gamma: float = 0.5
    clipped: float = 0.15
    noise: float = 0.02
    bands: float = 0.10
    seed: int = 0


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class GuardFilm:
    """One real picture to fit or judge by.

    Attributes
    ----------
    name : str
        Its name in the set; seeds its variations.
    patient : str
        Films of a patient are never parted.
    fold : int
        Where it is held out.
    usual : bool
        Within the model's intended use: it fits the guard and sets the threshold. Others are only judged.
    grey : uint8 (SIDE, SIDE)
        The thumbnail, 255 for white.
    groups : tuple of str
        What it is counted under: "view AP", "age under 18".
    """

    name: str
    patient: str
    fold: int
    usual: bool
    grey: NDArray[np.uint8]
    groups: tuple[str, ...] = ()

    @property
    def thumbnail(self) -> NDArray[np.float32]:
        """The picture as `inference.appearance` describes it."""
        return self.grey.astype(np.float32) / np.float32(255)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FittedGuard:
    """What came of a fit.

    Attributes
    ----------
    guard : AppearanceGuard
        Fitted on all usual films; what is served.
    fold_guards : mapping of int to AppearanceGuard
        For each fold the guard whose statistics, scale and threshold come from other patients alone.
    distances : float64 (films,)
        Of each film, by its fold's guard.
    figures : tuple of Figure
        False alarms of the folds' guards, for the card.
    content : bytes
        The file `guard.npz`.
    """

    guard: AppearanceGuard
    fold_guards: Mapping[int, AppearanceGuard]
    distances: NDArray[np.float64]
    figures: tuple[Figure, ...]
    content: bytes

    def card_part(self, *, action: Literal["refuse", "flag"] = "refuse", file: str = GUARD_FILE) -> Guard:
        """The card's `guard`."""
        return Guard(
            file=file,
            sha256=hashlib.sha256(self.content).hexdigest(),
            method=METHOD,
            threshold=self.guard.threshold,
            action=action,
            figures=self.figures,
        )


def guard_films(
    films: Sequence[Film],
    splits: Splits,
    spec: ProjectionInput | BreastInput,
    *,
    on_film: Callable[[], None] = lambda: None,
) -> tuple[GuardFilm, ...]:
    """Thumbnails of `films`, as the node would take them for a model with the input `spec`.

    Raises
    ------
    inference.refusals.Refused
        If a film cannot be read.
    """
    found = []
    for film in films:
        grey = thumbnail_of(read_picture(film), spec)
        found.append(
            GuardFilm(
                name=film.image,
                patient=film.patient,
                fold=splits.fold_of[film.image],
                usual=film.adult,
                grey=np.round(grey * 255).astype(np.uint8),
                groups=_groups(film),
            )
        )
        on_film()
    return tuple(found)


def fit_guard(films: Sequence[GuardFilm], settings: GuardSettings | None = None) -> FittedGuard:
    """Fit on all usual films, with scale, threshold and false alarms from guards that had not seen the patient.

    The threshold is a distribution-free tolerance limit (Wilks 1941): the highest number of held-out films is left
    beyond it for which, with 95 % confidence, at most `max_refused` of such films are refused.

    Raises
    ------
    GuardDataError
        If a fold leaves fewer than two films to fit on, or a patient is in two folds.
    """
    settings = settings or GuardSettings()
    _check(films)
    described = [_described(film, settings) for film in films]
    usual = np.asarray([film.usual for film in films])
    folds = np.asarray([film.fold for film in films])
    # A first pass finds what does not belong: in any large set a few films lie upside down or are of another part.
    # They still count as real films when the threshold is set; they only teach nothing.
    logs, _ = _held_out(described, usual, folds, settings)
    first = _calibrated(_fit(described, usual, settings), logs[usual], settings)
    taught = usual & (np.asarray([_distance(first, row) for row in logs]) <= first.threshold)
    logs, fitted = _held_out(described, taught, folds, settings)
    fold_guards = {
        fold: _calibrated(statistics, logs[usual & (folds != fold)], settings) for fold, statistics in fitted.items()
    }
    distances = np.asarray([_distance(fold_guards[film.fold], row) for film, row in zip(films, logs, strict=True)])
    thresholds = np.asarray([fold_guards[film.fold].threshold for film in films])
    guard = _calibrated(_fit(described, taught, settings), logs[usual], settings)
    return FittedGuard(
        guard=guard,
        fold_guards=fold_guards,
        distances=distances,
        figures=false_alarms(films, distances > thresholds),
        content=guard_bytes(guard.statistics),
    )


def write_guard(fitted: FittedGuard, folder: Path, *, action: Literal["refuse", "flag"] = "refuse") -> Guard:
    """Write `guard.npz` into a model's folder, whole or not at all; returns the card's `guard`."""
    write_whole(folder / GUARD_FILE, fitted.content)
    return fitted.card_part(action=action)


def false_alarms(films: Sequence[GuardFilm], beyond: NDArray[np.bool_]) -> tuple[Figure, ...]:
    """Share of real films that are refused, with exact 95 % intervals: all usual films, then each group."""
    usual = np.asarray([film.usual for film in films])
    figures = [_share("real films refused", beyond, usual, films, "within intended use")]
    for group in sorted({group for film in films for group in film.groups}):
        inside = np.asarray([group in film.groups for film in films])
        if (inside & usual).any():
            figures.append(_share(f"real films refused, {group}", beyond, inside & usual, films, group))
        else:
            figures.append(_share(f"films outside intended use refused, {group}", beyond, inside, films, group))
    return tuple(figures)


def varied(film: GuardFilm, settings: GuardSettings) -> Iterator[NDArray[np.float32]]:
    """The film and its changed copies: turned, scaled, stretched, shifted, mirrored, with another gamma."""
    yield film.thumbnail
    seed = int.from_bytes(hashlib.sha256(film.name.encode()).digest()[:8], "big")
    random = np.random.default_rng([settings.seed, seed])
    for _ in range(settings.variations):
        yield _variation(film.thumbnail, random, settings)


def _variation(grey: NDArray[np.float32], random: np.random.Generator, settings: GuardSettings) -> NDArray[np.float32]:
    angle = np.deg2rad(random.uniform(-settings.rotation_degrees, settings.rotation_degrees))
    scale = np.exp(random.uniform(-settings.scale, settings.scale))
    stretch = np.exp(random.uniform(-settings.stretch, settings.stretch) / 2)
    x, y = (SIDE * (0.5 + random.uniform(-settings.shift, settings.shift)) for _ in range(2))
    gamma = float(np.exp(random.uniform(-settings.log_gamma, settings.log_gamma)))
    cos, sin = np.cos(angle) / scale, np.sin(angle) / scale
    a, b, d, e = cos / stretch, sin / stretch, -sin * stretch, cos * stretch
    middle = SIDE / 2
    way = (a, b, middle - a * x - b * y, d, e, middle - d * x - e * y)
    turned = PIL.Image.fromarray(grey).transform(
        (SIDE, SIDE), PIL.Image.Transform.AFFINE, way, resample=PIL.Image.Resampling.BILINEAR, fillcolor=0
    )
    changed = np.asarray(turned, dtype=np.float32) ** np.float32(gamma)
    low, high = random.uniform(0, settings.clipped), 1 - random.uniform(0, settings.clipped)
    changed = np.clip((changed - low) / (high - low), 0.0, 1.0).astype(np.float32)
    changed += random.normal(0.0, random.uniform(0, settings.noise), changed.shape).astype(np.float32)
    top, bottom, left, right = (_band(random, settings) for _ in range(4))
    changed[:top], changed[SIDE - bottom :], changed[:, :left], changed[:, SIDE - right :] = 0.0, 0.0, 0.0, 0.0
    if settings.mirrored and random.random() < 0.5:  # noqa: PLR2004 - a coin
        changed = changed[:, ::-1]
    return np.ascontiguousarray(changed)


def _band(random: np.random.Generator, settings: GuardSettings) -> int:
    """Width of a blanked side, as a collimator or padding leaves it; three in four sides have none."""
    blanked = random.random() < 0.25  # noqa: PLR2004
    return round(random.uniform(0, settings.bands) * SIDE) if blanked else 0


def _described(film: GuardFilm, settings: GuardSettings) -> dict[Part, NDArray[np.float64]]:
    """Features (1 + variations, length) of each part; the first row is the film itself."""
    pictures = varied(film, settings) if film.usual else iter([film.thumbnail])
    rows = [describe(grey) for grey in pictures]
    return {part: np.stack([row[part] for row in rows]) for part in Part}


def _held_out(
    described: Sequence[Mapping[Part, NDArray[np.float64]]],
    taught: NDArray[np.bool_],
    folds: NDArray[np.int_],
    settings: GuardSettings,
) -> tuple[NDArray[np.float64], dict[int, dict[Part, PartStatistics]]]:
    """Log distances (films, parts, 2) of each film by the statistics of the other folds, and those statistics."""
    fitted = {fold: _fit(described, taught & (folds != fold), settings) for fold in sorted(set(folds.tolist()))}
    logs = [
        [fitted[fold][part].log_distances(one[part][0]) for part in Part]
        for fold, one in zip(folds.tolist(), described, strict=True)
    ]
    return np.asarray(logs), fitted


def _fit(
    described: Sequence[Mapping[Part, NDArray[np.float64]]], chosen: NDArray[np.bool_], settings: GuardSettings
) -> dict[Part, PartStatistics]:
    rows = np.flatnonzero(chosen).tolist()
    return {part: _spread(np.concatenate([described[row][part] for row in rows]), settings.kept[part]) for part in Part}


def _spread(features: NDArray[np.float64], kept: float) -> PartStatistics:
    """Mean, principal directions that explain `kept` of the variance, and what is left."""
    mean = features.mean(axis=0)
    covariance = np.cov(features, rowvar=False)
    variances, axes = (array[..., ::-1] for array in np.linalg.eigh(covariance))
    explained = np.cumsum(variances) / variances.sum()
    count = min(int(np.searchsorted(explained, kept)) + 1, len(variances) - 1, len(features) - 1)
    residual = max(float(variances[count:].sum()), _SMALLEST_RESIDUAL)
    # In the precision of the file, so that what is served is what was measured.
    kept_arrays = (mean, axes[:, :count].T, variances[:count])
    mean, directions, along = (np.ascontiguousarray(array, dtype=np.float32).astype(float) for array in kept_arrays)
    return PartStatistics(mean=mean, axes=directions, variances=along, residual=float(np.float32(residual)))


def _calibrated(
    statistics: Mapping[Part, PartStatistics], logs: NDArray[np.float64], settings: GuardSettings
) -> AppearanceGuard:
    """A guard whose scale and threshold come from the log distances (films, parts, 2) of held-out films."""
    middle = np.median(logs, axis=0)
    unit = np.maximum(np.quantile(logs, _SCALE_QUANTILE, axis=0) - middle, _SMALLEST_UNIT)
    scaled = {
        part: replace(statistics[part], middle=_single(middle[row]), unit=_single(unit[row]))
        for row, part in enumerate(Part)
    }
    guard = AppearanceGuard(statistics=scaled, threshold=0.0)
    return replace(guard, threshold=_threshold([_distance(guard, row) for row in logs], settings.max_refused))


def _distance(guard: AppearanceGuard, logs: NDArray[np.float64]) -> float:
    return combined(
        {part: guard.statistics[part].excess(*pair) for part, pair in zip(Part, logs.tolist(), strict=True)}
    )


def _single(pair: NDArray[np.float64]) -> tuple[float, float]:
    """In the precision of the file, so that what is served is what was measured."""
    first, second = pair.astype(np.float32).tolist()
    return first, second


def _threshold(distances: Sequence[float], max_refused: float) -> float:
    """The lowest distance beyond which so few films lie that more than `max_refused` is unlikely; see `fit_guard`."""
    from scipy.stats import beta

    ordered = np.sort(distances)[::-1]
    count = len(ordered)
    beyond = 0
    while beyond + 1 < count and beta.ppf(_CONFIDENCE, beyond + 2, count - beyond - 1) <= max_refused:
        beyond += 1
    return float(np.ceil(ordered[beyond] / _THRESHOLD_STEP) * _THRESHOLD_STEP)


def _share(
    name: str, beyond: NDArray[np.bool_], inside: NDArray[np.bool_], films: Sequence[GuardFilm], group: str
) -> Figure:
    estimate = clopper_pearson(int((beyond & inside).sum()), int(inside.sum()))
    patients = len({film.patient for film, counts in zip(films, inside, strict=True) if counts})
    return Figure(
        name=name,
        value=round(estimate.value, 5),
        low=round(estimate.low, 5),
        high=round(estimate.high, 5),
        on=f"{int(inside.sum())} films of {patients} patients, {group}, each by a guard that did not see the patient",
    )


def _groups(film: Film) -> tuple[str, ...]:
    groups = [f"view {film.view}"] if film.view else []
    if (age := film.numbers.get("age_years")) is not None:
        older = age >= _OLDER_AGE_YEARS
        adult = f"age {ADULT_AGE_YEARS} to {_OLDER_AGE_YEARS - 1}" if not older else f"age {_OLDER_AGE_YEARS} and over"
        groups.append(adult if age >= ADULT_AGE_YEARS else f"age under {ADULT_AGE_YEARS}")
    return tuple(groups)


def _check(films: Sequence[GuardFilm]) -> None:
    folds_of: dict[str, set[int]] = {}
    for film in films:
        folds_of.setdefault(film.patient, set()).add(film.fold)
    if any(len(folds) > 1 for folds in folds_of.values()):
        raise GuardDataError("a patient is in two folds: the guard would be judged on patients it has seen")
    for fold in {film.fold for film in films}:
        left = sum(film.usual and film.fold != fold for film in films)
        if left < 2:  # noqa: PLR2004 - a spread needs two
            raise GuardDataError(f"without fold {fold} there are {left} films to fit a guard on")

"""Fits a model's guard from training films: statistics of appearance, a threshold, and how often it is wrong.

Called by the release stage (`guard_films`, `fit_guard`, `write_guard`) and, for a model that is there already, as
``python -m training.guard MODEL_FOLDER --recipe FILE --data DIR``. Only pictures of the right kind are looked at, never
one of another kind; what is caught is measured by ``python -m benchmarks.guard``. Judging is `inference.guard`.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from eval.intervals import clopper_pearson
from inference.appearance import SIDE, Part, thumbnail
from inference.guard import (
    BREAST,
    ROOTS,
    WHOLE,
    AppearanceGuard,
    PartStatistics,
    Seen,
    combined,
    guard_bytes,
    see,
)
from inference.refusals import Refused
from models.card import CardError, Figure, Guard, read_card
from models.inputs import BreastInput, ProjectionInput, VolumeInput
from training.cache import read_picture
from training.data import ADULT_AGE_YEARS, Film
from training.errors import DataError, TrainingError
from training.files import write_whole
from training.splits import Splits
from training.toml import to_toml

GUARD_FILE, CARD_FILE = "guard.npz", "card.toml"
Action: TypeAlias = Literal["refuse", "flag"]
CARD_HEAD = "# Written by radnode train, the guard by training.guard or training.volume_guard: not a file to edit.\n\n"
MOST_FILMS = 3000  # of a large set: more change nothing, and take memory and time
_CONFIDENCE = 0.95
_OLDER_AGE_YEARS = 60
_SCALE_QUANTILE = 0.98  # of held-out distances: the unit in which parts are compared
_THRESHOLD_STEP = 1e-4  # thresholds are rounded up to it
_SMALLEST_UNIT = 1e-3
_SMALLEST_RESIDUAL = 1e-9


# What lies beside the part that is looked at has no usual spread: most films have nothing there, some much. It may be
# as much as beside any training film, and is out of range by how much more it is.
_PLAIN = PartStatistics(mean=np.zeros(3), axes=np.eye(2, 3), variances=np.ones(2), residual=1.0, root=True)
_LEAST_AROUND = 0.3  # root of the area beside the breast, as a share of it, that is accepted whatever the set


class GuardDataError(DataError):
    """There are too few films, or a patient is in two folds: no guard can be fitted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GuardSettings:
    """How a guard is fitted. The bounds of the variations say what still counts as a film of the right kind.

    Attributes
    ----------
    max_refused : float
        Highest share of real films that may be refused, with 95 % confidence.
    kept : mapping
        Share of the variance that a part's principal directions explain; the rest is the residual. Surroundings have
        no principal directions.
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
        default_factory=lambda: {Part.LAYOUT: 0.95, Part.EDGES: 0.90, Part.TEXTURE: 0.995, Part.SURROUNDINGS: 1.0}
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
        Its name in the set.
    patient : str
        Films of a patient are never parted.
    fold : int
        Where it is held out.
    usual : bool
        Within the model's intended use: it fits the guard and sets the threshold. Others are only judged.
    features : mapping of Part to float64 (1 + variations, length)
        Of the film itself, and of its changed copies, which widen the statistics.
    groups : tuple of str
        What it is counted under: "view AP", "age under 18".
    """

    name: str
    patient: str
    fold: int
    usual: bool
    features: Mapping[Part, NDArray[np.float64]]
    groups: tuple[str, ...] = ()


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

    def card_part(self, *, action: Action = "refuse", file: str = GUARD_FILE) -> Guard:
        """The card's `guard`."""
        return Guard(
            file=file,
            sha256=hashlib.sha256(self.content).hexdigest(),
            method=BREAST if Part.SURROUNDINGS in self.guard.statistics else WHOLE,
            threshold=self.guard.threshold,
            action=action,
            figures=self.figures,
        )


def guard_films(
    films: Sequence[Film],
    splits: Splits,
    spec: ProjectionInput | BreastInput,
    *,
    settings: GuardSettings | None = None,
    most: int = MOST_FILMS,
    on_film: Callable[[], None] = lambda: None,
) -> tuple[GuardFilm, ...]:
    """Features of `films` and of changed copies of them, as the node would see them for the input `spec`.

    Of a set with more than `most` films whole patients are taken until there are that many, in an order that depends
    on their keys alone.

    Raises
    ------
    inference.refusals.Refused
        If a film cannot be read.
    """
    found: list[GuardFilm] = []
    order = {film.image: hashlib.sha256(film.patient.encode()).digest() for film in films}
    last = b""
    for film in sorted(films, key=lambda film: (order[film.image], film.image)):
        if len(found) >= most and order[film.image] != last:
            break
        last = order[film.image]
        image = read_picture(film)
        seen = see(image.pixels, spec, image.padded)
        copies = varied(film.image, image.pixels, spec, settings or GuardSettings()) if film.adult else ()
        found.append(
            GuardFilm(
                name=film.image,
                patient=film.patient,
                fold=splits.fold_of[film.image],
                usual=film.adult,
                features=stacked(one.features for one in (seen, *copies)),
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
    described = [film.features for film in films]
    usual = np.asarray([film.usual for film in films])
    folds = np.asarray([film.fold for film in films])
    # A first pass finds what does not belong: in any large set a few films lie upside down or are of another part.
    # They still count as real films when the threshold is set; they only teach nothing.
    apart, _ = _held_out(described, usual, folds, settings)
    first = _calibrated(_fit(described, usual, settings), apart[usual], settings)
    taught = usual & (np.asarray([_distance(first, row) for row in apart]) <= first.threshold)
    apart, fitted = _held_out(described, taught, folds, settings)
    fold_guards = {
        fold: _calibrated(statistics, apart[usual & (folds != fold)], settings) for fold, statistics in fitted.items()
    }
    distances = np.asarray([_distance(fold_guards[film.fold], row) for film, row in zip(films, apart, strict=True)])
    thresholds = np.asarray([fold_guards[film.fold].threshold for film in films])
    guard = _calibrated(_fit(described, taught, settings), apart[usual], settings)
    return FittedGuard(
        guard=guard,
        fold_guards=fold_guards,
        distances=distances,
        figures=false_alarms(films, distances > thresholds),
        content=guard_bytes(guard.statistics),
    )


def write_guard(fitted: FittedGuard, folder: Path, *, action: Action = "refuse") -> Guard:
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


def varied(
    name: str, pixels: NDArray[np.float32], spec: ProjectionInput | BreastInput, settings: GuardSettings
) -> Iterator[Seen]:
    """Changed copies of a film: turned, scaled, stretched, shifted, mirrored, with other greys, noise, blank sides.

    They depend on the film's name and the settings' seed alone. A copy on which nothing is found is left out.
    """
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
    random = np.random.default_rng([settings.seed, seed])
    small = thumbnail(pixels) if isinstance(spec, ProjectionInput) else _halved(pixels)
    for _ in range(settings.variations):
        with contextlib.suppress(Refused):
            yield see(_variation(small, random, settings), spec)


def stacked(features: Iterable[Mapping[Part, NDArray[np.float64]]]) -> dict[Part, NDArray[np.float64]]:
    """Features of several pictures as one array (pictures, length) for each part."""
    rows = list(features)
    return {part: np.stack([row[part] for row in rows]) for part in rows[0]}


def _halved(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """The picture small enough to be changed quickly, its proportions kept."""
    factor = max(1, max(pixels.shape) // (2 * SIDE))
    return np.asarray(PIL.Image.fromarray(pixels).reduce(factor), dtype=np.float32)


def _variation(grey: NDArray[np.float32], random: np.random.Generator, settings: GuardSettings) -> NDArray[np.float32]:
    angle = np.deg2rad(random.uniform(-settings.rotation_degrees, settings.rotation_degrees))
    scale = np.exp(random.uniform(-settings.scale, settings.scale))
    stretch = np.exp(random.uniform(-settings.stretch, settings.stretch) / 2)
    rows, columns = grey.shape
    x, y = (side * (0.5 + random.uniform(-settings.shift, settings.shift)) for side in (columns, rows))
    gamma = float(np.exp(random.uniform(-settings.log_gamma, settings.log_gamma)))
    cos, sin = np.cos(angle) / scale, np.sin(angle) / scale
    a, b, d, e = cos / stretch, sin / stretch, -sin * stretch, cos * stretch
    way = (a, b, columns / 2 - a * x - b * y, d, e, rows / 2 - d * x - e * y)
    turned = PIL.Image.fromarray(grey).transform(
        (columns, rows), PIL.Image.Transform.AFFINE, way, resample=PIL.Image.Resampling.BILINEAR, fillcolor=0
    )
    changed = np.asarray(turned, dtype=np.float32) ** np.float32(gamma)
    low, high = random.uniform(0, settings.clipped), 1 - random.uniform(0, settings.clipped)
    changed = np.clip((changed - low) / (high - low), 0.0, 1.0).astype(np.float32)
    changed += random.normal(0.0, random.uniform(0, settings.noise), changed.shape).astype(np.float32)
    top, bottom, left, right = (round(_band(random, settings) * side) for side in (rows, rows, columns, columns))
    changed[:top], changed[rows - bottom :], changed[:, :left], changed[:, columns - right :] = 0.0, 0.0, 0.0, 0.0
    if settings.mirrored and random.random() < 0.5:  # noqa: PLR2004 - a coin
        changed = changed[:, ::-1]
    return np.ascontiguousarray(changed)


def _band(random: np.random.Generator, settings: GuardSettings) -> float:
    """Share of a side that is blanked, as a collimator or padding leaves it; three in four sides have none."""
    blanked = random.random() < 0.25  # noqa: PLR2004
    return random.uniform(0, settings.bands) if blanked else 0.0


def _held_out(
    described: Sequence[Mapping[Part, NDArray[np.float64]]],
    taught: NDArray[np.bool_],
    folds: NDArray[np.int_],
    settings: GuardSettings,
) -> tuple[NDArray[np.float64], dict[int, dict[Part, PartStatistics]]]:
    """Distances (films, parts, 2) of each film by the statistics of the other folds, and those statistics."""
    fitted = {fold: _fit(described, taught & (folds != fold), settings) for fold in sorted(set(folds.tolist()))}
    apart = [
        [fitted[fold][part].distances(features[0]) for part, features in one.items()]
        for fold, one in zip(folds.tolist(), described, strict=True)
    ]
    return np.asarray(apart), fitted


def _fit(
    described: Sequence[Mapping[Part, NDArray[np.float64]]], chosen: NDArray[np.bool_], settings: GuardSettings
) -> dict[Part, PartStatistics]:
    rows = np.flatnonzero(chosen).tolist()
    return {
        part: _PLAIN if part in ROOTS else _spread(np.concatenate([described[row][part] for row in rows]), kept)
        for part, kept in settings.kept.items()
        if part in described[0]
    }


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
    statistics: Mapping[Part, PartStatistics], apart: NDArray[np.float64], settings: GuardSettings
) -> AppearanceGuard:
    """A guard whose scale and threshold come from the distances (films, parts, 2) of held-out films."""
    scaled = {}
    for row, (part, one) in enumerate(statistics.items()):
        own = apart[:, row]
        middle = np.maximum(own.max(axis=0), _LEAST_AROUND) if one.root else np.median(own, axis=0)
        unit = middle / 10 if one.root else np.quantile(own, _SCALE_QUANTILE, axis=0) - middle
        scaled[part] = replace(one, middle=_single(middle), unit=_single(np.maximum(unit, _SMALLEST_UNIT)))
    guard = AppearanceGuard(statistics=scaled, threshold=0.0)
    return replace(guard, threshold=_threshold([_distance(guard, row) for row in apart], settings.max_refused))


def _distance(guard: AppearanceGuard, apart: NDArray[np.float64]) -> float:
    return combined(
        {part: one.excess(*pair) for (part, one), pair in zip(guard.statistics.items(), apart.tolist(), strict=True)}
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
    return round(float(np.ceil(ordered[beyond] / _THRESHOLD_STEP)) * _THRESHOLD_STEP, 4)


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


def guard_model(folder: Path, recipe_file: Path, data: Path, *, write: bool, action: Action = "refuse") -> FittedGuard:
    """Fit a guard for the model in `folder` with the split of its recipe and, if `write`, enter it in the card.

    Raises
    ------
    training.errors.TrainingError, models.card.CardError, inference.refusals.Refused
        If recipe, data or card are not in order, a film cannot be read, or the model looks at volumes.
    """
    from training.readers import read_set
    from training.recipe import read_recipe
    from training.splits import split_by_patient

    card = read_card(folder / CARD_FILE)
    if isinstance(card.input, VolumeInput):
        raise GuardDataError(f"{card.reference} looks at volumes; this guard is for pictures")
    recipe = read_recipe(recipe_file)
    films = read_set(recipe.data.reader, data).films
    splits = split_by_patient(films, folds=recipe.folds, seed=recipe.split_seed)
    fitted = fit_guard(guard_films(films, splits, card.input))
    if write:
        changed = card.model_copy(update={"guard": write_guard(fitted, folder, action=action)})
        values = changed.model_dump(mode="json", exclude_none=True)
        write_whole(folder / CARD_FILE, CARD_HEAD + to_toml(values))
    return fitted


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; see the module."""
    parser = argparse.ArgumentParser(prog="python -m training.guard", description=__doc__)
    parser.add_argument("folder", type=Path, help="folder of the model: card.toml and weights")
    parser.add_argument("--recipe", type=Path, required=True, help="recipe of the model: reader, folds and seed")
    parser.add_argument("--data", type=Path, required=True, help="folder of its training films")
    parser.add_argument("--action", choices=("refuse", "flag"), default="refuse")
    parser.add_argument("--measure", action="store_true", help="fit and report, and write nothing")
    parser.add_argument("--replace", action="store_true", help="the model has a guard, and nobody has used it yet")
    options = parser.parse_args(arguments)
    try:
        had = read_card(options.folder / CARD_FILE)
        if had.guard is not None and not (options.measure or options.replace):
            raise GuardDataError(
                f"{had.reference} has a guard: another one makes it another model, so raise its version, or say "
                "--replace if nobody has used it yet"
            )
        fitted = guard_model(
            options.folder, options.recipe, options.data, write=not options.measure, action=options.action
        )
    except (TrainingError, CardError, Refused) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"threshold {fitted.guard.threshold:.4f}\n")
    for figure in fitted.figures:
        sys.stdout.write(f"{figure.name}: {figure.value:.4f} ({figure.low:.4f} to {figure.high:.4f}), {figure.on}\n")
    if not options.measure:
        uid = read_card(options.folder / CARD_FILE).device_uid
        sys.stdout.write(f"the card has the guard now, and another Device UID: {had.device_uid} is {uid}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""What a network could cheat with: how well traits that are no lesion separate the label by themselves.

Called by `training.audit`. Only films of known truth are looked at, and only what is known without a network: what the
set says of a film, and how its picture is made up.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eval.roc import auroc_by_patient
from training.cache import PreparedFilms
from training.data import Film, FilmSet

SEED, RESAMPLES = 20, 500
_BORDER = 0.05  # share of the side that counts as border
_FEWEST = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Shortcut:
    """How well one trait alone separates two groups of films, `against`; 0.5 is not at all.

    `low` and `high` bound the AUROC's 95 % interval (patients resampled); `warned` says that it is at or above the
    recipe's level, in either direction, and the interval leaves out 0.5.
    """

    trait: str
    against: str
    auroc: float
    low: float
    high: float
    films: int
    warned: bool


def find_shortcuts(read: FilmSet, prepared: PreparedFilms, *, level: float) -> tuple[Shortcut, ...]:
    """All traits that vary, the strongest first: against the plainest negatives, and against all of them."""
    judged = [film for film in read.films if film.judged]
    plainest = [film for film in judged if film.positive or film.reading == read.negatives[0]]
    found = _against(f"{read.positive} vs {read.negatives[0]}", plainest, prepared, level)
    if len(plainest) < len(judged):
        found += _against(f"{read.positive} vs all others", judged, prepared, level)
    return tuple(sorted(found, key=lambda one: -abs(one.auroc - 0.5)))


def _against(name: str, judged: Sequence[Film], prepared: PreparedFilms, level: float) -> list[Shortcut]:
    truth = np.asarray([film.positive for film in judged], dtype=bool)
    if min(int(truth.sum()), int((~truth).sum())) < _FEWEST:
        return []
    found = []
    for trait, values in _traits(judged, prepared):
        known = ~np.isnan(values)
        if np.unique(values[known]).size < 2:  # noqa: PLR2004 - what does not vary tells nothing
            continue
        found.append(_shortcut(trait, name, values[known], truth[known], _patients(judged)[known], level))
    return [one for one in found if not math.isnan(one.auroc)]


def _shortcut(
    trait: str,
    against: str,
    values: NDArray[np.float64],
    truth: NDArray[np.bool_],
    patients: NDArray[np.str_],
    level: float,
) -> Shortcut:
    estimate = auroc_by_patient(values, truth, patients, resamples=RESAMPLES, seed=SEED)
    strong = max(estimate.value, 1 - estimate.value) >= level
    return Shortcut(
        trait=trait,
        against=against,
        auroc=round(estimate.value, 3),
        low=round(estimate.low, 3),
        high=round(estimate.high, 3),
        films=int(values.size),
        warned=strong and not estimate.low <= 0.5 <= estimate.high,  # noqa: PLR2004 - chance
    )


def _patients(films: Sequence[Film]) -> NDArray[np.str_]:
    return np.asarray([film.patient for film in films], dtype=str)


def _traits(films: Sequence[Film], prepared: PreparedFilms) -> Iterator[tuple[str, NDArray[np.float64]]]:
    """Each trait by name, one number a film, NaN where it is unknown."""
    for name in sorted({name for film in films for name in film.numbers}):
        yield name.replace("_", " "), np.asarray([film.numbers.get(name, math.nan) for film in films])
    for name in sorted({name for film in films for name in film.traits}):
        values = sorted(Counter(film.traits.get(name, "") for film in films).items())
        for value, count in values[1:] if len(values) == 2 else values:  # noqa: PLR2004 - of two one says all
            if value and count >= _FEWEST:
                yield f"{name} is {value}", np.asarray([float(film.traits.get(name) == value) for film in films])
    ways = [prepared.transform(film.image) for film in films]
    yield "rows of the film", np.asarray([float(way.source_rows) for way in ways])
    yield "columns of the film", np.asarray([float(way.source_columns) for way in ways])
    yield "bytes of the file", np.asarray([float(film.path.stat().st_size) for film in films])
    greys = [_used(prepared, film) for film in films]
    yield "brightness of the film", np.asarray([float(grey.mean()) for grey in greys])
    yield "brightness of its border", np.asarray([_border(grey) for grey in greys])


def _used(prepared: PreparedFilms, film: Film) -> NDArray[np.float32]:
    """The prepared picture without its padding."""
    way, grey = prepared.transform(film.image), prepared.grey(film.image)
    top, left = max(0, round(way.offset_y)), max(0, round(way.offset_x))
    bottom = min(grey.shape[0], round(way.offset_y + way.source_rows * way.scale_y))
    right = min(grey.shape[1], round(way.offset_x + way.source_columns * way.scale_x))
    return grey[top : max(bottom, top + 1), left : max(right, left + 1)]


def _border(grey: NDArray[np.float32]) -> float:
    depth = max(1, round(min(grey.shape) * _BORDER))
    inner = grey[depth:-depth, depth:-depth]
    return float((grey.sum(dtype=float) - inner.sum(dtype=float)) / max(1, grey.size - inner.size))

"""Lesions found and false marks: at given rates of false marks, and at the thresholds of an evaluation.

Called by `training.figures`. When a mark finds a lesion is `training.hits`; the curve is `eval.froc`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from eval.froc import MatchedFilm, froc
from eval.intervals import Estimate
from models.card import Figure
from training.data import FilmSet
from training.hits import HitRule, beside, deciding
from training.operating import Operating, Pair
from training.recipe import Judging

Bootstrap = Callable[[Callable[[NDArray[np.intp]], float], NDArray[np.str_], NDArray[np.bool_]], Estimate]
RATES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)


def _figure(name: str, estimate: Estimate, on: str) -> Figure:
    low, high = round(estimate.low, 3), round(estimate.high, 3)
    return Figure(name=name, value=round(estimate.value, 3), low=low, high=high, on=on)


def _patients(pairs: Sequence[Pair]) -> NDArray[np.str_]:
    return np.asarray([pair.film.patient for pair in pairs], dtype=str)


def _positive(pairs: Sequence[Pair]) -> NDArray[np.bool_]:
    return np.asarray([pair.film.positive for pair in pairs], dtype=bool)


def found_at_rates(pairs: Sequence[Pair], judging: Judging, bootstrap: Bootstrap) -> tuple[Figure, ...]:
    """Share of lesions found at each rate of false marks over all judged films, by both hit rules."""
    figures: list[Figure] = []
    for rule in (deciding(judging), beside(judging)):
        figures += _at_rates(
            pairs, rule, "" if rule.words == deciding(judging).words else ", other hit rule", bootstrap
        )
    return tuple(figures)


def _at_rates(pairs: Sequence[Pair], rule: HitRule, note: str, bootstrap: Bootstrap) -> list[Figure]:
    matched = [rule.match(pair.scored.marks, pair.film.boxes) for pair in pairs]
    lesions, patients, positive = sum(film.lesions.size for film in matched), _patients(pairs), _positive(pairs)
    known: dict[bytes, dict[float, float]] = {}  # every rate is asked of the same resamples

    def found(chosen: NDArray[np.intp], rate: float) -> float:
        key = chosen.tobytes()
        if key not in known:
            curve = froc([matched[index] for index in chosen])
            known[key] = {one: curve.sensitivity_at(one) for one in RATES}
        return known[key][rate]

    figures = []
    for rate in RATES:
        estimate = bootstrap(partial(found, rate=rate), patients, positive)
        on = f"{lesions} boxes, {len(pairs)} judged films; hit: {rule.words}"
        figures.append(_figure(f"boxes found at {rate:g} false marks per film{note}", estimate, on))
    return figures


def found_at_threshold(
    read: FilmSet,
    how: str,
    pairs: Sequence[Pair],
    operating: Mapping[int, Operating],
    judging: Judging,
    bootstrap: Bootstrap,
) -> tuple[Figure, ...]:
    """Boxes found and false marks per kind of film when marks at or above the threshold are shown."""
    rule, patients, positive = deciding(judging), _patients(pairs), _positive(pairs)
    films = [_shown(pair, operating[pair.scored.fold], rule) for pair in pairs]
    hit, lesions = _count(films)

    def share(chosen: NDArray[np.intp]) -> float:
        found, there = _count([films[index] for index in chosen])
        return found / there if there else np.nan

    estimate = bootstrap(share, patients, positive)
    figures = [_figure(f"boxes found ({how})", estimate, f"{hit} of {lesions} boxes; hit: {rule.words}")]
    false = np.asarray([film.false_marks.size for film in films], dtype=float)
    reading = np.asarray([pair.film.reading for pair in pairs], dtype=str)
    kinds = [("all judged", np.ones(len(pairs), dtype=bool)), (read.positive, positive)]
    kinds += [(name, (reading == name) & ~positive) for name in read.negatives]
    for kind, chosen in kinds:
        if chosen.any():
            on = f"{int(false[chosen].sum())} false marks on {chosen.sum()} films"
            estimate = _mean_by_patient(false[chosen], patients[chosen], bootstrap)
            figures.append(_figure(f"false marks per film, {kind} ({how})", estimate, on))
    return tuple(figures)


def shown_share(pairs: Sequence[Pair], operating: Mapping[int, Operating], judging: Judging) -> tuple[int, int]:
    """Boxes found at the thresholds, and boxes."""
    rule = deciding(judging)
    return _count([_shown(pair, operating[pair.scored.fold], rule) for pair in pairs])


def _shown(pair: Pair, operating: Operating, rule: HitRule) -> MatchedFilm:
    """The film with the marks at or above the threshold only."""
    shown = [mark for mark in pair.scored.marks if operating.lesion_score(mark.score) >= operating.lesion_threshold]
    return rule.match(shown, pair.film.boxes)


def _count(films: Sequence[MatchedFilm]) -> tuple[int, int]:
    """Boxes found, and boxes."""
    return sum(int(np.isfinite(film.lesions).sum()) for film in films), sum(film.lesions.size for film in films)


def _mean_by_patient(values: NDArray[np.float64], patients: NDArray[np.str_], bootstrap: Bootstrap) -> Estimate:
    def mean(rows: NDArray[np.intp]) -> float:
        return float(values[rows].mean())

    return bootstrap(mean, patients, np.zeros(values.size, dtype=bool))

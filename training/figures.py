"""The figures of an evaluation by folds: computed once, printed in the card, in EVALUATION.md and nowhere by hand.

Called by `training.detection`. Statistics are `eval`; thresholds and calibration of each fold come from the other
folds, those of the card from all. Films and marks are counted here; lesions found are `training.found`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from eval.intervals import Estimate, clopper_pearson, patient_bootstrap
from eval.roc import auroc, confusion
from models.card import Figure
from training.breasts import Compared, compare_breasts
from training.data import FilmSet
from training.errors import DataError
from training.found import Bootstrap, found_at_rates, found_at_threshold, shown_share
from training.operating import Operating, Pair, fit_operating
from training.recipe import Judging
from training.score import ScoredFilm

SEED = 20
NESTED, SERVED = "thresholds from the other folds", "served threshold, chosen on these films"
_FEWEST = 5  # films of either kind below which a subgroup gets no figure of its own


class EvaluationError(DataError):
    """The scores are not those of all judged films, each scored once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """Everything the report prints.

    Attributes
    ----------
    judged : tuple of Pair
        Films that count, in the order of names.
    nested : dict
        For each fold the calibration and thresholds fitted on the other folds.
    served : Operating
        Calibration and thresholds fitted on all folds: what the card serves.
    figures : tuple of Figure
        In the order in which they are printed; those with nothing to count are left out.
    breasts : Compared or None
        How breasts are held against each other, where the recipe asks for it.
    """

    judged: tuple[Pair, ...]
    nested: dict[int, Operating]
    served: Operating
    figures: tuple[Figure, ...]
    breasts: Compared | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        """What could not be fitted, and where."""
        nested = [f"fold {fold}: {note}" for fold, point in self.nested.items() for note in point.notes]
        compared = self.breasts.notes if self.breasts else ()
        return (*(f"served: {note}" for note in self.served.notes), *nested, *compared)

    def figure(self, name: str) -> Figure:
        """The figure called `name`.

        Raises
        ------
        KeyError
            If there is none.
        """
        for one in self.figures:
            if one.name == name:
                return one
        raise KeyError(name)


def evaluate(read: FilmSet, scored: Sequence[ScoredFilm], judging: Judging) -> Evaluation:
    """Evaluate out-of-fold scores of all films of known truth.

    Raises
    ------
    EvaluationError
        If a film was scored twice, or a film that is judged was not scored.
    DataError
        If films with lesions, or films without, are missing among the other folds of a fold.
    """
    pairs = _pairs(read, scored)
    judged = tuple(pair for pair in pairs if pair.film.judged)
    folds = sorted({pair.scored.fold for pair in judged})
    nested = {fold: fit_operating([pair for pair in judged if pair.scored.fold != fold], judging) for fold in folds}
    served = fit_operating(judged, judging)
    everywhere = dict.fromkeys(folds, served)
    breasts = compare_breasts(pairs, judging, positive=read.positive, seed=SEED)
    draws = partial(patient_bootstrap, resamples=judging.resamples, seed=SEED)
    figures = (
        _separation(read, judged, draws)
        + _shortcuts(read, judged, draws)
        + _film_calls(read, NESTED, judged, nested)
        + _film_calls(read, SERVED, judged, everywhere)
        + (breasts.figures if breasts else ())
        + _calibration(judged, nested, draws)
        + found_at_rates(judged, judging, draws)
        + found_at_threshold(read, NESTED, judged, nested, judging, draws)
        + found_at_threshold(read, SERVED, judged, everywhere, judging, draws)
        + _aside(read, pairs, nested, judging)
    )
    counted = tuple(figure for figure in figures if not math.isnan(figure.value))
    return Evaluation(judged=judged, nested=nested, served=served, figures=counted, breasts=breasts)


def _pairs(read: FilmSet, scored: Sequence[ScoredFilm]) -> list[Pair]:
    said = {film.image: film for film in scored}
    if len(said) != len(scored):
        raise EvaluationError("a film was scored twice")
    if missing := [film.image for film in read.films if film.judged and film.image not in said]:
        raise EvaluationError(f"{len(missing)} film(s) that are judged were not scored, the first is {missing[0]}")
    return [Pair(film=film, scored=said[film.image]) for film in read.films if film.image in said]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Columns:
    """Pairs as arrays of one row each."""

    logit: NDArray[np.float64]
    positive: NDArray[np.bool_]
    reading: NDArray[np.str_]
    patient: NDArray[np.str_]
    fold: NDArray[np.intp]

    @property
    def every(self) -> NDArray[np.bool_]:
        """All rows."""
        return np.ones(self.logit.size, dtype=bool)


def _columns(pairs: Sequence[Pair]) -> _Columns:
    return _Columns(
        logit=np.asarray([pair.scored.picture_logit for pair in pairs], dtype=float),
        positive=np.asarray([pair.film.positive for pair in pairs], dtype=bool),
        reading=np.asarray([pair.film.reading for pair in pairs], dtype=str),
        patient=np.asarray([pair.film.patient for pair in pairs], dtype=str),
        fold=np.asarray([pair.scored.fold for pair in pairs], dtype=np.intp),
    )


def figure(name: str, estimate: Estimate, on: str) -> Figure:
    """A figure for the card, rounded to three digits."""
    low, high = round(estimate.low, 3), round(estimate.high, 3)
    return Figure(name=name, value=round(estimate.value, 3), low=low, high=high, on=on)


def _groups(read: FilmSet, rows: _Columns) -> list[tuple[str, NDArray[np.bool_]]]:
    """Negatives by name, each with the films that are compared: the plainest first, then all."""
    groups = [(name, rows.positive | (rows.reading == name)) for name in read.negatives]
    if len(read.negatives) == 1:
        return groups
    return [groups[0], ("all other judged films", rows.every), *groups[1:]]


def _subgroups(read: FilmSet, pairs: Sequence[Pair]) -> list[tuple[str, NDArray[np.bool_]]]:
    """All films, and those of each value of the set's subgroups."""
    found = [("", np.ones(len(pairs), dtype=bool))]
    for trait in read.subgroups:
        values = np.asarray([pair.film.traits.get(trait, "") for pair in pairs], dtype=str)
        found += [(f", {trait} {value} only", values == value) for value in sorted(set(values.tolist()) - {""})]
    return found


def _separation(read: FilmSet, pairs: Sequence[Pair], draws: Bootstrap) -> tuple[Figure, ...]:
    rows = _columns(pairs)
    figures = []
    for against, compared in _groups(read, rows):
        for subgroup, inside in _subgroups(read, pairs):
            chosen = compared & inside
            truth = rows.positive[chosen]
            if subgroup and min(int(truth.sum()), int((~truth).sum())) < _FEWEST:
                continue
            figures.append(_auroc(f"AUROC {read.positive} vs {against}{subgroup}", read, rows, chosen, draws))
    within = [
        _within_folds(f"AUROC {read.positive} vs {name}", rows, chosen, draws) for name, chosen in _groups(read, rows)
    ]
    return (*figures, *within, _by_patient(read, rows, draws))


def _auroc(name: str, read: FilmSet, rows: _Columns, chosen: NDArray[np.bool_], draws: Bootstrap) -> Figure:
    truth, patients = rows.positive[chosen], rows.patient[chosen]
    estimate = _auroc_of(rows.logit[chosen], truth, patients, draws)
    on = f"{truth.sum()} {read.positive}, {(~truth).sum()} other films, {np.unique(patients).size} patients"
    return figure(name, estimate, on)


def _auroc_of(
    scores: NDArray[np.float64], truth: NDArray[np.bool_], patients: NDArray[np.str_], draws: Bootstrap
) -> Estimate:
    return draws(lambda rows: auroc(scores[rows], truth[rows]), patients, truth)


def _within_folds(name: str, rows: _Columns, chosen: NDArray[np.bool_], draws: Bootstrap) -> Figure:
    """Only films that one network scored are compared: networks of different folds need not agree on a level."""
    logits, truth, folds = rows.logit[chosen], rows.positive[chosen], rows.fold[chosen]

    def pooled(drawn: NDArray[np.intp]) -> float:
        areas, pairs = [], []
        for fold in np.unique(folds[drawn]):
            here = drawn[folds[drawn] == fold]
            ill = int(truth[here].sum())
            if ill and ill < here.size:
                areas.append(auroc(logits[here], truth[here]))
                pairs.append(ill * (here.size - ill))
        return float(np.average(areas, weights=pairs)) if pairs else math.nan

    estimate = draws(pooled, rows.patient[chosen], truth)
    on = f"{truth.sum()} and {(~truth).sum()} films in {np.unique(folds).size} folds, weighed by pairs"
    return figure(f"{name}, within folds", estimate, on)


def _by_patient(read: FilmSet, rows: _Columns, draws: Bootstrap) -> Figure:
    """The highest film of a patient decides for him."""
    patients = np.unique(rows.patient)
    highest = np.asarray([rows.logit[rows.patient == patient].max() for patient in patients])
    truth = np.asarray([rows.positive[rows.patient == patient].any() for patient in patients])
    estimate = _auroc_of(highest, truth, patients, draws)
    on = f"{truth.sum()} patients with {read.positive}, {(~truth).sum()} without, all judged films"
    return figure(f"AUROC {read.positive} vs all others, by patient (highest film)", estimate, on)


def _shortcuts(read: FilmSet, pairs: Sequence[Pair], draws: Bootstrap) -> tuple[Figure, ...]:
    """How far a trait alone, which no lesion is, would carry; and how far the score follows it without lesions."""
    rows, figures = _columns(pairs), []
    for trait in read.subgroups:
        values = np.asarray([pair.film.traits.get(trait, "") for pair in pairs], dtype=str)
        if np.unique(values).size < 2:  # noqa: PLR2004 - one value separates nothing
            continue
        value = Counter(values[rows.positive].tolist()).most_common(1)[0][0]
        has, without = values == value, ~rows.positive
        against, chosen = _groups(read, rows)[0]
        alone = _auroc_of(has[chosen].astype(float), rows.positive[chosen], rows.patient[chosen], draws)
        follows = _auroc_of(rows.logit[without], has[without], rows.patient[without], draws)
        name = f"AUROC of {trait} {value} alone, {read.positive} vs {against}"
        figures.append(figure(name, alone, f"{chosen.sum()} films"))
        name = f"AUROC of the film score for {trait} {value} among films without {read.positive} (0.5: no shortcut)"
        on = f"{has[without].sum()} films {value} and {(~has)[without].sum()} others, all without {read.positive}"
        figures.append(figure(name, follows, on))
    return tuple(figures)


def _film_calls(
    read: FilmSet, how: str, pairs: Sequence[Pair], operating: Mapping[int, Operating]
) -> tuple[Figure, ...]:
    rows = _columns(pairs)
    called = np.asarray([film_positive(pair, operating[pair.scored.fold]) for pair in pairs])
    all_calls = confusion(called, rows.positive)
    on = f"{all_calls.true_positive} of {rows.positive.sum()} {read.positive} films"
    figures = [figure(f"film sensitivity ({how})", all_calls.sensitivity, on)]
    for name in read.negatives:
        chosen = (rows.reading == name) & ~rows.positive
        calls = confusion(called[chosen], np.zeros(int(chosen.sum()), dtype=bool))
        on = f"{calls.true_negative} of {chosen.sum()} {name} films"
        figures.append(figure(f"film specificity on {name} films ({how})", calls.specificity, on))
    return tuple(figures)


def film_positive(pair: Pair, operating: Operating) -> bool:
    """Whether the film as a whole is called positive."""
    return operating.picture_score(pair.scored.picture_logit) >= operating.picture_threshold


def _calibration(pairs: Sequence[Pair], nested: Mapping[int, Operating], draws: Bootstrap) -> tuple[Figure, ...]:
    """How far calibrated film scores are from the truth, with the calibration of the other folds."""
    rows = _columns(pairs)
    scores = np.asarray([nested[pair.scored.fold].picture_score(pair.scored.picture_logit) for pair in pairs])

    def brier(chosen: NDArray[np.intp]) -> float:
        return float(np.square(scores[chosen] - rows.positive[chosen]).mean())

    def excess(chosen: NDArray[np.intp]) -> float:
        return float((scores[chosen] - rows.positive[chosen]).mean())

    on, apart = f"{len(pairs)} judged films", np.zeros(len(pairs), dtype=bool)
    return (
        figure(
            "Brier score of the film score (calibrated on the other folds)",
            draws(brier, rows.patient, apart),
            on,
        ),
        figure(
            "mean film score minus share of positive films (calibrated on the other folds)",
            draws(excess, rows.patient, apart),
            on,
        ),
    )


def _aside(
    read: FilmSet, pairs: Sequence[Pair], nested: Mapping[int, Operating], judging: Judging
) -> tuple[Figure, ...]:
    """Films of known truth outside the main count, such as children; and boxes on films that are not judged."""
    known = {read.positive, *read.negatives}
    outside = [pair for pair in pairs if not pair.film.judged and pair.film.reading in known]
    right = sum(film_positive(pair, nested[pair.scored.fold]) == pair.film.positive for pair in outside)
    boxed = [pair for pair in pairs if not pair.film.judged and pair.film.reading not in known and pair.film.boxes]
    hit, lesions = shown_share(boxed, nested, judging)
    return (
        figure(
            "films outside the intended use called right, for information",
            clopper_pearson(right, len(outside)),
            f"{right} of {len(outside)} films of known truth that are not judged",
        ),
        figure(
            f"boxes found on films that are not judged ({NESTED}), for information",
            clopper_pearson(hit, lesions),
            f"{hit} of {lesions} boxes on {len(boxed)} films",
        ),
    )

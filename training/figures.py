"""The figures of an evaluation by folds: computed once, printed in the card, in EVALUATION.md and nowhere by hand.

Called by `training.release`. Statistics are `eval`; thresholds and calibration of each fold come from the other
folds, those of the card from all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eval.froc import HIT_RULE, MatchedFilm, froc, match
from eval.intervals import Estimate, clopper_pearson, patient_bootstrap
from eval.roc import Confusion, auroc_by_patient, confusion
from models.card import Figure
from training.data import Film
from training.operating import Operating, Pair, fit_operating
from training.score import ScoredFilm

SEED = 20
RATES = (0.125, 0.25, 0.5, 1.0, 2.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """Everything the report prints.

    Attributes
    ----------
    adults : tuple of Pair
        Adult films read by radiologists, in the order of names.
    nested : dict
        For each fold the calibration and thresholds fitted on the other folds.
    served : Operating
        Calibration and thresholds fitted on all folds: what the card serves.
    figures : tuple of Figure
        In the order in which they are printed; those with nothing to count are left out.
    """

    adults: tuple[Pair, ...]
    nested: dict[int, Operating]
    served: Operating
    figures: tuple[Figure, ...]


def evaluate(films: Sequence[Film], scored: Sequence[ScoredFilm]) -> Evaluation:
    """Evaluate out-of-fold scores of all films that radiologists read.

    Raises
    ------
    ValueError
        If a film was scored twice, or a film that radiologists read was not scored.
    """
    pairs = _pairs(films, scored)
    adults = tuple(pair for pair in pairs if pair.film.judged)
    folds = sorted({pair.scored.fold for pair in adults})
    nested = {fold: fit_operating([pair for pair in adults if pair.scored.fold != fold]) for fold in folds}
    served = fit_operating(adults)
    figures = (
        _separation(adults)
        + _view(adults)
        + _film_calls("thresholds from the other folds", adults, nested)
        + _film_calls("served threshold, chosen on these films", adults, dict.fromkeys(folds, served))
        + _boxes(adults)
        + _marks("thresholds from the other folds", adults, nested)
        + _marks("served threshold, chosen on these films", adults, dict.fromkeys(folds, served))
        + _aside(pairs, nested)
    )
    counted = tuple(figure for figure in figures if not math.isnan(figure.value))
    return Evaluation(adults=adults, nested=nested, served=served, figures=counted)


def _pairs(films: Sequence[Film], scored: Sequence[ScoredFilm]) -> list[Pair]:
    said = {film.image: film for film in scored}
    if len(said) != len(scored):
        raise ValueError("a film was scored twice")
    if missing := [film.image for film in films if film.judged and film.image not in said]:
        raise ValueError(f"{len(missing)} film(s) read by radiologists were not scored, the first is {missing[0]}")
    return [Pair(film=film, scored=said[film.image]) for film in films if film.image in said]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Columns:
    """Pairs as arrays of one row each."""

    logit: NDArray[np.float64]
    opacity: NDArray[np.bool_]
    normal: NDArray[np.bool_]
    ap: NDArray[np.bool_]
    patient: NDArray[np.str_]


def _columns(pairs: Sequence[Pair]) -> _Columns:
    return _Columns(
        logit=np.asarray([pair.scored.picture_logit for pair in pairs]),
        opacity=np.asarray([pair.film.positive for pair in pairs], dtype=bool),
        normal=np.asarray([pair.film.reading == "normal" for pair in pairs], dtype=bool),
        ap=np.asarray([pair.film.view == "AP" for pair in pairs], dtype=bool),
        patient=np.asarray([pair.film.patient for pair in pairs], dtype=str),
    )


def figure(name: str, estimate: Estimate, on: str) -> Figure:
    """A figure for the card, rounded to three digits."""
    return Figure(
        name=name,
        value=round(estimate.value, 3),
        low=round(estimate.low, 3),
        high=round(estimate.high, 3),
        on=on,
    )


def _separation(pairs: Sequence[Pair]) -> tuple[Figure, ...]:
    rows = _columns(pairs)
    every = np.ones(len(pairs), dtype=bool)
    figures = []
    for against, kept in (("normal", rows.opacity | rows.normal), ("all other read films", every)):
        for view, of_view in (("", every), (", AP only", rows.ap), (", PA only", ~rows.ap)):
            chosen = kept & of_view
            truth, patients = rows.opacity[chosen], rows.patient[chosen]
            estimate = auroc_by_patient(rows.logit[chosen], truth, patients, seed=SEED)
            on = f"{truth.sum()} opacity, {(~truth).sum()} other adult films, {np.unique(patients).size} patients"
            figures.append(figure(f"AUROC opacity vs {against}{view}", estimate, on))
    return tuple(figures)


def _view(pairs: Sequence[Pair]) -> tuple[Figure, ...]:
    """How far the view alone, which no lesion is, would carry; and how far the score follows it without opacity."""
    rows = _columns(pairs)
    chosen = rows.opacity | rows.normal
    alone = auroc_by_patient(rows.ap[chosen].astype(float), rows.opacity[chosen], rows.patient[chosen], seed=SEED)
    without = ~rows.opacity
    follows = auroc_by_patient(rows.logit[without], rows.ap[without], rows.patient[without], seed=SEED)
    counts = f"{rows.ap[without].sum()} AP and {(~rows.ap)[without].sum()} PA films without opacity"
    return (
        figure("AUROC of the view alone (AP against PA), opacity vs normal", alone, f"{chosen.sum()} adult films"),
        figure("AUROC of the picture score for AP among films without opacity (0.5: no shortcut)", follows, counts),
    )


def _film_calls(how: str, pairs: Sequence[Pair], operating: dict[int, Operating]) -> tuple[Figure, ...]:
    rows = _columns(pairs)
    called = np.asarray([_film_positive(pair, operating[pair.scored.fold]) for pair in pairs])
    against_all = confusion(called, rows.opacity)
    on_normal: Confusion = confusion(called[rows.normal], np.zeros(int(rows.normal.sum()), dtype=bool))
    other = ~rows.opacity & ~rows.normal
    on_other = confusion(called[other], np.zeros(int(other.sum()), dtype=bool))
    hits = f"{against_all.true_positive} of {rows.opacity.sum()} opacity films"
    return (
        figure(f"film sensitivity ({how})", against_all.sensitivity, hits),
        figure(
            f"film specificity on normal films ({how})",
            on_normal.specificity,
            f"{on_normal.true_negative} of {rows.normal.sum()} normal films",
        ),
        figure(
            f"film specificity on films with other findings ({how})",
            on_other.specificity,
            f"{on_other.true_negative} of {other.sum()} films with other findings",
        ),
    )


def _film_positive(pair: Pair, operating: Operating) -> bool:
    return operating.picture_score(pair.scored.picture_logit) >= operating.picture_threshold


def _matched(pairs: Sequence[Pair]) -> list[MatchedFilm]:
    return [match(pair.scored.marks, pair.film.boxes) for pair in pairs]


def _boxes(pairs: Sequence[Pair]) -> tuple[Figure, ...]:
    rows, matched = _columns(pairs), _matched(pairs)
    lesions = sum(film.lesions.size for film in matched)
    figures = []
    for rate in RATES:

        def found(chosen: NDArray[np.intp], rate: float = rate) -> float:
            return froc([matched[index] for index in chosen]).sensitivity_at(rate)

        estimate = patient_bootstrap(found, rows.patient, rows.opacity, seed=SEED)
        on = f"{lesions} boxes, {len(pairs)} read adult films; hit: {HIT_RULE}"
        figures.append(figure(f"boxes found at {rate:g} false marks per film", estimate, on))
    return tuple(figures)


def _shown(pair: Pair, operating: Operating) -> MatchedFilm:
    """The film with the marks at or above the threshold only."""
    shown = [mark for mark in pair.scored.marks if operating.lesion_score(mark.score) >= operating.lesion_threshold]
    return match(shown, pair.film.boxes)


def _found(films: Sequence[MatchedFilm]) -> tuple[int, int]:
    """Boxes found, and boxes."""
    return sum(int(np.isfinite(film.lesions).sum()) for film in films), sum(film.lesions.size for film in films)


def _marks(how: str, pairs: Sequence[Pair], operating: dict[int, Operating]) -> tuple[Figure, ...]:
    """Boxes found and false marks per kind of film when marks at or above the threshold are shown."""
    rows = _columns(pairs)
    films = [_shown(pair, operating[pair.scored.fold]) for pair in pairs]
    hit, lesions = _found(films)
    on = f"{hit} of {lesions} boxes; hit: {HIT_RULE}"
    figures = [figure(f"boxes found ({how})", _share_found(films, rows), on)]
    false = np.asarray([film.false_marks.size for film in films], dtype=float)
    every = np.ones(len(pairs), dtype=bool)
    other = ~rows.opacity & ~rows.normal
    for kind, chosen in (
        ("all read", every),
        ("normal", rows.normal),
        ("other findings", other),
        ("opacity", rows.opacity),
    ):
        estimate = _mean_by_patient(false[chosen], rows.patient[chosen])
        on = f"{int(false[chosen].sum())} false marks on {chosen.sum()} films"
        figures.append(figure(f"false marks per film, {kind} ({how})", estimate, on))
    return tuple(figures)


def _share_found(films: Sequence[MatchedFilm], rows: _Columns) -> Estimate:
    """Share of boxes found; films of a patient are drawn together, since their boxes are found or missed together."""

    def share(chosen: NDArray[np.intp]) -> float:
        hit, lesions = _found([films[index] for index in chosen])
        return hit / lesions if lesions else np.nan

    return patient_bootstrap(share, rows.patient, rows.opacity, seed=SEED)


def _mean_by_patient(values: NDArray[np.float64], patients: NDArray[np.str_]) -> Estimate:
    def mean(rows: NDArray[np.intp]) -> float:
        return float(values[rows].mean())

    return patient_bootstrap(mean, patients, np.zeros(values.size, dtype=bool), seed=SEED)


def _aside(pairs: Sequence[Pair], nested: dict[int, Operating]) -> tuple[Figure, ...]:
    """Films outside the main count: children, who taught nothing, and films that only the NIH boxed."""
    children = [pair for pair in pairs if not pair.film.adult and pair.film.reading != "unread"]
    called = [_film_positive(pair, nested[pair.scored.fold]) for pair in children]
    right = sum(call == (pair.film.positive) for call, pair in zip(called, children, strict=True))
    boxed = [pair for pair in pairs if pair.film.adult and pair.film.reading == "unread" and pair.film.boxes]
    hit, lesions = _found([_shown(pair, nested[pair.scored.fold]) for pair in boxed])
    return (
        figure(
            "films of children called right, for information: too few, and outside the intended use",
            clopper_pearson(right, len(children)),
            f"{right} of {len(children)} read films of children",
        ),
        figure(
            "NIH boxes found on films that the RSNA radiologists did not read (thresholds from the other folds)",
            clopper_pearson(hit, lesions),
            f"{hit} of {lesions} boxes on {len(boxed)} films; hit: {HIT_RULE}",
        ),
    )

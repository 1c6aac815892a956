"""What comparing the two breasts of a woman is worth: its calibration, its threshold, its figures.

Called by `training.figures` where a recipe's `judging.contralateral` asks for it; the comparison itself is
`inference.breast_findings`, as served. As everywhere, each fold's calibration and threshold come from the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from eval.intervals import Estimate
from eval.roc import auroc_by_patient, confusion, threshold_at_sensitivity
from inference.breast_findings import compared_logit
from inference.postprocess import calibrated
from models.card import BreastComparison, Figure, OperatingPoint
from training.operating import Pair, fitted, rounded_down
from training.recipe import Judging

_WHERE = "held against the same view of the other breast"


@dataclass(frozen=True, kw_only=True, slots=True)
class Compared:
    """The comparison that is served, with what was measured of it and what could not be fitted."""

    served: BreastComparison
    figures: tuple[Figure, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Row:
    """A judged view whose counterpart is there."""

    pair: Pair
    logit: float


def compare_breasts(pairs: Sequence[Pair], judging: Judging, *, positive: str, seed: int) -> Compared | None:
    """Judge each view of known truth against the other breast.

    Parameters
    ----------
    pairs : sequence of Pair
        All scored films; those that are not judged serve as the other breast only.
    positive : str
        What films with lesions are called.

    Returns
    -------
    Compared or None
        None when the recipe compares no breasts, or no film has its counterpart.
    """
    share = judging.contralateral
    rows = _rows(pairs, share) if share is not None else []
    if share is None or len({row.pair.film.positive for row in rows}) < 2:  # noqa: PLR2004 - with lesions and without
        return None
    folds = sorted({row.pair.scored.fold for row in rows})
    nested = {fold: _fit([row for row in rows if row.pair.scored.fold != fold], share, judging) for fold in folds}
    served, notes = _fit(rows, share, judging)
    points = {fold: point for fold, (point, _) in nested.items()}
    missing = [note for _, of_fold in nested.values() for note in of_fold] + list(notes)
    return Compared(served=served, figures=_figures(rows, points, positive, seed), notes=tuple(missing))


def _rows(pairs: Sequence[Pair], share: float) -> list[_Row]:
    by_view: dict[tuple[str, str], dict[str, float]] = {}
    for pair in pairs:
        if pair.film.breast:
            of_view = by_view.setdefault((pair.film.patient, pair.film.view), {})
            before = of_view.get(pair.film.breast, -np.inf)
            of_view[pair.film.breast] = max(before, pair.scored.picture_logit)
    rows = []
    plain = BreastComparison(contralateral=share, point=OperatingPoint(threshold=0.5, chosen_by="not yet"))
    for pair in pairs:
        of_view = by_view.get((pair.film.patient, pair.film.view), {})
        others = [logit for breast, logit in of_view.items() if breast != pair.film.breast]
        if pair.film.judged and pair.film.breast and others:
            rows.append(_Row(pair=pair, logit=compared_logit(pair.scored.picture_logit, max(others), plain)))
    return rows


def _fit(rows: Sequence[_Row], share: float, judging: Judging) -> tuple[BreastComparison, tuple[str, ...]]:
    logits = np.asarray([row.logit for row in rows])
    truth = np.asarray([row.pair.film.positive for row in rows])
    calibration, notes = fitted("breast scores", logits, truth)
    threshold = rounded_down(
        calibrated(threshold_at_sensitivity(logits[truth], judging.picture_sensitivity), calibration)
    )
    chosen_by = (
        f"the highest threshold at which at least {judging.picture_sensitivity:.0%} of the breasts with lesions are "
        f"positive when {_WHERE}, on the out-of-fold scores of {len(rows)} judged films"
    )
    point = OperatingPoint(threshold=threshold, chosen_by=chosen_by)
    return BreastComparison(contralateral=share, calibration=calibration, point=point), notes


def _figures(rows: Sequence[_Row], points: dict[int, BreastComparison], positive: str, seed: int) -> tuple[Figure, ...]:
    logits = np.asarray([row.logit for row in rows])
    truth = np.asarray([row.pair.film.positive for row in rows])
    patients = np.asarray([row.pair.film.patient for row in rows], dtype=str)
    called = np.asarray([_positive(row, points[row.pair.scored.fold]) for row in rows])
    calls = confusion(called, truth)
    how = f"{_WHERE}, thresholds from the other folds"
    on = f"{truth.sum()} {positive}, {(~truth).sum()} other breasts, {np.unique(patients).size} patients"
    separation = auroc_by_patient(logits, truth, patients, seed=seed)
    return (
        _figure(f"AUROC {positive} vs all others, by breast, {_WHERE}", separation, on),
        _figure(
            f"breast sensitivity ({how})",
            calls.sensitivity,
            f"{calls.true_positive} of {truth.sum()} {positive} breasts",
        ),
        _figure(
            f"breast specificity ({how})", calls.specificity, f"{calls.true_negative} of {(~truth).sum()} other breasts"
        ),
    )


def _positive(row: _Row, comparison: BreastComparison) -> bool:
    return calibrated(row.logit, comparison.calibration) >= comparison.point.threshold


def _figure(name: str, estimate: Estimate, on: str) -> Figure:
    low, high = round(estimate.low, 3), round(estimate.high, 3)
    return Figure(name=name, value=round(estimate.value, 3), low=low, high=high, on=on)

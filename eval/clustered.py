"""Several rows of one patient: variances that take the patient as the unit.

Areas by Obuchowski (1997), "Nonparametric analysis of clustered ROC curve data", Biometrics 53:567; proportions by
the variance of a ratio of sums over patients with an effective number of rows (Rao and Scott 1992; Korn and Graubard
1998). Called by the commands of ``radnode eval`` wherever a patient column is named. With one row a patient all
of it is what `eval.delong` and `eval.proportions` give.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eval.delong import Areas, Placements, missing_class
from eval.intervals import Estimate, clopper_pearson
from eval.ranking import Bools, Floats


def clustered_areas(scores: Sequence[Floats], diseased: Bools, patients: NDArray[np.str_]) -> Areas:
    """Areas of one or more scores over the same rows with the covariance of Obuchowski (1997).

    Parameters
    ----------
    scores : sequence of float64 (rows,)
        Higher is more suspicious; ties count half. NaN is not allowed.
    diseased : bool (rows,)
        Truth of the row: a patient may have both kinds.
    patients : str (rows,)
        Whose row it is: the unit of analysis.

    Returns
    -------
    Areas
        The areas are those over rows. The covariance sums placements within a patient (S10, S01) and adds S11, the
        covariance between diseased and other rows of the same patients; it needs two patients of each kind.
    """
    placed = Placements.of(scores, diseased)
    owner = np.unique(patients, return_inverse=True)[1]
    count = int(owner.max()) + 1 if len(owner) else 0
    ill = _patient_sums(placed.diseased - placed.areas[:, None], owner[diseased], count)
    well = _patient_sums(placed.others - placed.areas[:, None], owner[~diseased], count)
    with_ill, with_well = len(np.unique(owner[diseased])), len(np.unique(owner[~diseased]))
    if reason := missing_class(with_ill, with_well, "patient"):
        return Areas(values=placed.areas, covariance=np.full((len(scores),) * 2, math.nan), reason=reason)
    rows_ill, rows_well = int(diseased.sum()), int((~diseased).sum())
    s10 = with_ill / ((with_ill - 1) * rows_ill) * ill @ ill.T
    s01 = with_well / ((with_well - 1) * rows_well) * well @ well.T
    s11 = count / (count - 1) * ill @ well.T
    return Areas(
        values=placed.areas, covariance=s10 / rows_ill + s01 / rows_well + (s11 + s11.T) / (rows_ill * rows_well)
    )


def _patient_sums(values: Floats, owner: NDArray[np.intp], count: int) -> Floats:
    """(scores, patients) sums over rows, 0 for a patient without any."""
    return np.stack([np.bincount(owner, weights=row, minlength=count) for row in values])


@dataclass(frozen=True, kw_only=True, slots=True)
class EffectiveCounts:
    """A share of rows, and how many independent rows it is worth."""

    successes: float
    trials: float
    design_effect: float  # variance over patients divided by that of independent rows; 1 or more


def effective_counts(successes: Bools, patients: NDArray[np.str_]) -> EffectiveCounts:
    """Reduce rows (rows,) of several patients to the number of independent rows with the same variance.

    The design effect is the variance of the ratio of sums over patients over p (1 - p) / rows. It is never taken
    below 1. Where no variance can be seen (all rows alike) each patient counts as one row, the cautious end.
    """
    rows, found = len(successes), int(successes.sum())
    owner = np.unique(patients, return_inverse=True)[1] if rows else np.zeros(0, dtype=np.intp)
    sizes = np.bincount(owner).astype(np.float64)
    count = len(sizes)
    if count == rows:
        return EffectiveCounts(successes=found, trials=rows, design_effect=1.0)
    share = found / rows
    if found in {0, rows} or count == 1:
        return EffectiveCounts(successes=share * count, trials=count, design_effect=rows / count)
    spread = np.bincount(owner, weights=successes.astype(np.float64)) - share * sizes
    variance = count / (count - 1) * float(spread @ spread) / rows**2
    effect = min(max(variance / (share * (1 - share) / rows), 1.0), float(rows))
    return EffectiveCounts(successes=found / effect, trials=rows / effect, design_effect=effect)


def clustered_proportion(successes: Bools, patients: NDArray[np.str_]) -> Estimate:
    """Share of rows with its 95 % interval of Clopper and Pearson over the effective number of rows.

    Unit of analysis: the patient. With one row a patient it is `eval.intervals.clopper_pearson`; undefined for no
    rows.
    """
    if not len(successes):
        return Estimate.undefined("0 of 0: there are no cases of this kind")
    counts = effective_counts(successes, patients)
    limits = clopper_pearson(counts.successes, counts.trials)
    return Estimate(value=float(successes.mean()), low=limits.low, high=limits.high)


def error_correlation(called: Bools, diseased: Bools, patients: NDArray[np.str_]) -> float:
    """Correlation of the errors of sensitivity and false positive rate, 0 where no patient has both kinds of rows.

    Parameters
    ----------
    called, diseased : bool (rows,)
        What was called positive, and the truth.
    patients : str (rows,)
        Whose row it is: the unit.
    """
    if diseased.all() or not diseased.any():
        return 0.0
    owner = np.unique(patients, return_inverse=True)[1]
    excess = called - np.where(diseased, called[diseased].mean(), called[~diseased].mean())
    ill, well = (np.bincount(owner, weights=np.where(kind, excess, 0.0)) for kind in (diseased, ~diseased))
    size = math.sqrt(float(ill @ ill) * float(well @ well))
    return float(ill @ well) / size if size > 0 else 0.0

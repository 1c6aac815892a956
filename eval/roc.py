"""Case-level separation: the area under the ROC curve with midranks, and counts at a threshold.

Pure functions over arrays, used by `training.score` and by reports. Intervals are `eval.intervals`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eval.intervals import RESAMPLES, Estimate, clopper_pearson, patient_bootstrap


def auroc(scores: NDArray[np.float64], diseased: NDArray[np.bool_]) -> float:
    """Probability that a diseased case scores higher than another, ties counting half (Mann-Whitney, midranks).

    Parameters
    ----------
    scores : float64 (cases,)
        Higher is more suspicious.
    diseased : bool (cases,)
        Truth.

    Returns
    -------
    float
        NaN when one of the two groups is empty.
    """
    ill, well = scores[diseased], np.sort(scores[~diseased])
    if not ill.size or not well.size:
        return math.nan
    below = np.searchsorted(well, ill, side="left")
    tied = np.searchsorted(well, ill, side="right") - below
    return float((below + 0.5 * tied).sum() / (ill.size * well.size))


def auroc_by_patient(
    scores: NDArray[np.float64],
    diseased: NDArray[np.bool_],
    patients: NDArray[np.str_],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """`auroc` with its interval from resampled patients."""
    return patient_bootstrap(
        lambda rows: auroc(scores[rows], diseased[rows]), patients, diseased, resamples=resamples, seed=seed
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Confusion:
    """Counts of cases at a threshold."""

    true_positive: int
    false_negative: int
    true_negative: int
    false_positive: int

    @property
    def sensitivity(self) -> Estimate:
        """Share of the diseased called positive, with its exact interval."""
        return clopper_pearson(self.true_positive, self.true_positive + self.false_negative)

    @property
    def specificity(self) -> Estimate:
        """Share of the others called negative, with its exact interval."""
        return clopper_pearson(self.true_negative, self.true_negative + self.false_positive)


def confusion(called_positive: NDArray[np.bool_], diseased: NDArray[np.bool_]) -> Confusion:
    """Count what was called positive against the truth; both bool (cases,)."""
    return Confusion(
        true_positive=int((called_positive & diseased).sum()),
        false_negative=int((~called_positive & diseased).sum()),
        true_negative=int((~called_positive & ~diseased).sum()),
        false_positive=int((called_positive & ~diseased).sum()),
    )


def threshold_at_sensitivity(scores: NDArray[np.float64], sensitivity: float) -> float:
    """The highest score of the diseased `scores` at which at least `sensitivity` of them is still positive.

    Raises
    ------
    ValueError
        If there are no scores.
    """
    if not scores.size:
        raise ValueError("a threshold cannot be chosen without diseased cases")
    needed = math.ceil(sensitivity * scores.size - 1e-9)
    return float(np.sort(scores)[::-1][max(needed, 1) - 1])

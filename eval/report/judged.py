"""The judged cases of a run as arrays, with the one convention for cases that were not analysed.

Used by the modules of this package that count. A diseased case that was not analysed counts as missed; another one
counts as a false positive where failures are held against the model, and is left out where they are not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from eval.ranking import Bools, Floats
from eval.runs import CaseRecord, Run, Status


@dataclass(frozen=True, kw_only=True)
class Judged:
    """Cases of known truth, one row each.

    Attributes
    ----------
    records : tuple of CaseRecord
    patients : str (cases,)
    diseased, analysed : bool (cases,)
    scores : float64 (cases,)
        Calibrated; NaN where the case was not analysed.
    thresholds : float64 (cases,)
        What each score is compared with: that of the card, or of the fold.
    """

    records: tuple[CaseRecord, ...]
    patients: NDArray[np.str_]
    diseased: Bools
    analysed: Bools
    scores: Floats
    thresholds: Floats

    @classmethod
    def of(cls, run: Run) -> Judged:
        """All cases of the run whose truth is known and that are no training cases."""
        cases = run.judged
        analysed = [case.status is Status.ANALYSED and case.score is not None for case in cases]
        return cls(
            records=cases,
            patients=np.asarray([case.patient for case in cases], dtype=np.str_),
            diseased=np.asarray([bool(case.positive) for case in cases], dtype=np.bool_),
            analysed=np.asarray(analysed, dtype=np.bool_),
            scores=np.asarray(
                [np.nan if not known else case.score for case, known in zip(cases, analysed, strict=True)],
                dtype=np.float64,
            ),
            thresholds=np.asarray([run.threshold(case) for case in cases], dtype=np.float64),
        )

    def __len__(self) -> int:
        return len(self.records)

    @cached_property
    def called(self) -> Bools:
        """Called positive, failures held against the model: diseased ones are not, others are."""
        with np.errstate(invalid="ignore"):
            return np.where(self.analysed, self.scores >= self.thresholds, ~self.diseased)

    @cached_property
    def clustered(self) -> bool:
        """Whether a patient has several cases."""
        return len(np.unique(self.patients)) < len(self)

    def among(self, rows: Bools) -> Judged:
        """The cases of some rows."""
        return Judged(
            records=tuple(case for case, kept in zip(self.records, rows, strict=True) if kept),
            patients=self.patients[rows],
            diseased=self.diseased[rows],
            analysed=self.analysed[rows],
            scores=self.scores[rows],
            thresholds=self.thresholds[rows],
        )


def patients_of(cases: Sequence[CaseRecord]) -> int:
    """How many patients the cases are of."""
    return len({case.patient for case in cases})

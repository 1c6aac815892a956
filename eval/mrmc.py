"""Several readers, several treatments, the same cases: the analysis of Obuchowski and Rockette.

Called by `radnode eval mrmc` and `radnode eval jafroc`. It takes any figure of merit (areas come from
`eval.mrmc_covariance`, figures of marked places from `eval.jafroc`) and the covariance of its errors over cases, and
generalises to readers and cases, to cases only, or to readers only. Degrees of freedom are those of Hillis.

References: Obuchowski and Rockette 1995 (Commun Stat Simul Comput 24:285); Hillis and others 2005 (Stat Med 24:1579);
Hillis 2007 (Stat Med 26:596), section 5.3 for one treatment; Hupse and others 2013 (Eur Radiol 23:93) for fixed cases
and one machine against a panel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from eval.intervals import Estimate

_NOTHING = 1e-20  # a mean square below it is rounding: figures of merit are of the order of 1
_TAIL = 0.975  # intervals are of 95 %

NO_VARIANCE = "the figures do not vary, so there is no error to hold them against"
ONE_READER = "there is one reader: how readers vary cannot be told"
ONE_TREATMENT = "there is one treatment: nothing to compare"
NO_COVARIANCE = "the covariance over cases is undefined: it needs two diseased and two other cases"
NO_FIGURE = "a figure of merit is undefined"


@dataclass(frozen=True, kw_only=True, slots=True)
class ErrorCovariance:
    """The error variance and the three covariances of Obuchowski and Rockette, averaged over a study.

    Attributes
    ----------
    variance : float
        Of one reader's figure under one treatment.
    cov1 : float
        Same reader, different treatments; 0 with one treatment.
    cov2 : float
        Different readers, same treatment; 0 with one reader.
    cov3 : float
        Different readers, different treatments; 0 with one reader or one treatment.
    """

    variance: float
    cov1: float
    cov2: float
    cov3: float

    @classmethod
    def of(cls, covariance: NDArray[np.float64]) -> ErrorCovariance:
        """Average a matrix (treatments, readers, treatments, readers) of covariances over cases."""
        treatments, readers = covariance.shape[:2]
        total = float(covariance.sum())
        own = float(np.einsum("ijij->", covariance))
        same_reader = float(np.einsum("ijkj->", covariance))
        same_treatment = float(np.einsum("ijil->", covariance))
        return cls(
            variance=own / (treatments * readers),
            cov1=_mean(same_reader - own, treatments * (treatments - 1) * readers),
            cov2=_mean(same_treatment - own, treatments * readers * (readers - 1)),
            cov3=_mean(
                total - same_reader - same_treatment + own, treatments * (treatments - 1) * readers * (readers - 1)
            ),
        )

    @property
    def shared_by_readers(self) -> float:
        """max(Cov2 - Cov3, 0): what cases do to the difference of two treatments for all readers alike."""
        return max(self.cov2 - self.cov3, 0.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class MeanSquares:
    """Analysis of variance, treatment by reader, one figure a cell; NaN where there is nothing to divide by."""

    treatment: float
    reader: float
    treatment_reader: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Contrast:
    """A difference of means, `first` minus `second` (positions among the treatments).

    Attributes
    ----------
    estimate : Estimate
        The difference and its 95 % interval.
    statistic : float
        Difference over its standard error: t with `ddf` degrees of freedom, z where `ddf` is infinite.
    p : float
        Two-sided.
    """

    first: int
    second: int
    estimate: Estimate
    statistic: float
    ddf: float
    p: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Analysis:
    """One way to generalise: the test that all treatments are equal, their differences and their means.

    Attributes
    ----------
    f : float
        MS(T) over the error term; NaN where undefined.
    numerator_df, ddf : float
        Degrees of freedom; `ddf` is infinite where only cases are random, and f times `numerator_df` is then a
        chi-square.
    p : float
    contrasts : tuple of Contrast
        All pairs of treatments, first minus second.
    means : tuple of Estimate
        Mean over readers of each treatment, from that treatment's own readings.
    reason : str
        Why the test is undefined; empty where it is not.
    """

    f: float
    numerator_df: float
    ddf: float
    p: float
    contrasts: tuple[Contrast, ...]
    means: tuple[Estimate, ...]
    reason: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Study:
    """Figures of merit and the covariance of their errors over cases.

    Attributes
    ----------
    figures : float64 (treatments, readers)
    covariance : float64 (treatments, readers, treatments, readers)
        Over cases; NaN where it cannot be estimated.
    no_figure : str
        Why figures are NaN, where they are: everything that rests on them is undefined for this reason.
    """

    figures: NDArray[np.float64]
    covariance: NDArray[np.float64]
    no_figure: str = NO_FIGURE

    @property
    def treatments(self) -> int:
        """How many treatments."""
        return int(self.figures.shape[0])

    @property
    def readers(self) -> int:
        """How many readers."""
        return int(self.figures.shape[1])

    def of_readers(self, readers: Sequence[int]) -> Study:
        """The same with some of the readers."""
        some = list(readers)
        return replace(self, figures=self.figures[:, some], covariance=self.covariance[:, some][:, :, :, some])

    def of_treatment(self, treatment: int) -> Study:
        """The same with one treatment."""
        one = slice(treatment, treatment + 1)
        return replace(self, figures=self.figures[one], covariance=self.covariance[one, :, one])

    @property
    def unknown_figures(self) -> str:
        """`no_figure` if a figure is NaN, else empty."""
        return self.no_figure if np.isnan(self.figures).any() else ""


def mean_squares(figures: NDArray[np.float64]) -> MeanSquares:
    """Two-way analysis of variance without replication of `figures` (treatments, readers)."""
    treatments, readers = figures.shape
    grand = figures.mean()
    of_treatment, of_reader = figures.mean(axis=1), figures.mean(axis=0)
    rest = figures - of_treatment[:, None] - of_reader[None, :] + grand
    return MeanSquares(
        treatment=_over(readers * ((of_treatment - grand) ** 2).sum(), treatments - 1),
        reader=_over(treatments * ((of_reader - grand) ** 2).sum(), readers - 1),
        treatment_reader=_over((rest**2).sum(), (treatments - 1) * (readers - 1)),
    )


def random_readers_random_cases(study: Study) -> Analysis:
    """Both readers and cases are a sample (RRRC): results hold for their populations.

    F = MS(T) / (MS(TR) + J max(Cov2 - Cov3, 0)) with I - 1 and the degrees of freedom of Hillis 2007, which are the
    square of the denominator over MS(TR)^2 / ((I - 1)(J - 1)). The variance of a mean comes from its own treatment.
    Undefined with one reader.
    """
    spread = mean_squares(study.figures).treatment_reader
    term = spread + study.readers * ErrorCovariance.of(study.covariance).shared_by_readers
    ddf = _hillis(term, spread, (study.treatments - 1) * (study.readers - 1))
    return _analysis(study, term, ddf, _means(study, _both_random), _unknown(study, readers_vary=True))


def fixed_readers(study: Study) -> Analysis:
    """Only cases are a sample (FRRC): results hold for these readers and the population of cases.

    The error term is Var - Cov1 + (J - 1) max(Cov2 - Cov3, 0); MS(T) (I - 1) over it is a chi-square with I - 1 degrees
    of freedom, which is written here as F with infinitely many in the denominator.
    """
    error = ErrorCovariance.of(study.covariance)
    term = error.variance - error.cov1 + (study.readers - 1) * error.shared_by_readers
    return _analysis(study, term, math.inf, _means(study, _cases_random), _unknown(study, readers_vary=False))


def fixed_cases(study: Study) -> Analysis:
    """Only readers are a sample (RRFC): results hold for these cases and the population of readers.

    F = MS(T) / MS(TR) with I - 1 and (I - 1)(J - 1) degrees of freedom: with two treatments, the paired t test of the
    readers' figures. Undefined with one reader; needs no covariance over cases.
    """
    term = mean_squares(study.figures).treatment_reader
    ddf = float((study.treatments - 1) * (study.readers - 1))
    return _analysis(study, term, ddf, _means(study, _readers_random), ONE_READER if study.readers == 1 else "")


def by_reader(study: Study) -> tuple[tuple[Contrast, ...], ...]:
    """Differences of treatments for each reader alone, from that reader's own error variance and covariance."""
    return tuple(fixed_readers(study.of_readers([reader])).contrasts for reader in range(study.readers))


@dataclass(frozen=True, kw_only=True, slots=True)
class PanelComparison:
    """A panel of readers against one reader who is not of their kind: the machine alone.

    Each analysis has one contrast, the panel's mean minus the machine's figure.
    """

    machine: float
    panel: float
    random_readers_random_cases: Analysis
    fixed_readers: Analysis
    fixed_cases: Analysis


def against_panel(study: Study, machine: int) -> PanelComparison:
    """Test that the mean figure of a panel equals that of one more reader, within one treatment.

    The difference of each panel reader from the machine is itself a figure of merit of one treatment, whose mean is
    held against 0 (Hillis 2007, section 5.3): the machine is no sample, only readers and cases are.

    Parameters
    ----------
    study : Study
        One treatment, at least two readers.
    machine : int
        Which reader is the machine.

    Raises
    ------
    ValueError
        If there is not exactly one treatment, or nobody to compare with.
    """
    if study.treatments != 1 or study.readers == 1:
        raise ValueError("a panel is compared with a machine under one treatment, and needs at least one reader")
    panel = [reader for reader in range(study.readers) if reader != machine]
    figures = study.figures[0]
    errors = study.covariance[0, :, 0, :]
    with_machine = errors[panel, machine]
    differences = replace(
        study,
        figures=(figures[panel] - figures[machine])[None, :],
        covariance=(
            errors[np.ix_(panel, panel)] - with_machine[:, None] - with_machine[None, :] + errors[machine, machine]
        )[None, :, None, :],
    )
    return PanelComparison(
        machine=float(figures[machine]),
        panel=float(figures[panel].mean()),
        random_readers_random_cases=_one_sample(_both_random(differences)),
        fixed_readers=_one_sample(_cases_random(differences)),
        fixed_cases=_one_sample(_readers_random(differences)),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Mean:
    """Mean over readers under one treatment, the variance of it, and the degrees of freedom of that."""

    value: float
    variance: float
    ddf: float
    reason: str

    @property
    def estimate(self) -> Estimate:
        return _interval(self.value, self.variance, self.ddf, self.reason)


def _means(study: Study, of: Callable[[Study], _Mean]) -> tuple[Estimate, ...]:
    return tuple(of(study.of_treatment(treatment)).estimate for treatment in range(study.treatments))


def _both_random(alone: Study) -> _Mean:
    spread = mean_squares(alone.figures).reader
    whole = spread + alone.readers * max(ErrorCovariance.of(alone.covariance).cov2, 0.0)
    return _Mean(
        value=float(alone.figures.mean()),
        variance=whole / alone.readers,
        ddf=_hillis(whole, spread, alone.readers - 1),
        reason=alone.unknown_figures or _unknown(alone, readers_vary=True),
    )


def _cases_random(alone: Study) -> _Mean:
    own = ErrorCovariance.of(alone.covariance)
    return _Mean(
        value=float(alone.figures.mean()),
        variance=(own.variance + (alone.readers - 1) * max(own.cov2, 0.0)) / alone.readers,
        ddf=math.inf,
        reason=alone.unknown_figures or _unknown(alone, readers_vary=False),
    )


def _readers_random(alone: Study) -> _Mean:
    return _Mean(
        value=float(alone.figures.mean()),
        variance=mean_squares(alone.figures).reader / alone.readers,
        ddf=float(alone.readers - 1),
        reason=alone.unknown_figures or (ONE_READER if alone.readers == 1 else ""),
    )


def _analysis(study: Study, term: float, ddf: float, means: tuple[Estimate, ...], unknown: str) -> Analysis:
    """The test and the differences that an error term (a mean square) and its degrees of freedom give."""
    reason = study.unknown_figures or (ONE_TREATMENT if study.treatments == 1 else unknown)
    reason = reason or ("" if term > _NOTHING else NO_VARIANCE)
    numerator_df = study.treatments - 1
    f = math.nan if reason else mean_squares(study.figures).treatment / term
    centre = study.figures.mean(axis=1)
    return Analysis(
        f=f,
        numerator_df=numerator_df,
        ddf=math.nan if reason else ddf,
        p=math.nan if reason else _upper_tail(f, numerator_df, ddf),
        contrasts=tuple(
            _contrast(first, second, float(centre[first] - centre[second]), 2 * term / study.readers, ddf, reason)
            for first, second in combinations(range(study.treatments), 2)
        ),
        means=means,
        reason=reason,
    )


def _one_sample(mean: _Mean) -> Analysis:
    """Whether a mean is 0, told in the same words as the equality of two treatments."""
    reason = mean.reason or ("" if mean.variance > _NOTHING else NO_VARIANCE)
    contrast = _contrast(0, 1, mean.value, mean.variance, mean.ddf, reason)
    return Analysis(
        f=contrast.statistic**2,
        numerator_df=1,
        ddf=contrast.ddf,
        p=contrast.p,
        contrasts=(contrast,),
        means=(),
        reason=reason,
    )


def _contrast(first: int, second: int, difference: float, variance: float, ddf: float, reason: str) -> Contrast:
    statistic = math.nan if reason else difference / math.sqrt(variance)
    return Contrast(
        first=first,
        second=second,
        estimate=_interval(difference, variance, ddf, reason),
        statistic=statistic,
        ddf=math.nan if reason else ddf,
        p=math.nan if reason else float(2 * stats.t.sf(abs(statistic), ddf)),
    )


def _interval(value: float, variance: float, ddf: float, reason: str) -> Estimate:
    if math.isnan(value):
        return Estimate.undefined(reason or NO_FIGURE)
    if reason or not variance > _NOTHING:
        return Estimate(value=value, low=math.nan, high=math.nan, reason=reason or NO_VARIANCE)
    half = float(stats.t.ppf(_TAIL, ddf)) * math.sqrt(variance)
    return Estimate(value=value, low=value - half, high=value + half)


def _unknown(study: Study, *, readers_vary: bool) -> str:
    if readers_vary and study.readers == 1:
        return ONE_READER
    return NO_COVARIANCE if np.isnan(study.covariance).any() else ""


def _hillis(term: float, spread: float, df: int) -> float:
    """Degrees of freedom of `spread` plus a part that is taken as known; infinite where readers do not vary."""
    return term**2 * df / spread**2 if spread > _NOTHING else math.inf


def _upper_tail(f: float, numerator_df: int, ddf: float) -> float:
    if math.isinf(ddf):
        return float(stats.chi2.sf(f * numerator_df, numerator_df))
    return float(stats.f.sf(f, numerator_df, ddf))


def _mean(total: float, count: int) -> float:
    return total / count if count else 0.0


def _over(total: float, df: int) -> float:
    return float(total) / df if df else math.nan

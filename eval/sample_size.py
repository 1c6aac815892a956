"""How many cases a study needs, before it is begun.

Called by ``radnode eval sample-size``. Normal theory throughout; numbers are rounded up. Each function names its paper.
Intervals and tests that the study will then use are `eval.proportions`, `eval.delong`, `eval.paired`, `eval.two_groups`
and, for reader studies, `eval.mrmc`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from scipy.stats import f as f_distribution
from scipy.stats import ncf, norm

from eval.two_groups import check_margin, restricted_shares

_MOST_CASES = 10_000_000


class Sides(StrEnum):
    """Of the test: sides of the error of the first kind."""

    ONE = "one"
    TWO = "two"

    def quantile(self, alpha: float) -> float:
        """Of the normal distribution."""
        return float(norm.isf(alpha / 2 if self is Sides.TWO else alpha))


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """Cases of each kind that are needed, and how many must be recruited for them."""

    diseased: int
    others: int
    total: int


def buderer(
    *, sensitivity: float | None, specificity: float | None, half_width: float, prevalence: float, level: float = 0.95
) -> Size:
    """Cases to estimate sensitivity, specificity or both with an interval of ± `half_width` (Buderer 1996).

    Parameters
    ----------
    sensitivity, specificity : float or None
        Expected ones; None where it is not to be estimated.
    half_width : float
        Of the interval, as a share.
    prevalence : float
        Among the recruited: `total` is what must be recruited to find enough of both kinds.

    Raises
    ------
    ValueError
        If neither is given, or a share does not lie between 0 and 1.
    """
    _shares(half_width=half_width, prevalence=prevalence, level=level)
    if sensitivity is None and specificity is None:
        raise ValueError("name the expected sensitivity, the expected specificity or both")
    factor = (float(norm.isf((1 - level) / 2)) / half_width) ** 2
    needed = []
    for share in (sensitivity, specificity):
        if share is not None:
            _shares(share=share)
        needed.append(0.0 if share is None else factor * share * (1 - share))
    total = max(needed[0] / prevalence, needed[1] / (1 - prevalence))
    return Size(diseased=_up(needed[0]), others=_up(needed[1]), total=_up(total))


class AreaVariance(StrEnum):
    """Which model gives the variance of an area before there are scores."""

    HANLEY_MCNEIL = "hanley-mcneil"  # 1982, exponential distributions
    OBUCHOWSKI = "obuchowski"  # 1994, normal distributions of ratings


def area_variance(model: AreaVariance, auc: float, ratio: float) -> float:
    """Variance of an area times the number of diseased cases, for many cases; `ratio`: others for each diseased."""
    _shares(auc=auc)
    if ratio <= 0:
        raise ValueError(f"cases of the other kind for each diseased one: more than 0, not {ratio}")
    if model is AreaVariance.HANLEY_MCNEIL:
        q1, q2 = auc / (2 - auc), 2 * auc**2 / (1 + auc)
        return (q2 - auc**2) + (q1 - auc**2) / ratio
    a = float(norm.ppf(auc)) * 1.414
    return 0.0099 * math.exp(-(a**2) / 2) * ((5 * a**2 + 8) + (a**2 + 8) / ratio)


def hanley_mcneil_standard_error(auc: float, diseased: int, others: int) -> float:
    """Standard error of an area with so many cases (Hanley and McNeil 1982)."""
    q1, q2 = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    variance = auc * (1 - auc) + (diseased - 1) * (q1 - auc**2) + (others - 1) * (q2 - auc**2)
    return math.sqrt(variance / (diseased * others))


def area_precision(
    model: AreaVariance, *, auc: float, half_width: float, ratio: float = 1.0, level: float = 0.95
) -> Size:
    """Cases to estimate an area with an interval of ± `half_width`."""
    _shares(half_width=half_width, level=level)
    quantile = float(norm.isf((1 - level) / 2))
    return _size(area_variance(model, auc, ratio) * (quantile / half_width) ** 2, ratio)


def area_against(
    model: AreaVariance,
    *,
    auc: float,
    null: float,
    power: float = 0.8,
    alpha: float = 0.05,
    sides: Sides = Sides.TWO,
    ratio: float = 1.0,
) -> Size:
    """Cases to show that an area differs from `null` when it is `auc`."""
    _different(auc, null)
    _shares(power=power, alpha=alpha)
    spread = sides.quantile(alpha) * math.sqrt(area_variance(model, null, ratio))
    spread += float(norm.ppf(power)) * math.sqrt(area_variance(model, auc, ratio))
    return _size((spread / (auc - null)) ** 2, ratio)


def area_difference(
    model: AreaVariance,
    *,
    first: float,
    second: float,
    correlation: float = 0.0,
    power: float = 0.8,
    alpha: float = 0.05,
    sides: Sides = Sides.TWO,
    ratio: float = 1.0,
) -> Size:
    """Cases of each of two groups, or of one group read twice, to show that two areas differ.

    Parameters
    ----------
    first, second : float
        Expected areas; under no difference both are `first`, as in Table III of Hanley and McNeil (1982).
    correlation : float
        Between the two estimated areas: 0 for two groups of cases, more for the same cases (Hanley and McNeil 1983).
    """
    _different(first, second)
    _shares(power=power, alpha=alpha)
    if not -1 < correlation < 1:
        raise ValueError(f"a correlation lies between -1 and 1, not at {correlation}")
    one, other = area_variance(model, first, ratio), area_variance(model, second, ratio)
    under_none = 2 * one * (1 - correlation)
    expected = one + other - 2 * correlation * math.sqrt(one * other)
    spread = sides.quantile(alpha) * math.sqrt(under_none) + float(norm.ppf(power)) * math.sqrt(expected)
    return _size((spread / (first - second)) ** 2, ratio)


def connor(
    *, first_only: float, second_only: float, power: float = 0.8, alpha: float = 0.05, sides: Sides = Sides.TWO
) -> int:
    """Pairs for McNemar's test (Connor 1987).

    Parameters
    ----------
    first_only, second_only : float
        Expected shares of cases on which only the first, or only the second, is right.
    """
    _shares(power=power, alpha=alpha)
    discordant, difference = first_only + second_only, first_only - second_only
    if not (0 <= first_only < 1 and 0 <= second_only < 1 and discordant <= 1):
        raise ValueError("shares of discordant cases are at least 0 and together at most 1")
    _different(first_only, second_only)
    spread = sides.quantile(alpha) * math.sqrt(discordant)
    spread += float(norm.ppf(power)) * math.sqrt(discordant - difference**2)
    return _up((spread / difference) ** 2)


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupSizes:
    """Cases of two independent groups."""

    first: int
    second: int


def farrington_manning(
    *,
    first: float,
    second: float,
    margin: float,
    ratio: float = 1.0,
    power: float = 0.8,
    alpha: float = 0.025,
) -> GroupSizes:
    """Cases to show that the first share is not lower by `margin` or more (Farrington and Manning 1990), one-sided.

    Parameters
    ----------
    first, second : float
        Expected shares.
    margin : float
        What may be lost, as a share.
    ratio : float
        Cases of the second group for each of the first.
    """
    check_margin(margin)
    _shares(first=first, second=second, power=power, alpha=alpha)
    if first - second <= -margin:
        raise ValueError("the expected difference is the margin or worse: no number of cases shows otherwise")
    one, two = restricted_shares(first, second, ratio, -margin)
    spread = float(norm.isf(alpha)) * math.sqrt(one * (1 - one) + two * (1 - two) / ratio)
    spread += float(norm.ppf(power)) * math.sqrt(first * (1 - first) + second * (1 - second) / ratio)
    cases = (spread / (first - second + margin)) ** 2
    return GroupSizes(first=_up(cases), second=_up(cases * ratio))


@dataclass(frozen=True, kw_only=True, slots=True)
class PilotComponents:
    """Variance components of Obuchowski and Rockette from a pilot study of `cases` cases.

    Attributes
    ----------
    treatment_reader : float
        Variance of the interaction of treatment and reader; below 0 it is taken as 0.
    error, cov1, cov2, cov3 : float
        Variance of an area over cases, and covariances: same reader, same treatment, neither.
    """

    treatment_reader: float
    error: float
    cov1: float
    cov2: float
    cov3: float
    cases: int


@dataclass(frozen=True, kw_only=True, slots=True)
class MrmcPower:
    """Power of the test of two treatments with random readers and cases."""

    power: float
    noncentrality: float
    ddf: float


def mrmc_power(
    pilot: PilotComponents, *, difference: float, readers: int, cases: int, alpha: float = 0.05
) -> MrmcPower:
    """Power with `readers` and `cases` (Hillis, Obuchowski and Berbaum 2011); the case mix is the pilot's.

    Parameters
    ----------
    pilot : PilotComponents
        Errors shrink with the number of cases, the interaction of treatment and reader does not.
    difference : float
        Of the mean areas of two treatments that is to be shown.
    """
    if readers < 2 or cases < 2 or pilot.cases < 2:  # noqa: PLR2004 - a variance needs two
        raise ValueError("a reader study needs at least 2 readers and 2 cases")
    shrink = pilot.cases / cases
    interaction = max(pilot.treatment_reader, 0.0)
    apart = pilot.cov2 - pilot.cov3
    mean_square = interaction + shrink * (pilot.error - pilot.cov1 - apart)
    denominator = mean_square + shrink * readers * max(apart, 0.0)
    if mean_square <= 0 or denominator <= 0:
        raise ValueError("these components give no positive variance; check their order and signs")
    ddf = denominator**2 * (readers - 1) / mean_square**2
    noncentrality = readers * difference**2 / (2 * denominator)
    critical = f_distribution.isf(alpha, 1, ddf)
    return MrmcPower(power=float(ncf.sf(critical, 1, ddf, noncentrality)), noncentrality=noncentrality, ddf=ddf)


def mrmc_cases(
    pilot: PilotComponents, *, difference: float, readers: int, power: float = 0.8, alpha: float = 0.05
) -> int:
    """Fewest cases with which so many readers reach `power`.

    Raises
    ------
    ValueError
        If no number of cases does: the readers differ too much, more readers are needed.
    """
    _shares(power=power, alpha=alpha)

    def reached(cases: int) -> bool:
        return mrmc_power(pilot, difference=difference, readers=readers, cases=cases, alpha=alpha).power >= power

    if not reached(_MOST_CASES):
        raise ValueError(f"{readers} readers do not reach a power of {power:g} with any number of cases; take more")
    low, high = 1, _MOST_CASES
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if reached(middle) else (middle, high)
    return high


def _size(diseased: float, ratio: float) -> Size:
    ill, well = _up(diseased), _up(diseased * ratio)
    return Size(diseased=ill, others=well, total=ill + well)


def _up(number: float) -> int:
    return math.ceil(number - 1e-9)


def _different(first: float, second: float) -> None:
    if first == second:
        raise ValueError("the two must differ: no number of cases shows a difference of 0")


def _shares(**named: float) -> None:
    for name, value in named.items():
        if not 0 < value < 1:
            raise ValueError(f"{name.replace('_', ' ')} lies between 0 and 1, not at {value}")

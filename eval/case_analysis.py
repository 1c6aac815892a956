"""One table of scores against truth, all of it: area, comparison, operating point, calibration, utility, subgroups.

Called by ``radnode eval roc``. Decides the unit of analysis once: with a patient column every interval here is by
patient, without one every case is its own patient. Reads no file and prints nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from eval import calibration as cal
from eval.case_document import (
    CalibrationBlock,
    Counts,
    DecisionCurveBlock,
    FixedPointBlock,
    OperatingPoint,
    Paired,
    PartialAreaBlock,
    Subgroup,
    bin_blocks,
    decision_block,
    rates_block,
)
from eval.clustered import clustered_areas
from eval.delong import Areas, Difference, Scale, delong, unpaired_difference
from eval.document import Interval, Reasons
from eval.influence import average_precision_estimate, mean_estimate
from eval.intervals import RESAMPLES, Estimate
from eval.proportions import rates
from eval.ranking import Bools, Floats, Ranking, Steps
from eval.resampling import percentile_estimate, resampled
from eval.roc import (
    confusion,
    partial_auroc,
    sensitivity_at_specificity,
    specificity_at_sensitivity,
)
from eval.utility import decision_curve

TOO_FEW = 10  # diseased cases below which no figure of a subgroup is given
NO_SCORE_KEEPS_IT = "no score keeps this specificity: nothing would be called positive"


class Method(StrEnum):
    """Where the interval of an area comes from."""

    PLAIN = "plain"  # DeLong, or Obuchowski by patient, symmetric around the area
    LOGIT = "logit"  # the same variance on the scale of log odds
    BOOTSTRAP = "bootstrap"  # percentiles of resampled patients


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Cases:
    """Scores and truth of the cases (cases,); `patients` is None where every case is its own patient."""

    scores: Floats
    diseased: Bools
    compared: Floats | None = None
    patients: NDArray[np.str_] | None = None

    @property
    def units(self) -> NDArray[np.str_]:
        """(cases,) whose case it is."""
        return np.arange(len(self.diseased)).astype(np.str_) if self.patients is None else self.patients

    def only(self, rows: Bools) -> Cases:
        """The cases of a subgroup."""
        return Cases(
            scores=self.scores[rows],
            diseased=self.diseased[rows],
            compared=None if self.compared is None else self.compared[rows],
            patients=None if self.patients is None else self.patients[rows],
        )

    @property
    def probabilities(self) -> bool:
        """Whether all scores lie between 0 and 1."""
        return bool(((self.scores >= 0) & (self.scores <= 1)).all())


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What was decided before the numbers were seen."""

    threshold: float | None = None
    prevalences: Sequence[float] = ()
    sensitivities: Sequence[float] = ()
    specificities: Sequence[float] = ()
    false_positive_rates: tuple[float, float] | None = None
    method: Method = Method.PLAIN
    resamples: int = RESAMPLES
    seed: int = 0
    stratified: bool = True
    subgroups: Mapping[str, NDArray[np.str_]] = field(default_factory=dict)

    @property
    def scale(self) -> Scale:
        """Of intervals that have a formula."""
        return Scale.LOGIT if self.method is Method.LOGIT else Scale.PLAIN


def counts(cases: Cases) -> Counts:
    """How many there are."""
    diseased = int(cases.diseased.sum())
    return Counts(
        cases=len(cases.diseased),
        diseased=diseased,
        not_diseased=len(cases.diseased) - diseased,
        patients=None if cases.patients is None else len(np.unique(cases.patients)),
    )


def areas(cases: Cases) -> Areas:
    """Areas of the score and, where there is one, of the compared score, by the unit of analysis."""
    scores = [cases.scores] if cases.compared is None else [cases.scores, cases.compared]
    if cases.patients is None:
        return delong(scores, cases.diseased)
    return clustered_areas(scores, cases.diseased, cases.patients)


def area(cases: Cases, plan: Plan, index: int = 0) -> Estimate:
    """The area of one of the scores with the interval that `plan` asks for."""
    found = areas(cases).estimate(index, plan.scale)
    if plan.method is not Method.BOOTSTRAP or not found.defined:
        return found
    return _percentiles(found.value, _area_draws(cases, plan)[:, index])


def _area_draws(cases: Cases, plan: Plan) -> Floats:
    """(resamples, scores) areas of resampled patients, the same patients for every score."""
    scores = [cases.scores] if cases.compared is None else [cases.scores, cases.compared]
    rankings = [Ranking.of(score) for score in scores]
    return _draws(
        lambda weights: np.stack([Steps.of(one, cases.diseased, weights).auroc() for one in rankings], axis=-1),
        cases,
        plan,
    )


def _percentiles(value: float, draws: Floats) -> Estimate:
    """`percentile_estimate`, but no interval of width 0, which would claim certainty."""
    return _not_certain(percentile_estimate(value, draws))


def _not_certain(estimate: Estimate) -> Estimate:
    if not estimate.defined or estimate.low != estimate.high:
        return estimate
    return Estimate(value=estimate.value, low=math.nan, high=math.nan, reason="every resample gives the same figure")


def _draws(statistic: Callable[[Floats], Floats], cases: Cases, plan: Plan) -> Floats:
    return resampled(
        statistic,
        cases.units,
        cases.diseased,
        resamples=plan.resamples,
        seed=plan.seed,
        stratified=plan.stratified,
    )


def paired(cases: Cases, plan: Plan, name: str, reasons: Reasons) -> Paired:
    """The score against the compared one."""
    other, other_ci = reasons.estimate("paired.auroc", area(cases, plan, 1))
    difference = areas(cases).difference()
    estimate = difference.estimate
    if plan.method is Method.BOOTSTRAP and estimate.defined:
        draws = _area_draws(cases, plan)
        estimate = _percentiles(estimate.value, draws[:, 0] - draws[:, 1])
    value, ci = reasons.estimate("paired.difference", estimate)
    why = difference.estimate.reason
    return Paired(
        compare=name,
        auroc=other,
        auroc_ci=other_ci,
        difference=value,
        ci=ci,
        z=reasons.number("paired.z", difference.z, why),
        p=reasons.number("paired.p", difference.p, why),
    )


def precision(cases: Cases, plan: Plan) -> Estimate:
    """Average precision with its interval: by influence on the scale of log odds, or by resampled patients."""
    found = average_precision_estimate(cases.scores, cases.diseased, cases.patients, stratified=plan.stratified)
    if plan.method is not Method.BOOTSTRAP or not found.defined:
        return found
    ranking = Ranking.of(cases.scores)
    draws = _draws(lambda weights: Steps.of(ranking, cases.diseased, weights).average_precision(), cases, plan)
    return _percentiles(found.value, draws)


def operating_point(cases: Cases, plan: Plan, threshold: float, reasons: Reasons) -> OperatingPoint:
    """Rates at the declared threshold."""
    called = cases.scores >= threshold
    judged = rates(called, cases.diseased, cases.patients, plan.prevalences)
    block = rates_block("operating_point", judged, confusion(called, cases.diseased), reasons)
    return OperatingPoint.model_validate({"threshold": threshold, **block})


def fixed_points(cases: Cases, plan: Plan, reasons: Reasons) -> tuple[FixedPointBlock, ...]:
    """Specificity at each fixed sensitivity, then the reverse."""
    found = []
    ways = (
        ("sensitivity", "specificity", plan.sensitivities, specificity_at_sensitivity),
        ("specificity", "sensitivity", plan.specificities, sensitivity_at_specificity),
    )
    for fixed, free, targets, point_at in ways:
        for target in targets:
            key = f"fixed_points.{fixed}={target:g}"
            point = point_at(
                cases.scores,
                cases.diseased,
                cases.units,
                target,
                resamples=plan.resamples,
                seed=plan.seed,
                stratified=plan.stratified,
            )
            value, ci = reasons.estimate(f"{key}.{free}", _not_certain(point.estimate))
            reached = _reached(cases, point.threshold, fixed)
            why = point.estimate.reason or NO_SCORE_KEEPS_IT
            found.append(
                FixedPointBlock.model_validate(
                    {
                        "fixed": fixed,
                        "at_least": target,
                        "threshold": reasons.number(f"{key}.threshold", point.threshold, why),
                        free: value,
                        fixed: reasons.number(f"{key}.{fixed}", reached, why),
                        "ci": ci,
                    }
                )
            )
    return tuple(found)


def _reached(cases: Cases, threshold: float, fixed: str) -> float:
    """What the fixed figure really is at the threshold."""
    if math.isnan(threshold):
        return math.nan
    counted = confusion(cases.scores >= threshold, cases.diseased)
    return (counted.sensitivity if fixed == "sensitivity" else counted.specificity).value


def partial(cases: Cases, plan: Plan, low: float, high: float, reasons: Reasons) -> PartialAreaBlock:
    """Area between two false positive rates with its interval from resampled patients."""
    found = partial_auroc(cases.scores, cases.diseased, low, high)
    ranking = Ranking.of(cases.scores)
    draws = (
        np.full(1, math.nan)
        if math.isnan(found.area)
        else _draws(lambda weights: Steps.of(ranking, cases.diseased, weights).partial_area(low, high), cases, plan)
    )
    scaled = np.asarray([replace(found, area=float(draw)).standardised for draw in draws])
    value, ci = reasons.estimate("partial_auroc.area", _percentiles(found.area, draws))
    standardised, standardised_ci = reasons.estimate(
        "partial_auroc.standardised", _percentiles(found.standardised, scaled)
    )
    return PartialAreaBlock(
        fpr_low=low,
        fpr_high=high,
        area=value,
        area_ci=ci,
        standardised=standardised,
        standardised_ci=standardised_ci,
    )


def calibration(cases: Cases, plan: Plan, reasons: Reasons) -> CalibrationBlock:
    """Calibration of scores that are probabilities."""
    p, y = cases.scores, cases.diseased
    equal, adaptive = cal.equal_width_bins(p, y), cal.adaptive_bins(p, y)
    fitted = cal.recalibration(p, y, cases.patients)
    test = cal.spiegelhalter(p, y)
    figures = {
        "brier": _mean((p - y) ** 2, cases, plan),
        "log_loss": _log_loss(cases, plan),
        "slope": fitted.slope,
        "intercept": fitted.intercept,
        "in_the_large": fitted.in_the_large,
    }
    block: dict[str, float | Interval | None] = {}
    for name, estimate in figures.items():
        block[name], block[f"{name}_ci"] = reasons.estimate(f"calibration.{name}", estimate)
    errors = cal.errors_if_calibrated(p, resamples=plan.resamples, seed=plan.seed)
    _, block["ece_if_calibrated"] = reasons.estimate("calibration.ece_if_calibrated", errors[0])
    _, block["ece_adaptive_if_calibrated"] = reasons.estimate("calibration.ece_adaptive_if_calibrated", errors[1])
    certain = "all probabilities are 0, 0.5 or 1"
    return CalibrationBlock.model_validate(
        {
            **block,
            "ece": cal.expected_calibration_error(equal),
            "ece_adaptive": cal.expected_calibration_error(adaptive),
            "spiegelhalter_z": reasons.number("calibration.spiegelhalter_z", test.z, certain),
            "spiegelhalter_p": reasons.number("calibration.spiegelhalter_p", test.p, certain),
            "bins": bin_blocks(equal),
            "adaptive_bins": bin_blocks(adaptive),
        }
    )


def _mean(values: Floats, cases: Cases, plan: Plan) -> Estimate:
    """Mean over cases with its interval: by normal theory over patients, or by resampled patients."""
    if plan.method is not Method.BOOTSTRAP:
        return mean_estimate(values, cases.patients, cases.diseased, stratified=plan.stratified)
    draws = _draws(lambda weights: weights @ values / weights.sum(axis=1), cases, plan)
    return _percentiles(float(values.mean()), draws)


def _log_loss(cases: Cases, plan: Plan) -> Estimate:
    losses = cal.log_losses(cases.scores, cases.diseased)
    if not np.isfinite(losses).all():
        return Estimate.undefined("infinite: a probability of exactly 0 or 1 was wrong")
    return _mean(losses, cases, plan)


def utility(cases: Cases, plan: Plan, reasons: Reasons) -> DecisionCurveBlock:
    """The decision curve, at the first stated prevalence where one is."""
    prevalence = plan.prevalences[0] if plan.prevalences else None
    curve = decision_curve(cases.scores, cases.diseased, prevalence=prevalence, patients=cases.patients)
    return decision_block("decision_curve", curve, reasons)


def subgroups(cases: Cases, plan: Plan, reasons: Reasons) -> tuple[Subgroup, ...]:
    """Every value of every column of `plan.subgroups`; an empty cell is a group of its own, so that sums add up."""
    return tuple(
        _subgroup(cases, cells == value, plan, (column, str(value)), reasons)
        for column, cells in plan.subgroups.items()
        for value in np.unique(cells)
    )


def _subgroup(cases: Cases, rows: Bools, plan: Plan, name: tuple[str, str], reasons: Reasons) -> Subgroup:
    group, key = cases.only(rows), f"subgroups.{name[0]}={name[1]}"
    diseased = int(group.diseased.sum())
    few = diseased < TOO_FEW
    nothing = Estimate.undefined(f"too few: {diseased} diseased cases, at least {TOO_FEW} are needed")
    estimates = dict.fromkeys(("auroc", "sensitivity", "specificity", "difference_from_rest"), nothing)
    p = math.nan
    if not few:
        estimates["auroc"] = area(replace(group, compared=None), plan)
        estimates |= _calls(group, plan.threshold)
        versus = _versus_rest(cases, rows)
        estimates["difference_from_rest"], p = versus.estimate, versus.p
    block: dict[str, float | Interval | None] = {}
    for figure, estimate in estimates.items():
        block[figure], block[f"{figure}_ci"] = reasons.estimate(f"{key}.{figure}", estimate)
    return Subgroup.model_validate(
        {
            "column": name[0],
            "value": name[1],
            "cases": len(group.diseased),
            "diseased": diseased,
            "too_few": few,
            **block,
            "difference_from_rest_p": reasons.number(
                f"{key}.difference_from_rest_p", p, estimates["difference_from_rest"].reason
            ),
        }
    )


def _versus_rest(cases: Cases, rows: Bools) -> Difference:
    """The area of a subgroup minus that of all other cases, which must be of other patients."""
    if rows.all():
        return Difference.of(math.nan, math.nan, "there are no other cases")
    if cases.patients is not None and np.isin(cases.patients[rows], cases.patients[~rows]).any():
        return Difference.of(math.nan, math.nan, "some patients have cases in this group and in others")
    group, rest = (areas(replace(cases.only(kind), compared=None)) for kind in (rows, ~rows))
    return unpaired_difference(group, rest)


def _calls(cases: Cases, threshold: float | None) -> dict[str, Estimate]:
    if threshold is None:
        return dict.fromkeys(("sensitivity", "specificity"), Estimate.undefined("no threshold was given"))
    judged = rates(cases.scores >= threshold, cases.diseased, cases.patients)
    return {"sensitivity": judged.sensitivity.exact, "specificity": judged.specificity.exact}


def lowest(groups: Sequence[Subgroup]) -> Subgroup | None:
    """The group with the lowest area, among those that have one."""
    known = [group for group in groups if group.auroc is not None]
    return min(known, key=lambda group: group.auroc or 0.0) if known else None

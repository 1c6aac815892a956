"""What ``radnode eval roc`` and ``radnode eval proportions`` print: the blocks of their documents and their filling.

The arithmetic is elsewhere (`eval.roc`, `eval.delong`, `eval.proportions`, `eval.calibration`, `eval.utility`); here
figures get their keys, and those that are undefined their reasons.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from pydantic import Field

from eval.calibration import ReliabilityBin
from eval.document import Document, Interval, Part, Reasons
from eval.proportions import AtPrevalence, Proportion, Rates, RuleOut
from eval.roc import Confusion
from eval.utility import DecisionCurve, DecisionPoint

SHARES = ("sensitivity", "specificity", "ppv", "npv", "accuracy")


class Counts(Part):
    """How much there was to judge."""

    cases: int
    diseased: int
    not_diseased: int
    patients: int | None = Field(description="null where no patient column was named")


class PredictiveValues(Part):
    """Predictive values as they would be at a stated prevalence."""

    prevalence: float
    ppv: float | None
    ppv_ci: Interval
    npv: float | None
    npv_ci: Interval


class CallRates(Part):
    """Calls against truth: `_ci` is Clopper-Pearson, beside it Wilson and, to compare with published tables, Wald.

    Balanced accuracy has the interval of Zou and Donner (2008), likelihood ratios that of their logarithm, predictive
    values at a stated prevalence that of their log odds.
    """

    tp: int
    fp: int
    fn: int
    tn: int
    sensitivity: float | None
    sensitivity_ci: Interval
    sensitivity_wilson_ci: Interval
    sensitivity_wald_ci: Interval
    specificity: float | None
    specificity_ci: Interval
    specificity_wilson_ci: Interval
    specificity_wald_ci: Interval
    ppv: float | None = Field(description="at the prevalence of the sample")
    ppv_ci: Interval
    ppv_wilson_ci: Interval
    ppv_wald_ci: Interval
    npv: float | None = Field(description="at the prevalence of the sample")
    npv_ci: Interval
    npv_wilson_ci: Interval
    npv_wald_ci: Interval
    accuracy: float | None
    accuracy_ci: Interval
    accuracy_wilson_ci: Interval
    accuracy_wald_ci: Interval
    balanced_accuracy: float | None
    balanced_accuracy_ci: Interval
    lr_positive: float | None
    lr_positive_ci: Interval
    lr_negative: float | None
    lr_negative_ci: Interval
    at_prevalence: tuple[PredictiveValues, ...]


class OperatingPoint(CallRates):
    """Rates at the threshold that was fixed beforehand: a case is positive if score >= threshold."""

    threshold: float


class FixedPointBlock(Part):
    """Specificity where sensitivity is fixed, or the reverse."""

    fixed: str = Field(description="sensitivity or specificity")
    at_least: float
    threshold: float | None = Field(description="at which these cases have it; found on them")
    sensitivity: float | None
    specificity: float | None
    ci: Interval = Field(description="of the one that is not fixed, with the threshold found anew in each resample")


class PartialAreaBlock(Part):
    """Area between two false positive rates, plain and on McClish's scale."""

    fpr_low: float
    fpr_high: float
    area: float | None
    area_ci: Interval
    standardised: float | None
    standardised_ci: Interval


class RuleOutRow(Part):
    """What could be left unread while a sensitivity is kept, with every missed case."""

    sensitivity_target: float
    threshold: float | None
    sensitivity: float | None
    sensitivity_ci: Interval
    removed: int
    removable: float | None = Field(description="share of all cases below the threshold")
    removable_ci: Interval
    npv: float | None = Field(description="share of the removed that are not diseased")
    npv_ci: Interval
    missed: tuple[str, ...] = Field(description="diseased cases among the removed, by descending score")


class BinBlock(Part):
    """One bin of the reliability diagram; bins without cases are not listed."""

    low: float
    high: float
    cases: int
    diseased: int
    mean_probability: float
    observed: float
    observed_ci: Interval


class CalibrationBlock(Part):
    """Whether scores are the probabilities that they claim to be.

    A calibration error has no interval: its estimate is biased upwards, and resampling doubles the bias. What it would
    be of calibrated scores stands beside it (Bröcker and Smith 2007).
    """

    brier: float | None
    brier_ci: Interval
    log_loss: float | None
    log_loss_ci: Interval
    spiegelhalter_z: float | None
    spiegelhalter_p: float | None
    slope: float | None
    slope_ci: Interval
    intercept: float | None
    intercept_ci: Interval
    in_the_large: float | None
    in_the_large_ci: Interval
    ece: float | None = Field(description="over bins of equal width")
    ece_if_calibrated: Interval = Field(description="between which 95 % would lie if the scores were the probabilities")
    ece_adaptive: float | None = Field(description="over bins of equal counts")
    ece_adaptive_if_calibrated: Interval
    bins: tuple[BinBlock, ...]
    adaptive_bins: tuple[BinBlock, ...]


class DecisionPointBlock(Part):
    """Net benefit at one threshold probability; acting on nobody is worth 0."""

    threshold: float
    net_benefit: float
    ci: Interval
    treat_all: float
    true_positives_per_case: float
    false_positives_per_case: float


class DecisionCurveBlock(Part):
    """Decision curve at the prevalence of the sample or at a stated one."""

    prevalence: float
    stated: bool
    points: tuple[DecisionPointBlock, ...]


class Subgroup(Part):
    """One value of one column."""

    column: str
    value: str
    cases: int
    diseased: int
    too_few: bool = Field(description="fewer diseased cases than figures are given for")
    auroc: float | None
    auroc_ci: Interval
    sensitivity: float | None
    sensitivity_ci: Interval
    specificity: float | None
    specificity_ci: Interval
    difference_from_rest: float | None = Field(description="auroc minus that of all other cases; the unpaired test")
    difference_from_rest_ci: Interval
    difference_from_rest_p: float | None = Field(description="two-sided, not adjusted for the number of subgroups")


class Paired(Part):
    """The score against another one on the same cases; difference: score minus the other."""

    compare: str
    auroc: float | None = Field(description="of the other score")
    auroc_ci: Interval
    difference: float | None
    ci: Interval
    z: float | None
    p: float | None = Field(description="two-sided")


class RocDocument(Document):
    """The result of ``radnode eval roc``."""

    counts: Counts
    prevalence: float | None
    auroc: float | None
    auroc_ci: Interval
    paired: Paired | None
    operating_point: OperatingPoint | None
    average_precision: float | None
    average_precision_ci: Interval
    fixed_points: tuple[FixedPointBlock, ...]
    partial_auroc: PartialAreaBlock | None
    rule_out: tuple[RuleOutRow, ...]
    calibration: CalibrationBlock | None
    decision_curve: DecisionCurveBlock | None
    subgroups: tuple[Subgroup, ...]
    lowest_subgroup: Subgroup | None = Field(description="of those with enough cases, the one with the lowest auroc")


class ProportionsDocument(Document):
    """The result of ``radnode eval proportions``."""

    counts: Counts
    prevalence: float | None
    threshold: float | None = Field(description="null where calls were given, not scores")
    rates: CallRates
    rule_out: tuple[RuleOutRow, ...]


def rates_block(
    key: str, rates: Rates, counted: Confusion, reasons: Reasons
) -> dict[str, int | float | Interval | tuple[PredictiveValues, ...] | None]:
    """Keys of `CallRates`; reasons go under `key`."""
    block: dict[str, int | float | Interval | tuple[PredictiveValues, ...] | None] = {
        "tp": counted.true_positive,
        "fp": counted.false_positive,
        "fn": counted.false_negative,
        "tn": counted.true_negative,
    }
    for name in SHARES:
        share: Proportion = getattr(rates, name)
        block[name], block[f"{name}_ci"] = reasons.estimate(f"{key}.{name}", share.exact)
        _, block[f"{name}_wilson_ci"] = Reasons().estimate(name, share.wilson)
        _, block[f"{name}_wald_ci"] = reasons.estimate(f"{key}.{name}_wald", share.wald) if share.trials else _NOTHING
    for name in ("balanced_accuracy", "lr_positive", "lr_negative"):
        block[name], block[f"{name}_ci"] = reasons.estimate(f"{key}.{name}", getattr(rates, name))
    block["at_prevalence"] = tuple(_predictive(key, one, reasons) for one in rates.at_prevalence)
    return block


_NOTHING: tuple[None, Interval] = (None, (None, None))


def _predictive(key: str, values: AtPrevalence, reasons: Reasons) -> PredictiveValues:
    ppv, ppv_ci = reasons.estimate(f"{key}.at_prevalence={values.prevalence:g}.ppv", values.ppv)
    npv, npv_ci = reasons.estimate(f"{key}.at_prevalence={values.prevalence:g}.npv", values.npv)
    return PredictiveValues(prevalence=values.prevalence, ppv=ppv, ppv_ci=ppv_ci, npv=npv, npv_ci=npv_ci)


def rule_out_rows(rows: Sequence[RuleOut], names: Sequence[str], reasons: Reasons) -> tuple[RuleOutRow, ...]:
    """The rule-out table; `names` (cases,) name the missed."""
    return tuple(_rule_out_row(row, names, reasons) for row in rows)


def _rule_out_row(row: RuleOut, names: Sequence[str], reasons: Reasons) -> RuleOutRow:
    key = f"rule_out.{row.target:g}"
    sensitivity, sensitivity_ci = reasons.estimate(f"{key}.sensitivity", row.sensitivity.exact)
    removable, removable_ci = reasons.estimate(f"{key}.removable", row.removable.exact)
    npv, npv_ci = reasons.estimate(f"{key}.npv", row.npv.exact)
    return RuleOutRow(
        sensitivity_target=row.target,
        threshold=reasons.number(f"{key}.threshold", row.threshold, "there is no diseased case"),
        sensitivity=sensitivity,
        sensitivity_ci=sensitivity_ci,
        removed=row.removable.successes,
        removable=removable,
        removable_ci=removable_ci,
        npv=npv,
        npv_ci=npv_ci,
        missed=tuple(names[case] for case in row.missed),
    )


def bin_blocks(bins: Sequence[ReliabilityBin]) -> tuple[BinBlock, ...]:
    """Bins of the reliability diagram."""
    return tuple(
        BinBlock(
            low=one.low,
            high=one.high,
            cases=one.cases,
            diseased=one.diseased,
            mean_probability=one.mean_probability,
            observed=one.observed.value,
            observed_ci=(one.observed.low, one.observed.high),
        )
        for one in bins
    )


def decision_block(key: str, curve: DecisionCurve, reasons: Reasons) -> DecisionCurveBlock:
    """Points of the decision curve; reasons go under `key`."""
    points = tuple(_decision_point(f"{key}.points.threshold={one.threshold:g}", one, reasons) for one in curve.points)
    return DecisionCurveBlock(prevalence=curve.prevalence, stated=curve.stated, points=points)


def _decision_point(key: str, point: DecisionPoint, reasons: Reasons) -> DecisionPointBlock:
    benefit = point.net_benefit
    unknown = math.isnan(benefit.low)
    if unknown:
        reasons.found[f"{key}.ci"] = benefit.reason
    return DecisionPointBlock(
        threshold=point.threshold,
        net_benefit=benefit.value,
        ci=(None, None) if unknown else (benefit.low, benefit.high),
        treat_all=point.treat_all,
        true_positives_per_case=point.true_positives_per_case,
        false_positives_per_case=point.false_positives_per_case,
    )

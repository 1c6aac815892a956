"""The results section of a report, as frozen models: whole cases, marks and lesions, curves with their bands.

Filled by `eval.report.case_results` and `eval.report.lesion_results`; the other sections are `eval.report.sections`.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from eval.document import Part
from eval.report.values import Value


class Point(Part):
    """A point of a curve with its band."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None


class Operating(Part):
    """Calls at the threshold that is served."""

    true_positive: int
    false_negative: int
    true_negative: int
    false_positive: int
    failed_positive: int = Field(description="diseased and not analysed: among the missed")
    failed_negative: int
    figures: Mapping[str, tuple[Value, ...]] = Field(description="figure to its values, one for each kind of interval")


class AtPrevalence(Part):
    """Predictive values where the disease is as frequent as stated."""

    prevalence: float
    ppv: Value
    npv: Value


class Fixed(Part):
    """One of sensitivity and specificity where the other is held."""

    held: str
    at: float
    figure: str
    value: Value


class RuleOut(Part):
    """How many studies could be left unread at a sensitivity, and which diseased cases would be missed."""

    sensitivity: float
    threshold: float | None = Field(description="cases below it could be left unread")
    reached: Value
    removable: Value
    npv: Value
    missed: tuple[str, ...]


class Bin(Part):
    """One bin of the reliability diagram."""

    low: float
    high: float
    cases: int
    mean_score: float
    share: Value


class Calibration(Part):
    """Whether scores are probabilities."""

    figures: Mapping[str, Value]
    plain: Mapping[str, float | None] = Field(description="statistics that have no interval: ECE and tests")
    bins: tuple[Bin, ...] = Field(description="of equal counts")


class Benefit(Part):
    """Net benefit at one threshold probability."""

    threshold: float
    model: float
    low: float | None
    high: float | None
    all_positive: float


class Against(Part):
    """Positive cases against one group of the negatives. Figures are null where the group is too small."""

    reading: str
    cases: int
    patients: int
    too_few: bool
    auroc: Value | None
    specificity: Value | None


class CaseResults(Part):
    """9a. Results of whole cases."""

    auroc: Value
    average_precision: Value
    prevalence: float
    against: tuple[Against, ...] = Field(description="empty where the negatives are of one group")
    operating: Operating
    at_served: Operating | None = Field(description="in folds also at the card's threshold, which saw these cases")
    predictive: tuple[AtPrevalence, ...]
    fixed: tuple[Fixed, ...]
    rule_out: tuple[RuleOut, ...]
    roc: tuple[Point, ...]
    roc_band: tuple[Point, ...] = Field(description="height at evenly spaced rates, pointwise 95 %")
    calibration: Calibration
    decision: tuple[Benefit, ...]


class FrocPoint(Part):
    """Share of lesions found at a rate of false marks."""

    false_per_case: float
    sensitivity: Value
    threshold: float | None = Field(description="lowest that keeps the rate; null: before any mark")


class SizeBand(Part):
    """A third of the lesions by size, and how many of them are found at the served threshold."""

    unit: str = Field(description="mm or px")
    low: float
    high: float
    lesions: int
    found: Value


class LesionResults(Part):
    """9b. Results of marks and lesions."""

    lesions: int
    cases: int
    normal_cases: int
    marks: int
    cpm: Value
    points: tuple[FrocPoint, ...]
    found: Value
    false_per_case: Value
    false_per_normal_case: Value
    by_size: tuple[SizeBand, ...] = Field(description="empty where sizes are not known or lesions too few")
    froc: tuple[Point, ...]


class Results(Part):
    """9. Results with counts; a block is null where the run has nothing of it, and `reason` says why."""

    cases: CaseResults | None
    lesions: LesionResults | None
    reason: str = ""

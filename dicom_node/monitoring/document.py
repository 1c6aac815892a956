"""The one document of monitoring: what `radnode monitor --json`, `/api/monitoring` and the page print.

Filled by `build`. Counts of an empty period are 0; a share, time or distance that is then undefined is null, with the
reason beside it. No key names a study.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Self

from pydantic import Field

from eval.document import Interval, Part
from eval.intervals import Estimate, clopper_pearson
from models.codes import Text


class Level(StrEnum):
    """How much a figure worries."""

    NOTICE = "notice"  # look at it
    ALARM = "alarm"  # do something


class Caution(Part):
    """A figure beyond a limit of the settings."""

    level: Level
    key: str = Field(description="which figure: defects, psi, ks, flag_rate or cusum")
    label: str | None = Field(default=None, description="key of the card's label; null: the version as a whole")
    value: float
    limit: float = Field(description="that the settings declare, under [monitoring]")
    text: Text


class Rate(Part):
    """A share with its exact 95 % interval (Clopper and Pearson 1934), or the reason why there is none."""

    value: float | None
    ci: Interval = (None, None)
    count: int | None = Field(default=None, ge=0)
    of: int | None = Field(default=None, ge=0)
    reason: str | None = Field(default=None, description="why it is undefined: 'undefined: …'")

    @classmethod
    def counted(cls, count: int, of: int, nothing: str) -> Self:
        """`count` of `of` independent studies; of none it is undefined, because of `nothing`."""
        if of == 0:
            return cls(value=None, count=count, of=of, reason=f"undefined: {nothing}")
        found = clopper_pearson(count, of)
        return cls(value=found.value, ci=(found.low, found.high), count=count, of=of)


class Change(Part):
    """A share in service minus that of the reference, with 95 % interval (Miettinen and Nurminen 1985)."""

    value: float | None
    ci: Interval = (None, None)
    reason: str | None = None

    @classmethod
    def of(cls, found: Estimate) -> Self:
        """From an estimate."""
        if not found.defined:
            return cls(value=None, reason=f"undefined: {found.reason}")
        return cls(value=found.value, ci=(found.low, found.high))


class Times(Part):
    """Seconds over studies; percentiles by linear interpolation."""

    studies: int
    p50: float | None = None
    p95: float | None = None
    max: float | None = None
    reason: str | None = None


class DefectCount(Part):
    """Studies with one class of defect; null where the ledger cannot tell, and `why` says so."""

    code: str
    title: Text
    seen: str = Field(description="counted, excluded or not_seen")
    studies: int | None
    share: Rate | None
    why: Text


class Defects(Part):
    """Technological defects of the classes А to Д, and the share of studies with any that is counted."""

    any: Rate
    classes: tuple[DefectCount, ...]


class ReferencePart(Part):
    """With what the period is compared: the evaluation report of exactly this model."""

    file: str
    sha256: str
    label: str
    unit: str = Field(description="what the report counts: film, study, scan; service counts studies")
    cases: int
    flag_rate: Rate
    sensitivity: Rate
    notes: tuple[Text, ...] = ()


class Drift(Part):
    """Distance of the scores in service from those of the reference."""

    studies: int
    reference_cases: int
    psi: float | None = None
    psi_unmoved_95: float | None = Field(
        default=None, description="what the index stays below in 95 of 100 such samples when nothing has moved"
    )
    bins: tuple[tuple[str, float, float], ...] = Field(
        default=(), description="bin, share in the reference, share in service"
    )
    ks: float | None = Field(default=None, description="largest distance of the distribution functions")
    ks_p: float | None = None
    reason: str | None = None


class LabelService(Part):
    """One label of the card: how often it is present, and how its scores have moved."""

    label: str
    flag_rate: Rate = Field(description="studies whose statement says present, of those analysed")
    flag_rate_change: Change
    drift: Drift


class CusumPart(Part):
    """Sensitivity over positive readings in the order of reading, as a cumulative sum (Page 1954)."""

    readings: int
    expected: float | None = Field(default=None, description="sensitivity of the reference")
    unacceptable: float | None = None
    limit: float | None = None
    last: float | None = Field(default=None, description="the sum after the last reading")
    highest: float | None = None
    signals: int = 0
    path: tuple[float, ...] = Field(default=(), description="the sum after each of at most the last 500 readings")
    reason: str | None = None


class Agreement(Part):
    """Model against radiologists, as far as readings came back. Readings that do not decide are counted apart."""

    readings: int
    agree: int
    disagree: int
    unclear: int = Field(description="the reading does not decide, or the model did not analyse the study")
    rules: Mapping[str, int] = Field(description="what decided readings, and how many")
    counts: Mapping[str, int] = Field(
        description="true_positive, false_positive, true_negative, false_negative, unclear_reading, and positive and "
        "negative readings of studies that were not analysed"
    )
    agreement: Rate
    sensitivity: Rate = Field(description="of analysed studies")
    sensitivity_with_failures: Rate = Field(description="positive readings of studies not analysed count as missed")
    specificity: Rate
    cusum: CusumPart


class ModelService(Part):
    """One version of a model in one role and period."""

    model: str = Field(description="name@version")
    role: str = Field(description="champion: its results are delivered; shadow: they are kept for comparison")
    title: Text | None = Field(description="null: the version is not installed any more")
    received: int = Field(description="studies queued for it")
    analysed: int
    refused: Mapping[str, int] = Field(description="declined as the study was, by reason")
    failed: Mapping[str, int] = Field(description="not analysed for a reason of the service's own")
    open: int = Field(description="queued or running now")
    dropped: int = Field(description="a shadow's studies that were left out for want of time")
    withdrawn: int = Field(description="of the studies received: results withdrawn by a person")
    refused_share: Rate
    failed_share: Rate
    positive: Rate = Field(description="analysed studies in which anything is reported")
    last_image_to_confirmed_s: Times = Field(
        description="from the last image received to the first destination that confirmed the result"
    )
    model_s: Times = Field(description="in the network, all images of the study")
    analysis_s: Times = Field(description="from the first image read to findings, waiting for a batch included")
    defects: Defects
    reference: ReferencePart | None
    reference_reason: str | None = Field(description="why there is none")
    labels: tuple[LabelService, ...]
    agreement: Agreement
    warnings: tuple[Caution, ...]


class NodeService(Part):
    """The node as a whole: studies that began to arrive, whatever became of them."""

    studies: int
    analysed: int
    not_analysed: Mapping[str, int] = Field(description="by reason; no job is counted for reasons of a whole study")
    no_route: int
    quarantined: int
    open: int


class PeriodService(Part):
    """One period. A study belongs to it by the time at which it was queued for the model."""

    name: str
    begin: datetime = Field(description="local midnight with the offset of the zone")
    end: datetime = Field(description="the midnight before which it ends")
    node: NodeService
    models: tuple[ModelService, ...]


class MonitoringReport(Part):
    """Everything that was asked for: the whole stretch, and its days, weeks or months."""

    radnode: str
    created: datetime
    time_zone: str
    step: str | None = Field(description="day, week or month; null: the whole alone")
    settings: Mapping[str, float | str | None] = Field(description="[monitoring] as it applied")
    whole: PeriodService
    periods: tuple[PeriodService, ...]

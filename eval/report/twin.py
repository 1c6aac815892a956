"""The JSON twin of a report: frozen models with every number that the pages print, section by section.

Filled by `eval.report.build`, checked by `eval.report.checks`, printed by `eval.report.pages`, which sees nothing else.
Its first keys are those by which a promotion knows a report (`models.evaluation_report`).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Literal

from pydantic import Field

from eval.document import Interval, Part
from eval.report.sections import Sections
from models.card import Sha256
from models.codes import Text

FORMAT = 1


class BarResult(Part):
    """One bar that was declared before the evaluation, and what became of it."""

    name: str
    passed: bool
    value: float | None
    ci: Interval
    limit: float = Field(description="what the lower end must reach")
    wanted: str = Field(description="the same in words")
    declared: str = Field(description="where and when it was declared")


class Verdict(Part):
    """What the evaluation comes to by the bars that were declared."""

    passed: bool
    bars: tuple[BarResult, ...]


class Twin(Part):
    """The whole report. The pages print from this and from the fixed words of a language, from nothing else."""

    format: int = FORMAT
    model: str = Field(description="name@version")
    title: Text
    use: Literal["demonstration", "research", "registered"]
    model_digest: Sha256
    weights: Mapping[str, Sha256]
    data_sha256: Sha256
    created: datetime = Field(description="the only key that differs between two builds from the same inputs")
    radnode: str = Field(description="version of the software that built the report")
    verdict: Verdict | None = Field(description="null: no bars were declared beforehand")
    sections: Sections
    missing: tuple[str, ...] = Field(
        description="items that nobody stated, as section.item: what a reader must ask for"
    )
    notes: tuple[str, ...] = ()

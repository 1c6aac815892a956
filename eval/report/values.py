"""The small values that the sections of a report are made of: a figure with its interval, a statement or its absence.

Used by `eval.report.sections` and by everything that fills them.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Annotated, Final, Self

from pydantic import BeforeValidator, Field, model_validator

from eval.document import Interval, Part
from eval.intervals import Estimate
from models.codes import Text

BOOTSTRAP: Final = "patient_bootstrap"


class Value(Part):
    """A figure with its 95 % interval, what was counted, and by which method; or the reason why there is none."""

    value: float | None
    ci: Interval
    method: str = Field(default="", description="how the interval was made: clopper_pearson, wilson, patient_bootstrap")
    count: int | None = Field(default=None, ge=0, description="numerator, where the figure is a proportion")
    of: int | None = Field(default=None, ge=0, description="denominator, where the figure is a proportion")
    reason: str = Field(default="", description="why the figure, or its interval, is undefined")

    @classmethod
    def made(cls, estimate: Estimate, method: str, *, count: int | None = None, of: int | None = None) -> Value:
        """From an estimate, whose NaN become null with its reason; resamples that all agree give no interval.

        An interval of no width would claim certainty.
        """
        if method == BOOTSTRAP and estimate.low == estimate.high:
            estimate = replace(estimate, low=math.nan, high=math.nan, reason="every resample gives the same figure")
        known = [one if math.isfinite(one) else None for one in (estimate.value, estimate.low, estimate.high)]
        unsaid = "undefined: nothing to count" if known[0] is None else ""
        return cls(
            value=known[0],
            ci=(known[1], known[2]),
            method=method,
            count=count,
            of=of,
            reason=estimate.reason or unsaid,
        )

    @property
    def whole(self) -> bool:
        """Whether there is a figure with both ends of its interval."""
        return self.value is not None and None not in self.ci


def _both(given: object) -> object:
    return {"en": given, "ru": given} if isinstance(given, str) else given


Words = Annotated[Text, BeforeValidator(_both)]


class Answer(Part):
    """What was stated under an item, or why it was not."""

    text: Words | None = None
    not_provided: Words | None = Field(default=None, description="why there is no statement")

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.text is None) == (self.not_provided is None):
            raise ValueError("either text, or not_provided with the reason")
        return self

    @classmethod
    def of(cls, text: Text | str) -> Answer:
        """A statement; a plain string stands in both languages."""
        return cls.model_validate({"text": text})


class Item(Part):
    """An answer under its key; the words of the key are those of the language."""

    key: str
    answer: Answer


NOT_STATED = Answer(
    not_provided=Text(en="not stated by those who ran the evaluation", ru="проводившими оценку не указано")
)

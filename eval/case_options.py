"""Types of options that the commands about cases share: numbers that are numbers.

Click's own ranges let NaN pass, which no comparison refuses.
"""

from __future__ import annotations

import math

import click


class Finite(click.FloatRange):
    """A finite number, within a range where one is given."""

    name = "number"

    def convert(self, value: float, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Parse and check."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is no finite number.", param, ctx)
        return number


NUMBER = Finite()
POSITIVE = Finite(min=0, min_open=True)
BETWEEN = Finite(min=0, max=1, min_open=True, max_open=True)  # neither 0 nor 1: prevalence, margin, power
SHARE = Finite(min=0, max=1, min_open=True)  # up to 1: sensitivity to be kept
RATE = Finite(min=0, max=1)

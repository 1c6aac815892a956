"""Periods of local time: days, weeks and months of the node's zone, as spans of UTC.

A day has 23 or 25 hours where clocks change. Used by `radnode monitor` and the page.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from dicom_node.ledger.service import Span

MAX_PERIODS = 400
_LOCAL_TIME = Path("/etc/localtime")
_MONTHS = 12


class PeriodError(Exception):
    """The periods that were asked for cannot be made; the message says why."""


class Step(StrEnum):
    """How a stretch of time is divided."""

    DAY = "day"  # from midnight to midnight
    WEEK = "week"  # from Monday
    MONTH = "month"  # of the calendar


@dataclass(frozen=True, kw_only=True, slots=True)
class Period:
    """Whole local days, from `first` to `last`, both included."""

    first: date
    last: date
    zone: ZoneInfo

    def __post_init__(self) -> None:
        if self.last < self.first:
            raise PeriodError(f"the period ends on {self.last} before it begins on {self.first}")

    @property
    def begin(self) -> datetime:
        """Midnight at which it begins, in its zone."""
        return datetime(self.first.year, self.first.month, self.first.day, tzinfo=self.zone)

    @property
    def end(self) -> datetime:
        """Midnight before which it ends, in its zone."""
        after = self.last + timedelta(days=1)
        return datetime(after.year, after.month, after.day, tzinfo=self.zone)

    @property
    def span(self) -> Span:
        """As the ledger is asked."""
        return Span(begin=self.begin.astimezone(UTC), end=self.end.astimezone(UTC))

    @property
    def name(self) -> str:
        """2026-11-23, or 2026-11-01 … 2026-11-30."""
        return str(self.first) if self.first == self.last else f"{self.first} … {self.last}"

    def divided(self, step: Step) -> tuple[Period, ...]:
        """Its days, weeks or months, the first and the last cut to it.

        Raises
        ------
        PeriodError
            If there are more than `MAX_PERIODS`.
        """
        found = []
        for first, last in _stretches(self.first, self.last, _NEXT[step]):
            found.append(Period(first=first, last=last, zone=self.zone))
            if len(found) > MAX_PERIODS:
                raise PeriodError(f"more than {MAX_PERIODS} periods of one {step}: ask for longer ones, or fewer days")
        return tuple(found)


def local_zone(name: str | None) -> ZoneInfo:
    """The zone of that name; without one that of this machine, UTC where it has none."""
    for candidate in (name, os.environ.get("TZ", "").removeprefix(":"), _machine_zone()):
        if candidate:
            try:
                return ZoneInfo(candidate)
            except (ZoneInfoNotFoundError, ValueError):
                continue
    return ZoneInfo("UTC")


def _machine_zone() -> str:
    return str(_LOCAL_TIME.resolve()).partition("/zoneinfo/")[2]


def parse_day(text: str) -> date:
    """A date as people type it, 2026-11-23.

    Raises
    ------
    PeriodError
        If it is none.
    """
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise PeriodError(f"{text!r} is no date: write it as 2026-11-23") from error


def _next_week(day: date) -> date:
    return day + timedelta(days=7 - day.weekday())


def _next_month(day: date) -> date:
    return date(day.year + day.month // _MONTHS, day.month % _MONTHS + 1, 1)


_NEXT: dict[Step, Callable[[date], date]] = {
    Step.DAY: lambda day: day + timedelta(days=1),
    Step.WEEK: _next_week,
    Step.MONTH: _next_month,
}


def _stretches(first: date, last: date, following: Callable[[date], date]) -> Iterator[tuple[date, date]]:
    while first <= last:
        begin_of_next = following(first)
        yield first, min(begin_of_next - timedelta(days=1), last)
        first = begin_of_next

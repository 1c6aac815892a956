"""One steady clock for the whole node, so that a jump of the wall clock starts nothing early and stops nothing.

Every process of a node reads the same `SteadyClock`: wall time at the start of the node plus what the system-wide
monotonic clock has counted since. `node.py` makes it and hands it to its children; tests pass clocks of their own.
Deadlines are stored as UTC and recomputed by `assembly` when a node starts.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

Clock = Callable[[], datetime]


@dataclass(frozen=True, kw_only=True, slots=True)
class SteadyClock:
    """UTC now, counted by the monotonic clock since `started_at`. Picklable; valid within one boot of the machine."""

    started_at: datetime
    started_monotonic_s: float

    @classmethod
    def start(cls) -> SteadyClock:
        """A clock that agrees with the wall now and never jumps afterwards."""
        return cls(started_at=datetime.now(UTC), started_monotonic_s=time.monotonic())

    def __call__(self) -> datetime:
        """UTC now."""
        return self.started_at + timedelta(seconds=time.monotonic() - self.started_monotonic_s)

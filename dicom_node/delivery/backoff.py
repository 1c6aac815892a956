"""When a destination is tried again: growing delays with jitter, and a circuit breaker, both without a clock.

Used by the coordinator's delivery loop, which passes in monotonic seconds and random draws and keeps the attempt
numbers in the ledger. There is no limit of attempts: a delivery waits for days, and an alarm on its age is raised
elsewhere.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import StrEnum


@dataclass(frozen=True, kw_only=True, slots=True)
class Backoff:
    """Doubling delays: ``min(ceiling, base * 2**(attempt - 1))``, shortened by a random share of up to `jitter`.

    The jitter only shortens, so the ceiling holds, and deliveries that failed together do not return together.
    """

    base_s: float = 10.0
    ceiling_s: float = 900.0
    jitter: float = 0.25
    asked_ceiling_s: float | None = None

    def __post_init__(self) -> None:
        if not (0 < self.base_s <= self.ceiling_s and 0 <= self.jitter < 1):
            raise ValueError("backoff needs 0 < base_s <= ceiling_s and 0 <= jitter < 1")

    def delay_s(self, attempt: int, *, draw: float, asked_s: float | None = None) -> float:
        """Seconds from the end of a failed attempt to the next one.

        Parameters
        ----------
        attempt
            Number of the attempt that failed; the first is 1.
        draw
            Random number, 0 <= draw < 1.
        asked_s
            What the archive itself asked for (Retry-After); heeded up to `asked_ceiling_s`, which is the ceiling where
            it is None, and never shortened by jitter.
        """
        if attempt < 1:
            raise ValueError("attempts are counted from 1")
        # Beyond 2**63 the product is over any ceiling, and ldexp would overflow for an attempt number grown over days.
        grown_s = min(self.ceiling_s, self.base_s * 2.0 ** min(attempt - 1, 63))
        delay_s = grown_s * (1.0 - self.jitter * draw)
        heeded_s = self.ceiling_s if self.asked_ceiling_s is None else self.asked_ceiling_s
        return max(delay_s, min(asked_s or 0.0, heeded_s))

    def asked_again_s(self, waited_s: float, *, draw: float) -> float:
        """Seconds until a destination that could not be asked is asked again: about as long as it has been waited."""
        attempt = 1 + int(max(0.0, math.log2(max(waited_s, 1e-6) / self.base_s)))
        return self.delay_s(attempt, draw=draw)

    def shown_s(self, first_s: float, asked: int) -> float:
        """Seconds until a destination that does not show what it took is asked again, `asked` times in vain so far."""
        return min(first_s * 2.0 ** min(asked, 63), self.base_s)


class Circuit(StrEnum):
    """Whether a destination is tried at all."""

    CLOSED = "closed"  # works, as far as known: everything is tried
    OPEN = "open"  # failed repeatedly: nothing is tried until its time
    HALF_OPEN = "half_open"  # its time has come: one attempt finds out


@dataclass(frozen=True, kw_only=True, slots=True)
class Breaker:
    """Circuit breaker of one destination, as a value: every event gives the next breaker.

    Attributes
    ----------
    threshold : int
        Consecutive failures of the destination, not of an object, after which it opens.
    failures : int
        Consecutive failures so far.
    opens_until_s : float or None
        Monotonic second until which nothing is tried; None when closed.
    probing_until_s : float or None
        Until when the one attempt of the half-open state may take; a probe that never reports is then replaced.
    """

    backoff: Backoff = Backoff()
    threshold: int = 3
    probe_limit_s: float = 600.0
    failures: int = 0
    opens_until_s: float | None = None
    probing_until_s: float | None = None

    def circuit(self, now_s: float) -> Circuit:
        """State at `now_s`."""
        if self.opens_until_s is None:
            return Circuit.CLOSED
        return Circuit.OPEN if now_s < self.opens_until_s else Circuit.HALF_OPEN

    def admit(self, now_s: float) -> tuple[bool, Breaker]:
        """Tell whether an attempt may start now; the breaker to keep knows of it."""
        state = self.circuit(now_s)
        if state is Circuit.CLOSED:
            return True, self
        probing = self.probing_until_s is not None and now_s < self.probing_until_s
        if state is Circuit.OPEN or probing:
            return False, self
        return True, replace(self, probing_until_s=now_s + self.probe_limit_s)

    def succeeded(self) -> Breaker:
        """Give the breaker after the destination answered; that it refused one object is an answer too."""
        return replace(self, failures=0, opens_until_s=None, probing_until_s=None)

    def failed(self, now_s: float, *, draw: float, asked_s: float | None = None) -> Breaker:
        """Give the breaker after the destination as a whole failed; opens it at the threshold, longer each time.

        A destination that itself asks to wait is left alone at once.
        """
        failures = self.failures + 1
        if failures < self.threshold and not asked_s:
            return replace(self, failures=failures, probing_until_s=None)
        delay_s = self.backoff.delay_s(max(1, failures - self.threshold + 1), draw=draw, asked_s=asked_s)
        return replace(self, failures=failures, opens_until_s=now_s + delay_s, probing_until_s=None)

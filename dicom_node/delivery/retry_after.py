"""Retry-After (RFC 9110 section 10.2.3): how long an HTTP server asks to wait. For archives and the record alike."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


def retry_after_s(value: str | None, now: datetime) -> float | None:
    """Read seconds, or a date, as seconds from `now` (aware); None when it is neither, never negative."""
    if not value:
        return None
    with suppress(ValueError, OverflowError):
        return max(0.0, float(int(value)))
    with suppress(ValueError, TypeError, OverflowError):
        at = parsedate_to_datetime(value)
        return max(0.0, (at.replace(tzinfo=at.tzinfo or UTC) - now).total_seconds())
    return None

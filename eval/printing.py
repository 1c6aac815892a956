"""How commands show figures to people, a few digits and intervals in words, and where a document goes.

Used by the commands of ``radnode eval``; what programs read is `eval.document`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from rich.console import Console

from eval.console import JSON_TO_STDOUT, write_json
from eval.document import Document, Interval

Shown = TypeVar("Shown", bound=Document)

DIGITS = 4  # after the point
LEAST_P = 0.0001


def publish(document: Shown, show: Callable[[Shown], None], json_to: str | None) -> None:
    """A document as JSON where that is asked for, and for people unless JSON has standard output to itself."""
    if json_to is not None:
        write_json(document.model_dump(mode="json"), json_to)
    if json_to != JSON_TO_STDOUT:
        show(document)


def number(value: float | None, digits: int = DIGITS) -> str:
    """A figure, or that there is none."""
    return "undefined" if value is None else f"{value:.{digits}f}"


def p_value(value: float | None) -> str:
    """A p, never as 0."""
    return f"< {LEAST_P}" if value is not None and value < LEAST_P else number(value)


def interval(ci: Interval, digits: int = DIGITS) -> str:
    """`low to high`, nothing where there is none."""
    low, high = ci
    return "" if low is None or high is None else f"{low:.{digits}f} to {high:.{digits}f}"


def print_remarks(console: Console, document: Document) -> None:
    """What is undefined and why, then the notes."""
    keys: dict[str, list[str]] = {}
    for key, reason in document.undefined.items():
        keys.setdefault(reason, []).append(key)
    for reason, which in keys.items():
        console.print(f"{', '.join(which)}: undefined, {reason}", style="dim", highlight=False, markup=False)
    for note in document.notes:
        console.print(f"note: {note}", style="yellow", markup=False, highlight=False)

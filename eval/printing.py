"""How the commands about cases print figures for people: a few digits, intervals in words, then reasons and notes.

Used by the commands roc, proportions, paired and drift of ``radnode eval``; what programs read is `eval.document`.
"""

from __future__ import annotations

from rich.console import Console

from eval.document import Document, Interval

DIGITS = 4  # after the point
LEAST_P = 0.0001


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

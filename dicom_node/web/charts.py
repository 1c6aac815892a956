"""Charts of the console as inline SVG: bars a period, a share with its interval, times, bins of scores, a CUSUM.

Pure: numbers and words in, markup out; colours are classes of `templates/monitoring.css`, so that light and dark are
one picture. Used by `web.monitoring`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

WIDTH, HEIGHT = 640, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 8, 10, 26
_TICKS = 4
_LEAST = 1e-300  # below it powers of ten lose their digits
_MOST_LABELS = 8
_WIDE_LABEL_PX = 68

Point = tuple[float | None, float | None, float | None]  # value, low, high of a period


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """One kind of bar or line: its word in the legend, its class, and a value for each place, None for a gap."""

    name: str
    css: str
    values: Sequence[float | None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Level:
    """A dashed line across: a limit or the value of the reference."""

    name: str
    value: float


@dataclass(frozen=True, kw_only=True, slots=True)
class _Frame:
    """Where places and values lie in the picture."""

    places: int
    top_value: float

    @property
    def step(self) -> float:
        return (WIDTH - _LEFT - _RIGHT) / max(self.places, 1)

    def x(self, place: float) -> float:
        """Middle of a place."""
        return _LEFT + (place + 0.5) * self.step

    def y(self, value: float) -> float:
        usable = HEIGHT - _TOP - _BOTTOM
        return _TOP + usable * (1 - min(value, self.top_value) / self.top_value)


def stacked_bars(labels: Sequence[str], series: Sequence[Series], title: str) -> Markup:
    """Counts of each place, one on another."""
    totals = [sum(one.values[place] or 0 for one in series) for place in range(len(labels))]
    frame = _Frame(places=len(labels), top_value=_nice(max(totals, default=0)))
    parts = [_axes(frame, labels, _whole)]
    for place, label in enumerate(labels):
        below = 0.0
        for one in series:
            value = one.values[place] or 0
            if value:
                parts.append(_bar(frame, place, below, below + value, one.css, f"{label}: {one.name} {value:g}"))
            below += value
    return _svg(parts, title, _legend(series))


def grouped_bars(labels: Sequence[str], series: Sequence[Series], title: str) -> Markup:
    """Shares of each place side by side, such as bins of scores before and now."""
    highest = max((value for one in series for value in one.values if value is not None), default=0.0)
    frame = _Frame(places=len(labels), top_value=_nice_share(highest))
    parts = [_axes(frame, labels, _percent)]
    share = 0.8 / max(len(series), 1)
    for number, one in enumerate(series):
        for place, value in enumerate(one.values):
            if value:
                shift = (number - (len(series) - 1) / 2) * share
                told = f"{labels[place]}: {one.name} {value:.1%}"
                parts.append(_bar(frame, place + shift, 0, value, one.css, told, width=share))
    return _svg(parts, title, _legend(series))


def share_line(
    labels: Sequence[str], points: Sequence[Point], name: str, levels: Sequence[Level], title: str
) -> Markup:
    """A share with its interval as a whisker, and dashed lines to compare it with."""
    known = [value for point in points for value in point if value is not None] + [one.value for one in levels]
    frame = _Frame(places=len(labels), top_value=_nice_share(max(known, default=0.0)))
    parts = [_axes(frame, labels, _percent), *_levels(frame, levels)]
    for place, (value, low, high) in enumerate(points):
        if value is None:
            continue
        x, told = frame.x(place), f"{labels[place]}: {value:.1%}"
        if low is not None and high is not None:
            told += f" ({low:.1%}–{high:.1%})"
            parts.append(_line([(x, frame.y(low)), (x, frame.y(high))], "whisker"))
        parts.append(Markup('<circle class="dot a" cx="{}" cy="{}" r="3"><title>{}</title></circle>').format(
            _n(x), _n(frame.y(value)), told))  # fmt: skip
    parts += _paths(frame, [Series(name=name, css="a", values=[point[0] for point in points])])
    shown = [Series(name=name, css="a", values=()), *(Series(name=one.name, css="level", values=()) for one in levels)]
    return _svg(parts, title, _legend(shown))


def lines(
    labels: Sequence[str], series: Sequence[Series], levels: Sequence[Level], title: str, *, dots: bool = True
) -> Markup:
    """Several lines over the same places; a level that lies far above all values is only named."""
    highest = max((value for one in series for value in one.values if value is not None), default=0.0)
    near = [one for one in levels if one.value <= 2.5 * highest or not highest]
    frame = _Frame(places=len(labels), top_value=_nice(max([highest, *(one.value for one in near)])))
    parts = [_axes(frame, labels, _plain), *_levels(frame, near), *_paths(frame, series)]
    for one in series if dots else ():
        for place, value in enumerate(one.values):
            if value is not None:
                told = f"{labels[place]}: {one.name} {value:.3g}"
                parts.append(
                    Markup('<circle class="dot {}" cx="{}" cy="{}" r="2.5"><title>{}</title></circle>').format(
                        one.css, _n(frame.x(place)), _n(frame.y(value)), told
                    )
                )
    shown = [*series, *(Series(name=one.name, css="level", values=()) for one in levels)]
    return _svg(parts, title, _legend(shown))


# parts ---------------------------------------------------------------------------------------------------------------


def _svg(parts: Iterable[Markup], title: str, legend: Markup) -> Markup:
    head = Markup('<figure><figcaption>{}</figcaption><svg viewBox="0 0 {} {}" role="img" aria-label="{}">').format(
        title, WIDTH, HEIGHT, title
    )
    return head + Markup("").join(parts) + Markup("</svg>") + legend + Markup("</figure>")


def _legend(series: Sequence[Series]) -> Markup:
    items = Markup("").join(
        Markup('<li><span class="key {}"></span>{}</li>').format(one.css, one.name) for one in series
    )
    return Markup('<ul class="legend">{}</ul>').format(items)


def _bar(frame: _Frame, place: float, low: float, high: float, css: str, told: str, *, width: float = 0.7) -> Markup:
    wide = frame.step * width
    top, bottom = frame.y(high), frame.y(low)
    return Markup('<rect class="bar {}" x="{}" y="{}" width="{}" height="{}"><title>{}</title></rect>').format(
        css, _n(frame.x(place) - wide / 2), _n(top), _n(wide), _n(bottom - top), told
    )


def _paths(frame: _Frame, series: Sequence[Series]) -> list[Markup]:
    """Lines between neighbours that are both known."""
    found = []
    for one in series:
        run: list[tuple[float, float]] = []
        for place, value in enumerate([*one.values, None]):
            if value is None:
                if len(run) > 1:
                    found.append(_line(run, f"line {one.css}"))
                run = []
            else:
                run.append((frame.x(place), frame.y(value)))
    return found


def _line(points: Sequence[tuple[float, float]], css: str) -> Markup:
    return Markup('<polyline class="{}" points="{}"/>').format(css, " ".join(f"{_n(x)},{_n(y)}" for x, y in points))


def _levels(frame: _Frame, levels: Sequence[Level]) -> list[Markup]:
    ends = (_LEFT, WIDTH - _RIGHT)
    return [_line([(x, frame.y(one.value)) for x in ends], "line level") for one in levels]


def _axes(frame: _Frame, labels: Sequence[str], told: Callable[[float], str]) -> Markup:
    parts = []
    for number in range(_TICKS + 1):
        value = frame.top_value * number / _TICKS
        y = frame.y(value)
        parts.append(_line([(_LEFT, y), (WIDTH - _RIGHT, y)], "grid"))
        parts.append(Markup('<text class="tick y" x="{}" y="{}">{}</text>').format(_LEFT - 6, _n(y + 4), told(value)))
    fitting = max(1, min(_MOST_LABELS, int((WIDTH - _LEFT) / _WIDE_LABEL_PX)))
    every = math.ceil(len(labels) / fitting) or 1
    for place in range(0, len(labels), every):
        parts.append(
            Markup('<text class="tick x" x="{}" y="{}">{}</text>').format(_n(frame.x(place)), HEIGHT - 8, labels[place])
        )
    return Markup("").join(parts)


def _nice(value: float) -> float:
    """The next 1, 2, 4 or 8 times a power of ten: a quarter of it is a plain number too."""
    if value < _LEAST:
        return float(_TICKS)
    power = 10.0 ** math.floor(math.log10(value))
    found = next(step * power for step in (1, 2, 4, 8, 10, 20) if step * power >= value)
    return max(found, float(_TICKS)) if value >= 1 and found < _TICKS else found


def _nice_share(value: float) -> float:
    return next(top for top in (0.04, 0.08, 0.2, 0.4, 0.6, 0.8, 1.0) if top >= min(value, 1.0))


def _whole(value: float) -> str:
    return f"{value:,.0f}".replace(",", "\N{NO-BREAK SPACE}")


def _percent(value: float) -> str:
    return f"{value:.0%}"


def _plain(value: float) -> str:
    return f"{value:g}"


def _n(value: float) -> str:
    return f"{value:.1f}"

"""The curves of a report, drawn from its twin: ROC, FROC, reliability, decision curve, forest plot of subgroups.

Called by `eval.report.pages`. Each is an SVG without dates or random names, so that the same twin gives the same
bytes; text is drawn as outlines, so that it looks alike wherever it is opened. matplotlib is imported when it draws.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any, Final

from eval.report.language import Names
from eval.report.outcomes import CaseResults, LesionResults, Point
from eval.report.sections import Group, Subgroups
from eval.report.twin import Twin
from eval.report.values import Value

_BLUE, _GREY, _BAND, _RED = "#1f5fa8", "#8a8f98", "#c9daf0", "#b3402a"
_RC: Final[Any] = {  # keys that matplotlib types as a list of names
    "svg.fonttype": "path",
    "svg.hashsalt": "radnode",
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#e4e7eb",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 7.5,
}
_SQUARE = (3.45, 3.25)
_WIDE_INCH = 7.0
_ROW_INCH = 0.21


def plots(twin: Twin, names: Names) -> dict[str, bytes]:
    """Name to SVG of every plot that the results allow.

    Parameters
    ----------
    twin : Twin
    names : Names
        Words on axes and in legends, and how the language writes figures.
    """
    results = twin.sections.results
    found: dict[str, bytes] = {}
    if results.cases is not None:
        found |= _of_cases(results.cases, names)
    if results.lesions is not None and results.lesions.froc:
        found["froc"] = _drawn(_SQUARE, lambda axes: _froc(axes, results.lesions, names))
    groups = twin.sections.subgroups
    overall = {} if results.cases is None else _overall(results.cases)
    for figure in ("auroc", "sensitivity", "specificity"):
        if overall and any(_known(group, figure) for group in groups.groups):
            rows = [group for group in groups.groups if not group.too_few]
            size = (_WIDE_INCH, 0.75 + _ROW_INCH * (len(rows) + 1))
            found[f"forest_{figure}"] = _forest_plot(size, groups, figure, overall[figure], names)
    return found


def _of_cases(cases: CaseResults, names: Names) -> dict[str, bytes]:
    found = {}
    if cases.roc:
        found["roc"] = _drawn(_SQUARE, lambda axes: _roc(axes, cases, names))
    if cases.calibration.bins:
        found["reliability"] = _drawn(_SQUARE, lambda axes: _reliability(axes, cases, names))
    if cases.decision:
        found["decision"] = _drawn(_SQUARE, lambda axes: _decision(axes, cases, names))
    return found


def _drawn(size: tuple[float, float], draw: Callable[[Any], None]) -> bytes:
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with mpl.rc_context(_RC):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure.subplots())
        out = io.BytesIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return out.getvalue()


def _write_ticks(axis: Any, names: Names) -> None:
    axis.set_major_formatter(lambda value, _: names.number(value, 1))


def _unit_square(axes: Any, x: str, y: str, names: Names) -> None:
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), xlabel=x, ylabel=y)
    _write_ticks(axes.xaxis, names)
    _write_ticks(axes.yaxis, names)
    axes.set_aspect("equal")


def _band(axes: Any, points: Sequence[Point], label: str) -> None:
    known = [point for point in points if point.low is not None and point.high is not None]
    axes.fill_between(
        [point.x for point in known],
        [point.low for point in known],
        [point.high for point in known],
        color=_BAND,
        linewidth=0,
        label=label,
    )


def _roc(axes: Any, cases: CaseResults, names: Names) -> None:
    _band(axes, cases.roc_band, names["band"])
    axes.plot([0, 1], [0, 1], color=_GREY, linestyle="--", linewidth=0.8)
    axes.plot([point.x for point in cases.roc], [point.y for point in cases.roc], color=_BLUE, linewidth=1.4)
    true, false = (cases.operating.figures[name][0] for name in ("sensitivity", "specificity_without_failures"))
    if true.value is not None and false.value is not None:
        _cross(axes, true, false, names["operating_point"])
    _unit_square(axes, names["false_positive_rate"], names["sensitivity"], names)
    axes.legend(loc="lower right")


def _cross(axes: Any, true: Value, false: Value, label: str) -> None:
    assert true.value is not None
    assert false.value is not None
    x, y = 1 - false.value, true.value
    low, high = (1 - (end if end is not None else false.value) for end in reversed(false.ci))
    bottom, top = (end if end is not None else y for end in true.ci)
    axes.errorbar(
        [x], [y], xerr=[[max(x - low, 0)], [max(high - x, 0)]], yerr=[[max(y - bottom, 0)], [max(top - y, 0)]],
        fmt="o", color=_RED, markersize=4, elinewidth=1, capsize=2, label=label,
    )  # fmt: skip


def _froc(axes: Any, lesions: LesionResults | None, names: Names) -> None:
    assert lesions is not None
    _band(axes, lesions.froc, names["band"])
    axes.plot([point.x for point in lesions.froc], [point.y for point in lesions.froc], color=_BLUE, linewidth=1.4)
    axes.plot(
        [point.false_per_case for point in lesions.points],
        [point.sensitivity.value for point in lesions.points],
        "o",
        color=_BLUE,
        markersize=3,
    )
    if lesions.found.value is not None and lesions.false_per_case.value:
        axes.plot([lesions.false_per_case.value], [lesions.found.value], "o", color=_RED, markersize=4.5,
                  label=names["operating_point"])  # fmt: skip
    ticks = [0.125, 0.25, 0.5, 1, 2, 4, 8]
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [f"1/{round(1 / tick)}" if tick < 1 else f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    _write_ticks(axes.yaxis, names)
    axes.set(xlim=(0.06, 10.5), ylim=(-0.01, 1.01), xlabel=names["false_marks_per_case"], ylabel=names["lesions_found"])
    axes.legend(loc="lower right")


def _reliability(axes: Any, cases: CaseResults, names: Names) -> None:
    axes.plot([0, 1], [0, 1], color=_GREY, linestyle="--", linewidth=0.8)
    for one in cases.calibration.bins:
        if one.share.value is None or None in one.share.ci:
            continue
        low, high = (end if end is not None else one.share.value for end in one.share.ci)
        axes.errorbar(
            [one.mean_score], [one.share.value],
            yerr=[[max(one.share.value - low, 0)], [max(high - one.share.value, 0)]],
            fmt="o", color=_BLUE, markersize=4, elinewidth=0.9, capsize=2,
        )  # fmt: skip
        axes.annotate(str(one.cases), (one.mean_score, high), textcoords="offset points", xytext=(0, 3),
                      ha="center", fontsize=6.5, color="#555b66")  # fmt: skip
    _unit_square(axes, names["mean_score"], names["share_positive"], names)
    axes.set_ylim(-0.01, 1.08)


def _decision(axes: Any, cases: CaseResults, names: Names) -> None:
    x = [point.threshold for point in cases.decision]
    bands = [Point(x=one.threshold, y=one.model, low=one.low, high=one.high) for one in cases.decision]
    _band(axes, bands, names["band"])
    axes.plot(x, [point.model for point in cases.decision], color=_BLUE, linewidth=1.4, label=names["model"])
    axes.plot(x, [point.all_positive for point in cases.decision], color=_GREY, linewidth=0.9, label=names["all"])
    axes.axhline(0, color="black", linewidth=0.7, linestyle=":", label=names["nobody"])
    _write_ticks(axes.xaxis, names)
    _write_ticks(axes.yaxis, names)
    top = max([point.high or point.model for point in cases.decision] + [0.05])
    axes.set(xlim=(0, max(x)), ylim=(-0.12, top * 1.1), xlabel=names["threshold_probability"],
             ylabel=names["net_benefit"])  # fmt: skip
    axes.legend(loc="upper right")


def _overall(cases: CaseResults) -> dict[str, Value]:
    figures = cases.operating.figures
    return {
        "auroc": cases.auroc,
        "sensitivity": figures["sensitivity"][0],
        "specificity": figures["specificity"][0],
    }


def _known(group: Group, figure: str) -> bool:
    value: Value | None = getattr(group, figure)
    return value is not None and value.value is not None


def _forest_plot(size: tuple[float, float], groups: Subgroups, figure: str, overall: Value, names: Names) -> bytes:
    rows: list[tuple[str, Value]] = [(names["overall"], overall)]
    for group in groups.groups:
        value: Value | None = getattr(group, figure)
        if value is not None and value.value is not None:
            name = f"{names.trait(group.trait)}: {names.level(group.value, group.trait)}"
            rows.append((f"{name} ({group.positive}/{group.cases})", value))
    return _drawn(size, lambda axes: _forest(axes, rows, names[figure], names))


def _forest(axes: Any, rows: Sequence[tuple[str, Value]], title: str, names: Names) -> None:
    for place, (_, value) in enumerate(rows):
        assert value.value is not None
        low, high = (end if end is not None else value.value for end in value.ci)
        axes.errorbar(
            [value.value], [place], xerr=[[max(value.value - low, 0)], [max(high - value.value, 0)]],
            fmt="D" if place == 0 else "o", color=_RED if place == 0 else _BLUE, markersize=4, elinewidth=1, capsize=2,
        )  # fmt: skip
        told = (
            f"{names.number(value.value)} ({names.number(low)}–{names.number(high)})"
            if value.whole
            else names.number(value.value)
        )
        axes.text(1.02, place, told, va="center", fontsize=7.5, transform=axes.get_yaxis_transform())
    if (center := rows[0][1].value) is not None:
        axes.axvline(center, color=_RED, linewidth=0.7, linestyle=":")
    _write_ticks(axes.xaxis, names)
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.set(xlim=(0, 1.005), ylim=(len(rows) - 0.5, -0.5), xlabel=title)
    axes.grid(axis="y", visible=False)

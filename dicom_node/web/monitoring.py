"""Monitoring in the console: the page `/monitoring` in Russian and English, and the same as JSON, `/api/monitoring`.

Added to the application by `web.app`. The figures are those of `dicom_node.monitoring`; here they are only drawn. No
script runs in the page, and nothing is loaded from elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Final

from fastapi import FastAPI, Header, HTTPException, Query, Response
from fastapi.responses import HTMLResponse, JSONResponse
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from dicom_node.monitoring.build import Monitor
from dicom_node.monitoring.document import Change, ModelService, MonitoringReport, PeriodService, Rate, Times
from dicom_node.monitoring.periods import PeriodError, Step
from dicom_node.monitoring.words import PAGE, undefined
from dicom_node.web import charts
from dicom_node.web.charts import Level, Series
from inference.refusals import TEXTS, Reason

LANGUAGES: Final = ("ru", "en")
_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; img-src data:; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
_PAGES: Final = Environment(
    loader=PackageLoader("dicom_node.web"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
    lstrip_blocks=True,
)  # fmt: skip
_MINUS: Final = "\N{MINUS SIGN}"


def add_monitoring(app: FastAPI, monitor: Monitor) -> None:
    """Add the page, its style sheet and the JSON."""

    @app.get("/api/monitoring")
    def monitoring_json(
        first: Annotated[str | None, Query(alias="from")] = None,
        last: Annotated[str | None, Query(alias="to")] = None,
        period: Step | None = None,
        model: str | None = None,
    ) -> JSONResponse:
        try:
            report = monitor.report(monitor.period(first, last), step=period, model=model or None)
        except PeriodError as error:
            raise HTTPException(status_code=400, detail=str(error)) from error
        return JSONResponse(report.model_dump(mode="json"), headers=_HEADERS)

    @app.get("/monitoring")
    def monitoring_page(
        first: Annotated[str | None, Query(alias="from")] = None,
        last: Annotated[str | None, Query(alias="to")] = None,
        period: Step = Step.DAY,
        model: str | None = None,
        lang: str | None = None,
        accept_language: Annotated[str | None, Header()] = None,
    ) -> HTMLResponse:
        language = language_of(lang, accept_language)
        asked = {"first": first or "", "last": last or "", "period": str(period), "model": model or ""}
        try:
            chosen = monitor.period(first or None, last or None)
            report = monitor.report(chosen, step=period, model=model or None)
        except PeriodError as error:
            return HTMLResponse(_page(None, language, asked, str(error)), status_code=400, headers=_HEADERS)
        asked |= {"first": str(chosen.first), "last": str(chosen.last)}
        return HTMLResponse(_page(report, language, asked, ""), headers=_HEADERS)

    @app.get("/monitoring/style.css")
    def monitoring_style() -> Response:
        source, _, _ = PackageLoader("dicom_node.web").get_source(_PAGES, "monitoring.css")
        return Response(source, media_type="text/css", headers=_HEADERS)


def language_of(wanted: str | None, accept_language: str | None) -> str:
    """The language that is asked for, else the first that the browser would rather have, else English."""
    if wanted in LANGUAGES:
        return wanted
    ranked = []
    for number, part in enumerate((accept_language or "").split(",")):
        name, _, quality = part.strip().partition(";q=")
        try:
            weight = float(quality) if quality else 1.0
        except ValueError:
            weight = 0.0
        ranked.append((-weight, number, name.partition("-")[0].lower()))
    return next((name for weight, _, name in sorted(ranked) if name in LANGUAGES and weight < 0), "en")


def _page(report: MonitoringReport | None, language: str, asked: Mapping[str, str], fault: str) -> str:
    shown = _Shown(language)
    return _PAGES.get_template("monitoring.html").render(
        report=report,
        language=language,
        other=next(one for one in LANGUAGES if one != language),
        asked=asked,
        fault=fault,
        word=shown.word,
        shown=shown,
        steps=list(Step),
    )


class _Shown:
    """How numbers and charts look in one language; the template asks it for everything that is not a plain count."""

    def __init__(self, language: str) -> None:
        self._language = language

    def word(self, key: str) -> str:
        """A word of the page."""
        return PAGE[key].in_language(self._language)

    def text(self, text: object) -> str:
        """A text of the document in this language."""
        return str(text.in_language(self._language)) if hasattr(text, "in_language") else str(text)

    def percent(self, value: float | None) -> str:
        """12.5 % or 12,5 %."""
        return "–" if value is None else self._decimal(f"{100 * value:.1f}") + "\N{NO-BREAK SPACE}%"

    def rate(self, rate: Rate) -> str:
        """A share with its interval and counts, or why there is none."""
        if rate.value is None:
            return undefined(rate.reason or "", self._language)
        low, high = rate.ci
        return f"{self.percent(rate.value)} ({self.percent(low)} – {self.percent(high)}; {rate.count}/{rate.of})"

    def change(self, change: Change) -> str:
        """Points of difference with their interval."""
        if change.value is None:
            return undefined(change.reason or "", self._language)
        low, high = change.ci
        points = [self._points(value) for value in (change.value, low, high)]
        return f"{points[0]} ({points[1]} … {points[2]}) {self.word('points')}"

    def number(self, value: float | None, digits: int = 3) -> str:
        """A plain number."""
        return "–" if value is None else self._decimal(f"{value:.{digits}f}")

    def small(self, value: float | None) -> str:
        """A probability: three significant digits."""
        return "–" if value is None else self._decimal(f"{value:.2g}")

    def seconds(self, times: Times) -> str:
        """p50, p95 and the longest, or why there is none."""
        if times.p50 is None:
            return undefined(times.reason or "", self._language)
        p50, p95, longest = (self._decimal(f"{value or 0:.1f}") for value in (times.p50, times.p95, times.max))
        return f"p50 {p50} · p95 {p95} · {self.word('max')} {longest} {self.word('s')}"

    def reason(self, reason: str) -> str:
        """A refusal in words."""
        if reason in set(Reason):
            return TEXTS[Reason(reason)].in_language(self._language)
        return self.word(reason) if reason in PAGE else reason or self.word("no_reason")

    def why(self, reason: str | None) -> str:
        """Why something is undefined."""
        return undefined(reason or "", self._language)

    def studies_chart(self, report: MonitoringReport, model: ModelService) -> Markup:
        """What became of the studies of each period."""
        found = _over(report, model)
        series = [
            Series(name=self.word("analysed"), css="a", values=[one.analysed for one in found]),
            Series(name=self.word("refused"), css="b", values=[sum(one.refused.values()) for one in found]),
            Series(name=self.word("failed"), css="c", values=[sum(one.failed.values()) for one in found]),
            Series(name=self.word("open"), css="d", values=[one.open + one.dropped for one in found]),
        ]
        return charts.stacked_bars(_labels(report.periods), series, self.word("chart_studies"))

    def positive_chart(self, report: MonitoringReport, model: ModelService, label: str) -> Markup:
        """How often a label is present, beside the reference."""
        rates = [
            next((one.flag_rate for one in found.labels if one.label == label), Rate(value=None))
            for found in _over(report, model)
        ]
        levels = []
        if model.reference and model.reference.label == label and model.reference.flag_rate.value is not None:
            levels.append(Level(name=self.word("reference"), value=model.reference.flag_rate.value))
        points = [(one.value, *one.ci) for one in rates]
        title = f"{self.word('chart_flag_rate')}: {label}"
        return charts.share_line(_labels(report.periods), points, self.word("flag_rate"), levels, title)

    def times_chart(self, report: MonitoringReport, model: ModelService) -> Markup:
        """Median and 95th percentile of the time to a confirmed result."""
        times = [one.last_image_to_confirmed_s for one in _over(report, model)]
        series = [
            Series(name="p50", css="a", values=[one.p50 for one in times]),
            Series(name="p95", css="c", values=[one.p95 for one in times]),
        ]
        late = float(report.settings["late_after_s"] or 0)
        levels = [Level(name=f"{self.word('late')} {late:g} {self.word('s')}", value=late)]
        return charts.lines(_labels(report.periods), series, levels, self.word("chart_times"))

    def bins_chart(self, bins: Sequence[tuple[str, float, float]]) -> Markup:
        """Scores in service beside those of the reference."""
        series = [
            Series(name=self.word("reference"), css="d", values=[one[1] for one in bins]),
            Series(name=self.word("service"), css="a", values=[one[2] for one in bins]),
        ]
        labels = [_bin(one[0]) for one in bins]
        return charts.grouped_bars(labels, series, self.word("chart_bins"))

    def cusum_chart(self, model: ModelService) -> Markup:
        """The cumulative sum over positive readings."""
        cusum = model.agreement.cusum
        first = cusum.readings - len(cusum.path)
        labels = [str(first + place + 1) for place in range(len(cusum.path))]
        levels = [Level(name=self.word("limit"), value=cusum.limit or 0.0)]
        series = [Series(name="CUSUM", css="c", values=cusum.path)]
        return charts.lines(labels, series, levels, self.word("chart_cusum"), dots=False)

    def _points(self, value: float | None) -> str:
        return "–" if value is None else self._decimal(f"{100 * value:+.1f}").replace("-", _MINUS)

    def _decimal(self, text: str) -> str:
        return text.replace(".", ",") if self._language == "ru" else text


def _over(report: MonitoringReport, model: ModelService) -> list[ModelService]:
    """The version in each period, in order; every period has every version."""
    key = (model.model, model.role)
    return [next(one for one in period.models if (one.model, one.role) == key) for period in report.periods]


def _labels(periods: Sequence[PeriodService]) -> list[str]:
    """Days as 23.11, the first day of longer periods too."""
    return [f"{period.begin:%d.%m}" for period in periods]


def _bin(label: str) -> str:
    """Lower edge of a bin of `eval.drift.psi`, short enough for an axis."""
    first = label.partition(" ")[0]
    return f"<{float(label.removeprefix('below ')):.2f}" if first == "below" else f"{float(first):.2f}+"

"""`radnode monitor`: what models did in service, as table, JSON, CSV or export; `radnode monitor truth` takes readings.

The figures are those of `dicom_node.monitoring`; the page `/monitoring` of a running node shows the same.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from dicom_node.commands.context import JSON_TO_STDOUT, fail, json_option, load_settings, open_ledger, write_json

if TYPE_CHECKING:
    from rich.table import Table

    from dicom_node.monitoring.document import ModelService, MonitoringReport, Rate, Times
    from dicom_node.settings import Settings

_BOM = "\ufeff"


@click.group(invoke_without_command=True)
@click.option("--from", "first", metavar="DATE", help="First local day, as 2026-11-01. By default 30 days up to --to.")
@click.option("--to", "last", metavar="DATE", help="Last local day, included. By default today.")
@click.option("--period", type=click.Choice(["day", "week", "month"]), help="Divide it; weeks begin on Monday.")
@click.option("--model", help="NAME or NAME@VERSION alone. By default every version that studies were queued for.")
@click.option(
    "--csv", "csv_to", type=click.Path(dir_okay=False, path_type=Path), help="Write a row a version and period."
)
@click.option(
    "--order-4472",
    "order_to",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write a CSV with the fields of Roszdravnadzor's order 4472, Russian headings, UTF-8 with mark.",
)
@json_option
@click.pass_context
def monitor(
    ctx: click.Context,
    first: str | None,
    last: str | None,
    period: str | None,
    model: str | None,
    csv_to: Path | None,
    order_to: Path | None,
    json_to: str | None,
) -> None:
    """Count what models did in service: studies, refusals, defects, times, drift, agreement with radiologists.

    A study belongs to a period by the time at which it was queued for the model, in the node's time zone.
    """
    if ctx.invoked_subcommand is not None:
        return
    from dicom_node.monitoring.exports import order_4472_csv, service_csv
    from models.registry import installed_models

    settings = load_settings(ctx)
    report = _report(settings, first, last, period, model)
    if csv_to is not None:
        _write(csv_to, service_csv(report))
    if order_to is not None:
        cards = {name: one.card for name, one in installed_models(settings.model_folders).models.items()}
        _write(order_to, _BOM + order_4472_csv(report, cards))
    if json_to is not None:
        write_json(report.model_dump(mode="json"), json_to)
    if json_to != JSON_TO_STDOUT:
        _print(report)


@monitor.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@json_option
@click.pass_context
def truth(ctx: click.Context, file: Path, json_to: str | None) -> None:
    """Enter radiologists' readings from FILE (CSV): study_uid or accession_number, reading, label, read_at.

    reading: positive, negative or unclear (1, 0, да, нет, норма, патология ... too). label: a key of the model's card,
    empty for the study as a whole. Rows that cannot be entered are named by their line; the status is then 1.
    """
    from dicom_node.monitoring.periods import local_zone
    from dicom_node.monitoring.truth_file import import_truth
    from eval.tables import TableError
    from models.registry import installed_models

    settings = load_settings(ctx)
    ledger = open_ledger(settings)
    models = installed_models(settings.model_folders).models.values()
    labels = frozenset(label.key for one in models for label in one.card.labels)
    try:
        found = import_truth(ledger, file, local_zone(settings.monitoring.time_zone), labels=labels)
    except TableError as error:
        fail(str(error))
    finally:
        ledger.close()
    if json_to is not None:
        refused = [{"line": row.line, "why": row.why} for row in found.refused]
        entered = {str(what): count for what, count in found.entered.items()}
        ignored, notes = list(found.ignored_columns), list(found.notes)
        write_json({"entered": entered, "refused": refused, "ignored_columns": ignored, "notes": notes}, json_to)
    for row in found.refused:
        click.echo(f"{file.name}: line {row.line}: {row.why}", err=True)
    if json_to != JSON_TO_STDOUT:
        said = ", ".join(f"{count} {what}" for what, count in found.entered.items() if count) or "none"
        click.echo(f"readings entered: {said}; rows refused: {len(found.refused)}")
        for note in (*found.notes, *(f"column {name} is not used" for name in found.ignored_columns)):
            click.echo(note)
    if found.refused:
        ctx.exit(1)


def _report(
    settings: Settings, first: str | None, last: str | None, period: str | None, model: str | None
) -> MonitoringReport:
    from dicom_node.monitoring.build import Monitor
    from dicom_node.monitoring.periods import PeriodError, Step
    from models.registry import installed_models

    ledger = open_ledger(settings)
    over = Monitor(ledger, settings, lambda: installed_models(settings.model_folders).models.values())
    try:
        return over.report(over.period(first, last), step=Step(period) if period else None, model=model)
    except PeriodError as error:
        fail(str(error))
    finally:
        ledger.close()


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8", newline="")
    except OSError as error:
        fail(f"{path}: cannot be written: {error.strerror}")


# the table on the terminal -------------------------------------------------------------------------------------------


def _print(report: MonitoringReport) -> None:
    from dicom_node.commands.studies import wide_console

    console = wide_console()
    begin, end = report.whole.begin.isoformat(timespec="minutes"), report.whole.end.isoformat(timespec="minutes")
    console.print(f"{begin} to {end}, {report.time_zone}", markup=False)
    console.print(_table(report))
    for model in report.whole.models:
        for line in _details(model):
            console.print(line, markup=False)


def _table(report: MonitoringReport) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in ("period", "model", "studies", "analysed", "refused", "failed", "open", "pos.", "p50 s", "p95 s",
                    "max s", "defect", "read", "warn"):  # fmt: skip
        left = heading in ("period", "model")
        table.add_column(heading, justify="left" if left else "right", no_wrap=left)
    for period in report.periods:
        for model in period.models:
            table.add_row(period.name, *_row(model))
    table.add_section()
    for model in report.whole.models:
        table.add_row("all of it", *_row(model))
    node = report.whole.node
    table.caption = (
        f"pos.: something reported; s: last image received to result confirmed. All studies that came: {node.studies} "
        f"(no route {node.no_route}, quarantined {node.quarantined}, not analysed {sum(node.not_analysed.values())}, "
        f"open {node.open})"
    )
    return table


def _row(model: ModelService) -> list[str]:
    times = model.last_image_to_confirmed_s
    name = model.model if model.role == "champion" else f"{model.model} ({model.role})"
    counts = (model.received, model.analysed, sum(model.refused.values()), sum(model.failed.values()), model.open)
    return [
        name,
        *map(str, counts),
        _percent(model.positive),
        *("–" if value is None else f"{value:.1f}" for value in (times.p50, times.p95, times.max)),
        _percent(model.defects.any),
        str(model.agreement.readings),
        str(len(model.warnings)),
    ]


def _percent(rate: Rate) -> str:
    return "–" if rate.value is None else f"{rate.value:.1%}"


def _details(model: ModelService) -> list[str]:
    lines = ["", f"{model.model} ({model.role})"]
    for title, counts in (("refused", model.refused), ("failed", model.failed)):
        if counts:
            lines.append(f"  {title}: " + ", ".join(f"{reason} {count}" for reason, count in counts.items()))
    lines.append(
        f"  positive (anything reported): {_share(model.positive)}; with a defect: {_share(model.defects.any)}"
    )
    lines.append(f"  in the network: {_seconds(model.model_s)}; from first image read to findings: "
                 f"{_seconds(model.analysis_s)}")  # fmt: skip
    counted = [f"{one.code} {one.studies}" for one in model.defects.classes if one.studies is not None]
    lines.append(f"  defects, studies: {', '.join(counted)}")
    if model.reference:
        lines.append(f"  reference: {model.reference.file}, {model.reference.cases} cases ({model.reference.unit}), "
                     f"positive {_share(model.reference.flag_rate)}")  # fmt: skip
    else:
        lines.append(f"  reference: none, {model.reference_reason}")
    for label in model.labels:
        lines.append(f"  {label.label}: present in {_share(label.flag_rate)}")
        change, drift = label.flag_rate_change, label.drift
        if change.value is not None:
            lines.append(f"    against the report: {change.value:+.1%} ({change.ci[0]:+.1%} to {change.ci[1]:+.1%})")
        shown = drift.reason if drift.psi is None else f"PSI {drift.psi:.3f}, KS {drift.ks:.3f} (p {drift.ks_p:.2g})"
        lines.append(f"    drift of scores: {shown}")
    lines += _agreement(model)
    return lines + [f"  {one.level.upper()}: {one.text.en}" for one in model.warnings]


def _agreement(model: ModelService) -> list[str]:
    found = model.agreement
    if not found.readings:
        return ["  radiologists: no reading has come back"]
    cusum = found.cusum
    watched = (
        cusum.reason if cusum.last is None else f"{cusum.last:.2f} of {cusum.limit:.2f}, {cusum.signals} signal(s)"
    )
    return [
        f"  radiologists: {found.readings} reading(s), agree {found.agree}, disagree {found.disagree}, "
        f"unclear {found.unclear}",
        f"    sensitivity {_share(found.sensitivity)}, specificity {_share(found.specificity)}, CUSUM {watched}",
    ]


def _share(rate: Rate) -> str:
    if rate.value is None:
        return rate.reason or "undefined"
    low, high = rate.ci
    return f"{rate.value:.1%} ({low:.1%}–{high:.1%})"


def _seconds(times: Times) -> str:
    if times.p50 is None:
        return times.reason or "undefined"
    return f"p50 {times.p50:.2f} s, p95 {times.p95:.2f} s, max {times.max:.2f} s"

"""``radnode eval report RUN``: the evaluation report of a run, as pages, papers, JSON twin and table of cases.

Everything is computed by `eval.report.build`, which refuses what may not be printed; here are only files and options.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click

from eval.console import fail, json_option, write_json
from eval.report.build import CASES_FILE, Report, build
from eval.report.faults import ReportError
from eval.report.inputs import read_inputs
from eval.report.language import LANGUAGES, Language
from eval.report.statements import STATEMENTS_FILE
from eval.report.twin import Twin
from eval.runs import RunError, read_run, write_whole
from models.evaluation_report import REPORT_FILE, REPORT_FOLDER
from models.registry import ZOO


@click.command(name="report")
@click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help=f"Folder of the report, made if it is not there.  [default: {REPORT_FOLDER} in the run's folder]",
)
@click.option(
    "--language",
    type=click.Choice([*LANGUAGES, "both"]),
    default="both",
    show_default=True,
    help="Language of the pages; one file for each.",
)
@click.option("--pdf/--no-pdf", default=True, show_default=True, help="Print the pages as PDF, too.")
@click.option(
    "--models-folder",
    "models",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    multiple=True,
    help="Folder of models besides those that are shipped; may be repeated.",
)
@click.option(
    "--images",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of the set's pictures: errors are shown where the data set's licence allows it.",
)
@click.option(
    "--statements",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="What people state, TOML.  [default: report.toml in the run's folder]",
)
@click.option(
    "--date",
    type=click.DateTime(["%Y-%m-%d"]),
    help="Date of the report, UTC: with it the same inputs give the same bytes.  [default: today]",
)
@click.option("--draft", is_flag=True, help="Write report.toml into the run's folder, to be filled in, and no report.")
@json_option
def command(
    run: Path,
    out: Path | None,
    language: str,
    pdf: bool,
    models: tuple[Path, ...],
    images: Path | None,
    statements: Path | None,
    date: datetime | None,
    draft: bool,
    json_to: str | None,
) -> None:
    """Make the evaluation report of RUN, a folder that `radnode eval run` wrote.

    It is not made when a section is missing, a figure has no interval, subgroups do not add up, or a threshold is not
    the one that is served: every fault is named at once.
    """
    if draft:
        _draft(run)
        return
    try:
        given = read_inputs(run, models=(ZOO, *models), statements=statements, images=images)
        report = build(given, created=_midnight(date))
    except ReportError as error:
        fail("The report is not built:\n" + "\n".join(f"  {fault}" for fault in error.faults))
    folder = out or run / REPORT_FOLDER
    chosen = LANGUAGES if language == "both" else tuple(one for one in LANGUAGES if one == language)
    try:
        written = write_report(report, folder, languages=chosen, pdf=pdf)
    except ImportError as error:
        fail(f"{error.name or error} is not installed: install radnode[eval]")
    except OSError as error:
        fail(f"{error.filename or 'WeasyPrint'}: {error.strerror or error}; --no-pdf leaves out the PDF")
    if json_to is not None:
        write_json(report.twin.model_dump(mode="json"), json_to)
    if json_to != "-":
        _tell(report.twin, written)


def write_report(
    report: Report, folder: Path, *, languages: tuple[Language, ...] = LANGUAGES, pdf: bool = True
) -> tuple[Path, ...]:
    """Write the files of a report, each whole; the twin, by which a promotion knows it, is the last.

    Parameters
    ----------
    report : Report
    folder : Path
        Made if it is not there; other files in it are left alone.
    languages : tuple of str, optional
    pdf : bool, optional
        Whether the pages are printed as PDF, too.

    Returns
    -------
    tuple of Path
        Everything that was written.
    """
    from eval.report.pages import page
    from eval.report.pdf import pdf_of

    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for language in languages:
        text = page(report.twin, language, report.pictures)
        written.append(_put(folder / f"report.{language}.html", text))
        if pdf:
            file = folder / f"report.{language}.pdf"
            file.write_bytes(pdf_of(text))
            written.append(file)
    written.append(_put(folder / CASES_FILE, report.cases))
    written.append(_put(folder / REPORT_FILE, report.twin.model_dump_json(indent=1) + "\n"))
    return tuple(written)


def _draft(run: Path) -> None:
    from eval.report.draft import draft

    file = run / STATEMENTS_FILE
    if file.exists():
        fail(f"{file}: is there already; what it says is not written over")
    try:
        write_whole(file, draft(read_run(run)))
    except (RunError, OSError) as error:
        fail(str(error))
    click.echo(str(file))


def _put(file: Path, text: str) -> Path:
    write_whole(file, text)
    return file


def _midnight(date: datetime | None) -> datetime:
    """The day without the hour: a report is dated, not timed."""
    day = date if date is not None else datetime.now(UTC)
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def _tell(twin: Twin, written: tuple[Path, ...]) -> None:
    """What a person wants to see at once."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=100, highlight=False)
    table = Table("figure", "value", "95 % interval", title=f"{twin.model} on {twin.sections.identity.dataset}")
    for fact in twin.sections.annexes.facts:
        if fact.value is not None and fact.value.value is not None:
            low, high = ("—" if end is None else f"{end:.3f}" for end in fact.value.ci)
            table.add_row(fact.key.replace("_", " "), f"{fact.value.value:.3f}", f"{low} to {high}")
    console.print(table)
    verdict = "none declared" if twin.verdict is None else "passed" if twin.verdict.passed else "not passed"
    console.print(f"Verdict: {verdict}. Not stated by anybody: {len(twin.missing)} items, listed on the first page.")
    for file in written:
        console.print(str(file), soft_wrap=True)

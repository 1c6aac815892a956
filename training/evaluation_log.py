"""``radnode eval log RUN``: an evaluation run and its report, kept in MLflow beside the trainings.

The only thing about evaluations that knows the records; what is recorded is decided in `training.tracking`, what was
measured in `eval.report`. Logging twice keeps one record: a report is known by its sha256.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click


@click.command()
@click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--report",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of the report that `radnode eval report` wrote.  [default: EVALUATION in the run's folder]",
)
@click.option(
    "--tracking",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder of the MLflow records, as `radnode train` keeps them.",
)
def command(run: Path, report: Path | None, tracking: Path) -> None:
    """Log RUN, a folder that `radnode eval run` wrote, and its report: figures, digests, no patient and no picture.

    The report must be of this run: model, data and weights are compared by their digests.
    """
    from eval.report.twin import Twin
    from eval.runs import RunError, read_run
    from models.evaluation_report import REPORT_FILE, REPORT_FOLDER, ReportError, read_report
    from training.errors import TrainingError
    from training.tracking import log_evaluation

    folder = report or run / REPORT_FOLDER
    try:
        found = read_run(run)
        file = read_report(folder / REPORT_FILE)
        twin = Twin.model_validate_json(file.text)
        if (twin.model_digest, twin.data_sha256) != (found.record.model_digest, found.record.data_sha256):
            raise ReportError(
                f"{file.path}: the report is of another run: it names model digest {twin.model_digest[:12]} and data "
                f"{twin.data_sha256[:12]}, the run {found.record.model_digest[:12]} and {found.record.data_sha256[:12]}"
            )
        identity, is_new = log_evaluation(tracking, found, twin, file)
    except (RunError, ReportError, TrainingError, OSError) as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(1)
    except ValueError as error:
        click.echo(f"Error: {folder / REPORT_FILE}: not a report of `radnode eval report`: {error}", err=True)
        sys.exit(1)
    click.echo(f"{'logged' if is_new else 'already logged'}: report {file.sha256} as run {identity}")

"""The command ``radnode train RECIPE.toml``: from a folder of labelled films to a model that a node serves.

Each stage keeps its result in the out folder and each epoch a checkpoint, so that whatever is cut off goes on where
it was. What a stage does is the task's (`training.detection`, `training.ct`); this module only reads what was asked
and turns errors into messages.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from training.tasks import Options

_STAGES = ("audit", "split", "fold", "refit", "report")


@click.command(context_settings={"max_content_width": 110})
@click.argument("recipe", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Folder of the data set, laid out as the recipe's reader expects (docs/howto/data-sets.md).",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder for checkpoints, scores and the audit; keep it to resume.  [default: runs/NAME of the recipe file]",
)
@click.option(
    "--zoo",
    type=click.Path(path_type=Path),
    default=Path("models/zoo"),
    show_default=True,
    help="Where the finished model is written, as NAME/VERSION.",
)
@click.option(
    "--stage",
    "stages",
    type=click.Choice(_STAGES),
    multiple=True,
    help="Only this stage; may be repeated. Without it everything that is not yet done.",
)
@click.option("--fold", "folds", type=int, multiple=True, help="Only this fold, counted from 0; may be repeated.")
@click.option(
    "--splits",
    type=click.Path(path_type=Path),
    help="A split of your own (splits.json); refused if it parts a patient or does not fit the films.",
)
@click.option(
    "--tracking",
    default="OUT/mlflow",
    show_default=True,
    help="Folder of the MLflow records, or 'off'.",
)
@click.option(
    "--resume/--anew",
    default=True,
    show_default=True,
    help="Go on with what lies in the out folder, or remove its checkpoints and scores first.",
)
@click.option("--replace", is_flag=True, help="Write over another model of this name and version in the zoo.")
def command(
    recipe: Path,
    data: Path | None,
    out: Path | None,
    zoo: Path,
    stages: tuple[str, ...],
    folds: tuple[int, ...],
    splits: Path | None,
    tracking: str,
    resume: bool,
    replace: bool,
) -> None:
    """Train the model that RECIPE (a TOML file) describes, judge it and write it into the zoo.

    \b
    audit   look at the data: counts, twins, leakage, shortcuts, faults
    split   deal patients into folds, stored with a digest
    fold    train on all folds but one, score that one (each fold in turn)
    refit   train on all films: the weights that are shipped
    report  evaluate out-of-fold, export to ONNX, prove, write card and report

    On several GPUs: torchrun --nproc-per-node N -m training.train RECIPE.toml ...
    """
    from training.errors import TrainingError
    from training.tasks import Options, Stage

    if data is None:
        raise click.UsageError("--data: name the folder of the data set.")
    out = out or Path("runs") / recipe.stem
    records = None if tracking == "off" else out / "mlflow" if tracking == "OUT/mlflow" else Path(tracking)
    options = Options(
        data=data,
        out=out,
        zoo=zoo,
        stages=tuple(Stage(stage) for stage in ((*stages, "fold") if folds else stages)),
        folds=folds,
        splits=splits,
        tracking=records,
        resume=resume,
        replace=replace,
    )
    try:
        _run(recipe, options)
    except (TrainingError, OSError) as error:
        click.echo(f"Error: {_told(error)}", err=True)
        sys.exit(1)


def _told(error: Exception) -> str:
    import errno

    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return (
            f"the disk is full ({error.strerror}); nothing half-written was kept. Make room and run the command again."
        )
    return str(error)


def _run(recipe: Path, options: Options) -> None:
    from training.several import joined
    from training.tasks import task_of

    task = task_of(recipe)
    with joined() as processes:
        folder = task(recipe, options, processes)
    if folder is not None:
        click.echo(str(folder))


if __name__ == "__main__":
    command()

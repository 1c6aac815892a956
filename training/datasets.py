"""The command ``radnode data``: look at a data set before anything is learnt from it, and check which one it is.

``audit`` is the first stage of `training.detection` without a recipe; ``manifest`` names the set by the digests of its
files. Where public sets come from is told in docs/howto/data-sets.md.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click


@click.group()
def data() -> None:
    """Look at data sets for training: import, audit, name them by digest."""


@data.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--reader", required=True, help="Layout of the folder: nih-chest, mini-mias, csv, coco.")
@click.option("--expect", help="Digest that the set must have; the command fails if it has another.")
@click.option("--list", "listing", is_flag=True, help="Also print each film with its own digest.")
def manifest(folder: Path, reader: str, expect: str | None, listing: bool) -> None:
    """Print the digest of all films of FOLDER: of the films' names and of the bytes of each file."""
    from training.data import Teaches, manifest_digest, manifest_lines
    from training.errors import TrainingError
    from training.readers import read_set

    try:
        films = read_set(reader, folder).films
    except (TrainingError, OSError) as error:
        raise click.ClickException(str(error)) from error
    if listing:
        for line in manifest_lines(films):
            click.echo(line)
    digest = manifest_digest(films)
    taught = [film for film in films if film.teaches is not Teaches.NOTHING]
    click.echo(f"{len(films)} films, {len({film.patient for film in films})} patients: {digest}")
    if taught and len(taught) < len(films):
        click.echo(f"the {len(taught)} that teach something (as cards name them): {manifest_digest(taught)}")
    if expect is not None and expect not in (digest, manifest_digest(taught)):
        click.echo(f"Error: expected {expect}: this is not the set that is meant, or not all of it", err=True)
        sys.exit(1)


@data.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--reader", required=True, help="Layout of the folder: nih-chest, mini-mias, csv, coco.")
@click.option("--side", default=256, show_default=True, help="Films are looked at in squares of this many pixels.")
@click.option("--out", type=click.Path(path_type=Path), help="Also write audit.json and audit.md into this folder.")
def audit(folder: Path, reader: str, side: int, out: Path | None) -> None:
    """Print counts, faults, twins and shortcuts of the films in FOLDER; faults are told and passed over."""
    import tempfile

    from models.inputs import ProjectionInput
    from training.audit import audit as look
    from training.audit import audit_text, twins_of, write_audit
    from training.bars import screen
    from training.cache import prepare_films
    from training.data import manifest_digest
    from training.errors import TrainingError
    from training.faults import settle
    from training.readers import read_set
    from training.recipe import Data

    rules = Data(reader=reader, on_fault="skip", unlabelled="ignore")
    try:
        read = read_set(reader, folder)
        with screen() as shown, tempfile.TemporaryDirectory() as scratch:
            on_film = shown.films("films looked at", len(read.films))
            prepared = prepare_films(
                read.films, ProjectionInput(height=side, width=side), Path(scratch), on_film=on_film
            )
            read, faults = settle(read, prepared, folder, rules)
            twins = twins_of(read.films, prepared, rules)
            found = look(read, prepared, faults, twins, None, rules, manifest_digest(read.films))
    except (TrainingError, OSError) as error:
        raise click.ClickException(str(error)) from error
    if out is not None:
        write_audit(found, out)
    click.echo(audit_text(found))


@data.command("import")
@click.argument("kind", type=click.Choice(("nih", "vindr", "mias", "cbis")))
@click.argument("source", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.argument("target", type=click.Path(path_type=Path))
@click.option("--classes", help="vindr: findings that count as the lesion, separated by commas.")
def import_(kind: str, source: Path, target: Path, classes: str | None) -> None:
    """Bring a public set from SOURCE, as its makers publish it, into a layout that readers know, at TARGET."""
    from training.cbis_ddsm import import_cbis
    from training.errors import TrainingError
    from training.public_sets import OPACITIES, import_mias, import_nih, import_vindr

    others = {"nih": import_nih, "mias": import_mias, "cbis": import_cbis}
    try:
        if kind == "vindr":
            films = import_vindr(source, target, classes=classes.split(",") if classes else OPACITIES)
        else:
            films = others[kind](source, target)
    except (TrainingError, OSError) as error:
        raise click.ClickException(str(error)) from error
    reader = {"nih": "nih-chest", "vindr": "csv", "mias": "mini-mias", "cbis": "csv"}[kind]
    click.echo(f"{films} films; check them: radnode data manifest {target} --reader {reader}")


@data.command("cross-validation")
@click.argument("model")
@click.option("--data", "folder", type=click.Path(path_type=Path), required=True, help="Folder of the data set.")
@click.option(
    "--dataset",
    type=click.Path(path_type=Path),
    required=True,
    help="The data set as an evaluation sees it (DATASET.toml); those of the shipped models lie beside their recipes.",
)
@click.option("--recipe", type=click.Path(path_type=Path), help="Recipe of the model: needed for those of CT.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the run to be written.")
@click.option(
    "--models-folder",
    "folders",
    type=click.Path(path_type=Path, file_okay=False),
    multiple=True,
    help="Folder of models besides those that are shipped; may be repeated.",
)
def cross_validation(
    model: str, folder: Path, dataset: Path, recipe: Path | None, out: Path, folders: tuple[Path, ...]
) -> None:
    """Make an evaluation run of what the folds of MODEL (NAME@VERSION) said, for `radnode eval report`."""
    from models.registry import ZOO, installed_models
    from training.errors import TrainingError
    from training.evaluation_run import released_run

    found = installed_models((*folders, ZOO)).find(model)
    if found is None:
        raise click.ClickException(f"{model} is not installed; radnode models list shows what is")
    try:
        if recipe is None:
            record = released_run(found.folder, folder, dataset, out)
        else:
            from training.ct.evaluation_run import released_run as released_scans

            record = released_scans(found.folder, folder, recipe, dataset, out)
    except (TrainingError, OSError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{record.model}: {record.cases} cases of {record.dataset} in {out}")


@data.command("training-list")
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--data", "data_folder", type=click.Path(path_type=Path), required=True, help="Folder of the data set.")
@click.option("--reader", help="Layout of the data set, for films: nih-chest, mini-mias, csv, coco.")
@click.option("--recipe", type=click.Path(path_type=Path), help="Recipe of the model, for CT sets.")
def training_list(folder: Path, data_folder: Path, reader: str | None, recipe: Path | None) -> None:
    """Give the model in FOLDER, released without one, the list of digests of what it learnt from.

    Evaluations refuse cases of that list. The data set must be the one that the card names by its digest.
    """
    from training.errors import TrainingError
    from training.manifest import add_to_card, taught_files
    from training.manifest import training_list as listed

    if (reader is None) == (recipe is None):
        raise click.UsageError("give --reader for films or --recipe for CT")
    try:
        card = add_to_card(folder, listed(taught_files(folder, data_folder, reader=reader, recipe=recipe)))
    except (TrainingError, OSError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{card.reference}: model digest {card.model_digest}, unchanged")

"""`radnode models import`: a MONAI bundle becomes a folder with an ONNX file and a card."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path

import click

from training.importing.bundle import ImportRefused


@click.command(name="import")
@click.argument("bundle", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--into",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("models"),
    show_default=True,
    help="Folder of models; NAME/VERSION is made in it.",
)
@click.option("--name", help="Name of the model; the bundle's own otherwise.")
@click.option("--version", help="Three numbers, as 1.0.0; the bundle's own otherwise.")
@click.option(
    "--card",
    "card_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="TOML file with the parts of the card that the bundle cannot know; without it they are left blank.",
)
def command(bundle: Path, into: Path, name: str | None, version: str | None, card_file: Path | None) -> None:
    """Make an installed model of a MONAI bundle (a folder or a zip), offline.

    Only weights are loaded and nothing of the bundle is executed; what is not understood is refused by name.
    """
    from training.importing.monai import import_bundle

    try:
        made = import_bundle(bundle, into, name=name, version=version, known=_parts(card_file))
    except ImportRefused as error:
        raise click.ClickException(str(error)) from error
    except OSError as error:
        raise click.ClickException(f"{into}: cannot be written: {error.strerror}") from error
    click.echo(f"{made.folder}: written; the ONNX file says what the network says")
    for note in made.notes:
        click.echo(f"note: {note}")
    if made.blanks:
        click.echo(f"{len(made.blanks)} blank(s) of the card are for you to fill in before the model can be used:")
        for blank in made.blanks:
            click.echo(f"  {blank}")


def _parts(card_file: Path | None) -> Mapping[str, object]:
    if card_file is None:
        return {}
    try:
        return tomllib.loads(card_file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise click.ClickException(f"{card_file}: not valid TOML: {error}") from error

"""`radnode schema`: the JSON Schema of a file that people write."""

from __future__ import annotations

import json

import click


@click.command()
@click.argument("file", type=click.Choice(["settings", "routes", "card"]))
def schema(file: str) -> None:
    """Print the JSON Schema of the settings file, the routes file or a model card."""
    from pydantic import BaseModel

    from dicom_node.routing import Routes
    from dicom_node.settings import Settings
    from models.card import ModelCard

    models: dict[str, type[BaseModel]] = {"settings": Settings, "routes": Routes, "card": ModelCard}
    click.echo(json.dumps(models[file].model_json_schema(), ensure_ascii=False, indent=2))

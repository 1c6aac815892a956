"""`radnode schema`: the JSON Schema of a file that people write."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from pydantic import BaseModel

FILES = ("settings", "routes", "card", "dataset", "report", "context")


@click.command()
@click.argument("file", type=click.Choice(FILES))
def schema(file: str) -> None:
    """Print the JSON Schema of a file that people write.

    \b
    settings  of the node
    routes    which images go to which model
    card      of a model
    dataset   that an evaluation runs over
    report    what people state in an evaluation report
    context   what documents for the record say beside the findings
    """
    click.echo(json.dumps(written_files()[file].model_json_schema(), ensure_ascii=False, indent=2))


def written_files() -> Mapping[str, type[BaseModel]]:
    """What describes each of `FILES`; their schemas are published in `docs/schemas`."""
    from dicom_node.ehr.lookup import ContextSettings
    from dicom_node.routing import Routes
    from dicom_node.settings import Settings
    from eval.datasets import DatasetFile
    from eval.report.statements import StatementsFile
    from models.card import ModelCard

    return dict(zip(FILES, (Settings, Routes, ModelCard, DatasetFile, StatementsFile, ContextSettings), strict=True))

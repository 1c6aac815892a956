"""`radnode schema`: the JSON Schema of a file that people write."""

from __future__ import annotations

import json

import click


@click.command()
@click.argument("file", type=click.Choice(["settings", "routes", "card", "dataset", "report", "context"]))
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
    from pydantic import BaseModel

    from dicom_node.ehr.lookup import ContextSettings
    from dicom_node.routing import Routes
    from dicom_node.settings import Settings
    from eval.datasets import DatasetFile
    from eval.report.statements import StatementsFile
    from models.card import ModelCard

    models: dict[str, type[BaseModel]] = {
        "settings": Settings,
        "routes": Routes,
        "card": ModelCard,
        "dataset": DatasetFile,
        "report": StatementsFile,
        "context": ContextSettings,
    }
    click.echo(json.dumps(models[file].model_json_schema(), ensure_ascii=False, indent=2))

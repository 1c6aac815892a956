"""`radnode models`: what is installed, for what it may be used, and whether its weights are those of its card.

Without a subcommand it lists. Subcommands are entry points of ``radnode.models_commands``: importing needs torch, which
the node itself never loads.
"""

from __future__ import annotations

import click
from rich.console import Console
from rich.table import Table

from dicom_node.commands.context import json_option, load_settings, write_json
from dicom_node.commands.lazy import LazyGroup
from inference.guard import guard_of
from models.registry import InstalledModel, WeightsError, installed_models

SUMMARIES = {
    "inspect": "Say what an ONNX file takes and gives, and how a card could describe it.",
    "import": "Make an installed model of a MONAI bundle.",
}


@click.command(cls=LazyGroup, entry_group="radnode.models_commands", summaries=SUMMARIES, invoke_without_command=True)
@json_option
@click.pass_context
def models(ctx: click.Context, json_to: str | None) -> None:
    """List installed models and verify the digests of their weights and guards."""
    if ctx.invoked_subcommand is not None:
        return
    settings = load_settings(ctx)
    inventory = installed_models(settings.model_folders)
    rows = [_row(model) for model in inventory.models.values()]
    if json_to is not None:
        write_json({"models": rows, "faults": list(inventory.faults)}, json_to)
    else:
        _print(rows, inventory.faults)
    if inventory.faults or not all(row["weights"] == "verified" for row in rows):
        ctx.exit(1)


def _row(model: InstalledModel) -> dict[str, str]:
    card = model.card
    try:
        for file in card.weights:
            model.weights(file.runtime)
        guard_of(model)
        weights = "verified"
    except WeightsError as error:
        weights = str(error)
    return {
        "model": card.reference,
        "title": card.identity.title.en,
        "use": str(card.identity.use),
        "looks_for": ", ".join(label.title.en for label in card.labels),
        "runtimes": ", ".join(file.runtime for file in card.weights),
        "thresholds": ", ".join(f"{label.operating_point.threshold:.3f}" for label in card.labels),
        "guard": card.guard.action if card.guard else "none",
        "weights": weights,
        "device_uid": card.device_uid,
    }


def _print(rows: list[dict[str, str]], faults: tuple[str, ...]) -> None:
    console = Console()
    table = Table()
    for heading in ("model", "use", "looks for", "threshold", "guard", "runtimes", "weights"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        shown = ("model", "use", "looks_for", "thresholds", "guard", "runtimes", "weights")
        table.add_row(*(row[key] for key in shown))
    console.print(table if rows else "No model is installed.")
    for fault in faults:
        console.print(fault, style="red", markup=False)

"""`radnode models`: what is installed, for what it may be used, and whether its weights are those of its card.

Without a subcommand it lists. Subcommands are entry points of ``radnode.models_commands``: importing needs torch, which
the node itself never loads.
"""

from __future__ import annotations

import click
from rich.table import Table

from dicom_node.building import standings_if_any
from dicom_node.commands.context import fail, json_option, load_settings, write_json
from dicom_node.commands.lazy import LazyGroup
from dicom_node.commands.studies import wide_console
from dicom_node.ledger.database import LedgerError
from dicom_node.ledger.standings import StandingRow
from dicom_node.serving import Standings, altered
from dicom_node.states import Standing
from inference.guard import guard_of
from models.registry import InstalledModel, WeightsError, installed_models

SUMMARIES = {
    "list": "List installed models, their standing, and verify their weights.",
    "show": "Print all that is known of one version.",
    "shadow": "Have a version run beside the champion, for comparison only.",
    "compare": "Compare what two versions said of the same studies.",
    "promote": "Make a version the champion, by its evaluation report.",
    "rollback": "Make the champion before champion again.",
    "retire": "Withdraw a version from everything.",
    "history": "Print every change of standing of a model.",
    "inspect": "Say what an ONNX file takes and gives, and how a card could describe it.",
    "import": "Make an installed model of a MONAI bundle.",
}


@click.command(cls=LazyGroup, entry_group="radnode.models_commands", summaries=SUMMARIES, invoke_without_command=True)
@json_option
@click.pass_context
def models(ctx: click.Context, json_to: str | None) -> None:
    """List installed models and verify the digests of their weights and guards."""
    if ctx.invoked_subcommand is None:
        _list(ctx, json_to)


@click.command(name="list")
@json_option
@click.pass_context
def list_models(ctx: click.Context, json_to: str | None) -> None:
    """List installed models with their standing, and verify the digests of their weights and guards."""
    _list(ctx, json_to)


def _list(ctx: click.Context, json_to: str | None) -> None:
    settings = load_settings(ctx)
    inventory = installed_models(settings.model_folders)
    try:
        known = standings_if_any(settings)
    except LedgerError as error:
        fail(str(error))
    rows = [_row(model, known) for model in inventory.models.values()]
    rows += [_gone(row) for row in known.rows if row.reference not in inventory.models and _is_needed(row)]
    if json_to is not None:
        write_json({"models": rows, "faults": list(inventory.faults)}, json_to)
    else:
        _print(rows, inventory.faults)
    if inventory.faults or not all(row["weights"] == "verified" and not row["fault"] for row in rows):
        ctx.exit(1)


def _is_needed(row: StandingRow) -> bool:
    return row.standing in (Standing.CHAMPION, Standing.SHADOW)


def _gone(row: StandingRow) -> dict[str, str]:
    """A version that the ledger means to run and that is not there."""
    empty = dict.fromkeys(("title", "use", "looks_for", "runtimes", "thresholds", "guard", "device_uid"), "")
    fault = f"{row.reference} is {row.standing} and is not installed"
    said = {"model": row.reference, "standing": str(row.standing), "model_digest": row.model_digest}
    return {**said, **empty, "weights": "missing", "fault": fault}


def _row(model: InstalledModel, known: Standings) -> dict[str, str]:
    card = model.card
    row = known.of(card.identity.name, card.identity.version)
    try:
        for file in card.weights:
            model.weights(file.runtime)
        guard_of(model)
        weights = "verified"
    except WeightsError as error:
        weights = str(error)
    return {
        "model": card.reference,
        "standing": str(row.standing if row else Standing.CANDIDATE),
        "model_digest": card.model_digest,
        "fault": altered(row, card) if row and _is_needed(row) else "",
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
    console = wide_console()
    table = Table()
    for heading in ("model", "standing", "use", "looks for", "threshold", "guard", "runtimes", "weights"):
        table.add_column(heading, overflow="fold", no_wrap=heading in ("model", "standing", "use"))
    for row in rows:
        shown = ("model", "standing", "use", "looks_for", "thresholds", "guard", "runtimes", "weights")
        table.add_row(*(row[key] for key in shown))
    console.print(table if rows else "No model is installed.")
    for fault in (*faults, *(row["fault"] for row in rows if row["fault"])):
        console.print(fault, style="red", markup=False)

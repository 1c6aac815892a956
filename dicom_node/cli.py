"""The command `radnode`: a group whose subcommands are loaded when they are called.

Subcommands are entry points of the group ``radnode.commands`` (see pyproject.toml), so that other packages of the
project add theirs and `radnode --help` imports none of them.
"""

from __future__ import annotations

from pathlib import Path

import click

from dicom_node.commands.lazy import LazyGroup

SUMMARIES = {
    "serve": "Run the node.",
    "worker": "Run only workers, for a node on another machine.",
    "send": "Send a folder of DICOM files by C-STORE.",
    "studies": "List the studies that arrived last.",
    "explain": "Print every decision about one study.",
    "retry": "Try again what failed: jobs, deliveries, documents.",
    "retract": "Withdraw the results of a study from the archives.",
    "destinations": "List destinations and what waits for each.",
    "pause": "Send nothing to a destination for now.",
    "resume": "Send to a paused destination again.",
    "documents": "List documents of the record that need a person.",
    "document": "Give out a document as it was sent.",
    "models": "List installed models, inspect and import others.",
    "check": "Check settings, models, disk and destinations.",
    "route": "Say which route each study of a folder would take.",
    "schema": "Print the JSON Schema of a file that people write.",
    "demo": "Show the node at work on real studies.",
    "train": "Train a model from a recipe.",
    "data": "Look at data sets for training.",
    "eval": "Evaluate models and readers: statistics, runs, reports.",
    "monitor": "Count what models did in service, and watch for drift.",
}


@click.command(
    cls=LazyGroup,
    entry_group="radnode.commands",
    summaries=SUMMARIES,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.option(
    "--settings",
    "settings_file",
    type=click.Path(dir_okay=False, path_type=Path),
    envvar="RADNODE_SETTINGS",
    help="Settings file (TOML). Without it the defaults are used.",
)
@click.version_option(package_name="radnode", prog_name="radnode")
@click.pass_context
def main(ctx: click.Context, settings_file: Path | None) -> None:
    """The AI node of a radiology department."""
    ctx.obj = settings_file

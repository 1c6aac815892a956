"""The command `radnode`: a group whose subcommands are loaded when they are called.

Subcommands are entry points of the group ``radnode.commands`` (see pyproject.toml), so that other packages of the
project add theirs and `radnode --help` imports none of them.
"""

from __future__ import annotations

from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

import click

SUMMARIES = {
    "serve": "Run the node.",
    "worker": "Run only workers, for a node on another machine.",
    "send": "Send a folder of DICOM files by C-STORE.",
    "studies": "List the studies that arrived last.",
    "explain": "Print every decision about one study.",
    "retry": "Try again what failed: jobs and deliveries.",
    "retract": "Withdraw the results of a study from the archives.",
    "models": "List installed models and verify their weights.",
    "check": "Check settings, models, disk and destinations.",
    "route": "Say which route each study of a folder would take.",
    "schema": "Print the JSON Schema of a file that people write.",
    "demo": "Show the node at work on real studies.",
    "train": "Train a model from a recipe.",
}


class LazyGroup(click.Group):
    """A group that knows its commands by name and imports one only to run it."""

    @cached_property
    def _entry_points(self) -> dict[str, EntryPoint]:
        return {found.name: found for found in entry_points(group="radnode.commands")}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of a node's life."""
        order = list(SUMMARIES)
        return sorted(self._entry_points, key=lambda name: order.index(name) if name in order else len(order))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command."""
        found = self._entry_points.get(cmd_name)
        if found is None:
            return None
        command = found.load()
        if not isinstance(command, click.Command):
            raise TypeError(f"entry point {cmd_name} is no command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, SUMMARIES.get(name, "")) for name in self.list_commands(ctx)])


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
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

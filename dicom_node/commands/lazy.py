"""A click group whose subcommands are entry points, imported when one is run and not before.

Used by `dicom_node.cli` for ``radnode.commands`` and by `dicom_node.commands.models` for ``radnode.models_commands``,
so that packages above the node, such as training, add commands that the node does not import.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import click


class LazyGroup(click.Group):
    """A group that knows its commands by name and imports one only to run it.

    Parameters
    ----------
    entry_group : str
        Group of entry points that hold the commands.
    summaries : mapping of str to str
        One line for each command, in the order of the list.
    """

    def __init__(self, *args: Any, entry_group: str, summaries: Mapping[str, str], **more: Any) -> None:
        super().__init__(*args, **more)
        self._entry_group = entry_group
        self._summaries = summaries

    @cached_property
    def _entry_points(self) -> dict[str, EntryPoint]:
        return {found.name: found for found in entry_points(group=self._entry_group)}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of the summaries."""
        order = list(self._summaries)
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
        if rows := [(name, self._summaries.get(name, "")) for name in self.list_commands(ctx)]:
            with formatter.section("Commands"):
                formatter.write_dl(rows)

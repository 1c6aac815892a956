"""How a command speaks: JSON to standard output or a file, and words on standard error when it cannot go on.

Called by the subcommands of ``radnode eval`` and, through `dicom_node.commands.context`, by those of the node.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import NoReturn

import click

JSON_TO_STDOUT = "-"

json_option = click.option(
    "--json",
    "json_to",
    is_flag=False,
    flag_value=JSON_TO_STDOUT,
    default=None,
    metavar="[FILE]",
    help="Write JSON: to standard output, or to FILE.",
)


def write_json(value: object, json_to: str) -> None:
    """JSON to standard output (`-`) or a file; ends the command when the file cannot be written."""
    text = json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False)
    if json_to == JSON_TO_STDOUT:
        click.echo(text)
        return
    try:
        Path(json_to).write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        fail(f"{json_to}: cannot be written: {error.strerror}")


def fail(message: str) -> NoReturn:
    """End the command with a message on standard error and status 1."""
    click.echo(message, err=True)
    sys.exit(1)


def misused(message: str) -> NoReturn:
    """End the command as click does where options are wrong: usage, message on standard error, status 2."""
    raise click.UsageError(message, click.get_current_context())

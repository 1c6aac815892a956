"""What every subcommand needs: the settings, the ledger they name, and one way of printing JSON or failing."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import NoReturn

import click

from dicom_node.clock import SteadyClock
from dicom_node.ledger import Ledger, studies
from dicom_node.ledger.database import LedgerError
from dicom_node.settings import Settings, SettingsError, read_settings
from inference.findings import StudyUid

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


def load_settings(ctx: click.Context) -> Settings:
    """The settings of this call; ends the command with all faults when they are wrong."""
    try:
        return read_settings(ctx.obj)
    except SettingsError as error:
        fail(str(error))


def open_ledger(settings: Settings) -> Ledger:
    """The ledger of these settings; ends the command when there is none yet."""
    if settings.ledger.url is None and not Path(settings.data_dir / "ledger.sqlite3").exists():
        fail(f"no ledger in {settings.data_dir}: start the node once (`radnode serve`), or name its settings file")
    ledger = Ledger(settings.ledger_url, clock=SteadyClock.start())
    try:
        version = ledger.schema_version()
    except LedgerError as error:
        fail(str(error))
    if version is None:
        fail("the ledger is empty: start the node once (`radnode serve`), or name its settings file")
    return ledger


def one_study(ledger: Ledger, part: str) -> StudyUid:
    """The study whose UID begins or ends with `part`; ends the command when none or several do."""
    part = part.lstrip("…")
    with ledger.read() as tx:
        found = studies.find(tx, part)
    if part in found:
        return StudyUid(part)
    if not found:
        fail(f"no study begins or ends with {part}")
    if len(found) > 1:
        fail("several studies fit, type more of it:\n  " + "\n  ".join(found))
    return found[0]


def write_json(value: object, json_to: str) -> None:
    """JSON to standard output (`-`) or a file."""
    text = json.dumps(value, ensure_ascii=False, indent=2)
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

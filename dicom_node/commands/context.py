"""What every subcommand of the node needs: the settings, the ledger they name, and `eval.console` to speak with."""

from __future__ import annotations

import getpass
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from dicom_node.clock import SteadyClock
from dicom_node.ledger import Ledger, studies
from dicom_node.ledger.database import LedgerError
from dicom_node.settings import Settings, SettingsError, read_settings
from eval.console import JSON_TO_STDOUT, fail, json_option, write_json
from inference.findings import StudyUid

__all__ = [
    "JSON_TO_STDOUT",
    "fail",
    "json_option",
    "load_settings",
    "one_study",
    "open_ledger",
    "operator_options",
    "write_json",
]

_Command = TypeVar("_Command", bound=Callable[..., Any])


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


def operator_options(command: _Command) -> _Command:
    """Who does it, and why: both are kept in the history."""
    why = click.option("--why", default="", help="Reason, kept in the history.")
    operator = click.option(
        "--operator",
        default=getpass.getuser,
        show_default="the user of the system",
        envvar="RADNODE_OPERATOR",
        help="Who answers for it, kept in the history.",
    )
    return operator(why(command))

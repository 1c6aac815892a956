"""`radnode destinations`, `pause`, `resume`, `documents`, `document`: where things go, and what waits for a person.

A running node heeds a pause within a moment; what waits stays in order and loses no attempt. What happens to one study
is told by `radnode explain`, another try asked for by `radnode retry`.
"""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path

import click
from rich import box
from rich.table import Table

from dicom_node.account import DestinationLine, destination_lines, document_json
from dicom_node.commands.context import fail, json_option, load_settings, open_ledger, operator_options, write_json
from dicom_node.commands.studies import check_destination, wide_console
from dicom_node.ledger import documents, holds
from dicom_node.ledger.documents import DocumentRow
from dicom_node.states import DocumentState

FOR_A_PERSON = (DocumentState.PARKED, DocumentState.FAILED, DocumentState.REFUSED)
_DAY_S = 86400.0
_UNITS = ((_DAY_S, "d"), (3600.0, "h"), (60.0, "min"), (1.0, "s"))


@click.command()
@json_option
@click.pass_context
def destinations(ctx: click.Context, json_to: str | None) -> None:
    """List archives and receivers of the record: what waits for each, since when, and who holds it back."""
    settings = load_settings(ctx)
    lines = destination_lines(open_ledger(settings), settings)
    if json_to is not None:
        write_json([line.to_json() for line in lines], json_to)
        return
    wide_console().print(_table(lines) if lines else "No destination is set.")


def _table(lines: tuple[DestinationLine, ...]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in ("destination", "kind", "waiting", "oldest", "arrived", "needs a person", "withheld", "held back"):
        table.add_column(heading)
    for line in lines:
        held = f"since {_time(line.hold.since)} by {line.hold.operator}: {line.hold.why}" if line.hold else ""
        oldest = "" if line.oldest_waiting_s is None else age(line.oldest_waiting_s)
        needs = ", ".join(f"{count} {state}" for state, count in line.needs_a_person.items() if count)
        numbers = (str(line.waiting), oldest, str(line.arrived), needs, str(line.withheld))
        table.add_row(line.name, line.kind, *numbers, held)
    return table


def age(seconds: float) -> str:
    """A duration in its largest unit: ``3 d``, ``17 min``."""
    size, unit = next((one for one in _UNITS if seconds >= one[0]), _UNITS[-1])
    return f"{seconds / size:.0f} {unit}"


@click.command()
@click.argument("destination")
@operator_options
@click.pass_context
def pause(ctx: click.Context, destination: str, operator: str, why: str) -> None:
    """Send nothing to DESTINATION until `radnode resume`."""
    settings = load_settings(ctx)
    check_destination(settings, destination)
    ledger = open_ledger(settings)
    new = holds.Hold(destination=destination, since=ledger.clock(), operator=operator, why=why)
    with ledger.begin() as tx:
        held = holds.hold(tx, new)
        known = holds.every(tx)[destination]
    if not held:
        fail(f"{destination} is held back already, since {_time(known.since)} by {known.operator}: {known.why}")
    click.echo(f"nothing is sent to {destination} until `radnode resume {destination}`; an attempt under way is ended")


@click.command()
@click.argument("destination")
@click.pass_context
def resume(ctx: click.Context, destination: str) -> None:
    """Send to DESTINATION again what waited."""
    ledger = open_ledger(load_settings(ctx))
    with ledger.begin() as tx:
        released = holds.release(tx, destination)
    if not released:
        fail(f"{destination} is not held back")
    click.echo(f"what waited is sent to {destination} again")


@click.command("documents")
@click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice([state.value for state in DocumentState]),
    help="Only these; without it what needs a person: parked, failed, refused.",
)
@click.option("--destination", help="Only for this receiver.")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 100_000), help="How many, newest first.")
@json_option
@click.pass_context
def list_documents(
    ctx: click.Context, states: tuple[str, ...], destination: str | None, limit: int, json_to: str | None
) -> None:
    """List documents of the record that need a person, with the reason."""
    settings = load_settings(ctx)
    check_destination(settings, destination)
    wanted = [DocumentState(state) for state in states] or list(FOR_A_PERSON)
    with open_ledger(settings).read() as tx:
        found = documents.in_states(tx, wanted, destination=destination, limit=limit)
    if json_to is not None:
        write_json([{"study_uid": row.study_uid, **document_json(row)} for row in found], json_to)
        return
    console = wide_console()
    if not found:
        console.print("No document is in " + (" or ".join(wanted) if states else "need of a person") + ".")
        return
    for row in found:
        console.print(_line(row), soft_wrap=True, highlight=False, markup=False)


def _line(row: DocumentRow) -> str:
    why = f" ({row.park_reason})" if row.park_reason else ""
    head = f"{_time(row.created_at)}  {row.destination}  {row.kind} of {row.model_name}: {row.state}{why}"
    return f"{head}\n    study {row.study_uid}\n    document {row.document_id}\n    {row.reason or ''}".rstrip()


@click.command("document")
@click.argument("document_id")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write it here; else to standard output.")
@click.pass_context
def show_document(ctx: click.Context, document_id: str, out: Path | None) -> None:
    """Give out the document DOCUMENT_ID as it was, or will be, sent. It holds patient data."""
    from dicom_node.outbox.letters import body_of
    from dicom_node.store import Store

    settings = load_settings(ctx)
    with open_ledger(settings).read() as tx:
        row = documents.by_document_id(tx, document_id)
    if row is None:
        fail(f"there is no document {document_id}")
    body = body_of(Store(settings.data_dir, settings.storage.limits), row) if row.path else None
    if body is None:
        fail("nothing is written of it: it is still to be written, was never, or its file was evicted")
    if out is None:
        sys.stdout.buffer.write(body)
        return
    try:
        with out.open("xb") as file:
            file.write(body)
    except OSError as error:
        fail(f"{out}: cannot be written: {error.strerror}")
    click.echo(f"{len(body)} bytes written to {out}")


def _time(at: datetime) -> str:
    return at.strftime("%Y-%m-%d %H:%M:%S")

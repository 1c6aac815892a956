"""`radnode models shadow`, `promote`, `rollback`, `retire` and `history`: which version serves, changed by a person.

Each is one transaction of the ledger: killed at any moment it leaves the old champion or the new one. A running node
follows within seconds. The rules are `dicom_node.promotion`; what two versions said is compared in `compare`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import click
from rich import box
from rich.table import Table

from dicom_node import promotion
from dicom_node.commands.context import fail, json_option, load_settings, open_ledger, operator_options, write_json
from dicom_node.commands.studies import wide_console
from dicom_node.ledger import Ledger, standings
from dicom_node.ledger.standings import Change, StandingChanged
from dicom_node.promotion import Act, StandingRefused
from dicom_node.serving import accepted_cards, read_standings
from dicom_node.settings import Settings
from models.evaluation_report import ReportError, ReportFile, find_report, reports_of
from models.registry import InstalledModel, WeightsError, installed_models

_FOLLOWS = "A running node follows within seconds; a study under way ends with the version it began with."


@click.command()
@click.argument("model")
@click.option("--stop", is_flag=True, help="Let it be a candidate again: it runs on no further study.")
@operator_options
@json_option
@click.pass_context
def shadow(ctx: click.Context, model: str, stop: bool, operator: str, why: str, json_to: str | None) -> None:
    """Have MODEL (NAME@VERSION) run beside the champion: on the same studies, and nothing of it leaves the node."""
    settings, ledger = _open(ctx)
    name, version = _version(model)
    found = None if stop else _runnable(settings, model)
    said = f"{model} is a shadow"
    with _told(), ledger.begin() as tx:
        act = Act(operator=operator, at=ledger.clock(), why=why)
        if found is not None:
            promotion.shadow(tx, found.card, act)
        else:
            dropped = promotion.stop_shadow(tx, name, version, act)
            said = f"{model} is a candidate again, {dropped} waiting study(ies) dropped"
    _done(ledger, name, f"{said}. {_FOLLOWS}", json_to)


@click.command()
@click.argument("model")
@click.option(
    "--report",
    metavar="DIGEST|FILE",
    help="The JSON twin of the evaluation report: its file, or the sha256 of one beside the card.",
)
@operator_options
@json_option
@click.pass_context
def promote(ctx: click.Context, model: str, report: str | None, operator: str, why: str, json_to: str | None) -> None:
    """Make MODEL (NAME@VERSION) the champion of its name, by its evaluation report."""
    settings, ledger = _open(ctx)
    name, _ = _version(model)
    found = _runnable(settings, model)
    with _told():
        if report is None:
            raise StandingRefused(_no_report(found))
        file = find_report(found, report)
        with ledger.begin() as tx:
            act = Act(operator=operator, at=ledger.clock(), why=why)
            replaced = promotion.promote(tx, found.card, file, act)
    before = f", in place of {replaced.reference}" if replaced else ""
    _done(ledger, name, f"{model} is champion{before}, by report {file.sha256}.\n{_FOLLOWS}", json_to)


@click.command()
@click.argument("name")
@operator_options
@json_option
@click.pass_context
def rollback(ctx: click.Context, name: str, operator: str, why: str, json_to: str | None) -> None:
    """Make the champion before of model NAME champion again."""
    settings, ledger = _open(ctx)
    inventory = installed_models(settings.model_folders)
    cards = accepted_cards(inventory.models.values(), accept_research=settings.accept_research)
    with _told(), ledger.begin() as tx:
        act = Act(operator=operator, at=ledger.clock(), why=why)
        done = promotion.rollback(tx, name, cards, act)
        _verify(inventory.models[done.champion.reference])
    instead = f", in place of {done.replaced.reference}" if done.replaced else ""
    anew = f" {done.routed_anew} study(ies) that waited are routed anew." if done.routed_anew else ""
    _done(ledger, name, f"{done.champion.reference} is champion again{instead}.{anew}\n{_FOLLOWS}", json_to)


@click.command()
@click.argument("model")
@click.option("--yes", is_flag=True, help="Do not ask before a champion is retired.")
@operator_options
@json_option
@click.pass_context
def retire(ctx: click.Context, model: str, yes: bool, operator: str, why: str, json_to: str | None) -> None:
    """Withdraw MODEL (NAME@VERSION): it runs nowhere any more, not even where a route pins it."""
    settings, ledger = _open(ctx)
    name, version = _version(model)
    found = installed_models(settings.model_folders).models.get(model)
    with ledger.read() as tx:
        known = read_standings(tx)
    champion, row = known.champion(name), known.of(name, version)
    if row is None and found is None:
        fail(f"{model} is not installed and never had a standing")
    if champion is not None and champion.model_version == version and not yes:
        click.confirm(
            f"{model} is the champion: studies of its routes will end as NO_ROUTE until another is promoted "
            f"(`radnode models rollback {name}` puts the one before back). Retire it?",
            abort=True,
        )
    with _told(), ledger.begin() as tx:
        act = Act(operator=operator, at=ledger.clock(), why=why)
        digest = found.card.model_digest if found else ""
        touched = promotion.retire(tx, name, version, digest, act)
    _done(ledger, name, f"{model} is retired; {touched} waiting study(ies) go on without it. {_FOLLOWS}", json_to)


@click.command()
@click.argument("name")
@json_option
@click.pass_context
def history(ctx: click.Context, name: str, json_to: str | None) -> None:
    """Print every change of standing of model NAME's versions: when, who, from what to what, by which report, why."""
    _settings, ledger = _open(ctx)
    with ledger.read() as tx:
        changes = standings.history(tx, name)
    if json_to is not None:
        write_json([change_json(made) for made in changes], json_to)
        return
    if not changes:
        fail(f"no version of {name} ever had a standing; `radnode models list` names what is installed")
    wide_console().print(changes_table(changes))


def changes_table(changes: tuple[Change, ...]) -> Table:
    """One row a change."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in ("when (UTC)", "version", "from", "to", "action", "operator", "report", "model digest", "why"):
        table.add_column(heading, overflow="fold", no_wrap=heading in ("when (UTC)", "report", "model digest"))
    for made in changes:
        table.add_row(
            f"{made.at:%Y-%m-%d %H:%M:%S}",
            made.model_version,
            made.from_standing,
            made.to_standing,
            made.action,
            made.operator,
            (made.report_sha256 or "none")[:12],
            made.model_digest[:12],
            made.why,
        )
    return table


def change_json(made: Change) -> dict[str, object]:
    """Plain values."""
    return {
        "at": made.at.isoformat(timespec="milliseconds"),
        "operator": made.operator,
        "action": made.action,
        "model": made.reference,
        "from": made.from_standing,
        "to": made.to_standing,
        "model_digest": made.model_digest,
        "report_sha256": made.report_sha256,
        "why": made.why,
    }


def _open(ctx: click.Context) -> tuple[Settings, Ledger]:
    settings = load_settings(ctx)
    return settings, open_ledger(settings)


def _version(model: str) -> tuple[str, str]:
    name, _, version = model.partition("@")
    if not version:
        fail(f"say which version: {name}@VERSION; `radnode models list` names what is installed")
    return name, version


def _runnable(settings: Settings, model: str) -> InstalledModel:
    """The installed model, its weights verified, its use accepted; ends the command otherwise."""
    inventory = installed_models(settings.model_folders)
    found = inventory.models.get(model)
    if found is None:
        faults = "".join(f"\n  {fault}" for fault in inventory.faults)
        fail(f"{model} is not installed; there are: {', '.join(inventory.models) or 'none'}{faults}")
    if model not in accepted_cards([found], accept_research=settings.accept_research):
        fail(f"{model} is for {found.card.identity.use} use, which the settings do not accept (accept_research)")
    with _told():
        _verify(found)
    return found


def _verify(model: InstalledModel) -> None:
    for file in model.card.weights:
        model.weights(file.runtime)


def _no_report(model: InstalledModel) -> str:
    """What to do, with the reports that lie beside the card."""
    lines = [
        f"{model.card.reference} is promoted by an evaluation report alone: --report FILE, or --report DIGEST of one "
        "that lies beside its card.",
    ]
    beside = reports_of(model)
    lines += ["Beside its card:", *map(_line, beside)] if beside else ["Beside its card there is none."]
    return "\n".join(lines)


def _line(file: ReportFile) -> str:
    return f"  {file.sha256}  {file.path.name}, of {file.report.model}"


@contextmanager
def _told() -> Iterator[None]:
    """What cannot be done ends the command with its reason; nothing was changed."""
    try:
        yield
    except (StandingRefused, StandingChanged, ReportError, WeightsError) as error:
        fail(f"{error}\nNothing was changed.")


def _done(ledger: Ledger, name: str, said: str, json_to: str | None) -> None:
    if json_to is None:
        click.echo(said)
        return
    with ledger.read() as tx:
        rows = standings.of_name(tx, name)
    write_json({row.reference: row.standing for row in rows}, json_to)

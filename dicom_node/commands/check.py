"""`radnode check`: will this configuration work? Settings, routes, models, disk, ledger, destinations by C-ECHO."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.text import Text

from dicom_node.commands.context import json_option, load_settings, write_json
from dicom_node.delivery.archive import Destination
from dicom_node.ehr.destinations import Record
from dicom_node.returned.settings import ReturnedSettings
from dicom_node.settings import Settings

if TYPE_CHECKING:
    from dicom_node.routing import Route
    from dicom_node.serving import Standings
    from models.card import ModelCard


@click.command()
@json_option
@click.pass_context
def check(ctx: click.Context, json_to: str | None) -> None:
    """Check settings, models, disk, ledger and destinations; status 1 when anything is wrong."""
    settings = load_settings(ctx)  # reports every fault of the file and ends
    found = [("settings", ""), *_checks(settings)]
    if json_to is not None:
        write_json([{"check": name, "ok": not fault, "fault": fault or None} for name, fault in found], json_to)
    else:
        console = Console(highlight=False)
        for name, fault in found:
            line = (
                Text.assemble(("fault", "red"), f" {name}: {fault}")
                if fault
                else Text.assemble(("ok", "green"), f"    {name}")
            )
            console.print(line, soft_wrap=True)  # a terminal wraps by itself; in a file a fault stays one line
    if any(fault for _name, fault in found):
        ctx.exit(1)


def _checks(settings: Settings) -> Iterator[tuple[str, str]]:
    yield from _routes_and_models(settings)
    yield "disk", _disk(settings)
    fault = _ledger(settings)
    yield "ledger", fault
    if not fault:
        yield from _unknown_destinations(settings)
    for destination in settings.destination:
        yield f"destination {destination.name}", _echo(destination)
    if settings.record:
        yield "time zone", _zone_fault(settings)
    for receiver in settings.record:
        yield f"record {receiver.name}", _receiver_fault(receiver, settings)
    if settings.returned.has_token or settings.returned.has_loop:
        yield "returned", _way_back_fault(settings.returned)


def _routes_and_models(settings: Settings) -> Iterator[tuple[str, str]]:
    from dicom_node.building import standings_if_any
    from dicom_node.ledger.database import LedgerError
    from dicom_node.routing import RoutesError, read_routes
    from dicom_node.serving import Standings, accepted_cards
    from inference.guard import guard_of
    from models.registry import WeightsError, installed_models

    inventory = installed_models(settings.model_folders)
    for fault in inventory.faults:
        yield "model card", fault
    for model in inventory.models.values():
        try:
            for file in model.card.weights:
                model.weights(file.runtime)
            guard_of(model)
            yield f"model {model.card.reference}", ""
        except WeightsError as error:
            yield f"model {model.card.reference}", str(error)
    if settings.routes_file is None:
        yield "routes", "no routes_file is set: every study will end as NO_ROUTE"
        return
    try:
        routes = read_routes(settings.routes_file)
    except RoutesError as error:
        yield "routes", str(error)
        return
    try:
        known = standings_if_any(settings)
    except LedgerError:
        known = Standings()  # told of the ledger, below
    cards = accepted_cards(inventory.models.values(), accept_research=settings.accept_research)
    checked = [(f"route {route.name}", _route_fault(route, settings, known, cards)) for route in routes.route]
    if not checked:
        yield "routes", "there is none: every study will end as NO_ROUTE"
    elif not any(fault for _name, fault in checked):
        yield "routes", ""
    yield from checked


def _route_fault(route: Route, settings: Settings, known: Standings, cards: Mapping[str, ModelCard]) -> str:
    from dicom_node.serving import choose

    unknown = sorted(set(route.destinations) - set(settings.all_destinations_list()))
    if unknown:
        return f"names destinations that are not set: {', '.join(unknown)}"
    choice = choose(route.model, known, cards)
    if choice.serving is None:
        return f"{choice.why_not}: its studies will end as NO_ROUTE"
    if choice.serving.fault:
        return f"{choice.serving.fault}. Its studies will not be analysed"
    left_out = [shadow.fault for shadow in choice.shadows if shadow.fault]
    return f"a shadow does not run: {'; '.join(left_out)}" if left_out else ""


def _disk(settings: Settings) -> str:
    from dicom_node.store import DiskState, Store, StoreError

    store = Store(settings.data_dir, settings.storage.limits)
    try:
        store.prepare()
    except StoreError as error:
        return str(error)
    state = store.disk_state()
    return "" if state is DiskState.NORMAL else f"{store.free_bytes() >> 20} MiB free, below the {state} watermark"


def _ledger(settings: Settings) -> str:
    from dicom_node.ledger import Ledger
    from dicom_node.ledger.database import LedgerError

    try:
        ledger = Ledger(settings.ledger_url)
        version = ledger.schema_version()
        ledger.close()
    except LedgerError as error:
        return str(error)
    return "" if version or settings.ledger.url is None else "empty: it is set up at the first start"


def _unknown_destinations(settings: Settings) -> Iterator[tuple[str, str]]:
    """What waits for destinations that the settings no longer name."""
    from dicom_node.ledger import Ledger, deliveries, jobs, outbox

    ledger = Ledger(settings.ledger_url)
    try:
        if ledger.schema_version() is None:
            return
        known = settings.all_destinations_list()
        with ledger.read() as tx:
            waiting = deliveries.unknown_destinations(tx, known)
            told = outbox.unknown_destinations(tx, known)
            meant = jobs.open_for_unknown_destinations(tx, known)
    finally:
        ledger.close()
    for name in sorted({*waiting, *told, *meant}):
        found = f"{waiting.get(name, 0)} open delivery(ies) and {meant.get(name, 0)} open job(s) are meant for it"
        if name in told:
            found += f", and {told[name]} open document(s)"
        yield f"destination {name}", f"is not set, but {found}: the next start closes the deliveries as failed"


def _echo(destination: Destination) -> str:
    from dicom_node.delivery import open_archive
    from dicom_node.delivery.archive import ArchiveError

    try:
        archive = open_archive(destination)
        archive.echo()
        archive.close()
    except ArchiveError as error:
        return str(error)
    return ""


def _zone_fault(settings: Settings) -> str:
    """A machine that counts in UTC would date studies of most of the country hours off, and nobody would see it."""
    if settings.monitoring.time_zone is not None:
        return ""
    return "set [monitoring] time_zone: documents say when a study was made, and most images do not name their zone"


def _receiver_fault(destination: Record, settings: Settings) -> str:
    """The context file, the form, address and credentials of a receiver of the record; nothing is sent."""
    from dicom_node.ehr.destination import DestinationMisconfigured
    from dicom_node.outbox.opening import open_configured

    try:
        receiver, _context = open_configured(destination, settings)
    except DestinationMisconfigured as error:
        return str(error)
    try:
        return receiver.check()
    finally:
        receiver.close()


def _way_back_fault(returned: ReturnedSettings) -> str:
    """The rules, the watched folder, the token and the authorities of signers."""
    from dicom_node.ehr.profile_file import ProfileError
    from dicom_node.returned.rules import read_rules
    from dicom_node.stored_secret import SecretUnusable, read_secret

    try:
        read_rules(returned.rules)
        if returned.has_token:
            read_secret(returned.token_env, returned.token_file, as_header=True)
    except (ProfileError, SecretUnusable) as error:
        return str(error)
    if returned.folder is not None and not returned.folder.is_dir():
        return f"folder {returned.folder} is not there: make it, writable for the node's user"
    if returned.trusted_file is not None and not returned.trusted_file.is_file():
        return f"trusted_file {returned.trusted_file} is not there: no signature can be verified"
    return ""

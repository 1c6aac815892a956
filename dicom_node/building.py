"""Building the parts that several processes need alike: the installed models and the pipeline over the ledger.

Called by the node, by each worker process and by the commands that look into the ledger. What only the node has
(receiver, deliverers, web) is built in `node`.
"""

from __future__ import annotations

import structlog

from dicom_node.clock import Clock
from dicom_node.ledger import Ledger
from dicom_node.pipeline import Pipeline
from dicom_node.routing import Routes, RoutesError, read_routes
from dicom_node.settings import Settings
from dicom_node.store import Store
from models.registry import InstalledModel, installed_models

log = structlog.get_logger(__name__)


def installed(settings: Settings) -> tuple[InstalledModel, ...]:
    """The models found in the settings' folders; those with a faulty card are left out and logged."""
    inventory = installed_models(settings.model_folders)
    for fault in inventory.faults:
        log.error("a model cannot be used", fault=fault)
    return tuple(inventory.models.values())


def build_pipeline(settings: Settings, clock: Clock | None, models: tuple[InstalledModel, ...]) -> Pipeline:
    """A pipeline over the settings' ledger and store.

    Raises
    ------
    RoutesError
        If the routes file is faulty.
    """
    routes = usable_routes(settings)
    return Pipeline(
        settings,
        Ledger(settings.ledger_url, clock=clock),
        Store(settings.data_dir, settings.storage.limits),
        routes,
        models,
    )


def usable_routes(settings: Settings) -> Routes:
    """The settings' routes; none without a routes file.

    Raises
    ------
    RoutesError
        If the file is faulty or a route names a destination that is not set.
    """
    routes = read_routes(settings.routes_file) if settings.routes_file else Routes()
    known = settings.destinations_list()
    faults = [
        f"  route {route.name} names destination {name!r}, which the settings do not have"
        for route in routes.route
        for name in route.destinations
        if name not in known
    ]
    if faults:
        raise RoutesError("\n".join([f"{settings.routes_file}: {len(faults)} fault(s)", *faults]))
    return routes

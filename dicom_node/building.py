"""Building the parts that several processes need alike: the installed models and the pipeline over the ledger.

Called by the node, by each worker process and by the commands that look into the ledger. What only the node has
(receiver, deliverers, web) is built in `node`.
"""

from __future__ import annotations

import structlog

from dicom_node.clock import Clock
from dicom_node.ledger import Ledger
from dicom_node.pipeline import Pipeline
from dicom_node.routing import Routes, read_routes
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
    routes = read_routes(settings.routes_file) if settings.routes_file else Routes()
    return Pipeline(
        settings,
        Ledger(settings.ledger_url, clock=clock),
        Store(settings.data_dir, settings.storage.limits),
        routes,
        models,
    )

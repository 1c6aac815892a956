"""Building the parts that several processes need alike: the installed models and the pipeline over the ledger.

Called by the node, by each worker process and by the commands that look into the ledger. What only the node has
(receiver, deliverers, web) is built in `node`.
"""

from __future__ import annotations

from pathlib import Path

import structlog

from dicom_node.clock import Clock
from dicom_node.ledger import Ledger
from dicom_node.pipeline import Pipeline
from dicom_node.routing import Routes, RoutesError, read_routes
from dicom_node.serving import Standings, read_standings
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


class ModelFolders:
    """The settings' model folders, looked at again and again: a version that is put there needs no restart.

    Parameters
    ----------
    settings : Settings
        The node's.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._seen = self._look()

    def changed(self) -> tuple[InstalledModel, ...] | None:
        """What is installed now, if a folder or a card is not as it was when asked last; else None."""
        now = self._look()
        if now == self._seen:
            return None
        self._seen = now
        return installed(self._settings)

    def _look(self) -> frozenset[tuple[Path, int, int]]:
        """Every file of every version, with its time and size."""
        seen = []
        for path in (path for root in self._settings.model_folders for path in root.glob("*/*/*")):
            try:
                status = path.stat()
            except OSError:
                continue  # it goes at this moment
            seen.append((path, status.st_mtime_ns, status.st_size))
        return frozenset(seen)


def standings_if_any(settings: Settings) -> Standings:
    """What the ledger knows of models; nothing while there is no ledger yet."""
    if settings.ledger.url is None and not (settings.data_dir / "ledger.sqlite3").exists():
        return Standings()
    ledger = Ledger(settings.ledger_url)
    try:
        if ledger.schema_version() is None:
            return Standings()
        with ledger.read() as tx:
            return read_standings(tx)
    finally:
        ledger.close()


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
    known = settings.all_destinations_list()
    faults = [
        f"  route {route.name} names destination {name!r}, which the settings do not have"
        for route in routes.route
        for name in route.destinations
        if name not in known
    ]
    if faults:
        raise RoutesError("\n".join([f"{settings.routes_file}: {len(faults)} fault(s)", *faults]))
    return routes

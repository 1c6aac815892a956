"""The node: START READING HERE, then `pipeline`.

    startup    data folder locked, ledger brought up to date, files and rows compared, half-done work given back,
               receiver, workers, deliverers, couriers, coordinator and web started, in this order
    serve      wait until told to stop
    shutdown   the same in reverse: no new association, workers finish or park what they hold

Built from `Settings` alone by `radnode serve`. Everything the parts do is in their own modules; here they are only put
together. Children find out by themselves when this process dies.
"""

from __future__ import annotations

import fcntl
import functools
import json
import os
import secrets
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import IO

import sqlalchemy as sa
import structlog

from dicom_node.building import build_pipeline, installed
from dicom_node.clock import SteadyClock
from dicom_node.coordinator import Coordinator
from dicom_node.deliverer import Deliverer
from dicom_node.dimse.recovery import reindexer
from dicom_node.dimse.scp import PynetdicomReceiver
from dicom_node.ehr.destinations import Record
from dicom_node.ehr.profile_file import ProfileError
from dicom_node.health import Health
from dicom_node.ledger import Ledger, deliveries, documents, instances, jobs, outbox, results, standings, studies
from dicom_node.log import set_up_logging
from dicom_node.metrics import NodeMetrics
from dicom_node.monitoring.build import Monitor
from dicom_node.monitoring.periods import local_zone
from dicom_node.outbox.courier import Courier
from dicom_node.outbox.opening import Opening
from dicom_node.receiver import Receiver
from dicom_node.reception import ReceptionBoard
from dicom_node.returned.desk import ReturnDesk
from dicom_node.settings import Settings
from dicom_node.sink import LedgerSink
from dicom_node.store import DiskState
from dicom_node.study import NewInstance, Recorded, RecordedKind
from dicom_node.web.app import build_app
from dicom_node.web.returned import add_returned
from dicom_node.web.server import WebServer
from dicom_node.workers import WorkerPool
from models.registry import installed_models

log = structlog.get_logger(__name__)

DRAIN_S = 10.0
STOP_S = 30.0
STATUS_FILE = "node.json"


class NodeError(Exception):
    """The node cannot start; the message names the remedy."""


class Node:
    """One node on one data folder.

    Parameters
    ----------
    settings : Settings
        Everything it is told.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.clock = SteadyClock.start()
        self._lock = _lock_data_folder(settings.data_dir)
        self.node_id = _node_id(settings.data_dir)
        self.models = installed(settings)
        self.pipeline = build_pipeline(settings, self.clock, self.models)
        self.ledger: Ledger = self.pipeline.ledger
        self.store = self.pipeline.store
        self.board = ReceptionBoard()
        self.metrics = NodeMetrics(self.ledger, self.store, self.board, restarts=self._restarts)
        self.workers = WorkerPool(settings, self.ledger, self.clock, self.node_id)
        self.receiver: Receiver = PynetdicomReceiver(
            settings.receiver,
            store_root=settings.data_dir,
            store_limits=settings.storage.limits,
            sink_factory=functools.partial(LedgerSink, settings.ledger_url, self.clock),
            board=self.board,
            on_process_start=functools.partial(set_up_logging, settings.log.level, settings.log.format),
        )
        self.coordinator = Coordinator(self.pipeline, self.board)
        self.deliverers = [
            Deliverer(destination, settings.delivery, self.ledger, self.store, on_confirmed=self.metrics.on_confirmed)
            for destination in settings.destination
        ]
        self.couriers = [
            Courier(one, settings.outbox, self.ledger, self.store, self._opening(one)) for one in settings.record
        ]
        self.desk = self._desk()
        monitor = Monitor(self.ledger, settings, lambda: installed_models(settings.model_folders).models.values())
        app = build_app(self.ledger, self.metrics.registry, self.health, monitor, lambda: self.pipeline.cards, settings)
        if self.desk is not None:
            add_returned(app, self.desk)
        self.web = WebServer(app, settings.web.host, settings.web.port)
        self._stop = threading.Event()
        self._threads: dict[str, threading.Thread] = {}

    def startup(self) -> None:
        """Start every part; raises what names the part that cannot start."""
        self.store.prepare()
        self.ledger.migrate()
        self.recover()
        for reference in self.pipeline.enter_first_champions():
            log.info("first champion", model=reference)
        self._run("workers", self.workers.run)
        self._run("coordinator", self.coordinator.run)
        for deliverer in self.deliverers:
            self._run(f"deliver-{deliverer.destination.name}", deliverer.run)
        for courier in self.couriers:
            self._run(f"record-{courier.destination.name}", courier.run)
        if self.desk is not None and self.settings.returned.has_loop:
            self._run("returned", self.desk.run)
        self.receiver.start()
        self.web.start()
        self._write_status()
        log.info("node ready", dicom_port=self.receiver.port, web_port=self.web.port, models=len(self.pipeline.cards))

    def serve(self) -> None:
        """Wait until `stop` is called, from a signal handler or another thread."""
        self._stop.wait()

    def stop(self) -> None:
        """Ask `serve` to end."""
        self._stop.set()

    def shutdown(self) -> None:
        """End every part; work that cannot be finished in time is parked in the ledger."""
        log.info("node stops")
        self._stop.set()
        self.receiver.stop(DRAIN_S)
        self.workers.stop(STOP_S)
        for thread in self._threads.values():
            thread.join(STOP_S)
        self.web.stop()
        (self.settings.data_dir / STATUS_FILE).unlink(missing_ok=True)
        self.ledger.close()
        self._lock.close()

    def health(self) -> Health:
        """One look at every part."""
        parts = {name: "" if thread.is_alive() else "stopped" for name, thread in self._threads.items()}
        disk = self.store.disk_state()
        parts["disk"] = "" if disk is DiskState.NORMAL else f"below the {disk} watermark"
        if self.settings.worker.count and not self.workers.process_ids:
            parts["workers"] = parts.get("workers") or "none is running"
        parts["receiver"] = self.receiver.fault
        if self.desk is not None:
            parts["returned"] = parts.get("returned") or self.desk.fault
        parts["ledger"], parts["models"] = self._ledger_and_models()
        return Health(parts=parts)

    def _ledger_and_models(self) -> tuple[str, str]:
        """What is wrong with the ledger, and with the models that it says serve."""
        try:
            with self.ledger.read() as tx:
                jobs.any_queued(tx)
                return "", "; ".join(self.pipeline.model_faults(tx))
        except sa.exc.SQLAlchemyError as error:
            return f"does not answer ({type(error).__name__})", ""

    def _opening(self, destination: Record) -> Opening:
        return Opening(destination, self.settings, self.ledger, self.store, lambda: self.pipeline.cards)

    def _desk(self) -> ReturnDesk | None:
        """What takes in reports, states and signatures, where a door for them is set."""
        if not (self.settings.returned.has_token or self.settings.returned.has_loop):
            return None
        try:
            return ReturnDesk(
                self.settings.returned,
                self.ledger,
                self.store,
                labels=lambda: {label.key for card in self.pipeline.cards.values() for label in card.labels},
                zone=local_zone(self.settings.monitoring.time_zone),
            )
        except ProfileError as error:
            raise NodeError(f"[returned] rules: {error}") from error

    def _restarts(self) -> dict[str, int]:
        return {"acceptor": self.receiver.restarts, "worker": self.workers.restarts}

    def _run(self, name: str, loop: Callable[[threading.Event], None]) -> None:
        thread = threading.Thread(target=loop, args=(self._stop,), name=name, daemon=True)
        self._threads[name] = thread
        thread.start()

    def recover(self) -> None:
        """Files and rows are compared, and what the last run left half done is given back."""
        now = self.clock()
        with self.ledger.begin() as tx:
            held = jobs.release(tx, owner_prefix=f"{self.node_id}:", interrupted=True)
            standings.forget_loaded(tx, f"{self.node_id}:")
            attempts = deliveries.release_attempts(tx) + outbox.release_attempts(tx)
            deliveries.forget_all_unanswered_commitments(tx, now)
            receiving = studies.wake_all_receiving(tx, now)
            orphaned = deliveries.close_unknown(tx, self.settings.destinations_list(), now)
            orphaned += outbox.close_unknown(tx, self.settings.records_list(), now)
            known, known_results = instances.known_paths(tx), results.known_paths(tx) | documents.known_paths(tx)
        report = self.store.scan(known, reindexer(self.store, self._record_recovered))
        unknown_results = self.store.remove_unknown_results(known_results)
        for relative_path in report.missing:
            log.error("an acknowledged file is missing", alarm=True, path=relative_path)
        log.info(
            "recovered",
            jobs_queued_again=held,
            deliveries_due_again=attempts,
            deliveries_without_destination=orphaned,
            studies_being_received=receiving,
            half_received_files_removed=report.temporary_removed,
            files_indexed_again=len(report.reindexed),
            files_not_readable=len(report.unreadable),
            files_missing=len(report.missing),
            results_without_row_removed=unknown_results,
        )

    def _record_recovered(self, found: NewInstance) -> Recorded:
        """Enter a stored file without a row as received now; its sender was never told success.

        A file that a crash left behind after its row was told of its eviction is not taken up: it is to be removed.
        """
        with self.ledger.read() as tx:
            if instances.is_evicted(tx, found):
                return Recorded(kind=RecordedKind.DUPLICATE)
        return self.pipeline.record_instance(replace(found, received_at=self.clock()))

    def _write_status(self) -> None:
        status = {"pid": os.getpid(), "dicom_port": self.receiver.port, "web_port": self.web.port}
        path = self.settings.data_dir / STATUS_FILE
        partial = path.with_suffix(".part")
        partial.write_text(json.dumps(status))
        partial.rename(path)


def _lock_data_folder(folder: Path) -> IO[str]:
    """Hold the data folder for this process: two nodes on one folder would undo each other's work."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = (folder / "lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        raise NodeError(f"{folder}: another node runs on this data folder; stop it or set data_dir") from error
    return lock


def _node_id(folder: Path) -> str:
    """A name for this data folder, made once: leases of its workers carry it."""
    path = folder / "node_id"
    if not path.exists():
        path.write_text(secrets.token_hex(8))
    return path.read_text().strip()

"""The acceptor process: takes connections from the inherited listening socket and serves them until told to stop.

Started by `dimse.scp` and by nobody else. It reports to its parent over one connection and ends at once when that
connection ends, so that a killed node leaves no process behind. Nothing of the node but store and sink is built here.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, MutableSequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

import structlog
from pynetdicom import _config
from pynetdicom.ae import ApplicationEntity

from dicom_node.dimse.admission import Admission, Load
from dicom_node.dimse.association import AcceptedAssociation, Services
from dicom_node.dimse.contexts import accepted_contexts
from dicom_node.dimse.incoming import Intake
from dicom_node.dimse.upper_layer import configure
from dicom_node.implementation import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicom_node.receiver import ReceiverSettings, SinkFactory
from dicom_node.reception import Report
from dicom_node.store import Store, StoreLimits

log = structlog.get_logger(__name__)

READY: Final = b"ready"
FAILED: Final = b"failed "
REPORT: Final = b"report "
DRAIN: Final = b"drain "

_TICK_S = 1.0
_YIELD_S = 0.002
_SPARE_CONNECTIONS = 32  # connections that have not asked for an association yet, or are about to be rejected
_QUIET_BEFORE_ABORT_S = 1.0
_ABORT_GRACE_S = 2.0


@dataclass(frozen=True, kw_only=True, slots=True)
class AcceptorConfig:
    """What an acceptor process is started with; everything in it can be pickled by the parent."""

    index: int
    settings: ReceiverSettings
    store_root: Path
    store_limits: StoreLimits
    sink_factory: SinkFactory
    on_process_start: Callable[[], None] | None
    parent_pid: int


def run_acceptor(
    listener: socket.socket, parent: Connection, counts: MutableSequence[int], config: AcceptorConfig
) -> None:
    """Entry point of the process; does not return before the parent says so or is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if config.on_process_start is not None:
        config.on_process_start()
    _quiet_pynetdicom()
    try:
        sink = config.sink_factory()
    except Exception as error:  # noqa: BLE001 - the parent says what kept the receiver from starting
        log.error("an acceptor's sink did not open", error=type(error).__name__)
        parent.send_bytes(FAILED + f"the sink did not open: {type(error).__name__}".encode())
        return
    store = Store(config.store_root, config.store_limits)
    load = Load(counts, config.index)
    to_parent = ParentPipe(parent)
    services = Services(
        settings=config.settings,
        entity=_entity(config.settings),
        contexts=accepted_contexts(),
        admission=Admission(config.settings, store, load),
        intake=Intake(store, sink, config.settings.max_object_bytes),
        report=to_parent.report,
    )
    acceptor = Acceptor(listener, parent, services, config.parent_pid)
    to_parent.send(READY)
    acceptor.serve()
    os._exit(0)  # threads of associations that could not be ended must not keep the process


class ParentPipe:
    """Reports from many threads into one connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    def report(self, report: Report) -> None:
        """Send a report to the board."""
        self.send(REPORT + report.to_bytes())

    def send(self, message: bytes) -> None:
        """Send a message; without a parent there is nobody to receive for, and the process ends."""
        try:
            with self._lock:
                self._connection.send_bytes(message)
        except OSError:
            os._exit(1)


class Acceptor:
    """The accept loop of one process.

    Parameters
    ----------
    listener : socket
        Listening, shared with the other acceptors, non-blocking.
    parent : Connection
        Where orders come from.
    services : Services
        For the associations.
    parent_pid : int
        Who must be alive.
    """

    def __init__(self, listener: socket.socket, parent: Connection, services: Services, parent_pid: int) -> None:
        self._listener = listener
        self._parent = parent
        self._services = services
        self._parent_pid = parent_pid
        self._associations: list[AcceptedAssociation] = []
        self._count = 0

    def serve(self) -> None:
        """Accept until the parent orders to drain, then let the associations end."""
        poller = select.poll()
        poller.register(self._listener, select.POLLIN)
        poller.register(self._parent, select.POLLIN)
        while True:
            ready = dict(poller.poll(_TICK_S * 1000))
            self._check_parent()
            if self._parent.fileno() in ready:
                self._drain(self._order())
                return
            if self._listener.fileno() in ready:
                self._accept()

    def _accept(self) -> None:
        if self._services.admission.load.is_busier_than_another():
            time.sleep(_YIELD_S)  # let a process with fewer associations take it
        try:
            connection, address = self._listener.accept()
        except OSError:  # another acceptor was faster, or the peer is gone already
            return
        self._associations = [association for association in self._associations if association.is_alive()]
        if len(self._associations) >= self._services.settings.max_associations + _SPARE_CONNECTIONS:
            connection.close()
            return
        try:
            configure(connection, self._services.settings.pdu_timeout_s)
            self._count += 1
            association = AcceptedAssociation(self._services, connection, address, self._count)
        except OSError:
            connection.close()
            return
        self._associations.append(association)
        association.start()

    def _order(self) -> float:
        try:
            message = self._parent.recv_bytes()
        except (EOFError, OSError):
            os._exit(1)
        return float(message.removeprefix(DRAIN))

    def _check_parent(self) -> None:
        if os.getppid() != self._parent_pid:
            os._exit(1)

    def _drain(self, timeout_s: float) -> None:
        self._listener.close()
        deadline = time.monotonic() + timeout_s
        while self._alive() and time.monotonic() < deadline:
            self._check_parent()
            for association in self._alive():
                if association.quiet_s() > _QUIET_BEFORE_ABORT_S:
                    association.abort(block=False)
            time.sleep(0.05)
        for association in self._alive():
            association.abort(block=False)
        grace = time.monotonic() + _ABORT_GRACE_S
        while self._alive() and time.monotonic() < grace:
            time.sleep(0.02)

    def _alive(self) -> list[AcceptedAssociation]:
        return [association for association in self._associations if association.is_alive()]


def _entity(settings: ReceiverSettings) -> ApplicationEntity:
    entity = ApplicationEntity(ae_title=settings.ae_titles[0] if settings.ae_titles else "RADNODE")
    entity.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    entity.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    entity.maximum_associations = 1_000_000  # `Admission` counts
    return entity


def _quiet_pynetdicom() -> None:
    """Its messages hold data sets and tracebacks with values; what matters is logged by `dimse.association`."""
    _config.LOG_HANDLER_LEVEL = "none"
    for name in ("pynetdicom", "pydicom"):
        logger = logging.getLogger(name)
        logger.handlers = [logging.NullHandler()]
        logger.propagate = False
        logger.setLevel(logging.CRITICAL + 1)
    with contextlib.suppress(AttributeError):
        threading.excepthook = _log_thread_failure


def _log_thread_failure(failure: threading.ExceptHookArgs) -> None:
    log.error("a thread failed", error=failure.exc_type.__name__)

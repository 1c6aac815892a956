"""The receiver that the node starts: acceptor processes on one listening socket, watched and replaced when they die.

`PynetdicomReceiver` fulfils `dicom_node.receiver.Receiver`. It binds the port, starts `dimse.acceptor` in processes
of their own, and turns their reports into the board of reception. It sees no data set.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from multiprocessing.sharedctypes import RawArray
from pathlib import Path

import structlog

from dicom_node.dimse.acceptor import DRAIN, FAILED, READY, REPORT, AcceptorConfig, run_acceptor
from dicom_node.receiver import ReceiverError, ReceiverSettings, SinkFactory
from dicom_node.reception import ReceptionBoard, Report
from dicom_node.store import Store, StoreLimits

log = structlog.get_logger(__name__)

_BACKLOG = 256
_TICK_S = 0.5
_LONG_LIFE_S = 10.0
_FIRST_RESTART_DELAY_S = 0.25
_MAX_RESTART_DELAY_S = 5.0  # the port stays open meanwhile; a sender waits that long rather than fail
_KILL_AFTER_S = 5.0


@dataclass(kw_only=True, slots=True)
class _Acceptor:
    """A running acceptor process; `name` tells it from its predecessors on the board."""

    index: int
    name: str
    process: SpawnProcess
    connection: Connection
    started_at: float
    is_ready: bool = False


class PynetdicomReceiver:
    """DICOM receiver in acceptor processes.

    Parameters
    ----------
    settings : ReceiverSettings
        How it listens.
    store_root, store_limits : Path, StoreLimits
        The store, which each process opens for itself; its folders are prepared by `start`.
    sink_factory : SinkFactory
        Opens the sink in each process; its database must exist already.
    board : ReceptionBoard
        Learns of every association.
    on_process_start : callable, optional
        Called first in each process, to set up its logging; must be picklable.
    """

    def __init__(
        self,
        settings: ReceiverSettings,
        *,
        store_root: Path,
        sink_factory: SinkFactory,
        board: ReceptionBoard,
        store_limits: StoreLimits | None = None,
        on_process_start: Callable[[], None] | None = None,
    ) -> None:
        self.settings = settings
        self._store = Store(store_root, store_limits)
        self._sink_factory = sink_factory
        self._board = board
        self._on_process_start = on_process_start
        self._context = multiprocessing.get_context("spawn")
        self._counts = RawArray("i", settings.processes)
        self._listener: socket.socket | None = None
        self._port: int | None = None
        self._acceptors: dict[int, _Acceptor] = {}
        self._due: dict[int, float] = {}
        self._short_lives = [0] * settings.processes
        self._generation = 0
        self._restarts = 0
        self._fault = ""
        self._started = threading.Event()
        self._stopping = threading.Event()
        self._supervisor: threading.Thread | None = None

    @property
    def port(self) -> int:
        """TCP port on which it listens. Raises `ReceiverError` before `start`."""
        if self._port is None:
            raise ReceiverError("the receiver has not been started")
        return self._port

    @property
    def restarts(self) -> int:
        """How many acceptor processes died and were replaced."""
        return self._restarts

    @property
    def fault(self) -> str:
        """Why it takes no association; empty while it does."""
        if self._supervisor is None or not self._supervisor.is_alive():
            return "stopped" if self._supervisor else "not started"
        alive = any(one.is_ready and one.process.is_alive() for one in tuple(self._acceptors.values()))
        return "" if alive else "no acceptor process is running"

    @property
    def process_ids(self) -> tuple[int, ...]:
        """Of the acceptor processes that run."""
        return tuple(acceptor.process.pid or 0 for acceptor in tuple(self._acceptors.values()))

    def start(self) -> None:
        """Listen; returns when every acceptor process takes associations.

        Raises
        ------
        ReceiverError
            If the port cannot be bound, or the processes do not come up within `start_timeout_s`.
        StoreError
            If the store's folders cannot be made.
        """
        self._store.prepare()
        self._listener = self._bind()
        self._port = self._listener.getsockname()[1]
        self._supervisor = threading.Thread(target=self._supervise, name="receiver-supervisor", daemon=True)
        self._supervisor.start()
        if not self._started.wait(self.settings.start_timeout_s):
            self._fault = self._fault or "the acceptor processes did not come up in time"
        if self._fault:
            self.stop(0.0)
            raise ReceiverError(self._fault)
        log.info("receiving", host=self.settings.host, port=self._port, processes=self.settings.processes)

    def stop(self, timeout_s: float) -> None:
        """Take no new association, let objects on their way arrive for `timeout_s` seconds, then end."""
        self._stopping.set()
        if self._listener is not None:
            self._listener.close()
        for acceptor in tuple(self._acceptors.values()):
            with contextlib.suppress(OSError):
                acceptor.connection.send_bytes(DRAIN + str(timeout_s).encode())
        deadline = time.monotonic() + timeout_s + _KILL_AFTER_S
        for acceptor in tuple(self._acceptors.values()):
            acceptor.process.join(max(deadline - time.monotonic(), 0.0))
            if acceptor.process.is_alive():
                acceptor.process.kill()
                acceptor.process.join()
        if self._supervisor is not None:
            self._supervisor.join()

    def _bind(self) -> socket.socket:
        family = socket.AF_INET6 if ":" in self.settings.host else socket.AF_INET
        try:
            listener = socket.create_server((self.settings.host, self.settings.port), family=family, backlog=_BACKLOG)
        except OSError as error:
            raise ReceiverError(
                f"cannot listen on {self.settings.host} port {self.settings.port}: {error.strerror}"
            ) from error
        listener.setblocking(False)
        return listener

    def _supervise(self) -> None:
        self._due = dict.fromkeys(range(self.settings.processes), 0.0)
        while not (self._stopping.is_set() and not self._acceptors):
            self._spawn_due()
            self._listen_to_acceptors()

    def _spawn_due(self) -> None:
        now = time.monotonic()
        for index in [index for index, due_at in self._due.items() if due_at <= now]:
            del self._due[index]
            if not self._stopping.is_set():
                self._acceptors[index] = self._spawn(index)

    def _spawn(self, index: int) -> _Acceptor:
        ours, theirs = self._context.Pipe()
        self._counts[index] = 0
        self._generation += 1
        config = AcceptorConfig(
            index=index,
            settings=self.settings,
            store_root=self._store.root,
            store_limits=self._store.limits,
            sink_factory=self._sink_factory,
            on_process_start=self._on_process_start,
            parent_pid=os.getpid(),
        )
        name = f"acceptor-{index}.{self._generation}"
        process = self._context.Process(
            target=run_acceptor, args=(self._listener, theirs, self._counts, config), name=name, daemon=True
        )
        process.start()
        theirs.close()
        return _Acceptor(index=index, name=name, process=process, connection=ours, started_at=time.monotonic())

    def _listen_to_acceptors(self) -> None:
        by_connection = {acceptor.connection: acceptor for acceptor in self._acceptors.values()}
        if not by_connection:
            time.sleep(_TICK_S / 10)
            return
        for ready in wait(list(by_connection), timeout=_TICK_S):
            assert isinstance(ready, Connection)
            acceptor = by_connection[ready]
            try:
                message = ready.recv_bytes()
            except (EOFError, OSError):
                self._ended(acceptor)
                continue
            self._take(acceptor, message)

    def _take(self, acceptor: _Acceptor, message: bytes) -> None:
        if message.startswith(REPORT):
            try:
                self._board.apply(acceptor.name, Report.from_bytes(message.removeprefix(REPORT)))
            except ValueError:
                log.error("a report that cannot be read", acceptor=acceptor.name)
        elif message == READY:
            acceptor.is_ready = True
            if len(self._acceptors) == self.settings.processes and all(a.is_ready for a in self._acceptors.values()):
                self._started.set()
        elif message.startswith(FAILED) and not self._started.is_set():
            self._fault = message.removeprefix(FAILED).decode()
            self._started.set()

    def _ended(self, acceptor: _Acceptor) -> None:
        acceptor.connection.close()
        acceptor.process.join()
        del self._acceptors[acceptor.index]
        self._counts[acceptor.index] = 0
        self._board.drop_acceptor(acceptor.name)
        if self._stopping.is_set() or not self._started.is_set():
            if not self._stopping.is_set():
                self._fault = self._fault or "an acceptor process ended while it started"
                self._started.set()
            return
        self._restarts += 1
        delay_s = self._restart_delay_s(acceptor)
        log.error("an acceptor process ended and is replaced", exit_code=acceptor.process.exitcode, delay_s=delay_s)
        self._due[acceptor.index] = time.monotonic() + delay_s

    def _restart_delay_s(self, acceptor: _Acceptor) -> float:
        """At once the first time; longer and longer for a process that does not live."""
        lived_long = time.monotonic() - acceptor.started_at > _LONG_LIFE_S
        lives = self._short_lives[acceptor.index] = 0 if lived_long else self._short_lives[acceptor.index] + 1
        return min(_FIRST_RESTART_DELAY_S * 2.0 ** (lives - 2), _MAX_RESTART_DELAY_S) if lives > 1 else 0.0

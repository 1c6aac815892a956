"""The worker processes of this machine: started, watched for memory, time and death, and replaced.

Used by `node` and by `radnode worker`. What a dead worker held is queued again at once, its attempt counted against the
study; a worker that asks to be restarted (device out of memory) has given its jobs back itself. The work is `worker`.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import secrets
import signal
import threading
import time
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path

import sqlalchemy as sa
import structlog

from dicom_node.clock import SteadyClock
from dicom_node.ledger import Ledger, jobs, standings
from dicom_node.settings import Settings
from dicom_node.worker import EXIT_RESTART, owner_name

log = structlog.get_logger(__name__)

_TICK_S = 0.5
_QUICK_DEATH_S = 5.0
_LONGEST_PAUSE_S = 30.0
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_MIB = 1 << 20


@dataclass(kw_only=True, slots=True)
class _Running:
    number: int
    process: SpawnProcess
    lifeline: Connection
    owner: str
    started_at: float


class WorkerPool:
    """Keeps `settings.worker.count` workers running.

    Parameters
    ----------
    settings : Settings
        The node's.
    ledger : Ledger
        To give back what a dead worker held.
    clock : SteadyClock
        The node's clock, shared with its workers.
    node_id : str
        First part of the lease owners' names; the pool adds what no other pool has, to give back only its own.
    """

    def __init__(self, settings: Settings, ledger: Ledger, clock: SteadyClock, node_id: str) -> None:
        self._settings = settings
        self._ledger = ledger
        self._clock = clock
        self._name = f"{node_id}:{os.getpid()}-{secrets.token_hex(4)}"
        self._lock = threading.Lock()  # of what runs: the pool may be stopped while another thread tends it
        self._stopped = False
        self._context = multiprocessing.get_context("spawn")
        self._running: dict[int, _Running] = {}
        self._due: dict[int, float] = dict.fromkeys(range(settings.worker.count), 0.0)
        self._quick_deaths = 0
        self._restarts = 0

    @property
    def restarts(self) -> int:
        """How many workers died or asked to be replaced."""
        return self._restarts

    @property
    def process_ids(self) -> tuple[int, ...]:
        """Of the workers that are alive now."""
        return tuple(one.process.pid or 0 for one in tuple(self._running.values()) if one.process.is_alive())

    def run(self, stop: threading.Event) -> None:
        """Keep the workers running until `stop` is set; then let them finish what they hold."""
        while not stop.is_set():
            try:
                self.tend()
            except Exception as error:
                log.error("workers not tended", stage="supervise", exc_info=error)
            stop.wait(_TICK_S)

    def tend(self) -> None:
        """One look: start what is due, replace what died, end what exceeds its limits; nothing once stopped."""
        with self._lock:
            if not self._stopped:
                self._tend()

    def _tend(self) -> None:
        for running in tuple(self._running.values()):
            if not running.process.is_alive():
                self._buried(running)
        self._end_offenders()
        now = time.monotonic()
        for number in [number for number, due in self._due.items() if due <= now]:
            del self._due[number]
            self._running[number] = self._start(number)

    def stop(self, timeout_s: float) -> None:
        """Ask every worker to finish what it holds; end those that do not within `timeout_s`."""
        with self._lock:
            self._stopped = True
            for running in self._running.values():
                running.lifeline.close()
            deadline = time.monotonic() + timeout_s
            for running in self._running.values():
                running.process.join(max(0.0, deadline - time.monotonic()))
                if running.process.is_alive():
                    running.process.kill()
                    running.process.join()
        try:
            with self._ledger.begin() as tx:  # parked: the next start goes on with them
                jobs.release(tx, owner_prefix=f"{self._name}:", interrupted=True)
        except sa.exc.DBAPIError as error:  # the node that comes next, or the end of their leases, gives them back
            log.warning("jobs held at the end stay held until their leases end", stage="supervise", exc_info=error)

    def _start(self, number: int) -> _Running:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=work,
            args=(theirs, self._settings, self._clock, self._name, number),
            name=f"worker-{number}",
            daemon=True,
        )
        process.start()
        theirs.close()
        owner = f"{self._name}:worker{number}:{process.pid}"
        return _Running(number=number, process=process, lifeline=ours, owner=owner, started_at=time.monotonic())

    def _buried(self, dead: _Running) -> None:
        asked = dead.process.exitcode == EXIT_RESTART
        with self._ledger.begin() as tx:
            held = jobs.release(tx, owner_prefix=dead.owner, interrupted=False)
            standings.forget_loaded(tx, dead.owner)
        del self._running[dead.number]
        dead.lifeline.close()
        self._restarts += 1
        quick = time.monotonic() - dead.started_at < _QUICK_DEATH_S
        self._quick_deaths = self._quick_deaths + 1 if quick and not asked else 0
        pause_s = min(2.0 ** (self._quick_deaths - 1), _LONGEST_PAUSE_S) if self._quick_deaths else 0.0
        self._due[dead.number] = time.monotonic() + pause_s
        log.log(
            30 if asked else 40,
            "worker restarts" if asked else "worker died and is replaced",
            exit_code=dead.process.exitcode,
            jobs_queued_again=held,
            pause_s=pause_s,
        )

    def _end_offenders(self) -> None:
        limit_bytes = self._settings.worker.memory_limit_mib * _MIB
        stuck = self._stuck_owners()
        for running in self._running.values():
            why = "memory" if _resident_bytes(running.process.pid) > limit_bytes else ""
            why = why or ("time" if running.owner in stuck else "")
            if why:
                log.error("worker exceeds its limit and is ended", limit=why, owner=running.owner)
                running.process.kill()

    def _stuck_owners(self) -> frozenset[str]:
        longest = timedelta(seconds=self._settings.worker.job_timeout_s)
        with self._ledger.read() as tx:
            now = self._ledger.clock()
            return frozenset(
                job.lease_owner or "" for job in jobs.running(tx) if job.stage_at and now - job.stage_at > longest
            )


def _resident_bytes(pid: int | None) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES
    except (OSError, IndexError, ValueError):
        return 0


def work(lifeline: Connection, settings: Settings, clock: SteadyClock, pool_name: str, number: int) -> None:
    """Entry point of a worker process; `lifeline` ends when the parent stops it or is gone."""
    from dicom_node.building import ModelFolders, build_pipeline, installed
    from dicom_node.log import set_up_logging
    from dicom_node.worker import Worker

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    set_up_logging(settings.log.level, settings.log.format)
    stop = threading.Event()
    threading.Thread(target=_watch, args=(lifeline, stop), name="lifeline", daemon=True).start()
    try:
        folders = ModelFolders(settings)  # before the first look at what is installed: nothing is missed
        models = installed(settings)
        pipeline = build_pipeline(settings, clock, models)
        status = Worker(pipeline, models, owner_name(pool_name, number), folders=folders).run(stop)
    except Exception:  # the process ends here: Python itself would print the error with its text
        log.exception("worker ends")
        status = 1
    os._exit(status)


def _watch(lifeline: Connection, stop: threading.Event) -> None:
    """Wait for the parent's end of the pipe to close; if the parent was killed the process ends soon after."""
    parent = os.getppid()
    with contextlib.suppress(EOFError, OSError):
        lifeline.recv_bytes()
    if os.getppid() != parent:
        os._exit(1)  # the node was killed: its successor has given our jobs to others
    stop.set()

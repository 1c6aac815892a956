"""A whole node as a child process: `radnode serve` on free loopback ports, in a data folder that outlives it.

Used by end-to-end tests, drills and the pictures of the documentation. The node and everything it starts form one
session of processes, so that `kill` can strike them all at once, as a power cut would. What happened to a study is
asked the way people ask: over HTTP, and by `radnode explain --json`.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import psutil

from dicom_node.commands.send import find_objects
from dicom_node.delivery import open_archive
from dicom_node.delivery.archive import Confirm, PacsDestination, SendOutcome, Sent
from tests.archives import Orthanc, free_port
from tests.conftest import PROJECT
from training.toml import to_toml

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 60.0
_POLL_S = 0.05
_RADNODE = (sys.executable, "-c", "from dicom_node.cli import main; main(prog_name='radnode')")
_FINAL_DELIVERIES = frozenset({"confirmed", "failed"})

Toml = Mapping[str, Any]


class NodeTrouble(AssertionError):
    """The node did not start, did not answer in time, or refused what was sent; carries the end of its log."""


def to_orthanc(orthanc: Orthanc, *, name: str = "pacs", **details: object) -> dict[str, object]:
    """The destination (settings) that delivers to `orthanc` by DIMSE; `details` override or add fields."""
    address = {"host": "127.0.0.1", "port": orthanc.dimse_port, "called_ae": orthanc.ae_title}
    return {"name": name, "kind": "pacs", **address, **details}


def to_dicomweb(orthanc: Orthanc, *, name: str = "pacs", **details: object) -> dict[str, object]:
    """The destination (settings) that delivers to `orthanc` by DICOMweb; `details` override or add fields."""
    return {"name": name, "kind": "dicomweb", "url": orthanc.dicomweb_url, **details}


class RunningNode:
    """A node that can be started, stopped, killed and started again on the same data folder and ports.

    Parameters
    ----------
    folder : Path
        Where settings, routes, log and the data folder are written.
    settings : mapping, optional
        Laid over the defaults of these tests, table by table; `destination` and `profile` are lists of tables.
    routes : sequence of mappings, optional
        The rules, as in a routes file.
    models : Path, optional
        Folder with `NAME/VERSION/card.toml`. The models that come with radnode are not used unless `settings` says so.

    Examples
    --------
    >>> with RunningNode(tmp_path, {"destination": [to_orthanc(orthanc)]}, routes=rules, models=folder) as node:
    ...     node.send([film])
    ...     account = node.wait_for_outcome(study_uid)
    """

    def __init__(
        self,
        folder: Path,
        settings: Toml | None = None,
        *,
        routes: Sequence[Toml] = (),
        models: Path | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.settings_file = folder / "radnode.toml"
        self.data_dir = folder / "data"
        self.log = folder / "node.log"
        self.dicom_port = free_port()
        self.web_port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        (folder / "routes.toml").write_text(to_toml({"route": list(routes)}), encoding="utf-8")
        self.write_settings(settings or {}, models)

    def write_settings(self, settings: Toml, models: Path | None = None) -> None:
        """Write the settings file; a node that runs reads it at its next start."""
        basis: dict[str, Any] = {
            "data_dir": "data",
            "routes_file": "routes.toml",
            "receiver": {"port": self.dicom_port, "processes": 1},
            "storage": {"soft_free_bytes": 64 << 20, "hard_free_bytes": 32 << 20, "reserve_bytes": 1 << 20},
            "models": {"folders": [str(models)] if models else [], "include_zoo": False},
            "web": {"port": self.web_port},
        }
        self.settings_file.write_text(to_toml(_laid_over(basis, settings)), encoding="utf-8")

    def start(self) -> None:
        """Start the node and wait until it takes associations and calls itself well.

        Raises
        ------
        NodeTrouble
            If it ends or is not well in time.
        """
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"}
        environment.pop("RADNODE_SETTINGS", None)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*_RADNODE, "--settings", str(self.settings_file), "serve"],
                cwd=PROJECT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._is_well():
            if not self.running or time.monotonic() > deadline:
                self.kill()
                raise NodeTrouble(f"the node did not start\n{self.log_tail()}")
            time.sleep(_POLL_S)

    @property
    def running(self) -> bool:
        """Whether the node's main process lives."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Of the node's main process, also the number of its process group."""
        if self._process is None:
            raise NodeTrouble("the node has not been started")
        return self._process.pid

    @property
    def web_url(self) -> str:
        """Root of health, metrics and the account of studies."""
        return f"http://127.0.0.1:{self.web_port}"

    def stop(self) -> int:
        """End the node as an administrator does (SIGTERM) and give its exit status."""
        process, self._process = self._process, None
        if process is None:
            return 0
        process.terminate()
        try:
            return process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired as error:
            raise NodeTrouble(f"the node does not stop\n{self.log_tail()}") from error
        finally:
            _strike(process)

    def kill(self) -> None:
        """End every process of the node at once, as a power cut would (SIGKILL to the group)."""
        process, self._process = self._process, None
        if process is not None:
            _strike(process)

    def send(self, paths: Iterable[Path], *, calling_ae: str = "SENDER") -> tuple[SendOutcome, ...]:
        """C-STORE files, or all DICOM files below folders, to the node on one association.

        Raises
        ------
        NodeTrouble
            If one is not accepted.
        """
        outcomes = self.try_to_send(paths, calling_ae=calling_ae)
        refused = [outcome for outcome in outcomes if outcome.sent is not Sent.ACCEPTED]
        if refused:
            raise NodeTrouble(f"{len(refused)} of {len(outcomes)} not accepted: {refused[0].reason}")
        return outcomes

    def try_to_send(self, paths: Iterable[Path], *, calling_ae: str = "SENDER") -> tuple[SendOutcome, ...]:
        """Like `send`, but what was not accepted is for the caller to judge."""
        objects = [one for path in paths for one in find_objects(path)[0]]
        assert objects, "there is nothing to send"
        itself = PacsDestination(
            name="node",
            host="127.0.0.1",
            port=self.dicom_port,
            called_ae="RADNODE",
            calling_ae=calling_ae,
            confirm=Confirm.NONE,
        )
        archive = open_archive(itself)
        try:
            return archive.send(objects)
        finally:
            archive.close()

    def account(self, study_uid: str) -> dict[str, Any] | None:
        """What the node tells of a study over HTTP; None when it knows of no such study."""
        answer = httpx.get(f"{self.web_url}/api/studies/{study_uid}", timeout=30.0, trust_env=False)
        if answer.status_code == httpx.codes.NOT_FOUND:
            return None
        account: dict[str, Any] = answer.raise_for_status().json()
        return account

    def explain(self, study_uid: str) -> dict[str, Any]:
        """What `radnode explain STUDY --json` prints; the node itself need not run."""
        account: dict[str, Any] = json.loads(self.command("explain", study_uid, "--json"))
        return account

    def command(self, *arguments: str) -> str:
        """Standard output of a `radnode` command with this node's settings.

        Raises
        ------
        NodeTrouble
            If its exit status is not 0; carries what it wrote to standard error.
        """
        done = subprocess.run(
            [*_RADNODE, "--settings", str(self.settings_file), *arguments],
            cwd=PROJECT,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if done.returncode:
            raise NodeTrouble(f"radnode {' '.join(arguments)} ended with {done.returncode}: {done.stderr[-2000:]}")
        return done.stdout

    def wait_for_outcome(self, study_uid: str, *, timeout_s: float = 60.0, delivered: bool = True) -> dict[str, Any]:
        """The account of a study once it has ended; with `delivered`, once its deliveries have ended too.

        Raises
        ------
        NodeTrouble
            If that does not come in time; carries the last account and the end of the log.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            account = self.account(study_uid)
            if account is not None and _has_ended(account, delivered=delivered):
                return account
            if not self.running or time.monotonic() > deadline:
                told = json.dumps(account, ensure_ascii=False, indent=1)[-4000:]
                raise NodeTrouble(f"study {study_uid} has not ended: {told}\n{self.log_tail()}")
            time.sleep(_POLL_S)

    def log_tail(self) -> str:
        """The end of the node's log."""
        return self.log.read_text(encoding="utf-8", errors="replace")[-4000:] if self.log.exists() else ""

    def _is_well(self) -> bool:
        try:
            status = json.loads((self.data_dir / "node.json").read_text())
            healthy = httpx.get(f"{self.web_url}/healthz", timeout=5.0, trust_env=False).status_code == httpx.codes.OK
        except (OSError, ValueError, httpx.HTTPError):
            return False
        # After a kill the file of the last run is still there.
        return healthy and status["pid"] == self.pid and status["dicom_port"] == self.dicom_port

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.stop()
        else:
            self.kill()


def _strike(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL to the whole group; returns when none of it runs any more, so that its ports and locks are free."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(STOP_TIMEOUT_S)
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while any(_runs_in(process.pid, one) for one in psutil.process_iter()):
        if time.monotonic() > deadline:
            raise NodeTrouble("a killed process of the node still runs")
        time.sleep(_POLL_S)


def _runs_in(group: int, process: psutil.Process) -> bool:
    # An orphan that nobody has reaped yet holds nothing.
    try:
        return os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE
    except (ProcessLookupError, psutil.NoSuchProcess):
        return False


def _has_ended(account: Mapping[str, Any], *, delivered: bool) -> bool:
    if account["outcome"] is None:
        return False
    return not delivered or all(_is_final(one, account) for one in account["deliveries"])


def _is_final(delivery: Mapping[str, Any], account: Mapping[str, Any]) -> bool:
    # Where no confirmation is on offer "sent" is the end; the node then enters the time at which it ended.
    return delivery["state"] in _FINAL_DELIVERIES or delivery["finished_at"] is not None


def _laid_over(basis: Toml, over: Toml) -> dict[str, Any]:
    laid = dict(basis)
    for key, value in over.items():
        below = laid.get(key)
        laid[key] = _laid_over(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return laid

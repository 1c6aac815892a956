"""The node of the demonstration: a process of its own, started and asked the way a hospital would.

`command` starts it with the files of `files`, and learns all it prints from the node's own HTTP answers.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import httpx

from inference.findings import StudyUid

_START_S: Final = 90.0
_STOP_S: Final = 60.0
_POLL_S: Final = 0.1
_TAIL_LINES: Final = 15
_START_NODE: Final = "from dicom_node.cli import main; main(prog_name='radnode')"


class NodeFailed(Exception):
    """The node did not start, or ended by itself; the message holds the end of its log."""


class ChildNode:
    """A node as a child process; used as a context manager, which stops it in order.

    Parameters
    ----------
    settings_file : Path
        Its settings; ports may be 0.
    data_dir : Path
        The data folder that they name.
    log_file : Path
        Receives what it logs.
    """

    def __init__(self, settings_file: Path, data_dir: Path, log_file: Path) -> None:
        self._command = [sys.executable, "-P", "-c", _START_NODE, "--settings", str(settings_file), "serve"]
        self._data_dir = data_dir
        self._log_file = log_file
        self._process: subprocess.Popen[bytes] | None = None
        self._http = httpx.Client(trust_env=False, timeout=10.0)
        self.dicom_port = 0
        self.web_address = ""

    def __enter__(self) -> Self:
        with self._log_file.open("wb") as log:
            # A session of its own: Ctrl-C reaches this process first, which then stops the node in order.
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        try:
            status = self._wait_for_status()
        except BaseException:
            self.stop()
            raise
        self.dicom_port = int(status["dicom_port"])
        self.web_address = f"http://127.0.0.1:{status['web_port']}"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> int:
        """Ask it to end and wait; its exit status, 0 when it ended in order."""
        if self._process is None:
            return 0
        self._http.close()
        self._process.terminate()
        try:
            return self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def studies(self) -> list[dict[str, Any]]:
        """All studies, as `radnode studies --json` lists them."""
        found: list[dict[str, Any]] = self._get("/api/studies?limit=500")
        return found

    def account(self, study_uid: StudyUid) -> dict[str, Any]:
        """Everything about one study, as `radnode explain --json` prints it."""
        found: dict[str, Any] = self._get(f"/api/studies/{study_uid}")
        return found

    def _get(self, path: str) -> Any:
        self._must_run()
        try:
            return self._http.get(f"{self.web_address}{path}").raise_for_status().json()
        except httpx.HTTPError as error:
            self._must_run()
            raise NodeFailed(f"the node does not answer {path}: {error}\n{self._log_tail()}") from error

    def _wait_for_status(self) -> dict[str, Any]:
        deadline = time.monotonic() + _START_S
        path = self._data_dir / "node.json"
        while not path.exists():
            self._must_run()
            if time.monotonic() > deadline:
                raise NodeFailed(f"the node did not start within {_START_S:g} s\n{self._log_tail()}")
            time.sleep(_POLL_S)
        status: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return status

    def _must_run(self) -> None:
        if self._process is None or self._process.poll() is not None:
            raise NodeFailed(f"the node ended by itself; the end of {self._log_file}:\n{self._log_tail()}")

    def _log_tail(self) -> str:
        lines = self._log_file.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(lines[-_TAIL_LINES:])

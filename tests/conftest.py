"""Fixtures that every test may use, and the one rule about missing tools and data: skip with a reason, fail in CI."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
SHARED = PROJECT.parent / "shared"


def missing(reason: str) -> None:
    """Skip the running test because of `reason`; in CI (``CI=true``) that is a failure."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"in CI nothing may be missing: {reason}")
    pytest.skip(reason)


def require_tool(name: str, *, hint: str = "make test installs it") -> str:
    """Path of the program `name`; skips (fails in CI) when it is not installed."""
    for folder in ("", str(PROJECT / ".venv" / "bin"), "/usr/sbin"):
        found = shutil.which(name, path=folder or None)
        if found:
            return found
    missing(f"program {name} is not installed ({hint})")
    raise AssertionError("unreachable")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real images for development; not part of the project."""
    if not (SHARED / "data").is_dir():
        missing("../shared/data is absent: real images for tests are kept beside the project")
    return SHARED / "data"


@pytest.fixture(scope="session")
def shared_ehr() -> Path:
    """Folder of schemas and dictionaries of the regional record; not part of the project."""
    if not (SHARED / "ehr").is_dir():
        missing(
            "../shared/ehr is absent: the Ministry's schemas and dictionaries for tests are kept beside the project"
        )
    return SHARED / "ehr"

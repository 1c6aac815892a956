"""Which radnode computed a figure: its version and, in a checkout, the commit.

Called by everything that writes a run or a document.
"""

from __future__ import annotations

import importlib.metadata
import subprocess
from functools import cache
from pathlib import Path


@cache
def version() -> str:
    """``0.1.0``, in a checkout ``0.1.0 (commit 0123abc…)`` with ``+ changes`` where files differ from it."""
    number = importlib.metadata.version("radnode")
    here = Path(__file__).resolve().parent
    if not (here.parent / ".git").exists():
        return number
    commit, changed = _git(here, "rev-parse", "HEAD"), _git(here, "status", "--porcelain", "--untracked-files=no")
    if not commit:
        return number
    return f"{number} (commit {commit}{' + changes' if changed else ''})"


def _git(folder: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()

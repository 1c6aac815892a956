"""Writes files whole or not at all: a partial name first, then one rename.

Called by everything in `training` that keeps a result. A full disk, a kill or an exception leaves the old file, or
none.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def whole_file(file: Path) -> Iterator[BinaryIO]:
    """A file to write to that takes the name `file` when the block ends well, and is removed when it does not.

    Raises
    ------
    OSError
        If the disk is full or the folder cannot be written to.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f"{file.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as out:
            yield out
            out.flush()
            os.fsync(out.fileno())
        os.replace(partial, file)  # noqa: PTH105 - atomic
    finally:
        partial.unlink(missing_ok=True)


def write_whole(file: Path, content: str | bytes) -> None:
    """Write `content` (text as UTF-8) to `file`, whole or not at all."""
    with whole_file(file) as out:
        out.write(content.encode() if isinstance(content, str) else content)

"""Reading a secret where the settings say it lies: an environment variable or a file, never the settings themselves.

Used by `delivery.dicomweb` and `ehr.destination`, which turn `SecretUnusable` into what their callers know.
"""

from __future__ import annotations

import os
from pathlib import Path


class SecretUnusable(Exception):
    """There is no secret, or one that cannot be sent; the message names the variable or file, never the value."""


def read_secret(variable: str | None, file: Path | None, *, as_header: bool) -> str:
    """Read a secret from `variable` if it is named, else from `file`.

    Parameters
    ----------
    variable : str or None
        Name of an environment variable.
    file : Path or None
        Read in UTF-8, without blanks around it.
    as_header : bool
        Whether it goes into a header as it is, which only printable ASCII can.

    Raises
    ------
    SecretUnusable
    """
    if variable is not None:
        value, where = os.environ.get(variable, ""), f"environment variable {variable}"
    else:
        value, where = _content(file), f"file {file}"
    if not value:
        raise SecretUnusable(f"the {where} named in the destination holds no secret")
    if as_header and not (value.isascii() and value.isprintable()):
        raise SecretUnusable(f"the {where} holds characters that no header may carry")
    return value


def _content(file: Path | None) -> str:
    try:
        return Path(file or "").read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""

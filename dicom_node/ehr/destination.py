"""What destinations of the regional record have in common, and how a secret is read when it is needed.

Read by `ehr.fhir.destination` and `ehr.hl7v2.destination`. Archives of images are `delivery.archive`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from dicom_node.delivery.archive import Seconds, TlsClient


class DestinationMisconfigured(Exception):
    """A setting of the destination cannot work: a missing file or variable. Permanent until changed."""


class RecordDestination(BaseModel):
    """A receiver of documents."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, use_attribute_docstrings=True)

    name: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[a-z0-9][a-z0-9_-]*$")]
    """Under which routes, ledger and metrics know the destination."""
    profile: str = "default"
    """Profile whose overlay is the key image of the document; written even where no archive gets it."""
    language: Literal["ru", "en"] = "ru"
    """Of the words of the document."""
    dicomweb_url: str = ""
    """Root of the DICOMweb service through which readers of the document reach the images; empty: no link is given."""
    accept_research: bool = False
    """Take documents of models whose card says research; they then carry the warning."""
    connect_timeout_s: Seconds = 10.0
    """Until a TCP connection is there."""
    response_timeout_s: Seconds = 60.0
    """Until the receiver has answered; many file a document before they do."""
    tls: TlsClient | None = None


def read_secret(variable: str | None, file: Path | None) -> str:
    """Read a secret where the settings say; its value never appears in an error.

    Raises
    ------
    DestinationMisconfigured
        When there is none, or one that cannot be a header.
    """
    if variable is not None:
        value, where = os.environ.get(variable, ""), f"environment variable {variable}"
    else:
        where = f"file {file}"
        try:
            value = Path(file or "").read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            value = ""
    if not value:
        raise DestinationMisconfigured(f"the {where} named in the destination holds no secret")
    if not (value.isascii() and value.isprintable()):
        raise DestinationMisconfigured(f"the {where} holds characters that no header may carry")
    return value

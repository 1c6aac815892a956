"""What destinations of the regional record have in common, and how a secret is read when it is needed.

Read by the destinations of each kind; `ehr.destinations` lists them. Archives of images are `delivery.archive`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field

from dicom_node import stored_secret
from dicom_node.delivery.archive import LOOPBACK_HOSTS, Seconds, TlsClient


class DestinationMisconfigured(Exception):
    """A setting of the destination cannot work: a missing file or variable. Permanent until changed."""


class RecordDestination(BaseModel):
    """A receiver of documents."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, use_attribute_docstrings=True)

    takes_refusals: ClassVar[bool] = False  # whether receivers of this kind are told that a model could not speak

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


def checked_service(url: str, *, clear_text: bool) -> str:
    """Give back the base of an HTTP service to which patient data may go.

    Raises
    ------
    ValueError
        When it is no base, or plain HTTP to another machine without `clear_text`.
    """
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.port == 0:
        raise ValueError("url needs http:// or https:// and a host, with a port from 1 to 65535 if any")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("url is the base of the service: no credentials, no ? and no #")
    if parts.scheme == "http" and parts.hostname not in LOOPBACK_HOSTS and not clear_text:
        raise ValueError("patient data over plain http: use https, or set clear_text_credentials = true")
    return url


def read_secret(variable: str | None, file: Path | None) -> str:
    """Read a secret where the settings say; its value never appears in an error.

    Raises
    ------
    DestinationMisconfigured
        When there is none, or one that cannot be a header.
    """
    try:
        return stored_secret.read_secret(variable, file, as_header=True)
    except stored_secret.SecretUnusable as error:
        raise DestinationMisconfigured(str(error)) from None

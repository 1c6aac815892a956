"""`FhirDestination`: where FHIR documents are sent, as people write it into the settings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from dicom_node.delivery.archive import LOOPBACK_HOSTS
from dicom_node.ehr.destination import RecordDestination


class FhirDestination(RecordDestination):
    """A FHIR R4 server that takes transactions."""

    kind: Literal["fhir"] = "fhir"
    url: str
    """Base address of the service."""
    document: str = "plain"
    """How documents are written: `plain`, `odii`, or a profile file."""
    token_env: str | None = None
    """Environment variable that holds the token: secrets are never written into settings."""
    token_file: Path | None = None
    """File that holds the token; read again for every request, so it may be rotated."""
    clear_text_credentials: bool = False
    """Allow patient data, and the token, over plain HTTP to another machine."""
    max_response_bytes: Annotated[int, Field(ge=1 << 16, le=64 << 20)] = 4 << 20
    """More than this is not an answer."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        parts = urlsplit(self.url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("url needs http:// or https:// and a host")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError("url is the base of the service: no credentials, no ? and no #")
        if self.token_env is not None and self.token_file is not None:
            raise ValueError("give one of token_env and token_file")
        if parts.scheme == "http" and parts.hostname not in LOOPBACK_HOSTS and not self.clear_text_credentials:
            raise ValueError("patient data over plain http: use https, or set clear_text_credentials = true")
        return self

    @property
    def sends_token(self) -> bool:
        """Whether requests carry a token."""
        return self.token_env is not None or self.token_file is not None

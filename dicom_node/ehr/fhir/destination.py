"""`FhirDestination`: where FHIR documents are sent, as people write it into the settings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from dicom_node.ehr.destination import RecordDestination, checked_service


class FhirDestination(RecordDestination):
    """A FHIR R4 server that takes transactions."""

    kind: Literal["fhir"] = "fhir"
    url: str
    """Base address of the service."""
    document: str = "plain"
    """How documents are written: `plain`, `odii`, or a profile file."""
    attach_semd: bool = False
    """Put the SEMD draft into the report's `presentedForm`; it needs the context file."""
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
        checked_service(self.url, clear_text=self.clear_text_credentials)
        if self.token_env is not None and self.token_file is not None:
            raise ValueError("give one of token_env and token_file")
        if self.attach_semd and self.language != "ru":
            raise ValueError('attach_semd needs language = "ru": the SEMD is Russian by its rules')
        return self

    @property
    def sends_token(self) -> bool:
        """Whether requests carry a token."""
        return self.token_env is not None or self.token_file is not None

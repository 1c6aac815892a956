"""`SemdDestination`: where unsigned SEMD drafts are brought, as people write it into the settings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from dicom_node.ehr.destination import RecordDestination, checked_service


class SemdDestination(RecordDestination):
    """The system in which a physician completes and signs drafts: a folder that it empties, or a service over HTTP."""

    kind: Literal["semd"] = "semd"
    language: Literal["ru"] = "ru"
    """The document is Russian by its rules."""
    folder: Path | None = None
    """Folder of the drafts: `DOCUMENT_ID.json` appears, then `DOCUMENT_ID.xml`, each whole."""
    url: str | None = None
    """Address below which drafts are put: `PUT URL/DOCUMENT_ID`."""
    token_env: str | None = None
    """Environment variable that holds the bearer token: secrets are never written into settings."""
    token_file: Path | None = None
    """File that holds the token; read again for every request, so it may be rotated."""
    clear_text_credentials: bool = False
    """Allow patient data, and the token, over plain HTTP to another machine."""
    max_response_bytes: Annotated[int, Field(ge=1 << 10, le=64 << 20)] = 1 << 20
    """More than this is not an answer."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.folder is None) == (self.url is None):
            raise ValueError("give one of folder and url")
        if self.token_env is not None and self.token_file is not None:
            raise ValueError("give one of token_env and token_file")
        if self.url is None:
            if self.sends_token or self.tls is not None:
                raise ValueError("token and [tls] belong to url: a folder has neither")
        else:
            checked_service(self.url, clear_text=self.clear_text_credentials)
        if self.folder is not None and not self.folder.is_absolute():
            raise ValueError("folder needs a whole path: the node may be started anywhere")
        return self

    @property
    def sends_token(self) -> bool:
        """Whether requests carry a token."""
        return self.token_env is not None or self.token_file is not None

"""The section `[returned]` of the settings: through which doors reports, states and signatures come back.

Hung into `dicom_node.settings`; read by `desk`, `mllp` and `dicom_node.web.returned`. Every door is closed unless it is
set.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Seconds = Annotated[float, Field(gt=0, le=3600)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, use_attribute_docstrings=True)


class TlsServer(_Section):
    """TLS of the MLLP listener (BCP 195): at least TLS 1.2."""

    certificate_file: Path
    """Own certificate chain."""
    key_file: Path | None = None
    """Private key, when it is not in the same file."""
    client_ca_file: Path | None = None
    """Senders must show a certificate that these vouch for; absent: any sender."""


class MllpSettings(_Section):
    """The listener for ORU^R01."""

    host: str = "127.0.0.1"
    """Loopback unless set otherwise: HL7 v2 knows no password, so open it to the sender alone, with TLS."""
    port: Annotated[int, Field(ge=0, le=65535)]
    """0 takes any free port."""
    tls: TlsServer | None = None
    max_connections: Annotated[int, Field(ge=1, le=256)] = 16
    """With more, the connection that was silent longest is closed."""
    idle_timeout_s: Seconds = 300.0
    """A connection without a message is closed after this; senders open another."""
    message_timeout_s: Seconds = 30.0
    """From the first byte of a message to its last."""


class ReturnedSettings(_Section):
    """The way back: signed reports as truth for monitoring, states and signatures of documents."""

    rules: str = "radiology"
    """Rules that read conclusions: those that come with radnode, or a file. Relative to the settings file."""
    folder: Path | None = None
    """Watched folder; what was taken moves to `taken`, what cannot be to `refused` with the reason beside it."""
    poll_s: Seconds = 2.0
    """How often the folder is looked at."""
    settle_s: Annotated[float, Field(ge=0, le=3600)] = 5.0
    """A file is taken when it has not changed for so long; give it its name when it is whole and 0 will do."""
    mllp: MllpSettings | None = None
    charset: Literal["utf-8", "cp1251", "iso8859-5"] = "utf-8"
    """Of HL7 v2 messages that name none in MSH-18."""
    token_env: str | None = None
    """Environment variable with the bearer token of the HTTP routes; without a token there are none."""
    token_file: Path | None = None
    """File with that token; read again for every request, so it may be changed."""
    trusted_file: Path | None = None
    """PEM file of the authorities that signers' certificates must come from; absent: signatures are not taken."""
    compare_patient: bool = True
    """A report linked by accession number alone must name a Patient ID of the images, while they are there."""

    @model_validator(mode="after")
    def _one_token(self) -> Self:
        if self.token_env is not None and self.token_file is not None:
            raise ValueError("give one of token_env and token_file")
        return self

    @property
    def has_token(self) -> bool:
        """Whether the HTTP routes are open."""
        return self.token_env is not None or self.token_file is not None

    @property
    def has_loop(self) -> bool:
        """Whether something must be watched: the folder, or the MLLP port."""
        return self.folder is not None or self.mllp is not None

    def beside(self, folder: Path) -> ReturnedSettings:
        """With relative paths meant from `folder`, where the settings file lies."""
        own = {
            name: folder / value
            for name in ("folder", "token_file", "trusted_file")
            if (value := getattr(self, name)) is not None
        }
        rules = str(folder / self.rules) if self.rules.endswith(".toml") else self.rules
        if self.mllp is None or self.mllp.tls is None:
            return self.model_copy(update={**own, "rules": rules})
        files = {
            name: folder / value
            for name in ("certificate_file", "key_file", "client_ca_file")
            if (value := getattr(self.mllp.tls, name)) is not None
        }
        mllp = self.mllp.model_copy(update={"tls": self.mllp.tls.model_copy(update=files)})
        return self.model_copy(update={**own, "rules": rules, "mllp": mllp})

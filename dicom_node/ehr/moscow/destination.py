"""`KafkaDestination`: brokers of the exchange, as people write them into the settings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from dicom_node.delivery.archive import LOOPBACK_HOSTS, Seconds
from dicom_node.ehr.destination import RecordDestination
from dicom_node.ehr.moscow.model_id import ModelId

Broker = Annotated[str, Field(min_length=3, max_length=261)]


class KafkaDestination(RecordDestination):
    """An exchange that takes results and errors as messages over Kafka."""

    takes_refusals: ClassVar[bool] = True

    kind: Literal["kafka"] = "kafka"
    bootstrap_servers: Annotated[tuple[Broker, ...], Field(min_length=1, max_length=16)]
    """Some of the brokers, each as `host:port`; they name the others."""
    document: str = "moscow"
    """How messages are written and where they go: `moscow`, or a profile file."""
    model_ids: Mapping[str, ModelId] = Field(default_factory=dict)
    """What the exchange calls a model, by `name@version` or by `name`; goes before the numbers of the profile."""
    client_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")] = "radnode"
    """What brokers write into their logs."""
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    """How the password is shown, where there is a user."""
    username: Annotated[str, Field(min_length=1, max_length=255)] | None = None
    password_env: str | None = None
    """Environment variable that holds the password: secrets are never written into settings."""
    password_file: Path | None = None
    """File that holds the password; read again for every new connection, so it may be rotated."""
    clear_text: bool = False
    """Allow results, and the password, without TLS to another machine."""
    response_timeout_s: Seconds = 30.0
    """Until the brokers have acknowledged a message."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.password_env is not None and self.password_file is not None:
            raise ValueError("give one of password_env and password_file")
        if (self.username is None) != (self.password_env is None and self.password_file is None):
            raise ValueError("username goes with password_env or password_file")
        for server in self.bootstrap_servers:
            _check_address(server)
        if self.must_stay_here and not all(map(is_here, self.bootstrap_servers)):
            raise ValueError("results without TLS: give [tls], or set clear_text = true on a network you trust")
        return self

    @property
    def must_stay_here(self) -> bool:
        """Whether nothing may be sent to another machine: there is no TLS, and nobody has allowed to do without."""
        return self.tls is None and not self.clear_text


def is_here(server: str) -> bool:
    """Whether ``host`` or ``host:port`` is this machine."""
    return urlsplit(f"//{server}").hostname in LOOPBACK_HOSTS


def _check_address(server: str) -> None:
    try:
        parts = urlsplit(f"//{server}")
        is_whole = bool(parts.hostname) and bool(parts.port) and parts.netloc == server and "@" not in server
    except ValueError:
        is_whole = False
    if not is_whole or "," in server:
        raise ValueError("bootstrap_servers are written as host:port")

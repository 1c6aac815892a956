"""`MllpDestination`: where HL7 v2 documents are sent, as people write it into the settings."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from dicom_node.delivery.archive import LOOPBACK_HOSTS
from dicom_node.ehr.destination import RecordDestination


class MllpDestination(RecordDestination):
    """A receiver of ORU^R01 over MLLP, with or without TLS."""

    kind: Literal["mllp"] = "mllp"
    host: Annotated[str, Field(min_length=1, max_length=255)]
    port: Annotated[int, Field(ge=1, le=65535)]
    document: str = "plain"
    """How messages are written: `plain` or a profile file."""
    clear_text: bool = False
    """Allow patient data without TLS to another machine: MLLP itself knows neither encryption nor passwords."""
    commit_is_final: bool = False
    """Take an accept acknowledgement (CA) as the last word, for receivers that send no other."""
    max_response_bytes: Annotated[int, Field(ge=1 << 10, le=1 << 24)] = 1 << 18
    """More than this, before or within an acknowledgement, is not an answer."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.tls is None and self.host not in LOOPBACK_HOSTS and not self.clear_text:
            raise ValueError("patient data without TLS: give [tls], or set clear_text = true on a network you trust")
        return self

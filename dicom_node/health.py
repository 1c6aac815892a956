"""Whether the node does its work: asked by `/healthz` and by the container's health check.

Built by `node`, which knows its threads and processes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Health:
    """One look: each part by name, and why it is not well (an empty text means that it is)."""

    parts: Mapping[str, str]

    @property
    def is_well(self) -> bool:
        """Whether every part is well."""
        return not any(self.parts.values())

    def to_json(self) -> dict[str, object]:
        """For `/healthz`."""
        return {
            "status": "ok" if self.is_well else "unwell",
            "parts": {name: why or "ok" for name, why in self.parts.items()},
        }

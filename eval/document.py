"""What a statistic prints: numbers that are known, and the reason where one is not.

Every subcommand of ``radnode eval`` fills a `Document`, whose JSON Schema is published in `docs/schemas/`. A figure
that is undefined is null there, and `undefined` says why; a NaN cannot be written at all.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from eval.intervals import Estimate

Interval = tuple[float | None, float | None]


class Part(BaseModel):
    """A block of a document: frozen, no key beyond those declared, and no number that is none."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Source(Part):
    """A file that was read: by name and digest, so that it can be found again."""

    name: str = Field(description="name of the file without its folder")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    rows: int = Field(ge=0, description="data rows used and not used, without the header")

    @classmethod
    def of(cls, path: Path, rows: int) -> Source:
        """Digest `path`, of which `rows` data rows were read."""
        with path.open("rb") as stream:
            return cls(name=path.name, sha256=hashlib.file_digest(stream, "sha256").hexdigest(), rows=rows)


class Document(Part):
    """The keys that every result has; each subcommand adds its own.

    `undefined` names a key (``auroc``, ``operating_point.ppv``, ``subgroups.sex=F.auroc``) and why there is no number.
    `notes` are sentences that a reader of the numbers must know: rows left out, a separator guessed, a rule applied.
    """

    command: str = Field(description="the subcommand of `radnode eval` that made it")
    radnode: str = Field(description="version of radnode")
    sources: tuple[Source, ...] = ()
    settings: Mapping[str, str | int | float | bool | None] = Field(
        default={}, description="every option that decides the numbers, defaults included: seed, hit rule, unit"
    )
    undefined: Mapping[str, str] = Field(default={}, description="key to the reason why it is null")
    notes: tuple[str, ...] = ()


class Reasons:
    """Collects why figures are undefined, while a document is filled."""

    def __init__(self) -> None:
        self.found: dict[str, str] = {}

    def number(self, key: str, value: float, reason: str) -> float | None:
        """`value`, or None with `reason` under `key` where it is not a finite number."""
        if math.isfinite(value):
            return value
        self.found[key] = reason
        return None

    def estimate(self, key: str, estimate: Estimate) -> tuple[float | None, Interval]:
        """Value and interval of an estimate; its own reason where it, or only its interval, is undefined."""
        if not estimate.defined:
            self.found[key] = estimate.reason or "nothing to count"
        elif math.isnan(estimate.low) or math.isnan(estimate.high):
            self.found[f"{key}_ci"] = estimate.reason or "no interval can be given"
        return _known(estimate.value), (_known(estimate.low), _known(estimate.high))


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None

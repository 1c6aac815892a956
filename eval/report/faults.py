"""Why a report is not built: every fault at once, each with its remedy."""

from __future__ import annotations

from collections.abc import Sequence


class ReportError(Exception):
    """The report is not built. The message lists every fault; trying again without a change fails again."""

    def __init__(self, faults: Sequence[str]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(self.faults))

"""What the desk says of anything that came back, in words that every door can pass on: no patient data, no report."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from inference.findings import StudyUid


class Verdict(StrEnum):
    """What became of something that came back."""

    TAKEN = "taken"  # it is in the ledger, now or from before
    IGNORED = "ignored"  # nothing is wrong with it and nothing was to be done
    REFUSED = "refused"  # it can be read and not be taken: an unknown study, an invalid signature
    UNREADABLE = "unreadable"  # it is not what it should be
    LATER = "later"  # nothing is wrong with it: the ledger or a program did not answer, send it again


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """The verdict, why, and where in what came the fault lies; `field` as the standard names it: ``OBR-25``."""

    verdict: Verdict
    why: str
    field: str = ""
    study_uid: StudyUid | None = None

    @property
    def is_good(self) -> bool:
        """Whether the sender has nothing more to do."""
        return self.verdict in {Verdict.TAKEN, Verdict.IGNORED}

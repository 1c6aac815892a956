"""An archive reached by DIMSE: the `Archive` of a `PacsDestination`.

Made by `delivery.open_archive`. How associations are held is in `dicom_node.dimse`: requestor, scu and commitment;
here is only which of them a destination's settings ask for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dicom_node.delivery.archive import CommitmentResult, Confirm, OutboundObject, PacsDestination, SendOutcome
from dicom_node.delivery.tls import client_context
from dicom_node.dimse import commitment, scu
from inference.findings import SopUid, StudyUid


class PacsArchive:
    """`Archive` over DIMSE; every call is an association of its own, so nothing is held between calls."""

    def __init__(self, destination: PacsDestination) -> None:
        self._destination = destination
        if destination.tls is not None:
            client_context(destination.tls)  # a wrong file shows at start, not at the first result

    def send(self, objects: Sequence[OutboundObject]) -> tuple[SendOutcome, ...]:
        """Store over one association."""
        return scu.store(self._destination, objects)

    def request_commitment(
        self,
        objects: Sequence[OutboundObject],
        *,
        register: Callable[[str], None],
        answered: Callable[[CommitmentResult], None],
    ) -> bool:
        """Ask for storage commitment where the destination uses it.

        Raises
        ------
        ArchiveUnreachable
            When the archive cannot be asked now, or `confirm = "commitment"` and it does not offer commitment.
        """
        if self._destination.confirm not in (Confirm.AUTO, Confirm.COMMITMENT):
            return False
        try:
            commitment.request(self._destination, objects, register=register, answered=answered)
        except commitment.CommitmentRefused:
            if self._destination.confirm is Confirm.AUTO:
                return False
            raise
        return True

    def confirm(self, objects: Sequence[OutboundObject]) -> frozenset[SopUid] | None:
        """Query; with ``confirm = "commitment"`` nothing but the archive's own event confirms, so none."""
        match self._destination.confirm:
            case Confirm.NONE:
                return None
            case Confirm.COMMITMENT:
                return frozenset()
            case _:
                return scu.find_instances(self._destination, objects)

    def count_instances(self, study_uid: StudyUid) -> int | None:
        """Query at STUDY level."""
        return scu.count_study_instances(self._destination, study_uid)

    def echo(self) -> None:
        """Send C-ECHO."""
        scu.echo(self._destination)

    def close(self) -> None:
        """Nothing is held."""

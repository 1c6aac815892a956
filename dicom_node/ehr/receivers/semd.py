"""`SemdReceiver`: the physician's system that takes unsigned SEMD drafts.

Made by `ehr.receivers.open_receiver`. Drafts are written by `ehr.semd`, brought by `ehr.semd.client`.
"""

from __future__ import annotations

from dicom_node.ehr.answer import Answer
from dicom_node.ehr.context import DocumentRequest
from dicom_node.ehr.destination import DestinationMisconfigured
from dicom_node.ehr.receiver import Envelope, Held
from dicom_node.ehr.semd.client import FolderSender, ServiceSender
from dicom_node.ehr.semd.destination import SemdDestination
from dicom_node.ehr.semd.document import write_semd
from dicom_node.ehr.semd.profile import SemdProfile


class SemdReceiver:
    """`RecordReceiver` of a `SemdDestination`.

    Raises
    ------
    DestinationMisconfigured
        Without a profile: organisation, people and place of a draft come from the context file.
    ArchiveMisconfigured
        When a certificate named in the settings cannot be used.
    """

    def __init__(self, destination: SemdDestination, profile: SemdProfile | None) -> None:
        if profile is None:
            raise DestinationMisconfigured(f"{destination.name}: SEMD drafts need the context file: name it")
        self._profile = profile
        self._sender = FolderSender(destination.folder) if destination.folder else ServiceSender(destination)

    def write(self, request: DocumentRequest, *, replaced: DocumentRequest | None) -> bytes:
        """Write the draft; a correction is a further version of the same set and needs no more than its number.

        Raises
        ------
        ContextMissing, ContextInvalid, DraftFaulty
            As `write_semd`.
        ValueError
            When `replaced` is not the document that the revision replaces.
        """
        if replaced is not None and replaced.document_id != request.revision.replaces_id:
            raise ValueError("the document given as replaced is not the one that the revision replaces")
        return write_semd(request, self._profile)

    def send(self, document: bytes, envelope: Envelope) -> Answer:
        """Bring one draft."""
        return self._sender.send(document, envelope)

    def confirm(self, envelope: Envelope, receiver_ids: tuple[str, ...]) -> Held:
        """Ask for the draft by its id."""
        return self._sender.confirm(envelope)

    def check(self) -> str:
        """Whether the folder can be written, or the service answers this node."""
        return self._sender.check()

    def close(self) -> None:
        """Close connections."""
        self._sender.close()

"""`MllpReceiver`: a receiver of HL7 v2 over MLLP.

Made by `ehr.receivers.open_receiver`. Messages are written by `ehr.hl7v2.oru`, brought by `ehr.hl7v2.client`.
"""

from __future__ import annotations

from dicom_node.ehr.answer import Answer
from dicom_node.ehr.context import DocumentRequest
from dicom_node.ehr.hl7v2.client import MllpClient
from dicom_node.ehr.hl7v2.destination import MllpDestination
from dicom_node.ehr.hl7v2.oru import write_oru
from dicom_node.ehr.hl7v2.profile import read_profile
from dicom_node.ehr.receiver import Envelope, Held


class MllpReceiver:
    """`RecordReceiver` of an `MllpDestination`.

    Raises
    ------
    ProfileError
        When the profile named in the settings cannot be read.
    ArchiveMisconfigured
        When a certificate named in the settings cannot be used.
    """

    def __init__(self, destination: MllpDestination) -> None:
        self._profile = read_profile(destination.document)
        self._client = MllpClient(destination)

    def write(self, request: DocumentRequest, *, replaced: DocumentRequest | None) -> bytes:
        """Write the message; raises as `write_oru`."""
        return write_oru(request, self._profile, replaced=replaced)

    def send(self, document: bytes, envelope: Envelope) -> Answer:
        """Send one message and wait for its acknowledgement."""
        return self._client.send(document, envelope.discretion)

    def confirm(self, envelope: Envelope, receiver_ids: tuple[str, ...]) -> Held:
        """Nothing can be asked: the acknowledgement is the last word of a receiver of HL7 v2."""
        return Held.UNSAID

    def check(self) -> str:
        """Connect, with TLS where it is set, and send nothing: any message would be work for the receiver."""
        return self._client.probe()

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

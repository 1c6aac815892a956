"""`KafkaReceiver`: an exchange that takes results and errors over Kafka.

Made by `ehr.receivers.open_receiver`. Messages are written by `ehr.moscow.message`, brought by `ehr.moscow.client`.
"""

from __future__ import annotations

from dicom_node.ehr.answer import Answer
from dicom_node.ehr.context import DocumentRequest, RefusalNotice
from dicom_node.ehr.moscow.client import KafkaSender
from dicom_node.ehr.moscow.destination import KafkaDestination
from dicom_node.ehr.moscow.message import write_error, write_result
from dicom_node.ehr.moscow.profile import read_profile
from dicom_node.ehr.receiver import Envelope, Held


class KafkaReceiver:
    """`RecordReceiver` of a `KafkaDestination`.

    Raises
    ------
    DestinationMisconfigured
        When the package confluent-kafka is not installed.
    ProfileError
        When the profile named in the settings cannot be read.
    ArchiveMisconfigured
        When a certificate named in the settings cannot be used.
    """

    takes_refusals = KafkaDestination.takes_refusals

    def __init__(self, destination: KafkaDestination) -> None:
        self._profile = read_profile(destination.document).with_model_ids(destination.model_ids)
        self._sender = KafkaSender(destination, self._profile)

    def write(self, request: DocumentRequest, *, replaced: DocumentRequest | None) -> bytes:
        """Write the message; raises as `write_result`. A correction says nothing of what it replaces."""
        return write_result(request, self._profile)

    def write_refusal(self, notice: RefusalNotice) -> bytes:
        """Write the error message; raises as `write_error`."""
        return write_error(notice, self._profile)

    def send(self, document: bytes, envelope: Envelope) -> Answer:
        """Send one message and wait until all brokers in sync have it."""
        return self._sender.send(document, envelope)

    def confirm(self, envelope: Envelope, receiver_ids: tuple[str, ...]) -> Held:
        """Nothing is asked: a producer need not be allowed to read, and a topic forgets by rule what is old."""
        return Held.UNSAID

    def check(self) -> str:
        """Whether brokers answer and know both topics."""
        return self._sender.probe()

    def close(self) -> None:
        """Let go of connections."""
        self._sender.close()

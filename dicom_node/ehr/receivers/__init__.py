"""`open_receiver`: the receiver of a destination of the record, by its kind.

Called by the outbox and by `radnode check`. What a receiver is stands in `ehr.receiver`; libraries of writers and
senders are imported only when a receiver of their kind is opened.
"""

from __future__ import annotations

from dicom_node.delivery.archive import ArchiveMisconfigured
from dicom_node.ehr.destination import DestinationMisconfigured
from dicom_node.ehr.destinations import Record
from dicom_node.ehr.fhir.destination import FhirDestination
from dicom_node.ehr.hl7v2.destination import MllpDestination
from dicom_node.ehr.moscow.destination import KafkaDestination
from dicom_node.ehr.profile_file import ProfileError
from dicom_node.ehr.receiver import RecordReceiver
from dicom_node.ehr.semd.profile import SemdProfile


def open_receiver(destination: Record, *, semd_profile: SemdProfile | None) -> RecordReceiver:
    """Make the receiver of a destination; nothing is connected until it is used.

    Parameters
    ----------
    destination : Record
    semd_profile : SemdProfile or None
        Edition and site of the SEMD from the context file; None where there is no such file.

    Raises
    ------
    DestinationMisconfigured
        When a certificate or profile named in the settings cannot be used, or the context file lacks that the drafts
        of the destination need.
    """
    try:
        return _open(destination, semd_profile)
    except (ArchiveMisconfigured, ProfileError) as error:
        raise DestinationMisconfigured(str(error)) from error


def _open(destination: Record, semd_profile: SemdProfile | None) -> RecordReceiver:
    if isinstance(destination, FhirDestination):
        from dicom_node.ehr.receivers.fhir import FhirReceiver

        return FhirReceiver(destination, semd_profile)
    if isinstance(destination, MllpDestination):
        from dicom_node.ehr.receivers.mllp import MllpReceiver

        return MllpReceiver(destination)
    if isinstance(destination, KafkaDestination):
        from dicom_node.ehr.receivers.kafka import KafkaReceiver

        return KafkaReceiver(destination)
    from dicom_node.ehr.receivers.semd import SemdReceiver

    return SemdReceiver(destination, semd_profile)

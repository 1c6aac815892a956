"""The values of reception: one instance as it was stored, and what the ledger said of it.

Built by the acceptor (`dicom_node.dimse.acceptor`) after the file is safe on disk, handed to a sink
(`dicom_node.receiver.InstanceSink`, in production the ledger). What a header says beyond the four identifiers is read
later, away from the acknowledgement, by `inference.loading`. Nothing here holds patient data.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from inference.findings import SeriesUid, SopUid, StudyUid


class RecordedKind(StrEnum):
    """What a stored instance is to the ledger."""

    NEW = "new"  # the first instance with this SOP Instance UID
    DUPLICATE = "duplicate"  # same UID, same bytes as a stored one: counted, the new file is not kept
    REVISED = "revised"  # same UID, other bytes: both are kept, this one is current


@dataclass(frozen=True, kw_only=True, slots=True)
class NewInstance:
    """One received instance whose file is already durable.

    Attributes
    ----------
    sop_instance_uid, sop_class_uid, series_uid, study_uid : str
        As the data set says them; unchecked beyond their length, never to be used as file names.
    transfer_syntax_uid : str
        In which the data set's bytes are written.
    sha256 : str
        Of the data set's bytes as they came, without the file meta information.
    size_bytes : int
        Number of those bytes.
    relative_path : str
        Of the part-10 file, below the store's root, with forward slashes.
    calling_ae, called_ae : str
        Application entity titles of the association, without padding.
    peer_address : str
        IP address of the sender.
    received_at : datetime
        Aware, UTC: when the last byte had come.
    """

    sop_instance_uid: SopUid
    sop_class_uid: str
    series_uid: SeriesUid
    study_uid: StudyUid
    transfer_syntax_uid: str
    sha256: str
    size_bytes: int
    relative_path: str
    calling_ae: str
    called_ae: str
    peer_address: str
    received_at: datetime

    def __post_init__(self) -> None:
        if self.received_at.tzinfo is None:
            raise ValueError("received_at needs a time zone")


@dataclass(frozen=True, kw_only=True, slots=True)
class Recorded:
    """The ledger's answer, after its commit."""

    kind: RecordedKind

"""The seam between the outbox and the receivers of the regional record: what every kind of receiver can do.

The outbox (`dicom_node.outbox`) knows only this module and `ehr.receivers.open_receiver`. Writing is pure; sending and
confirming talk to the network, say what became of it as `ehr.answer` has it, and never raise for the network's sake.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, runtime_checkable

from dicom_node.ehr.answer import Answer, Discretion
from dicom_node.ehr.context import DocumentRequest, RefusalNotice
from dicom_node.states import DocumentKind
from inference.findings import StudyUid


@dataclass(frozen=True, kw_only=True, slots=True)
class Envelope:
    """What stands on the outside of a document.

    Attributes
    ----------
    document_id : str
        Equal for every attempt: the receiver's means against taking one twice. 64 hexadecimal digits.
    set_id : str
        Equal for all versions of the document.
    version : int
        From 1.
    discretion : Discretion
        What of the receiver's words must not be kept.
    """

    document_id: str
    set_id: str
    version: int
    kind: DocumentKind
    study_uid: StudyUid
    discretion: Discretion


class Held(StrEnum):
    """What a receiver says when it is asked for a document that it took."""

    YES = "yes"  # it has it
    NO = "no"  # it has not: it acknowledged and forgot
    UNSAID = "unsaid"  # it cannot be asked: its acknowledgement is all there will ever be
    ASK_AGAIN = "ask_again"  # it did not answer now


class RecordReceiver(Protocol):
    """One receiver of documents. Calls block; one instance may be used by one thread at a time."""

    def write(self, request: DocumentRequest, *, replaced: DocumentRequest | None) -> bytes:
        """Write a document in the receiver's form; equal arguments give equal bytes.

        Parameters
        ----------
        request : DocumentRequest
        replaced : DocumentRequest or None
            The version that ``request.revision.replaces_id`` names.

        Raises
        ------
        ContextMissing, ContextInvalid, DraftFaulty
            When it cannot be written; see `ehr.context` and `ehr.semd`.
        """
        ...

    def send(self, document: bytes, envelope: Envelope) -> Answer:
        """Bring one document and give the receiver's answer; faults of the network are `Retry`."""
        ...

    def confirm(self, envelope: Envelope, receiver_ids: tuple[str, ...]) -> Held:
        """Ask for a document that was accepted under `receiver_ids`."""
        ...

    def check(self) -> str:
        """What is wrong with address, credentials and forms, asked without sending a document; empty when nothing."""
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...


@runtime_checkable
class RefusalReceiver(Protocol):
    """A receiver whose destination `takes_refusals`: it is told when a model could not speak."""

    def write_refusal(self, notice: RefusalNotice) -> bytes:
        """Write what it is told; raises as `RecordReceiver.write`."""
        ...

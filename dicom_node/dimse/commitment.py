"""Storage commitment as its user: the request to the archive, and the reading of its answer (PS3.4 annex J).

`request` is called by `dicom_node.delivery.pacs`. The answer usually comes on an association that the archive opens to
this node, some time later and possibly before the request has its own response: the acceptor reads it with
`read_event` and passes it to the ledger, where the coordinator keeps the transactions.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from pydicom.dataset import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian, generate_uid
from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import N_EVENT_REPORT

from dicom_node.delivery.archive import (
    ArchiveRejected,
    ArchiveUnreachable,
    CommitmentResult,
    OutboundObject,
    PacsDestination,
)
from dicom_node.dimse.requestor import ConnectionLost, NoContextAccepted, associate
from inference.findings import SopUid

PUSH_MODEL: Final = UID("1.2.840.10008.1.20.1")
PUSH_MODEL_INSTANCE: Final = UID("1.2.840.10008.1.20.1.1")
REQUEST_COMMITMENT: Final = 1  # Action Type ID (PS3.4 table J.3.2-1)
CONTEXTS: Final = [
    (PUSH_MODEL, ExplicitVRLittleEndian),
    (PUSH_MODEL, ImplicitVRLittleEndian),
]
REFERENCED: Final = "ReferencedSOPSequence"
FAILED: Final = "FailedSOPSequence"
PROCESSING_FAILURE: Final = 0x0110


class CommitmentRefused(ArchiveRejected):
    """The archive does not offer storage commitment, or not to this node. Retryable: its settings may change."""


def read_event(information: Dataset) -> CommitmentResult:
    """Read the Event Information of an N-EVENT-REPORT (PS3.4 table J.3.3-1).

    An instance that the archive names on both lists counts as failed.

    Raises
    ------
    ValueError
        When there is no Transaction UID, so that nobody can say what the answer is about.
    """
    transaction_uid = str(information.get("TransactionUID", "") or "")
    if not transaction_uid:
        raise ValueError("storage commitment event without a Transaction UID")
    failed = {uid: int(item.get("FailureReason") or PROCESSING_FAILURE) for uid, item in _listed(information, FAILED)}
    committed = frozenset(uid for uid, _ in _listed(information, REFERENCED)) - failed.keys()
    return CommitmentResult(transaction_uid=transaction_uid, committed=committed, failed=failed)


def _listed(information: Dataset, keyword: str) -> Iterator[tuple[SopUid, Dataset]]:
    for item in information.get(keyword) or ():
        uid = str(item.get("ReferencedSOPInstanceUID", "") or "")
        if uid:
            yield SopUid(uid), item


def _action_information(transaction_uid: str, objects: Sequence[OutboundObject]) -> Dataset:
    references = []
    for item in objects:
        reference = Dataset()
        reference.ReferencedSOPClassUID = item.sop_class_uid
        reference.ReferencedSOPInstanceUID = item.sop_instance_uid
        references.append(reference)
    information = Dataset()
    information.TransactionUID = transaction_uid
    information.ReferencedSOPSequence = references
    return information


def _serve_events_while_waiting(association: Association) -> None:
    """Let an event that overtakes the N-ACTION response be served instead of being taken for that response."""
    receive = association.dimse.get_msg

    def get_msg(block: bool = False) -> Any:
        while True:
            context_id, message = receive(block)
            if not isinstance(message, N_EVENT_REPORT) or message.MessageIDBeingRespondedTo is not None:
                return context_id, message
            association._serve_request(message, context_id or 0)

    association.dimse.get_msg = get_msg  # type: ignore[method-assign]


def _on_event(event: evt.Event, results: queue.SimpleQueue[CommitmentResult]) -> tuple[int, None]:
    try:
        results.put(read_event(event.event_information))
    except ValueError:
        return PROCESSING_FAILURE, None
    return 0, None


def request(
    destination: PacsDestination,
    objects: Sequence[OutboundObject],
    *,
    register: Callable[[str], None],
    answered: Callable[[CommitmentResult], None],
) -> str:
    """Send an N-ACTION for `objects` and give its transaction UID.

    Parameters
    ----------
    register
        Called with the transaction UID after the association is there and before the request is sent; what it raises
        stops the request.
    answered
        Called when the archive answers on this association, within `commitment_wait_s`.

    Raises
    ------
    CommitmentRefused
        When the archive does not offer commitment, or refused the request, or did not answer it; in the last case
        the transaction may nevertheless be answered later.
    ArchiveUnreachable
        When the archive cannot be asked.
    """
    transaction_uid = str(generate_uid(prefix=None))
    results: queue.SimpleQueue[CommitmentResult] = queue.SimpleQueue()
    handlers = [(evt.EVT_N_EVENT_REPORT, _on_event, [results])]
    try:
        with associate(destination, CONTEXTS, handlers) as association:
            _serve_events_while_waiting(association)
            register(transaction_uid)
            _ask(association, _action_information(transaction_uid, objects))
            _await_event(association, results, destination.commitment_wait_s)
    except NoContextAccepted:
        raise CommitmentRefused("the archive does not offer storage commitment to this node") from None
    except ConnectionLost:
        raise ArchiveUnreachable("the connection was lost during a storage commitment request") from None
    while not results.empty():
        answered(results.get())
    return transaction_uid


def _ask(association: Association, information: Dataset) -> None:
    status, _ = association.send_n_action(information, REQUEST_COMMITMENT, PUSH_MODEL, PUSH_MODEL_INSTANCE)
    code = status.get("Status")
    if code != 0:
        # Some archives abort instead of answering when they do not know the title: no less a refusal.
        told = "by ending the association" if code is None else f"with status {code:04X}"
        raise CommitmentRefused(
            f"the archive refused a storage commitment request {told}: enter this node's AE title, address and port "
            "there and allow storage commitment"
        )


def _await_event(association: Association, results: queue.SimpleQueue[CommitmentResult], wait_s: float) -> None:
    deadline = time.monotonic() + wait_s
    while results.empty() and association.is_established and time.monotonic() < deadline:
        time.sleep(0.02)

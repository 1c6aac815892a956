"""Where acceptor processes commit what they stored: the ledger, opened anew in each of them.

Given to the receiver as a factory (`LedgerSink` is picklable by its arguments through `functools.partial`). The order
of acknowledgement is the acceptor's; this is its last step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import structlog

from dicom_node.clock import SteadyClock
from dicom_node.ledger import Ledger, deliveries, instances
from dicom_node.study import NewInstance, Recorded
from inference.findings import SopUid

log = structlog.get_logger(__name__)


class LedgerSink:
    """An `InstanceSink` over the ledger at `ledger_url`."""

    def __init__(self, ledger_url: str, clock: SteadyClock) -> None:
        self._ledger = Ledger(ledger_url, clock=clock)

    def record_instance(self, instance: NewInstance) -> Recorded:
        """Commit one durable instance, at the node's own steady time."""
        stamped = replace(instance, received_at=self._ledger.clock())
        with self._ledger.begin() as tx:
            return instances.record(tx, stamped)

    def commitment_event(
        self, transaction_uid: str, committed: tuple[SopUid, ...], failed: Mapping[SopUid, int]
    ) -> None:
        """Enter an archive's answer to a storage commitment request; one that nobody asked for is logged only."""
        with self._ledger.begin() as tx:
            known = deliveries.answer_commitment(
                tx,
                transaction_uid,
                committed=sorted(committed),
                failed={uid: f"failure reason {reason:04X}" for uid, reason in failed.items()},
                at=self._ledger.clock(),
            )
        if not known:
            log.warning("storage commitment that was not asked for", transaction_uid=transaction_uid)

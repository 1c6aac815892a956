"""Where acceptor processes commit what they stored: the ledger, opened anew in each of them.

Given to the receiver as a factory (`LedgerSink` is picklable by its arguments through `functools.partial`). The order
of acknowledgement is the acceptor's; this is its last step. Associations that store at the same moment share one
commit: each still waits until its own row is durable.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import replace

import structlog

from dicom_node.clock import Clock
from dicom_node.ledger import Ledger, deliveries, instances
from dicom_node.study import NewInstance, Recorded
from inference.findings import SopUid

log = structlog.get_logger(__name__)

_Waiting = list[tuple[NewInstance, "Future[Recorded]"]]


class LedgerSink:
    """An `InstanceSink` over the ledger at `ledger_url`."""

    def __init__(self, ledger_url: str, clock: Clock) -> None:
        self._ledger = Ledger(ledger_url, clock=clock)
        self._waiting: _Waiting = []
        self._waiting_lock = threading.Lock()
        self._commit_lock = threading.Lock()

    def record_instance(self, instance: NewInstance) -> Recorded:
        """Commit one durable instance, at the node's own steady time.

        Whoever gets the commit lock commits for all that wait by then (group commit); the others find their row done.
        """
        recorded: Future[Recorded] = Future()
        with self._waiting_lock:
            self._waiting.append((replace(instance, received_at=self._ledger.clock()), recorded))
        with self._commit_lock:
            if not recorded.done():
                self._commit_waiting()
        return recorded.result()

    def _commit_waiting(self) -> None:
        with self._waiting_lock:
            group, self._waiting = self._waiting, []
        begun = False
        try:
            with self._ledger.begin() as tx:
                begun = True
                answers = [instances.record(tx, instance) for instance, _recorded in group]
        except Exception as error:  # noqa: BLE001  must reach the threads that wait for their rows
            if begun and len(group) > 1:
                self._commit_alone(group)  # one row may be to blame
                return
            for _instance, recorded in group:  # the ledger does not answer: nobody waits for it one after another
                recorded.set_exception(error)
            return
        for (_instance, recorded), answer in zip(group, answers, strict=True):
            recorded.set_result(answer)

    def _commit_alone(self, group: _Waiting) -> None:
        for instance, recorded in group:
            try:
                with self._ledger.begin() as tx:
                    answer = instances.record(tx, instance)
            except Exception as error:  # noqa: BLE001  must reach the thread that waits for its row
                recorded.set_exception(error)
            else:
                recorded.set_result(answer)

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

    def close(self) -> None:
        """Let go of the ledger."""
        self._ledger.close()

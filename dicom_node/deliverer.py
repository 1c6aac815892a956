"""One thread per destination that brings result sets to it, and makes sure that they are there.

    PENDING  →  sent                                →  SENT
    SENT     →  storage commitment, else a query    →  CONFIRMED; not there after many questions: PENDING again
    refused for good, or its file is lost           →  FAILED with the reason; `radnode retry` sends again

Started by `node`. A destination that does not answer is left alone for a while (its circuit opens) and tried for ever,
first after seconds, at last every quarter of an hour. How bytes travel is `dicom_node.delivery`.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path

import sqlalchemy as sa
import structlog

from dicom_node.delivery import open_archive
from dicom_node.delivery.archive import (
    Archive,
    ArchiveError,
    ArchiveUnreachable,
    CommitmentResult,
    Confirm,
    Destination,
    OutboundObject,
    SendOutcome,
    Sent,
)
from dicom_node.delivery.backoff import Backoff, Breaker
from dicom_node.delivery.rounds import run_rounds
from dicom_node.ledger import Ledger, deliveries, events, holds, results
from dicom_node.ledger.deliveries import DeliveryRow
from dicom_node.ledger.results import WrittenObject
from dicom_node.settings import DeliverySettings
from dicom_node.states import DeliveryState, Stage
from dicom_node.store import Store
from inference.findings import SeriesUid, SopUid

log = structlog.get_logger(__name__)

COMMITMENT_ASKED_AGAIN_S = 3600.0  # an archive that does not offer commitment is asked again after this
RESULT_TRANSFER_SYNTAX = "1.2.840.10008.1.2.1"  # all results are written in Explicit VR Little Endian


class Deliverer:
    """Delivers to one destination.

    Parameters
    ----------
    destination : Destination
        Where to.
    settings : DeliverySettings
        How patiently.
    ledger, store
        The node's.
    on_confirmed : callable
        Told of each confirmed delivery, for metrics.
    """

    def __init__(
        self,
        destination: Destination,
        settings: DeliverySettings,
        ledger: Ledger,
        store: Store,
        *,
        on_confirmed: Callable[[DeliveryRow, datetime], None] = lambda _row, _at: None,
    ) -> None:
        self.destination = destination
        self.settings = settings
        self.ledger = ledger
        self.store = store
        self._on_confirmed = on_confirmed
        self._backoff = Backoff(base_s=settings.first_retry_s, ceiling_s=settings.longest_retry_s)
        self._breaker = Breaker(backoff=self._backoff)
        self._archive: Archive | None = None
        self._no_commitment_until = 0.0
        self._patience_s = destination.commitment_patience_s if destination.kind == "pacs" else 0.0

    def run(self, stop: threading.Event) -> None:
        """Deliver until `stop` is set; an attempt under way is finished first."""
        name = self.destination.name
        run_rounds(stop, self.deliver_due, give_back=self._release, destination=name, poll_s=self.settings.poll_s)
        self.close()

    def close(self) -> None:
        """Let go of connections to the destination."""
        if self._archive:
            self._archive.close()

    def deliver_due(self) -> bool:
        """One round: take what is due, send, confirm. Returns whether there was anything."""
        now = self.ledger.clock()
        with self.ledger.read() as tx:
            held = holds.is_held(tx, self.destination.name)
            if held or not deliveries.any_due(tx, self.destination.name, now):
                return False
        before = self._breaker
        admitted, probing = before.admit(time.monotonic())
        if not admitted:
            return False
        with self.ledger.begin() as tx:
            due = deliveries.claim_due(tx, self.destination.name, now, limit=self.settings.batch)
        if not due:
            return False
        self._breaker = probing
        sent = self._send([row for row in due if row.state is DeliveryState.PENDING])
        reached = self._confirm([row for row in due if row.state is DeliveryState.SENT] + sent)
        if self._breaker is probing:  # nothing was sent: what the questions met is all that is known
            self._breaker = self._after_questions(before, probing, reached)
        return True

    def _after_questions(self, before: Breaker, probing: Breaker, reached: bool | None) -> Breaker:
        """Where nothing was sent the questions tell of the destination; without any, a probe did not happen."""
        if reached is None:
            return before
        if not reached:
            return probing.failed(time.monotonic(), draw=random.random())
        return probing.succeeded() if probing.probing_until_s is not None else probing

    # sending ---------------------------------------------------------------------------------------------------------

    def _send(self, rows: Sequence[DeliveryRow]) -> list[DeliveryRow]:
        """Send these; returns those that the destination took and that now ask for confirmation."""
        rows = [row for row in rows if self._files_are_there(row)]
        if not rows:
            return []
        objects = {row.id: self._objects(row) for row in rows}
        try:
            outcomes = self._open().send([one for row in rows for one in objects[row.id]])
        except ArchiveError as error:
            outcomes = tuple(
                SendOutcome(sop_instance_uid=one.sop_instance_uid, sent=Sent.RETRY, reason=str(error))
                for row in rows
                for one in objects[row.id]
            )
        self._note_health(outcomes)
        taken = [row.id for row in rows if self._sent(row, _of(outcomes, objects[row.id]))]
        with self.ledger.read() as tx:  # as they are now: what was asked before this sending no longer counts
            return list(deliveries.by_ids(tx, taken))

    def _files_are_there(self, row: DeliveryRow) -> bool:
        """Whether every file can be sent; a fault of this node's disk says nothing of the destination."""
        files = self._files(row)
        if any(file.path is None for file in files):
            self._fail(row, "its files were evicted after their retention: there is nothing left to send")
            return False
        try:
            lost = [str(file.path) for file in files if not self._is_whole(file)]
        except OSError as error:
            now = self.ledger.clock()
            delay_s = self._backoff.delay_s(row.attempts + 1, draw=random.random())
            reason = f"a result file cannot be read now: {error.strerror}"
            log.error(reason, alarm=True, stage="deliver", destination=self.destination.name, errno=error.errno)
            with self.ledger.begin() as tx:
                deliveries.set_retry(tx, row.id, next_attempt_at=now + timedelta(seconds=delay_s), reason=reason)
            return False
        if lost:
            self._fail_for_lost_files(row, lost)
        return not lost

    def _is_whole(self, file: WrittenObject) -> bool:
        """Whether the file is there and of its size. Raises OSError when the disk does not tell."""
        try:
            with self.store.path(file.path or "").open("rb") as opened:
                return os.fstat(opened.fileno()).st_size == file.size_bytes
        except (FileNotFoundError, ValueError):
            return False

    def _fail_for_lost_files(self, row: DeliveryRow, lost: Sequence[str]) -> None:
        reason = (
            f"missing or cut short in the data folder: {', '.join(lost)}; "
            "put the file back from a copy, then `radnode retry`"
        )
        log.error("a result file is lost", alarm=True, stage="deliver", destination=self.destination.name, files=lost)
        self._fail(row, reason)

    def _fail(self, row: DeliveryRow, reason: str) -> None:
        now = self.ledger.clock()
        with self.ledger.begin() as tx:
            deliveries.set_failed(tx, row.id, at=now, reason=reason)
            self._event(tx, row, f"cannot be sent to {self.destination.name}", now, reason)

    def _sent(self, row: DeliveryRow, outcomes: Sequence[SendOutcome]) -> bool:
        now = self.ledger.clock()
        refused = [outcome for outcome in outcomes if outcome.sent is Sent.REFUSED]
        again = [outcome for outcome in outcomes if outcome.sent is Sent.RETRY]
        warnings = "; ".join(sorted({outcome.reason for outcome in outcomes if outcome.reason}))
        with self.ledger.begin() as tx:
            if refused:
                deliveries.set_failed(tx, row.id, at=now, reason=warnings)
                self._event(tx, row, f"refused by {self.destination.name}", now, warnings)
            elif again:
                asked = max((outcome.retry_after_s or 0.0 for outcome in again), default=0.0)
                delay_s = self._backoff.delay_s(row.attempts + 1, draw=random.random(), asked_s=asked)
                deliveries.set_retry(tx, row.id, next_attempt_at=now + timedelta(seconds=delay_s), reason=warnings)
                if row.attempts == 0:
                    self._event(tx, row, f"{self.destination.name} could not take it, tried again later", now, warnings)
            elif self.destination.confirm is Confirm.NONE:
                deliveries.set_sent(tx, row.id, at=now, ask_again_at=None, reason="not confirmed: by configuration")
                self._event(tx, row, f"sent to {self.destination.name}; confirmation is switched off", now, warnings)
            else:
                deliveries.set_sent(tx, row.id, at=now, ask_again_at=now, reason=warnings)
                deliveries.claim_again(tx, row.id, now)
                self._event(tx, row, f"sent to {self.destination.name}, attempt {row.attempts + 1}", now, warnings)
                return True
        return False

    def _note_health(self, outcomes: Sequence[SendOutcome]) -> None:
        if all(outcome.sent is Sent.RETRY for outcome in outcomes):
            asked = max((outcome.retry_after_s or 0.0 for outcome in outcomes), default=0.0)
            draw = random.random()
            self._breaker = self._breaker.failed(time.monotonic(), draw=draw, asked_s=asked)
            log.warning("destination does not take results", destination=self.destination.name)
        else:
            self._breaker = self._breaker.succeeded()

    # confirming ------------------------------------------------------------------------------------------------------

    def _confirm(self, rows: Sequence[DeliveryRow]) -> bool | None:
        """Ask for each; returns whether the destination could be asked, None when there was nothing to ask."""
        reached: bool | None = None
        for row in rows:
            try:
                self._confirm_one(row)
                reached = True
            except ArchiveUnreachable as error:
                reached = bool(reached)
                self._unconfirmed(row, self._ask_later(row), str(error), counts=False)
            except ArchiveError as error:
                self._unconfirmed(
                    row, self.ledger.clock() + timedelta(seconds=self._backoff.ceiling_s), str(error), counts=False
                )
        return reached

    def _ask_later(self, row: DeliveryRow) -> datetime:
        """When to ask a destination again that could not be asked: after as long again as the result has waited."""
        now = self.ledger.clock()
        waited_s = (now - (row.sent_at or now)).total_seconds()
        return now + timedelta(seconds=self._backoff.asked_again_s(waited_s, draw=random.random()))

    def _confirm_one(self, row: DeliveryRow) -> None:
        objects = self._objects(row)
        wanted = {one.sop_instance_uid for one in objects}
        if self._settled_by_commitment(row, objects, wanted):
            return
        shown = self._open().confirm(objects)
        now = self.ledger.clock()
        if shown is None:
            with self.ledger.begin() as tx:
                why = "not confirmed: the destination offers neither storage commitment nor query"
                deliveries.set_sent(tx, row.id, at=row.sent_at or now, ask_again_at=None, reason=why)
                self._event(tx, row, f"sent to {self.destination.name}, which cannot confirm", now)
        elif wanted <= shown:
            self._confirmed(row, "the destination shows every object")
        elif row.confirmations_asked + 1 >= self.settings.resend_after_confirmations:
            self._send_again(row, f"{len(wanted - shown)} object(s) are not there though they were accepted")
        else:
            delay_s = self._backoff.shown_s(self.settings.first_confirm_s, row.confirmations_asked)
            self._unconfirmed(row, now + timedelta(seconds=delay_s), f"{len(wanted - shown)} object(s) not shown yet")

    def _settled_by_commitment(self, row: DeliveryRow, objects: Sequence[OutboundObject], wanted: set[SopUid]) -> bool:
        """Ask for storage commitment or read its answer; False when a query has to decide."""
        if self.destination.kind != "pacs" or self.destination.confirm is Confirm.QUERY:
            return False
        with self.ledger.read() as tx:
            asked = deliveries.newest_commitment(tx, row.id)
        if asked is None or (row.sent_at and asked.requested_at < row.sent_at):
            return self._ask_for_commitment(row, objects)
        if asked.committed is None:
            until = asked.requested_at + timedelta(seconds=self._patience_s)
            if self.ledger.clock() < until:
                self._unconfirmed(row, until, "awaits storage commitment", counts=False)
                return True
            return self.destination.confirm is Confirm.COMMITMENT and self._ask_for_commitment(row, objects)
        if wanted <= asked.committed:
            self._confirmed(row, "storage commitment")
        else:
            self._send_again(row, f"the archive does not commit to {len(wanted - asked.committed)} object(s)")
        return True

    def _ask_for_commitment(self, row: DeliveryRow, objects: Sequence[OutboundObject]) -> bool:
        """Ask the archive to commit; False when it does not offer that, which is remembered for a while."""
        if time.monotonic() < self._no_commitment_until:
            return False

        def register(transaction_uid: str) -> None:
            with self.ledger.begin() as tx:
                deliveries.register_commitment(tx, transaction_uid, row.id, self.ledger.clock())

        asked_at = self.ledger.clock()
        taken = False
        try:
            taken = self._open().request_commitment(objects, register=register, answered=self._answered)
        finally:
            if not taken:  # what was registered will never be answered
                with self.ledger.begin() as tx:
                    deliveries.forget_unanswered_commitments(tx, row.id)
        if not taken:
            self._no_commitment_until = time.monotonic() + COMMITMENT_ASKED_AGAIN_S
            return False
        until = asked_at + timedelta(seconds=self._patience_s)
        self._unconfirmed(row, until, "awaits storage commitment", counts=False)
        self._look_now_if_answered(row)
        return True

    def _look_now_if_answered(self, row: DeliveryRow) -> None:
        """An answer that came while the delivery was still claimed would otherwise wait for the patience to end."""
        with self.ledger.begin() as tx:
            asked = deliveries.newest_commitment(tx, row.id)
            if asked and asked.committed is not None:
                deliveries.look_now(tx, row.id, self.ledger.clock())

    def _answered(self, answer: CommitmentResult) -> None:
        with self.ledger.begin() as tx:
            deliveries.answer_commitment(
                tx,
                answer.transaction_uid,
                committed=sorted(answer.committed),
                failed=dict.fromkeys(sorted(answer.failed), "failed"),
                at=self.ledger.clock(),
            )

    # ledger ----------------------------------------------------------------------------------------------------------

    def _confirmed(self, row: DeliveryRow, how: str) -> None:
        now = self.ledger.clock()
        with self.ledger.begin() as tx:
            deliveries.set_confirmed(tx, row.id, at=now, how=how)
            self._event(tx, row, f"confirmed by {self.destination.name}", now, how)
        self._on_confirmed(row, now)

    def _unconfirmed(self, row: DeliveryRow, ask_again_at: datetime, reason: str, *, counts: bool = True) -> None:
        with self.ledger.begin() as tx:
            deliveries.set_unconfirmed(tx, row.id, ask_again_at=ask_again_at, reason=reason, counts=counts)

    def _send_again(self, row: DeliveryRow, reason: str) -> None:
        now = self.ledger.clock()
        delay_s = self._backoff.delay_s(row.attempts + 1, draw=random.random())
        with self.ledger.begin() as tx:
            deliveries.set_retry(tx, row.id, next_attempt_at=now + timedelta(seconds=delay_s), reason=reason)
            self._event(tx, row, f"sent again to {self.destination.name}", now, reason)

    def _release(self) -> None:
        """After an unforeseen error nothing stays claimed."""
        if self._breaker.probing_until_s is not None:
            self._breaker = self._breaker.failed(time.monotonic(), draw=random.random())
        with self.ledger.begin() as tx:
            deliveries.release_attempts(tx, destination=self.destination.name)

    def _event(self, tx: sa.Connection, row: DeliveryRow, what: str, now: datetime, detail: str = "") -> None:
        events.add(tx, row.study_uid, at=now, stage=Stage.DELIVER, what=what, detail=detail)

    def _files(self, row: DeliveryRow) -> Sequence[WrittenObject]:
        with self.ledger.read() as tx:
            return results.get(tx, row.result_set_id).objects

    def _objects(self, row: DeliveryRow) -> list[OutboundObject]:
        return [
            OutboundObject(
                study_uid=one.study_uid,
                series_uid=SeriesUid(one.series_uid),
                sop_class_uid=one.sop_class_uid,
                sop_instance_uid=SopUid(one.sop_instance_uid),
                transfer_syntax_uid=RESULT_TRANSFER_SYNTAX,
                path=self.store.path(one.path) if one.path else Path(),  # evicted: asked about, never sent
            )
            for one in self._files(row)
        ]

    def _open(self) -> Archive:
        if self._archive is None:
            self._archive = open_archive(self.destination)
        return self._archive


def _of(outcomes: Sequence[SendOutcome], objects: Sequence[OutboundObject]) -> list[SendOutcome]:
    wanted = {one.sop_instance_uid for one in objects}
    return [outcome for outcome in outcomes if outcome.sop_instance_uid in wanted]

"""One thread for each receiver of the record: writes documents as they become due, brings them, sees that they arrive.

    PENDING      written once (`outbox.preparing`), then sent   →  HANDED_OVER
    HANDED_OVER  the receiver is asked, where it can be         →  stays, finished; forgotten: PENDING again
    what a person must look at                                  →  PARKED; what the receiver refuses for good → FAILED

Started by `node`. A receiver that does not answer is left alone for a while (its circuit opens) and tried for ever.
What becomes due meanwhile is still written, up to a limit, so that faults of context show early and images may go.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import sqlalchemy as sa
import structlog

from dicom_node.delivery.backoff import Backoff, Breaker, Circuit
from dicom_node.delivery.rounds import run_rounds
from dicom_node.ehr.answer import Accepted, Answer, Discretion, Refused, Retry
from dicom_node.ehr.destination import DestinationMisconfigured
from dicom_node.ehr.destinations import Record
from dicom_node.ehr.receiver import Envelope, Held, RecordReceiver
from dicom_node.ledger import Ledger, documents, events, holds, outbox
from dicom_node.ledger.documents import DocumentRow
from dicom_node.ledger.outbox import Task
from dicom_node.outbox.letters import Letter, LetterLost, read_letter
from dicom_node.outbox.opening import Opening
from dicom_node.outbox.prepared import Needless, NotYet, Parked, TakeBackFirst, Withheld, Written
from dicom_node.settings import OutboxSettings
from dicom_node.states import DocumentKind, DocumentState, ParkReason, Stage
from dicom_node.store import Store, StoreError

if TYPE_CHECKING:
    from dicom_node.outbox.preparing import Preparer

log = structlog.get_logger(__name__)

LONGEST_ASKED_S = 86400.0  # a receiver that asks to wait is heeded up to this
WRITING_S = 2.0  # a lookup that hangs must not hold what is written
MOST_FAULTS = 5  # an unforeseen fault that comes so often is a person's
MOST_RESENDS = 8  # of a document that is acknowledged and never there


class Courier:
    """Brings documents to one destination.

    Parameters
    ----------
    destination : Record
        Where to.
    settings : OutboxSettings
        How patiently.
    ledger, store
        The node's.
    opening : Opening
        Makes the receiver and what writes for it.
    """

    def __init__(
        self, destination: Record, settings: OutboxSettings, ledger: Ledger, store: Store, opening: Opening
    ) -> None:
        self.destination = destination
        self.settings = settings
        self.ledger = ledger
        self.store = store
        self._opening = opening
        self._backoff = Backoff(
            base_s=settings.first_retry_s, ceiling_s=settings.longest_retry_s, asked_ceiling_s=LONGEST_ASKED_S
        )
        self._breaker = Breaker(backoff=self._backoff)
        self._opened: tuple[RecordReceiver, Preparer] | None = None
        self._told_misconfigured = ""

    def run(self, stop: threading.Event) -> None:
        """Bring documents until `stop` is set; an attempt under way is finished first."""
        run_rounds(
            stop,
            lambda: self._round(stop),
            give_back=self._give_back,
            destination=self._name,
            poll_s=self.settings.poll_s,
        )
        self.close()

    def _round(self, stop: threading.Event) -> bool:
        try:
            return self.work(stop)
        except DestinationMisconfigured as error:
            self._tell_misconfigured(str(error))
            stop.wait(self.settings.first_retry_s)
            return True

    def _give_back(self) -> None:
        with self.ledger.begin() as tx:
            outbox.release_attempts(tx, destination=self._name)

    def close(self) -> None:
        """Let go of connections to the receiver and to where context is looked up."""
        for opened in self._opened or ():
            opened.close()

    def work(self, stop: threading.Event | None = None) -> bool:
        """One round: write what is due, not for long, then bring what is written. Returns whether there was anything.

        Raises
        ------
        DestinationMisconfigured
            When something is due and the receiver cannot be opened with the settings as they are.
        """
        stop = stop or threading.Event()
        self._open_anew_if_changed()
        written = self._write_due(stop)
        return self._bring_due(stop) or written

    @property
    def _name(self) -> str:
        return self.destination.name

    def _seconds(self) -> float:
        """The ledger's clock is steady, and it is the one that tests compress."""
        return self.ledger.clock().timestamp()

    def _receiver(self) -> RecordReceiver:
        return self._both()[0]

    def _both(self) -> tuple[RecordReceiver, Preparer]:
        if self._opened is None:
            self._opened = self._opening.open()
            self._told_misconfigured = ""
        return self._opened

    def _open_anew_if_changed(self) -> None:
        if self._opened and self._opening.is_stale:
            self.close()
            self._opened = None

    def _tell_misconfigured(self, reason: str) -> None:
        with self.ledger.begin() as tx:
            outbox.tell_waiting(tx, self._name, f"waits until the destination can be used: {reason}")
        if reason != self._told_misconfigured:
            log.error("documents wait: the destination cannot be used", destination=self._name, reason=reason)
        self._told_misconfigured = reason

    def _claim(self, task: Task, *, probing: bool = False) -> tuple[DocumentRow, ...]:
        now = self.ledger.clock()
        with self.ledger.begin() as tx:
            return outbox.claim_due(tx, self._name, task, now, limit=self.settings.batch, probing=probing)

    # writing ---------------------------------------------------------------------------------------------------------

    def _write_due(self, stop: threading.Event) -> bool:
        with self.ledger.read() as tx:
            if not outbox.any_due(tx, self._name, Task.WRITE, self.ledger.clock()):
                return False
            if outbox.count_written_waiting(tx, self._name) >= self.settings.max_written:
                return False  # the receiver is behind: what waits further back stays a row, without a file
        rows = self._claim(Task.WRITE)
        until_s = time.monotonic() + WRITING_S
        return self._each(rows, lambda row: self._write(row) and time.monotonic() < until_s, stop)

    def _each(self, rows: Sequence[DocumentRow], task: Callable[[DocumentRow], bool], stop: threading.Event) -> bool:
        """Do each in turn while it makes sense to go on; the rest is given back. One that fails holds no other."""
        for done, row in enumerate(rows):
            if stop.is_set() or not self._guarded(row, task):
                with self.ledger.begin() as tx:
                    outbox.give_back(tx, [one.id for one in rows[done + (not stop.is_set()) :]])
                break
        return bool(rows)

    def _guarded(self, row: DocumentRow, task: Callable[[DocumentRow], bool]) -> bool:
        try:
            return task(row)
        except (sa.exc.SQLAlchemyError, DestinationMisconfigured):
            self._give_back()
            raise  # the ledger's and the settings' trouble is everybody's
        except Exception:  # the edge of the loop over documents: one must not hold the others
            log.exception(
                "a document met an unforeseen fault", stage="deliver", destination=self._name, document=row.id
            )
            if row.path is None and row.preparations + 1 >= MOST_FAULTS:
                told = "an unforeseen fault, again and again: see the log"
                self._end(row, Parked(why=ParkReason.NOT_WRITABLE, told=told))
            else:
                self._later(row, "an unforeseen fault, see the log; tried again", written=row.path is not None)
            return True

    def _write(self, row: DocumentRow) -> bool:
        prepared = self._both()[1].prepare(row)
        if isinstance(prepared, Written):
            return self._fix(row, prepared)
        if isinstance(prepared, NotYet):
            self._later(row, prepared.told, written=False)
            return True
        self._end(row, prepared)
        return True

    def _end(self, row: DocumentRow, prepared: Parked | Withheld | Needless | TakeBackFirst) -> None:
        now = self.ledger.clock()
        with self.ledger.begin() as tx:
            if isinstance(prepared, Parked):
                outbox.set_parked(tx, row.id, at=now, why=prepared.why, told=prepared.told)
            elif isinstance(prepared, Withheld):
                outbox.set_withheld(tx, row.id, at=now, told=prepared.told)
            elif isinstance(prepared, TakeBackFirst):
                documents.take_back_first(tx, row, now, told=prepared.told)
            else:
                outbox.set_overtaken(tx, row.id, at=now, told=prepared.told)
            self._event(tx, row, _ended(prepared), prepared.told)
        if isinstance(prepared, Parked):
            self._needs_a_person(row, f"parked: {prepared.why}")

    def _needs_a_person(self, row: DocumentRow, why: str) -> None:
        """A withdrawal that does not arrive is an alarm: what it takes back stands in the record."""
        alarm = row.kind is DocumentKind.WITHDRAWAL
        level = log.error if alarm else log.warning
        level("a document needs a person", alarm=alarm, destination=self._name, document=row.document_id, why=why)

    def _fix(self, row: DocumentRow, written: Written) -> bool:
        data = written.letter.to_bytes()
        try:
            path = self.store.write_letter(data)
            request_path = self.store.write_request(written.request) if written.request else None
        except StoreError as error:
            self._later(row, str(error), written=False)
            log.error("a document cannot be kept", alarm=True, destination=self._name, errno=error.errno)
            return False
        with self.ledger.begin() as tx:
            outbox.set_written(
                tx,
                row.id,
                version=written.version,
                replaces=written.replaces,
                sent_set_id=written.set_id,
                path=path,
                request_path=request_path,
                sha256=written.letter.sha256,
                size_bytes=len(data),
            )
        return True

    # bringing --------------------------------------------------------------------------------------------------------

    def _bring_due(self, stop: threading.Event) -> bool:
        with self.ledger.read() as tx:
            due = outbox.any_due(tx, self._name, Task.BRING, self.ledger.clock())
            if not due or holds.is_held(tx, self._name):
                return False
        # This thread alone asks, one document after the other: a probe ends before the next is thought of.
        circuit = self._breaker.circuit(self._seconds())
        if circuit is Circuit.OPEN:
            return False
        return self._each(self._claim(Task.BRING, probing=circuit is Circuit.HALF_OPEN), self._bring, stop)

    def _bring(self, row: DocumentRow) -> bool:
        """Send or ask; returns whether the receiver is worth the next document."""
        if row.state is DocumentState.HANDED_OVER:  # asked for by its names: nothing of what was sent is needed
            return self._confirm(row, _envelope(row, Discretion()))
        letter = self._letter(row)
        if letter is None:
            return True
        envelope = _envelope(row, letter.discretion)
        with self.ledger.begin() as tx:
            if holds.is_held(tx, self._name):  # since this round began
                outbox.give_back(tx, [row.id])
                return False
            taken_back = row.kind is DocumentKind.REPORT and documents.is_superseded(tx, row)
            if taken_back and not row.may_have_arrived:
                told = "a newer version or a withdrawal came before it had left"
                outbox.set_overtaken(tx, row.id, at=self.ledger.clock(), told=told)
                return True
            outbox.count_attempt(tx, row.id)
        answer = self._receiver().send(letter.body, envelope)
        self._note_health(answer)
        if not self._answered(row, answer):
            return self._breaker.opens_until_s is None
        with self.ledger.read() as tx:
            taken = documents.by_ids(tx, [row.id])[0]
        return self._confirm(taken, envelope) if taken.state is DocumentState.HANDED_OVER else True

    def _letter(self, row: DocumentRow) -> Letter | None:
        try:
            return read_letter(self.store, row)
        except LetterLost as error:
            log.error("a document's file is lost", alarm=True, stage="deliver", destination=self._name)
            with self.ledger.begin() as tx:
                outbox.set_failed(tx, row.id, at=self.ledger.clock(), told=f"{error}; `radnode retry` writes it anew")
                self._event(tx, row, f"cannot be sent to {self._name}", str(error))
        except OSError as error:
            self._later(row, f"the document's file cannot be read now: {error.strerror}")
        return None

    def _note_health(self, answer: Answer) -> None:
        if isinstance(answer, Retry):
            draw = random.random()
            self._breaker = self._breaker.failed(self._seconds(), draw=draw, asked_s=answer.after_s)
        else:
            self._breaker = self._breaker.succeeded()

    def _note_question(self, held: Held) -> None:
        """A question is a probe as good as a document; while documents pass, one without an answer says nothing."""
        if self._breaker.circuit(self._seconds()) is Circuit.CLOSED or held is Held.UNSAID:
            return
        if held is Held.ASK_AGAIN:
            self._breaker = self._breaker.failed(self._seconds(), draw=random.random())
        else:
            self._breaker = self._breaker.succeeded()

    def _answered(self, row: DocumentRow, answer: Answer) -> bool:
        """Enter the receiver's answer; returns whether it has taken the document."""
        now = self.ledger.clock()
        if isinstance(answer, Accepted):
            with self.ledger.begin() as tx:
                outbox.set_handed_over(
                    tx, row.id, at=now, receiver_ids=answer.receiver_ids, ask_at=now, told="acknowledged"
                )
                outbox.claim_again(tx, row.id, now)
                ids = f"; its own name for it: {', '.join(answer.receiver_ids)}" if answer.receiver_ids else ""
                self._event(tx, row, f"handed over to {self._name}, attempt {row.attempts + 1}", f"acknowledged{ids}")
            return True
        if isinstance(answer, Refused):
            with self.ledger.begin() as tx:
                outbox.set_refused(tx, row, at=now, told=answer.reason)
                self._event(tx, row, f"refused by {self._name}", answer.reason)
            self._needs_a_person(row, "refused by the receiver")
            return False
        if answer.unsent:
            with self.ledger.begin() as tx:
                outbox.set_unsent(tx, row)
        self._later(row, answer.reason, asked_s=answer.after_s)
        if row.attempts == 0:
            with self.ledger.begin() as tx:
                self._event(tx, row, f"{self._name} could not take it, tried again later", answer.reason)
        return False

    def _confirm(self, row: DocumentRow, envelope: Envelope) -> bool:
        held = self._receiver().confirm(envelope, row.receiver_ids)
        now = self.ledger.clock()
        self._note_question(held)
        with self.ledger.begin() as tx:
            if held is Held.YES:
                outbox.set_confirmed(tx, row.id, at=now, told="the receiver shows it")
            elif held is Held.UNSAID:
                outbox.set_confirmed(tx, row.id, at=now, told="acknowledged; the receiver cannot be asked for it")
            elif held is Held.ASK_AGAIN and self._waited_s(row, now) >= self.settings.confirm_patience_s:
                told = "acknowledged; the receiver would not say whether it has it"
                outbox.set_confirmed(tx, row.id, at=now, told=told)
                self._event(tx, row, f"{self._name} is taken at its word", told)
            elif held is Held.ASK_AGAIN:
                told = "acknowledged; the receiver does not answer now whether it has it"
                outbox.set_unconfirmed(tx, row.id, ask_at=self._ask_later(row, now), told=told, counts=False)
            elif row.confirmations_asked + 1 < self.settings.resend_after_confirmations:
                delay_s = self._backoff.shown_s(self.settings.first_confirm_s, row.confirmations_asked)
                later = now + timedelta(seconds=delay_s)
                outbox.set_unconfirmed(tx, row.id, ask_at=later, told="the receiver does not show it yet", counts=True)
            elif row.resends < MOST_RESENDS:
                told = "acknowledged, but the receiver does not have it: sent again"
                outbox.set_resend(tx, row.id, at=now, told=told)
                self._event(tx, row, f"not found at {self._name}, sent again", told)
            else:
                told = f"acknowledged {row.resends + 1} times, and the receiver never had it"
                outbox.set_failed(tx, row.id, at=now, told=told)
                self._event(tx, row, f"given up at {self._name}", told)
        return held is not Held.ASK_AGAIN

    def _ask_later(self, row: DocumentRow, now: datetime) -> datetime:
        """When to ask a receiver again that could not be asked: after as long again as it has been."""
        delay_s = self._backoff.asked_again_s(self._waited_s(row, now), draw=random.random())
        return now + timedelta(seconds=delay_s)

    @staticmethod
    def _waited_s(row: DocumentRow, now: datetime) -> float:
        return (now - (row.handed_over_at or now)).total_seconds()

    def _later(self, row: DocumentRow, told: str, *, written: bool = True, asked_s: float | None = None) -> None:
        attempt = 1 + (row.attempts if written else row.preparations)
        later = self.ledger.clock() + timedelta(seconds=self._delay_s(attempt, asked_s))
        with self.ledger.begin() as tx:
            outbox.set_retry(tx, row.id, next_attempt_at=later, told=told, written=written)

    def _delay_s(self, attempt: int, asked_s: float | None = None) -> float:
        return self._backoff.delay_s(attempt, draw=random.random(), asked_s=asked_s)

    def _event(self, tx: sa.Connection, row: DocumentRow, what: str, detail: str) -> None:
        what = f"{row.kind} of {row.model_name}: {what}"
        events.add(tx, row.study_uid, at=self.ledger.clock(), stage=Stage.DELIVER, what=what, detail=detail)


def _envelope(row: DocumentRow, discretion: Discretion) -> Envelope:
    return Envelope(
        document_id=row.document_id,
        set_id=row.sent_set_id or row.set_id,
        version=row.version or 1,
        kind=row.kind,
        study_uid=row.study_uid,
        discretion=discretion,
    )


def _ended(prepared: Parked | Withheld | Needless | TakeBackFirst) -> str:
    if isinstance(prepared, Parked):
        return f"parked, {prepared.why}: a person must look, then `radnode retry`"
    if isinstance(prepared, Withheld):
        return "withheld"
    if isinstance(prepared, TakeBackFirst):
        return "put behind the withdrawal of what was sent before"
    return "not needed any more"

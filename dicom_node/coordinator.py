"""The loop that moves studies from stored to queued: index headers, assemble, route, and keep house.

One thread of the node process. It wakes when an instance is stored and when a study's time has come; everything it
does is in `pipeline`, so that it can be repeated after any crash.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from dicom_node.building import ModelFolders
from dicom_node.delivery import open_archive
from dicom_node.delivery.archive import ArchiveError
from dicom_node.ledger import instances, jobs, outbox, studies
from dicom_node.ledger.studies import StudyRow
from dicom_node.pipeline import Pipeline
from dicom_node.reception import ReceptionBoard
from dicom_node.retention import Retention
from dicom_node.states import StudyState
from inference.findings import StudyUid

log = structlog.get_logger(__name__)

LONGEST_SLEEP_S = 0.5
HOUSEKEEPING_S = 5.0


@dataclass(frozen=True, kw_only=True, slots=True)
class _Question:
    """How many instances of a study the archive holds, asked at a time by the node's clock."""

    asked_at: datetime
    answer: Future[int | None]


class Coordinator:
    """Runs the stages between reception and the workers.

    Parameters
    ----------
    pipeline : Pipeline
        The stages.
    board : ReceptionBoard
        Who is sending right now.
    """

    def __init__(self, pipeline: Pipeline, board: ReceptionBoard) -> None:
        self.pipeline = pipeline
        self.board = board
        self._wake = threading.Event()
        self._counting = ThreadPoolExecutor(1, thread_name_prefix="archive-count")
        self._questions: dict[StudyUid, _Question] = {}
        self._last_count: dict[StudyUid, int] = {}
        pipeline.models_changed = ModelFolders(pipeline.settings).changed
        self._retention = Retention(pipeline.ledger, pipeline.store, pipeline.settings.storage)
        board.subscribe(lambda _study_uid: self._wake.set())

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set."""
        ledger = self.pipeline.ledger
        keep_house_at = ledger.clock()
        while not stop.is_set():
            try:
                self.step()
                if ledger.clock() >= keep_house_at:
                    self.keep_house()
                    keep_house_at = ledger.clock() + timedelta(seconds=HOUSEKEEPING_S)
                self._sleep()
            except Exception:  # the edge of the loop: the next round goes on
                log.exception("coordinator step failed", stage="coordinate")
                stop.wait(LONGEST_SLEEP_S)
        self._counting.shutdown(wait=False, cancel_futures=True)

    def step(self) -> None:
        """Index what has come and assemble what is due."""
        while self.pipeline.index():
            pass
        self._look_at_counted()
        self.pipeline.assemble(holders=self._holders, archive_count=self._archive_count)

    def keep_house(self) -> None:
        """Give expired leases back, stop poisonous jobs, see what is installed, evict old files, keep the reserve."""
        ledger = self.pipeline.ledger
        with ledger.begin() as tx:
            expired = jobs.release_expired(tx, ledger.lease_now(tx))
        hopeless = self.pipeline.stop_hopeless()
        if expired or hopeless:
            log.warning("jobs taken from silent workers", expired=expired, given_up=hopeless)
        if dropped := self.pipeline.shed_shadows():
            log.warning("shadows dropped, no worker had time for them", jobs=dropped)
        self.pipeline.look_for_models()
        self._forget_settled()
        self._give_up_parked()
        self._retention.evict_due()
        self.pipeline.store.restore_reserve()

    def _give_up_parked(self) -> None:
        """Documents that nobody looked at for weeks keep their images no longer."""
        now = self.pipeline.ledger.clock()
        before = now - timedelta(days=self.pipeline.settings.outbox.parked_days)
        with self.pipeline.ledger.read() as tx:
            if not outbox.any_parked(tx, before):
                return
        with self.pipeline.ledger.begin() as tx:
            given_up = outbox.give_up_parked(tx, parked_before=before, now=now)
        log.error("documents were parked for too long and are given up", alarm=True, documents=given_up)

    def _sleep(self) -> None:
        ledger = self.pipeline.ledger
        with ledger.read() as tx:
            next_look = studies.next_look_at(tx)
        until_s = (next_look - ledger.clock()).total_seconds() if next_look else LONGEST_SLEEP_S
        self._wake.wait(min(max(until_s, 0.001), LONGEST_SLEEP_S))
        self._wake.clear()

    def _holders(self, study: StudyRow) -> Sequence[str]:
        idle_s = self.pipeline.settings.assembly.association_idle_s
        return self.board.holders(study.study_uid, study.calling_ae, idle_s)

    def _look_at_counted(self) -> None:
        """Studies whose archive has answered are looked at now; what is not being received any more is forgotten."""
        counted = [study_uid for study_uid, question in self._questions.items() if question.answer.done()]
        if not counted:
            return
        with self.pipeline.ledger.begin() as tx:
            for study_uid in counted:
                if not studies.look_again(tx, study_uid, self.pipeline.ledger.clock()):
                    del self._questions[study_uid]

    def _archive_count(self, study_uid: StudyUid) -> int | None:
        """The archive's own count, asked beside this loop; None until it has answered.

        While a new question is under way, or the archive is silent, its last count still tells that images lack.
        """
        with self.pipeline.ledger.read() as tx:
            study = studies.get(tx, study_uid)
            arrived = instances.count_current(tx, study_uid)
        question = self._questions.get(study_uid)
        if question is None or (study and question.asked_at <= study.last_received_at):
            self._ask(study_uid)  # the archive too may have received since
        elif question.answer.done():
            del self._questions[study_uid]
            told = question.answer.result()
            if told is not None:
                self._last_count[study_uid] = told
                return told
        last = self._last_count.get(study_uid)
        return last if last is not None and last > arrived else None

    def _ask(self, study_uid: StudyUid) -> None:
        name = str(self.pipeline.settings.assembly.archive_count)
        asked_at = self.pipeline.ledger.clock()
        answer = self._counting.submit(self._ask_archive, name, study_uid)
        answer.add_done_callback(lambda _answer: self._wake.set())
        self._questions[study_uid] = _Question(asked_at=asked_at, answer=answer)

    def _forget_settled(self) -> None:
        with self.pipeline.ledger.read() as tx:
            rows = [studies.get(tx, study_uid) for study_uid in self._last_count]
        receiving = {row.study_uid for row in rows if row and row.state is StudyState.RECEIVING}
        self._last_count = {uid: count for uid, count in self._last_count.items() if uid in receiving}

    def _ask_archive(self, name: str, study_uid: StudyUid) -> int | None:
        destination = next(one for one in self.pipeline.settings.destination if one.name == name)
        try:
            archive = open_archive(destination)
            try:
                return archive.count_instances(study_uid)
            finally:
                archive.close()
        except ArchiveError as error:
            log.warning("the archive does not tell its count", destination=name, reason=str(error))
            return None
        except Exception as error:  # noqa: BLE001  an answer nobody foresaw is no answer: the study must not wait on it
            log.error("the archive's count cannot be read", destination=name, error=type(error).__name__)
            return None

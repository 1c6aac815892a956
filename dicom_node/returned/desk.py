"""`ReturnDesk`: everything that comes back arrives here, whatever the door, and is answered.

Made by the node, which runs `run` in a thread: it watches the folder and holds the MLLP port. The HTTP routes
(`dicom_node.web.returned`) call its `take_` methods. What a report or a state means is decided by `reports` and
`statuses`.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Collection, Sequence
from datetime import tzinfo
from pathlib import Path
from typing import Final

import sqlalchemy as sa
import structlog

from dicom_node.ehr.inbound import InboundError, RadiologistReport, read_diagnostic_report, read_oru
from dicom_node.ledger import Ledger, instances
from dicom_node.returned.answer import Answer, Verdict
from dicom_node.returned.folder import WatchedFolder
from dicom_node.returned.mllp import MllpListener
from dicom_node.returned.reports import Answered, Taken, take_report
from dicom_node.returned.rules import read_rules
from dicom_node.returned.settings import ReturnedSettings
from dicom_node.returned.statuses import read_state, take_signature, take_state
from dicom_node.states import TruthSource
from dicom_node.store import Store
from inference.findings import StudyUid

log = structlog.get_logger(__name__)

_VERDICTS: Final = {
    Answered.TAKEN: Verdict.TAKEN,
    Answered.WITHDRAWN: Verdict.TAKEN,
    Answered.IGNORED: Verdict.IGNORED,
    Answered.REFUSED: Verdict.REFUSED,
}
_PORT_AGAIN_S: Final = 5.0
_PATIENT_FILES: Final = 3  # of a study whose images are read for the Patient ID
_LINES_TOLD: Final = 50
_TABLE: Final = "table"


class ReturnDesk:
    """Takes in what comes back, one thing at a time.

    Parameters
    ----------
    settings : ReturnedSettings
        Paths in it are used as they are.
    ledger, store
        The node's.
    labels : callable
        Labels of the models that are installed now.
    zone : datetime.tzinfo
        Of moments that name none.

    Raises
    ------
    ProfileError
        When the rules cannot be used.
    """

    def __init__(
        self,
        settings: ReturnedSettings,
        ledger: Ledger,
        store: Store,
        *,
        labels: Callable[[], Collection[str]],
        zone: tzinfo,
    ) -> None:
        self.settings = settings
        self._ledger = ledger
        self._store = store
        self._labels = labels
        self._zone = zone
        self._rules = read_rules(settings.rules)
        # Two doors may bring two reports of one study at once; the ledger takes them one after the other.
        self._one_at_a_time = threading.Lock()
        self._folder = WatchedFolder(settings, self) if settings.folder else None
        self._listener = MllpListener(settings.mllp, self.take_hl7) if settings.mllp else None
        self.fault = ""

    @property
    def mllp_port(self) -> int:
        """Port of the MLLP listener; 0 while it is not open."""
        return self._listener.port if self._listener else 0

    def run(self, stop: threading.Event) -> None:
        """Watch folder and port until told to stop; a port that is taken is tried again and again."""
        try:
            while not stop.is_set():
                self.fault = self._listen() or (self._folder.look(stop) if self._folder else "")
                stop.wait(_PORT_AGAIN_S if self.fault else self.settings.poll_s)
        finally:
            if self._listener:
                self._listener.close()

    def _listen(self) -> str:
        if self._listener is None or self._listener.is_open:
            return ""
        try:
            self._listener.open()
        except OSError as error:
            told = f"returned.mllp cannot be opened: {error.strerror or type(error).__name__}"
            if told != self.fault:
                log.error("reports cannot come back over MLLP", alarm=True, reason=told)
            return told
        log.info("listening for reports", mllp_port=self._listener.port)
        return ""

    # what comes ------------------------------------------------------------------------------------------------------

    def take_hl7(self, message: bytes) -> Answer:
        """Take in the reports of an ORU^R01; if one is refused the message is, and what could be taken is kept."""

        def read() -> Sequence[RadiologistReport]:
            return read_oru(message, zone=self._zone, charset=self.settings.charset)

        return self._reports(read, TruthSource.HL7)

    def take_fhir(self, body: bytes) -> Answer:
        """Take in a FHIR DiagnosticReport, alone or in a Bundle."""
        return self._reports(lambda: (read_diagnostic_report(body),), TruthSource.FHIR)

    def take_json(self, body: bytes) -> Answer:
        """Take in JSON that may be a FHIR resource or the state of a document."""
        try:
            kind = json.loads(body)
        except (ValueError, RecursionError):
            return Answer(verdict=Verdict.UNREADABLE, why="not JSON", field="body")
        if isinstance(kind, dict) and "state" in kind and "resourceType" not in kind:
            return self.take_state(body)
        return self.take_fhir(body)

    def take_state(self, body: bytes, document_id: str | None = None) -> Answer:
        """Take in the state of a document, as JSON."""
        read = read_state(body, document_id)
        if isinstance(read, Answer):
            return self._told("state", read)
        return self._told("state", self._entered(lambda: take_state(self._ledger, read, self._ledger.clock())))

    def take_signature(self, document_id: str, signature: bytes) -> Answer:
        """Take in the detached signature of a document."""
        trusted, ledger = self.settings.trusted_file, self._ledger

        def take() -> Answer:
            return take_signature(ledger, self._store, document_id, signature, trusted=trusted, now=ledger.clock())

        return self._told("signature", self._entered(take))

    def take_table(self, path: Path) -> Answer:
        """Take in a table of readings, as `radnode monitor truth` does; rows that cannot be are named by line."""
        from dicom_node.monitoring.truth_file import import_truth
        from eval.tables import TableError

        def take() -> Answer:
            try:
                done = import_truth(self._ledger, path, self._zone, labels=frozenset(self._labels()))
            except TableError as error:
                return Answer(verdict=Verdict.UNREADABLE, why=str(error).removeprefix(f"{path.name}: "))
            entered = ", ".join(f"{count} {how}" for how, count in done.entered.items())
            if not done.refused:
                return Answer(verdict=Verdict.TAKEN, why=entered)
            lines = "".join(f"\nline {row.line}: {row.why}" for row in done.refused[:_LINES_TOLD])
            return Answer(
                verdict=Verdict.REFUSED, why=f"{len(done.refused)} rows not entered; the others were: {entered}{lines}"
            )

        return self._told(_TABLE, self._entered(take))

    # how it is taken -------------------------------------------------------------------------------------------------

    def _reports(self, read: Callable[[], Sequence[RadiologistReport]], source: TruthSource) -> Answer:
        try:
            reports = read()
        except InboundError as error:
            return self._told(source, Answer(verdict=Verdict.UNREADABLE, why=str(error), field=error.field))
        return self._told(source, self._entered(lambda: _together([self._report(one, source) for one in reports])))

    def _report(self, report: RadiologistReport, source: TruthSource) -> Taken:
        return take_report(
            self._ledger,
            report,
            self._rules,
            source=source,
            labels=self._labels(),
            now=self._ledger.clock(),
            patient_ids=self._patient_ids if self.settings.compare_patient else None,
        )

    def _entered(self, take: Callable[[], Answer]) -> Answer:
        try:
            with self._one_at_a_time:
                return take()
        except (sa.exc.SQLAlchemyError, OSError) as error:
            log.error("what came back could not be entered", alarm=True, error=type(error).__name__)
            return Answer(verdict=Verdict.LATER, why="the ledger or the disk does not answer now: send it again later")

    def _told(self, kind: str, answer: Answer) -> Answer:
        # What is wrong with a table may be told with names of its columns, which may be anything.
        why = "" if kind == _TABLE else answer.why
        log.info("came back", kind=kind, verdict=answer.verdict, why=why, field=answer.field)
        return answer

    def _patient_ids(self, study_uid: StudyUid) -> Collection[str]:
        """Patient IDs (0010,0020) of the first images of a study that are still there."""
        from pydicom import dcmread
        from pydicom.errors import InvalidDicomError

        with self._ledger.read() as tx:
            paths = [one.path for one in instances.of_study(tx, study_uid) if one.path is not None]
        found = set()
        for path in paths[:_PATIENT_FILES]:
            try:
                header = dcmread(self._store.path(path), stop_before_pixels=True, specific_tags=["PatientID"])
            except (OSError, InvalidDicomError):
                continue
            found.add(str(header.get("PatientID", "")).strip())
        return found - {""}


def _together(taken: Sequence[Taken]) -> Answer:
    """One answer to a message of several reports."""
    order = (Verdict.REFUSED, Verdict.TAKEN, Verdict.IGNORED)
    verdict = min((_VERDICTS[one.answered] for one in taken), key=order.index)
    if len(taken) == 1:
        return Answer(verdict=verdict, why=taken[0].why, study_uid=taken[0].study_uid)
    told = "; ".join(f"report {number}: {one.why}" for number, one in enumerate(taken, 1))
    return Answer(verdict=verdict, why=told)

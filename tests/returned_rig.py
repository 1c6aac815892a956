"""A desk for what comes back, over a real ledger and store, with studies on which a model has spoken."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path
from typing import Any

from dicom_node.facts import InstanceFacts
from dicom_node.ledger import Ledger, events, instances, truths
from dicom_node.returned.desk import ReturnDesk
from dicom_node.returned.settings import ReturnedSettings
from dicom_node.states import Reading
from dicom_node.store import Store
from inference.findings import StudyUid
from tests.ledgers import TestClock, open_ledger
from tests.service import Service

HEAD = "MSH|^~\\&|RIS|HOSP|RADNODE|AI|20260302130000||ORU^R01^ORU_R01|{control}|P|2.5.1||||||UNICODE UTF-8"
PID = "PID|1||{patient}^^^HOSP^MR||Иванова^Анна"
OBR = "OBR|1|P5|F9|18748-4^Diagnostic imaging study^LN||||||||||||||{accession}|||||||{status}"
OBX = "OBX|1|FT|19005-8^Impression^LN||{conclusion}||||||F"
PNEUMONIA = "Правосторонняя нижнедолевая пневмония."
CLEAR = "Очаговых и инфильтративных изменений не выявлено."


def oru(
    study: StudyUid | None,
    conclusion: str = PNEUMONIA,
    *,
    accession: str = "",
    status: str = "F",
    patient: str = "77-1",
    control: str = "7",
) -> bytes:
    """A signed report as a reporting system sends it."""
    lines = [
        HEAD.format(control=control),
        PID.format(patient=patient),
        OBR.format(accession=accession, status=status),
        OBX.format(conclusion=conclusion),
    ]
    if study:
        lines.append(f"OBX|2|ST|110180^Study Instance UID^DCM||{study}||||||F")
    return "".join(f"{line}\r" for line in lines).encode()


def diagnostic_report(study: StudyUid, conclusion: str = PNEUMONIA, **changes: Any) -> bytes:
    """The same as FHIR R4."""
    resource = {
        "resourceType": "DiagnosticReport",
        "status": "final",
        "imagingStudy": [{"identifier": {"system": "urn:dicom:uid", "value": f"urn:oid:{study}"}}],
        "issued": "2026-03-02T11:00:00Z",
        "conclusion": conclusion,
    }
    return json.dumps(resource | changes, ensure_ascii=False).encode()


@dataclass
class ReturnedRig:
    """The desk, what it writes to, and studies to speak of."""

    folder: Path
    ledger: Ledger
    service: Service
    desk: ReturnDesk

    def film(self, *, accession: str = "", score: float = 0.9) -> StudyUid:
        """A study of one film that the model has judged."""
        study = self.service.arrive()
        self.service.analyse(study, score)
        with self.ledger.begin() as tx:
            (stored,) = instances.of_study(tx, study)
            instances.set_indexed(tx, stored.id, InstanceFacts(modality="DX", accession_number=accession))
        return study

    def readings(self, study: StudyUid) -> dict[str, Reading]:
        """What is held as truth."""
        with self.ledger.read() as tx:
            return {one.label: one.reading for one in truths.current(tx, study)}

    def told(self, study: StudyUid) -> list[str]:
        """What the study's account says of what came back."""
        with self.ledger.read() as tx:
            return [one.what for one in events.of_study(tx, study) if one.stage == "return"]

    @contextmanager
    def running(self) -> Iterator[None]:
        """The desk's loop in a thread, as the node runs it."""
        stop = threading.Event()
        thread = threading.Thread(target=self.desk.run, args=(stop,))
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(10.0)
            assert not thread.is_alive()


@contextmanager
def returned_rig(base: Path, /, **settings: Any) -> Iterator[ReturnedRig]:
    """A rig whose settings are these."""
    clock = TestClock()
    store = Store(base / "data")
    store.prepare()
    with open_ledger(f"sqlite:///{base / 'ledger.sqlite3'}", clock) as ledger:
        desk = ReturnDesk(
            ReturnedSettings.model_validate(settings), ledger, store, labels=lambda: {"opacity"}, zone=UTC
        )
        yield ReturnedRig(base, ledger, Service(ledger, clock), desk)

"""The pipeline over a real store and a real ledger, without network, processes or models that run.

A test receives files, lets time pass, and says itself what the model said; everything between is the node's own code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pydicom
from pydicom.dataset import Dataset

from dicom_node.account import StudyAccount, account_of
from dicom_node.building import build_pipeline, installed
from dicom_node.dimse.recovery import read_stored
from dicom_node.ledger import jobs
from dicom_node.ledger.jobs import Job
from dicom_node.pipeline import Pipeline
from dicom_node.settings import Settings
from dicom_node.study import Recorded
from inference.engine import Analysis
from inference.findings import Findings, StudyUid
from inference.refusals import Refusal
from tests.ledgers import TestClock
from tests.results_cases import make_findings
from tests.toy_model import install_toy_model
from training.toml import to_toml

OWNER = "node:worker0:1"
QUIET_S = 10.0
CHEST = {"name": "chest", "model": "toy-opacity", "destinations": ["pacs", "web"], "match": {"modality": ["CR", "DX"]}}


def pacs(name: str, **details: object) -> dict[str, object]:
    """An archive that nobody answers for: the pipeline itself never calls it."""
    return {"name": name, "kind": "pacs", "host": "127.0.0.1", "port": 104, "called_ae": "ARCHIVE", **details}


class PipelineRig:
    """One node's pipeline in `folder`, with the toy model installed; `settings` are laid over the defaults."""

    def __init__(self, folder: Path, *, routes: Sequence[dict[str, Any]] = (CHEST,), **settings: Any) -> None:
        self.folder = folder
        self.models = folder / "models"
        if not self.models.exists():
            install_toy_model(self.models)
        (folder / "routes.toml").write_text(to_toml({"route": list(routes)}), encoding="utf-8")
        values: dict[str, Any] = {
            "data_dir": folder / "data",
            "routes_file": folder / "routes.toml",
            "models": {"folders": [self.models], "include_zoo": False},
            "storage": {"soft_free_bytes": 0, "hard_free_bytes": 0, "reserve_bytes": 0},
            "destination": [pacs("pacs"), pacs("web")],
        }
        self.settings = Settings.model_validate(values | settings)
        self.clock = TestClock()
        self.pipeline: Pipeline = build_pipeline(self.settings, self.clock, installed(self.settings))
        self.pipeline.store.prepare()
        self.pipeline.ledger.migrate()

    def close(self) -> None:
        """Let go of the ledger."""
        self.pipeline.ledger.close()

    def receive(self, path: Path, **changes: Any) -> Recorded:
        """Store a file as an acceptor does: durable first, then its row."""
        incoming = self.pipeline.store.create_incoming()
        incoming.write(path.read_bytes())
        new = read_stored(path, self.pipeline.store.place(incoming))
        assert new is not None
        values = {"calling_ae": "MODALITY", "called_ae": "RADNODE", "received_at": self.clock()}
        return self.pipeline.record_instance(replace(new, **values | changes))

    def settle(self) -> int:
        """Let the quiet time pass, and do what the coordinator does; returns how many studies were settled."""
        self.clock.move(QUIET_S)
        self.pipeline.index()
        return self.pipeline.assemble()

    def claim(self, *, alone: bool = False) -> tuple[Job, ...]:
        """Take every queued job, as a worker does."""
        with self.pipeline.ledger.begin() as tx:
            return jobs.claim(tx, owner=OWNER, now=self.clock(), lease_s=60, limit=9, ageing_s=60, alone=alone)

    def say(self, job: Job, findings: Findings | None = None, refusal: Refusal | None = None, **more: Any) -> Job:
        """Commit what a model would have said; without findings or a refusal, one lesion."""
        if findings is None and refusal is None and not more.get("unchanged"):
            findings = self.findings(job)
        digest = findings.inputs_digest if findings else None
        analysis = Analysis(findings=findings, refusal=refusal, inputs_digest=digest, timings_s={"load": 0.1}, **more)
        return self.pipeline.commit_analysis(job, OWNER, analysis)

    def findings(self, job: Job, lesions: int = 1) -> Findings:
        """Lesions on the job's own images."""
        paths = self.pipeline.study_input(job).images
        return make_findings(paths, self.pipeline.cards[job.reference], lesions=lesions)

    def work(self, **said: Any) -> tuple[Job, ...]:
        """Claim, say and encode all that is queued; returns the jobs as they were claimed."""
        claimed = self.claim()
        for job in claimed:
            self.pipeline.encode(self.say(job, **said), OWNER)
        return claimed

    def account(self, study_uid: str) -> StudyAccount:
        """Everything the ledger knows of the study."""
        account = account_of(self.pipeline.ledger, StudyUid(study_uid))
        assert account is not None
        return account

    def told(self, study_uid: str) -> list[str]:
        """What happened, in words."""
        return [f"{event.what}: {event.detail}" for event in self.account(study_uid).events]

    def result_files(self) -> list[Path]:
        """Every result on disk."""
        return sorted((self.settings.data_dir / "results").rglob("*.dcm"))

    def result(self, study_uid: str, role: str, number: int = -1) -> Dataset:
        """An object of a result set, read back from disk."""
        row = self.account(study_uid).results[number]
        (found,) = [one for one in row.objects if one.role == role]
        return pydicom.dcmread(self.pipeline.store.path(str(found.path)))

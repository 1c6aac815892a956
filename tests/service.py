"""Studies in service for tests of monitoring: put through the ledger's own functions, each to a chosen end."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import count

from dicom_node.ledger import Ledger, deliveries, jobs, results, studies
from dicom_node.ledger.jobs import NewJob
from dicom_node.ledger.results import WrittenObject
from dicom_node.states import JobState, Outcome, StudyState
from inference.findings import (
    AnalysedImage,
    Box,
    Finding,
    Findings,
    Lesion,
    ModelIdentity,
    PlanarRegion,
    Presence,
    Region,
    SeriesUid,
    SopUid,
    StudyUid,
)
from inference.refusals import Reason, Refusal
from models.codes import Code
from tests.ledgers import TestClock, instance, record

OPACITY = Code(value="128480000", scheme="SCT", meaning="Lung opacity")
LUNG = Code(value="39607008", scheme="SCT", meaning="Lung")
OWNER = "node:worker0:1"
SECONDS_TO_QUEUE, SECONDS_TO_FINDINGS = 10.0, 5.0


def findings(
    study: str, score: float, *, threshold: float = 0.5, lesions: int = 0, label: str = "opacity", images: int = 1
) -> Findings:
    """One statement about the study and each image, and so many lesions."""
    uids = [SopUid(f"{study}.{number}") for number in range(1, images + 1)]
    said = Presence.PRESENT if score >= threshold else Presence.ABSENT

    def statement(value: float, uid: SopUid | None) -> Finding:
        return Finding(
            label=label, code=OPACITY, site=LUNG, presence=said, score=value, raw_score=value, threshold=threshold,
            sop_instance_uid=uid,
        )  # fmt: skip

    region = Region(
        planes=(PlanarRegion(sop_instance_uid=uids[0], box=Box(x_min=1.0, y_min=1.0, x_max=5.0, y_max=5.0)),)
    )
    return Findings(
        model=ModelIdentity(
            name="toy-opacity", version="1.0.0", weights_digest="w", model_digest="m" * 64, device_uid="2.25.1"
        ),
        study_uid=StudyUid(study),
        inputs_digest=study,
        images=tuple(
            AnalysedImage(sop_instance_uid=uid, sop_class_uid="1.2", series_uid=SeriesUid("1.3"), rows=9, columns=9)
            for uid in uids
        ),
        findings=(statement(score, None), *(statement(score, uid) for uid in uids)),
        lesions=tuple(
            Lesion(
                label=label, code=OPACITY, site=LUNG, score=0.9, raw_score=0.9, threshold=0.3, region=region,
                tracking_id=str(number), tracking_uid=f"2.25.{number}",
            )
            for number in range(lesions)
        ),
    )  # fmt: skip


@dataclass
class Service:
    """A ledger in which studies come and end; the clock stands where the next study's last image is received."""

    ledger: Ledger
    clock: TestClock
    numbers: count[int] = field(default_factory=lambda: count(1))

    def arrive(self, *, at: datetime | None = None, accession_number: str = "", **changes: object) -> StudyUid:
        """A study whose last image is received at `at`, settled ten seconds later and queued for the toy model."""
        if at is not None:
            self.clock.now = at
        study = StudyUid(f"1.2.826.0.1.{next(self.numbers)}")
        record(self.ledger, instance(f"{study}.1", study=study, received_at=self.clock()))
        self.clock.move(SECONDS_TO_QUEUE)
        self._settle(study)
        self.queue(study, **changes)
        return study

    def _settle(self, study: StudyUid) -> None:
        with self.ledger.begin() as tx:
            row = studies.get(tx, study)
            assert row is not None
            assert studies.settle(tx, row, state=StudyState.COMPLETE, at=self.clock())

    def queue(self, study: StudyUid, **changes: object) -> None:
        """Queue a job of the toy model; `changes` are those of `NewJob`."""
        values: dict[str, object] = {
            "study_uid": study, "revision": 1, "model_name": "toy-opacity", "model_version": "1.0.0",
            "model_digest": "m" * 64, "route": "chest", "destinations": ("pacs",), "instance_ids": (1,),
            "sources_digest": "d" * 64, "incomplete": False, "priority": 0,
        }  # fmt: skip
        with self.ledger.begin() as tx:
            jobs.add(tx, NewJob(**values | changes), self.clock())  # type: ignore[arg-type]

    def analyse(
        self, study: StudyUid, score: float, *, lesions: int = 0, unread: int = 0, roles: tuple[str, ...] | None = None,
        confirmed_after_s: float | None = 20.0, profile: str = "default", **said: object,
    ) -> None:  # fmt: skip
        """The model speaks, objects are written, and the destination confirms so long after the findings."""
        spoken = findings(study, score, lesions=lesions, **said)  # type: ignore[arg-type]
        job = self._commit(study, spoken, None, unread)
        default = ("sr", "overlay") if spoken.is_positive else ("status_page",)
        self._write(study, job, roles if roles is not None else default, profile, confirmed_after_s)
        self._end(study, job, JobState.SUCCEEDED)

    def refuse(self, study: StudyUid, reason: Reason, *, confirmed_after_s: float | None = 20.0) -> None:
        """The model declines the study, and a page says so."""
        job = self._commit(study, None, Refusal(reason=reason, detail="for a test"), 0)
        self._write(study, job, ("status_page",), "default", confirmed_after_s)
        self._end(study, job, JobState.REJECTED, reason)

    def fail(self, study: StudyUid) -> None:
        """Not even the reason can be written."""
        job = self._claim(study)
        self._end(study, job, JobState.FAILED, Reason.POISON)

    def _claim(self, study: StudyUid) -> int:
        """Let a worker take all that waits; the newest job of the study that it holds."""
        with self.ledger.begin() as tx:
            jobs.claim(tx, owner=OWNER, now=self.clock(), lease_s=60, limit=99, ageing_s=60, alone=False)
            return [job.id for job in jobs.of_study(tx, study) if job.state is JobState.RUNNING][-1]

    def _commit(self, study: StudyUid, said: Findings | None, refusal: Refusal | None, unread: int) -> int:
        job = self._claim(study)
        self.clock.move(SECONDS_TO_FINDINGS)
        with self.ledger.begin() as tx:
            jobs.commit_findings(
                tx, job, owner=OWNER, inputs_digest=study, findings=said, refusal=refusal, content_time=self.clock(),
                timings_s={"model": 0.5, "total": 2.0}, at=self.clock(), images_unread=unread,
            )  # fmt: skip
        return job

    def _write(
        self, study: StudyUid, job: int, roles: tuple[str, ...], profile: str, confirmed_after_s: float | None
    ) -> None:
        objects = [
            WrittenObject(
                role=role, study_uid=study, series_uid=f"{study}.9", sop_class_uid="1.2",
                sop_instance_uid=f"{study}.9.{number}", path=None, size_bytes=10,
            )
            for number, role in enumerate(roles)
        ]  # fmt: skip
        with self.ledger.begin() as tx:
            results.commit(
                tx, job_id=job, study_uid=study, model_name="toy-opacity", profile=profile, objects=objects,
                destinations=("pacs",), at=self.clock(),
            )  # fmt: skip
            if confirmed_after_s is not None:
                row = deliveries.of_study(tx, study)[-1]
                at = self.clock() + timedelta(seconds=confirmed_after_s)
                deliveries.set_sent(tx, row.id, at=at, ask_again_at=at, reason="")
                deliveries.set_confirmed(tx, row.id, at=at, how="a query")

    def _end(self, study: StudyUid, job: int, state: JobState, reason: Reason | None = None) -> None:
        with self.ledger.begin() as tx:
            timings = {} if state is JobState.FAILED else {"model": 0.5, "total": 2.0, "encode": 0.1}
            jobs.finish(tx, job, owner=OWNER, state=state, at=self.clock(), timings_s=timings)
            outcome = Outcome.ANALYSED if state is JobState.SUCCEEDED else Outcome.NOT_ANALYSED
            studies.end(tx, study, outcome=outcome, at=self.clock(), reason=reason or "")

"""The account of a study: everything the ledger knows of it, in order, for people and for programs.

Printed by `radnode explain` and `radnode studies`, served by `/api/studies`. Only reads the ledger.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime

import sqlalchemy as sa

from dicom_node.ledger import Ledger, deliveries, events, instances, jobs, results, studies
from dicom_node.ledger.deliveries import DeliveryRow
from dicom_node.ledger.events import Event
from dicom_node.ledger.instances import StoredInstance
from dicom_node.ledger.jobs import Job
from dicom_node.ledger.results import ResultSetRow
from dicom_node.ledger.studies import StudyRow
from dicom_node.states import JobRole, JobState
from dicom_node.wording import ReportText
from dicom_node.wording.job import text_of_job
from inference.findings import StudyUid
from models.card import ModelCard

LANGUAGES = ("ru", "en")
_NO_CARDS: Mapping[str, ModelCard] = {}


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyAccount:
    """One study with everything that happened to it.

    `texts` are the reports in words by job, in every language; of shadows, which say nothing to anybody, there is none.
    """

    study: StudyRow
    instances: tuple[StoredInstance, ...]
    events: tuple[Event, ...]
    jobs: tuple[Job, ...]
    results: tuple[ResultSetRow, ...]
    deliveries: tuple[DeliveryRow, ...]
    texts: Mapping[int, tuple[ReportText, ...]] = field(default_factory=dict)

    def to_json(self) -> dict[str, object]:
        """Plain values: times as ISO 8601 in UTC."""
        return {
            **_study_json(self.study),
            "instances": [
                {
                    "sop_instance_uid": one.sop_instance_uid,
                    "sop_class_uid": one.sop_class_uid,
                    "state": one.state,
                    "reason": one.reason,
                    "detail": one.detail,
                    "is_current": one.is_current,
                }
                for one in self.instances
            ],
            "events": [
                {
                    "at": _iso(one.at),
                    "revision": one.revision,
                    "stage": one.stage,
                    "what": one.what,
                    "detail": one.detail,
                }
                for one in self.events
            ],
            "jobs": [_job_json(one, self.texts.get(one.id, ())) for one in self.jobs],
            "results": [
                {
                    "model": one.model_name,
                    "profile": one.profile,
                    "kind": one.kind,
                    "is_current": one.is_current,
                    "objects": [
                        {
                            "role": written.role,
                            "sop_class_uid": written.sop_class_uid,
                            "sop_instance_uid": written.sop_instance_uid,
                            "series_uid": written.series_uid,
                        }
                        for written in one.objects
                    ],
                }
                for one in self.results
            ],
            "deliveries": [{**_delivery_json(one), **_sent_json(self.result_of(one))} for one in self.deliveries],
        }

    def result_of(self, delivery: DeliveryRow) -> ResultSetRow | None:
        """The result set that a delivery brings."""
        return next((one for one in self.results if one.id == delivery.result_set_id), None)


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyLine:
    """One study in a list."""

    study: StudyRow
    instance_count: int
    models: tuple[str, ...]
    lesion_scores: tuple[float, ...]
    objects: int
    deliveries: tuple[str, ...]
    seconds_to_result: float | None

    def to_json(self) -> dict[str, object]:
        """Plain values."""
        return {
            **_study_json(self.study),
            "instance_count": self.instance_count,
            "models": list(self.models),
            "lesion_scores": list(self.lesion_scores),
            "result_objects": self.objects,
            "deliveries": list(self.deliveries),
            "seconds_from_last_image_to_result": self.seconds_to_result,
        }


def account_of(ledger: Ledger, study_uid: StudyUid, cards: Mapping[str, ModelCard] = _NO_CARDS) -> StudyAccount | None:
    """Everything about one study, or None; findings are put into words where `cards` has the model's, by reference."""
    with ledger.read() as tx:
        study = studies.get(tx, study_uid)
        if study is None:
            return None
        stored = instances.of_study(tx, study_uid, only_current=False)
        every_job = jobs.of_study(tx, study_uid)
        return StudyAccount(
            study=study,
            instances=stored,
            events=events.of_study(tx, study_uid),
            jobs=every_job,
            results=results.of_study(tx, study_uid),
            deliveries=deliveries.of_study(tx, study_uid),
            texts={one.id: _texts(one, stored, cards) for one in every_job if one.role is not JobRole.SHADOW},
        )


def _texts(job: Job, stored: tuple[StoredInstance, ...], cards: Mapping[str, ModelCard]) -> tuple[ReportText, ...]:
    told = (text_of_job(job, stored, cards.get(job.reference), language=language) for language in LANGUAGES)
    return tuple(text for text in told if text is not None)


def newest_studies(ledger: Ledger, *, limit: int) -> tuple[StudyLine, ...]:
    """The studies that arrived last, newest first."""
    with ledger.read() as tx:
        return tuple(_line(tx, study) for study in studies.newest(tx, limit=limit))


def _line(tx: sa.Connection, study: StudyRow) -> StudyLine:
    every = [job for job in jobs.of_study(tx, study.study_uid) if job.role is JobRole.CHAMPION]
    done = [job for job in every if job.state is JobState.SUCCEEDED]
    latest = {job.model_name: job for job in done}.values()
    sets = [row for row in results.of_study(tx, study.study_uid) if row.is_current]
    sent = deliveries.of_study(tx, study.study_uid)
    ended = [row.finished_at for row in sent if row.finished_at]
    seconds = (max(ended) - study.last_received_at).total_seconds() if ended and len(ended) == len(sent) else None
    return StudyLine(
        study=study,
        instance_count=studies.instance_count(tx, study.study_uid),
        models=tuple(job.reference for job in latest),
        lesion_scores=tuple(lesion.score for job in latest if job.findings for lesion in job.findings.lesions),
        objects=sum(len(row.objects) for row in sets),
        deliveries=tuple(f"{row.destination}: {row.state}" for row in sent),
        seconds_to_result=seconds,
    )


def _study_json(study: StudyRow) -> dict[str, object]:
    return {
        "study_uid": study.study_uid,
        "state": study.state,
        "revision": study.revision,
        "outcome": study.outcome,
        "outcome_reason": study.outcome_reason,
        "outcome_detail": study.outcome_detail,
        "waiting_for": study.waiting_for,
        "calling_ae": study.calling_ae,
        "first_received_at": _iso(study.first_received_at),
        "last_received_at": _iso(study.last_received_at),
        "completed_at": _iso(study.completed_at),
        "outcome_at": _iso(study.outcome_at),
        "retracted_at": _iso(study.retracted_at),
    }


def _job_json(job: Job, texts: tuple[ReportText, ...]) -> dict[str, object]:
    lesions: list[Mapping[str, object]] = []
    for lesion in job.findings.lesions if job.findings else ():
        box = lesion.region.key_plane.box
        lesions.append(
            {
                "label": lesion.label,
                "score": lesion.score,
                "tracking_uid": lesion.tracking_uid,
                "sop_instance_uid": lesion.region.key_plane.sop_instance_uid,
                "box": [box.x_min, box.y_min, box.x_max, box.y_max],
            }
        )
    return {
        "model": job.reference,
        "model_digest": job.model_digest,
        "role": job.role,
        "revision": job.revision,
        "state": job.state,
        "stage": job.stage,
        "attempts": job.attempts,
        "refusal": str(job.refusal) if job.refusal else None,
        "flags": list(job.findings.flags) if job.findings else [],
        "lesions": lesions,
        "report": {text.language: asdict(text) for text in texts},
        "timings_s": dict(job.timings_s),
    }


def _delivery_json(row: DeliveryRow) -> dict[str, object]:
    return {
        "destination": row.destination,
        "state": row.state,
        "attempts": row.attempts,
        "reason": row.reason,
        "sent_at": _iso(row.sent_at),
        "finished_at": _iso(row.finished_at),
    }


def _sent_json(result: ResultSetRow | None) -> dict[str, object]:
    """What a delivery brings: a model's result under a profile, or a retraction."""
    if result is None:
        return {}
    return {"model": result.model_name, "kind": result.kind, "profile": result.profile}


def _iso(at: datetime | None) -> str | None:
    return at.isoformat(timespec="milliseconds") if at else None

"""The account of a study: everything the ledger knows of it, in order, for people and for programs.

Printed by `radnode explain` and `radnode studies`, served by `/api/studies`. Only reads the ledger.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime

import sqlalchemy as sa

from dicom_node.ledger import Ledger, deliveries, documents, events, holds, instances, jobs, results, studies
from dicom_node.ledger.deliveries import DeliveryRow
from dicom_node.ledger.documents import DocumentRow
from dicom_node.ledger.events import Event
from dicom_node.ledger.holds import Hold
from dicom_node.ledger.instances import StoredInstance
from dicom_node.ledger.jobs import Job
from dicom_node.ledger.results import ResultSetRow
from dicom_node.ledger.studies import StudyRow
from dicom_node.settings import Settings
from dicom_node.states import DeliveryState, DocumentState, JobRole, JobState
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
    documents: tuple[DocumentRow, ...] = ()
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
            "documents": [document_json(one) for one in self.documents],
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
    documents: tuple[str, ...]
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
            "documents": list(self.documents),
            "seconds_from_last_image_to_result": self.seconds_to_result,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class DestinationLine:
    """One archive or receiver of the record in a list.

    Attributes
    ----------
    waiting : int
        Results or documents that have not arrived and that nobody needs to look at.
    oldest_waiting_s : float or None
        Since how long the oldest of them waits; None where none does.
    arrived : int
        Those that the destination has.
    needs_a_person : mapping of str to int
        How many are in each state that a person must look at.
    withheld : int
        Documents that the destination by rule does not take: of research models, where it does not accept them.
    hold : Hold or None
        Who holds the destination back.
    """

    name: str
    kind: str
    waiting: int
    oldest_waiting_s: float | None
    arrived: int
    needs_a_person: Mapping[str, int]
    withheld: int
    hold: Hold | None

    def to_json(self) -> dict[str, object]:
        """Plain values."""
        held = self.hold
        return {
            "name": self.name,
            "kind": self.kind,
            "waiting": self.waiting,
            "oldest_waiting_s": self.oldest_waiting_s,
            "arrived": self.arrived,
            "needs_a_person": dict(self.needs_a_person),
            "withheld": self.withheld,
            "hold": {"since": _iso(held.since), "operator": held.operator, "why": held.why} if held else None,
        }


_ARRIVED = {str(state) for state in (DeliveryState.SENT, DeliveryState.CONFIRMED, *documents.LEFT)}
_NEEDS_A_PERSON = {
    str(state) for state in (DeliveryState.FAILED, DocumentState.PARKED, DocumentState.FAILED, DocumentState.REFUSED)
}


def destination_lines(ledger: Ledger, settings: Settings) -> tuple[DestinationLine, ...]:
    """Every archive and receiver of the settings, in their order, with what the ledger has for it."""
    with ledger.read() as tx:
        counts: dict[tuple[str, str], int] = {
            **{(name, str(state)): count for (name, state), count in deliveries.count_by_state(tx).items()},
            **{(name, str(state)): count for (name, state), count in documents.count_by_state(tx).items()},
        }
        oldest = {**deliveries.oldest_open(tx), **documents.oldest_waiting(tx)}
        held = holds.every(tx)
    now = ledger.clock()
    return tuple(
        _destination_line(one.name, one.kind, counts, oldest.get(one.name), held.get(one.name), now)
        for one in (*settings.destination, *settings.record)
    )


def _destination_line(
    name: str,
    kind: str,
    counts: Mapping[tuple[str, str], int],
    oldest: datetime | None,
    hold: Hold | None,
    now: datetime,
) -> DestinationLine:
    mine = {state: count for (whose, state), count in counts.items() if whose == name}
    return DestinationLine(
        name=name,
        kind=kind,
        waiting=mine.get(str(DeliveryState.PENDING), 0),
        oldest_waiting_s=max(0.0, (now - oldest).total_seconds()) if oldest else None,
        arrived=sum(count for state, count in mine.items() if state in _ARRIVED),
        needs_a_person={state: count for state, count in mine.items() if state in _NEEDS_A_PERSON},
        withheld=mine.get(str(DocumentState.WITHHELD), 0),
        hold=hold,
    )


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
            documents=documents.of_study(tx, study_uid),
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
        documents=tuple(f"{row.destination}: {row.state}" for row in documents.newest_of_sets(tx, study.study_uid)),
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


def document_json(row: DocumentRow) -> dict[str, object]:
    """One document of the record as programs read it; it names no patient."""
    return {
        "document_id": row.document_id,
        "set_id": row.set_id,
        "version": row.version,
        "replaces": row.replaces,
        "destination": row.destination,
        "model_name": row.model_name,
        "kind": row.kind,
        "state": row.state,
        "park_reason": row.park_reason,
        "reason": row.reason,
        "attempts": row.attempts,
        "next_attempt_at": _iso(row.next_attempt_at),
        "receiver_ids": list(row.receiver_ids),
        "sha256": row.sha256,
        "created_at": _iso(row.created_at),
        "handed_over_at": _iso(row.handed_over_at),
        "finished_at": _iso(row.finished_at),
        "returned_at": _iso(row.returned_at),
        "register_number": row.register_number,
        "register_code": row.register_code,
    }


def _sent_json(result: ResultSetRow | None) -> dict[str, object]:
    """What a delivery brings: a model's result under a profile, or a retraction."""
    if result is None:
        return {}
    return {"model": result.model_name, "kind": result.kind, "profile": result.profile}


def _iso(at: datetime | None) -> str | None:
    return at.isoformat(timespec="milliseconds") if at else None

"""How a study ends: its one Outcome, and the line in its account for every decision.

Called by the stages (`pipeline`, `encoding`) within the transaction that decides. What the states mean is `states`.
"""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
import structlog

from dicom_node.ledger import events, jobs, studies
from dicom_node.ledger.jobs import Job
from dicom_node.ledger.studies import StudyRow
from dicom_node.states import JobRole, JobState, Outcome, Stage, StudyState
from inference.findings import StudyUid
from inference.refusals import Reason, Refusal

log = structlog.get_logger(__name__)

# Reasons that concern the study as a whole: no job of an older revision may speak against them.
WHOLE_STUDY = frozenset({Reason.TWO_PATIENTS, Reason.TOO_MANY_INSTANCES})


def note(tx: sa.Connection, of: StudyRow | Job, stage: Stage, what: str, now: datetime, detail: str = "") -> None:
    """Append a decision to the account of the study."""
    events.add(tx, of.study_uid, at=now, stage=stage, what=what, detail=detail, revision=of.revision)


def end(tx: sa.Connection, study: StudyRow, outcome: Outcome, now: datetime, refusal: Refusal | None = None) -> None:
    """Give the study its Outcome, in place of an earlier one."""
    reason, detail = (refusal.reason, refusal.detail) if refusal else ("", "")
    studies.end(tx, study.study_uid, outcome=outcome, at=now, reason=reason, detail=detail)
    what = f"outcome {outcome}" + (f": {reason}" if reason else "")
    note(tx, study, Stage.ROUTE if outcome is Outcome.NO_ROUTE else Stage.ENCODE, what, now, detail)
    log.info("study ended", study_uid=study.study_uid, outcome=outcome, reason=reason or None)


def is_refused_as_a_whole(study: StudyRow) -> bool:
    """Whether the study's current revision was refused before any model was asked."""
    if study.outcome_at is None or study.completed_at is None or study.outcome_at < study.completed_at:
        return False  # nothing settled yet, or the outcome is that of an earlier revision
    refused = study.outcome is Outcome.NOT_ANALYSED and study.outcome_reason in WHOLE_STUDY
    return refused or study.outcome is Outcome.QUARANTINED


def conclude_job(tx: sa.Connection, job: Job, now: datetime) -> None:
    """A job has ended: perhaps its study has. A shadow's job ends nothing."""
    if job.role is JobRole.CHAMPION:
        conclude(tx, job.study_uid, now)


def conclude(tx: sa.Connection, study_uid: StudyUid, now: datetime) -> None:
    """When the last job of the current revision has ended, the study has its Outcome."""
    study = studies.get(tx, study_uid)
    if study is None or study.state is StudyState.RECEIVING or is_refused_as_a_whole(study):
        return
    every = [job for job in jobs.of_study(tx, study_uid) if job.role is JobRole.CHAMPION]
    if any(job.state in (JobState.QUEUED, JobState.RUNNING) for job in every):
        return
    no_result = (JobState.UNCHANGED, JobState.OUTDATED)
    last_of = {job.model_name: job for job in every if job.state not in no_result}
    if any(job.state is JobState.SUCCEEDED for job in last_of.values()):
        end(tx, study, Outcome.ANALYSED, now)
        return
    refusal = next((job.refusal for job in last_of.values() if job.refusal), None)
    if refusal is None and any(job.state is JobState.FAILED for job in last_of.values()):
        refusal = Refusal(reason=Reason.POISON, detail="the result could not be written")
    if refusal:
        end(tx, study, Outcome.NOT_ANALYSED, now, refusal)


def is_outdated(tx: sa.Connection, job: Job) -> bool:
    """Whether a job's result must not be written any more.

    Because a later revision has a job of the same model, or was refused as a whole, or because a person withdrew the
    study's results after the job was queued. A shadow has no result that could be withdrawn.
    """
    study = studies.get(tx, job.study_uid)
    if study is None:
        return True
    retracted = study.retracted_at is not None and job.queued_at < study.retracted_at
    withdrawn = retracted and job.role is JobRole.CHAMPION
    refused = study.revision > job.revision and is_refused_as_a_whole(study)
    return withdrawn or refused or jobs.is_overtaken(tx, job)

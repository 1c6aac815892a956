"""Withdrawing results: a person retracts what the node said of a study, and every archive that has it is told.

Called by `radnode retract`. The rejection note is an IOCM Key Object (`results.retraction`); it goes where the results
went, as a result set of its own.
"""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa

from dicom_node.ledger import deliveries, events, instances, jobs, results, studies
from dicom_node.pipeline import Pipeline, references
from dicom_node.states import InstanceState, Stage
from inference.findings import StudyUid


def retract(pipeline: Pipeline, study_uid: StudyUid) -> int:
    """Withdraw every current result of a study; returns how many result sets were withdrawn."""
    with pipeline.ledger.begin() as tx:
        current = [row for row in results.of_study(tx, study_uid) if row.is_current]
        for row in current:
            _withdraw(tx, pipeline, row)
        if current:
            studies.set_retracted(tx, study_uid, pipeline.ledger.clock())
        return len(current)


def _source(tx: sa.Connection, pipeline: Pipeline, row: results.ResultSetRow) -> Path:
    """An image of the study, for patient and study; once all are evicted, the withdrawn result itself says both."""
    for stored in instances.of_study(tx, row.study_uid):
        if stored.path and stored.state is InstanceState.INDEXED:
            return pipeline.store.path(stored.path)
    return pipeline.store.path(row.objects[0].path)


def _withdraw(tx: sa.Connection, pipeline: Pipeline, row: results.ResultSetRow) -> None:
    from dicom_node.results.retraction import RetractRequest, Withdrawal, encode_retraction

    now = pipeline.ledger.clock()
    job = next(job for job in jobs.of_study(tx, row.study_uid) if job.id == row.job_id)
    note = encode_retraction(
        RetractRequest(
            source=_source(tx, pipeline, row),
            withdrawn=references(row),
            reason=Withdrawal.QUALITY,
            card=pipeline.cards.get(job.reference),
            profile=next(profile for profile in pipeline.settings.profile if profile.name == row.profile),
            content_time=now,
        )
    )
    results.withdraw_current(tx, row.id)
    results.commit(
        tx,
        job_id=row.job_id,
        study_uid=row.study_uid,
        model_name=row.model_name,
        profile=row.profile,
        objects=[pipeline.write_object(row.study_uid, note)],
        destinations=[one.destination for one in deliveries.of_result_set(tx, row.id)],
        at=now,
        kind=results.ResultKind.RETRACTION,
    )
    events.add(
        tx,
        row.study_uid,
        at=now,
        stage=Stage.RETRACT,
        what=f"{row.model_name}: {len(row.objects)} object(s) withdrawn by a rejection note",
        detail=f"profile {row.profile}",
    )

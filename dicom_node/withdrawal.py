"""Withdrawing results: what the node said is taken back, and every archive that has it is told.

A person retracts a study's results (`radnode retract`), or a newer result supersedes an older one at an archive that
honours rejection notes (the profile's `reject_superseded`). The note is an IOCM Key Object (`results.retraction`); it
goes where the results went, as a result set of its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa

from dicom_node.ledger import deliveries, events, instances, jobs, results, studies
from dicom_node.states import InstanceState, Stage
from inference.findings import StudyUid

if TYPE_CHECKING:
    from dicom_node.pipeline import Pipeline
    from dicom_node.results.retraction import Withdrawal


class NoImageLeft(Exception):
    """No image of the study is left to take patient and study from."""


SUPERSEDED = "quality"  # the title of a note about a result that a newer one replaces


def retract(pipeline: Pipeline, study_uid: StudyUid, reason: str) -> int:
    """Withdraw every current result of a study.

    Parameters
    ----------
    reason : str
        A `results.retraction.Withdrawal` value.

    Returns
    -------
    int
        How many result sets were withdrawn.
    """
    with pipeline.ledger.begin() as tx:
        current = [row for row in results.of_study(tx, study_uid) if row.is_current]
        for row in current:
            results.withdraw_current(tx, row.id)
            reject(tx, pipeline, row, reason)
        if current:
            studies.set_retracted(tx, study_uid, pipeline.ledger.clock())
        return len(current)


def reject(tx: sa.Connection, pipeline: Pipeline, row: results.ResultSetRow, reason: str) -> None:
    """Write the rejection note of one result set and queue it for every destination that the set went to."""
    from dicom_node.results.retraction import RetractRequest, Withdrawal, encode_retraction

    now = pipeline.ledger.clock()
    spoken_by = next(job for job in jobs.of_study(tx, row.study_uid) if job.id == row.job_id)
    why: Withdrawal = Withdrawal(reason)
    note = encode_retraction(
        RetractRequest(
            source=_any_image(tx, pipeline, row),
            withdrawn=row.references,
            reason=why,
            card=pipeline.cards.get(spoken_by.reference),
            profile=pipeline.profile(row.profile),
            content_time=now,
        )
    )
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
    what = f"{row.model_name}: {len(row.objects)} object(s) withdrawn by a rejection note"
    detail = f"reason {why}, profile {row.profile}"
    events.add(tx, row.study_uid, at=now, stage=Stage.RETRACT, what=what, detail=detail)


def _any_image(tx: sa.Connection, pipeline: Pipeline, row: results.ResultSetRow) -> Path:
    """A file that names patient and study: an image, or, once all are evicted, the withdrawn result itself.

    Raises
    ------
    NoImageLeft
        When neither is there any more.
    """
    images = [one for one in instances.of_study(tx, row.study_uid) if one.state is InstanceState.INDEXED]
    for relative_path in [one.path for one in images] + [one.path for one in row.objects]:
        if relative_path and (path := pipeline.store.path(relative_path)).exists():
            return path
    raise NoImageLeft("every file of the study is gone; let the source send one image of it again")

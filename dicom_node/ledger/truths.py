"""Truth that comes back: what radiologists' reports say of studies, as far as it was decided from a source.

`radnode monitor truth` enters it from tables; whoever takes reports in by FHIR or HL7 calls the same `record`. How
model and report agree is counted in `service`. A later reading of the same study and label replaces the earlier one,
which is kept.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

import sqlalchemy as sa

from dicom_node.ledger.schema import job, label_score, study, truth
from dicom_node.states import JobRole, JobState, Reading, TruthSource
from inference.findings import StudyUid

WHOLE_STUDY = ""  # the label of a reading that speaks of the study and not of one label


@dataclass(frozen=True, kw_only=True, slots=True)
class NewTruth:
    """One reading to be entered.

    Attributes
    ----------
    study_uid : StudyUid
        A study that the ledger knows.
    label : str
        Key of the card's label that it speaks of; empty for the study as a whole, which every model is held against.
    reading : Reading
    source : TruthSource
    rule : str
        What in the source decided, in words: "column reading = '1'". Holds no patient data and no text of a report.
    read_at : datetime
        When the radiologist said it.
    """

    study_uid: StudyUid
    label: str = WHOLE_STUDY
    reading: Reading
    source: TruthSource
    rule: str
    read_at: datetime


class Entered(StrEnum):
    """What became of a reading."""

    NEW = "new"  # the first of its study and label
    REPLACED = "replaced"  # in place of an earlier one, which is kept
    SAME = "same"  # it says what is known; nothing was written
    OLDER = "older"  # a later reading is known; nothing was written


def record(tx: sa.Connection, new: NewTruth, now: datetime) -> Entered:
    """Enter one reading; its study must be known (`find_studies`)."""
    mine = (truth.c.study_uid == new.study_uid, truth.c.label == new.label, truth.c.is_current)
    known = tx.execute(sa.select(truth.c.reading, truth.c.rule, truth.c.read_at).where(*mine)).first()
    if known is not None:
        if (known.reading, known.rule) == (new.reading, new.rule):
            return Entered.SAME
        if known.read_at > new.read_at:
            return Entered.OLDER
        tx.execute(truth.update().where(*mine).values(is_current=False))
    tx.execute(
        truth.insert().values(
            study_uid=new.study_uid,
            label=new.label,
            reading=new.reading,
            source=new.source,
            rule=new.rule,
            read_at=new.read_at,
            entered_at=now,
            is_current=True,
        )
    )
    return Entered.NEW if known is None else Entered.REPLACED


def is_known(tx: sa.Connection, study_uid: str) -> bool:
    """Whether the ledger has this study."""
    return tx.execute(sa.select(study.c.study_uid).where(study.c.study_uid == study_uid)).first() is not None


def with_accession_number(tx: sa.Connection, accession_number: str) -> tuple[StudyUid, ...]:
    """Studies whose images carry this Accession Number (0008,0050), at most three: more than one cannot be told apart.

    A study that arrived before radnode kept the number is not found by it.
    """
    query = sa.select(study.c.study_uid).where(study.c.accession_number == accession_number).limit(3)
    return tuple(tx.execute(query).scalars())


def withdraw(
    tx: sa.Connection, study_uid: StudyUid, *, sources: Collection[TruthSource], until: datetime
) -> tuple[str, ...]:
    """Take back what came from `sources` and was read at `until` or before; the rows are kept. Gives their labels."""
    which = (truth.c.study_uid == study_uid, truth.c.is_current, truth.c.source.in_(sources), truth.c.read_at <= until)
    labels = tuple(tx.execute(sa.select(truth.c.label).where(*which).order_by(truth.c.label)).scalars())
    if labels:
        tx.execute(truth.update().where(*which).values(is_current=False))
    return labels


def was_withdrawn(tx: sa.Connection, new: NewTruth) -> bool:
    """Whether a reading of this source that is as new or newer was taken back, so that this one comes too late."""
    mine = (truth.c.study_uid == new.study_uid, truth.c.label == new.label)
    if tx.execute(sa.select(truth.c.id).where(*mine, truth.c.is_current)).first() is not None:
        return False
    newest = sa.select(sa.func.max(truth.c.read_at)).where(*mine, truth.c.source == new.source)
    found = tx.execute(newest).scalar()
    return found is not None and found >= new.read_at


@dataclass(frozen=True, kw_only=True, slots=True)
class Known:
    """A reading that holds."""

    label: str
    reading: Reading
    source: TruthSource
    rule: str
    read_at: datetime


def current(tx: sa.Connection, study_uid: StudyUid) -> tuple[Known, ...]:
    """The readings of a study that hold, by label."""
    query = sa.select(truth).where(truth.c.study_uid == study_uid, truth.c.is_current).order_by(truth.c.label)
    return tuple(
        Known(
            label=row.label,
            reading=Reading(row.reading),
            source=TruthSource(row.source),
            rule=row.rule,
            read_at=row.read_at,
        )
        for row in tx.execute(query)
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Spoken:
    """What a model last said of one label of a study; `model` is ``name@version``."""

    model: str
    role: JobRole
    label: str
    present: bool


def spoken(tx: sa.Connection, study_uid: StudyUid) -> tuple[Spoken, ...]:
    """What each version said of a study when it last succeeded on it, by version and label."""
    newest = (
        sa.select(sa.func.max(job.c.id))
        .where(job.c.study_uid == study_uid, job.c.state == JobState.SUCCEEDED)
        .group_by(job.c.model_name, job.c.model_version)
    )
    query = (
        sa.select(job.c.model_name, job.c.model_version, job.c.role, label_score.c.label, label_score.c.present)
        .join(label_score, label_score.c.job_id == job.c.id)
        .where(job.c.id.in_(newest))
        .order_by(job.c.model_name, job.c.model_version, label_score.c.label)
    )
    return tuple(
        Spoken(model=f"{name}@{version}", role=JobRole(role), label=label, present=bool(present))
        for name, version, role, label, present in tx.execute(query)
    )

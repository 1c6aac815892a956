"""Truth that comes back: what radiologists' reports say of studies, as far as it was decided from a source.

`radnode monitor truth` enters it from tables; whoever takes reports in by FHIR or HL7 calls the same `record`. How
model and report agree is counted in `service`. A later reading of the same study and label replaces the earlier one,
which is kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

import sqlalchemy as sa

from dicom_node.ledger.schema import study, truth
from dicom_node.states import Reading, TruthSource
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

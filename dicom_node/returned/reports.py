"""Takes a radiologist's report in: finds its study, decides a reading for each label, and enters it as truth.

Called by every door of `desk`. Only signed reports decide; what is refused is refused with the reason and the remedy.
Of the report nothing is kept but the readings and the names of the rules that decided them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

import sqlalchemy as sa

from dicom_node.ehr.inbound import RadiologistReport, ReportStatus
from dicom_node.ledger import Ledger, events, instances, truths
from dicom_node.ledger.truths import Entered, NewTruth, Spoken
from dicom_node.returned.rules import LabelRules, ReportRules
from dicom_node.states import Reading, Stage, TruthSource
from inference.findings import StudyUid

_FROM_REPORTS: Final = (TruthSource.FHIR, TruthSource.HL7)
PatientIds = Callable[[StudyUid], Collection[str]]


class Agreement(StrEnum):
    """How a model's word stands to the radiologist's."""

    AGREE = "agree"  # both say yes, or both no
    DISAGREE = "disagree"  # one says yes, the other no
    UNCLEAR = "unclear"  # the report does not decide


class Answered(StrEnum):
    """What became of a report."""

    TAKEN = "taken"  # its readings are truth now, or were already
    IGNORED = "ignored"  # not signed, or nothing in it is asked for: nothing to do, and nothing wrong
    WITHDRAWN = "withdrawn"  # the readings of the study were taken back
    REFUSED = "refused"  # it cannot be taken as it is


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelTaken:
    """The reading of one label.

    Attributes
    ----------
    label : str
    reading : Reading
    rule : str
        What decided, in names of the rules file.
    entered : Entered or None
        What it changed; None when a report as new had been taken back.
    against : tuple of (str, Agreement)
        Versions of models that had spoken of the label by then.
    """

    label: str
    reading: Reading
    rule: str
    entered: Entered | None
    against: tuple[tuple[str, Agreement], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Taken:
    """What became of a report; `why` holds no patient data and no words of the report."""

    answered: Answered
    why: str
    study_uid: StudyUid | None = None
    labels: tuple[LabelTaken, ...] = ()


class _Refused(Exception):
    pass


def agreement(reading: Reading, *, present: bool) -> Agreement:
    """Hold a model's word against a reading."""
    if reading is Reading.UNCLEAR:
        return Agreement.UNCLEAR
    return Agreement.AGREE if present is (reading is Reading.POSITIVE) else Agreement.DISAGREE


def take_report(
    ledger: Ledger,
    report: RadiologistReport,
    rules: ReportRules,
    *,
    source: TruthSource,
    labels: Collection[str],
    now: datetime,
    patient_ids: PatientIds | None = None,
) -> Taken:
    """Take one report in, in one transaction; taking it again changes nothing.

    Parameters
    ----------
    ledger : Ledger
    report : RadiologistReport
        As `dicom_node.ehr.inbound` read it.
    rules : ReportRules
    source : TruthSource
        FHIR or HL7.
    labels : collection of str
        Labels of installed models; others are not read.
    now : datetime
    patient_ids : callable, optional
        Gives the Patient IDs (0010,0020) of a study's images, none when they are gone. A report that is linked by
        accession number alone must carry one of them; absent: not compared.

    Returns
    -------
    Taken
    """
    if report.status is ReportStatus.PRELIMINARY:
        return Taken(answered=Answered.IGNORED, why="the report is preliminary: only signed reports decide")
    try:
        with ledger.begin() as tx:
            study_uid = _study(tx, report, patient_ids)
            entry = _Entry(tx=tx, study_uid=study_uid, report=report, rules=rules, source=source, now=now)
            return entry.withdraw() if report.status is ReportStatus.WITHDRAWN else entry.take(labels)
    except _Refused as error:
        return Taken(answered=Answered.REFUSED, why=str(error))


def _study(tx: sa.Connection, report: RadiologistReport, patient_ids: PatientIds | None) -> StudyUid:
    if report.study_uid is not None:
        if not truths.is_known(tx, report.study_uid):
            raise _Refused("no study with the report's Study Instance UID has been received here")
        return report.study_uid
    found = truths.with_accession_number(tx, report.accession_number or "")
    if not found:
        raise _Refused(
            "no study with the report's accession number has been received here: send the Study Instance UID"
        )
    if len(found) > 1:
        raise _Refused("several studies have the report's accession number: send the Study Instance UID")
    if patient_ids is not None and report.patient_id:
        known = patient_ids(found[0])
        if known and report.patient_id.strip() not in known:
            raise _Refused(
                "the report names another patient than the images under its accession number: send the Study Instance "
                "UID, or set compare_patient = false where the two systems number patients differently"
            )
    return found[0]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Entry:
    """One report about one study, on its way into the ledger."""

    tx: sa.Connection
    study_uid: StudyUid
    report: RadiologistReport
    rules: ReportRules
    source: TruthSource
    now: datetime

    @property
    def read_at(self) -> datetime:
        """When it was said; a clock that goes fast must not make a report newer than any that can come."""
        return self.now if self.report.signed_at is None else min(self.report.signed_at, self.now)

    def withdraw(self) -> Taken:
        """Take back what reports said of the study."""
        labels = truths.withdraw(self.tx, self.study_uid, sources=_FROM_REPORTS, until=self.read_at)
        if not labels:
            why = "the report is withdrawn; nothing of it was held"
            return Taken(answered=Answered.WITHDRAWN, why=why, study_uid=self.study_uid)
        why = f"the radiologist's report is withdrawn: no reading any more for {', '.join(labels)}"
        events.add(self.tx, self.study_uid, at=self.now, stage=Stage.RETURN, what=why)
        return Taken(answered=Answered.WITHDRAWN, why=why, study_uid=self.study_uid)

    def take(self, labels: Collection[str]) -> Taken:
        """Enter a reading for each label that the report can speak of."""
        said = truths.spoken(self.tx, self.study_uid)
        found = tuple(self._label(one, said) for one in self._asked(labels))
        if not found:
            why = "no installed model has a label that the rules read for studies of this modality"
            return Taken(answered=Answered.IGNORED, why=why, study_uid=self.study_uid)
        return Taken(answered=Answered.TAKEN, why=_told(found), study_uid=self.study_uid, labels=found)

    def _asked(self, labels: Collection[str]) -> Iterable[LabelRules]:
        """Rules of the labels that a report can speak of: by modality, where images have told theirs."""
        stored = instances.of_study(self.tx, self.study_uid)
        modalities = {one.facts.modality for one in stored if one.facts is not None and one.facts.modality}
        for one in self.rules.label:
            if one.key in labels and (not one.modalities or not modalities or modalities & set(one.modalities)):
                yield one

    def _label(self, label: LabelRules, said: Sequence[Spoken]) -> LabelTaken:
        decided = self.rules.read(label, self.report.conclusion, self.report.codes)
        new = NewTruth(
            study_uid=self.study_uid,
            label=label.key,
            reading=decided.reading,
            source=self.source,
            rule=decided.rule,
            read_at=self.read_at,
        )
        entered = None if truths.was_withdrawn(self.tx, new) else truths.record(self.tx, new, self.now)
        against = tuple(
            (one.model, agreement(decided.reading, present=one.present)) for one in said if one.label == label.key
        )
        taken = LabelTaken(
            label=label.key, reading=decided.reading, rule=decided.rule, entered=entered, against=against
        )
        if entered in {Entered.NEW, Entered.REPLACED}:
            what, detail = f"the radiologist's report: {_words(taken)}", f"decided by {decided.rule}; by {self.source}"
            events.add(self.tx, self.study_uid, at=self.now, stage=Stage.RETURN, what=what, detail=detail)
        return taken


_AGREES: Final = {
    Agreement.AGREE: "agrees with",
    Agreement.DISAGREE: "disagrees with",
    Agreement.UNCLEAR: "decides nothing against",
}


def _words(taken: LabelTaken) -> str:
    held = ", ".join(f"{_AGREES[how]} {model}" for model, how in taken.against)
    return f"{taken.label} {taken.reading} ({held or 'no model has spoken of it yet'})"


_ENTERED: Final = {
    Entered.NEW: "",
    Entered.REPLACED: " in place of an earlier reading",
    Entered.SAME: ", known already",
    Entered.OLDER: ", not entered: a later reading is known",
    None: ", not entered: a report as new was withdrawn",
}


def _told(found: Iterable[LabelTaken]) -> str:
    return "; ".join(_words(one) + _ENTERED[one.entered] for one in found)

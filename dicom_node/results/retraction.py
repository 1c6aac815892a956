"""Withdrawal of results: a rejection note (IHE IOCM Key Object Selection) that names the withdrawn objects.

Called by `radnode retract`. An archive that honours IOCM hides or deletes what the note names; one that does not keeps
both, and the note says why. A superseded report is also named by its successor (`sr`, Predecessor Documents).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Final

from pydicom import Dataset
from pydicom.uid import KeyObjectSelectionDocumentStorage

from dicom_node.results import texts
from dicom_node.results.evidence import hierarchy, sop_item
from dicom_node.results.header import part_10, read_source_header
from dicom_node.results.profile import ENCODER_VERSION, Profile
from dicom_node.results.provenance import NODE_DEVICE_UID, NODE_NAME, code_item, stamp_as
from dicom_node.results.request import ObjectRef, ResultObject, Role
from dicom_node.results.uids import uid_of
from inference.findings import SeriesUid, SopUid
from models.card import ModelCard
from models.codes import Code


class Withdrawal(StrEnum):
    """Why results are withdrawn; decides the title of the note (PS3.16 CID 7011)."""

    QUALITY = "quality"  # the result is wrong or unusable: the usual reason for the word of a program
    PATIENT_SAFETY = "patient_safety"  # acting on it could harm: archives must not show it to anybody
    WRONG_WORKLIST_ENTRY = "wrong_worklist_entry"  # written for another patient or study than it belongs to


_TITLES: Final = {
    Withdrawal.QUALITY: Code(value="113001", scheme="DCM", meaning="Rejected for Quality Reasons"),
    Withdrawal.PATIENT_SAFETY: Code(value="113037", scheme="DCM", meaning="Rejected for Patient Safety Reasons"),
    Withdrawal.WRONG_WORKLIST_ENTRY: Code(value="113038", scheme="DCM", meaning="Incorrect Modality Worklist Entry"),
}
_IMAGE_CLASSES: Final = frozenset(
    {
        "1.2.840.10008.5.1.4.1.1.7",  # Secondary Capture
        "1.2.840.10008.5.1.4.1.1.66.4",  # Segmentation
    }
)


@dataclass(frozen=True, kw_only=True, slots=True)
class RetractRequest:
    """Which results are withdrawn, and why.

    Attributes
    ----------
    source : Path
        Any image of the study, for patient and study.
    withdrawn : tuple of ObjectRef
        The result objects, all of one study; at least one.
    card : ModelCard or None
        The model that had spoken.
    content_time : datetime
        Aware; fixed before the first attempt.
    """

    source: Path
    withdrawn: tuple[ObjectRef, ...]
    reason: Withdrawal
    card: ModelCard | None
    profile: Profile
    content_time: datetime

    def __post_init__(self) -> None:
        if not self.withdrawn:
            raise ValueError("nothing to withdraw")
        if len({reference.study_uid for reference in self.withdrawn}) != 1:
            raise ValueError("one note withdraws the results of one study")
        if self.content_time.tzinfo is None:
            raise ValueError("content_time needs a time zone")


def encode_retraction(request: RetractRequest) -> ResultObject:
    """Write the rejection note.

    Raises
    ------
    inference.refusals.Refused
        When the source cannot be read.
    ValueError
        When source and withdrawn objects are of different studies.
    """
    header = read_source_header(request.source)
    if header.text("StudyInstanceUID") != request.withdrawn[0].study_uid:
        raise ValueError("source and withdrawn objects are of different studies")
    note = _note(request)
    stamp_as(
        note,
        card=request.card,
        header=header,
        content_time=request.content_time,
        language="en" if header.ascii_only else request.profile.language,
        series_number=request.profile.first_series_number + len(Role) - 1,
        instance_number=1,
        title=texts.SERIES_RETRACTION,
    )
    return ResultObject(
        role=Role.RETRACTION,
        sop_class_uid=str(note.SOPClassUID),
        sop_instance_uid=SopUid(str(note.SOPInstanceUID)),
        series_uid=SeriesUid(str(note.SeriesInstanceUID)),
        data=part_10(note),
    )


def _note(request: RetractRequest) -> Dataset:
    identity = (ENCODER_VERSION, Role.RETRACTION, request.reason, *_sorted_uids(request.withdrawn))
    note = Dataset()
    note.SOPClassUID = KeyObjectSelectionDocumentStorage
    note.SOPInstanceUID = uid_of("instance", *identity)
    note.SeriesInstanceUID = uid_of("series", *identity)
    note.Modality = "KO"
    note.ReferencedPerformedProcedureStepSequence = []
    note.CurrentRequestedProcedureEvidenceSequence = hierarchy(request.withdrawn)
    note.ValueType = "CONTAINER"
    note.ContinuityOfContent = "SEPARATE"
    note.ConceptNameCodeSequence = [code_item(_TITLES[request.reason])]
    note.ContentTemplateSequence = [_template()]
    note.ContentSequence = [*_observer(), *(_reference(known) for known in request.withdrawn)]
    return note


def _sorted_uids(references: Sequence[ObjectRef]) -> list[str]:
    return sorted(reference.sop_instance_uid for reference in references)


def _template() -> Dataset:
    item = Dataset()
    item.MappingResource = "DCMR"
    item.TemplateIdentifier = "2010"
    return item


def _observer() -> list[Dataset]:
    """The node as observer (TID 1002): it is the node, not the model, that takes a result back."""
    kind = _content("HAS OBS CONTEXT", "CODE", Code(value="121005", scheme="DCM", meaning="Observer Type"))
    kind.ConceptCodeSequence = [code_item(Code(value="121007", scheme="DCM", meaning="Device"))]
    uid = _content("HAS OBS CONTEXT", "UIDREF", Code(value="121012", scheme="DCM", meaning="Device Observer UID"))
    uid.UID = NODE_DEVICE_UID
    name = _content("HAS OBS CONTEXT", "TEXT", Code(value="121013", scheme="DCM", meaning="Device Observer Name"))
    name.TextValue = NODE_NAME
    return [kind, uid, name]


def _content(relationship: str, value_type: str, name: Code) -> Dataset:
    item = Dataset()
    item.RelationshipType = relationship
    item.ValueType = value_type
    item.ConceptNameCodeSequence = [code_item(name)]
    return item


def _reference(known: ObjectRef) -> Dataset:
    """A withdrawn object. TID 2010 rows 7 and 8 give these items no concept name."""
    item = Dataset()
    item.RelationshipType = "CONTAINS"
    item.ValueType = "IMAGE" if known.sop_class_uid in _IMAGE_CLASSES else "COMPOSITE"
    item.ReferencedSOPSequence = [sop_item(known.sop_class_uid, known.sop_instance_uid)]
    return item

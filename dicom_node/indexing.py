"""From a stored file's header to the facts that assembly and routing decide by, or the reason why it is set aside.

Called by `pipeline.index` for every new instance, away from the acknowledgement. The loop guard is here: what this node
or another AI wrote is kept and never analysed. Reading is bounded by `inference.loading`; pixels are not touched.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset

from dicom_node.facts import InstanceFacts
from dicom_node.requested_side import requested_side
from inference.findings import SopUid, StudyUid
from inference.images import LoadLimits
from inference.loading import attributes as read
from inference.loading.header import image_header, patient_orientation, view, view_modifiers
from inference.loading.reading import read_data_set, refusing
from inference.refusals import Reason, Refusal, Refused
from models.card import PresentationIntent

_KEYWORDS = (
    "PatientID IssuerOfPatientID PatientSex StationName Manufacturer RequestedProcedurePriority StudyPriorityID "
    "NumberOfStudyRelatedInstances ImagesInAcquisition RequestedProcedureDescription ProcedureCodeSequence "
    "RequestAttributesSequence PerformedProcedureStepDescription AccessionNumber PatientOrientation"
)
_MORE_TAGS = tuple(tag for word in _KEYWORDS.split() if (tag := tag_for_keyword(word)) is not None)
_LIMITS = LoadLimits()
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"  # and its multi-frame classes below it
_PROCESSING_EQUIPMENT = "109102"  # purpose of reference, DCM: the equipment that processed, PS3.16 CID 7005
_URGENT = {"STAT", "HIGH", "URGENT"}  # Requested Procedure Priority and Study Priority ID
_ORIENTATION_VALUES = 6
_POSITION_VALUES = 3
_NORMAL_DIGITS = 3  # enough to tell stacks apart, coarse enough for jitter


class Announced(Protocol):
    """Under which identity an instance was announced: a stored instance, or a file about to be sent."""

    @property
    def study_uid(self) -> StudyUid:
        """Study Instance UID."""

    @property
    def sop_class_uid(self) -> str:
        """SOP Class UID."""

    @property
    def sop_instance_uid(self) -> SopUid:
        """SOP Instance UID."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Indexed:
    """What the header gave: facts when it could be read, a refusal when the instance is not to be analysed."""

    facts: InstanceFacts | None
    refusal: Refusal | None


def read_facts(path: Path, stored: Announced) -> Indexed:
    """Read the header of a stored instance; every fault of the file comes back as a refusal.

    Raises
    ------
    OSError
        If the disk fails: the instance stays to be indexed.
    """
    try:
        data_set, syntax = read_data_set(path, limits=_LIMITS, pixels=False, more_tags=_MORE_TAGS)
    except Refused as refused:
        return Indexed(facts=None, refusal=refused.refusal)
    try:
        with refusing(Reason.UNREADABLE):
            facts = _facts(data_set)
            _check_identity(data_set, stored)
    except Refused as refused:
        return Indexed(facts=None, refusal=refused.refusal)
    try:
        with refusing(Reason.UNREADABLE):
            _guard_against_own_results(data_set)
            image_header(data_set, syntax, limits=_LIMITS)
    except Refused as refused:
        return Indexed(facts=facts, refusal=refused.refusal)
    return Indexed(facts=facts, refusal=None)


def _check_identity(data_set: Dataset, stored: Announced) -> None:
    """The data set must be the instance that was announced."""
    for keyword, announced in (
        ("SOPInstanceUID", stored.sop_instance_uid),
        ("SOPClassUID", stored.sop_class_uid),
        ("StudyInstanceUID", stored.study_uid),
    ):
        if read.text(data_set, keyword) != announced:
            raise Refused(Reason.CONTRADICTION, f"{keyword} is not the one that was announced")


def _guard_against_own_results(data_set: Dataset) -> None:
    for item in read.items(data_set, "ContributingEquipmentSequence"):
        purposes = read.items(item, "PurposeOfReferenceCodeSequence")
        if any(read.text(purpose, "CodeValue") == _PROCESSING_EQUIPMENT for purpose in purposes):
            raise Refused(Reason.OWN_RESULT, "Contributing Equipment names processing equipment")


def _facts(data_set: Dataset) -> InstanceFacts:
    image_type = tuple(str(part).strip().upper() for part in read.values(data_set, "ImageType"))
    sop_class = read.text(data_set, "SOPClassUID")
    normal, position_mm = _slice_position(data_set)
    return InstanceFacts(
        modality=read.code_text(data_set, "Modality"),
        sop_class_uid=sop_class,
        body_part=read.code_text(data_set, "BodyPartExamined"),
        view=view(data_set),
        view_modifiers=view_modifiers(data_set),
        laterality=read.code_text(data_set, "ImageLaterality") or read.code_text(data_set, "Laterality"),
        presentation=_presentation(data_set),
        study_description=read.text(data_set, "StudyDescription"),
        series_description=read.text(data_set, "SeriesDescription"),
        station_name=read.text(data_set, "StationName"),
        manufacturer=read.text(data_set, "Manufacturer"),
        image_type=image_type,
        rows=read.integer(data_set, "Rows") or 0,
        columns=read.integer(data_set, "Columns") or 0,
        frames=read.integer(data_set, "NumberOfFrames") or 1,
        is_secondary=sop_class.startswith(_SECONDARY_CAPTURE + ".")
        or sop_class == _SECONDARY_CAPTURE
        or image_type[:2] == ("DERIVED", "SECONDARY"),
        urgent=bool(
            {read.code_text(data_set, "RequestedProcedurePriority"), read.code_text(data_set, "StudyPriorityID")}
            & _URGENT
        ),
        patient_key=_patient_key(data_set),
        kernel=read.text(data_set, "ConvolutionKernel"),
        slice_thickness_mm=read.number(data_set, "SliceThickness"),
        position_mm=position_mm,
        normal=normal,
        images_expected=read.integer(data_set, "NumberOfStudyRelatedInstances"),
        acquisition_number=read.integer(data_set, "AcquisitionNumber"),
        images_in_acquisition=read.integer(data_set, "ImagesInAcquisition"),
        requested_side=requested_side(_request(data_set)),
        accession_number=read.text(data_set, "AccessionNumber"),
        patient_orientation=patient_orientation(data_set),
    )


def _request(data_set: Dataset) -> list[str]:
    """The words of the request as far as an image repeats them; they are looked at and not kept."""
    texts = [
        read.text(data_set, keyword)
        for keyword in ("StudyDescription", "RequestedProcedureDescription", "PerformedProcedureStepDescription")
    ]
    texts += [read.text(code, "CodeMeaning") for code in read.items(data_set, "ProcedureCodeSequence")]
    for asked in read.items(data_set, "RequestAttributesSequence"):
        texts += [
            read.text(asked, "RequestedProcedureDescription"),
            read.text(asked, "ScheduledProcedureStepDescription"),
        ]
    return texts


def _presentation(data_set: Dataset) -> PresentationIntent:
    intent = read.code_text(data_set, "PresentationIntentType")
    known = {member.value: member for member in PresentationIntent}
    return known.get(intent, PresentationIntent.UNKNOWN)


def _patient_key(data_set: Dataset) -> str:
    """Digest of the patient's identifier within this study; empty when there is none.

    It tells two patients under one Study Instance UID apart; across studies it tells nothing.
    """
    identifier = read.text(data_set, "PatientID")
    if not identifier:
        return ""
    words = (read.text(data_set, "StudyInstanceUID"), read.text(data_set, "IssuerOfPatientID"), identifier)
    return hashlib.sha256("\0".join(words).encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _slice_position(data_set: Dataset) -> tuple[tuple[float, float, float] | None, float | None]:
    """Normal of a slice and its distance from the origin along it, mm, in the patient frame (PS3.3 C.7.6.2.1.1)."""
    orientation = read.numbers(data_set, "ImageOrientationPatient")
    position = read.numbers(data_set, "ImagePositionPatient")
    if len(orientation) != _ORIENTATION_VALUES or len(position) != _POSITION_VALUES:
        return None, None
    (rx, ry, rz), (cx, cy, cz) = orientation[:3], orientation[3:]
    normal = (ry * cz - rz * cy, rz * cx - rx * cz, rx * cy - ry * cx)
    length = math.hypot(*normal)
    if not length:
        return None, None
    x, y, z = (round(component / length, _NORMAL_DIGITS) for component in normal)
    distance = sum(part * component / length for part, component in zip(position, normal, strict=True))
    return (x, y, z), distance

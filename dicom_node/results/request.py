"""The values at the border of this package: what is asked of the encoder and what it gives back.

Built by the worker, understood by every writer here; free of DICOM libraries so that the rest of the node can import
them at no cost.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path

from dicom_node.results.profile import Profile
from inference.findings import Findings, SeriesUid, SopUid, StudyUid
from inference.refusals import Refusal
from models.card import ModelCard


class Role(StrEnum):
    """What a result object is within its set. The value is part of the object's UID: never rename one."""

    SR = "sr"  # TID 1500 report with the lesions
    NEGATIVE_SR = "negative_sr"  # TID 1500 report without a lesion: absent, or undetermined
    OVERLAY = "overlay"  # Secondary Capture: picture with marks
    STATUS_PAGE = "status_page"  # Secondary Capture: nothing found, or not analysed
    SEGMENTATION = "segmentation"  # BINARY segmentation of a CT series
    PRESENTATION_STATE = "presentation_state"  # GSPS with the marks of one image
    MAMMOGRAPHY_CAD_SR = "mammography_cad_sr"  # TID 4000
    RETRACTION = "retraction"  # IOCM rejection note


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectRef:
    """A DICOM object by its UIDs: a result object that is superseded or withdrawn."""

    study_uid: StudyUid
    series_uid: SeriesUid
    sop_class_uid: str
    sop_instance_uid: SopUid


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodeRequest:
    """One model's word on one study, to be written under one profile.

    Attributes
    ----------
    study_uid : StudyUid
        The study the result belongs to.
    sources : Mapping of SopUid to Path
        Part-10 files of the study; at least those of the images that were analysed.
    card : ModelCard or None
        The model. None only for a refusal that happened before a model was chosen.
    findings, refusal
        Exactly one of the two.
    profile : Profile
        How to write.
    content_time : datetime
        Aware; fixed before the first attempt, so that a repeated attempt writes equal bytes.
    predecessors : tuple of ObjectRef
        Result objects that this set supersedes.
    """

    study_uid: StudyUid
    sources: Mapping[SopUid, Path]
    card: ModelCard | None
    findings: Findings | None
    refusal: Refusal | None
    profile: Profile
    content_time: datetime
    predecessors: tuple[ObjectRef, ...] = ()

    def __post_init__(self) -> None:
        if (self.findings is None) == (self.refusal is None):
            raise ValueError("a request carries either findings or a refusal")
        if self.content_time.tzinfo is None:
            raise ValueError("content_time needs a time zone")
        if not self.sources:
            raise ValueError("a request needs at least one source file")
        if self.findings is not None:
            self._check_findings(self.findings)

    def _check_findings(self, findings: Findings) -> None:
        if self.card is None:
            raise ValueError("findings need the card of their model")
        if self.card.model_digest != findings.model.model_digest:
            raise ValueError(f"the card of {self.card.reference} is not the one that spoke: model digests differ")
        if findings.study_uid != self.study_uid:
            raise ValueError("findings and request name different studies")


@dataclass(frozen=True, kw_only=True, slots=True)
class ResultObject:
    """One written object: its identity and the bytes of a whole part-10 file (Explicit VR Little Endian)."""

    role: Role
    sop_class_uid: str
    sop_instance_uid: SopUid
    series_uid: SeriesUid
    data: bytes

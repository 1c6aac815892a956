"""What a model says of a study: `Findings`, the one result from which every writer writes.

Built by `inference.postprocess`, stored by the ledger as JSON, read by result encoders, the regional-record writers,
evaluation and console. Nothing here knows DICOM data sets, colours or words; codes come from the model's card.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import NewType

from pydantic import TypeAdapter

from models.codes import Code

StudyUid = NewType("StudyUid", str)
SeriesUid = NewType("SeriesUid", str)
SopUid = NewType("SopUid", str)


class Presence(StrEnum):
    """DICOM CID 240, Present-Absent: what is said of a finding."""

    PRESENT = "present"  # score >= threshold
    ABSENT = "absent"  # score < threshold
    UNDETERMINED = "undetermined"  # the network says nothing of it


class Flag(StrEnum):
    """A caution that must be shown with the result, though the study was analysed."""

    AGE_UNKNOWN = "age_unknown"  # the card limits age and the header has none
    VIEW_UNKNOWN = "view_unknown"  # the card limits views and the header names none
    BODY_PART_UNKNOWN = "body_part_unknown"  # the card limits body parts and the header names none
    SPACING_UNKNOWN = "spacing_unknown"  # no trustworthy pixel spacing: sizes are in pixels only
    LOSSY_COMPRESSION = "lossy_compression"  # the picture was compressed with loss
    OUT_OF_RANGE = "out_of_range"  # unlike the pictures that the model was trained on, and analysed all the same
    STUDY_INCOMPLETE = "study_incomplete"  # analysed although images are missing


@dataclass(frozen=True, kw_only=True, slots=True)
class Box:
    """A rectangle in source pixels: (0, 0) is the top-left corner of the first pixel, x to the right, y down.

    A box that covers exactly the first pixel is (0, 0, 1, 1). PS3.3 C.10.5.1.2 (SCOORD) uses the same frame.
    """

    x_min: float
    y_min: float
    x_max: float
    y_max: float

    def __post_init__(self) -> None:
        if not (self.x_min < self.x_max and self.y_min < self.y_max):
            raise ValueError(f"an empty box: {self.x_min}, {self.y_min}, {self.x_max}, {self.y_max}")

    @property
    def center(self) -> tuple[float, float]:
        """Centre (x, y) in source pixels."""
        return (self.x_min + self.x_max) / 2, (self.y_min + self.y_max) / 2

    @property
    def area(self) -> float:
        """Area in source pixels."""
        return (self.x_max - self.x_min) * (self.y_max - self.y_min)

    @property
    def corners(self) -> tuple[tuple[float, float], ...]:
        """The four corners (x, y), clockwise from the top left."""
        return (
            (self.x_min, self.y_min),
            (self.x_max, self.y_min),
            (self.x_max, self.y_max),
            (self.x_min, self.y_max),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanarRegion:
    """Where a lesion is on one image or frame: its box and, where the model gives one, its outline.

    Attributes
    ----------
    sop_instance_uid : SopUid
        The image.
    frame_number : int or None
        1-based frame of a multi-frame image, else None.
    box : Box
        Bounding box, source pixels.
    outline : tuple of (x, y)
        Closed polygon in source pixels without repeating the first point; empty when only the box is known.
    """

    sop_instance_uid: SopUid
    frame_number: int | None = None
    box: Box
    outline: tuple[tuple[float, float], ...] = ()

    @property
    def polygon(self) -> tuple[tuple[float, float], ...]:
        """The outline if there is one, else the box's corners."""
        return self.outline or self.box.corners


@dataclass(frozen=True, kw_only=True, slots=True)
class Region:
    """Where a lesion is: one planar region for a projection, one per slice for a volume.

    `key` is the index of the planar region to show first. `lps_min_mm` and `lps_max_mm` bound the lesion of a volume
    in the patient frame (LPS, mm, PS3.3 C.7.6.2.1.1); None for projections.
    """

    planes: tuple[PlanarRegion, ...]
    key: int = 0
    lps_min_mm: tuple[float, float, float] | None = None
    lps_max_mm: tuple[float, float, float] | None = None

    @property
    def key_plane(self) -> PlanarRegion:
        """The planar region to show first."""
        return self.planes[self.key]


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """A measured quantity: what (coded), how much, and its UCUM unit."""

    quantity: Code
    value: float
    unit: Code


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """A coded statement with a score about a whole image (`sop_instance_uid`), a side, or the whole study.

    With `laterality` and no image it speaks of one breast, over all its views.
    """

    label: str
    code: Code
    site: Code
    presence: Presence
    score: float
    raw_score: float
    threshold: float
    sop_instance_uid: SopUid | None = None
    laterality: Code | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Lesion:
    """A finding with a place.

    Attributes
    ----------
    label : str
        Key of the card's label.
    code, site : Code
        Finding and anatomical site, from the card.
    laterality : Code or None
        Side, where known.
    score : float
        Calibrated, 0 to 1; what the threshold compares (``score >= threshold`` is reported).
    raw_score : float
        As the network gave it, after the sigmoid and before calibration.
    threshold : float
        The card's operating point for this label.
    region : Region
        Where.
    measurements : tuple of Measurement
        Sizes; in mm only where the spacing can be trusted.
    tracking_id, tracking_uid : str
        One per lesion, the same in every object that speaks of it (DICOM TID 1410/1411 rows for tracking).
    """

    label: str
    code: Code
    site: Code
    laterality: Code | None = None
    score: float
    raw_score: float
    threshold: float
    region: Region
    measurements: tuple[Measurement, ...] = ()
    tracking_id: str
    tracking_uid: str


@dataclass(frozen=True, kw_only=True, slots=True)
class AnalysedImage:
    """One image the model looked at; its size is in pixels of the stored picture."""

    sop_instance_uid: SopUid
    sop_class_uid: str
    series_uid: SeriesUid
    rows: int
    columns: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelIdentity:
    """Which model spoke: enough to trace every figure to weights and settings (`ModelCard` has the rest)."""

    name: str
    version: str
    weights_digest: str
    model_digest: str
    device_uid: str

    @property
    def reference(self) -> str:
        """``name@version``."""
        return f"{self.name}@{self.version}"


@dataclass(frozen=True, kw_only=True)
class Findings:
    """Everything one model says about one study.

    Attributes
    ----------
    model : ModelIdentity
        Who says it.
    study_uid : StudyUid
        Of what.
    inputs_digest : str
        sha256 over the decoded pixels and the attributes the model used, in a canonical order.
    images : tuple of AnalysedImage
        What the model looked at; never empty.
    findings : tuple of Finding
        Statements about images and about the study as a whole.
    lesions : tuple of Lesion
        Lesions at or above the operating point, highest score first.
    flags : tuple of Flag
        Cautions to be shown.
    """

    model: ModelIdentity
    study_uid: StudyUid
    inputs_digest: str
    images: tuple[AnalysedImage, ...]
    findings: tuple[Finding, ...] = ()
    lesions: tuple[Lesion, ...] = ()
    flags: tuple[Flag, ...] = ()

    @cached_property
    def digest(self) -> str:
        """sha256 of the canonical JSON: equal content gives an equal digest on every machine."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    @property
    def is_positive(self) -> bool:
        """Whether anything is reported: a lesion, or a finding present on an image or the study."""
        return bool(self.lesions) or any(finding.presence is Presence.PRESENT for finding in self.findings)

    def of_study(self) -> tuple[Finding, ...]:
        """One statement for each label: that about the study, else the one about its most suspicious picture.

        Statements about one side are left out: their scores are calibrated for themselves.
        """
        whole = {one.label: one for one in self.findings if one.sop_instance_uid is None and one.laterality is None}
        strongest: dict[str, Finding] = {}
        for one in self.findings:
            if one.sop_instance_uid is not None:
                best = strongest.get(one.label, one)
                strongest[one.label] = max(best, one, key=lambda said: said.score)
        return tuple((strongest | whole).values())

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, floats rounded to 6 decimals, no spaces."""
        data = _ADAPTER.dump_python(self, mode="json")
        return json.dumps(_rounded(data), sort_keys=True, ensure_ascii=False, separators=(",", ":"))

    @staticmethod
    def from_json(text: str) -> Findings:
        """Read what `to_json` wrote.

        Raises
        ------
        pydantic.ValidationError
            If the text is not a `Findings`.
        """
        return _ADAPTER.validate_json(text)


def _rounded(value: object) -> object:
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return value


_ADAPTER = TypeAdapter(Findings)

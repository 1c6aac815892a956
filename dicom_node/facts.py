"""The header facts of one instance that assembly and routing decide by; no name, no birth date.

Made by `dicom_node.indexing` from a file's header, stored as JSON with the instance, matched by `routing` and counted
by `assembly`. What a model needs of an image is read again by `inference.loading` when it is decoded.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from dicom_node.requested_side import RequestedSide
from models.card import PresentationIntent


@dataclass(frozen=True, kw_only=True, slots=True)
class InstanceFacts:
    """What a header says of one instance, in DICOM's values, upper case, trimmed; empty where it says nothing.

    Attributes
    ----------
    view : str
        View Position or the meaning of the View Code as an acronym: PA, AP, LL, CC, MLO.
    view_modifiers : tuple of str
        What makes it another view than the name says: SPOT, MAG, ID (implant displaced), ...
    laterality : str
        Image Laterality or Laterality: L, R, B.
    position_mm, normal : float, vector or None
        Of a cross-sectional slice: distance along its normal from the origin, and that normal, in the patient frame.
    is_secondary : bool
        Secondary Capture, or Image Type DERIVED\\SECONDARY: a screenshot, or a digitised film.
    patient_key : str
        Begin of the SHA-256 of study UID, issuer and Patient ID; tells two patients within a study apart. It has no
        secret key: whoever knows a Patient ID can compute it, so it stays in the ledger.
    images_expected : int or None
        What the study itself says of its size, of all modalities: Number of Study Related Instances (0020,1208).
    acquisition_number, images_in_acquisition : int or None
        Acquisition Number (0020,0012) and how many images that acquisition gave: Images in Acquisition (0020,1002).
    requested_side : str
        The side that the request names alone: L, R, U (one side, not said which), or empty.
    accession_number : str
        Accession Number (0008,0050): by it the radiologist's report finds the study. It stays in the ledger.
    patient_orientation : tuple of str
        Towards which side of the patient a row and a column run: ("L", "F") on most chest films; empty if not said.
    """

    modality: str = ""
    sop_class_uid: str = ""
    body_part: str = ""
    view: str = ""
    view_modifiers: tuple[str, ...] = ()
    laterality: str = ""
    presentation: PresentationIntent = PresentationIntent.UNKNOWN
    study_description: str = ""
    series_description: str = ""
    station_name: str = ""
    manufacturer: str = ""
    image_type: tuple[str, ...] = ()
    rows: int = 0
    columns: int = 0
    frames: int = 1
    is_secondary: bool = False
    urgent: bool = False
    patient_key: str = ""
    kernel: str = ""
    slice_thickness_mm: float | None = None
    position_mm: float | None = None
    normal: tuple[float, float, float] | None = None
    images_expected: int | None = None
    acquisition_number: int | None = None
    images_in_acquisition: int | None = None
    requested_side: RequestedSide = RequestedSide.UNSAID
    accession_number: str = field(default="", repr=False)  # in no log and no message
    patient_orientation: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values for a JSON column."""
        return asdict(self)

    @staticmethod
    def from_json(data: dict[str, Any]) -> InstanceFacts:
        """Read what `to_json` wrote; fields of a later version are ignored, missing ones take their defaults."""
        known = {key: value for key, value in data.items() if key in InstanceFacts.__slots__}
        for key in ("view_modifiers", "image_type", "normal", "patient_orientation"):
            if known.get(key) is not None:
                known[key] = tuple(known[key])
        if "presentation" in known:
            known["presentation"] = PresentationIntent(known["presentation"])
        known["requested_side"] = RequestedSide(known.get("requested_side", ""))
        return InstanceFacts(**known)

"""Mammography CAD report (TID 4000): marks for mammography workstations, which read no other report.

Called by `result_set` where the profile asks for it, for mammograms only. Written with pydicom alone, because highdicom
has no such template. Each lesion is a Single Image Finding with its centre and outline in image coordinates; images are
named once, in the image library, and referred to by their place in the tree.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.uid import MammographyCADSRStorage

from dicom_node.results.evidence import hierarchy, sop_item
from dicom_node.results.header import SourceHeader
from dicom_node.results.provenance import Provenance, code_item, provenance_of
from dicom_node.results.request import EncodeRequest, ObjectRef, Role
from dicom_node.results.sr import CERTAINTY_OF_FINDING, PERCENT, PROBABILITY_OF_CANCER, closed_polygon
from dicom_node.results.uids import ResultKey
from inference.findings import AnalysedImage, Findings, Lesion, PlanarRegion, SopUid
from models.codes import Code

_LIBRARY_PLACE: Final = 2  # the image library is the second item of the root, after the language
_SIDES: Final = {
    "L": Code(value="80248007", scheme="SCT", meaning="Left breast"),
    "R": Code(value="73056007", scheme="SCT", meaning="Right breast"),
}
_VIEWS: Final = {
    "CC": Code(value="399162004", scheme="SCT", meaning="cranio-caudal"),
    "MLO": Code(value="399368009", scheme="SCT", meaning="medio-lateral oblique"),
    "ML": Code(value="399260004", scheme="SCT", meaning="medio-lateral"),
    "LM": Code(value="399352003", scheme="SCT", meaning="latero-medial"),
    "XCCL": Code(value="399192008", scheme="SCT", meaning="cranio-caudal exaggerated laterally"),
    "XCCM": Code(value="399101009", scheme="SCT", meaning="cranio-caudal exaggerated medially"),
}
_SUCCEEDED: Final = Code(value="111222", scheme="DCM", meaning="Succeeded")
_NOT_ATTEMPTED: Final = Code(value="111225", scheme="DCM", meaning="Not Attempted")
_WITH_FINDINGS: Final = Code(value="111242", scheme="DCM", meaning="All algorithms succeeded; with findings")
_PRESENT: Final = Code(
    value="111150", scheme="DCM", meaning="Presentation Required: Rendering device is expected to present"
)
# CID 6014, the findings a workstation knows. A mass is told as a density, as mammography CAD has always done.
_KNOWN_FINDINGS: Final = frozenset(
    {
        "129792006",  # architectural distortion
        "127189005",  # axillary adenopathy
        "129769006",  # calcification cluster
        "129770007",  # individual calcification
        "443808008",  # intramammary lymph node
        "129793001",  # density
        "95324001",  # skin lesion
        "129796009",  # skin retraction
        "129797000",  # skin thickening
        "129795008",  # trabecular thickening
        "129794007",  # tubular density
    }
)
_DENSITY: Final = Code(value="129793001", scheme="SCT", meaning="Mammography breast density")
_SELECTED_REGION: Final = Code(value="111099", scheme="DCM", meaning="Selected region")
_MASS: Final = "4147007"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Library:
    """The images of the report and their 1-based places in the image library."""

    images: tuple[AnalysedImage, ...]

    def reference(self, uid: SopUid, relationship: str = "SELECTED FROM") -> Dataset:
        """A by-reference item that points to an image of the library."""
        place = [image.sop_instance_uid for image in self.images].index(uid) + 1
        item = Dataset()
        item.RelationshipType = relationship
        item.ReferencedContentItemIdentifier = [1, _LIBRARY_PLACE, place]
        return item


def mammography_cad_report(
    request: EncodeRequest, findings: Findings, headers: dict[SopUid, SourceHeader], key: ResultKey
) -> Dataset | None:
    """The CAD report of the mammograms of a study.

    Returns
    -------
    pydicom.Dataset or None
        None where no lesion lies on a single-frame mammogram whose side and view are known: the template demands both.
    """
    images = tuple(
        image
        for image in findings.images
        if image.sop_instance_uid in headers and _is_usable(headers[image.sop_instance_uid])
    )
    library = _Library(images=images)
    places = [
        (lesion, plane, image)
        for lesion in findings.lesions
        for plane in lesion.region.planes
        for image in images
        if plane.sop_instance_uid == image.sop_instance_uid and plane.frame_number is None
    ]
    if not places:
        return None
    report = _document(request, images, key)
    report.ContentSequence = [
        _language(),
        _container("CONTAINS", "111028", "Image Library", [_entry(image, headers) for image in images]),
        _summary(request, library, places),
        _detections(request, findings, library),
        _code("CONTAINS", "111065", "Summary of Analyses", _NOT_ATTEMPTED),
    ]
    return report


def _is_usable(header: SourceHeader) -> bool:
    return header.text("Modality") == "MG" and _side(header) in _SIDES and _view(header) in _VIEWS


def _side(header: SourceHeader) -> str:
    return header.text("ImageLaterality") or header.text("Laterality")


def _view(header: SourceHeader) -> str:
    """View of a mammogram: from its code, else from View Position; digitised film has it as Patient Orientation."""
    for item in header.dataset.get("ViewCodeSequence") or []:
        for name, code in _VIEWS.items():
            if code.value == str(item.get("CodeValue", "")):
                return name
    return header.text("ViewPosition") or header.text("PatientOrientation")


def _document(request: EncodeRequest, images: tuple[AnalysedImage, ...], key: ResultKey) -> Dataset:
    report = Dataset()
    report.SOPClassUID = MammographyCADSRStorage
    report.SOPInstanceUID = key.instance_uid(Role.MAMMOGRAPHY_CAD_SR)
    report.SeriesInstanceUID = key.series_uid(Role.MAMMOGRAPHY_CAD_SR)
    report.Modality = "SR"
    report.ReferencedPerformedProcedureStepSequence = []
    report.PerformedProcedureCodeSequence = []
    report.CompletionFlag, report.VerificationFlag = "COMPLETE", "UNVERIFIED"
    report.CurrentRequestedProcedureEvidenceSequence = hierarchy(
        ObjectRef(
            study_uid=request.study_uid,
            series_uid=image.series_uid,
            sop_class_uid=image.sop_class_uid,
            sop_instance_uid=image.sop_instance_uid,
        )
        for image in images
    )
    report.ValueType, report.ContinuityOfContent = "CONTAINER", "SEPARATE"
    report.ConceptNameCodeSequence = [_concept("111036", "Mammography CAD Report")]
    template = Dataset()
    template.MappingResource, template.TemplateIdentifier = "DCMR", "4000"
    report.ContentTemplateSequence = [template]
    return report


def _concept(value: str, meaning: str) -> Dataset:
    return code_item(Code(value=value, scheme="DCM", meaning=meaning))


def _item(relationship: str, value_type: str, name: Dataset | None, children: list[Dataset] | None = None) -> Dataset:
    item = Dataset()
    item.RelationshipType, item.ValueType = relationship, value_type
    if name is not None:
        item.ConceptNameCodeSequence = [name]
    if children:
        item.ContentSequence = children
    return item


def _code(relationship: str, value: str, meaning: str, code: Code, children: list[Dataset] | None = None) -> Dataset:
    item = _item(relationship, "CODE", _concept(value, meaning), children)
    item.ConceptCodeSequence = [code_item(code)]
    return item


def _text(relationship: str, value: str, meaning: str, text: str) -> Dataset:
    item = _item(relationship, "TEXT", _concept(value, meaning))
    item.TextValue = text
    return item


def _container(relationship: str, value: str, meaning: str, children: list[Dataset]) -> Dataset:
    item = _item(relationship, "CONTAINER", _concept(value, meaning), children)
    item.ContinuityOfContent = "SEPARATE"
    return item


def _language() -> Dataset:
    english = Code(value="en", scheme="RFC5646", meaning="English")
    return _code("HAS CONCEPT MOD", "121049", "Language of Content Item and Descendants", english)


def _entry(image: AnalysedImage, headers: dict[SopUid, SourceHeader]) -> Dataset:
    """An image of the library with the facts a workstation needs to place marks (TID 4020)."""
    header = headers[image.sop_instance_uid]
    context = "HAS ACQ CONTEXT"
    facts = [
        _code(context, "111027", "Image Laterality", _SIDES[_side(header)]),
        _code(context, "111031", "Image View", _VIEWS[_view(header)]),
    ]
    orientation = header.text("PatientOrientation").strip("[]").replace("'", "").split(", ")
    if len(orientation) == 2:  # noqa: PLR2004 -- row and column
        facts.append(_text(context, "111044", "Patient Orientation Row", orientation[0]))
        facts.append(_text(context, "111043", "Patient Orientation Column", orientation[1]))
    entry = _item("CONTAINS", "IMAGE", None, facts)
    entry.ReferencedSOPSequence = [sop_item(image.sop_class_uid, image.sop_instance_uid)]
    return entry


def _summary(
    request: EncodeRequest, library: _Library, places: list[tuple[Lesion, PlanarRegion, AnalysedImage]]
) -> Dataset:
    found = [_finding(request, library, lesion, plane, image) for lesion, plane, image in places]
    impression = _container("INFERRED FROM", "111034", "Individual Impression/Recommendation", [_rendering(), *found])
    return _code("CONTAINS", "111017", "CAD Processing and Findings Summary", _WITH_FINDINGS, [impression])


def _rendering() -> Dataset:
    return _code("HAS CONCEPT MOD", "111056", "Rendering Intent", _PRESENT)


def _finding(
    request: EncodeRequest, library: _Library, lesion: Lesion, plane: PlanarRegion, image: AnalysedImage
) -> Dataset:
    """One mark on one image (TID 4006)."""
    assert request.card is not None
    cancer = request.card.label(lesion.label).cancer
    polygon = closed_polygon(plane, image)
    children = [
        _rendering(),
        *_tracking(lesion),
        *_algorithm(provenance_of(request.card)),
        _percent(PROBABILITY_OF_CANCER if cancer else CERTAINTY_OF_FINDING, lesion.score),
        _place("111010", "Center", "POINT", (polygon.min(axis=0) + polygon.max(axis=0)) / 2, library, plane),
        _place("111041", "Outline", "POLYLINE", polygon, library, plane),
    ]
    return _code("CONTAINS", "111059", "Single Image Finding", _known(lesion.code), children)


def _known(finding: Code) -> Code:
    """The finding as a workstation knows it."""
    if finding.scheme == "SCT" and finding.value in _KNOWN_FINDINGS:
        return finding
    return _DENSITY if finding.value == _MASS else _SELECTED_REGION


def _tracking(lesion: Lesion) -> list[Dataset]:
    name = _text("HAS OBS CONTEXT", "112039", "Tracking Identifier", lesion.tracking_id)
    uid = _item("HAS OBS CONTEXT", "UIDREF", _concept("112040", "Tracking Unique Identifier"))
    uid.UID = lesion.tracking_uid
    return [name, uid]


def _algorithm(speaker: Provenance) -> list[Dataset]:
    """TID 4019, equal to the contributing equipment."""
    items = [
        _text("HAS PROPERTIES", "111001", "Algorithm Name", speaker.name),
        _text("HAS PROPERTIES", "111003", "Algorithm Version", speaker.version),
    ]
    return items + [_text("HAS PROPERTIES", "111002", "Algorithm Parameters", word) for word in speaker.parameters]


def _percent(name: Code, score: float) -> Dataset:
    item = _item("HAS PROPERTIES", "NUM", code_item(name))
    value = Dataset()
    value.NumericValue = f"{score * 100:.2f}"
    value.MeasurementUnitsCodeSequence = [code_item(PERCENT)]
    item.MeasuredValueSequence = [value]
    return item


def _place(
    value: str, meaning: str, kind: str, points: NDArray[np.float64], library: _Library, plane: PlanarRegion
) -> Dataset:
    item = _item("HAS PROPERTIES", "SCOORD", _concept(value, meaning), [library.reference(plane.sop_instance_uid)])
    item.GraphicType = kind
    item.GraphicData = [float(number) for number in np.ravel(points)]
    return item


def _detections(request: EncodeRequest, findings: Findings, library: _Library) -> Dataset:
    """What was looked for on which images (TID 4015)."""
    assert request.card is not None
    done = [
        _code(
            "CONTAINS",
            "111022",
            "Detection Performed",
            _known(label.finding),
            [
                *_algorithm(provenance_of(request.card)),
                *(library.reference(image.sop_instance_uid, "HAS PROPERTIES") for image in library.images),
            ],
        )
        for label in request.card.labels
    ]
    successful = _container("INFERRED FROM", "111063", "Successful Detections", done)
    return _code("CONTAINS", "111064", "Summary of Detections", _SUCCEEDED, [successful])

"""The structured report: TID 1500 with one region of interest per lesion, in image coordinates.

Called by `result_set`. A report holds either lesions with a place or, in a separate object, statements without one:
viewers fail on a report that mixes the two and then show no lesion at all. Pictures are `overlay`, volumes of voxels
`seg`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeAlias

import numpy as np
from highdicom import sr
from highdicom.sr import CodedConcept
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.uid import Comprehensive3DSRStorage, ComprehensiveSRStorage

from dicom_node.results import texts
from dicom_node.results.document import document, references
from dicom_node.results.header import SourceHeader
from dicom_node.results.narrative import narrative_items
from dicom_node.results.profile import SrClass
from dicom_node.results.provenance import language_of, provenance_of
from dicom_node.results.request import EncodeRequest, ObjectRef, Role
from dicom_node.results.uids import ResultKey
from inference.findings import AnalysedImage, Finding, Findings, Lesion, PlanarRegion, Presence, SeriesUid, SopUid
from models.codes import Code

PERCENT: Final = Code(value="%", scheme="UCUM", meaning="Percent")
PROBABILITY_OF_CANCER: Final = Code(value="111047", scheme="DCM", meaning="Probability of cancer")
CERTAINTY_OF_FINDING: Final = Code(value="111012", scheme="DCM", meaning="Certainty of Finding")
QUALITATIVE_EVALUATIONS: Final = Code(value="C0034375", scheme="UMLS", meaning="Qualitative Evaluations")
IMAGE_REGION: Final = Code(value="111030", scheme="DCM", meaning="Image Region")
PRESENCE: Final = {
    Presence.PRESENT: Code(value="52101004", scheme="SCT", meaning="Present"),
    Presence.ABSENT: Code(value="2667000", scheme="SCT", meaning="Absent"),
    Presence.UNDETERMINED: Code(value="373068000", scheme="SCT", meaning="Undetermined"),
}
_LANGUAGES: Final = {
    "ru": Code(value="ru", scheme="RFC5646", meaning="Russian"),
    "en": Code(value="en", scheme="RFC5646", meaning="English"),
}
_PROCEDURES: Final = {
    ("CR", "CHEST"): Code(value="399208008", scheme="SCT", meaning="Plain chest X-ray"),
    ("DX", "CHEST"): Code(value="399208008", scheme="SCT", meaning="Plain chest X-ray"),
    ("CT", "CHEST"): Code(value="169069000", scheme="SCT", meaning="CT of chest"),
    ("CT", ""): Code(value="77477000", scheme="SCT", meaning="Computed Tomography X-Ray"),
    ("MG", ""): Code(value="71651007", scheme="SCT", meaning="Mammography"),
}
_IMAGING: Final = Code(value="363679005", scheme="SCT", meaning="Imaging procedure")
_UNSPECIFIED_FINDING: Final = Code(value="404684003", scheme="SCT", meaning="Clinical finding")
_SR_CLASSES: Final = {
    SrClass.COMPREHENSIVE_3D: str(Comprehensive3DSRStorage),
    SrClass.COMPREHENSIVE: str(ComprehensiveSRStorage),
}
_SIZE_DECIMALS: Final = 2
_Group: TypeAlias = (
    sr.PlanarROIMeasurementsAndQualitativeEvaluations
    | sr.VolumetricROIMeasurementsAndQualitativeEvaluations
    | sr.MeasurementsAndQualitativeEvaluations
)
_MEANING_LIMIT: Final = 64


def lesion_report(request: EncodeRequest, findings: Findings, header: SourceHeader, key: ResultKey) -> Dataset:
    """The report of all lesions.

    Parameters
    ----------
    request : EncodeRequest
    findings : Findings
        With at least one lesion.
    header : SourceHeader
        Of one analysed image.
    key : ResultKey

    Returns
    -------
    pydicom.Dataset
        Without patient, study and series attributes; `provenance.stamp` adds them.
    """
    language = language_of(request, header)
    images = {image.sop_instance_uid: image for image in findings.images}
    groups = [_lesion_group(lesion, request, images, language) for lesion in findings.lesions]
    report = _measurement_report(request, header, language, groups)
    report[0].ContentSequence.append(_evaluations([], request, header))
    return _document(request, key, Role.SR, report, references(findings, request))


def negative_report(request: EncodeRequest, header: SourceHeader, key: ResultKey) -> Dataset:
    """The report without lesions: each pathology absent, or undetermined when the study was not analysed."""
    language = language_of(request, header)
    placeholder = sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(
            uid=key.inner_uid("placeholder", Role.NEGATIVE_SR), identifier="placeholder"
        )
    )
    report = _measurement_report(request, header, language, [placeholder])
    content = report[0].ContentSequence
    # highdicom cannot write a report without measurement groups: the last item is its container of groups
    content.pop()
    content.append(_evaluations(_presences(request, language), request, header))
    known = references(request.findings, request) if request.findings else _source_references(request, header)
    return _document(request, key, Role.NEGATIVE_SR, report, known)


def _concept(code: Code, language: str, name: str | None = None) -> CodedConcept:
    meaning = (name or texts.code_name(code, language))[:_MEANING_LIMIT]
    return CodedConcept(value=code.value, scheme_designator=code.scheme, meaning=meaning)


def _measurement_report(
    request: EncodeRequest,
    header: SourceHeader,
    language: str,
    groups: Sequence[_Group],
) -> sr.MeasurementReport:
    speaker = provenance_of(request.card)
    observer = sr.ObserverContext(
        observer_type=CodedConcept(value="121007", scheme_designator="DCM", meaning="Device"),
        observer_identifying_attributes=sr.DeviceObserverIdentifyingAttributes(
            uid=speaker.device_uid,
            name=speaker.name,
            manufacturer_name=speaker.manufacturer,
            model_name=speaker.name,
        ),
    )
    return sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=observer),
        procedure_reported=_procedure(header),
        imaging_measurements=groups,
        title=CodedConcept(value="126000", scheme_designator="DCM", meaning="Imaging Measurement Report"),
        language_of_content_item_and_descendants=sr.LanguageOfContentItemAndDescendants(
            _concept(_LANGUAGES[language], "en")
        ),
    )


def _procedure(header: SourceHeader) -> CodedConcept:
    """The imaging procedure, never the algorithm (IHE AIR): as the source codes it, else by modality and body part."""
    modality, part = header.text("Modality"), header.text("BodyPartExamined").upper()
    code = _PROCEDURES.get((modality, part)) or _PROCEDURES.get((modality, "")) or _IMAGING
    return _concept(code, "en")


def _algorithm(request: EncodeRequest, language: str) -> sr.AlgorithmIdentification:
    speaker = provenance_of(request.card)
    return sr.AlgorithmIdentification(
        name=speaker.name,
        version=speaker.version,
        parameters=[*speaker.parameters, *_demonstration(request, language)] or None,
    )


def _demonstration(request: EncodeRequest, language: str) -> list[str]:
    """What must stand beside every lesion of a demonstration; a report has no other place that viewers show there."""
    if not texts.is_demonstration(request.card):
        return []
    spoken = ["en"] if language == "en" else [language, "en"]
    return [texts.DEMONSTRATION_SENTENCE.in_language(one) for one in spoken]


def _lesion_group(lesion: Lesion, request: EncodeRequest, images: dict[SopUid, AnalysedImage], language: str) -> _Group:
    assert request.card is not None
    label = request.card.label(lesion.label)
    regions = [_region(plane, images[plane.sop_instance_uid]) for plane in lesion.region.planes]
    tracking = sr.TrackingIdentifier(uid=lesion.tracking_uid, identifier=lesion.tracking_id)
    finding = _concept(lesion.code, language, label.title.in_language(language) if language != "en" else None)
    sites = [_site(lesion.site, lesion.laterality, language)]
    measurements = _measurements(lesion, cancer=label.cancer, language=language)
    if len(regions) == 1:
        return sr.PlanarROIMeasurementsAndQualitativeEvaluations(
            tracking_identifier=tracking,
            referenced_region=regions[0],
            finding_type=finding,
            algorithm_id=_algorithm(request, language),
            finding_sites=sites,
            measurements=measurements,
        )
    return sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=tracking,
        referenced_regions=regions,
        finding_type=finding,
        algorithm_id=_algorithm(request, language),
        finding_sites=sites,
        measurements=measurements,
    )


def _site(site: Code, laterality: Code | None, language: str) -> sr.FindingSite:
    return sr.FindingSite(
        anatomic_location=_concept(site, language),
        laterality=_concept(laterality, language) if laterality else None,
    )


def _region(plane: PlanarRegion, image: AnalysedImage) -> sr.ImageRegion:
    return sr.ImageRegion(
        graphic_type=sr.GraphicTypeValues.POLYLINE,
        graphic_data=closed_polygon(plane, image),
        source_image=sr.SourceImageForRegion(
            referenced_sop_class_uid=image.sop_class_uid,
            referenced_sop_instance_uid=plane.sop_instance_uid,
            referenced_frame_numbers=None if plane.frame_number is None else [plane.frame_number],
        ),
    )


def closed_polygon(plane: PlanarRegion, image: AnalysedImage) -> NDArray[np.float64]:
    """The region's polygon, clipped to the image, its first point repeated at the end.

    Returns
    -------
    numpy.ndarray
        float64, shape (points + 1, 2): column and row, (0, 0) at the top-left corner of the first pixel (PS3.3
        C.18.6.1.2, as SCOORD wants it).

    Raises
    ------
    ValueError
        When nothing of the region lies on the image.
    """
    points = np.clip(np.asarray(plane.polygon, dtype=np.float64), 0, (image.columns, image.rows))
    if np.any(points.max(axis=0) <= points.min(axis=0)):
        raise ValueError("a lesion lies outside its image")
    return np.vstack((points, points[:1]))


def _measurements(lesion: Lesion, *, cancer: bool, language: str) -> list[sr.Measurement]:
    score = sr.Measurement(
        name=_concept(PROBABILITY_OF_CANCER if cancer else CERTAINTY_OF_FINDING, language),
        value=round(lesion.score * 100, _SIZE_DECIMALS),
        unit=_concept(PERCENT, "en"),
    )
    sizes = [
        sr.Measurement(
            name=_concept(measurement.quantity, language),
            value=round(measurement.value, _SIZE_DECIMALS),
            unit=_concept(measurement.unit, "en"),
        )
        for measurement in lesion.measurements
    ]
    return [score, *sizes]


def _evaluations(
    statements: list[sr.CodeContentItem], request: EncodeRequest, header: SourceHeader
) -> sr.ContainerContentItem:
    """What is said beside the lesions, and the report in words; viewers take lesions from measurement groups alone."""
    container = sr.ContainerContentItem(
        name=_concept(QUALITATIVE_EVALUATIONS, "en"), relationship_type=sr.RelationshipTypeValues.CONTAINS
    )
    container.ContentSequence = sr.ContentSequence([*statements, *narrative_items(request, header)])
    return container


def _presences(request: EncodeRequest, language: str) -> list[sr.CodeContentItem]:
    return [
        sr.CodeContentItem(
            name=_concept(code, language, name),
            value=_concept(PRESENCE[presence], language),
            relationship_type=sr.RelationshipTypeValues.CONTAINS,
        )
        for code, name, presence in _statements(request, language)
    ]


def _statements(request: EncodeRequest, language: str) -> list[tuple[Code, str | None, Presence]]:
    """What is said of each label: with findings as they say, absent where they are silent; else undetermined."""
    if request.card is None:
        return [(_UNSPECIFIED_FINDING, None, Presence.UNDETERMINED)]
    said: dict[str, Presence] = {}
    for finding in request.findings.findings if request.findings else ():
        said[finding.label] = _stronger(said.get(finding.label), finding)
    silent = Presence.ABSENT if request.findings else Presence.UNDETERMINED
    return [
        (
            label.finding,
            None if language == "en" else label.title.in_language(language),
            said.get(label.key, silent),
        )
        for label in request.card.labels
    ]


def _stronger(before: Presence | None, finding: Finding) -> Presence:
    """Of several statements on one pathology the one to report: present, then undetermined, then absent."""
    order = (Presence.ABSENT, Presence.UNDETERMINED, Presence.PRESENT)
    return finding.presence if before is None else max(before, finding.presence, key=order.index)


def _source_references(request: EncodeRequest, header: SourceHeader) -> list[ObjectRef]:
    return [
        ObjectRef(
            study_uid=request.study_uid,
            series_uid=SeriesUid(header.text("SeriesInstanceUID")),
            sop_class_uid=header.text("SOPClassUID"),
            sop_instance_uid=SopUid(header.text("SOPInstanceUID")),
        )
    ]


def _document(
    request: EncodeRequest, key: ResultKey, role: Role, report: sr.MeasurementReport, known: list[ObjectRef]
) -> Dataset:
    return document(
        request, key, role, sop_class_uid=_SR_CLASSES[request.profile.sr_class], content=report[0], evidence=known
    )

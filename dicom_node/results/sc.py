"""Secondary Capture: the drawn picture as a DICOM object that every viewer shows.

Called by `result_set`; what is drawn comes from `overlay` and `page`. Written with pydicom alone, because the object
is small and every attribute of it matters (PS3.3 A.8.1).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.uid import SecondaryCaptureImageStorage

from dicom_node.results import texts
from dicom_node.results.body_part import copy_body_part
from dicom_node.results.evidence import sop_item
from dicom_node.results.header import SourceHeader
from dicom_node.results.overlay import Mark, marked_picture, present_statements
from dicom_node.results.page import negative_page, refusal_page
from dicom_node.results.picture import displayed_picture
from dicom_node.results.provenance import code_item, language_of
from dicom_node.results.request import EncodeRequest, Role
from dicom_node.results.uids import ResultKey
from inference.findings import Findings, PlanarRegion, SopUid
from models.codes import Code

SOURCE_IMAGE = Code(value="121322", scheme="DCM", meaning="Source image for image processing operation")
_LOSSY = ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Shown:
    """One image or frame to be shown, and the lesions that cross it."""

    sop_instance_uid: SopUid
    frame_number: int | None
    marks: tuple[Mark, ...]


def overlays(
    request: EncodeRequest, findings: Findings, headers: dict[SopUid, SourceHeader], key: ResultKey
) -> list[tuple[Dataset, SourceHeader]]:
    """One Secondary Capture for each image (for each key slice of a volume) on which something is marked.

    Returns
    -------
    list of (Dataset, SourceHeader)
        In the order of the study's images; the header is that of the image shown.
    """
    sop_classes = {image.sop_instance_uid: image.sop_class_uid for image in findings.images}
    results = []
    for ordinal, shown in enumerate(_pictures_to_show(findings)):
        header = headers[shown.sop_instance_uid]
        frame = shown.frame_number or (1 if int(header.dataset.get("NumberOfFrames") or 1) > 1 else None)
        grey = displayed_picture(request.sources[shown.sop_instance_uid], frame)
        statements = present_statements(findings, shown.sop_instance_uid)
        pixels = marked_picture(grey, shown.marks, request, findings, statements)
        capture = secondary_capture(pixels, key, Role.OVERLAY, ordinal)
        source = sop_item(sop_classes[shown.sop_instance_uid], shown.sop_instance_uid, frame)
        source.PurposeOfReferenceCodeSequence = [code_item(SOURCE_IMAGE)]
        capture.SourceImageSequence = [source]
        inherit_image(capture, header)
        capture.DerivationDescription = texts.SERIES_OVERLAY.in_language(language_of(request, header))
        results.append((capture, header))
    return results


def status_page(request: EncodeRequest, header: SourceHeader, key: ResultKey) -> Dataset:
    """The page that says that nothing was found, or why the study was not analysed."""
    if request.findings is not None:
        pixels = negative_page(request, request.findings)
    else:
        assert request.refusal is not None
        pixels = refusal_page(request, request.refusal)
    capture = secondary_capture(pixels, key, Role.STATUS_PAGE, 0)
    capture.BurnedInAnnotation = "NO"
    copy_body_part(capture, header)
    return capture


def _pictures_to_show(findings: Findings) -> list[_Shown]:
    """Key places of lesions, and images on which something is present without a place, in the order of the images."""
    order = {image.sop_instance_uid: index for index, image in enumerate(findings.images)}
    places = {
        (lesion.region.key_plane.sop_instance_uid, lesion.region.key_plane.frame_number) for lesion in findings.lesions
    }
    seen = {uid for uid, _ in places}
    for image in findings.images:
        if image.sop_instance_uid not in seen and is_named(findings, image.sop_instance_uid):
            places.add((image.sop_instance_uid, None))
    if not places:  # something is present in the study as a whole: say so on its first image
        places.add((findings.images[0].sop_instance_uid, None))
    ordered = sorted(places, key=lambda place: (order[place[0]], place[1] or 0))
    return [
        _Shown(sop_instance_uid=uid, frame_number=frame, marks=marks_on(findings, uid, frame)) for uid, frame in ordered
    ]


def is_named(findings: Findings, uid: SopUid) -> bool:
    """Whether something is present on this very image without a place."""
    return any(finding.sop_instance_uid == uid for finding in present_statements(findings, uid))


def marks_on(findings: Findings, uid: SopUid, frame: int | None) -> tuple[Mark, ...]:
    """The parts of lesions that lie on one image or frame, with the lesions' numbers in the study."""
    return tuple(
        Mark(number=number, lesion=lesion, plane=plane)
        for number, lesion in enumerate(findings.lesions, start=1)
        for plane in _planes_on(lesion.region.planes, uid, frame)
    )


def _planes_on(planes: tuple[PlanarRegion, ...], uid: SopUid, frame: int | None) -> list[PlanarRegion]:
    return [plane for plane in planes if (plane.sop_instance_uid, plane.frame_number) == (uid, frame)]


def secondary_capture(pixels: NDArray[np.uint8], key: ResultKey, role: Role, ordinal: int) -> Dataset:
    """A picture (uint8, rows × columns × 3) as an object without patient, study and equipment, which `stamp` adds."""
    capture = Dataset()
    capture.SOPClassUID = SecondaryCaptureImageStorage
    capture.SOPInstanceUID = key.instance_uid(role, ordinal)
    capture.SeriesInstanceUID = key.series_uid(role)
    capture.Modality = "OT"
    capture.ConversionType = "WSD"
    capture.ImageType = ["DERIVED", "SECONDARY"]
    capture.PatientOrientation = None
    capture.SamplesPerPixel = 3
    capture.PhotometricInterpretation = "RGB"
    capture.PlanarConfiguration = 0
    capture.Rows, capture.Columns = pixels.shape[:2]
    capture.BitsAllocated = capture.BitsStored = 8
    capture.HighBit = 7
    capture.PixelRepresentation = 0
    data = pixels.tobytes()
    capture.PixelData = data + b"\0" * (len(data) % 2)
    return capture


def inherit_image(capture: Dataset, header: SourceHeader) -> None:
    """What a picture made of another one must repeat: body part, burned-in identity, loss by compression."""
    copy_body_part(capture, header)
    # nothing that identifies the patient is drawn, so only the source decides; unknown stays unknown
    if header.text("BurnedInAnnotation") in {"YES", "NO"}:
        capture.BurnedInAnnotation = header.text("BurnedInAnnotation")
    if header.text("LossyImageCompression") == "01":
        _copy(capture, header, _LOSSY)


def _copy(capture: Dataset, header: SourceHeader, keywords: tuple[str, ...]) -> None:
    for keyword in keywords:
        if header.text(keyword):
            setattr(capture, keyword, header.dataset[keyword].value)

"""Segmentation of lesions on CT: one BINARY object per series, made of the outlines (or boxes) that findings carry.

Called by `result_set`. Only for images with a Frame of Reference: on projections a segmentation breaks viewers.
Fractional and label-map segmentations are not written, because common archives refuse them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import highdicom as hd
import numpy as np
from highdicom.sr import CodedConcept
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage

from dicom_node.results import texts
from dicom_node.results.header import SourceHeader, without_patient
from dicom_node.results.provenance import NODE_NAME, language_of, provenance_of
from dicom_node.results.request import EncodeRequest, Role
from dicom_node.results.uids import ResultKey
from inference.findings import Findings, Lesion, SopUid
from models.codes import Code

_CT_CLASSES: Final = frozenset({str(CTImageStorage), str(EnhancedCTImageStorage)})
_ABNORMAL: Final = Code(value="49755003", scheme="SCT", meaning="Morphologically Abnormal Structure")
_ARTIFICIAL_INTELLIGENCE: Final = Code(value="123110", scheme="DCM", meaning="Artificial Intelligence")
_LABEL_LIMIT: Final = 64

Plane = tuple[SopUid, int | None]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Grid:
    """The source images of one series that carry lesions, and where each image or frame lies in the mask."""

    sources: tuple[SourceHeader, ...]
    position: dict[Plane, int]
    rows: int
    columns: int


def segmentations(
    request: EncodeRequest, findings: Findings, headers: dict[SopUid, SourceHeader], key: ResultKey
) -> list[tuple[Dataset, SourceHeader]]:
    """One segmentation for each CT series in which a lesion was found.

    Returns
    -------
    list of (Dataset, SourceHeader)
        Empty where no image is CT with a Frame of Reference.
    """
    results = []
    for ordinal, series_uid in enumerate(dict.fromkeys(image.series_uid for image in findings.images)):
        members = {image.sop_instance_uid for image in findings.images if image.series_uid == series_uid}
        lesions = [
            (number, lesion)
            for number, lesion in enumerate(findings.lesions, start=1)
            if any(plane.sop_instance_uid in members for plane in lesion.region.planes)
        ]
        if not lesions:
            continue
        grid = _grid([lesion for _, lesion in lesions], members, headers)
        if grid is not None:
            results.append((_segmentation(request, lesions, grid, key, ordinal), grid.sources[0]))
    return results


def _grid(lesions: list[Lesion], members: set[SopUid], headers: dict[SopUid, SourceHeader]) -> _Grid | None:
    touched = {
        plane.sop_instance_uid: headers[plane.sop_instance_uid]
        for lesion in lesions
        for plane in lesion.region.planes
        if plane.sop_instance_uid in members
    }
    sources = [touched[uid] for uid in sorted(touched)]
    if not all(_can_be_segmented(source) for source in sources):
        return None
    first = sources[0].dataset
    size = int(first.Rows), int(first.Columns)
    if any((int(source.dataset.Rows), int(source.dataset.Columns)) != size for source in sources):
        return None
    frames = [(uid, frame) for uid in sorted(touched) for frame in _frames(touched[uid])]
    position = {plane: index for index, plane in enumerate(frames)}
    return _Grid(sources=tuple(sources), position=position, rows=size[0], columns=size[1])


def _can_be_segmented(source: SourceHeader) -> bool:
    return source.text("SOPClassUID") in _CT_CLASSES and bool(source.text("FrameOfReferenceUID"))


def _frames(source: SourceHeader) -> list[int | None]:
    if source.text("SOPClassUID") != str(EnhancedCTImageStorage):
        return [None]
    return list(range(1, int(source.dataset.get("NumberOfFrames", 1)) + 1))


def _segmentation(
    request: EncodeRequest, lesions: list[tuple[int, Lesion]], grid: _Grid, key: ResultKey, ordinal: int
) -> Dataset:
    language = language_of(request, grid.sources[0])
    masks = np.stack([_mask(lesion, grid) for _, lesion in lesions], axis=-1)
    speaker = provenance_of(request.card)
    result = hd.seg.Segmentation(
        source_images=[without_patient(source) for source in grid.sources],
        pixel_array=masks,
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[
            _description(segment, number, lesion, request, language)
            for segment, (number, lesion) in enumerate(lesions, start=1)
        ],
        series_instance_uid=key.series_uid(Role.SEGMENTATION),
        series_number=1,
        sop_instance_uid=key.instance_uid(Role.SEGMENTATION, ordinal),
        instance_number=1,
        manufacturer=NODE_NAME,
        manufacturer_model_name=NODE_NAME,
        software_versions=speaker.version,
        device_serial_number=speaker.serial_number,
        content_label="LESIONS",
        content_description=texts.series_title(texts.SERIES_SEGMENTATION, request.card, "en"),
        omit_empty_frames=True,
    )
    _fix_dimension_uid(result, key.inner_uid("dimension", Role.SEGMENTATION, ordinal))
    return result


def _description(
    segment: int, number: int, lesion: Lesion, request: EncodeRequest, language: str
) -> hd.seg.SegmentDescription:
    assert request.card is not None
    speaker = provenance_of(request.card)
    title = request.card.label(lesion.label).title.in_language(language)
    description = hd.seg.SegmentDescription(
        segment_number=segment,
        segment_label=f"{number}. {title}"[:_LABEL_LIMIT],
        segmented_property_category=_concept(_ABNORMAL),
        segmented_property_type=_concept(lesion.code),
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name=speaker.name,
            version=speaker.version,
            family=_concept(_ARTIFICIAL_INTELLIGENCE),
            source=speaker.manufacturer,
        ),
        tracking_uid=lesion.tracking_uid,
        tracking_id=lesion.tracking_id,
        anatomic_regions=[_concept(lesion.site)],
    )
    if texts.is_demonstration(request.card):
        description.SegmentDescription = texts.warning_sentence(request.card, language)
    return description


def _concept(code: Code) -> CodedConcept:
    return CodedConcept(value=code.value, scheme_designator=code.scheme, meaning=code.meaning)


def _mask(lesion: Lesion, grid: _Grid) -> NDArray[np.bool_]:
    mask = np.zeros((len(grid.position), grid.rows, grid.columns), dtype=np.bool_)
    for plane in lesion.region.planes:
        place = grid.position.get((plane.sop_instance_uid, plane.frame_number))
        if place is not None:
            mask[place] |= polygon_mask(plane.polygon, grid.rows, grid.columns)
    return mask


def polygon_mask(polygon: tuple[tuple[float, float], ...], rows: int, columns: int) -> NDArray[np.bool_]:
    """Pixels whose centre lies within `polygon` (x, y in source pixels, even-odd rule), bool (rows, columns)."""
    x = np.arange(columns)[None, :] + 0.5
    y = np.arange(rows)[:, None] + 0.5
    inside = np.zeros((rows, columns), dtype=np.bool_)
    for (x_1, y_1), (x_2, y_2) in zip(polygon, polygon[1:] + polygon[:1], strict=True):
        if y_1 == y_2:
            continue
        crossed = (y_1 > y) != (y_2 > y)
        inside ^= crossed & (x < x_1 + (y - y_1) * (x_2 - x_1) / (y_2 - y_1))
    return inside


def _fix_dimension_uid(result: Dataset, uid: str) -> None:
    """Replace the one UID that highdicom draws at random, so that equal requests give equal bytes."""
    for item in result.DimensionOrganizationSequence:
        item.DimensionOrganizationUID = uid
    for item in result.DimensionIndexSequence:
        item.DimensionOrganizationUID = uid

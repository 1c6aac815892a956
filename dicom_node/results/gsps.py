"""Grey-scale presentation state: the marks as vector graphics over the source image, for workstations that show them.

Called by `result_set` where the profile asks for it; projections only. One object per image, because polarity and
window belong to the whole presentation state. Written with pydicom alone: a presentation state replaces how the image
is displayed, so polarity and VOI have to be repeated exactly (PS3.3 A.33.1).
"""

from __future__ import annotations

from typing import Any, Final

from pydicom import DataElement, Dataset, Sequence
from pydicom.multival import MultiValue
from pydicom.uid import GrayscaleSoftcopyPresentationStateStorage

from dicom_node.results import texts
from dicom_node.results.body_part import copy_body_part
from dicom_node.results.evidence import sop_item
from dicom_node.results.header import SourceHeader
from dicom_node.results.provenance import NODE_NAME, language_of
from dicom_node.results.request import EncodeRequest, Role
from dicom_node.results.sr import closed_polygon
from dicom_node.results.uids import ResultKey
from inference.findings import AnalysedImage, Findings, Lesion, PlanarRegion, SopUid

_LAYER: Final = "AI"
_PROJECTIONS: Final = frozenset({"CR", "DX", "MG", "RG", "RF"})
_AMBER_CIELAB: Final = [53400, 34700, 54600]  # PCS values of the overlay's first colour, PS3.3 C.10.7.1.1


def presentation_states(
    request: EncodeRequest, findings: Findings, headers: dict[SopUid, SourceHeader], key: ResultKey
) -> list[tuple[Dataset, SourceHeader]]:
    """One presentation state for each projection on which a lesion is placed.

    Returns
    -------
    list of (Dataset, SourceHeader)
        In the order of the study's images; empty for anything but projections.
    """
    results: list[tuple[Dataset, SourceHeader]] = []
    for image in findings.images:
        placed = [
            (number, lesion, plane)
            for number, lesion in enumerate(findings.lesions, start=1)
            for plane in lesion.region.planes
            if plane.sop_instance_uid == image.sop_instance_uid and plane.frame_number is None
        ]
        if not placed:
            continue
        header = headers[image.sop_instance_uid]
        if header.text("Modality") in _PROJECTIONS:
            state = _state(request, image, header, key, ordinal=len(results))
            graphics = [_graphic(plane, image, lesion) for _, lesion, plane in placed]
            words = [_words(number, lesion, plane, image, request, header) for number, lesion, plane in placed]
            state.GraphicAnnotationSequence = [_annotation(image, graphics, words)]
            results.append((state, header))
    return results


def _state(
    request: EncodeRequest, image: AnalysedImage, header: SourceHeader, key: ResultKey, *, ordinal: int
) -> Dataset:
    moment = header.local_time(request.content_time)
    state = Dataset()
    state.SOPClassUID = GrayscaleSoftcopyPresentationStateStorage
    state.SOPInstanceUID = key.instance_uid(Role.PRESENTATION_STATE, ordinal)
    state.SeriesInstanceUID = key.series_uid(Role.PRESENTATION_STATE)
    state.Modality = "PR"
    state.ContentLabel = "AI_MARKS"
    state.ContentDescription = texts.SERIES_PRESENTATION.in_language(language_of(request, header))
    state.ContentCreatorName = f"{NODE_NAME}^"
    state.PresentationCreationDate = moment.strftime("%Y%m%d")
    state.PresentationCreationTime = moment.strftime("%H%M%S")
    series = Dataset()
    series.SeriesInstanceUID = image.series_uid
    series.ReferencedImageSequence = [sop_item(image.sop_class_uid, image.sop_instance_uid)]
    state.ReferencedSeriesSequence = [series]
    state.DisplayedAreaSelectionSequence = [_displayed_area(image, header)]
    state.GraphicLayerSequence = [_layer()]
    copy_body_part(state, header)
    _copy_display(state, header)
    return state


def _displayed_area(image: AnalysedImage, header: SourceHeader) -> Dataset:
    """The whole image (PS3.3 C.10.4); here, other than in graphics, the first pixel is 1\\\\1."""
    area = Dataset()
    area.ReferencedImageSequence = [sop_item(image.sop_class_uid, image.sop_instance_uid)]
    area.DisplayedAreaTopLeftHandCorner = [1, 1]
    area.DisplayedAreaBottomRightHandCorner = [image.columns, image.rows]
    area.PresentationSizeMode = "SCALE TO FIT"
    ratio = header.dataset.get("PixelAspectRatio")
    area.PresentationPixelAspectRatio = list(ratio) if ratio else [1, 1]
    return area


def _layer() -> Dataset:
    layer = Dataset()
    layer.GraphicLayer = _LAYER
    layer.GraphicLayerOrder = 1
    layer.GraphicLayerRecommendedDisplayCIELabValue = _AMBER_CIELAB
    return layer


def _copy_display(state: Dataset, header: SourceHeader) -> None:
    """Modality LUT, one VOI transformation and the polarity, as the image itself says.

    Where an image has both a VOI LUT and a window the LUT is taken, as for the picture that the model sees.
    """
    source = header.dataset
    if source.get("ModalityLUTSequence"):
        state.ModalityLUTSequence = [_lut(source.ModalityLUTSequence[0], source, kind="ModalityLUTType")]
    elif "RescaleSlope" in source and "RescaleIntercept" in source:
        state.RescaleIntercept, state.RescaleSlope = source.RescaleIntercept, source.RescaleSlope
        state.RescaleType = header.text("RescaleType") or "US"
    voi = _voi(source)
    if voi is not None:
        state.SoftcopyVOILUTSequence = [voi]
    state.PresentationLUTShape = "INVERSE" if header.text("PhotometricInterpretation") == "MONOCHROME1" else "IDENTITY"


def _voi(source: Dataset) -> Dataset | None:
    item = Dataset()
    if source.get("VOILUTSequence"):
        item.VOILUTSequence = [_lut(source.VOILUTSequence[0], source)]
        return item
    center, width = _first(source.get("WindowCenter")), _first(source.get("WindowWidth"))
    if center is None or width is None:
        return None
    item.WindowCenter, item.WindowWidth = center, width
    if source.get("VOILUTFunction"):
        item.VOILUTFunction = source.VOILUTFunction
    return item


def _first(value: Any) -> Any:  # what pydicom gives: nothing, one value or several
    """The first of one or several values, None when there is none."""
    if value is None or value == "":
        return None
    return value[0] if isinstance(value, MultiValue) else value


def _lut(item: Dataset, source: Dataset, *, kind: str = "") -> Dataset:
    """A lookup table with representations that do not depend on the image's pixels."""
    copy = Dataset()
    signed = int(source.get("PixelRepresentation", 0)) == 1
    copy.add(DataElement("LUTDescriptor", "SS" if signed else "US", list(item.LUTDescriptor)))
    data = item.LUTData
    copy.add(DataElement("LUTData", "OW" if isinstance(data, bytes) else "US", data))
    if kind:
        setattr(copy, kind, item.get(kind) or "US")
    return copy


def _annotation(image: AnalysedImage, graphics: list[Dataset], words: list[Dataset]) -> Dataset:
    annotation = Dataset()
    annotation.ReferencedImageSequence = [sop_item(image.sop_class_uid, image.sop_instance_uid)]
    annotation.GraphicLayer = _LAYER
    annotation.GraphicObjectSequence = Sequence(graphics)
    annotation.TextObjectSequence = Sequence(words)
    return annotation


def _graphic(plane: PlanarRegion, image: AnalysedImage, lesion: Lesion) -> Dataset:
    """The closed outline; PIXEL units start at 0\\\\0, the top-left corner of the first pixel (PS3.3 C.10.5)."""
    points = closed_polygon(plane, image)
    graphic = Dataset()
    graphic.GraphicAnnotationUnits = "PIXEL"
    graphic.GraphicDimensions = 2
    graphic.NumberOfGraphicPoints = len(points)
    graphic.GraphicData = [float(value) for value in points.ravel()]
    graphic.GraphicType = "POLYLINE"
    graphic.GraphicFilled = "N"
    graphic.TrackingID, graphic.TrackingUID = lesion.tracking_id, lesion.tracking_uid
    return graphic


def _words(
    number: int,
    lesion: Lesion,
    plane: PlanarRegion,
    image: AnalysedImage,
    request: EncodeRequest,
    header: SourceHeader,
) -> Dataset:
    assert request.card is not None
    language = language_of(request, header)
    title = request.card.label(lesion.label).title.in_language(language)
    score = texts.percent(lesion.score).replace("\N{NO-BREAK SPACE}", " ")
    words = Dataset()
    warning = texts.warning_word(request.card, language)
    words.UnformattedTextValue = f"{number}. {title} {score} ({warning})"
    words.AnchorPointAnnotationUnits = "PIXEL"
    words.AnchorPoint = [max(0.0, plane.box.x_min), min(float(image.rows), plane.box.y_max)]
    words.AnchorPointVisibility = "N"
    return words

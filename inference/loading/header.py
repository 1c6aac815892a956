"""From a data set to `ImageHeader`: identity, view, side, age, intent, trustworthy spacing.

Called by `loading.image` and `loading.volume`. Refuses what is no image and what contradicts itself; whether a
picture suits a model is `inference.intended_use`.
"""

from __future__ import annotations

import re
from datetime import date

from pydicom.dataset import Dataset

from inference.findings import SeriesUid, SopUid, StudyUid
from inference.images import ImageHeader, LoadLimits
from inference.loading import attributes as read
from inference.refusals import Reason, Refused
from models.card import PresentationIntent

_STORAGE = "1.2.840.10008.5.1.4.1.1."
_NOT_IMAGES = tuple(
    _STORAGE + part for part in ("88.", "11.", "66", "481.3", "481.5", "481.8", "9.", "104.", "67", "78.", "79.", "30")
)  # SR, presentation states, raw data/registration/SEG, RT plans, waveforms, documents, measurements, parametric maps
_CT_CLASSES = {_STORAGE + "2", _STORAGE + "2.1", _STORAGE + "2.2"}
_CR_DX_CLASSES = {_STORAGE + "1", _STORAGE + "1.1", _STORAGE + "1.1.1"}
_MG_CLASSES = {_STORAGE + "1.2", _STORAGE + "1.2.1"}
# Modalities that no object of the class can honestly carry; CT classes may say MG or PT (tomosynthesis, PET-CT).
_IMPOSSIBLE = (
    (_CT_CLASSES, {"CR", "DX", "US", "MR", "IO", "ES"}),
    (_CR_DX_CLASSES, {"CT", "MR", "US", "PT", "NM", "ES", "SR"}),
    (_MG_CLASSES, {"CT", "MR", "US", "PT", "NM", "ES", "SR"}),
)
_CROSS_SECTIONAL = {"CT", "MR", "PT"}
_SINGLE_FRAME = _CR_DX_CLASSES | _MG_CLASSES | {_STORAGE + "2"}
_GREY = {"MONOCHROME1", "MONOCHROME2"}
_SPACING_LIMITS_MM = (0.005, 10.0)
_SAME_SPACING_MM = 1e-4
_MAGNIFICATION_LIMITS = (1.0, 20.0)
_MAX_AGE_YEARS = 130.0
_DAYS_PER_YEAR = 365.2425
_AGE = re.compile(r"(\d{1,3})([DWMY])")
_DIRECTION = re.compile(r"[LRAPHF]{1,3}")
_AGE_UNITS_YEARS = {"D": 1 / _DAYS_PER_YEAR, "W": 7 / _DAYS_PER_YEAR, "M": 1 / 12, "Y": 1.0}

# View codes of PS3.16 CID 4010 and CID 4014 with the older SNOMED-RT values, and the term of View Position.
_VIEWS = {
    "272479007": "PA", "R-10214": "PA", "399348003": "AP", "R-10206": "AP", "399173006": "LL", "R-10236": "LL",
    "399198007": "RL", "R-10232": "RL", "399067008": "LAT", "R-10228": "LM", "399352003": "LM", "399162004": "CC",
    "R-10242": "CC", "399368009": "MLO", "R-10226": "MLO", "399260004": "ML", "R-10224": "ML", "399099002": "LMO",
    "R-10230": "LMO", "399192008": "XCCL", "R-1024A": "XCCL", "399101009": "XCCM", "R-1024B": "XCCM",
    "399196006": "FB", "R-10244": "FB", "399188001": "SIO", "R-102D0": "SIO", "441555000": "ISO",
    "399135007": "LAO", "399356000": "RAO", "399006002": "LPO", "399038007": "RPO",
}  # fmt: skip
# View modifiers of PS3.16 CID 4015 and of CID 4010 for decubitus and supine films are told by their short names.
_MODIFIERS = {
    "399209000": "ID", "R-102D5": "ID", "399055006": "SPOT", "R-102D7": "SPOT", "399163009": "MAG", "R-102D6": "MAG",
    "399161006": "CV", "R-102D2": "CV", "399011000": "AT", "R-102D1": "AT", "399197002": "RL", "R-102D3": "RL",
    "399226006": "RM", "R-102D4": "RM", "415670009": "RS", "R-102CA": "RS", "414493004": "RI", "R-102C9": "RI",
    "399110001": "TAN", "R-102C2": "TAN", "442581004": "NP", "442580003": "AX", "441752004": "AC", "442593008": "IMF",
}  # fmt: skip
_VIEW_WORDS = {"POSTERO-ANTERIOR": "PA", "ANTERO-POSTERIOR": "AP", "LLAT": "LL", "RLAT": "RL", "LATERAL": "LAT"}


def image_header(data_set: Dataset, transfer_syntax_uid: str, *, limits: LoadLimits) -> ImageHeader:
    """What the header says of an image.

    Raises
    ------
    Refused
        NOT_AN_IMAGE, UNREADABLE, NO_PIXELS, TOO_LARGE, NOT_GREY or CONTRADICTION.
    """
    sop_class = read.uid(data_set, "SOPClassUID")
    if sop_class.startswith(_NOT_IMAGES):
        raise Refused(Reason.NOT_AN_IMAGE, f"SOP class {sop_class}")
    modality = read.code_text(data_set, "Modality")
    _check_class(sop_class, modality)
    rows, columns, frames = _size(data_set, sop_class, limits)
    return ImageHeader(
        sop_instance_uid=SopUid(read.uid(data_set, "SOPInstanceUID")),
        sop_class_uid=sop_class,
        series_uid=SeriesUid(read.uid(data_set, "SeriesInstanceUID")),
        study_uid=StudyUid(read.uid(data_set, "StudyInstanceUID")),
        transfer_syntax_uid=transfer_syntax_uid,
        modality=modality,
        body_part=read.code_text(data_set, "BodyPartExamined"),
        view=view(data_set),
        view_modifiers=view_modifiers(data_set),
        laterality=_laterality(data_set),
        presentation=_presentation(data_set),
        patient_age_years=patient_age_years(data_set),
        image_type=tuple(str(part).strip().upper() for part in read.values(data_set, "ImageType")),
        rows=rows,
        columns=columns,
        frames=frames,
        bits_stored=read.required_integer(data_set, "BitsStored"),
        photometric=_grey_photometric(data_set),
        lossy=read.text(data_set, "LossyImageCompression") == "01",
        spacing_mm=trustworthy_spacing_mm(data_set, modality),
        description=read.text(data_set, "SeriesDescription") or read.text(data_set, "StudyDescription"),
        device_uid=read.optional_uid(data_set, "DeviceUID"),
        contributing_device_uids=_contributing_devices(data_set),
    )


def _check_class(sop_class: str, modality: str) -> None:
    for classes, impossible in _IMPOSSIBLE:
        if sop_class in classes and modality in impossible:
            raise Refused(Reason.CONTRADICTION, f"SOP class {sop_class} with modality {modality}")


def _size(data_set: Dataset, sop_class: str, limits: LoadLimits) -> tuple[int, int, int]:
    if "Rows" not in data_set and "Columns" not in data_set:
        raise Refused(Reason.NOT_AN_IMAGE, f"SOP class {sop_class} without Rows and Columns")
    rows, columns = read.required_integer(data_set, "Rows"), read.required_integer(data_set, "Columns")
    declared = read.integer(data_set, "NumberOfFrames")
    frames = 1 if declared is None else declared
    if rows <= 0 or columns <= 0 or frames <= 0:
        raise Refused(Reason.NO_PIXELS, f"{rows} rows, {columns} columns, {frames} frames")
    if rows * columns > limits.max_pixels:
        raise Refused(Reason.TOO_LARGE, f"{rows} x {columns} pixels, {limits.max_pixels} are accepted")
    if frames > limits.max_frames:
        raise Refused(Reason.TOO_LARGE, f"{frames} frames, {limits.max_frames} are accepted")
    if frames > 1 and sop_class in _SINGLE_FRAME:
        raise Refused(Reason.CONTRADICTION, f"{frames} frames in single-frame SOP class {sop_class}")
    return rows, columns, frames


def _grey_photometric(data_set: Dataset) -> str:
    photometric = read.code_text(data_set, "PhotometricInterpretation")
    samples = read.integer(data_set, "SamplesPerPixel")
    if photometric not in _GREY or samples not in (1, None):
        raise Refused(Reason.NOT_GREY, f"{photometric or 'no photometric interpretation'}, {samples} sample(s)")
    return photometric


def view(data_set: Dataset) -> str:
    """View Position (0018,5101), else the meaning of View Code Sequence (0054,0220) in the same terms."""
    position = read.code_text(data_set, "ViewPosition")
    if position:
        return _VIEW_WORDS.get(position, position)
    for item in read.items(data_set, "ViewCodeSequence"):
        return _VIEWS.get(read.text(item, "CodeValue"), "")
    return ""


def view_modifiers(data_set: Dataset) -> tuple[str, ...]:
    """Short names of View Modifier Code Sequence (0054,0222), PS3.16 CID 4015; the code itself where it has none."""
    codes = [
        read.text(modifier, "CodeValue")
        for item in read.items(data_set, "ViewCodeSequence")[:1]
        for modifier in read.items(item, "ViewModifierCodeSequence")
    ]
    return tuple(_MODIFIERS.get(code, code) for code in codes if code)


def patient_orientation(data_set: Dataset) -> tuple[str, ...]:
    """Patient Orientation (0020,0020) of row and column in letters of PS3.3 C.7.6.1.1.1; empty when it is neither.

    Digitised mammograms carry the name of the view there, and some senders one value or rubbish.
    """
    found = tuple(str(value).strip(" \0").upper() for value in read.values(data_set, "PatientOrientation"))
    is_pair = len(found) == 2 and all(_DIRECTION.fullmatch(value) for value in found)  # noqa: PLR2004
    return found if is_pair else ()


def _laterality(data_set: Dataset) -> str:
    side = read.code_text(data_set, "ImageLaterality") or read.code_text(data_set, "Laterality")
    return side if side in ("L", "R", "B") else ""


def _presentation(data_set: Dataset) -> PresentationIntent:
    intent = read.code_text(data_set, "PresentationIntentType")
    try:
        return PresentationIntent(intent)
    except ValueError:
        return PresentationIntent.UNKNOWN


def _contributing_devices(data_set: Dataset) -> tuple[str, ...]:
    found = (read.optional_uid(item, "DeviceUID") for item in read.items(data_set, "ContributingEquipmentSequence"))
    return tuple(device for device in found if device)


def patient_age_years(data_set: Dataset) -> float | None:
    """Patient's Age (0010,1010), else Study Date minus birth date; None when neither gives a possible age."""
    match = _AGE.fullmatch(read.code_text(data_set, "PatientAge"))
    if match:
        age = int(match[1]) * _AGE_UNITS_YEARS[match[2]]
        # "000Y" is what many consoles send when the age was not entered.
        if age <= _MAX_AGE_YEARS and match[0] != "000Y":
            return age
    born, studied = (_date(read.text(data_set, word)) for word in ("PatientBirthDate", "StudyDate"))
    if born is None or studied is None:
        return None
    age = (studied - born).days / _DAYS_PER_YEAR
    return age if 0 <= age <= _MAX_AGE_YEARS else None


def _date(value: str) -> date | None:
    digits = value.replace(".", "")
    try:
        return date(int(digits[:4]), int(digits[4:6]), int(digits[6:8]))
    except ValueError:
        return None


def trustworthy_spacing_mm(data_set: Dataset, modality: str) -> tuple[float, float] | None:
    """Distance (row, column) of pixels in the patient, or None.

    Cross-sectional images: Pixel Spacing. Projections (PS3.3 10.7.1): Pixel Spacing where a calibration type is named
    or where it differs from Imager Pixel Spacing, so was corrected; else Imager Pixel Spacing divided by the Estimated
    Radiographic Magnification Factor. Spacing at the detector without a magnification is not a size in the patient.
    """
    pixel = _spacing_pair(data_set, "PixelSpacing")
    if modality in _CROSS_SECTIONAL:
        return pixel
    imager = _spacing_pair(data_set, "ImagerPixelSpacing")
    if pixel and (read.text(data_set, "PixelSpacingCalibrationType") or (imager and not _equal(pixel, imager))):
        return pixel
    factor = read.number(data_set, "EstimatedRadiographicMagnificationFactor")
    low, high = _MAGNIFICATION_LIMITS
    if imager is None or factor is None or not low <= factor <= high:
        return None
    return imager[0] / factor, imager[1] / factor


def _spacing_pair(data_set: Dataset, keyword: str) -> tuple[float, float] | None:
    pair = read.numbers(data_set, keyword)
    low, high = _SPACING_LIMITS_MM
    if len(pair) != 2 or not all(low <= value <= high for value in pair):  # noqa: PLR2004
        return None
    return pair[0], pair[1]


def _equal(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return all(abs(a - b) < _SAME_SPACING_MM for a, b in zip(one, other, strict=True))

"""Why something is not analysed: every refusal of the node is one of these reasons, never a bare message.

Raised by `inference.loading`, `inference.intended_use` and `inference.engine`, decided by `dicom_node` for studies
that never get so far; stored in the ledger, printed by `radnode explain`, and written into the result that tells the
radiologist. The words shown to people, in Russian and English, are in `TEXTS`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from models.codes import Text


class Reason(StrEnum):
    """A named reason for not analysing an image, a series or a study."""

    UNREADABLE = "unreadable"  # not DICOM, truncated, or an attribute that cannot be parsed
    UNDECODABLE = "undecodable"  # the pixel data do not decode
    TRANSFER_SYNTAX = "transfer_syntax"  # compressed in a way for which no permitted decoder exists
    NO_PIXELS = "no_pixels"  # no or zero-size pixel data
    TOO_LARGE = "too_large"  # the declared size exceeds the limit, checked before decoding
    NOT_GREY = "not_grey"  # colour, palette or several samples per pixel
    NOT_HU = "not_hu"  # CT whose values are not Hounsfield units
    CONTRADICTION = "contradiction"  # header and content, or SOP class and content, disagree
    MODALITY = "modality"  # outside the model's intended use
    BODY_PART = "body_part"  # outside the model's intended use
    VIEW = "view"  # outside the model's intended use
    PRESENTATION = "presentation"  # for processing where for presentation is needed, or the reverse
    AGE = "age"  # patient younger or older than the model was made for
    OUT_OF_RANGE = "out_of_range"  # the picture is not of the kind the model was trained on
    GEOMETRY = "geometry"  # slices tilted, unequally spaced or duplicated
    INCOMPLETE = "incomplete"  # images are missing and the model needs them
    OTHER_SERIES = "other_series"  # another series of the same study shows the same and suits the model better
    OWN_RESULT = "own_result"  # written by this node or another AI: the loop guard
    SECONDARY_CAPTURE = "secondary_capture"  # a screenshot or derived picture, where the route does not allow it
    NOT_AN_IMAGE = "not_an_image"  # a report, presentation state, segmentation: nothing to analyse
    TWO_PATIENTS = "two_patients"  # one study UID carries images of different patients
    TOO_MANY_INSTANCES = "too_many_instances"  # more instances than the route or the node accepts
    POISON = "poison"  # processing crashed or ran out of its limits repeatedly
    MODEL_FAILED = "model_failed"  # the model itself failed or gave values that are not numbers
    NO_ROUTE = "no_route"  # no rule and so no model for this study


# Of an image: it was meant for the model, and could not be read. The other reasons say that it was not meant for it.
UNREAD = frozenset(
    {Reason.UNREADABLE, Reason.UNDECODABLE, Reason.TRANSFER_SYNTAX, Reason.NO_PIXELS, Reason.TOO_LARGE,
     Reason.CONTRADICTION, Reason.NOT_HU, Reason.MODEL_FAILED}
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """One refusal: the named reason and, for the person who looks into it, what exactly was found.

    `detail` never holds patient data: attribute names, numbers and coded values only.
    """

    reason: Reason
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}" if self.detail else str(self.reason)


class Refused(Exception):
    """What was given is not analysed, for a named reason. Permanent: trying again gives the same answer."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        self.refusal = Refusal(reason=reason, detail=detail)
        super().__init__(str(self.refusal))


TEXTS: dict[Reason, Text] = {
    Reason.UNREADABLE: Text(en="the file cannot be read", ru="файл не читается"),
    Reason.UNDECODABLE: Text(en="the image data cannot be decoded", ru="данные изображения не декодируются"),
    Reason.TRANSFER_SYNTAX: Text(en="unsupported image compression", ru="неподдерживаемое сжатие изображения"),
    Reason.NO_PIXELS: Text(en="the object holds no image data", ru="объект не содержит изображения"),
    Reason.TOO_LARGE: Text(en="the image is larger than accepted", ru="размер изображения превышает допустимый"),
    Reason.NOT_GREY: Text(en="not a grey-scale image", ru="изображение не в градациях серого"),
    Reason.NOT_HU: Text(en="values are not Hounsfield units", ru="значения не в единицах Хаунсфилда"),
    Reason.CONTRADICTION: Text(en="the header contradicts the content", ru="заголовок противоречит содержимому"),
    Reason.MODALITY: Text(en="modality outside the intended use", ru="модальность вне области применения"),
    Reason.BODY_PART: Text(en="body part outside the intended use", ru="анатомическая область вне области применения"),
    Reason.VIEW: Text(en="view outside the intended use", ru="проекция вне области применения"),
    Reason.PRESENTATION: Text(
        en="image type (for processing or presentation) outside the intended use",
        ru="тип изображения (для обработки или просмотра) вне области применения",
    ),
    Reason.AGE: Text(en="patient age outside the intended use", ru="возраст пациента вне области применения"),
    Reason.OUT_OF_RANGE: Text(
        en="the picture is unlike those the model was trained on",
        ru="изображение не похоже на те, на которых обучена модель",
    ),
    Reason.GEOMETRY: Text(en="slice geometry cannot be trusted", ru="геометрия срезов недостоверна"),
    Reason.INCOMPLETE: Text(en="images are missing", ru="комплект изображений неполный"),
    Reason.OTHER_SERIES: Text(
        en="another series of the study was analysed instead", ru="вместо этой серии проанализирована другая"
    ),
    Reason.OWN_RESULT: Text(en="already a result of image analysis", ru="объект уже является результатом анализа"),
    Reason.SECONDARY_CAPTURE: Text(en="a screen capture or derived picture", ru="снимок экрана или производное"),
    Reason.NOT_AN_IMAGE: Text(en="not an image", ru="не изображение"),
    Reason.TWO_PATIENTS: Text(
        en="images of different patients under one study", ru="в исследовании изображения разных пациентов"
    ),
    Reason.TOO_MANY_INSTANCES: Text(en="too many images in the study", ru="слишком много изображений в исследовании"),
    Reason.POISON: Text(en="processing failed repeatedly", ru="обработка неоднократно прерывалась"),
    Reason.MODEL_FAILED: Text(en="the model failed", ru="сбой модели"),
    Reason.NO_ROUTE: Text(en="no model is set up for this study", ru="для исследования не настроена модель"),
}

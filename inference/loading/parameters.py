"""From a data set to `GreyParameters`: which tables, windows, polarity and padding apply to a frame.

Called by `loading.image` and `loading.volume`; what the parameters do to values is `inference.grayscale`.
"""

from __future__ import annotations

from pydicom.dataset import Dataset

from inference.grayscale import GreyParameters, LookupTable, VoiFunction, Window, lookup_table
from inference.loading import attributes as read
from inference.refusals import Reason, Refused

_DESCRIPTOR_LENGTH = 3
_WORD = 1 << 16
_SMALLEST, _LARGEST = 1e-9, 1e12  # beyond these, arithmetic on values ends in infinities


def grey_parameters(data_set: Dataset, *, frame: int) -> GreyParameters:
    """Parameters of one frame (0-based), functional groups of enhanced objects included.

    Raises
    ------
    Refused
        UNREADABLE when the rescale slope is zero or a modality LUT is there but unusable.
    """
    signed = read.integer(data_set, "PixelRepresentation") == 1
    groups = functional_groups(data_set, frame)
    rescale = _macro(groups, "PixelValueTransformationSequence") or data_set
    slope, intercept = read.number(rescale, "RescaleSlope"), read.number(rescale, "RescaleIntercept")
    slope, intercept = (1.0 if slope is None else slope), (intercept or 0.0)
    if not _SMALLEST <= abs(slope) <= _LARGEST or abs(intercept) > _LARGEST:
        raise Refused(Reason.UNREADABLE, "Rescale Slope or Intercept is zero or beyond all measure")
    modality_lut = _modality_lut(data_set, signed=signed)
    lowest = intercept - slope * _WORD / 2 if signed else intercept  # what the modality step can give at the least
    signed_voi = modality_lut is None and min(lowest, intercept + min(slope, 0.0)) < 0
    voi = _macro(groups, "FrameVOILUTSequence") or data_set
    return GreyParameters(
        slope=slope,
        intercept=intercept,
        modality_lut=modality_lut,
        voi_lut=_first_lut(voi, "VOILUTSequence", signed=signed_voi),
        window=_window(voi),
        # Presentation LUT Shape INVERSE on MONOCHROME1 is the same inversion; where the two disagree, viewers and
        # the pixels' own description agree on the photometric interpretation.
        inverted=read.code_text(data_set, "PhotometricInterpretation") == "MONOCHROME1",
        padding=_padding(data_set, signed=signed),
    )


def functional_groups(data_set: Dataset, frame: int) -> list[Dataset]:
    """The functional groups of a frame (0-based): its own first, then the shared ones."""
    own = read.items(data_set, "PerFrameFunctionalGroupsSequence")[frame : frame + 1]
    return own + read.items(data_set, "SharedFunctionalGroupsSequence")[:1]


def _macro(groups: list[Dataset], keyword: str) -> Dataset | None:
    for group in groups:
        for item in read.items(group, keyword):
            return item
    return None


def _window(data_set: Dataset) -> Window | None:
    centers, widths = read.numbers(data_set, "WindowCenter"), read.numbers(data_set, "WindowWidth")
    if not centers or not widths or not _SMALLEST <= widths[0] <= _LARGEST or abs(centers[0]) > _LARGEST:
        return None
    try:
        function = VoiFunction(read.code_text(data_set, "VOILUTFunction") or "LINEAR")
    except ValueError:
        function = VoiFunction.LINEAR
    return Window(center=centers[0], width=widths[0], function=function)


def _modality_lut(data_set: Dataset, *, signed: bool) -> LookupTable | None:
    if not read.items(data_set, "ModalityLUTSequence"):
        return None
    table = _first_lut(data_set, "ModalityLUTSequence", signed=signed)
    if table is None:
        raise Refused(Reason.UNREADABLE, "the modality LUT is not usable")
    return table


def _first_lut(data_set: Dataset, keyword: str, *, signed: bool) -> LookupTable | None:
    for item in read.items(data_set, keyword)[:1]:
        descriptor = read.numbers(item, "LUTDescriptor")
        data = item.get("LUTData")
        if len(descriptor) != _DESCRIPTOR_LENGTH or data is None:
            return None
        content = bytes(data) if isinstance(data, bytes) else tuple(int(v) for v in read.numbers(item, "LUTData"))
        entries, first, bits = (int(value) for value in descriptor)
        return lookup_table((entries, first, bits), content, signed_input=signed)
    return None


def _padding(data_set: Dataset, *, signed: bool) -> tuple[int, int] | None:
    """Padding as stored values; written as US or SS, whatever the pixels are, so the 16-bit pattern counts."""
    value = read.integer(data_set, "PixelPaddingValue")
    if value is None:
        return None
    limit = read.integer(data_set, "PixelPaddingRangeLimit")
    low = _as_stored(value, signed=signed)
    high = low if limit is None else _as_stored(limit, signed=signed)
    return min(low, high), max(low, high)


def _as_stored(value: int, *, signed: bool) -> int:
    pattern = value % _WORD
    return pattern - _WORD if signed and pattern >= _WORD // 2 else pattern

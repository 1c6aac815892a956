"""From stored pixel values to the grey the radiologist sees: modality, VOI and polarity, in this order.

Pure NumPy, called by `inference.loading`, which reads the parameters from the header; nothing here knows data sets,
files or models. The chain is PS3.4 N.2 up to P-values: modality LUT or rescale, VOI LUT or window, then the polarity
once. Pixels of padding take part in no statistics and are shown black.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

Stored = NDArray[np.signedinteger[Any] | np.unsignedinteger[Any]]

_TABLE_LIMIT = 1 << 20  # values wider spread than this are computed one by one, not through a table
_LUT_FULL_LENGTH = 1 << 16  # a descriptor of 0 entries means 65,536
_SIGN_BIT_16 = 1 << 15
_BYTE_BITS = 8
_LUT_BITS = range(1, 17)


class VoiFunction(StrEnum):
    """VOI LUT Function (0028,1056), PS3.3 C.11.2.1.3."""

    LINEAR = "LINEAR"  # the default; a width of w covers w - 1 steps
    LINEAR_EXACT = "LINEAR_EXACT"  # a width of w covers exactly w
    SIGMOID = "SIGMOID"


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """A window over modality values."""

    center: float
    width: float
    function: VoiFunction = VoiFunction.LINEAR

    def __call__(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Grey 0..1 of modality values, PS3.3 C.11.2.1.2 and C.11.2.1.3."""
        if self.function is VoiFunction.SIGMOID:
            exponent = np.clip(-4.0 * (values - self.center) / self.width, -700.0, 700.0)
            return np.asarray(1.0 / (1.0 + np.exp(exponent)))
        if self.function is VoiFunction.LINEAR_EXACT or self.width < 1:
            return np.clip((values - self.center) / self.width + 0.5, 0.0, 1.0)
        if self.width == 1:
            return np.asarray((values > self.center - 0.5), dtype=np.float64)
        return np.clip((values - (self.center - 0.5)) / (self.width - 1.0) + 0.5, 0.0, 1.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class LookupTable:
    """A modality or VOI LUT: entry `i` belongs to the input ``first_mapped + i``; inputs outside take the end entries.

    `bits` is the width of an entry; the output range is 0 to 2**bits - 1 (PS3.3 C.11.1.1.1, C.11.2.1.1).
    """

    first_mapped: int
    bits: int
    entries: tuple[int, ...]

    def __call__(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Entries (not scaled) for input values, which are rounded to whole numbers first."""
        table = np.asarray(self.entries, dtype=np.float64)
        index = np.clip(np.rint(values) - self.first_mapped, 0, len(table) - 1)
        return np.asarray(table[index.astype(np.int64)])

    @property
    def maximum(self) -> int:
        """Largest output: of the declared bits, or of the entries where these are wider than declared."""
        return int(max((1 << self.bits) - 1, *self.entries))


@dataclass(frozen=True, kw_only=True, slots=True)
class GreyParameters:
    """Everything that decides how stored values are displayed.

    Attributes
    ----------
    slope, intercept : float
        Rescale, used when there is no `modality_lut`.
    modality_lut, voi_lut : LookupTable or None
        A VOI LUT takes precedence over `window`.
    window : Window or None
        The first window of the header. Without LUT and window the picture spans its own minimum to maximum.
    inverted : bool
        MONOCHROME1. Presentation LUT Shape INVERSE says the same and is no second inversion.
    padding : (int, int) or None
        Stored values from the first to the second are padding, both included.
    """

    slope: float = 1.0
    intercept: float = 0.0
    modality_lut: LookupTable | None = None
    voi_lut: LookupTable | None = None
    window: Window | None = None
    inverted: bool = False
    padding: tuple[int, int] | None = None

    def modality(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Modality values (for CT Hounsfield units) of stored values."""
        if self.modality_lut is not None:
            return self.modality_lut(values)
        return values * self.slope + self.intercept


def unpack_stored(raw: Stored, *, bits_stored: int, high_bit: int, signed: bool) -> NDArray[np.int32]:
    """Stored values out of their words: shifts, drops foreign bits above and below, extends the sign.

    Overlays and junk may sit in the bits outside `bits_stored` (PS3.5 8.1.1); they are not part of the picture.

    Parameters
    ----------
    raw : integer array, 8 or 16 bits wide
        Words as decoded, of any shape.
    """
    width = raw.dtype.itemsize * _BYTE_BITS
    words: NDArray[np.int32] = raw.view(f"u{raw.dtype.itemsize}").astype(np.int32)
    shift = max(high_bit + 1 - bits_stored, 0)
    if shift:
        words = words >> shift
    if shift or bits_stored < width:
        words = words & ((1 << bits_stored) - 1)
    if signed:
        sign = 1 << (bits_stored - 1)
        words = (words ^ sign) - sign
    return np.asarray(words, dtype=np.int32)


def padding_mask(values: NDArray[np.int32], padding: tuple[int, int] | None) -> NDArray[np.bool_] | None:
    """Where padding is; None when there is none, or when the header calls the whole picture padding."""
    if padding is None:
        return None
    low, high = min(padding), max(padding)
    mask = values == low if low == high else (values >= low) & (values <= high)
    if not mask.any() or mask.all():
        return None
    return np.asarray(mask)


def displayed(
    values: NDArray[np.int32], parameters: GreyParameters, padded: NDArray[np.bool_] | None = None
) -> NDArray[np.float32]:
    """The picture as displayed: 0 black, 1 white.

    Parameters
    ----------
    values : int32 (rows, columns)
        Stored values.
    parameters : GreyParameters
        From the header.
    padded : bool (rows, columns) or None
        True where `values` are padding: excluded from the statistics and black in the result.

    Returns
    -------
    float32 (rows, columns), 0..1
    """
    inside = values if padded is None else values[~padded]
    low, high = int(inside.min()), int(inside.max())
    if high - low < _TABLE_LIMIT:
        table = _grey(np.arange(low, high + 1, dtype=np.float64), parameters, inside, low)
        # Padding lies outside the table where it is outside the picture's range: any entry will do, it turns black.
        grey = np.take(table.astype(np.float32), values - low, mode="clip")
    else:
        grey = _grey(values.astype(np.float64), parameters, inside, None).astype(np.float32)
    if padded is not None:
        grey[padded] = 0.0
    return np.asarray(grey)


def _grey(
    values: NDArray[np.float64], parameters: GreyParameters, inside: NDArray[np.int32], table_low: int | None
) -> NDArray[np.float64]:
    modality = parameters.modality(values)
    if parameters.voi_lut is not None:
        grey = parameters.voi_lut(modality) / parameters.voi_lut.maximum
    elif parameters.window is not None:
        grey = parameters.window(modality)
    else:
        used = modality
        if table_low is not None:  # values of the table that no pixel has must not widen the range
            used = modality[np.bincount((inside - table_low).ravel(), minlength=len(values)) > 0]
        elif used.size != inside.size:
            used = parameters.modality(inside.astype(np.float64))
        grey = _spread(modality, float(used.min()), float(used.max()))
    return 1.0 - grey if parameters.inverted else grey


def _spread(values: NDArray[np.float64], low: float, high: float) -> NDArray[np.float64]:
    if high <= low:
        return np.zeros_like(values)
    return np.clip((values - low) / (high - low), 0.0, 1.0)


def lookup_table(
    descriptor: tuple[int, int, int], data: bytes | tuple[int, ...], *, signed_input: bool
) -> LookupTable | None:
    """A LUT from its descriptor and data as they stand in files; None when it is no usable table.

    The descriptor's numbers are taken as 16-bit patterns, because the same pattern is written as US or SS: the number
    of entries is always unsigned, the first mapped value is signed when the input can be negative.

    Parameters
    ----------
    descriptor : (entries, first mapped, bits)
        LUT Descriptor (0028,3002).
    data : bytes (little endian) or integers
        LUT Data (0028,3006); eight-bit entries may be packed two to a word.
    signed_input : bool
        Whether the values looked up can be negative.
    """
    length = descriptor[0] & 0xFFFF or _LUT_FULL_LENGTH
    first = descriptor[1] & 0xFFFF
    if signed_input and first >= _SIGN_BIT_16:
        first -= _LUT_FULL_LENGTH
    bits = descriptor[2] & 0xFFFF
    entries = _lut_entries(data, length, bits)
    if bits not in _LUT_BITS or len(entries) < length or len(set(entries)) == 1:
        return None
    return LookupTable(first_mapped=first, bits=bits, entries=entries[:length])


def _lut_entries(data: bytes | tuple[int, ...], length: int, bits: int) -> tuple[int, ...]:
    if not isinstance(data, bytes):
        data = np.asarray([value & 0xFFFF for value in data], dtype="<u2").tobytes()
    if bits <= _BYTE_BITS and length <= len(data) < 2 * length:  # packed: one byte an entry
        return tuple(data[:length])
    return tuple(np.frombuffer(data[: len(data) // 2 * 2], dtype="<u2").tolist())

"""What a compressed frame says of its own size, read from its markers before any decoder sees it.

Called by `loading.pixels`: a codestream that promises other dimensions than the header is a lie or a bomb, and both
end here. JPEG and JPEG-LS frame headers (ISO 10918-1 B.2.2, ISO 14495-1 C.2.2) and the SIZ marker of JPEG 2000
(ISO 15444-1 A.5.1), bare or in a JP2 file.
"""

from __future__ import annotations

from dataclasses import dataclass

_SOI = b"\xff\xd8"
_SOC_SIZ = b"\xff\x4f\xff\x51"
_START_OF_FRAME = frozenset((*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0), 0xF7))
_STANDALONE = frozenset((0x01, *range(0xD0, 0xD9)))
_SOF_BYTES = 10
_SIZ_BYTES = 45
_MAX_BOXES_BYTES = 1 << 16


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamSize:
    """Dimensions a codestream declares; `precision` in bits a sample."""

    rows: int
    columns: int
    components: int
    precision: int


def stream_size(data: bytes) -> StreamSize | None:
    """Dimensions in the codestream's header; None when it is no JPEG, JPEG-LS or JPEG 2000 codestream."""
    if data[:2] == _SOI:
        return _jpeg_size(data)
    start = data.find(_SOC_SIZ, 0, _MAX_BOXES_BYTES)
    return _siz_size(data[start:]) if start >= 0 else None


def _jpeg_size(data: bytes) -> StreamSize | None:
    position = 2
    while position + _SOF_BYTES <= len(data) and data[position] == 0xFF:  # noqa: PLR2004
        marker = data[position + 1]
        if marker == 0xFF:  # noqa: PLR2004  (a fill byte)
            position += 1
        elif marker in _STANDALONE:
            position += 2
        elif marker in _START_OF_FRAME:
            body = data[position + 4 : position + _SOF_BYTES]
            rows, columns = int.from_bytes(body[1:3], "big"), int.from_bytes(body[3:5], "big")
            return StreamSize(rows=rows, columns=columns, components=body[5], precision=body[0])
        else:
            position += 2 + max(int.from_bytes(data[position + 2 : position + 4], "big"), 2)
    return None


def _siz_size(data: bytes) -> StreamSize | None:
    if len(data) < _SIZ_BYTES:
        return None
    x_size, y_size, x_offset, y_offset = (int.from_bytes(data[at : at + 4], "big") for at in (8, 12, 16, 20))
    return StreamSize(
        rows=y_size - y_offset,
        columns=x_size - x_offset,
        components=int.from_bytes(data[40:42], "big"),
        precision=(data[42] & 0x7F) + 1,
    )

"""Which side a mammography request names: what the study's own words say of left, right, one side, both.

Used by `dicom_node.indexing`; `assembly` then expects the views of that side only. Words of the request count, not
those of a series or a protocol: these name the side of one image, also in a study of both breasts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import StrEnum

_WORD = re.compile(r"[^\W\d_]+")


class RequestedSide(StrEnum):
    """What a request names; left and right are spelt as Image Laterality (0020,0062) spells them."""

    LEFT = "L"
    RIGHT = "R"
    ONE = "U"  # unilateral, without saying which
    UNSAID = ""  # both, or nothing, or words that disagree: both sides are expected


# Whole words, in lower case. Single letters and "sin."/"dex." are left out: they abbreviate too much else.
_MEANINGS = {
    RequestedSide.LEFT: re.compile(r"left|lt|лев(ая|ой|ую|ый|ое|осторонн\w*)?"),
    RequestedSide.RIGHT: re.compile(r"right|rt|прав(ая|ой|ую|ый|ое|осторонн\w*)?"),
    RequestedSide.ONE: re.compile(r"unilateral|односторонн\w*|унилатеральн\w*"),
    RequestedSide.UNSAID: re.compile(r"bilateral|both|screening|двусторонн\w*|двухсторонн\w*|обе|обеих|скрининг\w*"),
}


def requested_side(texts: Iterable[str]) -> RequestedSide:
    """The one side that `texts` name together; UNSAID where they name both, none, or a screening."""
    words = [word for text in texts for word in _WORD.findall(text.casefold())]
    named = {side for side, meaning in _MEANINGS.items() if any(meaning.fullmatch(word) for word in words)}
    if RequestedSide.UNSAID in named:
        return RequestedSide.UNSAID
    sides = named - {RequestedSide.ONE}
    if len(sides) > 1 or not named:
        return RequestedSide.UNSAID
    return sides.pop() if sides else RequestedSide.ONE

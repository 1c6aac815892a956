"""What a DICOM status code means for a delivery: stored, try again, or never.

The codes of C-STORE (PS3.4 section B.2.3 and PS3.7 annex C) and the Failure Reasons of STOW-RS (PS3.18 section
10.5.3) are one family, so `delivery.dicomweb` and `dimse.scu` both ask here. What an HTTP status means is in
`delivery.dicomweb`.
"""

from __future__ import annotations

from dicom_node.delivery.archive import Sent

SUCCESS = 0x0000
DUPLICATE_INSTANCE = 0x0111
SOP_CLASS_NOT_SUPPORTED = 0x0122

_NAMED: dict[int, tuple[Sent, str]] = {
    SUCCESS: (Sent.ACCEPTED, ""),
    0x0001: (Sent.ACCEPTED, "stored; optional attributes are not supported"),
    0x0107: (Sent.ACCEPTED, "stored, with a warning about attributes"),
    0x0116: (Sent.ACCEPTED, "stored, with a warning about an attribute's value"),
    DUPLICATE_INSTANCE: (Sent.ACCEPTED, "the archive already holds this object"),
    0x0110: (Sent.RETRY, "processing failure in the archive: see its log"),
    0x0213: (Sent.RETRY, "the archive is out of resources"),
    0x0122: (
        Sent.REFUSED,
        "the archive does not store this SOP class: enable it there, or leave it out of the profile",
    ),
    0x0124: (Sent.REFUSED, "the archive does not authorise this node to store: allow its AE title or account there"),
    0x0117: (Sent.REFUSED, "the archive calls the object invalid: see its log"),
}


_RANGES: tuple[tuple[range, Sent, str], ...] = (
    (range(0x0100, 0x0300), Sent.REFUSED, "the archive refused the request: see its log"),
    (range(0xA700, 0xA800), Sent.RETRY, "the archive is out of resources: see its disk space"),
    (range(0xA900, 0xAA00), Sent.REFUSED, "the archive finds that data set and SOP class do not match: see its log"),
    (range(0xB000, 0xC000), Sent.ACCEPTED, "stored, but the archive changed or dropped elements"),
    (range(0xC000, 0xD000), Sent.REFUSED, "the archive cannot understand the object: see its log"),
)
_UNKNOWN = (Sent.RETRY, "the archive answered with a status that the standard does not know")


def _by_range(code: int) -> tuple[Sent, str]:
    for codes, sent, reason in _RANGES:
        if code in codes:
            return sent, reason
    return _UNKNOWN


def judge_status(code: int) -> tuple[Sent, str]:
    """Give the outcome and its reason for a status or Failure Reason.

    A warning (Bxxx) counts as stored: what the archive coerced is its own affair, and a query confirms the object.
    """
    sent, reason = _NAMED.get(code) or _by_range(code)
    return sent, f"{reason} (status {code:04X})" if reason else ""

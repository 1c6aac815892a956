"""Command sets of C-STORE and the file meta information, encoded and decoded without a data set library.

Command sets are always implicit VR little endian (PS3.7 6.3.1), file meta information always explicit VR little
endian (PS3.10 7.1), both flat: a few lines here spare half a millisecond and every surprise of a general parser on
the path before the acknowledgement. Other messages than C-STORE are pynetdicom's.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

from dicom_node.dimse.header_sniff import clean_uid
from dicom_node.implementation import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME

C_STORE_RQ = 0x0001
_C_STORE_RSP = 0x8001
_NO_DATA_SET = 0x0101
_MAX_COMMENT = 64

_GROUP_LENGTH, _SOP_CLASS, _FIELD, _MESSAGE_ID, _RESPONDED_TO = 0x0000, 0x0002, 0x0100, 0x0110, 0x0120
_DATA_SET_TYPE, _STATUS, _COMMENT, _SOP_INSTANCE = 0x0800, 0x0900, 0x0902, 0x1000


class Status(IntEnum):
    """What a C-STORE is answered with: PS3.4 table B.2-1 and PS3.7 annex C."""

    SUCCESS = 0x0000  # durable and in the ledger
    OUT_OF_RESOURCES = 0xA700  # no room, or the ledger did not commit: come again later
    NOT_THE_SOP_CLASS = 0xA900  # the data set is not what the command says
    CANNOT_UNDERSTAND = 0xC000  # no identifiers can be read


class CommandError(Exception):
    """The command set does not follow PS3.7; the association cannot go on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """The elements of a command set that decide what follows."""

    field: int
    message_id: int
    sop_class_uid: bytes
    sop_instance_uid: bytes
    has_data_set: bool


def parse_command(data: bytes) -> Command:
    """Read a command set.

    Raises
    ------
    CommandError
        If it is cut short, has another group in it, or lacks the Command Field.
    """
    values = _elements(data)
    return Command(
        field=_number(values, _FIELD),
        message_id=_number(values, _MESSAGE_ID) if _MESSAGE_ID in values else 0,
        sop_class_uid=values.get(_SOP_CLASS, b""),
        sop_instance_uid=values.get(_SOP_INSTANCE, b""),
        has_data_set=_number(values, _DATA_SET_TYPE) != _NO_DATA_SET,
    )


def store_response(command: Command, status: Status, comment: str = "") -> bytes:
    """Command set of the C-STORE-RSP to `command`; the UIDs are echoed as they came."""
    body = _element(_SOP_CLASS, command.sop_class_uid)
    body += _element(_FIELD, struct.pack("<H", _C_STORE_RSP))
    body += _element(_RESPONDED_TO, struct.pack("<H", command.message_id))
    body += _element(_DATA_SET_TYPE, struct.pack("<H", _NO_DATA_SET))
    body += _element(_STATUS, struct.pack("<H", status))
    if comment:
        body += _element(_COMMENT, _even(comment.encode("ascii", "replace")[:_MAX_COMMENT], b" "))
    body += _element(_SOP_INSTANCE, command.sop_instance_uid)
    return _element(_GROUP_LENGTH, struct.pack("<L", len(body))) + body


def file_meta(
    *, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str, calling_ae: str, called_ae: str
) -> bytes:
    """Zeroed preamble, prefix and file meta information of a received instance (PS3.10 7.1).

    The preamble is zero because a sender's could make the file an executable as well.
    """
    body = _meta(0x0001, b"OB", b"\x00\x01")
    body += _meta(0x0002, b"UI", sop_class_uid.encode("ascii"))
    body += _meta(0x0003, b"UI", sop_instance_uid.encode("ascii"))
    body += _meta(0x0010, b"UI", transfer_syntax_uid.encode("ascii"))
    body += _meta(0x0012, b"UI", IMPLEMENTATION_CLASS_UID.encode("ascii"))
    body += _meta(0x0013, b"SH", IMPLEMENTATION_VERSION_NAME.encode("ascii"))
    body += _meta(0x0016, b"AE", calling_ae.encode("ascii", "replace"))
    body += _meta(0x0018, b"AE", called_ae.encode("ascii", "replace"))
    return b"\x00" * 128 + b"DICM" + _meta(0x0000, b"UL", struct.pack("<L", len(body))) + body


def readable(uid: bytes) -> str | None:
    """A UID of a command as text, or None when it cannot be one."""
    return clean_uid(uid)


def _elements(data: bytes) -> dict[int, bytes]:
    values: dict[int, bytes] = {}
    position = 0
    while position < len(data):
        header = data[position : position + 8]
        if len(header) < 8:  # noqa: PLR2004
            raise CommandError("a command set is cut short")
        group, element, length = struct.unpack("<HHL", header)
        position += 8 + length
        if group or position > len(data):
            raise CommandError("a command set has an element that does not belong or does not fit")
        values[element] = data[position - length : position]
    return values


def _number(values: dict[int, bytes], element: int) -> int:
    value = values.get(element, b"")
    if len(value) != struct.calcsize("<H"):
        raise CommandError(f"a command set lacks element 0000,{element:04X}")
    number: int = struct.unpack("<H", value)[0]
    return number


def _element(element: int, value: bytes) -> bytes:
    return struct.pack("<HHL", 0, element, len(value)) + value


def _meta(element: int, vr: bytes, value: bytes) -> bytes:
    value = _even(value, b"\x00" if vr in (b"UI", b"OB") else b" ")
    if vr == b"OB":
        return struct.pack("<HH2sHL", 2, element, vr, 0, len(value)) + value
    return struct.pack("<HH2sH", 2, element, vr, len(value)) + value


def _even(value: bytes, padding: bytes) -> bytes:
    return value + padding if len(value) % 2 else value

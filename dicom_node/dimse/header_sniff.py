"""Who a data set is, told from its first bytes while the rest is still coming.

Used by the acceptor before it acknowledges, and by the scan at start. It finds SOP class, SOP instance, study and
series UIDs (PS3.5 section 7 encoding rules) and looks at nothing else; it keeps no more than one element in memory,
follows no length beyond the data it is given, never recurses, and gives up after a fixed number of elements.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Generator
from dataclasses import dataclass

DEFLATED = "1.2.840.10008.1.2.1.99"
IMPLICIT_LITTLE = "1.2.840.10008.1.2"
EXPLICIT_BIG = "1.2.840.10008.1.2.2"

MAX_UID_LENGTH = 64
MAX_ELEMENTS = 100_000
MAX_DEPTH = 64
MAX_INFLATED_BYTES = 16 * 1024**2

_SOP_CLASS, _SOP_INSTANCE, _STUDY, _SERIES = 0x00080016, 0x00080018, 0x0020000D, 0x0020000E
_WANTED = frozenset((_SOP_CLASS, _SOP_INSTANCE, _STUDY, _SERIES))
_LAST_WANTED = max(_WANTED)
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_UNDEFINED = 0xFFFFFFFF
# PS3.5 7.1.2: these have a 16-bit length; every other VR, also one defined after this was written, has 32 bits.
_SHORT_VRS = frozenset(b"AE AS AT CS DA DS DT FL FD IS LO LT PN SH SL SS ST TM UI UL US".split())


class _Unreadable(Exception):
    """The bytes do not follow the encoding rules."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectIdentity:
    """The four identifiers of a composite instance, as its data set says them."""

    sop_class_uid: str
    sop_instance_uid: str
    study_uid: str
    series_uid: str


class HeaderSniffer:
    """Reads a data set piece by piece, as it comes from the network.

    Parameters
    ----------
    transfer_syntax_uid : str
        In which the data set is encoded.
    """

    def __init__(self, transfer_syntax_uid: str) -> None:
        self.fault = ""
        self.done = False
        self._values: dict[int, str] = {}
        self._implicit = transfer_syntax_uid == IMPLICIT_LITTLE
        self._order = ">" if transfer_syntax_uid == EXPLICIT_BIG else "<"
        self._inflater = zlib.decompressobj(-zlib.MAX_WBITS) if transfer_syntax_uid == DEFLATED else None
        self._inflated = 0
        self._skip = 0
        self._pending = bytearray()
        self._parser = self._parse()
        self._need = next(self._parser)

    @property
    def study_uid(self) -> str:
        """Study Instance UID (0020,000D) if it has been seen, else empty."""
        return self._values.get(_STUDY, "")

    def identity(self) -> ObjectIdentity | None:
        """The identifiers, or None when one is missing or the data set cannot be read (`fault` says why)."""
        if self.fault or not self._values.keys() >= _WANTED:
            return None
        return ObjectIdentity(
            sop_class_uid=self._values[_SOP_CLASS],
            sop_instance_uid=self._values[_SOP_INSTANCE],
            study_uid=self._values[_STUDY],
            series_uid=self._values[_SERIES],
        )

    def missing(self) -> str:
        """What is wrong, in words for the sender: the fault, or the tags that were not there."""
        tags = sorted(_WANTED - self._values.keys())
        return self.fault or "missing " + " ".join(f"{tag >> 16:04X},{tag & 0xFFFF:04X}" for tag in tags)

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Take the next bytes of the data set; does nothing once `done`."""
        if self.done:
            return
        try:
            if self._inflater is None:
                self._advance(memoryview(data))
            else:
                self._inflate(bytes(data))
        except (_Unreadable, zlib.error) as error:
            self.fault = str(error) if isinstance(error, _Unreadable) else "the deflated data set cannot be inflated"
            self.done = True

    def _inflate(self, data: bytes) -> None:
        assert self._inflater is not None
        while data and not self.done:
            piece = self._inflater.decompress(data, 64 * 1024)
            data = self._inflater.unconsumed_tail
            self._inflated += len(piece)
            if self._inflated > MAX_INFLATED_BYTES:
                raise _Unreadable("no identifiers within the first inflated bytes")
            self._advance(memoryview(piece))
            if not piece:
                return

    def _advance(self, view: memoryview) -> None:
        while not self.done:
            skipped = min(self._skip, len(view))
            self._skip -= skipped
            view = view[skipped:]
            if self._skip:
                return
            wanted = self._need - len(self._pending)
            self._pending += view[:wanted]
            if len(view) < wanted:
                return
            view = view[wanted:]
            self._step(bytes(self._pending))

    def _step(self, chunk: bytes) -> None:
        self._pending.clear()
        try:
            self._need = self._parser.send(chunk)
        except StopIteration:
            self.done = True

    def _parse(self) -> Generator[int, bytes, None]:
        # Each yield asks for so many bytes; `_skip` set before it passes over what nobody needs to see. The stack
        # holds, for every open sequence or item of undefined length, whether its content is implicit VR.
        stack: list[bool] = []
        for _ in range(MAX_ELEMENTS):
            implicit = stack[-1] if stack else self._implicit
            tag, vr, length = yield from self._header(implicit)
            if tag in (_ITEM_END, _SEQUENCE_END):
                if not stack:
                    raise _Unreadable("a delimiter without a sequence")
                stack.pop()
            elif not stack and tag > _LAST_WANTED:
                return
            elif length == _UNDEFINED:
                stack.append(implicit or vr == b"UN")
                if len(stack) > MAX_DEPTH:
                    raise _Unreadable("sequences are nested too deep")
            elif not stack and tag in _WANTED and tag not in self._values:
                self._values[tag] = yield from self._uid(length)
                if self._values.keys() >= _WANTED:
                    return
            else:
                self._skip = length
        raise _Unreadable("no identifiers within the first elements")

    def _header(self, implicit: bool) -> Generator[int, bytes, tuple[int, bytes, int]]:
        group, element, rest = struct.unpack(f"{self._order}HH4s", (yield 8))
        tag = group << 16 | element
        if implicit or tag in (_ITEM, _ITEM_END, _SEQUENCE_END):
            return tag, b"", struct.unpack(f"{self._order}L", rest)[0]
        vr = rest[:2]
        if vr in _SHORT_VRS:
            return tag, vr, struct.unpack(f"{self._order}H", rest[2:])[0]
        if not (vr.isalpha() and vr.isupper()):
            raise _Unreadable("not in the encoding of its transfer syntax")
        return tag, vr, struct.unpack(f"{self._order}L", (yield 4))[0]

    def _uid(self, length: int) -> Generator[int, bytes, str]:
        if length > MAX_UID_LENGTH + 2:
            raise _Unreadable("an identifier is too long")
        uid = clean_uid((yield length))
        if uid is None:
            raise _Unreadable("an identifier is empty or unreadable")
        return uid


def clean_uid(value: bytes) -> str | None:
    """A UID without its padding, or None when it is empty, longer than 64 or not printable ASCII.

    Whether it is a well-formed UID does not matter here: it names no file, and what is wrong with it is said later.
    """
    text = value.rstrip(b"\x00 ").lstrip(b" ")
    if not 0 < len(text) <= MAX_UID_LENGTH or any(not 0x20 <= byte <= 0x7E for byte in text):  # noqa: PLR2004
        return None
    return text.decode("ascii")

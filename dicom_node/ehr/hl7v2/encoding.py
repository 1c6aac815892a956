"""HL7 v2 in its vertical-bar encoding: escaping, fields, segments, and reading them back (HL7 v2.5.1 chapter 2).

Used by `oru`, `acknowledgement` and `ehr.inbound`. Only text that passed `text` or `formatted` is `Encoded`, so that no
value can become a delimiter.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Final, NewType

Encoded = NewType("Encoded", str)

SEGMENT_END: Final = "\r"
_ESCAPES: Final = {"\\": "\\E\\", "|": "\\F\\", "^": "\\S\\", "&": "\\T\\", "~": "\\R\\"}
_LINE: Final = re.compile(r"\r\n|\r|\n")
_LINE_BREAK: Final = "\\.br\\"
_DELETE: Final = 0x7F
_LAST_C1: Final = 0x9F
_FIRST_PRINTABLE: Final = 0x20
_MSH_SEPARATORS: Final = 8  # characters of "MSH" and the five separators
_DECIMALS: Final = 4


class Hl7Error(Exception):
    """Bytes that are no HL7 v2 message; the message names the place, never a value."""


def text(value: str) -> Encoded:
    """Escape a value of a text type other than FT: a line break becomes ``\\X0A\\``."""
    return Encoded("".join(map(_escape, value)))


def formatted(value: str) -> Encoded:
    """Escape a value of type FT (formatted text): a line break becomes ``\\.br\\``."""
    return Encoded(_LINE_BREAK.join(text(line) for line in _LINE.split(value)))


def _escape(one: str) -> str:
    if one in _ESCAPES:
        return _ESCAPES[one]
    code = ord(one)
    if code < _FIRST_PRINTABLE or _DELETE <= code <= _LAST_C1:
        return f"\\X{one.encode('utf-8').hex().upper()}\\"
    # A lone surrogate is no character and has no bytes in UTF-8.
    return "\N{REPLACEMENT CHARACTER}" if 0xD800 <= code <= 0xDFFF else one  # noqa: PLR2004


def components(*parts: str | Encoded | None, encoded: frozenset[int] = frozenset()) -> Encoded:
    """Join components; those whose index is in `encoded` are taken as they are, the others escaped."""
    shown = [part or "" if index in encoded else text(part or "") for index, part in enumerate(parts)]
    return Encoded("^".join(shown).rstrip("^"))


def hierarchic(oid: str) -> Encoded:
    """Write an assigning authority (HD) as subcomponents: an ISO OID, or a name where it is none."""
    if not oid:
        return Encoded("")
    return Encoded(f"&{text(oid)}&ISO") if re.fullmatch(r"[0-9.]+", oid) else text(oid)


def repetitions(*fields: Encoded) -> Encoded:
    """Join repetitions of a field, without empty ones."""
    return Encoded("~".join(field for field in fields if field))


def moment(at: datetime | None) -> Encoded:
    """Write an aware moment (TS) to the second, with its offset."""
    return Encoded(at.strftime("%Y%m%d%H%M%S%z") if at else "")


def number(value: float) -> Encoded:
    """Write a number (NM), never with an exponent."""
    plain = format(Decimal(str(round(value, _DECIMALS))), "f")
    return Encoded(plain.rstrip("0").rstrip(".") if "." in plain else plain)


def segment(name: str, fields: Mapping[int, Encoded]) -> Encoded:
    """Write a segment from its fields by their numbers."""
    values = [fields.get(position, Encoded("")) for position in range(1, max(fields, default=0) + 1)]
    return Encoded("|".join([name, *values]).rstrip("|"))


def header(fields: Mapping[int, Encoded]) -> Encoded:
    """Write MSH, whose first two fields are the separators themselves."""
    values = [fields.get(position, Encoded("")) for position in range(3, max(fields) + 1)]
    return Encoded("|".join(["MSH", "^~\\&", *values]))


@dataclass(frozen=True, kw_only=True, slots=True)
class Segment:
    """A segment that was read.

    Attributes
    ----------
    name : str
    fields : tuple of str
        Still escaped; index 1 is field 1, index 0 the name.
    separators : str
        Field, component, repetition, escape and subcomponent separators.
    """

    name: str
    fields: tuple[str, ...]
    separators: str

    def field(self, position: int) -> str:
        """A whole field, still escaped; empty when there is none."""
        return self.fields[position] if position < len(self.fields) else ""

    def value(self, position: int, component: int = 1, *, repetition: int = 1) -> str:
        """A component as text; empty when there is none."""
        repeated = self.field(position).split(self.separators[2])
        chosen = repeated[repetition - 1] if repetition <= len(repeated) else ""
        parts = chosen.split(self.separators[1])
        return unescaped(parts[component - 1], self.separators) if component <= len(parts) else ""

    def text(self, position: int) -> str:
        """A text field; its repetitions are lines (type TX), component separators stay what they are."""
        lines = self.field(position).split(self.separators[2])
        return "\n".join(unescaped(line, self.separators) for line in lines)


def read_segments(message: str) -> tuple[Segment, ...]:
    """Take a message apart; the first segment is MSH.

    Raises
    ------
    Hl7Error
        When it does not begin with MSH and five different separators.
    """
    separators = message[3:_MSH_SEPARATORS]
    usable = len(set(separators)) == len(separators) == _MSH_SEPARATORS - len("MSH")
    if not message.startswith("MSH") or not usable or any(one.isalnum() or one.isspace() for one in separators):
        raise Hl7Error("MSH: not the beginning of a message with its separators")
    lines = (line.strip("\n") for line in message.replace("\r\n", "\r").split(SEGMENT_END))
    return tuple(_segment(line, separators) for line in lines if line)


def _segment(line: str, separators: str) -> Segment:
    fields = line.split(separators[0])
    if fields[0] == "MSH":
        # The separator after the name is itself field 1.
        fields.insert(1, separators[0])
    return Segment(name=fields[0], fields=tuple(fields), separators=separators)


def unescaped(value: str, separators: str = "|^~\\&") -> str:
    """Turn escape sequences back into text; what is none stays as it is, highlighting goes."""
    mark = re.escape(separators[3])
    return re.sub(f"{mark}([^{mark}]*){mark}", lambda found: _meaning(found, separators), value)


def _meaning(found: re.Match[str], separators: str) -> str:
    code = found[1]
    fixed = dict(zip("FSRET", separators, strict=True)) | {".br": "\n", ".sp": "\n", "H": "", "N": ""}
    if code in fixed:
        return fixed[code]
    if code[:1] == "X":
        try:
            return bytes.fromhex(code[1:]).decode("utf-8")
        except ValueError:
            return found[0]
    return found[0]


def named(segments: tuple[Segment, ...], name: str) -> Iterator[Segment]:
    """Segments called `name`, in their order."""
    return (one for one in segments if one.name == name)

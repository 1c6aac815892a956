"""Elements of a SEMD and how values are written in them: names, codes, identifiers, times, narrative.

Used by the parts of the writer. All text passes `plain`, so that nothing in a name or a description can break the
document; escaping is lxml's.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Final

from lxml import etree

from dicom_node.ehr import snils
from dicom_node.ehr.context import Address, PersonName
from dicom_node.ehr.semd.profile import SemdProfile

V3: Final = "urn:hl7-org:v3"
IDENTITY: Final = "urn:hl7-ru:identity"
ADDRESS: Final = "urn:hl7-ru:address"
MED_SERVICE: Final = "urn:hl7-ru:medService"
FIAS: Final = "urn:hl7-ru:fias"
XSI: Final = "http://www.w3.org/2001/XMLSchema-instance"
NAMESPACES: Final[dict[str | None, str]] = {
    None: V3,
    "xsi": XSI,
    "identity": IDENTITY,
    "address": ADDRESS,
    "medService": MED_SERVICE,
    "fias": FIAS,
}
TYPE: Final = f"{{{XSI}}}type"

_PREFIXES: Final = {"identity": IDENTITY, "address": ADDRESS, "medService": MED_SERVICE, "fias": FIAS}
_NOT_IN_XML: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_POSTAL_CODE: Final = re.compile(r"[0-9]{6}", re.ASCII)
_TELEPHONE: Final = re.compile(r"[^0-9+]", re.ASCII)


def plain(text: str) -> str:
    """`text` with U+FFFD in place of what XML 1.0 cannot hold (control characters, lone surrogates)."""
    return _NOT_IN_XML.sub("\N{REPLACEMENT CHARACTER}", text).replace("\r\n", "\n").replace("\r", "\n")


def add(parent: etree._Element, name: str, text: str | None = None, **attributes: str) -> etree._Element:
    """Append an element: ``name`` of HL7 v3, or ``prefix:name`` of one of the Ministry's namespaces."""
    prefix, _, local = name.rpartition(":")
    child = etree.SubElement(parent, f"{{{_PREFIXES[prefix] if prefix else V3}}}{local}")
    for key, value in attributes.items():
        child.set(key, plain(value))
    if text is not None:
        child.text = plain(text)
    return child


def add_unknown(parent: etree._Element, name: str, flavor: str = "NI") -> etree._Element:
    """Append an element that says only that its value is not known."""
    return add(parent, name, nullFlavor=flavor)


def add_code(
    parent: etree._Element, name: str, profile: SemdProfile, key: str, code: str, display: str | None = None
) -> etree._Element:
    """Append a code of the dictionary `key` with all five attributes that the rules ask for."""
    dictionary = profile.dictionary(key)
    return add(
        parent,
        name,
        code=code,
        codeSystem=dictionary.oid,
        codeSystemVersion=dictionary.version,
        codeSystemName=dictionary.name,
        displayName=dictionary.codes.get(code) or display or code,
    )


def add_value(
    parent: etree._Element, profile: SemdProfile, key: str, code: str, display: str | None = None
) -> etree._Element:
    """Append a coded ``value``."""
    value = add_code(parent, "value", profile, key, code, display)
    value.set(TYPE, "CD")
    return value


def add_text_value(parent: etree._Element, text: str) -> etree._Element:
    """Append a ``value`` of plain text."""
    value = add(parent, "value", text)
    value.set(TYPE, "ST")
    return value


def add_unknown_value(parent: etree._Element, data_type: str, flavor: str = "NI") -> etree._Element:
    """Append a ``value`` that is not known."""
    value = add_unknown(parent, "value", flavor)
    value.set(TYPE, data_type)
    return value


def add_snils(parent: etree._Element, text: str | None) -> None:
    """Append a person's SNILS as an identifier."""
    if text is None:
        add_unknown(parent, "id")
    else:
        add(parent, "id", root=snils.OID, extension=snils.formatted(snils.parse(text)))


def add_name(parent: etree._Element, name: PersonName) -> None:
    """Append a person's name in its parts."""
    element = add(parent, "name")
    add(element, "family", name.family)
    add(element, "given", name.given)
    if name.patronymic.strip():
        add(element, "identity:Patronymic", name.patronymic)


def add_telephone(parent: etree._Element, number: str | None) -> None:
    """Append a telephone, if there is a digit in it."""
    digits = _TELEPHONE.sub("", number or "")
    if digits.strip("+"):
        add(parent, "telecom", value=f"tel:{digits}")


def address_is_whole(address: Address | None, profile: SemdProfile) -> bool:
    """Whether an address has what its element must have: a line and a region whose name is known."""
    return (
        address is not None
        and bool(address.text.strip())
        and profile.name_of("regions", address.region_code) is not None
    )


def fill_address(element: etree._Element, address: Address, profile: SemdProfile) -> None:
    """Fill an ``addr`` with a whole address; the register of addresses (ФИАС) is not asked."""
    add(element, "streetAddressLine", address.text)
    add_code(element, "address:stateCode", profile, "regions", address.region_code or "")
    if address.postal_code and _POSTAL_CODE.fullmatch(address.postal_code):
        add(element, "postalCode", address.postal_code)
    else:
        add_unknown(element, "postalCode")
    add_unknown(element, "fias:Address")


def timestamp(moment: datetime) -> str:
    """`moment` (aware) to the minute. The rules know only zones east of Greenwich in steps of ten minutes: else UTC."""
    offset = moment.utcoffset() or timedelta()
    if offset < timedelta() or offset % timedelta(minutes=10):
        moment = moment.astimezone(UTC)
    return f"{moment.year:04d}{moment:%m%d%H%M%z}"


def day(value: date) -> str:
    """A date as HL7 writes it."""
    return f"{value.year:04d}{value:%m%d}"


def paragraphs(parent: etree._Element, lines: Sequence[str]) -> None:
    """Append narrative: one paragraph for each line that is not blank."""
    for text in lines:
        for line in text.splitlines():
            if line.strip():
                add(parent, "paragraph", line)

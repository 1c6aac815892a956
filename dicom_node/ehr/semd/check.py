"""The product's own check of a SEMD before it leaves: structure, codes, identifiers, SNILS, without the rules' files.

Called by the writer for every draft, and by whoever takes a document from elsewhere. It knows what radnode writes, not
all that the rules allow; the Ministry's schema and Schematron are asked by the tests.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from lxml import etree

from dicom_node.ehr import snils
from dicom_node.ehr.semd.elements import ADDRESS, IDENTITY, MED_SERVICE, TYPE, V3
from dicom_node.ehr.semd.profile import Dictionary, SemdProfile, edition_4

MAX_BYTES: Final = 16 * 1024 * 1024

_NAMES: Final = {"v": V3, "identity": IDENTITY, "address": ADDRESS, "medService": MED_SERVICE}
_HEADER: Final = (
    *("realmCode", "typeId", "templateId", "id", "code", "title", "effectiveTime", "confidentialityCode"),
    *("languageCode", "setId", "versionNumber", "recordTarget", "author", "custodian", "informationRecipient"),
    *("legalAuthenticator", "documentationOf", "component"),
)
_OPTIONAL: Final = ("inFulfillmentOf", "relatedDocument", "componentOf")
_TIME: Final = re.compile(r"[12][0-9]{3}[01][0-9][0-3][0-9]([0-2][0-9][0-5][0-9]([0-5][0-9])?\+[0-2][0-9][0-5]0)?")
_SECTION: Final = "v:component/v:structuredBody/v:component/v:section[v:code/@code='{code}']"
_CODED: Final = ("code", "codeSystem", "codeSystemName", "codeSystemVersion", "displayName")


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """What is wrong and where; never the value of a patient."""

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


class DraftFaulty(Exception):
    """A draft did not pass the check and does not leave.

    Attributes
    ----------
    faults : tuple of Fault
        Everything that was found.
    """

    def __init__(self, faults: tuple[Fault, ...]) -> None:
        super().__init__("; ".join(map(str, faults)))
        self.faults = faults


def check_semd(document: bytes, profile: SemdProfile | None = None) -> tuple[Fault, ...]:
    """Everything that is wrong with a document as `write_semd` should have written it; empty where nothing is.

    Parameters
    ----------
    document : bytes
        XML; one with a DTD, or of more than `MAX_BYTES`, is refused unread.
    profile : SemdProfile or None
        Edition and site under which it was written; None: the shipped edition and nothing of a site.
    """
    if profile is None:
        profile = SemdProfile(edition=edition_4())
    if len(document) > MAX_BYTES:
        return (Fault(where="document", what=f"larger than {MAX_BYTES} bytes"),)
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False)
    try:
        root = etree.fromstring(document, parser)
    except etree.XMLSyntaxError:
        return (Fault(where="document", what="not well-formed XML"),)
    if root.getroottree().docinfo.internalDTD is not None:
        return (Fault(where="document", what="a DTD is not allowed"),)
    if root.tag != f"{{{V3}}}ClinicalDocument":
        return (Fault(where="document", what="its root is not ClinicalDocument of HL7 v3"),)
    return tuple(_Check(root, profile).faults())


def _text_of(element: etree._Element) -> str:
    return str(element.xpath("string()"))


class _Check:
    """One document under one profile; every method yields the faults of one kind."""

    def __init__(self, root: etree._Element, profile: SemdProfile) -> None:
        self._root = root
        self._profile = profile
        names = type(profile.edition.dictionaries).model_fields
        self._dictionaries = {key: profile.dictionary(key) for key in names}
        self._by_oid = {one.oid: one for one in self._dictionaries.values()}

    def faults(self) -> Iterator[Fault]:
        yield from self._header()
        yield from self._identifiers()
        yield from self._people()
        yield from self._times()
        for element in self._root.iter(etree.Element):
            if element.get("codeSystem") is not None:
                yield from self._coded(element)
        yield from self._dictionary_of_place()
        yield from self._sections()
        yield from self._document_and_lesions()
        yield from self._result()
        yield from self._media()

    def _find(self, path: str, of: etree._Element | None = None) -> list[etree._Element]:
        found = (self._root if of is None else of).xpath(path, namespaces=_NAMES)
        assert isinstance(found, list)
        return [one for one in found if isinstance(one, etree._Element)]

    def _where(self, element: etree._Element) -> str:
        names = [etree.QName(one).localname for one in (*reversed(list(element.iterancestors())), element)]
        return "/".join(names)

    def _fault(self, element: etree._Element, what: str) -> Fault:
        return Fault(where=self._where(element), what=what)

    def _header(self) -> Iterator[Fault]:
        order = [etree.QName(child).localname for child in self._root.iterchildren(etree.Element)]
        for name in _HEADER:
            if order.count(name) != 1:
                yield Fault(where="ClinicalDocument", what=f"{name} must be there once, not {order.count(name)} times")
        for name in order:
            if name not in _HEADER and name not in _OPTIONAL:
                yield Fault(where="ClinicalDocument", what=f"{name} is not written here")
        fixed = {
            "v:realmCode/@code": "RU",
            "v:typeId/@root": "2.16.840.1.113883.1.3",
            "v:typeId/@extension": "POCD_MT000040",
            "v:templateId/@root": self._profile.edition.template_id,
            "v:languageCode/@code": "ru-RU",
            "v:code/@code": self._profile.edition.codes.document,
            "v:author/v:time/@nullFlavor": "NI",
            "v:legalAuthenticator/v:time/@nullFlavor": "NI",
            "v:legalAuthenticator/v:signatureCode/@nullFlavor": "NI",
            "v:documentationOf/v:serviceEvent/v:code/@code": self._profile.edition.codes.event,
            "v:informationRecipient//v:id/@root": self._profile.edition.recipient_oid,
        }
        for path, value in fixed.items():
            if self._root.xpath(path, namespaces=_NAMES) != [value]:
                yield Fault(where=f"ClinicalDocument/{path.replace('v:', '')}", what=f"must be {value}")
        version = self._root.xpath("string(v:versionNumber/@value)", namespaces=_NAMES)
        if not re.fullmatch(r"[1-9][0-9]*", str(version)):
            yield Fault(where="ClinicalDocument/versionNumber", what="must be a number from 1")
        if not self._root.xpath("string(v:title)", namespaces=_NAMES):
            yield Fault(where="ClinicalDocument/title", what="is empty")

    def _identifiers(self) -> Iterator[Fault]:
        """Every identifier of the organisation's own has the root that belongs to its place."""
        roots = self._profile.edition.roots
        owner = str(self._root.xpath("string(v:custodian//v:id/@root)", namespaces=_NAMES))
        places = {
            "v:id": roots.document,
            "v:setId": roots.document_set,
            "v:recordTarget/v:patientRole/v:id[1]": roots.patient,
            "v:author/v:assignedAuthor/v:id[1]": roots.staff,
            "v:legalAuthenticator/v:assignedEntity/v:id[1]": roots.staff,
            "v:documentationOf//v:assignedEntity/v:id[1]": roots.staff,
            "v:componentOf/v:encompassingEncounter/v:id": roots.encounter,
            "v:component//v:observation/v:id": roots.finding,
            "v:component//v:participantRole/v:id": roots.device,
        }
        for path, last in places.items():
            for element in self._find(path):
                if element.get("root") != f"{owner}.100.{self._profile.site.system}.{last}":
                    yield self._fault(element, f"root must be that of the organisation with .{last} at its end")
                if not (element.get("extension") or "").strip():
                    yield self._fault(element, "extension is empty")

    def _people(self) -> Iterator[Fault]:
        patients = self._find("v:recordTarget/v:patientRole/v:id[2]")
        staff = self._find(
            "v:author/v:assignedAuthor/v:id[2] | v:legalAuthenticator/v:assignedEntity/v:id[2]"
            " | v:documentationOf//v:assignedEntity/v:id[2]"
        )
        if len(patients) != 1 or len(staff) != 3:  # noqa: PLR2004
            yield Fault(where="ClinicalDocument", what="patient, author, signer and performer need two ids each")
        for element in (*patients, *staff):
            if element in patients and element.get("nullFlavor"):
                continue
            if element.get("root") != snils.OID:
                yield self._fault(element, f"root must be {snils.OID}")
        for element in self._find(f"//v:id[@root='{snils.OID}']"):
            try:
                snils.parse(element.get("extension") or "")
            except snils.SnilsError as error:
                yield self._fault(element, str(error))
        for element in self._find("//v:patient/v:name | //v:assignedPerson/v:name"):
            for part in ("family", "given"):
                if not (element.findtext(f"{{{V3}}}{part}") or "").strip():
                    yield self._fault(element, f"{part} is empty")

    def _times(self) -> Iterator[Fault]:
        path = "//v:effectiveTime[not(*)] | //v:birthTime | //v:time | //v:low | //v:high | //identity:IssueDate"
        for element in self._find(path):
            if element.get("nullFlavor") is None and not _TIME.fullmatch(element.get("value") or ""):
                yield self._fault(element, "not a day, nor a time with a zone")
        for path in ("v:documentationOf/v:serviceEvent", "//v:act", "v:componentOf/v:encompassingEncounter"):
            for element in self._find(path):
                if len(self._find("v:effectiveTime/v:low[@value]", element)) != 1:
                    yield self._fault(element, "effectiveTime must have its beginning")

    def _coded(self, element: etree._Element) -> Iterator[Fault]:
        """A code says its dictionary's name and version and its own name, to the letter."""
        for name in _CODED:
            if not element.get(name):
                yield self._fault(element, f"{name} is empty")
        dictionary = self._by_oid.get(element.get("codeSystem") or "")
        if dictionary is None:
            yield self._fault(element, "codeSystem is none of the profile's dictionaries")
            return
        if element.get("codeSystemName") != dictionary.name:
            yield self._fault(element, f"codeSystemName is not that of {dictionary.oid}")
        if element.get("codeSystemVersion") != dictionary.version:
            yield self._fault(element, f"codeSystemVersion is not {dictionary.version}")
        yield from self._named(element, dictionary)

    def _named(self, element: etree._Element, dictionary: Dictionary) -> Iterator[Fault]:
        name = dictionary.codes.get(element.get("code") or "")
        if name is None and not dictionary.open:
            yield self._fault(element, f"the profile knows no such code in {dictionary.oid}")
        if name is not None and element.get("displayName") != name:
            yield self._fault(element, f"displayName is not that of the code in {dictionary.oid}")

    def _dictionary_of_place(self) -> Iterator[Fault]:
        """At every place stands a code of the dictionary that belongs there."""
        fields = self._profile.edition.fields
        places = {
            "v:code": "documents",
            "v:confidentialityCode": "confidentiality",
            "//v:administrativeGenderCode": "sexes",
            "//v:serviceEvent/v:code": "events",
            "//medService:serviceForm": "service_forms",
            "//medService:serviceCond": "service_conditions",
            "//v:assignedAuthor/v:code | //v:assignedEntity/v:code": "positions",
            "//address:stateCode": "regions",
            "//address:Type": "address_types",
            "//identity:IdentityCardType": "identity_documents",
            "//identity:InsurancePolicyType": "policies",
            "//v:section/v:code": "sections",
            "//v:observation/v:code": "fields",
            "//v:act/v:code": "studies",
            "//v:translation": "units",
            f"//v:observation[v:code/@code='{fields.visit}']/v:value": "visits",
            f"//v:observation[v:code/@code='{fields.place}']/v:value": "places",
            f"//v:observation[v:code/@code='{fields.diagnosis}']/v:value": "diagnoses",
            f"//v:observation[v:code/@code='{fields.location}']/v:value": "locations",
            f"//v:observation[v:code/@code='{fields.laterality}']/v:value": "lateralities",
            f"//v:observation[v:code/@code='{fields.pathology}']/v:value": "pathologies",
        }
        unknown_allowed = {"sexes", "service_forms", "service_conditions", "diagnoses", "lateralities", "pathologies"}
        for path, key in places.items():
            for element in self._find(path):
                if element.get("nullFlavor") and key in unknown_allowed:
                    continue
                if element.get("codeSystem") != self._dictionaries[key].oid:
                    yield self._fault(element, f"must be a code of {self._dictionaries[key].oid}")

    def _sections(self) -> Iterator[Fault]:
        for code in ("DOCINFO", "RESINFO"):
            if len(self._find(_SECTION.format(code=code))) != 1:
                yield Fault(where="structuredBody", what=f"section {code} must be there once")
        for element in self._find("//v:section"):
            for part in ("title", "text"):
                found = element.find(f"{{{V3}}}{part}")
                if found is None or not _text_of(found).strip():
                    yield self._fault(element, f"{part} is empty")

    def _document_and_lesions(self) -> Iterator[Fault]:
        fields = self._profile.edition.fields
        for element in self._find(_SECTION.format(code="DOCINFO")):
            for field in (fields.visit, fields.diagnosis, fields.place):
                yield from self._one_field(element, "v:entry", field)
            if not self._find("v:entry/v:act", element):
                yield self._fault(element, "the study is missing")
        for element in self._find(_SECTION.format(code="OBJECTINFO")):
            yield from self._one_field(element, "v:entry", fields.location)
            for place in self._find("v:entry/v:observation", element):
                yield from self._one_field(place, "v:entryRelationship", fields.laterality)
                yield from self._one_field(place, "v:entryRelationship", fields.pathology)

    def _result(self) -> Iterator[Fault]:
        fields = self._profile.edition.fields
        texts = (fields.protocol, fields.conclusion, fields.recommendation)
        for element in self._find(_SECTION.format(code="RESINFO")):
            for field in (fields.protocol_number, fields.protocol, fields.conclusion):
                yield from self._one_field(element, "v:entry", field)
            for observation in self._find("v:entry/v:observation", element):
                code = observation.find(f"{{{V3}}}code")
                value = observation.find(f"{{{V3}}}value")
                if code is None or value is None or code.get("code") not in texts:
                    continue
                if value.get(TYPE) != "ST" or not (value.text or "").strip():
                    yield self._fault(value, "must be text")

    def _one_field(self, parent: etree._Element, by: str, field: str) -> Iterator[Fault]:
        found = self._find(f"{by}/v:observation[v:code/@code='{field}']", parent)
        if len(found) != 1:
            yield self._fault(parent, f"field {field} must be there once, not {len(found)} times")
        for observation in found:
            if len(self._find("v:value", observation)) != 1:
                yield self._fault(observation, f"field {field} must have one value")

    def _media(self) -> Iterator[Fault]:
        identifiers = {element.get("ID") for element in self._find("//v:observationMedia")}
        for element in self._find("//v:renderMultiMedia"):
            if element.get("referencedObject") not in identifiers:
                yield self._fault(element, "refers to a picture that is not there")
        for value in self._find("//v:observationMedia/v:value"):
            if value.get("representation") != "B64":
                if not self._find("v:reference[@value]", value):
                    yield self._fault(value, "neither a picture nor a reference")
                continue
            try:
                decoded = base64.b64decode(_text_of(value), validate=True)
            except binascii.Error:
                decoded = b""
            if not decoded:
                yield self._fault(value, "not a picture in Base64")

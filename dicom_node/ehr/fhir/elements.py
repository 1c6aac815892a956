"""The data types of FHIR R4 that our resources are made of, as JSON values.

Used by the writers of resources here. Elements that are None or empty are dropped when a bundle is serialised
(`serialised`), because FHIR JSON knows no empty values; so writers state what they have and need no conditions.
"""

from __future__ import annotations

import json
import unicodedata
import uuid
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import Final, TypeAlias
from urllib.parse import quote

from dicom_node.ehr.context import Identifier, PersonName
from models.codes import Code

Json: TypeAlias = "str | int | float | bool | Sequence[Json] | Mapping[str, Json] | None"
Resource: TypeAlias = dict[str, Json]

URI_SYSTEM: Final = "urn:ietf:rfc:3986"
DICOM_UID_SYSTEM: Final = "urn:dicom:uid"
SNILS_SYSTEM: Final = "urn:oid:1.2.643.100.3"
DICOM_ONTOLOGY: Final = "http://dicom.nema.org/resources/ontology/DCM"
LOINC: Final = "http://loinc.org"
SNOMED: Final = "http://snomed.info/sct"
TERMINOLOGY: Final = "http://terminology.hl7.org/CodeSystem"
# PS3.16 section 8 and HL7's names of the same systems
_SYSTEMS: Final = {
    "SCT": SNOMED,
    "SRT": SNOMED,
    "DCM": DICOM_ONTOLOGY,
    "LN": LOINC,
    "UCUM": "http://unitsofmeasure.org",
    "RADLEX": "http://radlex.org",
    "UMLS": "http://www.nlm.nih.gov/research/umls",
}
# The namespace of version 5 UUIDs (RFC 9562 section 5.5) under which everything in our bundles is named.
_NAMESPACE: Final = uuid.UUID("6f0a2b8e-6d1c-5e0b-9a53-3f1f0c2c7d41")
_TEXT_CONTROLS: Final = frozenset("\t\n\r")


def urn_of(document_id: str, slot: str) -> str:
    """Name one resource of one document: ``urn:uuid:`` and a UUID of both, equal for every attempt."""
    return f"urn:uuid:{uuid.uuid5(_NAMESPACE, f'{document_id}/{slot}')}"


def own_identifier(urn: str) -> Resource:
    """Give the business identifier of what `urn` names within bundles.

    A UUID of its own: servers put their own id in the place of a bundle's URN wherever they meet it, and some do so in
    identifiers, which would then match nothing at the next attempt.
    """
    return {"system": URI_SYSTEM, "value": _lasting(urn)}


def report_urn(set_id: str) -> str:
    """Name the one report of all revisions of a document: corrections change it, the receiver keeps its history."""
    return urn_of(set_id, "report")


def document_identifier(document_id: str) -> Resource:
    """Give the identifier of one version of a document; the report has that of the version it stands at."""
    return own_identifier(urn_of(document_id, "document"))


def own_tag(urn: str) -> Resource:
    """Give the same as a tag, for what has no identifier in R4 (Provenance)."""
    return {"system": URI_SYSTEM, "code": _lasting(urn)}


def _lasting(urn: str) -> str:
    return f"urn:uuid:{uuid.uuid5(_NAMESPACE, f'identifier/{urn}')}"


def uid_identifier(uid: str) -> Resource:
    """Give a DICOM UID as an identifier (FHIR R4, ImagingStudy: ``urn:dicom:uid`` and ``urn:oid:``)."""
    return {"system": DICOM_UID_SYSTEM, "value": f"urn:oid:{uid}"}


def system_uri(system: str) -> str:
    """Write an OID as a URI; a URI stays."""
    return f"urn:oid:{system}" if system[:1].isdigit() else system


def identifier(known: Identifier, *, kind: str = "", default_system: str = "") -> Resource:
    """Give an identifier; `kind` is a code of HL7 table 0203."""
    coding: Json = {"coding": [{"system": f"{TERMINOLOGY}/v2-0203", "code": kind}]} if kind else None
    return {"type": coding, "system": system_uri(known.system or default_system), "value": known.value}


def search_token(found: Resource) -> str:
    """Write an identifier as the criterion of a conditional interaction, escaped twice: for FHIR and for a URL.

    What is asked for is what will be stored: the identifier as `serialised` writes it.
    """
    system, value = clean(str(found.get("system") or "")), clean(str(found["value"]))
    return f"identifier={quote(_escaped(system), safe='')}%7C{quote(_escaped(value), safe='')}"


def search_tag(urn: str) -> str:
    """Write `own_tag` as the criterion of a conditional interaction."""
    return f"_tag={quote(URI_SYSTEM, safe='')}%7C{quote(_lasting(urn), safe='')}"


def _escaped(text: str) -> str:
    for special in "\\,$|":
        text = text.replace(special, "\\" + special)
    return text


def concept(code: Code, text: str = "") -> Resource:
    """Give a coded concept; a scheme without a known URI gives its designator in the text only."""
    system = _SYSTEMS.get(code.scheme)
    if system is None:
        return {"text": text or f"{code.meaning} ({code.value}, {code.scheme})"}
    return {"coding": [{"system": system, "code": code.value, "display": code.meaning}], "text": text}


def coded(system: str, code: str, display: str = "", text: str = "") -> Resource:
    """Give a concept of one coding."""
    return {"coding": [{"system": system, "code": code, "display": display}], "text": text}


def quantity(value: float, unit: Code) -> Resource:
    """Give a value with its unit; only UCUM units are coded."""
    known: Resource = {"system": _SYSTEMS["UCUM"], "code": unit.value} if unit.scheme == "UCUM" else {}
    return {"value": round(value, 4), "unit": unit.value if known else unit.meaning, **known}


def reference(urn: str) -> Resource:
    """Refer to a resource of the same bundle."""
    return {"reference": urn}


def human_name(name: PersonName) -> Resource:
    """Give a name; the patronymic is the second of the given names."""
    parts = [name.family, name.given, name.patronymic]
    return {
        "use": "official",
        "text": " ".join(part for part in parts if part),
        "family": name.family,
        "given": [part for part in parts[1:] if part],
    }


def instant(at: datetime) -> str:
    """Write an aware moment to the second, with its offset."""
    return at.replace(microsecond=0).isoformat()


def day(on: date | None) -> str | None:
    """Write a date."""
    return on.isoformat() if on else None


def serialised(resource: Resource) -> bytes:
    """Write JSON in UTF-8 without empty values, and without characters that a FHIR string may not hold."""
    return json.dumps(_pruned(resource), ensure_ascii=False, separators=(",", ":")).encode()


def _pruned(value: Json) -> Json:
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, Mapping):
        return _pruned_members(value)
    if isinstance(value, Sequence):
        return [kept for item in value if not _is_empty(kept := _pruned(item))]
    return value


def _pruned_members(members: Mapping[str, Json]) -> dict[str, Json]:
    return {key: kept for key, item in members.items() if not _is_empty(kept := _pruned(item))}


def _is_empty(value: Json) -> bool:
    return value is None or (isinstance(value, str | Sequence | Mapping) and not value)


def clean(text: str) -> str:
    """Keep what a FHIR string may hold (R4, datatypes): no control characters, no surrogates, only plain spaces."""
    kept = (" " if one.isspace() and one not in _TEXT_CONTROLS else one for one in text if not _is_barred(one))
    return "".join(kept).strip()


def _is_barred(one: str) -> bool:
    return one not in _TEXT_CONTROLS and unicodedata.category(one) in {"Cc", "Cs"}

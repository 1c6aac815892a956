"""Whether a FHIR server still has a document that it took: what is asked, and what the answers mean.

Called by `ehr.receivers.fhir` with a way to read from the server. A server that cannot be understood is asked again;
only one that searched and found nothing has not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final, TypeAlias
from urllib.parse import quote

from dicom_node.ehr.exchange import HttpAnswer
from dicom_node.ehr.fhir.elements import Resource, document_identifier, own_identifier, report_urn, search_token
from dicom_node.ehr.fhir.outcomes import read_resource
from dicom_node.ehr.receiver import Envelope, Held

Ask: TypeAlias = Callable[[str], HttpAnswer]

_GONE: Final = frozenset({HTTPStatus.NOT_FOUND, HTTPStatus.GONE})
_NOT_OFFERED: Final = frozenset({HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.NOT_IMPLEMENTED})
_READ_BACK: Final = ("Task/", "DiagnosticReport/")


def report_stands(ask: Ask, envelope: Envelope) -> Held:
    """Search for the report of the plain profile and see that it is of our version, or of one that corrected it."""
    known = own_identifier(report_urn(envelope.set_id))
    found = _searched(ask(f"DiagnosticReport?{search_token(known)}"), "DiagnosticReport")
    if isinstance(found, Held):
        return found
    reports = [one for one in found if known in _identifiers(one)]
    if not reports:
        # A server that does not know the criterion gives whatever it has; one that does and has nothing gives nothing.
        return Held.UNSAID if found else Held.NO
    ours = document_identifier(envelope.document_id)
    if any(ours in _identifiers(one) for one in reports):
        return Held.YES
    return _corrected(ask, reports, ours)


def ids_stand(ask: Ask, receiver_ids: Sequence[str]) -> Held:
    """Read back what the server itself called by an id: for exchanges that are not known to search."""
    asked = [one for one in receiver_ids if one.startswith(_READ_BACK)]
    said = [_read(ask(one), one) for one in asked]
    for answer in (Held.NO, Held.ASK_AGAIN, Held.UNSAID):
        if answer in said:
            return answer
    return Held.YES if said else Held.UNSAID


def _corrected(ask: Ask, reports: Sequence[Mapping[str, Any]], ours: Resource) -> Held:
    """Whether the report stands at a later version: some Provenance of it then says that it revised ours."""
    for report in reports:
        named = quote(f"DiagnosticReport/{report.get('id')}", safe="/")
        found = _searched(ask(f"Provenance?target={named}"), "Provenance")
        if isinstance(found, Held):
            return found
        if any(ours == _plain(one) for provenance in found for one in _revised(provenance)):
            return Held.YES
    return Held.NO


def _revised(provenance: Mapping[str, Any]) -> Iterator[Any]:
    for entity in _objects(provenance.get("entity")):
        what = entity.get("what")
        if entity.get("role") == "revision" and isinstance(what, dict):
            yield what.get("identifier")


def _searched(answer: HttpAnswer, kind: str) -> list[dict[str, Any]] | Held:
    """Resources that a search found; what to say of the document where it was no search."""
    if answer.status != HTTPStatus.OK:
        return Held.UNSAID if answer.status in _NOT_OFFERED else Held.ASK_AGAIN
    content = read_resource(answer.body)
    if content is None or content.get("resourceType") != "Bundle" or content.get("type") != "searchset":
        return Held.ASK_AGAIN
    resources = (entry.get("resource") for entry in _objects(content.get("entry")))
    found = [one for one in resources if isinstance(one, dict) and one.get("resourceType") == kind]
    # It counts and does not show: which version it has cannot be told.
    return Held.UNSAID if not found and content.get("total") else found


def _read(answer: HttpAnswer, asked: str) -> Held:
    content = read_resource(answer.body) or {}
    if answer.status == HTTPStatus.OK:
        return Held.YES if f"{content.get('resourceType')}/{content.get('id')}" == asked else Held.ASK_AGAIN
    if answer.status in _GONE:
        # A bare 404 says that nobody serves the address; only an outcome speaks of the resource.
        return Held.NO if content.get("resourceType") == "OperationOutcome" else Held.UNSAID
    return Held.UNSAID if answer.status in _NOT_OFFERED else Held.ASK_AGAIN


def _identifiers(resource: Mapping[str, Any]) -> list[Resource]:
    return [_plain(one) for one in _objects(resource.get("identifier"))]


def _plain(identifier: object) -> Resource:
    known = identifier if isinstance(identifier, dict) else {}
    return {"system": known.get("system"), "value": known.get("value")}


def _objects(value: object) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []

"""Entries of a transaction bundle, and a document in another form within a resource.

Used by `bundle` and `regional`. Both kinds of entry are conditional: repeating them changes nothing.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass

from dicom_node.ehr.fhir.elements import Resource


@dataclass(frozen=True, kw_only=True, slots=True)
class Attachment:
    """The document in another form: a SEMD draft, a PDF."""

    media_type: str
    title: str
    data: bytes


def created(urn: str, resource: Resource, criterion: str) -> Resource:
    """Create the resource unless the receiver has one that meets `criterion` (R4 http, section 3.1.0.8.1)."""
    request: Resource = {"method": "POST", "url": str(resource["resourceType"]), "ifNoneExist": criterion}
    return {"fullUrl": urn, "resource": resource, "request": request}


def put(urn: str, resource: Resource, criterion: str) -> Resource:
    """Put the resource in the place of the one that meets `criterion`, or create it (R4 http, section 3.1.0.4.3)."""
    request: Resource = {"method": "PUT", "url": f"{resource['resourceType']}?{criterion}"}
    return {"fullUrl": urn, "resource": resource, "request": request}


def attachment(form: Attachment) -> Resource:
    """Give an Attachment with its bytes inside, and their SHA-1 as R4 asks for it."""
    return {
        "contentType": form.media_type,
        "title": form.title,
        "data": base64.b64encode(form.data).decode("ascii"),
        "size": len(form.data),
        "hash": base64.b64encode(hashlib.sha1(form.data, usedforsecurity=False).digest()).decode("ascii"),
    }

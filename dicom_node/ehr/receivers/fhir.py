"""`FhirReceiver`: a FHIR R4 server, by the plain profile or a region's.

Made by `ehr.receivers.open_receiver`. Bundles are written by `ehr.fhir.bundle`, brought by `ehr.fhir.client`; whether a
document stands is found out by `ehr.fhir.standing`.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

from dicom_node.ehr.answer import Answer
from dicom_node.ehr.context import DocumentRequest
from dicom_node.ehr.destination import DestinationMisconfigured
from dicom_node.ehr.exchange import HttpAnswer, NoAnswer
from dicom_node.ehr.fhir.bundle import write_bundle
from dicom_node.ehr.fhir.client import FhirClient
from dicom_node.ehr.fhir.destination import FhirDestination
from dicom_node.ehr.fhir.entries import Attachment
from dicom_node.ehr.fhir.outcomes import read_resource
from dicom_node.ehr.fhir.profile import PlainProfile, read_profile
from dicom_node.ehr.fhir.standing import ids_stand, report_stands
from dicom_node.ehr.receiver import Envelope, Held
from dicom_node.ehr.semd.profile import SemdProfile

_RELEASE: Final = "4.0."  # R4, FHIR 4.0.1 and its technical corrections
_NOT_ALLOWED: Final = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN})
_SEMD_TITLE: Final = "Протокол инструментального исследования (черновик без подписи)"


class FhirReceiver:
    """`RecordReceiver` of a `FhirDestination`.

    Raises
    ------
    DestinationMisconfigured
        When the SEMD draft is to be attached and there is no context file.
    ProfileError
        When the profile named in the settings cannot be read.
    ArchiveMisconfigured
        When a certificate named in the settings cannot be used.
    """

    def __init__(self, destination: FhirDestination, semd_profile: SemdProfile | None) -> None:
        if destination.attach_semd and semd_profile is None:
            told = f"{destination.name}: attach_semd needs the context file: name it, or attach no draft"
            raise DestinationMisconfigured(told)
        self._semd = semd_profile if destination.attach_semd else None
        self._profile = read_profile(destination.document)
        self._client = FhirClient(destination)

    def write(self, request: DocumentRequest, *, replaced: DocumentRequest | None) -> bytes:
        """Write the transaction.

        Raises
        ------
        ContextMissing, ContextInvalid, DraftFaulty
            As `write_bundle`, and as `write_semd` where the draft is attached.
        ValueError
            When `replaced` is not the document that the revision replaces.
        """
        return write_bundle(request, self._profile, attachments=self._attachments(request), replaced=replaced)

    def _attachments(self, request: DocumentRequest) -> list[Attachment]:
        # A withdrawn report shows nothing any more.
        if self._semd is None or request.revision.withdrawn:
            return []
        from dicom_node.ehr.semd.document import write_semd

        return [Attachment(media_type="application/xml", title=_SEMD_TITLE, data=write_semd(request, self._semd))]

    def send(self, document: bytes, envelope: Envelope) -> Answer:
        """Post one transaction."""
        return self._client.send(document, envelope.discretion)

    def confirm(self, envelope: Envelope, receiver_ids: tuple[str, ...]) -> Held:
        """Search for the report and its version; of a region's exchange, read back the ids that it gave."""
        try:
            if isinstance(self._profile, PlainProfile):
                return report_stands(self._client.read, envelope)
            return ids_stand(self._client.read, receiver_ids)
        except (NoAnswer, DestinationMisconfigured):
            return Held.ASK_AGAIN

    def check(self) -> str:
        """Ask what the server can do, with the token."""
        try:
            answer = self._client.capabilities()
        except (NoAnswer, DestinationMisconfigured) as error:
            return str(error)
        if answer.redirect:
            return f"the server redirects to {answer.redirect} (HTTP {answer.status}): set url to the final address"
        if answer.status in _NOT_ALLOWED:
            return f"the server does not let this node in (HTTP {answer.status}): check the token of the destination"
        # A region's exchange need not say what it can do.
        return _fault(answer) if isinstance(self._profile, PlainProfile) else ""

    def close(self) -> None:
        """Close connections."""
        self._client.close()


def _fault(answer: HttpAnswer) -> str:
    content = read_resource(answer.body) or {}
    if answer.status != HTTPStatus.OK or content.get("resourceType") != "CapabilityStatement":
        return f"no CapabilityStatement there (HTTP {answer.status}): url must be the base of the FHIR service"
    if not str(content.get("fhirVersion", "")).startswith(_RELEASE):
        return "the server does not speak FHIR R4 (4.0.1)"
    return ""

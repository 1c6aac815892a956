"""The header of a SEMD: whose study, whose document, who answers for it, which event and which case of care.

Used by `dicom_node.ehr.semd.document`, after `requirements` has seen that nothing lacks.
"""

from __future__ import annotations

import re
from typing import Final

from lxml import etree

from dicom_node.ehr.context import (
    DocumentRequest,
    Employee,
    IdentityDocument,
    InsurancePolicy,
    Organisation,
    Patient,
    Sex,
)
from dicom_node.ehr.semd.elements import (
    add,
    add_code,
    add_name,
    add_snils,
    add_telephone,
    add_unknown,
    address_is_whole,
    day,
    fill_address,
    timestamp,
)
from dicom_node.ehr.semd.profile import SemdProfile

_SEXES: Final = {Sex.MALE: "1", Sex.FEMALE: "2", Sex.OTHER: "3"}
_TOKEN: Final = re.compile(r"\S+")
WITHDRAWN_TITLE: Final = "{title} (результат отозван)"


def add_header(document: etree._Element, request: DocumentRequest, profile: SemdProfile, owner: Organisation) -> None:
    """Append everything before the body; `owner` is the organisation whose document it is."""
    edition, revision = profile.edition, request.revision
    add(document, "realmCode", code="RU")
    add(document, "typeId", root="2.16.840.1.113883.1.3", extension="POCD_MT000040")
    add(document, "templateId", root=edition.template_id)
    add(document, "id", root=profile.root(owner.oid, "document"), extension=request.document_id)
    add_code(document, "code", profile, "documents", edition.codes.document)
    title = WITHDRAWN_TITLE.format(title=edition.title) if revision.withdrawn else edition.title
    add(document, "title", title)
    add(document, "effectiveTime", value=timestamp(request.created_at))
    add_code(document, "confidentialityCode", profile, "confidentiality", profile.site.confidentiality)
    add(document, "languageCode", code="ru-RU")
    add(document, "setId", root=profile.root(owner.oid, "document_set"), extension=revision.set_id)
    add(document, "versionNumber", value=str(revision.version))
    _record_target(document, request.patient, profile, owner)
    assert request.author is not None and request.legal_authenticator is not None, "requirements see to it"
    author = add(document, "author")
    add_unknown(author, "time")
    _person(add(author, "assignedAuthor"), request.author, profile, owner)
    _custodian(document, profile, owner)
    received = add(add(add(document, "informationRecipient"), "intendedRecipient"), "receivedOrganization")
    add(received, "id", root=edition.recipient_oid)
    add(received, "name", edition.recipient_name)
    signer = add(document, "legalAuthenticator")
    add_unknown(signer, "time")
    add_unknown(signer, "signatureCode")
    _person(add(signer, "assignedEntity"), request.legal_authenticator, profile, owner)
    _order(document, request, profile)
    _event(document, request, profile, owner)
    if edition.related_document and revision.replaces_id:
        parent = add(add(document, "relatedDocument", typeCode="RPLC"), "parentDocument")
        add(parent, "id", root=profile.root(owner.oid, "document"), extension=revision.replaces_id)
    _case_of_care(document, request, profile, owner)


def _record_target(document: etree._Element, patient: Patient, profile: SemdProfile, owner: Organisation) -> None:
    role = add(add(document, "recordTarget"), "patientRole")
    add(role, "id", root=profile.root(owner.oid, "patient"), extension=patient.identifier.value)
    add_snils(role, patient.snils)
    _identity_document(role, patient.document, profile)
    _policy(role, patient.policy, profile)
    if patient.address is not None and address_is_whole(patient.address, profile):
        address = add(role, "addr")
        add_code(address, "address:Type", profile, "address_types", profile.edition.codes.address_type)
        fill_address(address, patient.address, profile)
    else:
        add_unknown(role, "addr")
    add_telephone(role, patient.telephone)
    _patient(role, patient, profile)
    _provider(role, profile, owner)


def _patient(role: etree._Element, patient: Patient, profile: SemdProfile) -> None:
    element = add(role, "patient")
    assert patient.name is not None, "requirements see to it"
    add_name(element, patient.name)
    if patient.sex is None:
        add_unknown(element, "administrativeGenderCode")
    else:
        add_code(element, "administrativeGenderCode", profile, "sexes", _SEXES[patient.sex])
    if patient.birth_date is None:
        add_unknown(element, "birthTime")
    else:
        add(element, "birthTime", value=day(patient.birth_date))


def _provider(role: etree._Element, profile: SemdProfile, owner: Organisation) -> None:
    provider = add(role, "providerOrganization")
    add(provider, "id", root=owner.oid)
    add_unknown(provider, "identity:Props")
    add(provider, "name", owner.name)
    add_telephone(provider, owner.telephone)
    if owner.address is not None:
        fill_address(add(provider, "addr"), owner.address, profile)


def _identity_document(role: etree._Element, document: IdentityDocument | None, profile: SemdProfile) -> None:
    """Either with type, number and date of issue, which the rules ask for together, or not at all."""
    if (
        document is None
        or document.issued_on is None
        or not document.number.strip()
        or profile.name_of("identity_documents", document.kind) is None
    ):
        add_unknown(role, "identity:IdentityDoc")
        return
    element = add(role, "identity:IdentityDoc")
    add_code(element, "identity:IdentityCardType", profile, "identity_documents", document.kind)
    _text_or_unknown(element, "identity:Series", document.series)
    add(element, "identity:Number", document.number)
    _text_or_unknown(element, "identity:IssueOrgName", document.issued_by)
    _text_or_unknown(element, "identity:IssueOrgCode", document.issued_by_code)
    add(element, "identity:IssueDate", value=day(document.issued_on))


def _policy(role: etree._Element, policy: InsurancePolicy | None, profile: SemdProfile) -> None:
    if policy is None or not policy.number.strip() or profile.name_of("policies", policy.kind) is None:
        add_unknown(role, "identity:InsurancePolicy")
        return
    element = add(role, "identity:InsurancePolicy")
    add_code(element, "identity:InsurancePolicyType", profile, "policies", policy.kind)
    if policy.series and policy.series.strip():
        add(element, "identity:Series", policy.series)
    add(element, "identity:Number", policy.number)


def _text_or_unknown(parent: etree._Element, name: str, text: str | None) -> None:
    if text and text.strip():
        add(parent, name, text)
    else:
        add_unknown(parent, name)


def _person(element: etree._Element, person: Employee, profile: SemdProfile, owner: Organisation) -> None:
    """A person of the staff register: two identifiers, position, name, and where they work."""
    add(element, "id", root=profile.root(owner.oid, "staff"), extension=person.identifier.value)
    add_snils(element, person.snils)
    add_code(element, "code", profile, "positions", person.position_code, person.position_name)
    add_telephone(element, person.telephone)
    add_name(add(element, "assignedPerson"), person.name)
    employer = person.organisation or owner
    organisation = add(element, "representedOrganization", classCode="ORG")
    add(organisation, "id", root=employer.oid)
    add(organisation, "name", employer.name)


def _custodian(document: etree._Element, profile: SemdProfile, owner: Organisation) -> None:
    assigned = add(add(document, "custodian"), "assignedCustodian")
    organisation = add(assigned, "representedCustodianOrganization", classCode="ORG")
    add(organisation, "id", root=owner.oid)
    add(organisation, "name", owner.name)
    add_telephone(organisation, owner.telephone)
    assert owner.address is not None, "requirements see to it"
    fill_address(add(organisation, "addr"), owner.address, profile)


def _order(document: etree._Element, request: DocumentRequest, profile: SemdProfile) -> None:
    """The referral, where its number came with the root of a document's identifier; a bare number names no document."""
    placer = request.order.placer
    root = rf"[0-2](\.(0|[1-9][0-9]*))+\.100(\.(0|[1-9][0-9]*))+\.{profile.edition.roots.document}"
    if placer is None or not placer.value.strip() or not re.fullmatch(root, placer.system, re.ASCII):
        return
    order = add(add(document, "inFulfillmentOf"), "order")
    add(order, "id", root=placer.system, extension=placer.value)
    add_unknown(order, "id")
    add_code(order, "code", profile, "documents", profile.edition.codes.order)


def _event(document: etree._Element, request: DocumentRequest, profile: SemdProfile, owner: Organisation) -> None:
    event = add(add(document, "documentationOf"), "serviceEvent")
    add_code(event, "code", profile, "events", profile.edition.codes.event)
    assert request.source.performed_at is not None and request.author is not None, "requirements see to it"
    add(add(event, "effectiveTime"), "low", value=timestamp(request.source.performed_at))
    for name, key, code in (
        ("medService:serviceForm", "service_forms", profile.site.service_form),
        ("medService:serviceCond", "service_conditions", profile.site.service_condition),
    ):
        if code is None:
            add_unknown(event, name)
        else:
            add_code(event, name, profile, key, code)
    performer = add(event, "performer", typeCode="PPRF")
    _person(add(performer, "assignedEntity"), request.author, profile, owner)


def _case_of_care(
    document: etree._Element, request: DocumentRequest, profile: SemdProfile, owner: Organisation
) -> None:
    """The encounter; the rules want its beginning, so one that has none is left out."""
    encounter = request.encounter
    if encounter is None or encounter.begun is None:
        return
    element = add(add(document, "componentOf"), "encompassingEncounter")
    add(element, "id", root=profile.root(owner.oid, "encounter"), extension=encounter.identifier.value)
    time = add(element, "effectiveTime")
    add(time, "low", value=timestamp(encounter.begun))
    if encounter.ended is not None:
        add(time, "high", value=timestamp(encounter.ended))

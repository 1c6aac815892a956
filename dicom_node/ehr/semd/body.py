"""The body of a SEMD: the section on the document, one section for each lesion, the section with the result.

Used by `dicom_node.ehr.semd.document`, after `requirements` has seen that nothing lacks.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from typing import Final

from lxml import etree

from dicom_node.ehr.context import DocumentRequest, KeyImage, Organisation
from dicom_node.ehr.semd import narrative
from dicom_node.ehr.semd.elements import (
    TYPE,
    add,
    add_code,
    add_text_value,
    add_unknown_value,
    add_value,
    paragraphs,
    timestamp,
)
from dicom_node.ehr.semd.profile import SemdProfile
from dicom_node.ehr.semd.requirements import visit_code
from inference.findings import Finding, Lesion, Presence

KEY_IMAGE_ID: Final = "KEYIMAGE"
STUDY_ID: Final = "STUDY"
_UID: Final = re.compile(r"[0-9.]{1,64}", re.ASCII)
_OID: Final = re.compile(r"[0-2](\.(0|[1-9][0-9]*))+", re.ASCII)


def add_body(document: etree._Element, request: DocumentRequest, profile: SemdProfile, owner: Organisation) -> None:
    """Append the structured body."""
    body = add(add(document, "component"), "structuredBody")
    _document_section(body, request, profile, owner)
    if not request.revision.withdrawn:
        for number, lesion in enumerate(request.findings.lesions, start=1):
            _lesion_section(body, number, lesion, request, profile, owner)
    _result_section(body, request, profile, owner)


def _section(
    body: etree._Element, profile: SemdProfile, code: str, title: str, lines: Sequence[str]
) -> tuple[etree._Element, etree._Element]:
    section = add(add(body, "component"), "section")
    add_code(section, "code", profile, "sections", code)
    add(section, "title", title)
    text = add(section, "text")
    paragraphs(text, lines)
    return section, text


def _observation(parent: etree._Element, profile: SemdProfile, field: str) -> etree._Element:
    """An observation of a coded field within an entry (or a relationship) of its own."""
    name = "entryRelationship" if etree.QName(parent).localname in ("observation", "act") else "entry"
    attributes = {"typeCode": "COMP"} if name == "entryRelationship" else {}
    observation = add(add(parent, name, **attributes), "observation", classCode="OBS", moodCode="EVN")
    add_code(observation, "code", profile, "fields", field)
    return observation


def _document_section(
    body: etree._Element, request: DocumentRequest, profile: SemdProfile, owner: Organisation
) -> None:
    fields = profile.edition.fields
    study = profile.study_code(request.source)
    visit, place = visit_code(request, profile), profile.site.place
    assert study is not None and visit is not None and place is not None, "requirements see to it"
    lines = narrative.about_document(request, profile, profile.name_of("studies", study) or study)
    section, text = _section(body, profile, "DOCINFO", "СВЕДЕНИЯ О ДОКУМЕНТЕ", lines)
    add_value(_observation(section, profile, fields.visit), profile, "visits", visit)
    _diagnosis(_observation(section, profile, fields.diagnosis), request, profile)
    add_value(_observation(section, profile, fields.place), profile, "places", place)
    _study(section, study, request, profile, owner)
    if request.key_image is not None and not request.revision.withdrawn:
        _picture(section, request.key_image, request)
        add(text, "renderMultiMedia", referencedObject=KEY_IMAGE_ID)
    _link_to_study(section, request)


def _diagnosis(observation: etree._Element, request: DocumentRequest, profile: SemdProfile) -> None:
    order = request.order
    if order.diagnosis_code and order.diagnosis_text and order.diagnosis_text.strip():
        add_value(observation, profile, "diagnoses", order.diagnosis_code, order.diagnosis_text)
    else:
        add_unknown_value(observation, "CD")


def _study(
    section: etree._Element, code: str, request: DocumentRequest, profile: SemdProfile, owner: Organisation
) -> None:
    source = request.source
    act = add(add(section, "entry"), "act", classCode="ACT", moodCode="EVN")
    add_code(act, "code", profile, "studies", code)
    assert source.performed_at is not None, "requirements see to it"
    add(add(act, "effectiveTime"), "low", value=timestamp(source.performed_at))
    if source.dose_msv is not None:
        dose, unit = f"{source.dose_msv:.6g}", profile.edition.codes.dose_unit
        value = add(
            _observation(act, profile, profile.edition.fields.dose),
            "value",
            value=dose,
            unit=profile.name_of("units", unit) or unit,
        )
        value.set(TYPE, "PQ")
        add_code(value, "translation", profile, "units", unit).set("value", dose)
    if source.device_serial.strip() and source.device_model.strip():
        equipment = _observation(act, profile, profile.edition.fields.equipment)
        role = add(add(equipment, "participant", typeCode="DEV"), "participantRole", classCode="ROL")
        add(role, "id", root=profile.root(owner.oid, "device"), extension=source.device_serial)
        name = f"{source.manufacturer} {source.device_model}".strip()
        add(add(role, "playingDevice"), "manufacturerModelName", name)


def _media(section: etree._Element, identifier: str, media_type: str) -> etree._Element:
    media = add(add(section, "entry"), "observationMedia", ID=identifier, classCode="OBS", moodCode="EVN")
    return add(media, "value", mediaType=media_type)


def _picture(section: etree._Element, image: KeyImage, request: DocumentRequest) -> None:
    """The key image itself, with a link to the object in the archive where one can be made."""
    value = _media(section, KEY_IMAGE_ID, image.media_type)
    value.set("representation", "B64")
    encoded = base64.b64encode(image.data).decode("ascii")
    link = _link(request, f"/series/{image.series_uid}/instances/{image.sop_instance_uid}", image.sop_instance_uid)
    if link is None or not _UID.fullmatch(image.series_uid):
        value.text = encoded
    else:
        add(value, "reference", value=link).tail = encoded


def _link_to_study(section: etree._Element, request: DocumentRequest) -> None:
    link = _link(request, "", request.source.study_uid)
    if link is not None:
        add(_media(section, STUDY_ID, "application/dicom"), "reference", value=link)


def _link(request: DocumentRequest, path: str, uid: str) -> str | None:
    """DICOMweb address below the study, else the UID as a URN; None for a UID that is none."""
    if request.base_url and _UID.fullmatch(request.source.study_uid) and _UID.fullmatch(uid):
        return f"{request.base_url.rstrip('/')}/studies/{request.source.study_uid}{path}"
    return f"urn:oid:{uid}" if _OID.fullmatch(uid) else None


def _lesion_section(
    body: etree._Element,
    number: int,
    lesion: Lesion,
    request: DocumentRequest,
    profile: SemdProfile,
    owner: Organisation,
) -> None:
    fields = profile.edition.fields
    location = profile.mapped("locations", lesion.site)
    assert location is not None, "requirements see to it"
    side = profile.mapped("lateralities", lesion.laterality)
    lines = narrative.about_lesion(
        number,
        lesion,
        request,
        profile.name_of("locations", location) or location,
        profile.name_of("lateralities", side),
    )
    section, _ = _section(body, profile, "OBJECTINFO", f"СВЕДЕНИЯ ОБ ОБЪЕКТЕ ИССЛЕДОВАНИЯ: НАХОДКА {number}", lines)
    place = _observation(section, profile, fields.location)
    add_value(place, profile, "locations", location)
    laterality = _observation(place, profile, fields.laterality)
    if side is None:
        add_unknown_value(laterality, "CD")
    else:
        add_value(laterality, profile, "lateralities", side)
    if profile.edition.ordinal:
        add(_observation(place, profile, fields.ordinal), "value", value=str(number)).set(TYPE, "REAL")
    identifier = lesion.tracking_uid or f"{request.document_id}.{number}"
    _pathology(place, lesion, identifier, request, profile, owner)


def _pathology(
    parent: etree._Element,
    finding: Lesion | Finding,
    identifier: str,
    request: DocumentRequest,
    profile: SemdProfile,
    owner: Organisation,
) -> None:
    """What was found: the dictionary's code with the model's own words, or the words alone."""
    pathology = _observation(parent, profile, profile.edition.fields.pathology)
    own = etree.Element(etree.QName(pathology.nsmap[None], "id"))
    own.set("root", profile.root(owner.oid, "finding"))
    own.set("extension", identifier)
    pathology.insert(0, own)
    code = profile.mapped("pathologies", finding.code)
    if code is None:
        value = add_unknown_value(pathology, "CD", "OTH")
    else:
        value = add_value(pathology, profile, "pathologies", code)
    add(value, "originalText", request.card.label(finding.label).title.ru)


def statements_without_place(request: DocumentRequest) -> tuple[Finding, ...]:
    """What is present in the study and has no lesion that shows it."""
    if request.revision.withdrawn:
        return ()
    placed = {lesion.label for lesion in request.findings.lesions}
    return tuple(
        one for one in request.findings.of_study() if one.presence is Presence.PRESENT and one.label not in placed
    )


def _result_section(body: etree._Element, request: DocumentRequest, profile: SemdProfile, owner: Organisation) -> None:
    fields, text = profile.edition.fields, request.text
    statements = statements_without_place(request)
    lines = narrative.result_lines(request, statements)
    section, _ = _section(body, profile, "RESINFO", "ЗАКЛЮЧЕНИЕ", lines)
    # The number of the protocol is given by the physician's system, when there is a protocol.
    add_unknown_value(_observation(section, profile, fields.protocol_number), "ST")
    withdrawn = request.revision.withdrawn
    protocol = narrative.WITHDRAWN_PROTOCOL if withdrawn else text.description
    conclusion = narrative.WITHDRAWN_CONCLUSION if withdrawn else text.conclusion
    warned = "\n".join((protocol, *narrative.warnings(request)))
    add_text_value(_observation(section, profile, fields.protocol), warned)
    add_text_value(_observation(section, profile, fields.conclusion), conclusion)
    for number, finding in enumerate(statements, start=1):
        identifier = f"{request.document_id}.study.{number}"
        _pathology(section, finding, identifier, request, profile, owner)
    if text.recommendation.strip() and not withdrawn:
        add_text_value(_observation(section, profile, fields.recommendation), text.recommendation)

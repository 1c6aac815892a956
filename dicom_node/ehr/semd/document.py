"""Writing a SEMD: what is known of a study and its findings becomes one XML document.

Called by whoever hands documents to the record. It asks `requirements` first and `check` last; the parts between are
`header` and `body`.
"""

from __future__ import annotations

from lxml import etree

from dicom_node.ehr.context import ContextMissing, DocumentRequest
from dicom_node.ehr.semd.body import add_body
from dicom_node.ehr.semd.check import DraftFaulty, check_semd
from dicom_node.ehr.semd.elements import NAMESPACES, V3
from dicom_node.ehr.semd.header import add_header
from dicom_node.ehr.semd.profile import SemdProfile
from dicom_node.ehr.semd.requirements import ContextInvalid, missing, wrong


def write_semd(request: DocumentRequest, profile: SemdProfile) -> bytes:
    """Write the unsigned draft of a document: equal requests give equal bytes.

    What is not known goes out as ``nullFlavor`` where the rules allow it. A withdrawn result is a further version of
    the document that takes everything back and says nothing else.

    Parameters
    ----------
    request : DocumentRequest
        The findings of one model on one study and their context.
    profile : SemdProfile
        Edition of the rules, and the site's part of it.

    Returns
    -------
    bytes
        XML in UTF-8 with its declaration.

    Raises
    ------
    ContextMissing
        If something lacks that the rules ask for; it names all of it.
    ContextInvalid
        If values are wrong (a SNILS with a wrong sum, a time without zone); it names all fields, no values.
    DraftFaulty
        If the written draft does not pass `check_semd`: an edition or a site part that contradicts itself.
    """
    lacking = missing(request, profile)
    if lacking:
        raise ContextMissing(lacking)
    refused = wrong(request, profile)
    if refused:
        raise ContextInvalid(refused)
    assert request.performer is not None, "else it would be missing"
    document = etree.Element(f"{{{V3}}}ClinicalDocument", nsmap=NAMESPACES)  # type: ignore[arg-type]  # None is allowed
    add_header(document, request, profile, request.performer)
    add_body(document, request, profile, request.performer)
    written = etree.tostring(document, encoding="UTF-8", xml_declaration=True)
    faults = check_semd(written, profile)
    if faults:
        raise DraftFaulty(faults)
    return written

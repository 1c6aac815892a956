"""The report of the experiment: one container with fourteen TEXT items and nothing else.

Called by `results.result_set`. Basic Text SR (PS3.3 A.35.1) by default: the content is text alone, and this is the
report class that archives and viewers have read longest. The tree has no observation context, because that would be
TEXT items too: the device that speaks stands in Author Observer and Contributing Equipment Sequence. It follows no
template, so none is named.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from pydicom import Dataset
from pydicom.uid import BasicTextSRStorage, ComprehensiveSRStorage, EnhancedSRStorage

from dicom_node.results.document import document, references
from dicom_node.results.header import SourceHeader
from dicom_node.results.moscow.form import ReportClass, ReportForm
from dicom_node.results.moscow.words import Words
from dicom_node.results.narrative import encodable
from dicom_node.results.provenance import code_item, provenance_of
from dicom_node.results.request import Role
from dicom_node.results.uids import ResultKey
from inference.findings import SopUid
from models.codes import Code

_CLASSES: Final = {
    ReportClass.BASIC_TEXT: str(BasicTextSRStorage),
    ReportClass.ENHANCED: str(EnhancedSRStorage),
    ReportClass.COMPREHENSIVE: str(ComprehensiveSRStorage),
}


def text_report(words: Words, headers: Mapping[SopUid, SourceHeader], key: ResultKey) -> Dataset:
    """The report.

    Parameters
    ----------
    words : Words
        In the language that the data set's character set can hold.
    headers : mapping of SopUid to SourceHeader
        Those of the images shown.
    key : ResultKey

    Returns
    -------
    pydicom.Dataset
        Without patient, study and series attributes; `provenance.stamp` adds them.
    """
    form = words.form.report
    report = document(
        words.request,
        key,
        Role.SR,
        sop_class_uid=_CLASSES[form.report_class],
        content=_tree(words, headers),
        evidence=references(words.findings, words.request),
    )
    report.AuthorObserverSequence = [_author(words)]
    report.CodingSchemeIdentificationSequence = [_scheme(form)]
    return report


def _tree(words: Words, headers: Mapping[SopUid, SourceHeader]) -> Dataset:
    form = words.form.report
    root = Dataset()
    root.ValueType = "CONTAINER"
    root.ContinuityOfContent = "SEPARATE"
    root.ConceptNameCodeSequence = [_concept(form.title.code, form.title.scheme, words.say(form.title.meaning))]
    said = words.items(headers)
    root.ContentSequence = [
        _text_item(_concept(one.code, form.scheme.designator, words.say(one.name)), said[one.item], words.header)
        for one in form.items
    ]
    return root


def _concept(value: str, scheme: str, meaning: str) -> Dataset:
    return code_item(Code(value=value, scheme=scheme, meaning=meaning))


def _text_item(name: Dataset, value: str, header: SourceHeader) -> Dataset:
    item = Dataset()
    item.RelationshipType = "CONTAINS"
    item.ValueType = "TEXT"
    item.ConceptNameCodeSequence = [name]
    item.TextValue = encodable(value, header)
    return item


def _author(words: Words) -> Dataset:
    """The model as author (Identified Person or Device Macro, PS3.3 Table 10-1 and C.17.2)."""
    speaker = provenance_of(words.card)
    author = Dataset()
    author.ObserverType = "DEV"
    author.StationName = None
    author.DeviceUID = speaker.device_uid
    author.Manufacturer = speaker.manufacturer
    author.ManufacturerModelName = speaker.name
    author.InstitutionName = None
    author.InstitutionCodeSequence = []
    return author


def _scheme(form: ReportForm) -> Dataset:
    """What the scheme of the items' names is (PS3.3 C.12.1, Coding Scheme Identification Sequence)."""
    item = Dataset()
    item.CodingSchemeDesignator = form.scheme.designator
    item.CodingSchemeName = form.scheme.name
    item.CodingSchemeResponsibleOrganization = form.scheme.organisation
    return item

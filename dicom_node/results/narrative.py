"""The text of the report inside a structured report: TEXT items of the container "Qualitative Evaluations" (TID 1500).

Called by `sr`. The words come from `dicom_node.wording`, the same as in documents for the record; here they become
content items, in plain ASCII where the source's character set leaves nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from highdicom import sr
from highdicom.sr import CodedConcept

from dicom_node.results.header import SourceHeader, read_source_header
from dicom_node.results.provenance import language_of
from dicom_node.results.request import EncodeRequest
from dicom_node.wording import ReportText, ShownImage, report_text
from dicom_node.wording.shown import shown_in_header
from inference.findings import Findings, SopUid
from models.codes import Code

FINDING: Final = Code(value="121071", scheme="DCM", meaning="Finding")
CONCLUSION: Final = Code(value="121077", scheme="DCM", meaning="Conclusion")
RECOMMENDATION: Final = Code(value="121075", scheme="DCM", meaning="Recommendation")
COMMENT: Final = Code(value="121106", scheme="DCM", meaning="Comment")
_SLICES: Final = frozenset({"CT", "MR", "PT"})
_ASCII: Final = str.maketrans({"\N{NO-BREAK SPACE}": " ", "×": "x", "²": "2", "³": "3", "−": "-", "–": "-"})


def narrative_items(request: EncodeRequest, header: SourceHeader) -> list[sr.TextContentItem]:
    """Description, conclusion, recommendation and warnings as TEXT items, in that order; what is empty has none."""
    text = narrative(request, header)
    return [
        sr.TextContentItem(
            name=CodedConcept(value=name.value, scheme_designator=name.scheme, meaning=name.meaning),
            value=encodable(words, header),
            relationship_type=sr.RelationshipTypeValues.CONTAINS,
        )
        for name, words in _parts(text)
    ]


def narrative(request: EncodeRequest, header: SourceHeader, language: str | None = None) -> ReportText:
    """The report in words for this request; `header` is that of one of its images.

    The language is that of the data set unless `language` says otherwise: letters in a picture need no character set.
    """
    findings = request.findings
    return report_text(
        findings,
        request.card,
        language=language or language_of(request, header),
        refusal=request.refusal,
        shown={} if findings is None else _shown(request, findings, header),
        images_given=None if findings is None else len(request.sources),
    )


def _shown(request: EncodeRequest, findings: Findings, header: SourceHeader) -> dict[SopUid, ShownImage]:
    """What each image shows; slices of a volume all show the same, which the first of them tells."""
    if header.text("Modality") in _SLICES:
        first = shown_in_header(header.dataset)
        return {image.sop_instance_uid: first for image in findings.images}
    uids = [image.sop_instance_uid for image in findings.images]
    return {uid: shown_in_header(read_source_header(request.sources[uid]).dataset) for uid in uids}


def _parts(text: ReportText) -> Iterator[tuple[Code, str]]:
    yield FINDING, text.description
    yield CONCLUSION, text.conclusion
    if text.recommendation:
        yield RECOMMENDATION, text.recommendation
    for warning in text.warnings:
        yield COMMENT, warning


def encodable(words: str, header: SourceHeader) -> str:
    """The words as the object's character set can hold them, with line ends as DICOM writes them (PS3.5 6.1.3)."""
    if header.ascii_only:
        words = words.translate(_ASCII).encode("ascii", "replace").decode("ascii")
    return words.replace("\n", "\r\n")

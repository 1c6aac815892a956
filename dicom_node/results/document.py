"""A report as a document (PS3.3 A.35): SR Document Series and SR Document General modules around a content tree.

Used by `sr` and by `moscow.report`, which make the content trees.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from pydicom import Dataset
from pydicom.uid import BasicTextSRStorage, Comprehensive3DSRStorage, ComprehensiveSRStorage, EnhancedSRStorage

from dicom_node.results.evidence import hierarchy
from dicom_node.results.request import EncodeRequest, ObjectRef, Role
from dicom_node.results.uids import ResultKey
from inference.findings import Findings

# What a report may supersede: whatever class the profile asked for when the earlier one was written.
_REPORT_CLASSES: Final = frozenset(
    map(str, (Comprehensive3DSRStorage, ComprehensiveSRStorage, EnhancedSRStorage, BasicTextSRStorage))
)


def document(
    request: EncodeRequest,
    key: ResultKey,
    role: Role,
    *,
    sop_class_uid: str,
    content: Dataset,
    evidence: Sequence[ObjectRef],
) -> Dataset:
    """The document around a content tree.

    Parameters
    ----------
    content : pydicom.Dataset
        The root container with its items.
    evidence : sequence of ObjectRef
        The images that the report is about.

    Returns
    -------
    pydicom.Dataset
        Without patient, study and series attributes; `provenance.stamp` adds them.
    """
    made = Dataset()
    made.SOPClassUID = sop_class_uid
    made.SOPInstanceUID = key.instance_uid(role)
    made.SeriesInstanceUID = key.series_uid(role)
    made.Modality = "SR"
    made.ReferencedPerformedProcedureStepSequence = []
    made.PerformedProcedureCodeSequence = []
    made.CompletionFlag = "COMPLETE"
    made.VerificationFlag = "UNVERIFIED"
    made.PreliminaryFlag = "PRELIMINARY"
    made.CurrentRequestedProcedureEvidenceSequence = hierarchy(evidence)
    predecessors = [known for known in request.predecessors if known.sop_class_uid in _REPORT_CLASSES]
    if predecessors:
        made.PredecessorDocumentsSequence = hierarchy(predecessors)
    for element in content:
        made[element.tag] = element
    return made


def references(findings: Findings, request: EncodeRequest) -> list[ObjectRef]:
    """The analysed images."""
    return [
        ObjectRef(
            study_uid=request.study_uid,
            series_uid=image.series_uid,
            sop_class_uid=image.sop_class_uid,
            sop_instance_uid=image.sop_instance_uid,
        )
        for image in findings.images
    ]

"""References from a result to what it speaks of: evidence and predecessors, grouped by study and series.

Used by the writers of reports, presentation states and rejection notes (PS3.3 Table 10-4, Hierarchical SOP Instance
Reference Macro).
"""

from __future__ import annotations

from collections.abc import Iterable

from pydicom import Dataset

from dicom_node.results.request import ObjectRef


def sop_item(sop_class_uid: str, sop_instance_uid: str, frame_number: int | None = None) -> Dataset:
    """A reference to one object, to one frame of it where `frame_number` (1-based) is given."""
    item = Dataset()
    item.ReferencedSOPClassUID = sop_class_uid
    item.ReferencedSOPInstanceUID = sop_instance_uid
    if frame_number is not None:
        item.ReferencedFrameNumber = frame_number
    return item


def hierarchy(references: Iterable[ObjectRef]) -> list[Dataset]:
    """References grouped by study and series, each object once, in the order given."""
    studies: dict[str, dict[str, dict[str, str]]] = {}
    for reference in references:
        series = studies.setdefault(reference.study_uid, {}).setdefault(reference.series_uid, {})
        series[reference.sop_instance_uid] = reference.sop_class_uid
    return [_study_item(uid, series) for uid, series in studies.items()]


def _study_item(study_uid: str, series: dict[str, dict[str, str]]) -> Dataset:
    item = Dataset()
    item.StudyInstanceUID = study_uid
    item.ReferencedSeriesSequence = [_series_item(uid, objects) for uid, objects in series.items()]
    return item


def _series_item(series_uid: str, objects: dict[str, str]) -> Dataset:
    item = Dataset()
    item.SeriesInstanceUID = series_uid
    item.ReferencedSOPSequence = [sop_item(sop_class, sop_instance) for sop_instance, sop_class in objects.items()]
    return item

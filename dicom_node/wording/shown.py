"""What the header of an image says of what it shows, from the ledger's facts or from a file's header alike.

Called by the writer of SR (headers) and by the account of a study (facts); both give the same words of the same image.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydicom import Dataset

from dicom_node.facts import InstanceFacts
from dicom_node.wording.values import ShownImage
from inference.findings import SopUid
from inference.loading import attributes as read
from inference.loading.header import patient_orientation, view

_SIDES = ("L", "R", "B")


def shown_in_header(data_set: Dataset) -> ShownImage:
    """What a file's header says; an attribute that cannot be read says nothing."""
    laterality = read.code_text(data_set, "ImageLaterality") or read.code_text(data_set, "Laterality")
    return _shown(read.code_text(data_set, "Modality"), view(data_set), laterality, patient_orientation(data_set))


def shown_in_facts(facts: InstanceFacts) -> ShownImage:
    """The same from what the ledger keeps of the header."""
    return _shown(facts.modality, facts.view, facts.laterality, facts.patient_orientation)


def shown_images(known: Mapping[SopUid, InstanceFacts]) -> dict[SopUid, ShownImage]:
    """`shown_in_facts` of each image."""
    return {uid: shown_in_facts(facts) for uid, facts in known.items()}


def _shown(modality: str, view_position: str, laterality: str, orientation: tuple[str, ...]) -> ShownImage:
    row, column = orientation if len(orientation) == 2 else ("", "")  # noqa: PLR2004  (of a row and of a column)
    return ShownImage(
        modality=modality,
        view=view_position,
        laterality=laterality if laterality in _SIDES else "",
        row_direction=row,
        column_direction=column,
    )

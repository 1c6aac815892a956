"""The block of a result message for its kind of study: figures of breasts or of nodules, as the profile lists them.

Called by `message`; pure. A field that the model cannot speak of is left out and never guessed: the card has no label
with one of its codes, does not support its categories, or a size is not known in millimetres.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from dicom_node.ehr.context import DocumentRequest
from dicom_node.ehr.moscow.profile import BlockField, MoscowProfile, Says
from dicom_node.ehr.statements import study_statements
from inference.findings import Finding, Lesion, Presence
from models.card import Label
from models.codes import Code

Value: TypeAlias = int | float | str
_SIDES: Final = {"right": "24028007", "left": "7771000"}  # SNOMED CT: Right, Left
_LONG_AXIS: Final = ("103339001", "mm")
_SHORT_AXIS: Final = ("103340004", "mm")
_VOLUME: Final = ("118565006", "mm3")
_SIZES: Final = {Says.LONG_AXIS: _LONG_AXIS, Says.SHORT_AXIS: _SHORT_AXIS, Says.VOLUME: _VOLUME}


def whole_percent(score: float) -> int:
    """A score of 0 to 1 as the nearest whole per cent; a higher score never gives a lower figure."""
    return round(score * 100)


def highest_percent(request: DocumentRequest, profile: MoscowProfile, labels: Sequence[Label]) -> int | None:
    """The highest calibrated score that is said of the study for one of `labels`, in whole per cent.

    A model that gives no score where it marks nothing has the profile's `silent_confidence`.
    """
    keys = {label.key for label in labels}
    statements = study_statements(request.findings, request.card)
    scores = [one.score for one in statements if one.label.key in keys and one.score is not None]
    return whole_percent(max(scores)) if scores else profile.silent_confidence


@dataclass(frozen=True, kw_only=True, slots=True)
class _Asked:
    """One field of a block, and the labels of the card that it speaks of."""

    field: BlockField
    labels: Sequence[Label]
    request: DocumentRequest
    profile: MoscowProfile

    @property
    def keys(self) -> frozenset[str]:
        return frozenset(label.key for label in self.labels)

    @property
    def lesions(self) -> list[Lesion]:
        """Lesions of the labels, on the side that is asked for."""
        found = self.request.findings.lesions
        return [one for one in found if one.label in self.keys and self._is_of_side(one.laterality)]

    @property
    def of_side(self) -> list[Finding]:
        """What is said of the side as a whole."""
        found = self.request.findings.findings
        return [
            one
            for one in found
            if one.label in self.keys and one.sop_instance_uid is None and self._is_of_side(one.laterality)
        ]

    def _is_of_side(self, laterality: Code | None) -> bool:
        side = self.field.side
        return side is None or (laterality is not None and laterality.value == _SIDES[side])


def write_block(request: DocumentRequest, profile: MoscowProfile) -> dict[str, dict[str, Value]]:
    """The block under its name; empty where none is known for the study, or the model can speak of no field of it."""
    block = profile.block_of(request.source)
    if block is None:
        return {}
    asked = {
        field.key: _Asked(field=field, labels=_labels(field, request, profile), request=request, profile=profile)
        for field in block.fields
    }
    values = {key: _WRITERS[one.field.says](one) for key, one in asked.items() if one.labels}
    known = {key: value for key, value in values.items() if value is not None}
    return {block.name: known} if known else {}


def _labels(field: BlockField, request: DocumentRequest, profile: MoscowProfile) -> list[Label]:
    if field.says is Says.CATEGORY:
        return [one for one in request.card.labels if one.category is not None and one.category.system == field.system]
    return [
        one
        for one in request.card.labels
        if one.category is None
        and profile.is_pathology(one)
        and field.speaks_of(one)
        and (one.cancer or field.says is not Says.CANCER_SCORE)
    ]


def _score(asked: _Asked) -> int | None:
    if asked.field.side is None:
        return highest_percent(asked.request, asked.profile, asked.labels)
    # What is said of a breast is calibrated for breasts; where nothing is, its lesions speak.
    scores = [one.score for one in asked.of_side if one.presence is not Presence.UNDETERMINED]
    scores = scores or [one.score for one in asked.lesions]
    return whole_percent(max(scores)) if scores else None


def _category(asked: _Asked) -> str | None:
    """The category of a side or of the study: of the present ones that with the highest score."""
    said = asked.request.findings.of_study() if asked.field.side is None else asked.of_side
    values = {label.key: label.category.value for label in asked.labels if label.category is not None}
    present = [one for one in said if one.label in values and one.presence is Presence.PRESENT]
    strongest = max(present, key=lambda one: one.score, default=None)
    return values[strongest.label] if strongest else None


def _count(asked: _Asked) -> int:
    return len(asked.lesions)


def _size(asked: _Asked) -> float | None:
    """A size of the largest lesion; nothing unless all were measured, for else nobody knows which is the largest."""
    sizes = [_sizes_of(lesion) for lesion in asked.lesions]
    if not sizes or any(_LONG_AXIS not in one for one in sizes):
        return None
    largest = max(sizes, key=lambda one: one[_LONG_AXIS])
    return largest.get(_SIZES[asked.field.says])


def _sizes_of(lesion: Lesion) -> Mapping[tuple[str, str], float]:
    """Measurements by quantity and unit: those in pixels have no place here."""
    return {(one.quantity.value, one.unit.value): one.value for one in lesion.measurements if one.value > 0}


_WRITERS: Final[Mapping[Says, Callable[[_Asked], Value | None]]] = {
    Says.SCORE: _score,
    Says.CANCER_SCORE: _score,
    Says.COUNT: _count,
    Says.LONG_AXIS: _size,
    Says.SHORT_AXIS: _size,
    Says.VOLUME: _size,
    Says.CATEGORY: _category,
}

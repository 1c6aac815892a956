"""Is this image one the model was made for? Refuse with the reason, or go on with cautions.

Called by `inference.engine` for every image before its pixels are used, and by `dicom_node.routing` for a dry run.
Pure: a header and a card's `IntendedUse` in, a verdict out.
"""

from __future__ import annotations

from inference.findings import Flag
from inference.images import ImageHeader
from inference.refusals import Reason, Refusal
from models.card import IntendedUse


def check(header: ImageHeader, use: IntendedUse) -> Refusal | tuple[Flag, ...]:
    """The first reason not to analyse the image, or else the cautions that must be shown with the result."""
    for rule in (_modality, _body_part, _view, _presentation, _age):
        refusal = rule(header, use)
        if refusal is not None:
            return refusal
    return flags(header, use)


def flags(header: ImageHeader, use: IntendedUse) -> tuple[Flag, ...]:
    """Cautions about an accepted image, in the order of `Flag`."""
    age_limited = use.min_age_years is not None or use.max_age_years is not None
    raised = {
        Flag.AGE_UNKNOWN: age_limited and header.patient_age_years is None,
        Flag.VIEW_UNKNOWN: bool(use.views) and not header.view,
        Flag.BODY_PART_UNKNOWN: bool(use.body_parts) and not header.body_part,
        Flag.SPACING_UNKNOWN: header.spacing_mm is None,
        Flag.LOSSY_COMPRESSION: header.lossy,
    }
    return tuple(flag for flag in Flag if raised.get(flag))


def _modality(header: ImageHeader, use: IntendedUse) -> Refusal | None:
    if header.modality in use.modalities:
        return None
    accepted = ", ".join(use.modalities)
    return Refusal(reason=Reason.MODALITY, detail=f"{header.modality or 'none'}; the model accepts {accepted}")


def _body_part(header: ImageHeader, use: IntendedUse) -> Refusal | None:
    if not use.body_parts or header.body_part in use.body_parts:
        return None
    if not header.body_part and use.accept_unknown_body_part:
        return None
    accepted = ", ".join(use.body_parts)
    return Refusal(reason=Reason.BODY_PART, detail=f"{header.body_part or 'none'}; the model accepts {accepted}")


def _view(header: ImageHeader, use: IntendedUse) -> Refusal | None:
    if not use.views:
        return None
    if header.view_modifiers:  # spot, magnified, implant displaced: not the standard view, whatever its name
        return Refusal(reason=Reason.VIEW, detail=f"{header.view} with modifier {', '.join(header.view_modifiers)}")
    if header.view in use.views or (not header.view and use.accept_unknown_view):
        return None
    return Refusal(reason=Reason.VIEW, detail=f"{header.view or 'none'}; the model accepts {', '.join(use.views)}")


def _presentation(header: ImageHeader, use: IntendedUse) -> Refusal | None:
    if header.presentation in use.presentation:
        return None
    accepted = ", ".join(use.presentation)
    return Refusal(reason=Reason.PRESENTATION, detail=f"{header.presentation}; the model accepts {accepted}")


def _age(header: ImageHeader, use: IntendedUse) -> Refusal | None:
    age = header.patient_age_years
    if age is None:
        return None
    # The age itself is patient data and stays out of the text.
    if use.min_age_years is not None and age < use.min_age_years:
        return Refusal(reason=Reason.AGE, detail=f"younger than {use.min_age_years:g} years")
    if use.max_age_years is not None and age > use.max_age_years:
        return Refusal(reason=Reason.AGE, detail=f"older than {use.max_age_years:g} years")
    return None

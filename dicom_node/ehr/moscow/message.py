"""`write_result` and `write_error`: a document of the record, or a refusal, as one JSON message of the exchange.

Called by `receivers.kafka`; pure, so a retry sends equal bytes. The exchange knows a study by its UID alone: nothing of
the patient is ever written. Blocks for kinds of studies are `blocks`; names are the profile's; sending is `client`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final
from zoneinfo import ZoneInfo

from dicom_node.ehr.context import ContextMissing, DocumentRequest, ProcessingTimes, RefusalNotice
from dicom_node.ehr.moscow.blocks import highest_percent, write_block
from dicom_node.ehr.moscow.model_id import ModelId
from dicom_node.ehr.moscow.profile import ISO_8601, MoscowProfile
from dicom_node.wording import withdrawal_text
from inference.findings import Finding, Presence
from inference.refusals import TEXTS, Reason
from models.card import Label

CORRECTIONS: Final = 'moscow.corrections = "resend"'

Json = dict[str, Any]


def write_result(request: DocumentRequest, profile: MoscowProfile) -> bytes:
    """Write what a model said of a study.

    A withdrawal becomes an error message of the profile's `withdrawal_category`, for the exchange knows no other word
    for it; so does a result of which the model decided nothing, under the category of a failed model.

    Returns
    -------
    bytes
        One JSON object in UTF-8, its keys in the order of the exchange's description.

    Raises
    ------
    ContextMissing
        Names all that lacks at once: the number of the model (``moscow.model_ids.NAME``), the series of pictures
        (``key_image``), ``times``; and the profile's consent to corrections, where it has none.
    """
    if request.revision.withdrawn:
        text = withdrawal_text(request.card, language=request.language)
        return _error_of(request, profile, profile.withdrawal_category, text.description)
    if request.revision.replaces_id is not None and profile.corrections == "withhold":
        raise ContextMissing([CORRECTIONS])
    pathologies = [label for label in request.card.labels if profile.is_pathology(label)]
    is_pathology = _is_pathology(request, profile)
    if not is_pathology and _is_undecided(request, pathologies):
        return _error_of(request, profile, profile.errors[Reason.MODEL_FAILED], request.text.conclusion)
    return _encoded(profile, request.findings.study_uid, _result(request, profile, pathologies, is_pathology))


def write_error(notice: RefusalNotice, profile: MoscowProfile) -> bytes:
    """Write that a model could not speak, and why: the category of the reason, with words in the notice's language.

    Raises
    ------
    ContextMissing
        When the profile has no number for the model.
    """
    model_id = profile.model_id(notice.model_name, notice.model_version)
    if model_id is None:
        raise ContextMissing([_missing_id(notice.model_name)])
    refusal = notice.refusal
    told = TEXTS[refusal.reason].in_language(notice.language)
    words = f"{told}: {refusal.detail}" if refusal.detail else told
    if notice.withdraws:
        words = f"{words}. {withdrawal_text(None, language=notice.language).description}"
    error = _error(profile, model_id, profile.errors[refusal.reason], words, notice.times)
    return _encoded(profile, notice.study_uid, error)


def is_error(message: bytes, profile: MoscowProfile) -> bool:
    """Whether a message says, in the words of `profile`, that there is no result."""
    result = json.loads(message).get(profile.fields.result)
    return isinstance(result, dict) and profile.fields.error in result


def _result(request: DocumentRequest, profile: MoscowProfile, pathologies: list[Label], is_pathology: bool) -> Json:
    names, card = profile.fields, request.card.identity
    model_id = profile.model_id(card.name, card.version)
    series_uid = request.key_image.series_uid if request.key_image else None
    missing = {
        _missing_id(card.name): model_id is None,
        "key_image": series_uid is None and bool(names.series_uid) and profile.series_required,
        "times": request.times is None and bool(names.times),
    }
    if any(missing.values()):
        raise ContextMissing([name for name, is_missing in missing.items() if is_missing])
    listed = {
        names.series_uid: series_uid,
        names.pathology: is_pathology,
        names.normal: not is_pathology,
        names.confidence: highest_percent(request, profile, pathologies),
        names.model_id: model_id,
        names.model_version: card.version,
        names.description: request.text.description,
        names.conclusion: _conclusion(request),
        names.times: _times(request.times, profile),
        names.blocks: write_block(request, profile) or None,
    }
    return _given(listed)


def _error_of(request: DocumentRequest, profile: MoscowProfile, category: str, words: str) -> bytes:
    card = request.card.identity
    model_id = profile.model_id(card.name, card.version)
    if model_id is None:
        raise ContextMissing([_missing_id(card.name)])
    return _encoded(profile, request.findings.study_uid, _error(profile, model_id, category, words, request.times))


def _error(profile: MoscowProfile, model_id: ModelId, category: str, words: str, times: ProcessingTimes | None) -> Json:
    names = profile.fields
    return _given(
        {
            names.model_id: model_id,
            names.error: category,
            names.error_description: words,
            names.times: _times(times, profile),
        }
    )


def _is_pathology(request: DocumentRequest, profile: MoscowProfile) -> bool:
    """Whether a pathology is reported: by a lesion, of the study, of a side or of a picture, as the text has it."""
    labels = {label.key: label for label in request.card.labels}
    present = [one for one in request.findings.findings if one.presence is Presence.PRESENT]
    reported = {one.label for one in request.findings.lesions}
    reported |= {one.label for one in present if labels[one.label].category is None}
    reported |= _categories(request, labels)
    return any(profile.is_pathology(labels[key]) for key in reported)


def _categories(request: DocumentRequest, labels: Mapping[str, Label]) -> set[str]:
    """Of the present categories of a system, of the study or of a side, the one that applies: the likeliest."""
    sides = [one for one in request.findings.findings if one.laterality is not None and one.sop_instance_uid is None]
    strongest: dict[tuple[str, str], Finding] = {}
    for one in [*request.findings.of_study(), *sides]:
        category = labels[one.label].category
        if category is not None and one.presence is Presence.PRESENT:
            where = (category.system.value, one.laterality.value if one.laterality else "")
            strongest[where] = max(strongest.get(where, one), one, key=lambda said: said.score)
    return {one.label for one in strongest.values()}


def _is_undecided(request: DocumentRequest, labels: list[Label]) -> bool:
    """Whether the model says of one of `labels` that it cannot tell: then the study must not be called normal."""
    keys = {label.key for label in labels}
    return any(one.label in keys and one.presence is Presence.UNDETERMINED for one in request.findings.of_study())


def _conclusion(request: DocumentRequest) -> str:
    """Conclusion and recommendation, and under them the warnings that belong under every copy of the text."""
    text = request.text
    return "\n".join(part for part in (text.conclusion, text.recommendation, *text.warnings) if part)


def _times(times: ProcessingTimes | None, profile: MoscowProfile) -> Json | None:
    if times is None:
        return None
    names = profile.fields
    return {
        names.received_from: _moment(times.received_from, profile),
        names.received_until: _moment(times.received_until, profile),
        names.begun: _moment(times.begun, profile),
        names.ended: _moment(times.ended, profile),
    }


def _moment(moment: datetime, profile: MoscowProfile) -> str:
    local = moment.astimezone(ZoneInfo(profile.time_zone))
    return (
        local.isoformat(timespec="seconds") if profile.time_format == ISO_8601 else local.strftime(profile.time_format)
    )


def _missing_id(name: str) -> str:
    return f"moscow.model_ids.{name}"


def _given(listed: Mapping[str, object]) -> Json:
    """Fields that have a key and a value."""
    return {key: value for key, value in listed.items() if key and value is not None}


def _encoded(profile: MoscowProfile, study_uid: str, result: Json) -> bytes:
    whole = {profile.fields.study_uid: study_uid, profile.fields.result: result}
    # A lone surrogate, which no UTF-8 can carry, becomes a question mark rather than a document that cannot be sent.
    return json.dumps(whole, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode("utf-8", "replace")

"""The text of a report: `report_text`, from findings or a refusal to description, conclusion, recommendation, warnings.

Called by the writers of SR and of documents for the record, and by the account of a study. Pure: the same findings,
card and images give the same text. Nothing clinical is computed here; sentences are in `templates/`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from dicom_node.results import texts
from dicom_node.wording.grammar import agree, counted, plain, sentence, within_sentence
from dicom_node.wording.phrases import phrases_of
from dicom_node.wording.places import view_name
from dicom_node.wording.scene import Scene, kind_of, paragraph, side_name
from dicom_node.wording.scores import is_present, score_text
from dicom_node.wording.statements import (
    Said,
    about_repetition,
    about_sizes,
    about_slices,
    all_said,
    categories,
    description_of,
    marked_words,
    not_found,
)
from dicom_node.wording.values import ReportText, ShownImage
from inference.findings import Findings, Flag, SopUid
from inference.refusals import TEXTS, Reason, Refusal
from models.card import ModelCard

_NOTHING_SHOWN: Mapping[SopUid, ShownImage] = {}
_NONE_LEFT_OUT: Mapping[Reason, int] = {}


def report_text(
    findings: Findings | None,
    card: ModelCard | None,
    *,
    language: str,
    refusal: Refusal | None = None,
    shown: Mapping[SopUid, ShownImage] = _NOTHING_SHOWN,
    images_given: int | None = None,
    left_out: Mapping[Reason, int] = _NONE_LEFT_OUT,
) -> ReportText:
    """Put into words what a model found, or why it was not asked.

    Parameters
    ----------
    findings : Findings or None
        Exactly one of `findings` and `refusal` is given.
    card : ModelCard or None
        The model that spoke; None only for a refusal before a model was chosen.
    language : str
        ``"ru"`` or ``"en"``.
    refusal : Refusal or None
        Why the study was not analysed.
    shown : mapping of SOP Instance UID to ShownImage
        What the headers say of the images; without it neither views nor the patient's sides on films are named.
    images_given : int or None
        How many images the model was given: those that were not analysed are told of.
    left_out : mapping of Reason to int
        Images that were left out by reason, where the reasons are known; it counts before `images_given`.

    Returns
    -------
    ReportText
        The same for the same arguments.

    Raises
    ------
    ValueError
        If the node does not speak `language`, not exactly one of findings and refusal is given, or the card is not
        that of the model that spoke.
    """
    if (findings is None) == (refusal is None):
        raise ValueError("a report is on either findings or a refusal")
    if findings is None:
        assert refusal is not None
        return _refused(refusal, card, language)
    if card is None or card.model_digest != findings.model.model_digest:
        raise ValueError("a report on findings needs the card of the model that spoke")
    scene = _scene(findings, card, language, shown)
    missing = _missing(findings, images_given, left_out)
    every = all_said(scene)
    return ReportText(
        language=language,
        description="\n".join(map(sentence, _description(scene, every))),
        conclusion="\n".join(map(sentence, _conclusion(scene, every, is_partial=missing > 0))),
        recommendation=_recommendation(scene, every),
        warnings=tuple(map(sentence, _warnings(scene, missing, left_out))),
    )


def withdrawal_text(card: ModelCard | None, *, language: str) -> ReportText:
    """The text of a document that takes an earlier one back; nothing of what that one said is repeated.

    Raises
    ------
    ValueError
        If the node does not speak `language`.
    """
    phrases = phrases_of(kind_of(card, ()), language)
    return ReportText(
        language=language,
        description=phrases.withdrawn,
        conclusion=f"{phrases.withdrawn} {phrases.refused_means}",
        recommendation="" if texts.is_demonstration(card) else phrases.recommend_refused,
        warnings=(plain(texts.warning_sentence(card, language)), _origin(card, language)),
    )


def _scene(findings: Findings, card: ModelCard, language: str, shown: Mapping[SopUid, ShownImage]) -> Scene:
    modalities = [shown[one.sop_instance_uid].modality for one in findings.images if one.sop_instance_uid in shown]
    kind = kind_of(card, modalities)
    return Scene(
        findings=findings, card=card, language=language, phrases=phrases_of(kind, language), kind=kind, shown=shown
    )


def _missing(findings: Findings, images_given: int | None, left_out: Mapping[Reason, int]) -> int:
    if left_out:
        return sum(left_out.values())
    return max((images_given or 0) - len({image.sop_instance_uid for image in findings.images}), 0)


def _description(scene: Scene, every: tuple[Said, ...]) -> Iterator[str]:
    yield _examined(scene)
    yield _sought(scene)
    for said in every:
        yield from description_of(said, scene)
    yield from categories(every, scene)
    notes = paragraph(about_repetition(every, scene), about_sizes(scene), about_slices(scene))
    if notes:
        yield notes


def _sought(scene: Scene) -> str:
    """What the model looks for, and which categories it gives: whoever reads a denial has to know of what."""
    sought = [scene.title(label) for label in scene.card.labels if label.category is None]
    systems = [label.category.system for label in scene.card.labels if label.category is not None]
    return paragraph(
        scene.phrases.grades.format(systems=", ".join(dict.fromkeys(systems))) if systems else "",
        scene.phrases.sought.format(labels=", ".join(sought)) if sought else "",
    )


def _examined(scene: Scene) -> str:
    phrases, count = scene.phrases, len(scene.findings.images)
    named = [scene.image(image.sop_instance_uid).view for image in scene.findings.images]
    views = list(dict.fromkeys(plain(view_name(view, scene)) for view in named if view))
    template = phrases.view_one if len(views) == 1 else phrases.views
    return phrases.examined.format(
        study=phrases.study,
        verb=agree(phrases.studied, phrases.image, count, scene.language),
        images=counted(phrases.image, count, scene.language),
        views=template.format(views=", ".join(views)) if views and not scene.is_sliced else "",
    )


def _conclusion(scene: Scene, every: tuple[Said, ...], *, is_partial: bool) -> Iterator[str]:
    phrases = scene.phrases
    reported = [said for said in every if said.is_reported]
    for said in reported:
        yield from _concluded(said, scene)
    yield from categories(every, scene)
    silent = [said for said in every if not said.is_reported and said.label.category is None]
    for said in silent:
        if said.is_undetermined:
            yield phrases.concluded_undetermined.format(label=scene.title(said.label))
        else:
            yield not_found(said, scene, concluding=True)
    partial = phrases.partial if is_partial or Flag.STUDY_INCOMPLETE in scene.findings.flags else ""
    suggestion = phrases.suggestion if reported else ""
    no_exclusion = phrases.no_exclusion if silent else ""
    yield paragraph(about_repetition(every, scene), suggestion, no_exclusion, partial)


def _concluded(said: Said, scene: Scene) -> Iterator[str]:
    phrases, label = scene.phrases, scene.title(said.label)
    if said.lesions:
        strongest = max((lesion for _, lesion in said.lesions), key=lambda lesion: lesion.score)
        yield phrases.concluded_found.format(**marked_words(said, scene), score=score_text(strongest, scene))
    elif said.label.category is None and (said.is_present_in_study or said.pictures):
        strongest_said = said.whole if said.whole and said.is_present_in_study else said.pictures[0]
        yield phrases.concluded_unplaced.format(label=label, score=score_text(strongest_said, scene))
    elif said.label.category is None:
        for one in filter(is_present, said.sides):
            side = side_name(one.laterality, one.site, scene)
            yield phrases.concluded_side.format(side=side, label=label, score=score_text(one, scene))
    wording = said.label.wording
    if wording and wording.conclusion:
        yield plain(wording.conclusion.in_language(scene.language))


def _recommendation(scene: Scene, every: tuple[Said, ...]) -> str:
    """The cards' own for what is reported, else the template's; none where a result is not to be relied on."""
    if texts.is_demonstration(scene.card):
        return ""
    reported = [said for said in every if said.is_reported]
    own = [said.label.wording and said.label.wording.recommendation for said in reported]
    lines = [plain(text.in_language(scene.language)) for text in own if text]
    others = [said for said, text in zip(reported, own, strict=True) if not text and said.label.category is None]
    if others:
        has_place = any(said.lesions for said in others)
        lines.append(scene.phrases.recommend_found if has_place else scene.phrases.recommend_unplaced)
    return "\n".join(dict.fromkeys(map(sentence, lines))) or scene.phrases.recommend_nothing


def _warnings(scene: Scene, missing: int, left_out: Mapping[Reason, int]) -> Iterator[str]:
    yield plain(texts.warning_sentence(scene.card, scene.language))
    yield _origin(scene.card, scene.language)
    if missing:
        yield _left_out(scene, missing, left_out)
    for flag in dict.fromkeys(scene.findings.flags):
        yield scene.phrases.caution.format(sentence=scene.phrases.flags[flag])


def _origin(card: ModelCard | None, language: str) -> str:
    phrases = phrases_of(kind_of(card, ()), language)
    if card is None:
        return phrases.origin_node
    title = plain(card.identity.title.in_language(language))
    return phrases.origin.format(title=title, name=card.identity.name, version=card.identity.version)


def _left_out(scene: Scene, missing: int, left_out: Mapping[Reason, int]) -> str:
    phrases, language = scene.phrases, scene.language
    words = {
        "verb": agree(phrases.remained, phrases.item, missing, language),
        "images": counted(phrases.item, missing, language),
        "total": str(missing + len({image.sop_instance_uid for image in scene.findings.images})),
    }
    if not left_out:
        return phrases.left_out.format(**words)
    reasons = "; ".join(TEXTS[reason].in_language(language) for reason in sorted(left_out))
    return phrases.left_out_because.format(**words, reasons=reasons)


def _refused(refusal: Refusal, card: ModelCard | None, language: str) -> ReportText:
    """Why a study was not analysed, and that this says nothing of the patient."""
    phrases = phrases_of(kind_of(card, ()), language)
    because = phrases.refused.format(reason=within_sentence(TEXTS[refusal.reason].in_language(language)))
    detail = plain(refusal.detail).rstrip(".")
    return ReportText(
        language=language,
        description="\n".join([because, phrases.refused_detail.format(detail=detail)] if detail else [because]),
        conclusion=f"{because} {phrases.refused_means}",
        recommendation="" if texts.is_demonstration(card) else phrases.recommend_refused,
        warnings=(plain(texts.warning_sentence(card, language)), _origin(card, language)),
    )

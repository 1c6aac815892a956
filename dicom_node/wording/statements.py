"""What is said of each label: its lesions one by one, the study as a whole, each side, and what was not found.

Called by `report`; one line of the description for each statement. What was not found is said of the card's labels
only, and only of the sides that the images show.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from dicom_node.wording.grammar import percentage, plain, sentence
from dicom_node.wording.places import image_name, place_text, sizes_text
from dicom_node.wording.scene import LEFT, RIGHT, Scene, side_name
from dicom_node.wording.scores import is_present, score_of_absent, score_text
from inference.findings import Finding, Flag, Lesion, Presence
from models.card import Label


@dataclass(frozen=True, kw_only=True, slots=True)
class Said:
    """Everything that the findings say of one label.

    Attributes
    ----------
    lesions : tuple of (number, Lesion)
        Numbered as on the overlays, over all labels.
    whole : Finding or None
        Of the study, else of its most suspicious picture.
    sides : tuple of Finding
        Of one side each.
    pictures : tuple of Finding
        Present on a picture on which no lesion of the label has a place.
    """

    label: Label
    lesions: tuple[tuple[int, Lesion], ...]
    whole: Finding | None
    sides: tuple[Finding, ...]
    pictures: tuple[Finding, ...]

    @property
    def is_reported(self) -> bool:
        """Whether anything of the label is present."""
        return bool(self.lesions or self.pictures or any(map(is_present, self.sides))) or self.is_present_in_study

    @property
    def is_present_in_study(self) -> bool:
        """Whether the study as a whole is above the threshold."""
        return self.whole is not None and is_present(self.whole)

    @property
    def is_undetermined(self) -> bool:
        """Whether the network says nothing of it."""
        said = [one for one in (self.whole, *self.sides) if one is not None]
        return not self.is_reported and any(one.presence is Presence.UNDETERMINED for one in said)


def all_said(scene: Scene) -> tuple[Said, ...]:
    """What is said of each label, in the order of the card."""
    whole = {one.label: one for one in scene.findings.of_study()}
    return tuple(_said(label, whole.get(label.key), scene) for label in scene.card.labels)


def _said(label: Label, whole: Finding | None, scene: Scene) -> Said:
    lesions = tuple((n, one) for n, one in enumerate(scene.findings.lesions, start=1) if one.label == label.key)
    placed = {plane.sop_instance_uid for _, one in lesions for plane in one.region.planes}
    of_label = [one for one in scene.findings.findings if one.label == label.key]
    return Said(
        label=label,
        lesions=lesions,
        whole=whole,
        sides=tuple(one for one in of_label if one.sop_instance_uid is None and one.laterality is not None),
        pictures=tuple(
            one for one in of_label if one.sop_instance_uid and is_present(one) and one.sop_instance_uid not in placed
        ),
    )


def description_of(said: Said, scene: Scene) -> list[str]:
    """The lines of one label."""
    lines: list[str] = []
    if said.lesions:
        lines += _marked(said, scene)
    elif said.label.category is not None:
        lines += _category_line(said, scene)
    elif said.is_present_in_study or said.pictures:
        lines += _unplaced(said, scene)
    elif said.is_undetermined:
        lines.append(scene.phrases.undetermined.format(label=scene.title(said.label)))
    else:
        lines.append(not_found(said, scene, concluding=False))
    lines += [_side_line(one, said.label, scene) for one in said.sides]
    wording = said.label.wording
    if said.is_reported and wording and wording.description:
        lines.append(plain(wording.description.in_language(scene.language)))
    return lines


def sides_of(said: Said) -> tuple[str, ...]:
    """R and L of a label's lesions; empty where one has no side."""
    sides = {RIGHT: "R", LEFT: "L"}
    return tuple(sides.get(one.laterality.value, "") if one.laterality else "" for _, one in said.lesions)


def marked_words(said: Said, scene: Scene) -> dict[str, str]:
    """What fills in a sentence about a number of lesions."""
    count = len(said.lesions)
    return {
        "verb": scene.agreeing(scene.phrases.marked, said.label, count),
        "counted": scene.counted(said.label, count),
        "site": scene.within(said.label, sides_of(said)),
    }


def _marked(said: Said, scene: Scene) -> Iterator[str]:
    phrases = scene.phrases
    threshold = phrases.at_threshold.format(percent=percentage(said.lesions[0][1].threshold))
    yield phrases.found.format(**marked_words(said, scene), threshold=threshold)
    for number, lesion in said.lesions:
        details = [*place_text(lesion, scene), *sizes_text(lesion, scene), score_text(lesion, scene)]
        yield phrases.lesion.format(number=number, details=sentence("; ".join(details)))
    if said.whole is not None:
        known = score_of_absent(said.whole, scene)
        template = phrases.in_study if said.is_present_in_study else phrases.in_study_below
        yield template.format(label=scene.title(said.label), score=known)
    yield from _on_images(said, scene)


def _unplaced(said: Said, scene: Scene) -> Iterator[str]:
    label = scene.title(said.label)
    if said.whole is not None and said.is_present_in_study:
        yield scene.phrases.unplaced.format(label=label, score=score_text(said.whole, scene))
    yield from _on_images(said, scene)


def _on_images(said: Said, scene: Scene) -> Iterator[str]:
    """Single pictures that are suspicious; where there is but one, the study's line has said it."""
    for one in said.pictures if len(scene.findings.images) > 1 and not scene.is_sliced else ():
        assert one.sop_instance_uid is not None
        image = ", ".join(image_name(one.sop_instance_uid, scene))
        yield scene.phrases.on_image.format(label=scene.title(said.label), image=image, score=score_text(one, scene))


def not_found(said: Said, scene: Scene, *, concluding: bool) -> str:
    """That nothing of the label was found, on the sides that were looked at."""
    phrases = scene.phrases
    noun = scene.noun(said.label)
    scored = phrases.scored.format(score=score_of_absent(said.whole, scene)) if said.whole else ""
    if noun is None:
        template = phrases.concluded_not_found_plain if concluding else phrases.not_found_plain
        return template.format(label=scene.title(said.label), scored=scored)
    template = phrases.concluded_not_found if concluding else phrases.not_found
    return template.format(counted=noun.many, site=scene.within(said.label, scene.sides()), scored=scored)


def _side_line(said: Finding, label: Label, scene: Scene) -> str:
    phrases = scene.phrases
    by_presence = {
        Presence.PRESENT: phrases.side_present,
        Presence.ABSENT: phrases.side_absent,
        Presence.UNDETERMINED: phrases.side_undetermined,
    }
    return by_presence[said.presence].format(
        side=side_name(said.laterality, said.site, scene),
        label=scene.title(label),
        score=score_of_absent(said, scene),
    )


def _category_line(said: Said, scene: Scene) -> Iterator[str]:
    """Of a label that is a category: nothing unless it is the one that applies, which `category_text` decides."""
    if said.is_undetermined:
        yield scene.phrases.undetermined.format(label=scene.title(said.label))


def categories(every: tuple[Said, ...], scene: Scene) -> list[str]:
    """The category of each system that the card supports and has labels for: the present one with the highest score."""
    lines = []
    for system in scene.card.supported_categories:
        present = [
            (one.whole, one.label.category)
            for one in every
            if one.label.category is not None and one.label.category.system is system and one.is_present_in_study
        ]
        if not any(one.label.category is not None and one.label.category.system is system for one in every):
            continue
        strongest = max(present, key=lambda pair: pair[0].score if pair[0] else 0.0, default=None)
        if strongest is None or strongest[0] is None or strongest[1] is None:
            lines.append(scene.phrases.category_none.format(system=system))
            continue
        score = score_text(strongest[0], scene)
        lines.append(scene.phrases.category.format(system=system, value=strongest[1].value, score=score))
    return lines


def about_sizes(scene: Scene) -> str:
    """Why there are no sizes, or how they were measured; nothing where nothing is marked."""
    lesions = scene.findings.lesions
    if not lesions:
        return ""
    if any(sizes_text(lesion, scene) for lesion in lesions):
        return "" if scene.is_sliced else scene.phrases.size_on_film
    is_unknown = Flag.SPACING_UNKNOWN in scene.findings.flags
    return scene.phrases.size_unknown if is_unknown else scene.phrases.size_not_given


def about_repetition(every: tuple[Said, ...], scene: Scene) -> str:
    """That marks of one label on several pictures may be the same lesion."""
    repeated = any(len({one.region.key_plane.sop_instance_uid for _, one in said.lesions}) > 1 for said in every)
    return scene.phrases.repeated if repeated and not scene.is_sliced else ""


def about_slices(scene: Scene) -> str:
    """How slices are numbered, where a slice was named."""
    return scene.phrases.numbering if scene.is_sliced and scene.findings.lesions else ""

"""Where a lesion is, as far as it can be truthfully said: side, view, part of the film, slice, lobe; and its size.

Called by `statements`. Parts of a film are thirds of its height, not zones of the lung. The patient's side is said
where the header gives it, else the side of the picture is, and that the patient's is unknown.
"""

from __future__ import annotations

from typing import Final

from dicom_node.wording.grammar import decimal, millimetres
from dicom_node.wording.phrases import Kind, site_words
from dicom_node.wording.scene import BREAST, Scene, side_name, with_space
from dicom_node.wording.values import ShownImage
from inference.findings import AnalysedImage, Lesion, SopUid

LONG_AXIS, SHORT_AXIS, VOLUME = "103339001", "103340004", "118565006"
_MIDDLE: Final = (0.45, 0.55)  # of the width: too near to the middle to name a side
_THIRDS: Final = (1 / 3, 2 / 3)
_LATERAL_VIEWS: Final = frozenset({"LL", "RL", "LAT"})


def place_text(lesion: Lesion, scene: Scene) -> list[str]:
    """The parts of the place, from the patient to the picture."""
    image = _analysed(lesion.region.key_plane.sop_instance_uid, scene)
    if scene.is_sliced:
        return [*_anatomy(lesion, scene), *_slices(lesion, scene)]
    shown = scene.image(image.sop_instance_uid)
    if lesion.site.value == BREAST:
        side = side_name(lesion.laterality, lesion.site, scene)
        return [side, *image_name(image.sop_instance_uid, scene), *_frame(lesion, scene)]
    return [
        *_anatomy(lesion, scene),
        *_part_of_film(lesion, image, shown, scene),
        *image_name(image.sop_instance_uid, scene),
        *_frame(lesion, scene),
    ]


def image_name(uid: SopUid, scene: Scene) -> list[str]:
    """Which of several images, and its view; nothing where there is one image and no view."""
    uids = [image.sop_instance_uid for image in scene.findings.images]
    parts = []
    view = scene.image(uid).view
    if view and (len(uids) > 1 or scene.kind is Kind.MAMMOGRAPHY):
        parts.append(scene.phrases.projection.format(view=view_name(view, scene)))
    if len(uids) > 1:
        parts.append(scene.phrases.picture.format(number=uids.index(uid) + 1, total=len(uids)))
    return parts


def view_name(view: str, scene: Scene) -> str:
    """A view in words; one that has no words keeps its code."""
    return scene.phrases.view_names.get(view, view)


def sizes_text(lesion: Lesion, scene: Scene) -> list[str]:
    """Both axes, and the volume where there is one; nothing that is not in millimetres."""
    values = {
        one.quantity.value: one.value
        for one in lesion.measurements
        if one.unit.value in ("mm", "mm3") and one.value > 0
    }
    phrases, language = scene.phrases, scene.language
    parts = []
    if LONG_AXIS in values:
        axes = sorted((values[axis] for axis in (LONG_AXIS, SHORT_AXIS) if axis in values), reverse=True)
        size = millimetres(axes, language)
        parts.append(phrases.size.format(size=with_space(f"{size} {phrases.mm}")))
    if VOLUME in values:
        volume = decimal(values[VOLUME], 0, language) if values[VOLUME] >= 1 else decimal(values[VOLUME], 1, language)
        parts.append(phrases.volume.format(volume=with_space(f"{volume} {phrases.mm3}")))
    return parts


def _analysed(uid: SopUid, scene: Scene) -> AnalysedImage:
    found = next((image for image in scene.findings.images if image.sop_instance_uid == uid), None)
    if found is None:
        raise ValueError("a lesion lies on an image that was not analysed")
    return found


def _anatomy(lesion: Lesion, scene: Scene) -> list[str]:
    """Site with its side, where the finding names more than the model's own field of view."""
    label = scene.card.label(lesion.label)
    if lesion.laterality is not None:
        return [side_name(lesion.laterality, lesion.site, scene)]
    words = site_words(lesion.site, scene.language)
    return [words.name] if words and lesion.site.value != label.site.value else []


def _frame(lesion: Lesion, scene: Scene) -> list[str]:
    frame = lesion.region.key_plane.frame_number
    return [] if frame is None else [scene.phrases.frame.format(number=frame)]


def _slices(lesion: Lesion, scene: Scene) -> list[str]:
    uids = [image.sop_instance_uid for image in scene.findings.images]
    phrases, parts = scene.phrases, []
    places = sorted(uids.index(plane.sop_instance_uid) + 1 for plane in lesion.region.planes)
    key = uids.index(lesion.region.key_plane.sop_instance_uid) + 1
    if len(uids) > 1 and places[0] != places[-1]:
        parts.append(phrases.slices.format(first=places[0], last=places[-1], number=key, total=len(uids)))
    elif len(uids) > 1:
        parts.append(phrases.slice.format(number=key, total=len(uids)))
    parts += _frame(lesion, scene)
    low, high = lesion.region.lps_min_mm, lesion.region.lps_max_mm
    if low is not None and high is not None:
        z = decimal((low[2] + high[2]) / 2, 0, scene.language)
        parts.append(with_space(phrases.position.format(z=z)))
    return parts


def _part_of_film(lesion: Lesion, image: AnalysedImage, shown: ShownImage, scene: Scene) -> list[str]:
    x, y = lesion.region.key_plane.box.center
    across, down = x / image.columns, y / image.rows
    height = _towards(shown, "F", across, down)
    parts = []
    if shown.view not in _LATERAL_VIEWS and lesion.laterality is None:
        parts.append(_side_of_film(shown, across, down, scene))
    if height is None and not (shown.row_direction or shown.column_direction):
        height = down  # nothing is said of how it hangs: the parts are those of the picture as it is
    if height is not None:
        names = (scene.phrases.upper, scene.phrases.center, scene.phrases.lower)
        parts.append(names[sum(height >= limit for limit in _THIRDS)])
    return parts


def _side_of_film(shown: ShownImage, across: float, down: float, scene: Scene) -> str:
    phrases = scene.phrases
    leftwards = _towards(shown, "L", across, down)
    known = leftwards is not None
    share = across if leftwards is None else leftwards
    if _MIDDLE[0] <= share <= _MIDDLE[1]:
        return phrases.middle
    if known:
        return phrases.patient_left if share > _MIDDLE[1] else phrases.patient_right
    return phrases.picture_right if share > _MIDDLE[1] else phrases.picture_left


_OPPOSITE: Final = {"L": "R", "R": "L", "F": "H", "H": "F"}


def _towards(shown: ShownImage, direction: str, across: float, down: float) -> float | None:
    """How far a point lies towards a side of the patient, 0 to 1; None where the header does not tell."""
    for axis, share in ((shown.row_direction, across), (shown.column_direction, down)):
        if axis[:1] == direction:
            return share
        if axis[:1] == _OPPOSITE[direction]:
            return 1 - share
    return None

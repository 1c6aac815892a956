"""The marked picture: the image as a radiologist sees it, lesions outlined and named, everything burned in.

The only form of a result that every viewer shows. Called by `sc`, which makes a DICOM object of it. Words stand in
bands above and below the picture, so that no anatomy is covered except by the outlines and their tags.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from dicom_node.results import drawing, texts
from dicom_node.results.drawing import AMBER, BLACK, MUTED, TEXT, Band, Line
from dicom_node.results.request import EncodeRequest
from inference.findings import Finding, Findings, Lesion, Measurement, PlanarRegion, Presence
from models.card import ModelCard

_LONG_SIDE_PER_LETTER: Final = 62  # letters' size as a part of the longer side
_WIDTH_PER_LETTER: Final = 34  # narrow pictures: at least so many letter sizes fit into the width
_SMALLEST_LETTER_PX: Final = 12
_VOLUME: Final = "118565006"  # SCT
_DIAMETERS: Final = frozenset({"103339001", "103340004"})  # SCT long axis, short axis

Rectangle = tuple[float, float, float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Mark:
    """A lesion on the picture to be drawn: its number in the study's list and its place on this picture."""

    number: int
    lesion: Lesion
    plane: PlanarRegion


def marked_picture(
    grey: NDArray[np.float32],
    marks: tuple[Mark, ...],
    request: EncodeRequest,
    findings: Findings,
    statements: tuple[Finding, ...],
) -> NDArray[np.uint8]:
    """Draw `marks` over the displayed picture.

    Parameters
    ----------
    grey : float32 (rows, columns)
        0 black to 1 white, as displayed, in the pixel matrix of the source.
    marks : tuple of Mark
        In source pixels.
    request : EncodeRequest
    findings : Findings
    statements : tuple of Finding
        What is present on this image without a place.

    Returns
    -------
    uint8 (rows, columns, 3)
        At the source's resolution, or scaled down to the profile's longest side; the bands come on top of that.
    """
    picture, scale = _scaled(grey, request.profile.overlay_max_side_px)
    letter = letter_size(picture.width, picture.height)
    draw_marks(picture, marks, request, scale=scale, letter=letter)
    header = _header(picture.width, letter, marks, request, statements)
    footer = _footer(picture.width, letter, request, findings, scale)
    return np.asarray(drawing.stack([header.render(), picture, footer.render()]))


def letter_size(width: int, height: int) -> int:
    """Letter size in pixels for a picture of this size."""
    by_side = max(width, height) / _LONG_SIDE_PER_LETTER
    return max(_SMALLEST_LETTER_PX, round(min(by_side, width / _WIDTH_PER_LETTER)))


def _scaled(grey: NDArray[np.float32], longest_px: int) -> tuple[Image.Image, float]:
    levels = np.rint(np.clip(grey, 0, 1) * 255).astype(np.uint8)
    picture = Image.fromarray(levels)
    scale = min(1.0, longest_px / max(picture.size))
    if scale < 1:
        size = (round(picture.width * scale), round(picture.height * scale))
        picture = picture.resize(size, Image.Resampling.BOX, reducing_gap=2)
    return picture.convert("RGB"), scale


def draw_marks(
    picture: Image.Image, marks: tuple[Mark, ...], request: EncodeRequest, *, scale: float, letter: int
) -> None:
    """Draw outlines and tags of `marks` (in source pixels) on a picture of `scale` times the source's size."""
    draw = ImageDraw.Draw(picture)
    line = max(2, round(letter / 7))
    for mark in marks:
        _draw_outline(draw, mark, scale, line)
    taken = [_scaled_box(mark.plane, scale) for mark in marks]
    for mark, box in zip(marks, list(taken), strict=True):
        taken.append(_draw_tag(draw, picture.size, mark, box, taken, request, letter))


def _draw_outline(draw: ImageDraw.ImageDraw, mark: Mark, scale: float, line: int) -> None:
    """A coloured line with a dark rim, so that it shows on white bone and on black air alike."""
    points = [(x * scale, y * scale) for x, y in mark.plane.polygon]
    points += points[:2]  # the second point again, for a clean joint at the first
    draw.line(points, fill=BLACK, width=line + max(2, line), joint="curve")
    draw.line(points, fill=drawing.mark_colour(mark.number), width=line, joint="curve")


def _scaled_box(plane: PlanarRegion, scale: float) -> Rectangle:
    box = plane.box
    return box.x_min * scale, box.y_min * scale, box.x_max * scale, box.y_max * scale


def _draw_tag(
    draw: ImageDraw.ImageDraw,
    size: tuple[int, int],
    mark: Mark,
    box: Rectangle,
    taken: list[Rectangle],
    request: EncodeRequest,
    letter: int,
) -> Rectangle:
    """Number, name and probability beside the outline, where they cover neither a lesion nor another tag."""
    typeface = drawing.font(letter, bold=True)
    pad = letter * 0.35
    text = f"{mark.number}  {finding_name(mark.lesion, request)}  {texts.percent(mark.lesion.score)}"
    if typeface.getlength(text) > size[0] / 2:
        text = f"{mark.number}  {texts.percent(mark.lesion.score)}"
    width, height = typeface.getlength(text) + 2 * pad, letter * 1.5
    place = _free_place(box, (width, height), size, taken, gap=letter * 0.4)
    draw.rounded_rectangle(place, radius=letter * 0.25, fill=BLACK, outline=drawing.mark_colour(mark.number), width=1)
    middle = (place[1] + place[3]) / 2
    draw.text((place[0] + pad, middle), text, font=typeface, fill=drawing.mark_colour(mark.number), anchor="lm")
    return place


def _free_place(
    box: Rectangle, tag: tuple[float, float], size: tuple[int, int], taken: list[Rectangle], *, gap: float
) -> Rectangle:
    left, top, right, bottom = box
    width, height = tag
    corners = (
        (left, top - gap - height),
        (left, bottom + gap),
        (right - width, top - gap - height),
        (right - width, bottom + gap),
        (right + gap, top),
        (left - gap - width, top),
        (right + gap, bottom - height),
        (left - gap - width, bottom - height),
        (left + gap, top + gap),
    )
    places = [_inside(corner, tag, size) for corner in corners]
    return min(places, key=lambda place: sum(_overlap(place, other) for other in taken))


def _inside(corner: tuple[float, float], tag: tuple[float, float], size: tuple[int, int]) -> Rectangle:
    x = min(max(corner[0], 2), max(2, size[0] - tag[0] - 2))
    y = min(max(corner[1], 2), max(2, size[1] - tag[1] - 2))
    return x, y, x + tag[0], y + tag[1]


def _overlap(one: Rectangle, other: Rectangle) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, width) * max(0.0, height)


def _header(
    width: int, letter: int, marks: tuple[Mark, ...], request: EncodeRequest, statements: tuple[Finding, ...]
) -> Band:
    language = request.profile.language
    band = Band(width_px=width, padding_px=letter)
    band.lines.append(Line(text=texts.warning(request.card, language), size_px=letter, bold=True, colour=AMBER))
    title = request.card.identity.title.in_language(language) if request.card else ""
    heading = f"{texts.ANALYSIS.in_language(language)}: {title}"
    band.lines.append(Line(text=heading, size_px=round(letter * 1.15), bold=True, colour=TEXT))
    for mark in marks:
        band.lines.append(Line(text=lesion_line(mark, request), size_px=letter, number=mark.number))
    band.lines += [Line(text=statement_line(finding, request), size_px=letter) for finding in statements]
    return band


def lesion_line(mark: Mark, request: EncodeRequest, *, is_key: bool = True) -> str:
    """What is known of a marked lesion, on one line; of several slices `is_key` names this one as the key slice."""
    language = request.profile.language
    lesion = mark.lesion
    parts = [finding_name(lesion, request), texts.percent(lesion.score), _site_name(lesion, language)]
    size = size_text(lesion.measurements, language)
    if size:
        parts.append(size)
    if is_key and len(lesion.region.planes) > 1:
        parts.append(texts.SLICE.in_language(language))
    return " · ".join(parts)


def _site_name(lesion: Lesion, language: str) -> str:
    site = texts.code_name(lesion.site, language)
    return f"{site}, {texts.code_name(lesion.laterality, language)}" if lesion.laterality else site


def finding_name(lesion: Lesion | Finding, request: EncodeRequest) -> str:
    """What the model's card calls the finding in the profile's language."""
    assert request.card is not None
    return request.card.label(lesion.label).title.in_language(request.profile.language)


def size_text(measurements: tuple[Measurement, ...], language: str) -> str:
    """Sizes as people read them: two axes as ``34 × 28 mm``, with a volume after them, anything else with its name."""
    axes = [measurement for measurement in measurements if measurement.quantity.value in _DIAMETERS]
    if len(axes) == len(_DIAMETERS):
        numbers = " × ".join(f"{axis.value:.0f}" for axis in sorted(axes, key=lambda axis: -axis.value))
        sizes = [f"{numbers} {_unit(axes[0], language)}"]
        sizes += [f"{one.value:.0f} {_unit(one, language)}" for one in measurements if one.quantity.value == _VOLUME]
        return ", ".join(size.replace(" ", "\N{NO-BREAK SPACE}") for size in sizes)
    return ", ".join(
        f"{texts.code_name(measurement.quantity, language).lower()} {measurement.value:.0f} "
        f"{_unit(measurement, language)}"
        for measurement in measurements
    )


def _unit(measurement: Measurement, language: str) -> str:
    known = {"mm": texts.MILLIMETRES, "mm3": texts.CUBIC_MILLIMETRES, "{pixels}": texts.PIXELS, "pixels": texts.PIXELS}
    text = known.get(measurement.unit.value)
    return text.in_language(language) if text else measurement.unit.value


def statement_line(finding: Finding, request: EncodeRequest) -> str:
    """What is present without a place, on one line."""
    words = texts.PRESENT_IN_STUDY if finding.sop_instance_uid is None else texts.PRESENT_WITHOUT_PLACE
    return words.in_language(request.profile.language).format(
        finding=finding_name(finding, request), percent=texts.percent(finding.score)
    )


def _footer(width: int, letter: int, request: EncodeRequest, findings: Findings, scale: float) -> Band:
    language = request.profile.language
    small = max(_SMALLEST_LETTER_PX - 1, round(letter * 0.82))
    band = Band(width_px=width, padding_px=letter)
    band.lines.append(Line(text=texts.warning_sentence(request.card, language), size_px=small, colour=AMBER))
    cautions = caution_text(findings, language)
    if cautions:
        band.lines.append(Line(text=cautions, size_px=small, colour=TEXT))
    facts = [model_text(request.card, language), thresholds_text(request.card, language)]
    if scale < 1:
        facts.append(texts.SCALED.in_language(language).format(percent=texts.percent(scale)))
    band.lines.append(Line(text=" · ".join(facts), size_px=small, colour=MUTED))
    return band


def model_text(card: ModelCard | None, language: str) -> str:
    """Name and version of the model."""
    name = f"{card.identity.name} {card.identity.version}" if card else texts.NO_MODEL.in_language(language)
    return f"{texts.MODEL.in_language(language)}: {name}"


def thresholds_text(card: ModelCard | None, language: str) -> str:
    """The threshold of each label."""
    word = texts.THRESHOLD.in_language(language).lower()
    if card is None:
        return ""
    return ", ".join(
        f"{word} {texts.percent(label.operating_point.threshold)}"
        + (f" ({label.title.in_language(language).lower()})" if len(card.labels) > 1 else "")
        for label in card.labels
    )


def caution_text(findings: Findings, language: str) -> str:
    """All cautions in one sentence, empty when there is none."""
    if not findings.flags:
        return ""
    flags = ", ".join(texts.FLAGS[flag].in_language(language) for flag in findings.flags)
    return f"{texts.CAUTION.in_language(language)}: {flags}"


def present_statements(findings: Findings, sop_instance_uid: str) -> tuple[Finding, ...]:
    """What is present on this image, or in the study as a whole, though no lesion of the same label was placed.

    What is said of one breast is left out: it repeats the study's statement or that of the breast's own images.
    """
    placed = {(lesion.label, plane.sop_instance_uid) for lesion in findings.lesions for plane in lesion.region.planes}
    anywhere = {label for label, _ in placed}
    return tuple(
        finding
        for finding in findings.findings
        if finding.presence is Presence.PRESENT
        and (
            (finding.sop_instance_uid is None and finding.laterality is None and finding.label not in anywhere)
            or (finding.sop_instance_uid == sop_instance_uid and (finding.label, sop_instance_uid) not in placed)
        )
    )

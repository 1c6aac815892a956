"""The one series of pictures: what was looked at, marked, in the resolution of the source, with burned-in words.

Called by `results.result_set`. Which pictures are shown is decided here; outlines are drawn by `results.overlay`, and
the object around a picture is `results.sc`'s. Words stand in bands outside the picture unless the form says otherwise:
a header over the apices of the lungs would hide what the reader has to see.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom import Dataset

from dicom_node.results import drawing, texts
from dicom_node.results.drawing import AMBER, MUTED, TEXT, Band, Line
from dicom_node.results.evidence import sop_item
from dicom_node.results.header import SourceHeader, read_source_header
from dicom_node.results.moscow.form import Placement, Slices
from dicom_node.results.moscow.words import Words
from dicom_node.results.overlay import (
    Mark,
    draw_marks,
    lesion_line,
    letter_size,
    present_statements,
    statement_line,
)
from dicom_node.results.page import sought_lines
from dicom_node.results.picture import displayed_picture
from dicom_node.results.provenance import code_item
from dicom_node.results.request import Role
from dicom_node.results.sc import SOURCE_IMAGE, inherit_image, is_named, marks_on, secondary_capture
from dicom_node.results.uids import ResultKey
from dicom_node.wording.shown import shown_in_header
from inference.findings import AnalysedImage, Findings, Presence, SopUid

_SLICED: Final = frozenset({"CT", "MR", "PT"})
_DIMMED: Final = 0.3  # of its brightness is left of what lies under words
_MOST_COVERED: Final = 0.5  # of a picture's height; more words than that stand outside whatever the form says
_SMALL: Final = 0.85
_SMALLEST_PX: Final = 12


@dataclass(frozen=True, kw_only=True, slots=True)
class Shown:
    """One image, or one frame (1-based) of it, that is in the series."""

    image: AnalysedImage
    frame_number: int | None
    header: SourceHeader
    marks: tuple[Mark, ...] = ()


def shown_images(words: Words) -> tuple[Shown, ...]:
    """What the series consists of, in the order of the study's images.

    Every analysed projection, marked or not: the reader sees what was looked at. Of a volume or a multi-frame image
    the slices that the form asks for.
    """
    findings, header = words.findings, words.header
    if header.text("Modality") in _SLICED and _frames(header) is None:
        every = [Shown(image=image, frame_number=None, header=header) for image in findings.images]
        return tuple(_with_own_header(one, words) for one in _of_stack(every, words))
    chosen: list[Shown] = []
    for image in findings.images:
        own = _header_of(image, words)
        count = _frames(own)
        frames = [None] if count is None else list(range(1, count + 1))
        every = [Shown(image=image, frame_number=frame, header=own) for frame in frames]
        chosen += _of_stack(every, words)
    return tuple(chosen)


def pictures(words: Words, chosen: Sequence[Shown], key: ResultKey) -> Iterator[Dataset]:
    """The pictures as Secondary Captures without patient, study and equipment, one after the other.

    Raises
    ------
    inference.refusals.Refused
        When a picture cannot be decoded.
    """
    tops = _headers(words, chosen)
    body_parts = {shown.header.text("BodyPartExamined") for shown in chosen}
    for ordinal, (shown, top) in enumerate(zip(chosen, tops, strict=True)):
        grey = displayed_picture(words.request.sources[shown.image.sop_instance_uid], shown.frame_number)
        capture = secondary_capture(_drawn(grey, shown, top, words), key, Role.OVERLAY, ordinal)
        source = sop_item(shown.image.sop_class_uid, shown.image.sop_instance_uid, shown.frame_number)
        source.PurposeOfReferenceCodeSequence = [code_item(SOURCE_IMAGE)]
        capture.SourceImageSequence = [source]
        inherit_image(capture, shown.header)
        _settle_series(capture, shown, has_one_body_part=len(body_parts) == 1)
        capture.BurnedInAnnotation = "YES"  # service and time of the report; a person has to look before it is shared
        yield capture


def _settle_series(capture: Dataset, shown: Shown, *, has_one_body_part: bool) -> None:
    """Sides differ within the one series, so they are told of each image and not of the series (PS3.3 C.7.3.1)."""
    if not has_one_body_part and "BodyPartExamined" in capture:
        del capture.BodyPartExamined
    if capture.get("Laterality"):
        capture.ImageLaterality = capture.Laterality
        del capture.Laterality
    image = shown_in_header(shown.header.dataset)
    if image.row_direction and image.column_direction:
        capture.PatientOrientation = [image.row_direction, image.column_direction]


def _frames(header: SourceHeader) -> int | None:
    """How many frames a multi-frame image has; None for a single picture."""
    count = int(header.dataset.get("NumberOfFrames") or 1)
    return count if count > 1 else None


def _header_of(image: AnalysedImage, words: Words) -> SourceHeader:
    first = words.findings.images[0].sop_instance_uid
    if image.sop_instance_uid == first:
        return words.header
    return read_source_header(words.request.sources[image.sop_instance_uid])


def _with_own_header(shown: Shown, words: Words) -> Shown:
    return replace(shown, header=_header_of(shown.image, words))


def _of_stack(every: Sequence[Shown], words: Words) -> list[Shown]:
    """The pictures of a stack that are in the series; a stack of one is in it always."""
    findings = words.findings
    marked = [_with_marks(shown, findings) for shown in every]
    if words.form.picture.slices is Slices.ALL or len(every) == 1:
        return marked
    wanted = [shown for shown in marked if shown.marks or _is_named(shown, findings)]
    return wanted or [marked[len(marked) // 2]]


def _is_named(shown: Shown, findings: Findings) -> bool:
    """Whether something is said of this one slice; what is said of a multi-frame image is said of no frame of it."""
    return shown.frame_number is None and is_named(findings, shown.image.sop_instance_uid)


def _with_marks(shown: Shown, findings: Findings) -> Shown:
    """A lesion of a single picture may name its frame or not: no frame and the first frame are the same."""
    frames = (None, 1) if shown.frame_number in (None, 1) else (shown.frame_number,)
    marks = [mark for frame in frames for mark in marks_on(findings, shown.image.sop_instance_uid, frame)]
    return replace(shown, marks=tuple(sorted(marks, key=lambda mark: mark.number)))


def _headers(words: Words, chosen: Sequence[Shown]) -> list[Image.Image]:
    """The upper bands; equally wide pictures get equally high ones, so that a stack does not jump."""
    bands = [_header(shown, words).render() for shown in chosen]
    highest: dict[int, int] = {}
    for band in bands:
        highest[band.width] = max(band.height, highest.get(band.width, 0))
    return [_filled(band, highest[band.width]) for band in bands]


def _filled(band: Image.Image, height: int) -> Image.Image:
    filled = Image.new("RGB", (band.width, height), drawing.BAND)
    filled.paste(band, (0, 0))
    return filled


def _letter(shown: Shown) -> int:
    return letter_size(shown.image.columns, shown.image.rows)


def _small(letter: int) -> int:
    return max(_SMALLEST_PX, round(letter * _SMALL))


def _header(shown: Shown, words: Words) -> Band:
    """The state of the study, then what is marked on this picture, or what was looked for without success."""
    request, findings, letter = words.request, words.findings, _letter(shown)
    small = _small(letter)
    band = Band(width_px=shown.image.columns, padding_px=letter)
    place = shown_in_header(shown.header.dataset)
    name = " ".join(filter(None, (place.laterality, place.view)))
    heading = " · ".join(filter(None, (name, _state(shown, words))))
    band.lines.append(Line(text=heading, size_px=round(letter * 1.15), bold=True, colour=TEXT))
    for mark in shown.marks:
        told = lesion_line(mark, request, is_key=mark.plane == mark.lesion.region.key_plane)
        band.lines.append(Line(text=told, size_px=letter, number=mark.number))
    if findings.is_positive:
        stated = present_statements(findings, shown.image.sop_instance_uid)
        band.lines += [Line(text=statement_line(one, request), size_px=letter) for one in stated]
    else:
        sought = "; ".join(sought_lines(request, findings))
        excluded = words.say(texts.NOTHING_EXCLUDED)
        band.lines.append(Line(text=f"{words.say(texts.SOUGHT)}: {sought}. {excluded}", size_px=small, colour=MUTED))
    band.lines += [Line(text=remark, size_px=small, colour=AMBER) for remark in words.remarks]
    return band


def _state(shown: Shown, words: Words) -> str:
    findings, form = words.findings, words.form.picture
    if findings.lesions:
        return words.say(form.positive).format(count=len(findings.lesions), here=len(shown.marks))
    if findings.is_positive:
        return words.say(form.unplaced)
    is_open = any(one.presence is Presence.UNDETERMINED for one in findings.findings)
    return words.say(form.undetermined if is_open else form.normal)


def _footer(shown: Shown, words: Words) -> Image.Image:
    """Warnings, service, version and time: part of the pixels, with no setting that leaves them out."""
    small = _small(_letter(shown))
    band = Band(width_px=shown.image.columns, padding_px=_letter(shown))
    band.lines += [Line(text=one, size_px=small, bold=True, colour=AMBER) for one in (words.origin, words.purpose)]
    facts = words.say(words.form.picture.footer).format(
        service=words.service, version=words.card.identity.version, time=words.time
    )
    band.lines.append(Line(text=facts, size_px=small, colour=TEXT))
    return band.render()


def _drawn(grey: NDArray[np.float32], shown: Shown, top: Image.Image, words: Words) -> NDArray[np.uint8]:
    """The picture with everything on it, uint8 (rows, columns, 3)."""
    levels = np.rint(np.clip(grey, 0, 1) * 255).astype(np.uint8)
    picture = Image.fromarray(levels).convert("RGB")
    draw_marks(picture, shown.marks, words.request, scale=1.0, letter=_letter(shown))
    bottom = _footer(shown, words)
    is_small = top.height + bottom.height > picture.height * _MOST_COVERED
    if words.form.picture.placement is Placement.OUTSIDE or is_small:
        return np.asarray(drawing.stack([top, picture, bottom]))
    _write_over(picture, top, upper=0)
    _write_over(picture, bottom, upper=picture.height - bottom.height)
    return np.asarray(picture)


def _write_over(picture: Image.Image, band: Image.Image, *, upper: int) -> None:
    """The letters of a band on the darkened picture."""
    under = np.asarray(picture.crop((0, upper, band.width, upper + band.height)), dtype=np.float64)
    ground = Image.fromarray(np.rint(under * _DIMMED).astype(np.uint8))
    letters = np.any(np.asarray(band) != drawing.BAND, axis=2)
    ground.paste(band, mask=Image.fromarray(np.where(letters, np.uint8(255), np.uint8(0))))
    picture.paste(ground, (0, upper))


def headers_of(chosen: Sequence[Shown]) -> Mapping[SopUid, SourceHeader]:
    """Headers of the images shown."""
    return {shown.image.sop_instance_uid: shown.header for shown in chosen}

"""The status page: a picture of words where there is no lesion to mark, so that silence is never taken for a result.

Two kinds: nothing was found (what was sought, by which model, and that this excludes nothing) and not analysed (the
reason). Called by `sc`.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from dicom_node.results import drawing, texts
from dicom_node.results.drawing import AMBER, BLUE, MUTED, TEXT, Rgb
from dicom_node.results.overlay import caution_text
from dicom_node.results.request import EncodeRequest
from inference.findings import Findings
from inference.refusals import TEXTS, Refusal

_WIDTH: Final = 1024
_HEIGHT: Final = 768  # at least; a page grows when there is more to say, for no sentence of it may be lost
_TALLEST: Final = 4096
_FOOTER: Final = 112
_MOST_ROWS: Final = 30  # of one paragraph
_MARGIN: Final = 64
_COLUMN: Final = 250  # width of the left column with the names of facts
_SMALL: Final = 19
_NORMAL: Final = 23
_HEADING: Final = 46
_LIMITS_SHOWN: Final = 3

Fact = tuple[str, str]


def negative_page(request: EncodeRequest, findings: Findings) -> NDArray[np.uint8]:
    """The page that says what was sought and not found.

    Returns
    -------
    uint8 (rows, 1024, 3)
        768 rows or, with much to say, more.
    """
    language = request.profile.language
    assert request.card is not None
    facts = [(texts.SOUGHT.in_language(language), line) for line in sought_lines(request, findings)]
    facts.append(_model_fact(request))
    facts.append((texts.IMAGES.in_language(language), str(len(findings.images))))
    cautions = caution_text(findings, language)
    if cautions:
        word, _, rest = cautions.partition(": ")
        facts.append((word, rest))
    limits = [limit.in_language(language) for limit in request.card.limits[:_LIMITS_SHOWN]]
    return _page(
        request,
        heading=texts.NOTHING_FOUND.in_language(language),
        accent=BLUE,
        facts=facts,
        statement=texts.NOTHING_EXCLUDED.in_language(language),
        notes=[f"{texts.LIMITS.in_language(language)}: {' '.join(limits)}"],
    )


def refusal_page(request: EncodeRequest, refusal: Refusal) -> NDArray[np.uint8]:
    """The page that says why a study was not analysed.

    Returns
    -------
    uint8 (rows, 1024, 3)
        768 rows or, with much to say, more.
    """
    language = request.profile.language
    facts = [(texts.REASON.in_language(language), TEXTS[refusal.reason].in_language(language))]
    if refusal.detail:
        facts.append((texts.DETAIL.in_language(language), refusal.detail))
    facts.append(_model_fact(request))
    return _page(
        request,
        heading=texts.NOT_ANALYSED.in_language(language),
        accent=AMBER,
        facts=facts,
        statement=texts.NOT_ANALYSED_MEANS.in_language(language),
        notes=[request.card.intended_use.statement.in_language(language)] if request.card else [],
    )


def _model_fact(request: EncodeRequest) -> Fact:
    language = request.profile.language
    word = texts.MODEL.in_language(language)
    if request.card is None:
        return word, texts.NO_MODEL.in_language(language)
    identity = request.card.identity
    return word, f"{identity.title.in_language(language)} ({identity.name} {identity.version})"


def sought_lines(request: EncodeRequest, findings: Findings) -> list[str]:
    """One line per label: what was looked for, the threshold, and how near the study came to it."""
    language = request.profile.language
    assert request.card is not None
    lines = []
    for label in request.card.labels:
        parts = [
            label.title.in_language(language),
            f"{texts.THRESHOLD.in_language(language).lower()} {texts.percent(label.operating_point.threshold)}",
        ]
        scores = [finding.score for finding in findings.findings if finding.label == label.key]
        if scores:
            parts.append(texts.HIGHEST.in_language(language).format(percent=texts.percent(max(scores))))
        lines.append(" · ".join(parts))
    return lines


def _page(
    request: EncodeRequest, *, heading: str, accent: Rgb, facts: list[Fact], statement: str, notes: list[str]
) -> NDArray[np.uint8]:
    language = request.profile.language
    sheet = Image.new("RGB", (_WIDTH, _TALLEST), drawing.BAND)
    draw = ImageDraw.Draw(sheet)
    draw.rectangle((0, 0, _WIDTH, 10), fill=accent)
    draw.text((_MARGIN, 48), texts.warning(request.card, language), font=drawing.font(_SMALL, bold=True), fill=AMBER)
    analysis = texts.ANALYSIS.in_language(language)
    draw.text((_WIDTH - _MARGIN, 48), analysis, font=drawing.font(_SMALL), fill=MUTED, anchor="ra")
    draw.text((_MARGIN, 98), heading, font=drawing.font(_HEADING, bold=True), fill=accent)
    top = _facts(draw, facts, top=190)
    top = _paragraph(draw, statement, top + 14, size=_NORMAL, bold=True, colour=TEXT)
    for note in notes:
        top = _paragraph(draw, note, top + 10, size=_SMALL, colour=MUTED)
    height = min(max(_HEIGHT, top + 24 + _FOOTER), _TALLEST)
    rule = height - _FOOTER
    draw.rectangle((0, rule, _WIDTH, _TALLEST), fill=drawing.BAND)
    draw.line((_MARGIN, rule, _WIDTH - _MARGIN, rule), fill=drawing.RULE, width=2)
    _paragraph(draw, texts.warning_sentence(request.card, language), rule + 18, size=_SMALL, colour=AMBER)
    return np.asarray(sheet.crop((0, 0, _WIDTH, height)))


def _facts(draw: ImageDraw.ImageDraw, facts: list[Fact], top: int) -> int:
    previous = ""
    for name, value in facts:
        if name != previous:
            draw.line((_MARGIN, top - 10, _WIDTH - _MARGIN, top - 10), fill=drawing.RULE, width=1)
            name_bottom = _paragraph(draw, name, top, size=_SMALL, colour=MUTED, right=_MARGIN + _COLUMN - 16)
        else:
            name_bottom = top
        value_bottom = _paragraph(draw, value, top, size=_NORMAL, colour=TEXT, left=_MARGIN + _COLUMN)
        top, previous = max(name_bottom, value_bottom) + 18, name
    draw.line((_MARGIN, top - 10, _WIDTH - _MARGIN, top - 10), fill=drawing.RULE, width=1)
    return top


def _paragraph(
    draw: ImageDraw.ImageDraw,
    text: str,
    top: int,
    *,
    size: int,
    colour: Rgb,
    bold: bool = False,
    left: int = _MARGIN,
    right: int = _WIDTH - _MARGIN,
) -> int:
    """Write `text` from `top` down; the height where it ended. Very long text is cut, visibly."""
    typeface = drawing.font(size, bold=bold)
    leading = round(size * 1.4)
    rows = drawing.wrap(text, typeface, right - left)
    fitting = rows[:_MOST_ROWS]
    if len(fitting) < len(rows):
        fitting[-1] = fitting[-1].rstrip(".,;: ") + " …"
    for row in fitting:
        draw.text((left, top), row, font=typeface, fill=colour)
        top += leading
    return top

"""Type and colours of everything the node draws: fonts with Cyrillic, line breaking, bands of text.

Used by `overlay` and `page`. Sizes follow the picture, so that words are as large on a 512-pixel slice as on a
mammogram once a viewer has fitted either to the screen.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Final

import matplotlib
from PIL import Image, ImageDraw, ImageFont

Rgb = tuple[int, int, int]
Font = ImageFont.FreeTypeFont

BAND: Final[Rgb] = (16, 20, 26)
RULE: Final[Rgb] = (58, 68, 80)
TEXT: Final[Rgb] = (236, 240, 244)
MUTED: Final[Rgb] = (158, 170, 182)
AMBER: Final[Rgb] = (255, 193, 61)
BLUE: Final[Rgb] = (104, 190, 255)
BLACK: Final[Rgb] = (0, 0, 0)
# Told apart from grey anatomy and from one another, also by people who confuse red and green.
MARKS: Final[tuple[Rgb, ...]] = (
    (255, 193, 61),
    (86, 206, 255),
    (255, 122, 178),
    (160, 235, 120),
    (197, 160, 255),
    (255, 148, 77),
)


@cache
def font(size_px: int, *, bold: bool = False) -> Font:
    """DejaVu Sans, which matplotlib ships: the same glyphs on every machine, Cyrillic included."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size_px)


def mark_colour(number: int) -> Rgb:
    """Colour of the `number`-th lesion, counted from 1."""
    return MARKS[(number - 1) % len(MARKS)]


def wrap(text: str, typeface: Font, width_px: float) -> list[str]:
    """`text` in lines no wider than `width_px`, broken at plain spaces, a too long word within itself."""
    lines = [""]
    for word in text.split(" "):
        candidate = f"{lines[-1]} {word}".strip(" ")
        if typeface.getlength(candidate) <= width_px:
            lines[-1] = candidate
            continue
        pieces = _pieces(word, typeface, width_px)
        lines += pieces if lines[-1] else []
        if not lines[0]:
            lines = pieces
    return lines


def _pieces(word: str, typeface: Font, width_px: float) -> list[str]:
    pieces = [""]
    for letter in word:
        if pieces[-1] and typeface.getlength(pieces[-1] + letter) > width_px:
            pieces.append("")
        pieces[-1] += letter
    return pieces


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """A paragraph of a band: words in one style, with an optional coloured number in front."""

    text: str
    size_px: int
    bold: bool = False
    colour: Rgb = TEXT
    number: int | None = None


@dataclass(kw_only=True, slots=True)
class Band:
    """Paragraphs over each other on a dark ground, as wide as the picture they belong to."""

    width_px: int
    padding_px: int
    lines: list[Line] = field(default_factory=list)

    def render(self) -> Image.Image:
        """The band as an RGB picture just as high as its words need."""
        rows = [(line, row, index == 0) for line in self.lines for index, row in enumerate(self._rows(line))]
        height = sum(_leading(line) for line, _, _ in rows) + 2 * self.padding_px
        picture = Image.new("RGB", (self.width_px, height), BAND)
        draw = ImageDraw.Draw(picture)
        top = self.padding_px
        for line, row, first in rows:
            self._draw_row(draw, line, row, top, numbered=first)
            top += _leading(line)
        return picture

    def _indent(self, line: Line) -> int:
        return 0 if line.number is None else round(line.size_px * 1.9)

    def _rows(self, line: Line) -> list[str]:
        width = self.width_px - 2 * self.padding_px - self._indent(line)
        return wrap(line.text, font(line.size_px, bold=line.bold), width)

    def _draw_row(self, draw: ImageDraw.ImageDraw, line: Line, row: str, top: int, *, numbered: bool) -> None:
        if line.number is not None and numbered:
            draw_number(draw, (self.padding_px, top), line.number, line.size_px)
        left = self.padding_px + self._indent(line)
        draw.text((left, top), row, font=font(line.size_px, bold=line.bold), fill=line.colour)


def _leading(line: Line) -> int:
    return round(line.size_px * 1.42)


def draw_number(draw: ImageDraw.ImageDraw, corner: tuple[int, int], number: int, size_px: int) -> None:
    """The number of a lesion on a chip of its colour; `corner` is the top left of the row it stands in."""
    left, top = corner
    width, height = round(size_px * 1.5), round(size_px * 1.25)
    draw.rounded_rectangle((left, top, left + width, top + height), radius=size_px // 4, fill=mark_colour(number))
    center = (left + width / 2, top + height / 2)
    draw.text(center, str(number), font=font(size_px, bold=True), fill=BLACK, anchor="mm")


def stack(pictures: list[Image.Image]) -> Image.Image:
    """Pictures of equal width under each other."""
    sheet = Image.new("RGB", (pictures[0].width, sum(picture.height for picture in pictures)), BAND)
    top = 0
    for picture in pictures:
        sheet.paste(picture, (0, top))
        top += picture.height
    return sheet

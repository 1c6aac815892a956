"""The listed pictures that a guard has to catch: read from packages and shared data, drawn, or made from real films.

The list is `out_of_range.toml`. Used by `benchmarks/guard.py` and the acceptance test of the guard's bars; never by
anything that fits a guard.
"""

from __future__ import annotations

import importlib.util
import itertools
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from inference.findings import SeriesUid, SopUid, StudyUid
from inference.images import Image, ImageHeader
from inference.loading import load_film, load_image, load_volume

LIST = Path(__file__).with_suffix(".toml")
Model = Literal["chest", "breast"]
Grey = NDArray[np.float32]
_FILMS = (".png", ".jpg", ".jpeg")
_FONT = "DejaVuSans.ttf"


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    kind: str
    note: str
    against: tuple[Model, ...]


class Picture(_Entry):
    """A file, or every n-th file of a pattern."""

    origin: Literal["package", "shared"] = Field(alias="from")
    path: str
    licence: str
    every: int = 1


class Made(_Entry):
    """A function of this module: of nothing (drawn) or of a real film (changed)."""

    name: str


class OutOfRange(BaseModel):
    """The whole list."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    picture: tuple[Picture, ...]
    drawn: tuple[Made, ...]
    changed: tuple[Made, ...]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Item:
    """One picture of the wrong kind."""

    name: str
    kind: str
    image: Image


def read_list() -> OutOfRange:
    return OutOfRange.model_validate(tomllib.loads(LIST.read_text(encoding="utf-8")))


def files(picture: Picture, shared: Path) -> list[Path]:
    """Files of an entry in the order of their paths, every n-th; empty when none is installed."""
    if picture.origin == "shared":
        root, pattern = shared, picture.path
    else:
        package, _, pattern = picture.path.partition("/")
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            return []
        root = Path(next(iter(spec.submodule_search_locations)))
    found = {path for one in _patterns(pattern) for path in root.glob(one)}
    return sorted(found)[:: picture.every]


def foreign(against: Model, shared: Path) -> Iterator[Item]:
    """Listed files and drawings that are of the wrong kind for a model of `against`.

    Raises
    ------
    FileNotFoundError
        If an entry of the list has no file.
    """
    listed = read_list()
    for picture in listed.picture:
        if against in picture.against:
            paths = files(picture, shared)
            if not paths:
                raise FileNotFoundError(picture.path)
            for path in paths:
                yield Item(name=path.name, kind=picture.kind, image=_read(path))
    for made in listed.drawn:
        if against in made.against:
            yield Item(name=made.name, kind=made.kind, image=as_image(DRAWN[made.name](shared)))


def changed(against: Model, films: Iterable[tuple[str, Image]]) -> Iterator[Item]:
    """Each film, wrongly shown in each listed way."""
    entries = [made for made in read_list().changed if against in made.against]
    for (name, film), made in itertools.product(films, entries):
        yield Item(name=f"{name} {made.name}", kind=made.kind, image=as_image(CHANGED[made.name](film.pixels)))


def as_image(pixels: Grey) -> Image:
    """A picture without a header worth the name."""
    uid = "2.25.1"
    header = ImageHeader(
        sop_instance_uid=SopUid(uid),
        sop_class_uid=uid,
        series_uid=SeriesUid(uid),
        study_uid=StudyUid(uid),
        transfer_syntax_uid=uid,
        rows=pixels.shape[0],
        columns=pixels.shape[1],
    )
    return Image(header=header, pixels=np.ascontiguousarray(pixels, dtype=np.float32), pixel_digest="")


def _patterns(pattern: str) -> list[str]:
    """`a.{b,c}` as `a.b` and `a.c`."""
    braces = re.fullmatch(r"(.*)\{(.*)\}(.*)", pattern)
    return [f"{braces[1]}{one}{braces[3]}" for one in braces[2].split(",")] if braces else [pattern]


def _read(path: Path) -> Image:
    if path.suffix.lower() not in _FILMS:
        return load_image(path)
    with PIL.Image.open(path) as picture:
        if picture.mode == "L":
            return load_film(path)
        return as_image(np.asarray(picture.convert("RGB").convert("L"), dtype=np.float32) / np.float32(255))


# drawings ------------------------------------------------------------------------------------------------------------


def _text_page(_: Path) -> Grey:
    page = PIL.Image.new("L", (900, 1200), 255)
    pen, font = PIL.ImageDraw.Draw(page), PIL.ImageFont.truetype(_FONT, 22)
    sentence = "Chest radiograph in two planes. Heart size normal. No infiltrate, no effusion, no pneumothorax. "
    for line in range(38):
        start = line * 11 % len(sentence)
        text = (sentence[start:] + sentence)[: 30 + 8 * (line % 6)]
        pen.text((80, 60 + line * 29), text, fill=0, font=font)
    return np.asarray(page, dtype=np.float32) / np.float32(255)


def _drawn_hand(_: Path) -> Grey:
    """Soft tissue and bones of a hand, palm down, fingers up."""
    side = 800
    flesh, bones = (PIL.Image.new("L", (side, side), 0) for _ in range(2))
    soft, hard = PIL.ImageDraw.Draw(flesh), PIL.ImageDraw.Draw(bones)
    soft.rounded_rectangle((270, 400, 560, 800), 90, fill=110)
    for x, top, lean in ((290, 160, -60), (370, 80, -20), (450, 70, 15), (525, 140, 50), (600, 360, 120)):
        base = (x - 5 if x < 600 else 545, 430 if x < 600 else 600)
        soft.line((*base, x + lean, top), fill=110, width=66)
        soft.ellipse((x + lean - 33, top - 33, x + lean + 33, top + 33), fill=110)
        for start, stop in ((0.0, 0.3), (0.36, 0.62), (0.67, 0.96)):
            ends = [(base[0] + (x + lean - base[0]) * part, base[1] + (top - base[1]) * part) for part in (start, stop)]
            hard.line((*ends[0], *ends[1]), fill=120, width=26)
        hard.line((*base, 415 + (base[0] - 415) * 0.5, 640), fill=110, width=26)
    hard.ellipse((350, 640, 490, 720), fill=100)
    hard.line((385, 730, 375, 800), fill=120, width=52)
    hard.line((460, 730, 470, 800), fill=120, width=40)
    return (np.asarray(flesh, dtype=np.float32) + np.asarray(bones, dtype=np.float32)) / np.float32(255)


def _white_noise(_: Path) -> Grey:
    return np.random.default_rng(1).random((512, 512), dtype=np.float32)


def _cloudy_noise(_: Path) -> Grey:
    side = 512
    waves = np.fft.fft2(np.random.default_rng(2).normal(size=(side, side)))
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(side), np.fft.fftfreq(side)))
    frequency[0, 0] = 1
    clouds = np.fft.ifft2(waves / frequency).real
    return np.asarray((clouds - clouds.min()) / np.ptp(clouds), dtype=np.float32)


def _ramp(_: Path) -> Grey:
    return np.tile(np.linspace(0, 1, 512, dtype=np.float32), (512, 1))


def _uneven_field(_: Path) -> Grey:
    y, x = np.mgrid[-1:1:512j, -1:1:512j]
    grain = np.random.default_rng(3).normal(0, 0.02, x.shape)
    return np.asarray(np.clip(0.7 - 0.25 * (x**2 + y**2) + grain, 0, 1), dtype=np.float32)


def _lateral_from_ct(shared: Path) -> Grey:
    """Mean attenuation along left to right, air dark; the head end at the top."""
    volume = load_volume(sorted((shared / "ct_lung_pet_ct_dx").rglob("*.dcm")))
    attenuation = np.clip(volume.voxels / 1000 + 1, 0, 2.5)
    projected = attenuation.mean(axis=2)
    if volume.direction[0][2] > 0:  # slices run towards the head
        projected = projected[::-1]
    grey = projected / np.percentile(projected, 99.5)
    height = round(projected.shape[0] * volume.spacing_mm[0] / volume.spacing_mm[1])
    upright = PIL.Image.fromarray(grey.astype(np.float32)).resize((projected.shape[1], height))
    return np.clip(np.asarray(upright, dtype=np.float32), 0, 1) ** 0.7


DRAWN: Mapping[str, Callable[[Path], Grey]] = {
    "text_page": _text_page,
    "text_page_negative": lambda shared: 1 - _text_page(shared),
    "drawn_hand": _drawn_hand,
    "white_noise": _white_noise,
    "cloudy_noise": _cloudy_noise,
    "ramp": _ramp,
    "uneven_field": _uneven_field,
    "lateral_from_ct": _lateral_from_ct,
}


# real films, wrongly shown -------------------------------------------------------------------------------------------


def _resized(film: Grey, height: int, width: int) -> Grey:
    return np.asarray(PIL.Image.fromarray(film).resize((width, height), PIL.Image.Resampling.BILINEAR))


def _screenshot(film: Grey) -> Grey:
    screen = PIL.Image.new("L", (1280, 800), 45)
    pen, font = PIL.ImageDraw.Draw(screen), PIL.ImageFont.truetype(_FONT, 14)
    pen.rectangle((0, 0, 1280, 44), fill=80)
    for step in range(12):
        pen.text((16 + step * 90, 14), f"Tool {step}", fill=220, font=font)
    for line in range(26):
        pen.rectangle((8, 60 + line * 28, 330, 82 + line * 28), fill=60 + 25 * (line % 2))
        pen.text((14, 62 + line * 28), f"2026-03-{line + 1:02d}  CR  Chest  {1000 + line}", fill=230, font=font)
    shown = np.round(_resized(film, 720, 720) * 255).astype(np.uint8)
    screen.paste(PIL.Image.fromarray(shown), (440, 60))
    return np.asarray(screen, dtype=np.float32) / np.float32(255)


def _letterbox(film: Grey) -> Grey:
    screen = np.zeros((600, 1200), dtype=np.float32)
    screen[:, 300:900] = _resized(film, 600, 600)
    return screen


CHANGED: Mapping[str, Callable[[Grey], Grey]] = {
    "inverted": lambda film: 1 - film,
    "turned_90": lambda film: np.rot90(film),
    "turned_270": lambda film: np.rot90(film, 3),
    "turned_180": lambda film: film[::-1, ::-1],
    "mirrored_top_to_bottom": lambda film: film[::-1],
    "upper_left_quarter": lambda film: film[: film.shape[0] // 2, : film.shape[1] // 2],
    "left_half": lambda film: film[:, : film.shape[1] // 2],
    "screenshot": _screenshot,
    "letterbox": _letterbox,
    "two_on_a_page": lambda film: np.concatenate([film, film[:, ::-1]], axis=1),
    "four_on_a_page": lambda film: np.tile(film, (2, 2)),
}

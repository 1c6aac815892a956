"""Reads films of any set from plain tables: the layouts ``csv`` and ``coco``.

Found by `training.readers`. Both name for each film its patient, since without patients nothing can be judged honestly.

``csv``: `films.csv` with the columns image (path below the folder) and patient, and if there are any reading (empty:
nobody read it), view, sex, laterality, age_years, spacing_mm, breast, findings (separated by ``|``), judged and teaches
(to overrule what follows from the rest); any other column is a trait. `boxes.csv` with image, x, y, w, h in source
pixels, or image, x, y, radius. `set.toml` may name positive, negatives, standard and subgroups.

``coco``: `annotations.json` as of the COCO detection sets; every image also has patient_id.
"""

from __future__ import annotations

import csv
import json
import tomllib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from inference.findings import Box
from training.data import Film, FilmSet, ImageName, PatientKey, Teaches
from training.errors import DataError

UNREAD, LESION, NORMAL = "unread", "lesion", "normal"
_KNOWN = frozenset({
    "image", "patient", "reading", "view", "sex", "laterality", "age_years", "spacing_mm", "breast", "findings",
    "judged", "teaches",
})  # fmt: skip
_STANDARD = "Reference standard: what the tables of the set say of each film, and their boxes."
_Row = Mapping[str, str]
_Shapes = tuple[tuple[Box, ...], tuple[float, ...]]


class _About(BaseModel):
    """`set.toml`: how films of the set are to be talked about."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    positive: str = LESION
    negatives: tuple[str, ...] = Field(default=(NORMAL,), min_length=1)
    standard: str = _STANDARD
    subgroups: tuple[str, ...] = ()


def read_csv(folder: Path) -> FilmSet:
    """Read `films.csv`, `boxes.csv` and, if there is one, `set.toml` of `folder`.

    Raises
    ------
    DataError
        If a table is missing, or a row cannot be understood.
    """
    about = _about(folder / "set.toml")
    shapes = _shapes(_rows(folder / "boxes.csv", needed={"image", "x", "y"}))
    rows = _rows(folder / "films.csv", needed={"image", "patient"})
    if strange := sorted(shapes.keys() - {row["image"] for row in rows}):
        raise DataError(
            f"boxes.csv has boxes on {len(strange)} film(s) that films.csv lacks, the first is {strange[0]}"
        )
    films = [_film(folder, row, shapes.get(row["image"], ((), ())), about) for row in rows]
    return _set(films, about)


def read_coco(folder: Path) -> FilmSet:
    """Read `annotations.json` of `folder`; every category counts as the one kind of lesion.

    Raises
    ------
    DataError
        If the file is missing, is not COCO, or an image names no patient.
    """
    about = _about(folder / "set.toml")
    try:
        content = json.loads((folder / "annotations.json").read_text(encoding="utf-8"))
        boxes: defaultdict[int, list[Box]] = defaultdict(list)
        for note in content["annotations"]:
            boxes[note["image_id"]].append(_box(*(float(value) for value in note["bbox"])))
        rows = [
            (
                {
                    **{name: str(value) for name, value in image.get("attributes", {}).items()},
                    "image": image["file_name"],
                    "patient": str(image["patient_id"]),
                    "reading": about.positive if boxes[image["id"]] else about.negatives[0],
                },
                tuple(boxes[image["id"]]),
            )
            for image in content["images"]
        ]
    except OSError as error:
        raise DataError(f"annotations.json cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise DataError(f"annotations.json cannot be understood: {error}") from error
    except KeyError as error:
        raise DataError(
            f"annotations.json: an entry lacks {error}; every image needs file_name and patient_id"
        ) from error
    return _set([_film(folder, row, (shown, ()), about) for row, shown in rows], about)


def _set(films: Sequence[Film], about: _About) -> FilmSet:
    return FilmSet(
        films=tuple(sorted(films, key=lambda film: film.image)),
        positive=about.positive,
        negatives=about.negatives,
        standard=about.standard,
        subgroups=about.subgroups,
    )


def _about(file: Path) -> _About:
    if not file.is_file():
        return _About()
    try:
        return _About.model_validate(tomllib.loads(file.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise DataError(f"{file.name} cannot be read: {error}") from error
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        raise DataError(f"{file.name}: {faults}") from error


def _rows(file: Path, *, needed: set[str]) -> list[_Row]:
    try:
        with file.open(newline="", encoding="utf-8-sig") as lines:
            reader = csv.DictReader(lines)
            rows: list[_Row] = list(reader)
    except OSError as error:
        raise DataError(f"{file.name} cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file.name} is no UTF-8 table: {error}") from error
    if lacking := sorted(needed - set(reader.fieldnames or ())):
        raise DataError(f"{file.name} lacks the column(s) {', '.join(lacking)}")
    return rows


def _shapes(rows: Sequence[_Row]) -> dict[str, _Shapes]:
    """For each film its boxes, and where circles were drawn their radii."""
    found: defaultdict[str, list[tuple[Box, float]]] = defaultdict(list)
    for number, row in enumerate(rows, start=2):
        try:
            x, y = float(row["x"]), float(row["y"])
            if row.get("radius"):
                radius = float(row["radius"])
                found[row["image"]].append((_box(x - radius, y - radius, 2 * radius, 2 * radius), radius))
            else:
                found[row["image"]].append((_box(x, y, float(row["w"]), float(row["h"])), 0.0))
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"boxes.csv, line {number} ({row['image']}) cannot be understood: {error}") from error
    return {
        image: (tuple(box for box, _ in shapes), tuple(radius for _, radius in shapes) if shapes[0][1] else ())
        for image, shapes in found.items()
    }


def _box(x: float, y: float, width: float, height: float) -> Box:
    return Box(x_min=x, y_min=y, x_max=x + width, y_max=y + height)


def _film(folder: Path, row: _Row, shapes: _Shapes, about: _About) -> Film:
    boxes, radii = shapes
    image = row["image"]
    if not row["patient"]:
        raise DataError(f"films.csv: {image} has no patient; without patients nothing can be judged honestly")
    reading = row.get("reading") or (about.positive if boxes else UNREAD)
    positive, known = reading == about.positive, reading in (about.positive, *about.negatives)
    if boxes and not positive and known:
        raise DataError(
            f"films.csv: {image} is read as {reading!r} but has boxes; call it {about.positive!r} or take them out"
        )
    try:
        findings = tuple(part for part in (row.get("findings") or "").split("|") if part)
        teaches = Teaches(row["teaches"]) if row.get("teaches") else _teaches(boxes, positive, known, findings)
        return Film(
            image=ImageName(image),
            path=folder / image,
            patient=PatientKey(row["patient"]),
            reading=reading,
            positive=positive,
            judged=_truth(row["judged"]) if row.get("judged") else known and (bool(boxes) or not positive),
            teaches=teaches,
            stratum=f"{'boxed' if boxes else reading} {row.get('view') or ''}".strip(),
            boxes=boxes,
            radii=radii,
            findings=findings,
            traits={name: value for name, value in row.items() if value and _is_trait(name)},
            numbers={"age_years": float(row["age_years"])} if row.get("age_years") else {},
            spacing_mm=float(row["spacing_mm"]) if row.get("spacing_mm") else None,
            breast=row.get("breast") or "",
        )
    except ValueError as error:
        raise DataError(f"films.csv: the row of {image} cannot be understood: {error}") from error


def _is_trait(name: str) -> bool:
    return name in {"view", "sex", "laterality"} or name not in _KNOWN


def _truth(word: str) -> bool:
    if word.lower() not in ("true", "false", "yes", "no", "1", "0"):
        raise ValueError(f"{word!r} is neither yes nor no")
    return word.lower() in ("true", "yes", "1")


def _teaches(boxes: Sequence[Box], positive: bool, known: bool, findings: Sequence[str]) -> Teaches:
    if boxes:
        return Teaches.LESIONS
    if known:
        return Teaches.NOTHING if positive else Teaches.NO_LESION  # a lesion without a place teaches no places
    return Teaches.FINDINGS if findings else Teaches.NOTHING

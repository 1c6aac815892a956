"""Reads a folder of NIH chest films: `labels.csv`, `boxes.csv`, `images/`, with the RSNA readings where there are any.

Found by `training.readers` as ``nih-chest``. Says of each film who read it and what that may teach; nothing here
looks at pixels.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path

from inference.findings import Box
from training.data import ADULT_AGE_YEARS, Film, FilmSet, ImageName, PatientKey, Teaches
from training.errors import DataError

OPACITY_BOX_LABELS = frozenset({"Lung Opacity", "Pneumonia", "Infiltrate"})
RSNA_SOURCE = "RSNA"
STANDARD = (
    "Reference standard: the class that the RSNA radiologists gave a film (opacity, normal, or other findings without "
    "opacity) and their boxes. Films that only text mining labelled are not judged. Films on which the NIH drew an "
    "opacity box and the RSNA radiologists saw no opacity count as films without opacity."
)


class Reading(StrEnum):
    """What the RSNA radiologists said of a film."""

    OPACITY = "opacity"  # "Lung Opacity": at least one box
    NORMAL = "normal"  # "Normal"
    OTHER = "other"  # "No Lung Opacity / Not Normal": abnormal, but no opacity
    UNREAD = "unread"  # not in the RSNA set; the NIH labels are text-mined


_READINGS = {
    "Lung Opacity": Reading.OPACITY,
    "Normal": Reading.NORMAL,
    "No Lung Opacity / Not Normal": Reading.OTHER,
    "": Reading.UNREAD,
}


def read_folder(folder: Path) -> FilmSet:
    """Read `labels.csv`, `boxes.csv` and the names in `images/` of `folder`.

    Raises
    ------
    DataError
        If a table is missing, or a row cannot be understood.
    """
    boxes = _read_boxes(folder / "boxes.csv")
    films = [_film(folder, row, boxes) for row in _rows(folder / "labels.csv")]
    return FilmSet(
        films=tuple(sorted(films, key=lambda film: film.image)),
        positive=Reading.OPACITY,
        negatives=(Reading.NORMAL, Reading.OTHER),
        standard=STANDARD,
        subgroups=("view",),
    )


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8") as lines:
            return list(csv.DictReader(lines))
    except OSError as error:
        raise DataError(f"{path.name} cannot be read: {error.strerror}") from error


def _read_boxes(path: Path) -> Mapping[str, list[tuple[str, bool, Box]]]:
    """For each film its boxes as (label, drawn by RSNA radiologists, box)."""
    boxes: defaultdict[str, list[tuple[str, bool, Box]]] = defaultdict(list)
    for row in _rows(path):
        try:
            x, y, w, h = (float(row[key]) for key in "xywh")
            box = Box(x_min=x, y_min=y, x_max=x + w, y_max=y + h)
            boxes[row["image"]].append((row["label"], row["source"].startswith(RSNA_SOURCE), box))
        except (KeyError, ValueError) as error:
            raise DataError(f"{path.name}: a row cannot be understood: {error}") from error
    return boxes


def _film(folder: Path, row: Mapping[str, str], boxes: Mapping[str, list[tuple[str, bool, Box]]]) -> Film:
    try:
        image, reading, age = row["image"], _READINGS[row["rsna_class"]], int(row["age"])
        drawn = [entry for entry in boxes.get(image, []) if entry[0] in OPACITY_BOX_LABELS]
        by_rsna = tuple(box for _, rsna, box in drawn if rsna)
        by_nih = tuple(box for _, rsna, box in drawn if not rsna)
        # An NIH opacity box on a film on which the RSNA radiologists saw none: nobody knows, so it teaches nothing.
        disputed = bool(by_nih) and reading in (Reading.NORMAL, Reading.OTHER)
        shown = by_rsna or (() if disputed else by_nih)
        findings = tuple(row["findings"].split("|"))
        adult = age >= ADULT_AGE_YEARS
        return Film(
            image=ImageName(image),
            path=folder / "images" / image,
            patient=PatientKey(row["patient_id"]),
            reading=reading,
            positive=reading is Reading.OPACITY,
            judged=adult and reading is not Reading.UNREAD,
            teaches=_teaches(reading, shown, findings) if adult and not disputed else Teaches.NOTHING,
            stratum=f"{'boxed' if shown else reading} {row['view']}",
            boxes=shown,
            findings=findings,
            traits={"view": row["view"], "sex": row["sex"]},
            numbers={"age_years": float(age), "patient_rank": float(row["patient_id"])},
        )
    except (KeyError, ValueError) as error:
        raise DataError(f"labels.csv: a row cannot be understood: {error}") from error


def _teaches(reading: Reading, boxes: tuple[Box, ...], findings: tuple[str, ...]) -> Teaches:
    if boxes:
        return Teaches.LESIONS
    if reading in (Reading.NORMAL, Reading.OTHER):
        return Teaches.NO_LESION
    if findings == ("No Finding",):
        return Teaches.PROBABLY_NO_LESION
    return Teaches.FINDINGS

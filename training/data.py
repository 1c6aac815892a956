"""Reads a folder of the NIH chest films: what each film shows, who said so, and what it may teach.

Called by `training.train` and by the evaluation. Splitting by patient is `training.splits`; pixels are read by
`inference.loading` and prepared in `training.cache`. A patient number never leaves this module except as the key by
which films are kept together.
"""

from __future__ import annotations

import csv
import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import NewType

from inference.findings import Box

PatientKey = NewType("PatientKey", str)
ImageName = NewType("ImageName", str)

ADULT_AGE_YEARS = 18
FINDINGS = (
    "Atelectasis",
    "Cardiomegaly",
    "Consolidation",
    "Edema",
    "Effusion",
    "Emphysema",
    "Fibrosis",
    "Hernia",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pleural_Thickening",
    "Pneumonia",
    "Pneumothorax",
)
OPACITY_BOX_LABELS = frozenset({"Lung Opacity", "Pneumonia", "Infiltrate"})
RSNA_SOURCE = "RSNA"


class DataError(Exception):
    """The folder is not a set of films: a table or a film is missing, or a row cannot be understood."""


class Reading(StrEnum):
    """What the RSNA radiologists said of a film."""

    OPACITY = "opacity"  # "Lung Opacity": at least one box
    NORMAL = "normal"  # "Normal"
    OTHER = "other"  # "No Lung Opacity / Not Normal": abnormal, but no opacity
    UNREAD = "unread"  # not in the RSNA set; the NIH labels are text-mined


class Teaches(StrEnum):
    """What a film may teach the network."""

    LESIONS = "lesions"  # its opacities are boxed
    NO_LESION = "no_lesion"  # a radiologist found no opacity
    PROBABLY_NO_LESION = "probably_no_lesion"  # text-mined "No Finding": right nine times in ten, so weighed less
    FINDINGS = "findings"  # nobody read it: nothing of places, but what text mining says helps to see
    NOTHING = "nothing"  # a child, or readers who disagree


_READINGS = {
    "Lung Opacity": Reading.OPACITY,
    "Normal": Reading.NORMAL,
    "No Lung Opacity / Not Normal": Reading.OTHER,
    "": Reading.UNREAD,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Film:
    """One film with its labels.

    `boxes` holds the opacities of the film: the RSNA boxes where the RSNA radiologists read it, else the NIH boxes
    of an opacity kind. `disputed` films carry an NIH opacity box although the RSNA radiologists saw no opacity.
    """

    image: ImageName
    path: Path
    patient: PatientKey
    age_years: int
    view: str
    reading: Reading
    findings: tuple[str, ...]
    boxes: tuple[Box, ...]
    disputed: bool

    @property
    def adult(self) -> bool:
        """Whether the patient was at least 18 years old."""
        return self.age_years >= ADULT_AGE_YEARS

    @property
    def teaches(self) -> Teaches:
        """What the film may teach: children and disputed films teach nothing."""
        if not self.adult or self.disputed:
            return Teaches.NOTHING
        if self.boxes:
            return Teaches.LESIONS
        if self.reading in (Reading.NORMAL, Reading.OTHER):
            return Teaches.NO_LESION
        if self.findings == ("No Finding",):
            return Teaches.PROBABLY_NO_LESION
        return Teaches.FINDINGS


def read_films(folder: Path) -> tuple[Film, ...]:
    """Read `labels.csv`, `boxes.csv` and the names in `images/` of `folder`.

    Returns
    -------
    tuple of Film
        In the order of their names.

    Raises
    ------
    DataError
        If a table is missing, a film named in it is missing, or a row cannot be understood.
    """
    boxes = _read_boxes(folder / "boxes.csv")
    films = [_film(folder, row, boxes) for row in _rows(folder / "labels.csv")]
    if missing := [film.image for film in films if not film.path.is_file()]:
        raise DataError(f"{len(missing)} film(s) of labels.csv are missing in images/, the first is {missing[0]}")
    return tuple(sorted(films, key=lambda film: film.image))


def manifest_digest(films: Iterable[Film]) -> str:
    """sha256 of the list of film names and the sha256 of each file, one a line, in the order of names."""
    lines = sorted(f"{film.image} {hashlib.sha256(film.path.read_bytes()).hexdigest()}" for film in films)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def audit(films: Iterable[Film]) -> dict[str, dict[str, int]]:
    """Counts that a reader of the evaluation must know: by reading, by what a film teaches, by view and age.

    Returns
    -------
    dict
        For each reading and each kind of teaching: films, patients, boxes, AP, PA and children.
    """
    groups: defaultdict[str, list[Film]] = defaultdict(list)
    for film in films:
        groups["all"].append(film)
        groups[f"read: {film.reading}"].append(film)
        groups[f"teaches: {film.teaches}"].append(film)
    return {name: _counts(groups[name]) for name in sorted(groups)}


def _counts(films: list[Film]) -> dict[str, int]:
    views = Counter(film.view for film in films)
    return {
        "films": len(films),
        "patients": len({film.patient for film in films}),
        "boxes": sum(len(film.boxes) for film in films),
        "AP": views["AP"],
        "PA": views["PA"],
        "children": sum(not film.adult for film in films),
    }


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
        image, reading = row["image"], _READINGS[row["rsna_class"]]
        drawn = [entry for entry in boxes.get(image, []) if entry[0] in OPACITY_BOX_LABELS]
        by_rsna = tuple(box for _, rsna, box in drawn if rsna)
        by_nih = tuple(box for _, rsna, box in drawn if not rsna)
        disputed = bool(by_nih) and reading in (Reading.NORMAL, Reading.OTHER)
        return Film(
            image=ImageName(image),
            path=folder / "images" / image,
            patient=PatientKey(row["patient_id"]),
            age_years=int(row["age"]),
            view=row["view"],
            reading=reading,
            findings=tuple(row["findings"].split("|")),
            boxes=by_rsna or (() if disputed else by_nih),
            disputed=disputed,
        )
    except (KeyError, ValueError) as error:
        raise DataError(f"labels.csv: a row cannot be understood: {error}") from error

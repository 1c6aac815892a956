"""Reads a folder of mini-MIAS: `lesions.csv` and `images/`, digitised film mammograms of 200 µm, one view a breast.

Found by `training.readers` as ``mini-mias``. The two films of a pair are the two breasts of one woman and are never
parted. All abnormalities are called a lesion; nothing here looks at pixels.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path

from inference.findings import Box
from training.data import Film, FilmSet, ImageName, PatientKey, Teaches
from training.errors import DataError

SPACING_MM = 0.2
VIEW = "MLO"
LESION, NORMAL, UNPLACED = "lesion", "normal", "lesion without a place"
STANDARD = (
    "Reference standard: the abnormalities that the makers of mini-MIAS listed, each a circle; a mark finds one when "
    "its centre lies within the radius. All kinds count alike, benign and malignant. Films whose abnormality has no "
    "place are neither learnt from nor judged. Two circles lie in the air beside the breast: they are not learnt from, "
    "and count as missed."
)
# The circles of these lie in the air, several centimetres from anything: a fault of the list.
_MISPLACED = frozenset({"mdb212.png", "mdb214.png"})
_NORMAL_CODE = "NORM"


def read_folder(folder: Path) -> FilmSet:
    """Read `lesions.csv` and the names in `images/` of `folder`.

    Raises
    ------
    DataError
        If the table is missing, or a row cannot be understood.
    """
    rows = sorted(_rows(folder / "lesions.csv"), key=lambda row: row.get("image", ""))
    films = [_film(folder, image, list(of_film)) for image, of_film in groupby(rows, key=lambda row: row["image"])]
    return FilmSet(films=tuple(films), positive=LESION, negatives=(NORMAL,), standard=STANDARD, subgroups=("tissue",))


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8") as lines:
            rows = list(csv.DictReader(lines))
    except OSError as error:
        raise DataError(f"{path.name} cannot be read: {error.strerror}") from error
    needed = {"image", "pair", "laterality", "background_tissue", "abnormality", "x", "y", "radius"}
    if rows and (lacking := needed - rows[0].keys()):
        raise DataError(f"{path.name} lacks the column(s) {', '.join(sorted(lacking))}")
    return rows


def _film(folder: Path, image: str, rows: Sequence[Mapping[str, str]]) -> Film:
    """One film of all its rows: a row for each abnormality, or one that says it is normal."""
    try:
        first = rows[0]
        circles = [tuple(float(row[key]) for key in ("x", "y", "radius")) for row in rows if row["x"]]
        boxes = tuple(Box(x_min=x - r, y_min=y - r, x_max=x + r, y_max=y + r) for x, y, r in circles)
    except ValueError as error:
        raise DataError(f"lesions.csv: a row of {image} cannot be understood: {error}") from error
    abnormal = any(row["abnormality"] != _NORMAL_CODE for row in rows)
    reading = LESION if boxes else UNPLACED if abnormal else NORMAL
    return Film(
        image=ImageName(image),
        path=folder / "images" / image,
        patient=PatientKey(first["pair"]),
        reading=reading,
        positive=abnormal,
        judged=reading != UNPLACED,
        teaches=_teaches(image, reading),
        stratum=reading,
        boxes=boxes,
        radii=tuple(radius for _, _, radius in circles),
        traits={"view": VIEW, "laterality": first["laterality"], "tissue": first["background_tissue"]},
        spacing_mm=SPACING_MM,
        breast=f"{first['pair']} {first['laterality']}",
    )


def _teaches(image: str, reading: str) -> Teaches:
    if reading == UNPLACED or image in _MISPLACED:
        return Teaches.NOTHING
    return Teaches.LESIONS if reading == LESION else Teaches.NO_LESION

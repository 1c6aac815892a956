"""Turns CBIS-DDSM, as The Cancer Imaging Archive publishes it, into the layout ``csv``; nothing is downloaded.

Called by ``radnode data import cbis``. Each finding of its four tables becomes the hull of its mask, each film a row
with its woman, breast, view and density. Other sets are `training.public_sets`. (R. S. Lee et al., A curated
mammography data set for use in computer-aided detection and diagnosis research, Scientific Data 2017.)
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from inference.findings import Box
from inference.images import Image
from inference.loading import load_image
from inference.refusals import Refused
from training.errors import DataError
from training.files import write_whole
from training.public_sets import csv_text, link_all, read_rows

_TABLES = "*_case_description_*_set.csv"
_NEEDED = (
    "patient_id", "left or right breast", "image view", "abnormality type", "pathology", "image file path",
    "ROI mask file path",
)  # fmt: skip
_DENSITIES = ("breast_density", "breast density")  # the tables of masses and of calcifications differ
_FILMS_HEAD = ("image", "patient", "breast", "laterality", "view", "reading", "kind", "pathology", "density")
_INSIDE = 0.5  # a mask is black and white; grey in between comes from its compression
_SIDE = {"LEFT": "L", "RIGHT": "R"}
_ABOUT = (
    'negatives = ["normal"]\nsubgroups = ["density", "kind"]\n'
    'standard = "Reference standard: masks of CBIS-DDSM, pathology or follow-up; the set has no normal films."\n'
)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Folders:
    """DICOM files by the folder that the tables name, which is a subject of the archive."""

    files: Mapping[str, Sequence[Path]]

    @classmethod
    def below(cls, source: Path) -> _Folders:
        found: defaultdict[str, list[Path]] = defaultdict(list)
        for path in sorted(source.rglob("*.dcm")):
            for folder in path.relative_to(source).parts[:-1]:
                found[folder].append(path)
        return cls(files=found)

    def of(self, written: str) -> Sequence[Path]:
        """Files of the subject that a cell such as ``Mass-Training_P_00001_LEFT_CC/1.3…/000000.dcm`` names.

        Only its first folder is compared: file names differ between the ways in which the archive is fetched.
        """
        return self.files.get(PurePosixPath(written.strip()).parts[0] if written.strip() else "", ())


def import_cbis(source: Path, target: Path) -> int:
    """Link films, write `films.csv`, `boxes.csv` and `set.toml`; returns films.

    Films that are not there are left out, so a part of the set works too. A mask is known by its size, since mask and
    crop are exchanged in some cases of the set; one that is scaled is brought to its film.

    Raises
    ------
    DataError
        If there is no table, a table lacks a column, or a film's mask is missing or empty.
    """
    rows = list(_rows(source))
    folders = _Folders.below(source)
    films: dict[str, dict[str, str]] = {}
    boxes, pictures = [], {}
    for row in rows:
        files = folders.of(row["image file path"])
        if not files:
            continue
        image = f"images/{_name(row)}.dcm"
        pictures[image] = files[0]
        film = films.setdefault(image, _film(image, row))
        film["kind"] = _joined(film["kind"], row["abnormality type"])
        film["pathology"] = _joined(film["pathology"], row["pathology"])
        box = _hull(row, files[0], [*folders.of(row["ROI mask file path"])])
        boxes.append({
            "image": image, "x": f"{box.x_min:g}", "y": f"{box.y_min:g}",
            "w": f"{box.x_max - box.x_min:g}", "h": f"{box.y_max - box.y_min:g}",
        })  # fmt: skip
    link_all(target, pictures)
    write_whole(target / "films.csv", csv_text(films.values(), head=_FILMS_HEAD))
    write_whole(target / "boxes.csv", csv_text(boxes, head=("image", "x", "y", "w", "h")))
    write_whole(target / "set.toml", _ABOUT)
    return len(films)


def _rows(source: Path) -> Iterator[Mapping[str, str]]:
    tables = sorted(source.rglob(_TABLES))
    if not tables:
        raise DataError(f"{source} holds no mass_case_description_*_set.csv or calc_case_description_*_set.csv")
    for table in tables:
        yield from read_rows(table, _NEEDED)


def _name(row: Mapping[str, str]) -> str:
    """A film's name: its subject, which holds woman, side and view and is one for all findings of the film."""
    return PurePosixPath(row["image file path"].strip()).parts[0]


def _film(image: str, row: Mapping[str, str]) -> dict[str, str]:
    side = row["left or right breast"].strip()
    density = next((row[name] for name in _DENSITIES if row.get(name)), "")
    return {
        "image": image,
        "patient": row["patient_id"],
        "breast": f"{row['patient_id']} {side}",
        "laterality": _SIDE.get(side, ""),
        "view": row["image view"].strip(),
        "reading": "lesion",
        "kind": "",
        "pathology": "",
        "density": density,
    }


def _joined(before: str, new: str) -> str:
    """Words of all findings of a film, each once."""
    words = [word for word in before.split(" and ") if word]
    return " and ".join(sorted({*words, new.strip().lower().replace("_", " ")}))


def _hull(row: Mapping[str, str], film: Path, candidates: Sequence[Path]) -> Box:
    """The box around the mask, in pixels of the film."""
    subject = PurePosixPath(row["ROI mask file path"].strip() or "?").parts[0]
    shape = _load(film).pixels.shape
    loaded = [_load(path).pixels for path in candidates]
    proportion = shape[0] / shape[1]
    # The crop shows the finding alone; the mask has the film's size, or at least its proportions.
    masks = sorted(loaded, key=lambda one: (one.shape != shape, abs(one.shape[0] / one.shape[1] - proportion)))
    if not masks:
        raise DataError(f"{subject}: its mask is not there; fetch the subject, or leave its film out too")
    inside = masks[0] > _INSIDE
    if not inside.any() or inside.all():
        raise DataError(f"{subject}: its mask marks nothing, or everything")
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    down, across = shape[0] / inside.shape[0], shape[1] / inside.shape[1]
    return Box(
        x_min=float(columns[0] * across),
        y_min=float(rows[0] * down),
        x_max=float((columns[-1] + 1) * across),
        y_max=float((rows[-1] + 1) * down),
    )


def _load(path: Path) -> Image:
    try:
        return load_image(path)
    except Refused as refused:
        raise DataError(f"{path.name} of {path.parent.name}: {refused}") from refused

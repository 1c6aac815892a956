"""What every reader of a data set hands on: films, what they show, and what each may teach.

Readers (`training.nih`, `training.tables`, `training.mammography`) build a `FilmSet` of one folder; `training.readers`
finds the one a recipe names. Splitting by patient is `training.splits`; pixels are read by `inference.loading` and
prepared in `training.cache`. A patient's key never leaves the training but as that by which films are kept together.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
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


class Teaches(StrEnum):
    """What a film may teach the network."""

    LESIONS = "lesions"  # its lesions are boxed
    NO_LESION = "no_lesion"  # a reader found none of what is looked for
    PROBABLY_NO_LESION = "probably_no_lesion"  # text mining found nothing: right nine times in ten, so weighed less
    FINDINGS = "findings"  # nobody read it: nothing of places, but what text mining says helps to see
    NOTHING = "nothing"  # outside the intended use, disputed, or a lesion without a place


@dataclass(frozen=True, kw_only=True, slots=True)
class Film:
    """One film with its labels.

    Attributes
    ----------
    image : ImageName
        Name of the film within its set; unique.
    path : Path
        Where its pixels are: JPEG, PNG or DICOM.
    patient : PatientKey
        Films of one patient are never parted.
    reading : str
        The group in which it is judged, as its reader calls it: what is looked for, or a named kind of negative.
    positive : bool
        Whether it shows what is looked for.
    judged : bool
        Whether it counts in the evaluation: of known truth, and within the intended use.
    teaches : Teaches
        What it may teach.
    stratum : str
        Films of one stratum are spread evenly over the folds.
    boxes : tuple of Box
        The lesions, in source pixels.
    radii : tuple of float
        For each box the radius in source pixels of the circle that the reader drew around its centre; empty where
        readers drew boxes.
    findings : tuple of str
        Text-mined findings, which only help to see.
    traits : mapping
        What else is known in words: view, sex, laterality, density. Shortcuts and subgroups are looked for here.
    numbers : mapping
        What else is known in figures: age_years, patient_rank.
    spacing_mm : float or None
        Pixel size where the file itself does not say it.
    breast : str
        Which breast of which patient, where several films show one; empty elsewhere.
    """

    image: ImageName
    path: Path
    patient: PatientKey
    reading: str
    positive: bool
    judged: bool
    teaches: Teaches
    stratum: str = ""
    boxes: tuple[Box, ...] = ()
    radii: tuple[float, ...] = ()
    findings: tuple[str, ...] = ()
    traits: Mapping[str, str] = field(default_factory=dict)
    numbers: Mapping[str, float] = field(default_factory=dict)
    spacing_mm: float | None = None
    breast: str = ""

    @property
    def view(self) -> str:
        """View position as the set calls it; empty when it says nothing."""
        return self.traits.get("view", "")

    @property
    def adult(self) -> bool:
        """Whether the patient was at least 18 years old, or the set has no ages."""
        return self.numbers.get("age_years", ADULT_AGE_YEARS) >= ADULT_AGE_YEARS


@dataclass(frozen=True, kw_only=True, slots=True)
class FilmSet:
    """All films of one folder, and how they are to be talked about.

    Attributes
    ----------
    films : tuple of Film
        In the order of their names.
    positive : str
        The reading of films that show what is looked for, such as "opacity".
    negatives : tuple of str
        Readings of judged films without it, the plainest first; the first is what the main AUROC is counted against.
    standard : str
        Who said what the films show; printed in the report.
    subgroups : tuple of str
        Traits within which figures are repeated.
    """

    films: tuple[Film, ...]
    positive: str
    negatives: tuple[str, ...]
    standard: str
    subgroups: tuple[str, ...] = ()


def manifest_lines(films: Iterable[Film]) -> list[str]:
    """For each film its name and the sha256 of its file, in the order of names."""
    return sorted(f"{film.image} {hashlib.sha256(film.path.read_bytes()).hexdigest()}" for film in films)


def manifest_digest(films: Iterable[Film]) -> str:
    """sha256 of the list of film names and the sha256 of each file, one a line, in the order of names."""
    return hashlib.sha256("\n".join(manifest_lines(films)).encode()).hexdigest()


def counts(films: Iterable[Film]) -> dict[str, dict[str, int]]:
    """Counts that a reader of the evaluation must know: by reading, by what a film teaches, by trait.

    Returns
    -------
    dict
        For each group of films: films, patients, boxes, those outside the intended age, and films of each view.
    """
    groups: defaultdict[str, list[Film]] = defaultdict(list)
    views: set[str] = set()
    for film in films:
        groups["all"].append(film)
        groups[f"read: {film.reading}"].append(film)
        groups[f"teaches: {film.teaches}"].append(film)
        views.add(film.view)
    return {name: _counts(groups[name], sorted(views - {""})) for name in sorted(groups)}


def _counts(films: list[Film], views: list[str]) -> dict[str, int]:
    by_view = Counter(film.view for film in films)
    return {
        "films": len(films),
        "patients": len({film.patient for film in films}),
        "boxes": sum(len(film.boxes) for film in films),
        **{view: by_view[view] for view in views},
        "children": sum(not film.adult for film in films),
    }

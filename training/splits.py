"""Patient-wise folds, balanced over strata, stored with the digest by which an evaluation names its split.

Called by `training.detection`. All films of a patient lie in one fold, also those that teach nothing, so that every
film can be scored by a network that has not seen its patient. A stored split is used again only if it still fits the
films; one that a user brings is checked the same way.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from training.data import Film, ImageName
from training.errors import SplitError
from training.files import write_whole

SPLITS_FILE = "splits.json"
_NAMED = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Splits:
    """For each film the fold in which it is held out, 0 to `folds` - 1."""

    folds: int
    seed: int
    fold_of: dict[ImageName, int]

    @property
    def digest(self) -> str:
        """sha256 of the lines ``image fold`` in the order of names."""
        lines = "\n".join(f"{image} {fold}" for image, fold in sorted(self.fold_of.items()))
        return hashlib.sha256(lines.encode()).hexdigest()

    def held_out(self, films: Sequence[Film], fold: int) -> tuple[Film, ...]:
        """The films of `fold`."""
        return tuple(film for film in films if self.fold_of[film.image] == fold)

    def training(self, films: Sequence[Film], fold: int) -> tuple[Film, ...]:
        """The films of all other folds."""
        return tuple(film for film in films if self.fold_of[film.image] != fold)


class _Stored(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    folds: int = Field(ge=2)
    seed: int
    digest: str
    fold_of: dict[str, int]


def split_by_patient(
    films: Sequence[Film], *, folds: int, seed: int, bound: Sequence[tuple[ImageName, ImageName]] = ()
) -> Splits:
    """Deal patients into folds so that strata are spread evenly.

    Films of a pair in `bound` come into the same fold with all films of their patients: they may be one patient.

    Raises
    ------
    SplitError
        If there are fewer patients than folds.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    films = sorted(films, key=lambda film: film.image)
    patient_of = _bound_patients(films, bound)
    if (patients := len(set(patient_of.values()))) < folds:
        raise SplitError(f"{folds} folds need at least as many patients; there are {patients}")
    strata = _strata([film.stratum for film in films], folds)
    dealer = StratifiedGroupKFold(n_splits=folds, shuffle=True, random_state=seed)
    fold_of: dict[ImageName, int] = {}
    for fold, (_, held_out) in enumerate(dealer.split(films, strata, [patient_of[film.image] for film in films])):
        fold_of.update({films[index].image: fold for index in held_out})
    return Splits(folds=folds, seed=seed, fold_of=fold_of)


def _bound_patients(films: Sequence[Film], bound: Sequence[tuple[ImageName, ImageName]]) -> dict[ImageName, str]:
    """For each film its patient, or the first of all patients that are bound together."""
    patient_of: dict[ImageName, str] = {film.image: film.patient for film in films}
    for one, other in bound:
        first, second = sorted((patient_of[one], patient_of[other]))
        patient_of = {image: first if patient == second else patient for image, patient in patient_of.items()}
    return patient_of


def _strata(names: list[str], folds: int) -> list[str]:
    """Names of strata; those with fewer members than folds cannot be spread and join the largest."""
    sizes = Counter(names)
    largest = sizes.most_common(1)[0][0]
    return [name if sizes[name] >= folds else largest for name in names]


def check_splits(splits: Splits, films: Sequence[Film]) -> None:
    """Hold a split against the films.

    Raises
    ------
    SplitError
        If a film has no fold, a fold is empty or out of range, the split names strange films, or a patient is in two
        folds. Patients are not named: films are.
    """
    names = {film.image for film in films}
    if missing := sorted(names - splits.fold_of.keys()):
        raise SplitError(f"the split gives {len(missing)} film(s) no fold: {_first(missing)}")
    if strange := sorted(splits.fold_of.keys() - names):
        raise SplitError(f"the split names {len(strange)} film(s) that the data do not have: {_first(strange)}")
    if set(splits.fold_of.values()) != set(range(splits.folds)):
        raise SplitError(f"the split must use each of the folds 0 to {splits.folds - 1}")
    if parted := parted_patients(splits, films):
        examples = "; ".join(" and ".join(images) for images in parted[:_NAMED])
        raise SplitError(
            f"{len(parted)} patient(s) are in two folds, so that a network would be judged on patients it learnt from: "
            f"films {examples}. Give all films of a patient the same fold."
        )


def parted_patients(splits: Splits, films: Sequence[Film]) -> list[tuple[ImageName, ImageName]]:
    """For each patient who is in two folds, two of his films that lie in different folds."""
    first: dict[str, Film] = {}
    parted: dict[str, tuple[ImageName, ImageName]] = {}
    for film in films:
        other = first.setdefault(film.patient, film)
        if splits.fold_of[film.image] != splits.fold_of[other.image]:
            parted.setdefault(film.patient, (other.image, film.image))
    return list(parted.values())


def write_splits(splits: Splits, file: Path) -> None:
    """Store a split with its digest, whole or not at all."""
    fold_of = dict(sorted(splits.fold_of.items()))
    stored = {"folds": splits.folds, "seed": splits.seed, "digest": splits.digest, "fold_of": fold_of}
    write_whole(file, json.dumps(stored, indent=1) + "\n")


def read_splits(file: Path, films: Sequence[Film]) -> Splits:
    """Read a stored split and hold it against `films`.

    Raises
    ------
    SplitError
        If it cannot be read, does not match its digest, or does not fit the films.
    """
    try:
        stored = _Stored.model_validate_json(file.read_bytes())
    except OSError as error:
        raise SplitError(f"{file.name} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        raise SplitError(
            f"{file.name} is not a split: {error.error_count()} fault(s), {error.errors()[0]['msg']}"
        ) from error
    fold_of = {ImageName(name): fold for name, fold in stored.fold_of.items()}
    splits = Splits(folds=stored.folds, seed=stored.seed, fold_of=fold_of)
    if splits.digest != stored.digest:
        raise SplitError(
            f"{file.name} was changed after it was stored (digest {stored.digest[:12]}, content {splits.digest[:12]}); "
            f"restore it, or remove it together with the results made from it"
        )
    check_splits(splits, films)
    return splits


def inner_split(films: Sequence[Film], *, share: float, seed: int) -> tuple[tuple[Film, ...], tuple[Film, ...]]:
    """Part training films by patient into those that teach and about `share` of the patients by which to stop.

    Raises
    ------
    SplitError
        If there are too few patients to part.
    """
    folds = max(2, round(1 / share))
    splits = split_by_patient(films, folds=folds, seed=seed)
    return splits.training(films, 0), splits.held_out(films, 0)


def patients_per_fold(splits: Splits, films: Sequence[Film]) -> dict[int, dict[str, int]]:
    """For each fold its films, patients, lesions and films per reading: how evenly it was dealt."""
    table: dict[int, dict[str, int]] = {}
    readings = sorted({film.reading for film in films})
    of_fold: defaultdict[int, list[Film]] = defaultdict(list)
    for film in films:
        of_fold[splits.fold_of[film.image]].append(film)
    for fold in range(splits.folds):
        here = of_fold[fold]
        by_reading = Counter(film.reading for film in here)
        counted = {"films": len(here), "patients": len({film.patient for film in here})}
        table[fold] = counted | {"lesions": sum(len(film.boxes) for film in here)}
        table[fold] |= {reading: by_reading[reading] for reading in readings}
    return table


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (" ..." if len(names) > _NAMED else "")

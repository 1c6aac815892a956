"""Patient-wise folds, balanced over reading and view, and the digest by which an evaluation names its split.

Called by `training.train`. All films of a patient lie in one fold, also those that teach nothing, so that every film
can be scored by a network that has not seen its patient.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from training.data import Film, ImageName


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


def split_by_patient(films: Sequence[Film], *, folds: int, seed: int) -> Splits:
    """Deal patients into folds so that boxed films, readings and views are spread evenly.

    Raises
    ------
    ValueError
        If there are fewer patients than folds.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    films = sorted(films, key=lambda film: film.image)
    if len({film.patient for film in films}) < folds:
        raise ValueError(f"{folds} folds need at least as many patients")
    strata = _strata([f"{'boxed' if film.boxes else film.reading} {film.view}" for film in films], folds)
    dealer = StratifiedGroupKFold(n_splits=folds, shuffle=True, random_state=seed)
    fold_of: dict[ImageName, int] = {}
    for fold, (_, held_out) in enumerate(dealer.split(films, strata, [film.patient for film in films])):
        fold_of.update({films[index].image: fold for index in held_out})
    return Splits(folds=folds, seed=seed, fold_of=fold_of)


def _strata(names: list[str], folds: int) -> list[str]:
    """Names of strata; those with fewer members than folds cannot be spread and join the largest."""
    sizes = Counter(names)
    largest = sizes.most_common(1)[0][0]
    return [name if sizes[name] >= folds else largest for name in names]

"""How films of the chest are shown while the network learns, with lesions of other training films set into some.

The kind ``transplanted`` of `training.views`: lesions are set in by `training.transplanting`, then the whole film is
changed by `training.augment`, as the kind ``film`` does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Generator, Tensor

from training.augment import augment
from training.batches import batch_of
from training.cache import PreparedFilms
from training.data import Film, Teaches
from training.losses import Targets
from training.recipe import Recipe
from training.transplanting import Corners, Place, elsewhere, take, transplant

_SECOND = 0.4  # share of the films with a transplanted lesion that get another one
_PLAIN_PLACES = 2  # for each lesion


class Settings(BaseModel):
    """Keys of `[views]` for the kind ``transplanted``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    lesions: Mapping[str, float] = Field(
        description="for each reading, the share of its films into which a lesion is set; readings left out get none"
    )
    plain: float = Field(default=0.0, ge=0, le=1, description="share of films into which a place without lesion is set")


class Views:
    """Whole films, some with lesions of others; see `training.views.ViewMaker`."""

    def __init__(self, settings: Settings, recipe: Recipe, films: Sequence[Film], prepared: PreparedFilms) -> None:
        self.settings, self.recipe, self.prepared = settings, recipe, prepared
        random = np.random.default_rng(recipe.schedule.seed)
        found = (take(self._grey(film), box) for film in films for box in self._boxes(film))
        self.lesions = [place for place in found if place is not None]
        self.plain = self._plain_places([film for film in films if film.teaches is Teaches.NO_LESION], random)

    def _plain_places(self, films: Sequence[Film], random: np.random.Generator) -> list[Place]:
        if not films:
            return []
        found = [
            elsewhere(place, self._grey(films[int(random.integers(len(films)))]), random)
            for place in self.lesions
            for _ in range(_PLAIN_PLACES)
        ]
        return [place for place in found if place is not None]

    def _grey(self, film: Film) -> Tensor:
        return torch.from_numpy(self.prepared.grey(film.image))

    def _boxes(self, film: Film) -> list[Corners]:
        found = []
        for box in film.boxes:
            x_min, y_min, x_max, y_max = self.prepared.to_input(film.image, box).tolist()
            found.append((x_min, y_min, x_max, y_max))
        return found

    def batch(self, films: Sequence[Film], random: Generator) -> tuple[Tensor, Targets]:
        """See `training.views.ViewMaker`."""
        pictures, targets = batch_of(films, self.prepared, self.recipe.schedule)
        draw = np.random.default_rng(int(torch.randint(2**62, (), generator=random)))
        shown = [
            self._boxes(film) + self._set_in(film, picture, draw)
            for film, (picture,) in zip(films, pictures, strict=True)
        ]
        boxes, present = _padded(shown)
        pictures, boxes, present = augment(pictures, boxes, present, self.recipe.augmentation, random)
        shows = present.any(dim=1, keepdim=True).float()
        return pictures, targets._replace(boxes=boxes, present=present, picture=shows)

    def _set_in(self, film: Film, grey: Tensor, random: np.random.Generator) -> list[Corners]:
        """Set into `grey` (h, w) what chance says; the lesions among it."""
        if film.teaches is Teaches.FINDINGS:
            return []
        taken = self._boxes(film)
        new: list[Corners] = []
        if self.lesions and random.random() < self.settings.lesions.get(film.reading, 0.0):
            for _ in range(1 + int(random.random() < _SECOND)):
                place = self.lesions[int(random.integers(len(self.lesions)))]
                box = transplant(grey, place, taken + new, random)
                new += [box] if box is not None else []
        if self.plain and random.random() < self.settings.plain:
            transplant(grey, self.plain[int(random.integers(len(self.plain)))], taken + new, random)
        return new


def _padded(boxes: Sequence[Sequence[Corners]]) -> tuple[Tensor, Tensor]:
    """Boxes (N, K, 4) and which of them are there (N, K)."""
    most = max(1, max(len(of_one) for of_one in boxes))
    padded, present = torch.zeros(len(boxes), most, 4), torch.zeros(len(boxes), most, dtype=torch.bool)
    for row, of_one in enumerate(boxes):
        for column, box in enumerate(of_one):
            padded[row, column] = torch.tensor(box)
            present[row, column] = True
    return padded, present

"""How a film is shown to the network while it learns, by the name a recipe's `[views]` calls it.

Called by `training.loop`. ``film`` shows the whole film, changed by `training.augment`; another kind is a module with
``Settings`` (a frozen pydantic model of the other keys of `[views]`) and ``Views(settings, recipe, films, prepared)``,
and one line here. Pictures need not have the size of the input: the network is convolutional.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from types import ModuleType
from typing import Protocol

from pydantic import BaseModel, ConfigDict
from torch import Generator, Tensor

from training.augment import augment
from training.batches import batch_of
from training.cache import PreparedFilms
from training.data import Film
from training.losses import Targets
from training.recipe import Recipe

KINDS: Mapping[str, str] = {
    "film": "training.views",
    "transplanted": "training.transplanted_views",
    "breast": "training.mammography_views",
}


class ViewMaker(Protocol):
    """Makes what the network is shown of a batch."""

    def batch(self, films: Sequence[Film], random: Generator) -> tuple[Tensor, Targets]:
        """Grey pictures (N, 1, h, w) in 0..1, sides multiples of 32, and what they show in their own pixels.

        All randomness must come from `random`, so that a training can be repeated.
        """


class Settings(BaseModel):
    """Keys of `[views]` for the kind ``film``: none, since `[augmentation]` says it all."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Views:
    """The whole film, moved and changed at random by `training.augment`."""

    def __init__(self, settings: Settings, recipe: Recipe, films: Sequence[Film], prepared: PreparedFilms) -> None:
        self.recipe, self.prepared = recipe, prepared

    def batch(self, films: Sequence[Film], random: Generator) -> tuple[Tensor, Targets]:
        """See `ViewMaker`."""
        pictures, targets = batch_of(films, self.prepared, self.recipe.schedule)
        bounds = self.recipe.augmentation
        pictures, boxes, present = augment(pictures, targets.boxes, targets.present, bounds, random)
        shows = present.any(dim=1, keepdim=True).float()  # a film whose boxes were all moved out shows none
        return pictures, targets._replace(boxes=boxes, present=present, picture=shows)


def views_of(recipe: Recipe, films: Sequence[Film], prepared: PreparedFilms) -> ViewMaker:
    """What shows `films` as the recipe says; they are training films only."""
    module = _module(recipe)
    maker: ViewMaker = module.Views(_settings(module, recipe), recipe, films, prepared)
    return maker


def check_views(recipe: Recipe) -> None:
    """Read the keys of `[views]` as its kind understands them.

    Raises
    ------
    ValueError
        If there is no such kind, or (pydantic.ValidationError) a key is unknown or out of bounds.
    """
    _settings(_module(recipe), recipe)


def _module(recipe: Recipe) -> ModuleType:
    if recipe.views.kind not in KINDS:
        raise ValueError(f"views.kind: there is no {recipe.views.kind!r}; there are {', '.join(KINDS)}")
    return import_module(KINDS[recipe.views.kind])


def _settings(module: ModuleType, recipe: Recipe) -> BaseModel:
    settings: BaseModel = module.Settings.model_validate(recipe.views.model_extra or {})
    return settings

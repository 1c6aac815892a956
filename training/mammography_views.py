"""How breasts are shown to the network while it learns: a moved, changed part of a film, often with a pasted lesion.

The kind ``breast`` of `training.views`. The moving and the greys are bounded by the recipe's `[augmentation]`, here
applied to the breast alone: air stays black. Lesions are pasted by `training.pasting`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Generator, Tensor
from torch.nn import functional

from training.cache import PreparedFilms
from training.data import FINDINGS, Film
from training.losses import Targets
from training.pasting import Circle, Patch, cut_out, cut_out_tissue, paste
from training.recipe import Augmentation, Recipe

_AIR = 0.02  # grey below which a pixel is air; noise and contrast leave it black
_SECOND = 0.3  # share of the films with a pasted lesion that get another one
_TISSUE_PATCHES = 3  # of each film without lesions
_SMALLEST_RADIUS = 5.0  # input pixels: smaller lesions get a box in which a mark can learn to lie
_CHANCE_OF_EDGE = 0.3
_DARKEST = 1e-4  # a grey of zero has no gradient under a gamma
_MIDDLE = 0.45  # grey about which contrast turns


class Settings(BaseModel):
    """Keys of `[views]` for the kind ``breast``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    height: int = Field(ge=64, multiple_of=32, description="of the part of the film that is shown, input pixels")
    width: int = Field(ge=64, multiple_of=32)
    flip_vertical: float = Field(default=0.5, ge=0, le=1, description="share of films turned upside down")
    paste: float = Field(default=0.0, ge=0, le=1, description="share of films into which a lesion is pasted")
    paste_tissue: float = Field(default=0.0, ge=0, le=1, description="share of films with pasted plain tissue")


class Views:
    """Parts of breasts, changed at random; see `training.views.ViewMaker`."""

    def __init__(self, settings: Settings, recipe: Recipe, films: Sequence[Film], prepared: PreparedFilms) -> None:
        self.settings, self.bounds = settings, recipe.augmentation
        self.prepared = prepared
        self.lesions: list[Patch] = []
        self.tissue: list[Patch] = []
        if settings.paste or settings.paste_tissue:
            self._cut_out(films, np.random.default_rng(recipe.schedule.seed))

    def _cut_out(self, films: Sequence[Film], random: np.random.Generator) -> None:
        for film in films:
            patches = (cut_out(self._breast(film), circle) for circle in self._circles(film))
            self.lesions += [patch for patch in patches if patch is not None]
        radii = [patch.radius for patch in self.lesions]
        for film in films:
            if radii and not film.boxes:
                self.tissue += cut_out_tissue(self._breast(film), radii, _TISSUE_PATCHES, random)

    def _breast(self, film: Film) -> Tensor:
        """The prepared film without the padding at its right and bottom."""
        grey = self.prepared.grey(film.image)
        rows, columns = np.flatnonzero(grey.any(axis=1)), np.flatnonzero(grey.any(axis=0))
        return torch.from_numpy(grey[: rows[-1] + 1, : columns[-1] + 1].copy())

    def _circles(self, film: Film) -> list[Circle]:
        boxes = [self.prepared.to_input(film.image, box).tolist() for box in film.boxes]
        return [Circle(x=(b[0] + b[2]) / 2, y=(b[1] + b[3]) / 2, radius=(b[2] - b[0] + b[3] - b[1]) / 4) for b in boxes]

    def batch(self, films: Sequence[Film], random: Generator) -> tuple[Tensor, Targets]:
        """See `training.views.ViewMaker`."""
        seed = int(torch.randint(2**62, (), generator=random))
        draw = np.random.default_rng(seed)
        shown = [self._view(film, draw) for film in films]
        return torch.stack([grey for grey, _ in shown])[:, None], _targets([circles for _, circles in shown])

    def _view(self, film: Film, random: np.random.Generator) -> tuple[Tensor, list[Circle]]:
        grey, circles = self._breast(film), self._circles(film)
        circles += self._pasted(grey, random)
        way = _way(grey.shape[0], grey.shape[1], self.settings, self.bounds, random)
        moved = _moved(grey, way, self.settings)
        circles = [there for circle in circles if (there := _carried(circle, way, self.settings)) is not None]
        blank = _blanked_rows(self.settings, self.bounds, random)
        changed = _changed(moved, self.bounds, random)
        changed[:blank] = 0.0
        return changed, [circle for circle in circles if circle.y > blank]

    def _pasted(self, grey: Tensor, random: np.random.Generator) -> list[Circle]:
        """Paste what chance says into `grey`; the lesions among it."""
        found: list[Circle] = []
        if self.lesions and random.random() < self.settings.paste:
            for _ in range(1 + int(random.random() < _SECOND)):
                circle = paste(grey, self.lesions[random.integers(len(self.lesions))], random)
                found += [circle] if circle is not None else []
        if self.tissue and random.random() < self.settings.paste_tissue:
            paste(grey, self.tissue[random.integers(len(self.tissue))], random)
        return found


def _way(
    height: int, width: int, settings: Settings, bounds: Augmentation, random: np.random.Generator
) -> NDArray[np.float64]:
    """(2, 3) affine map from pixels of the view, seen from its middle, to pixels of the breast."""
    size = math.exp(random.uniform(-1, 1) * math.log1p(bounds.scale))
    angle = math.radians(random.uniform(-bounds.rotation_degrees, bounds.rotation_degrees))
    mirror_x = -1.0 if random.random() < bounds.flip else 1.0
    mirror_y = -1.0 if random.random() < settings.flip_vertical else 1.0
    x = width / 2 + random.uniform(-0.5, 0.5) * max(bounds.shift * settings.width, abs(width - settings.width / size))
    y = height / 2 + random.uniform(-0.5, 0.5) * max(
        bounds.shift * settings.height, abs(height - settings.height / size)
    )
    cosine, sine = math.cos(angle) / size, math.sin(angle) / size
    return np.asarray([[cosine * mirror_x, -sine * mirror_y, x], [sine * mirror_x, cosine * mirror_y, y]])


def _moved(grey: Tensor, way: NDArray[np.float64], settings: Settings) -> Tensor:
    """The view (height, width) of a breast; what lies outside is black."""
    source = np.asarray([[grey.shape[1]], [grey.shape[0]]])
    theta = way * np.asarray([settings.width, settings.height, 2.0]) / source
    theta[:, 2] -= 1
    grid = functional.affine_grid(
        torch.from_numpy(theta.astype(np.float32))[None], [1, 1, settings.height, settings.width], align_corners=False
    )
    return functional.grid_sample(grey[None, None], grid, align_corners=False)[0, 0]


def _carried(circle: Circle, way: NDArray[np.float64], settings: Settings) -> Circle | None:
    """The circle in pixels of the view; None when its centre is outside."""
    linear, shift = way[:, :2], way[:, 2]
    x, y = (np.linalg.solve(linear, np.asarray([circle.x, circle.y]) - shift)).tolist()
    x, y = x + settings.width / 2, y + settings.height / 2
    if not (0 < x < settings.width and 0 < y < settings.height):
        return None
    size = 1 / math.sqrt(abs(float(np.linalg.det(linear))))
    return Circle(x=x, y=y, radius=max(circle.radius, _SMALLEST_RADIUS) * size)


def _changed(grey: Tensor, bounds: Augmentation, random: np.random.Generator) -> Tensor:
    """Gamma, contrast, brightness and noise of the breast; air stays black."""
    breast = grey > _AIR
    gamma, contrast = (math.exp(random.uniform(-bound, bound)) for bound in (bounds.gamma, bounds.contrast))
    changed = (grey.clamp(_DARKEST, 1) ** gamma - _MIDDLE) * contrast + _MIDDLE
    changed += random.uniform(-bounds.brightness, bounds.brightness)
    noise = random.standard_normal(grey.shape, dtype=np.float32) * np.float32(random.uniform(0, bounds.noise))
    return torch.where(breast, (changed + torch.from_numpy(noise)).clamp(0, 1), torch.zeros(()))


def _blanked_rows(settings: Settings, bounds: Augmentation, random: np.random.Generator) -> int:
    """Rows to blank at the top: now and then a film shows less of the breast."""
    return int(random.uniform(0, bounds.border) * settings.height) if random.random() < _CHANCE_OF_EDGE else 0


def _targets(circles: Sequence[Sequence[Circle]]) -> Targets:
    most = max(1, max(len(of_one) for of_one in circles))
    boxes, present = torch.zeros(len(circles), most, 4), torch.zeros(len(circles), most, dtype=torch.bool)
    for row, of_one in enumerate(circles):
        for column, c in enumerate(of_one):
            boxes[row, column] = torch.tensor([c.x - c.radius, c.y - c.radius, c.x + c.radius, c.y + c.radius])
            present[row, column] = True
    return Targets(
        boxes=boxes,
        present=present,
        picture=present.any(dim=1, keepdim=True).float(),
        weight=torch.ones(len(circles)),
        findings=torch.zeros(len(circles), len(FINDINGS)),
    )

"""Which films an epoch shows, in which order, and a batch of them as tensors.

Called by `training.loop` and `training.score`; changing pictures at random is `training.augment`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from training.cache import PreparedFilms
from training.data import FINDINGS, Film, Teaches
from training.losses import Targets
from training.recipe import Recipe, Schedule


def order(films: Sequence[Film], schedule: Schedule, *, epoch: int) -> list[Film]:
    """The films of one epoch, shuffled: boxed ones repeated, of those that teach less another handful each time."""
    random = np.random.default_rng([schedule.seed, epoch])
    by_teaching = {teaches: [film for film in films if film.teaches is teaches] for teaches in Teaches}
    shown = by_teaching[Teaches.LESIONS] * schedule.repeat_lesions
    if schedule.negatives is None:
        shown = shown + by_teaching[Teaches.NO_LESION]
    else:
        shown = shown + _handful(by_teaching[Teaches.NO_LESION], schedule.negatives, random)
    for teaches, most in (
        (Teaches.PROBABLY_NO_LESION, schedule.probable_negatives),
        (Teaches.FINDINGS, schedule.findings_films),
    ):
        shown = shown + _handful(by_teaching[teaches], most, random)
    return [shown[index] for index in random.permutation(len(shown))]


def _handful(films: Sequence[Film], most: int, random: np.random.Generator) -> list[Film]:
    return [films[index] for index in random.permutation(len(films))[:most]]


def batch_of(films: Sequence[Film], prepared: PreparedFilms, schedule: Schedule) -> tuple[Tensor, Targets]:
    """Grey pictures (N, 1, H, W) in 0..1 of `films`, and what they show in input pixels."""
    most = max(1, max(len(film.boxes) for film in films))
    boxes, present = torch.zeros(len(films), most, 4), torch.zeros(len(films), most, dtype=torch.bool)
    for row, film in enumerate(films):
        for column, box in enumerate(film.boxes):
            boxes[row, column] = torch.from_numpy(prepared.to_input(film.image, box))
            present[row, column] = True
    worth = {Teaches.PROBABLY_NO_LESION: schedule.probable_weight, Teaches.FINDINGS: 0.0}
    weight = torch.tensor([worth.get(film.teaches, 1.0) for film in films])
    findings = torch.tensor([[float(name in film.findings) for name in FINDINGS] for film in films])
    pictures = torch.from_numpy(np.stack([prepared.grey(film.image) for film in films]))[:, None]
    shows = present.any(dim=1, keepdim=True).float()
    return pictures, Targets(boxes=boxes, present=present, picture=shows, weight=weight, findings=findings)


def normalised(pictures: Tensor, recipe: Recipe) -> Tensor:
    """Greys in 0..1 to what the network is fed, as the card's input says."""
    return (pictures - recipe.input.mean[0]) / recipe.input.std[0]

"""Trains one network on one set of films: the epochs, the moving average, and a checkpoint after every epoch.

Called by `training.train` for each fold and for the refit. All randomness of an epoch derives from the recipe's seed
and the epoch's number, so a training that was cut off and resumed gives the weights of one that was not.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from training.augment import augment
from training.cache import PreparedFilms
from training.data import FINDINGS, Film, Teaches
from training.losses import Losses, Targets, losses
from training.network import Detector, Outputs
from training.recipe import Recipe, Schedule

_LARGEST_GRADIENT = 5.0  # norm above which a step is shortened: one odd film must not throw the weights
_LOWEST_RATE = 0.02  # share of the rate left at the end
_AVERAGE_WARMUP = 10.0  # steps after which the moving average forgets its start


class ResumeError(Exception):
    """The checkpoint belongs to another recipe or other films."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """Mean losses of one epoch that has ended."""

    epoch: int
    epochs: int
    centre: float
    edges: float
    picture: float
    findings: float


def choose_device() -> torch.device:
    """CUDA where there is one, else the processor."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def fit(
    recipe: Recipe,
    films: Sequence[Film],
    prepared: PreparedFilms,
    *,
    checkpoint: Path,
    on_epoch: Callable[[Progress], None] = lambda progress: None,
    stop_after: int | None = None,
    pretrained: bool = True,
) -> Detector:
    """Train on those of `films` that teach something, or go on where `checkpoint` left off.

    Parameters
    ----------
    recipe : Recipe
        What decides the weights.
    films : sequence of Film
        Training films; those that teach nothing are passed over.
    prepared : PreparedFilms
        At least those films, prepared.
    checkpoint : Path
        File that is replaced after every epoch.
    on_epoch : callable, optional
        Told of every epoch that has ended.
    stop_after : int, optional
        Leave after this epoch, as if cut off.
    pretrained : bool, optional
        Whether the backbone starts from ImageNet weights.

    Returns
    -------
    Detector
        With the averaged weights, in evaluation mode.

    Raises
    ------
    ResumeError
        If the checkpoint was made under another recipe or from other films.
    """
    torch.manual_seed(recipe.schedule.seed)
    training = _Training(recipe, films, prepared, pretrained=pretrained)
    first = training.resume(checkpoint) if checkpoint.exists() else 0
    for epoch in range(first, min(recipe.schedule.epochs, stop_after or recipe.schedule.epochs)):
        on_epoch(training.run_epoch(epoch))
        training.save(checkpoint, epoch + 1)
    return training.averaged()


class _Training:
    """The moving parts of one training: network, optimiser, schedule, moving average."""

    def __init__(self, recipe: Recipe, films: Sequence[Film], prepared: PreparedFilms, *, pretrained: bool) -> None:
        self.recipe, self.prepared = recipe, prepared
        self.films = [film for film in films if film.teaches is not Teaches.NOTHING]
        self.identity = f"{recipe.digest} {sorted(film.image for film in self.films)}"
        self.device = choose_device()
        self.network = Detector(recipe.network, pretrained=pretrained).to(self.device)
        self.network = self.network.to(memory_format=torch.channels_last)
        self.average = {name: value.detach().clone() for name, value in self.network.state_dict().items()}
        schedule = recipe.schedule
        groups = self.network.rates(backbone=schedule.backbone_rate, head=schedule.head_rate)
        self.optimiser = AdamW(groups, weight_decay=schedule.weight_decay)
        self.steps_per_epoch = math.ceil(len(_order(self.films, schedule, epoch=0)) / schedule.batch_size)
        self.scheduler = LambdaLR(self.optimiser, self._rate)
        self.steps = 0

    def _rate(self, step: int) -> float:
        whole = self.steps_per_epoch * self.recipe.schedule.epochs
        warm = self.recipe.schedule.warmup_share * whole
        if step < warm:
            return (step + 1) / (warm + 1)
        along = min(1.0, (step - warm) / max(1.0, whole - warm))
        return _LOWEST_RATE + (1 - _LOWEST_RATE) * 0.5 * (1 + math.cos(math.pi * along))

    def run_epoch(self, epoch: int) -> Progress:
        self.network.train()
        torch.manual_seed(self.recipe.schedule.seed * 100_003 + epoch)  # dropout
        random = torch.Generator().manual_seed(self.recipe.schedule.seed * 100_003 + epoch)
        sums = np.zeros(len(Losses._fields))
        for batch in self._batches(epoch):
            parts = self._step(batch, random)
            sums += [part.item() for part in parts]
        means = sums / self.steps_per_epoch
        return Progress(
            epoch=epoch + 1,
            epochs=self.recipe.schedule.epochs,
            centre=float(means[0]),
            edges=float(means[1]),
            picture=float(means[2]),
            findings=float(means[3]),
        )

    def _batches(self, epoch: int) -> Iterator[list[Film]]:
        order, size = _order(self.films, self.recipe.schedule, epoch=epoch), self.recipe.schedule.batch_size
        for start in range(0, len(order), size):
            yield order[start : start + size]

    def _step(self, films: list[Film], random: torch.Generator) -> Losses:
        schedule = self.recipe.schedule
        pictures, targets = batch_of(films, self.prepared, schedule)
        pictures, boxes, present = augment(pictures, targets.boxes, targets.present, self.recipe.augmentation, random)
        shows = present.any(dim=1, keepdim=True).float()  # a film whose boxes were all moved out shows none
        targets = targets._replace(boxes=boxes, present=present, picture=shows)
        with computing(self.device, bfloat16=schedule.bfloat16):
            outputs, findings = self.network.learn(normalised(pictures, self.recipe).to(self.device))
        parts = losses(Outputs(*(output.cpu() for output in outputs)), findings.cpu(), targets)
        total = parts.centre + schedule.box_weight * parts.edges + schedule.picture_weight * parts.picture
        total = total + schedule.findings_weight * parts.findings
        self.optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(total)
        nn.utils.clip_grad_norm_(self.network.parameters(), _LARGEST_GRADIENT)
        self.optimiser.step()
        self.scheduler.step()
        self._update_average()
        return Losses(*(part.detach() for part in parts))

    def _update_average(self) -> None:
        self.steps += 1
        decay = min(self.recipe.schedule.average_decay, self.steps / (self.steps + _AVERAGE_WARMUP))
        with torch.no_grad():
            for name, value in self.network.state_dict().items():
                if value.is_floating_point():
                    self.average[name].lerp_(value, 1 - decay)

    def save(self, path: Path, epochs_done: int) -> None:
        state = {
            "identity": self.identity,
            "epochs_done": epochs_done,
            "steps": self.steps,
            "network": self.network.state_dict(),
            "average": self.average,
            "optimiser": self.optimiser.state_dict(),
            "scheduler": self.scheduler.state_dict(),
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".partial")
        torch.save(state, partial)
        os.replace(partial, path)  # noqa: PTH105 - atomic: a cut never leaves half a checkpoint

    def resume(self, path: Path) -> int:
        state = torch.load(path, map_location=self.device, weights_only=True)
        if state["identity"] != self.identity:
            raise ResumeError(f"{path.name} was made under another recipe or from other films; remove it to start anew")
        self.network.load_state_dict(state["network"])
        self.average = state["average"]
        self.optimiser.load_state_dict(state["optimiser"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.steps = state["steps"]
        done: int = state["epochs_done"]
        return done

    def averaged(self) -> Detector:
        network = Detector(self.recipe.network, pretrained=False)
        network.load_state_dict({name: value.cpu() for name, value in self.average.items()})
        return network.eval()


def _order(films: Sequence[Film], schedule: Schedule, *, epoch: int) -> list[Film]:
    """The films of one epoch, shuffled: boxed ones repeated, of those that teach less another handful each time."""
    random = np.random.default_rng([schedule.seed, epoch])
    by_teaching = {teaches: [film for film in films if film.teaches is teaches] for teaches in Teaches}
    shown = by_teaching[Teaches.LESIONS] * schedule.repeat_lesions + by_teaching[Teaches.NO_LESION]
    for teaches, most in (
        (Teaches.PROBABLY_NO_LESION, schedule.probable_negatives),
        (Teaches.FINDINGS, schedule.findings_films),
    ):
        chosen = random.permutation(len(by_teaching[teaches]))[:most]
        shown = shown + [by_teaching[teaches][index] for index in chosen]
    return [shown[index] for index in random.permutation(len(shown))]


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


@contextlib.contextmanager
def computing(device: torch.device, *, bfloat16: bool) -> Iterator[None]:
    """Compute in bfloat16 where that is faster; the outputs are float32 all the same."""
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bfloat16):
        yield

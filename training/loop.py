"""Trains one network on one set of films: the epochs, the moving average, and a checkpoint after every epoch.

Called by `training.detection` for each fold and for the refit. All randomness of an epoch derives from the recipe's
seed, the epoch's number and the process's rank, so a training that was killed and resumed gives the weights and the
history of one that was not. What a batch is made of is `training.batches`; several processes are `training.several`.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from training.batches import batch_of, normalised, order
from training.cache import PreparedFilms
from training.checkpoints import read_checkpoint, write_checkpoint, write_history
from training.data import Film, Teaches
from training.losses import Losses, losses
from training.network import Detector, Outputs
from training.recipe import Recipe, Schedule
from training.several import Processes
from training.splits import inner_split
from training.views import views_of

_LARGEST_GRADIENT = 5.0  # norm above which a step is shortened: one odd film must not throw the weights
_LOWEST_RATE = 0.02  # share of the rate left at the end
_AVERAGE_WARMUP = 10.0  # steps after which the moving average forgets its start
_SEED_STRIDE, _RANK_STRIDE = 100_003, 1_000_003  # seeds of epochs and processes never meet


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """Mean losses of one epoch that has ended; `validation` is the loss on films held back to stop by, if any."""

    epoch: int
    epochs: int
    centre: float
    edges: float
    picture: float
    findings: float
    rate: float
    validation: float | None = None


def fit(
    recipe: Recipe,
    films: Sequence[Film],
    prepared: PreparedFilms,
    *,
    checkpoint: Path,
    on_epoch: Callable[[Progress], None] = lambda progress: None,
    stop_after: int | None = None,
    pretrained: bool = True,
    processes: Processes | None = None,
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
        File that is replaced after every epoch; the losses of all epochs lie beside it as ``.history.jsonl``.
    on_epoch : callable, optional
        Told of every epoch that has ended, those of earlier calls included.
    stop_after : int, optional
        Leave after this epoch, as if cut off.
    pretrained : bool, optional
        Whether the backbone starts from ImageNet weights.
    processes : Processes, optional
        The processes that train together; alone if not given.

    Returns
    -------
    Detector
        With the averaged weights (those of the best epoch, where the recipe stops early), in evaluation mode.

    Raises
    ------
    ResumeError
        If the checkpoint was made under another recipe or from other films, or cannot be read.
    OSError
        If the checkpoint cannot be written; the last one that was is untouched.
    """
    processes = processes or Processes.alone()
    with _repeatable(processes.device):
        torch.manual_seed(recipe.schedule.seed)
        training = _Training(recipe, films, prepared, pretrained=pretrained, processes=processes)
        training.resume(checkpoint)
        for progress in training.history:
            on_epoch(progress)
        last = min(recipe.schedule.epochs, stop_after or recipe.schedule.epochs)
        while len(training.history) < last and not training.stopped():
            on_epoch(training.run_epoch(len(training.history)))
            training.save(checkpoint)
        return training.averaged()


class _Training:
    """The moving parts of one training: network, optimiser, schedule, moving average, history."""

    def __init__(
        self,
        recipe: Recipe,
        films: Sequence[Film],
        prepared: PreparedFilms,
        *,
        pretrained: bool,
        processes: Processes,
    ) -> None:
        self.recipe, self.prepared, self.processes = recipe, prepared, processes
        taught = [film for film in films if film.teaches is not Teaches.NOTHING]
        self.identities = _identities(recipe, taught, prepared)
        self.films, self.held_back = _hold_back(taught, recipe.schedule)
        self.views = views_of(recipe, self.films, prepared)
        self.device = processes.device
        self.network = Detector(recipe.network, pretrained=pretrained).to(self.device)
        self.network = self.network.to(memory_format=torch.channels_last)
        self.learning = processes.together(_Learning(self.network))
        self.average = {name: value.detach().clone() for name, value in self.network.state_dict().items()}
        self.best: dict[str, Tensor] = {}
        schedule = recipe.schedule
        groups = self.network.rates(backbone=schedule.backbone_rate, head=schedule.head_rate)
        self.optimiser = AdamW(groups, weight_decay=schedule.weight_decay)
        self.steps_per_epoch = math.ceil(len(order(self.films, schedule, epoch=0)) / schedule.batch_size)
        self.scheduler = LambdaLR(self.optimiser, self._rate)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=_half(schedule, self.device) is torch.float16)
        self.steps = 0
        self.history: list[Progress] = []

    def _rate(self, step: int) -> float:
        whole = self.steps_per_epoch * self.recipe.schedule.epochs
        warm = self.recipe.schedule.warmup_share * whole
        if step < warm:
            return (step + 1) / (warm + 1)
        along = min(1.0, (step - warm) / max(1.0, whole - warm))
        return _LOWEST_RATE + (1 - _LOWEST_RATE) * 0.5 * (1 + math.cos(math.pi * along))

    def run_epoch(self, epoch: int) -> Progress:
        self.network.train()
        seed = self.recipe.schedule.seed * _SEED_STRIDE + epoch + self.processes.rank * _RANK_STRIDE
        torch.manual_seed(seed)  # dropout
        random = torch.Generator().manual_seed(seed)
        sums = np.zeros(len(Losses._fields))
        rate = float(self.scheduler.get_last_lr()[-1])
        for batch in self._batches(epoch):
            parts = self._step(self.processes.share(batch), random)
            sums += [part.item() for part in parts]
        means = self.processes.mean(sums / self.steps_per_epoch)
        progress = Progress(
            epoch=epoch + 1,
            epochs=self.recipe.schedule.epochs,
            centre=float(means[0]),
            edges=float(means[1]),
            picture=float(means[2]),
            findings=float(means[3]),
            rate=rate,
            validation=self._validate(),
        )
        self.history.append(progress)
        if progress.validation is not None and progress.epoch == self._best_epoch():
            self.best = {name: value.clone() for name, value in self.average.items()}
        return progress

    def _batches(self, epoch: int) -> Iterator[list[Film]]:
        shown, size = order(self.films, self.recipe.schedule, epoch=epoch), self.recipe.schedule.batch_size
        for start in range(0, len(shown), size):
            yield shown[start : start + size]

    def _step(self, films: Sequence[Film], random: torch.Generator) -> Losses:
        schedule = self.recipe.schedule
        pictures, targets = self.views.batch(films, random)
        with computing(self.device, schedule):
            outputs, findings = self.learning(normalised(pictures, self.recipe).to(self.device))
        parts = losses(Outputs(*(output.cpu() for output in outputs)), findings.cpu(), targets)
        self.optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(self.scaler.scale(weighed(parts, schedule)))
        self.scaler.unscale_(self.optimiser)
        nn.utils.clip_grad_norm_(self.network.parameters(), _LARGEST_GRADIENT)
        self.scaler.step(self.optimiser)
        self.scaler.update()
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

    def _validate(self) -> float | None:
        """Loss of the averaged weights on the films held back, unchanged; None when the recipe never stops early."""
        if not self.held_back:
            return None
        judge, schedule, total = self.averaged().to(self.device), self.recipe.schedule, 0.0
        with torch.inference_mode():
            for start in range(0, len(self.held_back), schedule.batch_size):
                films = self.held_back[start : start + schedule.batch_size]
                pictures, targets = batch_of(films, self.prepared, schedule)
                outputs, findings = judge.learn(normalised(pictures, self.recipe).to(self.device))
                outputs, findings = Outputs(*(output.cpu() for output in outputs)), findings.cpu()
                total += float(weighed(losses(outputs, findings, targets), schedule)) * len(films)
        return self.processes.first(total / len(self.held_back))

    def _best_epoch(self) -> int:
        """The epoch after which the films held back were known best; what is not a number is never best."""
        known = [one for one in self.history if one.validation is not None and math.isfinite(one.validation)]
        return min(known or self.history, key=lambda one: one.validation or 0.0).epoch

    def stopped(self) -> bool:
        """Whether the films held back have been learnt no better for as long as the recipe waits."""
        stopping = self.recipe.schedule.early_stopping
        if stopping is None or not self.history:
            return False
        return len(self.history) - self._best_epoch() >= stopping.patience_epochs

    def save(self, path: Path) -> None:
        if self.processes.rank == 0:
            state = {
                "identity": self.identities[0],
                "history": [asdict(progress) for progress in self.history],
                "steps": self.steps,
                "network": self.network.state_dict(),
                "average": self.average,
                "best": self.best,
                "optimiser": self.optimiser.state_dict(),
                "scheduler": self.scheduler.state_dict(),
                "scaler": self.scaler.state_dict(),
            }
            write_checkpoint(path, state)
            write_history(path, self.history)
        self.processes.wait()

    def resume(self, path: Path) -> None:
        """Go on where the checkpoint left off, if there is one."""
        state = read_checkpoint(path, self.device, self.identities, made_from="films")
        if state is None:
            return
        self.network.load_state_dict(state["network"])
        self.average, self.best = state["average"], state["best"]
        self.optimiser.load_state_dict(state["optimiser"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.scaler.load_state_dict(state["scaler"])
        self.steps = state["steps"]
        self.history = [Progress(**progress) for progress in state["history"]]
        if self.processes.rank == 0:
            write_history(
                path, self.history
            )  # a kill between checkpoint and history leaves the history one epoch short

    def averaged(self) -> Detector:
        weights = self.best or self.average
        network = Detector(self.recipe.network, pretrained=False)
        network.load_state_dict({name: value.cpu() for name, value in weights.items()})
        return network.eval()


class _Learning(nn.Module):
    """The network as `DistributedDataParallel` wants it: what training asks for is its `forward`."""

    def __init__(self, network: Detector) -> None:
        super().__init__()
        self.network = network

    def forward(self, pictures: Tensor) -> tuple[Outputs, Tensor]:
        return self.network.learn(pictures)


def weighed(parts: Losses, schedule: Schedule) -> Tensor:
    """The parts of the loss, each with the recipe's weight, in one."""
    total = parts.centre + schedule.box_weight * parts.edges + schedule.picture_weight * parts.picture
    return total + schedule.findings_weight * parts.findings


def _identities(recipe: Recipe, films: Sequence[Film], prepared: PreparedFilms) -> tuple[str, ...]:
    """Digests of all that decides the weights, recipe, pixels and labels: the first is written, all are accepted."""
    lines = [
        f"{film.image} {prepared.digests[prepared.index[film.image]]} {film.teaches} {film.boxes} {film.findings}"
        for film in sorted(films, key=lambda film: film.image)
    ]
    return tuple(hashlib.sha256("\n".join([own, *lines]).encode()).hexdigest() for own in recipe.weights_digests)


def _hold_back(films: Sequence[Film], schedule: Schedule) -> tuple[Sequence[Film], Sequence[Film]]:
    """Films that teach, and films of other patients by which training stops: none unless the recipe stops early."""
    if schedule.early_stopping is None:
        return films, ()
    return inner_split(films, share=schedule.early_stopping.share, seed=schedule.seed)


def _half(schedule: Schedule, device: torch.device) -> torch.dtype | None:
    """The half precision in which is computed, if any: float16 needs scaled losses and is for GPUs."""
    if schedule.float16 and device.type == "cuda":
        return torch.float16
    return torch.bfloat16 if schedule.bfloat16 else None


@contextlib.contextmanager
def computing(device: torch.device, schedule: Schedule) -> Iterator[None]:
    """Compute in half precision where the recipe says so; the outputs are float32 all the same."""
    half = _half(schedule, device)
    with torch.autocast(device.type, dtype=half or torch.bfloat16, enabled=half is not None):
        yield


@contextlib.contextmanager
def _repeatable(device: torch.device) -> Iterator[None]:
    """On a GPU take the deterministic form of every operation that has one; a processor needs no asking."""
    if device.type != "cuda":
        yield
        return
    before, benchmark = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        torch.backends.cudnn.benchmark = benchmark

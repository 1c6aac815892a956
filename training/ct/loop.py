"""Trains one three-dimensional detector: the epochs, the moving average, a checkpoint after every epoch.

Called by `training.ct.train` for each fold and for the refit. What is shown in a step derives from the recipe's seed
and the step's number alone, so that a training that was killed and resumed gives the weights and the history of one
that was not.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from training.checkpoints import read_checkpoint, write_checkpoint, write_history
from training.ct.grids import PreparedScan
from training.ct.network import detector
from training.ct.patches import patch
from training.ct.recipe import CtRecipe
from training.errors import DataError

_LARGEST_GRADIENT = 5.0
_LOWEST_RATE = 0.02  # share of the rate left at the end
_AVERAGE_WARMUP = 10.0  # steps after which the moving average forgets its start


@dataclass(frozen=True, kw_only=True, slots=True)
class CtProgress:
    """Mean losses of one epoch that has ended."""

    epoch: int
    epochs: int
    score: float
    box: float
    rate: float


def fit(
    recipe: CtRecipe,
    scans: Sequence[PreparedScan],
    *,
    checkpoint: Path,
    on_epoch: Callable[[CtProgress], None] = lambda progress: None,
    stop_after: int | None = None,
    device: torch.device | None = None,
) -> Any:
    """Train on `scans`, or go on where `checkpoint` left off.

    Returns
    -------
    RetinaNetDetector
        MONAI's, with the averaged weights, on the processor, in evaluation mode.

    Raises
    ------
    DataError
        If there is no scan.
    ResumeError
        If the checkpoint was made under another recipe or from other scans, or cannot be read.
    OSError
        If the checkpoint cannot be written; the last one that was is untouched.
    """
    if not scans:
        raise DataError("no scan is left to learn from: a set of one patient cannot be judged on another")
    torch.manual_seed(recipe.schedule.seed)
    training = _Training(recipe, scans, device or torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    training.resume(checkpoint)
    for progress in training.history:
        on_epoch(progress)
    last = min(recipe.schedule.epochs, stop_after or recipe.schedule.epochs)
    while len(training.history) < last:
        on_epoch(training.run_epoch())
        training.save(checkpoint)
    return training.averaged()


class _Training:
    """The moving parts of one training."""

    def __init__(self, recipe: CtRecipe, scans: Sequence[PreparedScan], device: torch.device) -> None:
        self.recipe, self.scans, self.device = recipe, scans, device
        lines = [recipe.weights_digest, *sorted(scan.digest for scan in scans)]
        self.identity = hashlib.sha256("\n".join(lines).encode()).hexdigest()
        self.detector = detector(recipe).to(device)
        self.average = {name: value.detach().clone() for name, value in self.network.state_dict().items()}
        plan = recipe.schedule
        self.optimiser = AdamW(self.network.parameters(), lr=plan.rate, weight_decay=plan.weight_decay)
        self.scheduler = LambdaLR(self.optimiser, self._rate)
        self.steps = 0
        self.history: list[CtProgress] = []

    @property
    def network(self) -> nn.Module:
        network: nn.Module = self.detector.network
        return network

    def _rate(self, step: int) -> float:
        whole = self.recipe.schedule.steps_per_epoch * self.recipe.schedule.epochs
        warm = self.recipe.schedule.warmup_share * whole
        if step < warm:
            return (step + 1) / (warm + 1)
        along = min(1.0, (step - warm) / max(1.0, whole - warm))
        return _LOWEST_RATE + (1 - _LOWEST_RATE) * 0.5 * (1 + math.cos(math.pi * along))

    def run_epoch(self) -> CtProgress:
        self.detector.train()
        plan = self.recipe.schedule
        # MONAI draws the anchors that are judged from torch's own generator
        torch.manual_seed(plan.seed * 100_003 + len(self.history))
        rate = float(self.scheduler.get_last_lr()[-1])
        sums = np.zeros(2)
        for _ in range(plan.steps_per_epoch):
            sums += self._step()
        score, box = (sums / plan.steps_per_epoch).tolist()
        progress = CtProgress(epoch=len(self.history) + 1, epochs=plan.epochs, score=score, box=box, rate=rate)
        self.history.append(progress)
        return progress

    def _step(self) -> tuple[float, float]:
        plan = self.recipe.schedule
        random = np.random.default_rng((plan.seed, self.steps))
        patches = [patch(self.scans, self.recipe, random) for _ in range(plan.batch_size)]
        tiles = torch.from_numpy(np.stack([one.voxels for one in patches])).to(self.device)
        targets = [
            {
                "boxes": torch.from_numpy(one.boxes).to(self.device),
                "labels": torch.zeros(len(one.boxes), dtype=torch.long, device=self.device),
            }
            for one in patches
        ]
        losses: dict[str, Tensor] = self.detector(tiles, targets)
        score, box = losses[self.detector.cls_key], losses[self.detector.box_reg_key]
        self.optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(score + plan.box_weight * box)
        nn.utils.clip_grad_norm_(self.network.parameters(), _LARGEST_GRADIENT)
        self.optimiser.step()
        self.scheduler.step()
        self._update_average()
        return float(score.detach()), float(box.detach())

    def _update_average(self) -> None:
        self.steps += 1
        decay = min(self.recipe.schedule.average_decay, self.steps / (self.steps + _AVERAGE_WARMUP))
        with torch.no_grad():
            for name, value in self.network.state_dict().items():
                if value.is_floating_point():
                    self.average[name].lerp_(value, 1 - decay)

    def save(self, path: Path) -> None:
        state = {
            "identity": self.identity,
            "history": [asdict(progress) for progress in self.history],
            "steps": self.steps,
            "network": self.network.state_dict(),
            "average": self.average,
            "optimiser": self.optimiser.state_dict(),
            "scheduler": self.scheduler.state_dict(),
        }
        write_checkpoint(path, state)
        write_history(path, self.history)

    def resume(self, path: Path) -> None:
        """Go on where the checkpoint left off, if there is one."""
        state = read_checkpoint(path, self.device, (self.identity,), made_from="scans")
        if state is None:
            return
        self.network.load_state_dict(state["network"])
        self.average, self.steps = state["average"], state["steps"]
        self.optimiser.load_state_dict(state["optimiser"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.history = [CtProgress(**progress) for progress in state["history"]]
        write_history(path, self.history)

    def averaged(self) -> Any:
        made = detector(self.recipe)
        made.network.load_state_dict({name: value.cpu() for name, value in self.average.items()})
        return made.eval()

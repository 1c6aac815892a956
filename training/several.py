"""The processes that train one network together: one alone, or several started by torchrun.

Called by `training.train`, used by `training.loop`. Every process holds the same network and takes its share of every
batch; gradients are averaged by `DistributedDataParallel` (NCCL between GPUs, gloo between processors). All processes
end with the same weights. They are those of one process with the same batches except that each process normalises the
losses of its own share, changes pictures and drops units with random numbers of its own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import distributed, nn

from training.data import Film


@dataclass(frozen=True, kw_only=True, slots=True)
class Processes:
    """This process among those that train together."""

    rank: int
    count: int
    device: torch.device

    @classmethod
    def alone(cls) -> Self:
        """One process, on the first GPU where there is one."""
        return cls(rank=0, count=1, device=torch.device("cuda" if torch.cuda.is_available() else "cpu"))

    def share(self, films: Sequence[Film]) -> Sequence[Film]:
        """This process's films of a batch: every `count`-th; one film again where there are too few for all."""
        return films[self.rank :: self.count] or [films[self.rank % len(films)]]

    def together(self, module: nn.Module) -> nn.Module:
        """The module, averaging its gradients over the processes."""
        if self.count == 1:
            return module
        from torch.nn.parallel import DistributedDataParallel

        return cast("nn.Module", DistributedDataParallel(module, broadcast_buffers=False))

    def mean(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Mean of each value over the processes."""
        if self.count == 1:
            return values
        summed = torch.from_numpy(values).to(self.device)
        distributed.all_reduce(summed)
        return np.asarray(summed.cpu().numpy() / self.count)

    def first(self, value: float) -> float:
        """The value of the first process, which decides for all."""
        if self.count == 1:
            return value
        told = torch.tensor([value], dtype=torch.float64, device=self.device)
        distributed.broadcast(told, src=0)
        return float(told.item())

    def wait(self) -> None:
        """Wait until all have come here."""
        if self.count > 1:
            distributed.barrier()


@contextmanager
def joined() -> Iterator[Processes]:
    """The processes that torchrun started, joined while the block runs; alone without torchrun."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Processes.alone()
        return
    cuda = torch.cuda.is_available()
    device = torch.device(f"cuda:{os.environ['LOCAL_RANK']}" if cuda else "cpu")
    if cuda:
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if cuda else "gloo")
    try:
        yield Processes(rank=distributed.get_rank(), count=distributed.get_world_size(), device=device)
    finally:
        distributed.destroy_process_group()

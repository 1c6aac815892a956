"""Several networks that answer as one: trained one after another, averaged, and stored in half precision.

Called by `training.detection`. Members differ by their seed alone: first weights of the heads, order and changes of
the films. Where their errors differ they cancel; each member costs a training and a look.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from training.cache import PreparedFilms
from training.data import Film
from training.loop import Progress, fit
from training.network import Detector, Outputs
from training.recipe import Recipe
from training.several import Processes


class Members(nn.Module):
    """The mean of what the networks say: of logits, and of distances to a box's edges."""

    def __init__(self, members: Sequence[Detector]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, pictures: Tensor) -> Outputs:
        """Pictures (N, 1, H, W) to `Outputs`."""
        said = [member(pictures) for member in self.members]
        return Outputs(*(torch.stack(outputs).mean(dim=0) for outputs in zip(*said, strict=True)))


class HalfStored(nn.Module):
    """A network whose weights are rounded to float16 and kept so, while it computes in float32.

    What is exported of it takes half the room, and says to the last digit what this module says: rounding is part of
    the network that is proved, not of the file. For serving only; nothing in it learns.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self._network = (network.eval(),)  # in a tuple, so that its full weights are not taken for this module's
        self._names: list[str] = []
        for index, (name, weights) in enumerate([*network.named_parameters(), *network.named_buffers()]):
            self._names.append(name)
            kept = weights.detach()
            self.register_buffer(f"stored_{index}", kept.half() if kept.is_floating_point() else kept.clone())

    def forward(self, pictures: Tensor) -> Outputs:
        """Pictures (N, 1, H, W) to `Outputs`, in float32."""
        stored = zip(self._names, self.buffers(), strict=True)
        weights = {name: kept.float() if kept.is_floating_point() else kept for name, kept in stored}
        said: Outputs = torch.func.functional_call(self._network[0], weights, (pictures,))
        return said


def fit_members(
    recipe: Recipe,
    films: Sequence[Film],
    prepared: PreparedFilms,
    *,
    checkpoint: Path,
    on_epoch: Callable[[Progress], None] = lambda progress: None,
    processes: Processes | None = None,
) -> Detector | Members:
    """Train the members of the recipe, or go on where their checkpoints left off.

    The first member's checkpoint is `checkpoint`, the others' lie beside it as ``NAME.member-1.pt`` and so on; see
    `training.loop.fit` for the rest.

    Returns
    -------
    Detector or Members
        The one network, or several as one, in evaluation mode.

    Raises
    ------
    ResumeError
        If a checkpoint was made under another recipe or from other films, or cannot be read.
    """
    members = []
    for index in range(recipe.members):
        own = recipe.schedule.model_copy(update={"seed": recipe.schedule.seed + index})
        file = checkpoint if index == 0 else checkpoint.with_name(f"{checkpoint.stem}.member-{index}.pt")
        of_member = recipe.model_copy(update={"schedule": own})
        members.append(fit(of_member, films, prepared, checkpoint=file, on_epoch=on_epoch, processes=processes))
    return members[0] if recipe.members == 1 else Members(members).eval()

"""What the network should have said, and how wrong it was.

Called by `training.loop`. The centre target is a bell over each box (its top at the cell nearest the centre), because
a mark counts when it lies in the box, not only when it lies on its centre.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from training.network import STRIDE, Outputs

_BELL = 0.18  # standard deviation of the bell as a share of the box's side
_EDGE_CELLS = 0.35  # height of the bell above which a cell must know the edges
_SHARPNESS, _FORGIVENESS = 2.0, 4.0  # exponents of the penalty-reduced focal loss


class Targets(NamedTuple):
    """What N pictures show: boxes padded to the same number K."""

    boxes: Tensor  # (N, K, 4) x_min, y_min, x_max, y_max in input pixels
    present: Tensor  # (N, K) bool: the box is there, not padding
    picture: Tensor  # (N, 1) 1 where the picture shows an opacity
    weight: Tensor  # (N,) how much centres and picture count
    findings: Tensor  # (N, findings) 1 where text mining found it


class Losses(NamedTuple):
    """The parts of the loss, unweighted."""

    centre: Tensor
    edges: Tensor
    picture: Tensor
    findings: Tensor


def cell_centres(height: int, width: int) -> Tensor:
    """(h, w, 2) x and y of the cells' centres in input pixels."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return (torch.stack([x, y], dim=-1) + 0.5) * STRIDE


def centre_targets(targets: Targets, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Bells over the boxes.

    Returns
    -------
    Tensor
        (N, h, w) height of the highest bell, 1 at the cell nearest a box's centre.
    Tensor
        (N, h, w) index of that box.
    """
    x_min, y_min, x_max, y_max = targets.boxes.unbind(-1)
    middle = torch.stack([(x_min + x_max) / 2, (y_min + y_max) / 2], dim=-1)
    side = torch.stack([x_max - x_min, y_max - y_min], dim=-1).clamp(min=STRIDE)
    away = (cell_centres(height, width)[None, None] - middle[:, :, None, None]) / (side * _BELL)[:, :, None, None]
    bells = torch.exp(-away.square().sum(-1) / 2)
    bells = bells / bells.amax(dim=(2, 3), keepdim=True).clamp(min=1e-6) * targets.present[:, :, None, None]
    highest, box = bells.max(dim=1)
    return highest, box


def losses(outputs: Outputs, findings: Tensor, targets: Targets) -> Losses:
    """The loss of one batch for a network of one label, and for its logits (N, findings) of text-mined findings."""
    height, width = outputs.heatmap.shape[-2:]
    bell, box = centre_targets(targets, height, width)
    return Losses(
        centre=_centre_loss(outputs.heatmap[:, 0], bell, targets),
        edges=_edge_loss(outputs.ltrb, bell, box, targets.boxes),
        picture=_picture_loss(outputs.picture, targets),
        findings=functional.binary_cross_entropy_with_logits(findings, targets.findings),
    )


def _centre_loss(logits: Tensor, bell: Tensor, targets: Targets) -> Tensor:
    said = logits.sigmoid()
    hit = -functional.logsigmoid(logits) * (1 - said) ** _SHARPNESS
    false = -functional.logsigmoid(-logits) * said**_SHARPNESS * (1 - bell) ** _FORGIVENESS
    a_cell = torch.where(bell >= 1 - 1e-4, hit, false) * targets.weight[:, None, None]
    return a_cell.sum() / max(1, len(logits), int(targets.present.sum()))


def _edge_loss(ltrb: Tensor, bell: Tensor, box: Tensor, boxes: Tensor) -> Tensor:
    """Generalised IoU loss of the cells near the centres; only distances above zero can be truth."""
    cells = (bell > _EDGE_CELLS).nonzero(as_tuple=True)
    if not len(cells[0]):
        return ltrb.sum() * 0.0
    pictures, rows, columns = cells
    centre = cell_centres(*bell.shape[-2:])[rows, columns]
    said = ltrb[pictures, :, rows, columns]
    predicted = torch.cat([centre - said[:, :2], centre + said[:, 2:]], dim=1)
    weight = bell[cells]
    return (weight * (1 - _generalised_iou(predicted, boxes[pictures, box[cells]]))).sum() / weight.sum()


def _generalised_iou(one: Tensor, other: Tensor) -> Tensor:
    """(M,) generalised IoU of the boxes of each row."""
    overlap = (torch.minimum(one[:, 2:], other[:, 2:]) - torch.maximum(one[:, :2], other[:, :2])).clamp(min=0).prod(1)
    hull = (torch.maximum(one[:, 2:], other[:, 2:]) - torch.minimum(one[:, :2], other[:, :2])).prod(1)
    union = (one[:, 2:] - one[:, :2]).prod(1) + (other[:, 2:] - other[:, :2]).prod(1) - overlap
    return overlap / union.clamp(min=1e-6) - (hull - union) / hull.clamp(min=1e-6)


def _picture_loss(logits: Tensor, targets: Targets) -> Tensor:
    each = functional.binary_cross_entropy_with_logits(logits, targets.picture, reduction="none")
    return (each * targets.weight[:, None]).sum() / targets.weight.sum().clamp(min=1e-6)

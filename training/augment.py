"""Changes prepared films at random: place, size, tilt, grey scale, noise, blanked edges. Boxes follow.

Called by `training.loop`. Films are grey in 0..1 and square or not; all randomness comes from the generator that is
passed in, so that a training can be repeated. Mirroring is allowed because an opacity is an opacity on either side;
the network therefore knows nothing of situs, which its card says.
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor
from torch.nn import functional

from training.recipe import Augmentation

_CHANCE_OF_EDGE, _CHANCE_OF_BLACK = 0.5, 0.8
_LEFT_OF_BOX = 0.35  # a box of which less than this share stays in the picture is no longer shown


def augment(
    pictures: Tensor, boxes: Tensor, present: Tensor, bounds: Augmentation, random: Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Change each picture in its own way.

    Parameters
    ----------
    pictures : Tensor
        (N, 1, H, W) grey in 0..1.
    boxes : Tensor
        (N, K, 4) x_min, y_min, x_max, y_max in pixels of `pictures`.
    present : Tensor
        (N, K) bool: the box is there, not padding.
    bounds : Augmentation
        How far the changes may go.
    random : Generator
        Source of all randomness.

    Returns
    -------
    tuple of Tensor
        Pictures, boxes and present, of the same shapes; boxes are clipped to the picture.
    """
    forward = _placements(len(pictures), bounds, random)
    pictures = _blank_edges(_move(pictures, forward), bounds, random)
    boxes, present = move_boxes(boxes, present, forward, pictures.shape[-2], pictures.shape[-1])
    return _change_greys(pictures, bounds, random), boxes, present


def _uniform(count: int, bound: float, random: Generator) -> Tensor:
    """(count,) numbers between -bound and bound."""
    return (torch.rand(count, generator=random) * 2 - 1) * bound


def _placements(count: int, bounds: Augmentation, random: Generator) -> Tensor:
    """(N, 2, 3) affine maps from old to new coordinates, both -1..1 over the picture."""
    angle = _uniform(count, math.radians(bounds.rotation_degrees), random)
    size = torch.exp(_uniform(count, math.log1p(bounds.scale), random))
    mirror = torch.where(torch.rand(count, generator=random) < bounds.flip, -1.0, 1.0)
    shift_x, shift_y = _uniform(count, 2 * bounds.shift, random), _uniform(count, 2 * bounds.shift, random)
    cosine, sine = torch.cos(angle) * size, torch.sin(angle) * size
    rows = [cosine * mirror, -sine, shift_x, sine * mirror, cosine, shift_y]
    return torch.stack(rows, dim=1).view(count, 2, 3)


def _move(pictures: Tensor, forward: Tensor) -> Tensor:
    """Resample; what comes from outside is black, as the padding of a prepared film is."""
    linear, shift = forward[:, :, :2], forward[:, :, 2:]
    back = torch.linalg.inv(linear)
    theta = torch.cat([back, -back @ shift], dim=2)
    grid = functional.affine_grid(theta, list(pictures.shape), align_corners=False)
    return functional.grid_sample(pictures, grid, align_corners=False, padding_mode="zeros")


def move_boxes(boxes: Tensor, present: Tensor, forward: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Boxes (N, K, 4) after the maps (N, 2, 3): centre moved, sides scaled, clipped to the picture.

    Sides are not grown by the tilt: a reader's box is the hull of a blob, and the hull of a tilted blob keeps about
    its size, while the hull of a tilted box grows.
    """
    half = torch.tensor([width / 2, height / 2])
    low, high = boxes[..., :2] / half - 1, boxes[..., 2:] / half - 1
    middle = (low + high) / 2 @ forward[:, :, :2].transpose(1, 2) + forward[:, None, :, 2]
    size = forward[:, :, 0].norm(dim=1)[:, None, None]
    reach = (high - low) / 2 * size
    unclipped = torch.cat([(middle - reach + 1) * half, (middle + reach + 1) * half], dim=-1)
    limit = torch.tensor([width, height, width, height], dtype=boxes.dtype)
    clipped = torch.minimum(unclipped.clamp(min=0), limit)
    kept = _area(clipped) >= _LEFT_OF_BOX * _area(unclipped).clamp(min=1e-6)
    return clipped, present & kept


def _area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2:] - boxes[..., :2]).prod(-1)


def _blank_edges(pictures: Tensor, bounds: Augmentation, random: Generator) -> Tensor:
    """Collimation: now and then one edge of the picture is black or white."""
    pictures = pictures.clone()
    for picture in pictures:
        side, width, grey, chance = torch.rand(4, generator=random).tolist()
        if chance < 1 - _CHANCE_OF_EDGE:
            continue
        depth = int(width * bounds.border * picture.shape[-1])
        turned = torch.rot90(picture, int(side * 4), (1, 2))  # a view: writing into it changes the picture
        turned[:, :depth] = float(grey > _CHANCE_OF_BLACK)  # white now and then: bare plates are
    return pictures


def _change_greys(pictures: Tensor, bounds: Augmentation, random: Generator) -> Tensor:
    count = len(pictures)
    gamma = torch.exp(_uniform(count, bounds.gamma, random)).view(-1, 1, 1, 1)
    contrast = 1 + _uniform(count, bounds.contrast, random).view(-1, 1, 1, 1)
    brightness = _uniform(count, bounds.brightness, random).view(-1, 1, 1, 1)
    noise = torch.rand(count, generator=random).view(-1, 1, 1, 1) * bounds.noise
    changed = (pictures.clamp(0, 1) ** gamma - 0.5) * contrast + 0.5 + brightness
    return (changed + torch.randn(pictures.shape, generator=random) * noise).clamp(0, 1)

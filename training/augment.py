"""Changes prepared films at random: place, size, tilt, grey scale, noise, blanked edges. Boxes follow.

Called by `training.views`. The pictures are changed by torchvision's transforms; what is drawn for them, and how a
reader's boxes follow, is decided here. All randomness comes from the generator that is passed in, so that a training
can be repeated. Mirroring is allowed because an opacity is an opacity on either side; the network therefore knows
nothing of situs, which its card says.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from training.recipe import Augmentation

_CHANCE_OF_EDGE, _CHANCE_OF_BLACK = 0.5, 0.8
_LEFT_OF_BOX = 0.35  # a box of which less than this share stays in the picture is no longer shown


@dataclass(frozen=True, kw_only=True, slots=True)
class Placement:
    """How a picture is moved: mirrored left to right or not, then turned and resized about its middle, then shifted."""

    mirrored: bool = False
    angle_degrees: float = 0.0  # clockwise as it is seen
    size: float = 1.0
    shift_x: float = 0.0  # pixels
    shift_y: float = 0.0

    @classmethod
    def drawn(cls, bounds: Augmentation, height: int, width: int, random: Generator) -> Placement:
        """A placement within `bounds`."""
        chance, angle, size, x, y = torch.rand(5, generator=random).tolist()
        return cls(
            mirrored=chance < bounds.flip,
            angle_degrees=(2 * angle - 1) * bounds.rotation_degrees,
            size=math.exp((2 * size - 1) * math.log1p(bounds.scale)),
            shift_x=(2 * x - 1) * bounds.shift * width,
            shift_y=(2 * y - 1) * bounds.shift * height,
        )


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
    height, width = pictures.shape[-2:]
    changed, moved, left = [], [], []
    for picture, its_boxes, its_present in zip(pictures, boxes, present, strict=True):
        placement = Placement.drawn(bounds, height, width, random)
        placed = _blank_edge(_move(picture, placement), bounds, random)
        there, kept = move_boxes(its_boxes, its_present, placement, height, width)
        changed.append(_change_greys(placed, bounds, random))
        moved.append(there)
        left.append(kept)
    return torch.stack(changed), torch.stack(moved), torch.stack(left)


def _move(picture: Tensor, placement: Placement) -> Tensor:
    """Resample; what comes from outside is black, as the padding of a prepared film is."""
    picture = transforms.horizontal_flip(picture) if placement.mirrored else picture
    moved: Tensor = transforms.affine(
        picture,
        angle=placement.angle_degrees,
        translate=[placement.shift_x, placement.shift_y],
        scale=placement.size,
        shear=[0.0, 0.0],
        interpolation=InterpolationMode.BILINEAR,
    )
    return moved


def move_boxes(boxes: Tensor, present: Tensor, placement: Placement, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Boxes (K, 4) of a picture after it was moved: centre moved, sides scaled, clipped to the picture.

    Sides are not grown by the tilt, as torchvision's own boxes are: a reader's box is the hull of a blob, and the hull
    of a tilted blob keeps about its size, while the hull of a tilted box grows.
    """
    middle = torch.tensor([width / 2, height / 2])
    away = (boxes[:, :2] + boxes[:, 2:]) / 2 - middle
    if placement.mirrored:
        away = away * torch.tensor([-1.0, 1.0])
    angle = math.radians(placement.angle_degrees)
    turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]) * placement.size
    centre = away @ turn.T + middle + torch.tensor([placement.shift_x, placement.shift_y])
    reach = (boxes[:, 2:] - boxes[:, :2]) / 2 * placement.size
    unclipped = torch.cat([centre - reach, centre + reach], dim=1)
    clipped = torch.minimum(unclipped.clamp(min=0), torch.tensor([width, height, width, height], dtype=boxes.dtype))
    kept = _area(clipped) >= _LEFT_OF_BOX * _area(unclipped).clamp(min=1e-6)
    return clipped, present & kept


def _area(boxes: Tensor) -> Tensor:
    return (boxes[:, 2:] - boxes[:, :2]).prod(1)


def _blank_edge(picture: Tensor, bounds: Augmentation, random: Generator) -> Tensor:
    """Collimation: now and then one edge of the picture is black or white."""
    side, width, grey, chance = torch.rand(4, generator=random).tolist()
    if chance < 1 - _CHANCE_OF_EDGE:
        return picture
    depth = int(width * bounds.border * picture.shape[-1])
    picture = picture.clone()
    turned = torch.rot90(picture, int(side * 4), (1, 2))  # a view: writing into it changes the picture
    turned[:, :depth] = float(grey > _CHANCE_OF_BLACK)  # white now and then: bare plates are
    return picture


def _change_greys(picture: Tensor, bounds: Augmentation, random: Generator) -> Tensor:
    """Gamma, contrast about the film's mean, brightness, noise; greys stay in 0..1."""
    gamma, contrast, brightness = (2 * torch.rand(3, generator=random) - 1).tolist()
    noise = torch.rand((), generator=random) * bounds.noise
    changed: Tensor = transforms.adjust_gamma(picture.clamp(0, 1), math.exp(gamma * bounds.gamma))
    changed = transforms.adjust_contrast(changed, 1 + contrast * bounds.contrast) + brightness * bounds.brightness
    # torchvision's noise cannot be given a generator.
    return (changed + torch.randn(picture.shape, generator=random) * noise).clamp(0, 1)

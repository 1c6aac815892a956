"""What a trained network says of films it has not seen, kept as one file per fold.

Called by `training.train` after each fold. Turning these scores into thresholds is `training.operating`, into figures
`training.figures`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from pydantic import TypeAdapter
from torch import nn

from eval.froc import Mark
from inference.postprocess import decode
from models.outputs import CenterHeatmapOutput
from training.batches import normalised
from training.cache import PreparedFilms
from training.data import Film, ImageName
from training.files import write_whole
from training.network import STRIDE, Mirrored, Outputs
from training.recipe import Recipe


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredFilm:
    """What a network said of a film held out from its training: logits, marks in source pixels."""

    image: ImageName
    fold: int
    picture_logit: float
    marks: tuple[Mark, ...]


def output_of(recipe: Recipe) -> CenterHeatmapOutput:
    """The card's output: how a node, and the evaluation, turns the network's numbers into marks."""
    return CenterHeatmapOutput(stride=STRIDE, max_lesions=recipe.judging.max_marks, nms_iou=recipe.judging.nms_iou)


def as_served(network: nn.Module, recipe: Recipe) -> nn.Module:
    """The network as it is judged, exported and served."""
    if not recipe.network.mirror_when_judged:
        return network.eval()
    axis = recipe.network.mirror_axis
    if axis == "both":
        return Mirrored(Mirrored(network), axis="vertical").eval()
    return Mirrored(network, axis=axis).eval()


_SCORED = TypeAdapter(tuple[ScoredFilm, ...])


def score_films(
    network: nn.Module, films: Sequence[Film], prepared: PreparedFilms, recipe: Recipe, *, fold: int
) -> tuple[ScoredFilm, ...]:
    """Run `network` over `films` one by one in float32, and decode as a node does, but keep marks of every score."""
    network.eval()
    output = output_of(recipe)
    scored = []
    with torch.inference_mode():
        for film in films:
            grey = torch.from_numpy(prepared.grey(film.image))[None, None]
            outputs: Outputs = network(normalised(grey, recipe))
            transform = prepared.transform(film.image)
            said = decode(outputs.heatmap[0].numpy(), outputs.ltrb[0].numpy(), output, transform)
            marks = tuple(Mark(box=mark.box, score=mark.logit) for mark in said)
            logit = float(outputs.picture[0, 0])
            scored.append(ScoredFilm(image=film.image, fold=fold, picture_logit=logit, marks=marks))
    return tuple(scored)


def write_scores(scored: Iterable[ScoredFilm], file: Path) -> None:
    """Write scores as JSON, whole or not at all."""
    write_whole(file, json.dumps([asdict(film) for film in scored]))


def read_scores(file: Path) -> tuple[ScoredFilm, ...]:
    """Read what `write_scores` wrote."""
    return _SCORED.validate_json(file.read_bytes())

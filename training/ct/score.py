"""Marks of a detector on scans it has not seen, held against the real lesions there. Counts, no verdict on accuracy.

Called by `training.ct.train`. Scans go through the very steps of serving: grid, tiles, decoding, merging.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from inference.outputs.seen import sigmoid
from inference.volumes.decode import TileMark, tile_marks
from inference.volumes.grid import normalised
from inference.volumes.merge import Place, merged
from inference.volumes.tiles import cut, plan
from models.card import ModelCard
from models.outputs import BoxesOutput
from training.ct.grids import PreparedScan
from training.ct.network import Served
from training.ct.recipe import CtRecipe

_BATCH = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class ScanScore:
    """How the marks of one scan lie.

    Attributes
    ----------
    patient, scan : str
    lesions : int
        Real ones.
    scores_of_found : tuple of float
        For each lesion the score of the strongest mark that hits it, 0 where none does.
    scores_of_false : tuple of float
        Of marks that hit no lesion, highest first.
    litres : float
        Of the scan that was looked at: a scan may be a few slices only.
    """

    patient: str
    scan: str
    lesions: int
    scores_of_found: tuple[float, ...]
    scores_of_false: tuple[float, ...]
    litres: float

    def found_at(self, threshold: float) -> int:
        """Lesions marked at a threshold."""
        return sum(score >= threshold for score in self.scores_of_found)

    def false_at(self, threshold: float) -> int:
        """False marks at a threshold."""
        return sum(score >= threshold for score in self.scores_of_false)


def marks(served: Served, voxels: NDArray[np.float32], card: ModelCard) -> tuple[Place, ...]:
    """Places that the detector marks on one windowed grid, as serving would."""
    spec, output = card.input, card.output
    assert isinstance(output, BoxesOutput) and spec.kind == "volume"
    tiles = plan(_shape(voxels), spec.tile, spec.overlap)
    found: list[TileMark] = []
    for start in range(0, len(tiles), _BATCH):
        batch = tiles[start : start + _BATCH]
        shown = np.stack([normalised(cut(voxels, tile), spec)[np.newaxis] for tile in batch])
        with torch.inference_mode():
            boxes, scores = served(torch.from_numpy(shown))
        for index, tile in enumerate(batch):
            found += tile_marks({"boxes": boxes[index].numpy(), "scores": scores[index].numpy()}, tile, card)
    return merged(found, nms_iou=output.nms_iou, max_lesions=output.max_lesions)


def score(trained: Any, scan: PreparedScan, recipe: CtRecipe, card: ModelCard) -> ScanScore:
    """Marks of `trained` on one scan, held against its lesions."""
    places = marks(Served(trained, recipe).eval(), np.asarray(scan.voxels, dtype=np.float32), card)
    found: list[float] = []
    used: set[int] = set()
    for low, high in scan.boxes:
        hits = [index for index, place in enumerate(places) if hit(place, low, high, recipe.judging.hit_iou)]
        used |= set(hits)
        found.append(max((sigmoid(places[index].logit) for index in hits), default=0.0))
    wrong = sorted((sigmoid(place.logit) for index, place in enumerate(places) if index not in used), reverse=True)
    litres = float(np.prod(scan.voxels.shape) * np.prod(recipe.input.spacing_mm) / 1e6)
    return ScanScore(
        patient=scan.case.patient,
        scan=scan.case.name,
        lesions=len(scan.boxes),
        scores_of_found=tuple(found),
        scores_of_false=tuple(wrong),
        litres=litres,
    )


def hit(place: Place, low: NDArray[np.float64], high: NDArray[np.float64], least_iou: float) -> bool:
    """Whether a mark's centre lies in the lesion's box, or their boxes overlap enough."""
    middle = (place.low + place.high) / 2
    if bool(((middle >= low) & (middle <= high)).all()):
        return True
    shared = np.prod(np.clip(np.minimum(place.high, high) - np.maximum(place.low, low), 0, None))
    union = np.prod(place.high - place.low) + np.prod(high - low) - shared
    return float(shared / union) >= least_iou


def table(scores: Sequence[ScanScore], threshold: float) -> str:
    """The counts of all scans as a Markdown table."""
    lines = [
        "| patient | lesions | found | score of the strongest mark on each | false marks | litres looked at |",
        "|---|--:|--:|---|--:|--:|",
    ]
    for one in scores:
        strongest = ", ".join(f"{value:.2f}" for value in one.scores_of_found)
        lines.append(
            f"| {one.patient} | {one.lesions} | {one.found_at(threshold)} | {strongest} | {one.false_at(threshold)} | "
            f"{one.litres:.1f} |"
        )
    return "\n".join(lines)


def _shape(voxels: NDArray[np.float32]) -> tuple[int, int, int]:
    slices, rows, columns = voxels.shape
    return slices, rows, columns

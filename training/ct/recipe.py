"""The recipe of a three-dimensional detector: everything that decides the weights, in one frozen file.

Read by `training.ct.train`; its digest is kept in every checkpoint, so that a training resumed under another recipe is
refused instead of continued.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from models.inputs import VolumeInput
from training.recipe import read_as

COARSEST_STRIDE = 8  # of the network's second level


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class CtData(_Part):
    """Where scans and lesions come from."""

    reader: Literal["boxes-csv", "luna16", "lidc-xml", "decathlon"] = "boxes-csv"
    folders: tuple[str, ...] = Field(default=(".",), description="sub-folders of the data folder, each in the layout")
    table: str = Field(default="", description="name of the table or list; empty takes the layout's usual one")
    world: Literal["lps", "ras", "voxel"] = Field(default="lps", description="frame of a decathlon list's boxes")
    box_mode: Literal["cccwhd", "xyzxyz", "xxyyzz", "xyzwhd"] = Field(
        default="cccwhd", description="numbers of a decathlon list's boxes, as MONAI calls them"
    )
    smallest_mm: float = Field(default=3.0, ge=0, description="lesions below it are not learnt and not counted")


class CtNetwork(_Part):
    """Shape of the detector; see `training.ct.network`."""

    labels: tuple[str, ...] = Field(min_length=1, max_length=1, description="key of the card's label")
    channels: int = Field(default=32, ge=8, le=256, multiple_of=8)
    anchors: tuple[float, ...] = Field(
        default=(6.0, 10.0), min_length=1, description="sides of cubic anchors of the finer level, in voxels"
    )
    coarse_scale: float = Field(default=3.0, gt=1, description="the coarser level's anchors are larger by this")
    boxes_per_tile: int = Field(default=32, ge=1, le=1000)


class CtSchedule(_Part):
    """How long and how fast it is trained."""

    epochs: int = Field(ge=1)
    steps_per_epoch: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    rate: float = Field(gt=0)
    warmup_share: float = Field(default=0.1, ge=0, lt=1)
    weight_decay: float = Field(default=0.01, ge=0)
    average_decay: float = Field(default=0.99, ge=0, lt=1)
    box_weight: float = Field(default=1.0, ge=0)
    hard_negatives: int = Field(default=32, ge=1, description="anchors of a tile that are judged")
    candidates: int = Field(default=4, ge=1, description="anchors per level that ATSS considers for a lesion")
    seed: int = 0


class Synthesis(_Part):
    """Nodules drawn into lung while the network learns; see `training.ct.nodules`."""

    share: float = Field(default=0.7, ge=0, le=1, description="of tiles that get nodules")
    most: int = Field(default=3, ge=1, description="nodules of such a tile")
    smallest_mm: float = Field(default=4.0, gt=0)
    largest_mm: float = Field(default=30.0, gt=0)
    solid_hu: tuple[float, float] = (-100.0, 100.0)
    ground_glass_share: float = Field(default=0.2, ge=0, le=1)
    ground_glass_hu: tuple[float, float] = (-700.0, -450.0)
    blur_mm: tuple[float, float] = Field(default=(0.5, 1.0), description="standard deviation of the scanner's blur")
    roughness: float = Field(default=0.15, ge=0, lt=0.5, description="deviation of the radius from an ellipsoid's")


class CtJudging(_Part):
    """How marks are held against real lesions."""

    hit_iou: float = Field(default=0.1, gt=0, lt=1)
    threshold: float = Field(
        default=0.9, gt=0, lt=1, description="served; with few patients it is no more than a guess"
    )
    threshold_because: str = Field(
        default="the network learns from one lesion in four judged anchors, so its scores are far too high",
        min_length=1,
        description="why this threshold, for the card",
    )


class CtRecipe(_Part):
    """A whole training of a three-dimensional detector."""

    task: Literal["detection-3d"]
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{1,62}$")
    version: str = Field(pattern=r"^[0-9]+\.[0-9]+\.[0-9]+$")
    folds: int = Field(default=0, ge=0, description="0 leaves one patient out at a time")
    data: CtData = CtData()
    input: VolumeInput
    network: CtNetwork
    schedule: CtSchedule
    synthesis: Synthesis = Synthesis()
    judging: CtJudging = CtJudging()

    @model_validator(mode="after")
    def _tile_fits_network(self) -> CtRecipe:
        if any(side % COARSEST_STRIDE for side in self.input.tile):
            raise ValueError(f"input: tile sides must be multiples of {COARSEST_STRIDE}, the network's coarsest stride")
        return self

    @property
    def digest(self) -> str:
        """sha256 of the recipe's canonical JSON."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()

    @property
    def weights_digest(self) -> str:
        """sha256 of what decides the weights: the recipe without name and judging."""
        decisive = self.model_dump_json(include={"data", "input", "network", "schedule", "synthesis"})
        return hashlib.sha256(decisive.encode()).hexdigest()


def read_recipe(path: Path) -> CtRecipe:
    """Read and check one recipe.

    Raises
    ------
    RecipeError
        If the file cannot be read or breaks a rule; the message names every fault.
    """
    return read_as(CtRecipe, path)

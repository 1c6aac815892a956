"""The recipe of a training: everything that decides the weights, in one frozen file that people write.

Read by `training.train`; its digest is kept in every checkpoint, so that a training resumed under another recipe is
refused instead of continued.
"""

from __future__ import annotations

import hashlib
import tomllib
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from models.inputs import BreastInput, Layout, ProjectionInput
from training.errors import RecipeError

Kind = TypeVar("Kind", bound=BaseModel)


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Data(_Part):
    """Which films, and what to do about faults in them."""

    reader: str = Field(default="nih-chest", description="layout of the folder; `training.readers` lists them")
    manifest_sha256: str | None = Field(
        default=None,
        pattern=r"^[0-9a-f]{64}$",
        description="digest that the films which teach must have (radnode data manifest); another set is refused",
    )
    on_fault: Literal["refuse", "clip", "skip"] = Field(
        default="refuse",
        description="a box beyond its film: refuse the run, clip the box, or skip the film; "
        "a film that cannot be read is skipped with 'skip' only",
    )
    unlabelled: Literal["refuse", "ignore"] = Field(
        default="refuse", description="pictures in the folder that no table names: refuse the run, or leave them out"
    )
    near_duplicate_bits: int | None = Field(
        default=None,
        ge=0,
        le=255,
        description="films whose 255-bit hashes differ in at most this many bits are near twins; null: measured",
    )
    twins: Literal["warn", "bind"] = Field(
        default="warn", description="twins under two patients: warn, or deal both patients into the same fold"
    )
    shortcut_auroc: float = Field(
        default=0.65, ge=0.5, le=1, description="a trait that separates the label alone this well is warned of"
    )
    show_films: bool = Field(
        default=False, description="the licence allows pictures of these films in the run's records and overlays"
    )


class Network(_Part):
    """Shape of the detector; see `training.network.Detector`."""

    labels: tuple[str, ...] = Field(min_length=1, description="keys of the card's labels, one channel each")
    neck_channels: int = Field(ge=8, le=512, multiple_of=8)
    frozen_blocks: int = Field(ge=0, le=16, description="first blocks of the backbone that keep their ImageNet weights")
    dropout: float = Field(ge=0, lt=1)
    mirror_when_judged: bool = Field(
        default=True, description="judge and serve the mean of a film and its mirror image; it costs a second look"
    )
    mirror_axis: Literal["horizontal", "vertical", "both"] = Field(
        default="horizontal",
        description="the mirror image swaps left and right, or above and below; both: the mean of all four",
    )


class EarlyStopping(_Part):
    """Stop when films held back inside the training folds are learnt no better; off by default: sets are small."""

    patience_epochs: int = Field(ge=1)
    share: float = Field(default=0.15, gt=0, lt=0.5, description="share of training patients that are held back")


class Schedule(_Part):
    """How long and how fast it is trained."""

    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    repeat_lesions: int = Field(ge=1, description="times a film with boxes is shown in an epoch")
    negatives: int | None = Field(
        default=None, ge=0, description="films read as without lesion shown in an epoch; null: all of them"
    )
    probable_negatives: int = Field(ge=0, description="films with the text-mined 'No Finding' shown in an epoch")
    probable_weight: float = Field(ge=0, le=1, description="weight of those films in the loss")
    backbone_rate: float = Field(gt=0)
    head_rate: float = Field(gt=0)
    warmup_share: float = Field(ge=0, lt=1, description="share of all steps in which the rate rises")
    weight_decay: float = Field(ge=0)
    average_decay: float = Field(ge=0, lt=1, description="decay a step of the moving average of the weights")
    box_weight: float = Field(ge=0)
    picture_weight: float = Field(ge=0)
    findings_weight: float = Field(ge=0, description="weight of the text-mined findings, which only help to see")
    findings_films: int = Field(ge=0, description="films that teach nothing but those, shown in an epoch")
    seed: int = 0
    bfloat16: bool = Field(default=True, description="compute in bfloat16, weights and sums in float32")
    float16: bool = Field(default=False, description="on a GPU, float16 with scaled losses in place of bfloat16")
    early_stopping: EarlyStopping | None = None


class Augmentation(_Part):
    """Bounds within which each film is changed anew every time it is shown."""

    flip: float = Field(ge=0, le=1, description="share of films mirrored left to right")
    rotation_degrees: float = Field(ge=0, le=45)
    scale: float = Field(ge=0, lt=1, description="largest relative change of size")
    shift: float = Field(ge=0, lt=1, description="largest shift, as a share of the side")
    gamma: float = Field(ge=0, lt=1, description="largest change of the exponent's logarithm")
    contrast: float = Field(ge=0, lt=1)
    brightness: float = Field(ge=0, lt=1)
    noise: float = Field(ge=0, lt=1, description="largest standard deviation of added noise, as a share of the range")
    border: float = Field(ge=0, lt=0.5, description="largest width of a blanked edge, as a share of the side")


class Showing(BaseModel):
    """How films are shown while the network learns; keys beyond `kind` are those of that kind, see `training.views`."""

    model_config = ConfigDict(frozen=True, extra="allow")

    kind: str = "film"


class Judging(_Part):
    """How marks are held against lesions, and how thresholds are chosen."""

    hit: Literal["center_in_box", "center_in_radius", "iou"] = "center_in_box"
    iou: float = Field(default=0.2, gt=0, lt=1, description="overlap from which a mark hits, where overlap decides")
    picture_sensitivity: float = Field(default=0.90, gt=0, lt=1, description="of films with lesions, at the threshold")
    false_marks_per_film: float = Field(default=0.25, gt=0, description="over all judged films, at the threshold")
    max_marks: int = Field(default=20, ge=1, le=300, description="marks kept of a film")
    nms_iou: float = Field(default=0.3, gt=0, lt=1, description="overlap above which the weaker of two marks goes")
    contralateral: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="judge a breast by its logit less this share of the other breast's; null: each alone",
    )
    resamples: int = Field(default=2000, ge=100, description="draws of patients from which intervals come")
    caveat: str = Field(
        default="Settings of the recipe were chosen by people who knew figures of some of these films, so the figures "
        "are somewhat hopeful.",
        description="what a reader of the figures must know beside the method; printed after it",
    )


class Guarding(_Part):
    """The check that a picture is of the kind of the training films; `training.guard` fits it."""

    fit: bool = True
    action: Literal["refuse", "flag"] = "refuse"


class Recipe(_Part):
    """A whole training of a two-dimensional detector: data, input, network, schedule, augmentation, folds."""

    task: Literal["detection-2d"] = "detection-2d"

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{1,62}$")
    version: str = Field(pattern=r"^[0-9]+\.[0-9]+\.[0-9]+$")
    folds: int = Field(ge=2, le=20)
    split_seed: int = 0
    data: Data = Data()
    input: Annotated[ProjectionInput | BreastInput, Field(discriminator="kind")]
    network: Network
    schedule: Schedule
    augmentation: Augmentation
    views: Showing = Showing()
    members: int = Field(
        default=1, ge=1, le=8, description="networks trained one after another, seed by seed, that answer as their mean"
    )
    half_weights: bool = Field(
        default=False, description="round the shipped weights to float16 and store them so; computing stays in float32"
    )
    judging: Judging = Judging()
    guard: Guarding = Guarding()

    @model_validator(mode="after")
    def _input_fits_network(self) -> Recipe:
        if self.input.height % 32 or self.input.width % 32:
            raise ValueError("input: height and width must be multiples of 32, the backbone's coarsest stride")
        if self.input.channels != 1 or self.input.layout is not Layout.CHANNELS_FIRST:
            raise ValueError("input: the detector takes one grey channel, channels first")
        if len(self.network.labels) != 1:
            raise ValueError(
                "network: the detector marks one kind of lesion; the reader calls all of them by one label"
            )
        return self

    @property
    def digest(self) -> str:
        """sha256 of the recipe's canonical JSON."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()

    @property
    def weights_digest(self) -> str:
        """sha256 of what decides the weights: the recipe without name, data faults and judging."""
        return self.weights_digests[0]

    @property
    def weights_digests(self) -> tuple[str, ...]:
        """`weights_digest`, and what it is when the mirror image is looked at otherwise, which changes no weights.

        A checkpoint with any of them may be gone on with: how a network is judged can be settled after its training.
        """
        digests = []
        for axis in ("horizontal", "vertical", "both"):
            for judged in (True, False):
                looked = self.network.model_copy(update={"mirror_axis": axis, "mirror_when_judged": judged})
                decisive = self.model_copy(update={"network": looked}).model_dump_json(
                    include={"input", "network", "schedule", "augmentation", "views"}
                )
                digests.append(hashlib.sha256(decisive.encode()).hexdigest())
        return tuple(digests)


def read_recipe(path: Path) -> Recipe:
    """Read and check one recipe.

    Raises
    ------
    RecipeError
        If the file cannot be read or breaks a rule; the message names every fault.
    """
    return read_as(Recipe, path)


def read_as(kind: type[Kind], path: Path) -> Kind:
    """Read a recipe of one kind; see `read_recipe`."""
    try:
        return kind.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read: {error.strerror}") from error
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{path}: not valid TOML: {error}") from error
    except ValidationError as error:
        faults = [f"  {'.'.join(map(str, fault['loc'])) or 'recipe'}: {fault['msg']}" for fault in error.errors()]
        raise RecipeError(f"{path}: {len(faults)} fault(s)\n" + "\n".join(faults)) from error

"""A run: what one model said of every case of a data set, kept in a folder so that every figure can be repeated.

Written by `eval.running` (``radnode eval run``: the served weights over a data set) and by training (a
cross-validation: each case scored by a network that saw no case of its patient). Read by `eval.comparison`,
`eval.report` and `training.evaluation_log`. The folder:

    run.json        `RunRecord`: model, data, command, environment, digests
    card.toml       the card whose thresholds apply, as it was
    dataset.toml    `eval.datasets.DatasetFile`, as it was
    cases.jsonl     one `CaseRecord` a line, in the order of the manifest
    manifest.csv    case, input, sha256: every input file

Nothing in it names a patient: case and patient keys are those of the set, which must be pseudonyms already.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from models.card import Sha256

RUN_FILE = "run.json"
CASES_FILE = "cases.jsonl"
MANIFEST_FILE = "manifest.csv"
CARD_FILE = "card.toml"
DATASET_FILE = "dataset.toml"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


class Status(StrEnum):
    """What became of a case. A diseased case that was not analysed counts as missed."""

    ANALYSED = "analysed"  # the model gave findings, none included
    REFUSED = "refused"  # it is not what the model is made for, or unreadable: a reason of `inference.refusals`
    FAILED = "failed"  # the model or the reading broke


class Place(_Record):
    """Where a mark or lesion is: a box in source pixels, or a ball or box in patient millimetres (LPS)."""

    image: str | None = Field(default=None, description="which input of the case; null where a case has one")
    box: tuple[float, float, float, float] | None = Field(
        default=None, description="x_min, y_min, x_max, y_max in source pixels, origin at the corner of the first"
    )
    radius: float | None = Field(default=None, gt=0, description="of the circle a reader drew, source pixels")
    center_mm: tuple[float, float, float] | None = None
    size_mm: tuple[float, float, float] | None = None
    diameter_mm: float | None = None


class MarkRecord(Place):
    """A place that the model points at; those below the served threshold are kept too."""

    label: str
    score: float = Field(ge=0, le=1, description="calibrated, what thresholds compare")


class LesionRecord(Place):
    """A lesion of the reference standard."""

    label: str = "lesion"
    excluded: bool = Field(default=False, description="neither to be found nor a false mark (irrelevant finding)")


class CaseRecord(_Record):
    """One case: a film, a view, a scan or a study, whatever the data set declares as its unit."""

    case: str
    patient: str = Field(description="cases of one patient are resampled together")
    status: Status
    reason: str = Field(default="", description="of the refusal or failure, as the node gives it")
    fold: int | None = Field(default=None, description="fold whose network scored it; null: the served weights")
    score: float | None = Field(default=None, ge=0, le=1, description="calibrated score of the whole case")
    threshold: float | None = Field(
        default=None, description="what the score of this case is compared with, where it is not the card's (folds)"
    )
    mark_threshold: float | None = None
    marks: tuple[MarkRecord, ...] = ()
    positive: bool | None = Field(default=None, description="truth; null: not known, the case is not judged")
    reading: str = Field(default="", description="group of the reference standard: opacity, normal, other")
    lesions: tuple[LesionRecord, ...] = ()
    traits: Mapping[str, str] = Field(default={}, description="sex, view, vendor, site: subgroups are made of them")
    numbers: Mapping[str, float] = Field(default={}, description="age_years, lesion sizes and the like")
    seconds: float | None = Field(default=None, ge=0, description="from the first byte read to findings")
    findings_sha256: Sha256 | None = Field(default=None, description="digest of the canonical findings")


class RunRecord(_Record):
    """Who said it of what, when and how."""

    kind: Literal["served", "cross-validation"]
    model: str = Field(description="name@version")
    model_digest: Sha256
    weights: Mapping[str, Sha256]
    runtime: str = Field(description="onnx or torch, and the provider that computed")
    dataset: str = Field(description="name@version of the data set")
    dataset_digest: Sha256 = Field(description="sha256 of dataset.toml")
    data_sha256: Sha256 = Field(description="sha256 of manifest.csv")
    cases: int
    command: str = Field(description="what repeats it")
    radnode: str = Field(description="version, and the commit where it is known")
    environment_sha256: Sha256 | None = Field(default=None, description="of the list of installed packages")
    hardware: str = ""
    started: datetime
    finished: datetime | None = Field(default=None, description="null: cut off, `radnode eval run` goes on with it")

"""The file that names a data set to an evaluation: where it lies, what is true, how it is to be counted and described.

People write `DATASET.toml`; ``radnode eval run`` reads it, a run keeps a copy, and `eval.report` prints its passport.
Turning what it names into cases is `eval.layouts`; nothing here opens a picture.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Mapping
from datetime import date
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from models.codes import Text

Words = Annotated[str, Field(min_length=1)] | Text
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{1,62}$")]


class DatasetError(Exception):
    """A data set that cannot be used as it is described; the message names the file, the place and the remedy."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Layout(StrEnum):
    """How the files of a set lie."""

    DICOM = "dicom"  # a folder of DICOM files; truth, if any, in tables beside them
    COCO = "coco"  # pictures and one annotations file of COCO
    TABLE = "table"  # pictures, volumes or DICOM files that a table of cases names
    LUNA16 = "luna16"  # MetaImage scans, seriesuids.csv, annotations.csv
    DECATHLON = "decathlon"  # volumes and boxes of MONAI's data list (JSON)


class Unit(StrEnum):
    """What one case is: the unit in which sensitivity and specificity are counted."""

    FILM = "film"  # one projection
    VIEW = "view"  # one view of one breast
    SCAN = "scan"  # one series of slices
    STUDY = "study"  # all images of one examination


class Hit(StrEnum):
    """When a mark finds a lesion."""

    CENTER_IN_BOX = "center_in_box"  # the mark's centre lies in the reader's box, edges included
    CENTER_IN_RADIUS = "center_in_radius"  # ... in the circle or ball the reader drew, edge included
    DISTANCE = "distance"  # LUNA16: centres strictly nearer than the radius, mm; no diameter means 10 mm
    IOU = "iou"  # mark and lesion overlap by at least `iou`
    MAMMOGRAPHY = "mammography"  # centres nearer than the larger of half the box's diagonal and 100 pixels


class Truth(_Part):
    """Which cell of a case says whether it shows what is looked for."""

    column: str = Field(min_length=1)
    positive: tuple[str, ...] = Field(min_length=1, description="cells that mean it does")
    negative: tuple[str, ...] = Field(
        default=(), description="cells that mean it does not; empty: all others that are not `unknown`"
    )
    unknown: tuple[str, ...] = Field(default=("",), description="cells of cases that are not judged")
    readings: Mapping[str, str] = Field(
        default={}, description="cell to the name under which a report counts such cases; else the cell itself"
    )


class Limit(_Part):
    """A reason for which cases are not judged: they fall out, and the flow of the report counts them."""

    column: str
    below: float | None = None
    at_least: float | None = None
    values: tuple[str, ...] = ()
    because: str = Field(min_length=1, description="what the flow of the report calls it")

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.below is None and self.at_least is None and not self.values:
            raise ValueError("give below, at_least or values")
        return self

    @property
    def measured(self) -> bool:
        """Whether the column holds numbers."""
        return self.below is not None or self.at_least is not None


class CasesTable(_Part):
    """A table with a row for each case. Rows of the same case are one case that is positive if one of them is."""

    file: str
    case: str = Field(description="column that names the case")
    input: str = Field(
        default="{case}", description="its file below the root, with columns in braces: images/{image}; may be a folder"
    )
    patient: str = Field(description="column of the patient's pseudonym: cases of one patient are drawn together")
    truth: Truth | None = Field(default=None, description="null: a case is positive when it has a lesion")
    traits: Mapping[str, str] = Field(default={}, description="name to column: sex, view, vendor, site, density")
    numbers: Mapping[str, str] = Field(default={}, description="name to column: age_years")
    not_judged: tuple[Limit, ...] = ()
    unplaced: str | None = Field(
        default=None,
        description="reason for which positive cases without a placed lesion are not judged; null: they are",
    )


class LesionsTable(_Part):
    """A table with a row for each lesion of the reference standard; rows without a place are no lesions."""

    file: str
    case: str = Field(description="column that names the case, as the table of cases does")
    shape: Literal["xywh", "corners", "circle", "ball", "cuboid"] = Field(
        description="xywh: left, top, width, height; corners: left, top, right, bottom; circle: x, y, radius, all in "
        "source pixels. ball: x, y, z, diameter; cuboid: x, y, z, width, height, depth, all in mm (LPS)"
    )
    columns: tuple[str, ...] = Field(description="columns of those numbers, in that order")
    image: str | None = Field(default=None, description="column of the file, where a case has several")
    where: Mapping[str, tuple[str, ...]] = Field(default={}, description="only rows with one of these cells")
    excluded: Mapping[str, tuple[str, ...]] = Field(
        default={}, description="rows with one of these cells are neither to be found nor false marks"
    )
    label: str | None = Field(default=None, description="column of the lesion's kind")

    @model_validator(mode="after")
    def _columns_fit(self) -> Self:
        needed = {"xywh": 4, "corners": 4, "circle": 3, "ball": 4, "cuboid": 6}[self.shape]
        if len(self.columns) != needed:
            raise ValueError(f"a {self.shape} takes {needed} columns")
        return self


class Header(_Part):
    """What a picture without a DICOM header is: the intended use of a model is checked against it."""

    modality: str = Field(min_length=1, description="as DICOM writes it: DX, CR, MG, CT")
    body_part: str = ""
    view: str = Field(default="", description="PA, AP, MLO, CC; or, with view_trait, what its cells say")
    view_trait: str | None = Field(default=None, description="trait of the case that names its view")
    laterality_trait: str | None = Field(default=None, description="trait of the case that names its side, L or R")
    age_number: str | None = Field(default="age_years", description="number of the case that is the age in years")
    spacing_mm: tuple[float, float] | None = Field(default=None, description="of rows and columns, if known")


class Coco(_Part):
    """The annotations file of a COCO set."""

    annotations: str = "annotations.json"
    images: str = Field(default="images", description="folder of the pictures")
    categories: tuple[str, ...] = Field(default=(), description="categories that count as the lesion; empty: all")
    patient: str | None = Field(default=None, description="key of an image's record that names the patient")
    traits: tuple[str, ...] = Field(default=(), description="keys of an image's record that are traits")


class Luna16(_Part):
    """The tables of a LUNA16 set; scans are found by their series UID anywhere below the root."""

    scans: str = "seriesuids.csv"
    annotations: str = "annotations.csv"
    excluded: str | None = Field(default="annotations_excluded.csv", description="null: there are no irrelevant ones")


class Decathlon(_Part):
    """A data list of MONAI."""

    file: str = "dataset.json"
    section: str = Field(default="validation", description="list of the file that is evaluated")
    box_mode: Literal["cccwhd", "xyzwhd", "xyzxyz"] = Field(
        default="cccwhd", description="centre and size, lowest corner and size, or two corners"
    )
    world: Literal["RAS", "LPS"] = Field(default="RAS", description="axes of the boxes, in mm; MONAI's are RAS")


class Rules(_Part):
    """How marks are held against lesions; named in every output."""

    hit: Hit = Hit.CENTER_IN_BOX
    iou: float = Field(default=0.2, gt=0, lt=1, description="overlap from which a mark hits, where overlap decides")
    false_marks_per: Literal["case", "negative_case"] = Field(
        default="case", description="denominator of false marks: all judged cases, or those without a lesion"
    )
    rates: tuple[float, ...] = Field(
        default=(0.125, 0.25, 0.5, 1, 2, 4, 8), min_length=1, description="false marks per case at which it is read"
    )
    resamples: int = Field(default=2000, ge=100, description="draws of patients for intervals")
    seed: int = 20
    prevalence_by_design: bool = Field(
        default=True, description="the share of positive cases was chosen: patients are drawn within truth"
    )


class Margins(_Part):
    """Largest loss that is still no loss: what a comparison is judged against. Declared before the runs are made."""

    auroc: float | None = Field(default=None, gt=0, lt=1)
    sensitivity: float | None = Field(default=None, gt=0, lt=1)
    specificity: float | None = Field(default=None, gt=0, lt=1)
    froc: float | None = Field(default=None, gt=0, lt=1, description="of the mean sensitivity over the rates")
    declared_on: date | None = Field(default=None, description="when they were fixed")
    because: Words | None = Field(default=None, description="why these")


class Hypothesis(_Part):
    """One thing that was to be shown, fixed before the test set was looked at."""

    statement: Words
    figure: str | None = Field(default=None, description="what it is judged on: auroc, sensitivity, specificity, froc")
    at_least: float | None = Field(default=None, description="what the lower end of the interval must reach")


class Plan(_Part):
    """What was fixed before the test set was looked at."""

    objective: Words
    hypotheses: tuple[Hypothesis, ...] = ()
    fixed_on: date | None = None
    fixed_before: bool = Field(description="false: it was written when figures were known, and the report says so")
    family: Words | None = Field(default=None, description="how several hypotheses share the error; null: one only")


class Reuse(_Part):
    """One time at which the set was used to judge a model: a test set wears out."""

    on: date | None = None
    model: str
    purpose: Words


class Passport(_Part):
    """The passport of a data set (GOST R 59921.5). What is not known is said to be not known, not left out."""

    source: Words
    consent: Words = Field(description="basis on which the data may be used: consent, law, decision of a committee")
    anonymisation: Words
    devices: Words
    organisations: Words
    dates: Words
    inclusion: Words
    exclusion: Words
    age: Words
    sex: Words
    prevalence: Words
    readers: Words = Field(description="number, qualification, experience")
    truth_method: Words
    agreement: Words = Field(description="between readers: kappa, or why there is none")
    verification: Words = Field(description="by histology, follow-up, other images; or not verified")
    split: Words = Field(description="how it is parted from training data")
    leakage_test: Words
    sample_size: Words = Field(description="why so many cases")
    contact: Words | None = None
    reuse: tuple[Reuse, ...] = ()


class DatasetFile(_Part):
    """A data set, as an evaluation sees it. See the field descriptions; the JSON Schema is in `docs/schemas`."""

    name: Name
    version: str = Field(pattern=r"^[0-9]+\.[0-9]+\.[0-9]+$")
    title: Words
    layout: Layout
    root: str = Field(default=".", description="folder of the files, from where this file lies")
    unit: Unit
    modality: str = Field(min_length=1, description="in words or as DICOM writes it")
    licence: str = Field(min_length=1)
    citation: str = Field(min_length=1)
    images_may_be_shown: bool = Field(
        default=False, description="the licence allows pictures in a report; else identifiers and drawn boxes"
    )
    standard: Words = Field(description="the reference standard: who said what the cases show, and how")
    positive: str = Field(default="positive", description="what a report calls cases that show what is looked for")
    cases: CasesTable | None = Field(default=None, description="for table; for dicom the truth, if there is any")
    lesions: tuple[LesionsTable, ...] = ()
    header: Header | None = Field(default=None, description="for pictures and volumes that are no DICOM files")
    coco: Coco | None = None
    luna16: Luna16 | None = None
    decathlon: Decathlon | None = None
    subgroups: tuple[str, ...] = Field(default=(), description="traits within which figures are repeated")
    bands: Mapping[str, tuple[float, ...]] = Field(
        default={}, description="number to the values at which it is cut into a trait: age_years = [40, 60]"
    )
    rules: Rules = Rules()
    margins: Margins | None = None
    plan: Plan | None = None
    passport: Passport | None = None

    @model_validator(mode="after")
    def _layout_has_its_part(self) -> Self:
        if self.layout is Layout.TABLE and self.cases is None:
            raise ValueError("layout = 'table' needs the part [cases]")
        flat = self.layout in (Layout.COCO, Layout.LUNA16, Layout.DECATHLON)
        if flat and (self.cases is not None or self.lesions):
            raise ValueError(f"layout = '{self.layout}' brings its own tables: leave out [cases] and [[lesions]]")
        for part in (Layout.COCO, Layout.LUNA16, Layout.DECATHLON):
            if getattr(self, part.value) is not None and self.layout is not part:
                raise ValueError(f"[{part}] is for layout = '{part}'")
        return self

    @property
    def reference(self) -> str:
        """``name@version``."""
        return f"{self.name}@{self.version}"


def in_language(words: Words, language: str) -> str:
    """What is said, in ``"en"`` or ``"ru"``; words given in one language are the same in both."""
    return words if isinstance(words, str) else words.in_language(language)


def read_dataset(path: Path) -> DatasetFile:
    """Read and check one `DATASET.toml`.

    Raises
    ------
    DatasetError
        If the file cannot be read or breaks a rule; the message names every fault.
    """
    try:
        return parse_dataset(path.read_text(encoding="utf-8"), path.name)
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path.name}: not UTF-8 (byte {error.start}): save it as UTF-8") from error


def parse_dataset(text: str, name: str) -> DatasetFile:
    """The data set that `text` describes; `name` stands in messages.

    Raises
    ------
    DatasetError
        If it is no TOML or breaks a rule; the message names every fault.
    """
    try:
        return DatasetFile.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise DatasetError(f"{name}: not valid TOML: {error}") from error
    except ValidationError as error:
        faults = [f"  {'.'.join(map(str, fault['loc'])) or 'file'}: {fault['msg']}" for fault in error.errors()]
        raise DatasetError(f"{name}: {len(faults)} fault(s)\n" + "\n".join(faults)) from error


def dataset_digest(text: str) -> str:
    """sha256 of a data set's file as it is written."""
    return hashlib.sha256(text.encode()).hexdigest()

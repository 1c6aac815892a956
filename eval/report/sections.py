"""The seventeen sections of a report, as frozen models: `eval.report.twin` holds one of each.

The order of `Sections` is the order on paper. A section that holds only statements is a list of items; whether an item
may be missing is decided in `eval.report.checks`.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime

from pydantic import Field

from eval.document import Part
from eval.report.outcomes import Results
from eval.report.values import Answer, Item, Value
from models.codes import Text


class Identity(Part):
    """1. Which model, on which data, by which software, when."""

    manufacturer: str
    registration_number: str | None
    device_uid: str
    weights_digest: str
    kind: str = Field(description="served or cross-validation")
    runtime: str
    dataset: str
    dataset_digest: str
    evaluated_by: str = Field(description="version of the software that made the run")
    hardware: str
    started: datetime
    finished: datetime | None


class IntendedUse(Part):
    """2. What the model is for, as its card says, and what the people who evaluated it add."""

    statement: Text
    modalities: tuple[str, ...]
    body_parts: tuple[str, ...]
    views: tuple[str, ...]
    presentation: tuple[str, ...]
    min_age_years: float | None
    max_age_years: float | None
    items: tuple[Item, ...]


class LabelPart(Part):
    """One label of the card with its thresholds."""

    key: str
    title: Text
    finding: str
    case_threshold: float | None
    case_chosen_by: str
    mark_threshold: float | None
    mark_chosen_by: str


class Model(Part):
    """3. What the model is, and what it was made from."""

    description: Text
    licence: str
    input: Mapping[str, str]
    output: str
    labels: tuple[LabelPart, ...]
    evaluated_label: str
    training: str
    training_licence: str
    citation: str
    films: int
    patients: int
    manifest_sha256: str
    guard: str | None = Field(description="method and what happens; null: no guard")


class HypothesisPart(Part):
    """One thing that was to be shown."""

    statement: Text
    figure: str | None
    at_least: float | None = Field(description="what the lower end of the interval must reach")


class Objectives(Part):
    """4. What was to be shown, and whether that was fixed before the evaluation."""

    objective: Text
    hypotheses: tuple[HypothesisPart, ...]
    fixed_before: bool
    fixed_on: date | None
    family: Text | None
    margins: Mapping[str, float]


class Excluded(Part):
    """Cases that left the flow at one step."""

    step: str = Field(description="not_judged, in_training, refused or failed")
    reason: str
    cases: int
    patients: int
    positive: int


class Flow(Part):
    """How cases came to be counted: every exclusion with its number."""

    cases: int
    patients: int
    not_judged: tuple[Excluded, ...]
    judged: int
    judged_patients: int
    positive: int
    negative: int
    not_analysed: tuple[Excluded, ...]
    analysed: int
    analysed_positive: int
    analysed_negative: int


class Count(Part):
    """How many judged cases have a trait, and how many of them are positive."""

    trait: str
    value: str
    cases: int
    patients: int
    positive: int


class Spread(Part):
    """A number over cases or lesions."""

    name: str
    of: str = Field(description="cases or lesions")
    n: int
    missing: int
    minimum: float
    quartile_1: float
    median: float
    quartile_3: float
    maximum: float


class SetUse(Part):
    """One time at which the set was used to judge a model."""

    on: date | None
    model: str
    purpose: Text


class Data(Part):
    """5. The data: passport, flow, who is in it, what separates it from training."""

    items: tuple[Item, ...] = Field(description="the passport of the data set, GOST R 59921.5")
    name: str
    version: str
    title: Text
    modality: str
    licence: str
    citation: str
    files: int = Field(description="rows of the manifest")
    reuse: tuple[SetUse, ...]
    flow: Flow
    prevalence: Value
    traits: tuple[Count, ...]
    spreads: tuple[Spread, ...]
    lesions: int
    excluded_lesions: int
    folds: int | None = Field(description="of the cross-validation; null: served weights")
    patients_in_two_folds: int


class Standard(Part):
    """6. The reference standard."""

    standard: Text
    positive: str = Field(description="what cases with the finding are called")
    items: tuple[Item, ...]
    readings: tuple[Count, ...]


class Scoring(Part):
    """7. What is compared with what."""

    unit: str
    label: str
    hit_rule: str | None
    iou: float | None
    false_marks_per: str
    case_threshold: float | None
    case_thresholds: tuple[float, ...] = Field(description="thresholds that cases were compared with; several in folds")
    mark_threshold: float | None
    mark_thresholds: tuple[float, ...]


class Statistics(Part):
    """8. How intervals are made."""

    prevalence_by_design: bool

    seed: int
    resamples: int
    confidence: float
    patients_with_several_cases: int
    too_few: int = Field(description="a subgroup with fewer positives is not judged")


class Group(Part):
    """One subgroup. Figures are null where it is too small to be judged."""

    trait: str
    value: str
    cases: int
    patients: int
    positive: int
    negative: int
    too_few: bool
    auroc: Value | None
    sensitivity: Value | None
    specificity: Value | None
    found: Value | None


class Lowest(Part):
    """The judged subgroup with the lowest figure."""

    figure: str
    trait: str
    value: str
    result: Value


class Parity(Part):
    """How far a runtime is from the trained network."""

    runtime: str
    inputs: int = Field(description="films, or tiles of volumes")
    probability: float
    edges: float = Field(description="of boxes, in pixels or voxels of the input")


class Subgroups(Part):
    """10. Subgroups and robustness."""

    groups: tuple[Group, ...]
    lowest: tuple[Lowest, ...]
    parity: tuple[Parity, ...]
    items: tuple[Item, ...]


class Readers(Part):
    """11. The reader study, if one is claimed."""

    claimed: bool
    items: tuple[Item, ...]


class Failure(Part):
    """Cases that were not analysed for one reason."""

    status: str
    reason: str
    cases: int


class Technical(Part):
    """12. Time, failures, defects."""

    timed: int
    seconds: Mapping[str, float] = Field(description="p50, p95, p99, max; empty where nothing was timed")
    failures: tuple[Failure, ...]
    failure_share: Value
    defects: Mapping[str, int] = Field(description="defect class А to Д to cases; empty: the run writes no objects")


class Drawn(Part):
    """A box on a picture, in source pixels."""

    box: tuple[float, float, float, float]
    kind: str = Field(description="lesion, found or mark")
    score: float | None = None


class Shown(Part):
    """One error: the case, why it is one, and what is drawn. `picture_sha256` is null where none may be shown."""

    case: str
    image: str | None
    score: float | None
    threshold: float | None
    reading: str
    failure: str
    frame: tuple[float, float, float, float] = Field(description="left, top, width, height of what is drawn")
    drawn: tuple[Drawn, ...]
    picture_sha256: str | None = None
    strongest_false_mark: float | None = Field(
        default=None, description="score of the strongest false mark on it, by which the gallery false_marks is sorted"
    )


class Gallery(Part):
    """Errors of one kind: how many cases have them, how many there are, and those that are shown."""

    kind: str = Field(description="missed_cases, false_alarms, missed_lesions or false_marks")
    total: int = Field(description="cases with such an error, each counted once")
    places: int | None = Field(
        default=None,
        description="missed lesions or false marks in those cases; null where the case itself is the error",
    )
    shown: tuple[Shown, ...]


class Errors(Part):
    """13. What went wrong, case by case."""

    pictures: bool = Field(description="whether pictures are shown")
    why_no_pictures: Text | None
    acknowledgement: str
    galleries: tuple[Gallery, ...]
    comment: Text | None


class Limits(Part):
    """14. What the model cannot do, and what this evaluation cannot show."""

    model: tuple[Text, ...]
    evaluation: tuple[Text, ...]


class Monitoring(Part):
    """15. What is watched in service, and the reference values of this report."""

    items: tuple[Item, ...]
    flag_rate: Value
    refused_share: Value
    score_quantiles: Mapping[str, float]
    seconds_p95: float | None


class Reproducibility(Part):
    """16. What repeats it."""

    command: str
    report_command: str
    settings: Mapping[str, str]
    run_notes: tuple[str, ...] = Field(description="as the run recorded them")
    environment_sha256: str | None
    digests: Mapping[str, str] = Field(description="file of the run to its sha256")
    run_packages: Mapping[str, str] = Field(description="versions that computed the scores")
    report_packages: Mapping[str, str] = Field(description="versions that computed and printed this report")
    items: tuple[Item, ...]


class Fact(Part):
    """A row of the model facts label."""

    key: str
    text: Text | None = None
    value: Value | None = None


class Row(Part):
    """A row of a checklist or crosswalk: which section answers it, or why none does."""

    number: str
    title: Text
    section: int | None
    answer: Answer | None = None


class Annexes(Part):
    """17. The table of cases, checklists, crosswalk, facts."""

    cases_file: str
    cases_sha256: str
    cases: int
    facts: tuple[Fact, ...]
    claim: tuple[Row, ...]
    stard: tuple[Row, ...]
    gost: tuple[Row, ...]


class Sections(Part):
    """The seventeen sections, in the order of the paper."""

    identity: Identity
    intended_use: IntendedUse
    model: Model
    objectives: Objectives
    data: Data
    standard: Standard
    scoring: Scoring
    statistics: Statistics
    results: Results
    subgroups: Subgroups
    readers: Readers
    technical: Technical
    errors: Errors
    limits: Limits
    monitoring: Monitoring
    reproducibility: Reproducibility
    annexes: Annexes

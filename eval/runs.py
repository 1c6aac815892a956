"""A run: what one model said of every case of a data set, kept in a folder so that every figure can be repeated.

Written by `eval.running` (``radnode eval run``: the served weights over a data set) and by training (a
cross-validation: each case scored by a network that saw no case of its patient). Read by `eval.comparison`,
`eval.report` and `training.evaluation_log`. The folder:

    run.json        `RunRecord`: model, data, command, environment, digests
    card.toml       the card whose thresholds apply, as it was
    dataset.toml    `eval.datasets.DatasetFile`, as it was
    cases.jsonl     one `CaseRecord` a line, in the order of the manifest
    manifest.csv    case, input, sha256: every input file
    findings.jsonl  case and canonical `Findings` of each analysed case; not there for a cross-validation
    partial.jsonl   while a run is under way: what is done so far (`eval.keeping`)

Nothing in it names a patient: case and patient keys are those of the set, which must be pseudonyms already.
"""

from __future__ import annotations

import csv
import hashlib
import importlib.metadata
import io
import os
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from eval.datasets import DatasetError, DatasetFile, parse_dataset
from models.card import CardError, ModelCard, Sha256, read_card

RUN_FILE = "run.json"
CASES_FILE = "cases.jsonl"
MANIFEST_FILE = "manifest.csv"
CARD_FILE = "card.toml"
DATASET_FILE = "dataset.toml"
FINDINGS_FILE = "findings.jsonl"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


class Status(StrEnum):
    """What became of a case. A diseased case that was not analysed counts as missed."""

    ANALYSED = "analysed"  # the model gave findings, none included
    REFUSED = "refused"  # it is not what the model is made for, or unreadable: a reason of `inference.refusals`
    FAILED = "failed"  # the model or the reading broke
    IN_TRAINING = "in_training"  # the card's list of training files has it: it was not run and is not judged


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
    logit: float | None = Field(default=None, description="before calibration, where it was kept")


class LesionRecord(Place):
    """A lesion of the reference standard."""

    label: str = "lesion"
    excluded: bool = Field(default=False, description="neither to be found nor a false mark (irrelevant finding)")


class Matched(_Record):
    """Marks already held against lesions, where only the outcome was kept."""

    found: tuple[float | None, ...] = Field(description="for each lesion the score by which it was found; null: missed")
    false_marks: tuple[float, ...] = Field(description="scores of the marks that lie in no lesion")


class CaseRecord(_Record):
    """One case: a film, a view, a scan or a study, whatever the data set declares as its unit."""

    case: str
    patient: str = Field(description="cases of one patient are resampled together")
    status: Status
    reason: str = Field(default="", description="of the refusal or failure, as the node gives it")
    fold: int | None = Field(default=None, description="fold whose network scored it; null: the served weights")
    score: float | None = Field(default=None, ge=0, le=1, description="calibrated score of the whole case")
    logit: float | None = Field(default=None, description="before calibration, where it was kept")
    threshold: float | None = Field(
        default=None, description="what the score of this case is compared with, where it is not the card's (folds)"
    )
    mark_threshold: float | None = None
    marks: tuple[MarkRecord, ...] = ()
    positive: bool | None = Field(default=None, description="truth; null: not known, the case is not judged")
    excluded: str = Field(default="", description="why it is not judged though it belongs to the set; then no truth")
    reading: str = Field(default="", description="group of the reference standard: opacity, normal, other")
    lesions: tuple[LesionRecord, ...] = ()
    matched: Matched | None = Field(default=None, description="marks held against lesions, where places were not kept")
    traits: Mapping[str, str] = Field(default={}, description="sex, view, vendor, site: subgroups are made of them")
    numbers: Mapping[str, float] = Field(default={}, description="age_years, lesion sizes and the like")
    flags: tuple[str, ...] = Field(default=(), description="cautions that the result would carry")
    seconds: float | None = Field(default=None, ge=0, description="from the first byte read to findings")
    findings_sha256: Sha256 | None = Field(default=None, description="digest of the canonical findings")

    @property
    def judged(self) -> bool:
        """Whether its truth is known, so that it counts; a judged case that was not analysed is a failure."""
        return self.positive is not None


class FoldThresholds(_Record):
    """What the cases of one fold are compared with: fitted on the other folds, so one for all of its cases."""

    threshold: float = Field(description="of the score of a case")
    mark_threshold: float | None = Field(default=None, description="of the score of a mark; null: nothing is marked")


class RunRecord(_Record):
    """Who said it of what, when and how."""

    kind: Literal["served", "cross-validation"]
    model: str = Field(description="name@version")
    model_digest: Sha256
    weights: Mapping[str, Sha256]
    label: str = Field(description="key of the card's label that is judged")
    runtime: str = Field(description="onnx or torch, and the provider that computed")
    dataset: str = Field(description="name@version of the data set")
    dataset_digest: Sha256 = Field(description="sha256 of dataset.toml")
    data_sha256: Sha256 = Field(description="sha256 of manifest.csv")
    card_sha256: Sha256 = Field(description="sha256 of card.toml")
    cases_sha256: Sha256 | None = Field(default=None, description="sha256 of cases.jsonl; null while it is unfinished")
    findings_sha256: Sha256 | None = Field(default=None, description="sha256 of findings.jsonl; null: there is none")
    cases: int
    command: str = Field(description="what repeats it")
    radnode: str = Field(description="version, and the commit where it is known")
    environment_sha256: Sha256 | None = Field(default=None, description="of the list of installed packages")
    environment: tuple[str, ...] = Field(default=(), description="installed packages, name==version")
    settings: Mapping[str, str | int | float | bool | None] = Field(default={}, description="options that decide it")
    folds: Mapping[int, FoldThresholds] = Field(
        default={}, description="thresholds of each fold of a cross-validation; empty: served, or not recorded"
    )
    notes: tuple[str, ...] = Field(default=(), description="what a reader of the figures must know of the run")
    hardware: str = ""
    started: datetime
    finished: datetime | None = Field(default=None, description="null: cut off, `radnode eval run` goes on with it")


class RunError(Exception):
    """A run folder that cannot be used: it is not whole, or a file of it is not the one that was written."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """A whole run, as read from its folder."""

    folder: Path
    record: RunRecord
    card: ModelCard
    dataset: DatasetFile
    cases: tuple[CaseRecord, ...]

    @property
    def judged(self) -> tuple[CaseRecord, ...]:
        """Cases of known truth, failures among them."""
        return tuple(case for case in self.cases if case.judged)

    def threshold(self, case: CaseRecord) -> float:
        """What the case's score is compared with: its fold's threshold, or the card's."""
        if case.threshold is not None:
            return case.threshold
        label = self.card.label(self.record.label)
        return (label.picture or label.operating_point).threshold

    def mark_threshold(self, case: CaseRecord) -> float | None:
        """What the scores of the case's marks are compared with; None for a model that marks nothing."""
        if case.mark_threshold is not None:
            return case.mark_threshold
        point = self.card.label(self.record.label).lesion
        return None if point is None else point.threshold


def write_run(
    folder: Path,
    record: RunRecord,
    cases: Iterable[CaseRecord],
    *,
    card: str,
    dataset: str,
    manifest: str,
    findings: str | None = None,
) -> RunRecord:
    """Write a run that is done, each file whole, `run.json` last; returns the record with all its digests.

    Parameters
    ----------
    record : RunRecord
        Digests of files and the number of cases are filled in here.
    card, dataset, manifest, findings : str
        Content of those files; None for no file of findings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines = [case.model_dump_json(exclude_defaults=True) for case in cases]
    text = "".join(f"{line}\n" for line in lines)
    whole = record.model_copy(
        update={
            "cases": len(lines),
            "cases_sha256": digest(text),
            "card_sha256": digest(card),
            "dataset_digest": digest(dataset),
            "data_sha256": digest(manifest),
            "findings_sha256": None if findings is None else digest(findings),
        }
    )
    files = {CARD_FILE: card, DATASET_FILE: dataset, MANIFEST_FILE: manifest, CASES_FILE: text}
    if findings is not None:
        files[FINDINGS_FILE] = findings
    for name, content in {**files, RUN_FILE: whole.model_dump_json(indent=1) + "\n"}.items():
        write_whole(folder / name, content)
    return whole


def read_run(folder: Path) -> Run:
    """Read a finished run and check every digest.

    Raises
    ------
    RunError
        If a file is missing, cannot be understood, or is not the one that was written; names the remedy.
    """
    record = read_record(folder)
    if record.finished is None or record.cases_sha256 is None:
        raise RunError(f"{folder.name}: the run is not finished; repeat its command to go on with it: {record.command}")
    wanted = {
        CARD_FILE: record.card_sha256,
        DATASET_FILE: record.dataset_digest,
        MANIFEST_FILE: record.data_sha256,
        CASES_FILE: record.cases_sha256,
        **({FINDINGS_FILE: record.findings_sha256} if record.findings_sha256 else {}),
    }
    texts = {name: _read(folder / name) for name in wanted}
    if changed := [name for name, sha256 in wanted.items() if digest(texts[name]) != sha256]:
        raise RunError(
            f"{folder.name}: {', '.join(changed)} was changed after the run: its digest is not that of {RUN_FILE}"
        )
    try:
        card, dataset = read_card(folder / CARD_FILE), parse_dataset(texts[DATASET_FILE], DATASET_FILE)
    except (CardError, DatasetError) as error:
        raise RunError(f"{folder.name}: {error}") from error
    return Run(
        folder=folder, record=record, card=card, dataset=dataset, cases=read_cases(texts[CASES_FILE], folder.name)
    )


def read_record(folder: Path) -> RunRecord:
    """`run.json` of a folder, of an unfinished run too.

    Raises
    ------
    RunError
        If it is missing or cannot be understood.
    """
    try:
        return RunRecord.model_validate_json(_read(folder / RUN_FILE))
    except ValidationError as error:
        raise RunError(f"{folder.name}: {RUN_FILE} is no record of a run: {_first(error)}") from error


def read_cases(text: str, name: str) -> tuple[CaseRecord, ...]:
    """Cases, one a line; `name` stands in messages.

    Raises
    ------
    RunError
        If a line is no case, or two lines are of one case; names the line.
    """
    cases: dict[str, CaseRecord] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            case = CaseRecord.model_validate_json(line)
        except ValidationError as error:
            raise RunError(f"{name}: {CASES_FILE}, line {number} is no case: {_first(error)}") from error
        if case.case in cases:
            raise RunError(f"{name}: {CASES_FILE}, line {number}: a case is there twice")
        cases[case.case] = case
    return tuple(cases.values())


def read_manifest(text: str) -> dict[str, tuple[tuple[str, str], ...]]:
    """For each case the inputs with their sha256, from the text of `manifest.csv`."""
    found: dict[str, list[tuple[str, str]]] = {}
    for row in csv.DictReader(io.StringIO(text, newline="")):
        found.setdefault(row["case"], []).append((row["input"], row["sha256"]))
    return {case: tuple(inputs) for case, inputs in found.items()}


def manifest_text(rows: Iterable[tuple[str, str, str]]) -> str:
    """`manifest.csv` of rows (case, input, sha256)."""
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(("case", "input", "sha256"))
    writer.writerows(rows)
    return lines.getvalue()


def digest(text: str) -> str:
    """sha256 of a text in UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """sha256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def environment() -> tuple[str, ...]:
    """Installed packages as name==version, in the order of names."""
    found = {f"{dist.metadata['Name'].lower()}=={dist.version}" for dist in importlib.metadata.distributions()}
    return tuple(sorted(found))


def hardware(device: str = "") -> str:
    """What computed, in words: processor architecture, cores, system, and the device where one is named."""
    words = f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}"
    return f"{words}, {device}" if device else words


def write_whole(file: Path, text: str) -> None:
    """Write a file whole or not at all."""
    partial = file.with_name(f"{file.name}.{os.getpid()}.partial")
    try:
        with partial.open("w", encoding="utf-8", newline="") as out:
            out.write(text)
            out.flush()
            os.fsync(out.fileno())
        os.replace(partial, file)  # noqa: PTH105 - atomic
    finally:
        partial.unlink(missing_ok=True)


def _read(file: Path) -> str:
    try:
        return file.read_bytes().decode()
    except FileNotFoundError as error:
        raise RunError(f"{file.parent.name}: {file.name} is missing: this is no folder of a run") from error
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"{file.parent.name}: {file.name} cannot be read: {error}") from error


def _first(error: ValidationError) -> str:
    fault = error.errors()[0]
    return f"{'.'.join(map(str, fault['loc'])) or 'record'}: {fault['msg']}"

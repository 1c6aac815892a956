"""A cross-validation as a run that `radnode eval report` and `radnode eval compare` read.

Called by `training.detection` when a training is released, and by ``radnode data cross-validation`` for a model whose
out-of-fold predictions lie beside its card. Truth is read from the data set's file, as for every other run; scores,
calibration and thresholds of a film are those of the fold whose network did not see its patient.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from eval.cases import EvalCase, input_name
from eval.datasets import DatasetError, parse_dataset
from eval.layouts import read_cases
from eval.runs import (
    CaseRecord,
    FoldThresholds,
    MarkRecord,
    RunRecord,
    Status,
    digest,
    environment,
    file_sha256,
    hardware,
    manifest_text,
    write_run,
)
from eval.version import version
from models.card import Calibration, CardError, ModelCard, read_card
from training.errors import DataError
from training.operating import Operating
from training.release import CARD_FILE, FIGURES_FILE, MARKS_FILE, PREDICTIONS_FILE
from training.score import ScoredFilm

DATASET_SUFFIX = ".dataset.toml"
NOTE = (
    "Cross-validation: each case was scored by a network that saw no case of its patient, with calibration and "
    "thresholds fitted on the other folds. The served weights are one refit on all cases, which no case is left to "
    "judge."
)
Corners = tuple[float, float, float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class SaidMark:
    """A mark in source pixels, as a fold's network gave it."""

    box: Corners
    logit: float
    score: float


@dataclass(frozen=True, kw_only=True, slots=True)
class SaidFilm:
    """What the network of a fold said of a film that it had not seen, calibrated on the other folds."""

    image: str
    fold: int
    logit: float
    score: float
    marks: tuple[SaidMark, ...]


def calibrated_films(scored: Sequence[ScoredFilm], nested: Mapping[int, Operating]) -> tuple[SaidFilm, ...]:
    """Out-of-fold scores, each calibrated as its fold is."""
    return tuple(_calibrated(film, nested[film.fold]) for film in scored if film.fold in nested)


def _calibrated(film: ScoredFilm, point: Operating) -> SaidFilm:
    marks = tuple(
        SaidMark(
            box=(mark.box.x_min, mark.box.y_min, mark.box.x_max, mark.box.y_max),
            logit=mark.score,
            score=point.lesion_score(mark.score),
        )
        for mark in film.marks
    )
    logit = film.picture_logit
    return SaidFilm(image=film.image, fold=film.fold, logit=logit, score=point.picture_score(logit), marks=marks)


def released_films(folder: Path) -> tuple[tuple[SaidFilm, ...], dict[int, Operating]]:
    """What lies beside a card: the out-of-fold scores of all films, and the operating point of each fold.

    Raises
    ------
    DataError
        If a file is missing or is not as a release writes it.
    """
    marks: dict[str, list[SaidMark]] = {}
    try:
        for row in _rows(folder / MARKS_FILE):
            box = (float(row["x_min"]), float(row["y_min"]), float(row["x_max"]), float(row["y_max"]))
            mark = SaidMark(box=box, logit=float(row["logit"]), score=float(row["score"]))
            marks.setdefault(row["image"], []).append(mark)
        films = tuple(
            SaidFilm(
                image=row["image"],
                fold=int(row["fold"]),
                logit=float(row["picture_logit"]),
                score=float(row["picture_score"]),
                marks=tuple(marks.get(row["image"], ())),
            )
            for row in _rows(folder / PREDICTIONS_FILE)
        )
        twin = json.loads((folder / FIGURES_FILE).read_text(encoding="utf-8"))
        return films, {int(fold): _operating(point) for fold, point in twin["folds"].items()}
    except OSError as error:
        raise DataError(f"{folder.name}: no out-of-fold predictions: {error.strerror}") from error
    except (KeyError, ValueError) as error:
        raise DataError(f"{folder.name}: the out-of-fold predictions cannot be understood: {error}") from error


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def _operating(point: Mapping[str, object]) -> Operating:
    return Operating(
        picture_threshold=float(str(point["picture_threshold"])),
        lesion_threshold=float(str(point["lesion_threshold"])),
        picture_calibration=Calibration.model_validate(point["picture_calibration"]),
        lesion_calibration=Calibration.model_validate(point["lesion_calibration"]),
    )


def released_run(folder: Path, data: Path, dataset_file: Path, out: Path) -> RunRecord:
    """Write the run of a released model's cross-validation.

    Parameters
    ----------
    folder : Path
        Of the model: card, predictions, marks, figures.
    data : Path
        Folder of the data set.
    dataset_file : Path
        The data set as an evaluation sees it.
    out : Path
        Folder of the run.

    Raises
    ------
    DataError
        If the card, the predictions or the data set cannot be read or do not fit each other.
    """
    films, nested = released_films(folder)
    try:
        card_text = (folder / CARD_FILE).read_text(encoding="utf-8")
        card = read_card(folder / CARD_FILE)
        dataset_text = dataset_file.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be read: {error.strerror}") from error
    except CardError as error:
        raise DataError(str(error)) from error
    command = f"radnode data cross-validation {card.reference} --data DIR --dataset {dataset_file.name} --out RUN"
    return write_cross_validation(
        films, nested, card=card, card_text=card_text, dataset_text=dataset_text, data=data, out=out, command=command
    )


def write_cross_validation(
    films: Sequence[SaidFilm],
    nested: Mapping[int, Operating],
    *,
    card: ModelCard,
    card_text: str,
    dataset_text: str,
    data: Path,
    out: Path,
    command: str,
) -> RunRecord:
    """Pair what the folds said with the truth of the data set, and write the folder of the run.

    Raises
    ------
    DataError
        If the data set cannot be read, or a judged case was not scored.
    """
    started = datetime.now(UTC)
    try:
        dataset = parse_dataset(dataset_text, "the data set's file")
        cases = read_cases(dataset, data)
    except DatasetError as error:
        raise DataError(str(error)) from error
    if len(card.labels) != 1:
        raise DataError("a cross-validation judges one label; this card has several")
    said = {film.image: film for film in films}
    if missing := [case.case for case in cases if case.positive is not None and case.case not in said]:
        raise DataError(f"{len(missing)} judged case(s) were not scored, the first is {missing[0]}")
    scored = [case for case in cases if case.case in said and said[case.case].fold in nested]
    label = card.labels[0].key
    record = run_record(
        card,
        dataset.reference,
        command,
        started,
        {"folds": len(nested), "scores": "calibrated on the other folds"},
        NOTE,
        folds={
            fold: FoldThresholds(threshold=point.picture_threshold, mark_threshold=point.lesion_threshold)
            for fold, point in nested.items()
        },
    )
    return write_run(
        out,
        record,
        [_record(case, said[case.case], nested[said[case.case].fold], label) for case in scored],
        card=card_text,
        dataset=dataset_text,
        manifest=manifest_text(
            (case.case, input_name(path, data), file_sha256(path)) for case in scored for path in case.inputs
        ),
    )


def run_record(
    card: ModelCard,
    dataset: str,
    command: str,
    started: datetime,
    settings: Mapping[str, str | int | float | bool | None],
    note: str,
    *,
    folds: Mapping[int, FoldThresholds],
) -> RunRecord:
    """The record of a cross-validation; number of cases and digests of files are filled in by `write_run`."""
    later = digest("")
    packages = environment()
    return RunRecord(
        kind="cross-validation",
        model=card.reference,
        model_digest=card.model_digest,
        weights={weights.file: weights.sha256 for weights in card.weights},
        label=card.labels[0].key,
        runtime="torch, networks of the folds",
        dataset=dataset,
        dataset_digest=later,
        data_sha256=later,
        card_sha256=later,
        cases=0,
        command=command,
        radnode=version(),
        environment_sha256=digest("\n".join(packages)),
        environment=packages,
        hardware=hardware(),
        settings=settings,
        folds=folds,
        notes=(note,),
        started=started,
        finished=datetime.now(UTC),
    )


def _record(case: EvalCase, film: SaidFilm, point: Operating, label: str) -> CaseRecord:
    marks = tuple(MarkRecord(label=label, box=mark.box, score=mark.score, logit=mark.logit) for mark in film.marks)
    said = CaseRecord(
        case=case.case,
        patient=case.patient,
        status=Status.ANALYSED,
        fold=film.fold,
        score=film.score,
        logit=film.logit,
        threshold=point.picture_threshold,
        mark_threshold=point.lesion_threshold,
        marks=marks,
    )
    return case.told(said)

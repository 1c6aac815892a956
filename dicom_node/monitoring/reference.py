"""What a version is compared with in service: scores, flag rate and sensitivity of its evaluation report.

Two kinds of reports lie beside cards: that of ``radnode eval report`` (`EVALUATION/`, with a table of cases whose
digest it names) and that of ``radnode train`` (`evaluation.json` with `predictions.csv`). A report of another model
digest is none. Called by `build`.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.card import ModelCard
from models.codes import Text
from models.evaluation_report import ReportFile, reports_of
from models.registry import InstalledModel

_BY_DESIGN: Final = Text(
    en="the share of diseased cases was chosen when the set was made: in service another one is to be expected",
    ru="доля случаев с патологией задана при составлении набора: в эксплуатации следует ожидать другой",
)
_OUT_OF_FOLD: Final = Text(
    en="scores of a cross-validation, by networks that did not see the film; the served threshold is applied to them",
    ru="оценки перекрёстной проверки, от сетей, не видевших снимка; применён порог рабочей версии",
)
_OF_TRAINING: Final = Text(
    en="the share of diseased films is that of the training set: in service another one is to be expected",
    ru="доля снимков с патологией — как в обучающем наборе: в эксплуатации следует ожидать другой",
)


class NoReference(Exception):
    """There is nothing to compare with; the message says why."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Reference:
    """What a report says of scores.

    Attributes
    ----------
    file, sha256 : str
        Of the table of cases.
    label : str
        Key of the label that was judged.
    unit : str
        What a case is: film, study, scan.
    scores : float64 (cases,)
        Of judged cases that were analysed.
    flagged : int
        Cases at or above their threshold.
    positive, found : int
        Cases with the finding, and those of them that are flagged.
    notes : tuple of Text
        What a comparison must know.
    """

    file: str
    sha256: str
    label: str
    unit: str
    scores: NDArray[np.float64]
    flagged: int
    positive: int
    found: int
    notes: tuple[Text, ...]


def reference_of(model: InstalledModel) -> Reference:
    """The reference of an installed model: of the reports beside its card the newest of exactly this model.

    Raises
    ------
    NoReference
        If there is no such report, or its table of cases is not there, or is not the one that it names.
    """
    card = model.card
    mine = [one for one in reports_of(model) if one.report.model == card.reference]
    if not mine:
        raise NoReference("no evaluation report lies beside the card")
    fitting = [one for one in mine if one.report.model_digest == card.model_digest]
    if not fitting:
        raise NoReference("the evaluation report beside the card is of another state of the model")
    whole = [one for one in fitting if "sections" in json.loads(one.text)]
    newest = max(whole or fitting, key=lambda one: str(one.report.created or ""))
    try:
        return _of_report(newest) if whole else _of_training(newest, card)
    except (ValueError, KeyError) as error:
        raise NoReference("the table of cases beside the report has a case without a score or threshold") from error


def _of_report(report: ReportFile) -> Reference:
    sections = json.loads(report.text)["sections"]
    try:
        annexes, scoring = sections["annexes"], sections["scoring"]
        path, wanted = report.path.parent / annexes["cases_file"], annexes["cases_sha256"]
        label, unit = str(scoring["label"]), str(scoring["unit"])
        by_design = bool(sections["statistics"]["prevalence_by_design"])
    except (KeyError, TypeError) as error:
        raise NoReference(f"{report.path.name} lacks {error}") from error
    rows, sha256 = _rows(path)
    if sha256 != wanted:
        raise NoReference(f"{path.name} is not the table of cases that {report.path.name} names")
    judged = [row for row in rows if row["status"] == "analysed" and row["positive"] in ("0", "1") and row["score"]]
    called = [float(row["score"]) >= float(row["threshold"]) for row in judged]
    notes = (_BY_DESIGN,) if by_design else ()
    return _reference(path.name, sha256, label, unit, judged, "score", called, notes)


def _of_training(report: ReportFile, card: ModelCard) -> Reference:
    path, label = report.path.with_name("predictions.csv"), card.labels[0]
    if label.picture is None or len(card.labels) > 1:
        raise NoReference("the report of the training judges no whole picture of a model with one label")
    rows, sha256 = _rows(path)
    judged = [row for row in rows if row["judged"] == "1"]
    called = [float(row["picture_score"]) >= label.picture.threshold for row in judged]
    notes = (_OUT_OF_FOLD, _OF_TRAINING)
    return _reference(path.name, sha256, label.key, "film", judged, "picture_score", called, notes)


def _reference(
    file: str,
    sha256: str,
    label: str,
    unit: str,
    judged: Sequence[Mapping[str, str]],
    score: str,
    called: Sequence[bool],
    notes: tuple[Text, ...],
) -> Reference:
    if not judged:
        raise NoReference(f"{file} has no judged case")
    diseased = [row["positive"] == "1" for row in judged]
    return Reference(
        file=file,
        sha256=sha256,
        label=label,
        unit=unit,
        scores=np.asarray([float(row[score]) for row in judged]),
        flagged=sum(called),
        positive=sum(diseased),
        found=sum(call and truth for call, truth in zip(called, diseased, strict=True)),
        notes=notes,
    )


def _rows(path: Path) -> tuple[list[dict[str, Any]], str]:
    try:
        data = path.read_bytes()
        return list(csv.DictReader(data.decode().splitlines())), hashlib.sha256(data).hexdigest()
    except (OSError, UnicodeDecodeError) as error:
        raise NoReference(f"{path.name} beside the report cannot be read") from error

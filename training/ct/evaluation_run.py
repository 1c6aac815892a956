"""The counts of a released detector on CT as a run that `radnode eval report` reads.

Called by ``radnode data cross-validation`` with a recipe. A training on volumes keeps for each scan which lesions were
found and the scores of its false marks, not where the marks lie: curves can be drawn from them, pictures cannot.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from eval.cases import input_name
from eval.datasets import DatasetError, parse_dataset
from eval.runs import (
    CaseRecord,
    FoldThresholds,
    LesionRecord,
    Matched,
    RunRecord,
    Status,
    file_sha256,
    manifest_text,
    write_run,
)
from models.card import CardError, ModelCard, read_card
from training.ct.cases import CtCase
from training.ct.readers import read_set
from training.ct.recipe import read_recipe
from training.errors import DataError
from training.evaluation_run import run_record
from training.manifest import taught_files
from training.release import CARD_FILE, FIGURES_FILE

NOTE = (
    "Cross-validation: each scan was marked by a network that had not seen its patient. Scores are those of the "
    "network, not calibrated; the threshold was set in the recipe, not fitted. Scans are numbered, and only which "
    "lesions were found was kept."
)


def released_run(folder: Path, data: Path, recipe_file: Path, dataset_file: Path, out: Path) -> RunRecord:
    """Write the run of a released detector's counts.

    Parameters
    ----------
    folder : Path
        Of the model: card and counts.
    data, recipe_file : Path
        Folder of the scans, and the recipe that reads them.
    dataset_file : Path
        The data set as an evaluation sees it.
    out : Path
        Folder of the run.

    Raises
    ------
    DataError
        If a file cannot be read, or the scans are not those that the card names.
    """
    started = datetime.now(UTC)
    try:
        card_text, dataset_text = ((folder / CARD_FILE).read_text("utf-8"), dataset_file.read_text("utf-8"))
        card, dataset = read_card(folder / CARD_FILE), parse_dataset(dataset_text, dataset_file.name)
        kept: Mapping[str, object] = json.loads((folder / FIGURES_FILE).read_text("utf-8"))
        scans = [_counts(scan) for scan in _list(kept["scans"])]
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be read: {error.strerror}") from error
    except (CardError, DatasetError) as error:
        raise DataError(str(error)) from error
    except (KeyError, ValueError, TypeError) as error:
        raise DataError(f"{folder.name}: the counts cannot be understood: {error}") from error
    taught_files(folder, data, reader=None, recipe=recipe_file)  # refuses other scans than the card's
    cases = sorted(read_set(read_recipe(recipe_file).data, data), key=lambda case: (case.patient, case.name))
    if len(cases) != len(scans):
        raise DataError(f"{len(scans)} scans were counted, the folder holds {len(cases)}")
    command = f"radnode data cross-validation {card.reference} --data DIR --recipe {recipe_file.name}"
    record = run_record(
        card,
        dataset.reference,
        command,
        started,
        {"scores": "of the network, not calibrated"},
        NOTE,
        folds={int(counts.patient) - 1: _thresholds(card) for counts in scans},
    )
    return write_run(
        out,
        record,
        [_case(counts, card) for counts in scans],
        card=card_text,
        dataset=dataset_text,
        manifest=manifest_text(_rows(scans, cases, data)),
    )


class _Scan:
    """Counts of one scan, as `training.ct.release` writes them."""

    def __init__(self, content: Mapping[str, object]) -> None:
        self.name, self.patient = str(content["scan"]), str(content["patient"])
        self.found = tuple(float(str(score)) for score in _list(content["scores_of_found"]))
        self.false_marks = tuple(float(str(score)) for score in _list(content["scores_of_false"]))
        self.litres = float(str(content["litres"]))


def _counts(content: object) -> _Scan:
    if not isinstance(content, Mapping):
        raise TypeError("a scan is no table of values")
    return _Scan(content)


def _list(value: object) -> Sequence[object]:
    if not isinstance(value, list):
        raise TypeError("a list is wanted")
    return value


def _thresholds(card: ModelCard) -> FoldThresholds:
    """Set in the recipe, the same for scans and marks and in every fold."""
    threshold = card.labels[0].operating_point.threshold
    return FoldThresholds(threshold=threshold, mark_threshold=threshold)


def _case(scan: _Scan, card: ModelCard) -> CaseRecord:
    label, thresholds = card.labels[0], _thresholds(card)
    return CaseRecord(
        case=scan.name,
        patient=scan.patient,
        status=Status.ANALYSED,
        fold=int(scan.patient) - 1,
        score=max((*scan.found, *scan.false_marks), default=0.0),
        threshold=thresholds.threshold,
        mark_threshold=thresholds.mark_threshold,
        positive=bool(scan.found),
        reading="lesion" if scan.found else "none",
        lesions=tuple(LesionRecord(label=label.key) for _ in scan.found),
        matched=Matched(found=tuple(score or None for score in scan.found), false_marks=scan.false_marks),
        numbers={"litres": scan.litres},
    )


def _rows(scans: Sequence[_Scan], cases: Sequence[CtCase], data: Path) -> list[tuple[str, str, str]]:
    """The manifest: scans are numbered in the order of patients and names, as their counts are."""
    return [
        (scan.name, input_name(path, data), file_sha256(path))
        for scan, case in zip(scans, cases, strict=True)
        for path in case.files
    ]

"""Puts a trained and evaluated model into a folder: weights, card, evaluation report, out-of-fold predictions.

Called by `training.train --report`. What people say of the model is read from the draft beside the recipe; every
number comes from the evaluation.
"""

from __future__ import annotations

import csv
import hashlib
import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

from models.card import ModelCard
from training.data import Film, Teaches, counts, manifest_digest
from training.export import ONNX_FILE, TORCH_FILE, Parity
from training.figures import SEED, Evaluation
from training.operating import LESION_RULE, PICTURE_RULE, Operating
from training.recipe import Recipe
from training.report import report
from training.score import ScoredFilm, output_of
from training.splits import Splits
from training.toml import to_toml

PREDICTIONS_FILE, MARKS_FILE, REPORT_FILE, FIGURES_FILE = (
    "predictions.csv",
    "marks.csv",
    "EVALUATION.md",
    "evaluation.json",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Made:
    """All that a release is made from."""

    recipe: Recipe
    films: tuple[Film, ...]
    splits: Splits
    scored: tuple[ScoredFilm, ...]
    evaluation: Evaluation
    parity: Parity
    command: str


def write_release(made: Made, draft: Path, folder: Path) -> ModelCard:
    """Write everything but the weights, which `training.export` has put into `folder` before.

    Returns
    -------
    ModelCard
        As written to `card.toml`.

    Raises
    ------
    pydantic.ValidationError
        If draft and measurements do not make a valid card.
    """
    card = build_card(made, tomllib.loads(draft.read_text(encoding="utf-8")), folder)
    values = cast("Mapping[str, object]", card.model_dump(mode="json", exclude_none=True))
    head = "# Written by training.release: change the draft beside the recipe, or train anew, not this file.\n\n"
    (folder / "card.toml").write_text(head + to_toml(values), encoding="utf-8")
    _write_predictions(made, folder / PREDICTIONS_FILE)
    _write_marks(made, folder / MARKS_FILE)
    twin = twin_of(made, card)
    (folder / FIGURES_FILE).write_text(json.dumps(twin, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / REPORT_FILE).write_text(report(twin), encoding="utf-8")
    return card


def build_card(made: Made, draft: dict[str, dict[str, object]], folder: Path) -> ModelCard:
    """The card: the draft and what was measured. Weights are read from `folder` for their digests."""
    recipe, served = made.recipe, made.evaluation.served
    taught = [film for film in made.films if film.teaches is not Teaches.NOTHING]
    chosen_on = f"on the out-of-fold scores of all {len(made.evaluation.adults)} read adult films"
    measured: dict[str, object] = {
        "lesion": {"threshold": served.lesion_threshold, "chosen_by": f"{LESION_RULE}, {chosen_on}"},
        "lesion_calibration": served.lesion_calibration,
        "picture": {"threshold": served.picture_threshold, "chosen_by": f"{PICTURE_RULE}, {chosen_on}"},
        "picture_calibration": served.picture_calibration,
    }
    labels = cast("list[dict[str, object]]", draft["labels"])
    whole: dict[str, object] = {
        **draft,
        "identity": {**draft["identity"], "name": recipe.name, "version": recipe.version},
        "weights": [
            {"runtime": "onnx", "file": ONNX_FILE, "sha256": _digest(folder / ONNX_FILE)},
            {"runtime": "torch", "file": TORCH_FILE, "sha256": _digest(folder / TORCH_FILE)},
        ],
        "input": recipe.input,
        "output": output_of(recipe),
        "labels": [{**label, **measured} for label in labels],
        "training": {
            **draft["training"],
            "films": len(taught),
            "patients": len({film.patient for film in taught}),
            "manifest_sha256": manifest_digest(taught),
        },
        "evaluation": {
            "method": _method(made),
            "command": made.command,
            "figures": made.evaluation.figures,
        },
    }
    return ModelCard.model_validate(whole)


def _method(made: Made) -> str:
    return (
        f"{made.splits.folds}-fold cross-validation by patient (split {made.splits.digest[:12]}); every film is scored "
        "by a network that saw no film of its patient. Thresholds and calibration of each fold come from the other "
        "folds. The weights served are one more training on all films, which no film is left to judge; the served "
        "thresholds were chosen on all out-of-fold scores. Intervals: 95 %, patients resampled 2,000 times "
        f"(seed {SEED}), for calls of films Clopper-Pearson as if films were independent. Earlier settings of the "
        "recipe were compared on some of these films, so the figures are somewhat hopeful."
    )


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def twin_of(made: Made, card: ModelCard) -> dict[str, object]:
    """Everything that the report prints, as JSON values."""
    recipe = made.recipe
    return {
        "model": card.reference,
        "title": card.identity.title.en,
        "model_digest": card.model_digest,
        "weights": {weights.file: weights.sha256 for weights in card.weights},
        "recipe_digest": recipe.digest,
        "split_digest": made.splits.digest,
        "manifest_sha256": card.training.manifest_sha256,
        "seeds": {"split": recipe.split_seed, "training": recipe.schedule.seed, "bootstrap": SEED},
        "command": made.command,
        "method": card.evaluation.method,
        "intended_use": card.intended_use.statement.en,
        "limits": [limit.en for limit in card.limits],
        "citation": card.training.citation,
        "licence": card.training.licence,
        "training": card.training.description,
        "audit": counts(made.films),
        "folds": {str(fold): _plain(point) for fold, point in made.evaluation.nested.items()},
        "served": _plain(made.evaluation.served),
        "rules": {"picture": PICTURE_RULE, "lesion": LESION_RULE},
        "parity": asdict(made.parity),
        "figures": [figure.model_dump(mode="json") for figure in made.evaluation.figures],
    }


def _plain(point: Operating) -> dict[str, object]:
    return {
        "picture_threshold": point.picture_threshold,
        "lesion_threshold": point.lesion_threshold,
        "picture_calibration": point.picture_calibration.model_dump(),
        "lesion_calibration": point.lesion_calibration.model_dump(),
    }


def _write_predictions(made: Made, file: Path) -> None:
    """One row a film, without patient numbers: what it shows, in which fold it was held out, what was said."""
    nested, film_of = made.evaluation.nested, {film.image: film for film in made.films}
    rows = []
    for scored in sorted(made.scored, key=lambda film: film.image):
        film = film_of[scored.image]
        score = nested[scored.fold].picture_score(scored.picture_logit)
        row = [film.image, film.reading, film.view, "adult" if film.adult else "child", film.teaches, len(film.boxes)]
        rows.append([*row, scored.fold, f"{scored.picture_logit:.4f}", f"{score:.4f}"])
    head = ["image", "reading", "view", "age_group", "teaches", "boxes", "fold", "picture_logit", "picture_score"]
    _write_table(file, head, rows)


def _write_marks(made: Made, file: Path) -> None:
    """One row a mark in source pixels, best first in each film, down to far below the served threshold."""
    nested = made.evaluation.nested
    rows = []
    for scored in sorted(made.scored, key=lambda film: film.image):
        for mark in scored.marks:
            box = [f"{value:.1f}" for value in (mark.box.x_min, mark.box.y_min, mark.box.x_max, mark.box.y_max)]
            score = nested[scored.fold].lesion_score(mark.score)
            rows.append([scored.image, scored.fold, *box, f"{mark.score:.4f}", f"{score:.4f}"])
    _write_table(file, ["image", "fold", "x_min", "y_min", "x_max", "y_max", "logit", "score"], rows)


def _write_table(file: Path, head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    with file.open("w", newline="", encoding="utf-8") as lines:
        writer = csv.writer(lines, lineterminator="\n")
        writer.writerow(head)
        writer.writerows(rows)

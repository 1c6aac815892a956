"""Puts a trained and evaluated model into a folder: weights, card, evaluation report, out-of-fold predictions.

Called by `training.detection`. What people say of the model is read from the draft beside the recipe; every number
comes from the run. The folder is built under another name and takes its place whole.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import shutil
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

from pydantic import ValidationError

from models.card import CardError, Guard, ModelCard, Use, read_card
from training.audit import Audit, audit_text
from training.data import FilmSet, Teaches
from training.errors import RecipeError, TrainingError
from training.export import ONNX_FILE, TORCH_FILE, Parity
from training.figures import SEED, Evaluation
from training.files import write_whole
from training.manifest import TRAINING_LIST_FILE, named, training_list
from training.operating import Operating, lesion_rule, picture_rule
from training.recipe import Recipe
from training.report import report
from training.score import ScoredFilm, output_of
from training.splits import Splits
from training.toml import to_toml

PREDICTIONS_FILE, MARKS_FILE, PARITY_FILE = "predictions.csv", "marks.csv", "parity.json"
REPORT_FILE, FIGURES_FILE, CARD_FILE = "EVALUATION.md", "evaluation.json", "card.toml"


class ReleaseError(TrainingError):
    """The model must not be written into the zoo: it has learnt nothing, or would replace another one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Made:
    """All that a release is made from."""

    recipe: Recipe
    read: FilmSet
    splits: Splits
    scored: tuple[ScoredFilm, ...]
    evaluation: Evaluation
    parity: Parity
    audit: Audit
    guard: Guard | None
    manifest_sha256: str
    command: str


@contextmanager
def model_folder(zoo: Path, name: str, version: str, *, replace: bool) -> Iterator[Path]:
    """A folder to build a model in, which becomes ``zoo/name/version`` when the block ends well.

    Raises
    ------
    ReleaseError
        If another model of this name and version is there already and `replace` is False: a changed threshold or
        preprocessing is a new version.
    """
    place = zoo / name / version
    partial, old = (zoo / f".{kind}-{name}-{version}-{os.getpid()}" for kind in ("partial", "old"))
    partial.mkdir(parents=True)
    try:
        yield partial
        if place.exists():
            if not replace and not _same_model(place, partial):
                raise ReleaseError(
                    f"{name} {version} is in the zoo already and would say other things now; raise the recipe's "
                    "version, or run with --replace if nobody has used it yet"
                )
            os.replace(place, old)  # noqa: PTH105 - atomic
        place.parent.mkdir(parents=True, exist_ok=True)
        os.replace(partial, place)  # noqa: PTH105 - atomic
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _same_model(one: Path, other: Path) -> bool:
    try:
        return read_card(one / CARD_FILE).model_digest == read_card(other / CARD_FILE).model_digest
    except CardError:
        return False


def read_draft(file: Path) -> dict[str, object]:
    """The draft of the card beside the recipe: what people say of the model.

    Raises
    ------
    RecipeError
        If it is missing or no TOML.
    """
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"{file}: the draft of the card cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RecipeError(f"{file}: the draft of the card is not valid TOML: {error}") from error


def write_release(made: Made, draft: Mapping[str, object], folder: Path) -> ModelCard:
    """Write everything but the weights and the guard, which lie in `folder` already.

    Returns
    -------
    ModelCard
        As written to `card.toml`.

    Raises
    ------
    RecipeError
        If draft and measurements do not make a valid card; names every fault.
    ReleaseError
        If the network has learnt nothing, unless the card says that it is a demonstration.
    """
    taught = (film.path for film in made.read.films if film.teaches is not Teaches.NOTHING)
    write_whole(folder / TRAINING_LIST_FILE, training_list(taught))
    card = build_card(made, draft, folder)
    if made.evaluation.notes and card.identity.use is not Use.DEMONSTRATION:
        raise ReleaseError("the model is not released: " + "; ".join(made.evaluation.notes))
    values = cast("Mapping[str, object]", card.model_dump(mode="json", exclude_none=True))
    head = "# Written by radnode train: change the draft beside the recipe, or train anew, not this file.\n\n"
    write_whole(folder / CARD_FILE, head + to_toml(values))
    write_whole(folder / PREDICTIONS_FILE, _predictions(made))
    write_whole(folder / MARKS_FILE, _marks(made))
    write_whole(folder / PARITY_FILE, json.dumps(asdict(made.parity), indent=1) + "\n")
    twin = twin_of(made, card)
    write_whole(folder / FIGURES_FILE, json.dumps(twin, indent=1, ensure_ascii=False) + "\n")
    write_whole(folder / REPORT_FILE, report(twin, audit_text(made.audit)))
    return card


def build_card(made: Made, draft: Mapping[str, object], folder: Path) -> ModelCard:
    """The card: the draft and what was measured. Weights and the list of training files are read from `folder`."""
    recipe, served = made.recipe, made.evaluation.served
    taught = [film for film in made.read.films if film.teaches is not Teaches.NOTHING]
    chosen_on = f"on the out-of-fold scores of all {len(made.evaluation.judged)} judged films"
    measured: dict[str, object] = {
        "lesion": {"threshold": served.lesion_threshold, "chosen_by": f"{lesion_rule(recipe.judging)}, {chosen_on}"},
        "lesion_calibration": served.lesion_calibration,
        "picture": {
            "threshold": served.picture_threshold,
            "chosen_by": f"{picture_rule(recipe.judging)}, {chosen_on}",
        },
        "picture_calibration": served.picture_calibration,
    }
    if made.evaluation.breasts is not None:
        measured["breast"] = made.evaluation.breasts.served
    try:
        labels = cast("list[dict[str, object]]", draft["labels"])
        if [label.get("key") for label in labels] != list(recipe.network.labels):
            raise RecipeError(f"the card's labels must be those of the recipe, in order: {recipe.network.labels}")
        identity, training = (cast("dict[str, object]", draft[part]) for part in ("identity", "training"))
        whole: dict[str, object] = {
            **draft,
            "identity": {**identity, "name": recipe.name, "version": recipe.version},
            "weights": [
                {"runtime": "onnx", "file": ONNX_FILE, "sha256": _digest(folder / ONNX_FILE)},
                {"runtime": "torch", "file": TORCH_FILE, "sha256": _digest(folder / TORCH_FILE)},
            ],
            "input": recipe.input,
            "output": output_of(recipe),
            "labels": [{**label, **measured} for label in labels],
            "training": {
                **training,
                "films": len(taught),
                "patients": len({film.patient for film in taught}),
                "manifest_sha256": made.manifest_sha256,
                "files": named((folder / TRAINING_LIST_FILE).read_text(encoding="utf-8")),
            },
            "evaluation": {"method": _method(made), "command": made.command, "figures": made.evaluation.figures},
        }
        if made.guard is not None:
            whole["guard"] = made.guard
        return ModelCard.model_validate(whole)
    except KeyError as error:
        raise RecipeError(f"the draft of the card lacks the part {error}") from error
    except ValidationError as error:
        faults = [f"  {'.'.join(map(str, fault['loc'])) or 'card'}: {fault['msg']}" for fault in error.errors()]
        raise RecipeError(f"the draft of the card: {len(faults)} fault(s)\n" + "\n".join(faults)) from error


def _method(made: Made) -> str:
    return (
        f"{made.splits.folds}-fold cross-validation by patient (split {made.splits.digest[:12]}); every film is scored "
        "by a network that saw no film of its patient. Thresholds and calibration of each fold come from the other "
        "folds. The weights served are one more training on all films, which no film is left to judge: the figures "
        "are those of the folds' networks, and the served thresholds were chosen on all out-of-fold scores. "
        f"Intervals: 95 %, patients resampled {made.recipe.judging.resamples:,} times (seed {SEED}), for calls of "
        "films Clopper-Pearson as if "
        f"films were independent. {made.recipe.judging.caveat}"
    ).strip()


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def twin_of(made: Made, card: ModelCard) -> dict[str, object]:
    """Everything that the report prints, as JSON values."""
    recipe = made.recipe
    return {
        "model": card.reference,
        "title": card.identity.title.en,
        "use": card.identity.use.value,
        "model_digest": card.model_digest,
        "weights": {weights.file: weights.sha256 for weights in card.weights},
        "recipe_digest": recipe.digest,
        "split_digest": made.splits.digest,
        "manifest_sha256": card.training.manifest_sha256,
        "seeds": {"split": recipe.split_seed, "training": recipe.schedule.seed, "bootstrap": SEED},
        "command": made.command,
        "method": card.evaluation.method,
        "standard": made.read.standard,
        "intended_use": card.intended_use.statement.en,
        "limits": [limit.en for limit in card.limits],
        "citation": card.training.citation,
        "licence": card.training.licence,
        "training": card.training.description,
        "audit": asdict(made.audit),
        "folds": {str(fold): _plain(point) for fold, point in made.evaluation.nested.items()},
        "served": _plain(made.evaluation.served),
        "notes": list(made.evaluation.notes),
        "rules": {"picture": picture_rule(recipe.judging), "lesion": lesion_rule(recipe.judging)},
        "parity": asdict(made.parity),
        "guard": made.guard.model_dump(mode="json") if made.guard else None,
        "figures": [figure.model_dump(mode="json") for figure in made.evaluation.figures],
    }


def _plain(point: Operating) -> dict[str, object]:
    return {
        "picture_threshold": point.picture_threshold,
        "lesion_threshold": point.lesion_threshold,
        "picture_calibration": point.picture_calibration.model_dump(),
        "lesion_calibration": point.lesion_calibration.model_dump(),
    }


def _predictions(made: Made) -> str:
    """One row a film, without patient numbers: what it shows, in which fold it was held out, what was said."""
    nested, film_of = made.evaluation.nested, {film.image: film for film in made.read.films}
    traits = list(made.read.subgroups)
    rows: list[Sequence[object]] = []
    for scored in sorted(made.scored, key=lambda film: film.image):
        film = film_of[scored.image]
        known = nested.get(scored.fold, made.evaluation.served)
        score = known.picture_score(scored.picture_logit)
        row = [film.image, film.reading, int(film.positive), int(film.judged), film.teaches, len(film.boxes)]
        row += [film.traits.get(trait, "") for trait in traits]
        rows.append([*row, scored.fold, f"{scored.picture_logit:.4f}", f"{score:.4f}"])
    head = ["image", "reading", "positive", "judged", "teaches", "boxes", *traits]
    return _table([*head, "fold", "picture_logit", "picture_score"], rows)


def _marks(made: Made) -> str:
    """One row a mark in source pixels, best first in each film, down to far below the served threshold."""
    rows: list[Sequence[object]] = []
    for scored in sorted(made.scored, key=lambda film: film.image):
        point = made.evaluation.nested.get(scored.fold, made.evaluation.served)
        for mark in scored.marks:
            box = [f"{value:.1f}" for value in (mark.box.x_min, mark.box.y_min, mark.box.x_max, mark.box.y_max)]
            rows.append([scored.image, scored.fold, *box, f"{mark.score:.4f}", f"{point.lesion_score(mark.score):.4f}"])
    return _table(["image", "fold", "x_min", "y_min", "x_max", "y_max", "logit", "score"], rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows)
    return lines.getvalue()

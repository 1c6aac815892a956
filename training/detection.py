"""Training of a two-dimensional detector, stage by stage: audit, split, folds, refit, report.

The task ``detection-2d`` of `training.tasks`. Each stage keeps its result in the out folder and reads what an earlier
call left; a result made from another recipe, other films or another split is refused, not mixed in.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from models.card import Guard, ModelCard
from training.audit import Audit, audit, audit_text, twins_of, write_audit
from training.bars import Screen, screen
from training.batches import normalised
from training.cache import PreparedFilms, prepare_films
from training.data import Film, FilmSet, Teaches, manifest_digest
from training.errors import DataError, RecipeError, ResumeError
from training.faults import Fault, settle
from training.figures import evaluate
from training.files import write_whole
from training.hashes import Separation, Twins
from training.loop import Progress
from training.members import HalfStored, Members, fit_members
from training.network import Detector
from training.readers import read_set
from training.recipe import Recipe, read_recipe
from training.score import ScoredFilm, as_served, read_scores, score_films, write_scores
from training.several import Processes
from training.splits import SPLITS_FILE, Splits, read_splits, split_by_patient, write_splits
from training.tasks import Options, Stage
from training.tracking import Part, Told, Tracking, open_tracking
from training.views import check_views

if TYPE_CHECKING:
    from training.release import Made

RUN_FILE = "run.json"
_PARITY_FILMS = 24


@dataclass(frozen=True, kw_only=True, slots=True)
class Workshop:
    """What every stage needs: the recipe, the films, how they are dealt, and where results are kept."""

    recipe: Recipe
    read: FilmSet
    faults: tuple[Fault, ...]
    twins: tuple[Separation, tuple[Twins, ...]]
    manifest_sha256: str
    splits: Splits
    prepared: PreparedFilms
    out: Path
    processes: Processes

    @property
    def films(self) -> tuple[Film, ...]:
        """All films of the set that were not left out."""
        return self.read.films


def run(recipe_file: Path, options: Options, processes: Processes) -> Path | None:
    """Run the stages asked for; see `training.tasks.Task`."""
    recipe = read_recipe(recipe_file)
    check(recipe)
    with screen(quiet=processes.rank > 0) as shown:
        shop = open_workshop(recipe, options, processes, shown)
        found = look(shop, options, shown)
        if not any(options.wants(stage) for stage in (Stage.FOLD, Stage.REFIT, Stage.REPORT)):
            return None
        folder = options.tracking if processes.rank == 0 else None
        with open_tracking(folder, Told.of(recipe, shop, processes), shop.out, say=shown.say) as tracking:
            return _train(shop, found, recipe_file, options, tracking, shown)


def _train(
    shop: Workshop, found: Audit, recipe_file: Path, options: Options, tracking: Tracking, shown: Screen
) -> Path | None:
    if options.wants(Stage.FOLD):
        for fold in options.folds or range(shop.splits.folds):
            with tracking.part(f"fold-{fold}") as part:
                run_fold(shop, fold, _both(shown.epochs(f"fold {fold}"), part))
    if not (options.wants(Stage.REFIT) or options.wants(Stage.REPORT)):
        return None
    with tracking.part("refit") as part:
        network = refit(shop, _both(shown.epochs("refit"), part))
    if not options.wants(Stage.REPORT) or shop.processes.rank > 0:
        return None
    return release(shop, network, found, recipe_file, options, tracking, shown)


def _both(show: Callable[[Progress], None], part: Part) -> Callable[[Progress], None]:
    """Tell of an epoch on the screen and in the records."""

    def tell(progress: Progress) -> None:
        show(progress)
        part.epoch({name: value for name, value in asdict(progress).items() if name not in ("epoch", "epochs")})

    return tell


def check(recipe: Recipe) -> None:
    """Check what only the parts that a recipe names can judge.

    Raises
    ------
    RecipeError
        If the recipe names views there are not, or says of them what they do not know.
    """
    try:
        check_views(recipe)
    except ValidationError as error:
        faults = [f"  views.{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()]
        raise RecipeError(f"{recipe.name}: {len(faults)} fault(s)\n" + "\n".join(faults)) from error
    except ValueError as error:
        raise RecipeError(f"{recipe.name}: {error}") from error


def open_workshop(recipe: Recipe, options: Options, processes: Processes, shown: Screen) -> Workshop:
    """Read the films, prepare what is not yet prepared, settle faults, and deal what is left.

    Raises
    ------
    TrainingError
        If the recipe or the folder of films is not in order, or the out folder holds another run.
    """
    read = read_set(recipe.data.reader, options.data)
    options.out.mkdir(parents=True, exist_ok=True)
    if not options.resume and processes.rank == 0:
        _forget(options.out)
    if processes.rank > 0:
        processes.wait()  # the first process prepares, the others read what it left
    on_film = shown.films("films prepared", len(read.films))
    prepared = prepare_films(read.films, recipe.input, options.out / "prepared", on_film=on_film)
    read, faults = settle(read, prepared, options.data, recipe.data)
    twins = twins_of(read.films, prepared, recipe.data)
    splits = deal(read.films, recipe, options, twins[1])
    manifest = manifest_digest(film for film in read.films if film.teaches is not Teaches.NOTHING)
    if recipe.data.manifest_sha256 not in (None, manifest):
        raise DataError(
            f"the films are not those that the recipe names: their digest is {manifest}, the recipe's is "
            f"{recipe.data.manifest_sha256}; docs/howto/data-sets.md tells where the set comes from"
        )
    _same_run(options.out / RUN_FILE, recipe, manifest, splits)
    if processes.rank == 0:
        processes.wait()
    return Workshop(
        recipe=recipe,
        read=read,
        faults=faults,
        twins=twins,
        manifest_sha256=manifest,
        splits=splits,
        prepared=prepared,
        out=options.out,
        processes=processes,
    )


def _forget(out: Path) -> None:
    """Remove what an earlier run left: checkpoints, histories, scores, split."""
    patterns = ("fold-*.pt", "refit*.pt", "*.history.jsonl", "fold-*.json", SPLITS_FILE, RUN_FILE)
    for file in (file for pattern in patterns for file in out.glob(pattern)):
        file.unlink()


def _same_run(file: Path, recipe: Recipe, manifest: str, splits: Splits) -> None:
    """Write what decides the run's results, or hold it against what an earlier call wrote."""
    now = {
        "weights_digest": recipe.weights_digest,
        "members": recipe.members,
        "manifest_sha256": manifest,
        "split_digest": splits.digest,
    }
    if not file.exists():
        write_whole(file, json.dumps(now, indent=1) + "\n")
        return
    before = json.loads(file.read_text(encoding="utf-8"))
    if changed := [name for name, value in now.items() if before.get(name) != value]:
        raise ResumeError(
            f"{file.parent} holds a run with another {' and '.join(changed)}; take another --out, or run with --anew "
            "to remove its checkpoints and scores"
        )


def deal(films: tuple[Film, ...], recipe: Recipe, options: Options, twins: tuple[Twins, ...]) -> Splits:
    """The split that the user brings, the one that an earlier call stored, or a new one, which is stored.

    Raises
    ------
    SplitError
        If it parts a patient or does not fit the films.
    """
    stored = options.out / SPLITS_FILE
    if options.splits is None and stored.exists():
        return read_splits(stored, films)
    if options.splits is not None:
        splits = read_splits(options.splits, films)
    else:
        bound = [(pair.one, pair.other) for pair in twins if recipe.data.twins == "bind" and not pair.same_patient]
        splits = split_by_patient(films, folds=recipe.folds, seed=recipe.split_seed, bound=bound)
    write_splits(splits, stored)
    return splits


def look(shop: Workshop, options: Options, shown: Screen) -> Audit:
    """The audit, written into the out folder and, where it is what was asked for, told."""
    rules = shop.recipe.data
    found = audit(shop.read, shop.prepared, shop.faults, shop.twins, shop.splits, rules, shop.manifest_sha256)
    if shop.processes.rank == 0:
        write_audit(found, shop.out)
    if Stage.AUDIT in options.stages:
        shown.say(audit_text(found))
    else:
        for warning in found.warnings:
            shown.say(f"audit: {warning}")
    return found


def run_fold(shop: Workshop, fold: int, on_epoch: Callable[[Progress], None]) -> tuple[ScoredFilm, ...]:
    """Train on all folds but `fold` and score its films, or read what an earlier call left.

    Raises
    ------
    DataError
        If there is no such fold, or nothing to learn from without it.
    """
    if not 0 <= fold < shop.splits.folds:
        raise DataError(f"there is no fold {fold}; folds are counted from 0 to {shop.splits.folds - 1}")
    kept = shop.out / f"fold-{fold}.json"
    if not kept.exists():
        training = shop.splits.training(shop.films, fold)
        if not any(film.teaches is Teaches.LESIONS for film in training):
            raise DataError(f"without fold {fold} no film with a box is left to learn from: use fewer folds")
        checkpoint = shop.out / f"fold-{fold}.pt"
        network = fit_members(
            shop.recipe, training, shop.prepared, checkpoint=checkpoint, on_epoch=on_epoch, processes=shop.processes
        )
        held_out = shop.splits.held_out(shop.films, fold)
        if shop.processes.rank == 0:
            served = as_served(network, shop.recipe)
            write_scores(score_films(served, held_out, shop.prepared, shop.recipe, fold=fold), kept)
        shop.processes.wait()
    return read_scores(kept)


def refit(shop: Workshop, on_epoch: Callable[[Progress], None]) -> Detector | Members:
    """Train on all films, or go on with, or read, what an earlier call left."""
    return fit_members(
        shop.recipe,
        shop.films,
        shop.prepared,
        checkpoint=shop.out / "refit.pt",
        on_epoch=on_epoch,
        processes=shop.processes,
    )


def out_of_fold(shop: Workshop) -> tuple[ScoredFilm, ...]:
    """What each fold's network said of the films held out from it.

    Raises
    ------
    DataError
        If a fold has not been trained.
    """
    files = [shop.out / f"fold-{fold}.json" for fold in range(shop.splits.folds)]
    if missing := [file.stem for file in files if not file.exists()]:
        raise DataError(f"{', '.join(missing)} not trained yet; run the stage fold first")
    return tuple(film for file in files for film in read_scores(file))


def release(
    shop: Workshop,
    network: Detector | Members,
    found: Audit,
    recipe_file: Path,
    options: Options,
    tracking: Tracking,
    shown: Screen,
) -> Path:
    """Evaluate the folds' scores, export `network`, prove it, and write the model's folder below the zoo.

    Returns
    -------
    Path
        The folder: ``zoo/<name>/<version>``.
    """
    from training.export import export, prove_parity
    from training.release import Made, model_folder, read_draft, write_release

    recipe, draft = shop.recipe, read_draft(recipe_file.with_suffix(".card.toml"))
    scored = out_of_fold(shop)
    served = as_served(network, recipe)
    if recipe.half_weights:
        served = HalfStored(served)
    with model_folder(options.zoo, recipe.name, recipe.version, replace=options.replace) as folder:
        export(served, folder, height=recipe.input.height, width=recipe.input.width)
        made = Made(
            recipe=recipe,
            read=shop.read,
            splits=shop.splits,
            scored=scored,
            evaluation=evaluate(shop.read, scored, recipe.judging),
            parity=prove_parity(served, folder, _some_films(shop)),
            audit=found,
            guard=_guard(shop, folder, shown),
            manifest_sha256=shop.manifest_sha256,
            command=f"radnode train {recipe_file.name} --data DIR",
        )
        card = write_release(made, draft, folder)
        tracking.release(made, card, folder, shop.out, shop.prepared)
        _evaluation_run(made, card, folder, recipe_file, options)
    return options.zoo / recipe.name / recipe.version


def _evaluation_run(made: Made, card: ModelCard, folder: Path, recipe_file: Path, options: Options) -> None:
    """Where a data set's file lies beside the recipe: the cross-validation as a run that an evaluation report reads."""
    from training.evaluation_run import DATASET_SUFFIX, calibrated_films, write_cross_validation
    from training.release import CARD_FILE

    dataset = recipe_file.with_suffix(DATASET_SUFFIX)
    if not dataset.is_file():
        return
    write_cross_validation(
        calibrated_films(made.scored, made.evaluation.nested),
        made.evaluation.nested,
        card=card,
        card_text=(folder / CARD_FILE).read_text(encoding="utf-8"),
        dataset_text=dataset.read_text(encoding="utf-8"),
        data=options.data,
        out=options.out / "evaluation-run",
        command=made.command,
    )


def _guard(shop: Workshop, folder: Path, shown: Screen) -> Guard | None:
    """Fit the guard on the training films and write it into the model's folder."""
    from training.guard import GuardDataError, fit_guard, guard_films, write_guard

    if not shop.recipe.guard.fit:
        return None
    on_film = shown.films("films for the guard", len(shop.films))
    try:
        fitted = fit_guard(guard_films(shop.films, shop.splits, shop.recipe.input, on_film=on_film))
    except GuardDataError as error:
        raise DataError(f"no guard can be fitted: {error}; use fewer folds, or fit = false under [guard]") from error
    return write_guard(fitted, folder, action=shop.recipe.guard.action)


def _some_films(shop: Workshop) -> NDArray[np.float32]:
    """Real films (N, 1, H, W) as the network is fed, of every reading."""
    import torch

    readings = (shop.read.positive, *shop.read.negatives)
    chosen = [film for reading in readings for film in shop.films if film.reading == reading]
    chosen = chosen[:: max(1, len(chosen) // _PARITY_FILMS)][:_PARITY_FILMS]
    greys = torch.from_numpy(np.stack([shop.prepared.grey(film.image) for film in chosen]))[:, None]
    return np.asarray(normalised(greys, shop.recipe).numpy())

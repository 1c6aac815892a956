"""Training of a two-dimensional detector, stage by stage: audit, split, folds, refit, report.

The task ``detection-2d`` of `training.tasks`. Each stage keeps its result in the out folder and reads what an earlier
call left; a result made from another recipe, other films or another split is refused, not mixed in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from training.bars import Screen, screen
from training.batches import normalised
from training.cache import PreparedFilms, prepare_films
from training.data import Film, FilmSet
from training.errors import RecipeError
from training.figures import evaluate
from training.loop import Progress, fit
from training.network import Detector
from training.readers import read_set
from training.recipe import Recipe, read_recipe
from training.score import ScoredFilm, as_served, read_scores, score_films, write_scores
from training.several import Processes
from training.splits import SPLITS_FILE, Splits, read_splits, split_by_patient, write_splits
from training.tasks import Options, Stage
from training.views import check_views

_PARITY_FILMS = 24


@dataclass(frozen=True, kw_only=True, slots=True)
class Workshop:
    """What every stage needs: the recipe, the films, how they are dealt, and where results are kept."""

    recipe: Recipe
    set: FilmSet
    splits: Splits
    prepared: PreparedFilms
    out: Path
    processes: Processes

    @property
    def films(self) -> tuple[Film, ...]:
        """All films of the set."""
        return self.set.films


def run(recipe_file: Path, options: Options, processes: Processes) -> Path | None:
    """Run the stages asked for; see `training.tasks.Task`."""
    recipe = read_recipe(recipe_file)
    check(recipe)
    with screen(quiet=processes.rank > 0) as shown:
        shop = open_workshop(recipe, options, processes, shown)
        if options.wants(Stage.FOLD):
            for fold in options.folds or range(shop.splits.folds):
                run_fold(shop, fold, shown.epochs(f"fold {fold}"))
        if not (options.wants(Stage.REFIT) or options.wants(Stage.REPORT)):
            return None
        network = refit(shop, shown.epochs("refit"))
        if not options.wants(Stage.REPORT) or processes.rank > 0:
            return None
        return release(shop, network, recipe_file, options)


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
    """Read the films, prepare what is not yet prepared, and deal them.

    Raises
    ------
    TrainingError
        If the recipe or the folder of films is not in order.
    """
    read = read_set(recipe.data.reader, options.data)
    options.out.mkdir(parents=True, exist_ok=True)
    return Workshop(
        recipe=recipe,
        set=read,
        splits=deal(read.films, recipe, options),
        prepared=prepare_films(
            read.films, recipe.input, options.out / "prepared", on_film=shown.films("films prepared", len(read.films))
        ),
        out=options.out,
        processes=processes,
    )


def deal(films: tuple[Film, ...], recipe: Recipe, options: Options) -> Splits:
    """The split that the user brings, the one that an earlier call stored, or a new one, which is stored.

    Raises
    ------
    SplitError
        If it parts a patient or does not fit the films.
    """
    stored = options.out / SPLITS_FILE
    if stored.exists():
        return read_splits(stored, films)
    brought = options.splits
    splits = (
        read_splits(brought, films) if brought else split_by_patient(films, folds=recipe.folds, seed=recipe.split_seed)
    )
    write_splits(splits, stored)
    return splits


def run_fold(shop: Workshop, fold: int, on_epoch: Callable[[Progress], None]) -> tuple[ScoredFilm, ...]:
    """Train on all folds but `fold` and score its films, or read what an earlier call left."""
    kept = shop.out / f"fold-{fold}.json"
    if not kept.exists():
        training = shop.splits.training(shop.films, fold)
        checkpoint = shop.out / f"fold-{fold}.pt"
        network = fit(
            shop.recipe, training, shop.prepared, checkpoint=checkpoint, on_epoch=on_epoch, processes=shop.processes
        )
        held_out = shop.splits.held_out(shop.films, fold)
        if shop.processes.rank == 0:
            served = as_served(network, shop.recipe)
            write_scores(score_films(served, held_out, shop.prepared, shop.recipe, fold=fold), kept)
        shop.processes.wait()
    return read_scores(kept)


def refit(shop: Workshop, on_epoch: Callable[[Progress], None]) -> Detector:
    """Train on all films, or go on with, or read, what an earlier call left."""
    return fit(
        shop.recipe,
        shop.films,
        shop.prepared,
        checkpoint=shop.out / "refit.pt",
        on_epoch=on_epoch,
        processes=shop.processes,
    )


def release(shop: Workshop, network: Detector, recipe_file: Path, options: Options) -> Path:
    """Export `network`, evaluate the folds' scores and write the model's folder below the zoo.

    Returns
    -------
    Path
        The folder: ``zoo/<name>/<version>``.
    """
    from training.export import export, prove_parity
    from training.release import Made, write_release

    folder = options.zoo / shop.recipe.name / shop.recipe.version
    folder.mkdir(parents=True, exist_ok=True)
    served = as_served(network, shop.recipe)
    export(served, folder, height=shop.recipe.input.height, width=shop.recipe.input.width)
    scored = tuple(film for fold in range(shop.splits.folds) for film in read_scores(shop.out / f"fold-{fold}.json"))
    made = Made(
        recipe=shop.recipe,
        films=shop.films,
        splits=shop.splits,
        scored=scored,
        evaluation=evaluate(shop.films, scored),
        parity=prove_parity(served, folder, _some_films(shop)),
        command=f"radnode train {recipe_file.as_posix()} --data DIR",
    )
    write_release(made, recipe_file.with_suffix(".card.toml"), folder)
    return folder


def _some_films(shop: Workshop) -> NDArray[np.float32]:
    """Real films (N, 1, H, W) as the network is fed, of every reading."""
    import torch

    readings = (shop.set.positive, *shop.set.negatives)
    chosen = [film for reading in readings for film in shop.films if film.reading == reading]
    chosen = chosen[:: max(1, len(chosen) // _PARITY_FILMS)][:_PARITY_FILMS]
    greys = torch.from_numpy(np.stack([shop.prepared.grey(film.image) for film in chosen]))[:, None]
    return np.asarray(normalised(greys, shop.recipe).numpy())

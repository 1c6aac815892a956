"""Trains, judges and releases a model: ``python -m training.train --recipe FILE --data DIR --out DIR``.

Without a stage it does everything that is not yet done: each fold (train on the others, score this one), the refit on
all films, the report. Each stage keeps its result in the out folder and each epoch a checkpoint, so that whatever is
cut off goes on where it was. ``--fold K``, ``--refit`` and ``--report`` run one stage.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np

from training.cache import PreparedFilms, prepare_films
from training.data import DataError, Film, Reading, read_films
from training.figures import evaluate
from training.loop import Progress, ResumeError, fit, normalised
from training.network import Detector, Mirrored
from training.recipe import Recipe, RecipeError, read_recipe
from training.score import ScoredFilm, read_scores, score_films, write_scores
from training.splits import Splits, split_by_patient

_PARITY_FILMS = 24


@dataclass(frozen=True, kw_only=True, slots=True)
class Workshop:
    """What every stage needs: the recipe, the films, how they are dealt, and where results are kept."""

    recipe: Recipe
    films: tuple[Film, ...]
    splits: Splits
    prepared: PreparedFilms
    out: Path


def open_workshop(recipe_file: Path, data: Path, out: Path, *, on_film: Callable[[], None] = lambda: None) -> Workshop:
    """Read the recipe and the films and prepare what is not yet prepared.

    Raises
    ------
    RecipeError, DataError
        If the recipe or the folder of films is not in order.
    """
    recipe, films = read_recipe(recipe_file), read_films(data)
    out.mkdir(parents=True, exist_ok=True)
    return Workshop(
        recipe=recipe,
        films=films,
        splits=split_by_patient(films, folds=recipe.folds, seed=recipe.split_seed),
        prepared=prepare_films(films, recipe.input, out / "prepared.npz", on_film=on_film),
        out=out,
    )


def run_fold(shop: Workshop, fold: int, on_epoch: Callable[[Progress], None]) -> tuple[ScoredFilm, ...]:
    """Train on all folds but `fold` and score its films, or read what an earlier call left."""
    kept = shop.out / f"fold-{fold}.json"
    if not kept.exists():
        training = shop.splits.training(shop.films, fold)
        checkpoint = shop.out / f"fold-{fold}.pt"
        network = fit(shop.recipe, training, shop.prepared, checkpoint=checkpoint, on_epoch=on_epoch)
        held_out = shop.splits.held_out(shop.films, fold)
        write_scores(score_films(Mirrored(network), held_out, shop.prepared, shop.recipe, fold=fold), kept)
    return read_scores(kept)


def refit(shop: Workshop, on_epoch: Callable[[Progress], None]) -> Detector:
    """Train on all films, or go on with, or read, what an earlier call left."""
    return fit(shop.recipe, shop.films, shop.prepared, checkpoint=shop.out / "refit.pt", on_epoch=on_epoch)


def release(shop: Workshop, network: Mirrored, draft: Path, zoo: Path, command: str) -> Path:
    """Export `network`, evaluate the folds' scores and write the model's folder below `zoo`.

    Returns
    -------
    Path
        The folder: ``zoo/<name>/<version>``.
    """
    from training.export import export, prove_parity
    from training.release import Made, write_release

    folder = zoo / shop.recipe.name / shop.recipe.version
    folder.mkdir(parents=True, exist_ok=True)
    export(network, folder, height=shop.recipe.input.height, width=shop.recipe.input.width)
    scored = tuple(film for fold in range(shop.splits.folds) for film in read_scores(shop.out / f"fold-{fold}.json"))
    made = Made(
        recipe=shop.recipe,
        films=shop.films,
        splits=shop.splits,
        scored=scored,
        evaluation=evaluate(shop.films, scored),
        parity=prove_parity(network, folder, _some_films(shop)),
        command=command,
    )
    write_release(made, draft, folder)
    return folder


def _some_films(shop: Workshop) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Real films (N, 1, H, W) as the network is fed, of every reading."""
    import torch

    chosen = [film for reading in Reading for film in shop.films if film.reading is reading]
    chosen = chosen[:: max(1, len(chosen) // _PARITY_FILMS)][:_PARITY_FILMS]
    greys = torch.from_numpy(np.stack([shop.prepared.grey(film.image) for film in chosen]))[:, None]
    return np.asarray(normalised(greys, shop.recipe).numpy())


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; see the module."""
    parser = argparse.ArgumentParser(prog="python -m training.train", description=__doc__)
    parser.add_argument("--recipe", type=Path, required=True, help="recipe (TOML); its card draft lies beside it")
    parser.add_argument("--data", type=Path, required=True, help="folder of films: labels.csv, boxes.csv, images/")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints and scores; keep it to resume")
    parser.add_argument("--zoo", type=Path, default=Path("models/zoo"), help="where the finished model is written")
    parser.add_argument("--fold", type=int, action="append", default=[], help="only this fold; may be repeated")
    parser.add_argument("--refit", action="store_true", help="only the training on all films")
    parser.add_argument("--report", action="store_true", help="only export, evaluation and card")
    options = parser.parse_args(arguments)
    try:
        _run(options)
    except (RecipeError, DataError, ResumeError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _run(options: argparse.Namespace) -> None:
    everything = not (options.fold or options.refit or options.report)
    recipe_file: Path = options.recipe
    with _progress() as (on_film, on_epoch):
        shop = open_workshop(recipe_file, options.data, options.out, on_film=on_film)
        for fold in range(shop.splits.folds) if everything else options.fold:
            run_fold(shop, fold, on_epoch(f"fold {fold}"))
        if options.refit or options.report or everything:
            network = refit(shop, on_epoch("refit"))
        if options.report or everything:
            command = f"python -m training.train --recipe {recipe_file.as_posix()} --data chest_xray_nih --out out"
            folder = release(shop, Mirrored(network), recipe_file.with_suffix(".card.toml"), options.zoo, command)
            sys.stdout.write(f"{folder}\n")


@contextmanager
def _progress() -> Iterator[tuple[Callable[[], None], Callable[[str], Callable[[Progress], None]]]]:
    """A bar for the films being prepared, and one for each training with its losses."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bars(*columns) as bars:
        films = bars.add_task("films prepared", total=None)

        def on_epoch(name: str) -> Callable[[Progress], None]:
            bar = bars.add_task(name, total=None)

            def show(progress: Progress) -> None:
                losses = f"centre {progress.centre:.3f} edges {progress.edges:.3f} picture {progress.picture:.3f}"
                text = f"{name}: epoch {progress.epoch} {losses}"
                bars.update(bar, total=progress.epochs, completed=progress.epoch, description=text)

            return show

        yield lambda: bars.advance(films), on_epoch


@click.command(add_help_option=False, context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def command(arguments: tuple[str, ...]) -> None:
    """Train a model from a recipe: the same as `python -m training.train`."""
    sys.exit(main(arguments))


if __name__ == "__main__":
    raise SystemExit(main())

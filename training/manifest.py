"""The list of training files that a model carries, so that nobody judges it on what it learnt from.

Called when a model is released (`training.release`, `training.ct.release`), and by ``radnode data training-list`` for a
model that was released without one. It holds digests only: of each file, and of each picture in it after decoding,
which a renamed or losslessly re-encoded copy still has. No name and no patient can be read from it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path

from eval.contamination import pictures_of
from eval.runs import file_sha256
from models.card import CardError, ModelCard, TrainingFiles, read_card
from training.data import Teaches, manifest_digest
from training.errors import DataError
from training.files import write_whole
from training.readers import read_set

TRAINING_LIST_FILE = "training_files.csv"


def training_list(paths: Iterable[Path], *, on_file: Callable[[], None] = lambda: None) -> str:
    """The list as CSV: a row for each picture, sorted, so that the same files give the same bytes."""
    rows = set()
    for path in paths:
        sha256 = file_sha256(path)
        rows |= {(sha256, picture) for picture in pictures_of(path) or ("",)}
        on_file()
    return "file_sha256,picture_sha256\n" + "".join(f"{file},{picture}\n" for file, picture in sorted(rows))


def named(text: str) -> TrainingFiles:
    """What a card says of the list."""
    return TrainingFiles(file=TRAINING_LIST_FILE, sha256=hashlib.sha256(text.encode()).hexdigest())


def taught_files(folder: Path, data: Path, *, reader: str | None, recipe: Path | None) -> tuple[Path, ...]:
    """Files that the released model in `folder` learnt from: of films by their reader, of CT by the recipe's.

    Raises
    ------
    DataError
        If the set is not the one that the card names by its digest.
    """
    wanted = read_card(folder / "card.toml").training.manifest_sha256
    if recipe is not None:
        from training.ct import grids
        from training.ct.readers import read_set as read_scans
        from training.ct.recipe import read_recipe

        spec = read_recipe(recipe)
        cases = read_scans(spec.data, data)
        paths = tuple(path for case in cases for path in case.files)
        digests = {case.name: grids.grid_digest(case, spec.input, spec.data.smallest_mm) for case in cases}
        found = grids.manifest_digest(digests)
    else:
        assert reader is not None, "one of them is given"
        films = [film for film in read_set(reader, data).films if film.teaches is not Teaches.NOTHING]
        paths, found = tuple(film.path for film in films), manifest_digest(films)
    if found != wanted:
        raise DataError(f"the files are not those the card names: their digest is {found}, the card's is {wanted}")
    return paths


def add_to_card(folder: Path, text: str) -> ModelCard:
    """Give a released model its list: write it beside the card, and name it in the card's part [training].

    What the model says is unchanged, and so is its digest.

    Raises
    ------
    DataError
        If the card cannot be read, names a list already, or has no line that the entry can follow.
    """
    card_file = folder / "card.toml"
    try:
        card = read_card(card_file)
    except CardError as error:
        raise DataError(str(error)) from error
    if card.training.files is not None:
        raise DataError(f"{card.reference} names its training files already")
    lines = card_file.read_text(encoding="utf-8").split("\n")
    after = next((at for at, line in enumerate(lines) if line.startswith("manifest_sha256 = ")), None)
    if after is None:
        raise DataError(f"{card_file.name}: no line manifest_sha256 in [training] to write the list after")
    files = named(text)
    lines[after + 1 : after + 1] = ["", "[training.files]", f'file = "{files.file}"', f'sha256 = "{files.sha256}"']
    write_whole(folder / TRAINING_LIST_FILE, text)
    write_whole(card_file, "\n".join(lines))
    return read_card(card_file)

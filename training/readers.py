"""The readers of data sets by the name a recipe calls them, and what is checked of every set alike.

Called by `training.detection`. A new layout is a new module with a function from a folder to a `FilmSet`, and one
line here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import cast

from training.data import FilmSet
from training.errors import DataError

READERS: Mapping[str, str] = {
    "nih-chest": "training.nih:read_folder",
    "mini-mias": "training.mammography:read_folder",
    "csv": "training.tables:read_csv",
    "coco": "training.tables:read_coco",
}


def read_set(reader: str, folder: Path) -> FilmSet:
    """Read `folder` as the layout called `reader`.

    Raises
    ------
    DataError
        If there is no such reader, a table cannot be understood, a film is named twice, or films are missing.
    """
    if reader not in READERS:
        raise DataError(f"no reader is called {reader!r}; there are {', '.join(READERS)}")
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; docs/howto/data-sets.md tells where the sets come from")
    module, function = READERS[reader].split(":")
    read = getattr(import_module(module), function)
    films = cast("FilmSet", read(folder))
    _check(films)
    return films


def _check(read: FilmSet) -> None:
    if not read.films:
        raise DataError("the folder holds no film")
    names = Counter(film.image for film in read.films)
    if twice := [name for name, count in names.items() if count > 1]:
        raise DataError(f"{len(twice)} film(s) are named twice, the first is {twice[0]}")
    if missing := [film.image for film in read.films if not film.path.is_file()]:
        raise DataError(f"{len(missing)} film(s) of the tables are missing as files, the first is {missing[0]}")

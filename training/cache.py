"""Prepares every film once, exactly as the node will, and keeps the result beside the training.

Called by `training.train`. Preparing is `inference.preprocess`; this module only remembers, so that twenty epochs do
not decode every film twenty times.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from inference.findings import Box
from inference.loading import load_film
from inference.preprocess import Transform, prepare
from models.card import ProjectionInput
from training.data import Film, ImageName


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PreparedFilms:
    """Films as the network sees them, before normalising.

    Attributes
    ----------
    index : dict
        Row of each film.
    greys : float16 (films, height, width)
        0..1, stretched and padded as the card's input says. Half precision keeps 2,048 greys, ten times what an
        8-bit film has.
    sources : float64 (films, 4)
        Rows and columns of the source, and input pixels per source pixel along x and y.
    """

    index: dict[ImageName, int]
    greys: NDArray[np.float16]
    sources: NDArray[np.float64]

    def grey(self, image: ImageName) -> NDArray[np.float32]:
        """The film (height, width) in 0..1."""
        return np.asarray(self.greys[self.index[image]], dtype=np.float32)

    def transform(self, image: ImageName) -> Transform:
        """The way between the film's pixels and the network's input."""
        rows, columns, scale_x, scale_y = self.sources[self.index[image]].tolist()
        return Transform(source_rows=int(rows), source_columns=int(columns), scale_x=scale_x, scale_y=scale_y)

    def to_input(self, image: ImageName, box: Box) -> NDArray[np.float32]:
        """(4,) x_min, y_min, x_max, y_max of a box of the film, in input pixels."""
        transform = self.transform(image)
        corners = transform.to_input(box.x_min, box.y_min) + transform.to_input(box.x_max, box.y_max)
        return np.asarray(corners, dtype=np.float32)


def prepare_films(
    films: Sequence[Film], spec: ProjectionInput, file: Path, *, on_film: Callable[[], None] = lambda: None
) -> PreparedFilms:
    """Prepare `films`, or read what an earlier call left in `file` for the same films and the same input.

    Raises
    ------
    inference.refusals.Refused
        If a film cannot be loaded.
    """
    key = _key(films, spec)
    index = {film.image: row for row, film in enumerate(films)}
    if file.exists():
        with np.load(file, allow_pickle=False) as kept:
            if str(kept["key"]) == key:
                return PreparedFilms(index=index, greys=kept["greys"], sources=kept["sources"])
    greys = np.empty((len(films), spec.height, spec.width), dtype=np.float16)
    sources = np.empty((len(films), 4))
    for row, film in enumerate(films):
        made = prepare(load_film(film.path), spec)
        greys[row] = made.tensor[0] * spec.std[0] + spec.mean[0]
        transform = made.transform
        sources[row] = transform.source_rows, transform.source_columns, transform.scale_x, transform.scale_y
        on_film()
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(file.name + ".partial.npz")
    np.savez(partial, key=np.asarray(key), greys=greys, sources=sources)
    os.replace(partial, file)  # noqa: PTH105 - atomic: a cut never leaves half a file
    return PreparedFilms(index=index, greys=greys, sources=sources)


def _key(films: Sequence[Film], spec: ProjectionInput) -> str:
    """Digest of the film's names and sizes and of the input: another film or input is prepared anew."""
    lines = [f"{film.image} {film.path.stat().st_size}" for film in films]
    return hashlib.sha256("\n".join([spec.model_dump_json(), *lines]).encode()).hexdigest()

"""What is wrong with films one by one, and what the recipe wants done about it: refuse, clip a box, skip a film.

Called by `training.detection` after films were prepared, since only then their sizes are known. Everything wrong is
told at once and by name; whatever is let pass is kept for the audit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from inference.findings import Box
from training.cache import PreparedFilms
from training.data import Film, FilmSet, ImageName
from training.errors import DataError
from training.recipe import Data

_NAMED = 5
_PICTURES = frozenset({".jpg", ".jpeg", ".png", ".dcm", ".dicom"})
_ROUNDING_PIXELS = 1.0  # readers' boxes are rounded: what is over the edge by less is no fault, but is clipped


class Kind(StrEnum):
    """What can be wrong with one film."""

    UNREADABLE = "unreadable"  # damaged, no grey picture, or blank
    OUTSIDE = "box outside"  # a lesion lies beyond the film's edge, in part or wholly
    UNLABELLED = "unlabelled"  # a picture in the folder that no table names


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """One fault, what it is exactly, and what was done."""

    image: ImageName
    kind: Kind
    what: str
    done: str


def settle(read: FilmSet, prepared: PreparedFilms, folder: Path, rules: Data) -> tuple[FilmSet, tuple[Fault, ...]]:
    """Apply the recipe's rules to all faults.

    Returns
    -------
    FilmSet
        Without what was skipped, boxes clipped.
    tuple of Fault
        All that was let pass.

    Raises
    ------
    DataError
        If a fault is to be refused; names the first few of each kind, and how to go on.
    """
    skipping, clipping = rules.on_fault == "skip", rules.on_fault in ("clip", "skip")
    unreadable = [(film, prepared.unreadable[film.image]) for film in read.films if film.image in prepared.unreadable]
    kept = [film for film in read.films if film.image not in prepared.unreadable]
    outside = [(film, what) for film in kept if (what := _outside(film, prepared))]
    unlabelled = unlabelled_pictures(read.films, folder)
    refused = []
    if unreadable and not skipping:
        refused.append(_told("film(s) cannot be read", unreadable, 'repair them, or set on_fault = "skip"'))
    if outside and not clipping:
        refused.append(
            _told("film(s) have boxes beyond their edges", outside, 'mend them, or on_fault = "clip" or "skip"')
        )
    if unlabelled and rules.unlabelled == "refuse":
        names = ", ".join(path.name for path in unlabelled[:_NAMED])
        refused.append(
            f"{len(unlabelled)} picture(s) have no label: {names}{_more(unlabelled)}; label them in the tables, move "
            'them out of the folder, or set unlabelled = "ignore" under [data] of the recipe'
        )
    if refused:
        raise DataError("the data cannot be used as they are:\n" + "\n".join(f"  {line}" for line in refused))
    dropped = {film.image for film, _ in outside} if skipping else set()
    films = tuple(_clipped(film, prepared) for film in kept if film.image not in dropped)
    faults = [Fault(image=film.image, kind=Kind.UNREADABLE, what=why, done="film left out") for film, why in unreadable]
    done = "film left out" if skipping else "box clipped, or left out where nothing of it is inside"
    faults += [Fault(image=film.image, kind=Kind.OUTSIDE, what=what, done=done) for film, what in outside]
    faults += [
        Fault(image=ImageName(path.name), kind=Kind.UNLABELLED, what="in no table", done="left out")
        for path in unlabelled
    ]
    return replace(read, films=films), tuple(faults)


def unlabelled_pictures(films: Sequence[Film], folder: Path) -> list[Path]:
    """Pictures below `folder` that no film of the set is."""
    known = {film.path.resolve() for film in films} | {film.path for film in films}
    found = (path for path in folder.rglob("*") if path.suffix.lower() in _PICTURES)
    return sorted(path for path in found if path not in known and path.resolve() not in known)


def _outside(film: Film, prepared: PreparedFilms) -> str:
    """What lies beyond the edges of the film, in words; empty when all is well.

    A circle's hull may reach beyond the edge as long as its centre is inside; a box may by a pixel, for rounding.
    """
    way = prepared.transform(film.image)
    rows, columns = way.source_rows, way.source_columns
    for box in film.boxes:
        if film.radii:
            x, y = box.center
            fine = 0 <= x <= columns and 0 <= y <= rows
        else:
            least, most = min(box.x_min, box.y_min), max(box.x_max - columns, box.y_max - rows)
            fine = least >= -_ROUNDING_PIXELS and most <= _ROUNDING_PIXELS
        if not fine:
            corners = f"({box.x_min:g}, {box.y_min:g}) to ({box.x_max:g}, {box.y_max:g})"
            return f"{corners} on a film of {columns} x {rows} pixels"
    return ""


def _clipped(film: Film, prepared: PreparedFilms) -> Film:
    if film.radii or not film.boxes:
        return film
    way = prepared.transform(film.image)
    boxes = tuple(box for one in film.boxes if (box := _inside(one, way.source_rows, way.source_columns)) is not None)
    return film if boxes == film.boxes else replace(film, boxes=boxes)


def _inside(box: Box, rows: int, columns: int) -> Box | None:
    left, right = (min(max(value, 0.0), float(columns)) for value in (box.x_min, box.x_max))
    top, bottom = (min(max(value, 0.0), float(rows)) for value in (box.y_min, box.y_max))
    if not (left < right and top < bottom):
        return None
    return Box(x_min=left, y_min=top, x_max=right, y_max=bottom)


def _told(what: str, faults: Sequence[tuple[Film, str]], remedy: str) -> str:
    named = "; ".join(f"{film.image}: {why}" for film, why in faults[:_NAMED])
    return f"{len(faults)} {what}: {named}{_more(faults)}; {remedy} under [data] of the recipe"


def _more(faults: Sequence[object]) -> str:
    return " ..." if len(faults) > _NAMED else ""

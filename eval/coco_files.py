"""Reads boxes: a truth in COCO's JSON and a list of results, flat or in volumes.

Called by `eval.commands.boxes`. Boxes of volumes have six numbers, x, y, z, width, height, depth, in one frame and unit
for truth and results; all else is COCO's. A fault names file, index and remedy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from eval.boxes import PredictedBoxes, TrueBoxes
from eval.document import Source
from eval.tables import TableError

_FLAT, _VOLUME = 4, 6
_SHOWN_FAULTS = 3
_Id = int | str
_T = TypeVar("_T")


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class Image(_Row):
    """An image or volume; images of one patient are resampled together."""

    id: _Id
    width: float | None = None
    height: float | None = None
    patient: _Id | None = None


class _Placed(_Row):
    image_id: _Id
    category_id: _Id
    bbox: list[float]


class Annotation(_Placed):
    """A box of the reference standard."""

    area: float | None = Field(default=None, ge=0)
    iscrowd: Literal[0, 1] = 0


class Category(_Row):
    """A class."""

    id: _Id
    name: str = ""


class Truth(_Row):
    """The reference standard, COCO's "instances" file; other keys are not read."""

    images: list[Image]
    annotations: list[Annotation]
    categories: list[Category]


class Prediction(_Placed):
    """A box of a detector, as in COCO's results."""

    score: float


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class BoxFiles:
    """Everything read.

    Attributes
    ----------
    truth, predictions : TrueBoxes, PredictedBoxes
    names, ids : tuple
        Of classes, in the order of the truth's list.
    sizes : float64 (images, 2)
        Width and height in pixels, NaN where they are not given.
    patients : intp (images,) or None
        Number of the patient of each image, where every image names one.
    """

    truth: TrueBoxes
    predictions: PredictedBoxes
    names: tuple[str, ...]
    ids: tuple[_Id, ...]
    sizes: NDArray[np.float64]
    patients: NDArray[np.intp] | None
    sources: tuple[Source, ...]
    notes: tuple[str, ...]

    @property
    def images(self) -> int:
        """Number of images."""
        return len(self.sizes)

    @property
    def volumes(self) -> bool:
        """Whether boxes have a depth."""
        return bool(self.truth.box.shape[1] == _VOLUME)


def read_boxes(truth: Path, predictions: Path) -> BoxFiles:
    """Read both files.

    Raises
    ------
    TableError
        For anything that cannot be counted; the message names file, index and remedy.
    """
    standard = _read(truth, TypeAdapter(Truth))
    results = _read(predictions, TypeAdapter(list[Prediction]))
    images = _index(truth, "images", [image.id for image in standard.images])
    categories = _index(truth, "categories", [category.id for category in standard.categories])
    if not images:
        raise TableError(f"{truth.name}: images is empty; list every image that was looked at, with and without boxes")
    if not categories:
        raise TableError(f"{truth.name}: categories is empty; list every class that boxes may have")
    width = _width(truth, standard.annotations, predictions, results)
    true_at, true_class = _references(truth, "annotations", standard.annotations, images, categories)
    given_at, given_class = _references(predictions, "", results, images, categories)
    true_box = _boxes(truth, "annotations", standard.annotations, width, positive=True)
    extents = true_box[:, width // 2 :].prod(axis=1)
    area = np.asarray([np.nan if one.area is None else one.area for one in standard.annotations], dtype=np.float64)
    return BoxFiles(
        truth=TrueBoxes(
            image=true_at,
            category=true_class,
            box=true_box,
            area=np.where(np.isnan(area), extents, area),
            ignored=np.asarray([one.iscrowd for one in standard.annotations], dtype=np.bool_),
        ),
        predictions=PredictedBoxes(
            image=given_at,
            category=given_class,
            box=_boxes(predictions, "", results, width, positive=False),
            score=np.asarray([one.score for one in results], dtype=np.float64),
        ),
        names=tuple(category.name or str(category.id) for category in standard.categories),
        ids=tuple(categories),
        sizes=np.asarray(
            [[image.width or np.nan, image.height or np.nan] for image in standard.images], dtype=np.float64
        ),
        patients=_patients(truth, standard.images),
        sources=(Source.of(truth, len(standard.annotations)), Source.of(predictions, len(results))),
        notes=tuple(_notes(truth, standard, predictions, results)),
    )


def _read(path: Path, kind: TypeAdapter[_T]) -> _T:
    try:
        return kind.validate_json(path.read_bytes())
    except OSError as error:
        raise TableError(f"{path}: cannot be read: {error.strerror}") from error
    except ValidationError as error:
        faults = error.errors(include_url=False, include_input=False)
        shown = "; ".join(_fault(fault["loc"], fault["msg"]) for fault in faults[:_SHOWN_FAULTS])
        more = f" ({len(faults)} faults in all)" if len(faults) > _SHOWN_FAULTS else ""
        raise TableError(f"{path.name}: {shown}{more}{_hint(faults[0]['type'])}") from error


def _fault(place: Sequence[int | str], message: str) -> str:
    named = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).lstrip(".")
    return f"{named}: {message}" if named else message


def _hint(kind: str) -> str:
    return {
        "list_type": "; results are a list of objects with image_id, category_id, bbox and score",
        "model_type": "; the truth is an object with images, annotations and categories",
        "model_attributes_type": "; the truth is an object with images, annotations and categories",
        "finite_number": "; leave the box out or give a number",
        "json_invalid": "; save the file as JSON in UTF-8",
    }.get(kind, "")


def _index(path: Path, key: str, ids: Sequence[_Id]) -> dict[_Id, int]:
    if doubled := [one for one, count in Counter(ids).items() if count > 1]:
        places = [str(number) for number, one in enumerate(ids) if one == doubled[0]]
        raise TableError(f"{path.name}: {key}[{places[0]}] and {key}[{places[1]}] have the same id; keep one of them")
    return {one: number for number, one in enumerate(ids)}


def _references(
    path: Path,
    key: str,
    rows: Sequence[_Placed],
    images: Mapping[_Id, int],
    categories: Mapping[_Id, int],
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Indices of image and class of each row."""
    for number, row in enumerate(rows):
        if row.image_id not in images:
            raise TableError(
                f"{path.name}: {key}[{number}].image_id is none of the truth's images; list the image there, or leave "
                f"the box out ({_count(rows, lambda one: one.image_id not in images)} such)"
            )
        if row.category_id not in categories:
            raise TableError(
                f"{path.name}: {key}[{number}].category_id is none of the truth's categories; list the class there, "
                f"or leave the box out ({_count(rows, lambda one: one.category_id not in categories)} such)"
            )
    return (
        np.asarray([images[row.image_id] for row in rows], dtype=np.intp),
        np.asarray([categories[row.category_id] for row in rows], dtype=np.intp),
    )


def _count(rows: Sequence[_T], wrong: Callable[[_T], bool]) -> int:
    return sum(wrong(row) for row in rows)


def _width(truth: Path, annotations: Sequence[Annotation], predictions: Path, results: Sequence[Prediction]) -> int:
    """Numbers of a box, the same for all."""
    every = [(truth, f"annotations[{number}]", row.bbox) for number, row in enumerate(annotations)]
    every += [(predictions, f"[{number}]", row.bbox) for number, row in enumerate(results)]
    width = len(every[0][2]) if every else _FLAT
    for path, place, box in every:
        if len(box) not in (_FLAT, _VOLUME):
            raise TableError(
                f"{path.name}: {place}.bbox has {len(box)} numbers; give x, y, width, height, or in volumes "
                f"x, y, z, width, height, depth"
            )
        if len(box) != width:
            raise TableError(
                f"{path.name}: {place}.bbox has {len(box)} numbers and the first box {width}; flat boxes and volumes "
                f"cannot be mixed"
            )
    return width


def _boxes(path: Path, key: str, rows: Sequence[_Placed], width: int, *, positive: bool) -> NDArray[np.float64]:
    found = np.asarray([row.bbox for row in rows], dtype=np.float64).reshape(-1, width)
    extents = found[:, width // 2 :]
    wrong = np.flatnonzero((extents <= 0).any(axis=1) if positive else (extents < 0).any(axis=1))
    if wrong.size:
        raise TableError(
            f"{path.name}: {key}[{wrong[0]}].bbox has an extent {'of 0 or less' if positive else 'below 0'} "
            f"({wrong.size} such); boxes are corner and extents, not two corners"
        )
    return found


def _patients(path: Path, images: Sequence[Image]) -> NDArray[np.intp] | None:
    named = [str(image.patient) for image in images if image.patient is not None]
    if not named:
        return None
    if len(named) < len(images):
        number = next(number for number, image in enumerate(images) if image.patient is None)
        raise TableError(f"{path.name}: images[{number}] names no patient and others do; name one for every image")
    return np.unique(named, return_inverse=True)[1].astype(np.intp)


def _notes(truth: Path, standard: Truth, predictions: Path, results: Sequence[Prediction]) -> list[str]:
    notes = []
    if strange := [number for number, row in enumerate(results) if not 0 <= row.score <= 1]:
        notes.append(
            f"{predictions.name}: {len(strange)} scores are outside 0 to 1, the first at [{strange[0]}]; only their "
            f"order counts here, so they were taken as they are"
        )
    if not results:
        notes.append(f"{predictions.name}: there is no box in it, so that nothing is found")
    if without := _count(standard.annotations, lambda row: row.area is None):
        notes.append(f"{truth.name}: {without} annotations have no area; that of the box was taken")
    keys: list[Hashable] = [(row.image_id, row.category_id, *row.bbox) for row in standard.annotations]
    if doubled := [key for key, count in Counter(keys).items() if count > 1]:
        places = [f"annotations[{number}]" for number, key in enumerate(keys) if key == doubled[0]]
        notes.append(
            f"{truth.name}: {' and '.join(places[:2])} are the same box; each counts, leave one out if it is one"
        )
    return notes

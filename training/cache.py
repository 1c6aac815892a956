"""Prepares every film once, exactly as the node will, and keeps the result beside the training.

Called by `training.detection`. Preparing is `inference.preprocess`; this module only remembers, so that twenty epochs
do not decode every film twenty times. The pictures lie in a file mapped into memory: a set may be larger than that.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from inference.findings import Box
from inference.images import Image
from inference.loading import load_film, load_image
from inference.preprocess import ModelInput, Transform, prepare
from inference.refusals import Refused
from models.inputs import BreastInput, ProjectionInput
from training.data import Film, ImageName
from training.files import whole_file, write_whole

GREYS_FILE, INDEX_FILE = "greys.npy", "index.json"
_DICOM_SUFFIXES = frozenset({".dcm", ".dicom"})


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
    transforms : tuple of Transform
        The way between each film's pixels and the network's input.
    digests : tuple of str
        For each film the digest of its pixel values, whatever the file around them.
    unreadable : dict
        Films that could not be read or are blank, with the reason; the other attributes do not have them.
    """

    index: dict[ImageName, int]
    greys: NDArray[np.float16]
    transforms: tuple[Transform, ...]
    digests: tuple[str, ...]
    unreadable: dict[ImageName, str] = field(default_factory=dict)

    def grey(self, image: ImageName) -> NDArray[np.float32]:
        """The film (height, width) in 0..1."""
        return np.asarray(self.greys[self.index[image]], dtype=np.float32)

    def transform(self, image: ImageName) -> Transform:
        """The way between the film's pixels and the network's input."""
        return self.transforms[self.index[image]]

    def to_input(self, image: ImageName, box: Box) -> NDArray[np.float32]:
        """(4,) x_min, y_min, x_max, y_max of a box of the film, in input pixels."""
        transform = self.transform(image)
        one, other = transform.to_input(box.x_min, box.y_min), transform.to_input(box.x_max, box.y_max)
        corners = (min(one[0], other[0]), min(one[1], other[1]), max(one[0], other[0]), max(one[1], other[1]))
        return np.asarray(corners, dtype=np.float32)


def read_picture(film: Film) -> Image:
    """The film as displayed, with the pixel size that the set knows where the file does not say it.

    Raises
    ------
    inference.refusals.Refused
        If the file is damaged or no grey picture.
    """
    image = load_image(film.path) if film.path.suffix.lower() in _DICOM_SUFFIXES else load_film(film.path)
    if film.spacing_mm is None or image.spacing_mm is not None:
        return image
    return replace(image, header=replace(image.header, spacing_mm=(film.spacing_mm, film.spacing_mm)))


def prepare_film(film: Film, spec: ProjectionInput | BreastInput) -> tuple[ModelInput, str]:
    """One film as the network is fed, and the digest of its pixels."""
    image = read_picture(film)
    return prepare(image, spec), image.pixel_digest


def prepare_films(
    films: Sequence[Film],
    spec: ProjectionInput | BreastInput,
    folder: Path,
    *,
    on_film: Callable[[], None] = lambda: None,
) -> PreparedFilms:
    """Prepare `films`, or read what an earlier call left in `folder` for the same films and the same input.

    A film that cannot be read does not end the call: it is named in the result, so that all of them are told at once.

    Raises
    ------
    OSError
        If the disk is full; nothing is left that a later call would take for whole.
    """
    key = _key(films, spec)
    if (kept := _read(folder, key)) is not None:
        return kept
    folder.mkdir(parents=True, exist_ok=True)
    (folder / INDEX_FILE).unlink(missing_ok=True)  # the index is written last: without it the pictures count as none
    index = _make(films, spec, folder / GREYS_FILE, on_film)
    write_whole(folder / INDEX_FILE, json.dumps({"key": key, **index}))
    made = _read(folder, key)
    assert made is not None, "written a moment ago"
    return made


def _make(
    films: Sequence[Film], spec: ProjectionInput | BreastInput, file: Path, on_film: Callable[[], None]
) -> dict[str, object]:
    """Write the pictures of `films` one after the other; plain writing tells of a full disk, a memory map would die."""
    header = {"descr": "<f2", "fortran_order": False, "shape": (len(films), spec.height, spec.width)}
    names, transforms, digests, unreadable = [], [], [], {}
    with whole_file(file) as out:
        np.lib.format.write_array_header_1_0(out, header)
        for film in films:
            try:
                fed, digest = prepare_film(film, spec)
            except Refused as refused:
                unreadable[film.image] = str(refused)
            else:
                grey = fed.tensor[0] * spec.std[0] + spec.mean[0]
                out.write(np.ascontiguousarray(grey, dtype="<f2").tobytes())
                names.append(film.image)
                transforms.append(asdict(fed.transform))
                digests.append(digest)
            on_film()
        blank = np.zeros((spec.height, spec.width), dtype="<f2").tobytes()
        for _ in unreadable:
            out.write(blank)  # the header has promised a row for every film
    return {"names": names, "transforms": transforms, "digests": digests, "unreadable": unreadable}


def _read(folder: Path, key: str) -> PreparedFilms | None:
    if not (folder / INDEX_FILE).is_file():
        return None
    kept = json.loads((folder / INDEX_FILE).read_text(encoding="utf-8"))
    if kept["key"] != key or "names" not in kept:
        return None
    return PreparedFilms(
        index={ImageName(name): row for row, name in enumerate(kept["names"])},
        greys=np.load(folder / GREYS_FILE, mmap_mode="r", allow_pickle=False),
        transforms=tuple(Transform(**way) for way in kept["transforms"]),
        digests=tuple(kept["digests"]),
        unreadable={ImageName(name): why for name, why in kept["unreadable"].items()},
    )


def _key(films: Sequence[Film], spec: ProjectionInput | BreastInput) -> str:
    """Digest of the input, and of each film's name, size and time: another film or input is prepared anew."""
    lines = [spec.model_dump_json()]
    for film in films:
        state = film.path.stat()
        lines.append(f"{film.image} {state.st_size} {state.st_mtime_ns} {film.spacing_mm}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()

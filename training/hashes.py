"""Finds films that are the same picture: exact twins by their pixels, near twins by a perceptual hash.

Called by `training.audit`. The hash is the signs of the low frequencies of the prepared picture (pHash, Zauner 2010)
at 16 by 16, less the mean: 255 bits. From how many bits on two films are strangers is measured on the set itself, by
hashing copies of its films that were resized, brightened and cropped a little.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from training.cache import PreparedFilms
from training.data import Film, ImageName

_SIDE, _KEPT = 64, 16
BITS = _KEPT * _KEPT - 1
_WORDS = 4
_CHUNK = 512
_COPIED_FILMS = 100
_GAMMA, _SMALLER, _CROPPED = 1.15, 0.7, 0.01
_COPIES_FOUND = 99  # percentile of the distances of known copies that is still called a twin
_STRANGERS = 0.1  # percentile of the distances of films of different patients, for comparison


@dataclass(frozen=True, kw_only=True, slots=True)
class Twins:
    """Two films that are, or may be, one picture; `bits` of 255 differ, and `exact` ones have equal pixels."""

    one: ImageName
    other: ImageName
    bits: int
    exact: bool
    same_patient: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Separation:
    """Why the threshold is where it is.

    Attributes
    ----------
    threshold_bits : int
        Films that differ in at most this many bits are called near twins.
    copies_bits : float
        99th percentile of the distances between films and copies made of them.
    strangers_bits : float
        0.1th percentile of the distances between films of different patients; NaN with one patient.
    """

    threshold_bits: int
    copies_bits: float
    strangers_bits: float


def perceptual_hash(grey: NDArray[np.float32]) -> NDArray[np.uint64]:
    """(4,) words of the hash of a picture (h, w)."""
    small = PIL.Image.fromarray(np.asarray(grey, dtype=np.float32)).resize((_SIDE, _SIDE), PIL.Image.Resampling.BOX)
    waves = (_COSINES @ np.asarray(small, dtype=np.float64) @ _COSINES.T).ravel()
    bits = waves > np.median(waves[1:])
    bits[0] = False  # the mean says how bright it is, not what it shows
    return np.packbits(bits).view(np.uint64)


def _cosines() -> NDArray[np.float64]:
    """The first rows (16, 64) of the discrete cosine transform."""
    frequency, place = np.meshgrid(np.arange(_KEPT), np.arange(_SIDE), indexing="ij")
    return np.cos(np.pi * frequency * (place + 0.5) / _SIDE)


_COSINES = _cosines()


def hashes_of(films: Sequence[Film], prepared: PreparedFilms) -> NDArray[np.uint64]:
    """(films, 4) words, a row for each film."""
    rows = [perceptual_hash(prepared.grey(film.image)) for film in films]
    return np.stack(rows) if rows else np.empty((0, _WORDS), dtype=np.uint64)


def distances(one: NDArray[np.uint64], others: NDArray[np.uint64]) -> NDArray[np.uint16]:
    """Bits in which the hashes (n, 4) and (m, 4) differ: (n, m)."""
    differ = np.bitwise_count(one[:, None] ^ others[None])
    return np.asarray(differ.sum(axis=2), dtype=np.uint16)


def separation(
    films: Sequence[Film], prepared: PreparedFilms, hashes: NDArray[np.uint64], *, threshold_bits: int | None
) -> Separation:
    """Measure on the set how far copies and strangers are apart; `threshold_bits` of the recipe comes before it."""
    some = np.linspace(0, len(films) - 1, min(_COPIED_FILMS, len(films))).astype(int)
    copied = [
        distances(hashes[row][None], perceptual_hash(copy)[None])[0, 0]
        for row in np.unique(some)
        for copy in copies(prepared.grey(films[row].image))
    ]
    among = distances(hashes[some], hashes[some])
    patients = np.asarray([films[row].patient for row in some], dtype=str)
    strangers = among[patients[:, None] != patients[None]]
    found = float(np.percentile(copied, _COPIES_FOUND))
    return Separation(
        threshold_bits=int(np.ceil(found)) if threshold_bits is None else threshold_bits,
        copies_bits=found,
        strangers_bits=float(np.percentile(strangers, _STRANGERS)) if strangers.size else float("nan"),
    )


def copies(grey: NDArray[np.float32]) -> tuple[NDArray[np.float32], ...]:
    """What becomes of a film on its way through another viewer: made smaller, brightened, cropped a little."""
    height, width = grey.shape
    smaller = PIL.Image.fromarray(grey).resize(
        (max(1, round(width * _SMALLER)), max(1, round(height * _SMALLER))), PIL.Image.Resampling.BILINEAR
    )
    top, left = round(height * _CROPPED), round(width * _CROPPED)
    return (
        np.asarray(smaller, dtype=np.float32),
        np.clip(grey, 0, 1) ** np.float32(_GAMMA),
        np.ascontiguousarray(grey[top : height - top, left : width - left]),
    )


def find_twins(
    films: Sequence[Film], prepared: PreparedFilms, hashes: NDArray[np.uint64], *, threshold_bits: int
) -> tuple[Twins, ...]:
    """All pairs of films with equal pixels or hashes at most `threshold_bits` apart, the nearest first."""
    digests = [prepared.digests[prepared.index[film.image]] for film in films]
    pairs = _exact(digests)
    for start in range(0, len(films), _CHUNK):
        near = distances(hashes[start : start + _CHUNK], hashes) <= threshold_bits
        pairs |= {(start + row, column) for row, column in np.argwhere(near).tolist() if start + row < column}
    twins = [
        Twins(
            one=films[row].image,
            other=films[column].image,
            bits=int(distances(hashes[row][None], hashes[column][None])[0, 0]),
            exact=digests[row] == digests[column],
            same_patient=films[row].patient == films[column].patient,
        )
        for row, column in pairs
    ]
    return tuple(sorted(twins, key=lambda pair: (not pair.exact, pair.bits, pair.one, pair.other)))


def _exact(digests: Sequence[str]) -> set[tuple[int, int]]:
    rows: defaultdict[str, list[int]] = defaultdict(list)
    for row, digest in enumerate(digests):
        rows[digest].append(row)
    return {pair for group in rows.values() for pair in combinations(group, 2)}

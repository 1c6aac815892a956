"""The file of a guard: a zip of float32 arrays and nothing else, the same bytes for the same numbers.

Read and written for `inference.guard` and `inference.volume_guard`; what the arrays mean is theirs.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
import zlib
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from models.card import Guard
from models.registry import WeightsError

Arrays = dict[str, NDArray[np.generic]]
_DATE = (1980, 1, 1, 0, 0, 0)  # of every entry: what is the same shall have the same digest


class GuardError(WeightsError):
    """The file of a guard is not a guard, or one of a later version: its model cannot be run. Permanent."""


def read_arrays(data: bytes, guard: Guard) -> Arrays:
    """The arrays of the file that a card names; never a pickle.

    Raises
    ------
    GuardError
        If the bytes are not those of the card, or no such file.
    """
    if hashlib.sha256(data).hexdigest() != guard.sha256:
        raise GuardError("not the file of the card: its sha256 differs")
    try:
        opened = np.load(io.BytesIO(data), allow_pickle=False)
        if not isinstance(opened, np.lib.npyio.NpzFile):
            raise GuardError("one array where several are expected")
        with opened:
            return {name: opened[name] for name in opened.files}
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise GuardError("not a file of arrays (npz)") from error


def named(arrays: Mapping[str, NDArray[np.generic]], name: str, shape: tuple[int | None, ...]) -> NDArray[np.float64]:
    """An array of a file, of this shape (None: any length but none).

    Raises
    ------
    GuardError
        If it is missing, of another shape or type, or holds values that are not numbers.
    """
    if name not in arrays:
        raise GuardError(f"{name} is missing")
    array = arrays[name]
    fits = array.ndim == len(shape) and all(want in (None, has) for want, has in zip(shape, array.shape, strict=True))
    if array.dtype != np.float32 or not fits or not array.size:
        raise GuardError(f"{name} is {array.dtype} {array.shape}, expected float32 {shape}")
    if not np.isfinite(array).all():
        raise GuardError(f"{name} holds values that are not numbers")
    return array.astype(np.float64)


def file_of(arrays: Mapping[str, NDArray[np.float64]]) -> bytes:
    """The file that `read_arrays` reads."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            entry = io.BytesIO()
            np.lib.format.write_array(entry, np.ascontiguousarray(array, dtype=np.float32), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy", _DATE), entry.getvalue())
    return buffer.getvalue()

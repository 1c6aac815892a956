"""What a picture shows, as a digest that no renaming and no lossless re-encoding changes.

Called by `training.manifest` for the list of training files that a card names, and by `eval.contamination`, which
refuses to judge a model on them. Unlike `Image.pixel_digest` it knows nothing of windows, spacing or identity.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from inference.images import LoadLimits
from inference.loading.header import image_header
from inference.loading.image import film_values
from inference.loading.parameters import grey_parameters
from inference.loading.pixels import stored_values
from inference.loading.reading import read_data_set, refusing
from inference.refusals import Reason

_LIMITS = LoadLimits()
_AIR_HU = -1024
_PICTURES = frozenset({".png", ".jpg", ".jpeg"})


def content_digests(path: Path, *, limits: LoadLimits = _LIMITS) -> tuple[str, ...]:
    """One digest for each frame of a DICOM file, one for a PNG or JPEG picture; blank frames have none.

    Raises
    ------
    Refused
        When the file cannot be read, as `load_image` and `load_film` refuse it.
    OSError
        When the file cannot be opened or the disk fails.
    """
    if path.suffix.lower() in _PICTURES:
        return _known(values_digest(film_values(path, limits=limits)))
    data_set, syntax = read_data_set(path, limits=limits, pixels=True)
    with refusing(Reason.UNREADABLE):
        header = image_header(data_set, syntax, limits=limits)
    found: tuple[str, ...] = ()
    for frame in range(header.frames):
        with refusing(Reason.UNREADABLE):
            parameters = grey_parameters(data_set, frame=frame)
        values = stored_values(data_set, header, frame=frame).astype(np.float64)
        if parameters.inverted:  # MONOCHROME1: the same picture stored the other way round
            values = (1 << header.bits_stored) - 1 - values
        if parameters.modality_lut is None:
            values = parameters.modality(values)
        found += _known(values_digest(values))
    return found


def values_digest(values: NDArray[np.float64] | NDArray[np.int32] | NDArray[np.float32]) -> str:
    """sha256 over the shape and the values (rows, columns) after the rescale, as whole numbers.

    Empty when all values are alike: blank pictures are not the same picture.
    """
    whole = np.maximum(np.rint(values).astype("<i4"), _AIR_HU)  # CT is padded with whatever lies below air
    if whole.size == 0 or whole.min() == whole.max():
        return ""
    digest = hashlib.sha256(f"{whole.shape[0]} x {whole.shape[1]}".encode())
    digest.update(np.ascontiguousarray(whole).data)
    return digest.hexdigest()


def _known(digest: str) -> tuple[str, ...]:
    return (digest,) if digest else ()

"""Whether boxes of truth and predictions seem to be written in different ways: two corners, centres, other axes.

Called by `eval.commands.boxes`; `eval.frames` does the same for places. Nothing is corrected.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from eval.boxes import PredictedBoxes, TrueBoxes, overlaps

_SAME = 0.3  # overlap from which two boxes are about the same place
_ENOUGH = 0.5  # share of true boxes overlapped from which both are taken to be written alike
_LEAST_BOXES = 2
_IMAGES_COMPARED = 100
Reading = Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]]


def _as_written(box: NDArray[np.float64], size: NDArray[np.float64]) -> NDArray[np.float64]:
    return box


def _corners(box: NDArray[np.float64], size: NDArray[np.float64]) -> NDArray[np.float64]:
    axes = box.shape[1] // 2
    return np.concatenate([box[:, :axes], np.clip(box[:, axes:] - box[:, :axes], 0, None)], axis=1)


def _centre(box: NDArray[np.float64], size: NDArray[np.float64]) -> NDArray[np.float64]:
    axes = box.shape[1] // 2
    return np.concatenate([box[:, :axes] - box[:, axes:] / 2, box[:, axes:]], axis=1)


def _reversed_axes(box: NDArray[np.float64], size: NDArray[np.float64]) -> NDArray[np.float64]:
    axes = box.shape[1] // 2
    return np.concatenate([box[:, :axes][:, ::-1], box[:, axes:][:, ::-1]], axis=1)


def _relative(box: NDArray[np.float64], size: NDArray[np.float64]) -> NDArray[np.float64]:
    scale = np.ones(box.shape[1])
    scale[:2] = scale[box.shape[1] // 2 : box.shape[1] // 2 + 2] = np.nan_to_num(size, nan=1.0)
    return np.asarray(box * scale)


_READINGS: Mapping[str, Reading] = {
    "two corners": _corners,
    "centre and extents": _centre,
    "axes in the reverse order": _reversed_axes,
    "shares of the image's width and height": _relative,
}


def box_format_note(
    truth: TrueBoxes, predictions: PredictedBoxes, sizes: NDArray[np.float64], *, truth_name: str, results_name: str
) -> str | None:
    """A sentence on what to check when hardly a true box is overlapped by a prediction, or None.

    Images with both are compared, the first hundred of them, whatever the class. Other ways of writing a box are tried
    on the predictions; one by which at least half of the true boxes, and twice as many as before, are overlapped is
    named. Else, when no true box is overlapped at all, that is said.
    """
    images = np.intersect1d(truth.image, predictions.image)[:_IMAGES_COMPARED]
    total = int(np.isin(truth.image, images).sum())
    if not total:
        return None

    def met(reading: Reading) -> int:
        return sum(_met(truth, predictions, image, reading, sizes[image]) for image in images.tolist())

    now = met(_as_written)
    if now >= _ENOUGH * total:
        return None
    by_name = {name: met(reading) for name, reading in _READINGS.items()}
    name = max(by_name, key=lambda one: by_name[one])
    about = f"{results_name} and {truth_name} seem to be in different frames: {now} of {total} true boxes are "
    if by_name[name] >= max(_ENOUGH * total, 2 * now, _LEAST_BOXES):
        return about + (
            f"overlapped, and {by_name[name]} would be if the predictions were read as {name}; give the corner nearest "
            f"the origin and the extents, in pixels of the original image"
        )
    if now:
        return None
    return about + "overlapped by any prediction; check units and frame of both, or that the detector is that bad"


def _met(truth: TrueBoxes, predictions: PredictedBoxes, image: int, reading: Reading, size: NDArray[np.float64]) -> int:
    given = reading(predictions.box[predictions.image == image], size)
    return int((overlaps(given, truth.box[truth.image == image]) >= _SAME).any(axis=0).sum())

"""Average precision of flat boxes by the rules of COCO: pycocotools matches and counts.

Called by `eval.commands.boxes`. Its judgements come back as `eval.boxes.JudgedClass`, so that images can be resampled
without matching again. Nothing that it prints reaches standard output.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.boxes import JudgedClass, PredictedBoxes, TrueBoxes

AREAS = ("all", "small", "medium", "large")  # bounds 32 and 96 pixels squared


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class CocoCounts:
    """What pycocotools found.

    Attributes
    ----------
    precision : float64 (thresholds, classes, areas)
        Average precision; NaN where a class has no box of that area.
    recall : float64 (thresholds, classes, areas)
        Highest recall; NaN likewise.
    judged : tuple of JudgedClass
        Of all areas.
    """

    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    judged: tuple[JudgedClass, ...]


def count(
    truth: TrueBoxes, predictions: PredictedBoxes, *, images: int, classes: int, ious: Sequence[float], most: int
) -> CocoCounts:
    """Match and count with pycocotools.

    Parameters
    ----------
    truth, predictions : TrueBoxes, PredictedBoxes
        Flat boxes.
    images, classes : int
        How many there are; images without boxes count, classes without truth are NaN.
    ious : sequence of float
        Thresholds of overlap, rising; equal to one is enough.
    most : int
        Predictions considered of an image and class, the best.
    """
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(
            _data_set(_true_rows(truth), images, classes),
            _data_set(_predicted_rows(predictions), images, classes),
            "bbox",
        )
        evaluation.params.iouThrs = np.asarray(ious, dtype=np.float64)
        evaluation.params.maxDets = [most]
        evaluation.evaluate()
        evaluation.accumulate()
    # arrays (thresholds, recalls, classes, areas, limits), -1 where there is no truth
    precision: NDArray[np.float64] = np.asarray(evaluation.eval["precision"])[..., 0]
    recall: NDArray[np.float64] = np.asarray(evaluation.eval["recall"])[..., 0]
    per_class = len(AREAS) * images
    return CocoCounts(
        precision=np.where(precision[:, 0] < 0, np.nan, precision.mean(axis=1)),
        recall=np.where(recall < 0, np.nan, recall),
        judged=tuple(
            _judged(evaluation.evalImgs[number * per_class : number * per_class + images], len(ious))
            for number in range(classes)
        ),
    )


def _data_set(rows: list[dict[str, Any]], images: int, classes: int) -> Any:
    from pycocotools.coco import COCO

    made = COCO()
    made.dataset = {
        "images": [{"id": image} for image in range(images)],
        "categories": [{"id": category} for category in range(classes)],
        # pycocotools takes the id 0 for "not matched"
        "annotations": [{"id": number, **row} for number, row in enumerate(rows, start=1)],
    }
    made.createIndex()
    return made


def _true_rows(truth: TrueBoxes) -> list[dict[str, Any]]:
    columns = (truth.image, truth.category, truth.box, truth.area, truth.ignored)
    return [
        {"image_id": image, "category_id": category, "bbox": box, "area": area, "iscrowd": int(crowd)}
        for image, category, box, area, crowd in zip(*(column.tolist() for column in columns), strict=True)
    ]


def _predicted_rows(predictions: PredictedBoxes) -> list[dict[str, Any]]:
    columns = (predictions.image, predictions.category, predictions.box, predictions.score)
    return [
        {
            "image_id": image,
            "category_id": category,
            "bbox": box,
            "area": box[2] * box[3],
            "iscrowd": 0,
            "score": score,
        }
        for image, category, box, score in zip(*(column.tolist() for column in columns), strict=True)
    ]


def _judged(images: Sequence[dict[str, Any] | None], thresholds: int) -> JudgedClass:
    """Put the images of one class together, by falling score; equal scores stay in the order of images."""
    there = [(number, found) for number, found in enumerate(images) if found is not None]
    score = np.concatenate([np.zeros(0), *(np.asarray(found["dtScores"], dtype=np.float64) for _, found in there)])
    matched = np.concatenate([np.zeros((thresholds, 0)), *(found["dtMatches"] for _, found in there)], axis=1)
    aside = np.concatenate([np.zeros((thresholds, 0)), *(found["dtIgnore"] for _, found in there)], axis=1).astype(bool)
    at = np.repeat([number for number, _ in there], [len(found["dtScores"]) for _, found in there]).astype(np.intp)
    to_find = np.zeros(len(images), dtype=np.int64)
    for number, found in there:
        to_find[number] = int((np.asarray(found["gtIgnore"]) == 0).sum())
    order = np.argsort(-score, kind="mergesort")
    return JudgedClass(
        image=at[order],
        true=((matched > 0) & ~aside)[:, order],
        ignored=aside[:, order],
        to_find=to_find,
    )

"""Average precision: pycocotools, MONAI and a plain count beside it, and what must hold for any detector."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from eval import coco
from eval.boxes import (
    COCO_IOUS,
    RECALL_POINTS,
    VOLUME_IOUS,
    JudgedClass,
    Pairing,
    PredictedBoxes,
    TrueBoxes,
    average_precisions,
    judge,
    mean_of_known,
    overlaps,
    pair_by_coco,
    pair_by_voc,
    resampled,
    with_interval,
)

IMAGES, CLASSES = 9, 3


def truth_of(rows: Sequence[tuple[int, int, Sequence[float]]], axes: int = 2) -> TrueBoxes:
    box = np.asarray([row[2] for row in rows], dtype=float).reshape(-1, 2 * axes)
    return TrueBoxes(
        image=np.asarray([row[0] for row in rows], dtype=np.intp),
        category=np.asarray([row[1] for row in rows], dtype=np.intp),
        box=box,
        area=box[:, axes:].prod(axis=1),
        ignored=np.zeros(len(rows), dtype=bool),
    )


def predicted(rows: Sequence[tuple[int, int, Sequence[float], float]], axes: int = 2) -> PredictedBoxes:
    return PredictedBoxes(
        image=np.asarray([row[0] for row in rows], dtype=np.intp),
        category=np.asarray([row[1] for row in rows], dtype=np.intp),
        box=np.asarray([row[2] for row in rows], dtype=float).reshape(-1, 2 * axes),
        score=np.asarray([row[3] for row in rows], dtype=float),
    )


def drawn(seed: int, *, axes: int = 2, ties: bool = False, span: int = 130) -> tuple[TrueBoxes, PredictedBoxes]:
    """Boxes of all sizes, predictions near most of them and elsewhere; with `ties` scores repeat."""
    random = np.random.default_rng(seed)
    number = 40
    corner = random.integers(0, span, (number, axes))
    extent = random.integers(8, 140, (number, axes))
    truth = truth_of(
        [
            (int(random.integers(IMAGES)), int(random.integers(CLASSES)), [*a, *b])
            for a, b in zip(corner, extent, strict=True)
        ],
        axes,
    )
    near = np.concatenate([truth.box, truth.box[::2], truth.box]) + random.integers(
        -6, 7, (2 * number + number // 2, 2 * axes)
    )
    near[:, axes:] = np.maximum(near[:, axes:], 1)
    image, category = (np.concatenate([one, one[::2], one]) for one in (truth.image, truth.category))
    moved = random.random(len(near)) < 0.35
    score = random.permutation(len(near)) / len(near)
    return truth, PredictedBoxes(
        image=np.where(moved, random.integers(0, IMAGES, len(near)), image),
        category=category,
        box=near,
        score=np.round(score, 1) if ties else score,
    )


def own(
    truth: TrueBoxes,
    predictions: PredictedBoxes,
    *,
    ious: Sequence[float] = COCO_IOUS,
    pairing: Pairing = pair_by_coco,
    most: int | None = 100,
    images: int = IMAGES,
) -> tuple[JudgedClass, ...]:
    return tuple(
        judge(truth, predictions, one, images=images, ious=ious, pairing=pairing, most=most) for one in range(CLASSES)
    )


def precisions(
    judged: Sequence[JudgedClass], points: NDArray[np.float64] | None = RECALL_POINTS
) -> NDArray[np.float64]:
    return np.concatenate([average_precisions(one, points=points) for one in judged])


# COCO


def official(truth: TrueBoxes, predictions: PredictedBoxes, images: int = IMAGES, most: int = 100) -> Any:
    """The twelve figures of pycocotools' own summary, read as a user would read them."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        standard = COCO()
        standard.dataset = {
            "images": [{"id": 100 + image} for image in range(images)],
            "categories": [{"id": category + 1} for category in range(CLASSES)],
            "annotations": [
                {
                    "id": number + 1,
                    "image_id": 100 + int(truth.image[number]),
                    "category_id": int(truth.category[number]) + 1,
                    "bbox": truth.box[number].tolist(),
                    "area": float(truth.area[number]),
                    "iscrowd": int(truth.ignored[number]),
                }
                for number in range(len(truth.image))
            ],
        }
        standard.createIndex()
        results = standard.loadRes([
            {
                "image_id": 100 + int(predictions.image[number]),
                "category_id": int(predictions.category[number]) + 1,
                "bbox": predictions.box[number].tolist(),
                "score": float(predictions.score[number]),
            }
            for number in range(len(predictions.image))
        ])  # fmt: skip
        evaluation = COCOeval(standard, results, "bbox")
        evaluation.params.maxDets = [1, 10, most]
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_figures_are_those_of_pycocotools_own_summary(seed: int, ties: bool) -> None:
    truth, predictions = drawn(seed, ties=ties)
    truth = replace(truth, ignored=np.arange(40) % 9 == 0)
    stats = official(truth, predictions).stats
    found = coco.count(truth, predictions, images=IMAGES, classes=CLASSES, ious=COCO_IOUS, most=100)
    means = [
        found.precision[..., 0], found.precision[0, :, 0], found.precision[5, :, 0],
        found.precision[..., 1], found.precision[..., 2], found.precision[..., 3],
    ]  # fmt: skip
    assert [mean_of_known(one[None])[0] for one in means] == pytest.approx(
        np.where(stats[:6] < 0, np.nan, stats[:6]), nan_ok=True
    )
    assert mean_of_known(found.recall[None, ..., 0])[0] == pytest.approx(stats[8])
    assert precisions(found.judged) == pytest.approx(found.precision[..., 0].T, abs=1e-9, nan_ok=True)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_own_matching_gives_what_pycocotools_gives(seed: int, ties: bool) -> None:
    truth, predictions = drawn(seed, ties=ties)
    found = coco.count(truth, predictions, images=IMAGES, classes=CLASSES, ious=COCO_IOUS, most=5)
    judged = own(truth, predictions, most=5)
    for one, other in zip(judged, found.judged, strict=True):
        assert (one.true == other.true).all()
        assert (one.image == other.image).all()
        assert (one.to_find == other.to_find).all()
    assert precisions(judged) == pytest.approx(found.precision[..., 0].T, abs=1e-9)


def test_nothing_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    coco.count(*drawn(0), images=IMAGES, classes=CLASSES, ious=(0.5,), most=100)
    assert capsys.readouterr() == ("", "")


def test_classes_without_truth_are_undefined_and_left_out_of_the_mean() -> None:
    truth, predictions = (
        truth_of([(0, 0, [0, 0, 10, 10])]),
        predicted([(0, 0, [0, 0, 10, 10], 0.5), (0, 1, [0, 0, 9, 9], 0.9)]),
    )
    found = coco.count(truth, predictions, images=1, classes=2, ious=COCO_IOUS, most=100)
    assert found.precision[:, 0, 0].tolist() == pytest.approx([1.0] * 10)
    assert np.isnan(found.precision[:, 1]).all()
    assert mean_of_known(found.precision[None, ..., 0])[0] == pytest.approx(1.0)


def test_neither_predictions_nor_truth_break_nothing() -> None:
    nobody = predicted([])
    found = coco.count(truth_of([(0, 0, [0, 0, 10, 10])]), nobody, images=1, classes=1, ious=(0.5,), most=100)
    assert found.precision[0, 0, 0] == 0.0
    assert average_precisions(found.judged[0]).tolist() == [[0.0]]
    empty = coco.count(truth_of([]), nobody, images=1, classes=1, ious=(0.5,), most=100)
    assert np.isnan(empty.precision).all()
    assert np.isnan(average_precisions(empty.judged[0])).all()


# Volumes


@pytest.mark.parametrize("seed", range(3))
def test_volumes_are_those_of_monai(seed: int) -> None:
    from monai.apps.detection.metrics.coco import COCOMetric
    from monai.apps.detection.metrics.matching import matching_batch
    from monai.data.box_utils import box_iou

    truth, predictions = drawn(seed, axes=3, span=60)

    def corners(box: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.concatenate([box[:, :3], box[:, :3] + box[:, 3:]], axis=1)

    metric = COCOMetric(
        classes=[str(one) for one in range(CLASSES)],
        iou_list=(0.1, 0.5),
        iou_range=(0.1, 0.5, 0.05),
        max_detection=[100],
        verbose=False,
    )
    matched = matching_batch(
        iou_fn=box_iou,
        iou_thresholds=metric.iou_thresholds,
        pred_boxes=[corners(predictions.box[predictions.image == image]) for image in range(IMAGES)],
        pred_classes=[predictions.category[predictions.image == image] for image in range(IMAGES)],
        pred_scores=[predictions.score[predictions.image == image] for image in range(IMAGES)],
        gt_boxes=[corners(truth.box[truth.image == image]) for image in range(IMAGES)],
        gt_classes=[truth.category[truth.image == image] for image in range(IMAGES)],
        max_detections=100,
    )
    figures, _ = metric(matched)
    found = precisions(own(truth, predictions, ious=VOLUME_IOUS))
    assert pytest.approx(np.arange(0.1, 0.51, 0.05)) == VOLUME_IOUS
    assert found.mean() == pytest.approx(figures["mAP_IoU_0.10_0.50_0.05_MaxDet_100"], abs=1e-6)
    assert found[:, 0].mean() == pytest.approx(figures["AP_IoU_0.10_MaxDet_100"], abs=1e-6)
    assert found[:, -1].mean() == pytest.approx(figures["AP_IoU_0.50_MaxDet_100"], abs=1e-6)
    assert 0.2 < found.mean() < 0.95


def test_matching_goes_by_score_and_not_by_the_order_of_the_file() -> None:
    truth = truth_of([(0, 0, [0, 0, 0, 10, 10, 10])], axes=3)
    weak_first = predicted([(0, 0, [0, 0, 0, 10, 10, 8], 0.2), (0, 0, [0, 0, 0, 10, 10, 6], 0.9)], axes=3)
    judged = own(truth, weak_first, ious=(0.5,), images=1)[0]
    assert judged.true.tolist() == [[True, False]]  # the stronger one, though the other overlaps more
    assert average_precisions(judged).tolist() == [[1.0]]


# VOC


def plain_voc(truth: TrueBoxes, predictions: PredictedBoxes, category: int, least: float) -> float:
    """All-point average precision, prediction by prediction."""
    taken: set[int] = set()
    outcomes: list[bool] = []
    mine = [number for number in range(len(predictions.image)) if predictions.category[number] == category]
    for number in sorted(mine, key=lambda one: (-predictions.score[one], predictions.image[one], one)):
        best, best_overlap = -1, 0.0
        for lesion in range(len(truth.image)):
            if truth.category[lesion] != category or truth.image[lesion] != predictions.image[number]:
                continue
            x, y, width, height = predictions.box[number]
            left, top, wide, high = truth.box[lesion]
            shared = max(0, min(x + width, left + wide) - max(x, left)) * max(
                0, min(y + height, top + high) - max(y, top)
            )
            overlap = shared / (width * height + wide * high - shared)
            if overlap > best_overlap:
                best, best_overlap = lesion, overlap
        outcomes.append(best_overlap > least and best not in taken)
        if best_overlap > least:
            taken.add(best)
    total = int((truth.category == category).sum())
    precisions_at = [sum(outcomes[: rank + 1]) / (rank + 1) for rank in range(len(outcomes))]
    return sum(max(precisions_at[rank:]) / total for rank, hit in enumerate(outcomes) if hit)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_voc_is_what_a_plain_count_gives(seed: int, ties: bool) -> None:
    truth, predictions = drawn(seed, ties=ties)
    found = precisions(own(truth, predictions, ious=(0.4,), pairing=pair_by_voc, most=None), None)
    plain = [plain_voc(truth, predictions, category, 0.4) for category in range(CLASSES)]
    assert found[:, 0].tolist() == pytest.approx(plain)


def test_voc_by_hand() -> None:
    truth = truth_of([(0, 0, [0, 0, 10, 10]), (1, 0, [0, 0, 10, 10])])
    rows = [(0, 0, [0, 0, 10, 10], 0.9), (2, 0, [0, 0, 10, 10], 0.8), (1, 0, [0, 0, 10, 10], 0.7)]
    judged = own(truth, predicted(rows), ious=(0.4,), pairing=pair_by_voc, most=None)[0]
    # recall 1/2 at precision 1, then recall 1 at precision 2/3
    assert average_precisions(judged, points=None).tolist() == [[pytest.approx(0.5 + 0.5 * 2 / 3)]]


def test_overlap_exactly_at_the_threshold_is_a_hit_for_coco_and_none_for_voc() -> None:
    iou = np.asarray([[0.4]])
    nobody = np.asarray([False])
    assert pair_by_coco(iou, nobody, 0.4)[0].tolist() == [True]
    assert pair_by_voc(iou, nobody, 0.4)[0].tolist() == [False]
    exact = overlaps(np.asarray([[0.0, 0, 4, 10]]), np.asarray([[0.0, 0, 10, 10]]))
    assert exact.tolist() == [[0.4]]


def test_a_second_prediction_on_a_box_takes_the_next_one_in_coco_and_is_false_in_voc() -> None:
    iou = np.asarray([[0.9, 0.6], [0.8, 0.7]])
    nobody = np.asarray([False, False])
    assert pair_by_coco(iou, nobody, 0.5)[0].tolist() == [True, True]
    assert pair_by_voc(iou, nobody, 0.5)[0].tolist() == [True, False]


def test_a_difficult_box_counts_neither_way() -> None:
    iou, difficult = np.asarray([[0.9], [0.8]]), np.asarray([True])
    for pairing in (pair_by_coco, pair_by_voc):
        true, aside = pairing(iou, difficult, 0.5)
        assert true.tolist() == [False, False]
        assert aside.tolist() == [True, True]


# Resampling


def test_a_resample_is_the_set_written_out_with_its_copies() -> None:
    truth, predictions = drawn(5)
    found = coco.count(truth, predictions, images=IMAGES, classes=CLASSES, ious=COCO_IOUS, most=100)
    for seed in range(3):
        draw = np.random.default_rng(seed).integers(0, IMAGES, IMAGES)
        copies_t = [(new, np.flatnonzero(truth.image == old)) for new, old in enumerate(draw)]
        copies_p = [(new, np.flatnonzero(predictions.image == old)) for new, old in enumerate(draw)]
        rows_t, rows_p = (np.concatenate([rows for _, rows in copies]) for copies in (copies_t, copies_p))
        written_t = replace(
            truth,
            image=np.concatenate([np.full(len(rows), new) for new, rows in copies_t]),
            category=truth.category[rows_t], box=truth.box[rows_t], area=truth.area[rows_t],
            ignored=truth.ignored[rows_t],
        )  # fmt: skip
        written_p = replace(
            predictions,
            image=np.concatenate([np.full(len(rows), new) for new, rows in copies_p]),
            category=predictions.category[rows_p], box=predictions.box[rows_p], score=predictions.score[rows_p],
        )  # fmt: skip
        official_ap = official(written_t, written_p).stats[0]
        times = np.bincount(draw, minlength=IMAGES)[None]
        weighted = np.stack([average_precisions(one, times) for one in found.judged], axis=1)
        assert mean_of_known(weighted)[0] == pytest.approx(official_ap, abs=1e-9)


def test_resamples_repeat_with_their_seed_whatever_the_block() -> None:
    judged = own(*drawn(3))
    own_image = np.arange(IMAGES)
    first, again = (resampled(judged, own_image, resamples=30, seed=4) for _ in range(2))
    assert (first == again).all()
    assert first.shape == (30, CLASSES, 10)
    assert not (first == resampled(judged, own_image, resamples=30, seed=5)).all()
    assert resampled(judged, own_image, resamples=0).shape == (0, CLASSES, 10)


def test_images_of_a_patient_are_resampled_together() -> None:
    rows = [(image, 0, [0, 0, 10, 10]) for image in range(4)]
    hits = [(image, 0, [0, 0, 10, 10], 0.5) for image in (0, 1)]
    judged = own(truth_of(rows), predicted(hits), ious=(0.5,), images=4)[:1]
    values = resampled(judged, np.asarray([0, 0, 1, 1]), resamples=60, seed=1)
    assert len(np.unique(values)) == 3  # one patient, the other, or both


def test_an_interval_holds_its_figure_and_an_undefined_one_says_why() -> None:
    judged = own(*drawn(2))
    value = float(mean_of_known(precisions(judged)[None])[0])
    interval = with_interval(value, mean_of_known(resampled(judged, np.arange(IMAGES), resamples=200)), undefined="")
    assert interval.low < value < interval.high
    assert with_interval(np.nan, np.zeros(3), undefined="no box").reason == "no box"
    assert with_interval(0.5, np.zeros(0), undefined="").reason == "no resamples were asked for"
    assert np.isnan(with_interval(0.5, np.full(3, np.nan), undefined="").low)


# What must hold for any detector


@given(st.integers(0, 10_000), st.sampled_from([pair_by_coco, pair_by_voc]))
@settings(max_examples=25, deadline=None)
def test_a_monotone_transform_and_the_order_of_rows_change_nothing(seed: int, pairing: Pairing) -> None:
    truth, predictions = drawn(seed)
    before = precisions(own(truth, predictions, ious=(0.3, 0.6), pairing=pairing))
    order = np.random.default_rng(seed).permutation(predictions.score.size)
    turned = np.random.default_rng(seed).permutation(truth.image.size)
    shuffled = PredictedBoxes(
        image=predictions.image[order],
        category=predictions.category[order],
        box=predictions.box[order],
        score=np.exp(3 * predictions.score[order]) - 9,
    )
    turned_truth = TrueBoxes(
        image=truth.image[turned], category=truth.category[turned], box=truth.box[turned], area=truth.area[turned],
        ignored=truth.ignored[turned],
    )  # fmt: skip
    assert precisions(own(turned_truth, shuffled, ious=(0.3, 0.6), pairing=pairing)) == pytest.approx(
        before, nan_ok=True
    )


@given(st.integers(0, 10_000), st.integers(2, 3))
@settings(max_examples=20, deadline=None)
def test_the_whole_set_repeated_as_other_images_changes_nothing(seed: int, times: int) -> None:
    truth, predictions = drawn(seed)
    often_truth, often_predictions = (
        replace(
            one,
            **{
                name: np.concatenate([getattr(one, name)] * times)
                for name in one.__dataclass_fields__
                if name != "image"
            },
            image=np.concatenate([one.image + IMAGES * copy for copy in range(times)]),
        )
        for one in (truth, predictions)
    )
    once = own(truth, predictions)
    often = own(often_truth, often_predictions, images=IMAGES * times)
    assert precisions(often) == pytest.approx(precisions(once), nan_ok=True, abs=1e-9)
    doubled = np.full((1, IMAGES), times)
    for one in once:
        assert average_precisions(one, doubled) == pytest.approx(average_precisions(one), nan_ok=True, abs=1e-9)


def test_a_perfect_detector_has_one_and_a_useless_one_zero() -> None:
    truth, _ = drawn(1)
    perfect = PredictedBoxes(image=truth.image, category=truth.category, box=truth.box, score=np.linspace(0.1, 1, 40))
    useless = replace(perfect, box=truth.box + np.asarray([900, 900, 0, 0]))
    for pairing, points in ((pair_by_coco, RECALL_POINTS), (pair_by_voc, None)):
        assert precisions(own(truth, perfect, pairing=pairing), points) == pytest.approx(1.0)
        assert (precisions(own(truth, useless, pairing=pairing), points) == 0).all()

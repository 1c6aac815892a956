"""`radnode eval boxes`: average precision of boxes, by the rules of COCO or VOC, flat or in volumes.

Reads through `eval.coco_files`, counts with `eval.boxes` and, for flat boxes by COCO, pycocotools behind `eval.coco`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from rich.console import Console
from rich.table import Table as Shown

from eval import coco
from eval.box_frames import box_format_note
from eval.boxes import (
    COCO_IOUS,
    MOST_PREDICTIONS,
    RECALL_POINTS,
    RESAMPLES,
    VOC_IOU,
    VOLUME_IOUS,
    JudgedClass,
    average_precisions,
    judge,
    mean_of_known,
    pair_by_coco,
    pair_by_voc,
    resampled,
    with_interval,
)
from eval.coco_files import BoxFiles, read_boxes
from eval.console import fail, json_option
from eval.document import Document, Interval, Part, Reasons
from eval.printing import interval, number, publish
from eval.tables import TableError
from eval.version import version

_NAMED_IOUS = (0.1, 0.5, 0.75)
_NO_TRUTH = "no class has a box to be found"


class Style(StrEnum):
    """Whose rules."""

    COCO = "coco"  # 101 points of recall, overlap at least the threshold, the best free box
    VOC = "voc"  # every recall, overlap above the threshold, the box overlapped most, found before or not


class IouPrecision(Part):
    """Average precision at one threshold of overlap."""

    iou: float
    ap: float | None
    ap_ci: Interval


class ClassPrecision(Part):
    """One class."""

    category_id: int | str
    name: str
    ap: float | None = Field(description="as the whole; null: there is no box of the class")
    ap_ci: Interval
    ap50: float | None
    ap75: float | None
    boxes: int = Field(description="to be found")
    images: int = Field(description="with a box to be found")
    predictions: int


class BoxCounts(Part):
    """What was counted."""

    images: int
    images_with_boxes: int
    images_without_predictions: int
    boxes: int = Field(description="to be found; crowds and difficult boxes left out")
    ignored_boxes: int
    predictions: int
    predictions_considered: int = Field(description="left after the limit of predictions an image and class")
    classes: int
    classes_without_truth: int = Field(description="left out of every mean")


class BoxesDocument(Document):
    """Result of ``radnode eval boxes``. Means are over classes with truth, then intervals over resampled images."""

    ap: float | None = Field(description="mean over the thresholds of overlap named in `settings`")
    ap_ci: Interval
    ap50: float | None = Field(description="at overlap 0.5")
    ap50_ci: Interval
    ap75: float | None = Field(description="at overlap 0.75")
    ap75_ci: Interval
    ap_small: float | None = Field(description="boxes below 32 by 32 pixels")
    ap_medium: float | None = Field(description="up to 96 by 96 pixels")
    ap_large: float | None = Field(description="larger ones")
    ar: float | None = Field(description="highest recall, mean over classes and thresholds")
    by_iou: tuple[IouPrecision, ...]
    per_class: tuple[ClassPrecision, ...]
    counts: BoxCounts


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """What decides the numbers."""

    style: Style
    iou: float | None
    most: int
    resamples: int
    seed: int


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Counted:
    """Figures before they are written.

    Attributes
    ----------
    ious : float64 (thresholds,)
        All that were computed.
    deciding : bool (thresholds,)
        Those that make `ap`.
    precision, recall : float64 (thresholds, classes)
        Of all sizes; NaN where a class has no box.
    sizes : mapping
        `ap` of small, medium and large boxes; NaN where it is not defined.
    drawn : float64 (resamples, classes, thresholds)
    """

    ious: NDArray[np.float64]
    deciding: NDArray[np.bool_]
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    sizes: dict[str, float]
    drawn: NDArray[np.float64]
    judged: tuple[JudgedClass, ...]

    def at(self, iou: float) -> NDArray[np.bool_]:
        """Mask of one threshold."""
        return np.isclose(self.ious, iou)


@click.command(name="boxes")
@click.option("--truth", type=click.Path(path_type=Path), required=True, help="Reference standard (COCO JSON).")
@click.option("--predictions", type=click.Path(path_type=Path), required=True, help="Results (COCO JSON list).")
@click.option(
    "--style", type=click.Choice([str(one) for one in Style]), default=str(Style.COCO), show_default=True,
    help="Whose rules: COCO, or VOC from 2010 on.",
)  # fmt: skip
@click.option(
    "--iou",
    type=click.FloatRange(0, 1, min_open=True),
    help="Overlap that makes a hit. Default: the mean of 0.50 to 0.95 (COCO) or, in volumes, 0.10 to 0.50; more than "
    "0.4 (VOC).",
)
@click.option(
    "--max-detections", "most", type=click.IntRange(min=1), default=MOST_PREDICTIONS, show_default=True,
    help="Predictions considered of an image and class, with --style coco; VOC considers all.",
)  # fmt: skip
@click.option(
    "--bootstrap", "resamples", type=click.IntRange(min=0), default=RESAMPLES, show_default=True,
    help="Resamples of images (of patients where every image names one); 0: no intervals.",
)  # fmt: skip
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the resamples.")
@json_option
def command(
    truth: Path,
    predictions: Path,
    style: str,
    iou: float | None,
    most: int,
    resamples: int,
    seed: int,
    json_to: str | None,
) -> None:
    """Average precision of boxes, by the rules of COCO or VOC.

    Boxes are x, y, width, height in pixels, or x, y, z, width, height, depth in volumes.
    """
    options = Options(style=Style(style), iou=iou, most=most, resamples=resamples, seed=seed)
    try:
        files = read_boxes(truth, predictions)
        document = evaluate(files, options)
    except TableError as error:
        fail(str(error))
    except ModuleNotFoundError as error:
        fail(f"{error.name} is not installed; COCO's average precision needs it: pip install 'radnode[eval]'")
    publish(document, _show, json_to)
    for note in document.notes:
        click.echo(f"note: {note}", err=True)


def evaluate(files: BoxFiles, options: Options) -> BoxesDocument:
    """Count what was read."""
    counted = _counted(files, options)
    reasons = Reasons()
    whole, wholes = _estimate(reasons, "ap", counted, counted.deciding)
    half, halves = _estimate(reasons, "ap50", counted, counted.at(0.5))
    strict, stricts = _estimate(reasons, "ap75", counted, counted.at(0.75))
    frames = box_format_note(
        files.truth, files.predictions, files.sizes,
        truth_name=files.sources[0].name, results_name=files.sources[1].name,
    )  # fmt: skip
    return BoxesDocument(
        command="boxes",
        radnode=version(),
        sources=files.sources,
        settings=_settings(files, options, counted),
        notes=(*([frames] if frames else []), *files.notes),
        ap=whole,
        ap_ci=wholes,
        ap50=half,
        ap50_ci=halves,
        ap75=strict,
        ap75_ci=stricts,
        **{
            f"ap_{size}": reasons.number(f"ap_{size}", value, _no_size(files, options, size))
            for size, value in counted.sizes.items()
        },
        ar=reasons.number("ar", _mean(counted.recall[counted.deciding]), _NO_TRUTH),
        by_iou=tuple(_by_iou(counted, reasons)),
        per_class=tuple(_per_class(files, counted, reasons)),
        counts=_counts(files, counted),
        undefined=reasons.found,
    )


def _counted(files: BoxFiles, options: Options) -> Counted:
    deciding = _deciding(files, options)
    ious = tuple(sorted({*deciding, *_NAMED_IOUS[0 if files.volumes else 1 :]}))
    mask = np.isin(ious, deciding)
    every = files.predictions, files.truth
    if options.style is Style.COCO and not files.volumes:
        found = coco.count(
            every[1], every[0], images=files.images, classes=len(files.ids), ious=ious, most=options.most
        )
        precision, recall, judged = found.precision[..., 0], found.recall[..., 0], found.judged
        sizes = {
            size: _mean(found.precision[mask, :, number]) for number, size in enumerate(coco.AREAS) if size != "all"
        }
    else:
        judged = tuple(
            judge(
                files.truth,
                files.predictions,
                category,
                images=files.images,
                ious=ious,
                pairing=pair_by_voc if options.style is Style.VOC else pair_by_coco,
                most=None if options.style is Style.VOC else options.most,
            )
            for category in range(len(files.ids))
        )
        points = _points(options)
        none = np.zeros((0, len(ious)))
        precision = np.concatenate([none, *(average_precisions(one, points=points) for one in judged)]).T
        recall = np.stack([_recall(one) for one in judged], axis=1) if judged else none.T
        sizes = dict.fromkeys(coco.AREAS[1:], np.nan)
    clusters = files.patients if files.patients is not None else np.arange(files.images, dtype=np.intp)
    return Counted(
        ious=np.asarray(ious),
        deciding=mask,
        precision=precision,
        recall=recall,
        sizes=sizes,
        drawn=resampled(judged, clusters, points=_points(options), resamples=options.resamples, seed=options.seed),
        judged=judged,
    )


def _deciding(files: BoxFiles, options: Options) -> tuple[float, ...]:
    """Thresholds whose mean is `ap`."""
    if options.iou is not None:
        return (options.iou,)
    if options.style is Style.VOC:
        return (VOC_IOU,)
    return VOLUME_IOUS if files.volumes else COCO_IOUS


def _points(options: Options) -> NDArray[np.float64] | None:
    return RECALL_POINTS if options.style is Style.COCO else None


def _recall(judged: JudgedClass) -> NDArray[np.float64]:
    to_find = int(judged.to_find.sum())
    return judged.true.sum(axis=1) / to_find if to_find else np.full(len(judged.true), np.nan)


def _mean(values: NDArray[np.float64]) -> float:
    return float(mean_of_known(values.reshape(1, -1))[0])


def _estimate(reasons: Reasons, key: str, counted: Counted, at: NDArray[np.bool_]) -> tuple[float | None, Interval]:
    """Mean over thresholds and classes, with the interval of its resamples."""
    return reasons.estimate(
        key,
        with_interval(_mean(counted.precision[at]), mean_of_known(counted.drawn[:, :, at]), undefined=_NO_TRUTH),
    )


def _by_iou(counted: Counted, reasons: Reasons) -> Sequence[IouPrecision]:
    rows = []
    for index in np.flatnonzero(counted.deciding):
        at = np.arange(counted.ious.size) == index
        iou = float(counted.ious[index])
        value, interval = _estimate(reasons, f"by_iou.iou={iou:g}.ap", counted, at)
        rows.append(IouPrecision(iou=iou, ap=value, ap_ci=interval))
    return rows


def _per_class(files: BoxFiles, counted: Counted, reasons: Reasons) -> Sequence[ClassPrecision]:
    rows = []
    for index, (identity, name) in enumerate(zip(files.ids, files.names, strict=True)):
        key = f"per_class.{name}"
        own = counted.precision[:, index]
        nothing = "there is no box of this class to be found; it is left out of every mean"
        value, interval = reasons.estimate(
            f"{key}.ap",
            with_interval(
                _mean(own[counted.deciding]),
                mean_of_known(counted.drawn[:, index, counted.deciding]),
                undefined=nothing,
            ),
        )
        to_find = counted.judged[index].to_find
        rows.append(
            ClassPrecision(
                category_id=identity,
                name=name,
                ap=value,
                ap_ci=interval,
                ap50=reasons.number(f"{key}.ap50", _mean(own[counted.at(0.5)]), nothing),
                ap75=reasons.number(f"{key}.ap75", _mean(own[counted.at(0.75)]), nothing),
                boxes=int(to_find.sum()),
                images=int((to_find > 0).sum()),
                predictions=int((files.predictions.category == index).sum()),
            )
        )
    return rows


def _settings(files: BoxFiles, options: Options, counted: Counted) -> dict[str, str | int | float | bool | None]:
    coco_style = options.style is Style.COCO
    return {
        "style": options.style,
        "boxes": "volumes" if files.volumes else "flat",
        "iou": ", ".join(f"{iou:g}" for iou in counted.ious[counted.deciding]),
        "hit": "overlap at least the threshold, the free box overlapped most"
        if coco_style
        else "overlap above the threshold, the box overlapped most, found before or not",
        "recall_points": RECALL_POINTS.size if coco_style else None,
        "max_detections": options.most if coco_style else None,
        "resamples": options.resamples,
        "resampled_unit": "image" if files.patients is None else "patient",
        "seed": options.seed,
    }


def _no_size(files: BoxFiles, options: Options, size: str) -> str:
    if options.style is Style.COCO and not files.volumes:
        return f"there is no {size} box to be found"
    return "small, medium and large are defined by COCO for flat boxes only"


def _counts(files: BoxFiles, counted: Counted) -> BoxCounts:
    truth = files.truth
    return BoxCounts(
        images=files.images,
        images_with_boxes=np.unique(truth.image[~truth.ignored]).size,
        images_without_predictions=files.images - np.unique(files.predictions.image).size,
        boxes=int((~truth.ignored).sum()),
        ignored_boxes=int(truth.ignored.sum()),
        predictions=files.predictions.score.size,
        predictions_considered=sum(one.image.size for one in counted.judged),
        classes=len(files.ids),
        classes_without_truth=sum(not one.to_find.any() for one in counted.judged),
    )


def _show(document: BoxesDocument) -> None:
    console, counts, settings = Console(), document.counts, document.settings
    table = Shown(title=f"Average precision, {settings['style']}, IoU {settings['iou']}")
    for heading in ("class", "boxes", "AP", "95 % interval", "AP50", "AP75"):
        table.add_column(heading, justify="left" if heading == "class" else "right")
    for one in document.per_class:
        table.add_row(one.name, str(one.boxes), number(one.ap), interval(one.ap_ci), number(one.ap50), number(one.ap75))
    table.add_section()
    table.add_row(
        "mean", str(counts.boxes), number(document.ap), interval(document.ap_ci), number(document.ap50),
        number(document.ap75),
    )  # fmt: skip
    console.print(table)
    console.print(
        f"{counts.images} images, {counts.predictions} predictions, {counts.classes_without_truth} of "
        f"{counts.classes} classes without truth left out. Hit: {settings['hit']}."
    )
    for key, reason in document.undefined.items():
        console.print(f"undefined: {key}: {reason}", highlight=False)

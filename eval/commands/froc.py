"""`radnode eval froc`: lesions found against false marks, by the rules of LUNA16.

Reads through `eval.luna16_files`, counts with `eval.luna16`; other hit rules and denominators are options, and every
result names them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import click
import numpy as np
from pydantic import Field
from rich.console import Console
from rich.table import Table as Shown

from eval.console import fail, json_option
from eval.document import Document, Interval, Part, Reasons
from eval.frames import NEAR_MM, frame_note
from eval.froc import Denominator, Detections, in_either_view, on_normal_images, per_group
from eval.hits import LEAST_REACH_PX, Hit, hit_rule
from eval.luna16 import MOST_MARKS, RESAMPLES, Matching, Performance, match, performance
from eval.luna16_files import Scans, Tables, read_tables
from eval.printing import interval, number, publish
from eval.tables import TableError
from eval.version import version

_NORMAL = (Denominator.NORMAL_IMAGE, Denominator.NORMAL_SCAN)


class FrocPoint(Part):
    """Sensitivity at one rate of false marks."""

    fp_per_scan: float = Field(description="false marks per unit of the denominator named in `settings`")
    sensitivity: float | None
    ci: Interval = Field(description="95 % percentile interval over resampled units")
    threshold: float | None = Field(description="lowest score that keeps the rate; null: no mark may count")


class FrocCounts(Part):
    """What was counted."""

    scans: int
    scans_with_lesions: int
    scans_without_marks: int = Field(description="listed scans on which no mark is; they count")
    units: int = Field(description="the denominator of false marks")
    lesions: int = Field(description="to be found: the denominator of sensitivity")
    excluded_lesions: int
    marks: int = Field(description="on listed scans")
    marks_considered: int = Field(description="left after the limit of marks a scan")
    marks_on_lesions: int
    marks_on_excluded: int = Field(description="on excluded lesions only: removed")
    false_marks: int
    lesions_found: int = Field(description="by any mark, at the lowest threshold")
    lesions_missed: int


class FrocDocument(Document):
    """Result of ``radnode eval froc``."""

    cpm: float | None = Field(description="mean sensitivity at the operating points")
    cpm_ci: Interval
    operating_points: tuple[FrocPoint, ...] = Field(description="1/8, 1/4, 1/2, 1, 2, 4, 8 in this order")
    counts: FrocCounts


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """What decides the numbers."""

    hit: Hit
    iou: float
    denominator: Denominator
    either_view: bool
    marks_per_scan: int
    resamples: int
    seed: int


@click.command(name="froc")
@click.option("--truth", type=click.Path(path_type=Path), required=True, help="Findings to be found (CSV).")
@click.option("--excluded", type=click.Path(path_type=Path), help="Irrelevant findings: a mark on one is not false.")
@click.option("--scans", type=click.Path(path_type=Path), required=True, help="Ids of the scans, one a line.")
@click.option("--marks", type=click.Path(path_type=Path), required=True, help="Marks of the detector (CSV).")
@click.option(
    "--hit",
    type=click.Choice([str(one) for one in Hit]),
    default=str(Hit.DISTANCE),
    show_default=True,
    help="When a mark finds a lesion: nearer than its radius, boxes that overlap, centre in the box, or the rule of "
    "the DBT challenge in pixels and slices.",
)
@click.option(
    "--iou",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.1,
    show_default=True,
    help="Least overlap, with --hit iou.",
)
@click.option(
    "--per",
    type=click.Choice([str(one) for one in Denominator]),
    default=str(Denominator.SCAN),
    show_default=True,
    help="False marks are counted per unit of this; breast needs that column in the list of scans.",
)
@click.option(
    "--either-view",
    is_flag=True,
    help="A lesion (column `lesion` of the findings) counts once, found if hit in any view of its breast or patient.",
)
@click.option(
    "--marks-per-scan",
    type=click.IntRange(min=0),
    default=MOST_MARKS,
    show_default=True,
    help="Marks considered of a scan, the strongest; 0: all.",
)
@click.option(
    "--bootstrap",
    "resamples",
    type=click.IntRange(min=0),
    default=RESAMPLES,
    show_default=True,
    help="Resamples of scans (of patients where the list names them); 0: no intervals.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the resamples.")
@json_option
def command(
    truth: Path,
    excluded: Path | None,
    scans: Path,
    marks: Path,
    hit: str,
    iou: float,
    per: str,
    either_view: bool,
    marks_per_scan: int,
    resamples: int,
    seed: int,
    json_to: str | None,
) -> None:
    """Lesions found against false marks: FROC and CPM by the rules of LUNA16.

    Findings have the columns seriesuid, coordX, coordY, coordZ and diameter_mm, marks probability instead of the
    diameter; boxes have width_mm, height_mm and depth_mm.
    """
    options = Options(
        hit=Hit(hit),
        iou=iou,
        denominator=Denominator(per),
        either_view=either_view,
        marks_per_scan=marks_per_scan,
        resamples=resamples,
        seed=seed,
    )
    try:
        tables = read_tables(scans=scans, truth=truth, excluded=excluded, marks=marks, hit=options.hit)
        document = evaluate(tables, options)
    except TableError as error:
        fail(str(error))
    publish(document, _show, json_to)
    for note in document.notes:
        click.echo(f"note: {note}", err=True)


def evaluate(tables: Tables, options: Options) -> FrocDocument:
    """Count what was read.

    Raises
    ------
    TableError
        If the list of scans or the findings lack a column that an option needs.
    """
    rule = hit_rule(options.hit, least_iou=options.iou)
    matching = match(len(tables.scans), tables.marks, tables.lesions, rule.compare, most=options.marks_per_scan or None)
    # units first: merging views keeps one image of a lesion, and the others would seem to be normal
    matched = _in_views(_in_units(matching.detections, tables.scans, options), tables, options)
    result = performance(matched, resamples=options.resamples, seed=options.seed)
    frames = frame_note(
        tables.marks,
        tables.lesions,
        marks_name=tables.submission.path.name,
        truth_name=tables.truth.path.name,
        near=2 * LEAST_REACH_PX if options.hit is Hit.MAMMOGRAPHY else NEAR_MM,
    )
    left_out = f"{result.left_out} of {options.resamples} resamples had no lesion or no unit and were left out"
    reasons = Reasons()
    return FrocDocument(
        command="froc",
        radnode=version(),
        sources=tuple(table.source for table in tables.all),
        settings={
            "hit": options.hit,
            "hit_rule": rule.words,
            "iou": options.iou if options.hit is Hit.IOU else None,
            "denominator": options.denominator,
            "lesion": "case: found if hit in either view" if options.either_view else "row of the findings",
            "marks_per_scan": options.marks_per_scan or None,
            "resamples": options.resamples,
            "resampled_unit": _resampled(tables.scans, options),
            "seed": options.seed,
        },
        notes=(*([frames] if frames else []), *tables.notes, *([left_out] if result.left_out else [])),
        **_figures(result, reasons),
        counts=_counts(tables, matching, matched),
        undefined=reasons.found,
    )


def _in_views(matched: Detections, tables: Tables, options: Options) -> Detections:
    if not options.either_view:
        return matched
    if tables.lesion_ids is None:
        raise TableError(
            f"{tables.truth.path.name}: line 1: no column 'lesion'; --either-view needs it to know which rows are the "
            f"same lesion"
        )
    if tables.scans.breasts is None and tables.scans.patients is None:
        raise TableError(_no_column(tables.scans, "breast", "--either-view"))
    return in_either_view(matched, tables.lesion_ids)


def _in_units(matched: Detections, scans: Scans, options: Options) -> Detections:
    """The denominator asked for, and patients, else breasts, as what is resampled."""
    clusters = scans.patients if scans.patients is not None else scans.breasts
    if clusters is not None:
        matched = replace(matched, clusters=clusters)
    if options.denominator in _NORMAL:
        return on_normal_images(matched)
    if options.denominator is not Denominator.BREAST:
        return matched
    if scans.breasts is None:
        raise TableError(_no_column(scans, "breast", "--per breast"))
    return per_group(matched, scans.breasts)


def _no_column(scans: Scans, column: str, option: str) -> str:
    return (
        f"{scans.table.path.name}: line 1: no column '{column}'; {option} needs a list with a header: "
        f"seriesuid,{column} (and patient, where it is known)"
    )


def _resampled(scans: Scans, options: Options) -> str:
    if scans.patients is not None:
        return "patient"
    if scans.breasts is not None:
        return "breast"
    return "image" if options.denominator in (Denominator.IMAGE, Denominator.NORMAL_IMAGE) else "scan"


def _figures(result: Performance, reasons: Reasons) -> dict[str, object]:
    cpm, cpm_ci = reasons.estimate("cpm", result.cpm)
    points = []
    for point in result.points:
        key = f"operating_points.fp_per_scan={point.false_per_unit:g}"
        value, interval = reasons.estimate(f"{key}.sensitivity", point.sensitivity)
        points.append(
            FrocPoint(
                fp_per_scan=point.false_per_unit,
                sensitivity=value,
                ci=interval,
                threshold=reasons.number(f"{key}.threshold", point.threshold, "no mark keeps false marks so rare"),
            )
        )
    return {"cpm": cpm, "cpm_ci": cpm_ci, "operating_points": tuple(points)}


def _counts(tables: Tables, matching: Matching, matched: Detections) -> FrocCounts:
    found = int(np.isfinite(matched.found).sum())
    return FrocCounts(
        scans=len(tables.scans),
        scans_with_lesions=np.unique(matching.detections.found_in).size,
        scans_without_marks=len(tables.scans) - np.unique(tables.marks.scan).size,
        units=int(matched.counted.sum()),
        lesions=matched.found.size,
        excluded_lesions=int(tables.lesions.excluded.sum()),
        marks=tables.marks.score.size,
        marks_considered=matching.considered,
        marks_on_lesions=matching.hitting,
        marks_on_excluded=matching.on_excluded,
        false_marks=matched.false_marks.size,
        lesions_found=found,
        lesions_missed=matched.found.size - found,
    )


def _show(document: FrocDocument) -> None:
    console, counts = Console(), document.counts
    table = Shown(title=f"FROC: false marks per {document.settings['denominator']}")
    for heading in ("false marks", "sensitivity", "95 % interval", "threshold"):
        table.add_column(heading, justify="right")
    for point in document.operating_points:
        table.add_row(f"{point.fp_per_scan:g}", number(point.sensitivity), interval(point.ci), number(point.threshold))
    table.add_section()
    table.add_row("CPM", number(document.cpm), interval(document.cpm_ci), "")
    console.print(table)
    console.print(
        f"{counts.lesions_found} of {counts.lesions} lesions found at all, {counts.false_marks} false marks on "
        f"{counts.units} of {counts.scans} scans; {counts.marks - counts.marks_considered} marks beyond the limit and "
        f"{counts.marks_on_excluded} on excluded lesions left out."
    )
    console.print(f"Hit: {document.settings['hit_rule']}.")
    for key, reason in document.undefined.items():
        console.print(f"undefined: {key}: {reason}", highlight=False)

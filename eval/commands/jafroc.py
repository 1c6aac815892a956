"""`radnode eval jafroc`: several readers mark and rate places, under one or several modalities.

Reads a table of truth and one of marks (`eval.jafroc_tables`); figures of merit are `eval.jafroc`, the analysis of
Obuchowski and Rockette `eval.mrmc`. Readers who give one rating a case have `radnode eval mrmc`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import click
import numpy as np
from pydantic import Field
from rich.console import Console

from eval.commands.mrmc import check_machine, treatment_order
from eval.console import fail, json_option
from eval.document import Part, Reasons
from eval.jafroc import Figure, figure_of_merit, leave_one_out
from eval.jafroc_tables import WEIGHT_TOLERANCE, MarkTable, TruthTable, read_marks, read_truth
from eval.mrmc import Study
from eval.mrmc_covariance import CovarianceMethod, jackknife_covariance
from eval.mrmc_document import ReaderStudy, StudyBlocks, print_by_reader, print_study
from eval.printing import publish
from eval.tables import TableError

_PARTIAL = (Figure.PCL, Figure.ALROC)
_FPF = 0.2
_NO_NORMAL = "there is no normal case; the figure needs their false marks"
_NO_LESION = "there is no diseased case; the figure needs lesions"


class Merit(Part):
    """Figure of merit of one reader under one modality."""

    modality: str
    reader: str
    value: float | None


class JafrocDocument(ReaderStudy):
    """What `radnode eval jafroc` writes; a treatment of the shared blocks is a modality."""

    figure: Figure
    lesions: int
    fom: tuple[Merit, ...] = Field(description="figure of merit of each modality and reader")


@click.command(name="jafroc")
@click.option(
    "--truth",
    "truth_path",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    help="Table with the columns case, diseased (0 or 1), lesion and weight: one row for each lesion of a diseased "
    "case, one with an empty lesion for each other case. The weights of a case add to 1; empty ones are equal.",
)
@click.option(
    "--marks",
    "marks_path",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    help="Table with the columns modality, reader, case, mark (NL on no lesion, LL on a lesion, LL_IL a wrong "
    "localisation of an LROC study), lesion and rating (higher is more suspicious; -inf or empty is no mark).",
)
@click.option(
    "--fom",
    type=click.Choice([figure.value for figure in Figure]),
    default=Figure.WAFROC.value,
    show_default=True,
    help="Figure of merit.",
)
@click.option(
    "--fpf",
    type=click.FloatRange(min=0, max=1, min_open=True),
    default=_FPF,
    show_default=True,
    help="False positive fraction at which pcl is read and up to which alroc is taken.",
)
@click.option("--control", metavar="MODALITY", help="The modality that is subtracted from the others.")
@click.option("--cad", metavar="READER", help="Compare this reader, the machine alone, with the others as a panel.")
@json_option
def command(
    truth_path: Path,
    marks_path: Path,
    fom: str,
    fpf: float,
    control: str | None,
    cad: str | None,
    json_to: str | None,
) -> None:
    """Compare modalities, or a machine with a panel, by what readers mark and rate.

    A place that was not marked counts as rated minus infinity. The covariance over cases is a jackknife. Differences
    are the first modality minus the second, modalities in order of their names, the control last.
    """
    try:
        truth = read_truth(truth_path)
        marks = read_marks(marks_path, truth)
        document = evaluate(truth, marks, Figure(fom), fpf=fpf, control=control, cad=cad)
    except TableError as error:
        fail(str(error))
    publish(document, _print, json_to)


def evaluate(
    truth: TruthTable,
    marks: MarkTable,
    figure: Figure,
    *,
    fpf: float = _FPF,
    control: str | None = None,
    cad: str | None = None,
) -> JafrocDocument:
    """Analyse what readers marked.

    Raises
    ------
    TableError
        If `control` is no modality, or `cad` no reader of the study or its only one.
    """
    modalities = treatment_order(marks.table, marks.modalities, control)
    if cad is not None:
        check_machine(marks.table, cad, marks.readers)
    why = _NO_NORMAL if truth.truth.diseased.any() else _NO_LESION
    study = replace(_study(truth, marks, modalities, figure, fpf), no_figure=why)
    reasons = Reasons()
    blocks = StudyBlocks(study, modalities, marks.readers, cad, reasons)
    both, by_cases, by_readers = blocks.tests()
    fom = tuple(
        Merit(
            modality=modality,
            reader=reader,
            value=reasons.number(f"fom.{modality}.{reader}", float(study.figures[i, j]), why),
        )
        for i, modality in enumerate(modalities)
        for j, reader in enumerate(marks.readers)
    )
    return JafrocDocument(
        command="jafroc",
        radnode=version("radnode"),
        sources=(truth.table.source, marks.table.source),
        settings={
            "fom": figure.value,
            "fpf": fpf if figure in _PARTIAL else None,
            "covariance": CovarianceMethod.JACKKNIFE.value,
            "unit": "case",
            "ties": "one half",
            "unmarked": "minus infinity",
            "weight_tolerance": WEIGHT_TOLERANCE,
            "confidence": 0.95,
            "degrees_of_freedom": "Hillis 2007",
            "control": control,
            "cad": cad,
        },
        notes=(*truth.notes, *marks.notes),
        treatments=tuple(modalities),
        readers=tuple(marks.readers),
        cases=len(truth.cases),
        diseased=int(truth.truth.diseased.sum()),
        lesions=len(truth.lesions),
        figure=figure,
        fom=fom,
        random_readers_random_cases=both,
        fixed_readers=by_cases,
        fixed_cases=by_readers,
        by_reader=blocks.reader_differences(),
        components=blocks.components(),
        cad=blocks.machine_blocks(),
        undefined=reasons.found,
    )


def _study(truth: TruthTable, marks: MarkTable, modalities: Sequence[str], figure: Figure, fpf: float) -> Study:
    """Figures of all readers under all modalities, and their jackknife."""
    readings = [[marks.readings[modality, reader] for reader in marks.readers] for modality in modalities]
    left_out = [[leave_one_out(figure, truth.truth, one, fpf=fpf) for one in row] for row in readings]
    return Study(
        figures=np.asarray([[figure_of_merit(figure, truth.truth, one, fpf=fpf) for one in row] for row in readings]),
        covariance=jackknife_covariance(np.asarray(left_out)),
    )


def _print(document: JafrocDocument) -> None:
    console = Console()
    counts = f"{document.cases} cases, {document.diseased} diseased, {document.lesions} lesions"
    console.print(f"{document.figure.value}, {counts}", highlight=False)
    print_by_reader(console, document, {(one.modality, one.reader): one.value for one in document.fom})
    print_study(console, document)

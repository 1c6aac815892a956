"""`radnode eval mrmc`: several readers rate the same cases under several treatments.

Reads one table of ratings; the areas and their covariance are `eval.mrmc_covariance`, the analysis of Obuchowski and
Rockette is `eval.mrmc`. Readers who mark places have `radnode eval jafroc`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from rich.console import Console

from eval.console import fail, json_option
from eval.document import Part, Reasons
from eval.intervals import RESAMPLES
from eval.mrmc import Study
from eval.mrmc_covariance import (
    CovarianceMethod,
    areas,
    bootstrap_covariance,
    delong_covariance,
    jackknife_covariance,
    leave_one_out_areas,
)
from eval.mrmc_document import (
    ReaderStudy,
    StudyBlocks,
    natural_order,
    print_by_reader,
    print_study,
)
from eval.printing import publish
from eval.tables import Table, TableError, read_table

_COLUMNS = ("reader", "treatment", "case", "truth", "rating")
_ONE_CLASS = "all cases are of one class; an area needs diseased and other cases"


class Area(Part):
    """Area under the empirical ROC curve of one reader under one treatment."""

    treatment: str
    reader: str
    auc: float | None


class MrmcDocument(ReaderStudy):
    """What `radnode eval mrmc` writes."""

    auc: tuple[Area, ...] = Field(description="empirical area under the ROC curve, ties counting half")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Ratings:
    """A balanced study: every reader rated every case under every treatment.

    Attributes
    ----------
    ratings : float64 (treatments, readers, cases)
    diseased : bool (cases,)
    """

    table: Table
    treatments: list[str]
    readers: list[str]
    ratings: NDArray[np.float64]
    diseased: NDArray[np.bool_]
    control: str | None = None


@click.command(name="mrmc")
@click.option(
    "--ratings",
    "path",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    help="Table with the columns reader, treatment, case, truth (0 or 1) and rating (higher is more suspicious).",
)
@click.option(
    "--covariance",
    type=click.Choice([method.value for method in CovarianceMethod]),
    default=CovarianceMethod.JACKKNIFE.value,
    show_default=True,
    help="How the covariance over cases is estimated.",
)
@click.option(
    "--bootstrap",
    "resamples",
    type=click.IntRange(min=100),
    default=RESAMPLES,
    show_default=True,
    metavar="N",
    help="Resamples of cases, with --covariance bootstrap.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the bootstrap.")
@click.option("--control", metavar="TREATMENT", help="The treatment that is subtracted from the others.")
@click.option("--cad", metavar="READER", help="Compare this reader, the machine alone, with the others as a panel.")
@json_option
def command(
    path: Path,
    covariance: str,
    resamples: int,
    seed: int,
    control: str | None,
    cad: str | None,
    json_to: str | None,
) -> None:
    """Compare treatments read by several readers (Obuchowski and Rockette, degrees of freedom of Hillis).

    Every reader must have rated every case under every treatment. Differences are the first treatment minus the
    second, treatments in order of their names, the control last.
    """
    try:
        document = evaluate(
            read_ratings(path, control=control),
            CovarianceMethod(covariance),
            resamples=resamples,
            seed=seed,
            cad=cad,
        )
    except TableError as error:
        fail(str(error))
    publish(document, _print, json_to)


def read_ratings(path: Path, *, control: str | None = None) -> Ratings:
    """Read a table of ratings, treatments in order of their names and the control last.

    Raises
    ------
    TableError
        If a rating is no finite number, is there twice or is missing, a case is called diseased and not diseased, or
        there is no such control.
    """
    table = read_table(path, _COLUMNS)
    if not len(table):
        raise TableError(f"{path.name}: there is no rating below the header; give one row for each")
    table.unique("reader", "treatment", "case")
    values, truth = table.numbers("rating"), table.flags("truth")
    names = table.text("treatment").tolist()
    treatments = treatment_order(table, names, control)
    treatment = _positions(names, treatments)
    readers = natural_order(table.text("reader").tolist())
    reader = _positions(table.columns["reader"], readers)
    cases = natural_order(table.text("case").tolist())
    case = _positions(table.columns["case"], cases)
    diseased = np.zeros(len(cases), dtype=np.bool_)
    diseased[case] = truth
    contradicts = np.flatnonzero(diseased[case] != truth)
    if contradicts.size:
        _contradiction(table, int(contradicts[0]), case)
    ratings = np.full((len(treatments), len(readers), len(cases)), np.nan)
    ratings[treatment, reader, case] = values
    if np.isnan(ratings).any():
        _unbalanced(table, ratings, treatments, readers, cases)
    return Ratings(
        table=table, treatments=treatments, readers=readers, ratings=ratings, diseased=diseased, control=control
    )


def evaluate(
    ratings: Ratings, method: CovarianceMethod, *, resamples: int = RESAMPLES, seed: int = 0, cad: str | None = None
) -> MrmcDocument:
    """Analyse a balanced study.

    Raises
    ------
    TableError
        If `cad` is no reader of the study, or its only one.
    """
    if cad is not None:
        check_machine(ratings.table, cad, ratings.readers)
    study = Study(
        figures=areas(ratings.ratings, ratings.diseased),
        covariance=_covariance(ratings, method, resamples=resamples, seed=seed),
        no_figure=_ONE_CLASS,
    )
    reasons = Reasons()
    blocks = StudyBlocks(study, ratings.treatments, ratings.readers, cad, reasons)
    both, by_cases, by_readers = blocks.tests()
    auc = tuple(
        Area(
            treatment=treatment,
            reader=reader,
            auc=reasons.number(f"auc.{treatment}.{reader}", float(study.figures[i, j]), _ONE_CLASS),
        )
        for i, treatment in enumerate(ratings.treatments)
        for j, reader in enumerate(ratings.readers)
    )
    drawn = method is CovarianceMethod.BOOTSTRAP
    return MrmcDocument(
        command="mrmc",
        radnode=version("radnode"),
        sources=(ratings.table.source,),
        settings={
            "covariance": method.value,
            "bootstrap": resamples if drawn else None,
            "seed": seed if drawn else None,
            "resampled": "cases, diseased and others apart" if drawn else None,
            "unit": "case",
            "ties": "one half",
            "confidence": 0.95,
            "degrees_of_freedom": "Hillis 2007",
            "control": ratings.control,
            "cad": cad,
        },
        notes=ratings.table.notes,
        treatments=tuple(ratings.treatments),
        readers=tuple(ratings.readers),
        cases=len(ratings.diseased),
        diseased=int(ratings.diseased.sum()),
        auc=auc,
        random_readers_random_cases=both,
        fixed_readers=by_cases,
        fixed_cases=by_readers,
        by_reader=blocks.reader_differences(),
        components=blocks.components(),
        cad=blocks.machine_blocks(),
        undefined=reasons.found,
    )


def check_machine(table: Table, machine: str, readers: list[str]) -> None:
    """Refuse a machine that is no reader of the table, or its only one."""
    if machine not in readers:
        raise TableError(
            f"{table.path.name}: there is no reader '{machine}' to compare with the others; "
            f"its readers are {', '.join(readers)}"
        )
    if len(readers) == 1:
        raise TableError(f"{table.path.name}: '{machine}' is the only reader; a panel needs at least one other")


def _covariance(ratings: Ratings, method: CovarianceMethod, *, resamples: int, seed: int) -> NDArray[np.float64]:
    match method:
        case CovarianceMethod.JACKKNIFE:
            return jackknife_covariance(leave_one_out_areas(ratings.ratings, ratings.diseased))
        case CovarianceMethod.DELONG:
            return delong_covariance(ratings.ratings, ratings.diseased)
        case CovarianceMethod.BOOTSTRAP:
            return bootstrap_covariance(ratings.ratings, ratings.diseased, resamples=resamples, seed=seed)


def treatment_order(table: Table, names: Sequence[str], control: str | None) -> list[str]:
    """Treatments in order of their names, the control last; refuses a control that is none of them."""
    ordered = natural_order(names)
    if control is None:
        return ordered
    if control not in ordered:
        raise TableError(f"{table.path.name}: there is no '{control}' to be the control; found {', '.join(ordered)}")
    return [*(name for name in ordered if name != control), control]


def _positions(cells: Sequence[str], names: Sequence[str]) -> NDArray[np.intp]:
    """(rows,) place of each cell among the names."""
    place = {name: index for index, name in enumerate(names)}
    return np.asarray([place[cell] for cell in cells], dtype=np.intp)


def _contradiction(table: Table, row: int, case: NDArray[np.intp]) -> None:
    last = int(np.flatnonzero(case == case[row])[-1])
    table.fault(
        row, "truth", f"is not that of the same case on line {table.lines[last]}; a case is diseased or it is not"
    )


def _unbalanced(
    table: Table, ratings: NDArray[np.float64], treatments: list[str], readers: list[str], cases: list[str]
) -> None:
    missing = np.argwhere(np.isnan(ratings))
    treatment, reader, case = missing[0].tolist()
    line = table.lines[list(table.columns["case"]).index(cases[case])]
    raise TableError(
        f"{table.path.name}: reader {readers[reader]} has no rating of case {cases[case]} (first on line {line}) under "
        f"treatment {treatments[treatment]}, as for {len(missing)} of {ratings.size} in all; add the ratings, or leave "
        "the case, reader or treatment out everywhere: the analysis needs all of them"
    )


def _print(document: MrmcDocument) -> None:
    console = Console()
    console.print(f"Area under the ROC curve, {document.cases} cases, {document.diseased} diseased", highlight=False)
    print_by_reader(console, document, {(one.treatment, one.reader): one.auc for one in document.auc})
    print_study(console, document)

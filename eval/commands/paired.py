"""`radnode eval paired`: two methods on the same cases, or two independent groups, and whether one is not worse.

The arithmetic is `eval.paired` and `eval.two_groups`; areas under curves are compared by ``radnode eval roc``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table as Shown

from eval.case_options import BETWEEN, NUMBER
from eval.case_table import CaseTable, read_cases
from eval.clustered import clustered_proportion
from eval.console import fail, json_option, misused
from eval.document import Document, Interval, Part, Reasons
from eval.intervals import Estimate, clopper_pearson
from eval.paired import (
    NO_DISCORDANT,
    PairedCounts,
    clustered_difference,
    holm,
    mcnemar,
    paired_non_inferiority,
    tango,
)
from eval.printing import interval, number, p_value, print_remarks, publish
from eval.ranking import Bools
from eval.tables import TableError
from eval.two_groups import NonInferiority, TwoGroups, miettinen_nurminen, non_inferiority
from eval.version import version

ENDPOINTS = ("sensitivity", "specificity", "accuracy")
FAMILY = ("sensitivity", "specificity")
_BY_PATIENT = "several rows of a patient are not independent; p is by patient"


class NonInferiorityBlock(Part):
    """Whether the first is worse by less than the margin; p is one-sided, shown at 2.5 %."""

    margin: float
    z: float | None
    p: float | None
    shown: bool


class Comparison(Part):
    """One endpoint of two methods on the same cases; difference: first minus second."""

    endpoint: str
    cases: int
    both: int
    first_only: int
    second_only: int
    neither: int
    first: float | None
    first_ci: Interval
    second: float | None
    second_ci: Interval
    difference: float | None
    ci: Interval = Field(description="Tango, or by patient where a patient column was named")
    p: float | None = Field(description="exact McNemar, or by patient where a patient column was named")
    mcnemar_mid_p: float | None
    holm_p: float | None = Field(description="adjusted within the family; null outside of it")
    non_inferiority: NonInferiorityBlock | None


class GroupComparison(Part):
    """Two independent groups; difference: first minus second."""

    first_successes: int
    first_cases: int
    second_successes: int
    second_cases: int
    first: float | None
    first_ci: Interval
    second: float | None
    second_ci: Interval
    difference: float | None
    ci: Interval = Field(description="Miettinen-Nurminen")
    non_inferiority: NonInferiorityBlock | None = Field(description="Farrington-Manning")


class PairedDocument(Document):
    """The result of ``radnode eval paired``."""

    comparisons: tuple[Comparison, ...]
    independent: GroupComparison | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Columns:
    """Which column says what."""

    truth: str
    first: str
    second: str
    first_threshold: float | None
    second_threshold: float | None
    patient: str | None


@click.command(name="paired")
@click.option("--cases", "path", type=click.Path(path_type=Path), help="Table with one row a case.")
@click.option("--truth", metavar="COL", help="Column of the truth: 1 diseased, 0 not.")
@click.option("--first", metavar="COL", help="Column of the first method: calls (1, 0), or scores with a threshold.")
@click.option("--second", metavar="COL", help="Column of the second method.")
@click.option("--first-threshold", type=NUMBER, metavar="T", help="The first is a score, positive if >= T.")
@click.option("--second-threshold", type=NUMBER, metavar="T", help="The second is a score, positive if >= T.")
@click.option("--patient", metavar="COL", help="Column of the patient, where one may have several rows.")
@click.option("--case", metavar="COL", help="Column that names a case, each once. [default: case, case_id or id]")
@click.option(
    "--counts",
    type=click.IntRange(min=0),
    nargs=4,
    metavar="BOTH FIRST SECOND NEITHER",
    help="Counts of one endpoint instead of a table: how many cases both, only the first, only the second got right.",
)
@click.option(
    "--independent",
    type=click.IntRange(min=0),
    nargs=4,
    metavar="X1 N1 X2 N2",
    help="Successes and cases of two independent groups instead.",
)
@click.option(
    "--margin",
    type=BETWEEN,
    metavar="M",
    help="What the first may lose and still be not inferior, as a share; declared beforehand.",
)
@click.option(
    "--family",
    type=click.Choice(ENDPOINTS),
    multiple=True,
    default=FAMILY,
    show_default=True,
    help="Endpoints listed beforehand, over which p is adjusted by Holm.",
)
@json_option
def command(
    path: Path | None,
    truth: str | None,
    first: str | None,
    second: str | None,
    first_threshold: float | None,
    second_threshold: float | None,
    patient: str | None,
    case: str | None,
    counts: tuple[int, int, int, int] | None,
    independent: tuple[int, int, int, int] | None,
    margin: float | None,
    family: tuple[str, ...],
    json_to: str | None,
) -> None:
    """Two methods on the same cases: exact McNemar, Tango's interval, non-inferiority; or two independent groups."""
    if sum(given is not None for given in (path, counts, independent)) != 1:
        misused("give one of --cases, --counts and --independent")
    if path is not None:
        if truth is None or first is None or second is None:
            misused("--cases needs --truth, --first and --second")
        columns = Columns(
            truth=truth,
            first=first,
            second=second,
            first_threshold=first_threshold,
            second_threshold=second_threshold,
            patient=patient,
        )
        try:
            document = _of_table(read_cases(path, [truth, first, second], case=case, patient=patient), columns, margin,
                                 family)  # fmt: skip
        except TableError as error:
            fail(str(error))
    elif counts is not None:
        document = _of_counts(counts, margin)
    else:
        document = _of_groups(independent or (0, 0, 0, 0), margin)
    publish(document, _print, json_to)


def _of_table(read: CaseTable, columns: Columns, margin: float | None, family: Sequence[str]) -> PairedDocument:
    diseased = read.table.flags(columns.truth)
    first = _calls(read, columns.first, columns.first_threshold)
    second = _calls(read, columns.second, columns.second_threshold)
    right = (first == diseased, second == diseased)
    everyone = np.ones(len(diseased), dtype=np.bool_)
    rows = {"sensitivity": diseased, "specificity": ~diseased, "accuracy": everyone}
    reasons = Reasons()
    blocks = {
        endpoint: _endpoint(endpoint, right[0][among], right[1][among], _of(read.patients, among), margin, reasons)
        for endpoint, among in rows.items()
    }
    settings: dict[str, str | float | None] = {
        "truth": columns.truth,
        "first": columns.first,
        "first_threshold": columns.first_threshold,
        "second": columns.second,
        "second_threshold": columns.second_threshold,
        "unit": f"patient (column {columns.patient})" if columns.patient else "case: every row is its own patient",
        "interval": "normal, by patient (Obuchowski 1998)" if columns.patient else "Tango 1998",
        "test": "by patient (Obuchowski 1998)" if columns.patient else "exact McNemar",
        "margin": margin,
        "holm_family": ", ".join(family),
    }
    return PairedDocument.model_validate(
        {
            "command": "paired",
            "radnode": version(),
            "sources": (read.table.source,),
            "settings": settings,
            "notes": read.notes,
            "comparisons": _adjusted(blocks, family),
            "independent": None,
            "undefined": reasons.found,
        }
    )


def _calls(read: CaseTable, column: str, threshold: float | None) -> Bools:
    return read.table.flags(column) if threshold is None else read.table.numbers(column) >= threshold


def _of(patients: NDArray[np.str_] | None, among: Bools) -> NDArray[np.str_] | None:
    return None if patients is None else patients[among]


def _endpoint(
    endpoint: str,
    first: Bools,
    second: Bools,
    patients: NDArray[np.str_] | None,
    margin: float | None,
    reasons: Reasons,
) -> dict[str, object]:
    counted = PairedCounts.of(first, second)
    if patients is None:
        return _comparison(endpoint, counted, margin, reasons)
    key = f"comparisons.{endpoint}"
    found = clustered_difference(first, second, patients)
    block = _shares(key, clustered_proportion(first, patients), clustered_proportion(second, patients), reasons)
    block["difference"], block["ci"] = reasons.estimate(f"{key}.difference", found.tested.estimate)
    why = found.tested.estimate.reason
    if margin is not None and np.isfinite(found.standard_error):
        block["non_inferiority"] = _block(found.non_inferiority(margin))
    else:
        block["non_inferiority"] = None
        reasons.found[f"{key}.non_inferiority"] = _no_margin(margin, why)
    reasons.found[f"{key}.mcnemar_mid_p"] = _BY_PATIENT
    return {
        **_counts(endpoint, counted),
        **block,
        "p": reasons.number(f"{key}.p", found.tested.p, why),
        "mcnemar_mid_p": None,
    }


def _comparison(endpoint: str, counted: PairedCounts, margin: float | None, reasons: Reasons) -> dict[str, object]:
    key = f"comparisons.{endpoint}"
    test = mcnemar(counted)
    first = clopper_pearson(counted.both + counted.first_only, counted.cases)
    second = clopper_pearson(counted.both + counted.second_only, counted.cases)
    block = _shares(key, first, second, reasons)
    block["difference"], block["ci"] = reasons.estimate(f"{key}.difference", tango(counted))
    if margin is not None and counted.cases:
        block["non_inferiority"] = _block(paired_non_inferiority(counted, margin))
    else:
        block["non_inferiority"] = None
        reasons.found[f"{key}.non_inferiority"] = _no_margin(margin, "there are no cases of this kind")
    return {
        **_counts(endpoint, counted),
        **block,
        "p": reasons.number(f"{key}.p", test.exact, NO_DISCORDANT),
        "mcnemar_mid_p": reasons.number(f"{key}.mcnemar_mid_p", test.mid, NO_DISCORDANT),
    }


def _counts(endpoint: str, counted: PairedCounts) -> dict[str, object]:
    return {
        "endpoint": endpoint,
        "cases": counted.cases,
        "both": counted.both,
        "first_only": counted.first_only,
        "second_only": counted.second_only,
        "neither": counted.neither,
    }


def _shares(key: str, first: Estimate, second: Estimate, reasons: Reasons) -> dict[str, object]:
    block: dict[str, object] = {}
    block["first"], block["first_ci"] = reasons.estimate(f"{key}.first", first)
    block["second"], block["second_ci"] = reasons.estimate(f"{key}.second", second)
    return block


def _block(tested: NonInferiority) -> NonInferiorityBlock:
    finite = np.isfinite(tested.z)
    return NonInferiorityBlock(
        margin=tested.margin, z=tested.z if finite else None, p=tested.p if finite else None, shown=tested.shown
    )


def _no_margin(margin: float | None, why: str) -> str:
    return "no margin was declared (--margin)" if margin is None else why


def _adjusted(blocks: Mapping[str, dict[str, object]], family: Sequence[str]) -> tuple[Comparison, ...]:
    p_values = {name: block["p"] for name, block in blocks.items() if name in family}
    held = holm({name: p if isinstance(p, float) else float("nan") for name, p in p_values.items()})
    return tuple(
        Comparison.model_validate({**block, "holm_p": _known(held.get(name))}) for name, block in blocks.items()
    )


def _known(p: float | None) -> float | None:
    return None if p is None or np.isnan(p) else p


def _of_counts(counts: tuple[int, int, int, int], margin: float | None) -> PairedDocument:
    both, first, second, neither = counts
    reasons = Reasons()
    counted = PairedCounts(both=both, first_only=first, second_only=second, neither=neither)
    block = _comparison("counts", counted, margin, reasons)
    return PairedDocument.model_validate(
        {
            "command": "paired",
            "radnode": version(),
            "settings": {"unit": "case: every case is its own patient", "interval": "Tango 1998", "margin": margin},
            "comparisons": _adjusted({"counts": block}, ()),
            "independent": None,
            "undefined": reasons.found,
        }
    )


def _of_groups(counts: tuple[int, int, int, int], margin: float | None) -> PairedDocument:
    groups = TwoGroups(first=counts[0], first_cases=counts[1], second=counts[2], second_cases=counts[3])
    if groups.first > groups.first_cases or groups.second > groups.second_cases:
        misused("--independent: there are more successes than cases; the order is X1 N1 X2 N2")
    reasons, key = Reasons(), "independent"
    block = _shares(
        key,
        clopper_pearson(groups.first, groups.first_cases),
        clopper_pearson(groups.second, groups.second_cases),
        reasons,
    )
    block["difference"], block["ci"] = reasons.estimate(f"{key}.difference", miettinen_nurminen(groups))
    if margin is not None and block["difference"] is not None:
        block["non_inferiority"] = _block(non_inferiority(groups, margin))
    else:
        block["non_inferiority"] = None
        reasons.found[f"{key}.non_inferiority"] = _no_margin(margin, "one of the groups is empty")
    return PairedDocument.model_validate(
        {
            "command": "paired",
            "radnode": version(),
            "settings": {
                "unit": "case: independent groups",
                "interval": "Miettinen-Nurminen 1985",
                "non_inferiority": "Farrington-Manning 1990",
                "margin": margin,
            },
            "comparisons": (),
            "independent": {
                "first_successes": counts[0],
                "first_cases": counts[1],
                "second_successes": counts[2],
                "second_cases": counts[3],
                **block,
            },
            "undefined": reasons.found,
        }
    )


# what people read ----------------------------------------------------------------------------------------------------


def _print(document: PairedDocument) -> None:
    console = Console()
    if document.comparisons:
        table = Shown("", *(one.endpoint for one in document.comparisons), box=SIMPLE)
        for name, tell in _LINES.items():
            table.add_row(name, *(tell(one) for one in document.comparisons))
        console.print(table)
    if (groups := document.independent) is not None:
        for name, value in (
            (f"first, {groups.first_successes} of {groups.first_cases}", number(groups.first)),
            (f"second, {groups.second_successes} of {groups.second_cases}", number(groups.second)),
            ("difference", f"{number(groups.difference)} ({interval(groups.ci)})"),
            ("not inferior", _verdict(groups.non_inferiority)),
        ):
            console.print(f"{name}: {value}", highlight=False)
    print_remarks(console, document)


def _verdict(block: NonInferiorityBlock | None) -> str:
    if block is None:
        return ""
    return f"{'shown' if block.shown else 'not shown'} at {block.margin:g} (p {p_value(block.p)})"


_LINES: Mapping[str, Callable[[Comparison], str]] = {
    "cases": lambda one: str(one.cases),
    "right: both": lambda one: str(one.both),
    "right: first only": lambda one: str(one.first_only),
    "right: second only": lambda one: str(one.second_only),
    "right: neither": lambda one: str(one.neither),
    "first": lambda one: number(one.first),
    "second": lambda one: number(one.second),
    "difference": lambda one: number(one.difference),
    "95 % interval": lambda one: interval(one.ci),
    "p": lambda one: p_value(one.p),
    "p by Holm": lambda one: "" if one.holm_p is None else p_value(one.holm_p),
    "not inferior": lambda one: _verdict(one.non_inferiority),
}

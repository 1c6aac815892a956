"""`radnode eval drift`: whether scores and header features have moved since the reference.

Two tables with the same columns, one row a case. The arithmetic is `eval.drift`; in service the ledger feeds the same
functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from pydantic import Field
from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table as Shown

from eval import drift
from eval.case_options import BETWEEN, NUMBER, Finite
from eval.case_table import CaseTable, read_cases
from eval.clustered import clustered_proportion, effective_counts
from eval.console import fail, json_option, misused
from eval.document import Document, Interval, Part, Reasons
from eval.drift import PSI_BINS, PSI_FLOOR, PSI_LARGE, PSI_MODERATE, Psi
from eval.intervals import Estimate, clopper_pearson
from eval.printing import interval, number, p_value, print_remarks, publish
from eval.ranking import Bools
from eval.tables import TableError
from eval.two_groups import TwoGroups, miettinen_nurminen
from eval.version import version

_EMPTY_SIDE = "one of the tables has no rows with this value"
_NO_ORDER = "categories have no order, and the distance of Kolmogorov and Smirnov needs one"


class ShareBlock(Part):
    """Shares of one bin or category, before and now."""

    label: str
    reference: float
    current: float


class FeatureDrift(Part):
    """How far one column has moved."""

    column: str
    kind: str = Field(description="number or category")
    psi: float | None
    psi_unmoved_95: float | None = Field(description="below it in 95 of 100 samples of these sizes if nothing moved")
    moved: str = Field(description="no, moderate (PSI of 0.1 or more) or large (0.25 or more); unknown without PSI")
    bins: tuple[ShareBlock, ...]
    ks: float | None = Field(description="Kolmogorov-Smirnov distance, of numbers")
    ks_p: float | None
    missing_reference: int = Field(description="cases without a value, left out of numbers and a category of their own")
    missing_current: int
    new_values: tuple[str, ...] = Field(description="categories that the reference does not have")


class RateDrift(Part):
    """A share before and now; difference: now minus before."""

    reference: float | None
    reference_ci: Interval
    current: float | None
    current_ci: Interval
    difference: float | None
    ci: Interval = Field(description="Miettinen-Nurminen")


class CusumBlock(Part):
    """CUSUM over the diseased cases of the current table, in their order."""

    expected: float
    unacceptable: float
    limit: float
    run_length: float = Field(description="diseased cases between false alarms, on average")
    run_length_if_unacceptable: float = Field(description="diseased cases until the lower sensitivity is noticed")
    cases: int
    last: float | None = Field(description="the sum after the last case")
    signals: tuple[str, ...] = Field(description="cases at which it reached the limit")


class DriftDocument(Document):
    """The result of ``radnode eval drift``."""

    cases_reference: int
    cases_current: int
    score: FeatureDrift
    flag_rate: RateDrift | None
    features: tuple[FeatureDrift, ...]
    sensitivity: RateDrift | None
    cusum: CusumBlock | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Columns:
    """Which column says what."""

    score: str
    threshold: float | None
    categories: tuple[str, ...]
    numbers: tuple[str, ...]
    truth: str | None
    order: str | None
    patient: str | None

    @property
    def needed(self) -> list[str]:
        """All of them."""
        named = (self.score, *self.categories, *self.numbers, self.truth)
        return [name for name in named if name]


@dataclass(frozen=True, kw_only=True, slots=True)
class Watch:
    """What the CUSUM is to notice."""

    expected: float | None
    unacceptable: float | None
    run_length: float


@click.command(name="drift")
@click.option("--reference", type=click.Path(path_type=Path), required=True, help="Table of the reference.")
@click.option("--current", type=click.Path(path_type=Path), required=True, help="Table of the period in question.")
@click.option("--score", default="score", show_default=True, metavar="COL", help="Column of the score.")
@click.option("--threshold", type=NUMBER, metavar="T", help="Flagged if score >= T; compares flag rates.")
@click.option("--feature", "categories", multiple=True, metavar="COL", help="Column of a header feature: a category.")
@click.option("--number", "numbers", multiple=True, metavar="COL", help="Column of a header feature: a number.")
@click.option("--truth", metavar="COL", help="Column of the truth: 1, 0, or empty where it has not come back.")
@click.option("--order", metavar="COL", help="Number by which current cases are ordered for the CUSUM. [default: rows]")
@click.option("--patient", metavar="COL", help="Column of the patient, where one may have several rows.")
@click.option("--expected", type=BETWEEN, help="Sensitivity that is expected. [default: that of the reference]")
@click.option("--unacceptable", type=BETWEEN, help="Sensitivity to be noticed. [default: expected less 0.1]")
@click.option(
    "--run-length",
    type=Finite(min=1, max=100_000),
    default=1000.0,
    show_default=True,
    help="Diseased cases between false alarms of the CUSUM, on average.",
)
@json_option
def command(
    reference: Path,
    current: Path,
    score: str,
    threshold: float | None,
    categories: tuple[str, ...],
    numbers: tuple[str, ...],
    truth: str | None,
    order: str | None,
    patient: str | None,
    expected: float | None,
    unacceptable: float | None,
    run_length: float,
    json_to: str | None,
) -> None:
    """Whether scores, flag rate and header features have moved, and sensitivity once truth comes back."""
    columns = Columns(
        score=score,
        threshold=threshold,
        categories=categories,
        numbers=numbers,
        truth=truth,
        order=order,
        patient=patient,
    )
    if truth is not None and threshold is None:
        misused("--truth needs --threshold: sensitivity is that of flagged cases")
    try:
        before = read_cases(reference, columns.needed, patient=patient)
        now = read_cases(current, [*columns.needed, *([order] if order else [])], patient=patient)
        watch = Watch(expected=expected, unacceptable=unacceptable, run_length=run_length)
        document = _compare(before, now, columns, watch)
    except TableError as error:
        fail(str(error))
    publish(document, _print, json_to)


def _compare(before: CaseTable, now: CaseTable, columns: Columns, watch: Watch) -> DriftDocument:
    reasons = Reasons()
    sensitivity, cusum = _with_truth(before, now, columns, watch, reasons)
    return DriftDocument(
        command="drift",
        radnode=version(),
        sources=(before.table.source, now.table.source),
        settings={
            "score": columns.score,
            "threshold": columns.threshold,
            "positive_if": "score >= threshold",
            "psi_bins": PSI_BINS,
            "psi_edges": "quantiles of the reference",
            "psi_floor": PSI_FLOOR,
            "unit": f"patient (column {columns.patient})" if columns.patient else "case: every row is its own patient",
            "truth": columns.truth,
            "order": columns.order or "rows of the current table",
        },
        notes=tuple(dict.fromkeys((*before.notes, *now.notes))),
        cases_reference=len(before.names),
        cases_current=len(now.names),
        score=_number_drift("score", before, now, columns.score, reasons),
        flag_rate=_flag_rate(before, now, columns, reasons),
        features=(
            *(_category_drift(f"features.{name}", before, now, name, reasons) for name in columns.categories),
            *(_number_drift(f"features.{name}", before, now, name, reasons) for name in columns.numbers),
        ),
        sensitivity=sensitivity,
        cusum=cusum,
        undefined=reasons.found,
    )


def _number_drift(key: str, before: CaseTable, now: CaseTable, column: str, reasons: Reasons) -> FeatureDrift:
    held = [read.table.optional_numbers(column) for read in (before, now)]
    if key == "score":
        held = [read.table.numbers(column) for read in (before, now)]
    known = [values[~np.isnan(values)] for values in held]
    found = drift.psi(known[0], known[1])
    test = drift.kolmogorov_smirnov(known[0], known[1])
    by_patient = before.patients is not None
    why = "several rows of a patient are not independent: p would be too small" if by_patient else _EMPTY_SIDE
    return FeatureDrift(
        column=column,
        kind="number",
        psi=reasons.number(f"{key}.psi", found.value, _EMPTY_SIDE),
        psi_unmoved_95=reasons.number(f"{key}.psi_unmoved_95", found.unmoved_95, _EMPTY_SIDE),
        moved=_moved(found),
        bins=_shares(found),
        ks=reasons.number(f"{key}.ks", test.distance, _EMPTY_SIDE),
        ks_p=reasons.number(f"{key}.ks_p", float("nan") if by_patient else test.p, why),
        missing_reference=int(np.isnan(held[0]).sum()),
        missing_current=int(np.isnan(held[1]).sum()),
        new_values=(),
    )


def _category_drift(key: str, before: CaseTable, now: CaseTable, column: str, reasons: Reasons) -> FeatureDrift:
    one, other = (read.cells([column])[column] for read in (before, now))
    found = drift.categorical_psi(one, other)
    reasons.found |= {f"{key}.ks": _NO_ORDER, f"{key}.ks_p": _NO_ORDER}
    return FeatureDrift(
        column=column,
        kind="category",
        psi=reasons.number(f"{key}.psi", found.value, _EMPTY_SIDE),
        psi_unmoved_95=reasons.number(f"{key}.psi_unmoved_95", found.unmoved_95, _EMPTY_SIDE),
        moved=_moved(found),
        bins=_shares(found),
        ks=None,
        ks_p=None,
        missing_reference=sum(not cell for cell in before.table.columns[column]),
        missing_current=sum(not cell for cell in now.table.columns[column]),
        new_values=tuple(np.setdiff1d(other, one).tolist()),
    )


def _shares(found: Psi) -> tuple[ShareBlock, ...]:
    return tuple(ShareBlock(label=one.label, reference=one.reference, current=one.current) for one in found.bins)


def _moved(found: Psi) -> str:
    if np.isnan(found.value):
        return "unknown"
    if found.value >= PSI_LARGE:
        return "large"
    return "moderate" if found.value >= PSI_MODERATE else "no"


def _flag_rate(before: CaseTable, now: CaseTable, columns: Columns, reasons: Reasons) -> RateDrift | None:
    if columns.threshold is None:
        reasons.found["flag_rate"] = "no threshold was named (--threshold)"
        return None
    flagged = [read.table.numbers(columns.score) >= columns.threshold for read in (before, now)]
    return _rate("flag_rate", (before, now), flagged, [np.ones(len(one), dtype=np.bool_) for one in flagged], reasons)


def _rate(
    key: str, tables: Sequence[CaseTable], called: Sequence[Bools], among: Sequence[Bools], reasons: Reasons
) -> RateDrift:
    """A share before and now, by patient where patients are named."""
    block: dict[str, float | Interval | None] = {}
    effective = []
    for name, read, calls, rows in zip(("reference", "current"), tables, called, among, strict=True):
        block[name], block[f"{name}_ci"] = reasons.estimate(f"{key}.{name}", _share(read, calls, rows))
        effective.append(_effective(read, calls, rows))
    (was, cases_before), (is_now, cases_now) = effective
    groups = TwoGroups(first=is_now, first_cases=cases_now, second=was, second_cases=cases_before)
    block["difference"], block["ci"] = reasons.estimate(f"{key}.difference", miettinen_nurminen(groups))
    return RateDrift.model_validate(block)


def _share(read: CaseTable, calls: Bools, rows: Bools) -> Estimate:
    if read.patients is None:
        return clopper_pearson(int(calls[rows].sum()), int(rows.sum()))
    return clustered_proportion(calls[rows], read.patients[rows])


def _effective(read: CaseTable, calls: Bools, rows: Bools) -> tuple[float, float]:
    if read.patients is None or not rows.any():
        return int(calls[rows].sum()), int(rows.sum())
    counts = effective_counts(calls[rows], read.patients[rows])
    return counts.successes, counts.trials


def _with_truth(
    before: CaseTable, now: CaseTable, columns: Columns, watch: Watch, reasons: Reasons
) -> tuple[RateDrift | None, CusumBlock | None]:
    if columns.truth is None or columns.threshold is None:
        reasons.found |= dict.fromkeys(("sensitivity", "cusum"), "no truth was named (--truth)")
        return None, None
    diseased = [_returned(read, columns.truth) for read in (before, now)]
    called = [read.table.numbers(columns.score) >= columns.threshold for read in (before, now)]
    rate = _rate("sensitivity", (before, now), called, diseased, reasons)
    expected = watch.expected if watch.expected is not None else rate.reference
    if expected is None:
        reasons.found["cusum"] = "no sensitivity is expected: the reference has no diseased case; name --expected"
        return rate, None
    unacceptable = watch.unacceptable if watch.unacceptable is not None else expected - 0.1
    if not 0 < unacceptable < expected < 1:
        reasons.found["cusum"] = (
            f"it needs 0 < unacceptable ({unacceptable:g}) < expected ({expected:g}) < 1; "
            "name --expected and --unacceptable"
        )
        return rate, None
    if not diseased[1].any():
        reasons.found["cusum.last"] = "the current table has no diseased case whose truth has come back"
    return rate, _cusum(now, called[1], diseased[1], columns.order, (expected, unacceptable, watch.run_length))


def _returned(read: CaseTable, truth: str) -> Bools:
    """(cases,) diseased; a case whose truth has not come back is not."""
    values = read.table.optional_numbers(truth)
    for row in np.flatnonzero(~np.isnan(values) & (values != 0) & (values != 1)):
        read.table.fault(int(row), truth, "is neither 1 nor 0; leave it empty where truth has not come back")
    return np.asarray(values == 1)


def _cusum(
    now: CaseTable, called: Bools, diseased: Bools, order: str | None, levels: tuple[float, float, float]
) -> CusumBlock:
    expected, unacceptable, run_length = levels
    rows = np.flatnonzero(diseased)
    if order is not None:
        rows = rows[np.argsort(now.table.numbers(order)[rows], kind="stable")]
    limit = drift.cusum_limit(expected=expected, unacceptable=unacceptable, run_length=run_length)
    watched = drift.sensitivity_cusum(called[rows], expected=expected, unacceptable=unacceptable, limit=limit)
    lengths = [
        drift.cusum_run_length(sensitivity=level, expected=expected, unacceptable=unacceptable, limit=limit)
        for level in (expected, unacceptable)
    ]
    return CusumBlock(
        expected=expected,
        unacceptable=unacceptable,
        limit=limit,
        run_length=lengths[0],
        run_length_if_unacceptable=lengths[1],
        cases=len(rows),
        last=float(watched.path[-1]) if len(rows) else None,
        signals=tuple(now.names[rows[case]] for case in watched.signals),
    )


# what people read ----------------------------------------------------------------------------------------------------


def _print(document: DriftDocument) -> None:
    console = Console()
    console.print(f"{document.cases_reference} cases of reference, {document.cases_current} current")
    table = Shown("column", "PSI", "unmoved 95 %", "moved", "KS", "p", "new values", box=SIMPLE)
    for one in (document.score, *document.features):
        ks = ("", "") if one.kind == "category" else (number(one.ks), p_value(one.ks_p))
        psi = (number(one.psi), number(one.psi_unmoved_95))
        table.add_row(escape(one.column), *psi, one.moved, *ks, escape(", ".join(one.new_values)))
    console.print(table)
    rates = Shown("share", "reference", "current", "difference", "95 % interval", box=SIMPLE)
    for name, rate in (("flagged", document.flag_rate), ("sensitivity", document.sensitivity)):
        if rate is not None:
            rates.add_row(
                name, number(rate.reference), number(rate.current), number(rate.difference), interval(rate.ci)
            )
    if rates.row_count:
        console.print(rates)
    if (cusum := document.cusum) is not None:
        where = ", ".join(cusum.signals) or "none"
        console.print(
            f"CUSUM of sensitivity: {cusum.cases} diseased cases, limit {cusum.limit:g}, signals: {where}",
            markup=False,
            highlight=False,
        )
    told = {key: reason for key, reason in document.undefined.items() if reason != _NO_ORDER}
    print_remarks(console, document.model_copy(update={"undefined": told}))

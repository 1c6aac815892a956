"""`radnode eval proportions`: sensitivity, specificity and the like with their intervals.

From a table of calls or of scores with a threshold, or from four counts. The arithmetic is `eval.proportions`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table as Shown

from eval.case_document import SHARES, CallRates, Counts, ProportionsDocument, RuleOutRow, rates_block, rule_out_rows
from eval.case_options import BETWEEN, NUMBER, SHARE
from eval.case_table import CaseTable, read_cases
from eval.console import fail, json_option, misused
from eval.document import Reasons
from eval.printing import interval, number, print_remarks, publish
from eval.proportions import RULE_OUT_SENSITIVITIES, Rates, rates, rates_of_counts, rule_out
from eval.ranking import Bools, Floats
from eval.roc import Confusion, confusion
from eval.tables import TableError
from eval.version import version

_DIGITS = 3  # of limits, so that three intervals fit on a line
_OF_SCORES = ("threshold", "rule_out")  # keys that nothing but scores can fill
_ZOU_DONNER, _LOG, _LOG_ODDS = "Zou and Donner", "logarithm", "log odds"
_OTHER_INTERVALS = {
    "balanced_accuracy_interval": f"{_ZOU_DONNER} 2008, from Wilson limits",
    "likelihood_ratio_interval": _LOG,
    "interval_at_prevalence": _LOG_ODDS,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Columns:
    """Which column says what, and the threshold of a score."""

    truth: str
    call: str | None
    score: str | None
    threshold: float | None
    patient: str | None


@click.command(name="proportions")
@click.option("--cases", "path", type=click.Path(path_type=Path), help="Table with one row a case.")
@click.option("--truth", metavar="COL", help="Column of the truth: 1 diseased, 0 not.")
@click.option("--call", metavar="COL", help="Column of what was called: 1 positive, 0 negative.")
@click.option("--score", metavar="COL", help="Column of a score, with --threshold; gives the rule-out table too.")
@click.option("--threshold", type=NUMBER, metavar="T", help="Positive if score >= T; fixed before the cases were seen.")
@click.option("--patient", metavar="COL", help="Column of the patient, where one may have several rows.")
@click.option("--case", metavar="COL", help="Column that names a case, each once. [default: case, case_id or id]")
@click.option("--counts", type=click.IntRange(min=0), nargs=4, metavar="TP FP FN TN", help="Counts instead of a table.")
@click.option(
    "--prevalence",
    "prevalences",
    type=BETWEEN,
    multiple=True,
    metavar="P",
    help="Prevalence for which PPV and NPV are wanted too.",
)
@click.option(
    "--rule-out",
    "targets",
    type=SHARE,
    multiple=True,
    default=RULE_OUT_SENSITIVITIES,
    show_default=True,
    metavar="S",
    help="Sensitivity to be kept in the rule-out table.",
)
@json_option
def command(
    path: Path | None,
    truth: str | None,
    call: str | None,
    score: str | None,
    threshold: float | None,
    patient: str | None,
    case: str | None,
    counts: tuple[int, int, int, int] | None,
    prevalences: tuple[float, ...],
    targets: tuple[float, ...],
    json_to: str | None,
) -> None:
    """Sensitivity, specificity and what follows from them, with Clopper-Pearson, Wilson and Wald intervals."""
    if counts is not None:
        if path is not None:
            misused("give --cases or --counts, not both")
        document = _of_counts(counts, prevalences)
    elif path is None or truth is None or (call is None) == (score is None):
        misused("give --cases and --truth with either --call or --score and --threshold, or give --counts")
    elif score is not None and threshold is None:
        misused("a score needs --threshold, which was fixed before the cases were seen")
    else:
        columns = Columns(truth=truth, call=call, score=score, threshold=threshold, patient=patient)
        try:
            needed = [truth, *(name for name in (call, score) if name)]
            document = _of_table(read_cases(path, needed, case=case, patient=patient), columns, prevalences, targets)
        except TableError as error:
            fail(str(error))
    publish(document, _print, json_to)


def _of_counts(counts: tuple[int, int, int, int], prevalences: tuple[float, ...]) -> ProportionsDocument:
    tp, fp, fn, tn = counts
    reasons = Reasons()
    judged = rates_of_counts(tp, fp, fn, tn, prevalences)
    reasons.found |= dict.fromkeys(_OF_SCORES, "counts were given, not scores")
    counted = Confusion(true_positive=tp, false_positive=fp, false_negative=fn, true_negative=tn)
    settings = {
        "unit": "case: every case is its own patient",
        "interval": "Clopper-Pearson",
        **_OTHER_INTERVALS,
        "prevalences": _joined(prevalences),
    }
    return _document(judged, counted, reasons, {"settings": settings, "threshold": None, "rule_out": ()})


def _of_table(
    read: CaseTable, columns: Columns, prevalences: tuple[float, ...], targets: tuple[float, ...]
) -> ProportionsDocument:
    reasons = Reasons()
    diseased = read.table.flags(columns.truth)
    scores = None if columns.score is None else read.table.numbers(columns.score)
    called = _called(read, columns, scores)
    judged = rates(called, diseased, read.patients, prevalences)
    settings = {
        "truth": columns.truth,
        "call": columns.call,
        "score": columns.score,
        "positive_if": None if columns.score is None else "score >= threshold",
        "unit": f"patient (column {columns.patient})" if columns.patient else "case: every row is its own patient",
        "interval": "Clopper-Pearson" + (", effective number of cases" if columns.patient else ""),
        **_OTHER_INTERVALS,
        "prevalences": _joined(prevalences),
        "rule_out": None if scores is None else _joined(targets),
    }
    rows: tuple[RuleOutRow, ...] = ()
    if scores is None:
        reasons.found |= dict.fromkeys(_OF_SCORES, "calls were given, not scores")
    else:
        rows = rule_out_rows(rule_out(scores, diseased, read.patients, targets), read.names, reasons)
    return _document(
        judged,
        confusion(called, diseased),
        reasons,
        {
            "settings": settings,
            "sources": (read.table.source,),
            "notes": read.notes,
            "threshold": columns.threshold if columns.score else None,
            "rule_out": rows,
        },
        None if read.patients is None else len(np.unique(read.patients)),
    )


def _called(read: CaseTable, columns: Columns, scores: Floats | None) -> Bools:
    if scores is None:
        return read.table.flags(columns.call or "")
    return np.asarray(scores >= (columns.threshold or 0.0))


def _document(
    judged: Rates, counted: Confusion, reasons: Reasons, more: dict[str, object], patients: int | None = None
) -> ProportionsDocument:
    diseased = counted.true_positive + counted.false_negative
    others = counted.false_positive + counted.true_negative
    block = CallRates.model_validate(rates_block("rates", judged, counted, reasons))
    prevalence = diseased / (diseased + others) if diseased + others else float("nan")
    return ProportionsDocument.model_validate(
        {
            "command": "proportions",
            "radnode": version(),
            "counts": Counts(cases=diseased + others, diseased=diseased, not_diseased=others, patients=patients),
            "prevalence": reasons.number("prevalence", prevalence, "there are no cases"),
            "rates": block,
            **more,
            "undefined": reasons.found,
        }
    )


def _joined(numbers: tuple[float, ...]) -> str | None:
    return ", ".join(f"{number:g}" for number in numbers) or None


# what people read ----------------------------------------------------------------------------------------------------


def _print(document: ProportionsDocument) -> None:
    console, held = Console(), document.rates
    console.print(
        f"{document.counts.cases} cases, {document.counts.diseased} diseased; {document.settings['unit']}", markup=False
    )
    console.print(
        f"true positive {held.tp}, false positive {held.fp}, false negative {held.fn}, true negative {held.tn}"
    )
    table = Shown("figure", "value", "Clopper-Pearson", "Wilson", "Wald", box=SIMPLE)
    for name in SHARES:
        limits = (interval(getattr(held, f"{name}{kind}_ci"), _DIGITS) for kind in ("", "_wilson", "_wald"))
        table.add_row(name, number(getattr(held, name)), *limits)
    console.print(table)
    console.print(_derived_table(held))
    for row in document.rule_out:
        missed = ", ".join(row.missed) or "none"
        console.print(
            f"at sensitivity {row.sensitivity_target:g} or more {row.removed} cases ({number(row.removable)}) could "
            f"be left unread; missed: {missed}",
            markup=False,
            highlight=False,
        )
    print_remarks(console, document)


def _derived_table(held: CallRates) -> Shown:
    """Figures that are no share of the cases, each with the method of its interval."""
    table = Shown("figure", "value", "95 % interval", "method", box=SIMPLE)
    methods = {"balanced_accuracy": _ZOU_DONNER, "lr_positive": _LOG, "lr_negative": _LOG}
    for name, method in methods.items():
        limits = interval(getattr(held, f"{name}_ci"), _DIGITS)
        table.add_row(name.replace("_", " "), number(getattr(held, name)), limits, method)
    for at in held.at_prevalence:
        for name in ("ppv", "npv"):
            limits = interval(getattr(at, f"{name}_ci"), _DIGITS)
            table.add_row(f"{name} at {at.prevalence:g}", number(getattr(at, name)), limits, _LOG_ODDS)
    return table

"""`radnode eval roc`: cases told apart, from one table of truth and scores.

Reads the table and prints figures and JSON; the arithmetic is `eval.case_analysis`, the keys are `eval.case_document`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click
from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table as Shown

from eval import case_analysis
from eval.calibration import BINS
from eval.case_analysis import Cases, Method, Plan
from eval.case_document import (
    CalibrationBlock,
    DecisionCurveBlock,
    OperatingPoint,
    Paired,
    PartialAreaBlock,
    RocDocument,
    rule_out_rows,
)
from eval.case_options import BETWEEN, NUMBER, RATE, SHARE
from eval.case_table import CaseTable, read_cases
from eval.console import fail, json_option, misused
from eval.document import Interval, Reasons
from eval.intervals import RESAMPLES
from eval.printing import interval, number, p_value, print_remarks, publish
from eval.proportions import rule_out
from eval.tables import TableError
from eval.version import version

_MOST_CELLS, _FEWEST = 100_000_000, 200  # rows times resamples that are drawn unless a number is named


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """What was asked for, beside the plan."""

    path: Path
    truth: str
    score: str
    compare: str | None
    patient: str | None
    case: str | None


@click.command(name="roc")
@click.option("--cases", "path", type=click.Path(path_type=Path), required=True, help="Table with one row a case.")
@click.option("--truth", required=True, metavar="COL", help="Column of the truth: 1 diseased, 0 not.")
@click.option("--score", required=True, metavar="COL", help="Column of the score: any number, higher more suspicious.")
@click.option("--compare", metavar="COL", help="Column of another score on the same cases, for the paired test.")
@click.option("--patient", metavar="COL", help="Column of the patient: intervals and tests are then by patient.")
@click.option("--case", metavar="COL", help="Column that names a case, each once. [default: case, case_id or id]")
@click.option("--threshold", type=NUMBER, metavar="T", help="Operating point fixed beforehand: positive if score >= T.")
@click.option("--subgroup", "subgroups", multiple=True, metavar="COL", help="Column whose values are judged apart.")
@click.option(
    "--prevalence",
    "prevalences",
    type=BETWEEN,
    multiple=True,
    metavar="P",
    help="Prevalence for which PPV and NPV are wanted too; the first one corrects the decision curve.",
)
@click.option(
    "--sensitivity",
    "sensitivities",
    type=SHARE,
    multiple=True,
    metavar="S",
    help="Sensitivity that is fixed to read off specificity.",
)
@click.option(
    "--specificity",
    "specificities",
    type=SHARE,
    multiple=True,
    metavar="S",
    help="Specificity that is fixed to read off sensitivity.",
)
@click.option("--fpr", type=RATE, nargs=2, metavar="LOW HIGH", help="False positive rates of a partial area.")
@click.option(
    "--interval",
    "method",
    type=click.Choice([str(one) for one in Method]),
    default=str(Method.PLAIN),
    show_default=True,
    help="Intervals by formula (of areas DeLong, with --patient Obuchowski 1997), those of areas on the logit, or all "
    "by resampled patients.",
)
@click.option(
    "--bootstrap",
    "resamples",
    type=click.IntRange(min=0),
    help="Resamples of patients, for fixed points, partial areas and --interval bootstrap. "
    f"[default: {RESAMPLES}, fewer above 50,000 rows]",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the resamples.")
@click.option(
    "--stratified/--together",
    default=True,
    show_default=True,
    help="Resample diseased and other patients apart (prevalence by design) or together.",
)
@json_option
def command(
    path: Path,
    truth: str,
    score: str,
    compare: str | None,
    patient: str | None,
    case: str | None,
    threshold: float | None,
    subgroups: tuple[str, ...],
    prevalences: tuple[float, ...],
    sensitivities: tuple[float, ...],
    specificities: tuple[float, ...],
    fpr: tuple[float, float] | None,
    method: str,
    resamples: int | None,
    seed: int,
    stratified: bool,
    json_to: str | None,
) -> None:
    """Cases told apart: AUROC, comparison, operating point, calibration, utility, subgroups."""
    options = Options(path=path, truth=truth, score=score, compare=compare, patient=patient, case=case)
    if fpr and fpr[0] >= fpr[1]:
        misused("--fpr: the first rate must be below the second")
    try:
        needed = [truth, score, *([compare] if compare else []), *subgroups]
        read = read_cases(path, needed, case=case, patient=patient)
        cases = read.cases(truth, score, compare)
        plan = Plan(
            threshold=threshold,
            prevalences=prevalences,
            sensitivities=sensitivities,
            specificities=specificities,
            false_positive_rates=fpr,
            method=Method(method),
            resamples=_affordable(len(read.names)) if resamples is None else resamples,
            seed=seed,
            stratified=stratified,
            subgroups=read.cells(subgroups),
        )
        document = analyse(cases, plan, options, read)
    except TableError as error:
        fail(str(error))
    publish(document, _print, json_to)


def _affordable(rows: int) -> int:
    return max(min(RESAMPLES, _MOST_CELLS // rows), _FEWEST)


def analyse(cases: Cases, plan: Plan, options: Options, read: CaseTable) -> RocDocument:
    """Compute and fill every key."""
    reasons = Reasons()
    counted = case_analysis.counts(cases)
    auroc, auroc_ci = reasons.estimate("auroc", case_analysis.area(cases, plan))
    precision, precision_ci = reasons.estimate("average_precision", case_analysis.precision(cases, plan))
    groups = case_analysis.subgroups(cases, plan, reasons)
    blocks = {
        "paired": _paired(cases, plan, options, reasons),
        "operating_point": _operating_point(cases, plan, reasons),
        "fixed_points": case_analysis.fixed_points(cases, plan, reasons),
        "partial_auroc": _partial(cases, plan, reasons),
        "rule_out": rule_out_rows(rule_out(cases.scores, cases.diseased, cases.patients), read.names, reasons),
        **_probabilistic(cases, plan, options, read, reasons),
        "subgroups": groups,
        "lowest_subgroup": case_analysis.lowest(groups),
    }
    return RocDocument.model_validate(
        {
            "command": "roc",
            "radnode": version(),
            "sources": (read.table.source,),
            "settings": settings(plan, options),
            "notes": read.notes,
            "counts": counted,
            "prevalence": counted.diseased / counted.cases,
            "auroc": auroc,
            "auroc_ci": auroc_ci,
            "average_precision": precision,
            "average_precision_ci": precision_ci,
            **blocks,
            "undefined": reasons.found,
        }
    )


def settings(plan: Plan, options: Options) -> dict[str, str | int | float | bool | None]:
    """Everything that decides the numbers."""
    formula = "Obuchowski 1997" if options.patient else "DeLong 1988"
    named = {Method.PLAIN: formula, Method.LOGIT: f"{formula}, logit", Method.BOOTSTRAP: "percentile bootstrap"}
    boot = plan.method is Method.BOOTSTRAP
    return {
        "truth": options.truth,
        "score": options.score,
        "compare": options.compare,
        "unit": f"patient (column {options.patient})" if options.patient else "case: every row is its own patient",
        "auroc_interval": named[plan.method],
        "average_precision_interval": "percentile bootstrap" if boot else "influence, logit",
        "score_interval": "percentile bootstrap" if boot else "normal, over patients",
        "proportion_interval": "Clopper-Pearson" + (", effective number of cases" if options.patient else ""),
        "resamples": plan.resamples,
        "resampled": "patients, diseased and others apart" if plan.stratified else "patients, all together",
        "seed": plan.seed,
        "threshold": plan.threshold,
        "positive_if": "score >= threshold",
        "prevalences": ", ".join(f"{one:g}" for one in plan.prevalences) or None,
        "subgroup_columns": ", ".join(plan.subgroups) or None,
        "subgroup_least_diseased": case_analysis.TOO_FEW,
        "calibration_bins": BINS,
    }


def _paired(cases: Cases, plan: Plan, options: Options, reasons: Reasons) -> Paired | None:
    if options.compare is None:
        reasons.found["paired"] = "no other score was named (--compare)"
        return None
    return case_analysis.paired(cases, plan, options.compare, reasons)


def _operating_point(cases: Cases, plan: Plan, reasons: Reasons) -> OperatingPoint | None:
    if plan.threshold is None:
        reasons.found["operating_point"] = "no threshold was named (--threshold); it is fixed before the cases are seen"
        return None
    return case_analysis.operating_point(cases, plan, plan.threshold, reasons)


def _partial(cases: Cases, plan: Plan, reasons: Reasons) -> PartialAreaBlock | None:
    if plan.false_positive_rates is None:
        reasons.found["partial_auroc"] = "no false positive rates were named (--fpr)"
        return None
    return case_analysis.partial(cases, plan, *plan.false_positive_rates, reasons)


def _probabilistic(
    cases: Cases, plan: Plan, options: Options, read: CaseTable, reasons: Reasons
) -> dict[str, CalibrationBlock | DecisionCurveBlock | None]:
    """Calibration and decision curve, which need probabilities."""
    if not cases.probabilities:
        row = int(((cases.scores < 0) | (cases.scores > 1)).argmax())
        reason = (
            f"scores are not probabilities: {read.table.path.name} line {read.table.lines[row]} has "
            f"{options.score} {cases.scores[row]:g}, outside 0 to 1"
        )
        reasons.found |= {"calibration": reason, "decision_curve": reason}
        return {"calibration": None, "decision_curve": None}
    if cases.diseased.all() or not cases.diseased.any():
        reasons.found["decision_curve"] = "cases of one class only: nothing can be weighed"
        return {"calibration": case_analysis.calibration(cases, plan, reasons), "decision_curve": None}
    return {
        "calibration": case_analysis.calibration(cases, plan, reasons),
        "decision_curve": case_analysis.utility(cases, plan, reasons),
    }


# what people read ----------------------------------------------------------------------------------------------------


def _print(document: RocDocument) -> None:
    console = Console()
    counts = document.counts
    patients = "" if counts.patients is None else f" of {counts.patients} patients"
    console.print(
        f"{counts.cases} cases{patients}, {counts.diseased} diseased; {document.settings['unit']}", markup=False
    )
    table = Shown("figure", "value", "95 % interval", box=SIMPLE)
    for name, value, ci in _figures(document):
        table.add_row(escape(name), number(value), interval(ci))
    console.print(table)
    if document.subgroups:
        console.print(_subgroup_table(document))
    # the points of the decision curve are in the JSON only
    told = {key: why for key, why in document.undefined.items() if not key.startswith("decision_curve.points.")}
    print_remarks(console, document.model_copy(update={"undefined": told}))


def _figures(document: RocDocument) -> list[tuple[str, float | None, Interval]]:
    nothing: Interval = (None, None)
    rows = [
        ("AUROC", document.auroc, document.auroc_ci),
        (f"average precision at prevalence {number(document.prevalence)}", document.average_precision,
         document.average_precision_ci),
    ]  # fmt: skip
    if (paired := document.paired) is not None:
        rows += [
            (f"AUROC of {paired.compare}", paired.auroc, paired.auroc_ci),
            (f"difference (p {p_value(paired.p)})", paired.difference, paired.ci),
        ]
    if (point := document.operating_point) is not None:
        rows += [
            (f"{name.replace('_', ' ')} at {point.threshold:g}", getattr(point, name), getattr(point, f"{name}_ci"))
            for name in ("sensitivity", "specificity", "ppv", "npv", "lr_positive", "lr_negative", "balanced_accuracy")
        ]
    for fixed in document.fixed_points:
        free = "specificity" if fixed.fixed == "sensitivity" else "sensitivity"
        rows.append((f"{free} at {fixed.fixed} {fixed.at_least:g}", getattr(fixed, free), fixed.ci))
    rows += [
        (f"removable at sensitivity {row.sensitivity_target:g}, {len(row.missed)} missed", row.removable,
         row.removable_ci)
        for row in document.rule_out
    ]  # fmt: skip
    if (held := document.calibration) is not None:
        rows += [
            ("Brier score", held.brier, held.brier_ci),
            ("log loss", held.log_loss, held.log_loss_ci),
            ("calibration slope", held.slope, held.slope_ci),
            ("calibration intercept", held.intercept, held.intercept_ci),
            ("ECE, equal width", held.ece, nothing),
            ("ECE, equal counts", held.ece_adaptive, nothing),
            (f"Spiegelhalter z (p {p_value(held.spiegelhalter_p)})", held.spiegelhalter_z, nothing),
        ]
    return rows


def _subgroup_table(document: RocDocument) -> Shown:
    table = Shown("subgroup", "cases", "ill", "AUROC", "95 % interval", "sens.", "spec.", box=SIMPLE)
    for group in document.subgroups:
        cells: Sequence[str] = ("too few", "", "", "") if group.too_few else (
            number(group.auroc), interval(group.auroc_ci), number(group.sensitivity), number(group.specificity)
        )  # fmt: skip
        table.add_row(escape(f"{group.column} {group.value}"), str(group.cases), str(group.diseased), *cells)
    return table

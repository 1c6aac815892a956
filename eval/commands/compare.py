"""`radnode eval compare`: two runs over the same cases, paired, and a verdict against declared margins.

The arithmetic is `eval.comparison`; here figures get their keys, and those that are undefined their reasons.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from pathlib import Path

import click
from pydantic import Field, ValidationError
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table as Shown

from eval.comparison import (
    Compared,
    ComparedMarks,
    Disagreement,
    Pair,
    Verdict,
    compare_auroc,
    compare_calls,
    compare_marks,
    declared,
    disagreements,
    overall,
    pair,
    unanalysed,
    verdict,
)
from eval.console import fail, json_option
from eval.datasets import DatasetFile, Margins
from eval.document import Document, Interval, Part, Reasons, Source
from eval.printing import interval, number, p_value, print_remarks, publish
from eval.report.judged import Judged
from eval.runs import CASES_FILE, CaseRecord, Run, RunError, read_run
from eval.version import version

_NO_MARGINS = "no margins were declared: name them with --margins, or under [margins] of the data set's file"
_SHOWN = 20  # disagreements that the table lists; the JSON has all of them


class RunBlock(Part):
    """Which run it is."""

    run: str = Field(description="name of its folder")
    kind: str
    model: str
    model_digest: str
    dataset: str
    data_sha256: str
    judged: int = Field(description="cases whose truth is known")
    not_analysed: Mapping[str, int] = Field(description="of the compared cases, by status")


class ComparedBlock(Part):
    """A figure of both runs; difference: B less A."""

    a: float | None
    b: float | None
    difference: float | None
    ci: Interval = Field(description="two-sided 95 % interval of the difference")
    p: float | None = Field(description="two-sided, of no difference; null where the method gives none")
    cases: int
    method: str


class RateBlock(ComparedBlock):
    """Sensitivity for lesions at a rate of false marks."""

    false_marks_per_case: float


class LesionCounts(Part):
    """Lesions found at each run's own served threshold."""

    both: int
    a_only: int
    b_only: int
    neither: int
    false_marks_a: int
    false_marks_b: int


class FrocBlock(Part):
    """Lesions and marks of both runs."""

    mean: ComparedBlock = Field(description="mean sensitivity over the rates")
    at_rates: tuple[RateBlock, ...]
    at_threshold: LesionCounts


class Side(Part):
    """What a run said of a case."""

    status: str
    reason: str
    score: float | None
    threshold: float
    called: bool = Field(description="positive; a case that was not analysed counts against the run")


class DisagreementBlock(Part):
    """A case that the runs call differently, or that one did not analyse."""

    case: str
    positive: bool
    reading: str
    a: Side
    b: Side
    right: str = Field(description="a, b, both or neither")


class VerdictBlock(Part):
    """A difference against its margin."""

    figure: str
    margin: float
    verdict: Verdict | None
    because: str = Field(description="why there is none, or why it is no question of chance; else empty")


class CompareDocument(Document):
    """Result of ``radnode eval compare``."""

    a: RunBlock
    b: RunBlock
    cases: int = Field(description="judged in both runs: what is compared")
    diseased: int
    patients: int
    left_out: int = Field(description="cases that only one run judged, or whose files differ")
    auroc: ComparedBlock = Field(description="over the cases that both runs analysed")
    sensitivity: ComparedBlock
    specificity: ComparedBlock
    froc: FrocBlock | None
    disagreements: tuple[DisagreementBlock, ...] = Field(description="the furthest apart in score first")
    verdicts: tuple[VerdictBlock, ...] = Field(description="one for each declared margin")
    verdict: Verdict | None = Field(description="of all margins together: each must hold, the worst one decides")


@click.command(name="compare")
@click.argument("first", metavar="A", type=click.Path(path_type=Path, file_okay=False))
@click.argument("second", metavar="B", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--margins",
    "margins_file",
    type=click.Path(path_type=Path),
    help="Margins (TOML: auroc, sensitivity, specificity, froc; a header [margins] may stand above).  "
    "[default: [margins] of A's data set]",
)
@click.option(
    "--common", is_flag=True, help="Runs over other sets: compare the cases whose files are the same in both."
)
@click.option(
    "--bootstrap",
    "resamples",
    type=click.IntRange(min=1),
    help="Resamples of patients for the FROC difference.  [default: as A's data set says]",
)
@click.option("--seed", type=click.IntRange(min=0), help="Seed of the resamples.  [default: as A's data set says]")
@json_option
def command(
    first: Path,
    second: Path,
    margins_file: Path | None,
    common: bool,
    resamples: int | None,
    seed: int | None,
    json_to: str | None,
) -> None:
    """Hold run B against run A on the cases that both judged; differences are B less A."""
    try:
        runs = read_run(first), read_run(second)
        margins = runs[0].dataset.margins if margins_file is None else _margins(margins_file)
        found = pair(*runs, common=common)
        rules = found.rules
        document = _document(found, margins, resamples or rules.resamples, rules.seed if seed is None else seed, common)
    except RunError as error:
        fail(str(error))
    publish(document, _print, json_to)


def _margins(file: Path) -> Margins:
    """Margins of a file of their own, or under the header [margins] of any file that is laid out as a data set's is.

    Raises
    ------
    RunError
        If it cannot be read or breaks a rule; names every fault.
    """
    try:
        held = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise RunError(f"{file}: cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RunError(f"{file.name}: not valid TOML: {error}") from error
    header = ("margins",) if "margins" in held else ()
    if header and (strays := [name for name in held if name not in DatasetFile.model_fields]):
        raise RunError(f"{file.name}: {', '.join(strays)}: stands outside of [margins]; put it below that header")
    try:
        return Margins.model_validate(held["margins"] if header else held)
    except ValidationError as error:
        faults = [
            f"{'.'.join(map(str, (*header, *fault['loc']))) or 'file'}: {fault['msg']}" for fault in error.errors()
        ]
        raise RunError(f"{file.name}: {'; '.join(faults)}") from error


def _document(found: Pair, margins: Margins | None, resamples: int, seed: int, common: bool) -> CompareDocument:
    reasons = Reasons()
    marks = compare_marks(found, resamples=resamples, seed=seed)
    figures = {
        "auroc": compare_auroc(found),
        "sensitivity": compare_calls(found, diseased=True),
        "specificity": compare_calls(found, diseased=False),
        **({} if marks is None else {"froc": marks.mean}),
    }
    if marks is None:
        reasons.found["froc"] = "there are no lesions, or neither run has marks"
    verdicts = _verdicts(figures, declared(margins))
    if not verdicts:
        reasons.found["verdict"] = _NO_MARGINS
    elif any(one.verdict is None for one in verdicts):
        reasons.found["verdict"] = "a figure with a margin is undefined"
    rules = found.rules
    return CompareDocument(
        command="radnode eval compare",
        radnode=version(),
        sources=tuple(Source.of(run.folder / CASES_FILE, len(run.cases)) for run in (found.first, found.second)),
        settings={
            "unit": "patient" if found.judged[0].clustered else "case",
            "hit": str(rules.hit),
            "iou": rules.iou if rules.hit == "iou" else None,
            "false_marks_per": rules.false_marks_per,
            "resamples": resamples,
            "seed": seed,
            "stratified": rules.prevalence_by_design,
            "common": common,
            "failures": "diseased: missed; others: false positive; AUROC leaves them out",
        },
        notes=(*found.notes, *_declared_late(found, margins)),
        a=_run(found.first, found.judged[0]),
        b=_run(found.second, found.judged[1]),
        cases=len(found.diseased),
        diseased=int(found.diseased.sum()),
        patients=len(set(found.patients.tolist())),
        left_out=found.left_out,
        **{name: _block(name, figures[name], reasons) for name in ("auroc", "sensitivity", "specificity")},
        froc=None if marks is None else _froc(marks, reasons),
        disagreements=tuple(_disagreement(one, found) for one in disagreements(found)),
        verdicts=verdicts,
        verdict=overall([one.verdict for one in verdicts]),
        undefined=reasons.found,
    )


def _verdicts(figures: Mapping[str, Compared], margins: Mapping[str, float]) -> tuple[VerdictBlock, ...]:
    blocks = []
    for figure, margin in margins.items():
        said, because = (
            (None, "nothing of it to compare") if figure not in figures else verdict(figures[figure], margin)
        )
        blocks.append(VerdictBlock(figure=figure, margin=margin, verdict=said, because=because))
    return tuple(blocks)


def _declared_late(found: Pair, margins: Margins | None) -> tuple[str, ...]:
    if margins is None or not declared(margins):
        return ()
    if margins.declared_on is None:
        return ("it is not said when the margins were declared: set declared_on",)
    started = min(run.record.started for run in (found.first, found.second)).date()
    if margins.declared_on > started:
        return (f"the margins were declared on {margins.declared_on}, after a run was made: no test of a hypothesis",)
    return ()


def _run(run: Run, judged: Judged) -> RunBlock:
    record = run.record
    return RunBlock(
        run=run.folder.name,
        kind=record.kind,
        model=record.model,
        model_digest=record.model_digest,
        dataset=record.dataset,
        data_sha256=record.data_sha256,
        judged=len(run.judged),
        not_analysed={str(status): count for status, count in unanalysed(judged).items()},
    )


def _block(key: str, compared: Compared, reasons: Reasons) -> ComparedBlock:
    difference, ci = reasons.estimate(f"{key}.difference", compared.difference)
    if math.isnan(compared.p):
        reasons.found[f"{key}.p"] = _no_p(compared)
    return ComparedBlock(
        a=reasons.number(f"{key}.a", compared.first, "there are no cases of a kind"),
        b=reasons.number(f"{key}.b", compared.second, "there are no cases of a kind"),
        difference=difference,
        ci=ci,
        p=None if math.isnan(compared.p) else compared.p,
        cases=compared.cases,
        method=compared.method,
    )


def _no_p(compared: Compared) -> str:
    if "resamples" in compared.method:
        return "resampling gives an interval, no test"
    return compared.difference.reason or "the two never differ: there is nothing to test"


def _froc(marks: ComparedMarks, reasons: Reasons) -> FrocBlock:
    at_rates = []
    for index, (rate, compared) in enumerate(marks.at_rates):
        block = _block(f"froc.at_rates.{index}", compared, reasons)
        at_rates.append(RateBlock(false_marks_per_case=rate, **block.model_dump()))
    counts = marks.lesions
    return FrocBlock(
        mean=_block("froc.mean", marks.mean, reasons),
        at_rates=tuple(at_rates),
        at_threshold=LesionCounts(
            both=counts.both,
            a_only=counts.second_only,
            b_only=counts.first_only,
            neither=counts.neither,
            false_marks_a=marks.false_marks[0],
            false_marks_b=marks.false_marks[1],
        ),
    )


def _disagreement(one: Disagreement, found: Pair) -> DisagreementBlock:
    names = {"first": "a", "second": "b"}
    return DisagreementBlock(
        case=one.case,
        positive=one.positive,
        reading=one.reading,
        a=_side(one.first, one.first_called, found.first),
        b=_side(one.second, one.second_called, found.second),
        right=names.get(one.right, one.right),
    )


def _side(case: CaseRecord, called: bool, run: Run) -> Side:
    return Side(
        status=str(case.status), reason=case.reason, score=case.score, threshold=run.threshold(case), called=called
    )


def _print(document: CompareDocument) -> None:
    console = Console()
    console.print(
        f"A {document.a.run}: {document.a.model} on {document.a.dataset} ({document.a.kind})", highlight=False
    )
    console.print(
        f"B {document.b.run}: {document.b.model} on {document.b.dataset} ({document.b.kind})", highlight=False
    )
    console.print(
        f"{document.cases} cases of {document.patients} patients, {document.diseased} diseased; B less A:",
        highlight=False,
    )
    table = Shown(box=SIMPLE)
    for column in ("figure", "A", "B", "difference", "95 %", "p", "cases"):
        table.add_column(column, no_wrap=True)
    rows = {"AUROC": document.auroc, "sensitivity": document.sensitivity, "specificity": document.specificity}
    if document.froc is not None:
        rows["lesions, mean"] = document.froc.mean
        rows |= {f"  at {one.false_marks_per_case:g} false": one for one in document.froc.at_rates}
    for name, one in rows.items():
        cells = (number(one.a, 3), number(one.b, 3), number(one.difference, 3), interval(one.ci, 3))
        table.add_row(name, *cells, "" if one.p is None else p_value(one.p), str(one.cases))
    console.print(table)
    for method in dict.fromkeys(one.method for one in rows.values()):
        names = [name for name, one in rows.items() if one.method == method and not name.startswith(" ")]
        console.print(f"{', '.join(names)}: {method}", style="dim", highlight=False)
    _print_cases(console, document)
    for verdict_block in document.verdicts:
        said = verdict_block.verdict or "undefined"
        why = f" ({verdict_block.because})" if verdict_block.because else ""
        console.print(f"{verdict_block.figure}, margin {verdict_block.margin:g}: {said}{why}", highlight=False)
    if document.verdict is not None:
        console.print(f"verdict: {document.verdict}", style="bold", highlight=False)
    shown = {key: why for key, why in document.undefined.items() if not key.endswith(".p")}
    print_remarks(console, document.model_copy(update={"undefined": shown}))


def _print_cases(console: Console, document: CompareDocument) -> None:
    if document.froc is not None:
        at = document.froc.at_threshold
        console.print(
            f"lesions at the served thresholds: {at.both} found by both, {at.a_only} by A alone, {at.b_only} by B "
            f"alone, {at.neither} by neither; false marks: A {at.false_marks_a}, B {at.false_marks_b}",
            highlight=False,
        )
    if not document.disagreements:
        console.print("The runs call every case alike.")
        return
    table = Shown(box=SIMPLE, title=f"{len(document.disagreements)} cases on which the runs part")
    for column in ("case", "truth", "A", "B", "right"):
        table.add_column(column, no_wrap=column in ("case", "right"))
    for one in document.disagreements[:_SHOWN]:
        truth = f"{'positive' if one.positive else 'negative'} ({one.reading})" if one.reading else str(one.positive)
        table.add_row(one.case, truth, _said(one.a), _said(one.b), one.right)
    console.print(table)
    if len(document.disagreements) > _SHOWN:
        console.print(f"and {len(document.disagreements) - _SHOWN} more, in the JSON", highlight=False)


def _said(side: Side) -> str:
    called = "positive" if side.called else "negative"
    return f"{side.status}" if side.score is None else f"{called} ({side.score:.2f})"

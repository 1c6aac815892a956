"""`cases.csv`: one row a case of the run, judged or not, with what was said and what became of it.

Called by `eval.report.build`; the twin names the digest of the file. Patients are numbered in the order in which they
appear, so that clustering can be repeated without the pseudonyms of the set.
"""

from __future__ import annotations

import csv
import io

from eval.report.case_results import Counted
from eval.report.gallery import called_outcome
from eval.report.marks import Matched
from eval.runs import CaseRecord, Run

_HEAD = (
    "case", "patient_number", "fold", "status", "reason", "excluded", "reading", "positive", "score", "threshold",
    "outcome", "lesions", "lesions_found", "false_marks",
)  # fmt: skip


def case_table(run: Run, counted: Counted, matched: Matched | None) -> str:
    """The table as text: separated by commas, LF, UTF-8."""
    judged = counted.judged
    outcomes = called_outcome(judged.called, judged.diseased, judged.analysed)
    outcome_of = {case.case: outcome for case, outcome in zip(judged.records, outcomes, strict=True)}
    number_of: dict[str, int] = {}
    traits = sorted({trait for case in run.cases for trait in case.traits})
    names = sorted({name for case in run.cases for name in case.numbers})
    places = _places(run, counted, matched)
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow([*_HEAD, *traits, *names])
    for case in run.cases:
        number = number_of.setdefault(case.patient, len(number_of) + 1)
        row = _row(case, number, run.threshold(case), outcome_of.get(case.case, ""), places.get(case.case))
        row += [case.traits.get(trait, "") for trait in traits]
        writer.writerow(row + [_number(case.numbers.get(name)) for name in names])
    return lines.getvalue()


def _row(
    case: CaseRecord, number: int, threshold: float, outcome: str, places: tuple[int, int, int] | None
) -> list[object]:
    fold = "" if case.fold is None else case.fold
    positive = "" if case.positive is None else int(case.positive)
    said = [case.case, number, fold, case.status.value, case.reason, case.excluded, case.reading, positive]
    return [*said, _number(case.score), _number(threshold), outcome, *(places or ("", "", ""))]


def _number(value: float | None) -> str:
    return "" if value is None else repr(float(value))


def _places(run: Run, counted: Counted, matched: Matched | None) -> dict[str, tuple[int, int, int]]:
    """Case to lesions, lesions found and false marks at the served threshold."""
    if matched is None:
        return {}
    cases = counted.judged.records
    found: dict[str, list[int]] = {case.case: [0, 0, 0] for case in cases}
    for (row, _), score in zip(matched.lesions, matched.detections.found.tolist(), strict=True):
        found[cases[row].case][0] += 1
        found[cases[row].case][1] += score >= (run.mark_threshold(cases[row]) or 0.0)
    for row, mark in matched.false_marks:
        found[cases[row].case][2] += mark.score >= (run.mark_threshold(cases[row]) or 0.0)
    return {case: (lesions, hits, wrong) for case, (lesions, hits, wrong) in found.items()}

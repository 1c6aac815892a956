"""Who is in the data: the flow of cases with every exclusion, counts of traits, spreads of numbers.

Called by `eval.report.build`. Nothing here compares the model with the truth.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from eval.report.judged import patients_of
from eval.report.sections import Count, Excluded, Failure, Flow, Spread
from eval.runs import CaseRecord, Run, Status

UNKNOWN = "unknown"
FOLD = "fold"
_MOST_VALUES = 24  # of a trait; one with more names cases, it does not group them


def flow(run: Run) -> Flow:
    """Every case of the run, and where it left the count."""
    judged = run.judged
    analysed = [case for case in judged if case.status is Status.ANALYSED]
    failed = [case for case in judged if case.status is not Status.ANALYSED]
    return Flow(
        cases=len(run.cases),
        patients=patients_of(run.cases),
        not_judged=_excluded([case for case in run.cases if not case.judged], _why_not_judged),
        judged=len(judged),
        judged_patients=patients_of(judged),
        positive=_positive(judged),
        negative=len(judged) - _positive(judged),
        not_analysed=_excluded(failed, lambda case: (case.status.value, _short(case.reason))),
        analysed=len(analysed),
        analysed_positive=_positive(analysed),
        analysed_negative=len(analysed) - _positive(analysed),
    )


def _why_not_judged(case: CaseRecord) -> tuple[str, str]:
    if case.status is Status.IN_TRAINING:
        return "in_training", ""
    return "not_judged", case.excluded or (f"truth unknown: {case.reading}" if case.reading else "truth unknown")


def _short(reason: str) -> str:
    """The name of a refusal without what was found in the one case."""
    return reason.partition(":")[0].strip()


def _excluded(cases: Sequence[CaseRecord], why: Callable[[CaseRecord], tuple[str, str]]) -> tuple[Excluded, ...]:
    groups: dict[tuple[str, str], list[CaseRecord]] = defaultdict(list)
    for case in cases:
        groups[why(case)].append(case)
    return tuple(
        Excluded(step=step, reason=reason, cases=len(found), patients=patients_of(found), positive=_positive(found))
        for (step, reason), found in sorted(groups.items())
    )


def _positive(cases: Sequence[CaseRecord]) -> int:
    return sum(bool(case.positive) for case in cases)


def traits_of(run: Run) -> tuple[str, ...]:
    """Traits by which figures are repeated: those the data set names, else all that group the cases; and the fold."""
    judged = run.judged
    named = run.dataset.subgroups or tuple(sorted({trait for case in judged for trait in case.traits}))
    kept = [trait for trait in named if 1 < len({value_of(case, trait) for case in judged}) <= _MOST_VALUES]
    folds = len({case.fold for case in judged}) > 1
    return (*kept, FOLD) if folds else tuple(kept)


def natural(value: str) -> tuple[float, str]:
    """Key that puts bands of numbers in their order (below 40, 40 to 59, 60 and over) and all else by name."""
    found = re.search(r"\d+(?:\.\d+)?", value)
    if found is None:
        return (math.inf, value)
    return (float(found[0]) - 0.5 * value.startswith("below"), value)


def value_of(case: CaseRecord, trait: str) -> str:
    """The case's value of a trait, `UNKNOWN` where it has none."""
    if trait == FOLD:
        return UNKNOWN if case.fold is None else str(case.fold)
    return case.traits.get(trait, "") or UNKNOWN


def counts(cases: Sequence[CaseRecord], traits: Iterable[str]) -> tuple[Count, ...]:
    """Judged cases by each value of each trait."""
    return tuple(
        one for trait in traits for one in _counts(cases, trait, {case.case: value_of(case, trait) for case in cases})
    )


def readings(cases: Sequence[CaseRecord]) -> tuple[Count, ...]:
    """Judged cases by group of the reference standard."""
    return _counts(cases, "reading", {case.case: case.reading or UNKNOWN for case in cases})


def _counts(cases: Sequence[CaseRecord], trait: str, value_by_case: Mapping[str, str]) -> tuple[Count, ...]:
    groups: dict[str, list[CaseRecord]] = defaultdict(list)
    for case in cases:
        groups[value_by_case[case.case]].append(case)
    return tuple(
        Count(trait=trait, value=value, cases=len(found), patients=patients_of(found), positive=_positive(found))
        for value, found in sorted(groups.items(), key=lambda group: natural(group[0]))
    )


def spreads(cases: Sequence[CaseRecord]) -> tuple[Spread, ...]:
    """Numbers of cases, and sizes of lesions to be found."""
    names = sorted({name for case in cases for name in case.numbers})
    made = [_spread(name, "cases", [case.numbers.get(name) for case in cases]) for name in names]
    lesions = [lesion for case in cases for lesion in case.lesions if not lesion.excluded]
    for name, sizes in (
        ("diameter_mm", [lesion.diameter_mm for lesion in lesions]),
        ("radius_px", [lesion.radius for lesion in lesions]),
        ("box_area_px", [_area(lesion.box) if lesion.radius is None else None for lesion in lesions]),
    ):
        if any(size is not None for size in sizes):
            made.append(_spread(name, "lesions", sizes))
    return tuple(made)


def _area(box: tuple[float, float, float, float] | None) -> float | None:
    return None if box is None else (box[2] - box[0]) * (box[3] - box[1])


def _spread(name: str, of: str, values: Sequence[float | None]) -> Spread:
    known = np.asarray([value for value in values if value is not None], dtype=np.float64)
    minimum, quartile_1, median, quartile_3, maximum = np.percentile(known, [0, 25, 50, 75, 100]).tolist()
    return Spread(
        name=name,
        of=of,
        n=known.size,
        missing=len(values) - known.size,
        minimum=minimum,
        quartile_1=quartile_1,
        median=median,
        quartile_3=quartile_3,
        maximum=maximum,
    )


def failures(run: Run) -> tuple[Failure, ...]:
    """Cases that were run and not analysed, judged or not, by reason."""
    groups: dict[tuple[str, str], int] = defaultdict(int)
    for case in run.cases:
        if case.status in {Status.REFUSED, Status.FAILED}:
            groups[case.status.value, _short(case.reason)] += 1
    return tuple(Failure(status=status, reason=reason, cases=n) for (status, reason), n in sorted(groups.items()))


def seconds(run: Run) -> dict[str, float]:
    """Percentiles of the time a case took, seconds; empty where none was measured."""
    known = np.asarray([case.seconds for case in run.cases if case.seconds is not None], dtype=np.float64)
    if not known.size:
        return {}
    values = np.percentile(known, [50, 95, 99, 100]).tolist()
    return dict(zip(("p50", "p95", "p99", "max"), values, strict=True))

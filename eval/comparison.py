"""Two runs over the same cases: paired differences, the cases on which they part, and a verdict against margins.

Called by ``radnode eval compare``. Differences are the second run less the first. The patient is the unit throughout.
Cases that a run did not analyse are held against it: diseased ones as missed, others as false positives.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from eval.clustered import clustered_areas
from eval.datasets import Margins, Rules
from eval.delong import Areas, delong
from eval.froc import SensitivityAtRates, on_normal_images
from eval.intervals import Estimate
from eval.paired import PairedCounts, clustered_difference, mcnemar, tango
from eval.ranking import Bools, Floats
from eval.report.judged import Judged
from eval.report.marks import Matched, match_cases
from eval.resampling import patient_weights, percentile_estimate
from eval.runs import CaseRecord, Run, RunError, Status, read_manifest

ALIKE = "the two say the same of every case"


class Verdict(StrEnum):
    """What a difference says against a margin; the interval is two-sided 95 %, so each end errs in 2.5 %."""

    SUPERIOR = "superior"  # the whole interval lies above 0
    NON_INFERIOR = "non_inferior"  # the whole interval lies above minus the margin
    INCONCLUSIVE = "inconclusive"  # minus the margin lies in the interval: more cases are needed
    INFERIOR = "inferior"  # the whole interval lies below minus the margin


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Pair:
    """Two runs, each with the cases that both judged, in the same order."""

    first: Run
    second: Run
    judged: tuple[Judged, Judged]
    left_out: int
    notes: tuple[str, ...]

    @property
    def patients(self) -> NDArray[np.str_]:
        """(cases,) whose case it is."""
        return self.judged[0].patients

    @property
    def diseased(self) -> Bools:
        """(cases,) truth."""
        return self.judged[0].diseased

    @property
    def rules(self) -> Rules:
        """How marks are held against lesions: as the first run's data set says."""
        return self.first.dataset.rules


@dataclass(frozen=True, kw_only=True, slots=True)
class Compared:
    """One figure of both runs, and the second less the first with its interval and test of none.

    `same` says that the two runs are alike in all that the figure is made of: then the difference is 0 without doubt.
    """

    first: float
    second: float
    difference: Estimate
    p: float
    cases: int
    method: str
    same: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Disagreement:
    """A case that one run calls positive and the other does not, or that one of them did not analyse."""

    case: str
    positive: bool
    reading: str
    first: CaseRecord
    second: CaseRecord
    first_called: bool
    second_called: bool

    @property
    def right(self) -> str:
        """Which run was right: first, second, both or neither."""
        rights = (self.first_called == self.positive, self.second_called == self.positive)
        return {(True, False): "first", (False, True): "second", (True, True): "both", (False, False): "neither"}[
            rights
        ]


def pair(first: Run, second: Run, *, common: bool = False) -> Pair:
    """The cases that both runs judged.

    Parameters
    ----------
    common : bool
        Runs over other sets are compared on the cases whose files are the same in both; otherwise they are refused.

    Raises
    ------
    RunError
        If the files differ without `common`, no case is left, or a case has another truth in the second run.
    """
    same_data = first.record.data_sha256 == second.record.data_sha256
    if not same_data and not common:
        raise RunError(
            f"{first.folder.name} and {second.folder.name} are of other files (their data digests differ); with "
            "--common the cases whose files are the same in both are compared"
        )
    names = [case.case for case in first.judged]
    alike = set(names) if same_data else _alike(first, second)
    others = {case.case: case for case in second.judged}
    kept = [name for name in names if name in others and name in alike]
    if not kept:
        raise RunError(
            f"{first.folder.name} and {second.folder.name} judged no case in common: nothing can be paired; a case is "
            "judged where the data set tells its truth"
        )
    mine = {case.case: case for case in first.judged}
    _check_truth([(mine[name], others[name]) for name in kept])
    judged = _among(first, kept), _among(second, kept)
    left_out = len({*mine, *others}) - len(kept)
    return Pair(first=first, second=second, judged=judged, left_out=left_out, notes=_notes(first, second, left_out))


def _alike(first: Run, second: Run) -> set[str]:
    """Cases whose input files have the same digests in both manifests, whatever the files are called."""
    manifests = [read_manifest((run.folder / "manifest.csv").read_text(encoding="utf-8")) for run in (first, second)]
    digests = [{case: sorted(sha for _, sha in inputs) for case, inputs in one.items()} for one in manifests]
    return {case for case, found in digests[0].items() if digests[1].get(case) == found}


def _check_truth(pairs: Sequence[tuple[CaseRecord, CaseRecord]]) -> None:
    changed = [
        one.case
        for one, other in pairs
        if (one.positive, one.patient, one.lesions) != (other.positive, other.patient, other.lesions)
    ]
    if changed:
        raise RunError(
            f"{len(changed)} case(s) have another truth or patient in the second run, the first is {changed[0]}; "
            "make both runs with the same DATASET.toml"
        )


def _among(run: Run, names: Sequence[str]) -> Judged:
    """The judged cases of a run in the order of `names`."""
    by_name = {case.case: case for case in run.judged}
    return Judged.of(replace(run, cases=tuple(by_name[name] for name in names)))


def _notes(first: Run, second: Run, left_out: int) -> tuple[str, ...]:
    notes = []
    if left_out:
        notes.append(f"{left_out} case(s) that only one run judged, or whose files differ, are left out")
    if first.record.dataset_digest != second.record.dataset_digest:
        notes.append("the runs were made with other versions of the data set's file; rules are those of the first")
    if (kinds := {first.record.kind, second.record.kind}) == {"served", "cross-validation"}:
        notes.append(f"one run is of served weights, the other a {max(kinds - {'served'})}: no like with like")
    if first.record.model_digest == second.record.model_digest:
        notes.append("both runs are of the same model")
    return tuple(notes)


def compare_auroc(pair: Pair) -> Compared:
    """AUROC over the cases that both analysed: DeLong, or Obuchowski (1997) where a patient has several cases."""
    first, second = pair.judged
    both = first.analysed & second.analysed
    scores, diseased, patients = [second.scores[both], first.scores[both]], pair.diseased[both], pair.patients[both]
    clustered = len(np.unique(patients)) < len(patients)
    areas: Areas = clustered_areas(scores, diseased, patients) if clustered else delong(scores, diseased)
    tested = areas.difference(0, 1)
    return Compared(
        first=float(areas.values[1]),
        second=float(areas.values[0]),
        difference=tested.estimate,
        p=tested.p,
        cases=int(both.sum()),
        method="Obuchowski 1997, patients as units" if clustered else "DeLong 1988, paired",
        same=bool(np.array_equal(scores[0], scores[1])),
    )


def compare_calls(pair: Pair, *, diseased: bool) -> Compared:
    """Sensitivity or specificity at each run's own thresholds: Tango and McNemar, or by patient (Obuchowski 1998)."""
    among = pair.diseased == diseased
    right = [one.called[among] == diseased for one in pair.judged]
    patients = pair.patients[among]
    first, second = (float(each.mean()) if len(each) else math.nan for each in right)
    if len(np.unique(patients)) < len(patients):
        tested = clustered_difference(right[1], right[0], patients).tested
        estimate, p, method = tested.estimate, tested.p, "Obuchowski 1998, patients as units"
    else:
        counts = PairedCounts.of(right[1], right[0])
        estimate, p, method = tango(counts), mcnemar(counts).exact, "Tango 1998, exact McNemar"
    same = bool(len(patients)) and bool((right[0] == right[1]).all())
    return Compared(first=first, second=second, difference=estimate, p=p, cases=len(patients), method=method, same=same)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ComparedMarks:
    """Lesions found by both runs: the curve, and what is found at the served thresholds.

    Attributes
    ----------
    mean : Compared
        Mean sensitivity over the rates of the data set's rules.
    at_rates : tuple of (rate, Compared)
    lesions : PairedCounts
        Lesions found at the thresholds; the second run is the first of the counts.
    false_marks : (int, int)
        At the thresholds, of the first and the second run.
    """

    mean: Compared
    at_rates: tuple[tuple[float, Compared], ...]
    lesions: PairedCounts
    false_marks: tuple[int, int]


def compare_marks(pair: Pair, *, resamples: int, seed: int) -> ComparedMarks | None:
    """FROC of both runs, patients resampled in the same draws; None where there are no lesions or marks to compare.

    Raises
    ------
    RunError
        If a place of a run has no coordinates of the kind that the hit rule needs.
    """
    try:
        matched = [
            match_cases(judged.records, run.record.label, pair.rules)
            for judged, run in zip(pair.judged, (pair.first, pair.second), strict=True)
        ]
    except ValueError as error:
        raise RunError(f"marks cannot be held against lesions: {error}") from error
    if not matched[0].detections.found.size or not any(one.marks for one in matched):
        return None
    curves = [_curve(one, pair.rules) for one in matched]
    values = [curve.of_all() for curve in curves]
    drawn = _drawn(curves, pair, resamples, seed)
    one, other = (each.detections for each in matched)
    same = _alike_scores(one.found, other.found) and _alike_scores(one.false_marks, other.false_marks)

    def compared(first: float, second: float, draws: Floats) -> Compared:
        return Compared(
            first=first,
            second=second,
            difference=percentile_estimate(second - first, draws),
            p=math.nan,
            cases=len(pair.diseased),
            method=f"{resamples} resamples of patients, seed {seed}",
            same=same,
        )

    differences = drawn[1] - drawn[0]
    found = [_found(one, judged, run) for one, judged, run in zip(matched, pair.judged, _runs(pair), strict=True)]
    return ComparedMarks(
        mean=compared(float(values[0].mean()), float(values[1].mean()), differences.mean(axis=1)),
        at_rates=tuple(
            (rate, compared(float(values[0][index]), float(values[1][index]), differences[:, index]))
            for index, rate in enumerate(pair.rules.rates)
        ),
        lesions=PairedCounts.of(found[1][0], found[0][0]),
        false_marks=(found[0][1], found[1][1]),
    )


def _alike_scores(one: Floats, other: Floats) -> bool:
    return bool(np.array_equal(np.sort(one), np.sort(other)))


def _runs(pair: Pair) -> tuple[Run, Run]:
    return pair.first, pair.second


def _curve(matched: Matched, rules: Rules) -> SensitivityAtRates:
    asked = matched.detections
    if rules.false_marks_per == "negative_case":
        asked = on_normal_images(asked)
    return SensitivityAtRates(asked, rules.rates)


def _drawn(curves: Sequence[SensitivityAtRates], pair: Pair, resamples: int, seed: int) -> Floats:
    """(runs, resamples, rates) sensitivities under the same draws of patients."""
    blocks = patient_weights(
        pair.patients,
        pair.diseased,
        resamples=resamples,
        seed=seed,
        stratified=pair.rules.prevalence_by_design,
    )
    times = [row for block in blocks for row in block.astype(np.int64)]
    return np.asarray([[curve.of(row) for row in times] for curve in curves])


def _found(matched: Matched, judged: Judged, run: Run) -> tuple[Bools, int]:
    """Which lesions are found at the threshold of their case, and how many false marks there are."""
    served = [run.mark_threshold(case) for case in judged.records]
    thresholds = np.asarray([math.inf if value is None else value for value in served])
    rows = np.asarray([row for row, _ in matched.lesions], dtype=np.intp)
    wrong = matched.detections.false_marks >= thresholds[matched.detections.false_in]
    return np.asarray(matched.detections.found >= thresholds[rows]), int(wrong.sum())


def disagreements(pair: Pair) -> tuple[Disagreement, ...]:
    """Cases that the runs call differently or that one of them did not analyse; the furthest apart in score first."""
    first, second = pair.judged
    differ = (first.called != second.called) | (first.analysed != second.analysed)
    found = [
        Disagreement(
            case=first.records[row].case,
            positive=bool(pair.diseased[row]),
            reading=first.records[row].reading,
            first=first.records[row],
            second=second.records[row],
            first_called=bool(first.called[row]),
            second_called=bool(second.called[row]),
        )
        for row in np.flatnonzero(differ)
    ]
    return tuple(sorted(found, key=lambda one: (-_apart(one), one.case)))


def _apart(one: Disagreement) -> float:
    scores = (one.first.score, one.second.score)
    return math.inf if None in scores else abs((scores[0] or 0.0) - (scores[1] or 0.0))


def verdict(compared: Compared, margin: float) -> tuple[Verdict | None, str]:
    """What a difference says against a margin, and why where it says nothing or is no question of chance."""
    if compared.same and not math.isnan(compared.difference.value):
        return Verdict.NON_INFERIOR, ALIKE
    low, high = compared.difference.low, compared.difference.high
    if math.isnan(low) or math.isnan(high):
        return None, compared.difference.reason or "there is no interval"
    if low > 0:
        return Verdict.SUPERIOR, ""
    if low > -margin:
        return Verdict.NON_INFERIOR, ""
    return (Verdict.INFERIOR if high < -margin else Verdict.INCONCLUSIVE), ""


def overall(found: Sequence[Verdict | None]) -> Verdict | None:
    """The verdict of a family in which every margin must hold: no error is shared out, the worst one decides."""
    if not found or None in found:
        return None
    if all(one is Verdict.SUPERIOR for one in found):
        return Verdict.SUPERIOR
    for worst in (Verdict.INFERIOR, Verdict.INCONCLUSIVE):
        if worst in found:
            return worst
    return Verdict.NON_INFERIOR


def declared(margins: Margins | None) -> Mapping[str, float]:
    """The margins that were declared, by figure."""
    if margins is None:
        return {}
    named = {name: getattr(margins, name) for name in ("auroc", "sensitivity", "specificity", "froc")}
    return {name: float(value) for name, value in named.items() if value is not None}


def unanalysed(judged: Judged) -> dict[Status, int]:
    """How many judged cases were not analysed, by their status."""
    found = [case.status for case, known in zip(judged.records, judged.analysed, strict=True) if not known]
    return {status: found.count(status) for status in Status if status in found}

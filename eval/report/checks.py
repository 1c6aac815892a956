"""What a report must be before it is printed: whole, with intervals, adding up, and of the thresholds that are served.

Called by `eval.report.build`, before anything is computed and after everything is. Every fault is named at once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from pydantic import BaseModel

from eval.report.faults import ReportError
from eval.report.inputs import Inputs
from eval.report.sections import Group, Sections
from eval.report.twin import Twin
from eval.report.values import Value
from eval.report.verdict import unknown_figures
from eval.runs import CaseRecord, Run, Status
from models.card import Label, ModelCard


def before(given: Inputs) -> None:
    """Hold what was given against what a report needs.

    Raises
    ------
    ReportError
        With every fault.
    """
    faults = [*_missing_parts(given), *_identity(given), *_thresholds(given.run)]
    faults += [*_folds(given.run), *_fold_thresholds(given.run)]
    if not given.run.judged:
        faults.append("section 9, results: the truth of no case is known, so there is nothing to judge")
    if faults:
        raise ReportError(faults)


def _missing_parts(given: Inputs) -> Iterator[str]:
    for part in ("plan", "passport"):
        try:
            found = getattr(given, part)
        except ReportError as error:
            yield from error.faults
            continue
        if part == "plan" and (unknown := unknown_figures(found)):
            yield (
                f"section 4, objectives: no report has the figure {', '.join(unknown)}; a hypothesis is judged on "
                "auroc, sensitivity, specificity or froc"
            )


def _identity(given: Inputs) -> Iterator[str]:
    """The run is of exactly the model that is installed, whose thresholds are those of the run."""
    run, served = given.run, given.served
    if run.record.model_digest != run.card.model_digest:
        yield "section 1, identity: card.toml of the run is not the card that the run names; repeat the run"
    label = run.record.label
    ours, theirs = _label(run.card, label), _label(served, label)
    if ours is None:
        yield f"section 7, scoring: the card has no label {label}"
    elif theirs is None:
        yield f"section 7, scoring: the served card of {served.reference} has no label {label}"
    else:
        yield from _changed(ours, theirs, served.reference)
    if run.record.model_digest != served.model_digest:
        yield (
            f"section 1, identity: the run is of another state of {served.reference} (model digest "
            f"{run.record.model_digest[:12]}, served {served.model_digest[:12]}); evaluate what is served"
        )


def _label(card: ModelCard, key: str) -> Label | None:
    return next((label for label in card.labels if label.key == key), None)


def _changed(ours: Label, theirs: Label, served: str) -> Iterator[str]:
    for name in ("picture", "lesion"):
        one, other = getattr(ours, name), getattr(theirs, name)
        if (one and one.threshold) != (other and other.threshold):
            yield (
                f"section 7, scoring: the {name} threshold of {ours.key} was {one and one.threshold} in the run and is "
                f"{other and other.threshold} in the served card of {served}: repeat the run with what is served"
            )


def _thresholds(run: Run) -> Iterator[str]:
    """Served weights are judged at the card's thresholds; only folds have their own."""
    label = _label(run.card, run.record.label)
    if label is None:
        return
    marks = None if label.lesion is None else label.lesion.threshold
    served = (label.picture or label.operating_point).threshold, marks
    other = [case.case for case in run.judged if not _served(case, served)]
    if run.record.kind == "served" and other:
        yield (
            f"section 7, scoring: {len(other)} case(s) were compared with another threshold than the served card's, "
            f"the first is {other[0]}"
        )


def _served(case: CaseRecord, served: tuple[float, float | None]) -> bool:
    return case.threshold in {None, served[0]} and case.mark_threshold in {None, served[1]}


def _folds(run: Run) -> Iterator[str]:
    if run.record.kind != "cross-validation":
        return
    folds: dict[str, set[int | None]] = defaultdict(set)
    for case in run.judged:
        folds[case.patient].add(case.fold)
    if any(case.fold is None for case in run.judged):
        yield "section 5, data: a judged case of the cross-validation has no fold: it was scored by weights that saw it"
    if parted := sum(len(found) > 1 for found in folds.values()):
        yield f"section 5, data: {parted} patient(s) lie in two folds: training and test are not separate"


def _fold_thresholds(run: Run) -> Iterator[str]:
    """One threshold of cases and one of marks a fold, whatever the truth, and those that the run recorded."""
    if run.record.kind != "cross-validation":
        return
    used: dict[int, set[tuple[float, float | None]]] = defaultdict(set)
    for case in run.cases:
        if case.fold is not None and case.status is Status.ANALYSED:
            used[case.fold].add((run.threshold(case), run.mark_threshold(case)))
    recorded = {fold: (one.threshold, one.mark_threshold) for fold, one in run.record.folds.items()}
    for fold, found in sorted(used.items()):
        if len(found) > 1:
            told = "; ".join(sorted(map(_two, found)))
            yield f"section 7, scoring: fold {fold} holds cases that were compared with different thresholds: {told}"
        elif recorded and fold not in recorded:
            yield f"section 7, scoring: fold {fold} is not among the folds that the run recorded"
        elif recorded and found != {recorded[fold]}:
            yield (
                f"section 7, scoring: fold {fold} was compared with other thresholds ({_two(*found)}) than the run "
                f"recorded ({_two(recorded[fold])})"
            )


def _two(thresholds: tuple[float, float | None]) -> str:
    of_cases, of_marks = thresholds
    return f"{of_cases:g} of cases and {'none' if of_marks is None else f'{of_marks:g}'} of marks"


def after(twin: Twin) -> None:
    """Hold the finished twin against the rules of a report.

    Raises
    ------
    ReportError
        With every fault.
    """
    sections = twin.sections
    faults = [*_intervals(sections), *_sums(sections), *_empty(sections), *_counts(sections)]
    if faults:
        raise ReportError(faults)


def _intervals(sections: Sections) -> Iterator[str]:
    for number, name in enumerate(Sections.model_fields, start=1):
        for place, value in values(getattr(sections, name), name):
            if not value.whole and not value.reason:
                yield f"section {number}: {place} has no interval, and no reason why there is none"


def values(given: object, place: str) -> Iterator[tuple[str, Value]]:
    """Every figure with an interval in a part of the twin, and where it stands."""
    if isinstance(given, Value):
        yield place, given
    elif isinstance(given, BaseModel):
        for name in type(given).model_fields:
            yield from values(getattr(given, name), f"{place}.{name}")
    elif isinstance(given, dict):
        for name, one in given.items():
            yield from values(one, f"{place}.{name}")
    elif isinstance(given, tuple):
        for index, one in enumerate(given):
            yield from values(one, f"{place}.{index}")


def _sums(sections: Sections) -> Iterator[str]:
    """The values of a trait hold every judged case once."""
    flow = sections.data.flow
    whole = (flow.judged, flow.positive, flow.negative)
    traits: dict[str, list[Group]] = defaultdict(list)
    for group in sections.subgroups.groups:
        traits[group.trait].append(group)
    for trait, found in traits.items():
        total = tuple(sum(getattr(group, name) for group in found) for name in ("cases", "positive", "negative"))
        if total != whole:
            yield f"section 10, subgroups: the groups of {trait} add up to {total}, the judged cases are {whole}"


def _counts(sections: Sections) -> Iterator[str]:
    """The flow loses no case, and the calls at the threshold are those of the flow."""
    flow = sections.data.flow
    left = sum(one.cases for one in flow.not_judged)
    if flow.cases != flow.judged + left:
        yield f"section 5, data: {flow.cases} cases less {left} not judged are not the {flow.judged} judged"
    if flow.judged != flow.analysed + sum(one.cases for one in flow.not_analysed):
        yield "section 5, data: judged cases are not the sum of those analysed and those not analysed"
    if sections.results.cases is not None:
        calls = sections.results.cases.operating
        counted = calls.true_positive + calls.false_negative, calls.true_negative + calls.false_positive
        if counted != (flow.positive, flow.negative):
            yield f"section 9, results: calls are of {counted} cases, the flow has {(flow.positive, flow.negative)}"


def _empty(sections: Sections) -> Iterator[str]:
    """A section that says nothing is missing."""
    if sections.results.cases is None and sections.results.lesions is None:
        yield "section 9, results: no case has a score and there is no lesion to find"
    if not sections.limits.model:
        yield "section 14, limits: the card names none"
    if not sections.standard.items:
        yield "section 6, reference standard: nothing is said of its readers and method"
    if not sections.annexes.claim or not sections.annexes.facts:
        yield "section 17, annexes: a checklist or the model facts are missing"

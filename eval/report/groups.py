"""Figures within subgroups, each with n and interval, and the lowest group of each figure by name.

Called by `eval.report.build`. A group with fewer than ten positive cases is "too few": counted, not judged.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from eval.proportions import Proportion
from eval.report.breakdown import TOO_FEW
from eval.report.case_results import Counted
from eval.report.describe import natural, traits_of, value_of
from eval.report.judged import Judged, patients_of
from eval.report.lesion_results import found_at_threshold
from eval.report.marks import Matched
from eval.report.sections import Group, Lowest
from eval.report.shares import area, sensitivity, shares, specificity
from eval.report.values import Value
from eval.runs import Run

_FIGURES = ("auroc", "sensitivity", "specificity", "found")


def groups(counted: Counted, matched: Matched | None, run: Run) -> tuple[Group, ...]:
    """Every value of every trait, unknown ones too, so that they add up to the whole."""
    return tuple(_groups(counted, matched, run))


def _groups(counted: Counted, matched: Matched | None, run: Run) -> Iterator[Group]:
    judged = counted.judged
    for trait in traits_of(run):
        values = np.asarray([value_of(case, trait) for case in judged.records])
        for value in sorted(set(values.tolist()), key=natural):
            rows = values == value
            found = _found(counted, matched, run, rows) if matched is not None else None
            yield _group(trait, value, judged.among(rows), found)


def _group(trait: str, value: str, judged: Judged, found: Value | None) -> Group:
    positive = int(judged.diseased.sum())
    too_few = positive < TOO_FEW
    return Group(
        trait=trait,
        value=value,
        cases=len(judged),
        patients=patients_of(judged.records),
        positive=positive,
        negative=len(judged) - positive,
        too_few=too_few,
        auroc=None if too_few else area(judged),
        sensitivity=None if too_few else sensitivity(judged),
        specificity=None if too_few else specificity(judged),
        found=None if too_few else found,
    )


def _found(
    counted: Counted, matched: Matched, run: Run, rows: np.ndarray[tuple[int], np.dtype[np.bool_]]
) -> Value | None:
    inside = np.asarray([bool(rows[row]) for row, _ in matched.lesions], dtype=np.bool_)
    if not inside.any():
        return None
    owners = np.asarray([counted.judged.records[row].patient for row, _ in matched.lesions], dtype=np.str_)
    hits = found_at_threshold(matched, run, counted)
    return shares(Proportion.of(hits[inside], owners[inside]))[0]


def lowest(found: tuple[Group, ...]) -> tuple[Lowest, ...]:
    """Of each figure the judged group in which it is lowest; folds are no groups of patients and take no part."""
    return tuple(one for figure in _FIGURES if (one := _lowest(figure, found)) is not None)


def _lowest(figure: str, found: tuple[Group, ...]) -> Lowest | None:
    known = [
        (result.value, group, result)
        for group in found
        if group.trait != "fold" and (result := getattr(group, figure)) is not None and result.value is not None
    ]
    if not known:
        return None
    _, group, result = min(known, key=lambda one: one[0])
    return Lowest(figure=figure, trait=group.trait, value=group.value, result=result)

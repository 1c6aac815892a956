"""Reads what is there and what readers marked, for `radnode eval jafroc`.

Every fault names file, line and remedy. What the figures of merit need of it is `eval.jafroc.Truth` and
`eval.jafroc.Reading`; arithmetic is not done here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eval.jafroc import UNMARKED, Reading, Truth
from eval.mrmc_document import natural_order
from eval.tables import Table, TableError, read_table

WEIGHT_TOLERANCE = 0.005  # weights rounded to two digits may miss 1 by so much; they are then scaled to add to 1
_TRUTH = ("case", "diseased", "lesion", "weight")
_MARKS = ("modality", "reader", "case", "mark", "lesion", "rating")
_NO_LESION = frozenset({"", "0"})
_UNKNOWN = frozenset({"nan", "na", "n/a", "null", "none"})


class MarkKind(StrEnum):
    """What a mark points at."""

    NL = "NL"  # no lesion
    LL = "LL"  # the lesion named beside it
    LL_IL = "LL_IL"  # a diseased case of an LROC study, localised wrongly


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TruthTable:
    """Cases and their lesions.

    Attributes
    ----------
    cases : dict of str to int
        Position of each case.
    lesions : dict of (case, lesion) to int
        Position of each lesion.
    """

    table: Table
    truth: Truth
    cases: dict[str, int]
    lesions: dict[tuple[str, str], int]
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class MarkTable:
    """What was marked, for every modality and reader."""

    table: Table
    modalities: list[str]
    readers: list[str]
    readings: dict[tuple[str, str], Reading]
    notes: tuple[str, ...]


def read_truth(path: Path) -> TruthTable:
    """Read cases (one row), and one row for each lesion of a diseased case.

    Raises
    ------
    TableError
        If a lesion is there twice, a diseased case has none, a normal case has one, a case is called both, or the
        weights of a case do not add to 1 within `WEIGHT_TOLERANCE`. Weights left empty for a whole case are equal.
    """
    table = read_table(path, _TRUTH)
    if not len(table):
        raise TableError(f"{path.name}: there is no case below the header; give one row for each case or lesion")
    table.unique("case", "lesion")
    names, diseased, lesion_cells = table.text("case").tolist(), table.flags("diseased"), table.columns["lesion"]
    cases = {name: index for index, name in enumerate(dict.fromkeys(names))}
    is_diseased = np.zeros(len(cases), dtype=np.bool_)
    is_diseased[[cases[name] for name in names]] = diseased
    lesions: dict[tuple[str, str], int] = {}
    for row, (name, lesion) in enumerate(zip(names, lesion_cells, strict=True)):
        _check_truth_row(table, row, ill=bool(diseased[row]), case_is_ill=bool(is_diseased[cases[name]]), cases=names)
        if diseased[row]:
            lesions[name, lesion] = row
    rows = list(lesions.values())
    weight, notes = _weights(table, rows)
    return TruthTable(
        table=table,
        truth=Truth(
            diseased=is_diseased,
            lesion_case=np.asarray([cases[names[row]] for row in rows], dtype=np.intp),
            weight=weight,
        ),
        cases=cases,
        lesions={key: index for index, key in enumerate(lesions)},
        notes=(*table.notes, *notes),
    )


def read_marks(path: Path, truth: TruthTable) -> MarkTable:
    """Read marks. A rating of -inf, or none, is no mark; a row like that still says that the reader read the case.

    Raises
    ------
    TableError
        If a mark names an unknown case, lesion or kind, a lesion where there is none, or a rating that is no number;
        or if a reader has no row at all under one of the modalities.
    """
    table = read_table(path, _MARKS)
    if not len(table):
        raise TableError(f"{path.name}: there is no mark below the header; a reader who marked nothing needs one row")
    rating = _ratings(table)
    modality, reader = table.text("modality").tolist(), table.text("reader").tolist()
    modalities, readers = natural_order(modality), natural_order(reader)
    _check_balance(table, modalities, readers, set(zip(modality, reader, strict=True)))
    found = {(one, other): _empty(truth) for one in modalities for other in readers}
    twice = 0
    for row in range(len(table)):
        twice += _place(table, row, float(rating[row]), truth, found[modality[row], reader[row]])
    notes = (f"{path.name}: {twice} lesions were marked more than once; the highest rating counts",) if twice else ()
    return MarkTable(table=table, modalities=modalities, readers=readers, readings=found, notes=(*table.notes, *notes))


def _check_truth_row(table: Table, row: int, *, ill: bool, case_is_ill: bool, cases: list[str]) -> None:
    lesion = table.columns["lesion"][row]
    if ill != case_is_ill:
        last = len(cases) - 1 - cases[::-1].index(cases[row])
        table.fault(row, "diseased", f"is not that of the same case on line {table.lines[last]}; make them agree")
    if ill and lesion in _NO_LESION:
        table.fault(row, "lesion", "names no lesion, but the case is diseased; name it, for example 1")
    if not ill and lesion not in _NO_LESION:
        table.fault(row, "lesion", "is named, but the case is not diseased; leave it empty, or set diseased to 1")


def _weights(table: Table, rows: list[int]) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """(lesions,) weights that add to 1 in each case, from the rows of the lesions."""
    given = table.optional_numbers("weight")[rows] if rows else np.zeros(0)
    names = np.asarray([table.columns["case"][row] for row in rows], dtype=np.str_)
    weight, equal = given.copy(), 0
    for name in dict.fromkeys(names.tolist()):
        own = names == name
        if np.isnan(given[own]).all():
            weight[own] = 1 / own.sum()
            equal += 1
            continue
        first = rows[int(np.flatnonzero(own)[0])]
        total = float(given[own].sum())
        if np.isnan(total) or (given[own] < 0).any() or abs(total - 1) > WEIGHT_TOLERANCE:
            _refuse_weights(table, name, first, given[own])
        weight[own] = given[own] / total
    return weight, (f"{table.path.name}: {equal} diseased cases have no weights; equal ones are used",) * bool(equal)


def _refuse_weights(table: Table, name: str, row: int, given: NDArray[np.float64]) -> None:
    if np.isnan(given).any():
        what = "are given for some of its lesions only"
    elif (given < 0).any():
        what = "include one below 0"
    else:
        what = f"add to {given.sum():g}, not to 1 (within {WEIGHT_TOLERANCE:g})"
    raise TableError(
        f"{table.path.name}: line {table.lines[row]}: the weights of case {name} {what}; "
        "correct them, or leave all of them empty for equal ones"
    )


def _ratings(table: Table) -> NDArray[np.float64]:
    """(rows,) ratings, `UNMARKED` where there is none."""
    for row, cell in enumerate(table.columns["rating"]):
        if cell.lower() in _UNKNOWN:
            table.fault(row, "rating", "is no rating; leave it empty or write -inf where nothing was marked")
    rating = table.optional_numbers("rating")
    if np.isposinf(rating).any():
        table.fault(int(np.flatnonzero(np.isposinf(rating))[0]), "rating", "is infinite; give a number")
    return np.where(np.isnan(rating), UNMARKED, rating)


def _check_balance(table: Table, modalities: list[str], readers: list[str], seen: set[tuple[str, str]]) -> None:
    missing = [(one, other) for one in modalities for other in readers if (one, other) not in seen]
    if missing:
        modality, reader = missing[0]
        line = table.lines[list(table.columns["reader"]).index(reader)]
        raise TableError(
            f"{table.path.name}: reader {reader} (first on line {line}) has no row under modality {modality}; if he "
            "read it and marked nothing, add one NL row with rating -inf, else leave the reader or the modality out"
        )


def _empty(truth: TruthTable) -> Reading:
    return Reading(
        false_mark=np.full(len(truth.cases), UNMARKED, dtype=np.float64),
        lesion=np.full(len(truth.lesions), UNMARKED, dtype=np.float64),
    )


def _place(table: Table, row: int, rating: float, truth: TruthTable, reading: Reading) -> bool:
    """Enter one mark; True where its lesion had been marked before."""
    name = table.columns["case"][row]
    if name not in truth.cases:
        table.fault(row, "case", f"is not in {truth.table.path.name}; add the case there or leave the mark out")
    case = truth.cases[name]
    kind = _kind(table, row, rating)
    if kind is MarkKind.LL:
        lesion = _lesion(table, row, truth, diseased=bool(truth.truth.diseased[case]))
        before = reading.lesion[lesion]
        reading.lesion[lesion] = max(before, rating)
        return bool(math.isfinite(before) and math.isfinite(rating))
    if kind is MarkKind.LL_IL and not truth.truth.diseased[case]:
        table.fault(row, "mark", "is for diseased cases, and this case is not diseased; write NL")
    reading.false_mark[case] = max(reading.false_mark[case], rating)
    return False


def _kind(table: Table, row: int, rating: float) -> MarkKind:
    cell = table.columns["mark"][row]
    if not cell and rating == UNMARKED:
        return MarkKind.NL
    try:
        return MarkKind(cell.upper())
    except ValueError:
        table.fault(row, "mark", "is no kind of mark; write NL, LL or, in an LROC study, LL_IL")
        raise


def _lesion(table: Table, row: int, truth: TruthTable, *, diseased: bool) -> int:
    if not diseased:
        table.fault(row, "mark", "marks a lesion, but the case is not diseased; write NL, or correct the truth")
    name, lesion = table.columns["case"][row], table.columns["lesion"][row]
    if (name, lesion) in truth.lesions:
        return truth.lesions[name, lesion]
    known = [one for case, one in truth.lesions if case == name]
    if lesion or len(known) > 1:
        table.fault(row, "lesion", f"is no lesion of its case, which has {', '.join(known)}; name one, or write NL")
    return truth.lesions[name, known[0]]  # the only one need not be named

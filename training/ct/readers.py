"""The readers of CT sets by the name a recipe calls them, and what is checked of every set alike.

Called by `training.ct.train`. A new layout is a new module with a function from a folder to cases, and one line here.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from training.ct import boxes_csv, decathlon, lidc, luna16
from training.ct.cases import CtCase
from training.ct.recipe import CtData
from training.errors import DataError


def read_set(data: CtData, folder: Path) -> tuple[CtCase, ...]:
    """All cases of a data folder.

    Raises
    ------
    DataError
        If a folder or table is missing, a row cannot be understood, there are no scans, or two have one name.
    """
    cases: list[CtCase] = []
    for part in data.folders:
        place = folder / part
        if not place.is_dir():
            raise DataError(f"{place} is not a folder; docs/howto/ct.md tells where the sets come from")
        cases += _cases(data, place)
    names = Counter(case.name for case in cases)
    if twice := [name for name, count in names.items() if count > 1]:
        raise DataError(f"{len(twice)} scan(s) are named twice, the first is {twice[0]}")
    if not cases:
        raise DataError(f"{folder} holds no scan")
    return tuple(cases)


def _cases(data: CtData, place: Path) -> tuple[CtCase, ...]:
    if data.reader == "luna16":
        return luna16.read_cases(place, data.table)
    if data.reader == "lidc-xml":
        return lidc.read_cases(place, data.table)
    if data.reader == "decathlon":
        return decathlon.read_cases(place, data.table, box_mode=data.box_mode, world=data.world)
    return boxes_csv.read_cases(place, data.table)

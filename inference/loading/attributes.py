"""Single attributes out of a data set, tolerant of wrong value representations, never of wrong values.

Called by `loading.header`, `loading.parameters` and `loading.pixels`. A value that cannot be read as what it should
be is taken as absent by the optional readers and refused by the required ones.
"""

from __future__ import annotations

import math
import re

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from inference.refusals import Reason, Refused

_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
_UID_LENGTH = 64


def values(data_set: Dataset, keyword: str) -> list[object]:
    """All values of an attribute as a list, empty when it is absent or empty."""
    value = data_set.get(keyword)
    if value is None or value == "":
        return []
    if isinstance(value, MultiValue | list | tuple):
        return list(value)
    if isinstance(value, str) and "\\" in value:  # multi-valued text under a representation that does not split
        return list(value.split("\\"))
    return [value]


def numbers(data_set: Dataset, keyword: str) -> tuple[float, ...]:
    """All values as finite floats; empty when absent or when any of them is no number."""
    found = []
    for value in values(data_set, keyword):
        try:
            found.append(float(str(value).strip(" \0")))
        except ValueError:
            return ()
    return tuple(found) if all(map(math.isfinite, found)) else ()


def number(data_set: Dataset, keyword: str) -> float | None:
    """First value as a finite float, None when there is none."""
    return next(iter(numbers(data_set, keyword)), None)


def integer(data_set: Dataset, keyword: str) -> int | None:
    """First value as a whole number, None when there is none."""
    value = number(data_set, keyword)
    return int(value) if value is not None and value == int(value) else None


def required_integer(data_set: Dataset, keyword: str) -> int:
    """As `integer`.

    Raises
    ------
    Refused
        UNREADABLE when the attribute is absent or no whole number.
    """
    value = integer(data_set, keyword)
    if value is None:
        raise Refused(Reason.UNREADABLE, f"{keyword} is missing or no whole number")
    return value


def text(data_set: Dataset, keyword: str) -> str:
    """First value as text without padding; empty when absent."""
    found = values(data_set, keyword)
    return str(found[0]).strip(" \0") if found else ""


def code_text(data_set: Dataset, keyword: str) -> str:
    """First value of a coded string, upper case."""
    return text(data_set, keyword).upper()


def uid(data_set: Dataset, keyword: str) -> str:
    """A required UID.

    Raises
    ------
    Refused
        UNREADABLE when it is absent or not of the form of PS3.5 9.1.
    """
    value = optional_uid(data_set, keyword)
    if not value:
        raise Refused(Reason.UNREADABLE, f"{keyword} is missing or not a UID")
    return value


def optional_uid(data_set: Dataset, keyword: str) -> str:
    """A UID, empty when it is absent or malformed."""
    value = text(data_set, keyword)
    return value if len(value) <= _UID_LENGTH and _UID.fullmatch(value) else ""


def items(data_set: Dataset, keyword: str) -> list[Dataset]:
    """Items of a sequence, empty when it is absent or no sequence."""
    value = data_set.get(keyword)
    if value is None or isinstance(value, str | bytes):
        return []
    try:
        return [item for item in value if isinstance(item, Dataset)]
    except TypeError:
        return []

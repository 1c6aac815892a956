"""SNILS, the number of a person in the Russian insurance register: read, checked by its sum, and written.

Used by the writers of documents and by the reconciliation of patients. The number itself never stands in an error: the
caller adds the name of the field that held it.
"""

from __future__ import annotations

import re
from typing import Final

OID: Final = "1.2.643.100.3"

_SHAPE: Final = re.compile(r"[0-9]{3}[- ]?[0-9]{3}[- ]?[0-9]{3}[- ]?[0-9]{2}", re.ASCII)
_LAST_WITHOUT_SUM: Final = 1_001_998  # numbers up to it were given out before there was a sum


class SnilsError(ValueError):
    """The text is no SNILS: not eleven digits, or its sum does not fit. The message never contains it."""


def parse(text: str) -> str:
    """The eleven digits of a SNILS written in any of its usual forms.

    Parameters
    ----------
    text : str
        ``112-233-445 95``, ``112-233-445-95`` or ``11223344595``; white space around it does not matter.

    Returns
    -------
    str
        Eleven digits without separators.

    Raises
    ------
    SnilsError
        If it has another shape or its check sum is wrong.
    """
    stripped = text.strip()
    if not _SHAPE.fullmatch(stripped):
        raise SnilsError("not a SNILS: eleven digits are expected, as 000-000-000 00")
    digits = re.sub(r"[- ]", "", stripped)
    if not verify(digits):
        raise SnilsError("not a SNILS: its check sum is wrong")
    return digits


def verify(digits: str) -> bool:
    """Whether eleven digits are a SNILS: the last two are the sum of the first nine.

    Each of the nine digits is weighed by its place from the right (9 to 1); of the sum the remainder by 101 is taken,
    and 100 counts as 0. Numbers up to 001-001-998 bear no sum.
    """
    if len(digits) != 11 or not (digits.isascii() and digits.isdigit()):  # noqa: PLR2004
        return False
    number, given = digits[:9], int(digits[9:])
    if int(number) == 0:
        return False
    if int(number) <= _LAST_WITHOUT_SUM:
        return True
    total = sum(int(digit) * weight for digit, weight in zip(number, range(9, 0, -1), strict=True))
    return total % 101 % 100 == given


def formatted(digits: str) -> str:
    """Eleven digits as people write them: ``112-233-445 95``."""
    return f"{digits[:3]}-{digits[3:6]}-{digits[6:9]} {digits[9:]}"

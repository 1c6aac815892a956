"""Reads a table that people send: any common separator and encoding, and a message with file, line and remedy.

Called by the subcommands of ``radnode eval``. A cell that is no number where one is needed, a missing column, a row
with too many cells and a doubled key all end the reading; what was guessed (separator, encoding, decimal comma) is a
note that the result carries.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from eval.document import Source

_SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
_EMPTY = frozenset({"", "na", "n/a", "nan", "null", "none", "-"})
_TRUE, _FALSE = frozenset({"1", "1.0", "true", "yes"}), frozenset({"0", "0.0", "false", "no"})
_CYRILLIC, _BEYOND_DOUBT = re.compile("[\u0400-\u04ff]"), 3
_SHOWN = 40  # characters of a faulty cell that a message repeats


class _Rows(Protocol):
    """What `csv.reader` gives; its type has no public name."""

    line_num: int

    def __iter__(self) -> Iterator[list[str]]: ...

    def __next__(self) -> list[str]: ...


class TableError(Exception):
    """A table that cannot be used; the message names file, line and remedy."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """The rows of one file.

    Attributes
    ----------
    path : Path
    columns : mapping
        Column name to its cells, one a row, surrounding blanks removed.
    lines : sequence of int
        Line of the file on which each row begins, counted from 1.
    notes : tuple of str
        What was guessed while reading.
    """

    path: Path
    columns: Mapping[str, Sequence[str]]
    lines: Sequence[int]
    decimal_comma: bool = False
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.lines)

    def __contains__(self, column: str) -> bool:
        return column in self.columns

    @property
    def source(self) -> Source:
        """Name and digest of the file, for the document."""
        return Source.of(self.path, len(self))

    def text(self, column: str) -> NDArray[np.str_]:
        """(rows,) cells of a column that must not be empty."""
        remedy = "is empty; fill it in or leave the row out"
        cells = [cell or self.fault(row, column, remedy) for row, cell in enumerate(self._cells(column))]
        return np.asarray(cells, dtype=np.str_)

    def optional_text(self, column: str) -> NDArray[np.str_]:
        """(rows,) cells of a column in which cells may be empty."""
        return np.asarray(list(self._cells(column)), dtype=np.str_)

    def numbers(self, column: str, *, infinite: bool = False) -> NDArray[np.float64]:
        """(rows,) finite numbers; with `infinite` also inf and -inf, never NaN."""
        cells = self._cells(column)
        try:
            found = np.asarray([_float(cell) for cell in cells], dtype=np.float64)
        except ValueError:
            found = np.asarray([self._number(row, column, cell) for row, cell in enumerate(cells)], dtype=np.float64)
        wrong = np.isnan(found) if infinite else ~np.isfinite(found)
        if wrong.any():
            self.fault(int(np.flatnonzero(wrong)[0]), column, "is no finite number; leave the row out or give a number")
        return found

    def optional_numbers(self, column: str) -> NDArray[np.float64]:
        """(rows,) numbers, NaN where the cell is empty or says that nothing is known (NA, NaN, null)."""
        cells = self._cells(column)
        known = [
            math.nan if cell.lower() in _EMPTY else self._number(row, column, cell) for row, cell in enumerate(cells)
        ]
        return np.asarray(known, dtype=np.float64)

    def flags(self, column: str) -> NDArray[np.bool_]:
        """(rows,) truth: 1 or 0, true or false, yes or no."""
        cells = self._cells(column)
        said = {cell: cell.lower() in _TRUE for cell in set(cells)}
        if unknown := {cell for cell in said if cell.lower() not in _TRUE | _FALSE}:
            first = next(row for row, cell in enumerate(cells) if cell in unknown)
            self.fault(first, column, "is neither 1 nor 0; write 1 where it is true, else 0")
        return np.asarray([said[cell] for cell in cells], dtype=np.bool_)

    def unique(self, *columns: str, remedy: str = "keep one row for each") -> None:
        """Refuse two rows with the same cells in `columns`; the message ends with `remedy`."""
        keys = list(zip(*(self._cells(column) for column in columns), strict=True))
        if len(set(keys)) == len(keys):
            return
        counts = Counter(keys)
        first = next(row for row, key in enumerate(keys) if counts[key] > 1)
        rows = [str(self.lines[row]) for row, key in enumerate(keys) if key == keys[first]]
        shown = ", ".join(f"{column} {_short(cell)}" for column, cell in zip(columns, keys[first], strict=True))
        say = "both say" if len(rows) == 2 else "all say"  # noqa: PLR2004 - both are two
        keys_doubled = sum(count > 1 for count in counts.values())
        raise TableError(
            f"{self.path.name}: lines {' and '.join(rows[:3])} {say} {shown}; {remedy}"
            + (f" ({keys_doubled} such keys)" if keys_doubled > 1 else "")
        )

    def fault(self, row: int, column: str, what: str) -> str:
        """Raise a TableError about one cell: file, line, column, cell and `what` is wrong with it."""
        cell = self.columns[column][row]
        raise TableError(f"{self.path.name}: line {self.lines[row]}: {column} '{_short(cell)}' {what}")

    def _cells(self, column: str) -> Sequence[str]:
        if column not in self.columns:
            raise TableError(
                f"{self.path.name}: there is no column '{column}'; "
                f"its header has {', '.join(self.columns) or 'nothing'}"
            )
        return self.columns[column]

    def _number(self, row: int, column: str, cell: str) -> float:
        try:
            return _float(cell.replace(",", ".") if self.decimal_comma else cell)
        except ValueError:
            hint = "is no number; give one or leave the row out"
            if "," in cell:
                hint = "is no number; write decimals with a point, or separate columns with semicolons"
            self.fault(row, column, hint)
            raise AssertionError from None


def read_table(path: Path, needed: Sequence[str], *, header: Sequence[str] | None = None) -> Table:
    """Read a table of separated values with a header.

    Parameters
    ----------
    path : Path
        UTF-8 (with or without mark) or Windows-1251; separated by comma, semicolon, tab or bar.
    needed : sequence of str
        Columns that must be there; their names are compared as they are written.
    header : sequence of str, optional
        Names of the columns of a file that has no header; by default the first line is the header.

    Raises
    ------
    TableError
        If the file cannot be read, has no rows of the header's width, or lacks a column. A file with a header and no
        rows is no fault.
    """
    text, notes = _decoded(path)
    first = next(iter(text.splitlines()), "")
    separator = _separator(path, first, needed) if header is None else _most(first)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    try:
        names = [name.strip() for name in (next(rows, []) if header is None else header)]
        return _table(path, rows, names, separator, (*notes, *_separator_note(path, separator)), needed)
    except csv.Error as error:
        raise TableError(f"{path.name}: line {rows.line_num}: {error}") from error


def _table(
    path: Path, rows: _Rows, names: Sequence[str], separator: str, notes: tuple[str, ...], needed: Sequence[str]
) -> Table:
    if doubled := [name for name, count in Counter(names).items() if count > 1]:
        raise TableError(f"{path.name}: line 1: the column '{doubled[0]}' is there twice; rename one")
    missing = [name for name in needed if name not in names]
    if missing:
        raise TableError(
            f"{path.name}: line 1: no column {' or '.join(map(repr, missing))}; "
            f"found {', '.join(map(repr, names)) or 'nothing'}"
        )
    cells: list[list[str]] = []
    lines: list[int] = []
    before = rows.line_num
    for row in rows:
        begins, before = before + 1, rows.line_num
        if not "".join(row).strip():
            continue
        if len(row) != len(names):
            raise TableError(_width_fault(path, begins, row, len(names), separator))
        cells.append(row)
        lines.append(begins)
    columns = [[cell.strip() for cell in column] for column in zip(*cells, strict=True)] or [[] for _ in names]
    return Table(
        path=path,
        columns=dict(zip(names, columns, strict=True)),
        lines=lines,
        decimal_comma=separator != ",",
        notes=notes,
    )


def _width_fault(path: Path, line: int, row: Sequence[str], width: int, separator: str) -> str:
    others = [name for mark, name in _SEPARATORS.items() if mark != separator and any(mark in cell for cell in row)]
    hint = f"this line seems to be separated by {others[0]}" if others else "quote cells that hold the separator"
    return f"{path.name}: line {line}: {len(row)} cells where the header has {width}; {hint}"


def _decoded(path: Path) -> tuple[str, tuple[str, ...]]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise TableError(f"{path}: cannot be read: {error.strerror}") from error
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return _as(path, data, "utf-16"), (f"{path.name}: read as UTF-16",)
    if b"\0" in data[:4096]:
        raise TableError(f"{path.name}: this is no text; save the table as CSV in UTF-8")
    try:
        return data.decode("utf-8-sig"), ()
    except UnicodeDecodeError:
        _refuse_mixed(path, data)
        return _as(path, data, "cp1251"), (f"{path.name}: read as Windows-1251, it is not UTF-8",)


def _refuse_mixed(path: Path, data: bytes) -> None:
    """Refuse a file in which some lines are UTF-8 and others are not: one of the two would be garbled."""
    other: dict[bool, int] = {}
    for number, line in enumerate(data.splitlines(), start=1):
        if not line.isascii():
            other.setdefault(_is_utf8(line), number)
    if len(other) == 2:  # noqa: PLR2004 - both kinds
        raise TableError(
            f"{path.name}: line {other[True]} is UTF-8, line {other[False]} is not; save the whole file as UTF-8"
        )


def _is_utf8(line: bytes) -> bool:
    """Whether a line is UTF-8 beyond doubt: a pair of Windows-1251 letters can be one of UTF-8, three Cyrillic not."""
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return len(_CYRILLIC.findall(text)) >= _BEYOND_DOUBT


def _as(path: Path, data: bytes, encoding: str) -> str:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise TableError(
            f"{path.name}: neither UTF-8 nor Windows-1251 (byte {error.start}); save it as UTF-8"
        ) from error


def _most(line: str) -> str:
    return max(_SEPARATORS, key=lambda mark: (line.count(mark), mark == ","))


def _separator(path: Path, header: str, needed: Sequence[str]) -> str:
    """The separator under which the header has most of the needed columns."""
    if not header.strip():
        raise TableError(f"{path.name}: line 1 is empty; the first line must name the columns")
    fits: Callable[[str], int] = lambda mark: len(  # noqa: E731 - a key of one expression
        {name.strip().strip('"') for name in header.split(mark)} & set(needed)
    )
    return max(_SEPARATORS, key=lambda mark: (fits(mark), header.count(mark), mark == ","))


def _separator_note(path: Path, separator: str) -> tuple[str, ...]:
    return () if separator == "," else (f"{path.name}: columns are separated by {_SEPARATORS[separator]}",)


def _float(cell: str) -> float:
    """A number as tables write it: what Python's own spelling allows beyond that (1_000) is none."""
    if "_" in cell:
        raise ValueError(cell)
    return float(cell)


def _short(cell: str) -> str:
    return cell if len(cell) <= _SHOWN else cell[: _SHOWN - 1] + "…"

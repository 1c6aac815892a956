"""Tables as people send them: what a csv writer writes is read back, and a fault names file, line and remedy."""

from __future__ import annotations

import codecs
import csv
import hashlib
import io
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from eval.tables import Table, TableError, read_table

CELL = st.text(
    st.characters(codec="cp1251", exclude_characters="\r\n\0\x1a", exclude_categories=("Cc", "Zl", "Zp")), max_size=12
).map(str.strip)
NAMES = ("case", "truth", "оценка, %")
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "cp1251")


def read(folder: Path, text: str | bytes, needed: tuple[str, ...] = ("a",), name: str = "table.csv") -> Table:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
    return read_table(path, needed)


def three_cyrillic_letters_of_utf_8(line: bytes) -> bool:
    """What Windows-1251 can hardly be, though it may: Р and С before signs, again and again."""
    return sum("\u0400" <= letter <= "\u04ff" for letter in line.decode("utf-8", errors="ignore")) >= 3


def test_a_pair_of_letters_that_could_be_utf_8_is_read_in_the_encoding_of_the_rest(tmp_path: Path) -> None:
    table = read(tmp_path, "a,имя\nВ¤,1\nда,2\n".encode("cp1251"))
    assert table.text("a").tolist() == ["В¤", "да"]


@given(
    rows=st.lists(st.tuples(CELL, CELL, CELL).filter(any), min_size=1, max_size=12),
    separator=st.sampled_from(",;\t|"),
    encoding=st.sampled_from(ENCODINGS),
    ending=st.sampled_from(["\n", "\r\n"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_a_csv_writer_writes_reads_back(
    tmp_path: Path, rows: list[tuple[str, str, str]], separator: str, encoding: str, ending: str, quoting: int
) -> None:
    stream = io.StringIO()
    writer = csv.writer(stream, delimiter=separator, lineterminator=ending, quoting=quoting)
    writer.writerow(NAMES)
    writer.writerows(rows)
    data = stream.getvalue().encode(encoding)
    assume(encoding != "cp1251" or not any(three_cyrillic_letters_of_utf_8(line) for line in data.splitlines()))
    table = read(tmp_path, data, NAMES)
    assert len(table) == len(rows)
    for place, name in enumerate(NAMES):
        assert table.optional_text(name).tolist() == [row[place] for row in rows]
    assert list(table.lines) == list(range(2, len(rows) + 2))


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=20), st.booleans())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_numbers_read_back_with_decimal_points_and_with_decimal_commas(
    tmp_path: Path, numbers: list[float], comma: bool
) -> None:
    cells = [repr(number).replace(".", ",") if comma else repr(number) for number in numbers]
    table = read(tmp_path, "a;b\n" + "".join(f"{cell};x\n" for cell in cells))
    assert table.numbers("a").tolist() == numbers


def test_a_cell_with_line_breaks_counts_its_lines(tmp_path: Path) -> None:
    table = read(tmp_path, 'a,b\n"one\ntwo",1\nthree,2\n')
    assert list(table.lines) == [2, 4]
    assert table.text("a").tolist() == ["one\ntwo", "three"]


def test_blank_lines_are_no_rows_and_a_header_alone_is_an_empty_table(tmp_path: Path) -> None:
    assert len(read(tmp_path, "a,b\n\n1,2\n,\n\n")) == 1
    empty = read(tmp_path, "a,b\n")
    assert (empty.text("a").dtype.kind, empty.numbers("b").dtype, empty.optional_numbers("b").dtype) == (
        "U",
        np.float64,
        np.float64,
    )


def test_a_file_without_header_takes_the_names_it_is_given(tmp_path: Path) -> None:
    path = tmp_path / "ids.csv"
    path.write_text("one\ntwo\n", encoding="utf-8")
    assert read_table(path, ["id"], header=["id"]).text("id").tolist() == ["one", "two"]


def test_the_separator_is_that_under_which_the_needed_columns_are_found(tmp_path: Path) -> None:
    table = read(tmp_path, "a;b, in mm, by hand\n1;2\n", ("a", "b, in mm, by hand"))
    assert table.numbers("b, in mm, by hand").tolist() == [2.0]
    assert table.notes == ("table.csv: columns are separated by semicolon",)


def test_an_encoding_that_was_guessed_is_noted(tmp_path: Path) -> None:
    assert "Windows-1251" in read(tmp_path, "a,б\nда,1\n".encode("cp1251")).notes[0]
    assert "UTF-16" in read(tmp_path, "a,б\nда,1\n".encode("utf-16")).notes[0]
    assert read(tmp_path, codecs.BOM_UTF8 + b"a,b\n1,2\n").notes == ()


def test_the_source_names_the_file_by_its_digest_without_its_folder(tmp_path: Path) -> None:
    source = read(tmp_path, "a\n1\n2\n").source
    assert (source.name, source.rows) == ("table.csv", 2)
    assert source.sha256 == hashlib.sha256(b"a\n1\n2\n").hexdigest()


def test_known_and_unknown_numbers_are_told_apart(tmp_path: Path) -> None:
    values = read(tmp_path, "a,b\n1,x\nNA,x\n,x\nNaN,x\n-,x\n2.5,x\n").optional_numbers("a")
    assert [None if math.isnan(value) else value for value in values] == [1.0, None, None, None, None, 2.5]


def test_infinite_numbers_pass_only_where_they_are_asked_for(tmp_path: Path) -> None:
    table = read(tmp_path, "a,b\n1,x\n-inf,x\n")
    assert table.numbers("a", infinite=True).tolist() == [1.0, -math.inf]
    with pytest.raises(TableError, match=r"table\.csv: line 3: a '-inf' is no finite number"):
        table.numbers("a")


def test_truth_is_1_or_0_in_any_usual_spelling(tmp_path: Path) -> None:
    table = read(tmp_path, "a,b\n1,\nTrue,\nyes,\n0,\nFALSE,\nno,\n0.0,\n")
    assert table.flags("a").tolist() == [True] * 3 + [False] * 4


NUMBERS: Callable[[Table], object] = lambda table: table.numbers("a")  # noqa: E731
FAULTS: dict[str, tuple[str | bytes, Callable[[Table], object], str]] = {
    "a word": ("a,b\n1,1\nhigh,1\n", NUMBERS, "line 3: a 'high' is no number; give one or leave the row out"),
    "an empty cell": ("a,b\n,1\n", NUMBERS, "line 2: a '' is no number; give one or leave the row out"),
    "a NaN": ("a,b\nnan,1\n", NUMBERS, "line 2: a 'nan' is no finite number; leave the row out or give a number"),
    "an underscore": ("a,b\n1_000,1\n", NUMBERS, "line 2: a '1_000' is no number"),
    "a decimal comma in quotes": ('a,b\n"0,5",1\n', NUMBERS, "a '0,5' is no number; write decimals with a point"),
    "an empty name": ("a,b\nx,1\n,2\n", lambda table: table.text("a"), "line 3: a '' is empty; fill it in"),
    "a third truth": ("a,b\n2,1\n", lambda table: table.flags("a"), "line 2: a '2' is neither 1 nor 0; write 1"),
    "a doubled key": (
        "a,b\nx,1\ny,1\nx,2\n",
        lambda table: table.unique("a"),
        "lines 2 and 4 both say a x; keep one row for each",
    ),
    "a doubled pair": (
        "a,b\nx,1\nx,2\nx,1\ny,1\ny,1\n",
        lambda table: table.unique("a", "b"),
        "lines 2 and 4 both say a x, b 1; keep one row for each (2 such keys)",
    ),
    "a column nobody has": ("a,b\n1,1\n", lambda table: table.numbers("c"), "no column 'c'; its header has a, b"),
    "a long cell": ("a,b\n" + "x" * 90 + ",1\n", NUMBERS, "line 2: a '" + "x" * 39 + "…' is no number"),
    "too many cells": ("a,b\n1,2\n1,2,3\n", NUMBERS, "line 3: 3 cells where the header has 2; quote cells that hold"),
    "another separator": ("a;b\n1;2\n1,2\n", NUMBERS, "line 3: 1 cells where the header has 2; this line seems to be"),
    "too few cells": ("a,b\n1\n", NUMBERS, "line 2: 1 cells where the header has 2"),
    "a column that is missing": ("b,c\n1,2\n", NUMBERS, "line 1: no column 'a'; found 'b', 'c'"),
    "a column that is there twice": ("a,a\n1,2\n", NUMBERS, "line 1: the column 'a' is there twice; rename one"),
    "nothing at all": ("", NUMBERS, "line 1 is empty; the first line must name the columns"),
    "a picture": (b"\x89PNG\0\0\0", NUMBERS, "this is no text; save the table as CSV in UTF-8"),
    "two encodings": (
        "a,b\nдва,1\n".encode() + "три,2\n".encode("cp1251"),
        NUMBERS,
        "line 2 is UTF-8, line 3 is not; save the whole file as UTF-8",
    ),
    "neither encoding": (b"a,b\n\x98,1\n", NUMBERS, "neither UTF-8 nor Windows-1251 (byte 4); save it as UTF-8"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_names_the_file_the_line_and_what_to_do(tmp_path: Path, fault: str) -> None:
    text, use, message = FAULTS[fault]
    with pytest.raises(TableError) as caught:
        use(read(tmp_path, text))
    assert str(caught.value).startswith("table.csv: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"nowhere\.csv: cannot be read: No such file"):
        read_table(tmp_path / "nowhere.csv", ["a"])


def test_a_cell_longer_than_a_csv_reader_takes_is_a_fault_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"table\.csv: line 2: field larger than field limit"):
        read(tmp_path, "a,b\n" + "x" * 200_000 + ",1\n")

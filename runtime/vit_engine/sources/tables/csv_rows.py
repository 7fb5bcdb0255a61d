"""CSV files as people have them, read a row at a time by the standard `csv` module."""

import csv
import io
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

from vit_engine.errors import ImageError, one_line
from vit_engine.outputs.csv_dialect import are_ours, unescaped

LONGEST_LINE = 2**20
"""Characters of the longest line that is read."""

_SEPARATORS = (",", ";", "\t")  # Excel's, where the comma is the decimal point, and its copy

Row = tuple[int, list[str] | ImageError]
"""A row's number, from 1 after the header, and its cells, or why it cannot be read."""


def csv_rows(file: "io.BufferedReader[Any]", column: str) -> tuple[list[str], Iterator[Row]]:
    """Return the names of the columns of a CSV file, and its rows as they are read.

    The separator is the first of comma, semicolon and tab by which the header has `column` once, or
    else the one that gives the most names. Quotes are RFC 4180's; lines end with LF, CRLF or CR;
    blank lines are no rows. The text is UTF-8, with a byte order mark or without, or UTF-16 with
    one; bytes that are not UTF-8 are surrogates (`surrogateescape`). Names have no spaces around
    them, cells have those of the file, and a row may have fewer or more cells than there are names.
    Of rows that we wrote, the apostrophes before formulas are taken away. Nothing is sought, so a
    pipe can be read too.

    ImageError for a file that is empty or whose header is not CSV. So is the last row, where one is
    damaged, has a line over LONGEST_LINE or a cell over the csv module's limit (128 Ki unless the
    program sets another): what follows is not read.
    """
    if file.peek(2)[:2] in (b"\xff\xfe", b"\xfe\xff"):
        text = _Text(file, "utf-16", "replace", newline="")
    else:
        text = _Text(file, "utf-8-sig", "surrogateescape", newline="")
    lines = _lines(text)
    try:
        first = next((line for line in lines if line.strip("\r\n")), None)
        if first is None:
            raise ImageError("empty", "is empty")
        if "\0" in first:
            message = "is not CSV in UTF-8: its first line has NULs, as UTF-16 has"
            raise ImageError("format", message)
        separator = _separator(first, column)
        reader = csv.reader(chain((first,), lines), delimiter=separator, strict=True)
        names = [name.strip() for name in next(reader)]
    except csv.Error as e:
        raise ImageError("format", f"is not CSV: {_reason(e, 1)}") from e
    return names, _rows(reader, names)


def _separator(header: str, column: str) -> str:
    def fit(separator: str) -> tuple[bool, int, int]:
        names = [name.strip() for name in next(csv.reader([header], delimiter=separator))]
        return names.count(column) == 1, names.count(column), len(names)

    return max(_SEPARATORS, key=fit)


class _Text(io.TextIOWrapper):
    """The text of a file, which is its opener's to close."""

    def close(self) -> None:
        """Leave the file open."""


def _lines(text: io.TextIOWrapper) -> Iterator[str]:
    while line := text.readline(LONGEST_LINE + 1):
        if len(line) > LONGEST_LINE:
            raise csv.Error(f"the line is longer than {LONGEST_LINE:,} characters")
        yield line


def _rows(reader: Any, names: Sequence[str]) -> Iterator[Row]:
    number, unchanged = 0, not are_ours(names)
    line = reader.line_num
    try:
        for cells in reader:
            if len(cells) > len(names) and reader.line_num > line + 1:
                raise csv.Error
            line = reader.line_num
            if cells:
                number += 1
                yield number, cells if unchanged else [unescaped(cell) for cell in cells]
    except csv.Error as e:
        reason = _reason(e, reader.line_num - line)
        message = (
            f"row {number + 1}, at line {line + 1}, is not CSV: {reason}; the rest is not read"
        )
        yield number + 1, ImageError("format", message)


def _reason(error: csv.Error, lines: int) -> str:
    """Say what is wrong with a row of so many lines: over several it mostly has an open quote."""
    is_open = lines > 1 or "end of data" in str(error)
    return "a quote is not closed" if is_open else one_line(error)

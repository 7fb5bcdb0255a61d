"""CSV files as people have them, read a row at a time by the standard `csv` module."""

import csv
import io
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

from vit_engine.errors import ImageError, one_line
from vit_engine.outputs.csv_dialect import are_ours, unescaped

LONGEST_ROW = 2**20
"""Characters of the longest row that is read."""

_SEPARATORS = (",", ";", "\t")  # Excel's, where the comma is the decimal point, and its copy
_MAX_REPARSED = 2**25  # characters of a file that are parsed again, behind quotes left open

Row = tuple[int, list[str] | ImageError]
"""A row's number, from 1 after the header, and its cells, or why it cannot be read."""


def csv_rows(file: "io.BufferedReader[Any]", column: str) -> tuple[list[str], Iterator[Row]]:
    """Return the names of the columns of a CSV file, and its rows as they are read.

    The separator is the first of comma, semicolon and tab by which the header has `column` once, or
    else the one that gives the most names. Quotes are RFC 4180's; lines end with LF, CRLF or CR;
    blank lines, and rows of blank cells, are no rows. The text is UTF-8, with a byte order mark or
    without, or UTF-16 with one; bytes that are not UTF-8 are surrogates (`surrogateescape`). Names
    have no spaces around them, cells have those of the file, and a row may have fewer or more cells
    than there are names. Of rows that we wrote, the apostrophes before formulas are taken away.
    Nothing is sought, so a pipe can be read too.

    ImageError for a file that is empty or whose header is not CSV. So is a row, in its place, that
    is damaged, longer than LONGEST_ROW, or has a cell over the csv module's limit (128 Ki unless
    the program sets another); the next line is then the next row. Only a file with a great many
    quotes that are not closed is given up, at one of them.
    """
    if file.peek(2)[:2] in (b"\xff\xfe", b"\xfe\xff"):
        text = _Text(file, "utf-16", "replace", newline="")
    else:
        text = _Text(file, "utf-8-sig", "surrogateescape", newline="")
    lines = _Lines(text)
    try:
        first = next((line for line in lines if line.strip("\r\n")), None)
        if first is None:
            raise ImageError("empty", "is empty")
        if "\0" in first:
            message = "is not CSV in UTF-8: its first line has NULs, as UTF-16 has"
            raise ImageError("format", message)
        lines.start_row([first])
        reader = csv.reader(lines, delimiter=_separator(first, column), strict=True)
        names = [name.strip() for name in next(reader)]
    except csv.Error as e:
        raise ImageError("format", f"is not CSV: {_reason(e, lines)}") from e
    rows = _rows(reader, lines, len(names))
    return names, _unescaped(rows) if are_ours(names) else rows


def _separator(header: str, column: str) -> str:
    def fit(separator: str) -> tuple[bool, int, int]:
        names = [name.strip() for name in next(csv.reader([header], delimiter=separator))]
        return names.count(column) == 1, names.count(column), len(names)

    return max(_SEPARATORS, key=fit)


class _Text(io.TextIOWrapper):
    """The text of a file, which is its opener's to close."""

    def close(self) -> None:
        """Leave the file open."""


class _Lines:
    """The lines of a file: those of the row that is being read are kept, and can come again."""

    def __init__(self, file: io.TextIOWrapper) -> None:
        self._file = file
        self._again: deque[str] = deque()
        self.start_row()

    def start_row(self, again: Sequence[str] = ()) -> None:
        """Forget the lines of the last row, but for those of a damaged one that come `again`."""
        self._again.extendleft(reversed(again))
        self.row: list[str] = []
        self._size = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else self._file.readline(LONGEST_ROW + 1)
        if not line:
            raise StopIteration
        if len(line) > LONGEST_ROW and not line.endswith(("\r", "\n")):
            while rest := self._file.readline(LONGEST_ROW):
                if rest.endswith(("\r", "\n")):
                    break
            line += "\n"
        self.row.append(line)
        self._size += len(line)
        if self._size > LONGEST_ROW:
            raise csv.Error(f"it is longer than {LONGEST_ROW:,} characters")
        return line


def _rows(reader: Iterator[list[str]], lines: _Lines, columns: int) -> Iterator[Row]:
    number = reparsed = 0
    again: list[str] = []
    while True:
        lines.start_row(again)
        again = []
        try:
            cells = next(reader, None)
            if cells and len(cells) > columns and len(lines.row) > 1:
                raise csv.Error
        except csv.Error as e:
            number += 1
            again = lines.row[1:]
            reparsed += sum(map(len, again))
            if reparsed > _MAX_REPARSED:
                message = f"row {number} is not CSV, nor is what follows: quotes are not closed"
                yield number, ImageError("format", message)
                return
            yield number, ImageError("format", f"row {number} is not CSV: {_reason(e, lines)}")
        else:
            if cells is None:
                return
            if any(map(str.strip, cells)):
                number += 1
                yield number, cells


def _reason(error: csv.Error, lines: _Lines) -> str:
    """Say what is wrong with a row: one that goes on over lines without need has an open quote."""
    is_open = len(lines.row) > 1 or "end of data" in str(error)
    return "a quote is not closed" if is_open else one_line(error)


def _unescaped(rows: Iterator[Row]) -> Iterator[Row]:
    for number, row in rows:
        if isinstance(row, ImageError):
            yield number, row
        else:
            yield number, [unescaped(cell) for cell in row]

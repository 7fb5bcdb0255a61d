"""Rows as a table to read: columns that align, and no wider than the terminal."""

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from vit_engine.errors import printable
from vit_engine.outputs.kinds import OutputKind, Result

_PATH = 32  # cells of the paths where the width is not known, and the most that labels have
_LEAST_PATH, _MOST_PATH = 12, 60
_RED, _BOLD, _PLAIN = "\x1b[31m", "\x1b[1m", "\x1b[0m"


@dataclass(frozen=True)
class Table:
    """How rows of a kind of output are laid out; `width` is the terminal's.

    Without a width nothing is cut. With one, a row has as many labels as fit.
    """

    output: OutputKind
    width: int | None = None
    colour: bool = False

    @cached_property
    def _path(self) -> int:
        if not self.width:
            return _PATH
        return max(_LEAST_PATH, min(_MOST_PATH, self.width * 2 // 5))

    @cached_property
    def _number(self) -> int:
        return len(self.output.widest_number)

    @cached_property
    def _label(self) -> int:
        longest = max(_cells(printable(text)) for text in self.output.cell_texts)
        room = self.width - self._path - 2 - self._number - 1 if self.width else _PATH
        return max(1, min(longest, room, _PATH))

    def line(self, prediction: Result) -> bytes:
        """Return a row's line: path, then numbers and labels, or the error."""
        cells_of: Callable[[Any], list[tuple[str, str]]] = self.output.cells
        path = printable(prediction.path or "-")
        left = self.width and self.width - self._path - 2
        if prediction.error is not None:
            text = f"{prediction.error_code}: {printable(prediction.error)}"
            text = self._in(_RED, _cut(text, left) if left else text)
        else:
            column = self._number + 1 + self._label
            maximum = max(1, (left + 2) // (column + 2)) if left else None
            cells = [self._cell(*cell) for cell in cells_of(prediction)[:maximum]]
            text = "  ".join([self._in(_BOLD, cells[0]), *cells[1:]]) if cells else "-"
        path = _cut(path, self._path, at_start=True) if self.width else path
        return f"{_padded(path, self._path)}  {text.rstrip()}\n".encode()

    def _cell(self, number: str, label: str) -> str:
        label = printable(label)
        if self.width:
            label = _cut(label, self._label)
        return f"{number:>{self._number}} {_padded(label, self._label)}"

    def _in(self, style: str, text: str) -> str:
        if not self.colour:
            return text
        bare = text.rstrip()
        return f"{style}{bare}{_PLAIN}{text[len(bare) :]}"


def _cells(text: str) -> int:
    """Return how many cells of a terminal a text takes: none for accents, two for wide letters."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )


def _padded(text: str, cells: int) -> str:
    return text + " " * (cells - _cells(text))


def _cut(text: str, cells: int, *, at_start: bool = False) -> str:
    """Return a text in no more than so many cells, with … where something is left out."""
    if _cells(text) <= cells:
        return text
    while text and _cells(text) > cells - 1:
        text = text[1:] if at_start else text[:-1]
    return f"…{text}" if at_start else f"{text}…"

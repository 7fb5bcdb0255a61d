"""A table as text or Markdown, and how numbers are written in its cells."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from comparison.report.rows import Spread

DASH = "\u2013"
MARK, MARK_WORDS = "†", "taken on a machine too busy for it to be trusted"
"""What stands behind a ratio that is doubtful, and what it says."""


@dataclass(frozen=True)
class Table:
    """Cells as text under a title and a note; all columns but the first are right-aligned."""

    title: str
    note: str
    head: tuple[str, ...]
    body: tuple[tuple[str, ...], ...]
    words: bool = False  # words rather than numbers: left-aligned in HTML

    def text(self) -> str:
        """Return columns aligned by spaces."""
        widths = [max(map(len, column)) for column in zip(self.head, *self.body, strict=True)]

        def line(cells: Sequence[str]) -> str:
            padded = [c.rjust(w) for c, w in zip(cells[1:], widths[1:], strict=True)]
            return "  ".join([cells[0].ljust(widths[0]), *padded]).rstrip()

        return "\n".join(line(cells) for cells in (self.head, *self.body))

    def markdown(self) -> str:
        """Return a Markdown table."""
        rule = ("---", *("---:" for _ in self.head[1:]))
        lines = (
            " | ".join(c.replace("|", r"\|") for c in r) for r in (self.head, rule, *self.body)
        )
        return "\n".join(f"| {line} |" for line in lines)


def table_from_rows(
    title: str, note: str, rows: Iterable[Any], columns: Mapping[str, Callable[[Any], str]]
) -> Table:
    """Return a table with a cell of each column, by its head, for each row."""
    body = tuple(tuple(cell(row) for cell in columns.values()) for row in rows)
    return Table(title, note, tuple(columns), body)


def ms(seconds: float | None) -> str:
    """Return milliseconds with three significant digits."""
    return DASH if seconds is None else rate(seconds * 1e3)


def rate(value: float | None) -> str:
    """Return three significant digits, more before the point where there are more."""
    if value is None:
        return DASH
    return f"{value:,.{0 if value >= 100 else 1 if value >= 10 else 2}f}"


def percent(share: float | None, decimals: int = 1) -> str:
    """Return a share as percent."""
    return DASH if share is None else f"{share:.{decimals}%}"


def cosine(value: float | None) -> str:
    """Return a cosine with as many digits as tell fp32 from fp16."""
    return DASH if value is None else f"{value:.6f}"


def megabytes(size: int | None) -> str:
    """Return a size in 1e6 bytes."""
    return DASH if not size else f"{size / 1e6:,.0f}" if size >= 1e7 else f"{size / 1e6:.1f}"


def ratio(found: Spread | None) -> str:
    """Return the median and the quartiles."""
    return f"{times(found)} ({found.low:.2f}{DASH}{found.high:.2f})" if found else DASH


def times(found: Spread | None) -> str:
    """Return the median, with a mark where it is not to be trusted."""
    return f"{found.median:.2f}{MARK if found.doubtful else ''}" if found else DASH

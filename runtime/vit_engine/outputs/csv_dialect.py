"""The CSV of our own rows: which columns they have, and how formulas are kept from spreadsheets."""

import re
from collections.abc import Sequence

_FORMULA = re.compile(r"'*[=+\-@\t\r\n]")
"""What a spreadsheet would run, OWASP's list, however many apostrophes are before it."""


def are_ours(columns: Sequence[str]) -> bool:
    """Tell whether a table has the columns of rows that we write, of whichever kind of output."""
    return (*columns[:1], *columns[-2:]) == ("path", "error", "error_code")


def escaped(cell: str) -> str:
    """Return a text as a cell: a formula gets an apostrophe before it, or one more."""
    return f"'{cell}" if _FORMULA.match(cell) else cell


def unescaped(cell: str) -> str:
    """Return the text of a cell that `escaped` has made."""
    return cell.removeprefix("'") if _FORMULA.match(cell) else cell

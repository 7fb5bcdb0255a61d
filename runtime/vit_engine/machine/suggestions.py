"""What a name that is not there may stand for, by the names that are near it."""

import difflib
import os
from itertools import islice

from vit_engine.errors import printable

_MAX_NAMES = 10_000  # of a folder, among which one that was meant is looked for


def did_you_mean(path: str, *, ending: str = "") -> str:
    """Return "; did you mean NAME?" for a path that is not there, or "" where none is like it.

    A name without an `ending` that others in its folder have may mean one with it.
    """
    folder, name = os.path.split(path.rstrip("/"))
    while folder and not os.path.isdir(folder):  # noqa: PTH112  a Path would tidy the spelling
        (folder, name), ending = os.path.split(folder), ""  # it is the folder that is not there
    try:
        with os.scandir(folder or ".") as entries:
            names = [entry.name for entry in islice(entries, _MAX_NAMES)]
    except OSError:
        return ""
    # By what comes before the ending: of two short names it would be most of what is alike.
    stems = {found.removesuffix(ending): found for found in names if found.endswith(ending)}
    wanted = os.path.splitext(name)[0] if ending else name  # noqa: PTH122
    for near in difflib.get_close_matches(wanted, stems, n=1):
        return f"; did you mean {printable(os.path.join(folder, stems[near]))}?"  # noqa: PTH118
    return ""

"""Which files a folder or a pattern names, in the same order every time, found while one works."""

import fnmatch
import os
import re
import stat
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from vit_engine.sources.signatures import (
    EXTENSIONS,
    HEAD,
    PLUGINS,
    UNREAD,
    has_plugin,
    is_image,
    unread_format,
)

WILD = re.compile(r"[*?]|\[!?+\]?+[^]/]*+\]")
"""What makes a name a pattern: a `[` that is not closed stands for itself."""

Verdict = tuple[bool, str | None]
"""Whether a file is an image that is read, and the format of an image that is not."""

Found = tuple[str, OSError | None]
"""A file, or a folder (with a slash at its end) and why it cannot be listed."""


NO_END = "tar without its end"
"""By which such tars are counted beside the images that are passed over."""


def is_pattern(source: str) -> bool:
    """Tell whether a source is a glob: it has a wildcard and is not itself a file's name."""
    return WILD.search(source) is not None and not os.path.lexists(source)


def walked(
    top: str, *, all_files: bool, follow_links: bool, skipped: Counter[str]
) -> Iterator[Found]:
    """Yield the images below a folder, by extension or by signature, and folders that fail.

    Depth first, with a stack of its own: how deep it may go is the file system's to say. In
    `skipped` it counts the images that are not for labelling, by the reason.
    """
    top += "/" * (not top.endswith("/"))
    seen: set[tuple[int, int]] = set()
    stack = [iter([top])]
    while stack:
        path = next(stack[-1], None)
        if path is None:
            stack.pop()
        elif path.endswith("/"):
            if follow_links:  # each folder once, so that loops end
                try:
                    status = Path(path).stat()
                except OSError as e:
                    yield path, e
                    continue
                key = (status.st_dev, status.st_ino)
                if key in seen:
                    continue
                seen.add(key)
            names, error = _entries(path)
            if error is not None:
                yield path, error
            below = [path + name for name, is_link in names if follow_links or not is_link]
            stack.append(iter(below))
        else:
            verdict = _by_content(path) if all_files else by_name(path)
            if is_wanted(path[len(top) :], verdict, skipped):
                yield path, None


def by_name(path: str) -> Verdict:
    """Tell from a name whether it is an image's, and the format of one that is not read."""
    extension = os.path.splitext(path)[1].lower()  # noqa: PTH122
    return _verdict(extension in EXTENSIONS, UNREAD.get(extension))


def by_head(head: bytes) -> Verdict:
    """Tell the same from the first HEAD bytes of a file."""
    return _verdict(is_image(head), unread_format(head))


def _verdict(is_read: bool, unread: str | None) -> Verdict:
    return (True, None) if has_plugin(unread) else (is_read, unread)


def is_wanted(below: str, verdict: Verdict, skipped: Counter[str]) -> bool:
    """Tell whether a file is to be labelled; an image that is not is counted in `skipped`.

    `below` is its path below the folder that is searched. The reasons, by which it is counted,
    follow a number: "2 TGA (not supported)".
    """
    is_named, unread = verdict
    if not is_named and unread is None:
        return False
    *folders, name = below.split("/")
    if ".ipynb_checkpoints" in folders:
        reason = "in .ipynb_checkpoints"
    elif name.startswith("._"):
        reason = "AppleDouble"
    elif unread:
        extra = f"extra {PLUGINS[unread][1]}" if unread in PLUGINS else "not supported"
        reason = f"{unread} ({extra})"
    else:
        return True
    skipped[reason] += 1
    return False


def in_words(skipped: Counter[str]) -> str:
    """Return "2 AppleDouble, 1 TGA (not supported)", the most first; "" for none."""
    return ", ".join(f"{n:,} {reason}" for reason, n in skipped.most_common() if reason != NO_END)


def no_image(place: str, *, all_files: bool, skipped: Counter[str]) -> str:
    """Say that a "folder", "tar" or "zip" holds no image, how it was searched, and what it held."""
    kinds = "file with an image's signature" if all_files else "image"
    more = "" if all_files else " (searched by extension; vit-infer --all-files looks inside)"
    also = f"; passed over: {words}" if (words := in_words(skipped)) else ""
    return f"no {kinds} in this {place}{more}{also}"


def _entries(folder: str) -> tuple[list[tuple[str, bool]], OSError | None]:
    """Return a folder's names, and what went wrong; a name with a slash at its end is a folder's.

    With each comes whether it is a link to a folder. The one list that is held whole: the names of
    one folder. Sorted, since a resumed run must meet the same order.
    """
    names = []
    failure = None
    try:
        with os.scandir(folder or ".") as entries:
            for entry in entries:
                is_link = entry.is_symlink() and os.path.isdir(entry.path)  # noqa: PTH112
                is_folder = is_link or entry.is_dir(follow_symlinks=False)
                names.append((entry.name + "/" * is_folder, is_link))
    except OSError as e:
        failure = e
    return sorted(names), failure


def _by_content(path: str) -> Verdict:
    try:
        if not stat.S_ISREG(Path(path).stat().st_mode):
            return False, None
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            return by_head(file.read(HEAD))
    except OSError:
        return True, None  # what cannot be read may have been an image: a row says so


def globbed(pattern: str) -> Iterator[Found]:
    """Yield the files that match, and folders that fail; `**` stands for any folders, or none.

    Depth first, each folder sorted and searched once, whichever parts of the pattern it may match.
    `**` follows no links. Not by `glob`, which is silent about a folder that cannot be listed.
    """
    if "\0" in pattern:  # no name has one
        return
    first, *rest = pattern.split("/")
    parts = [part for part in (first, *rest) if part]
    parts = [p for i, p in enumerate(parts) if not (i and p == parts[i - 1] == "**")]
    # A folder goes with the places in the pattern that what is in it may match.
    stack = [iter([("" if first else "/", _with_none(parts, {0}))])]
    while stack:
        path, places = next(stack[-1], (None, set[int]()))
        if path is None:
            stack.pop()
        elif path and not path.endswith("/"):
            yield path, None
        else:
            if any(WILD.search(parts[i]) for i in places):
                names, error = _entries(path)
            else:
                names, error = _entry(path, parts[min(places)])
            if error is not None:
                yield path or "./", error
            stack.append(_matched(path, names, parts, places))


def _entry(folder: str, name: str) -> tuple[list[tuple[str, bool]], OSError | None]:
    """Return a name as `_entries` does, without listing the folder: it may be `..`."""
    try:
        os.lstat(folder + name)
    except PermissionError as e:
        return [], e
    except OSError:  # there is no such name
        return [], None
    return [(name + "/" * os.path.isdir(folder + name), False)], None  # noqa: PTH112


def _with_none(parts: list[str], places: set[int]) -> set[int]:
    """Add the place after each `**`, which may stand for no folder at all."""
    return (places | {i + 1 for i in places if parts[i] == "**"}) - {len(parts)}


def _matched(
    folder: str, names: list[tuple[str, bool]], parts: list[str], places: set[int]
) -> Iterator[tuple[str, set[int]]]:
    """Yield the files that match the whole pattern, and folders with the places they lead to."""
    last = len(parts) - 1
    for name, is_link in names:
        fitting = {i for i in places if _fits(name.removesuffix("/"), parts[i])}
        if not name.endswith("/"):
            if last in fitting:
                yield folder + name, set()
            continue
        deeper = {i for i in fitting if parts[i] == "**" and not is_link}
        deeper |= {i + 1 for i in fitting if parts[i] != "**" and i < last}
        if deeper:
            yield folder + name, _with_none(parts, deeper)


def _fits(name: str, part: str) -> bool:
    """Tell whether a name fits a part of a pattern; a dot at its start must be asked for."""
    return fnmatch.fnmatchcase(name, part) and (part.startswith(".") or not name.startswith("."))

"""Which files a folder or a pattern names, in the same order every time, found while one works."""

import fnmatch
import os
import re
import stat
from collections import Counter
from collections.abc import Iterable, Iterator
from enum import Enum
from pathlib import Path

from vit_engine.sources.signatures import EXTENSIONS, HEAD, UNREAD, is_image, unread_format

WILD = re.compile(r"[*?]|\[!?+\]?+[^]/]*+\]")
"""What makes a name a pattern: a `[` that is not closed stands for itself."""

Found = tuple[str, OSError | None]
"""A file, or a folder (with a slash at its end) and why it cannot be listed."""


class _Kind(Enum):
    FILE = "file"
    FOLDER = "folder"
    LINK = "link to a folder"


def is_pattern(source: str) -> bool:
    """Tell whether a source is a glob: it has a wildcard and is not itself a file's name."""
    return WILD.search(source) is not None and not os.path.lexists(source)


def walked(
    top: str, *, all_files: bool, follow_links: bool, passed_over: Counter[str] | None = None
) -> Iterator[Found]:
    """Yield the images below a folder, by extension or by signature, and folders that fail.

    Depth first, with a stack of its own: how deep it may go is the file system's to say. In
    `passed_over` it counts the images that are not for labelling, by the reason.
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
            stack.append(_below(path, names, follow_links=follow_links))
        else:
            wanted, unread = _by_content(path) if all_files else by_name(path)
            reason = why_passed_over(path[len(top) :], wanted=wanted, unread=unread)
            if reason and passed_over is not None:
                passed_over[reason] += 1
            if wanted and not reason:
                yield path, None


def by_name(path: str) -> tuple[bool, str | None]:
    """Tell from a name whether it is an image's, and the format of one that is not read."""
    extension = os.path.splitext(path)[1].lower()  # noqa: PTH122
    return extension in EXTENSIONS, UNREAD.get(extension)


def why_passed_over(below: str, *, wanted: bool, unread: str | None) -> str:
    """Return why an image is not labelled, "" where nothing is against it.

    `below` is its path below the folder that is searched; `wanted` and `unread` are what `by_name`
    says. The words follow a number: "2 HEIC (not supported)".
    """
    if not wanted and unread is None:
        return ""
    *folders, name = below.split("/")
    if ".ipynb_checkpoints" in folders:
        return "in .ipynb_checkpoints"
    if name.startswith("._"):
        return "AppleDouble"
    return f"{unread} (not supported)" if unread else ""


def in_words(passed_over: Counter[str]) -> str:
    """Return "2 AppleDouble, 1 HEIC (not supported)", the most first; "" for none."""
    return ", ".join(f"{n:,} {reason}" for reason, n in passed_over.most_common())


def no_image(place: str, *, all_files: bool, passed_over: Counter[str]) -> str:
    """Say that a "folder", "tar" or "zip" holds no image, how it was searched, and what it held."""
    kinds = "file with an image's signature" if all_files else "image"
    more = "" if all_files else " (searched by extension; vit-infer --all-files looks inside)"
    also = f"; passed over: {in_words(passed_over)}" if passed_over else ""
    return f"no {kinds} in this {place}{more}{also}"


def _entries(folder: str) -> tuple[list[tuple[str, _Kind]], OSError | None]:
    """Return a folder's names sorted, a folder's as if it ended with a slash, and what went wrong.

    The one list that is held whole: the names of one folder. Sorted, since a resumed run must meet
    the same order.
    """
    names = []
    failure = None
    try:
        with os.scandir(folder or ".") as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    kind = _Kind.FOLDER
                elif entry.is_symlink() and os.path.isdir(entry.path):  # noqa: PTH112
                    kind = _Kind.LINK
                else:
                    kind = _Kind.FILE
                names.append((entry.name, kind))
    except OSError as e:
        failure = e
    names.sort(key=_order)
    return names, failure


def _order(entry: tuple[str, _Kind]) -> str:
    name, kind = entry
    return name if kind is _Kind.FILE else name + "/"


def _below(folder: str, names: Iterable[tuple[str, _Kind]], *, follow_links: bool) -> Iterator[str]:
    return (
        folder + _order((name, kind))
        for name, kind in names
        if follow_links or kind is not _Kind.LINK
    )


def _by_content(path: str) -> tuple[bool, str | None]:
    try:
        if not stat.S_ISREG(Path(path).stat().st_mode):
            return False, None
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            head = file.read(HEAD)
    except OSError:
        return True, None  # what cannot be read may have been an image: a row says so
    return is_image(head), unread_format(head)


def globbed(pattern: str) -> Iterator[Found]:
    """Yield the files that match, and folders that fail; `**` stands for any folders, or none.

    Depth first, each folder sorted and searched once, whichever parts of the pattern it may match.
    `**` follows no links.
    """
    if "\0" in pattern:  # no name has one
        return
    first, *rest = pattern.split("/")
    parts = [_Part(part) for part in (first, *rest) if part]
    parts = [p for i, p in enumerate(parts) if not (i and p.is_any and parts[i - 1].is_any)]
    # A folder goes with the places in the pattern that what is in it may match.
    top: tuple[str, _Places | None] = ("" if first else "/", _with_none(parts, {0}))
    stack = [iter((top,))]
    while stack:
        found = next(stack[-1], None)
        if found is None:
            stack.pop()
            continue
        folder, places = found
        if places is None:
            yield folder, None
            continue
        names, error = _candidates(folder, [parts[i] for i in places])
        if error is not None:
            yield folder or "./", error
        stack.append(_matched(folder, names, parts, places))


class _Part:
    """What stands between two slashes of a pattern."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.is_any = text == "**"
        self.is_wild = WILD.search(text) is not None
        self._match = re.compile(fnmatch.translate("*" if self.is_any else text)).match

    def matches(self, name: str) -> bool:
        """Tell whether a name fits; a dot at its start must be asked for."""
        if not self.is_wild:
            return name == self.text
        hidden = name.startswith(".") and not self.text.startswith(".")
        return not hidden and self._match(name) is not None


_Places = frozenset[int]


def _with_none(parts: list[_Part], places: set[int]) -> _Places:
    """Add the place after each `**`, which may stand for no folder at all."""
    return frozenset(places | {i + 1 for i in places if parts[i].is_any and i + 1 < len(parts)})


def _candidates(folder: str, parts: list[_Part]) -> tuple[list[tuple[str, _Kind]], OSError | None]:
    """Return a folder's names that may match; for literal parts alone it need not be listed."""
    names: dict[str, _Kind] = {}
    failure = None
    if any(part.is_wild for part in parts):
        listed, failure = _entries(folder)
        names.update(listed)
    for part in parts:
        if not part.is_wild and part.text not in names:  # also .. and . which are not listed
            path = folder + part.text
            try:
                status = os.lstat(path)
            except PermissionError as e:
                failure = failure or e
                continue
            except OSError:  # there is no such name
                continue
            linked = stat.S_ISLNK(status.st_mode)
            if stat.S_ISDIR(status.st_mode):
                names[part.text] = _Kind.FOLDER
            else:
                is_folder = linked and os.path.isdir(path)  # noqa: PTH112
                names[part.text] = _Kind.LINK if is_folder else _Kind.FILE
    return sorted(names.items(), key=_order), failure


def _matched(
    folder: str, names: Iterable[tuple[str, _Kind]], parts: list[_Part], places: _Places
) -> Iterator[tuple[str, _Places | None]]:
    """Yield the files that match the whole pattern, and folders with the places they lead to."""
    last = len(parts) - 1
    for name, kind in names:
        fitting = {i for i in places if parts[i].matches(name)}
        if kind is _Kind.FILE:
            if last in fitting:
                yield folder + name, None
            continue
        deeper = {i for i in fitting if parts[i].is_any and kind is _Kind.FOLDER}
        deeper |= {i + 1 for i in fitting if not parts[i].is_any and i < last}
        if deeper:
            yield f"{folder}{name}/", _with_none(parts, deeper)

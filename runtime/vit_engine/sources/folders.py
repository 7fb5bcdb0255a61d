"""Which files a folder or a pattern names, in the same order every time, found while one works."""

import fnmatch
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from vit_engine.sources.signatures import EXTENSIONS, is_image

_WILD = re.compile(r"[*?\[]")


def is_pattern(source: str) -> bool:
    """Tell whether a source is a glob: it has a wildcard and is not itself a file's name."""
    return _WILD.search(source) is not None and not os.path.lexists(source)


def walked(
    top: str, *, all_files: bool, follow_links: bool
) -> Iterator[tuple[str, OSError | None]]:
    """Yield the images below a folder, by extension or by signature, and folders that fail.

    Depth first, with a stack of its own: how deep it may go is the file system's to say.
    """
    seen: set[tuple[int, int]] = set()
    stack = [iter([top + "/" * (not top.endswith("/"))])]
    while stack:
        path = next(stack[-1], None)
        if path is None:
            stack.pop()
        elif path.endswith("/"):
            try:
                if follow_links:  # each folder once, so that loops end
                    status = Path(path).stat()
                    key = (status.st_dev, status.st_ino)
                    if key in seen:
                        continue
                    seen.add(key)
                stack.append(_entries(path, follow_links=follow_links))
            except OSError as e:
                yield path, e
        elif _is_wanted(path, all_files=all_files):
            yield path, None


def _entries(folder: str, *, follow_links: bool) -> Iterator[str]:
    """Return a folder's paths sorted by name, folders with a slash at the end.

    The one list that is held whole: the names of one folder. Sorted, since a resumed run must meet
    the same order.
    """
    names = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                names.append(entry.name + "/")
            elif not (entry.is_symlink() and os.path.isdir(entry.path)):  # noqa: PTH112
                names.append(entry.name)
            elif follow_links:
                names.append(entry.name + "/")
    names.sort()
    return (folder + name for name in names)


def _is_wanted(path: str, *, all_files: bool) -> bool:
    if not all_files:
        return os.path.splitext(path)[1].lower() in EXTENSIONS  # noqa: PTH122
    try:
        if not stat.S_ISREG(Path(path).stat().st_mode):
            return False
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            return is_image(file.read(16))
    except OSError:
        return True  # what cannot be read may have been an image: a row says so


def globbed(pattern: str) -> Iterator[str]:
    """Yield the files that match, sorted in each folder; `**` stands for any folders, or none."""
    root, *parts = pattern.split("/")
    if not root:  # an absolute pattern
        yield from _matched("/", [p for p in parts if p])
    else:
        yield from _matched("", [root, *(p for p in parts if p)])


def _matched(folder: str, parts: list[str]) -> Iterator[str]:
    part, *rest = parts
    if part != "**" and not _WILD.search(part):
        path = folder + part
        if rest:
            yield from _matched(path + "/", rest)
        elif os.path.lexists(path) and not os.path.isdir(path):  # noqa: PTH112
            yield path
        return
    if part == "**" and rest:
        yield from _matched(folder, rest)
    try:
        entries = list(_entries(folder or "./", follow_links=part != "**"))
    except OSError:
        return
    matches = re.compile(fnmatch.translate("*" if part == "**" else part)).match
    for path in entries:
        name = path[len(folder or "./") :]
        is_folder = name.endswith("/")
        if not matches(name.rstrip("/")) or (name.startswith(".") and not part.startswith(".")):
            continue
        if part == "**" and is_folder:
            yield from _matched(folder + name, ["**", *rest])
        elif is_folder and rest:
            yield from _matched(folder + name, rest)
        elif not is_folder and not rest:
            yield folder + name

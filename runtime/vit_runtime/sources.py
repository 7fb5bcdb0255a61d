"""From what a user names to single images, streaming: files, folders, globs, URLs, lists."""

import fnmatch
import os
import re
import stat
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image

from vit_runtime.decode import (
    EXTENSIONS,
    LIMITS,
    Limits,
    bytes_from_path,
    image_from_bytes,
    is_image,
)
from vit_runtime.errors import ImageError, UsageError

URL_TIMEOUT = 30.0
"""Seconds for a whole download, and for each wait on the network within it."""

_URL = re.compile(r"https?://", re.IGNORECASE)
_WILD = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class Item:
    """One row to be: `path` is what the row shows (undecodable bytes as surrogates)."""

    path: str
    data: bytes | None = None  # set where the source has been read already
    error: ImageError | None = None  # set where there is nothing to read


def items_from_sources(
    sources: Iterable[str],
    *,
    all_files: bool = False,
    follow_links: bool = False,
    null: bool = False,
    stdin: BinaryIO | None = None,
) -> Iterator[Item]:
    """Yield the images that the sources name, in order, found while the caller works.

    A source is a file, a folder (searched recursively, each folder sorted by name, by extension or
    with `all_files` by signature), a glob (files alone), an http(s) URL, or `-`: a list of files
    and URLs on stdin, one a line, or NUL-terminated with `null`. A file that is absent is an item
    all the same; `UsageError`, before the first item, for no source at all, a folder without an
    image and a glob without a match.
    """
    sources = list(sources)
    if not sources:
        raise UsageError("no source given; name a file, a folder, a glob, a URL, or - for stdin")
    if sources.count("-") > 1:
        raise UsageError("- is given twice, and stdin can be read only once")

    def found(source: str) -> Iterator[Item]:
        if source == "-":
            return _listed(stdin or sys.stdin.buffer, null=null)
        if is_url(source):
            return iter((Item(source),))
        if os.path.isdir(source):  # noqa: PTH112  a Path would tidy the user's spelling
            return _walked(source, all_files=all_files, follow_links=follow_links)
        if _WILD.search(source) and not os.path.lexists(source):
            return (Item(path) for path in _globbed(source))
        return iter((Item(source),))

    for source in sources:
        if os.path.isdir(source):  # noqa: PTH112
            if next(found(source), None) is None:
                kinds = "file with an image's signature" if all_files else "image"
                more = "" if all_files else " (searched by extension; --all-files looks inside)"
                raise UsageError(f"{printable(source)}: no {kinds} in this folder{more}")
        elif (
            not is_url(source)
            and _WILD.search(source)
            and not os.path.lexists(source)
            and next(found(source), None) is None
        ):
            raise UsageError(f"{printable(source)}: no file matches this pattern")
    return (item for source in sources for item in found(source))


def bytes_from_item(item: Item, *, limits: Limits = LIMITS) -> bytes:
    """Read or download what an item names; `ImageError` where that cannot be."""
    if item.error is not None:
        raise item.error
    if item.data is not None:
        return item.data
    if is_url(item.path):
        return bytes_from_url(item.path, limits=limits)
    return bytes_from_path(item.path, limits=limits)


def image_from_item(item: Item, *, limits: Limits = LIMITS) -> Image.Image:
    """Read or download, and decode; `ImageError` where that cannot be."""
    return image_from_bytes(bytes_from_item(item, limits=limits), limits=limits)


def bytes_from_url(url: str, *, limits: Limits = LIMITS, timeout: float = URL_TIMEOUT) -> bytes:
    """Download an image: at most `limits.max_bytes`, within `timeout` seconds in all."""
    deadline = time.monotonic() + timeout
    parts, size = [], 0
    try:
        with _opener().open(url, timeout=timeout) as response:
            expected = response.length
            if expected is not None and expected > limits.max_bytes:
                raise ImageError(
                    "too_large", f"has {expected} bytes, the limit is {limits.max_bytes}"
                )
            while part := response.read1(2**16):
                size += len(part)
                if size > limits.max_bytes:
                    raise ImageError("too_large", f"has more than {limits.max_bytes} bytes")
                if time.monotonic() > deadline:
                    raise TimeoutError
                parts.append(part)
    except urllib.error.HTTPError as e:
        with e:
            code = "permission" if e.code in (401, 403) else "missing"
            raise ImageError(code, f"the server answered {e.code} {e.reason}".rstrip()) from e
    except TimeoutError as e:
        raise ImageError("timeout", f"was not downloaded within {timeout:g} s") from e
    except (OSError, ValueError, EOFError) as e:
        reason = getattr(e, "reason", e)
        if isinstance(reason, TimeoutError):
            raise ImageError("timeout", f"was not downloaded within {timeout:g} s") from e
        raise ImageError("missing", f"cannot be downloaded: {reason}") from e
    if expected is not None and size < expected:
        raise ImageError("truncated", f"the download ended after {size} of {expected} bytes")
    if not size:
        raise ImageError("empty", "is empty")
    return b"".join(parts)


def is_url(source: str) -> bool:
    """Tell whether a source is to be downloaded."""
    return _URL.match(source) is not None


def printable(path: str) -> str:
    """Return a path fit for a terminal line: undecodable bytes and control characters escaped."""
    text = path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


class _HttpOnly(urllib.request.HTTPRedirectHandler):
    """Follow redirects to http(s) alone: urllib would go to ftp too."""

    def redirect_request(self, *request: Any) -> urllib.request.Request | None:
        if not is_url(request[-1]):
            request[1].close()
            raise ValueError(f"redirected to {request[-1]:.80}, not http or https")
        return super().redirect_request(*request)


def _opener() -> urllib.request.OpenerDirector:
    opener = urllib.request.build_opener(_HttpOnly)
    opener.addheaders = [("User-Agent", "vit-engine"), ("Accept", "image/*,*/*;q=0.5")]
    return opener


def _listed(stdin: BinaryIO, *, null: bool) -> Iterator[Item]:
    end = b"\0" if null else b"\n"
    rest = b""
    while block := os.read(stdin.fileno(), 2**16):
        *names, rest = (rest + block).split(end)
        yield from _named(names, null=null)
    yield from _named([rest], null=null)


def _named(names: list[bytes], *, null: bool) -> Iterator[Item]:
    for name in names:
        if not null:
            if b"\0" in name:
                raise UsageError("the list on stdin is NUL-separated; add -0")
            name = name.removesuffix(b"\r")  # noqa: PLW2901
        if name:
            yield Item(os.fsdecode(name))


def _walked(top: str, *, all_files: bool, follow_links: bool) -> Iterator[Item]:
    """Search a folder depth first. Its stack, not Python's, so that depth is the file system's."""
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
                code = "permission" if isinstance(e, PermissionError) else "missing"
                yield Item(path, error=ImageError(code, f"cannot be listed: {e.strerror}"))
        elif _is_wanted(path, all_files=all_files):
            yield Item(path)


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


def _globbed(pattern: str) -> Iterator[str]:
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

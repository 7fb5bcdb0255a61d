"""From what a user names to single images, streaming: files, folders, globs, URLs, lists."""

import os
import re
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from PIL import Image

from vit_runtime import folders
from vit_runtime.decode import LIMITS, Limits, bytes_from_path, image_from_bytes
from vit_runtime.errors import ImageError, UsageError

URL_TIMEOUT = 30.0
"""Seconds for a whole download, and for each wait on the network within it."""

_URL = re.compile(r"https?://", re.IGNORECASE)

TARS = (".tar", ".tar.gz", ".tgz")
"""Names of files that hold images."""

TABLES = (".csv", ".parquet")
"""Names of files that hold paths."""

DEFAULT_COLUMN = "path"
"""Of the paths in a CSV or Parquet file."""


@dataclass(frozen=True)
class Span:
    """A part of a file: `size` bytes from `start`."""

    file: str
    start: int
    size: int


@dataclass(frozen=True)
class Item:
    """One row to be: `path` is what the row shows (undecodable bytes as surrogates)."""

    path: str
    data: bytes | None = None  # set where the source has been read already
    span: Span | None = None  # set where the image lies within a file
    error: ImageError | None = None  # set where there is nothing to read


def items_from_sources(
    sources: Iterable[str],
    *,
    all_files: bool = False,
    follow_links: bool = False,
    null: bool = False,
    column: str = DEFAULT_COLUMN,
    stdin: BinaryIO | None = None,
) -> Iterator[Item]:
    """Yield the images that the sources name, in order, found while the caller works.

    A source is a file, a folder (searched recursively, each folder sorted by name, by extension or
    with `all_files` by signature), a glob (files alone), an http(s) URL, a tar of images, a CSV or
    Parquet file with a `column` of paths, or `-`: a list of files and URLs on stdin, one a line, or
    NUL-terminated with `null`. A file that is absent is an item all the same; `UsageError`, before
    the first item, for no source at all, a folder without an image, a glob without a match and a
    table without the column.
    """
    sources = list(sources)
    if not sources:
        raise UsageError("no source given; name a file, a folder, a glob, a URL, or - for stdin")
    if sources.count("-") > 1:
        raise UsageError("- is given twice, and stdin can be read only once")

    def in_file(path: str) -> Iterator[Item]:
        if path.lower().endswith(TARS):
            from vit_runtime.archives import items_from_tar

            return items_from_tar(path, all_files=all_files)
        if path.lower().endswith(TABLES):
            from vit_runtime.archives import items_from_table

            return items_from_table(path, column)
        return iter((Item(path),))

    def found(source: str) -> Iterator[Item]:
        if source == "-":
            return _listed(stdin or sys.stdin.buffer, null=null)
        if is_url(source):
            return iter((Item(source),))
        if os.path.isdir(source):  # noqa: PTH112  a Path would tidy the user's spelling
            walk = folders.walked(source, all_files=all_files, follow_links=follow_links)
            return (Item(path, error=_unlisted(e)) for path, e in walk)
        if folders.is_pattern(source):
            return (item for path in folders.globbed(source) for item in in_file(path))
        return in_file(source)

    for source in sources:
        if source == "-" or is_url(source):
            continue
        if os.path.isdir(source):  # noqa: PTH112
            if next(found(source), None) is None:
                kinds = "file with an image's signature" if all_files else "image"
                more = "" if all_files else " (searched by extension; --all-files looks inside)"
                raise UsageError(f"{printable(source)}: no {kinds} in this folder{more}")
        elif folders.is_pattern(source):
            if next(folders.globbed(source), None) is None:
                raise UsageError(f"{printable(source)}: no file matches this pattern")
        elif source.lower().endswith(TABLES):
            from vit_runtime.archives import check_column

            check_column(source, column)
    return (item for source in sources for item in found(source))


def bytes_from_item(item: Item, *, limits: Limits = LIMITS) -> bytes:
    """Read or download what an item names; `ImageError` where that cannot be."""
    if item.error is not None:
        raise item.error
    if item.data is not None:
        return item.data
    if item.span is not None:
        return bytes_from_path(
            item.span.file, limits=limits, part=(item.span.start, item.span.size)
        )
    if is_url(item.path):
        return bytes_from_url(item.path, limits=limits)
    return bytes_from_path(item.path, limits=limits)


def image_from_item(
    item: Item, *, limits: Limits = LIMITS, draft: tuple[int, int] | None = None
) -> Image.Image:
    """Read or download, and decode as `image_from_bytes`; `ImageError` where that cannot be."""
    return image_from_bytes(bytes_from_item(item, limits=limits), limits=limits, draft=draft)


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


def _unlisted(e: OSError | None) -> ImageError | None:
    if e is None:
        return None
    code = "permission" if isinstance(e, PermissionError) else "missing"
    return ImageError(code, f"cannot be listed: {e.strerror}")


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

"""Lists of names on stdin, as they come."""

import os
import select
from collections.abc import Iterator
from typing import BinaryIO

from vit_engine.errors import ImageError, UsageError
from vit_engine.sources.sample import Sample
from vit_engine.sources.tables.paths import item_from_name, longest


def items_from_list(stdin: BinaryIO, *, null: bool) -> Iterator[Sample]:
    """Yield the files and URLs that a list names, one a line, or NUL-terminated with `null`.

    They come as they are written. A line that can be no name is an item with its error, and so is a
    read that fails later. UsageError with the first line for a list that is NUL-terminated or
    UTF-16 unasked.
    """
    number = 0
    try:
        for number, line in enumerate(_lines(stdin, b"\0" if null else b"\n"), 1):
            name = line if null else _name_in(line, first=number == 1)
            if name:
                yield item_from_name(name, f"-:{number}")
    except OSError as e:
        message = f"the list on stdin cannot be read ({e.strerror})"
        if not number:
            raise UsageError(message) from e
        yield Sample(f"-:{number + 1}", error=ImageError("truncated", message))


def _name_in(line: bytes, *, first: bool) -> bytes:
    if first:
        line = line.removeprefix(b"\xef\xbb\xbf")
        if line.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise UsageError("the list on stdin is UTF-16; it has to be UTF-8 (iconv -f UTF-16)")
        if b"\0" in line:
            raise UsageError("the list on stdin is NUL-separated; add -0")
    return line.removesuffix(b"\r")


def _lines(stdin: BinaryIO, end: bytes) -> Iterator[bytes]:
    """Yield the lines as they come, one that is too long cut, to what is too long still."""
    parts: list[bytes] = []
    size = 0
    while block := _block(stdin.fileno()):
        first, *others = block.split(end)
        if size <= longest(b"".join(parts[:2])):
            parts.append(first)
            size += len(first)
        if others:
            yield b"".join(parts)
            yield from others[:-1]
            parts, size = [others[-1]], len(others[-1])
    yield b"".join(parts)


def _block(descriptor: int) -> bytes:
    while True:
        try:
            return os.read(descriptor, 2**16)
        except BlockingIOError:  # another program has made it so
            select.select([descriptor], [], [])

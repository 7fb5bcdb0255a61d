"""Images in tar files, plain and gzipped, as they are read."""

import os
import posixpath
from collections import Counter
from collections.abc import Iterator
from io import FileIO
from typing import NamedTuple, Protocol

from vit_engine.errors import ImageError, one_line, printable
from vit_engine.sources.archives.members import Member, members
from vit_engine.sources.archives.streams import GunzippedStream, PlainStream, Stream
from vit_engine.sources.files import open_regular, read_error, too_many_bytes
from vit_engine.sources.folders import by_name, why_passed_over
from vit_engine.sources.item import LIMITS, Item, Span
from vit_engine.sources.signatures import HEAD, is_image, unread_format

_GZIP = b"\x1f\x8b"

_REMEMBERED = 2**15
"""Members of late that a link may name, and as many before them: some megabytes of names."""

_READ_AGAIN = 2**32
"""Bytes that are unpacked again, in all, for the links of one gzipped tar: ten seconds or so."""

_Verdict = tuple[bool, str | None]  # whether it is an image, and the format of one not read


class _Place(NamedTuple):
    """Where the bytes of a member are, and what is thought of them where they were looked at."""

    start: int
    size: int
    verdict: _Verdict | None


def items_from_tar(
    path: str, *, all_files: bool, passed_over: Counter[str] | None = None
) -> Iterator[Item]:
    """Yield a tar's images in its order, by extension or signature, as `path`/member.

    A member of a plain tar is a span of it. Those of a gzipped one come with their bytes, up to the
    limit. What is wrong with the tar is an item `path` with an error, in its place among the
    members. `passed_over` is that of `folders.walked`.
    """
    counts = Counter[str]() if passed_over is None else passed_over
    try:
        with open_regular(path) as file:
            if os.pread(file.fileno(), len(_GZIP), 0) == _GZIP:
                with GunzippedStream(file) as stream:
                    tar = _GzippedTar(path, stream)
                    yield from _images(tar, all_files=all_files, passed_over=counts)
                    while stream.skip(2**20):  # the checksum is at its end
                        pass
            else:
                yield from _images(_PlainTar(path, file), all_files=all_files, passed_over=counts)
    except ImageError as e:
        yield Item(path, error=e)
    except OSError as e:
        yield Item(path, error=read_error(e))


class _Tar(Protocol):
    path: str

    @property
    def stream(self) -> Stream:
        """The bytes of the tar."""

    def head(self, size: int) -> bytes:
        """Return the first bytes of the data that come now."""

    def item(self, name: str, start: int, size: int) -> Item:
        """Return an item of the bytes that come now, or of some that came before."""


class _PlainTar:
    """A tar whose members are read where they are decoded."""

    def __init__(self, path: str, file: FileIO) -> None:
        self.path, self.stream = path, PlainStream(file)
        self._fd = file.fileno()

    def head(self, size: int) -> bytes:
        return os.pread(self._fd, size, self.stream.position)

    def item(self, name: str, start: int, size: int) -> Item:
        return Item(name, span=Span(self.path, start, size))


class _GzippedTar:
    """A tar whose members are read as they come, and from the beginning again for a link."""

    def __init__(self, path: str, stream: GunzippedStream) -> None:
        self.path, self.stream = path, stream
        self._head = (0, b"")  # what has been read of the data that come now, and where they begin
        self._read_again = 0

    def head(self, size: int) -> bytes:
        self._head = self.stream.position, self.stream.read(size)
        return self._head[1]

    def item(self, name: str, start: int, size: int) -> Item:
        begin, head = self._head
        if start != begin:
            head = b""
        try:
            data = self._read(start + len(head), size - len(head))
        except ImageError as e:
            return Item(name, error=e)
        if head:
            data = head + data
        if len(data) < size:
            words = f"is cut short: {len(data)} of {size} bytes are there"
            return Item(name, error=ImageError("truncated", words))
        return Item(name, data=data)

    def _read(self, start: int, size: int) -> bytes:
        if start >= self.stream.position:
            return self.stream.read(size)
        self._read_again += start + size
        if self._read_again > _READ_AGAIN:
            raise ImageError(
                "too_large", "is one link too many: a gzipped tar is read again for each; unpack it"
            )
        with open_regular(self.path) as file, GunzippedStream(file) as stream:
            stream.skip(start)
            return stream.read(size)


class _Names:
    """Where the members lie that a link may name: those of late, so that memory does not grow."""

    def __init__(self) -> None:
        self._new: dict[str, _Place] = {}
        self._old: dict[str, _Place] = {}

    def add(self, name: str, place: _Place) -> None:
        if len(self._new) == _REMEMBERED:
            self._old, self._new = self._new, {}
        self._new[posixpath.normpath(name)] = place

    def place(self, name: str) -> _Place | None:
        name = posixpath.normpath(name)
        return self._new.get(name) or self._old.get(name)


def _images(tar: _Tar, *, all_files: bool, passed_over: Counter[str]) -> Iterator[Item]:
    names = _Names()
    for member in members(tar.stream):
        if isinstance(member, ImageError):
            yield Item(tar.path, error=member)
            continue
        name = f"{tar.path}/{member.name}"
        place = _place(member, names, tar if all_files else None)
        if place is not None:
            names.add(member.name, place)
        verdict = by_name(name) if place is None or place.verdict is None else place.verdict
        wanted, unread = verdict
        if reason := why_passed_over(member.name, wanted=wanted, unread=unread):
            passed_over[reason] += 1
        elif not wanted:
            continue
        elif place is None:
            yield Item(name, error=_no_data(member))
        elif place.size > LIMITS.max_bytes:
            yield Item(name, error=too_many_bytes(place.size, LIMITS))
        else:
            yield tar.item(name, place.start, place.size)


def _place(member: Member, names: _Names, looked_at: _Tar | None) -> _Place | None:
    """Return where the bytes of a member are, None where there are none or not as they are."""
    if member.kind == "file":
        verdict = None
        if looked_at is not None:
            head = looked_at.head(min(HEAD, member.size))
            verdict = is_image(head), unread_format(head)
        return _Place(member.start, member.size, verdict)
    if member.kind == "hard link":
        return names.place(member.target)
    if member.kind == "symbolic link":
        return names.place(posixpath.join(posixpath.dirname(member.name), member.target))
    return None


def _no_data(member: Member) -> ImageError:
    if member.kind in ("hard link", "symbolic link"):
        target = one_line(printable(member.target))
        return ImageError(
            "missing", f"is a {member.kind} to {target}, which is not before it in the tar"
        )
    if member.kind == "sparse file":
        return ImageError(
            "format", "is stored as a sparse file, which is not read; make the tar without --sparse"
        )
    return ImageError("not_regular", f"is a {member.kind}, not a regular file")

"""Images in tar files, plain and gzipped, as they are read."""

import os
import posixpath
from collections import Counter
from collections.abc import Iterator
from io import FileIO
from typing import Protocol

from vit_engine.errors import ImageError, UsageError, one_line, printable
from vit_engine.sources.archives.members import Member, members
from vit_engine.sources.archives.streams import GunzippedStream, PlainStream, Stream
from vit_engine.sources.files import open_regular, read_error, too_many_bytes
from vit_engine.sources.folders import by_name, in_words, why_passed_over
from vit_engine.sources.item import LIMITS, Item, Span
from vit_engine.sources.signatures import HEAD, is_image, unread_format

_GZIP = b"\x1f\x8b"

_REMEMBERED = 2**15
"""Members of late that a link may name, and as many before them: some megabytes of names."""

_READ_AGAIN = 2**32
"""Bytes that are unpacked again, in all, for the links of one gzipped tar: ten seconds or so."""

_Place = tuple[int, int]  # where a member's data begin, and how many bytes they are


def items_from_tar(
    path: str, *, all_files: bool, passed_over: Counter[str] | None = None
) -> Iterator[Item]:
    """Yield a tar's images in its order, by extension or signature, as `path`/member.

    A member of a plain tar is a span of it. Those of a gzipped one come with their bytes, up to the
    limit. What is wrong with the tar is an item `path` with an error, in its place among the
    members; so is a tar that holds no image. `passed_over` is that of `folders.walked`.
    """
    counts = Counter[str]() if passed_over is None else passed_over
    before = counts.copy()
    found = False
    for item in _items(path, all_files=all_files, passed_over=counts):
        found = True
        yield item
    if not found:
        words = _no_image(all_files=all_files, passed_over=counts - before)
        yield Item(path, error=ImageError("empty", words))


def check_tar(path: str, *, all_files: bool) -> None:
    """Raise UsageError for a tar that is sound and holds no image; read as far as its first."""
    counts = Counter[str]()
    if next(_items(path, all_files=all_files, passed_over=counts), None) is None:
        words = _no_image(all_files=all_files, passed_over=counts)
        raise UsageError(f"{printable(path)}: {words}")


def _no_image(*, all_files: bool, passed_over: Counter[str]) -> str:
    kinds = "file with an image's signature" if all_files else "image"
    more = "" if all_files else " (searched by extension; --all-files looks inside)"
    also = f"; passed over: {in_words(passed_over)}" if passed_over else ""
    return f"no {kinds} in this tar{more}{also}"


def _items(path: str, *, all_files: bool, passed_over: Counter[str]) -> Iterator[Item]:
    try:
        with open_regular(path) as file:
            if os.pread(file.fileno(), len(_GZIP), 0) == _GZIP:
                with GunzippedStream(file) as stream:
                    tar = _GzippedTar(path, stream)
                    yield from _images(tar, all_files=all_files, passed_over=passed_over)
                    while stream.skip(2**20):  # the checksum is at its end
                        pass
            else:
                yield from _images(
                    _PlainTar(path, file), all_files=all_files, passed_over=passed_over
                )
    except ImageError as e:
        yield Item(path, error=e)
    except OSError as e:
        yield Item(path, error=read_error(e))


class _Tar(Protocol):
    path: str

    @property
    def stream(self) -> Stream:
        """The bytes of the tar."""

    def head(self, place: _Place) -> bytes:
        """Return the first bytes of a member, of this one or one before."""

    def item(self, name: str, place: _Place) -> Item:
        """Return a member, this one or one before, within the limit of size."""


class _PlainTar:
    """A tar whose members are read where they are decoded."""

    def __init__(self, path: str, file: FileIO) -> None:
        self.path, self.stream = path, PlainStream(file)
        self._fd = file.fileno()

    def head(self, place: _Place) -> bytes:
        start, size = place
        return os.pread(self._fd, min(HEAD, size), start)

    def item(self, name: str, place: _Place) -> Item:
        return Item(name, span=Span(self.path, *place))


class _GzippedTar:
    """A tar whose members are read as they come, and from the beginning again for a link."""

    def __init__(self, path: str, stream: GunzippedStream) -> None:
        self.path, self.stream = path, stream
        self._heads: dict[_Place, bytes] = {}
        self._read_again = 0

    def head(self, place: _Place) -> bytes:
        start, size = place
        self._heads = {place: self._read(start, min(HEAD, size))}
        return self._heads[place]

    def item(self, name: str, place: _Place) -> Item:
        start, size = place
        head = self._heads.get(place, b"")
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
                "too_large", "is one link too many for a gzipped tar, which is unpacked for each"
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
        place = _place(member, names)
        if place is not None:
            names.add(member.name, place)
        name = f"{tar.path}/{member.name}"
        wanted, unread = by_name(name)
        if all_files and place is not None:
            head = tar.head(place)
            wanted, unread = is_image(head), unread_format(head)
        if reason := why_passed_over(member.name, wanted=wanted, unread=unread):
            passed_over[reason] += 1
        elif not wanted:
            continue
        elif place is None:
            yield Item(name, error=_no_data(member))
        elif place[1] > LIMITS.max_bytes:
            yield Item(name, error=too_many_bytes(place[1], LIMITS))
        else:
            yield tar.item(name, place)


def _place(member: Member, names: _Names) -> _Place | None:
    """Return where the bytes of a member are, None where there are none or not as they are."""
    if member.kind == "file":
        return member.start, member.size
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
        return ImageError("format", "is stored sparse, which is not read; tar without --sparse")
    return ImageError("not_regular", f"is a {member.kind}, not a regular file")

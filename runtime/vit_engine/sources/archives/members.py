"""The members of a tar, one after the other, in memory that no header has a say in.

Single headers are read by Python's tarfile. The way from one to the next is ours: tarfile takes
what a header claims into memory, and a damaged header for the end of the archive.
"""

import re
import tarfile
from collections.abc import Iterator
from typing import Literal, NamedTuple

from vit_engine.errors import ImageError
from vit_engine.sources.archives.streams import Stream

MAX_NAME = 4096
"""Bytes of the longest name of a member, as of the longest path that Linux opens."""

MAX_EXTENSION = 2**20
"""Bytes of the longest header that extends the next one, by a long name or by PAX records."""

MAX_RECORDS = 1000
"""PAX records, keyword=value, of one header."""

Kind = Literal[
    "file", "sparse file", "hard link", "symbolic link", "character device", "block device", "FIFO"
]


class Member(NamedTuple):
    """What a header says: `size` bytes of data from `start`, or the `target` that a link names."""

    name: str
    kind: Kind
    start: int
    size: int
    target: str


_KINDS: dict[bytes, Kind] = {
    tarfile.GNUTYPE_SPARSE: "sparse file",
    tarfile.LNKTYPE: "hard link",
    tarfile.SYMTYPE: "symbolic link",
    tarfile.CHRTYPE: "character device",
    tarfile.BLKTYPE: "block device",
    tarfile.FIFOTYPE: "FIFO",
}  # any other is a file, as POSIX has it for types to come
_WITHOUT_DATA = (tarfile.DIRTYPE, *(t for t in _KINDS if t != tarfile.GNUTYPE_SPARSE))
_NO_MEMBERS = (tarfile.DIRTYPE, b"D", b"V", b"N", b"A")  # GNU's and Solaris' lists, labels, rights
_LONG_NAMES = {tarfile.GNUTYPE_LONGNAME: b"path", tarfile.GNUTYPE_LONGLINK: b"linkpath"}
_PAX = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)
_EXTENSIONS = (*_LONG_NAMES, *_PAX, tarfile.XGLTYPE)

_WANTED = (b"path", b"linkpath", b"size", b"GNU.sparse.name")
_SPARSE = b"GNU.sparse."

_BLOCK = tarfile.BLOCKSIZE
_ZEROS = bytes(_BLOCK)
_MAX_ZEROS = 2**16 // _BLOCK  # blocks in a row, with which an archive has ended
_RECORD = re.compile(rb"([0-9]{1,7}) ([^=\n]+)=")
_NUMBER = re.compile(rb"[0-9]{1,18}")


def members(stream: Stream) -> Iterator[Member | ImageError]:
    """Yield the members that may be images, and what is wrong with the archive where it is wrong.

    Behind a damaged header the next sound one is sought. When a member is yielded the stream is at
    the beginning of its data, of which the caller may read.
    """
    begun = False
    records: dict[bytes, bytes] = {}  # that extend the next header
    while block := stream.read(_BLOCK):
        at = stream.position - len(block)
        if len(block) < _BLOCK and begun:
            yield ImageError("truncated", f"ends within a header, at byte {at}")
            return
        if (header := _header(block)) is None:
            block, damaged = _next_header(stream, block)
            header = _header(block)
            if damaged:
                records = {}
                yield _damage(at, None if header is None else stream.position - _BLOCK, begun=begun)
            if header is None:
                break
            at = stream.position - _BLOCK
        begun, error = True, None
        if header.type in _EXTENSIONS:
            start, size = stream.position, header.size
            error = _extend(records, header, stream)
        else:
            if header.type == tarfile.GNUTYPE_SPARSE:
                _skip_map(stream, block)
            start, size = stream.position, int(records.get(b"size", header.size))
            if header.type in _WITHOUT_DATA:
                size = 0
            if header.type not in _NO_MEMBERS:
                yield _member(header, records, start, size)
            records = {}
        if not stream.skip(start + -(-size // _BLOCK) * _BLOCK - stream.position):
            yield ImageError(
                "truncated", f"ends within the data that its header at byte {at} announces"
            )
            return
        if error is not None:
            yield error
    if records:
        yield ImageError("truncated", "ends where its last header says that another one follows")


def _header(block: bytes) -> tarfile.TarInfo | None:
    """Return a block's header, None where it is none or a damaged one."""
    try:
        header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return None
    return header if header.size >= 0 else None


def _next_header(stream: Stream, block: bytes) -> tuple[bytes, bool]:
    """Go on from a block that is no header to one that is, or to the end, which is b"".

    Tell, too, whether what was passed is damage. Two blocks of zeros end an archive, and behind
    them may lie anything; a header there begins an archive that was appended, or what is left of
    this one where a piece of it was overwritten by zeros.
    """
    zeros = first_zeros = 0
    other = len(block) < _BLOCK
    while len(block) == _BLOCK and zeros < _MAX_ZEROS:
        if block == _ZEROS:
            zeros += 1
            first_zeros += not other
        elif block[148] in b" 01234567" and _header(block) is not None:  # a checksum, in octal
            return block, other or first_zeros < 2
        else:
            zeros, other = 0, True
        block = stream.read(_BLOCK)
    return b"", other and first_zeros < 2


def _damage(at: int, following: int | None, *, begun: bool) -> ImageError:
    if following is not None:
        return ImageError(
            "decode",
            f"the header at byte {at} is damaged: what lay from there to byte {following}, "
            "where the next sound one is, is lost",
        )
    if begun:
        return ImageError("decode", f"the header at byte {at} is damaged, and no other follows it")
    return ImageError("format", "is not a tar archive")


def _extend(
    records: dict[bytes, bytes], header: tarfile.TarInfo, stream: Stream
) -> ImageError | None:
    """Take up what a header says of the next one; return what is wrong with it."""
    at = stream.position - _BLOCK
    if header.type == tarfile.XGLTYPE:  # of all that follow: nothing that a name or size would be
        return None
    if header.size > MAX_EXTENSION:
        return ImageError(
            "too_large",
            f"has a header of {header.size} bytes at byte {at}, the limit is {MAX_EXTENSION}",
        )
    data = stream.read(header.size)
    try:
        if header.type in _PAX:
            records |= _pax_records(data)
        else:
            records[_LONG_NAMES[header.type]] = data
    except ValueError as e:
        return ImageError("decode", f"the PAX header at byte {at} is damaged: {e}")
    return None


def _pax_records(data: bytes) -> dict[bytes, bytes]:
    """Return those PAX records, "17 keyword=value\\n" each, that matter here; ValueError."""
    found: dict[bytes, bytes] = {}
    at = 0
    for _ in range(MAX_RECORDS):
        if at == len(data) or data[at] == 0:
            return found
        record = _RECORD.match(data, at)
        end = at + int(record[1]) if record else 0
        if record is None or not record.end() < end <= len(data) or data[end - 1] != ord("\n"):
            raise ValueError(f"no record begins at its byte {at}")
        keyword, value = record[2], data[record.end() : end - 1]
        if keyword == b"size" and not _NUMBER.fullmatch(value):
            raise ValueError(f"its size is {value[:20]!r}")
        if keyword.startswith(_SPARSE):
            found[_SPARSE] = b""
        if keyword in _WANTED:
            found[keyword] = value
        at = end
    raise ValueError(f"it has more than {MAX_RECORDS} records")


def _skip_map(stream: Stream, block: bytes) -> None:
    """Pass over the blocks that go on with the map of an old GNU sparse header."""
    follows = block[482]
    while follows:
        block = stream.read(_BLOCK)
        follows = len(block) == _BLOCK and block[504]


def _member(
    header: tarfile.TarInfo, records: dict[bytes, bytes], start: int, size: int
) -> Member | ImageError:
    name, target = header.name, header.linkname
    if records:
        name = _text(records.get(b"GNU.sparse.name") or records.get(b"path")) or name
        target = _text(records.get(b"linkpath")) or target
    if max(len(name), len(target)) > MAX_NAME:
        return ImageError(
            "too_large",
            f"has a member at byte {start} whose name or link is longer than {MAX_NAME} characters",
        )
    kind: Kind = "sparse file" if _SPARSE in records else _KINDS.get(header.type, "file")
    return Member(name, kind, start, size, target)


def _text(name: bytes | None) -> str:
    return (name or b"").partition(b"\0")[0].decode("utf-8", "surrogateescape")

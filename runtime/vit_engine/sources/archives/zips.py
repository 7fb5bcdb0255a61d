"""Images in zip files, by the directory at their end, in memory that no file has a say in.

Python's zipfile takes that directory into memory whole, half a gigabyte and half a minute for a
million members; here it is read entry by entry. Formats as in PKWARE's APPNOTE.TXT, sections 4.3
and 4.5.
"""

import os
import stat
import struct
import zlib
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from vit_engine.errors import ImageError
from vit_engine.sources.files import open_regular, read_error, too_many_bytes
from vit_engine.sources.folders import Verdict, by_head, by_name, is_wanted
from vit_engine.sources.sample import LIMITS, ByteRange, Sample
from vit_engine.sources.signatures import HEAD

_END = struct.Struct("<4s4H2LH")
_LOCATOR = struct.Struct("<4sLQL")
_END_64 = struct.Struct("<4sQ2H2L4Q")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_LONGEST_COMMENT = 2**16
_BLOCK = 2**16
_ABSENT = 0xFFFFFFFF  # where a number is in the entry's 64-bit extra field instead
_ENCRYPTED, _UTF8 = 0x1, 0x800
_STORED, _DEFLATED = 0, 8
_METHODS = {9: "Deflate64", 12: "bzip2", 14: "LZMA", 93: "Zstandard", 95: "XZ", 99: "AES"}


class _Member(NamedTuple):
    """What an entry of the directory says: `packed` bytes behind the local header at `header`."""

    name: str
    header: int
    packed: int
    size: int
    crc: int
    method: int
    is_encrypted: bool
    is_link: bool


def items_from_zip(path: str, *, all_files: bool, skipped: Counter[str]) -> Iterator[Sample]:
    """Yield a zip's images in its order, by extension or signature, as `path`/member.

    Each is a span of the zip, packed or not. What is wrong with the zip is an item `path` with an
    error. `skipped` is that of `folders.is_wanted`.
    """
    try:
        with open_regular(path) as file:
            for member in _members(file.fileno()):
                item, verdict = _item(path, file.fileno(), member, all_files=all_files)
                if is_wanted(member.name, verdict, skipped):
                    yield item
    except ImageError as e:
        yield Sample(path, error=e)
    except OSError as e:
        yield Sample(path, error=read_error(e))


def _item(path: str, file: int, member: _Member, *, all_files: bool) -> tuple[Sample, Verdict]:
    """Return a member as an item, and whether it is an image."""
    name = f"{path}/{member.name}"
    span = error = None
    head = b""
    try:
        span = _span(path, file, member)
        head = _head(file, span) if all_files else b""
    except ImageError as e:
        error = e
    return Sample(name, span=span, error=error), by_head(head) if head else by_name(name)


def _span(path: str, file: int, member: _Member) -> ByteRange:
    """Return where a member's bytes are; ImageError where they cannot be had."""
    if member.is_link:
        raise ImageError("not_regular", "is a symbolic link, which is not followed in a zip")
    if member.is_encrypted:
        raise ImageError("format", "is encrypted; unpack the zip with its password")
    if member.method not in (_STORED, _DEFLATED):
        method = _METHODS.get(member.method, f"method {member.method}")
        message = f"is packed with {method}, which is not read; unpack the zip"
        raise ImageError("format", message)
    if max(member.size, member.packed) > LIMITS.max_bytes:
        raise too_many_bytes(max(member.size, member.packed), LIMITS)
    total = os.fstat(file).st_size
    local = os.pread(file, _LOCAL.size, min(member.header, total))
    if len(local) < _LOCAL.size or local[:4] != b"PK\3\4":
        raise ImageError("decode", "is not where the zip's directory says; the zip is damaged")
    *_, name, extra = _LOCAL.unpack(local)
    start = member.header + _LOCAL.size + name + extra
    if start + member.packed > total:
        raise ImageError("truncated", "is cut short: the zip ends before")
    if member.method == _STORED:
        return ByteRange(path, start, member.packed, crc=member.crc)
    return ByteRange(path, start, member.packed, unpacked=member.size, crc=member.crc)


def _head(file: int, span: ByteRange) -> bytes:
    head = os.pread(file, min(span.size, HEAD if span.unpacked is None else _BLOCK), span.start)
    if span.unpacked is None:
        return head
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(head, HEAD)
    except zlib.error as e:
        raise ImageError("decode", f"cannot be unpacked: {e}") from e


def _members(file: int) -> Iterator[_Member]:
    """Yield what the directory lists but folders; ImageError where it is damaged or none."""
    at, end, shift = _directory(file)
    window, begin = b"", at
    entry = 0
    while at < end:
        entry += 1
        if at - begin + _ENTRY.size + 3 * 2**16 > len(window):
            window, begin = os.pread(file, _BLOCK * 4, at), at
        fields = window[at - begin : at - begin + _ENTRY.size]
        if len(fields) < _ENTRY.size or fields[:4] != b"PK\1\2":
            raise ImageError(
                "decode", f"its directory is damaged at entry {entry}; the rest is lost"
            )
        (_, made, _, flags, method, _, _, crc, packed, size, *rest) = _ENTRY.unpack(fields)
        named, extra, comment, _, _, attributes, header = rest
        start = at - begin + _ENTRY.size
        raw = window[start : start + named]
        more = window[start + named : start + named + extra]
        at += _ENTRY.size + named + extra + comment
        if raw.endswith(b"/"):
            continue
        size, packed, header = _wide(more, [size, packed, header])
        yield _Member(
            _name(raw, is_utf8=bool(flags & _UTF8)),
            header + shift,
            packed,
            size,
            crc,
            method,
            is_encrypted=bool(flags & _ENCRYPTED),
            is_link=made >> 8 == 3 and stat.S_ISLNK(attributes >> 16),  # made on Unix
        )


def _directory(file: int) -> tuple[int, int, int]:
    """Return where the directory begins and ends, and by how much offsets are off.

    They are in a program that unpacks itself: it lies before the zip.
    """
    total = os.fstat(file).st_size
    if not total:
        raise ImageError("empty", "is empty")
    tail = os.pread(
        file, _END.size + _LONGEST_COMMENT, max(0, total - _END.size - _LONGEST_COMMENT)
    )
    found = tail.rfind(b"PK\5\6", 0, len(tail) - _END.size + 4)
    if found < 0:
        if os.pread(file, 4, 0) == b"PK\3\4":
            raise ImageError("truncated", "is cut short: a zip's directory, at its end, is missing")
        raise ImageError("format", "is not a zip archive")
    _, volume, *_, size, offset, _ = _END.unpack(tail[found : found + _END.size])
    if 0 < volume < 0xFFFF:
        message = f"is the last of {volume + 1} volumes, which are not read; join them (zip -s 0)"
        raise ImageError("format", message)
    end = total - len(tail) + found
    place, is_wide = end - _LOCATOR.size, False
    locator = os.pread(file, _LOCATOR.size, place) if place >= 0 else b""
    if locator[:4] == b"PK\6\7":
        _, _, where, _ = _LOCATOR.unpack(locator)
        record = os.pread(file, _END_64.size, min(where, total))
        if len(record) < _END_64.size or record[:4] != b"PK\6\6":
            raise ImageError("decode", "its directory is not where its end says; it is damaged")
        *_, size, offset = _END_64.unpack(record)
        end, is_wide = place, True
    if size + offset > end:
        raise ImageError("decode", "its directory is not where its end says; it is damaged")
    if is_wide:
        return offset, offset + size, 0
    return end - size, end, end - size - offset


def _wide(extra: bytes, numbers: list[int]) -> list[int]:
    """Return the numbers of an entry, those of 64 bits from its extra field, in this order."""
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<2H", extra)
        if kind == 1:
            field = extra[4 : 4 + length]
            wide = (n for (n,) in struct.iter_unpack("<Q", field[: len(field) // 8 * 8]))
            return [next(wide, n) if n == _ABSENT else n for n in numbers]
        extra = extra[4 + length :]
    return numbers


def _name(raw: bytes, *, is_utf8: bool) -> str:
    """Return a member's name; what is not marked as UTF-8 is mostly so all the same."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("utf-8", "surrogateescape") if is_utf8 else raw.decode("cp437")

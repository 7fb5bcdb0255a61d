"""The members of a zip, as zipfile reads its directory."""

import io
import os
import stat
import struct
import zipfile
from collections.abc import Callable, Iterator

from vit_engine.errors import ImageError, one_line, printable
from vit_engine.sources.files import open_regular, too_many_bytes
from vit_engine.sources.folders import by_name, why_passed_over
from vit_engine.sources.item import Item, Limits, Span
from vit_engine.sources.signatures import HEAD, is_image, unread_format

_LOCAL = struct.Struct("<4s22x2H")  # a local header: signature, lengths of its name and extra field
_ENCRYPTED, _UTF8 = 0x1, 0x800
_UNIX = 3
_METHODS = {9: "Deflate64", 12: "bzip2", 14: "LZMA", 93: "Zstandard", 95: "XZ", 99: "AES"}


def zip_members(
    path: str, all_files: bool, limits: Limits, report_progress: Callable[[], None]
) -> Iterator[Item | str]:
    """Yield the images as items, `path`/member, and why a member is passed over as a string.

    Each is a span of the zip, deflated or not, with its checksum. ImageError and OSError where the
    directory cannot be read.
    """
    with open_regular(path) as file, _opened(file) as archive:
        for member in archive.infolist():
            report_progress()
            if member.is_dir():
                continue
            name = _name(member)
            span, error, head = None, None, b""
            try:
                span = _span(path, file, member, limits)
                if all_files:
                    head = _head(archive, member)
            except ImageError as e:
                error = e
            full = f"{path}/{name}"
            wanted, unread = (is_image(head), unread_format(head)) if head else by_name(full)
            if reason := why_passed_over(name, wanted=wanted, unread=unread):
                yield reason
            elif wanted:
                yield Item(full, span=span, error=error)


def _opened(file: io.FileIO) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(file)
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as e:
        start = os.pread(file.fileno(), 4, 0)
        if not start:
            raise ImageError("empty", "is empty") from e
        if zipfile.is_zipfile(file):
            words = printable(one_line(e))
            raise ImageError("decode", f"its directory cannot be read: {words}") from e
        if start == b"PK\3\4":
            words = "is cut short: a zip's directory, at its end, is missing"
            raise ImageError("truncated", words) from e
        raise ImageError("format", "is not a zip archive") from e


def _name(member: zipfile.ZipInfo) -> str:
    """Return a member's name; what is not marked as UTF-8 is mostly so all the same."""
    name = member.orig_filename
    if member.flag_bits & _UTF8:
        return name
    try:
        return name.encode("cp437").decode("utf-8")
    except UnicodeDecodeError:
        return name


def _span(path: str, file: io.FileIO, member: zipfile.ZipInfo, limits: Limits) -> Span:
    """Return where a member's bytes are; ImageError where they cannot be had."""
    if member.create_system == _UNIX and stat.S_ISLNK(member.external_attr >> 16):
        raise ImageError("not_regular", "is a symbolic link, which is not followed in a zip")
    if member.flag_bits & _ENCRYPTED:
        raise ImageError("format", "is encrypted; unpack the zip with its password")
    method, packed = member.compress_type, member.compress_size
    if method not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        method_name = _METHODS.get(method, f"method {method}")
        words = f"is packed with {method_name}, which is not read; unpack the zip"
        raise ImageError("format", words)
    if (size := max(member.file_size, packed)) > limits.max_bytes:
        raise too_many_bytes(size, limits)
    total = os.fstat(file.fileno()).st_size
    local = b""
    if 0 <= member.header_offset < total:
        local = os.pread(file.fileno(), _LOCAL.size, member.header_offset)
    if len(local) < _LOCAL.size or local[:4] != b"PK\3\4":
        raise ImageError("decode", "is not where the zip's directory says; the zip is damaged")
    _, name, extra = _LOCAL.unpack(local)
    start = member.header_offset + _LOCAL.size + name + extra
    if start + packed > total:
        raise ImageError("truncated", "is cut short: the zip ends before")
    unpacked = None if method == zipfile.ZIP_STORED else member.file_size
    return Span(path, start, packed, unpacked=unpacked, crc=member.CRC)


def _head(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    try:
        with archive.open(member) as file:
            return file.read(HEAD)
    except Exception as e:  # whatever zipfile makes of a damaged member
        raise ImageError("decode", f"cannot be unpacked: {printable(one_line(e))}") from e

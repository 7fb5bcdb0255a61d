"""The members of a tar, plain or gzipped, as tarfile reads them."""

import io
import os
import posixpath
import tarfile
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from typing import NamedTuple

from vit_engine.errors import ImageError, one_line, printable
from vit_engine.sources.archives.gunzipped import MAGIC, Gunzipped
from vit_engine.sources.archives.tar_archive import TarArchive
from vit_engine.sources.files import open_regular, too_many_bytes
from vit_engine.sources.folders import NO_END, Verdict, by_head, by_name, is_wanted
from vit_engine.sources.sample import ByteRange, Limits, Sample
from vit_engine.sources.signatures import HEAD

MAX_NAME = 4096
"""Characters of the longest name of a member, as of the longest path that Linux opens."""

REMEMBERED = 2**16
"""Members of late that a link may name: some megabytes of names."""

READ_AGAIN = 2**32
"""Bytes that are unpacked again, in all, for the links of one gzipped tar: ten seconds or so."""

_NO_MEMBERS = (tarfile.DIRTYPE, b"D", b"V", b"N", b"A")  # GNU's and Solaris' lists, labels, rights
_SPECIAL = {
    tarfile.CHRTYPE: "a character device",
    tarfile.BLKTYPE: "a block device",
    tarfile.FIFOTYPE: "a FIFO",
}
_CONTINUED = b"M"  # GNU's: the rest of a member that began in another volume


class _Place(NamedTuple):
    """Where the bytes of a member are, and what is thought of them where they were looked at."""

    start: int
    size: int
    verdict: Verdict | None


class TarMembers:
    """The images of a tar, plain or gzipped, by name or by content, as `path`/member.

    `skipped` is that of `folders.is_wanted`; `report_progress` is called at each step.
    """

    def __init__(
        self,
        path: str,
        *,
        all_files: bool,
        limits: Limits,
        skipped: Counter[str],
        report_progress: Callable[[], None],
    ) -> None:
        self.path, self._all_files, self._limits = path, all_files, limits
        self._skipped, self._report_progress = skipped, report_progress
        self._places: OrderedDict[str, _Place] = OrderedDict()  # by name, for links
        self._head = b""  # of the member that comes now, where it has been read
        self._read_again = 0

    def samples(self) -> Iterator[Sample]:
        """Yield a span of a plain tar for each member, of a gzipped one its bytes.

        ImageError and OSError where the tar cannot be read, or not further.
        """
        with open_regular(self.path) as file:
            if os.pread(file.fileno(), len(MAGIC), 0) != MAGIC:
                yield from self._members(file)
                return
            stream = Gunzipped(file, self._report_progress)
            try:
                yield from self._members(stream)
                stream.read_to_end()
            except ImageError as e:
                raise stream.fault or e from None
            if stream.fault is not None:
                raise stream.fault

    def _members(self, stream: io.FileIO | Gunzipped) -> Iterator[Sample]:
        self._stream = stream
        archive = TarArchive(stream, self._report_progress)
        for member in archive.headers():
            if max(len(member.name), len(member.linkname)) > MAX_NAME:
                message = f"has a name of more than {MAX_NAME} characters at byte {member.offset}"
                yield Sample(self.path, error=ImageError("too_large", message))
            elif not member.name:
                message = f"has a member without a name at byte {member.offset}"
                yield Sample(self.path, error=ImageError("decode", message))
            elif member.type not in _NO_MEMBERS and (found := self._found(member)) is not None:
                yield found
        if not archive.has_end:
            self._skipped[NO_END] += 1

    def _found(self, member: tarfile.TarInfo) -> Sample | None:
        """Return an item, None for what is no image to be labelled."""
        name = f"{self.path}/{member.name}"
        place = self._place(member)
        verdict = by_name(name)
        if isinstance(place, _Place):
            self._places[posixpath.normpath(member.name)] = place
            if len(self._places) > REMEMBERED:
                self._places.popitem(last=False)
            verdict = place.verdict or verdict
        if not is_wanted(member.name, verdict, self._skipped):
            return None
        if isinstance(place, ImageError):
            return Sample(name, error=place)
        if place.size > self._limits.max_bytes:
            return Sample(name, error=too_many_bytes(place.size, self._limits))
        if isinstance(self._stream, Gunzipped):
            return self._unpacked(name, place, self._stream)
        return Sample(name, span=ByteRange(self.path, place.start, place.size))

    def _place(self, member: tarfile.TarInfo) -> _Place | ImageError:
        """Return where the bytes of a member are, or why there are none as they are."""
        self._head = b""
        if member.islnk() or member.issym():
            kind, target = "hard", member.linkname
            if member.issym():
                kind = "symbolic"
                target = posixpath.join(posixpath.dirname(member.name), target)
            message = f"is a {kind} link to {one_line(printable(member.linkname))}, "
            message += "which is not before it in the tar"
            return self._places.get(posixpath.normpath(target)) or ImageError("missing", message)
        if member.issparse():
            message = "is stored as a sparse file, which is not read; make the tar without --sparse"
            return ImageError("format", message)
        if member.type == _CONTINUED:
            message = "began in another volume of the tar, which is not read; join the volumes"
            return ImageError("format", message)
        if kind := _SPECIAL.get(member.type, ""):
            return ImageError("not_regular", f"is {kind}, not a regular file")
        verdict = None
        if self._all_files:
            self._head = self._stream.read(min(HEAD, member.size))
            verdict = by_head(self._head)
        return _Place(member.offset_data, member.size, verdict)

    def _unpacked(self, name: str, place: _Place, stream: Gunzipped) -> Sample:
        """Return an item with the bytes of the member that comes now, or that a link names."""
        if place.start + len(self._head) == stream.tell():
            data = self._head + stream.read(place.size - len(self._head))
        else:
            self._read_again += place.start + place.size
            if self._read_again > READ_AGAIN:
                message = "is one link too many: a gzipped tar is read again for each; unpack it"
                return Sample(name, error=ImageError("too_large", message))
            with open_regular(self.path) as file:
                again = Gunzipped(file, self._report_progress)
                again.seek(place.start)
                data = again.read(place.size)
        if len(data) < place.size:
            message = f"is cut short: {len(data)} of {place.size} bytes are there"
            return Sample(name, error=ImageError("truncated", message))
        return Sample(name, data=data)

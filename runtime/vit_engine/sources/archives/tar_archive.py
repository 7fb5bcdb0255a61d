"""Python's tarfile, made to go on behind damage and to keep nothing that it has passed."""

import io
import tarfile
from collections.abc import Callable, Iterator
from tarfile import (  # type: ignore[attr-defined]
    EmptyHeaderError,
    EOFHeaderError,
    InvalidHeaderError,
    TruncatedHeaderError,
)

from vit_engine.errors import ImageError, one_line, printable
from vit_engine.sources.archives.gunzipped import Gunzipped

MAX_EXTENSION = 2**20
"""Bytes of the longest header that extends the next one, by a long name or by PAX records."""

_MAX_SIZE = 2**42  # bytes of a member; a claim of more is damage
_MAX_ZEROS = 2**16 // tarfile.BLOCKSIZE  # blocks in a row, with which an archive has ended
_EXTENSIONS = (
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
    *(tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.XGLTYPE),
)


class _CheckedHeader(tarfile.TarInfo):
    """A header whose claims are checked before they are acted upon.

    tarfile takes a damaged one for the end of the archive. Here the archive notes it, and the next
    sound one is sought.
    """

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "_CheckedHeader":
        header = super().frombuf(buf, encoding, errors)
        header.check_size(MAX_EXTENSION if header.type in _EXTENSIONS else _MAX_SIZE)
        return header

    @classmethod
    def fromtarfile(cls, archive: "TarArchive") -> "_CheckedHeader":  # type: ignore[override]
        assert archive.fileobj is not None
        begin = archive.fileobj.tell()
        archive.report_progress()
        try:
            header = super().fromtarfile(archive)
            header.check_size(_MAX_SIZE)  # a PAX record may have changed it
        except EOFHeaderError:  # a block of zeros: an archive may be appended behind it
            archive.first_zeros = begin if archive.zeros == 0 else archive.first_zeros
            archive.zeros += 1
            if archive.zeros > _MAX_ZEROS:
                raise EmptyHeaderError("zeros to the end") from None
            raise
        except EmptyHeaderError:
            if begin == 0:
                raise ImageError("empty", "is empty") from None
            raise
        except (ImageError, OSError, MemoryError):
            raise
        except Exception as e:  # whatever tarfile makes of a damaged header
            archive.note_damage(begin, e)
            raise InvalidHeaderError(str(e)) from e
        if archive.zeros == 1:  # two end an archive: this one stands where a header was
            archive.note_damage(archive.first_zeros, tarfile.HeaderError("zeros"))
        archive.begun, archive.zeros = True, 0
        return header

    def check_size(self, limit: int) -> None:
        """Raise HeaderError for a size that is negative or past the limit."""
        if not 0 <= self.size <= limit:
            raise tarfile.HeaderError(f"it claims {self.size} bytes")


class TarArchive(tarfile.TarFile):
    """A tar that is read from front to back, with other tars that were appended to it."""

    tarinfo = _CheckedHeader
    ignore_zeros = True
    encoding = "utf-8"
    firstmember: tarfile.TarInfo | None  # None after opening: there is no member at all
    members: list[tarfile.TarInfo]

    def __init__(self, file: io.FileIO | Gunzipped, report_progress: Callable[[], None]) -> None:
        self.report_progress = report_progress
        self.begun = False  # a sound header was found
        self.zeros = self.first_zeros = 0  # blocks in a row, and where they begin
        self._damage: tuple[int, Exception] | None = None  # since the last sound header
        self._is_behind_end = False  # two blocks of zeros end an archive; any bytes may follow
        super().__init__(fileobj=file)  # type: ignore[arg-type]

    def note_damage(self, begin: int, error: Exception) -> None:
        """Remember where damage begins, and what is said of it."""
        if self._damage is None:
            is_cut = isinstance(error, TruncatedHeaderError)
            self._is_behind_end = self.zeros >= (1 if is_cut else 2)
            self._damage = begin, error
        self._damage = min(begin, self._damage[0]), self._damage[1]
        self.zeros = 0

    def headers(self) -> Iterator[tarfile.TarInfo | ImageError]:
        """Yield each member, and damage that a sound header follows; raise ImageError for other."""
        member = self.next() if self.firstmember else None
        while member is not None:
            self.members.clear()  # tarfile keeps them all
            if self._damage is not None:
                yield ImageError(
                    "decode",
                    f"the header at byte {self._damage[0]} is damaged: what lay from there to "
                    f"byte {member.offset}, where the next sound one is, is lost",
                )
                self._damage = None
            yield member
            last = member.offset
            try:
                member = self.next()
            except tarfile.ReadError:
                message = f"ends within the data that its header at byte {last} announces"
                raise ImageError("truncated", message) from None
        if self._damage is not None and not self._is_behind_end:
            raise self._end_error(*self._damage)

    def _end_error(self, at: int, error: Exception) -> ImageError:
        """Return what is said of damage that no sound header follows."""
        if not self.begun:
            return ImageError("format", "is not a tar archive")
        if isinstance(error, TruncatedHeaderError):
            return ImageError("truncated", f"ends within the header at byte {at}")
        message = printable(one_line(error))
        return ImageError(
            "decode", f"the header at byte {at} is damaged ({message}), and no other follows it"
        )

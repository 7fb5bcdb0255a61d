"""Python's tarfile, made to say where an archive is damaged and to keep nothing that it passed."""

import io
import tarfile
from collections.abc import Callable, Iterator
from tarfile import (  # type: ignore[attr-defined]
    EmptyHeaderError,
    EOFHeaderError,
    TruncatedHeaderError,
)

from vit_engine.errors import ImageError, one_line, printable
from vit_engine.sources.archives.gunzipped import Gunzipped

_MAX_SIZE = 2**42  # bytes of a member; a claim of more is damage
_MAX_ZEROS = 2**16 // tarfile.BLOCKSIZE  # blocks in a row, with which an archive has ended


class _CheckedHeader(tarfile.TarInfo):
    """A header; a damaged one, which tarfile takes for the end of the archive, is an ImageError."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "_CheckedHeader":
        return super().frombuf(buf, encoding, errors).checked()

    @classmethod
    def fromtarfile(cls, archive: "TarArchive") -> "_CheckedHeader":  # type: ignore[override]
        assert archive.fileobj is not None
        begin = archive.fileobj.tell()
        archive.report_progress()
        try:
            header = super().fromtarfile(archive).checked()  # a PAX record may have a size, too
        except EOFHeaderError:  # a block of zeros: an archive may be appended behind it
            archive.zeros += 1
            if archive.zeros > _MAX_ZEROS:
                raise EmptyHeaderError("zeros to the end") from None
            raise
        except EmptyHeaderError:
            if begin == 0:
                raise ImageError("empty", "is empty") from None
            archive.has_end = archive.zeros > 0
            raise
        except (ImageError, OSError, MemoryError):
            raise
        except Exception as e:  # noqa: BLE001  whatever tarfile makes of a damaged header
            is_cut = isinstance(e, TruncatedHeaderError)
            if archive.zeros >= (1 if is_cut else 2):  # behind the end, where any bytes may follow
                raise EmptyHeaderError("end") from None
            if begin == 0:
                raise ImageError("format", "is not a tar archive") from None
            if is_cut:
                raise ImageError("truncated", f"ends within the header at byte {begin}") from None
            message = f"the header at byte {begin} is damaged ({printable(one_line(e))})"
            raise ImageError("decode", f"{message}; what lies behind it is not read") from None
        archive.zeros = 0
        return header

    def checked(self) -> "_CheckedHeader":
        """Return the header; HeaderError for a size past the limit, or one that leads back."""
        if not 0 <= self.size <= _MAX_SIZE:
            raise tarfile.HeaderError(f"it claims {self.size} bytes")
        return self


class TarArchive(tarfile.TarFile):
    """A tar that is read from front to back, with other tars that were appended to it."""

    tarinfo = _CheckedHeader
    ignore_zeros = True
    encoding = "utf-8"
    firstmember: tarfile.TarInfo | None  # None after opening: there is no member at all
    members: list[tarfile.TarInfo]

    def __init__(self, file: io.FileIO | Gunzipped, report_progress: Callable[[], None]) -> None:
        self.report_progress = report_progress
        self.zeros, self.has_end = 0, True  # blocks in a row, which an archive ends with
        super().__init__(fileobj=file)  # type: ignore[arg-type]

    def headers(self) -> Iterator[tarfile.TarInfo]:
        """Yield each member; ImageError where the archive is damaged or cut short."""
        member = self.next() if self.firstmember else None
        while member is not None:
            self.members.clear()  # tarfile keeps them all
            yield member
            last = member.offset
            try:
                member = self.next()
            except tarfile.ReadError:
                message = (
                    f"ends within the data that its header at byte {last} announces: it is cut "
                    "short, or goes on in another volume"
                )
                raise ImageError("truncated", message) from None

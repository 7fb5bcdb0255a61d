"""A gzipped file as it is unpacked, from its beginning to its end."""

import gzip
import io
import zlib
from collections.abc import Callable

from vit_engine.errors import ImageError, one_line, printable

MAGIC = b"\x1f\x8b"
"""The first bytes of gzip data."""

BOMB_SIZE, BOMB_RATIO = 2**31, 400
"""So many bytes in a row that come of so many times fewer are a bomb: no more is unpacked.

Deflate turns runs of one value to 1/1032. Files that are alike come to 1/200 at best: a copy of
258 bytes from a thousand bytes ago takes 10 bits.
"""

_PIECE = 2**20  # bytes that are passed over at a time


class Gunzipped:
    """What gzip data holds, as a file that is read forward.

    Where the data are damaged, cut short or a bomb, it ends, and `fault` says why.
    """

    def __init__(self, file: io.FileIO, report_progress: Callable[[], None]) -> None:
        self.fault: ImageError | None = None
        self._file, self._report_progress = file, report_progress
        self._gzip = gzip.GzipFile(fileobj=file, mode="rb")
        self._position = 0
        self._sound = (0, 0)  # bytes read and unpacked when it was last seen to be no bomb

    def tell(self) -> int:
        """Return how many bytes have been read."""
        return self._position

    def seek(self, position: int) -> None:
        """Pass over all before `position`, or before the end."""
        while self._position < position and self.read(min(position - self._position, _PIECE)):
            pass

    def read(self, size: int) -> bytes:
        """Return the next bytes, fewer than `size` at the end alone."""
        self._report_progress()
        if self.fault is not None:
            return b""
        try:
            data = self._gzip.read(size)
            self._check_ratio(self._position + len(data))
        except EOFError:
            self.fault = ImageError("truncated", "its gzip data ends early")
        except (gzip.BadGzipFile, zlib.error) as e:
            message = printable(one_line(e))
            self.fault = ImageError("decode", f"its gzip data is damaged ({message})")
        except ImageError as e:
            self.fault = e
        else:
            self._position += len(data)
            return data
        return b""

    def read_to_end(self) -> None:
        """Pass over what is left, so that the checksum at the end is looked at."""
        while self.read(_PIECE):
            pass

    def _check_ratio(self, unpacked: int) -> None:
        packed = self._file.tell()
        since_packed, since_unpacked = packed - self._sound[0], unpacked - self._sound[1]
        if since_unpacked < BOMB_SIZE:
            return
        if since_unpacked > BOMB_RATIO * since_packed:
            raise ImageError(
                "too_large",
                f"is a bomb, read no further: {since_packed} bytes of it unpack to "
                f"{since_unpacked}",
            )
        self._sound = packed, unpacked

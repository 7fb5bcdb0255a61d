"""Unpacking gzip, in a process of its own: a file that is made to take memory or time takes little.

The process reads stdin and writes stdout, as `gzip -dc` does. What is wrong with the file it tells
on stderr, as JSON of code and words, after it has written all that comes before.
"""

import contextlib
import json
import os
import signal
import zlib
from collections.abc import Iterator
from io import FileIO

from vit_engine.errors import ImageError
from vit_engine.machine.isolated import limit_memory

MEMORY = 2**30
"""Bytes of address space of the process: many times what zlib and a piece take."""

BOMB_SIZE, BOMB_RATIO = 2**31, 400
"""So many bytes in a row that come of so many times fewer are a bomb: no more is unpacked.

Deflate turns runs of one value to 1/1032. Files that are alike come to 1/200 at best: a copy of
258 bytes from a thousand bytes ago takes 10 bits.
"""

_PACKED, _PIECE = 2**16, 2**20  # bytes that are read and written at a time
_FORMAT = 16 + zlib.MAX_WBITS  # gzip, whose checksum and length zlib looks at


def serve() -> None:
    """Unpack stdin to stdout; the life of the process."""
    limit_memory(MEMORY)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # the reader has seen enough, or is gone
    try:
        for piece in unpacked(FileIO(0, closefd=False)):
            left = memoryview(piece)
            while left:
                left = left[os.write(1, left) :]
    except MemoryError:
        os.write(
            2,
            json.dumps(["too_large", "needs more memory than unpacking may use"]).encode(),
        )
    except ImageError as e:
        os.write(2, json.dumps([e.code, str(e)]).encode())


def unpacked(file: FileIO) -> Iterator[bytes]:
    """Yield what gzip data holds, member after member; ImageError where it is damaged or a bomb."""
    taken = given = 0  # bytes, since it was last seen to be no bomb
    packed = file.read(_PACKED)
    first = True
    while packed:
        unpacker = zlib.decompressobj(_FORMAT)
        while not unpacker.eof:
            ended = not packed and not (packed := file.read(_PACKED))
            before = unpacker.copy()
            try:
                piece = unpacker.decompress(packed, _PIECE)
            except zlib.error as e:
                yield from _before_fault(before, packed)
                reason = str(e).rpartition(": ")[2]
                if reason == "incorrect header check" and not first:
                    raise ImageError("decode", "other bytes follow its gzip data") from e
                raise ImageError("decode", f"its gzip data is damaged ({reason})") from e
            if ended and not piece and not unpacker.eof:
                raise ImageError("truncated", "its gzip data ends early")
            rest = unpacker.unused_data if unpacker.eof else unpacker.unconsumed_tail
            taken += len(packed) - len(rest)
            given += len(piece)
            packed = rest
            yield piece
            if given >= BOMB_SIZE:
                if given > BOMB_RATIO * taken:
                    raise ImageError(
                        "too_large",
                        f"is a bomb, read no further: {taken} bytes of it unpack to {given}",
                    )
                taken = given = 0
        first = False
        packed = packed.lstrip(b"\0")  # padding, as tapes have it
        while not packed and (packed := file.read(_PACKED)):
            packed = packed.lstrip(b"\0")


def _before_fault(unpacker: "zlib._Decompress", packed: bytes) -> Iterator[bytes]:
    """Yield what lies before the byte that cannot be unpacked: zlib drops it when it fails."""
    with contextlib.suppress(zlib.error):
        for byte in packed:
            yield unpacker.decompress(bytes((byte,)))

"""The bytes of an archive from its beginning to its end, plain or unpacked by another process."""

import contextlib
import io
import json
import os
import select
import subprocess
from typing import Any, Protocol, Self

from vit_engine.errors import ImageError, MachineError
from vit_engine.machine.isolated import command_line, how_it_ended

STALL = 30.0
"""Seconds for the next bytes to be unpacked; the time that one image has, too."""

_PIECE = 2**20  # bytes read at a time where they are passed over
_CHILD = "from vit_engine.sources.archives.gunzip import serve; serve()"


class Stream(Protocol):
    """What is read from front to back; `position` is the number of bytes before the next."""

    position: int

    def read(self, size: int) -> bytes:
        """Return the next bytes, fewer than `size` at the end alone."""

    def skip(self, size: int) -> bool:
        """Pass over bytes; False where the end comes first."""


class PlainStream:
    """A file as it is, in which skipping costs nothing."""

    def __init__(self, file: io.FileIO) -> None:
        self._fd = file.fileno()
        self._size = os.fstat(self._fd).st_size
        self.position = 0

    def read(self, size: int) -> bytes:
        """Return the next bytes, fewer than `size` at the end alone."""
        data = os.pread(self._fd, size, self.position)
        self.position += len(data)
        return data

    def skip(self, size: int) -> bool:
        """Pass over bytes; False where the end comes first."""
        self.position += size
        return self.position <= self._size


class GunzippedStream:
    """A file as gzip unpacks it; a context manager.

    Reading raises ImageError where the file is damaged, when all before that has been read, and
    where the process has ended or hangs.
    """

    def __init__(self, file: io.FileIO) -> None:
        self.position = 0
        try:
            self._child = subprocess.Popen(
                command_line(_CHILD),
                stdin=file,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                process_group=0,  # ^C is for the parent, which ends its children in its own time
            )
        except OSError as e:
            raise MachineError(f"no process could be started to unpack in ({e.strerror})") from e
        self._file = io.BufferedReader(_Output(self._child), _PIECE)

    def read(self, size: int) -> bytes:
        """Return the next bytes, fewer than `size` at the end alone."""
        data = self._file.read(size)
        self.position += len(data)
        return data

    def skip(self, size: int) -> bool:
        """Pass over bytes; False where the end comes first."""
        while size and (part := len(self.read(min(size, _PIECE)))):
            size -= part
        return not size

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        """End the process; one that a kill cannot end (a hung disk) is left behind."""
        self._child.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._child.wait(1)
        for pipe in (self._child.stdout, self._child.stderr):
            if pipe:
                pipe.close()


class _Output(io.RawIOBase):
    """What the process writes; an ImageError in place of the end where that is not the file's."""

    def __init__(self, child: "subprocess.Popen[bytes]") -> None:
        assert child.stdout
        self._child, self._fd = child, child.stdout.fileno()
        self._poll = select.poll()
        self._poll.register(self._fd, select.POLLIN)
        self._error: ImageError | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self._error is None:
            try:
                return self._read_into(buffer)
            except ImageError as e:
                self._error = e
        raise self._error  # and so each time

    def _read_into(self, buffer: Any) -> int:
        if not self._poll.poll(STALL * 1000):
            raise ImageError("timeout", f"could not be unpacked: nothing came for {STALL:g} s")
        if read := os.readv(self._fd, [buffer]):
            return read
        assert self._child.stderr
        told = self._child.stderr.read()
        if code := self._child.wait():
            raise ImageError("crash", f"ended the process that unpacks it ({how_it_ended(code)})")
        if told:
            raise ImageError(*json.loads(told))
        return 0

"""A child process whose pipes the event loop serves: no thread waits for it."""

import asyncio
import contextlib
import fcntl
import os
import sys
from collections.abc import Callable, Sequence

from vit_engine.machine.worker import SIZE, Frames, Worker

_PIPE = 2**20  # bytes that a pipe holds: an image is written at once, without a second turn
_CHUNK = 2**16


class LoopWorker:
    """A `Worker` that is ready, for the event loop; `on_answer` is given each message of it.

    `on_end` is called once, when it can answer no more.
    """

    def __init__(
        self,
        worker: Worker,
        *,
        on_answer: Callable[[bytes], object],
        on_end: Callable[[], object],
    ) -> None:
        self.worker = worker
        self._on_answer, self._on_end = on_answer, on_end
        self._requests, self._answers = worker.descriptors
        self._loop = asyncio.get_running_loop()
        self._left = memoryview(b"")  # of a message, which the pipe had no room for
        self._frames = Frames()
        if sys.platform == "linux":
            with contextlib.suppress(OSError):  # a user may have too many large pipes
                fcntl.fcntl(self._requests, fcntl.F_SETPIPE_SZ, _PIPE)
        for descriptor in (self._requests, self._answers):
            os.set_blocking(descriptor, False)
        self._loop.add_reader(self._answers, self._read)

    def ask(self, messages: Sequence[bytes]) -> None:
        """Send messages; to a child that has ended nothing, as `on_end` will tell."""
        parts = [part for message in messages for part in (SIZE.pack(len(message)), message)]
        if self._left:
            self._left = memoryview(b"".join((self._left, *parts)))
            return
        try:
            written = os.writev(self._requests, parts)
        except BlockingIOError:
            written = 0
        except BrokenPipeError:
            return
        if written < sum(map(len, parts)):
            self._left = memoryview(b"".join(parts))[written:]
            self._loop.add_writer(self._requests, self._write)

    def close(self) -> None:
        """Kill the child and forget it; `on_end` is not called."""
        self._detach()
        self.worker.kill()
        self._loop.run_in_executor(None, self.worker.close)

    def _detach(self) -> None:
        self._loop.remove_reader(self._answers)
        self._loop.remove_writer(self._requests)

    def _write(self) -> None:
        try:
            self._left = self._left[os.write(self._requests, self._left) :]
        except BlockingIOError:
            return
        except BrokenPipeError:
            self._left = memoryview(b"")
        if not self._left:
            self._loop.remove_writer(self._requests)

    def _read(self) -> None:
        try:
            part = os.read(self._answers, _CHUNK)
        except BlockingIOError:
            return
        if not part:
            self._detach()
            self._on_end()
            return
        for message in self._frames.feed(part):
            self._on_answer(message)

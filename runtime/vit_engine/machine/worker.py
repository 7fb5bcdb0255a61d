"""One child process: it is asked, it answers in time or not at all, and how it ended is told."""

import contextlib
import fcntl
import os
import re
import resource
import select
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Self

from vit_engine.errors import MachineError, format_limit

START_LIMIT = 60.0
"""Seconds for a child to import what it needs."""

_CHILD = "VIT_ENGINE_CHILD"  # is set for a child, which starts none: else it is the host again
_PYTHON = re.compile(r"(python|pypy)[\d.]*[a-z]{0,2}(-\w+)*(\.exe)?", re.IGNORECASE)

_SIZE = struct.Struct("<Q")  # before each message


class EndedError(Exception):
    """The child ended before it answered; the text is the signal's name or the exit code."""


class Channel:
    """The child's end: requests as they come, and the answers to them. Messages are bytes."""

    def __init__(self, requests: int, answers: int) -> None:
        self._requests, self._answers = os.fdopen(requests, "rb"), answers

    def requests(self) -> Iterator[bytes]:
        """Yield each request until the parent closes the pipe, or is gone."""
        while len(head := self._requests.read(_SIZE.size)) == _SIZE.size:
            (size,) = _SIZE.unpack(head)
            message = self._requests.read(size)
            if len(message) < size:
                return
            yield message

    def answer(self, message: bytes = b"") -> None:
        """Send one message; BrokenPipeError where the parent is gone."""
        _write(self._answers, message)


class Worker:
    """A child process that runs `serve`, a function of a module; a context manager.

    It has this process's import path, one BLAS thread and at most `memory` bytes of address space.
    What it writes is thrown away, but for stderr where a file is given. A terminal's ^C does not
    reach it: the parent ends its children in its own time. To start another in its place is the
    caller's affair.
    """

    def __init__(
        self,
        serve: Callable[[Channel], None],
        *,
        purpose: str,
        memory: int | None = None,
        pass_fds: Sequence[int] = (),
        stderr: int | IO[bytes] = subprocess.DEVNULL,
    ) -> None:
        """Start it; MachineError where that cannot be. `purpose` follows "a process to"."""
        self._purpose = purpose
        program = _python(purpose)
        requests, self._requests, self._answers, answers = map(
            above_standard, (*os.pipe(), *os.pipe())
        )
        self._pipes: tuple[int, ...] = (self._requests, self._answers)
        code = (
            "import sys; sys.path[:] = sys.argv[4:]; "
            f"from {serve.__module__} import {serve.__qualname__} as serve; "
            "from vit_engine.machine.worker import run; run(serve, *map(int, sys.argv[1:4]))"
        )
        arguments = (str(requests), str(answers), str(memory or 0), *filter(None, sys.path))
        try:
            self._child = subprocess.Popen(
                [program, "-I", "-S", "-c", code, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                pass_fds=(requests, answers, *pass_fds),
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1", _CHILD: "1"},
                process_group=0,
            )
        except OSError as e:
            self._close_pipes()
            words = format_limit(e) or e.strerror
            raise MachineError(f"cannot start a process to {purpose}: {words}") from e
        finally:
            os.close(requests)
            os.close(answers)

    def wait_until_ready(self) -> None:
        """Wait until `serve` begins; MachineError, with how it ended, where that does not come."""
        try:
            self.answer(START_LIMIT)
        except (EndedError, TimeoutError) as e:
            self.close()
            ended = str(e) or f"not ready in {START_LIMIT:g} s"
            raise MachineError(
                f"a process to {self._purpose} did not start ({ended}); "
                "is enough memory free, and allowed (ulimit -v)?"
            ) from e

    def ask(self, message: bytes) -> None:
        """Send one message. To a child that has ended it does nothing: `answer` tells."""
        with contextlib.suppress(BrokenPipeError):
            _write(self._requests, message)

    def answer(self, seconds: float) -> bytes:
        """Return the next message.

        TimeoutError where nothing comes for so long, EndedError where nothing can come any more.
        """
        (size,) = _SIZE.unpack(self._read(_SIZE.size, seconds))
        return self._read(size, seconds)

    def is_alive(self) -> bool:
        """Tell whether the child has not ended."""
        return self._child.poll() is None

    def kill(self) -> None:
        """End the child, from any thread: an `answer` that waits for it raises EndedError."""
        self._child.kill()

    def close(self) -> None:
        """Kill and reap the child; one that a kill cannot end (a hung disk) is left behind."""
        self._child.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._child.wait(1)
        self._close_pipes()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _close_pipes(self) -> None:
        for pipe in self._pipes:
            os.close(pipe)
        self._pipes = ()

    def _read(self, size: int, seconds: float) -> bytes:
        poll = select.poll()
        poll.register(self._answers, select.POLLIN)
        parts = []
        while size:
            if not poll.poll(seconds * 1000):
                raise TimeoutError
            part = os.read(self._answers, min(size, 2**20))
            if not part:
                raise EndedError(self._how_it_ended())
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def _how_it_ended(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._child.wait(1)  # it has closed its pipe, and may not be reaped yet
        code = self._child.poll()
        return signal.Signals(-code).name if code and code < 0 else f"exit code {code}"


def run(serve: Callable[[Channel], None], requests: int, answers: int, memory: int) -> None:
    """Say that all is ready and serve; the life of the child."""
    if memory:
        _, allowed = resource.getrlimit(resource.RLIMIT_AS)
        limit = memory if allowed == resource.RLIM_INFINITY else min(memory, allowed)
        with contextlib.suppress(*((ValueError, OSError) if sys.platform == "darwin" else ())):
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))  # which macOS does not know
    channel = Channel(requests, answers)
    channel.answer()
    serve(channel)


def above_standard(descriptor: int) -> int:
    """Return a descriptor in place of one of the standard three, which a child has of its own."""
    if descriptor > 2:
        return descriptor
    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)
    os.close(descriptor)
    return moved


def _python(purpose: str) -> str:
    """Return the path of a Python like this one; MachineError where there is none to be started.

    In a frozen program, and in one that embeds Python, `sys.executable` may be the program itself,
    which would start all over again.
    """
    program = sys.executable or ""
    if not getattr(sys, "frozen", False) and not os.environ.get(_CHILD):
        if _PYTHON.fullmatch(Path(program).name):
            return program
        version = "{}.{}".format(*sys.version_info)
        for beside in (f"python{version}", "python3", "python"):
            found = Path(sys.exec_prefix, "bin", beside)
            if found.exists():
                return str(found)
    raise MachineError(
        f"cannot start a process to {purpose}: {program or 'this program'} is not a Python that "
        "can be started again; without isolated=True images are decoded in this process"
    )


def _write(descriptor: int, message: bytes) -> None:
    head = _SIZE.pack(len(message))
    written = os.writev(descriptor, (head, message))
    for part in (head, message):
        left = memoryview(part)[written:]
        written = max(0, written - len(part))
        while left:
            left = left[os.write(descriptor, left) :]

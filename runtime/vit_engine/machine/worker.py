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
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import IO, Self

from vit_engine.errors import MachineError, format_limit

START_LIMIT = 60.0
"""Seconds for a child to import what it needs."""

CHILD = "VIT_ENGINE_CHILD"
"""The environment variable of a child, which starts none: else it is the host again."""

_PYTHON = re.compile(r"(python|pypy)[\d.]*[a-z]{0,2}(-\w+)*(\.exe)?", re.IGNORECASE)

SIZE = struct.Struct("<Q")
"""Before each message, of how many bytes it is."""


class EndedError(Exception):
    """The child ended before it answered; the text is the signal's name or the exit code."""


class Frames:
    """Messages in what comes through a pipe in pieces, for whoever cannot wait for whole ones."""

    def __init__(self) -> None:
        self._held = bytearray()

    def feed(self, part: bytes) -> Iterator[bytes]:
        """Yield the messages that a piece completes."""
        held = self._held
        held += part
        while len(held) >= SIZE.size:
            end = SIZE.size + SIZE.unpack_from(held)[0]
            if len(held) < end:
                return
            message = bytes(held[SIZE.size : end])
            del held[:end]
            yield message


class Channel:
    """The child's end: requests as they come, and the answers to them. Messages are bytes."""

    def __init__(self, requests: int, answers: int) -> None:
        self._requests, self._answers = os.fdopen(requests, "rb"), answers

    def requests(self) -> Iterator[bytes]:
        """Yield each request until the parent closes the pipe, or is gone."""
        while len(head := self._requests.read(SIZE.size)) == SIZE.size:
            (size,) = SIZE.unpack(head)
            message = self._requests.read(size)
            if len(message) < size:
                return
            yield message

    @property
    def descriptors(self) -> tuple[int, int]:
        """Where requests are read and answers are written, for an event loop."""
        return self._requests.fileno(), self._answers

    def answer(self, message: bytes = b"") -> None:
        """Send one message; BrokenPipeError where the parent is gone."""
        _write(self._answers, message)


class Worker:
    """A child process that runs `serve`, a function of a module; a context manager.

    It has this process's import path, one BLAS thread and at most `memory` bytes of address space.
    What it writes is thrown away, but for stdout and stderr where files are given. A terminal's ^C
    does not reach it: the parent ends its children in its own time. To start another in its place
    is the caller's affair.
    """

    def __init__(
        self,
        serve: Callable[[Channel], None],
        *,
        purpose: str,
        memory: int | None = None,
        pass_fds: Sequence[int] = (),
        stdout: int | IO[bytes] | None = subprocess.DEVNULL,
        stderr: int | IO[bytes] | None = subprocess.DEVNULL,
        environment: Mapping[str, str] = MappingProxyType({}),
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
                stdout=stdout,
                stderr=stderr,
                pass_fds=(requests, answers, *pass_fds),
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1", CHILD: "1", **environment},
                process_group=0,
            )
        except OSError as e:
            self._close_pipes()
            words = format_limit(e) or e.strerror
            raise MachineError(f"cannot start a process to {purpose}: {words}") from e
        finally:
            os.close(requests)
            os.close(answers)

    @property
    def descriptors(self) -> tuple[int, int]:
        """Where requests are written and answers are read, for an event loop."""
        return self._requests, self._answers

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._child.pid

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
        (size,) = SIZE.unpack(self._read(SIZE.size, seconds))
        return self._read(size, seconds)

    def is_alive(self) -> bool:
        """Tell whether the child has not ended."""
        return self._child.poll() is None

    def wait(self, seconds: float | None = None) -> str | None:
        """Wait for the child's end, and return how it ended; None where it still runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = self._child.wait(seconds)
            return signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return None

    def signal(self, number: int) -> None:
        """Send a signal, to a child that has not ended."""
        self._child.send_signal(number)

    def kill(self) -> None:
        """End the child, from any thread: an `answer` that waits for it raises EndedError."""
        self._child.kill()

    def close(self) -> None:
        """Kill and reap the child; one that a kill cannot end (a hung disk) is left behind."""
        self._child.kill()
        self.wait(1)
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
                # It has closed its pipe, and may not be reaped yet.
                raise EndedError(self.wait(1) or "it closed its pipe")
            parts.append(part)
            size -= len(part)
        return b"".join(parts)


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
    if not getattr(sys, "frozen", False) and not os.environ.get(CHILD):
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
    head = SIZE.pack(len(message))
    written = os.writev(descriptor, (head, message))
    for part in (head, message):
        left = memoryview(part)[written:]
        written = max(0, written - len(part))
        while left:
            left = left[os.write(descriptor, left) :]

"""Large JSON, read in another process: in this one, parsing would hold up every request."""

import asyncio
import contextlib
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any, TypeVar

from vit_engine.machine.isolated import command_line
from vit_engine.server.http.refusal import RefusalError

T = TypeVar("T")

_CHILD = "from vit_engine.server.http.codecs.json_reader import serve; serve()"


class JsonReader:
    """Reads large JSON, one body at a time, in a process that starts with the first.

    It is started again where it has died, or was ended with a body that took over `seconds`.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._turn = asyncio.Lock()
        self._child: subprocess.Popen[bytes] | None = None

    async def read(self, parse: Callable[[], T]) -> T:
        """Return what `parse` returns in the process; it and that can be pickled.

        RefusalError as it raises it, and where it takes too long or the process dies.
        """
        try:
            async with asyncio.timeout(self._seconds), self._turn:
                refusal, found = await self._asked(parse)
        except TimeoutError:
            words = f"the JSON was not read within {self._seconds:g} s"
            raise RefusalError(504, "deadline", words) from None
        if refusal:
            raise RefusalError(*refusal)
        result: T = found
        return result

    def close(self) -> None:
        """End the process, if there is one."""
        if self._child is not None:
            self._child.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._child.wait(1)
            self._child = None

    async def _asked(self, parse: Callable[[], Any]) -> "_Answer":
        if self._child is None or self._child.poll() is not None:
            self.close()
            self._child = _started()
        found = None
        try:
            found = await asyncio.to_thread(_answer, self._child, parse)
        finally:
            if found is None:
                self.close()  # and with it a thread that waits for it
        return found or ((500, "internal", "the process that reads large JSON has died"), None)


_Answer = tuple[tuple[int, str, str] | None, Any]
"""What a RefusalError is made of, or None; and the result."""


def _started() -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        command_line(_CHILD),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        process_group=0,  # ^C is for the parent
    )


def _answer(child: "subprocess.Popen[bytes]", parse: Callable[[], Any]) -> _Answer | None:
    """Ask the child, and wait; None where it dies."""
    assert child.stdin and child.stdout
    try:
        pickle.dump(parse, child.stdin)
        child.stdin.flush()
        found: _Answer = pickle.load(child.stdout)
    except (EOFError, BrokenPipeError, pickle.UnpicklingError):
        return None
    return found


def serve() -> None:
    """Do what the parent asks for until it closes the pipe; the life of the child."""
    while True:
        try:
            parse = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        found: _Answer
        try:
            found = None, parse()
        except RefusalError as e:
            found = (e.status, e.code, str(e)), None
        del parse
        pickle.dump(found, sys.stdout.buffer)
        sys.stdout.buffer.flush()

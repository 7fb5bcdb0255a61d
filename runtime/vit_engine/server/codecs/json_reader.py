"""Large JSON, read in another process: in this one, parsing would hold up every request."""

import asyncio
import contextlib
import os
import pickle
import subprocess
import sys

from vit_engine.artefact.contract import Contract
from vit_engine.machine.isolated import command_line
from vit_engine.server.codecs.open_inference import TensorRequest, tensors_of
from vit_engine.server.refusal import RefusalError
from vit_engine.server.settings import Settings

SMALL = 32 * 2**10
"""Bytes of JSON that are read here: about a millisecond, where another process is no gain."""

_CHILD = "from vit_engine.server.codecs.json_reader import serve; serve()"


class JsonReader:
    """Reads inference requests, large JSON one at a time in a process that starts with the first.

    It is started again where it has died, or was ended with a request that came too late.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._turn = asyncio.Lock()
        self._child: subprocess.Popen[bytes] | None = None

    async def tensors_of(self, head: bytes, rest: memoryview, contract: Contract) -> TensorRequest:
        """Return what JSON and the bytes behind it ask for; RefusalError says what is wrong."""
        if len(head) <= SMALL:
            return tensors_of(head, rest, contract, self._settings)
        seconds = self._settings.deadline
        try:
            async with asyncio.timeout(seconds), self._turn:
                found = await self._asked((head, bytes(rest), contract, self._settings))
        except TimeoutError:
            words = f"the JSON was not read within {seconds:g} s"
            raise RefusalError(504, "deadline", words) from None
        if isinstance(found, TensorRequest):
            return found
        raise RefusalError(*found)

    def close(self) -> None:
        """End the process, if there is one."""
        if self._child is not None:
            self._child.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._child.wait(1)
            self._child = None

    async def _asked(self, request: object) -> TensorRequest | tuple[int, str, str]:
        if self._child is None or self._child.poll() is not None:
            self.close()
            self._child = _started()
        found = None
        try:
            found = await asyncio.to_thread(_answer, self._child, request)
        finally:
            if found is None:
                self.close()  # and with it a thread that waits for it
        return found or (500, "internal", "the process that reads large JSON has died")


def _started() -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        command_line(_CHILD),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        process_group=0,  # ^C is for the parent
    )


def _answer(
    child: "subprocess.Popen[bytes]", request: object
) -> TensorRequest | tuple[int, str, str] | None:
    """Ask the child, and wait; None where it dies."""
    assert child.stdin and child.stdout
    try:
        pickle.dump(request, child.stdin)
        child.stdin.flush()
        found: TensorRequest | tuple[int, str, str] = pickle.load(child.stdout)
    except (EOFError, BrokenPipeError, pickle.UnpicklingError):
        return None
    return found


def serve() -> None:
    """Read what the parent asks for until it closes the pipe; the life of the child."""
    while True:
        try:
            head, rest, contract, settings = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        found: TensorRequest | tuple[int, str, str]
        try:
            found = tensors_of(head, memoryview(rest), contract, settings)
        except RefusalError as e:
            found = e.status, e.code, str(e)
        del head, rest
        pickle.dump(found, sys.stdout.buffer)
        sys.stdout.buffer.flush()

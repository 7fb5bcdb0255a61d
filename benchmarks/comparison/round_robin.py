"""The controller: every contender in a process of its own, one of them computing at a time."""

import contextlib
import json
import os
import selectors
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from comparison.job import Job

HERE = Path(__file__).parents[1]
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
START_S = 120.0  # until a process has imported NumPy on a busy machine


class FailedError(Exception):
    """A contender that is out; `status` is "failed" (it erred) or "absent" (cannot run here)."""

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Process:
    """A worker process that answers one request at a time; a context manager."""

    def __init__(self, job: Job, python: str) -> None:
        threads = dict.fromkeys(THREAD_VARIABLES, str(job.threads))
        path = os.pathsep.join(p for p in (str(HERE), os.environ.get("PYTHONPATH")) if p)
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  closed by close()
        self._process = subprocess.Popen(
            [python, "-m", "comparison.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, **threads, **OFFLINE, "PYTHONPATH": path},
            start_new_session=True,  # Ctrl-C is the controller's to handle
        )
        self._pending = b""
        self._send(job.as_dict())

    def __enter__(self) -> "Process":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def ask(self, request: dict[str, Any], limit: float) -> dict[str, Any]:
        """Return the answer to one request; `FailedError` after `limit` seconds or a crash."""
        self._send(request)
        answer: dict[str, Any] = json.loads(self._line(request["verb"], limit))
        if not answer.pop("ok"):
            raise FailedError(answer["status"], answer["reason"])
        return answer

    def close(self) -> None:
        """End the process and what it started."""
        if self._process.poll() is None and self._process.stdin:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=5)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            if stream:
                with contextlib.suppress(OSError):
                    stream.close()

    def _send(self, message: dict[str, Any]) -> None:
        assert self._process.stdin
        with contextlib.suppress(BrokenPipeError):  # the answer that fails to come tells why
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()

    def _line(self, verb: str, limit: float) -> bytes:
        assert self._process.stdout
        deadline = time.monotonic() + limit
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._pending:
                left = deadline - time.monotonic()
                if left <= 0 or not selector.select(left):
                    os.killpg(self._process.pid, signal.SIGKILL)
                    raise FailedError("failed", f"no answer to {verb!r} within {limit:.0f} s")
                chunk = os.read(self._process.stdout.fileno(), 1 << 16)
                if not chunk:
                    raise FailedError("failed", f"crashed at {verb!r}: {self._last_words()}")
                self._pending += chunk
        line, self._pending = self._pending.split(b"\n", 1)
        return line

    def _last_words(self) -> str:
        code = self._process.wait()
        how = signal.Signals(-code).name if code < 0 else f"exit {code}"
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return f"{how}; {lines[-1].strip()[:200]}" if lines else how


OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
"""A contender loads the folder it is given; no library may go and look for another."""

Failures = dict[str, FailedError]


class Field:
    """The contenders still in the race. What fails leaves it, and `failures` says why."""

    def __init__(self) -> None:
        self.processes: dict[str, Process] = {}
        self.failures: Failures = {}
        self._closed = False

    def add(self, name: str, start: Callable[[], Process]) -> Process:
        """Start a contender's process and return it."""
        process = self.processes[name] = start()
        if self._closed:  # by another thread
            self.leave(name)
            raise FailedError("absent", "the comparison has ended")
        return process

    @contextmanager
    def watch(self, name: str) -> Iterator[None]:
        """Turn a failure within the block into the contender's leaving."""
        try:
            yield
        except FailedError as e:
            self.drop(name, e)

    def drop(self, name: str, why: FailedError) -> None:
        """Take out a contender that failed."""
        self.failures[name] = why
        self.leave(name)

    def leave(self, name: str) -> None:
        """End a contender's process, if it has one."""
        process = self.processes.pop(name, None)
        if process:
            process.close()

    def ask(self, name: str, request: dict[str, Any], limit: float) -> dict[str, Any] | None:
        """Ask one contender; None if it is out or goes out by this."""
        if name in self.processes:
            with self.watch(name):
                return self.processes[name].ask(request, limit)
        return None

    def take_turns(
        self,
        requests: dict[str, dict[str, Any]],
        *,
        rounds: int,
        limit: float,
        each: Callable[[int, str], None] = lambda _round, _name: None,
    ) -> dict[str, list[dict[str, Any]]]:
        """Let the named contenders answer their request once a round, in rotating order.

        Only those that answered in every round are in the result: a contender that fails midway
        has no times at all.
        """
        answers: dict[str, list[dict[str, Any]]] = {name: [] for name in requests}
        for i in range(rounds):
            for name in rotated([n for n in requests if n in self.processes], i):
                each(i, name)
                answer = self.ask(name, requests[name], limit)
                if answer is not None:
                    answers[name].append(answer)
        return {name: found for name, found in answers.items() if len(found) == rounds}

    def close(self) -> None:
        """End every process; none starts any more."""
        self._closed = True
        while self.processes:
            self.processes.popitem()[1].close()


def rotated(names: Sequence[str], by: int) -> Iterable[str]:
    """Return the names starting at another one each round: no one always follows the same."""
    start = by % len(names) if names else 0
    return [*names[start:], *names[:start]]

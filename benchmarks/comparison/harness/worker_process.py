"""A contender's process, which answers one request at a time or is ended."""

import contextlib
import math
import multiprocessing
import os
import re
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from comparison.job import Job

ROOT = Path(__file__).parents[2]
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")

OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
"""A contender loads the folder it is given; no library may go and look for another."""

_FOLDERS = re.compile(r"(?<![\w.:/~-])/(?:[^\s/'\"]+/)+")

Answer = dict[str, Any]


class FailedError(Exception):
    """A contender that is out: it "failed", is "absent" (cannot run here) or "skipped" (no time).

    A result is read on other machines: of an absolute path in the reason its name alone is left.
    """

    def __init__(self, status: str, reason: str, *, late: bool = False) -> None:
        super().__init__(_FOLDERS.sub("", reason))
        self.status, self.late = status, late  # late: the budget was over


class Process:
    """A worker process that answers one request at a time, until it is closed."""

    def __init__(self, job: Job, python: str) -> None:
        threads = dict.fromkeys(THREAD_VARIABLES, str(job.threads))
        path = os.pathsep.join(p for p in (str(ROOT), os.environ.get("PYTHONPATH")) if p)
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  closed by close()
        self._pipe, theirs = multiprocessing.Pipe()
        with theirs:
            self._process = subprocess.Popen(
                [python, "-m", "comparison.harness.worker", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=self._errors,
                stderr=self._errors,
                pass_fds=[theirs.fileno()],
                env={**os.environ, **threads, **OFFLINE, "PYTHONPATH": path},
                start_new_session=True,  # Ctrl-C is the controller's to handle
            )
        self._send(job)

    def ask(self, verb: str, limit: float, left: float = math.inf, **arguments: Any) -> Answer:
        """Return the answer to one request; `FailedError` after `limit` seconds or a crash.

        Who needs longer than what a budget has left has not failed by it, but is skipped.
        """
        self._send({"verb": verb, **arguments})
        try:
            if not self._pipe.poll(max(0.0, min(limit, left))):
                os.killpg(self._process.pid, signal.SIGKILL)
                if left < limit:
                    words = f"in the {max(0.0, left):.0f} s that the budget left"
                    raise FailedError("skipped", f"not done with {verb!r} {words}", late=True)
                raise FailedError("failed", f"no answer to {verb!r} within {limit:.0f} s")
            answer: Answer = self._pipe.recv()
        except (EOFError, ConnectionResetError) as e:
            raise FailedError("failed", f"crashed at {verb!r}: {self._last_words()}") from e
        if (status := answer.pop("status")) != "ok":
            raise FailedError(status, answer["reason"])
        return answer

    def close(self) -> None:
        """End the process and what it started."""
        self._pipe.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._errors.close()

    def _send(self, message: object) -> None:
        with contextlib.suppress(BrokenPipeError):  # the answer that fails to come tells why
            self._pipe.send(message)

    def _last_words(self) -> str:
        code = self._process.wait()
        how = signal.Signals(-code).name if code < 0 else f"exit {code}"
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return f"{how}; {lines[-1].strip()[:200]}" if lines else how

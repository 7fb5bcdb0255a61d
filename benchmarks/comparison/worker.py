"""One contender's process: JSON lines in on stdin, JSON lines out on what was stdout.

python -m comparison.worker      the first line is the job, every further one a request

Libraries print to stdout, so the descriptor is moved away and file 1 becomes stderr.
"""

import contextlib
import gc
import importlib
import json
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from comparison.job import AbsentError, Contender, Job


def main() -> None:
    """Answer requests until stdin ends."""
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    session = Session(Job(**json.loads(sys.stdin.readline())))
    for line in sys.stdin:
        request = json.loads(line)
        verb = getattr(session, request.pop("verb"))
        try:
            answer = {"ok": True, **verb(**request)}
        except AbsentError as e:
            answer = {"ok": False, "status": "absent", "reason": str(e)}
        except Exception as e:  # noqa: BLE001  every failure becomes the contender's row
            traceback.print_exc()
            reason = " ".join(f"{type(e).__name__}: {e}".split())
            answer = {"ok": False, "status": "failed", "reason": reason[:300]}
        out.write(json.dumps(answer) + "\n")


class Session:
    """The requests that a worker answers; each returns a JSON-able dict."""

    contender: Contender
    images: NDArray[Any]

    def __init__(self, job: Job) -> None:
        self.job = job
        self.has_labelled = False

    def convert(self) -> dict[str, Any]:
        """Make the contender's artefact where it is not there yet (in a process of its own)."""
        self._module().convert(self.job)
        return {}

    def load(self) -> dict[str, Any]:
        """Import, load and answer one image: what a process pays before its first label."""
        started = time.perf_counter()
        self.contender = self._module().load(self.job)
        self.images = np.load(getattr(self.job, self.contender.takes), mmap_mode="r")
        logits = self.contender.run(np.ascontiguousarray(self.images[:1]))
        seconds = time.perf_counter() - started
        _checked(logits, 1)
        return {"seconds": seconds, "about": self.contender.describe(), "pid": os.getpid()}

    def warm(self, *, batch: int, runs: int) -> dict[str, Any]:
        """Run untimed, check the answers, and return them with the last run's time."""
        for _ in range(runs):
            images = self._batch(batch, 0)
            started = time.perf_counter()
            logits = self.contender.run(images)
            seconds = time.perf_counter() - started
            _checked(logits, batch)
        return {"seconds": seconds, "logits": np.asarray(logits)[:1].tolist()}

    def time(self, *, batch: int, runs: int) -> dict[str, Any]:
        """Time `runs` runs of one batch each, after one untimed image."""
        batches = [self._batch(batch, i) for i in range(min(runs, 8))]
        self.contender.run(self._batch(1, 0))
        gc.collect()
        gc.disable()
        seconds, answers = [], []
        for i in range(runs):
            started = time.perf_counter()
            logits = self.contender.run(batches[i % len(batches)])
            seconds.append(round(time.perf_counter() - started, 7))
            answers.append(bool(np.isfinite(logits).all()) and len(logits) == batch)
        gc.enable()
        if not all(answers):
            raise ArithmeticError("NaN, infinity or rows missing in a timed answer")
        return {"seconds": seconds}

    def predict(self, *, uint8: str, float32: str, out: str, batch: int) -> dict[str, Any]:
        """Write the logits of every image of an .npy file to another."""
        given = np.load({"uint8": uint8, "float32": float32}[self.contender.takes], mmap_mode="r")
        parts = []
        for start in range(0, len(given), batch):
            images = np.ascontiguousarray(given[start : start + batch])
            parts.append(_checked(self.contender.run(images), len(images)).copy())
        np.save(out, np.concatenate(parts))
        return {"images": len(given)}

    def label(self, *, paths: list[str], batch: int) -> dict[str, Any]:
        """Label image files by the contender's own path; before the first time a batch untimed."""
        if not hasattr(self.contender, "label"):
            raise AbsentError("has no path from files to labels")
        if not self.has_labelled:
            self.contender.label(paths[:batch], batch)
            self.has_labelled = True
        started = time.perf_counter()
        labels = self.contender.label(paths, batch)
        seconds = time.perf_counter() - started
        if len(labels) != len(paths):
            raise RuntimeError(f"{len(labels)} labels for {len(paths)} files")
        return {"seconds": seconds, "labels": [int(i) for i in labels]}

    def memory(self) -> dict[str, Any]:
        """Return the process's peak resident memory so far, in bytes."""
        # VmHWM, not ru_maxrss: that one carries the parent's peak over the exec
        with contextlib.suppress(OSError):
            for line in Path("/proc/self/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    return {"bytes": int(line.split()[1]) * 1024}
        return {"bytes": None}

    def _batch(self, size: int, turn: int) -> NDArray[Any]:
        start = (turn * size) % (len(self.images) - size + 1)
        return np.ascontiguousarray(self.images[start : start + size])

    def _module(self) -> Any:
        return importlib.import_module(self.job.module)


def _checked(logits: NDArray[np.float32], images: int) -> NDArray[np.float32]:
    if len(logits) != images:
        raise RuntimeError(f"{len(logits)} rows of logits for {images} images")
    if not np.isfinite(logits).all():
        raise ArithmeticError("NaN or infinity in the logits")
    return logits


if __name__ == "__main__":
    main()

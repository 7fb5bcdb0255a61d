"""One contender's process: requests in and answers out through a pipe.

python -m comparison.harness.worker FILE_DESCRIPTOR      the first message is the job
"""

import gc
import importlib
import os
import re
import sys
import time
import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from comparison.harness.core_time import core_seconds, seconds_of_others
from comparison.job import AbsentError, Contender, Job, Logits, whole

OVERLAPPING = 8
"""Batches of a turn of who overlaps them, at least: what is not full at its ends weighs little."""


def main() -> None:
    """Answer requests until the other end of the pipe is closed."""
    pipe: Connection[Any, Any] = Connection(int(sys.argv[1]))
    session = Session(pipe.recv())
    while True:
        try:
            request = pipe.recv()
        except EOFError:
            return
        try:
            verb = getattr(session, request.pop("verb"))
            answer = {"status": "ok", **verb(**request)}
        except AbsentError as e:
            answer = {"status": "absent", "reason": str(e)}
        except Exception as e:  # noqa: BLE001  every failure becomes the contender's row
            traceback.print_exc()
            reason = " ".join(f"{type(e).__name__}: {e}".split())
            answer = {"status": "failed", "reason": reason[:300]}
        pipe.send(answer)


class Session:
    """The requests that a worker answers; each returns a dict of plain values."""

    contender: Contender
    images: NDArray[Any]

    def __init__(self, job: Job) -> None:
        self.job = job
        self.has_labelled = False

    def convert(self) -> dict[str, Any]:
        """Make the contender's model where it is not there yet (in a process of its own)."""
        module = importlib.import_module(self.job.module)
        folder = module.folder(self.job)
        if not folder.exists():
            with whole(folder) as partial:
                module.convert(self.job, partial)
        return {}

    def load(self) -> dict[str, Any]:
        """Import, load and answer one image: what a process pays before its first label."""
        started = time.perf_counter()
        self.contender = importlib.import_module(self.job.module).load(self.job)
        self.images = np.load(getattr(self.job, self.contender.takes), mmap_mode="r")
        logits = self.contender.run(np.ascontiguousarray(self.images[:1]))
        seconds = time.perf_counter() - started
        _checked(logits, 1)
        return {"seconds": seconds, "about": self.contender.about, "pid": os.getpid()}

    def time(self, *, batch: int, runs: int) -> dict[str, Any]:
        """Time `runs` runs of one batch each, after one untimed image; the first one's logits too.

        Where batches overlap, there are OVERLAPPING at least, and the seconds are those of the turn
        divided by its runs.
        """
        overlap = self.contender.run_pipelined
        runs = max(runs, OVERLAPPING) if overlap else runs
        batches = [self._batch(batch, i) for i in range(min(runs, 8))]
        turn = [batches[i % len(batches)] for i in range(runs)]
        self.contender.run(self._batch(1, 0))
        gc.collect()
        gc.disable()
        seconds, logits, before = [], [], core_seconds()
        for group in [turn] if overlap else [[images] for images in turn]:
            started = time.perf_counter()
            answers = overlap(group) if overlap else [self.contender.run(group[0])]
            seconds.append(round((time.perf_counter() - started) / len(answers), 7))
            logits += [_checked(answer, batch)[0].tolist() for answer in answers]
        others = seconds_of_others(before)
        gc.enable()
        # VmHWM, not ru_maxrss: that one carries the parent's peak over the exec
        peak = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
        memory = int(peak[1]) * 1024 if peak else 0
        told = {"seconds": seconds, "others": others, "memory_bytes": memory}
        return told | {"logits": logits[0]}

    def predict(self, *, uint8: str, float32: str, out: str, batch: int) -> dict[str, Any]:
        """Write the logits of every image of an .npy file to another."""
        given = np.load({"uint8": uint8, "float32": float32}[self.contender.takes], mmap_mode="r")
        batches = [np.ascontiguousarray(given[i : i + batch]) for i in range(0, len(given), batch)]
        if self.contender.run_pipelined:
            answers = self.contender.run_pipelined(batches)
        else:
            answers = [self.contender.run(images).copy() for images in batches]
        pairs = zip(answers, batches, strict=True)
        np.save(out, np.concatenate([_checked(logits, len(images)) for logits, images in pairs]))
        return {"images": len(given)}

    def label(self, *, paths: list[str], batch: int) -> dict[str, Any]:
        """Label image files by the contender's own path; before the first time a batch untimed."""
        assert self.contender.label, "an entry with files=True has a path from files to labels"
        if not self.has_labelled:
            self.contender.label(paths[:batch], batch)
            self.has_labelled = True
        started = time.perf_counter()
        labels = self.contender.label(paths, batch)
        seconds = time.perf_counter() - started
        if len(labels) != len(paths):
            raise RuntimeError(f"{len(labels)} labels for {len(paths)} files")
        kind = float if self.job.pooling else int
        return {"seconds": seconds, "labels": np.array(labels, kind).tolist()}

    def decode(self, *, paths: list[str], batch: int) -> dict[str, Any]:
        """Read and decode image files as `label` does, without labels; None if it cannot."""
        if not self.contender.decode:
            return {"seconds": None}
        started = time.perf_counter()
        self.contender.decode(paths, batch)
        return {"seconds": time.perf_counter() - started}

    def kernels(self, *, batch: int, runs: int) -> dict[str, Any]:
        """Return where a run's time goes, by the GPU's kernels, or by operators on a CPU."""
        images = self._batch(batch, 0)
        self.contender.run(images)
        from torch.profiler import ProfilerActivity, profile

        device = "CUDA" if self.job.device == "cuda" else "CPU"
        kind = "self_device_time_total" if device == "CUDA" else "self_cpu_time_total"
        with profile(activities=[getattr(ProfilerActivity, device)]) as record:
            for _ in range(runs):
                self.contender.run(images)
        rows = [
            {
                "kernel": e.key[:120],
                "calls": e.count / runs,
                "microseconds": getattr(e, kind) / runs,
            }
            for e in record.key_averages()
        ]
        return {"kernels": sorted(rows, key=lambda row: -row["microseconds"])}

    def _batch(self, size: int, turn: int) -> NDArray[Any]:
        start = (turn * size) % (len(self.images) - size + 1)
        return np.ascontiguousarray(self.images[start : start + size])


def _checked(logits: Logits, images: int) -> Logits:
    if len(logits) != images:
        raise RuntimeError(f"{len(logits)} rows of logits for {images} images")
    if not np.isfinite(logits).all():
        raise ArithmeticError("NaN or infinity in the logits")
    return logits


if __name__ == "__main__":
    main()
